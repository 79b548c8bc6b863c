"""T-Few's three losses on one question, and the choice by score.

Source: Liu et al. 2022, section 3.2, as coded in r-three/t-few, with its 0.01 in the unlikelihood.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from peft_lessons.assignments.core import Exercise, Property
from peft_lessons.assignments.given import close, seeded
from peft_lessons.assignments.told import Told


@dataclass(frozen=True)
class Choices:
    """The log-probabilities of each choice's tokens, choices of different lengths, and which one is right."""

    log_p: list[Tensor]
    right: int

    @property
    def wrong(self) -> Tensor:
        """The log-probabilities of all tokens of wrong choices."""
        return torch.cat([p for i, p in enumerate(self.log_p) if i != self.right]).double()

    @property
    def scores(self) -> Tensor:
        """Mean log-probability of each choice's tokens."""
        return torch.stack([p.double().mean() for p in self.log_p])

    @property
    def by_probability(self) -> int:
        """The choice with the largest mean probability, which may be another than the best."""
        return int(torch.stack([p.double().exp().mean() for p in self.log_p]).argmax())


@seeded
def draw_choices(g: torch.Generator) -> list[Choices]:
    found: list[Choices] = []
    while len(found) < 4:
        lengths = (torch.randperm(5, generator=g)[:3] + 1).tolist()
        log_p = [-torch.rand(n, generator=g) * 3 - 0.05 for n in lengths]
        asked = Choices(log_p, int(torch.randint(3, (), generator=g)))
        best = int(asked.scores.argmax())
        by_sum = int(torch.stack([p.sum() for p in log_p]).argmax())
        decides = asked.by_probability != best or len(found) > 1  # of the first two, probabilities tell another one
        if decides and best not in (by_sum, 0, asked.right):  # the sum, the first and the right one would be wrong
            found.append(asked)
    return found


def ask_losses(
    given: list[Choices], told: Told, losses: Callable[..., tuple[Tensor, Tensor, Tensor]], rank: Callable[..., int]
) -> None:
    told["ranked"] = [int(rank([p.clone() for p in asked.log_p])) for asked in given]
    for i, asked in enumerate(given):
        log_p = [p.clone().requires_grad_() for p in asked.log_p]
        for name, loss in zip(("lm", "ul", "ln"), losses(log_p, asked.right), strict=True):
            told[f"{name}{i}"], told[f"{name}{i} learns"] = torch.as_tensor(loss), getattr(loss, "requires_grad", False)


def _named(given: list[Choices], told: Told, name: str, right: Callable, mistakes: dict[str, Callable]) -> str:
    found = [told.tensor(f"{name}{i}") for i in range(len(given))]
    if shape := next((list(f.shape) for f in found if f.dim()), []):
        return f"it is a tensor of shape {shape}, and not one number."
    if not all(told[f"{name}{i} learns"] for i in range(len(given))):
        return "it is cut off from log_p: no gradient would come back through it."
    if all(close(f, right(asked)) for f, asked in zip(found, given, strict=True)):
        return ""
    for says, wrong in mistakes.items():
        if all(close(f, wrong(asked)) for f, asked in zip(found, given, strict=True)):
            return says
    return "on choices of different lengths it is not the formula's number: try one question by hand."


def lm(given: list[Choices], told: Told) -> str:
    mistakes = {
        "the sign is wrong: a loss falls when the right choice becomes likelier.": lambda c: c.scores[c.right],
        "it is summed over the tokens; it is their mean.": lambda c: -c.log_p[c.right].double().sum(),
        "it is taken over all choices; only the right one is to become likelier.": lambda c: (
            -torch.cat(c.log_p).double().mean()
        ),
    }
    return _named(given, told, "lm", lambda c: -c.scores[c.right], mistakes)


def unlikelihood(given: list[Choices], told: Told) -> str:
    def of(log_p: Tensor, small: float = 0.01) -> Tensor:
        return -torch.log(1 - log_p.exp() + small)

    mistakes = {
        "the 0.01 is missing: a wrong token that is certain would make it infinite.": lambda c: of(c.wrong, 0).mean(),
        "it is taken on the right choice; the wrong ones are to become less likely.": lambda c: of(
            c.log_p[c.right].double()
        ).mean(),
        "it is taken on all choices; the right one is not to become less likely.": lambda c: of(
            torch.cat(c.log_p).double()
        ).mean(),
        "it is summed; it is the mean over all tokens of wrong choices.": lambda c: of(c.wrong).sum(),
        "each wrong choice is averaged first; it is one mean over all their tokens.": lambda c: torch.stack(
            [of(p.double()).mean() for i, p in enumerate(c.log_p) if i != c.right]
        ).mean(),
        "that is the likelihood of the wrong tokens, so they would become likelier.": lambda c: -c.wrong.mean(),
    }
    return _named(given, told, "ul", lambda c: of(c.wrong).mean(), mistakes)


def length_normalized(given: list[Choices], told: Told) -> str:
    def of(scores: Tensor, right: int) -> Tensor:
        return -torch.log_softmax(scores, 0)[right]

    def sums(c: Choices) -> Tensor:
        return torch.stack([p.double().sum() for p in c.log_p])

    mistakes = {
        "the scores are sums: a long choice would lose by its length.": lambda c: of(sums(c), c.right),
        "the sign of the scores is wrong: the likeliest choice has the largest score.": lambda c: of(
            -c.scores, c.right
        ),
        "it lacks the logarithm.": lambda c: -torch.softmax(c.scores, 0)[c.right],
    }
    return _named(given, told, "ln", lambda c: of(c.scores, c.right), mistakes)


def ranked(given: list[Choices], told: Told) -> str:
    right = [int(asked.scores.argmax()) for asked in given]
    if told["ranked"] == right:
        return ""
    if told["ranked"] == [int(torch.stack([p.sum() for p in c.log_p]).argmax()) for c in given]:
        return "it ranks by the sum, so the shortest choice wins too often."
    if told["ranked"] == [c.by_probability for c in given]:
        return "it ranks by the mean of the probabilities; a score is the mean of their logarithms."
    return "the choice is not the one with the best score a token."


Exercise(
    "a5.t_few",
    draw_choices,
    ask_losses,
    (
        Property("language modelling", 1, lm),
        Property("unlikelihood", 2, unlikelihood),
        Property("length-normalised choice", 2, length_normalized),
        Property("the answer by score", 1, ranked),
    ),
)
