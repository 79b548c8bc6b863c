"""Release, collecting and repairing, without running anything; and the commands' refusals, each one sentence."""

import copy
import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import nbformat
import pytest
import toy_assignment as toy

pytest.importorskip("resource", reason="grading is for Linux")
from grading import release, repair  # noqa: E402
from grading.__main__ import main  # noqa: E402
from grading.collect import Submission, collect  # noqa: E402
from grading.course import SOURCE, Course, Refused  # noqa: E402
from grading.grade import _cell  # noqa: E402

ASSIGNMENTS = sorted(SOURCE.glob("*.ipynb"))


# ---- release ----


@pytest.mark.parametrize("path", ASSIGNMENTS, ids=lambda path: path.stem)
def test_what_students_get_follows_from_the_source(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    released = nbformat.writes(release.students(notebook)) + "\n"
    committed = SOURCE.parent / "release" / path.name
    assert committed.read_text(encoding="utf-8") == released, "make release"
    # Outputs are nbval's to compare, which runs the solution in `make test` anyway; here all else is compared.
    solution = nbformat.read(SOURCE.parent / "solution" / path.name, as_version=4)
    for cell in solution.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    assert solution == release.solution(notebook), "make release"


@pytest.mark.parametrize("notebook", [toy.source(), *(nbformat.read(path, as_version=4) for path in ASSIGNMENTS)])
def test_the_versions_hold_what_they_should(notebook: nbformat.NotebookNode) -> None:
    released, solved, frame = release.students(notebook), release.solution(notebook), release.graders(notebook)
    text = {name: nbformat.writes(made) for name, made in [("r", released), ("s", solved), ("f", frame)]}
    assert "SOLUTION" not in text["r"] + text["s"] and "HIDDEN" not in text["r"] + text["s"]
    assert "HIDDEN" in text["f"] and "BEGIN SOLUTION" not in text["f"]
    assert nbformat.writes(release.students(notebook)) == text["r"], "the same bytes each time"
    assert [cell.id for cell in released.cells] == [cell.id for cell in notebook.cells]


def test_the_toy_as_a_student_gets_it() -> None:
    released = release.students(toy.source())
    assert (
        toy.named(released, "double").source == "def double(x):\n    # YOUR CODE HERE\n    raise NotImplementedError()"
    )
    assert toy.named(released, "double_test").source == 'check("toy.double", double)'
    assert toy.named(released, "double_test").metadata.editable is False
    assert toy.named(released, "double").metadata.deletable is False
    assert toy.named(release.solution(toy.source()), "double").source == "def double(x):\n    return 2 * x"


def test_nbgrader_makes_the_same_release(tmp_path: Path) -> None:
    from nbgrader.apps import NbGraderAPI

    (tmp_path / "source").mkdir()
    nbformat.write(toy.source(), tmp_path / "source" / "toy.ipynb")
    course = Course(tmp_path / "course", tmp_path / "source")
    (course.folder / "source" / "toy").mkdir(parents=True)
    nbformat.write(toy.source(), course.folder / "source" / "toy" / "toy.ipynb")
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    assert NbGraderAPI(config=course.config()).generate_assignment("toy")["success"]
    theirs = nbformat.read(course.folder / "release" / "toy" / "toy.ipynb", as_version=4)
    assert theirs.cells == release.students(toy.source()).cells


@pytest.mark.parametrize("hidden", ["assert double(2) == 4", 'grade("toy.double", double); x = 1', "", "grade(name)"])
def test_a_hidden_region_holds_one_call_of_grade(hidden: str) -> None:
    notebook = toy.source()
    cell = toy.named(notebook, "double_test")
    cell.source = f"check()\n### BEGIN HIDDEN TESTS\n{hidden}\n### END HIDDEN TESTS"
    with pytest.raises(Refused, match="double_test are not one line"):
        release.exercise_of(cell)


# ---- collecting ----

NAMES = ["a1_context", "a3_lora", "a3_lora_extra"]


def touch(path: Path, text: str = "{}", at: int = 1_000_000) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (at, at))


