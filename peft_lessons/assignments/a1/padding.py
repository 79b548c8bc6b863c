"""Padding on the left: rows of different lengths in one batch, each computed as if it were alone.

Source: arithmetic; the judge is a model with a learned vector for each position, Radford et al. 2019, "GPT-2".
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from peft_lessons.assignments.a1.scoring import tiny_gpt2
from peft_lessons.assignments.core import Exercise, Property
from peft_lessons.assignments.given import close, seeded
from peft_lessons.assignments.told import Told

VOCAB, PAD = 40, 1  # as in many models, the number that pads is a token that texts hold too


@dataclass(frozen=True)
class Rows:
    """Token ids of several lengths, and a model to read them."""

    model: Any
    sequences: list[list[int]]

    @property
    def longest(self) -> int:
        """The length of the longest row."""
        return max(map(len, self.sequences))

    @property
    def mask(self) -> Tensor:
        """1 for a token, 0 for padding, (batch, longest)."""
        return torch.tensor([[0] * (self.longest - len(row)) + [1] * len(row) for row in self.sequences])

    @property
    def ids(self) -> Tensor:
        """The tokens with padding on the left, (batch, longest)."""
        return torch.tensor([[PAD] * (self.longest - len(row)) + row for row in self.sequences])

    @property
    def alone(self) -> Tensor:
        """What the model says at the end of each row by itself, (batch, vocabulary)."""
        with torch.no_grad():
            return torch.stack([self.model(input_ids=torch.tensor([row])).logits[0, -1] for row in self.sequences])


@seeded
def draw_rows(g: torch.Generator) -> Rows:
    lengths = (torch.randperm(6, generator=g)[:4] + 3).tolist()
    rows = [torch.randint(2, VOCAB, (n,), generator=g).tolist() for n in lengths]
    for row in rows[:3]:  # a real token with the padding's number: in the middle, and at the front
        row[int(torch.randint(1, len(row), (), generator=g))] = PAD
    rows[3][0] = PAD
    return Rows(tiny_gpt2(VOCAB, g), rows)


def ask_rows(given: Rows, told: Told, pad: Callable[..., Any]) -> None:
    ids, mask, positions = pad([list(row) for row in given.sequences], PAD)
    told["ids"], told["mask"], told["positions"] = ids, mask, positions
    with torch.no_grad():
        logits = given.model(input_ids=ids, attention_mask=mask, position_ids=positions).logits
    told["last"] = logits[:, -1]


def on_the_left(given: Rows, told: Told) -> str:
    found, right = told.tensor("ids"), given.ids
    if found.shape != right.shape:
        return f"input_ids is {tuple(found.shape)}, for {len(right)} rows of which the longest has {given.longest}."
    if torch.equal(found, right.double()):
        return ""
    if torch.equal(found * given.mask, (right * given.mask).double()):
        return "the tokens stand where they should, and what fills the rest is not pad_id."
    turned = torch.tensor([row + [PAD] * (given.longest - len(row)) for row in given.sequences])
    on_the_right = torch.equal(found, turned.double())
    return "the padding is on the right." if on_the_right else "the tokens do not stand at the right edge as given."


def mask_is_right(given: Rows, told: Told) -> str:
    found, right = told.tensor("mask"), given.mask.double()
    if found.shape == right.shape and torch.equal(found, right):
        return ""
    mistakes = {
        "1 and 0 are exchanged": 1 - right,
        "nothing is masked": torch.ones_like(right),
        "a real token that has the padding's number is masked too": (given.ids != PAD).double(),
    }
    named = [says for says, wrong in mistakes.items() if found.shape == wrong.shape and torch.equal(found, wrong)]
    return f"{named[0]}." if named else "1 is for tokens and 0 for padding."


def positions_are_right(given: Rows, told: Told) -> str:
    found, mask = told.tensor("positions"), given.mask
    if found.shape != mask.shape:
        return f"position_ids is {tuple(found.shape)}, not as large as input_ids."
    right = mask.cumsum(-1) - 1
    here = mask.bool()
    if torch.equal(found[here], right[here].double()):
        return ""
    plain = torch.arange(given.longest).expand_as(mask)
    if torch.equal(found[here], plain[here].double()):
        return "they are counted from the left edge, padding included."
    first = torch.equal(found[here], right[here].double() + 1)
    return (
        "each row's first token is at position 0." if first else "in each row they go up by one, from its first token."
    )


def as_alone(given: Rows, told: Told) -> str:
    same = close(told.tensor("last"), given.alone)
    return "" if same else "the model says something else at the end of a padded row than of the same row alone."


Exercise(
    "a1.padding",
    draw_rows,
    ask_rows,
    (
        Property("tokens at the right edge", 1, on_the_left),
        Property("the mask", 1, mask_is_right),
        Property("the positions", 1, positions_are_right),
        Property("each row as if it were alone", 2, as_alone),
    ),
)
