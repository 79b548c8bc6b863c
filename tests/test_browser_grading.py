"""An instructor grades an answer in words in a real browser: points and a comment in formgrader, and on the page.

The clicks are those of the instructor's guide. Needs chromium, as tests/test_browser.py does, and bubblewrap.
"""

import os
from pathlib import Path
from typing import Any

import pytest
import toy_assignment as toy

pytest.importorskip("playwright.sync_api")
pytest.importorskip("resource", reason="grading is for Linux")

from browse import CHROMIUM, MINUTES, formgrader, screenshot  # noqa: E402
from grading import release, sandbox  # noqa: E402
from test_grading_round import marks, new_course, run  # noqa: E402

pytestmark = [
    pytest.mark.timeout(60 * MINUTES + 240),
    pytest.mark.skipif(
        (CHROMIUM is None or bool(sandbox.why_not())) and not os.environ.get("CI"),
        reason="no chromium or no bubblewrap here: `make browser sandbox` may install them",
    ),
]


def test_points_and_a_comment_by_hand(page: Any, tmp_path: Path) -> None:
    course, sources = new_course(tmp_path)
    given = release.students(toy.source())
    toy.hand_in(tmp_path / "in", "O'Neil, J\u00fcrgen", toy.answered(given, why="Because [it](javascript:x) is so."))
    toy.hand_in(tmp_path / "in", "untouched", given)
    command = ["--source", sources, "--course", course]
    graded = run(*command, "grade", tmp_path / "in", "--jobs", 2)
    assert graded.returncode == 0, graded.stderr
    with formgrader(course) as url:
        try:
            page.goto(url)
            page.get_by_role("link", name="Manual Grading").click()
            page.get_by_role("link", name="toy").click()
            page.locator("table").get_by_role("link", name="toy").click()
            waiting = page.locator("tbody tr").filter(has=page.locator(".needs-manual-grade .glyphicon"))
            waiting.get_by_role("link").click()  # fails where it is not the one, of the two, that waits
            page.locator("#why.needs_manual_grade").wait_for()  # red: the points so far have come
            page.locator("#why-comment[placeholder]").wait_for()  # and the comments
            assert page.locator("a[href^=javascript]").count() == 0
            for place, text in (("#why", "2.5"), ("#why-comment", "Say <b>why</b>."), ("#total-comment", "Short.")):
                with page.expect_response(lambda r: r.request.method == "PUT") as saved:
                    page.locator(place).fill(text)
                    page.keyboard.press("Tab")
                assert saved.value.ok
        finally:
            screenshot(page, "formgrader")
    assert run(*command, "feedback").returncode == 0
    row = marks(course)["O'Neil, J\u00fcrgen", "toy"]
    assert (row["toy.why"], row["total"], row["needs manual grading"]) == ("2.5", "7.5", "")
    page.goto((course / "feedback" / "O'Neil, J\u00fcrgen" / "toy" / "toy.html").as_uri())
    said = page.locator("main").inner_text()
    assert "7.5 of 9 points" in said and "2.5 of 4" in said and "Say <b>why</b>." in said and "Short." in said