def short(found: list[Submission]) -> list[tuple[str, str, str]]:
    return [(s.student, s.assignment, s.path.name if s.path else "") for s in found]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["ann/a3_lora.ipynb", "ben/deep/er/a3_lora.ipynb"], ["ann", "ben"]),
        (["ann_a3_lora.ipynb", "a3_lora-ben.ipynb", "A3_LORA_cy (1).ipynb"], ["ann", "ben", "cy"]),
        (["ann/a3_lora-Copy1.ipynb", "a3_lora_ben.ipynb"], ["ann", "ben"]),
        (["Ann Lee_123_file/my a3_lora final.ipynb"], ["Ann Lee_123_file"]),
        (["../up?/a3_lora.ipynb".replace("../", ""), "up*/a3_lora.ipynb"], ["up_", "up__"]),
    ],
)
def test_both_layouts(tmp_path: Path, names: list[str], expected: list[str]) -> None:
    for number, name in enumerate(names):
        touch(tmp_path / name, str(number))
    found = collect(tmp_path, NAMES)
    assert [s.student[: len(e)] for s, e in zip(found, expected, strict=True)] == expected
    assert {s.assignment for s in found} == {"a3_lora"} and not [note for s in found for note in s.notes]


def test_an_umlaut_in_one_character_or_two_is_one_student(tmp_path: Path) -> None:
    touch(tmp_path / "J\u00fcrgen" / "a3_lora.ipynb", "1")
    touch(tmp_path / "Ju\u0308rgen_a1_context.ipynb", "2")
    found = collect(tmp_path, NAMES, students=["Ju\u0308rgen"])
    assert [(s.student, s.notes) for s in found] == [("J\u00fcrgen", [])] * 2


def test_a_name_does_not_depend_on_who_else_hands_in(tmp_path: Path) -> None:
    for student in ("O'Neil, Zoe", "up?", "up*"):
        touch(tmp_path / student / "a3_lora.ipynb", student)
    before = {s.student for s in collect(tmp_path, NAMES)}
    (tmp_path / "up*" / "a3_lora.ipynb").unlink()
    (tmp_path / "up*").rmdir()
    after = {s.student for s in collect(tmp_path, NAMES)}
    assert len(before) == 3 and len(after) == 2 and after < before and "O'Neil, Zoe" in after


def test_the_longest_name_is_meant(tmp_path: Path) -> None:
    touch(tmp_path / "ann" / "a3_lora_extra.ipynb")
    assert short(collect(tmp_path, NAMES)) == [("ann", "a3_lora_extra", "a3_lora_extra.ipynb")]


def test_what_is_missing_has_a_line(tmp_path: Path) -> None:
    touch(tmp_path / "ann" / "a3_lora.ipynb", "1")
    touch(tmp_path / "ben" / "a1_context.ipynb", "2")
    (tmp_path / "cy").mkdir()
    found = collect(tmp_path, NAMES, students=["dee"])
    missing = {(s.student, s.assignment) for s in found if s.notes == ["nothing was handed in"]}
    everyone = {(student, name) for student in ("ann", "ben", "cy", "dee") for name in NAMES[:2]}
    assert missing == everyone - {("ann", "a3_lora"), ("ben", "a1_context")}


def test_files_that_are_no_submission(tmp_path: Path) -> None:
    touch(tmp_path / "ann" / "a3_lora.pdf")
    touch(tmp_path / "ann" / "notes.txt")
    touch(tmp_path / "ben" / "all.zip")
    touch(tmp_path / "ann" / ".ipynb_checkpoints" / "a3_lora-checkpoint.ipynb")
    touch(tmp_path / "ann" / "homework.ipynb")
    everything = collect(tmp_path, NAMES)
    assert ["all.zip is an archive: unpack it, and grade again"] in [s.notes for s in everything if s.student == "ben"]
    found = {s.assignment: s.notes for s in everything if s.student == "ann"}
    assert found["a3_lora"] == ["a3_lora.pdf is not a notebook (.ipynb)"]
    assert found[""] == [f"homework.ipynb is no assignment's name ({', '.join(NAMES)})"]


