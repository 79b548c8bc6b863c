"""A real browser moves every control of the memory explorer, by mouse and by keyboard, in JupyterLab and in voila.

After each move the bytes on the page are those of the table. See tools/browse.py for the browser, and
test_browser_explorers.py for what all explorers share.
"""

import json
import os
import statistics
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from transformers import LlamaConfig

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

from peft_lessons.accounting.advice import fits  # noqa: E402
from peft_lessons.accounting.library import load_shape, load_table  # noqa: E402
from peft_lessons.accounting.setups import Setup  # noqa: E402
from peft_lessons.accounting.tables import Answer  # noqa: E402
from peft_lessons.methods import FullFineTuning, Head, LoRA  # noqa: E402

pytestmark = [
    pytest.mark.timeout(60 * MINUTES),
    pytest.mark.skipif(
        CHROMIUM is None and not os.environ.get("CI"), reason="no chromium here: `make browser` may install it"
    ),
]
TWO = (
    "import os\nos.environ['PEFT_LESSONS_HOME'] = {home!r}",  # a setup traced once is at hand in all tests
    "from peft_lessons.explorers.memory import explore_memory",
    "explore_memory(name='browser', model='llama-3.2-1b')",
    "explore_memory(model='gpt2', batch=2)",
)
OWN = LlamaConfig(hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, vocab_size=500)


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PEFT_LESSONS_HOME", str(folder))
        yield folder


def unticks(page: Any, label: str) -> None:
    """Take a tick out by mouse: one click is enough."""
    box = control(page, label)
    expect(box).to_be_checked()
    box.click()
    expect(box).not_to_be_checked()


def presses(page: Any, label: str, *keys: str) -> None:
    """Reach a control as Tab does, and press keys."""
    control(page, label).focus()
    for key in keys:
        page.keyboard.press(key)


def drags(page: Any, label: str) -> int:
    """Pull a slider's handle to about the middle of its track; where it is then."""
    handle = control(page, label)
    handle.scroll_into_view_if_needed()
    track = handle.locator("xpath=ancestor::div[contains(@class, 'noUi-base')]").bounding_box()
    place = handle.bounding_box()
    page.mouse.move(place["x"] + place["width"] / 2, place["y"] + place["height"] / 2)
    page.mouse.down()
    page.mouse.move(track["x"] + track["width"] / 2, place["y"] + 3, steps=4)
    page.mouse.up()
    return int(float(handle.get_attribute("aria-valuenow")))


@cache
def predicted(source: str, setup: Setup, batch: int, length: int, optimizer: str) -> Answer:
    """What the table says; "own" is the configuration that is pasted."""
    shape = OWN if source == "own" else source
    table, rank = load_table(shape, setup), getattr(setup.method, "r", 1)
    return table.evaluate(load_shape(shape).num_hidden_layers, batch, length, rank, optimizer)


class Expected:
    """The choices made so far; each further one is looked for on the page, and must change the bytes there."""

    def __init__(self, page: Any, **choices: Any):
        self.page, self.choices, self.last = page, choices, 0

    def now(self, *, same: bool = False, **changes: Any) -> Answer:
        """The page says what the table says of the choices with these changes."""
        self.choices |= changes
        rest = dict(self.choices)
        source, batch, length = (rest.pop(key) for key in ("model", "batch", "length"))
        optimizer = rest.pop("optimizer", "adamw")
        answer = predicted(source, Setup(**rest), batch, length, optimizer)
        assert same is (answer.peak == self.last), f"{changes} should{' not' if same else ''} change the number"
        self.last = answer.peak
        sees(self.page, f"{answer.peak:,} bytes at the peak")
        return answer


