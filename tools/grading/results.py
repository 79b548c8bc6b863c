"""What came out of a sandbox, read as what it is: files that a stranger wrote.

Every file is opened without following a link, up to a size, and everything kept is made anew from plain text, numbers
and PNG pictures. The verdict on an exercise is reached here, from what was told and the seed.
"""

import base64
import binascii
import json
import os
import re
import stat
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nbformat import NotebookNode
from nbformat.v4 import new_output

from peft_lessons.assignments.core import Finding, exercise
from peft_lessons.assignments.told import MOST_BYTES, OTHERS, TENSORS, Told

from .course import Limits

MOST_PICTURE = 2 * 2**20
PNG = b"\x89PNG\r\n\x1a\n"
COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


@dataclass(frozen=True)
class CellRun:
    """What one cell gave and how it ended: "ok", "error", "time", "output", "died", or "not run"."""

    outputs: list[NotebookNode] = field(default_factory=list)
    ended: str = "not run"

    @property
    def error(self) -> str:
        """Its exception in one line, or ""."""
        found = [f"{o.ename}: {o.evalue}" for o in self.outputs if o.output_type == "error"]
        return line(found[-1]) if found else ""


@dataclass(frozen=True)
class Verdict:
    """The points of one exercise, and what was found; `problem` says why it could not be judged."""

    exercise: str
    points: float
    most: float
    findings: list[Finding] = field(default_factory=list)
    problem: str = ""

    def lines(self) -> list[str]:
        """For the student, under the test cell."""
        return [f"{self.points:g} of {self.most:g} points", *([f"  {self.problem}"] if self.problem else [])] + [
            line(str(f), 1000) for f in self.findings
        ]


def line(text: str, most: int = 200) -> str:
    """Text of a stranger as one line without colours and control characters."""
    return "".join(c if c.isprintable() else " " for c in COLOUR.sub("", text))[:most]


def read(folder: Path, *parts: str, most: int) -> bytes | None:
    """A file below a folder, where it is there, plain, reached through no link, and no larger than `most`."""
    try:
        at = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:  # closed by whoever ran in it
        return None
    try:
        for place, part in enumerate(parts):
            last = place == len(parts) - 1
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | (0 if last else os.O_DIRECTORY)
            below = os.open(part, flags, dir_fd=at)
            os.close(at)
            at = below
        found = os.fstat(at)
        if not stat.S_ISREG(found.st_mode) or found.st_size > most:
            return None
        with os.fdopen(os.dup(at), "rb") as file:
            return file.read(most)
    except OSError:
        return None
    finally:
        os.close(at)


def cell_run(box: Path, number: int, limits: Limits) -> CellRun:
    """What the sandbox says of one cell."""
    data = read(box, "run", f"{number}.json", most=int(8 * limits.output_mb * 2**20) + 2**20)
    try:
        told = json.loads(data or b"")
        ended = str(told["ended"])
        if ended not in ("ok", "error", "time", "output", "died"):
            return CellRun()
        return CellRun([made for output in told["outputs"][:1000] if (made := _output(output))], ended)
    except (ValueError, RecursionError, KeyError, TypeError):
        return CellRun()


def _output(output: Any) -> NotebookNode | None:
    """An output made anew: text as text and pictures as PNG; HTML, scripts and everything else is left out."""
    match output:
        case {"output_type": "stream", "name": name, "text": str(text)}:
            return new_output("stream", name="stderr" if name == "stderr" else "stdout", text=text)
        case {"output_type": "error", "ename": str(ename), "evalue": str(evalue), "traceback": list(traceback)}:
            lines = [str(entry)[:20_000] for entry in traceback[:100]]
            return new_output("error", ename=ename[:200], evalue=evalue[:2000], traceback=lines)
        case {"output_type": "execute_result" | "display_data", "data": dict(data)}:
            kept = {}
            if isinstance(data.get("text/plain"), str):
                kept["text/plain"] = data["text/plain"]
            if isinstance(data.get("image/png"), str) and _picture(data["image/png"]):
                kept["image/png"] = data["image/png"].replace("\n", "")
            return new_output("display_data", data=kept) if kept else None
    return None


def _picture(text: str) -> bool:
    try:
        return len(text) < MOST_PICTURE and base64.b64decode(text.replace("\n", ""), validate=True).startswith(PNG)
    except (binascii.Error, ValueError):
        return False


def verdict(name: str, most: float, box: Path, seed: int, run: CellRun, why: str) -> Verdict:
    """Judge one exercise by what was told of it in the box; `why` the run was ended, if it was."""
    parts = {file: read(box, "told", name, file, most=MOST_BYTES) for file in (TENSORS, OTHERS)}
    if any(data is None for data in parts.values()):
        return Verdict(name, 0, most, problem=_untold(run, why))
    with tempfile.TemporaryDirectory() as folder:
        for file, data in parts.items():
            Path(folder, file).write_bytes(data or b"")
        try:
            told = Told.load(Path(folder))
        except Exception as error:  # a stranger's file
            return Verdict(name, 0, most, problem=f"What your code told cannot be read: {line(str(error))}")
    try:
        findings = exercise(name).judge(told, seed)
    except Exception as error:  # so may what is in it
        return Verdict(name, 0, most, problem=f"What your code told cannot be judged: {line(repr(error))}.")
    points = sum(f.points for f in findings if f.right)
    return Verdict(name, min(float(points), most), most, findings)


def _untold(run: CellRun, why: str) -> str:
    """Why an exercise was never asked, or its answers are not there."""
    match run.ended:
        case "not run":
            return f"The notebook did not get this far{f': {why}' if why else ''}."
        case "error":
            return f"The test cell stopped with {run.error}"
        case "time":
            return "The test cell took too long and was stopped."
        case "output":
            return "The test cell printed too much and was stopped."
        case "died":
            return "Python itself ended in the test cell."
    return "The test cell ran, but what your code told is not there: was `grade` replaced, or a file removed?"
