"""The tasks under `data/tasks`: format, balance, splits that share no wording, and generators that reproduce them."""

import importlib.util
import json
import re
import subprocess
import sys
from collections import Counter
from itertools import combinations
from pathlib import Path
from types import ModuleType

import pytest

TASKS = Path(__file__).resolve().parents[1] / "data" / "tasks"
SPLITS = ("train", "validation", "test")
NAMES = sorted(path.parent.name for path in TASKS.glob("*/task.json"))
ENCODER_NAMES = ("outcome", "sentiment")
# Words that may stand in two splits: closed classes, numbers, spans of time, and verbs and adjectives too common to
# carry an answer.
LIGHT = set(
    """
    a an the this that these those my your his her its our their i you he she it we they me him us them myself itself
    who what which whatever whoever nobody nothing everybody somebody someone everyone everything each every all any
    some no not never none both half other another else such same own one two three four five six seven eight nine ten
    first second once twice last next many much more most less few enough too so as than very even just only also ever
    still again yet already now then here there where when while before after until since during whenever if although
    though because but and or for to of in on at by with without from into onto up down out off over under between
    through about around along across within beside behind inside above back away halfway per be am is are was were
    been being do does did done have has had having can could will would shall should may might must get gets got go
    goes went gone come comes came make makes made take takes took keep keeps kept let lets give gives gave put puts
    turn turns turned run runs ran leave leaves left feel feels felt look looks looked see saw say says said tell told
    know think want wanted use used need needs day days daily week weeks month months year years hour hours minute
    minutes morning afternoon evening night noon midnight today yesterday time times way thing things people person new
    old big long short like thanks
    """.split()
)
ENDINGS = ("ingly", "edly", "ings", "ing", "ied", "ies", "ed", "es", "ly", "s", "e", "y")


def read(folder: Path, split: str) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()]


def generator(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"make_{name}", TASKS / name / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def stem(word: str) -> str:
    """A crude stem, so that "drips" and "dripped" count as one word."""
    word = re.sub(r"'s?$", "", word)
    ending = next((e for e in ENDINGS if word.endswith(e) and len(word) - len(e) >= 3), "")
    word = word.removesuffix(ending)
    return word[:-1] if len(word) > 4 and word[-1] == word[-2] else word


def content_words(phrases: list[str]) -> set[str]:
    words = re.findall(r"[^\W\d_][\w'-]*", " ".join(phrases).lower())
    return {stem(word) for word in words if word not in LIGHT}


def test_the_encoder_tasks_are_there():
    assert set(ENCODER_NAMES) <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_rows_are_complete_and_answers_are_choices(name):
    task = json.loads((TASKS / name / "task.json").read_text(encoding="utf-8"))
    assert "{text}" in task["template"]
    for split in SPLITS:
        rows = read(TASKS / name, split)
        assert rows
        for row in rows:
            assert set(row) == {"text", "answer"}
            assert row["text"].strip() == row["text"] != ""
            assert row["answer"].strip() == row["answer"] != ""
        if "choices" in task:
            assert {row["answer"] for row in rows} == set(task["choices"])


@pytest.mark.parametrize("name", NAMES)
def test_no_text_occurs_twice(name):
    counts = Counter(row["text"].casefold() for split in SPLITS for row in read(TASKS / name, split))
    assert [text for text, n in counts.items() if n > 1] == []


@pytest.mark.parametrize("name", NAMES)
def test_no_choice_dominates_a_split(name):
    choices = json.loads((TASKS / name / "task.json").read_text(encoding="utf-8")).get("choices")
    if choices is None:
        pytest.skip("free answers have no classes to balance")
    for split in SPLITS:
        counts = Counter(row["answer"] for row in read(TASKS / name, split))
        assert max(counts.values()) <= 1.5 * min(counts[choice] for choice in choices)


@pytest.mark.parametrize("name", NAMES)
def test_a_card_names_its_licence(name):
    assert re.search(r"cc0[- ]1\.0", (TASKS / name / "README.md").read_text(encoding="utf-8"), re.IGNORECASE)


@pytest.mark.parametrize("name", ENCODER_NAMES)
def test_an_encoder_card_has_front_matter_and_controls(name):
    opening, front, body = (TASKS / name / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    assert opening == ""
    assert {line.split(":")[0] for line in front.splitlines()} >= {"license", "language", "task_categories"}
    assert "## Controls" in body


@pytest.mark.parametrize("name", ENCODER_NAMES)
def test_encoder_tasks_are_large_enough(name):
    sizes = {split: len(read(TASKS / name, split)) for split in SPLITS}
    assert sizes["train"] >= 800 and sizes["validation"] >= 200 and sizes["test"] >= 400


@pytest.mark.parametrize("name", ENCODER_NAMES)
def test_splits_share_no_wording(name):
    make = generator(name)
    for one, other in combinations(SPLITS, 2):
        assert content_words(make.label_phrases(one)) & content_words(make.label_phrases(other)) == set()
        assert set(make.frames(one)) & set(make.frames(other)) == set()


@pytest.mark.parametrize("name", ENCODER_NAMES)
def test_every_text_holds_a_phrase_of_its_own_split(name):
    """The inventories checked above are those the files were written from."""
    make = generator(name)
    for split in SPLITS:
        own = content_words(make.label_phrases(split))
        patterns = content_words([re.sub(r"{\w+}", "", frame) for frame in make.frames(split)])
        topics = content_words(list(make.PHRASES["topics"][split])) if name == "sentiment" else set()
        for row in read(TASKS / name, split):
            assert content_words([row["text"]]) & own
            assert content_words([row["text"]]) <= own | patterns | topics


@pytest.mark.parametrize("name", [name for name in NAMES if (TASKS / name / "make.py").exists()])
def test_the_generator_writes_the_same_files(name, tmp_path):
    subprocess.run([sys.executable, str(TASKS / name / "make.py"), str(tmp_path)], check=True)
    for split in SPLITS:
        assert (tmp_path / f"{split}.jsonl").read_bytes() == (TASKS / name / f"{split}.jsonl").read_bytes()


def test_every_task_is_in_the_list():
    listed = (TASKS / "README.md").read_text(encoding="utf-8")
    assert [name for name in NAMES if f"`{name}`" not in listed] == []


def test_stems_join_the_forms_of_a_word():
    assert stem("drips") == stem("dripped") == "drip"
    assert content_words(["The tap drips all night"]) & content_words(["it dripped"]) == {"drip"}
