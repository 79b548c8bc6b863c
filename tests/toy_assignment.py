"""A small assignment for the tests of grading: two exercises and an answer in words; and students of many kinds."""

import copy
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

# Written into COURSE/exercises/toy_exercises.py, where grading finds exercises of one's own.
EXERCISES = """\
import random

from peft_lessons.assignments.core import Exercise, Property


def numbers(seed):
    return random.Random(seed).sample(range(-1000, 1000), 5)


def ask_double(given, told, double):
    told["doubled"] = [double(x) for x in given]
    told["kind"] = type(double).__name__


def ask_total(given, told, total):
    told["total"] = total(given)


Exercise(
    "toy.double",
    numbers,
    ask_double,
    (
        Property("a function", 1, lambda given, told: "" if told["kind"] == "function" else "not a function."),
        Property("doubled", 2, lambda given, told: "" if told["doubled"] == [2 * x for x in given] else "not doubled."),
    ),
)
Exercise(
    "toy.total",
    numbers,
    ask_total,
    (Property("the sum", 2, lambda given, told: "" if told["total"] + 0 == sum(given) else "not the sum."),),
)
"""

# What of the package this assignment needs: `core.py` as it is, without all that other assignments import. It stands
# before the package on the path of a sandbox, so that twenty submissions start in the time of five.
LIGHT = {
    "peft_lessons/__init__.py": "__path__.append({package!r})\n",
    "peft_lessons/assignments/__init__.py": "__path__.append({package!r} + '/assignments')\n"
    "from peft_lessons.assignments.core import check, grade\n",
    "toy_exercises.py": EXERCISES,
}


def write_exercises(folder: Path, package: Path) -> None:
    """Write the assignment's own modules into a course's folder of exercises."""
    for name, text in LIGHT.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text if name.startswith("toy") else text.format(package=str(package)), encoding="utf-8")


def graded(name: str, points: float = 0, *, grade: bool = False, solution: bool = False) -> dict[str, object]:
    """nbgrader's metadata of a cell."""
    found = {"grade": grade, "grade_id": name, "locked": not solution, "schema_version": 3, "solution": solution}
    return {"nbgrader": found | {"task": False} | ({"points": points} if grade else {})}


def cell(kind: str, name: str, source: str, metadata: dict[str, object] | None = None) -> NotebookNode:
    made = (new_code_cell if kind == "code" else new_markdown_cell)(source, metadata=metadata or {})
    made.id = name
    return made


def test_cell(exercise: str, answer: str) -> str:
    hidden = f'### BEGIN HIDDEN TESTS\ngrade("{exercise}", {answer})\n### END HIDDEN TESTS'
    return f'check("{exercise}", {answer})\n{hidden}'


def source() -> NotebookNode:
    """The source notebook."""
    solved = "def {0}:\n    ### BEGIN SOLUTION\n    return {1}\n    ### END SOLUTION"
    cells = [
        cell("markdown", "title", "# A toy <b>assignment</b>"),
        cell("code", "imports", "import toy_exercises\nfrom peft_lessons.assignments import check, grade"),
        cell("code", "double", solved.format("double(x)", "2 * x"), graded("double", solution=True)),
        cell("code", "tests1", test_cell("toy.double", "double"), graded("double_test", 3, grade=True)),
        cell("code", "total", solved.format("total(xs)", "sum(xs)"), graded("total", solution=True)),
        cell("code", "tests2", test_cell("toy.total", "total"), graded("total_test", 2, grade=True)),
        cell(
            "markdown",
            "why",
            "Why?\n\n### BEGIN SOLUTION\nBecause.\n### END SOLUTION",
            graded("why", 4, grade=True, solution=True),
        ),
    ]
    return new_notebook(cells=cells, metadata={"kernelspec": {"name": "python3", "display_name": "Python 3"}})


DOUBLE, TOTAL = "def double(x):\n    return 2 * x", "def total(xs):\n    return sum(xs)"


def answered(
    released: NotebookNode, double: str | None = DOUBLE, total: str | None = TOTAL, why: str = "Words."
) -> NotebookNode:
    """A student's notebook: the released one with answers written in; None leaves a stub."""
    made = copy.deepcopy(released)
    for name, text in (("double", double), ("total", total), ("why", why)):
        if text is not None:
            named(made, name).source = text
    return made


def named(notebook: NotebookNode, name: str) -> NotebookNode:
    """The cell with a grade_id or id."""
    return next(c for c in notebook.cells if name in (c.metadata.get("nbgrader", {}).get("grade_id"), c.id))


def without(notebook: NotebookNode, name: str) -> NotebookNode:
    """The notebook less one cell."""
    made = copy.deepcopy(notebook)
    made.cells.remove(named(made, name))
    return made


def hand_in(folder: Path, student: str, notebook: NotebookNode | str, name: str = "toy.ipynb") -> Path:
    """Put a student's file into a folder of submissions."""
    path = folder / student / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(notebook if isinstance(notebook, str) else nbformat.writes(notebook), encoding="utf-8")
    return path
