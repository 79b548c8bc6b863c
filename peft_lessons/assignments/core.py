"""What an exercise of an assignment is: a question that is asked beside the learner's code, and a verdict that is not.

    draw(seed) -> given        what this asking hands out: fresh layers, inputs, numbers
    ask(given, told, answers)  calls the learner's code and writes down, in `told`, plain data: what it gave back
    properties                 each looks at `given` and `told` alone, and says what is wrong

No expected result is computed where the learner's code runs. A notebook's `check` does both steps in one process, for
an instant answer; grading takes the second one elsewhere, with numbers that nobody has seen, so that neither a
constant, nor a changed `check`, is worth anything.

Source: checks by property and not by one stored answer are those of QuickCheck (Claessen and Hughes 2000); all-or-part
marks of a test cell are nbgrader's.
"""

import os
import secrets
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from peft_lessons.assignments.told import Told, Untold
from peft_lessons.exercises import NOT_ATTEMPTED
from peft_lessons.progress import record

PUBLIC_SEED = 0


@dataclass(frozen=True)
class Property:
    """One thing that an answer must be, and its points.

    `wrong(given, told)` gives "" where the answer is right, else one sentence that names what is wrong and does not
    give the answer.
    """

    name: str
    points: int
    wrong: Callable[[Any, Told], str]


@dataclass(frozen=True)
class Finding:
    """What was found about one property: its name, its points, and what is wrong; "" where nothing is."""

    name: str
    points: int
    wrong: str

    @property
    def right(self) -> bool:
        """Whether the answer has the property."""
        return not self.wrong

    def __str__(self) -> str:
        return f"right    {self.name}" if self.right else f"not yet  {self.name}: {self.wrong}"


@dataclass(frozen=True)
class Exercise:
    """A question and what makes an answer right; see the module.

    Making one registers it under its name, "assignment.exercise".
    """

    registry: ClassVar[dict[str, "Exercise"]] = {}

    name: str
    draw: Callable[[int], Any]
    ask: Callable[..., None]
    properties: tuple[Property, ...]

    def __post_init__(self) -> None:
        Exercise.registry[self.name] = self

    @property
    def points(self) -> int:
        """The points of all properties together."""
        return sum(p.points for p in self.properties)

    def told_by(self, answers: tuple[object, ...], seed: int) -> Told:
        """Ask: what the answers give for what is drawn from the seed; an exception ends it, and is written down."""
        told = Told()
        if any(answer is None for answer in answers):
            return told
        try:
            self.ask(self.draw(seed), told, *answers)
        except (Exception, SystemExit) as error:  # the learner's own code may raise anything, and should read what
            if isinstance(error, NotImplementedError) and not told:
                return told
            told.error = f"{type(error).__name__}: {error}"[:400]
            if not _by_the_learner(error):
                told.error += ", while the check used what your code gave back"
        told.attempted = True
        return told

    def judge(self, told: Told, seed: int) -> list[Finding]:
        """The verdict on what was told, from the seed alone; never runs the learner's code."""
        if not told.attempted:
            return [Finding(p.name, p.points, NOT_ATTEMPTED) for p in self.properties]
        given, found = self.draw(seed), []
        for p in self.properties:
            try:
                wrong = p.wrong(given, told)
            except Untold:
                wrong = f"your code stopped before: {told.error}" if told.error else "your code did not say."
            except (TypeError, ValueError, ArithmeticError, RuntimeError, AttributeError, LookupError) as error:
                wrong = f"what came back is not of the kind asked for ({type(error).__name__}: {error})."
            found.append(Finding(p.name, p.points, wrong))
        return found


def _by_the_learner(error: BaseException) -> bool:
    """Whether code that is neither this package's nor a library's was running when the error came."""
    ours = (str(Path(__file__).parents[1]), sys.prefix, sys.base_prefix)
    frames = traceback.extract_tb(error.__traceback__)
    return any(not frame.filename.startswith((*ours, "<frozen")) for frame in frames)


class Points(float):
    """Points reached, which a notebook shows with how many there are; as text a number, which nbgrader reads."""

    most: int

    def _repr_html_(self) -> str:
        return f"<b>{self:g} of {self.most} points</b>"


def check(name: str, *answers: object) -> Points:
    """Check an exercise at once and print a line for each property: what a learner runs below an answer.

    The outcome is kept on this machine, for `progress`.

    Args:
        name: the exercise, such as "a3.lora_layer".
        answers: what the exercise asks for, by the names in its text; None while untouched.

    Returns:
        The points, so that nbgrader's Validate says the same.

    Raises:
        LookupError: no exercise of that name.
    """
    found = exercise(name)
    told = found.told_by(answers, PUBLIC_SEED).apart()
    findings = found.judge(told, PUBLIC_SEED)
    got = sum(f.points for f in findings if f.right)
    if told.attempted:
        record(name, got, found.points)
    print("\n".join(map(str, findings)) if told.attempted else NOT_ATTEMPTED)
    points = Points(got)
    points.most = found.points
    return points


def grade(name: str, *answers: object) -> float | None:
    """Grade an exercise: what a hidden test calls.

    Where the environment variable PEFT_LESSONS_TELL names a folder, the answers are asked with PEFT_LESSONS_SEED, what
    they told is written below that folder, and the verdict is left to whoever reads it. Elsewhere the verdict follows
    here, with a seed of the moment.

    Returns:
        The points, which nbgrader takes as partial credit; None where the verdict is reached elsewhere.

    Raises:
        LookupError: no exercise of that name.
    """
    found, folder = exercise(name), os.environ.get("PEFT_LESSONS_TELL")
    if folder:
        found.told_by(answers, int(os.environ["PEFT_LESSONS_SEED"])).save(Path(folder) / name)
        return None
    seed = secrets.randbelow(2**31)
    findings = found.judge(found.told_by(answers, seed).apart(), seed)
    print("\n".join(map(str, findings)))
    return float(sum(f.points for f in findings if f.right))


def exercise(name: str) -> Exercise:
    """The exercise of this name.

    Raises:
        LookupError: there is none; the message lists those that are.
    """
    if name not in Exercise.registry:
        raise LookupError(f'There is no exercise "{name}"; there is {", ".join(sorted(Exercise.registry))}.')
    return Exercise.registry[name]
