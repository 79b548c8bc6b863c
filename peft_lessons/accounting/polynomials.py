"""Live bytes as polynomials: from a few traces of small models to any number of layers, batch, length and rank.

The bytes of one storage are  c · batch^β · r^ρ · p(length)  with β and ρ 0 or 1. Batch and rank are traced as primes
that divide nothing else, so divisibility tells β and ρ; four lengths tell p, of degree two at most, in the length or in
the length rounded up to 32 or 16 (the efficient attention kernel pads). Layers repeat: a model with one layer more has
the same events with one period more in the forward and one in the backward pass.

Source: the observation is ours; each table is checked against a direct trace when it is built.
"""

from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from peft_lessons.accounting.step import CATEGORIES, StepMemory

LENGTHS = (72, 136, 264, 400)
PRIMES = (61, 67, 71, 73, 79, 83, 89, 97, 101, 103, 107, 109, 113)
# length terms: 1, T, T², U, TU, S, TS with U and S = T rounded up to a multiple of 32 and of 16
BASES: tuple[tuple[int, ...], ...] = ((0,), (1,), (2,), (3,), (4,), (5,), (6,), (0, 1), (1, 2), (0, 1, 2))
N_TERMS = 7
COLUMNS = 2 * 2 * N_TERMS  # (β, ρ, term)
DEATH = ("-",)


def length_terms(length: int) -> list[int]:
    """The length terms' values at one length."""
    to_32, to_16 = (-(-length // n) * n for n in (32, 16))
    return [1, length, length**2, to_32, length * to_32, to_16, length * to_16]


def monomials(layers: int, batch: int, length: int, rank: int) -> np.ndarray:
    """Values of all columns and of the columns times the number of layers, (2 · COLUMNS,)."""
    one = np.array([b * r * t for b in (1, batch) for r in (1, rank) for t in length_terms(length)], dtype=float)
    return np.concatenate([one, layers * one])


def free_primes(numbers: Sequence[int]) -> tuple[int, int]:
    """Two primes that divide none of the numbers.

    Raises:
        ValueError: there are none.
    """
    found = [p for p in PRIMES if all(n % p for n in (*numbers, *LENGTHS))]
    if len(found) < 2:
        raise ValueError("This model's sizes share factors with every batch and rank that could be traced.")
    return found[0], found[1]


def fit_size(sizes: Sequence[int], batch: int, rank: int) -> np.ndarray:
    """The column coefficients of one storage from its bytes at the four lengths.

    Raises:
        ValueError: no polynomial of the kind goes through all of them.
    """
    beta = int(all(s % batch == 0 for s in sizes))
    rho = int(all(s % rank == 0 for s in sizes))
    values = [Fraction(s, batch**beta * rank**rho) for s in sizes]
    terms = [length_terms(n) for n in LENGTHS]
    for basis in BASES:
        solution = _solve([[Fraction(terms[i][k]) for k in basis] for i in range(len(basis))], values[: len(basis)])
        if solution is None:
            continue
        if all(sum(c * terms[i][k] for c, k in zip(solution, basis, strict=True)) == v for i, v in enumerate(values)):
            row = np.zeros(COLUMNS)
            for c, k in zip(solution, basis, strict=True):
                row[(2 * beta + rho) * N_TERMS + k] = float(c)
            return row
    raise ValueError(
        f"The memory of this setup grows as no table can say: a storage has {list(sizes)} bytes at lengths "
        f"{list(LENGTHS)}. A single step of it can be traced: trace_setup(config, setup, batch, length)."
    )


def _solve(matrix: list[list[Fraction]], values: list[Fraction]) -> list[Fraction] | None:
    """Gauss, exactly; None where there is no single solution."""
    n = len(matrix)
    rows = [[*row, value] for row, value in zip(matrix, values, strict=True)]
    for i in range(n):
        pivot = next((k for k in range(i, n) if rows[k][i]), None)
        if pivot is None:
            return None
        rows[i], rows[pivot] = rows[pivot], rows[i]
        rows[i] = [x / rows[i][i] for x in rows[i]]
        for k in range(n):
            if k != i and rows[k][i]:
                rows[k] = [a - rows[k][i] * b for a, b in zip(rows[k], rows[i], strict=True)]
    return [row[-1] for row in rows]


class Ambiguous(ValueError):
    """The storages of one timeline do not tell how those of another grow."""


class Timeline:
    """The events of a step whose sizes are polynomials: what `StepMemory` is, for every batch, length and rank."""

    def __init__(self, traces: Sequence[StepMemory], batch: int, rank: int, known: "Timeline | None" = None):
        """From traces of one model at `LENGTHS`, or from the first of them and a timeline with the same storages.

        Raises:
            ValueError: the traces are not the same sequence of events, or sizes are no polynomials.
        """
        first = traces[0]
        if any(_shape(t) != _shape(first) for t in traces[1:]):
            raise ValueError("The step does not run the same operations at every length.")
        self.sizes: dict[tuple[str, str, int], tuple[int, ...]] = {}  # operation, category, bytes at the first length
        cache: dict[tuple[int, ...], np.ndarray] = {}
        change = np.zeros((len(first.places) + 1, len(CATEGORIES), COLUMNS))
        signs: list[tuple[object, ...]] = [DEATH] * len(first.places)
        for storages in zip(*(t.storages for t in traces), strict=True):
            one, column = storages[0], CATEGORIES.index(storages[0].category)
            key = (one.op, one.category, one.n_bytes)
            sizes = tuple(s.n_bytes for s in storages) if known is None else known.sizes.get(key, ())
            if self.sizes.setdefault(key, sizes) != sizes:
                self.sizes[key] = ()
            if not sizes:
                raise Ambiguous(f"{one.op} makes storages of {one.n_bytes} bytes that grow in two ways.")
            if sizes not in cache:
                cache[sizes] = fit_size(sizes, batch, rank)
            change[one.born + 1, column] += cache[sizes]
            if one.born >= 0:
                signs[one.born] = ("+", one.op, column, sizes)
            if one.died is not None:
                change[one.died + 1, column] -= cache[sizes]
        self._merge(signs, change.cumsum(0), first)

    def _merge(self, signs: list[tuple[object, ...]], live: np.ndarray, step: StepMemory) -> None:
        """Make one event of deaths that follow each other: their number may depend on the number of layers."""
        starts = set(step.marks.values())
        ends = [
            i for i, sign in enumerate(signs)
            if sign != DEATH or i + 1 == len(signs) or signs[i + 1] != DEATH or i + 1 in starts
        ]  # fmt: skip
        self.signs = [signs[i] for i in ends]
        self.places = ["before the step", *(step.places[i] for i in ends)]
        self.live = live[[0, *(i + 1 for i in ends)]]  # (n_events + 1, categories, COLUMNS)
        self.marks = {stage: sum(i < mark for i in ends) for stage, mark in step.marks.items()}

    def peaks(self) -> list[int]:
        """The rows of `live` at which a birth is followed by a death, whatever the sizes; and row 0."""
        following = [*self.signs[1:], DEATH]
        found = [i + 1 for i, sign in enumerate(self.signs) if sign != DEATH and following[i] == DEATH]
        return [0, *found]


def _shape(step: StepMemory) -> list[tuple[int, int | None, str]]:
    return [(s.born, s.died, s.category) for s in step.storages]
