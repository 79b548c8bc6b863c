"""The whole round on a real assignment: three students of assignment 3, right, half right and hostile.

The commands are those of `make grade` and `make feedback`; what a sandbox keeps out is tests/test_grading_round.py's.
"""

import os
from pathlib import Path

import nbformat
import pytest

pytest.importorskip("resource", reason="grading is for Linux")
from grading import release, sandbox  # noqa: E402
from grading.course import SOURCE  # noqa: E402
from test_grading_round import marks, run  # noqa: E402

import peft_lessons.assignments  # noqa: E402, F401
from peft_lessons.assignments.core import exercise  # noqa: E402

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        bool(sandbox.why_not()) and not os.environ.get("CI"),
        reason=f"{sandbox.why_not()} `make sandbox` may install it",
    ),
]
ASSIGNMENT = "a3_lora"
HALF = ("lora_layer", "count", "targets")  # the cells that the second student solves, the first of them wrongly
HOSTILE = """
import peft_lessons.assignments.core as core
core.Exercise.judge = lambda self, told, seed: [core.Finding(p.name, p.points, "") for p in self.properties]
core.Exercise.told_by = lambda self, answers, seed: core.Told()
core.check = core.grade = check = grade = lambda name, *answers: 99.0
"""


@pytest.fixture(scope="module")
def course(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A course folder after the three have been graded and have their pages."""
    home = tmp_path_factory.mktemp("class")
    source = nbformat.read(SOURCE / f"{ASSIGNMENT}.ipynb", as_version=4)
    solved = {cell.metadata.nbgrader.grade_id: cell.source for cell in source.cells if "nbgrader" in cell.metadata}
    for student in ("right", "half", "hostile"):
        handed_in = release.students(source)
        for cell in handed_in.cells:
            name = cell.metadata.get("nbgrader", {}).get("grade_id", "")
            if cell.metadata.get("nbgrader", {}).get("solution"):
                if student == "right" or student == "half" and name in HALF:
                    cell.source = solved[name]
                if student == "half":
                    cell.source = cell.source.replace("self.scaling = alpha / r", "self.scaling = alpha")
                if student == "hostile" and name == "lora_layer":
                    cell.source = HOSTILE
        folder = home / "submissions" / student
        folder.mkdir(parents=True)
        nbformat.write(handed_in, folder / f"{ASSIGNMENT}.ipynb")
    # One assignment alone: the others' sources need no gradebook here.
    sources = home / "source"
    sources.mkdir()
    nbformat.write(source, sources / f"{ASSIGNMENT}.ipynb")
    course = home / "course"
    common = ["--source", sources, "--course", course]
    graded = run(*common, "grade", home / "submissions", "--jobs", "1")
    assert graded.returncode == 0, graded.stdout + graded.stderr
    written = run(*common, "feedback")
    assert written.returncode == 0, written.stdout + written.stderr
    return course


def points(row: dict[str, str]) -> dict[str, float]:
    return {name: float(value) for name, value in row.items() if name.startswith("a3.")}


def test_marks_are_what_each_has_earned(course: Path) -> None:
    rows = marks(course)
    right, half, hostile = (points(rows[student, ASSIGNMENT]) for student in ("right", "half", "hostile"))
    assert right == {name: exercise(name).points for name in right} and len(right) == 6
    assert half["a3.lora_layer"] == 5 and half["a3.count"] == 3 and half["a3.targets"] == 4
    assert half["a3.merge"] == half["a3.save"] == half["a3.train"] == 0
    assert set(hostile.values()) == {0.0}
    assert [rows[s, ASSIGNMENT]["total"] for s in ("right", "half", "hostile")] == ["33", "12", "0"]


def test_feedback_names_the_mistake(course: Path) -> None:
    page = (course / "feedback" / "half" / ASSIGNMENT / f"{ASSIGNMENT}.html").read_text(encoding="utf-8")
    assert "scaled by alpha, expected alpha / r" in page
    assert "not attempted yet" in page
    assert (course / "feedback" / "index.html").exists()
