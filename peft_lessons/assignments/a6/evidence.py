"""Gather the evidence for one method: tune on validation, then test, and write down all that others need to judge it.

One study's runs are real ones of the course's decoder, of a few steps on a few rows, so that it takes seconds. In three
more the accuracies are drawn, and each rate is once the best on validation: whoever does not follow what the runs say
is wrong in two of them, whatever the luck.

Source: the protocol of this course's `data/measured`; Lialin et al. 2023, section 12, ask for the same.
"""

import operator
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from statistics import mean, stdev
from typing import Any

import torch

from peft_lessons.assignments.a6.table import same
from peft_lessons.assignments.core import Exercise, Property
from peft_lessons.assignments.given import fresh_base, seeded
from peft_lessons.assignments.told import Told
from peft_lessons.methods import LoRA, Method, Pfeiffer
from peft_lessons.methods.attaching import attach
from peft_lessons.tasks import Task, load_task, majority
from peft_lessons.training import evaluate, fit, zero_shot

METHODS: dict[str, Method] = {
    "LoRA": LoRA(r=4, alpha=8, target_modules="all-linear"),
    "Pfeiffer": Pfeiffer(bottleneck=8),
}
FIELDS = ("method", "lr", "steps", "seeds", "test", "mean", "spread", "majority class", "zero-shot")
ROWS = {"validation": 28, "test": 28}


@dataclass(frozen=True)
class Trial:
    """A method, rates and steps, and a task of a few rows; every run is noted."""

    name: str
    rates: tuple[float, ...]
    steps: int
    first_row: int
    done: dict[tuple[float, int, int], dict[str, float]] = field(default_factory=dict)
    log: list[list[Any]] = field(default_factory=list)

    @cached_property
    def task(self) -> Task:
        """A real task, with a few rows to be measured on."""
        whole = load_task("verdict")
        cut = {name: whole.split(name).select(range(self.first_row, self.first_row + n)) for name, n in ROWS.items()}
        return replace(whole, **cut)

    def measure(self, lr: float, seed: int, steps: int) -> dict[str, float]:
        """Train the decoder and give its accuracy on validation and test; the same run is made only once."""
        if (lr, seed, steps) not in self.done:
            model = attach(fresh_base("tiny"), METHODS[self.name], seed=seed)
            fit(model, self.task, steps=steps, lr=lr, batch_size=8, seed=seed, progress=False)
            found = {split: evaluate(model, self.task, split) for split in ("validation", "test")}
            self.done[lr, seed, steps] = found
        return self.done[lr, seed, steps]

    def run(self, lr: float, seed: int, steps: int, split: str) -> float:
        """What the learner calls: train with this rate and seed, and give the accuracy on one split.

        Raises:
            TypeError: a seed that is no whole number.
            ValueError: another split, or a rate, number of steps or seed that makes no sense here.
        """
        seed = operator.index(seed)  # NumPy's and torch's whole numbers too
        if split not in ("validation", "test"):
            raise ValueError(f"split is {split!r}; it can be validation or test.")
        if lr not in self.rates or not 0 < steps <= 4 * self.steps or not 0 <= seed < 2**31:
            raise ValueError(f"lr {lr}, steps {steps} or seed {seed} is none of what this study is about.")
        accuracy = self.measure(lr, seed, steps)[split]
        self.log.append([lr, seed, steps, split, accuracy])
        return accuracy

    def baseline(self, name: str) -> float:
        """The accuracy of "majority class" or "zero-shot" on test."""
        return majority(self.task) if name == "majority class" else zero_shot(fresh_base("tiny"), self.task)


@dataclass(frozen=True)
class Played(Trial):
    """A study whose accuracies are drawn: one rate leads on validation in the mean, others in one seed, or on test."""

    best: int = 0  # its place in `rates`

    def measure(self, lr: float, seed: int, steps: int) -> dict[str, float]:
        """Accuracies by rate, seed and steps, the same each time."""
        rng = random.Random(f"{self.first_row} {lr} {seed} {steps}")
        place = (self.rates.index(lr) - self.best) % len(self.rates)
        validation, test = ((0.70, 0.60), (0.62, 0.75), (0.62, 0.50))[place]
        one_seed = 0.14 * (-1) ** (seed + self.best) if place == 2 else 0.0
        return {"validation": validation + one_seed + rng.uniform(0, 0.02), "test": test + rng.uniform(0, 0.04)}

    def baseline(self, name: str) -> float:
        """A number of its own for each of the two."""
        return round(random.Random(f"{self.first_row} {name}").uniform(0.2, 0.5), 4)


@seeded
def draw_trials(g: torch.Generator) -> list[Trial]:
    """A study of real runs, and one for each rate in which that rate is the best on validation."""
    seeds = torch.randint(2**31, (4,), generator=g).tolist()
    real, *others = (draw_trial(seed) for seed in seeds)
    played = [
        Played(other.name, other.rates, 20 + other.steps * (best + 1), seed, best=best)
        for best, (other, seed) in enumerate(zip(others, seeds[1:], strict=True))
    ]
    return [real, *played]


