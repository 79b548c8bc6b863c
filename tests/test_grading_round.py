"""The whole round on a small assignment: release, a class of students of every kind, grade, feedback, marks.

One run of the real commands for all of them; each test looks at one guarantee. What a sandbox lets through is looked
at from inside it, by students who try.
"""

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
import pytest
import toy_assignment as toy

pytest.importorskip("resource", reason="grading is for Linux")
from grading import release, sandbox  # noqa: E402
from grading.course import ROOT  # noqa: E402

pytestmark = [
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        bool(sandbox.why_not()) and not os.environ.get("CI"),
        reason=f"{sandbox.why_not()} `make sandbox` may install it",
    ),
]

CELL_SECONDS = int(os.environ.get("GRADING_TEST_CELL_SECONDS", 30))  # more on a busy machine
# What a spy tries, one line of output each: "open" where it got through.
SPY = """
import os, socket, subprocess, pathlib
def tried(name, action):
    try:
        found = action()
        print(name, "open" if found else "shut")
    except Exception as error:
        print(name, "shut", type(error).__name__)
for name, path in {paths}.items():
    tried(name, lambda: os.path.exists(path))
tried("other processes", lambda: len([p for p in os.listdir("/proc") if p.isdigit()]) > 8)
tried("loopback of the host", lambda: socket.create_connection(("127.0.0.1", {port}), 2))
tried("network", lambda: socket.create_connection(("1.1.1.1", 53), 2))
tried("interfaces", lambda: [name for _, name in socket.if_nameindex() if name != "lo"])
tried("environment", lambda: [key for key in os.environ if key in ("GRADING_TEST_SECRET", "PEFT_LESSONS_TEST_HOME")])
tried("write to the package", lambda: pathlib.Path({package!r}, "written.py").write_text("x"))
tried("write to the system", lambda: pathlib.Path("/usr/written").write_text("x"))
tried("write to the root", lambda: pathlib.Path("/written").write_text("x"))
tried("write to /dev", lambda: pathlib.Path("/dev/written").write_text("x"))
tried("source in sight", lambda: [p for p in pathlib.Path({root!r}).rglob("*") if p.name in {names}])
print("the package", os.path.isdir({package!r}))
"""
FORGED = """
import json, os, pathlib, struct
box = pathlib.Path(os.environ["PEFT_LESSONS_TELL"])
def forge(name, others):
    folder = box / name
    folder.mkdir(parents=True, exist_ok=True)
    header = b"{}"
    (folder / "told.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    (folder / "told.json").write_text(others)
"""


@dataclass
class Round:
    """What the round left behind."""

    course: Path
    submissions: Path
    output: str
    rows: dict[tuple[str, str], dict[str, str]]

    def row(self, student: str, assignment: str = "toy") -> dict[str, str]:
        return self.rows[student, assignment]

    def page(self, student: str) -> str:
        return (self.course / "feedback" / student / "toy" / "toy.html").read_text(encoding="utf-8")

    def graded(self, student: str) -> nbformat.NotebookNode:
        return nbformat.read(self.course / "autograded" / student / "toy" / "toy.ipynb", as_version=4)


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The command as make calls it."""
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(ROOT / "tools"), os.environ["PYTHONPATH"]]),
        "GRADING_TEST_SECRET": "not for students",
    }
    command = [sys.executable, "-m", "grading", *map(str, arguments)]
    return subprocess.run(command, env=env, capture_output=True, text=True, timeout=800)


def marks(course: Path) -> dict[tuple[str, str], dict[str, str]]:
    with (course / "marks.csv").open(encoding="utf-8-sig", newline="") as file:
        return {(row["student"], row["assignment"]): row for row in csv.DictReader(file)}


def new_course(home: Path) -> tuple[Path, Path]:
    """A course folder with the toy's exercises, and its sources."""
    course, sources = home / "course", home / "source"
    toy.write_exercises(course / "exercises", ROOT / "peft_lessons")
    sources.mkdir()
    nbformat.write(toy.source(), sources / "toy.ipynb")
    return course, sources


