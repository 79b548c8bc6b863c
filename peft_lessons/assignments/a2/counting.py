"""How many numbers train: by formula, on a model, and the widest adapter that a budget allows.

Source: arithmetic on Houlsby et al. 2019, section 2.1: an adapter has 2 d m + m + d numbers.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import nn

from peft_lessons.assignments.core import Exercise, Property
from peft_lessons.assignments.given import seeded
from peft_lessons.assignments.told import Told

Shape: TypeAlias = "tuple[int, int, int]"  # d, adapters in the model, m


@dataclass(frozen=True)
class Counts:
    """Shapes with budgets, and a small model with frozen, shared and trained parts."""

    shapes: list[Shape]
    budgets: list[int]
    sizes: list[int]

    def model(self) -> nn.Module:
        """A trained layer that stands in two places, and its weight in a third; a frozen one with a trained bias."""
        a, b, c = self.sizes
        shared, tied, frozen = nn.Linear(a, a), nn.Linear(a, a, bias=False), nn.Linear(a, b)
        tied.weight = shared.weight
        frozen.weight.requires_grad_(False)
        model = nn.Sequential(shared, tied, shared, frozen, nn.Linear(b, c, bias=False), nn.BatchNorm1d(c))
        model[4].requires_grad_(False)
        return model

    @property
    def trained(self) -> int:
        """What is trained in it, each number once: shared layer, one bias, the norm's gain and bias."""
        a, b, c = self.sizes
        return a * a + a + b + 2 * c


def _count(d: int, n: int, m: int) -> int:
    return n * (2 * d * m + m + d)


@seeded
def draw_counts(g: torch.Generator) -> Counts:
    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=g))

    shapes = [(number(100, 2000), number(2, 60), number(2, 200)) for _ in range(4)]
    budgets = [_count(*shape) + extra for shape, extra in zip(shapes, (0, -1, number(1, 200), 5), strict=True)]
    return Counts(
        [*shapes, (50, 3, 1), (20, 2, 50)],
        [*budgets, 100, _count(20, 2, 50) + 3],
        [number(4, 9), number(10, 15), number(16, 20)],
    )


def ask_counts(
    given: Counts,
    told: Told,
    count: Callable[[int, int, int], int],
    trained: Callable[[nn.Module], int],
    widest: Callable[[int, int, int], int],
) -> None:
    told["counts"] = [count(*shape) for shape in given.shapes]
    told["trained"] = trained(given.model())
    told["widest"] = [widest(d, n, budget) for (d, n, _), budget in zip(given.shapes, given.budgets, strict=True)]


def formula(given: Counts, told: Told) -> str:
    for (d, n, m), found in zip(given.shapes, told["counts"], strict=True):
        if found == _count(d, n, m):
            continue
        mistakes = {
            "without its biases": n * 2 * d * m,
            "without b, which is m wide": n * (2 * d * m + d),
            "without b', which is d wide": n * (2 * d * m + m),
            "one adapter alone": _count(d, 1, m),
            "W_down alone": n * d * m,
        }
        named = [says for says, wrong in mistakes.items() if found == wrong]
        return (
            f"{found} is the count {named[0]}." if named else f"{n} adapters of d {d}, m {m} have not {found} numbers."
        )
    return ""


def on_a_model(given: Counts, told: Told) -> str:
    found, (a, b, c) = told["trained"], given.sizes
    if found == given.trained:
        return ""
    if found in [given.trained + more for more in (a * a, a * a + a, 2 * a * a + a)]:
        return "a weight that is used in several places is one weight, and counts once."
    everything = given.trained + a * b + b * c
    return "frozen numbers are counted too." if found == everything else f"{found} is not what would be trained."


def widest(given: Counts, told: Told) -> str:
    for (d, n, _), budget, m in zip(given.shapes, given.budgets, told["widest"], strict=True):
        if isinstance(m, bool) or not isinstance(m, int) or m < 0:
            return f"{m!r} is no width."
        if m and _count(d, n, m) > budget:
            return f"{n} adapters of d {d} and m {m} take more than {budget:,}."
        if _count(d, n, m + 1) <= budget:
            return f"{n} adapters of d {d}: a wider one than {m} fits into {budget:,}."
    return ""


Exercise(
    "a2.count",
    draw_counts,
    ask_counts,
    (
        Property("the formula", 1, formula),
        Property("counted on a model", 1, on_a_model),
        Property("the widest in a budget", 2, widest),
    ),
)
