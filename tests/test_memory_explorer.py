"""The memory explorer's answers without a browser: each is the table's, and each control moves what it should."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, ClassVar
from xml.etree import ElementTree

import ipywidgets as widgets
import numpy as np
import pytest
from transformers import LlamaConfig

from peft_lessons import load_base
from peft_lessons.accounting.advice import fits, largest_batch, longest, overhead
from peft_lessons.accounting.explain import terms
from peft_lessons.accounting.library import load_shape, load_table
from peft_lessons.accounting.memory import closed_form, closed_peak
from peft_lessons.accounting.setups import CHOICES, Setup
from peft_lessons.explorers import memory, memory_controls, memory_parts
from peft_lessons.explorers.memory import MemoryExplorer, explore_memory
from peft_lessons.methods import FullFineTuning, LoRA
from peft_lessons.methods.core import LinearMethod, Method
from peft_lessons.methods.reparameterized.lora import LoRALinear
from peft_lessons.methods.targets import Targets

SMALL = LlamaConfig(
    hidden_size=128,
    intermediate_size=352,
    num_hidden_layers=4,
    num_attention_heads=8,
    num_key_value_heads=2,
    vocab_size=2000,
    max_position_embeddings=512,
)


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder of this file's own: tables that are built once are found again."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PEFT_LESSONS_HOME", str(folder))
        patched.delenv("SERVER_SOFTWARE", raising=False)
        yield folder


@pytest.fixture
def small() -> MemoryExplorer:
    return explore_memory(SMALL, length=256)


def words(html: str) -> str:
    return re.sub(r"<[^>]+>", "", html)


def peak(explorer: MemoryExplorer) -> int:
    """The bytes that stand on the page."""
    assert not explorer.problem
    found = re.search(r"= ([\d,]+) bytes at the peak", words(explorer.shown["total"]))
    assert found
    return int(found[1].replace(",", ""))


def test_every_control_has_a_label_and_a_tip(small: MemoryExplorer) -> None:
    shown = [c for c in small.controls.values() if c.layout.display != "none"]
    assert all(c.description and c.tooltip for c in small.controls.values())
    labels = [c.description for c in shown]
    assert len(labels) == len(set(labels))
    for choice in (*CHOICES, "model", "method", "batch", "length", "checkpointing", "padding", "keep_output", "upcast"):
        assert choice == "device" or choice in small.controls


def test_the_number_is_the_tables() -> None:
    shown = explore_memory()
    table = load_table("llama-3.1-8b", Setup(LoRA()))
    assert shown.values["model"] == "llama-3.1-8b" and peak(shown) == table.evaluate(32, 1, 1024, 8, "adamw").peak
    shown.choose(batch=3, length=2048, LoRA_r=64, optimizer="adamw_foreach")
    answer = table.evaluate(32, 3, 2048, 64, "adamw_foreach")
    total = words(shown.shown["total"])
    assert peak(shown) == answer.peak
    assert f"{answer.peak / 2**30:,.3f} GiB" in total and memory_parts.place_in_words(answer.place) in total
    largest = max(answer.at_peak.items(), key=lambda piece: piece[1])
    assert f"The largest piece is {largest[0]}, {largest[1] / 2**30:,.3f} GiB" in total
    assert f"{answer.peak / answer.at_peak['weights']:.2f} times the weights" in total
    extra = overhead()
    assert f"{extra.low / 2**30:.3f} to {extra.high / 2**30:.3f} GiB" in total


def test_the_answer_is_pure(small: MemoryExplorer) -> None:
    values, before = small.values | {"batch": 4, "batch_slider": 4}, small.values
    one, two = small.answer(values), small.answer(values)
    assert one == two and small.values == before
    assert set(one) == {part for row in small.parts for part in ([row] if isinstance(row, str) else row)}
    for html in one.values():
        for picture in re.findall(r"<svg.*?</svg>", html):
            assert ElementTree.fromstring(picture).get("aria-label")
            assert not re.search(r"\b(nan|inf)\b", picture)


MOVES: list[tuple[dict[str, Any], dict[str, Any], int]] = [
    ({}, {"batch": 4}, 1),
    ({}, {"length": 512}, 1),
    ({}, {"LoRA_r": 16}, 1),
    ({}, {"LoRA_dropout": 0.1}, 1),
    ({}, {"LoRA_target_modules": "all-linear"}, 1),
    ({"LoRA_target_modules": "q_proj, v_proj"}, {"LoRA_target_modules": "q_proj, k_proj, v_proj"}, 1),
    ({}, {"LoRA_alpha": 32.0}, 0),
    ({}, {"LoRA_use_rslora": True}, 0),
    ({}, {"adapters": "bfloat16"}, -1),
    ({}, {"weights": "float32"}, 1),
    ({}, {"weights": "nf4"}, -1),
    ({"weights": "nf4"}, {"upcast": True}, 1),
    ({"weights": "float32"}, {"autocast": True}, -1),
    ({}, {"autocast": True}, -1),
    ({}, {"attention": "eager"}, 1),
    ({}, {"attention": "math"}, 1),
    ({}, {"logits": "chunked"}, -1),
    ({}, {"checkpointing": True}, -1),
    ({}, {"padding": True}, 1),
    ({}, {"keep_output": True}, 1),
    ({"method": "FullFineTuning"}, {"optimizer": "adamw_8bit"}, -1),
    ({"method": "FullFineTuning"}, {"optimizer": "sgd"}, -1),
    ({"method": "FullFineTuning"}, {"adapters": "bfloat16"}, 0),
    ({"method": "Head"}, {"method": "FullFineTuning"}, 1),
    ({}, {"card": 80}, 0),
]


@pytest.mark.parametrize(("first", "then", "direction"), MOVES, ids=[str(then) for _, then, _ in MOVES])
def test_each_control_moves_the_peak_as_it_should(
    small: MemoryExplorer, first: dict[str, Any], then: dict[str, Any], direction: int
) -> None:
    small.choose(**first)
    before = peak(small)
    small.choose(**then)
    assert np.sign(peak(small) - before) == direction
    setup = memory_controls.setup_of(small.values)
    rank = small.values["LoRA_r"] if isinstance(setup.method, LoRA) else 1
    sizes = (4, small.values["batch"], small.values["length"], rank, setup.optimizer)
    assert peak(small) == load_table(SMALL, setup).evaluate(*sizes).peak


def test_sliders_and_typed_numbers_are_one(small: MemoryExplorer) -> None:
    for slider, typed, at in (
        ("batch_slider", "batch", 7),
        ("length_slider", "length", 64),
        ("LoRA_r_slider", "LoRA_r", 5),
    ):
        small.controls[slider].value = at
        assert small.values[typed] == at
        small.controls[typed].value = 2 * at
        assert small.values[slider] // 8 == 2 * at // 8 or small.values[slider] == 2 * at
    small.controls["length"].value = 100  # between two steps of the slider
    assert small.values["length"] == 100 and not small.problem
    small.controls["batch"].value = 500  # beyond the slider
    assert small.values["batch"] == 500 and not small.problem


PROBLEMS: list[tuple[dict[str, Any], str]] = [
    ({"batch": 0}, "batch is 0; it must be at least 1."),
    ({"batch": -3}, "batch is -3; it must be at least 1."),
    ({"length": 0}, "length is 0; it must be at least 1."),
    ({"length": 513}, "The length is 513; llama has 512 positions."),
    ({"LoRA_r": 0}, "r is 0; the rank is a whole number, at least 1."),
    ({"LoRA_r": 33}, "r is 33; the smallest matrix that LoRA updates has ranks up to 32."),
    ({"LoRA_dropout": 1.0}, "dropout is 1.0; it is a probability, at least 0 and below 1."),
    ({"LoRA_alpha": 0.0}, "alpha is 0.0; it must be above 0, or the update is switched off."),
    ({"LoRA_target_modules": "query"}, 'No linear layer of this model is called "query".'),
    ({"LoRA_target_modules": " , "}, "target_modules is empty;"),
    ({"method": "FullFineTuning", "weights": "nf4"}, "4-bit weights cannot be trained"),
    ({"upcast": True}, 'upcast is about 4-bit models: it needs weights="nf4".'),
    ({"logits": "chunked", "keep_output": True}, "A chunked loss never has the whole output"),
    ({"logits": "chunked", "length": 100}, "A length of 100 cannot be cut into 8 equal parts"),
]


@pytest.mark.parametrize(("values", "sentence"), PROBLEMS, ids=[str(values) for values, _ in PROBLEMS])
def test_what_is_not_possible_is_one_sentence_and_the_last_answer_stays(
    small: MemoryExplorer, values: dict[str, Any], sentence: str
) -> None:
    before = peak(small)
    small.choose(**values)
    assert sentence in small.problem and "\n" not in small.problem
    assert 'role="alert"' in small._alert.value and "The answer below is the one before" in small._alert.value
    assert f"{before:,} bytes" in words(small.shown["total"])
    small.reset()
    assert not small.problem and peak(small) == before


def test_a_chunked_loss_is_for_decoders() -> None:
    bert = explore_memory(model="bert-base", length=128)
    assert peak(bert)
    bert.choose(logits="chunked")
    assert bert.problem == "A chunked loss is for decoders; this is an encoder."


CONFIGS: list[tuple[str, str]] = [
    ("", "There is no configuration yet: paste the content of a config.json, or type its path."),
    (
        "{'model_type': 'llama'}",
        "The configuration is no valid JSON: Expecting property name enclosed in double quotes",
    ),
    ('{"model_type": "llama",', "The configuration is no valid JSON: "),
    ('{"hidden_size": 8}', "This configuration names the model type None, which transformers does not know."),
    ('{"model_type": "lama"}', "This configuration names the model type 'lama', which transformers does not know."),
    ('{"model_type": "llama", "hidden_size": "wide"}', "This configuration is no valid llama configuration:"),
    ('{"model_type": "resnet"}', '"resnet" is a model without attention'),
    ('{"model_type": "mamba", "num_hidden_layers": 2}', '"mamba" is a model without attention'),
    ("llama-4", 'There is no shape "llama-4" and no such file; the shapes are bert-base'),
    ("[1, 2]", 'There is no shape "[1, 2]" and no such file'),
]


@pytest.mark.parametrize(("text", "sentence"), CONFIGS)
def test_a_configuration_that_does_not_do_is_one_sentence(small: MemoryExplorer, text: str, sentence: str) -> None:
    small.choose(model=memory_controls.OWN, config=text)
    assert sentence in small.problem and "Traceback" not in small.problem
    small.choose(model="llama")
    assert not small.problem


def test_a_configuration_of_ones_own(small: MemoryExplorer, tmp_path: Path) -> None:
    assert small.controls["config"].layout.display == "none"
    small.choose(model=memory_controls.OWN)
    assert small.controls["config"].layout.display is None and peak(small)  # the example that stands there
    small.choose(config=json.dumps(SMALL.to_dict()), length=256)
    mine = peak(small)
    (tmp_path / "config.json").write_text(json.dumps(SMALL.to_dict()))
    small.choose(config=str(tmp_path / "config.json"))
    assert peak(small) == mine == load_table(SMALL, Setup()).evaluate(4, 1, 256, 8).peak


def test_sources(tmp_path: Path) -> None:
    model, _ = load_base("minilm", device="cpu")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text(json.dumps(SMALL.to_dict()))
    shown = explore_memory(SMALL, SMALL, tmp_path / "mine", model)
    first = list(shown.controls["model"].options)[:4]
    assert first[:3] == ["llama", "llama (2)", "mine"] and "MiniLM" in first[3]
    assert shown.values["model"] == "llama" and shown.values["length"] == 512
    shown.choose(model=first[3])
    assert peak(shown)
    with pytest.raises(FileNotFoundError, match="no such file"):
        explore_memory("nothing/here")
    with pytest.raises(LookupError, match='no control "bach"; there are model'):
        explore_memory(bach=2)


def test_a_shorter_model_shortens_the_length() -> None:
    shown = explore_memory(length=4096)
    shown.choose(model="bert-base")
    assert shown.values["length"] == 512 == shown.controls["length_slider"].max and not shown.problem


def test_a_method_that_joins_the_package_appears_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Method, "registry", dict(Method.registry))

    @dataclass(frozen=True)
    class Toy(LinearMethod):
        """LoRA of width `m`, to stand for a method that is not there yet."""

        peft_type: ClassVar[str] = "TOY"
        lr: ClassVar[float] = 1e-3

        m: int = 4
        scale: float = 1.5
        wide: bool = False
        place: str = "before"
        target_modules: Targets = "attention"

        def wrap(self, base: Any) -> LoRALinear:
            if self.place not in ("before", "after"):
                raise ValueError(f'place is "{self.place}"; it is before or after.')
            return LoRALinear(base, self.m * (2 if self.wide else 1), self.scale)

    shown = explore_memory(SMALL, length=256)
    assert "Toy" in shown.controls["method"].options
    mine = ["Toy_m", "Toy_scale", "Toy_wide", "Toy_place", "Toy_target_modules"]
    kinds = [widgets.IntText, widgets.FloatText, widgets.Checkbox, widgets.Text, widgets.Combobox]
    assert [type(shown.controls[key]) for key in mine] == kinds
    assert all(shown.controls[key].layout.display == "none" for key in mine)
    shown.choose(LoRA_r=4)
    as_lora = peak(shown)
    shown.choose(method="Toy")
    assert peak(shown) == as_lora
    assert all(shown.controls[key].layout.display is None for key in mine)
    assert shown.controls["LoRA_r"].layout.display == "none"
    shown.choose(Toy_m=8)
    assert peak(shown) > as_lora
    shown.choose(Toy_m=4, Toy_wide=True)
    wide = peak(shown)
    shown.choose(Toy_m=8, Toy_wide=False)
    assert peak(shown) == wide
    shown.choose(Toy_target_modules="q_proj, v_proj")
    assert peak(shown) < wide
    shown.choose(Toy_place="nowhere")
    assert shown.problem == 'place is "nowhere"; it is before or after.'


@pytest.mark.parametrize("method", [method.__name__ for method in Method.registry.values()])
def test_no_method_is_left_out(small: MemoryExplorer, method: str) -> None:
    small.choose(method=method)
    assert small.values["method"] == method
    if method == "BitFit":
        assert "This model has no biases" in small.problem
        return
    assert not small.problem and peak(small) > 0
    assert memory_controls.method_of(small.values) == next(
        kind() for kind in Method.registry.values() if kind.__name__ == method
    )


def test_what_fits() -> None:
    shown = explore_memory(batch=2, length=512)
    table = load_table("llama-3.1-8b", Setup())
    cells = re.findall(r"<td>(\w+)</td>", shown.shown["fits"])
    assert cells == list(fits(table.peak(32, 2, 512, 8)).values())
    for card in (24, 48):
        shown.choose(card=card)
        at_batch, at_length = (
            longest(table, 32, 2, 8, "adamw", card, 131072),
            largest_batch(table, 32, 512, 8, "adamw", card),
        )
        said = words(shown.shown["fits"])
        assert f"longest sequence at batch 2 {f'{at_batch:,} tokens' if at_batch else 'none'};" in said
        assert f"largest batch at length 512 {f'{at_length:,}' if at_length else 'none'}." in said
    shown.choose(length=at_batch)
    assert not shown.problem
    assert re.findall(r"<td>(\w+)</td>", shown.shown["fits"])[3] == "yes"  # the longest that fits 48 GB does fit


def test_changes_and_silent_switches(small: MemoryExplorer) -> None:
    assert "peft's default" in words(small.shown["silent"]).replace("&#x27;", "'")
    small.choose(adapters="bfloat16")
    assert "Silent switches: none" in words(small.shown["silent"])
    small.choose(padding=True, keep_output=True, optimizer="adamw_foreach")
    said = words(small.shown["silent"])
    assert "a mask" in said and "foreach" in said and "logits" in said
    small.choose(padding=False)
    assert "do not hold the model" in words(small.shown["first"])  # its table has been at hand since the start


def test_the_paged_optimizer_is_a_range(small: MemoryExplorer) -> None:
    small.choose(method="FullFineTuning", optimizer="adamw_8bit_paged")
    answer = load_table(SMALL, Setup(FullFineTuning())).evaluate(4, 1, 256, 1, "adamw_8bit_paged")
    states = answer.at_peak["optimizer states"]
    assert states > 0
    assert f"{(answer.peak - states) / 2**30:,.3f} to {answer.peak / 2**30:,.3f} GiB" in words(small.shown["total"])


def test_the_terms_add_up_to_the_peak(small: MemoryExplorer) -> None:
    small.choose(batch=3, LoRA_r=5, optimizer="adamw_foreach")
    found = terms(load_table(SMALL, Setup()), 4, 3, 256, 5, "adamw_foreach")
    assert sum(term.n_bytes for term in found) == peak(small)
    said = words(small.shown["terms"])
    assert all(term.formula in said and f"{term.n_bytes:,}" in said for term in found)


def test_the_closed_form_stands_beside_the_terms_where_there_is_one() -> None:
    shown = explore_memory(LoRA_r=12, batch=2)
    found = closed_form(load_shape("llama-3.1-8b"), Setup(LoRA(12)), 2, 1024)
    said = words(shown.shown["terms"])
    assert all(escape(term.formula) in shown.shown["terms"] and f"{term.n_bytes:,}" in said for term in found)
    assert closed_peak(found) == peak(shown)
    shown.choose(checkpointing=True, method="Head")
    assert "Derived from" not in shown.shown["terms"] and "bytes at the peak" in shown.shown["terms"]


def test_rules_stand_beside_the_prediction() -> None:
    shown = explore_memory()
    said = words(shown.shown["rules"])
    assert "accelerate estimate-memory" in said and "20 x weights" in said
    n = 8030261248
    assert f"{16 * n / 2**30:,.3f}" in said  # ZeRO's 16 N


def test_the_curve_keeps_its_peak() -> None:
    table = load_table("llama-3.1-8b", Setup(checkpointing=True))
    curve = memory_parts.Curve(*table.curve(32, 2, 512, 8))
    answer = table.evaluate(32, 2, 512, 8)
    assert curve.live().sum(1).max() == answer.peak
    assert max(row.sum() for row in curve.highest().values()) == answer.peak
    assert list(curve.highest()) == ["forward", "loss", "backward", "optimizer step"]
    for stage in curve.stages().values():
        totals = stage.sum(1)
        kept = memory_parts._thinned(totals)
        assert kept == sorted(set(kept)) and len(kept) <= memory_parts.DRAWN and totals[kept].max() == totals.max()
    drawn = memory_parts.curve_chart(answer, curve)
    assert f"peak {answer.peak / 2**30:.3g}" in drawn and len(drawn) < 40_000


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("loss, output layer", "in the loss, at output layer"),
        ("backward, model.layers.31.mlp", "in the backward pass inside model.layers.31.mlp"),
        ("optimizer step", "in the optimizer's step"),
        ("forward", "in the forward pass"),
    ],
)
def test_places_in_words(place: str, said: str) -> None:
    assert memory_parts.place_in_words(place) == said


def test_a_setup_that_is_new_shows_its_progress(home: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    config = LlamaConfig(**{**SMALL.to_dict(), "vocab_size": 1234})
    shown = explore_memory(config, length=128)
    seen = []
    shown.progress.observe(lambda change: seen.append((change["new"], shown.progress.max)), "value")
    capfd.readouterr()
    shown.choose(checkpointing=True, padding=True)
    assert len(seen) >= 4 and seen[-1][0] == seen[-1][1] and not shown.problem
    assert shown.progress.layout.visibility == "hidden" and shown.progress.description
    assert capfd.readouterr() == ("", ""), "nothing is printed while a model is traced"
    seen.clear()
    shown.choose(batch=3)
    assert not seen
    shown.choose(method="FullFineTuning", weights="nf4")
    assert shown.problem and shown.progress.layout.visibility == "hidden"


def test_two_explorers_do_not_disturb_each_other() -> None:
    one, two = explore_memory(SMALL, name="one"), explore_memory(SMALL, name="two")
    first = peak(two)
    one.choose(batch=9, method="FullFineTuning")
    assert peak(two) == first and two.values["batch"] == 1
    assert explore_memory(SMALL, name="two").values["batch"] == 1


def test_state_is_restored_without_tracing_what_lies_between(monkeypatch: pytest.MonkeyPatch) -> None:
    changed = {"weights": "nf4", "upcast": True, "checkpointing": True, "LoRA_r": 12, "batch": 3, "card": 80}
    explore_memory(SMALL, name="kept").choose(**changed)
    asked: list[Setup] = []
    at_hand = memory.table_at_hand
    monkeypatch.setattr(memory, "table_at_hand", lambda source, setup: asked.append(setup) or at_hand(source, setup))
    again = explore_memory(SMALL, name="kept")
    assert {key: again.values[key] for key in changed} == changed and not again.problem
    assert {setup.weights for setup in asked} == {"nf4"}
    again.reset()
    assert again.values["weights"] == "bfloat16" and again.values["batch"] == 1


def test_state_that_no_longer_fits_is_left_out(home: Path) -> None:
    explore_memory(SMALL, name="old").choose(batch=5)
    file = home / "explorers" / "old.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"model": "gone", "length": 4096, "optimizer": "lion"}))
    again = explore_memory(SMALL, name="old")
    assert again.values["batch"] == 5 and again.values["model"] == "llama" and not again.problem


def test_an_own_configuration_is_restored() -> None:
    text = json.dumps({**json.loads(memory_controls.EXAMPLE), "num_hidden_layers": 6})
    explore_memory(SMALL, name="own").choose(model=memory_controls.OWN, config=text)
    again = explore_memory(SMALL, name="own")
    assert again.values["model"] == memory_controls.OWN and again.values["config"] == text and not again.problem


def test_the_still_is_the_same_answer(small: MemoryExplorer, capsys: pytest.CaptureFixture[str]) -> None:
    small.choose(batch=7)
    still = small.still(small._defaults | {"batch": 2})
    answer = load_table(SMALL, Setup()).evaluate(4, 2, 256, 8)
    assert f"{answer.peak:,} bytes" in still.table and "GiB" in still.alt
    rows = {line[:18].strip(): line[18:].split() for line in still.table.splitlines()[3:]}
    for category, size in answer.at_peak.items():
        assert rows[category][0] == f"{size / 2**20:,.1f}"
    small.static(batch=2)
    assert capsys.readouterr().out.endswith(still.table + "\n")


def test_a_number_is_said_as_it_is(small: MemoryExplorer) -> None:
    assert repr(small) == "Memory: what one training step holds: run this cell in Jupyter to move its controls."
    assert load_shape("llama-3.1-8b").num_hidden_layers == 32
