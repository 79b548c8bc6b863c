"""A prompt that only seems to learn: the majority baseline, and a diagnosis from answers alone.

Source: huggingface/peft issue 2642, where every epoch reports accuracy 0.6838: that of answering "equivalent" always,
279 of 408.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from peft_lessons.assignments.core import Exercise, Property
from peft_lessons.assignments.given import seeded
from peft_lessons.assignments.told import Told

Labels = list[str]
MRPC = ["equivalent"] * 279 + ["different"] * 129


@dataclass(frozen=True)
class Results:
    """Right answers of the training and the test set, and what several models answered on the test set."""

    train: Labels
    test: Labels
    answered: dict[str, Labels]  # the right diagnosis, numbered -> a model's answers


@seeded
def draw_results(g: torch.Generator) -> Results:
    names = [f"label {n}" for n in torch.randperm(90, generator=g)[:3].tolist()]

    def draw(n: int, weights: list[float]) -> Labels:
        return [names[i] for i in torch.multinomial(torch.tensor(weights), n, True, generator=g).tolist()]

    def flip(answers: Labels, share: float) -> Labels:
        return [draw(1, [1.0, 1.0, 1.0])[0] if torch.rand((), generator=g) < share else a for a in answers]

    def right_in(n: int) -> Labels:
        """Answers of which so many are right, those of the most frequent label in training the last."""
        order = sorted(range(len(test)), key=lambda i: test[i] == names[0])
        return [a if i in order[:n] else names[(names.index(a) + 1) % 3] for i, a in enumerate(test)]

    def fits() -> bool:
        """Whether the baseline is above a third, and another label the most frequent in the test set, and in both."""
        first, second = test.count(names[0]), test.count(names[1])
        leads = train.count(names[0]) > max(train.count(name) for name in names[1:])
        both = first + train.count(names[0]) < second + train.count(names[1])
        return leads and both and 1.05 * len(test) / 3 < first < 0.95 * second < 0.6 * len(test)

    train, test = draw(40, [6.0, 3.0, 1.0]), draw(200, [4.0, 5.5, 0.5])
    while not fits():
        train, test = draw(40, [6.0, 3.0, 1.0]), draw(200, [4.0, 5.5, 0.5])
    baseline = test.count(names[0])
    answered = {
        "constant 1": [names[0]] * 200,
        "constant 2": [names[1]] * 200,  # above the majority of the training set, and still constant
        "learned 1": flip(test, 0.3),
        "learned 2": flip(test, 0.1),
        "no better 1": [names[(names.index(a) + 1) % 3] for a in test],
        "no better 2": right_in(baseline),
        "no better 3": [names[0]] * 199 + [next(a for a in names[1:] if a != test[-1])],
        "learned 3": right_in(baseline + 1),
    }
    return Results(train, test, answered)


def ask_results(
    given: Results, told: Told, majority: Callable[[Labels, Labels], float], diagnose: Callable[..., str]
) -> None:
    told["majority"] = float(majority(list(given.train), list(given.test)))
    told["mrpc"] = float(majority(list(MRPC), list(MRPC)))
    told["diagnoses"] = {
        name: diagnose(list(given.train), list(given.test), list(answers)) for name, answers in given.answered.items()
    }


def baseline(given: Results, told: Told) -> str:
    most = max(sorted(set(given.train)), key=given.train.count)
    expected = given.test.count(most) / len(given.test)
    if abs(told["majority"] - expected) < 1e-9 and abs(told["mrpc"] - 279 / 408) < 1e-9:
        return ""
    of_test = max(map(given.test.count, set(given.test))) / len(given.test)
    if abs(told["majority"] - of_test) < 1e-9:
        return "the most frequent answer of the test set was taken, or of both sets: nobody knows it before the test."
    if abs(told["majority"] - given.train.count(most) / len(given.train)) < 1e-9:
        return "that is the share in the training set; how often is this answer right in the test set?"
    return "that is not the share of the test set that the training set's most frequent answer gets right."


def _diagnosed(given: Results, told: Told, kind: str) -> str:
    names = [name for name in given.answered if name.startswith(kind)]
    if len(set(told["diagnoses"].values())) < 2:
        return "all models get the same diagnosis."
    for name in names:
        if told["diagnoses"][name] != kind:
            different = len(set(given.answered[name]))
            right = sum(a == b for a, b in zip(given.answered[name], given.test, strict=True)) / len(given.test)
            says = f"a model with {different} different answers, {right:.1%} of them right,"
            return f"{says} is not {told['diagnoses'][name]!r}."
    return ""


Exercise(
    "a5.seems",
    draw_results,
    ask_results,
    (
        Property("the majority baseline", 1, baseline),
        Property("a constant answer is seen", 1, lambda given, told: _diagnosed(given, told, "constant")),
        Property("no better than the baseline is seen", 1, lambda given, told: _diagnosed(given, told, "no better")),
        Property("learning is seen", 1, lambda given, told: _diagnosed(given, told, "learned")),
    ),
)
