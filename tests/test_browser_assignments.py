"""A student opens an assignment in JupyterLab in a real browser and solves an exercise: untouched, wrong, then right.

nbgrader's own Validate is pressed before and after, and agrees. Needs chromium, as tests/test_browser.py does.
"""

import os
import shutil
from pathlib import Path
from typing import Any

import check_notebooks as rules
import pytest

pytest.importorskip("playwright.sync_api")

from browse import CHROMIUM, MINUTES, TOKEN, screenshot  # noqa: E402

pytestmark = [
    pytest.mark.timeout(60 * MINUTES + 240),
    pytest.mark.skipif(
        CHROMIUM is None and not os.environ.get("CI"), reason="no chromium here: `make browser` may install it"
    ),
]
RELEASE = rules.ROOT / "notebooks" / "assignments" / "release"
STUB_DEFINED = "def count_lora(d_in: int, d_out: int, r: int) -> int:"
WRONG = """def count_lora(d_in, d_out, r): return r * d_in * d_out
def largest_rank(d_in, d_out): return (d_in * d_out - 1) // (d_in + d_out)"""
RIGHT = WRONG.replace("r * d_in * d_out", "r * (d_in + d_out)")


@pytest.fixture
def assignment(server: tuple[str, Path], page: Any) -> Any:
    """The students' assignment 3 in JupyterLab, with its first cell run."""
    url, lessons = server
    (lessons / "assignments").mkdir(exist_ok=True)
    shutil.copyfile(RELEASE / "a3_lora.ipynb", lessons / "assignments" / "a3_lora.ipynb")
    page.goto(f"{url}/doc/tree/assignments/a3_lora.ipynb?token={TOKEN}&reset")
    page.wait_for_function("() => window.jupyterapp?.shell?.currentWidget?.sessionContext")
    page.evaluate("() => jupyterapp.restored.then(() => jupyterapp.shell.currentWidget.sessionContext.ready)")
    run_cell(page, "import json")
    return page


def cell(page: Any, words: str) -> Any:
    """The code cell that holds these words, scrolled to."""
    number = page.evaluate(
        """words => {
            const cells = jupyterapp.shell.currentWidget.content.widgets;
            const at = cells.findIndex(c => c.model.type === 'code' && c.model.sharedModel.source.includes(words));
            jupyterapp.shell.currentWidget.content.activeCellIndex = at;
            return jupyterapp.shell.currentWidget.content.scrollToItem(at).then(() => at);
        }""",
        words,
    )
    found = page.locator(f'.jp-Notebook .jp-Cell[data-windowed-list-index="{number}"]')
    found.wait_for()
    return found


def run_cell(page: Any, words: str) -> Any:
    """Run a cell by Shift+Enter, as a student does, and wait for it to end."""
    found = cell(page, words)
    found.locator(".cm-content").click()
    before = found.locator(".jp-InputPrompt").first.text_content()
    page.keyboard.press("Shift+Enter")
    page.wait_for_function(
        """([element, before]) => {
            const prompt = element.querySelector('.jp-InputPrompt').textContent;
            return prompt !== before && /\\d/.test(prompt);
        }""",
        arg=[found.element_handle(), before],
    )
    return found


def write(page: Any, words: str, code: str) -> None:
    """Type over a whole cell."""
    cell(page, words).locator(".cm-content").click()
    page.keyboard.press("Control+A")
    page.keyboard.insert_text(code)


def validated(page: Any) -> str:
    """What the dialog of nbgrader's Validate says."""
    page.get_by_role("button", name="Validate").click()
    dialog = page.locator(".jp-Dialog, .nbgrader-ErrorDialog, .validate-notebook").first
    page.wait_for_function(
        "dialog => /passes all the tests|failed/i.test(dialog.textContent)", arg=dialog.element_handle()
    )
    said = str(dialog.text_content())
    dialog.get_by_role("button").last.click()
    return said


def test_a_student_solves_an_exercise(assignment: Any) -> None:
    page = assignment
    test = 'check("a3.count"'
    try:
        run_cell(page, STUB_DEFINED)
        assert "not attempted yet" in run_cell(page, test).inner_text()
        assert test in validated(page)
        write(page, STUB_DEFINED, WRONG)
        run_cell(page, "def count_lora")
        wrong = run_cell(page, test).inner_text()
        assert "not yet  numbers trained: " in wrong and "right    largest rank" in wrong and "2 of 3 points" in wrong
        assert test in validated(page)
        write(page, "def count_lora", RIGHT)
        run_cell(page, "def count_lora")
        right = run_cell(page, test).inner_text()
        assert "right    numbers trained" in right and "3 of 3 points" in right
        said = validated(page)
        assert test not in said and 'check("a3.merge"' in said  # which is still untouched
    finally:
        screenshot(page, "assignment")
