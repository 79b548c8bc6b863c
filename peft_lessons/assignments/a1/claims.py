"""How much the mere order of examples moves, and what a handful of runs allows to be said.

Source: Lu et al. 2022, "Fantastically Ordered Prompts and Where to Find Them"; the standard error of paired
differences is that of Student 1908, "The Probable Error of a Mean".
"""

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import torch

from peft_lessons.assignments.a1.standin import Examples, Recorder, StandIn, by_prompt, examples
from peft_lessons.assignments.core import Exercise, Property
from peft_lessons.assignments.given import seeded
from peft_lessons.assignments.told import Told

Runs: TypeAlias = "tuple[list[float], list[float]]"
UNKNOWN = "cannot tell"


@dataclass(frozen=True)
class Claims:
    """Demonstrations to put in every order, and pairs of accuracies, seed by seed, to say something about."""

    model: StandIn
    demonstrations: Examples
    test: Examples
    clear: list[Runs]
    unclear: list[Runs]
    paired: list[Runs]


@seeded
def draw_claims(g: torch.Generator) -> Claims:
    shots, test = examples((2, 1, 1), g), examples((4, 5, 4), g)
    model = StandIn(int(torch.randint(2**31, (), generator=g)), dict(shots) | dict(test))
    low = (0.45 + 0.02 * torch.rand(5, generator=g)).tolist()
    high = (0.70 + 0.02 * torch.rand(5, generator=g)).tolist()
    base = [0.4 + step * (0.06 + 0.02 * float(torch.rand((), generator=g))) for step in (-1, 0, 1, 0, 2)]

    def plus(errors: float, *noise: float) -> list[float]:
        """`base` and differences that lie so many standard errors from zero."""
        mean, error = statistics.mean(noise), statistics.stdev(noise) / len(noise) ** 0.5
        return [a + errors * error + d - mean for a, d in zip(base, noise, strict=True)]

    lucky, near = plus(0.8, 0.07, -0.07, 0.08, -0.06, 0.0), plus(1.98, 0.036, 0.026, -0.044, 0.026, -0.034)
    one_high = plus(1.98, 0.09, -0.02, -0.02, -0.03, -0.02)  # with every seed, and still not clear
    turned = [a + 0.03 for a in (*base[3:], *base[:3])]  # as if 0.03 above everywhere, were seeds of no account
    above = plus(2.1, -0.03, 0.02, 0.02, -0.02, 0.01)  # little beside the spread of `base`
    clear = [(high, low), (low, high), ([0.75, 0.5, 1.0], [0.5, 0.25, 0.75])]
    unclear = [(lucky, base), (base, near), (one_high, base), (base, list(base))]
    return Claims(model, shots, test, clear, unclear, [(above, base), (base, above), (turned, base)])


def ask_claims(
    given: Claims,
    told: Told,
    by_order: Callable[..., list[float]],
    verdict: Callable[[list[float], list[float]], str],
) -> None:
    answer = Recorder(given.model)
    told["accuracies"] = [float(a) for a in by_order(answer, list(given.demonstrations), list(given.test))]
    told["calls"] = answer.calls
    for name in ("clear", "unclear", "paired"):
        told[name] = [str(verdict(list(first), list(second))) for first, second in getattr(given, name)]


def every_order(given: Claims, told: Told) -> str:
    calls, n = by_prompt(told["calls"]), math.factorial(len(given.demonstrations))
    if any(sorted(shown) != sorted(given.demonstrations) for shown in calls):
        return "only the order may change: each prompt holds every demonstration, once."
    if len(calls) != n:
        return f"{len(calls)} different orders were asked; {len(given.demonstrations)} examples have more or fewer."
    everything = sorted(text for text, _ in given.test)
    once = all(sorted(asked) == everything for asked in calls.values())
    return "" if once else "with each order, every test text is asked once."


def accuracies(given: Claims, told: Told) -> str:
    if wrong := every_order(given, told):
        return wrong
    right = sorted(given.model.accuracy(shown, given.test) for shown in by_prompt(told["calls"]))
    found = sorted(told["accuracies"])
    same = len(found) == len(right) and all(abs(a - b) < 1e-6 for a, b in zip(found, right, strict=True))
    return "" if same else "there is one share of right answers for each order."


def claimed(name: str, says: str, given: Claims, told: Told) -> str:
    """Whether the verdicts on these pairs are right; no verdict is worth anything if it never commits itself."""
    for which in ("clear", name):
        for (first, second), found in zip(getattr(given, which), told[which], strict=True):
            right = _verdict(first, second)
            if found not in ("first", "second", UNKNOWN):
                return f'"{found}" is not among the three verdicts.'
            if found != right:
                return _turned(found, right) or (says if which == name else "not even a clear difference is seen.")
    return ""


def _turned(found: str, right: str) -> str:
    return "first and second are exchanged." if {found, right} == {"first", "second"} else ""


def _verdict(first: list[float], second: list[float]) -> str:
    differences = [a - b for a, b in zip(first, second, strict=True)]
    mean, error = statistics.mean(differences), statistics.stdev(differences) / len(differences) ** 0.5
    return UNKNOWN if abs(mean) <= 2 * error else "first" if mean > 0 else "second"


Exercise(
    "a1.claims",
    draw_claims,
    ask_claims,
    (
        Property("every order", 1, every_order),
        Property("its accuracy", 1, accuracies),
        Property("a clear difference", 1, partial(claimed, "clear", "a difference far beyond its error is one.")),
        Property("no clear difference", 2, partial(claimed, "unclear", "a difference within its error is claimed.")),
        Property("differences seed by seed", 1, partial(claimed, "paired", "runs of one seed belong together.")),
    ),
)
