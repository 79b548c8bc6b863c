"""Hold the assignments' graders to wrong answers: python tools/mutants.py [ASSIGNMENT ...]

For each exercise: the reference must get full marks, the untouched stub none, each wrong answer less than full marks,
and each right one that is written differently full marks. Prints a table of exercise, answer and verdict; the exit
status is 1 where one is not as it should be. An answer runs in a process of its own and is judged in another one.

Source: judging a test by what it lets through is mutation testing, DeMillo, Lipton and Sayward 1978.
"""

import ast
import contextlib
import importlib
import io
import multiprocessing
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import torch

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "notebooks" / "assignments" / "source"
sys.path[:0] = [str(ROOT / "tests")]
SEEDS = (11, 12)  # not the one that `check` uses
CANNOT = "cannot be run:"
TRIES, PATIENCE = 3, 100  # seconds
FORKED = "Invalid thread pool"  # what torch says now and then in a forked process: nothing about the answer
HIDDEN = re.compile(r"^### BEGIN HIDDEN TESTS\n.*?^### END HIDDEN TESTS\n?", re.MULTILINE | re.DOTALL)
SOLVED = re.compile(r"^(\s*)### BEGIN SOLUTION\n.*?^\s*### END SOLUTION\n?", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Verdict:
    """How one answer to one exercise fared; `asked` is what it should get: full marks, none, or less than full."""

    exercise: str
    kind: str  # reference, stub, wrong, right
    answer: str
    points: int
    most: int
    wrong: tuple[str, ...]  # the properties that it lacks
    broken: str = ""  # why the code of a wrong answer cannot even be run: then it tests nothing

    @property
    def fine(self) -> bool:
        """Whether the grader did as it should."""
        if self.broken:
            return False
        if self.kind == "stub":
            return self.points == 0
        return (self.points < self.most) is (self.kind == "wrong")

    def __str__(self) -> str:
        verdict = {"wrong": "caught", "stub": "no points"}.get(self.kind, "full marks")
        says = verdict if self.fine else "NOT AS IT SHOULD BE"
        return f"{self.exercise:<22} {self.kind:<9} {self.answer:<38} {says:<10} {self.points}/{self.most}  " + (
            self.broken or ", ".join(self.wrong)
        )


@dataclass(frozen=True)
class Question:
    """An exercise in its notebook: the code before it, its solution cells, and the answers' names in the test cell."""

    exercise: str
    before: str
    solution: str
    answers: tuple[str, ...]
    points: float


def questions(path: Path) -> Iterator[Question]:
    """The exercises of a source notebook, in order."""
    before, solution = "", ""
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type != "code":
            continue
        told = cell.metadata.get("nbgrader", {})
        if told.get("solution") and not told.get("grade"):
            solution += cell.source + "\n"
        elif told.get("grade") and not told.get("solution"):
            name, answers = _asked(cell.source)
            yield Question(name, before, solution, answers, told["points"])
            before, solution = before + solution, ""
        else:
            before += cell.source + "\n"


def _asked(source: str) -> tuple[str, tuple[str, ...]]:
    """The exercise and the answers' names, out of `grade("a3.merge", merge, unmerge)`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "grade":
            return ast.literal_eval(node.args[0]), tuple(ast.unparse(arg) for arg in node.args[1:])
    raise ValueError(f"a test cell does not call grade: {source!r}")


def changed(solution: str, answer: Any) -> str:
    """The solution with an answer's replacements, or the answer's own code.

    Raises:
        ValueError: something to replace is not there.
    """
    if isinstance(answer, str):
        return answer
    for old, new in answer:
        if old not in solution:
            raise ValueError(f"{old!r} is not in the solution: {solution}")
        solution = solution.replace(old, new)
    return solution


def stub(solution: str) -> str:
    """The solution as students get it."""
    return SOLVED.sub(r"\1raise NotImplementedError()\n", solution)


def run(question: Question, answers: dict[tuple[str, str], str]) -> Iterator[Verdict]:
    """Ask and judge each answer, code by (kind, name), to one question."""
    from peft_lessons.assignments.core import exercise

    namespace: dict[str, Any] = {}
    with contextlib.redirect_stdout(io.StringIO()):
        exec(compile(question.before, "<before>", "exec"), namespace)
    asked = exercise(question.exercise)
    for (kind, name), code in answers.items():
        points, lacks = asked.points, dict[str, None]()
        for seed in SEEDS:
            told = _told_by(question, code, namespace, seed)
            findings = asked.judge(told, seed)
            points = min(points, sum(f.points for f in findings if f.right))
            lacks |= dict.fromkeys(f.name for f in findings if not f.right)
            runs = not told.error.startswith((CANNOT, "NameError"))
            broken = told.error if kind == "wrong" and not runs or kind in ("reference", "right") and lacks else ""
            if lacks:
                break  # what is caught once is caught
        yield Verdict(question.exercise, kind, name, points, asked.points, tuple(lacks), broken)


def _told_by(question: Question, code: str, namespace: dict[str, Any], seed: int) -> Any:
    """What an answer told; a fork of a process with threads can hang, or lose torch's pool: then it is tried again."""
    from peft_lessons.assignments.told import Told

    told = Told()
    told.error = f"{CANNOT} its process ended without a word, or took over {PATIENCE} seconds"
    for _ in range(TRIES):
        with tempfile.TemporaryDirectory() as folder:
            _in_a_process(_tell, question, code, namespace, seed, folder)
            if list(Path(folder).iterdir()):
                told = Told.load(Path(folder))
                if FORKED not in told.error:
                    break
    return told


def _in_a_process(function: Any, *args: object) -> None:
    child = multiprocessing.get_context("fork").Process(target=function, args=args)
    child.start()
    child.join(PATIENCE)
    if child.is_alive():
        child.kill()
        child.join()


def _tell(question: Question, code: str, namespace: dict[str, Any], seed: int, folder: str) -> None:
    from peft_lessons.assignments.core import exercise
    from peft_lessons.assignments.told import Told

    asked, told = exercise(question.exercise), Told()
    try:
        exec(compile(code, "<answer>", "exec"), namespace)
        answers = tuple(eval(name, namespace) for name in question.answers)
    except Exception as error:
        told.error = f"{CANNOT} {type(error).__name__}: {error}"
    else:
        told = asked.told_by(answers, seed)
    told.save(Path(folder))


def assignment_of(path: Path) -> str:
    """The assignment that a notebook holds, as its exercises are named: a3_lora.ipynb holds a3."""
    number = re.match(r"a\d+(?=_)", path.stem)
    return number[0] if number else path.stem


def verdicts(assignment: str) -> Iterator[Verdict]:
    """All answers to all exercises of an assignment such as "a3"."""
    (path,) = (path for path in SOURCE.glob("*.ipynb") if assignment_of(path) == assignment)
    mutants = importlib.import_module(f"answers.{assignment}")
    for question in questions(path):
        answers = {("reference", "the solution"): question.solution, ("stub", "untouched"): stub(question.solution)}
        for kind, found in (("wrong", mutants.WRONG), ("right", mutants.RIGHT)):
            for name, answer in found[question.exercise].items():
                answers[kind, name] = changed(question.solution, answer)
        yield from run(question, answers)


def main(names: list[str]) -> int:
    """Print the table for the assignments named, or all; 1 where a grader did not do as it should."""
    torch.set_num_threads(1)
    failed = 0
    for name in names or sorted(map(assignment_of, SOURCE.glob("*.ipynb"))):
        for verdict in verdicts(name):
            print(verdict, flush=True)
            failed += not verdict.fine
    print(f"{failed} not as they should be" if failed else "every grader did as it should")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
