"""A fair table out of raw runs: each method at its own rate, chosen on validation, with mean and spread over seeds.

Source: what Lialin, Deshpande and Rumshisky 2023, "Scaling Down to Scale Up", section 12, ask of comparisons; the runs
are of the form of `data/measured`.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from statistics import mean, pstdev, stdev
from typing import Any

import torch

from peft_lessons.assignments.core import Exercise, Property
from peft_lessons.assignments.given import seeded
from peft_lessons.assignments.told import Told

Run = dict[str, Any]
BASELINES = ("majority class", "zero-shot")


@dataclass(frozen=True)
class Study:
    """Runs in no order, and for how many steps those to be compared were trained."""

    runs: list[Run]
    steps: int

    def of(self, label: str, split: str, lr: float | None = None, steps: int | None = None) -> list[Run]:
        """The runs of a method on a split, by seed."""
        steps = self.steps if steps is None else steps
        found = [r for r in self.runs if (r["label"], r["split"], r["steps"]) == (label, split, steps)]
        return sorted((r for r in found if lr is None or r["lr"] == lr), key=lambda r: (r["lr"], r["seed"]))

    def accuracies(self, label: str, split: str, lr: float | None = None) -> list[float]:
        """The same, accuracies alone."""
        return [run["accuracy"] for run in self.of(label, split, lr)]

    @property
    def methods(self) -> list[str]:
        """Those that were trained for as many steps as the others."""
        return sorted({run["label"] for run in self.runs if run["steps"] == self.steps})

    def rate(self, label: str) -> float:
        """The rate with the highest mean accuracy on validation."""
        rates = {run["lr"] for run in self.of(label, "validation")}
        return max(rates, key=lambda lr: mean(self.accuracies(label, "validation", lr)))


@seeded
def draw_studies(g: torch.Generator) -> list[Study]:
    rng = random.Random(int(torch.randint(2**31, (), generator=g)))
    return [_study(rng) for _ in range(2)]


def _study(rng: random.Random) -> Study:
    steps, runs = rng.choice((60, 100, 150)), []
    labels = rng.sample(("LoRA", "BitFit", "Houlsby", "(IA)3", "KronA", "full fine-tuning", "head only"), 5)
    for label in BASELINES:
        share = round(rng.uniform(0.2, 0.5), 4)
        runs.append(_run(label, None, 0, "test", None, share))
    for number, label in enumerate(labels):
        level, lowest = rng.uniform(0.6, 0.75), rng.choice((1e-4, 3e-4, 5e-4))
        rates = [lowest, round(3 * lowest, 5), round(10 * lowest, 5)]
        steady, on_test, lucky = rng.sample(rates, 3)  # best on validation; best on test; one seed best
        levels = {steady: ((0.10, 0.11), 0.08), on_test: ((0.05, 0.04), 0.15), lucky: ((0.17, -0.04), 0.02)}
        for times in (1, 4) if number in (0, 1) else (4,) if number == 4 else (1,):
            for lr, (on_validation, mean_on_test) in levels.items():
                more = level + 0.08 * (times > 1) * (1 + (lr == lucky))
                order = rng.sample(on_validation, 2) * (1 if lr == steady else 2)  # the best one has fewer seeds there
                for seed, tried in enumerate(order):
                    accuracy = more + tried + rng.uniform(-3e-4, 3e-4)
                    runs.append(_run(label, lr, seed, "validation", steps * times, accuracy))
                for seed in range(3 + number % 3):
                    accuracy = more + mean_on_test + rng.uniform(-0.03, 0.03)
                    runs.append(_run(label, lr, seed, "test", steps * times, accuracy))
    rng.shuffle(runs)
    return Study(runs, steps)


def _run(label: str, lr: float | None, seed: int, split: str, steps: int | None, accuracy: float) -> Run:
    return {"label": label, "lr": lr, "seed": seed, "split": split, "steps": steps, "accuracy": accuracy}


def ask_tables(given: list[Study], told: Told, make: Callable[[list[Run], int], dict[str, dict[str, Any]]]) -> None:
    told["tables"] = [make([dict(run) for run in study.runs], study.steps) for study in given]


def _rows(given: list[Study], told: Told) -> Iterator[tuple[Study, str, dict[str, Any]]]:
    """Every method that belongs in the table, with its row.

    Raises:
        ValueError: one is missing.
    """
    for study, table in zip(given, told["tables"], strict=True):
        for label in study.methods:
            if label not in table:
                raise ValueError(f"{label} has no row")
            yield study, label, table[label]


def same(found: object, right: float) -> bool:
    """Whether it is this number."""
    return isinstance(found, int | float) and right - 1e-9 < found < right + 1e-9


def _best(runs: list[Run]) -> float:
    return max({run["lr"] for run in runs}, key=lambda lr: mean(run["accuracy"] for run in runs if run["lr"] == lr))


def rates(given: list[Study], told: Told) -> str:
    for study, label, row in _rows(given, told):
        if row["lr"] == study.rate(label):
            continue
        validation, test = study.of(label, "validation"), study.of(label, "test")
        longer = [run for run in study.runs if run["label"] == label and run["split"] == "validation"]
        mistakes = {
            "its rate was chosen on test, so that test is no test any more": _best(test),
            "one seed on validation is no mean": max(validation, key=lambda run: run["accuracy"])["lr"],
            "runs that were trained for longer had a say": _best(longer),
            "a rate is chosen on validation alone": _best(validation + test),
        }
        named = [says for says, lr in mistakes.items() if row["lr"] == lr]
        return f"{label}: {named[0] if named else 'not the rate that is best on validation'}."
    return ""


def means(given: list[Study], told: Told) -> str:
    for study, label, row in _rows(given, told):
        accuracies = study.accuracies(label, "test", row["lr"])
        if not accuracies:
            return f"{label} was not run at the rate {row['lr']}."
        if same(row["mean"], mean(accuracies)):
            continue
        every = [r for r in study.runs if (r["label"], r["split"], r["lr"]) == (label, "test", row["lr"])]
        mistakes = {
            "the best seed is no mean": max(accuracies),
            "that is the accuracy on validation": mean(study.accuracies(label, "validation", row["lr"])),
            "the other rates do not belong in it": mean(study.accuracies(label, "test")),
            "runs that were trained for longer are in it": mean(run["accuracy"] for run in every),
            "one seed is no mean": accuracies[0],
        }
        named = [says for says, wrong in mistakes.items() if same(row["mean"], wrong)]
        return f"{label}: {named[0] if named else 'not the mean over the seeds on test'}."
    return ""


def spreads(given: list[Study], told: Told) -> str:
    for study, label, row in _rows(given, told):
        accuracies = study.accuracies(label, "test", row["lr"])
        if len(accuracies) == row["seeds"] and same(row["spread"], stdev(accuracies)):
            continue
        if len(accuracies) != row["seeds"]:
            return f"{label}: {row['seeds']} is not how many seeds were tested at this rate."
        mistakes = {
            "the seeds are a sample: divide by one less": pstdev(accuracies),
            "the largest less the smallest grows with the number of seeds": max(accuracies) - min(accuracies),
            "that is the variance": stdev(accuracies) ** 2,
        }
        named = [says for says, wrong in mistakes.items() if same(row["spread"], wrong)]
        return f"{label}: {named[0] if named else 'not the standard deviation over the seeds on test'}."
    return ""


def baselines(given: list[Study], told: Told) -> str:
    for study, table in zip(given, told["tables"], strict=True):
        for label in BASELINES:
            (run,) = [run for run in study.runs if run["label"] == label]
            if label not in table:
                return f"{label} is not in the table; without it nobody can see whether anything was learned."
            row = table[label]
            if not same(row["mean"], run["accuracy"]):
                return f"{label} has another accuracy."
            if (row["lr"], row["spread"], row["seeds"]) != (None, None, 1):
                return f"{label} has one accuracy, and neither rate nor spread."
    return ""


def same_steps(given: list[Study], told: Told) -> str:
    for study, table in zip(given, told["tables"], strict=True):
        if more := set(table) - set(study.methods) - set(BASELINES):
            return f"{sorted(more)[0]} was never trained for {study.steps} steps, so it cannot be compared here."
    for _ in _rows(given, told):  # an empty table compares nothing
        pass
    return ""


Exercise(
    "a6.table",
    draw_studies,
    ask_tables,
    (
        Property("each method's own rate, from validation", 3, rates),
        Property("means over all seeds on test", 2, means),
        Property("spread and number of seeds", 1, spreads),
        Property("the baselines beside them", 1, baselines),
        Property("the same steps for all", 1, same_steps),
    ),
)
