"""What was handed in: any folder of submissions as one line for each student and assignment.

Two layouts, also mixed: a folder for each student with notebooks anywhere below it (then the folder's name is the
student), or flat files (`ann_a3_lora.ipynb`, `a3_lora_ann.ipynb`; then what is left of the name is). The assignment
is the one whose name the file's name holds. A submission's time is that of `timestamp.txt` beside it, as nbgrader
writes it, else that of the file's last change.
"""

import hashlib
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from nbgrader.utils import parse_utc

COPY = re.compile(r"[ _-]*(\(\d+\)|copy\d*|v\d+|final)$", re.IGNORECASE)
ARCHIVES = (".zip", ".7z", ".rar", ".tar", ".gz", ".tgz", ".bz2", ".xz")
MOST_BYTES = 20 * 2**20


@dataclass(frozen=True)
class Submission:
    """One student's work on one assignment, or that there is none.

    `path` is None where there is no file that can be graded; `notes` say what happened.
    """

    student: str
    assignment: str
    path: Path | None = None
    when: datetime | None = None
    late: bool = False
    notes: list[str] = field(default_factory=list)


def collect(
    folder: Path, assignments: list[str], deadline: dict[str, datetime] | None = None, students: list[str] | None = None
) -> list[Submission]:
    """All that was handed in, and what is missing, sorted by student and assignment.

    Args:
        folder: the submissions.
        assignments: the names that are known.
        deadline: of those that have one.
        students: those who get a line even where the folder has nothing of theirs.

    Returns:
        One submission for each student and assignment that anyone handed in, and one with assignment "" for each file
        that belongs to none.
    """
    found: dict[tuple[str, str], list[Submission]] = {}
    strays: list[Submission] = []
    names = {name: name for name in (unicodedata.normalize("NFC", student) for student in students or [])}
    for path in _files(folder):
        assignment, rest = _assignment(path.stem, assignments)
        inside = path.relative_to(folder).parts[:-1]
        student = _plain(inside[0] if inside else rest or path.stem, names)
        if assignment:
            found.setdefault((student, assignment), []).append(_read(student, assignment, path))
        elif path.suffix == ".ipynb":
            known = ", ".join(assignments)
            strays.append(Submission(student, "", None, notes=[f"{path.name} is no assignment's name ({known})"]))
        elif path.suffix.lower() in ARCHIVES:
            note = f"{path.name} is an archive: unpack it, and grade again"
            strays.append(Submission(student, "", None, notes=[note]))
    for entry in sorted(folder.iterdir()):
        if entry.is_dir() and not entry.is_symlink() and not entry.name.startswith("."):
            _plain(entry.name, names)  # an empty folder is a student with nothing in it
    wanted = {assignment for _, assignment in found}
    everyone = {student for student, _ in found} | set(names.values())
    for student in everyone:
        for assignment in wanted:
            found.setdefault((student, assignment), [Submission(student, assignment, notes=["nothing was handed in"])])
    chosen = [_newest(versions, (deadline or {}).get(assignment)) for (_, assignment), versions in found.items()]
    return sorted(_alike(chosen) + strays, key=lambda s: (s.student, s.assignment))


def _files(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith((".", "__")) for part in path.relative_to(folder).parts)
        if not hidden and (path.is_symlink() or not path.is_dir()) and path.name != "timestamp.txt":
            yield path


def _assignment(stem: str, assignments: list[str]) -> tuple[str, str]:
    """The assignment whose name a file's name holds, and what is left of it; the longest, where there are two."""
    for name in sorted(assignments, key=len, reverse=True):
        hit = re.search(rf"(?<![a-z0-9]){re.escape(name)}(?![a-z0-9])", stem, re.IGNORECASE)
        if hit:
            rest = COPY.sub("", COPY.sub("", stem[: hit.start()] + stem[hit.end() :]))
            return name, rest.strip(" _-.")
    return "", stem


def _plain(name: str, names: dict[str, str]) -> str:
    """A name safe as a file's, in nbgrader and in a table: the same in each run, and never that of two students.

    An umlaut may be one character or two, as each system writes it: both are the same student.
    """
    name = unicodedata.normalize("NFC", name)
    if name not in names:
        plain = re.sub(r"[^\w@.,' -]", "_", name).strip(" .-")[:80] or "student"
        if plain != name:
            plain += "_" + hashlib.sha256(name.encode(errors="replace")).hexdigest()[:6]
        names[name] = plain
    return names[name]


def _read(student: str, assignment: str, path: Path) -> Submission:
    """One file as a submission; links and what is no notebook are refused here."""
    if path.is_symlink() or not path.is_file():
        return Submission(student, assignment, notes=[f"{path.name} is a link or no plain file, and was not read"])
    when = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    stamp, notes = path.with_name("timestamp.txt"), []
    if stamp.is_file() and not stamp.is_symlink() and stamp.stat().st_size < 100:
        try:
            when = parse_utc(stamp.read_text(encoding="utf-8").strip()).replace(tzinfo=UTC)
        except (ValueError, OverflowError):
            notes.append("timestamp.txt holds no time, so the time of the file counts")
    if path.suffix != ".ipynb":
        return Submission(student, assignment, None, when, notes=[f"{path.name} is not a notebook (.ipynb)"])
    if path.stat().st_size > MOST_BYTES:
        size = f"{path.stat().st_size / 2**20:.0f} MB"
        notes.append(f"{path.name} has {size}, more than the {MOST_BYTES // 2**20} MB that are read")
        return Submission(student, assignment, None, when, notes=notes)
    return Submission(student, assignment, path, when, notes=notes)


def _newest(versions: list[Submission], deadline: datetime | None) -> Submission:
    """The version that counts: of several the newest that is a notebook, and it says so."""
    versions = sorted(versions, key=lambda s: (s.path is not None, s.when or datetime.min.replace(tzinfo=UTC)))
    chosen = versions[-1]
    notes = list(chosen.notes)
    if len(versions) > 1:
        others = ", ".join(s.path.name if s.path else "; ".join(s.notes) for s in versions[:-1])
        notes.insert(0, f"handed in {len(versions)} times: the newest notebook counts, not {others}")
    late = bool(deadline and chosen.when and chosen.when > deadline)
    if late and deadline and chosen.when:
        minutes = (chosen.when - deadline).total_seconds() / 60
        notes.append(f"late by {f'{minutes:.0f} minutes' if minutes < 120 else f'{minutes / 60:.0f} hours'}")
    return replace(chosen, notes=notes, late=late)


def _alike(submissions: list[Submission]) -> list[Submission]:
    """Say of two students' files that they are the same, byte for byte."""
    owners: dict[str, list[str]] = {}
    digests: dict[int, str] = {}
    for s in submissions:
        if s.path:
            digests[id(s)] = s.assignment + hashlib.sha256(s.path.read_bytes()).hexdigest()
            owners.setdefault(digests[id(s)], []).append(s.student)
    for s in submissions:
        others = [student for student in owners.get(digests.get(id(s), ""), []) if student != s.student]
        if others:
            s.notes.append(f"the same file, byte for byte, as that of {', '.join(sorted(others))}")
    return submissions