def test_the_newest_counts_and_a_notebook_before_anything_else(tmp_path: Path) -> None:
    touch(tmp_path / "ann" / "a3_lora.ipynb", "old", at=1_000)
    touch(tmp_path / "ann" / "again" / "a3_lora.ipynb", "new", at=2_000)
    touch(tmp_path / "ann" / "a3_lora.pdf", at=3_000)
    (s,) = collect(tmp_path, NAMES)
    assert s.path == tmp_path / "ann" / "again" / "a3_lora.ipynb" and s.notes[0].startswith("handed in 3 times")


@pytest.mark.parametrize(("seconds", "late"), [(-1, False), (0, False), (90 * 60, True), (3 * 3600, True)])
def test_late_is_after_the_deadline(tmp_path: Path, seconds: int, late: bool) -> None:
    end = datetime(2026, 11, 30, 22, 59, tzinfo=UTC)
    touch(tmp_path / "ann" / "a3_lora.ipynb", at=int(end.timestamp()) + seconds)
    (s,) = collect(tmp_path, NAMES, {"a3_lora": end})
    assert s.late is late and s.notes == ([f"late by {'90 minutes' if seconds < 7200 else '3 hours'}"] if late else [])


def test_a_timestamp_counts_before_the_files_own_time(tmp_path: Path) -> None:
    touch(tmp_path / "ann" / "a3_lora.ipynb")
    touch(tmp_path / "ann" / "timestamp.txt", "2026-11-30 23:59:00 UTC")
    (s,) = collect(tmp_path, NAMES)
    assert s.when == datetime(2026, 11, 30, 23, 59, tzinfo=UTC)


def test_a_file_too_large_is_not_read(tmp_path: Path) -> None:
    touch(tmp_path / "ann" / "a3_lora.ipynb")
    os.truncate(tmp_path / "ann" / "a3_lora.ipynb", 30 * 2**20)
    (s,) = collect(tmp_path, NAMES)
    assert s.path is None and s.notes == ["a3_lora.ipynb has 30 MB, more than the 20 MB that are read"]


# ---- repairing ----


def repaired(handed_in: nbformat.NotebookNode) -> tuple[nbformat.NotebookNode, list[str]]:
    source = toy.source()
    return repair.repaired(handed_in, release.graders(source), release.students(source))


@pytest.fixture
def right() -> nbformat.NotebookNode:
    return toy.answered(release.students(toy.source()))


def test_an_honest_notebook_is_left_as_it_is(right: nbformat.NotebookNode) -> None:
    made, notes = repaired(right)
    assert notes == [] and [c.id for c in made.cells] == [c.id for c in right.cells]
    assert 'grade("toy.double", double)' in toy.named(made, "double_test").source
    assert toy.named(made, "title").source == "# A toy <b>assignment</b>", "what was given keeps its HTML"


@pytest.mark.parametrize("name", ["double", "double_test", "total", "total_test", "why"])
def test_a_deleted_cell_comes_back_in_its_place(right: nbformat.NotebookNode, name: str) -> None:
    made, notes = repaired(toy.without(right, name))
    assert len(notes) == 1 and f"cell {name} was deleted" in notes[0]
    order = [c.metadata.get("nbgrader", {}).get("grade_id") for c in made.cells]
    assert [n for n in order if n] == ["double", "double_test", "total", "total_test", "why"]


def test_all_cells_deleted_but_one(right: nbformat.NotebookNode) -> None:
    right.cells = right.cells[1:2]
    made, notes = repaired(right)
    assert len(notes) == 5 and len(made.cells) == 6


def test_a_copied_answer_the_last_counts(right: nbformat.NotebookNode) -> None:
    again = copy.deepcopy(toy.named(right, "double"))
    again.source, again.id = "def double(x): return x + x", "copied"
    right.cells.insert(5, again)
    made, notes = repaired(right)
    assert notes == ["cell double is there twice: the last one counts"]
    assert toy.named(made, "double").source == again.source


def test_an_editor_that_loses_nbgraders_metadata(right: nbformat.NotebookNode) -> None:
    for cell in right.cells:
        cell.metadata = {}
    made, notes = repaired(right)
    assert notes == [] and toy.named(made, "double").source == toy.DOUBLE


