"""What moved in a model: every parameter and buffer, to the bit, by all of its names.

Source: comparing bits and not closeness is the idea of every checksum; tied weights are those of Press and Wolf 2017,
"Using the Output Embedding to Improve Language Models".
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from peft_lessons.assignments.core import Exercise, Property
from peft_lessons.assignments.given import seeded
from peft_lessons.assignments.told import Told


class Small(nn.Module):
    """An embedding that is the output layer too, a frozen layer, a norm with running means, and a buffer not saved."""

    rotation: torch.Tensor

    def __init__(self, g: torch.Generator):
        super().__init__()
        self.embed, self.layer, self.norm = nn.Embedding(7, 6), nn.Linear(6, 6), nn.BatchNorm1d(6)
        self.head = nn.Linear(6, 7, bias=False)
        self.head.weight = self.embed.weight
        self.register_buffer("rotation", torch.randn(4, generator=g), persistent=False)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=g))
            self.layer.bias[1] = 0.0
        self.layer.requires_grad_(False)


@dataclass(frozen=True)
class Moves:
    """A small model from a seed, and what is done to it in each trial, with the names that move."""

    seed: int
    row: int

    def model(self, trial: str = "") -> Small:
        """As it was; in one trial with an entry that is no number, and so not equal to itself."""
        model = Small(torch.Generator().manual_seed(self.seed))
        if trial.endswith("nan"):
            model.layer.bias.data[2] = float("nan")
        return model

    @property
    def trials(self) -> dict[str, tuple[Callable[[Small], Any], list[str]]]:
        """Name of a trial -> what is done, and the names of what moves."""
        i = self.row
        return {
            "nothing": (lambda model: model.eval(), []),
            "nothing, and a nan": (lambda model: model.eval(), []),
            "a bit": (lambda model: _next(model.layer.weight, i), ["layer.weight"]),
            "a sign": (lambda model: model.layer.bias.data[1:2].neg_(), ["layer.bias"]),  # 0.0 to -0.0
            "a bias": (lambda model: model.layer.bias.data[:1].add_(1.0), ["layer.bias"]),
            "a swap": (lambda model: _swap(model.layer.weight, i), ["layer.weight"]),
            "a buffer": (lambda model: model.norm.running_mean.add_(0.1), ["norm.running_mean"]),
            "a count": (lambda model: model.norm.num_batches_tracked.add_(1), ["norm.num_batches_tracked"]),
            "not saved": (lambda model: model.rotation.mul_(2), ["rotation"]),
            "tied": (lambda model: _next(model.embed.weight, i), ["embed.weight", "head.weight"]),
        }


def _next(weight: torch.Tensor, i: int) -> None:
    """The smallest change that there is, in one entry."""
    with torch.no_grad():
        weight[i, i] = torch.nextafter(weight[i, i], torch.tensor(9.0))


def _swap(weight: torch.Tensor, i: int) -> None:
    """Two rows exchanged: every sum and norm stays what it was."""
    with torch.no_grad():
        weight[[i, i + 1]] = weight[[i + 1, i]].clone()


@seeded
def draw_moves(g: torch.Generator) -> Moves:
    return Moves(int(torch.randint(2**31, (), generator=g)), int(torch.randint(4, (), generator=g)))


def ask_moves(
    given: Moves, told: Told, snapshot: Callable[[nn.Module], Any], moved: Callable[[Any, nn.Module], list[str]]
) -> None:
    for name, (change, _) in given.trials.items():
        model = given.model(name)
        before = snapshot(model)
        change(model)
        snapshot(model)  # a later one leaves the earlier one alone
        told[name] = sorted(str(found) for found in moved(before, model))


def trial(names: tuple[str, ...], says: str, given: Moves, told: Told) -> str:
    """Whether these trials are told right; nothing is worth anything to a function that finds nothing."""
    for name in ("a bias", *names):
        right, found = sorted(given.trials[name][1]), told[name]
        if found == right:
            continue
        if not found:
            return says if name in names else "a bias went up by one, and nothing was found: is the snapshot a copy?"
        if more := sorted(set(found) - set(right)):
            return f"{more[0]} did not move, and is among what was found."
        return says
    return ""


Exercise(
    "a2.moved",
    draw_moves,
    ask_moves,
    (
        Property("a large change", 1, partial(trial, (), "a bias went up by one.")),
        Property(
            "one bit of one entry",
            1,
            partial(trial, ("a bit", "a sign"), "the smallest change is a change, even where no number differs."),
        ),
        Property("rows exchanged", 1, partial(trial, ("a swap",), "rows were exchanged, and sums cannot see that.")),
        Property("nothing where nothing moved", 1, partial(trial, ("nothing", "nothing, and a nan"), "")),
        Property(
            "buffers",
            2,
            partial(trial, ("a buffer", "a count", "not saved"), "a buffer moved: not all is a parameter, or saved."),
        ),
        Property("tied weights", 1, partial(trial, ("tied",), "a tensor with two names moved, and one is missing.")),
    ),
)
