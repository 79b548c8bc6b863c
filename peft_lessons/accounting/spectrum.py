"""What a matrix keeps at rank r: singular values, energy, the best approximation; and what LoRA pays for the rank.

    W = U diag(σ) Vᵀ      W_r = U_r diag(σ_r) V_rᵀ      ‖W - W_r‖² = σ²_{r+1} + ... + σ²_n
    LoRA stores r (d_in + d_out) numbers instead of d_in · d_out

Energy is the squared Frobenius norm; the share kept at rank r is that of the first r squared singular values. No
matrix of rank r comes nearer to W than W_r, in this norm.

Source: Eckart and Young 1936, "The approximation of one matrix by another of lower rank".
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Spectrum:
    """A matrix taken apart once, for every rank: U (d_out, n), singular values (n,), V transposed (n, d_in)."""

    U: Tensor
    singular_values: Tensor
    Vt: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """d_out and d_in."""
        return self.U.shape[0], self.Vt.shape[1]

    @property
    def max_rank(self) -> int:
        """The highest rank that a matrix of this shape can have."""
        return min(self.shape)

    @cached_property
    def _left_out(self) -> np.ndarray:
        """Energy that is lost at rank 0, 1, ..., n, as a share; summed from the small end, so exact at both ends."""
        squares = self.singular_values.double().numpy() ** 2
        tail = np.append(np.cumsum(squares[::-1])[::-1], 0.0)
        return tail / tail[0]

    def energy(self) -> np.ndarray:
        """Share of the energy kept at rank 1, 2, ..., n: rising, 1 at the end."""
        return 1 - self._left_out[1:]

    def error(self, r: int) -> float:
        """‖W - W_r‖ / ‖W‖, the smallest that any matrix of rank r reaches; 0 at full rank.

        Raises:
            ValueError: r is no rank of a matrix of this shape.
        """
        check_rank(r, *self.shape)
        return float(np.sqrt(self._left_out[r]))

    def rank_for(self, share: float) -> int:
        """The smallest rank that keeps this share of the energy.

        Raises:
            ValueError: the share is not above 0 and at most 1.
        """
        if not 0 < share <= 1:
            raise ValueError(f"The share of energy is {share}; it must be above 0 and at most 1.")
        return int(np.argmax(self._left_out[1:] <= 1 - share + 1e-12)) + 1

    def numerical_rank(self) -> int:
        """How many singular values stand above rounding, by the usual threshold of `matrix_rank`."""
        s = self.singular_values
        return int((s > s[0] * max(self.shape) * torch.finfo(torch.float32).eps).sum())

    def approximation(self, r: int, rows: slice = slice(None), columns: slice = slice(None)) -> Tensor:
        """The nearest matrix of rank r, or some of its rows and columns.

        Raises:
            ValueError: r is no rank of a matrix of this shape.
        """
        check_rank(r, *self.shape)
        return (self.U[rows, :r] * self.singular_values[:r]) @ self.Vt[:r, columns]


def spectrum(matrix: Any) -> Spectrum:
    """Take a matrix apart by its singular values, in double precision on the CPU.

    Args:
        matrix: two-dimensional, (d_out, d_in): a tensor of any type, or whatever numpy reads as an array.

    Returns:
        What answers every question about its ranks.

    Raises:
        ValueError: it is no matrix, is empty, has an entry that is not finite, or is zero everywhere.
    """
    U, s, Vt = torch.linalg.svd(as_matrix(matrix), full_matrices=False)
    return Spectrum(U, s, Vt)


def as_matrix(matrix: Any) -> Tensor:
    """A matrix in double precision on the CPU.

    Raises:
        ValueError: as for `spectrum`.
    """
    found = matrix.detach().cpu() if isinstance(matrix, Tensor) else torch.from_numpy(np.asarray(matrix, dtype=float))
    if found.dim() != 2 or not found.numel():
        raise ValueError(f"A matrix has two dimensions of at least 1; this has shape {tuple(found.shape)}.")
    found = found.double()
    if not found.isfinite().all():
        raise ValueError("The matrix has entries that are not finite (nan or inf): it has no singular values.")
    if not found.any():
        raise ValueError("Every entry of the matrix is zero: there is nothing to approximate.")
    return found


def check_rank(r: int, d_out: int, d_in: int) -> None:
    """Say so when r is no rank that a matrix of this shape can have.

    Raises:
        ValueError: r is no whole number between 1 and the shorter side.
    """
    highest = min(d_out, d_in)
    if isinstance(r, bool) or not isinstance(r, int) or not 1 <= r <= highest:
        raise ValueError(f"The rank is {r}; a matrix of {d_out} × {d_in} has ranks from 1 to {highest}.")


def lora_parameters(d_out: int, d_in: int, r: int) -> int:
    """Numbers in B (d_out, r) and A (r, d_in)."""
    return r * (d_in + d_out)


def break_even(d_out: int, d_in: int) -> float:
    """The rank at which LoRA stores as many numbers as the matrix; it saves below, and costs more above."""
    return d_out * d_in / (d_in + d_out)
