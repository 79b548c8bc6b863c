"""Grade a folder of submissions: each in a process of its own, then the marks as a table."""

import csv
import json
import multiprocessing
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from nbgrader.api import Gradebook, MissingEntry
from nbgrader.apps import NbGraderAPI

from . import release, sandbox
from .collect import Submission, collect
from .course import Course, Refused

JUDGING = 300  # seconds for all that is done with one submission outside the sandbox
NO_SANDBOX = """\
WARNING: SANDBOX=none. Every submission runs with your own rights: it can read your files, the gradebook and other
submissions, use the network, and delete what you can delete. Only the limits of time, memory and disk are kept."""


def grade(
    course: Course,
    submissions: Path,
    source: Path,
    deadline: datetime | None = None,
    sandboxed: bool = True,
    jobs: int = 1,
    again: bool = False,
) -> Path:
    """Grade all that is in a folder; returns the table of marks.

    Args:
        course: where everything is written.
        submissions: see collect.py.
        source: the assignments' sources.
        deadline: of all assignments that have none in course.toml.
        sandboxed: False runs submissions with the rights of whoever grades.
        jobs: how many run at the same time.
        again: also those whose file and assignment have not changed since they were graded.

    Raises:
        Refused: there is nothing to grade, no sandbox, or an assignment that changed under its submissions.
    """
    if not submissions.is_dir():
        raise Refused(f"There is no folder {submissions}.")
    if not course.sources:
        raise Refused(f"There is no assignment in {source}.")
    if sandboxed and sandbox.why_not():
        raise Refused(f"{sandbox.why_not()} SANDBOX=none grades without one, if you trust every student.")
    if not sandboxed:
        print(NO_SANDBOX)
    ends = {name: end for name in course.sources if (end := course.deadline(name) or deadline)}
    found = collect(submissions, list(course.sources), ends, course.students)
    for name in sorted({s.assignment for s in found if s.assignment}):
        prepare(course, name, ends.get(name))
    todo = [s for s in found if s.when and (again or not _done(course, s))]
    _all(course, source, todo, sandboxed, jobs)
    _remember(course, found)
    return write_marks(course)


def prepare(course: Course, assignment: str, deadline: datetime | None) -> None:
    """Tell nbgrader's gradebook of an assignment, once, and again when its source changes.

    Raises:
        Refused: its cells changed since submissions were graded.
    """
    copy = course.folder / "source" / assignment / f"{assignment}.ipynb"
    with Gradebook(course.db_url, "course") as gradebook:
        end = deadline.astimezone(UTC).replace(tzinfo=None) if deadline else None
        gradebook.update_or_create_assignment(assignment, duedate=end)
    if copy.exists() and copy.read_bytes() == course.sources[assignment].read_bytes():
        return
    for cell in course.source(assignment).cells:
        release.exercise_of(cell)
    copy.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(course.sources[assignment], copy)
    result = NbGraderAPI(config=course.config()).generate_assignment(assignment, force=True)
    if not result["success"]:
        copy.unlink()
        reason = (result["error"] or result["log"] or "").strip().splitlines()[-1:]
        raise Refused(
            f"nbgrader does not take the assignment {assignment} ({' '.join(reason)}); if its cells changed since "
            "submissions were graded, grade into a new COURSE folder."
        )


def _done(course: Course, s: Submission) -> bool:
    try:
        record = json.loads(course.record(s.student, s.assignment).read_text(encoding="utf-8"))
        return bool(record["fingerprint"] == course.fingerprint(s.student, s.assignment, s.path))
    except (OSError, ValueError, KeyError):
        return False


def _one(folder: Path, source: Path, s: Submission, sandboxed: bool) -> None:
    """In a process that has imported `one` before it was asked to; this one need not."""
    from .one import grade_one

    grade_one(folder, source, s, sandboxed)


