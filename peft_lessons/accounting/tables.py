"""Tables of live bytes: one for each model and setup, which answers every number of layers, batch, length and rank.

A table holds, for each moment of the step that can be a peak, the bytes of each category as a polynomial. Evaluating it
is one product of a matrix and a vector. `building` makes tables, `library` ships and keeps them.

Source: see `polynomials`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from peft_lessons.accounting.optimizers import Tensor2D, code_bytes, state_bytes, update_bytes
from peft_lessons.accounting.polynomials import monomials
from peft_lessons.accounting.step import CATEGORIES, STAGES, by_category

STATES, TEMPORARIES = CATEGORIES.index("optimizer states"), CATEGORIES.index("temporaries")
LAYERS = (3, 4)  # of the models that are traced
SECTIONS = ("front", "first", "last", "middle", "last again", "first again", "back")


@dataclass(frozen=True)
class Answer:
    """What a step holds: bytes by category at the peak and when each stage begins, and where the peak is."""

    at_peak: Mapping[str, int]
    place: str
    before: Mapping[str, Mapping[str, int]]  # stage, or "end" -> bytes by category

    @property
    def peak(self) -> int:
        """The largest number of bytes held at a time."""
        return sum(self.at_peak.values())


@dataclass(frozen=True)
class Moment:
    """One moment of a step: bytes by category as polynomials, without the optimizer's, and what its step needs."""

    polynomials: np.ndarray  # (categories, columns)
    place: str
    update: int


