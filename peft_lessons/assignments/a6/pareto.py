"""The Pareto front of methods: accuracy, peak memory, stored bytes.

Source: one method is dominated by another that is at least as good in everything and better in something (Pareto).
"""

from collections.abc import Callable

import torch

from peft_lessons.assignments.core import Exercise, Property
from peft_lessons.assignments.given import seeded
from peft_lessons.assignments.told import Told

Options = dict[str, dict[str, float]]


@seeded
def draw_options(g: torch.Generator) -> list[Options]:
    """Three sets of a dozen on a coarse grid, where much is equal, and one in which nothing is dominated."""

    def level(n: int) -> int:
        return int(torch.randint(n, (), generator=g))

    found = []
    for _ in range(3):
        options = {f"method {i}": _option(level(5), level(5), level(5)) for i in range(10)}
        twin, worse = _option(5, level(4), 6), _option(5, 4, 6)
        found.append(options | {"a twin": twin, "its twin": dict(twin), "worse in one thing": worse})
    return [*found, {f"method {i}": _option(i, 2 * i + level(2), 3) for i in range(5)}]


def _option(accuracy: int, peak: int, stored: int) -> dict[str, float]:
    return {"accuracy": 0.6 + 0.02 * accuracy, "peak_bytes": 10**8 * (1 + peak), "stored_bytes": 10**5 * (1 + stored)}


def ask_front(given: list[Options], told: Told, front: Callable[[Options], list[str]]) -> None:
    told["fronts"] = [list(front({name: dict(o) for name, o in options.items()})) for options in given]


def dominates(one: dict[str, float], other: dict[str, float]) -> bool:
    """Whether one is at least as good in all three and better in one."""
    better = [one["accuracy"] - other["accuracy"]]
    better += [other[cost] - one[cost] for cost in ("peak_bytes", "stored_bytes")]
    return min(better) >= 0 and max(better) > 0


def right_front(options: Options) -> set[str]:
    """The names of those that nothing dominates."""
    return {name for name, o in options.items() if not any(dominates(other, o) for other in options.values())}


def none_dominated(given: list[Options], told: Told) -> str:
    for options, found in zip(given, told["fronts"], strict=True):
        if not found:
            return "a front is never empty."
        for name in found:
            if name not in options:
                return f"{name!r} is no name of an option."
            if name not in right_front(options):
                by = next(n for n, o in options.items() if dominates(o, options[name]))
                return f"{name} {_numbers(options[name])} is dominated: look at {by} {_numbers(options[by])}."
    return ""


def none_missing(given: list[Options], told: Told) -> str:
    for options, found in zip(given, told["fronts"], strict=True):
        if missing := sorted(right_front(options) - set(found)):
            return f"{missing[0]} {_numbers(options[missing[0]])} is missing, though nothing dominates it."
    if all(set(found) == set(options) for options, found in zip(given, told["fronts"], strict=True)):
        return "everything is on every front: then nothing was compared."
    return ""


def _numbers(option: dict[str, float]) -> str:
    mega = 10**6
    return f"({option['accuracy']:.2f}, {option['peak_bytes'] / mega:g} MB, {option['stored_bytes'] / mega:g} MB)"


Exercise(
    "a6.pareto",
    draw_options,
    ask_front,
    (Property("nothing dominated on it", 2, none_dominated), Property("nothing missing", 2, none_missing)),
)
