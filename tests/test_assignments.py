"""The assignments' graders are held to wrong answers, and what travels from a learner's process is read safely.

The same as `python tools/mutants.py`, which prints the table.
"""

import importlib
import json
from collections.abc import Callable
from pathlib import Path

import mutants as engine
import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch import nn

import peft_lessons.assignments  # noqa: F401, registers the exercises
from peft_lessons.assignments.core import Exercise, Property, check, exercise, grade
from peft_lessons.assignments.told import OTHERS, TENSORS, Told, Untold
from peft_lessons.exercises import NOT_ATTEMPTED

QUESTIONS = {
    question.exercise: question for path in sorted(engine.SOURCE.glob("*.ipynb")) for question in engine.questions(path)
}


def tried(name: str) -> tuple[dict, dict]:
    module = importlib.import_module(f"answers.{name.partition('.')[0]}")
    return module.WRONG[name], module.RIGHT[name]


@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", QUESTIONS)
def test_wrong_answers_lose_marks_and_right_ones_keep_them(name: str) -> None:
    torch.set_num_threads(1)
    question, (wrong, right) = QUESTIONS[name], tried(name)
    assert len(wrong) >= 8 and len(right) >= 2
    all_of_them = {("reference", "solution"): question.solution, ("stub", "untouched"): engine.stub(question.solution)}
    all_of_them |= {("wrong", mutant): engine.changed(question.solution, answer) for mutant, answer in wrong.items()}
    all_of_them |= {("right", mutant): engine.changed(question.solution, answer) for mutant, answer in right.items()}
    found = list(engine.run(question, all_of_them))
    assert len(found) == len(all_of_them)
    assert not [str(verdict) for verdict in found if not verdict.fine]


