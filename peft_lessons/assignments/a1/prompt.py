"""A few-shot prompt, to the letter.

Source: the prompt form of Brown et al. 2020, "Language Models are Few-Shot Learners".
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import torch

from peft_lessons.assignments.a1.standin import Examples, examples, texts
from peft_lessons.assignments.core import Exercise, Property
from peft_lessons.assignments.given import seeded
from peft_lessons.assignments.told import Told
from peft_lessons.prompting import few_shot_prompt

ARROW, QUESTION, REVIEW = "{text} -> {label}", "Q: {text}\nA: {label}", "Review: {text}\nLabel: {label}"


@dataclass(frozen=True)
class Case:
    """What a prompt is made of."""

    demonstrations: Examples
    query: str
    template: str = ARROW
    header: str = ""

    @property
    def text(self) -> str:
        """The prompt itself."""
        return few_shot_prompt(self.demonstrations, self.query, template=self.template, header=self.header)


Cases: TypeAlias = "dict[str, Case]"


@seeded
def draw_cases(g: torch.Generator) -> Cases:
    shots = [examples(counts, g) for counts in ((1, 1, 1), (2, 0, 0), (1, 1, 2), (1, 0, 1))]
    shots[0][0] = (f" {shots[0][0][0]}", shots[0][0][1])  # at the very front, where trimming the prompt would cut it
    shots[0].insert(2, shots[0][0])
    shots[0][1] = (f" {shots[0][1][0].title()},  so  we heard ", shots[0][1][1])  # as people write
    queries = texts(6, g)
    braces = [("a {label} on the {} door", shots[3][0][1]), ("as {text} says", shots[3][1][1])]
    return {
        "no examples": Case([], queries[0]),
        "three examples": Case(shots[0], queries[1]),
        "a header": Case(shots[1], queries[2], QUESTION, "Labels: lantern, pebble, velvet"),
        "two lines": Case(shots[2], queries[3], REVIEW),
        "braces": Case(braces, f"{queries[4]} {{1}} {{label}}", ARROW, "Labels: {one}, {two}"),
    }


def ask_prompt(given: Cases, told: Told, build: Callable[[Examples, str, str, str], str]) -> None:
    for name, case in given.items():
        told[name] = build(list(case.demonstrations), case.query, case.template, case.header)


def whole(names: tuple[str, ...], says: str, given: Cases, told: Told) -> str:
    """Whether all of these prompts are right; where one is not, the mistake by name, or what is said."""
    for name in names:
        found, case = told[name], given[name]
        if found != case.text:
            return _mistake(found, case) or says
    return ""


def _mistake(found: object, case: Case) -> str:
    if not isinstance(found, str):
        return "build_prompt must return the text."
    lines = [case.template.format(text=text, label=label) for text, label in case.demonstrations]
    question = case.template.format(text=case.query, label="").rstrip(" ")
    head = [case.header] if case.header else []
    mistakes = {
        "it ends in white space: the answer begins with a space of its own": [*head, *lines, question],
        "the examples are in another order than given": [*head, *lines[::-1], question],
        "the question stands before the examples": [*head, question, *lines],
        "the header is missing": [*lines, question],
        "the header is not the first line": [*lines, *head, question],
        "an empty line stands in front, where there is no header": ["", *lines, question],
        "the first example is missing": [*head, *lines[1:], question],
        "the last example is missing": [*head, *lines[:-1], question],
        "the examples are missing": [*head, question],
        "the question is missing": [*head, *lines],
    }
    for says, parts in mistakes.items():
        if found.rstrip() == "\n".join(parts):
            return f"{says}."
    if len(set(lines)) < len(lines) and found.split() == "\n".join([*head, *dict.fromkeys(lines), question]).split():
        return "an example that is given twice stands in the prompt twice."
    if found.rstrip() == "\n\n".join([*head, *lines, question]):
        return "there are empty lines between the parts."
    if found.lower().split() == case.text.lower().split():
        return "the words are right, and the capitals or the spaces between them are not: texts stay as they are."
    return ""


Exercise(
    "a1.prompt",
    draw_cases,
    ask_prompt,
    (
        Property("the question alone", 1, partial(whole, ("no examples",), "with no examples it is the question.")),
        Property("examples in front", 1, partial(whole, ("three examples",), "print it beside the example above.")),
        Property(
            "a header where there is one", 1, partial(whole, ("a header",), "with a header, it is not this text.")
        ),
        Property("any template", 1, partial(whole, ("two lines", "a header"), "another template than the arrow?")),
        Property("texts with braces", 1, partial(whole, ("braces",), "a text that holds { or } must come through.")),
    ),
)