def move_every_control(page: Any) -> None:
    """Every control of the first explorer, by mouse and by keyboard; each changes the number that it should."""
    is_ = Expected(page, model="llama-3.2-1b", method=LoRA(), batch=1, length=1024)
    is_.now()
    sees(page, "in the loss, at output layer", "peak: loss")

    presses(page, "model", "ArrowDown")
    is_.now(model="mistral-7b-v0.3")
    control(page, "model").select_option("llama-3.2-1b")
    is_.now(model="llama-3.2-1b")

    presses(page, "batch", "ArrowRight", "ArrowRight")
    is_.now(batch=3)
    expect(control(page, "batch, typed")).to_have_value("3")
    is_.now(batch=drags(page, "batch"))
    assert 20 < is_.choices["batch"] < 45
    types(page, "batch, typed", "100", mouse=True)
    is_.now(batch=100)
    types(page, "batch, typed", "0", mouse=False)
    alert = shown(page).get_by_role("alert")
    expect(alert).to_contain_text("batch is 0; it must be at least 1.")
    expect(shown(page).locator(".peft-previous")).to_contain_text(f"{is_.last:,} bytes at the peak")
    types(page, "batch, typed", "2", mouse=False)
    is_.now(batch=2)
    expect(alert).to_have_count(0)

    presses(page, "length", "ArrowRight")
    is_.now(length=1032)
    is_.now(length=drags(page, "length"))
    types(page, "length, typed", "999999", mouse=True)
    expect(alert).to_contain_text("The length is 999,999; llama-3.2-1b has 131,072 positions.")
    types(page, "length, typed", "256", mouse=False)
    is_.now(length=256)

    presses(page, "r", "ArrowRight")
    is_.now(method=LoRA(9))
    is_.now(method=LoRA(drags(page, "r")))
    types(page, "r, typed", "600", mouse=True)
    expect(alert).to_contain_text("r is 600; the smallest matrix that LoRA updates has ranks up to 512.")
    types(page, "r, typed", "16", mouse=False)
    is_.now(method=LoRA(16))
    types(page, "alpha", "0", mouse=True)
    expect(alert).to_contain_text("alpha is 0.0; it must be above 0")
    types(page, "alpha", "32", mouse=False)
    expect(alert).to_have_count(0)
    is_.now(method=LoRA(16, alpha=32), same=True)
    types(page, "target_modules", "all-linear", mouse=True)
    is_.now(method=LoRA(16, target_modules="all-linear"))
    types(page, "target_modules", "everything", mouse=False)
    expect(alert).to_contain_text('No linear layer of this model is called "everything".')
    types(page, "target_modules", "attention", mouse=False)
    is_.now(method=LoRA(16))
    presses(page, "use_rslora", "Space")
    is_.now(method=LoRA(16, use_rslora=True), same=True)
    unticks(page, "use_rslora")
    types(page, "dropout", "0.1", mouse=False)
    is_.now(method=LoRA(16, dropout=0.1))
    types(page, "dropout", "0", mouse=True)
    is_.now(method=LoRA(16))

    presses(page, "adapters", "ArrowDown")
    is_.now(adapters="bfloat16")
    expect(shown(page)).not_to_contain_text("float32 (peft's default)")
    control(page, "adapters").select_option("float32")
    is_.now(adapters="float32")
    sees(page, "The adapter is in float32 (peft's default)")
    control(page, "attention").select_option("eager")
    is_.now(attention="eager")
    presses(page, "attention", "Home")
    is_.now(attention="flash")
    presses(page, "logits", "ArrowDown")
    is_.now(logits="chunked")
    control(page, "logits").select_option("kept")
    is_.now(logits="kept")
    for label, field in (("checkpointing", "checkpointing"), ("padding", "padding"), ("keep output", "keep_output")):
        presses(page, label, "Space")
        is_.now(**{field: True})
        unticks(page, label)
        is_.now(**{field: False})

    control(page, "weights").select_option("nf4")
    is_.now(weights="nf4")
    presses(page, "upcast", "Space")
    is_.now(upcast=True)
    unticks(page, "upcast")
    is_.now(upcast=False)
    presses(page, "weights", "ArrowUp")
    is_.now(weights="float32")
    presses(page, "autocast", "Space")
    is_.now(autocast=True)
    presses(page, "weights", "Home")
    is_.now(weights="bfloat16")
    unticks(page, "autocast")
    is_.now(autocast=False)

    control(page, "method").select_option("FullFineTuning")
    is_.now(method=FullFineTuning())
    expect(control(page, "alpha")).to_be_hidden()
    presses(page, "method", "ArrowDown")
    is_.now(method=Head())
    control(page, "method").select_option("FullFineTuning")
    is_.now(method=FullFineTuning())
    presses(page, "optimizer", "ArrowDown")
    is_.now(optimizer="adamw_foreach")
    control(page, "optimizer").select_option("adamw_8bit_paged")
    answer = is_.now(optimizer="adamw_8bit_paged")
    sees(page, f"{(answer.peak - answer.at_peak['optimizer states']) / 2**30:.3f} to {answer.peak / 2**30:.3f} GiB")
    control(page, "weights").select_option("nf4")
    expect(alert).to_contain_text("4-bit weights cannot be trained")
    control(page, "weights").select_option("bfloat16")
    expect(alert).to_have_count(0)

    assert shown(page).locator("table.peft td").all_inner_texts()[:6] == list(fits(answer.peak).values())
    sees(page, "On 24 GB, the most room")
    presses(page, "GPU memory", "ArrowDown")
    sees(page, "On 48 GB, the most room")
    control(page, "GPU memory").select_option("80 GB")
    sees(page, "On 80 GB, the most room")

    folds = shown(page).locator("details")
    folds.first.locator("summary").click()
    expect(folds.first).to_have_attribute("open", "")
    folds.nth(1).locator("summary").focus()
    page.keyboard.press("Enter")
    expect(shown(page).get_by_text("accelerate estimate-memory")).to_be_visible()
    types(page, "batch, typed", "3", mouse=False)
    is_.now(batch=3)
    expect(folds.first).to_have_attribute("open", "")  # a new answer leaves open what was open
    sees(page, f"{is_.last:,}")

    control(page, "Reset").click()
    is_.choices = {"model": "llama-3.2-1b", "method": LoRA(), "batch": 1, "length": 1024}
    is_.now()
    paste_configurations(page, is_)
    presses(page, "Reset", "Enter")
    is_.now(model="llama-3.2-1b")
    second = predicted("gpt2", Setup(LoRA()), 2, 1024, "adamw").peak  # nothing above has touched the other one
    sees(page, f"{second:,} bytes at the peak", explorer=1)