def test_nothing_but_sources_is_taken(right: nbformat.NotebookNode) -> None:
    for cell in right.cells:
        cell.metadata["evil"] = "<script>"
        if cell.cell_type == "code":
            cell.outputs = [nbformat.v4.new_output("execute_result", data={"text/plain": "3.0"})]
    toy.named(right, "double_test").metadata.nbgrader.points = 1000
    toy.named(right, "double").metadata.nbgrader.grade = True
    right.metadata["evil"] = "<script>"
    made, _ = repaired(right)
    assert "script" not in json.dumps(made) and not [c for c in made.cells if c.get("outputs")]
    assert toy.named(made, "double_test").metadata.nbgrader.points == 3
    assert toy.named(made, "double").metadata.nbgrader.grade is False


@pytest.mark.parametrize(
    "link",
    [
        "[a](javascript:x)",
        "[a](java&#115;cript:x)",
        "[a](JavaScript&colon;x)",
        "[a]\n\n[a]: javascript:x",
        "[a](data:x)",
    ],
)
def test_a_link_that_runs_something_is_no_link(right: nbformat.NotebookNode, link: str) -> None:
    from nbconvert.filters.markdown import markdown2html

    toy.named(right, "why").source = f"Words, x[0]: 3. {link}\n\n[b](https://example.org)"
    source = toy.named(repaired(right)[0], "why").source
    assert "href" in markdown2html(link), "it would be one"
    assert markdown2html(source).count("href") == 1 and "x[0]: 3" in source


def test_a_deleted_cell_of_imports_is_named(right: nbformat.NotebookNode) -> None:
    assert repaired(toy.without(right, "imports"))[1] == ["the cell that begins 'import toy_exercises' was deleted"]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "empty"),
        (b"\xff\xfe\x00", "other than text"),
        (b"hello", "not JSON"),
        (b'{"cells": [', "cut off"),
        (b'{"cells": [{"source": "abc', "cut off"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[]", "not a notebook"),
        (b"{}", "not a notebook"),
        (b'{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": []}', "without cells"),
        (b'{"nbformat": 4, "nbformat_minor": 5, "metadata": {}, "cells": [3]}', "not a notebook"),
    ],
)
def test_a_file_that_is_no_notebook(data: bytes, why: str) -> None:
    with pytest.raises(repair.Broken, match=why):
        repair.read(data)


# ---- the commands' refusals ----


@pytest.mark.parametrize(
    ("toml", "sentence"),
    [
        ("limits", "is not TOML"),
        ("[limits]\nhours = 3", "known are cell_seconds, seconds"),
        ("[deadlines]\na9 = 2026-01-01T00:00:00Z", "names a9, which is no assignment"),
    ],
)
def test_a_course_file_with_a_mistake(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], toml: str, sentence: str
) -> None:
    (tmp_path / "course").mkdir()
    (tmp_path / "course" / "course.toml").write_text(toml)
    assert main(["--course", str(tmp_path / "course"), "feedback"]) == 1
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1 and said.endswith(".\n")


@pytest.mark.parametrize(
    ("command", "sentence"), [(["grade", "nowhere"], "no folder"), (["feedback"], "Nothing has been")]
)
def test_nothing_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str], command: list[str], sentence: str) -> None:
    assert main(["--course", str(tmp_path / "course"), *command]) == 1
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\tx"])
def test_a_formula_is_quoted(text: str) -> None:
    assert _cell(text) == "'" + text and _cell(2.5) == "2.5" and _cell("a=1") == "a=1"


def test_make_says_what_grade_needs(root: Path) -> None:
    made = subprocess.run(["make", "-n", "grade"], cwd=root, capture_output=True, text=True)
    assert made.returncode != 0 and "SUBMISSIONS=" in made.stderr


def test_a_learners_lab_shows_of_nbgrader_validate_alone() -> None:
    from jupyterlab_server.config import get_page_config

    where = [str(Path(sys.prefix, "share", "jupyter", "labextensions"))]
    off = get_page_config(where)["disabledExtensions"]
    plugins = {"assignment-list", "course-list", "create-assignment", "formgrader", "menu"}
    assert {f"@jupyter/nbgrader:{name}" for name in plugins} <= set(off)
    assert not {"@jupyter/nbgrader", "@jupyter/nbgrader:validate-assignment"} & set(off)
