"""Building a table: six traces of models of three to five layers, the last of which checks it.

A table that does not give the last trace to the byte is not made: the model is then traced with all its layers, and the
table answers for that number alone.

Source: see `polynomials`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import nn
from transformers import PretrainedConfig

from peft_lessons.accounting.optimizers import Tensor2D, tensor_of
from peft_lessons.accounting.polynomials import LENGTHS, Ambiguous, Timeline, free_primes
from peft_lessons.accounting.setups import CHUNKS, Setup, build_on_meta, trace_setup, traced
from peft_lessons.accounting.step import STAGES, StepMemory
from peft_lessons.accounting.tables import LAYERS, SECTIONS, Table

TRACES = len(LENGTHS) + 2


def build_table(config: PretrainedConfig, setup: Setup, on_trace: Callable[[int, int], None] | None = None) -> Table:
    """Trace small models with a setup and make the table that answers for all others.

    Args:
        config: of a transformers model; its number of layers matters only where layers do not repeat.
        setup: the choices; its optimizer and its method's rank do not matter.
        on_trace: called after each trace with the number done and of all, for a progress bar.

    Raises:
        ValueError: the setup does not fit the model, or the table would not agree with a direct trace.

    Source: see the module.
    """
    done = iter(range(1, TRACES))

    def tick() -> None:
        if on_trace is not None:
            on_trace(next(done, TRACES), TRACES)

    try:
        return _build(config, setup, LAYERS, None, tick)
    except ValueError:  # layers that differ, or a method that needs more of them: trace the model as it is
        return _build(config, setup, (config.num_hidden_layers,), config.num_hidden_layers, tick)


class NotAligned(ValueError):
    """The layers of a model do not repeat in a way that a table can continue."""


def _build(
    config: PretrainedConfig, setup: Setup, layers: Sequence[int], n_layers: int | None, tick: Callable[[], None]
) -> Table:
    sizes = [n for p in build_on_meta(config, _ranked(setup, 1), layers[0]).parameters() for n in p.shape if n > 1]
    batch, rank = free_primes(sizes)
    setup = _ranked(setup, rank)
    small = [build_on_meta(config, setup, n) for n in layers]

    def trace(model: nn.Module, length: int) -> StepMemory:
        tick()
        return traced(model, config, setup, batch, length, None)

    timelines: list[Timeline] = []
    for model in small:
        at = [trace(model, length) for length in LENGTHS[: 1 if timelines else None]]
        try:
            timelines.append(Timeline(at, batch, rank, *timelines))
        except Ambiguous:
            at += [trace(model, length) for length in LENGTHS[1:]]
            timelines.append(Timeline(at, batch, rank))
    parts = _align(*timelines) if len(timelines) == 2 else _alone(timelines[0])
    keep = set(timelines[0].peaks())
    for one, other in ((1, 2), (2, 1), (4, 5), (5, 4)):  # a layer and its repetition keep the same moments
        keep |= {x for x, y in zip(parts.sections[one], parts.sections[other], strict=True) if y in keep}
    rows = [[row for row in part if row in keep] for part in parts.sections]
    moments = np.stack([parts.polynomial(row) for part in rows for row in part])
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
    tick()
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
    lists = [[_ranked_tensor(p, rank) for p in model.parameters() if p.requires_grad] for model in models]
    if len(lists) == 1:
        return (), (), tuple(lists[0])
    small, large = lists
    period = len(large) - len(small)
    front = min(_common(small, large), len(small))
    if large[front : front + period] + small[front:] != large[front:]:
        raise NotAligned("The layers of this model do not train the same tensors.")
    return tuple(small[: front - LAYERS[0] * period]), tuple(large[front : front + period]), tuple(small[front:])


def _ranked_tensor(parameter: nn.Parameter, rank: int) -> Tensor2D:
    rows, columns, item = tensor_of(parameter)
    return Tensor2D(-1 if rows == rank else rows, -1 if columns == rank else columns, item)


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
