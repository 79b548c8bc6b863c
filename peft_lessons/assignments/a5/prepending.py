"""A soft prompt in front of a padded batch: vectors, mask and positions.

Source: Lester, Al-Rfou and Constant 2021, "The Power of Scale for Parameter-Efficient Prompt Tuning", section 2; that
positions have to be counted from the mask follows from left padding.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from peft_lessons.assignments.core import Exercise, Property
from peft_lessons.assignments.given import close, seeded
from peft_lessons.assignments.told import Told


@dataclass(frozen=True)
class Batch:
    """A prompt, (p, d), embedded text, (batch, n, d), and its mask, (batch, n); padding is on the left."""

    prompt: Tensor
    embedded: Tensor
    mask: Tensor


@seeded
def draw_batch(g: torch.Generator) -> Batch:
    p, n, d = (int(torch.randint(low, high, (), generator=g)) for low, high in ((2, 5), (5, 8), (3, 6)))
    padding = torch.tensor([0, 2, 3])
    mask = (torch.arange(n)[None] >= padding[:, None]).long()
    return Batch(torch.randn(p, d, generator=g), torch.randn(3, n, d, generator=g), mask)


def ask_prepend(given: Batch, told: Told, prepend: Callable[..., tuple[Tensor, Tensor, Tensor]]) -> None:
    prompt = given.prompt.clone().requires_grad_()
    x, mask, positions = prepend(prompt, given.embedded.clone(), given.mask.clone())
    told["x"], told["mask"], told["positions"] = x, mask, positions
    told["learns"] = x.requires_grad


def vectors(given: Batch, told: Told) -> str:
    p, x = len(given.prompt), told.tensor("x")
    expected = torch.cat([given.prompt.expand(len(given.embedded), -1, -1), given.embedded], 1)
    if close(x, expected):
        return "" if told["learns"] else "x is cut off from the prompt: no gradient would come back to it."
    if x.shape == expected.shape and close(x[:, -p:], expected[:, :p]):
        return "the prompt stands behind the text; a decoder's text would never see it."
    return f"x should hold the prompt's {p} vectors and then the text's, in every row; it is {tuple(x.shape)}."


def masked(given: Batch, told: Told) -> str:
    p, mask = len(given.prompt), told.tensor("mask")
    expected = torch.cat([torch.ones(len(given.mask), p), given.mask], 1)
    if close(mask, expected):
        return ""
    if mask.shape == expected.shape and bool((mask[:, :p] == 0).all()):
        return "the mask hides the prompt: nothing would attend to it."
    return "the mask should be ones for the prompt and then the text's own."


def placed(given: Batch, told: Told) -> str:
    p, positions = len(given.prompt), told.tensor("positions")
    if positions.shape != (len(given.mask), p + given.mask.shape[1]):
        return f"positions are {tuple(positions.shape)}, where x has {p + given.mask.shape[1]} vectors a row."
    if told["positions"].is_floating_point():
        return "positions are places in a table: whole numbers."
    if not torch.equal(positions[:, :p], torch.arange(p).expand(len(given.mask), -1).double()):
        return "the prompt's own positions are 0, 1, ... in every row."
    real = given.mask.bool()
    found, expected = positions[:, p:][real], (given.mask.cumsum(-1) - 1 + p)[real]
    if torch.equal(found, expected.double()):
        return ""
    if torch.equal(found, (torch.arange(given.mask.shape[1]).expand_as(given.mask) + p)[real].double()):
        return "the padding is counted: the same text would get other positions when padded."
    return "a text's first real token follows the prompt directly, whatever padding stands between."


Exercise(
    "a5.prepend",
    draw_batch,
    ask_prepend,
    (
        Property("the vectors", 2, vectors),
        Property("the mask", 1, masked),
        Property("the positions", 2, placed),
    ),
)
