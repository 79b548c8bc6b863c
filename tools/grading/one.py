"""Grade one submission: repair, run in a sandbox, judge, and let nbgrader save the marks. One process each."""

import fcntl
import importlib
import json
import logging
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import nbformat
import torch
from nbformat import NotebookNode
from nbformat.v4 import new_output
from nbgrader.converters import Autograde
from nbgrader.coursedir import CourseDirectory
from nbgrader.preprocessors import CheckCellMetadata, SaveAutoGrades

import peft_lessons.assignments  # noqa: F401, for the process that forks: a judge needs it

from . import release, repair, results, sandbox
from .collect import Submission
from .course import Course

MOST_NOTES = 6
REPAIRED = "repaired"
ENDS = {
    "time": "took more than {cell_seconds:g} seconds and was stopped",
    "output": "printed more than {output_mb:g} MB and was stopped",
    "died": "ended Python itself",
}


def grade_one(folder: Path, source: Path, s: Submission, sandboxed: bool) -> None:
    """Grade a submission and write its record; whatever goes wrong is in the record, too."""
    torch.set_num_threads(1)
    logging.disable(logging.ERROR)
    warnings.filterwarnings("ignore", module="nbgrader")
    course = Course(folder, source)
    record: dict[str, Any] = {
        "student": s.student,
        "assignment": s.assignment,
        "fingerprint": course.fingerprint(s.student, s.assignment, s.path),
    }
    try:
        record |= _graded(course, s, sandboxed)
    except Exception as error:
        traceback.print_exc()
        record |= {"notes": [f"grading itself failed ({type(error).__name__}: {error})"], "fingerprint": ""}
    path = course.record(s.student, s.assignment)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(record, indent=1), encoding="utf-8")
    partial.rename(path)


def _graded(course: Course, s: Submission, sandboxed: bool) -> dict[str, Any]:
    """The record of a submission: notes and verdicts; saves its marks in the gradebook."""
    notebook = course.source(s.assignment)
    frame, notes, runnable = release.graders(notebook), [], False
    if s.path:
        try:
            handed_in = repair.read(s.path.read_bytes())
            frame, notes = repair.repaired(handed_in, frame, release.students(notebook))
            runnable = True
        except repair.Broken as broken:
            notes = [str(broken)]
    if course.exercises.exists():
        sys.path.insert(0, str(course.exercises))
        for path in sorted(course.exercises.glob("*.py")):
            importlib.import_module(path.stem)
    verdicts = _run(course, s, frame, notes, sandboxed) if runnable else _nothing(frame)
    with _alone(course.folder / "gradebook.lock"):
        _save(course, s, frame)
    again = {"fingerprint": ""} if any(sandbox.NO_MEMORY in note for note in notes) else {}
    if len(notes) > MOST_NOTES:
        notes = [*notes[:MOST_NOTES], f"and {len(notes) - MOST_NOTES} more"]
    return {"notes": notes, "exercises": [asdict(v) for v in verdicts]} | again


def _nothing(frame: NotebookNode) -> list[results.Verdict]:
    """No points, for each exercise of an untouched frame that stands in for what could not be read."""
    verdicts = []
    for cell in frame.cells:
        if name := release.exercise_of(cell):
            most = float(cell.metadata.nbgrader.points)
            verdicts.append(results.Verdict(name, 0, most, problem="There is no notebook to grade."))
            _show(cell, verdicts[-1])
    return verdicts


def _run(
    course: Course, s: Submission, frame: NotebookNode, notes: list[str], sandboxed: bool
) -> list[results.Verdict]:
    """Run the frame's code cells, put into it what they gave, and judge its test cells; adds to the notes."""
    code = [cell for cell in frame.cells if cell.cell_type == "code" and cell.source.strip()]
    seed, verdicts = course.seed(s.student, s.assignment), []
    own = course.exercises if course.exercises.exists() else None
    with sandbox.box() as box:
        why = sandbox.run(box, [_asked(cell) for cell in code], seed, course.limits, own, sandboxed)
        runs = [results.cell_run(box, number, course.limits) for number in range(len(code))]
        if why:
            notes.insert(0, f"the run was ended: {why}")
        notes.extend(_ends(code, runs, course, why))
        for cell, run in zip(code, runs, strict=True):
            cell.outputs = run.outputs
            if name := release.exercise_of(cell):
                most = float(cell.metadata.nbgrader.points)
                verdicts.append(results.verdict(name, most, box, seed, run, why))
                _show(cell, verdicts[-1])
    return verdicts


def _asked(cell: NotebookNode) -> str:
    """A cell's source; a test cell finds `check` and `grade` as they are, whatever those names stand for by then."""
    fresh = "from peft_lessons.assignments import check, grade\n" if release.exercise_of(cell) else ""
    return fresh + cell.source


def _ends(code: list[NotebookNode], runs: list[results.CellRun], course: Course, why: str) -> list[str]:
    """What cells other than the test cells came to, where it was no good end, a clause each."""
    notes = []
    for number, (cell, run) in enumerate(zip(code, runs, strict=True)):
        which = f"{'the first cell' if not number else f'code cell {number + 1}'}"
        if run.ended in ENDS:
            notes.append(f"{which} {ENDS[run.ended].format(**asdict(course.limits))}")
        elif run.ended == "error" and "raises-exception" not in cell.metadata.get("tags", []):
            if not release.exercise_of(cell) and not run.error.startswith("NotImplementedError"):
                notes.append(f"{which} stopped with {run.error}")
    left = sum(run.ended == "not run" for run in runs)
    if left:
        notes.append(
            f"{left} of {len(runs)} code cells were not run" + ("" if why or notes else ": the run ended itself")
        )
    return notes


def _show(cell: NotebookNode, verdict: results.Verdict) -> None:
    """Put a verdict into its test cell, in the form that nbgrader takes for partial credit."""
    points = {"text/plain": repr(float(verdict.points))}
    cell.outputs = [
        new_output("stream", name="stdout", text="\n".join(verdict.lines()) + "\n"),
        new_output("execute_result", data=points, execution_count=None),
    ]


def _save(course: Course, s: Submission, marked: NotebookNode) -> None:
    """Hand a notebook with its outputs to nbgrader, whose Autograde saves the marks; ours stands for its Execute."""
    folder = course.folder / REPAIRED / s.student / s.assignment
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(marked, folder / f"{s.assignment}.ipynb")
    if s.when:
        (folder / "timestamp.txt").write_text(s.when.strftime("%Y-%m-%d %H:%M:%S UTC"), encoding="utf-8")

    def insert(notebook: NotebookNode, resources: dict[str, Any]) -> tuple[NotebookNode, dict[str, Any]]:
        for cell, source in zip(notebook.cells, marked.cells, strict=True):
            if cell.cell_type == "code":
                cell.outputs = source.outputs
        return notebook, resources

    config = course.config()
    config.CourseDirectory.submitted_directory = REPAIRED  # not `submitted`, where nbgrader collects
    config.CourseDirectory.student_id, config.CourseDirectory.assignment_id = s.student, s.assignment
    converter = Autograde(coursedir=CourseDirectory(config=config), config=config)
    converter.force = True
    converter.autograde_preprocessors = [insert, SaveAutoGrades, CheckCellMetadata]
    converter.start()


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process at a time: the gradebook is an SQLite file."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
