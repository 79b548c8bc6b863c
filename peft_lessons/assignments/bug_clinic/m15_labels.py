"""M15. Labels and baselines: a model that never stops, padding in the loss, and a score that a constant reaches.

Source: mlabonne/llm-course issue 33 and unslothai/unsloth issue 416 (pad = eos), huggingface/trl issue 3279 (masking),
huggingface/peft issue 2642 (the majority row).
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from math import isclose

import torch

from peft_lessons.assignments.bug_clinic.shared import each
from peft_lessons.assignments.core import Exercise, Property
from peft_lessons.assignments.given import seeded
from peft_lessons.assignments.told import Told
from peft_lessons.tasks import IGNORED

FAULTS = ("prompt trained", "answer masked", "end masked", "padding trained")
EOS = 1


@dataclass(frozen=True)
class Row:
    """A row for a decoder, padded on the right with `pad`, which may be the end token itself."""

    prompt: list[int]
    answer: list[int]
    pad: int
    length: int
    faults: tuple[str, ...] = ()

    @property
    def ids(self) -> list[int]:
        """Prompt, answer, end, padding."""
        text = [*self.prompt, *self.answer, EOS]
        return text + [self.pad] * (self.length - len(text))

    @property
    def mask(self) -> list[int]:
        """1 at what is text."""
        n = len(self.prompt) + len(self.answer) + 1
        return [1] * n + [0] * (self.length - n)

    @property
    def labels(self) -> list[int]:
        """What is to be learned, with this row's faults."""
        n_prompt, n = len(self.prompt), sum(self.mask)
        labels = [IGNORED] * n_prompt + self.ids[n_prompt:n] + [IGNORED] * (self.length - n)
        if "prompt trained" in self.faults:
            first = 0 if self.pad == EOS else n_prompt - 1  # all of it, or one token
            labels[first:n_prompt] = self.prompt[first:]
        if "answer masked" in self.faults:
            labels[n_prompt] = IGNORED
        if "end masked" in self.faults:
            labels[n - 1] = IGNORED
        if "padding trained" in self.faults:
            last = self.length if self.pad == EOS else n + 1
            labels[n:last] = self.ids[n:last]
        return labels


@dataclass(frozen=True)
class Data:
    """Rows with and without faults, and answers: of training, of the test, and predicted."""

    rows: list[Row]
    train: list[str]
    test: list[str]
    predicted: list[str]


@seeded
def draw_data(g: torch.Generator) -> Data:
    def some(low: int, high: int) -> list[int]:
        return torch.randint(3, 30, (int(torch.randint(low, high, (), generator=g)),), generator=g).tolist()

    faults: list[tuple[str, ...]] = [(), (), *((f,) for f in FAULTS), ("prompt trained", "padding trained"), FAULTS[2:]]
    order = torch.randperm(2 * len(faults), generator=g).tolist()
    rows = [Row(some(2, 6), some(2, 4), (EOS, 2)[i % 2], 12, faults[i // 2]) for i in order]
    names = [f"class {i}" for i in torch.randperm(9, generator=g).tolist()][:3]

    def mixed(*counts: int) -> list[str]:
        found = [name for name, n in zip(names, counts, strict=True) for _ in range(n)]
        return [found[i] for i in torch.randperm(len(found), generator=g).tolist()]

    # the most frequent of training is not that of the test, of both together, or of the predictions
    return Data(rows, mixed(26, 9, 5), mixed(15, 36, 9), mixed(15, 18, 27))


def ask_data(
    given: Data,
    told: Told,
    find: Callable[..., set[str]],
    make: Callable[..., tuple[list[int], ...]],
    score: Callable[..., dict[str, float]],
) -> None:
    def found() -> None:
        told["faults"] = [sorted(map(str, find(row.ids, row.mask, row.labels, len(row.prompt)))) for row in given.rows]

    def made() -> None:
        told["rows"] = [
            [list(map(int, part)) for part in make(row.prompt, row.answer, EOS, row.pad, row.length)]
            for row in given.rows
        ]

    def scored() -> None:
        scores = score(given.train, given.test, given.predicted)
        told["scores"] = {"model": scores["model"], "majority": scores["majority"]}

    each(found, made, scored)


def faults(given: Data, told: Told) -> str:
    for row, found in zip(given.rows, told["faults"], strict=True):
        if unknown := set(found) - set(FAULTS):
            return f"{min(unknown)!r} is none of {', '.join(FAULTS)}."
        if found != sorted(row.faults):
            kind = "where the padding is the end token" if row.pad == EOS else "where padding has a token of its own"
            missed, alarm = set(row.faults) - set(found), set(found) - set(row.faults)
            return f"{kind}: {'missed' if missed else 'not so'}: {', '.join(sorted(missed or alarm))}."
    return ""


def rows(given: Data, told: Told) -> str:
    for row, (ids, mask, labels) in zip(given.rows, told["rows"], strict=True):
        sound = Row(row.prompt, row.answer, row.pad, row.length)
        for part, found, right in (
            ("ids", ids, sound.ids),
            ("mask", mask, sound.mask),
            ("labels", labels, sound.labels),
        ):
            if len(found) != row.length:
                return f"{part}: {len(found)} entries, not {row.length}."
            if found != right:
                at = next(i for i in range(row.length) if found[i] != right[i])
                place = "the prompt" if at < len(row.prompt) else "the padding"
                if len(row.prompt) <= at < sum(sound.mask):
                    place = "the end token" if at == sum(sound.mask) - 1 else "the answer"
                return f"{part}: not right at {place} (position {at} of {row.length})."
    return ""


def scores(given: Data, told: Told) -> str:
    def share(guesses: list[str]) -> float:
        return sum(a == b for a, b in zip(guesses, given.test, strict=True)) / len(given.test)

    found = told["scores"]
    if not isclose(found["model"], share(given.predicted), abs_tol=1e-9):
        return f"the model's row is not {found['model']}."
    commonest = Counter(given.train).most_common(1)[0][0]
    if isclose(found["majority"], share([commonest] * len(given.test)), abs_tol=1e-9):
        return ""
    if isclose(found["majority"], max(Counter(given.test).values()) / len(given.test), abs_tol=1e-9):
        return "the majority row has looked at the test's answers to know which is the most frequent."
    return f"the majority row is not {found['majority']}."


Exercise(
    "bug_clinic.m15_labels",
    draw_data,
    ask_data,
    (
        Property("finds the faults of a row", 2, faults),
        Property("a row that teaches to stop", 1, rows),
        Property("a score beside its baseline", 1, scores),
    ),
)
