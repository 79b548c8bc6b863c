"""Made-up tasks, and a stand-in for a prompted model: its answers depend on every word of the prompt, and on no luck.

Source: none; a fixed function in a model's place makes what was measured checkable to the last answer.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch

Examples: TypeAlias = "list[tuple[str, str]]"  # (text, label)
LABELS = ("lantern", "pebble", "velvet")
WORDS = "room bed singer drummer garden pool chorus pillow lamp view stage door sofa porter window song".split()


def texts(n: int, g: torch.Generator) -> list[str]:
    """So many different texts of three words and a number."""
    numbers = torch.randperm(900, generator=g)[:n].tolist()
    picks = torch.randint(len(WORDS), (n, 3), generator=g).tolist()
    return [" ".join([*(WORDS[i] for i in row), str(100 + number)]) for row, number in zip(picks, numbers, strict=True)]


def examples(counts: Sequence[int], g: torch.Generator) -> Examples:
    """Examples of three labels, so many of each, in random order."""
    labels = [label for label, count in zip(LABELS, counts, strict=True) for _ in range(count)]
    order = torch.randperm(len(labels), generator=g).tolist()
    return [(text, labels[i]) for text, i in zip(texts(len(labels), g), order, strict=True)]


@dataclass(frozen=True)
class StandIn:
    """What a prompted model would answer, as a fixed function of the prompt: right in about two thirds of all cases."""

    seed: int
    truth: dict[str, str]

    def __call__(self, demonstrations: Sequence[Sequence[str]], questions: Sequence[str]) -> list[str]:
        return [self._answer(demonstrations, question) for question in questions]

    def _answer(self, demonstrations: Sequence[Sequence[str]], question: str) -> str:
        prompt = json.dumps([self.seed, [list(shown) for shown in demonstrations], question])
        number = hashlib.sha256(prompt.encode()).digest()[0]
        return self.truth[question] if number < 128 else LABELS[number % len(LABELS)]

    def accuracy(self, demonstrations: Sequence[Sequence[str]], test: Examples) -> float:
        """Share of right answers with these demonstrations."""
        answers = self(demonstrations, [text for text, _ in test])
        return sum(answer == label for answer, (_, label) in zip(answers, test, strict=True)) / len(test)


@dataclass
class Recorder:
    """Passes questions on to a model, and writes down what was in each prompt."""

    model: Callable[..., list[str]]
    calls: list[list[Any]] = field(default_factory=list)

    def __call__(self, demonstrations: Any, questions: Any) -> list[str]:
        if isinstance(questions, str):
            raise TypeError("answer takes a list of texts, not one text")
        shown = [[str(text), str(label)] for text, label in demonstrations]
        self.calls.append([shown, [str(question) for question in questions]])
        return self.model(shown, list(questions))


def by_prompt(calls: Any) -> dict[tuple[tuple[str, str], ...], list[str]]:
    """Demonstrations -> every text that was asked with them, in the order in which the prompts first came."""
    found: dict[tuple[tuple[str, str], ...], list[str]] = {}
    for demonstrations, questions in calls:
        shown = tuple((str(text), str(label)) for text, label in demonstrations)
        found.setdefault(shown, []).extend(map(str, questions))
    return found
