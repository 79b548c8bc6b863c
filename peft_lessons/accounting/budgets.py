"""One matrix, one budget of numbers, three ways to spend it: LoRA, KronA, PHM.

    LoRA    B A                    B: (d_out, r)   A: (r, d_in)                        r (d_in + d_out) numbers
    KronA   A ⊗ B                  A: (a1, b1)     B: (d_out / a1, d_in / b1)          a1 b1 + d_out d_in / (a1 b1)
    PHM     A_1 ⊗ B_1 + ... + A_n ⊗ B_n       A_i: (n, n)   B_i: (d_out / n, d_in / n)        n³ + d_out d_in / n

Each gets the best approximation of W that its form allows; of KronA's shapes, those that use most of the budget are
tried. A Kronecker product A ⊗ B, its blocks laid out as rows, is the outer product of A and B written as vectors: so
the nearest sum of k products is the nearest matrix of rank k to W laid out like that, and its error follows from
singular values as LoRA's does.

Source: Hu et al. 2021 (LoRA); Edalati et al. 2022 (KronA); Zhang et al. 2021, "Beyond Fully-Connected Layers with
Quaternions", and Mahabadi et al. 2021, "Compacter" (PHM); Van Loan and Pitsianis 1993, "Approximation with Kronecker
Products".
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from peft_lessons.accounting.spectrum import Spectrum, lora_parameters

TRIED = 24  # shapes of KronA: all of a small matrix's, and enough of a large one's to answer while a slider moves


@dataclass(frozen=True)
class Spent:
    """What a method makes of a budget."""

    method: str
    form: str  # the shapes, in words
    n_parameters: int
    highest_rank: int  # of any matrix of this form
    error: float  # ‖W - Ŵ‖ / ‖W‖ of the best one


def lora_at(spectrum: Spectrum, budget: int) -> Spent | None:
    """LoRA at the highest rank that the budget pays; None where it does not pay for rank 1."""
    d_out, d_in = spectrum.shape
    r = min(budget // (d_in + d_out), spectrum.max_rank)
    if r < 1:
        return None
    return Spent("LoRA", f"r = {r}", lora_parameters(d_out, d_in, r), r, spectrum.error(r))


class Products:
    """How near sums of Kronecker products come to one matrix, for every shape of their factors, each found once.

    Args:
        matrix: W, (d_out, d_in), in double precision.
    """

    def __init__(self, matrix: Tensor):
        self.matrix = matrix
        self._errors: dict[tuple[int, int], list[float]] = {}  # (a1, b1) -> error of 0, 1, ... terms

    def error(self, a1: int, b1: int, terms: int = 1) -> float:
        """‖W - Ŵ‖ / ‖W‖ of the nearest sum of so many products with A of a1 × b1.

        Raises:
            ValueError: a1 does not divide d_out, or b1 does not divide d_in.
        """
        if (a1, b1) not in self._errors:
            blocks = rearranged(self.matrix, a1, b1)
            blocks = blocks.T if blocks.shape[0] > blocks.shape[1] else blocks
            squares = torch.linalg.eigvalsh(blocks @ blocks.T).clamp(min=0)  # squared singular values, rising
            left = squares.cumsum(0).flip(0) / squares.sum()
            self._errors[a1, b1] = left.sqrt().tolist() + [0.0]
        errors = self._errors[a1, b1]
        return errors[min(terms, len(errors) - 1)]

    def prepare(self) -> None:
        """Find the errors of all shapes now: half a second for 384 × 384, after which every budget is at once."""
        d_out, d_in = self.matrix.shape
        for a1 in divisors(d_out):
            for b1 in divisors(d_in):
                self.error(a1, b1)


def krona_at(products: Products, budget: int) -> Spent | None:
    """KronA with the shapes that come nearest to the matrix, of the `TRIED` that use most of the budget.

    Args:
        products: of the matrix.
        budget: the most numbers it may store.

    Returns:
        What it makes of the budget; None where it pays for no two factors.
    """
    d_out, d_in = products.matrix.shape
    shapes = [(a1, b1) for a1 in divisors(d_out) for b1 in divisors(d_in)]
    numbers = {(a1, b1): a1 * b1 + (d_out // a1) * (d_in // b1) for a1, b1 in shapes}
    fitting = sorted((shape for shape in shapes if numbers[shape] <= budget), key=lambda s: (-numbers[s], s))[:TRIED]
    if not fitting:
        return None
    _, _, (a1, b1) = min((round(products.error(*shape), 6), numbers[shape], shape) for shape in fitting)
    rank = min(a1, b1) * min(d_out // a1, d_in // b1)
    return Spent("KronA", f"{a1} × {b1} ⊗ {d_out // a1} × {d_in // b1}", numbers[a1, b1], rank, products.error(a1, b1))


def phm_at(products: Products, budget: int) -> Spent | None:
    """PHM with the n that gives the smallest error within the budget; None where no n fits.

    Args:
        products: of the matrix.
        budget: the most numbers it may store.
    """
    d_out, d_in = products.matrix.shape
    fits = [n for n in divisors(math.gcd(d_out, d_in)) if phm_parameters(d_out, d_in, n) <= budget]
    if not fits:
        return None
    error, n = min((products.error(n, n, n), n) for n in fits)
    return Spent("PHM", f"n = {n}", phm_parameters(d_out, d_in, n), min(d_out, d_in), error)


def phm_parameters(d_out: int, d_in: int, n: int) -> int:
    """Numbers in n matrices A_i (n, n) and n matrices B_i (d_out / n, d_in / n)."""
    return n**3 + d_out * d_in // n


def phm_smallest(d_out: int, d_in: int) -> int:
    """The fewest numbers that PHM can store for this shape."""
    return min(phm_parameters(d_out, d_in, n) for n in divisors(math.gcd(d_out, d_in)))


def rearranged(matrix: Tensor, a1: int, b1: int) -> Tensor:
    """W cut into a1 × b1 blocks, one block a row: (a1 b1, d_out d_in / (a1 b1)).

    Raises:
        ValueError: a1 does not divide d_out, or b1 does not divide d_in.
    """
    d_out, d_in = matrix.shape
    if d_out % a1 or d_in % b1:
        raise ValueError(f"A of {a1} × {b1} does not divide a matrix of {d_out} × {d_in}.")
    blocks = matrix.reshape(a1, d_out // a1, b1, d_in // b1)
    return blocks.transpose(1, 2).reshape(a1 * b1, -1)


def nearest_kronecker(matrix: Tensor, a1: int, b1: int, terms: int = 1) -> tuple[Tensor, Tensor]:
    """The factors of the nearest sum of Kronecker products.

    Args:
        matrix: W, (d_out, d_in).
        a1: rows of each A.
        b1: columns of each A.
        terms: how many products are added up.

    Returns:
        A, (terms, a1, b1), and B, (terms, d_out / a1, d_in / b1); W ≈ sum of kron(A_i, B_i).

    Raises:
        ValueError: a1 does not divide d_out, or b1 does not divide d_in.
    """
    d_out, d_in = matrix.shape
    U, s, Vt = torch.linalg.svd(rearranged(matrix, a1, b1), full_matrices=False)
    A = (U[:, :terms] * s[:terms]).T.reshape(-1, a1, b1)
    return A, Vt[:terms].reshape(-1, d_out // a1, d_in // b1)


def divisors(n: int) -> list[int]:
    """Every whole number that divides n, rising."""
    small = [k for k in range(1, math.isqrt(n) + 1) if n % k == 0]
    return small + [n // k for k in reversed(small) if k * k != n]
