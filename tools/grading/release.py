"""From an assignment's source: the students' notebook, the solution, and the one that is run when grading.

The students' has neither solutions nor hidden tests; the solution has no hidden tests and is executed. Both are
committed, and a test makes them again. The work is done by nbgrader's own preprocessors, without its database.
"""

import ast
import os
import re
import sys
import tempfile
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbgrader.preprocessors import (
    CheckCellMetadata,
    ClearHiddenTests,
    ClearMarkScheme,
    ClearOutput,
    ClearSolutions,
    ComputeChecksums,
    LockCells,
    NbGraderPreprocessor,
)
from nbgrader.utils import is_grade, is_solution

from .course import SOURCE, Refused

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from execute_notebooks import KERNEL, LANGUAGE, execute  # noqa: E402

Steps = tuple[type[NbGraderPreprocessor], ...]
STUDENTS: Steps = (LockCells, ClearSolutions, ClearOutput, ClearHiddenTests, ClearMarkScheme, ComputeChecksums)
GRADERS: Steps = (LockCells, ClearSolutions, ClearOutput, ComputeChecksums)  # the hidden tests stay in
HIDDEN = re.compile(r"^[^\n]*BEGIN HIDDEN TESTS[^\n]*\n(.*?)^[^\n]*END HIDDEN TESTS", re.MULTILINE | re.DOTALL)
MARKER = re.compile(r"^[ \t]*### (BEGIN|END) SOLUTION[ \t]*\n?", re.MULTILINE)


def through(notebook: NotebookNode, steps: Steps) -> NotebookNode:
    """A copy of the notebook after nbgrader's preprocessors, with the metadata of no machine."""
    copy, resources = nbformat.from_dict(notebook), {}
    copy.metadata = NotebookNode(kernelspec=dict(KERNEL), language_info=dict(LANGUAGE))
    for step in (CheckCellMetadata, *steps, CheckCellMetadata):
        copy, resources = step().preprocess(copy, resources)
    return copy


def students(notebook: NotebookNode) -> NotebookNode:
    """The students' version of a source notebook."""
    return through(notebook, STUDENTS)


def graders(notebook: NotebookNode) -> NotebookNode:
    """The students' version with the hidden tests: what a submission is compared with and completed from."""
    return through(notebook, GRADERS)


def solution(notebook: NotebookNode) -> NotebookNode:
    """The version with solutions and without hidden tests, not executed, as a notebook that is no assignment."""
    copy = through(notebook, (ClearOutput, ClearHiddenTests, ClearMarkScheme))
    for cell in copy.cells:
        cell.source = MARKER.sub("", cell.source).rstrip("\n")
        for key in ("nbgrader", "deletable", "editable"):
            cell.metadata.pop(key, None)
    return copy


def exercise_of(cell: NotebookNode) -> str | None:
    """The exercise that a test cell's hidden region grades; None where the cell is graded by hand.

    Raises:
        Refused: the region holds anything but one `grade("name", ...)`, which alone is safe beside a student's code.
    """
    if not is_grade(cell) or is_solution(cell) or cell.cell_type != "code":
        return None
    hidden = HIDDEN.findall(cell.source)
    calls = [statement for text in hidden for statement in ast.parse(text).body]
    match calls:
        case [ast.Expr(ast.Call(ast.Name("grade"), [ast.Constant(str(name)), *_]))]:
            return name
    raise Refused(f'The hidden tests of cell {cell.metadata.nbgrader.grade_id} are not one line grade("...", ...).')


def release(source: Path = SOURCE, to: Path | None = None) -> list[Path]:
    """Write `release/` and `solution/` beside `source/`; returns the files written.

    Raises:
        Refused: a hidden region holds anything but a call of `grade`.
    """
    to, written = to or source.parent, []
    with tempfile.TemporaryDirectory() as home:
        os.environ["PEFT_LESSONS_HOME"] = home  # checks in a solution are no progress of yours
        for path in sorted(source.glob("*.ipynb")):
            notebook = nbformat.read(path, as_version=4)
            for cell in notebook.cells:
                exercise_of(cell)
            for folder, made in (("release", students(notebook)), ("solution", solution(notebook))):
                written.append(to / folder / path.name)
                written[-1].parent.mkdir(parents=True, exist_ok=True)
                nbformat.write(made, written[-1])
            execute(written[-1])
    return written
