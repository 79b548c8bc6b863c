"""Tables of live bytes: one for each model and setup, which answers every number of layers, batch, length and rank.

A table holds, for each moment of the step that can be a peak, the bytes of each category as a polynomial. Evaluating it
is one product of a matrix and a vector. It is built from six traces of models of three to five layers; the last checks
it, and a table that does not give that trace to the byte is not made.

Source: see `polynomials`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import nn
from transformers import PretrainedConfig

from peft_lessons.accounting.optimizers import Tensor2D, code_bytes, state_bytes, update_bytes
from peft_lessons.accounting.polynomials import (
    LENGTHS,
    Ambiguous,
    Timeline,
    free_primes,
    monomials,
)
from peft_lessons.accounting.setups import CHUNKS, Setup, build_on_meta, trace_setup, traced
from peft_lessons.accounting.trace import CATEGORIES, STAGES

STATES, TEMPORARIES = CATEGORIES.index("optimizer states"), CATEGORIES.index("temporaries")
LAYERS = (3, 4)  # of the traced models; the check has one more
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
        values = self._values(layers, batch, length, rank)
        states, update_needs = self.optimizer_bytes(layers, rank, optimizer)
        live = self.moments @ values
        live[:, STATES] += states
        stages = self.stages @ values
        stages[:, STATES] += states
        update = stages[STAGES.index("optimizer step")].copy()
        update[TEMPORARIES] += update_needs
        totals = live.sum(1)
        row = int(totals.argmax())
        if update.sum() > totals[row]:
            at_peak, place = update, "optimizer step"
        else:
            at_peak, place = live[row], self._place(row, layers)
        before = {name: _by_category(stages[i]) for i, name in enumerate((*STAGES, "end"))}
        return Answer(_by_category(at_peak), place, before)

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


def _by_category(row: np.ndarray) -> dict[str, int]:
    return {category: round(float(n)) for category, n in zip(CATEGORIES, row, strict=True)}


def build_table(config: PretrainedConfig, setup: Setup) -> Table:
    """Trace small models with a setup and make the table that answers for all others.

    Args:
        config: of a transformers model; its number of layers matters only where layers do not repeat.
        setup: the choices; its optimizer and its method's rank do not matter.

    Raises:
        ValueError: the setup does not fit the model, or the table would not agree with a direct trace.

    Source: see the module.
    """
    try:
        return _build(config, setup, LAYERS, None)
    except NotAligned:  # layers that differ, or an encoder beside a decoder: trace the model as it is
        return _build(config, setup, (config.num_hidden_layers,), config.num_hidden_layers)


class NotAligned(ValueError):
    """The layers of a model do not repeat in a way that a table can continue."""


def _build(config: PretrainedConfig, setup: Setup, layers: Sequence[int], n_layers: int | None) -> Table:
    small = [build_on_meta(config, _ranked(setup, 1), n) for n in layers]
    batch, rank = free_primes([n for p in small[-1].parameters() for n in p.shape if n > 1])
    setup = _ranked(setup, rank)
    small = [build_on_meta(config, setup, n) for n in layers]
    timelines: list[Timeline] = []
    for model in small:
        at = [traced(model, config, setup, batch, n, None) for n in LENGTHS[: 1 if timelines else None]]
        try:
            timelines.append(Timeline(at, batch, rank, *timelines))
        except Ambiguous:
            at += [traced(model, config, setup, batch, n, None) for n in LENGTHS[1:]]
            timelines.append(Timeline(at, batch, rank))
    parts = _align(*timelines) if len(timelines) == 2 else _alone(timelines[0])
    keep = set(timelines[0].peaks())
    rows = [[row for row in part if row in keep] for part in parts.sections]
    moments = np.stack([parts.polynomial(row) for part in rows for row in part])
    columns = np.flatnonzero(np.abs(moments).sum((0, 1)))
    marks = timelines[0].marks
    begins = [0, *(marks.get(stage, marks["optimizer step"]) for stage in STAGES[1:]), -1]
    stages = np.stack([parts.polynomial(row) for row in begins])
    columns = np.flatnonzero(np.abs(moments).sum((0, 1)) + np.abs(stages).sum((0, 1)))
    places = timelines[0].places
    table = Table(
        columns=columns,
        moments=moments[..., columns],
        places=tuple(places[row] for part in rows for row in part),
        sections=tuple(len(part) for part in rows),
        stages=stages[..., columns],
        trained=_tensors(small, rank),
        n_layers=n_layers,
    )
    _check(table, config, setup)
    return table


def _ranked(setup: Setup, rank: int) -> Setup:
    if not hasattr(setup.method, "r"):
        return setup
    return replace(setup, method=replace(setup.method, r=rank))  # type: ignore[call-arg]


@dataclass
class _Parts:
    """Rows of the smaller model's timeline by section, and each row's polynomial for any number of layers."""

    sections: list[range]
    small: np.ndarray
    large: np.ndarray | None = None
    shifts: tuple[int, ...] = (0,) * len(SECTIONS)

    def polynomial(self, row: int) -> np.ndarray:
        """(categories, 2 · columns): what does not depend on the number of layers, and what is multiplied by it."""
        here = self.small[row]
        if self.large is None:
            return np.concatenate([here, np.zeros_like(here)], axis=-1)
        shift = next((s for s, rows in zip(self.shifts, self.sections, strict=True) if row in rows), 0)
        slope = self.large[row + shift] - here  # row -1 is the end in both
        return np.concatenate([here - LAYERS[0] * slope, slope], axis=-1)


def _alone(timeline: Timeline) -> _Parts:
    n = timeline.marks["optimizer step"] + 1
    return _Parts([range(n), *(range(n, n) for _ in SECTIONS[1:])], timeline.live)


def _align(small: Timeline, large: Timeline) -> _Parts:
    """Find the repeating parts of two timelines that differ by one layer.

    Raises:
        NotAligned: there are none.
    """
    a, b = (t.signs[: t.marks["optimizer step"]] for t in (small, large))
    more = len(b) - len(a)
    front = _common(a, b)
    back = _common(a[::-1], b[::-1])
    seam, forward = small.marks["loss"], large.marks["loss"] - small.marks["loss"]
    backward = more - forward
    low = seam - _common(a[:seam][::-1], b[: seam + forward][::-1])
    high = seam + _common(a[seam:], b[seam + forward :])
    ok = forward > 0 and backward >= 0 and low + forward <= front and high - backward >= len(a) - back
    if not ok or low + 2 * forward > high - 2 * backward:
        raise NotAligned("The layers of this model do not repeat.")
    edges = [0, low + 1, low + 1 + forward, low + 1 + 2 * forward]
    edges += [high + 1 - 2 * backward, high + 1 - backward, high + 1, len(a) + 1]
    sections = [range(x, y) for x, y in zip(edges, edges[1:], strict=False)]
    return _Parts(sections, small.live, large.live, (0, 0, forward, forward, forward, more, more))


def _common(a: Sequence[object], b: Sequence[object]) -> int:
    """How many entries two sequences have in common from their beginning."""
    for i, (x, y) in enumerate(zip(a, b, strict=False)):
        if x != y:
            return i
    return min(len(a), len(b))


def _tensors(models: Sequence[nn.Module], rank: int) -> tuple[tuple[Tensor2D, ...], ...]:
    """The trained tensors in the model's order: before, in, and after the repeating layers.

    Raises:
        NotAligned: the layers do not train the same tensors.
    """
    lists = [[_tensor(p, rank) for p in model.parameters() if p.requires_grad] for model in models]
    if len(lists) == 1:
        return (), (), tuple(lists[0])
    small, large = lists
    period = len(large) - len(small)
    front = min(_common(small, large), len(small))
    if large[front : front + period] + small[front:] != large[front:]:
        raise NotAligned("The layers of this model do not train the same tensors.")
    return tuple(small[: front - LAYERS[0] * period]), tuple(large[front : front + period]), tuple(small[front:])


def _tensor(parameter: nn.Parameter, rank: int) -> Tensor2D:
    shape = (0, *parameter.shape) if parameter.dim() == 1 else (parameter.shape[0], parameter[0].numel())
    rows, columns = (-1 if n == rank else int(n) for n in shape)
    return Tensor2D(rows, columns, parameter.element_size())


def _check(table: Table, config: PretrainedConfig, setup: Setup) -> None:
    """Compare the table with a direct trace at another number of layers, batch, length and rank.

    Raises:
        NotAligned: they differ.
    """
    layers = table.n_layers or LAYERS[1] + 1
    batch, rank, length = 5, 3, 25 * CHUNKS + (0 if setup.logits == "chunked" else 3)
    direct = trace_setup(config, _ranked(setup, rank), batch, length, layers)
    found = table.evaluate(layers, batch, length, rank, setup.optimizer)
    if found.peak != direct.peak or found.at_peak != direct.at_peak():
        message = f"the table says {found.peak:,} bytes at {found.place}, a direct trace {direct.peak:,} at "
        raise NotAligned(message + direct.peak_place)
