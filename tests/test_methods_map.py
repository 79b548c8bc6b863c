"""The map of the survey's thirty methods: complete, placed, and no number without its source."""

import json
import re

import matplotlib.pyplot as plt
import pytest

from peft_lessons import methods
from peft_lessons.bases import DATA
from peft_lessons.methods_map import CLASSES, COSTS, COUNTS, load_methods_map, plot_methods_map, plot_places

FOUND = load_methods_map()


def test_thirty_methods_and_no_more():
    assert len(FOUND) == 30
    assert [sum(m.classes == c for m in FOUND.values()) for c in (("additive",), ("selective",))] == [13, 7]
    assert sum(m.classes == ("reparameterized",) for m in FOUND.values()) == 3


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_has_members(name):
    assert sum(name in m.classes for m in FOUND.values()) >= 8


def test_additive_methods_say_which_kind():
    kinds = {"adapters", "soft prompts", "other"}
    for method in FOUND.values():
        assert set(method.kinds) <= kinds and bool(method.kinds) == ("additive" in method.classes), method.name
        assert set(method.classes) <= set(CLASSES) and method.classes


def test_what_is_ours_is_in_the_package():
    ours = {name for method in FOUND.values() for name in method.ours}
    for name in ours:
        assert issubclass(getattr(methods, name), methods.Method)
    expected = "Houlsby Pfeiffer ParallelAdapter LadderSideTuning BitFit NormTuning AttentionTuning DiffPruning "
    expected += "SparseUpdate FAR IntrinsicDimension LoRA KronA PHMAdapter Compacter"
    assert set(expected.split()) <= ours


def test_every_statement_has_a_source_that_the_file_explains():
    sources = json.loads((DATA / "methods.json").read_text())["about"]["sources"]
    for method in FOUND.values():
        assert set(method.said) == {*COUNTS, *COSTS}
        for statements in method.said.values():
            for statement in statements:
                assert statement.says.strip() and statement.source in sources, (method.name, statement)
        if any("abstract" in s.source or s.source == "the paper" for found in method.said.values() for s in found):
            assert method.paper


def test_what_follows_from_an_equation_holds_no_measured_number():
    for method in FOUND.values():
        for statements in method.said.values():
            for statement in statements:
                if statement.source.startswith("follows") and "LT-SFT" != method.name:
                    assert not re.search(r"\d[\d.,]* %", statement.says), (method.name, statement)


def test_the_counted_numbers_are_those_that_the_formulas_give():
    L, d, f = 12, 768, 3072
    assert L * (7 * d + f) + 2 * d == 102_912
    assert "102,912" in str(FOUND["BitFit"]) and "104,704" in str(FOUND["Compacter"])


def test_the_map_draws_every_method_in_its_classes():
    _, ax = plt.subplots()
    drawn = plot_methods_map(ax, list(FOUND.values()))
    additive = {"adapters", "soft prompts", "other"}
    for name, columns in drawn.items():
        assert tuple(dict.fromkeys("additive" if c in additive else c for c in columns)) == FOUND[name].classes
    texts = [text.get_text() for text in ax.texts]
    assert "LoRa, 2021" in texts and "Sparse LoRa" in texts and "LadderSideTuning" in texts
    marks = [line for line in ax.lines if line.get_marker() not in ("None", None, "")]
    assert len(marks) == sum(map(len, drawn.values()))
    plt.close("all")


def test_a_method_prints_its_lines():
    text = str(FOUND["Sparse LoRa"])
    assert text.count("not established here") == 8 + 2 and "selective + reparameterized" in text


def test_the_five_places_are_drawn_with_their_formulas():
    _, axes = plt.subplots(1, 5)
    drawn = plot_places(axes)
    titles = [ax.get_title() or ax.get_title("left") for ax in axes]  # the lessons' style, if it is on, sets them left
    assert titles == list(drawn) and len(drawn) == 5
    assert [ax.get_xlabel() for ax in axes] == list(drawn.values())
    plt.close("all")
