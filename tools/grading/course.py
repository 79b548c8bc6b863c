"""A course folder: what grading reads and writes, laid out as nbgrader wants it.

course.toml          deadlines, limits and students, if any; made with everything commented out
secret               from which each student's seed is drawn; never leaves this folder
exercises/           Python modules with exercises of one's own, imported by name from their notebooks; optional
source/ submitted/ autograded/ gradebook.db    nbgrader's
records/             one JSON file per student and assignment: the findings and the notes
marks.csv            the marks;  feedback/  the pages
"""

import hashlib
import hmac
import secrets
import tomllib
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode
from traitlets.config import Config

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "notebooks" / "assignments" / "source"
TEMPLATE = """\
# What grading knows of this course. Every line is optional.
# students = ["ann", "ben"]                     # a line for each of them, with a file or without

[deadlines]                                     # with an offset from UTC, or of this machine's time zone
# a3_lora = 2026-11-30T23:59:00+01:00

[limits]                                        # of one submission
# cell_seconds = 120
# seconds = 480
# memory_mb = 4000
# output_mb = 1                                 # printed by one cell
# disk_mb = 200
# processes = 64
"""
NBGRADER_CONFIG = """\
# Written by `make grade`, so that nbgrader's own commands and formgrader work in this folder.
c = get_config()
c.CourseDirectory.course_id = "course"
c.CourseDirectory.root = {root!r}
c.ClearSolutions.code_stub = {{"python": "# YOUR CODE HERE\\nraise NotImplementedError()"}}
"""


class Refused(Exception):
    """Grading cannot go on; the message is one sentence for the instructor."""


@dataclass(frozen=True)
class Limits:
    """What one submission may use; see course.toml."""

    cell_seconds: float = 120
    seconds: float = 480
    memory_mb: float = 4000
    output_mb: float = 1
    disk_mb: float = 200
    processes: int = 64


class Course:
    """A course folder and the assignments' sources that it grades by."""

    def __init__(self, folder: Path, source: Path = SOURCE) -> None:
        """Open the folder, and make what is missing in it.

        Raises:
            Refused: course.toml cannot be read or names something unknown.
        """
        self.folder = folder.resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.sources = {path.stem: path for path in sorted(source.glob("*.ipynb"))}
        toml = self.folder / "course.toml"
        if not toml.exists():
            toml.write_text(TEMPLATE, encoding="utf-8")
        (self.folder / "nbgrader_config.py").write_text(NBGRADER_CONFIG.format(root=str(self.folder)), encoding="utf-8")
        try:
            self._settings: dict[str, Any] = tomllib.loads(toml.read_text(encoding="utf-8"))
            self.limits = Limits(**self._settings.get("limits", {}))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise Refused(f"{toml} is not TOML: {error}.") from None
        except TypeError:
            known = ", ".join(field.name for field in fields(Limits))
            raise Refused(f"[limits] in {toml} has a name that is not known; known are {known}.") from None
        unknown = set(self._settings.get("deadlines", {})) - set(self.sources)
        if unknown:
            raise Refused(f"[deadlines] in {toml} names {', '.join(sorted(unknown))}, which is no assignment.")

    @property
    def students(self) -> list[str]:
        """Those of whom a line is wanted in any case."""
        return list(self._settings.get("students", []))

    @property
    def records(self) -> Path:
        """Where the records are."""
        return self.folder / "records"

    @property
    def exercises(self) -> Path:
        """Where exercises of one's own are."""
        return self.folder / "exercises"

    def deadline(self, assignment: str) -> datetime | None:
        """The end of handing in, in UTC, where there is one."""
        found = self._settings.get("deadlines", {}).get(assignment)
        return found.astimezone(UTC) if isinstance(found, datetime) else None

    def seed(self, student: str, assignment: str) -> int:
        """The seed of one student's data in one assignment: the same each time, and not to be guessed by others."""
        path = self.folder / "secret"
        if not path.exists():
            path.touch(mode=0o600)
            path.write_text(secrets.token_hex(32), encoding="ascii")
        digest = hmac.digest(path.read_bytes(), f"{assignment}\0{student}".encode(), "sha256")
        return int.from_bytes(digest[:4], "big") >> 1

    def fingerprint(self, student: str, assignment: str, path: Path | None) -> str:
        """Of a submission, its seed, its assignment and the limits: the same is not run again."""
        digest = hashlib.sha256(repr((self.limits, self.seed(student, assignment))).encode())
        for read in [self.sources[assignment], *sorted(self.exercises.glob("*.py")), *([path] if path else [])]:
            digest.update(hashlib.sha256(read.read_bytes()).digest())
        return digest.hexdigest()

    def config(self) -> Config:
        """What nbgrader's own classes need to work in this folder."""
        config = Config()
        config.CourseDirectory.root = str(self.folder)
        config.CourseDirectory.course_id = "course"
        config.CourseDirectory.db_url = self.db_url
        return config

    @property
    def db_url(self) -> str:
        """nbgrader's gradebook."""
        return f"sqlite:///{self.folder / 'gradebook.db'}"

    def source(self, assignment: str) -> NotebookNode:
        """An assignment's source notebook."""
        return nbformat.read(self.sources[assignment], as_version=4)

    def record(self, student: str, assignment: str) -> Path:
        """Where the record of one submission is."""
        return self.records / assignment / f"{student}.json"
