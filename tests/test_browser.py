"""A real browser opens the first lesson in JupyterLab, runs all of it, and sees no error and the final figure.

Needs Debian's chromium (or any in PATH); the test is skipped without one, but not in CI. See tools/browse.py.
"""

import os
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright.sync_api")

from browse import CHROMIUM, MINUTES, errors, run_all, screenshot, write_notebook  # noqa: E402

pytestmark = [
    pytest.mark.timeout(60 * MINUTES + 240),
    pytest.mark.skipif(
        CHROMIUM is None and not os.environ.get("CI"), reason="no chromium here: `make browser` may install it"
    ),
]


def test_the_first_lesson(server: tuple[str, Path], page: Any) -> None:
    url, _ = server
    cells = run_all(page, url, "00_start_here.ipynb")
    try:
        assert not errors(cells)
        assert cells and all(cell["count"] for cell in cells), "cells were left out"
        figures = [
            output
            for cell in cells
            for output in cell["outputs"]
            if any(kind.startswith("image/") for kind in output.get("data", {}))
        ]
        assert figures, "there is no figure"
        alt = figures[-1]["metadata"]["image/png"]["alt"]
        assert len(alt) > 20
        # Not only in the page's memory: the last picture is on the page, loaded, and has a size.
        picture = page.locator(".jp-OutputArea-output img").last
        picture.scroll_into_view_if_needed()
        page.wait_for_function("image => image.complete && image.naturalWidth > 100", arg=picture.element_handle())
    finally:
        screenshot(page, "00_start_here")


def test_a_lesson_with_an_error_is_seen_to_fail(server: tuple[str, Path], page: Any) -> None:
    url, lessons = server
    write_notebook(lessons / "bad.ipynb", "print('fine')", "1 / 0", "print('never reached')")
    found = errors(run_all(page, url, "bad.ipynb"))
    assert len(found) == 1 and "ZeroDivisionError" in found[0]