def students(home: Path, course: Path) -> Path:
    """Everyone who hands something in."""
    given, to = release.students(toy.source()), home / "submissions"
    right = toy.answered(given)
    toy.hand_in(to, "right", right)
    toy.hand_in(to, "differently", toy.answered(given, "def double(x):\n    return x + x", why="Other words."))
    toy.hand_in(
        to, "half", toy.answered(given, total="def total(xs):\n    return max(xs)", why="<script>x</script>Half")
    )
    toy.hand_in(to, "untouched", given)
    toy.hand_in(to, "text", "This is no notebook.")
    toy.hand_in(to, "cut", nbformat.writes(right)[:900])
    toy.hand_in(to, "deleted_test", toy.without(right, "double_test"))
    toy.hand_in(to, "deleted_answer", toy.without(right, "total"))
    cheat = toy.answered(given, double="def double(x):\n    return 0")
    toy.named(cheat, "double_test").source = "3.0"
    cheat.cells.insert(2, nbformat.v4.new_code_cell("print('a cell of my own')"))
    toy.hand_in(to, "changed_test", cheat)
    toy.hand_in(to, "loop", toy.answered(given, double=f"{toy.DOUBLE}\nwhile True: pass"))
    first = toy.answered(given)
    toy.named(first, "imports").source = "raise RuntimeError('in the first cell')"
    toy.hand_in(to, "first", first)
    toy.hand_in(to, "printer", toy.answered(given, double=f"{toy.DOUBLE}\nfor i in range(2**21): print('x' * 1023)"))
    (to / "missing").mkdir()
    toy.hand_in(to, "homework", right, "homework.ipynb")
    toy.hand_in(to, "twice", toy.answered(given, total=None), "toy.ipynb")
    newer = toy.hand_in(to, "twice", right, "toy (1).ipynb")
    os.utime(newer, (newer.stat().st_mtime + 60,) * 2)
    late = toy.hand_in(to, "late", toy.answered(given, why="Late words."))
    late.with_name("timestamp.txt").write_text("2030-01-02 00:00:00 UTC")
    (to / "link").mkdir()
    (to / "link" / "toy.ipynb").symlink_to(course / "secret")
    nbformat.write(right, to / "toy_flat.ipynb")
    patched = (
        "import peft_lessons.assignments.core as core\n"
        "import peft_lessons.assignments as assignments\n"
        "core.check = assignments.check = lambda *a: 3.0\n"
        "core.Exercise.judge = lambda *a: []\n"
        "core.exercise('toy.double').properties[0].__dict__['wrong'] = lambda *a: ''\n"
        "grade = lambda *a: 3.0\n"
    )
    toy.hand_in(to, "patcher", toy.answered(given, double=f"{patched}def double(x):\n    return 0", total=None))
    nonsense = '{"attempted": true, "error": "", "others": {"kind": "function", "doubled": {"a": [1]}}}'
    forger = f"{FORGED}\nforge('toy.double', {nonsense!r})\nforge('toy.total', '[' * 100000)"
    forger += "\n(box / 'toy.total' / 'told.safetensors').unlink()"
    forger += f"\nos.symlink({str(course / 'secret')!r}, box / 'toy.total' / 'told.safetensors')\nos._exit(0)"
    toy.hand_in(to, "forger", toy.answered(given, double=forger))
    page = (
        "from IPython.display import HTML, Javascript, display\n"
        "display(HTML('<script>alert(1)</script>'), Javascript('alert(2)'))\n"
        "print('<script>alert(3)</script>')\n"
        "class Shown:\n    def __repr__(self): return '<img src=x onerror=alert(4)>'\nShown()"
    )
    evil = toy.answered(given, why="<img src=x onerror=alert(5)> [a](javascript:alert(6)) <!-- <iframe src=x> -->")
    evil.cells.insert(2, nbformat.v4.new_code_cell(page))
    evil.cells.insert(3, nbformat.v4.new_raw_cell("<script>alert(7)</script>", metadata={"raw_mimetype": "text/html"}))
    evil.metadata["title"] = "</title><script>alert(8)</script>"
    toy.hand_in(to, "page", evil)
    toy.hand_in(to, "=cmd|' x'!A1", toy.answered(given, why="A name that is a formula."))
    return to


def spy(course: Path, sources: Path, to: Path, port: int) -> None:
    paths = {
        "the gradebook": course / "gradebook.db",
        "the secret": course / "secret",
        "another submission": to / "right" / "toy.ipynb",
        "the source": sources / "toy.ipynb",
        "the project's tests": ROOT / "tests",
        "the project's tools": ROOT / "tools",
        "the project's notebooks": ROOT / "notebooks",
        "git": ROOT / ".git",
        "home": Path.home() / ".bashrc",
        "passwords": "/etc/passwd",
    }
    code = SPY.format(
        paths={name: str(path) for name, path in paths.items()}, port=port, package=str(ROOT / "peft_lessons"),
        root=str(ROOT), names={"test_grading_round.py", "toy_assignment.py", "mutants.py", "setup.sh"},
    )  # fmt: skip
    toy.hand_in(to, "spy", toy.answered(release.students(toy.source()), double=f"{toy.DOUBLE}\n{code}", why="Spied."))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Round]:
    """The round, once."""
    import socket

    home = tmp_path_factory.mktemp("round")
    course, sources = new_course(home)
    toml = f"[deadlines]\ntoy = 2030-01-01T00:00:00+00:00\n[limits]\ncell_seconds = {CELL_SECONDS}\n"
    (course / "course.toml").write_text(toml)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        to = students(home, course)
        spy(course, sources, to, listening.getsockname()[1])
        options = ["--source", sources, "--course", course]
        graded = run(*options, "grade", to, "--jobs", 2)
        assert graded.returncode == 0, graded.stderr
    pages = run(*options, "feedback")
    assert pages.returncode == 0, pages.stderr
    yield Round(course, to, graded.stdout + graded.stderr, marks(course))