def test_an_answer_that_is_right_for_one_family_gets_its_half() -> None:
    question, wrong = QUESTIONS["a2.insert"], tried("a2.insert")[0]
    names = ("a BERT alone", "a Llama alone", "one family goes wrong, and stops")
    halves = {("wrong", name): engine.changed(question.solution, wrong[name]) for name in names}
    assert {verdict.points for verdict in engine.run(question, halves)} == {question.points // 2}


def test_there_are_as_many_wrong_answers_as_the_readme_says() -> None:
    assert sum(len(tried(name)[0]) for name in QUESTIONS) > 800


def test_every_exercise_is_asked_once_with_its_points() -> None:
    assert set(QUESTIONS) == set(Exercise.registry)
    assert {name: q.points for name, q in QUESTIONS.items()} == {n: e.points for n, e in Exercise.registry.items()}


@pytest.mark.parametrize("name", QUESTIONS)
def test_the_stub_can_be_run_and_is_not_attempted(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    question = QUESTIONS[name]
    namespace: dict[str, object] = {}
    exec(question.before, namespace)
    exec(engine.stub(question.solution), namespace)
    capsys.readouterr()
    check(name, *(eval(answer, namespace) for answer in question.answers))
    assert capsys.readouterr().out == NOT_ATTEMPTED + "\n"


def test_an_engine_that_changes_nothing_is_noticed() -> None:
    with pytest.raises(ValueError, match="is not in the solution"):
        engine.changed("x = 1", [("y", "z")])


def test_a_survivor_is_noticed() -> None:
    survivor = engine.Verdict("e", "wrong", "harmless", 3, 3, ())
    strict = engine.Verdict("e", "right", "unusual", 2, 3, ("form",))
    assert not survivor.fine and not strict.fine and "NOT AS IT SHOULD BE" in str(survivor)


@pytest.mark.parametrize("code", ["def count_lora(", "def count_lora(a, b, c):\n    return nothing", "other = 1"])
def test_an_answer_that_cannot_be_run_is_no_test_of_a_grader(code: str) -> None:
    (verdict,) = engine.run(QUESTIONS["a3.count"], {("wrong", "cut off"): code})
    assert not verdict.fine and verdict.broken


# ---- asking and judging ----


@pytest.fixture
def doubling() -> Callable[..., Exercise]:
    def ask(given: int, told: Told, f: Callable[[int], object]) -> None:
        told["y"] = f(given)

    def wrong(given: int, told: Told) -> str:
        return "" if told["y"] == 2 * given else "that is not twice as much."

    def make() -> Exercise:
        return Exercise("test.double", lambda seed: seed + 3, ask, (Property("doubles", 2, wrong),))

    yield make
    Exercise.registry.pop("test.double", None)


def test_check_names_what_is_wrong(doubling: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    doubling()
    points = check("test.double", lambda x: 2 * x)
    assert capsys.readouterr().out == "right    doubles\n"
    assert (points, repr(points), points._repr_html_()) == (2, "2.0", "<b>2 of 2 points</b>")
    assert check("test.double", lambda x: x) == 0
    assert capsys.readouterr().out == "not yet  doubles: that is not twice as much.\n"
    assert check("test.double", None) == 0
    assert capsys.readouterr().out == NOT_ATTEMPTED + "\n"


def test_an_exception_of_the_learner_is_shown(doubling: Callable, capsys: pytest.CaptureFixture[str]) -> None:
    doubling()
    check("test.double", lambda x: 1 / 0)
    assert "your code stopped before: ZeroDivisionError: division by zero" in capsys.readouterr().out
    check("test.double", lambda x: nn.Linear(1, 1))
    assert "y came back as a Linear; a tensor, number, text or list of these is right" in capsys.readouterr().out
    check("a4.states", lambda model: {"weights": 0})
    assert "KeyError: 'gradients', while the check used what your code gave back" in capsys.readouterr().out
    check("test.double", lambda x: {}[x])
    assert "your code stopped before: KeyError: 3\n" in capsys.readouterr().out


@pytest.mark.parametrize("number", [6.0, torch.tensor(6), np.int64(6), np.float32(6)])
def test_a_number_may_be_any_librarys(doubling: Callable, number: object) -> None:
    told = Told()
    told["y"], told["among others"] = [number], {"n": [number, range(2)]}
    assert told["y"] == [6] and told["among others"] == {"n": [6, [0, 1]]}
    assert check(doubling().name, lambda x: number) == 2


class Agreeable(int):
    """A number that says it equals any other."""

    __eq__ = __ne__ = lambda self, other: True
    __hash__ = int.__hash__


def test_a_type_of_the_learners_own_judges_nothing(doubling: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PEFT_LESSONS_TELL", raising=False)
    assert check(doubling().name, lambda x: Agreeable(1)) == 0 == grade("test.double", lambda x: Agreeable(1))


def test_grade_takes_numbers_that_check_does_not(doubling: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    doubling()
    monkeypatch.delenv("PEFT_LESSONS_TELL", raising=False)
    assert grade("test.double", lambda x: 2 * x) == 2
    assert grade("test.double", lambda x: 6) == 0  # right for the seed of `check` alone


def test_grade_only_tells_where_the_verdict_is_elsewhere(
    doubling: Callable, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    made = doubling()
    monkeypatch.setenv("PEFT_LESSONS_TELL", str(tmp_path))
    monkeypatch.setenv("PEFT_LESSONS_SEED", "5")
    assert grade("test.double", lambda x: 2 * x) is None
    told = Told.load(tmp_path / "test.double")
    assert told["y"] == 16 and [f.right for f in made.judge(told, 5)] == [True]
    assert [f.right for f in made.judge(told, 6)] == [False]


def test_an_unknown_exercise_is_named() -> None:
    with pytest.raises(LookupError, match=r'no exercise "a3\.loro"; there is .*a3\.lora_layer'):
        exercise("a3.loro")


# ---- what was told ----


def test_told_survives_the_journey(tmp_path: Path) -> None:
    told = Told()
    shared = torch.randn(3, 2, dtype=torch.bfloat16)
    told["a"], told["b"], told["c"] = shared, shared.T, nn.Parameter(torch.ones(2))
    told["n"], told["names"], told["none"], told["nested"] = 3, ("x", "y"), None, {"k": [1.5, True]}
    told.attempted, told.error = True, "ValueError: no"
    told.save(tmp_path / "x")
    found = Told.load(tmp_path / "x")
    assert torch.equal(found["a"], shared) and torch.equal(found["b"], shared.T) and found["c"].sum() == 2
    assert (found["n"], found["names"], found["none"], found["nested"]) == (3, ["x", "y"], None, {"k": [1.5, True]})
    assert found.attempted and found.error == "ValueError: no"
    with pytest.raises(Untold):
        found["z"]


def test_what_was_told_is_a_copy() -> None:
    told, tensor = Told(), torch.ones(2)
    told["t"] = tensor
    tensor.zero_()
    assert told["t"].sum() == 2


@pytest.mark.parametrize(
    "spoil",
    [
        lambda folder: (folder / OTHERS).unlink(),
        lambda folder: (folder / OTHERS).write_text("{"),
        lambda folder: (folder / OTHERS).write_text("[]"),
        lambda folder: (folder / OTHERS).write_text("[" * 100_000),
        lambda folder: (folder / OTHERS).write_bytes(b"\xff\xfe\xff"),
        lambda folder: (folder / OTHERS).write_text(json.dumps({"attempted": True, "error": "", "others": 3})),
        lambda folder: (folder / TENSORS).write_bytes(b"no"),
        lambda folder: (folder / TENSORS).write_bytes(save({"x": torch.ones(3)})[:-4]),
        lambda folder: (folder / TENSORS).unlink() or (folder / TENSORS).symlink_to(__file__),
        lambda folder: (folder / TENSORS).write_bytes(bytes(33 * 2**20)),
    ],
)
def test_what_a_stranger_wrote_is_refused_whole(spoil: Callable[[Path], object], tmp_path: Path) -> None:
    told = Told()
    told["x"] = torch.ones(2)
    told.save(tmp_path)
    spoil(tmp_path)
    with pytest.raises(ValueError):
        Told.load(tmp_path)


# ---- the local file ----


def test_progress_keeps_the_best(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    from peft_lessons.progress import progress, record, record_guess

    monkeypatch.setenv("PEFT_LESSONS_HOME", str(tmp_path))
    progress()
    assert "Nothing tried yet" in capsys.readouterr().out
    check("a3.count", None)  # untouched is not tried
    assert not list(tmp_path.rglob("*.json"))
    record("a3.count", 2, 3)
    record("a3.count", 1, 3)
    record_guess("a3.largest_rank", None)
    record_guess("a3.largest_rank", 512)
    capsys.readouterr()
    progress()
    shown = capsys.readouterr().out
    assert "a3.count" in shown and "2 of 3" in shown and "guessed 512" in shown
    record("a3.count", 1, 4)  # the exercise has changed since: its old points say nothing
    progress()
    assert "1 of 4" in capsys.readouterr().out
