"""Wrong demonstrations: so many of them, and wrong without doubt.

Source: the experiment of Min et al. 2022, "Rethinking the Role of Demonstrations".
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from peft_lessons.assignments.a1.standin import LABELS, Examples, examples
from peft_lessons.assignments.core import Exercise, Property
from peft_lessons.assignments.given import seeded
from peft_lessons.assignments.told import Told

SHARES = (0.0, 1.0, 0.25, 0.6)  # of 21: the last two come to 5.25 and 12.6


@dataclass(frozen=True)
class Labeled:
    """Examples with right labels, and seeds."""

    examples: Examples
    seeds: list[int]


@seeded
def draw_labeled(g: torch.Generator) -> Labeled:
    first = int(torch.randint(1000, (), generator=g))
    return Labeled(examples((8, 6, 7), g), [first, first + 1, first + 2])


def ask_labeled(given: Labeled, told: Told, mislabel: Callable[..., Examples]) -> None:
    for seed in given.seeds:
        for share in SHARES:
            rows = list(given.examples)
            told[f"{seed} {share}"] = [list(row) for row in mislabel(rows, list(LABELS), share, seed)]
            told[f"{seed} {share} given"] = [list(row) for row in rows]
    seed = given.seeds[0]
    told["again"] = [list(row) for row in mislabel(list(given.examples), list(LABELS), 0.6, seed)]


def how_many(given: Labeled, told: Told) -> str:
    for seed in given.seeds:
        for share in SHARES:
            found, n = told[f"{seed} {share}"], len(given.examples)
            if len(found) != n:
                return f"{len(found)} examples came back for {n}."
            if any(label not in LABELS for _, label in found):
                return "a label came back that is none of the choices."
            wrong = sum(new[1] != old[1] for new, old in zip(found, given.examples, strict=True))
            if wrong == round(share * n):
                continue
            if share == 1:
                return f"all of {n} labels should be wrong, and {n - wrong} are right: drawn by chance, or left out?"
            return _other_texts(given, told) or f"with a share of {share}, {wrong} of {n} labels are wrong."
    return ""


def texts_kept(given: Labeled, told: Told) -> str:
    return how_many(given, told) or _other_texts(given, told)


def _other_texts(given: Labeled, told: Told) -> str:
    right = [text for text, _ in given.examples]
    kept = all([row[0] for row in told[f"{seed} {share}"]] == right for seed in given.seeds for share in SHARES)
    return "" if kept else "the texts, or their order, are not those given."


def left_to_chance(given: Labeled, told: Told) -> str:
    if wrong := how_many(given, told):
        return wrong
    chosen = [_wrong(given, told[f"{seed} 0.6"]) for seed in given.seeds]
    if all(places == chosen[0] for places in chosen):
        return "every seed spoils the same examples."
    for seed in given.seeds:
        new = {(old[1], row[1]) for old, row in zip(given.examples, told[f"{seed} 1.0"], strict=True)}
        if len(new) == len(LABELS):
            return "a label is always replaced by the same other one."
    return (
        "" if told["again"] == told[f"{given.seeds[0]} 0.6"] else "the same seed, asked again, spoils other examples."
    )


def left_alone(given: Labeled, told: Told) -> str:
    if wrong := how_many(given, told):
        return wrong
    right = [list(row) for row in given.examples]
    alone = all(told[f"{seed} {share} given"] == right for seed in given.seeds for share in SHARES)
    return "" if alone else "the list that was handed in has changed: who else uses it?"


def _wrong(given: Labeled, found: Any) -> set[int]:
    return {i for i, (new, old) in enumerate(zip(found, given.examples, strict=True)) if new[1] != old[1]}


Exercise(
    "a1.mislabel",
    draw_labeled,
    ask_labeled,
    (
        Property("so many wrong ones", 2, how_many),
        Property("texts and order", 1, texts_kept),
        Property("the rest is chance", 1, left_to_chance),
        Property("the examples given are left alone", 1, left_alone),
    ),
)
