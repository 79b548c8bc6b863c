"""KronA: learn a Kronecker product beside a frozen weight.

    y = W x + b + scale · (A ⊗ B) x        A: (a1, a2)   B: (b1, b2)   a1 · b1 = d_out   a2 · b2 = d_in

A ⊗ B is A with each entry replaced by that entry times B. It is never built: with x written as an a2×b2 matrix X, row
by row, (A ⊗ B) x is A X Bᵀ, row by row. A starts at zero, B random, so attaching changes nothing. Trains
a1 · a2 + b1 · b2 numbers a layer; rank(A ⊗ B) = rank A · rank B, so the update can have full rank.

Two slips of Lialin et al. 2023 (version 1, section 10.3) are mended here: its listing scales W x too, where the scale
belongs on the update alone; and its `kronecker_vector_prod` reshapes the result by A's and B's columns, where the rows
are needed, (a1, b1).

Source: Edalati et al. 2022, "KronA"; the shapes of A and B, and A = 0 with B uniform Kaiming, are those of LoKr in
LyCORIS (Yeh et al. 2023) and Hugging Face peft, whose files this reads and writes.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from peft_lessons.methods.core import LinearMethod, WrappedLinear
from peft_lessons.methods.targets import Linear, Targets


def factorize(size: int, factor: int = -1) -> tuple[int, int]:
    """Two whole numbers whose product is `size`: A's side, then B's.

    Args:
        size: d_in or d_out.
        factor: A's side where it divides `size`, else the most that A's side may be; -1 for as square as possible.

    Source: the rule of `decompose_factor` in peft's `LoKrConfig`.
    """
    if factor > 0 and size % factor == 0:
        return factor, size // factor
    most = math.isqrt(size) if factor < 0 else min(factor, math.isqrt(size))
    side = next(m for m in range(most, 0, -1) if size % m == 0)
    return side, size // side


class KronALinear(WrappedLinear):
    """A linear layer with a Kronecker update; see the module for the equation."""

    def __init__(self, base: Linear, a_shape: tuple[int, int], scale: float = 1.0):
        super().__init__(base)
        (a1, a2), self.scale = a_shape, scale
        B = torch.empty(self.d_out // a1, self.d_in // a2, device="cpu")
        nn.init.kaiming_uniform_(B, a=math.sqrt(5))
        self.kron_A = nn.Parameter(torch.zeros(a1, a2, device=base.weight.device))  # (a1, a2)
        self.kron_B = nn.Parameter(B.to(base.weight.device))  # (b1, b2)

    def forward(self, x: Tensor) -> Tensor:  # (..., d_in) -> (..., d_out)
        X = x.to(self.kron_B.dtype).unflatten(-1, (self.kron_A.shape[1], self.kron_B.shape[1]))  # (..., a2, b2)
        Y = self.kron_A @ (X @ self.kron_B.T)  # (..., a1, b1)
        return self.base(x) + (self.scale * Y.flatten(-2)).to(x.dtype)

    def delta(self) -> Tensor:  # (d_out, d_in)
        return self.scale * torch.kron(self.kron_A, self.kron_B)

    def rank(self) -> int:
        return min(self.kron_A.shape) * min(self.kron_B.shape)


@dataclass(frozen=True)
class KronA(LinearMethod):
    """KronA on the linear layers that `target_modules` names: LoKr with two full factors.

    Args:
        decompose_factor: A's sides: -1 for A and B of nearly one size, a small number for a small A; see `factorize`.
        scale: the update is multiplied by it (alpha / r of LoKr).
        target_modules: names, patterns, "attention" or "all-linear"; see `find_targets`.

    Raises:
        ValueError: decompose_factor is neither -1 nor at least 1, or scale is not positive.

    Source: see the module; `decompose_factor` is that of peft's `LoKrConfig`.
    """

    peft_type: ClassVar[str] = "LOKR"
    lr: ClassVar[float] = 3e-3
    mergeable: ClassVar[bool] = True
    file_suffixes: ClassVar[dict[str, str]] = {"kron_A": "lokr_w1", "kron_B": "lokr_w2"}

    decompose_factor: int = -1
    scale: float = 1.0
    target_modules: Targets = "attention"

    def __post_init__(self) -> None:
        factor = self.decompose_factor
        if isinstance(factor, bool) or not isinstance(factor, int) or (factor < 1 and factor != -1):
            raise ValueError(f"decompose_factor is {factor!r}; it is a whole number, at least 1, or -1 for square.")
        if not self.scale > 0:
            raise ValueError(f"scale is {self.scale!r}; it must be above 0, or the update is switched off.")

    def wrap(self, base: Linear) -> KronALinear:
        plain = WrappedLinear(base)
        a1, a2 = (factorize(size, self.decompose_factor)[0] for size in (plain.d_out, plain.d_in))
        return KronALinear(base, (a1, a2), self.scale)

    def config(self) -> dict[str, object]:
        targets = self.target_modules if isinstance(self.target_modules, str) else list(self.target_modules)
        return {
            "r": FULL,
            "alpha": self.scale * FULL,
            "decompose_factor": self.decompose_factor,
            "target_modules": targets,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], tensors: Mapping[str, Tensor]) -> "KronA":
        if any(name.endswith(("_a", "_b")) and "lokr_" in name for name in tensors):
            raise ValueError(
                "This LoKr adapter keeps a factor as a product of two smaller ones; KronA has full factors "
                "(in peft: decompose_both=False and r at least half of the factor's longer side)."
            )
        for field in ("rank_pattern", "alpha_pattern", "layers_to_transform", "exclude_modules"):
            if config.get(field):
                raise ValueError(f"This adapter uses {field}={config[field]!r}, which KronA does not have.")
        factor = config.get("decompose_factor", -1)
        return cls(factor, config["alpha"] / config["r"], config["target_modules"])


FULL = 2**20  # peft keeps a factor whole where r is at least half of its longer side; alpha / r is exact
