"""What two lists of accuracies, one by seed, allow to be said: better, worse, or that it cannot be told.

    told apart    at least three seeds each, and |mean(a) - mean(b)| > 2 · sqrt(s_a² / n_a + s_b² / n_b)

Source: the standard error of a difference of means, Welch 1947; three seeds are the least that this course compares.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass
from statistics import mean, stdev

import torch

from peft_lessons.assignments.core import Exercise, Property
from peft_lessons.assignments.given import seeded
from peft_lessons.assignments.told import Told

WORDS = ("better", "worse", "cannot tell")
FEWEST = 3


@dataclass(frozen=True)
class Pair:
    """Two methods' accuracies by seed."""

    a: list[float]
    b: list[float]

    @property
    def right(self) -> str:
        """What may be said of a against b."""
        if min(len(self.a), len(self.b)) < FEWEST:
            return "cannot tell"
        error = (stdev(self.a) ** 2 / len(self.a) + stdev(self.b) ** 2 / len(self.b)) ** 0.5
        difference = mean(self.a) - mean(self.b)
        if abs(difference) <= 2 * error + 1e-12:
            return "cannot tell"
        return "better" if difference > 0 else "worse"


Pairs = dict[str, list[Pair]]


def _around(rng: random.Random, center: float, spread: float, n: int) -> list[float]:
    """So many numbers of exactly this mean and standard deviation."""
    if n == 1:
        return [center]
    drawn = [rng.gauss(0, 1) for _ in range(n)]
    middle, width = mean(drawn), stdev(drawn)
    return [center + spread * (x - middle) / width for x in drawn]


@seeded
def draw_pairs(g: torch.Generator) -> Pairs:
    rng = random.Random(int(torch.randint(2**31, (), generator=g)))

    def pair(n: int, errors: float, times: float = 1.0, n_b: int = 0) -> Pair:
        """Means apart by so many standard errors; b's spread is so many times a's, its seeds are as many or `n_b`."""
        spread, center, n_b = rng.uniform(0.01, 0.03), rng.uniform(0.6, 0.7), n_b or n
        error = spread * (1 / n + times**2 / n_b) ** 0.5
        return Pair(_around(rng, center + errors * error, spread, n), _around(rng, center, times * spread, n_b))

    def near(errors: float) -> list[Pair]:
        """Pairs for which the very formula decides, and no rule like it."""
        sizes = ((3, 1.0, 3), (4, 0.3, 9), (9, 3.0, 4))
        return [pair(n, sign * errors, times, n_b) for n, times, n_b in sizes for sign in (1, -1)]

    low = rng.uniform(0.5, 0.6)
    lucky = [*_around(rng, low, 0.02, 19), low + 0.16]
    return {
        "apart": [
            *(pair(n, sign * errors) for n, errors in ((3, 8), (5, 6), (20, 4)) for sign in (1, -1)),
            Pair([low] * 3, [low + 0.02] * 3),
            pair(3, 5, 4.0),
            Pair(_around(rng, low + 0.04, 0.02, 20), lucky),
            *near(2.02),
        ],
        "not apart": [
            *(pair(n, sign * errors) for n, errors in ((3, 0.4), (3, 1.3), (5, 0.7), (20, 1.2)) for sign in (1, -1)),
            pair(3, 1.2, 6.0),
            Pair([low] * 3, [low] * 3),
            Pair([low + 0.01, low + 0.04, low + 0.07], [low, low + 0.03, low + 0.06]),  # seed by seed always as far
            *near(1.98),
        ],
        "too few": [
            pair(2, 9),
            pair(2, -9),
            Pair([low + 0.2], [low]),
            Pair([low + 0.2], _around(rng, low, 0.01, 3)),
            Pair(_around(rng, low + 0.2, 0.01, 3), _around(rng, low, 0.01, 2)),
            Pair(_around(rng, low + 0.2, 0.01, 2), _around(rng, low, 0.01, 9)),
        ],
    }


def ask_pairs(given: Pairs, told: Told, verdict: Callable[[list[float], list[float]], str]) -> None:
    told["said"] = {kind: [verdict(list(pair.a), list(pair.b)) for pair in pairs] for kind, pairs in given.items()}


def _wrong(given: Pairs, told: Told, kind: str) -> tuple[Pair, str] | None:
    for pair, said in zip(given[kind], told["said"][kind], strict=True):
        if said != pair.right:
            return pair, str(said)
    return None


def _shown(pair: Pair) -> str:
    return "; ".join(
        f"{len(x)} seed{'s' * (len(x) > 1)} around {mean(x):.3f}" + (f" ± {stdev(x):.3f}" if len(x) > 1 else "")
        for x in (pair.a, pair.b)
    )


def apart(given: Pairs, told: Told) -> str:
    if found := _wrong(given, told, "apart"):
        pair, said = found
        if said not in WORDS:
            return f"{said!r} is none of {', '.join(WORDS)}."
        return f"{_shown(pair)}: {said!r}, though the means are far enough apart for so many seeds."
    return ""


def _blind(given: Pairs, told: Told) -> str:
    """What is wrong where no pair at all is told apart: then the others are right for nothing."""
    seen = any(said == pair.right for pair, said in zip(given["apart"], told["said"]["apart"], strict=True))
    return "" if seen else apart(given, told)


def not_apart(given: Pairs, told: Told) -> str:
    if wrong := _blind(given, told):
        return wrong
    found = _wrong(given, told, "not apart")
    return f"{_shown(found[0])}: {found[1]!r}, though seeds alone differ as much." if found else ""


def too_few(given: Pairs, told: Told) -> str:
    if wrong := _blind(given, told):
        return wrong
    found = _wrong(given, told, "too few")
    return f"{_shown(found[0])}: {found[1]!r} from so few seeds." if found else ""


Exercise(
    "a6.claims",
    draw_pairs,
    ask_pairs,
    (
        Property("says what is evident", 2, apart),
        Property("does not say what is not", 2, not_apart),
        Property("asks for three seeds", 1, too_few),
    ),
)