@seeded
def draw_trial(g: torch.Generator) -> Trial:
    """A rate that is far too low, one that is not, and one that is far too high; which is which is not their order."""

    def one_of(*choices: float) -> float:
        return choices[int(torch.randint(len(choices), (), generator=g))]

    name = list(METHODS)[int(torch.randint(len(METHODS), (), generator=g))]
    low, good, high = one_of(1e-6, 3e-6), one_of(6e-3, 8e-3, 1e-2), one_of(0.3, 0.5)
    rates = ((low, good, high), (high, good, low), (low, high, good), (high, low, good))
    order = rates[int(torch.randint(len(rates), (), generator=g))]
    steps, row = int(torch.randint(12, 15, (), generator=g)), int(torch.randint(100, (), generator=g))
    return Trial(name, order, steps, row)


def ask_evidence(given: list[Trial], told: Told, gather: Callable[..., dict[str, Any]]) -> None:
    for n, trial in enumerate(given):
        told[f"record {n}"] = gather(trial.run, trial.baseline, trial.name, trial.rates, trial.steps)
        told[f"log {n}"] = trial.log


@dataclass(frozen=True)
class Study:
    """What was recorded of one trial, and the runs that were made: rate, seed, steps, split, accuracy."""

    record: dict[str, Any]
    log: list[list[Any]]

    def runs(self, split: str) -> list[list[Any]]:
        """The runs on one split."""
        return [entry for entry in self.log if entry[3] == split]


def _of_each(wrong: Callable[[Trial, Study], str]) -> Callable[[list[Trial], Told], str]:
    """The same asked of every trial; what is wrong with the first that is not right."""

    def of_each(given: list[Trial], told: Told) -> str:
        found = (wrong(trial, Study(told[f"record {n}"], told[f"log {n}"])) for n, trial in enumerate(given))
        return next(filter(None, found), "")

    return of_each


def complete(given: Trial, told: Study) -> str:
    record = told.record
    if missing := [name for name in FIELDS if name not in record]:
        return f"{missing[0]!r} is not in the record."
    if record["method"] != given.name or record["steps"] != given.steps:
        return "method or steps are not those that were asked for."
    lengths = {len(record["seeds"]), len(record["test"]), len(set(map(str, record["seeds"])))}
    return "" if len(lengths) == 1 else "there must be one test accuracy for each seed, and each seed once."


def tuned(given: Trial, told: Study) -> str:
    runs = told.runs("validation")
    seeds = {lr: {entry[1] for entry in runs if entry[0] == lr} for lr in given.rates}
    for lr, tried in seeds.items():
        if len(tried) < 2:
            return f"the rate {lr:g} was tried with {len(tried)} seeds on validation; two are the least."
    if len(set(map(frozenset, seeds.values()))) > 1:
        return "the rates were tried with different seeds."
    scores = {lr: mean({e[1]: e[4] for e in runs if e[0] == lr}.values()) for lr in given.rates}
    found = told.record["lr"]
    if found not in scores or scores[found] < max(scores.values()) - 1e-9:
        means = ", ".join(f"{score:.3f} at {lr:g}" for lr, score in scores.items())
        return f"{found} was chosen, and the runs on validation gave {means} in the mean."
    return ""


def tested_once(given: Trial, told: Study) -> str:
    runs, rate = told.runs("test"), told.record["lr"]
    if not runs:
        return "nothing was measured on test."
    if others := sorted({entry[0] for entry in runs} - {rate}):
        return f"test was looked at with the rate {others[0]:g} too, which was not the chosen one."
    return ""


def same_steps(given: Trial, told: Study) -> str:
    if not told.runs("validation") or not told.runs("test"):
        return "there were no runs on validation, or none on test."
    steps = {entry[2] for entry in told.log}
    return "" if steps == {given.steps} else f"runs were of {sorted(steps)} steps, not all of {given.steps}."


def all_seeds(given: Trial, told: Study) -> str:
    record, runs = told.record, {entry[1]: entry[4] for entry in told.runs("test")}
    if len(runs) < 3:
        return f"{len(runs)} seeds on test; three are the least."
    if sorted(runs) != sorted(record["seeds"]):
        return f"seeds {sorted(runs)} were tested, and {record['seeds']} are reported: none is left out."
    pairs = zip(record["seeds"], record["test"], strict=True)
    if not all(same(accuracy, runs[seed]) for seed, accuracy in pairs):
        return "the test accuracies are not those that the runs gave, seed by seed."
    numbers = list(runs.values())
    if not same(record["mean"], mean(numbers)) or not same(record["spread"], stdev(numbers)):
        return "mean and spread are not those of all seeds on test (the spread is the sample's standard deviation)."
    first, rate = sorted(runs)[0], record["lr"]
    if (
        rate not in given.rates
        or abs(given.measure(rate, first, given.steps)["test"] - runs[first]) > 1.5 / ROWS["test"]
    ):
        return "the same run, made again, gives another accuracy."
    return ""


def with_baselines(given: Trial, told: Study) -> str:
    for name in ("majority class", "zero-shot"):
        if not same(told.record[name], given.baseline(name)):
            return f"{name} has another accuracy."
    return ""


Exercise(
    "a6.evidence",
    draw_trials,
    ask_evidence,
    (
        Property("a complete record", 1, _of_each(complete)),
        Property("the rate from validation, two seeds each", 2, _of_each(tuned)),
        Property("test only at that rate", 1, _of_each(tested_once)),
        Property("every run as long as asked", 1, _of_each(same_steps)),
        Property("every seed on test, as it was", 2, _of_each(all_seeds)),
        Property("beside both baselines", 1, _of_each(with_baselines)),
    ),
)
