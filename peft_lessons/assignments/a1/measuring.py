"""What a number of shots is worth: several draws with their spread, beside what needs no shots.

Source: baselines and several draws as Zhao et al. 2021, "Calibrate Before Use", and Lu et al. 2022, "Fantastically
Ordered Prompts", show that they are needed.
"""

import statistics
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from peft_lessons.assignments.a1.standin import Examples, Recorder, StandIn, by_prompt, examples
from peft_lessons.assignments.core import Exercise, Property
from peft_lessons.assignments.given import seeded
from peft_lessons.assignments.told import Told

MOST_OFF = 1e-6


@dataclass(frozen=True)
class Study:
    """A model's stand-in, two splits whose most frequent labels differ, and what to draw."""

    model: StandIn
    train: Examples
    test: Examples
    k: int
    seeds: list[int]


@seeded
def draw_study(g: torch.Generator) -> Study:
    train, test = examples((8, 4, 4), g), examples((5, 13, 6), g)
    seeds = [*(torch.randperm(90, generator=g)[:4] + 1).tolist(), 0]
    model = StandIn(int(torch.randint(2**31, (), generator=g)), dict(train) | dict(test))
    return Study(model, train, test, 6, seeds)


def ask_study(given: Study, told: Told, measure: Callable[..., dict[str, Any]]) -> None:
    others = [seed + 100 for seed in given.seeds]
    for name, seeds in {
        "first": given.seeds,
        "again": given.seeds,
        "turned": given.seeds[::-1],
        "other": others,
    }.items():
        answer = Recorder(given.model)
        found = measure(answer, list(given.train), list(given.test), given.k, list(seeds))
        told[f"{name} calls"] = answer.calls
        for key in ("majority", "zero_shot", "mean", "spread"):
            told[f"{name} {key}"] = float(found[key])
        told[f"{name} runs"] = [float(run) for run in found["runs"]]


def majority(given: Study, told: Told) -> str:
    found = told["first majority"]
    labels = [label for _, label in given.test]
    if _same(found, labels.count(_commonest(given.train)) / len(labels)):
        return ""
    if _same(found, labels.count(_commonest(given.test)) / len(labels)):
        return "that answer was chosen by looking at the test split."
    own = [label for _, label in given.train]
    if _same(found, own.count(_commonest(given.train)) / len(own)):
        return "it is measured on the training split."
    return "it is the share of the test split that one fixed answer, the most frequent in training, gets right."


def zero_shot(given: Study, told: Told) -> str:
    asked = by_prompt(told["first calls"]).get((), [])
    if not asked:
        return "nothing was asked without demonstrations."
    if sorted(asked) != sorted(text for text, _ in given.test):
        return "without demonstrations, every test text is asked once."
    right = given.model.accuracy([], given.test)
    return "" if _same(told["first zero_shot"], right) else "it is not the share of right answers without examples."


def draws(given: Study, told: Told) -> str:
    """What the prompts held."""
    prompts = [shown for shown in by_prompt(told["first calls"]) if shown]
    if not prompts:
        return "nothing was asked with demonstrations."
    own, tested = set(given.train), {text for text, _ in given.test}
    for shown in prompts:
        if any(text in tested for text, _ in shown):
            return "a test text is among the demonstrations, with its answer."
        if not set(shown) <= own:
            return "the demonstrations are not (text, label) pairs of the training split."
        if len(shown) != given.k:
            return f"a prompt has {len(shown)} demonstrations where {given.k} were asked for."
        if len(set(shown)) < len(shown):
            return "the same demonstration stands in a prompt twice."
    if len(prompts) != len(given.seeds):
        return f"{len(given.seeds)} seeds gave {len(prompts)} different sets of demonstrations."
    return "" if len({frozenset(shown) for shown in prompts}) > 1 else "only the order differs between the seeds."


def runs(given: Study, told: Told) -> str:
    if wrong := draws(given, told):
        return wrong
    prompts = {shown: asked for shown, asked in by_prompt(told["first calls"]).items() if shown}
    everything = sorted(text for text, _ in given.test)
    if any(sorted(asked) != everything for asked in prompts.values()):
        return "with each draw, every test text is asked once."
    right = _right_runs(given, told)
    found = told["first runs"]
    if len(found) == len(right) and all(map(_same, found, right)):
        return ""
    percent = len(found) == len(right) and all(_same(a, 100 * b) for a, b in zip(found, right, strict=True))
    return "shares lie between 0 and 1." if percent else "runs are the shares of right answers, one a seed, in order."


def summary(given: Study, told: Told) -> str:
    if wrong := draws(given, told):
        return wrong
    right, mean, spread = _right_runs(given, told), told["first mean"], told["first spread"]
    if not _same(mean, statistics.mean(right)):
        return "the best run is no mean." if _same(mean, max(right)) else "the mean is not that of the runs."
    if _same(spread, statistics.stdev(right)):
        return ""
    mistakes = {
        "divided by n: that is the standard deviation of a whole population, not of a sample": statistics.pstdev(right),
        "that is the variance": statistics.variance(right),
        "that is the standard error, which is for the mean": statistics.stdev(right) / len(right) ** 0.5,
        "that is the range": max(right) - min(right),
    }
    named = [says for says, wrong in mistakes.items() if _same(spread, wrong)]
    return f"{named[0]}." if named else "the spread is not the runs' sample standard deviation."


def again(given: Study, told: Told) -> str:
    if wrong := runs(given, told):
        return wrong
    same = told["first runs"] == told["again runs"] and told["first calls"] == told["again calls"]
    if not same:
        return "the same seeds, asked again, gave other draws."
    turned = {shown for shown in by_prompt(told["turned calls"]) if shown}
    if turned != set(by_prompt(told["first calls"])) - {()} or told["turned runs"] != told["first runs"][::-1]:
        return "the same seeds in another order gave other draws, or the same order of runs."
    first, other = (set(by_prompt(told[f"{name} calls"])) - {()} for name in ("first", "other"))
    return "other seeds gave draws that there were already." if first & other else ""


def _commonest(rows: Examples) -> str:
    return Counter(label for _, label in rows).most_common(1)[0][0]


def _right_runs(given: Study, told: Told) -> list[float]:
    return [given.model.accuracy(shown, given.test) for shown in by_prompt(told["first calls"]) if shown]


def _same(found: float, right: float) -> bool:
    return abs(found - right) < MOST_OFF


Exercise(
    "a1.measure",
    draw_study,
    ask_study,
    (
        Property("the majority answer", 1, majority),
        Property("zero-shot", 1, zero_shot),
        Property("a draw for each seed", 2, draws),
        Property("the runs", 1, runs),
        Property("mean and spread", 1, summary),
        Property("by the seeds, and nothing else", 1, again),
    ),
)
