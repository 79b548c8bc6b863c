"""What every explorer promises, and the rank explorer's answers, without a browser."""

import json
import re
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from threading import Thread
from typing import Any
from xml.etree import ElementTree

import ipywidgets as widgets
import numpy as np
import pytest
import torch

from peft_lessons import load_base, remember
from peft_lessons.accounting.spectrum import lora_parameters, spectrum
from peft_lessons.explorers import picture, svg
from peft_lessons.explorers.base import Explorer, labelled
from peft_lessons.explorers.rank import RankExplorer, explore_rank


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("PEFT_LESSONS_HOME", str(tmp_path))
    monkeypatch.delenv("SERVER_SOFTWARE", raising=False)
    yield tmp_path / "explorers"


class Ratio(Explorer):
    """The smallest explorer: b follows the parity of a, and b = 0 is a problem."""

    heading = "Ratio <b>"
    parts = ("result", ("left", "right"))

    def __init__(self, name: str | None = None):
        self.asked = 0
        controls = {
            "kind": labelled(widgets.Dropdown, "kind of number", "which", options=["small", "large"]),
            "a": labelled(widgets.Dropdown, "a", "what is divided", options=[1, 2]),
            "b": labelled(widgets.IntText, "b", "what it is divided by", value=1),
        }
        super().__init__(controls, name=name)

    def adjust(self, changed: str) -> None:
        if changed == "kind":
            self.controls["a"].options = [1, 2] if self.controls["kind"].value == "small" else [100, 200]

    def answer(self, values: Mapping[str, Any]) -> dict[str, str]:
        self.asked += 1
        if values["b"] == 0:
            raise ValueError("b is 0; anything <else> is right.")
        return {"result": f"{values['a'] / values['b']:.2f}", "left": "l", "right": "r"}


# ---- the base ----


def test_the_answer_follows_the_controls() -> None:
    ratio = Ratio()
    assert ratio.shown == {"result": "1.00", "left": "l", "right": "r"} and not ratio.problem
    ratio.controls["b"].value = 4
    assert ratio.shown["result"] == "0.25" and "0.25" in ratio._results.value


def test_several_changes_are_one_redraw() -> None:
    ratio = Ratio()
    before = ratio.asked
    ratio.choose(kind="large", a=200, b=4)
    assert ratio.asked == before + 1 and ratio.shown["result"] == "50.00"
    ratio.controls["kind"].value = "small"  # `a` changes with it
    assert ratio.asked == before + 2 and ratio.shown["result"] == "0.25"
    with pytest.raises(LookupError, match='no control "c"; there are kind, a, b'):
        ratio.choose(c=1)


def test_a_problem_is_shown_in_words_and_the_last_answer_stays() -> None:
    ratio = Ratio()
    ratio.controls["b"].value = 2
    ratio.controls["b"].value = 0
    assert ratio.problem == "b is 0; anything <else> is right."
    alert = ratio._alert.value
    assert 'role="alert"' in alert and "&lt;else&gt;" in alert and "the one before" in alert
    assert ratio.shown["result"] == "0.50" and "peft-previous" in ratio._results._dom_classes
    ratio.controls["b"].value = 5
    assert not ratio.problem and not ratio._alert.value and "peft-previous" not in ratio._results._dom_classes


def test_an_unexpected_error_is_seen_too(monkeypatch: pytest.MonkeyPatch) -> None:
    ratio = Ratio()
    monkeypatch.setattr(ratio, "answer", lambda values: [][1])
    ratio.controls["b"].value = 3
    assert ratio.problem == "list index out of range"
    monkeypatch.setattr(ratio, "answer", lambda values: None + 1)  # type: ignore[operator]
    ratio.controls["b"].value = 4
    assert ratio.problem.startswith("TypeError: ")


