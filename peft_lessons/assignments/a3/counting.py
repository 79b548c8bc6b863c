"""How many numbers LoRA trains, and up to which rank that saves any.

Source: arithmetic: A is (r, d_in) and B is (d_out, r).
"""

from collections.abc import Callable

import torch

from peft_lessons.assignments.core import Exercise, Property
from peft_lessons.assignments.given import seeded
from peft_lessons.assignments.told import Told


@seeded
def draw_counts(g: torch.Generator) -> list[tuple[int, int, int]]:
    sizes = torch.randint(3, 2000, (4, 2), generator=g).tolist()
    ranks = torch.randint(1, 64, (4,), generator=g).tolist()
    return [(d_in, d_out, r) for (d_in, d_out), r in zip(sizes, ranks, strict=True)] + [
        (10, 10, 1),
        (4, 4, 2),
        (1, 9, 1),
    ]


def ask_counts(
    given: list[tuple[int, int, int]], told: Told, count: Callable[[int, int, int], int], largest: Callable[..., int]
) -> None:
    told["counts"] = [count(d_in, d_out, r) for d_in, d_out, r in given]
    told["ranks"] = [largest(d_in, d_out) for d_in, d_out, _ in given]


def counts(given: list[tuple[int, int, int]], told: Told) -> str:
    for (d_in, d_out, r), n in zip(given, told["counts"], strict=True):
        if n != r * (d_in + d_out):
            return f"{d_in} by {d_out} at rank {r} does not train {n} numbers: write down both shapes."
    return ""


def ranks(given: list[tuple[int, int, int]], told: Told) -> str:
    for (d_in, d_out, _), r in zip(given, told["ranks"], strict=True):
        right = isinstance(r, int) and r * (d_in + d_out) < d_in * d_out <= (r + 1) * (d_in + d_out)
        if not right:
            return f"for {d_in} by {d_out} the largest rank that still saves numbers is not {r}."
    return ""


Exercise(
    "a3.count", draw_counts, ask_counts, (Property("numbers trained", 1, counts), Property("largest rank", 2, ranks))
)
