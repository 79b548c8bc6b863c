"""A real browser moves every control of the explorers, by mouse and by keyboard, in JupyterLab and in voila.

The control tests run on a small notebook; the page itself is run once. The latency that is printed here is asserted
nowhere: `make bench` reports it. See tools/browse.py for the browser.
"""

import os
import statistics
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("playwright.sync_api")

from browse import (  # noqa: E402
    CHROMIUM,
    MINUTES,
    control,
    errors,
    redraw_latency,
    run_all,
    screenshot,
    sees,
    shown,
    types,
    voila,
    write_notebook,
)
from playwright.sync_api import expect  # noqa: E402

pytestmark = [
    pytest.mark.timeout(60 * MINUTES),
    pytest.mark.skipif(
        CHROMIUM is None and not os.environ.get("CI"), reason="no chromium here: `make browser` may install it"
    ),
]
TWO = (
    "import torch\nfrom peft_lessons.explorers.rank import explore_rank",
    "explore_rank({'tall': torch.eye(6)[:, :4]}, name='browser')",
    "explore_rank()",
)


def move_every_control(page: Any) -> None:
    """Every control of the first explorer, by mouse and by keyboard; each changes the number that it should."""
    sees(page, "Rank 1 keeps 100.00%", "= 20 numbers instead of 100")
    control(page, "matrix").focus()
    page.keyboard.press("ArrowDown")
    sees(page, "instead of 32,768", "The same 576 numbers", "stops saving at rank 56.89")

    control(page, "rank").focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    sees(page, "Rank 4 keeps", "4 · (64 + 512) = 2,304 numbers")
    expect(control(page, "rank, typed")).to_have_value("4")
    handle, track = control(page, "rank"), shown(page).locator(".noUi-base").bounding_box()
    place = handle.bounding_box()
    page.mouse.move(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)
    page.mouse.down()
    page.mouse.move(track["x"] + track["width"] / 2, place["y"] + 3, steps=4)
    page.mouse.up()
    dragged = int(float(handle.get_attribute("aria-valuenow")))
    assert 20 < dragged < 45
    sees(page, f"Rank {dragged} keeps", f"= {dragged * 576:,} numbers")

    types(page, "rank, typed", "8", mouse=False)
    sees(page, "Rank 8 keeps", "= 4,608 numbers instead of 32,768: 85.9% fewer")
    expect(control(page, "rank")).to_have_attribute("aria-valuetext", "8")
    types(page, "rank, typed", "70", mouse=True)
    alert = shown(page).get_by_role("alert")
    expect(alert).to_contain_text("The rank is 70; a matrix of 512 × 64 has ranks from 1 to 64.")
    expect(shown(page).locator(".peft-previous")).to_contain_text("Rank 8 keeps")
    types(page, "rank, typed", "9", mouse=True)
    sees(page, "Rank 9 keeps")
    expect(alert).to_have_count(0)
    types(page, "rank, typed", "4", mouse=True)

    sees(page, "scaling 4; ‖ΔW‖ about 0.105")
    types(page, "alpha", "32", mouse=False)
    sees(page, "scaling 8; ‖ΔW‖ about 0.209")
    types(page, "alpha", "0", mouse=True)
    expect(alert).to_contain_text("alpha is 0; it must be above 0")
    types(page, "alpha", "16", mouse=True)
    sees(page, "scaling 4; ‖ΔW‖ about 0.105")
    control(page, "scaling").focus()
    page.keyboard.press("ArrowDown")
    sees(page, "scaling 8; ‖ΔW‖ about 0.209")
    control(page, "scaling").select_option("α / r")
    sees(page, "scaling 4;")

    expect(control(page, "budget")).to_be_disabled()
    control(page, "budget follows rank").click()
    expect(control(page, "budget")).to_be_enabled()
    types(page, "budget", "500", mouse=False)
    sees(page, "The same 500 numbers", "not possible, it needs 576")
    types(page, "budget", "4608", mouse=True)
    sees(page, "The same 4,608 numbers", "r = 8", "n = 8")
    control(page, "budget follows rank").focus()
    page.keyboard.press("Space")
    sees(page, "The same 2,304 numbers")

    control(page, "source").focus()
    page.keyboard.press("ArrowDown")
    sees(page, "instead of 24", "Rank 4 keeps 100.00%")
    control(page, "source").select_option("examples")
    sees(page, "instead of 100")
    control(page, "matrix").select_option("512 × 64, random")
    sees(page, "instead of 32,768")
    control(page, "Reset").click()
    sees(page, "Rank 1 keeps 100.00%")
    types(page, "rank, typed", "5", mouse=False)
    sees(page, "Rank 5 keeps")
    control(page, "Reset").focus()
    page.keyboard.press("Enter")
    sees(page, "Rank 1 keeps 100.00%")
    sees(page, "Rank 1 keeps 100.00%", "instead of 100", explorer=1)  # nothing above has touched the other one


def test_rank_in_jupyterlab(server: tuple[str, Path], page: Any) -> None:
    url, lessons = server
    write_notebook(lessons / "two.ipynb", *TWO)
    assert not errors(run_all(page, url, "two.ipynb"))
    move_every_control(page)
    control(page, "matrix").select_option("512 × 64, random")
    sees(page, "instead of 32,768")
    taken = redraw_latency(page, "rank", "Rank {:,} keeps")
    print(f"slider to redraw: median {statistics.median(taken):.0f} ms, worst {max(taken):.0f}, of {len(taken)} moves")
    screenshot(page, "rank-controls")

    expect(control(page, "rank, typed")).to_have_value("16")  # it follows the slider, and would replace what is typed
    types(page, "rank, typed", "7", mouse=False)  # a restart, and all of it stands as it was left
    sees(page, "Rank 7 keeps")
    page.evaluate("() => jupyterapp.shell.currentWidget.sessionContext.restartKernel()")
    run_all(page, url, "two.ipynb")
    sees(page, "Rank 7 keeps", "instead of 32,768")
    sees(page, "Rank 1 keeps 100.00%", explorer=1)


def test_rank_in_voila(page: Any, tmp_path: Path) -> None:
    write_notebook(tmp_path / "two.ipynb", *TWO, "import os\nprint('served by', os.environ['SERVER_SOFTWARE'])")
    with voila(tmp_path / "two.ipynb") as url:
        page.goto(url)
        sees(page, "Rank 1 keeps", explorer=1)
        assert "explore_rank(" not in page.content(), "the page shows code"
        move_every_control(page)
        expect(page.get_by_text("served by voila")).to_be_visible()  # which is how `remember` knows to keep nothing
        screenshot(page, "rank-voila")


def test_the_rank_page(server: tuple[str, Path], page: Any) -> None:
    url, _ = server
    cells = run_all(page, url, "explore/rank.ipynb")
    assert not errors(cells) and all(cell["count"] for cell in cells)
    shown(page).scroll_into_view_if_needed()
    control(page, "source").select_option("your matrices")
    sees(page, "Rank 1 keeps", "instead of 36,864")
    types(page, "rank, typed", "8", mouse=True)
    sees(page, "Rank 8 keeps", "3,072 numbers")
    screenshot(page, "rank-page")