def test_right_answers_get_all_points_and_words_wait_for_a_reader(whole: Round) -> None:
    for student in ("right", "differently", "flat", "late", "twice"):
        row = whole.row(student)
        assert (row["toy.double"], row["toy.total"], row["total"], row["max"]) == ("3", "2", "5", "9"), row
        assert row["needs manual grading"] == "yes"


def test_half_right(whole: Round) -> None:
    row = whole.row("half")
    assert (row["toy.double"], row["toy.total"], row["notes"]) == ("3", "0", "")
    assert "the sum: not the sum." in whole.page("half")


def test_an_untouched_notebook_gets_nothing_and_nothing_is_said_to_have_failed(whole: Round) -> None:
    row = whole.row("untouched")
    assert (row["total"], row["notes"], row["needs manual grading"]) == ("0", "", "")
    assert "not attempted yet" in whole.page("untouched")


@pytest.mark.parametrize(
    ("student", "points", "said"),
    [
        ("text", "0", "the file is not a notebook: it is not JSON (line 1)"),
        ("cut", "0", "the file is not a notebook: it is cut off"),
        ("deleted_test", "5", "test cell double_test was deleted: the original was put back"),
        ("deleted_answer", "3", "answer cell total was deleted: it counts as not attempted"),
        ("changed_test", "3", "test cell double_test was changed: the original was run"),
        ("changed_test", "3", "1 cell of the student's own, run with the rest"),
        ("loop", "5", f"code cell 2 took more than {CELL_SECONDS} seconds and was stopped"),
        ("first", "0", "the first cell stopped with RuntimeError: in the first cell"),
        ("printer", "5", "code cell 2 printed more than 1 MB and was stopped"),
        ("missing", "0", "nothing was handed in"),
        ("twice", "5", "handed in 2 times: the newest notebook counts, not toy.ipynb"),
        ("late", "5", "late by 24 hours"),
        ("link", "0", "toy.ipynb is a link or no plain file, and was not read"),
        ("twice", "5", "the same file, byte for byte, as that of right"),
        ("forger", "1", "code cell 2 ended Python itself"),
    ],
)
def test_one_line_says_what_happened(whole: Round, student: str, points: str, said: str) -> None:
    row = whole.row(student)
    assert said in row["notes"].split("; ") or said in row["notes"], row["notes"]
    assert row["total"] == points
    assert said.replace("'", "&#x27;") in whole.page(student)


def test_a_name_that_is_no_assignment(whole: Round) -> None:
    assert whole.row("homework", "")["notes"] == "homework.ipynb is no assignment's name (toy)"
    assert whole.row("homework")["notes"] == "nothing was handed in"


def test_only_the_late_is_late(whole: Round) -> None:
    assert [student for (student, _), row in whole.rows.items() if row["late"]] == ["late"]


def test_a_spy_sees_and_reaches_nothing(whole: Round) -> None:
    said = "".join(o.text for o in toy.named(whole.graded("spy"), "double").outputs if o.output_type == "stream")
    lines = [line for line in said.splitlines() if line]
    assert len(lines) == 21, said
    assert not [line for line in lines if " open" in line], said
    assert lines[-1] == "the package True", "and what it needs is there"
    assert whole.row("spy")["total"] == "5"


def test_patching_what_checks_changes_nothing(whole: Round) -> None:
    row = whole.row("patcher")
    assert (row["toy.double"], row["total"]) == ("1", "1")  # the point for being a function


def test_forged_answers_of_a_wrong_form_are_judged_wrong(whole: Round) -> None:
    assert whole.row("forger")["toy.double"] == "1" and whole.row("forger")["toy.total"] == "0"
    secret = (whole.course / "secret").read_text()
    assert not [
        p for p in whole.course.rglob("*") if p.is_file() and p.name != "secret" and secret in p.read_text("latin1")
    ]