def test_changes_in_two_threads_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    ratio, answering = Ratio(), []
    answer = ratio.answer

    def slow(values: Mapping[str, Any]) -> dict[str, str]:
        answering.append(values["b"])
        assert len(answering) == 1
        time.sleep(0.2)
        answering.clear()
        return answer(values)

    monkeypatch.setattr(ratio, "answer", slow)
    changes = ({"index": 1}, ratio.controls["a"]), ({"value": 4}, ratio.controls["b"])
    threads = [Thread(target=control.set_state, args=(state,)) for state, control in changes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ratio.shown["result"] == "0.50" and not ratio.problem


def test_reset() -> None:
    ratio = Ratio("r")
    ratio.choose(kind="large", a=200, b=0)
    ratio.reset_button.click()
    assert ratio.values == {"kind": "small", "a": 1, "b": 1} and not ratio.problem
    assert Ratio("r").values == ratio.values


def test_state_survives_a_restart(home: Path) -> None:
    Ratio("one").choose(kind="large", a=200, b=4)
    again = Ratio("one")  # as a new kernel, or the cell run once more, would make it
    assert again.values == {"kind": "large", "a": 200, "b": 4} and again.shown["result"] == "50.00"
    assert json.loads((home / "one.json").read_text()) == again.values
    assert [path.name for path in home.iterdir()] == ["one.json"]  # and no half-written file
    assert again._defaults == Ratio()._defaults


def test_a_problem_is_not_remembered() -> None:
    ratio = Ratio("one")
    ratio.controls["b"].value = 3
    ratio.controls["b"].value = 0
    assert Ratio("one").values["b"] == 3


def test_two_explorers_do_not_disturb_each_other(home: Path) -> None:
    one, two, unnamed, other = Ratio("one"), Ratio("two"), Ratio(), Ratio()
    one.controls["b"].value = 2
    two.controls["b"].value = 3
    unnamed.controls["b"].value = 4
    assert [e.values["b"] for e in (one, two, unnamed, other)] == [2, 3, 4, 1]
    assert [Ratio(name).values["b"] for name in ("one", "two", None)] == [2, 3, 1]
    assert sorted(path.name for path in home.iterdir()) == ["one.json", "two.json"]


@pytest.mark.parametrize(
    "content, b",
    [
        ("{", 1),
        ("[1, 2]", 1),
        ('{"b": "many"}', 1),
        ('{"b": true}', 1),
        ('{"b": null}', 1),
        ('{"kind": "huge", "gone": 5, "b": 7}', 7),
        ('{"a": 200, "b": 7}', 7),
        ("\x00\xff", 1),
    ],
)
def test_a_broken_or_old_file_is_ignored_value_by_value(home: Path, content: str, b: int) -> None:
    home.mkdir()
    (home / "one.json").write_text(content, encoding="latin-1")
    ratio = Ratio("one")
    assert ratio.values == {"kind": "small", "a": 1, "b": b} and not ratio.problem


def test_showing_writes_nothing_and_a_folder_that_cannot_be_written_is_no_error(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Ratio("one")
    assert not home.exists()
    (home.parent / "file").write_text("")
    monkeypatch.setenv("PEFT_LESSONS_HOME", str(home.parent / "file"))
    Ratio("one").choose(b=2)
    assert Ratio("one").values["b"] == 1


def test_nothing_is_stored_under_voila(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Ratio("one").choose(b=2)
    monkeypatch.setenv("SERVER_SOFTWARE", "voila/0.5.13")
    ratio = Ratio("one")
    assert ratio.values["b"] == 1
    ratio.choose(b=3)
    monkeypatch.delenv("SERVER_SOFTWARE")
    assert Ratio("one").values["b"] == 2


def test_the_users_own_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PEFT_LESSONS_HOME")
    file = remember._file("explorers", "rank")
    assert file and file.parts[-3:] == ("peft_lessons", "explorers", "rank.json")


@pytest.mark.parametrize("name", ["", "a/b", "..", "a b"])
def test_bad_names(name: str) -> None:
    with pytest.raises(ValueError, match="letters, digits, hyphens and underscores"):
        Ratio(name)


def test_labels_are_needed() -> None:
    with pytest.raises(ValueError, match="both need words"):
        labelled(widgets.IntText, " ", "a tip")


def test_what_stands_in_the_saved_page_is_the_same_in_every_run() -> None:
    assert repr(Ratio()) == repr(Ratio()) and len(repr(explore_rank())) <= 110  # ipywidgets cuts longer ones


def test_nothing_below_the_explorers_knows_widgets(root: Path) -> None:
    package = root / "peft_lessons"
    below = [path for path in package.rglob("*.py") if path.parent.name != "explorers"]
    assert below and not [path.name for path in below if "ipywidgets" in path.read_text(encoding="utf-8")]


# ---- pictures ----

PICTURES = {
    "bars": svg.bars({"a <b>": {"x & y": 3, "z": 0}, "c": {"z": 2}}, alt='"bars" & <more>', marks={"<limit>": 9}),
    "areas": svg.areas([0, 1, 2], {"a": [1, 2, 1], "<b>": [0, 5, 0]}, alt="areas", marks={"&": 1}),
    "lines": svg.lines({"l": [(1, 1), (2, 4)]}, alt="lines", points={"<p>": [(1, 2)]}, marks={"&": 2}),
    "logs": svg.lines({"l": [(0, 1), (1, 0), (4, 2), (64, 9)]}, alt="logs", log_x=True, log_y=True),
    "empty": svg.lines({"l": []}, alt="nothing"),
    "flat": svg.lines({"l": [(1, 0.0)]}, alt="a point"),
    "table": svg.table(["a", "<b>"], [["<c>", 1234.5]], caption="&"),
}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_are_well_formed_and_named(name: str) -> None:
    tree = ElementTree.fromstring(PICTURES[name])
    assert not re.search("nan|inf", PICTURES[name])
    if name != "table":
        assert tree.get("role") == "img" and tree.get("aria-label")
        assert tree.get("aria-label") == tree.findtext("{http://www.w3.org/2000/svg}title")
        assert "#000" not in PICTURES[name]  # not to be seen on a dark page


def test_bars_are_as_long_as_their_numbers() -> None:
    tree = ElementTree.fromstring(svg.bars({"a": {"x": 30, "y": 10}, "b": {"x": 20}}, alt="bars"))
    widths = [float(r.get("width") or 0) for r in tree.iter("{http://www.w3.org/2000/svg}rect")][:3]
    assert widths[0] / widths[1] == pytest.approx(3, rel=0.01) and widths[0] / widths[2] == pytest.approx(1.5, rel=0.01)


def test_the_peak_is_the_highest_total() -> None:
    drawn = svg.areas([0, 1, 2, 3], {"a": [1, 2, 3, 1], "b": [0, 5, 3, 0]}, alt="areas")
    assert "peak 7" in drawn


@pytest.mark.parametrize("low, high", [(0, 1), (0, 37), (-3, 12), (0.001, 0.0042), (0, 1e9)])
def test_ticks_are_round_and_inside(low: float, high: float) -> None:
    ticks = svg.Axis(low, high, 0, 100).ticks()
    assert 3 <= len(ticks) <= 7 and low - 1e-9 <= ticks[0] and ticks[-1] <= high * (1 + 1e-9)
    for log_low, log_high in ((1, 32), (1, 384), (0.003, 0.4), (1e-6, 1e6)):
        ticks = svg.Axis(log_low, log_high, 0, 100, log=True).ticks()
        assert 3 <= len(ticks) <= 9 and ticks == sorted(ticks)


def test_pictures_need_alt_text() -> None:
    with pytest.raises(ValueError, match="needs alt text"):
        svg.lines({}, alt=" ")


def test_a_matrix_is_a_png_of_its_entries() -> None:
    import io

    from matplotlib.image import imread

    matrix = np.array([[-1.0, 0, 1], [0.5, -0.5, 2]])
    pixels = imread(io.BytesIO(picture.png(np.rint(picture.SHADES * (1 + picture.shaded(matrix, 1))).astype(np.uint8))))
    assert pixels.shape[:2] == matrix.shape
    white = pixels[0, 1, :3]
    assert (white == 1).all() and pixels[0, 0, 2] > pixels[0, 0, 0] and pixels[0, 2, 0] > pixels[0, 2, 2]
    np.testing.assert_array_equal(pixels[1, 2], pixels[0, 2])  # beyond the limit: the darkest there is
    html = picture.heat_map(np.random.default_rng(0).standard_normal((384, 200)), title="<W>")
    assert "every 3rd row and 2nd column" in html and 'alt="&lt;W&gt;, 384 × 200"' in html and len(html) < 20_000
    assert "every" not in picture.heat_map(matrix, title="W")
    with pytest.raises(ValueError, match=r"shape \(3,\)"):
        picture.heat_map(np.zeros(3), title="W")


# ---- the rank explorer ----


@pytest.fixture(scope="module")
def tiny() -> torch.nn.Module:
    return load_base("tiny", device="cpu")[0]


def words(html: str) -> str:
    return re.sub(r"<[^>]+>", "", html)


def test_every_control_has_a_label_and_a_tip() -> None:
    rank = explore_rank()
    assert list(rank.controls) == "source matrix slider rank alpha scaling follows budget".split()
    for control in rank.controls.values():
        assert control.description and control.tooltip


def test_the_first_answer_is_the_first_example() -> None:
    rank = explore_rank()
    summary = words(rank.shown["summary"])
    assert "Rank 1 keeps 100.00%" in summary and "= 20 numbers instead of 100: 80.0% fewer" in summary
    assert "LoRA stops saving at rank 5." in summary


def test_the_answer_is_pure() -> None:
    rank = explore_rank()
    values = rank.values | {"matrix": "512 × 64, random", "rank": 8, "slider": 8, "budget": 4608}
    before = rank.values
    one, two = rank.answer(values), rank.answer(values)
    assert one == two and rank.values == before
    rows = one.keys()
    assert set(rows) == {part for row in rank.parts for part in ([row] if isinstance(row, str) else row)}
    assert "4,608 numbers instead of 32,768: 85.9% fewer" in words(one["summary"])


def test_its_numbers_are_those_of_accounting() -> None:
    matrix = torch.randn(30, 20, generator=torch.Generator().manual_seed(0))
    rank, found = explore_rank({"mine": matrix}), spectrum(matrix)
    rank.choose(source="your matrices", slider=7)
    summary = words(rank.shown["summary"])
    assert f"Rank 7 keeps {found.energy()[6]:.2%}" in summary and f"relative error is {found.error(7):.2%}" in summary
    assert f"{lora_parameters(30, 20, 7):,} numbers instead of 600" in summary
    assert f"90 % at rank {found.rank_for(0.9)}" in summary
    assert f"{found.error(7):.1%}" in words(rank.shown["budgets"])


def test_slider_and_typed_rank_are_one() -> None:
    rank = explore_rank()
    rank.controls["slider"].value = 4
    assert rank.values["rank"] == 4
    rank.controls["rank"].value = 6
    assert rank.values["slider"] == 6 and "Rank 6" in words(rank.shown["summary"])
    rank.controls["matrix"].value = "512 × 64, random"
    assert rank.controls["slider"].max == 64
    rank.controls["slider"].value = 60
    rank.controls["matrix"].value = "10 × 10 from 20 numbers"
    assert rank.values["rank"] == rank.values["slider"] == 10 and not rank.problem


@pytest.mark.parametrize(
    "values, sentence",
    [
        ({"rank": 11}, "The rank is 11; a matrix of 10 × 10 has ranks from 1 to 10."),
        ({"rank": 0}, "The rank is 0; a matrix of 10 × 10 has ranks from 1 to 10."),
        ({"alpha": 0.0}, "alpha is 0; it must be above 0, or the update is switched off."),
        ({"alpha": -4.0}, "alpha is -4; it must be above 0, or the update is switched off."),
        ({"follows": False, "budget": 0}, "The budget is 0 numbers; it must be at least 1."),
    ],
)
def test_bad_input_is_one_sentence(values: dict[str, Any], sentence: str) -> None:
    rank = explore_rank()
    rank.choose(**values)
    assert rank.problem == sentence and "Rank 1 keeps" in words(rank.shown["summary"])
    rank.reset()
    assert not rank.problem


def test_the_budget_follows_the_rank_until_told_otherwise() -> None:
    rank = explore_rank()
    rank.choose(matrix="512 × 64, random")
    rank.choose(slider=8)
    assert rank.values["budget"] == 4608 and rank.controls["budget"].disabled
    rank.choose(follows=False)
    rank.choose(slider=3)
    assert rank.values["budget"] == 4608 and not rank.controls["budget"].disabled
    rank.choose(budget=500)
    assert "LoRAnot possible, it needs 576" in words(rank.shown["budgets"])


def test_alpha_and_scaling_move_the_update() -> None:
    rank = explore_rank()
    rank.choose(slider=4)

    def size() -> float:
        found = re.search(r"‖ΔW‖ about ([\d.e-]+)", words(rank.shown["update"]))
        assert found
        return float(found[1])

    first = size()
    rank.choose(alpha=32.0)
    assert size() == pytest.approx(2 * first, rel=0.01)
    rank.choose(alpha=16.0, scaling="α / √r")
    assert size() == pytest.approx(2 * first, rel=0.01)


def test_sources(tiny: torch.nn.Module) -> None:
    rank = explore_rank(tiny, {"b": np.eye(3)}, torch.eye(4), [[1.0, 2], [3, 4]])
    assert list(rank.sources) == ["examples", "tiny", "your matrices", "your matrices (2)", "your matrices (3)"]
    names = list(rank.sources["tiny"])
    assert set(names) == {name for name, p in tiny.named_parameters() if p.dim() == 2}
    assert names[-1] == "model.embed_tokens.weight"  # large, and rarely what LoRA adapts
    rank.choose(source="tiny", matrix="model.layers.0.mlp.down_proj.weight", slider=5)
    assert "5 · (512 + 192) = 3,520 numbers" in words(rank.shown["summary"]) and not rank.problem


def test_a_new_source_takes_its_first_matrix_and_its_ranks(tiny: torch.nn.Module) -> None:
    rank = explore_rank(tiny, name="r")
    rank.choose(source="tiny", matrix="model.layers.2.mlp.up_proj.weight", slider=100)
    again = explore_rank(tiny, name="r")
    assert again.values == rank.values and again.shown == rank.shown
    gone = explore_rank(name="r")  # the model is not given this time: what still fits is kept
    assert gone.values["source"] == "examples" and not gone.problem and gone.values["rank"] <= 10


@pytest.mark.parametrize(
    "source, error, sentence",
    [
        (torch.nn.BatchNorm1d(3), ValueError, "BatchNorm1d has no two-dimensional weight"),
        ({}, ValueError, "no matrix in it"),
        ({"a": torch.zeros(3)}, ValueError, r'"a": A matrix has two dimensions of at least 1; this has shape \(3,\)'),
        ({"ΔW": torch.zeros(3, 3)}, ValueError, '"ΔW": Every entry of the matrix is zero'),
        ("tiny", TypeError, "A source is str; a model, a mapping"),
    ],
)
def test_bad_sources(source: Any, error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        explore_rank(source)


def test_a_zero_matrix_of_a_model_is_said_in_the_explorer() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Linear(2, 4))
    torch.nn.init.zeros_(model[1].weight)
    rank = explore_rank(model)
    rank.choose(source="Sequential")
    rank.controls["matrix"].value = "1.weight"
    assert rank.problem.startswith("Every entry of the matrix is zero")
    rank.controls["matrix"].value = "0.weight"
    assert not rank.problem


def test_it_is_small_enough_to_send(tiny: torch.nn.Module) -> None:
    rank = explore_rank({"large": torch.randn(1024, 768)})
    rank.choose(source="your matrices", slider=30)
    assert len(rank._results.value.encode()) < 70_000


def test_static_prints_the_same_numbers(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []
    monkeypatch.setattr("peft_lessons.explorers.base.show", lambda figure, alt: shown.append(alt))
    rank: RankExplorer = explore_rank(name="r")
    rank.choose(slider=9)  # what a reader has moved does not change the saved page
    rank.static(matrix="512 × 64, random", rank=8)
    printed = capsys.readouterr().out
    assert "512 x 64, rank 8" in printed and "4,608 numbers, spent by" in printed
    spent = rank.sources["examples"]["512 × 64, random"].spend(4608)
    for method in ("LoRA", "KronA", "PHM"):
        found = spent[method]
        assert found and re.search(rf"{method} .*{found.n_parameters:,}.*{found.error:.1%}", printed)
    assert len(shown) == 1 and "rank 8" in shown[0]
    rank.static(matrix="10 × 10 from 20 numbers")
    assert "rank 1: 100.0% of the energy kept" in capsys.readouterr().out