def _all(course: Course, source: Path, todo: list[Submission], sandboxed: bool, jobs: int) -> None:
    """Grade each in a process of its own, forked from one that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["grading.one"])
    waiting, running = list(reversed(todo)), list[tuple[Submission, BaseProcess, float]]()
    while waiting or running:
        while waiting and len(running) < jobs:
            s = waiting.pop()
            course.record(s.student, s.assignment).unlink(missing_ok=True)
            process = context.Process(target=_one, args=(course.folder, source, s, sandboxed))
            process.start()
            running.append((s, process, time.monotonic() + course.limits.seconds + JUDGING))
        running[0][1].join(0.2)
        for s, process, end in list(running):
            if time.monotonic() > end:
                process.kill()
            if not process.is_alive():
                running.remove((s, process, end))
                print(f"{s.student}, {s.assignment}: {_outcome(course, s, process.exitcode)}", flush=True)


def _outcome(course: Course, s: Submission, code: int | None) -> str:
    """One line on a graded submission; writes the record of one whose process never came to do it."""
    path = course.record(s.student, s.assignment)
    if not path.exists():
        note = f"grading it ended with status {code}; the others are not affected, and the next run tries again"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"student": s.student, "assignment": s.assignment, "notes": [note]}))
    record = json.loads(path.read_text(encoding="utf-8"))
    points = [(e["points"], e["most"]) for e in record.get("exercises", [])]
    marks = f"{sum(p for p, _ in points):g} of {sum(m for _, m in points):g} points"
    return "; ".join([marks, *s.notes, *record["notes"]])


def _remember(course: Course, found: list[Submission]) -> None:
    """Keep what was collected, beside what earlier runs collected of others."""
    path, here = course.folder / "collected.json", {s.student for s in found}
    kept = {_key(s): s for s in collected(course) if s.assignment or s.student not in here}
    for s in found:
        if s.when or not s.assignment or _key(s) not in kept:  # what is missing now may have come before
            kept[_key(s)] = s
    rows = [asdict(s) | {"path": s.path and s.path.name, "when": s.when and s.when.isoformat()} for s in kept.values()]
    path.write_text(json.dumps(rows, indent=1), encoding="utf-8")


def _key(s: Submission) -> tuple[str, ...]:
    return (s.student, s.assignment) if s.assignment else (s.student, "", *s.notes)


def collected(course: Course) -> list[Submission]:
    """What was collected up to now."""
    path = course.folder / "collected.json"
    rows = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    for row in rows:
        row["path"] = Path(row["path"]) if row["path"] else None
        row["when"] = datetime.fromisoformat(row["when"]) if row["when"] else None
    return sorted((Submission(**row) for row in rows), key=lambda s: (s.student, s.assignment))


def columns(course: Course, assignment: str) -> dict[str, str]:
    """What each graded cell is called in tables: its exercise, or its own name where it is graded by hand."""
    cells = course.source(assignment).cells
    graded = [cell for cell in cells if cell.metadata.get("nbgrader", {}).get("grade")]
    return {
        cell.metadata.nbgrader.grade_id: release.exercise_of(cell) or f"{assignment}.{cell.metadata.nbgrader.grade_id}"
        for cell in graded
    }


def marks(course: Course) -> Iterator[dict[str, Any]]:
    """One row for each submission, from the gradebook, so that marks given by hand are in."""
    with Gradebook(course.db_url, "course") as gradebook:
        for s in collected(course):
            path = course.record(s.student, s.assignment)
            record = json.loads(path.read_text(encoding="utf-8")) if s.assignment and path.exists() else {}
            row: dict[str, Any] = {"student": s.student, "assignment": s.assignment, "late": "late" if s.late else ""}
            row["notes"] = "; ".join([*s.notes, *record.get("notes", [])])
            if s.assignment in course.sources:
                names = columns(course, s.assignment)
                row["max"] = gradebook.find_assignment(s.assignment).max_score
                row["total"] = 0.0
                try:
                    notebook = gradebook.find_submission_notebook(s.assignment, s.assignment, s.student)
                    row |= {names[grade.name]: grade.score for grade in notebook.grades if grade.name in names}
                    row["total"] = notebook.score
                    row["needs manual grading"] = "yes" if notebook.needs_manual_grade else ""
                except MissingEntry:
                    row |= dict.fromkeys(names.values(), 0.0)
            yield row


def write_marks(course: Course) -> Path:
    """Write marks.csv; what a spreadsheet would take for a formula is quoted."""
    rows = list(marks(course))
    known = {name: None for a in course.sources for name in columns(course, a).values()}
    names = [name for name in known if any(name in row for row in rows)]
    header = ["student", "assignment", *names, "total", "max", "late", "needs manual grading", "notes"]
    path = course.folder / "marks.csv"
    with path.open("w", newline="", encoding="utf-8-sig") as file:  # the mark by which Excel knows UTF-8
        table = csv.writer(file)
        table.writerow(header)
        for row in rows:
            table.writerow([_cell(row.get(name, "")) for name in header])
    return path


def _cell(value: Any) -> str:
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return "'" + text if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text