def test_a_page_runs_no_script_of_a_student(whole: Round) -> None:
    page = whole.page("page")
    assert "alert(3)" in page and "alert(4)" in page, "text stays, as text"
    assert "<h1>A toy <b>assignment</b></h1>" in page, "and so does the formatting of what was handed out"
    for tag in ("<script", "<img src=x", "<iframe", 'href="javascript', "</title><"):
        assert tag not in page.lower(), tag
    assert whole.row("page")["toy.double"] == "3"
    stored = (whole.course / "autograded" / "page" / "toy" / "toy.ipynb").read_text(encoding="utf-8")
    assert "text/html" not in stored and "javascript" not in stored.replace("javascript:alert(6)", ""), "nor formgrader"
    assert not [cell for cell in whole.graded("page").cells if cell.cell_type == "markdown" and "<img" in cell.source]


def test_pages_need_no_network_and_name_no_hidden_test(whole: Round) -> None:
    for path in (whole.course / "feedback").rglob("*.html"):
        page = path.read_text(encoding="utf-8")
        assert "<script" not in page and "default-src 'none'" in page
        assert not [part for part in ('src="http', 'href="http', "@import", "url(http") if part in page], path
        assert "HIDDEN" not in page and "grade(&quot;" not in page
        assert '<html lang="en">' in page and "<h1>" in page
    index = (whole.course / "feedback" / "index.html").read_text(encoding="utf-8")
    assert 'href="right/toy/toy.html"' in index and "homework.ipynb is no assignment" in index


def test_no_name_is_a_formula_in_a_spreadsheet(whole: Round) -> None:
    assert not [cell for row in whole.rows.values() for cell in row.values() if cell.startswith(("=", "+", "-", "@"))]
    assert [student for student, _ in whole.rows if "cmd" in student]


def test_everyone_has_a_line_and_a_page(whole: Round) -> None:
    folders = {path.name for path in whole.submissions.iterdir() if path.is_dir() and "cmd" not in path.name}
    assert folders <= {student for student, _ in whole.rows}
    for (student, assignment), row in whole.rows.items():
        assert row["notes"].count("\n") == 0
        if assignment:
            assert whole.page(student)


def test_seeds_differ_by_student_and_stay(whole: Round) -> None:
    from grading.course import Course

    course = Course(whole.course, whole.course.parent / "source")
    seeds = {course.seed(student, "toy") for student, _ in whole.rows}
    assert len(seeds) == len({student for student, _ in whole.rows})
    assert course.seed("right", "toy") == course.seed("right", "toy") != course.seed("right", "other")
    assert (whole.course / "secret").stat().st_mode & 0o077 == 0


def test_a_second_run_grades_nothing_again_and_a_new_file_alone(whole: Round) -> None:
    options = ["--source", whole.course.parent / "source", "--course", whole.course]
    before = (whole.course / "marks.csv").read_bytes()
    again = run(*options, "grade", whole.submissions)
    assert again.returncode == 0 and again.stdout.strip() == str(whole.course / "marks.csv"), again.stdout
    assert (whole.course / "marks.csv").read_bytes() == before
    # A grader that was killed half-way leaves a submission without a record: that one is done again, and one handed
    # in anew is, too; in a copy, for the other tests look at the first round.
    record = whole.course / "records" / "toy" / "half.json"
    kept = record.read_bytes()
    record.unlink()
    small = whole.course.parent / "small"
    shutil.copytree(whole.submissions / "half", small / "half")
    resumed = run(*options, "grade", small)
    assert resumed.returncode == 0 and resumed.stdout.startswith("half, toy: 3 of 5 points\n"), resumed.stderr
    assert json.loads(record.read_bytes()) == json.loads(kept)
    assert (whole.course / "marks.csv").read_bytes() == before


def test_marks_given_by_hand_are_in_the_table_and_on_the_page(whole: Round) -> None:
    from nbgrader.api import Gradebook

    with Gradebook(f"sqlite:///{whole.course / 'gradebook.db'}", "course") as gradebook:
        grade = gradebook.find_grade("why", "toy", "toy", "right")
        grade.manual_score, grade.needs_manual_grade = 3.5, False
        gradebook.find_comment("why", "toy", "toy", "right").manual_comment = "Good <i>words</i>."
        gradebook.find_comment("double", "toy", "toy", "right").manual_comment = "Short, too."
        gradebook.db.commit()
    options = ["--source", whole.course.parent / "source", "--course", whole.course]
    assert run(*options, "feedback").returncode == 0
    row = marks(whole.course)["right", "toy"]
    assert (row["toy.why"], row["total"], row["needs manual grading"]) == ("3.5", "8.5", "")
    assert "Good &lt;i&gt;words&lt;/i&gt;." in whole.page("right") and "8.5 of 9 points" in whole.page("right")
    assert "<td>Short, too.</td>" in whole.page("right")