def paste_configurations(page: Any, is_: Expected) -> None:
    """A configuration of one's own, and three that do not do."""
    control(page, "model").select_option("a config.json of your own")
    field, alert = shown(page).locator("textarea"), shown(page).get_by_role("alert")
    for text, said in (
        ("{", "The configuration is no valid JSON"),
        ('{"model_type": "mamba"}', '"mamba" is a model without attention'),
        ("nothing.json", 'There is no shape "nothing.json" and no such file'),
    ):
        field.fill(text)
        page.keyboard.press("Tab")
        expect(alert).to_contain_text(said, timeout=20_000)  # the first waits for the trace of the example before it
    field.fill(json.dumps(OWN.to_dict()))
    page.keyboard.press("Tab")
    is_.now(model="own")
    expect(alert).to_have_count(0)


def write_two(path: Path, home: Path) -> None:
    write_notebook(path, TWO[0].format(home=str(home)), *TWO[1:])


def test_memory_in_jupyterlab(server: tuple[str, Path], page: Any, home: Path) -> None:
    url, lessons = server
    write_two(lessons / "two.ipynb", home)
    assert not errors(run_all(page, url, "two.ipynb"))
    move_every_control(page)
    taken = redraw_latency(page, "length", "at length {:,} ")
    print(f"slider to redraw: median {statistics.median(taken):.0f} ms, worst {max(taken):.0f}, of {len(taken)} moves")
    screenshot(page, "memory-controls")

    types(page, "batch, typed", "7", mouse=False)  # a restart, and all of it stands as it was left
    sees(page, "longest sequence at batch 7")
    page.evaluate("() => jupyterapp.shell.currentWidget.sessionContext.restartKernel()")
    run_all(page, url, "two.ipynb")
    sees(page, "longest sequence at batch 7")
    sees(page, "longest sequence at batch 2", explorer=1)


def test_memory_in_voila(page: Any, tmp_path: Path, home: Path) -> None:
    write_two(tmp_path / "two.ipynb", home)
    with voila(tmp_path / "two.ipynb") as url:
        page.goto(url)
        sees(page, "bytes at the peak", explorer=1)
        assert "explore_memory(" not in page.content(), "the page shows code"
        move_every_control(page)
        screenshot(page, "memory-voila")


def test_the_memory_page(server: tuple[str, Path], page: Any) -> None:
    url, _ = server
    cells = run_all(page, url, "explore/memory.ipynb")
    assert not errors(cells) and all(cell["count"] for cell in cells)
    shown(page).scroll_into_view_if_needed()
    control(page, "model").select_option("llama-3.1-70b")
    lora = Setup(LoRA(16, target_modules="all-linear"))
    sees(page, f"{predicted('llama-3.1-70b', lora, 1, 1024, 'adamw').peak:,} bytes at the peak")
    screenshot(page, "memory-page")
    control(page, "model").select_option("t5-base")
    control(page, "keep output").click()  # a setup that is not shipped, of a model that takes seconds to trace
    progress = shown(page).locator(".widget-hprogress")
    expect(progress).to_be_visible()
    expect(progress).to_contain_text("tracing this setup")
    screenshot(page, "memory-progress")
    expect(progress).to_be_hidden(timeout=30_000)
    sees(page, "holds the last step's logits")