@dataclass(frozen=True)
class Table:
    """The moments of a step as polynomials, (moments, categories, columns), in the order of the step.

    `sections` counts the moments of each of `SECTIONS`: "first" and "last" are the forward pass through the second and
    the last layer, and those between lie evenly between them. `n_layers` is None where any number from 3 can be asked.
    """

    columns: np.ndarray  # which of `monomials` the last axis is
    moments: np.ndarray
    places: tuple[str, ...]
    sections: tuple[int, ...]
    stages: np.ndarray  # (len(STAGES) + 1, categories, columns): when each begins, and the end
    trained: tuple[tuple[Tensor2D, ...], ...]  # trained before, in, and after the layers; -1 stands for the rank
    n_layers: int | None = None

    def evaluate(self, layers: int, batch: int, length: int, rank: int = 1, optimizer: str = "adamw") -> Answer:
        """What the step holds, to the byte, in less than a millisecond.

        Args:
            layers: of the model.
            batch: sequences in a batch.
            length: tokens in a sequence.
            rank: of the method, where it has one.
            optimizer: one of `OPTIMIZERS`.

        Raises:
            ValueError: a number below 1, or layers that this table cannot answer.
        """
        moment = self.peak_moment(layers, batch, length, rank, optimizer)
        values = self._values(layers, batch, length, rank)
        states, _ = self.optimizer_bytes(layers, rank, optimizer)
        stages = self.stages @ values
        stages[:, STATES] += states
        before = {name: by_category(stages[i]) for i, name in enumerate((*STAGES, "end"))}
        at_peak = moment.polynomials @ values
        at_peak[STATES] += states
        at_peak[TEMPORARIES] += moment.update
        return Answer(by_category(at_peak), moment.place, before)

    def peak(self, layers: int, batch: int, length: int, rank: int = 1, optimizer: str = "adamw") -> int:
        """The largest number of bytes held at a time, and nothing else.

        Raises:
            ValueError: as in `evaluate`.
        """
        values = self._values(layers, batch, length, rank)
        states, update = self.optimizer_bytes(layers, rank, optimizer)
        step = self._totals[1][STAGES.index("optimizer step")] @ values + update
        return round(max(float((self._totals[0] @ values).max()), step) + states)

    @cached_property
    def _totals(self) -> tuple[np.ndarray, np.ndarray]:
        return self.moments.sum(1), self.stages.sum(1)

    def peak_moment(self, layers: int, batch: int, length: int, rank: int = 1, optimizer: str = "adamw") -> Moment:
        """The moment of the peak, as polynomials.

        Raises:
            ValueError: as in `evaluate`.
        """
        values = self._values(layers, batch, length, rank)
        _, update = self.optimizer_bytes(layers, rank, optimizer)
        totals = self._totals[0] @ values
        row, step = int(totals.argmax()), STAGES.index("optimizer step")
        if self._totals[1][step] @ values + update > totals[row]:
            return Moment(self.stages[step], "optimizer step", update)
        return Moment(self.moments[row], self._place(row, layers), 0)

    def curve(
        self, layers: int, batch: int, length: int, rank: int = 1, optimizer: str = "adamw"
    ) -> tuple[np.ndarray, dict[str, int]]:
        """Live bytes over the step, (moments, categories), and the moment at which each stage begins.

        Raises:
            ValueError: as in `evaluate`.
        """
        values = self._values(layers, batch, length, rank)
        states, update_needs = self.optimizer_bytes(layers, rank, optimizer)
        live = self.moments @ values
        ends = np.cumsum(self.sections)
        parts = dict(zip(SECTIONS, np.split(live, ends[:-1]), strict=True))
        forward = _between(parts["first"], parts["last"], layers)
        backward = _between(parts["last again"], parts["first again"], layers)
        curve = np.concatenate([parts["front"], forward, parts["middle"], backward, parts["back"]])
        names = self._stage_names(layers, len(forward), len(backward))
        stages = self.stages @ values
        rest = stages[STAGES.index("optimizer step")] + np.zeros((2, len(CATEGORIES)))
        rest[0, TEMPORARIES] += update_needs
        rest[1] = stages[-1]
        curve = np.concatenate([curve, rest])
        curve[:, STATES] += states
        begins = {name: names.index(name) for name in STAGES if name in names}
        return curve, begins | {"optimizer step": len(curve) - 2}

    @cached_property
    def largest_rank(self) -> int | None:
        """The shorter side of the smallest matrix that is updated at the method's rank; None where there is none."""
        sides = [max(t.rows, t.columns) for part in self.trained for t in part if -1 in (t.rows, t.columns)]
        return min(sides, default=None)

    def optimizer_bytes(self, layers: int, rank: int, optimizer: str) -> tuple[int, int]:
        """Bytes of an optimizer's states, and the most that its step needs for a moment."""
        before, layer, after = (
            [Tensor2D(*(rank if n == -1 else n for n in tensor)) for tensor in part] for part in self.trained
        )
        everything = [*before, *layer, *after]
        states = state_bytes(optimizer, [*before, *after]) + layers * state_bytes(optimizer, layer)
        sums: dict[int, int] = {}
        for tensors, times in ((before, 1), (layer, layers), (after, 1)):
            for t in tensors:
                sums[t.item] = sums.get(t.item, 0) + times * t.n_bytes
        few = [*before, *(layer * min(layers, 3)), *after]
        return states + code_bytes(optimizer, everything), update_bytes(optimizer, few, sums)

    def _values(self, layers: int, batch: int, length: int, rank: int) -> np.ndarray:
        for name, number in (("layers", layers), ("batch", batch), ("length", length), ("rank", rank)):
            if number < 1:
                raise ValueError(f"{name} is {number}; it must be at least 1.")
        if self.n_layers is not None and layers != self.n_layers:
            raise ValueError(f"This table is for {self.n_layers} layers, not for {layers}.")
        if self.n_layers is None and layers < LAYERS[0]:
            raise ValueError(f"This table answers from {LAYERS[0]} layers on, not {layers}.")
        return monomials(layers, batch, length, rank)[self.columns]

    def _place(self, row: int, layers: int) -> str:
        """The place of a moment, with the number that the layer has in a model of so many layers."""
        last_sections = np.cumsum(self.sections)[[1, 4]]
        if self.n_layers is not None or not last_sections[0] <= row < last_sections[1]:
            return self.places[row]
        return re.sub(r"\.(\d+)$", lambda found: f".{int(found[1]) + layers - LAYERS[0]}", self.places[row])

    def _stage_names(self, layers: int, forward: int, backward: int) -> list[str]:
        ends = np.cumsum(self.sections)
        first = [place.split(",")[0] for place in self.places]
        front, middle, back = first[: ends[0]], first[ends[2] : ends[3]], first[ends[5] :]
        return [*front, *(["forward"] * forward), *middle, *(["backward"] * backward), *back]


def _between(first: np.ndarray, last: np.ndarray, layers: int) -> np.ndarray:
    """The layers from `first` to `last` one after another, evenly spaced, (repeats · moments, categories)."""
    if not len(first):
        return first
    steps = np.linspace(0, 1, layers - 1)[:, None, None]
    return (first + steps * (last - first)).reshape(-1, first.shape[-1])
