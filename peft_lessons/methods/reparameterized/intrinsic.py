"""Intrinsic dimension: train a whole model through d numbers and a fixed random projection.

    W_i = W_i0 + λ_l · P_i θ        θ: (d,), shared by all layers, starts at 0
                                    λ_l: one number for each transformer block, starts at 1
                                    P_i: (d_out · d_in, d), random, never trained, never stored

P_i is Fastfood, n numbers at a time, n the first power of two that is not below d:

    P_i θ = stacked blocks of H G Π H B θ / √(n · d_out · d_in)

B is a diagonal of random signs, H the Hadamard matrix, Π a random permutation, G a diagonal of normal numbers. The
divisor makes E‖P_i θ‖² = ‖θ‖². A dense P_i would take d numbers for each weight; this takes three, in
n log n operations. Trains d numbers and one for each block; ΔW_i is a full matrix, of any rank.

Blocks of size n are stacked, as in Le et al.; Aghajanyan et al. pad θ to the length of W instead. Both are the same
kind of projection, and short transforms stay in the processor's cache: several times faster on a CPU.

Source: Li et al. 2018, "Measuring the Intrinsic Dimension of Objective Landscapes"; Aghajanyan, Gupta and Zettlemoyer
2020, "Intrinsic Dimensionality Explains the Effectiveness of Language Model Fine-Tuning" (DID, and SAID with λ); Le,
Sarlós and Smola 2013, "Fastfood", for H G Π H B.
"""

import re
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peft_lessons.methods.core import LinearMethod, WrappedLinear
from peft_lessons.methods.targets import Linear, Targets, find_targets


def hadamard(n: int) -> Tensor:
    """The n×n Hadamard matrix, n a power of two: H_2n = H_2 ⊗ H_n, rows orthogonal, entries 1 and -1.

    Raises:
        ValueError: n is no power of two.
    """
    if n < 1 or n & (n - 1):
        raise ValueError(f"n is {n}; a Hadamard matrix of this kind has a power of two of rows.")
    H = torch.ones(1, 1)
    while len(H) < n:
        H = torch.kron(torch.tensor([[1.0, 1.0], [1.0, -1.0]]), H)
    return H


def fwht(x: Tensor, H: Tensor) -> Tensor:
    """Walsh-Hadamard transform of the last dimension, n numbers, n a power of two, in about n log n operations.

    H is `hadamard(64)`, which has all smaller ones in its corner. For larger n, H_n = H_m ⊗ H_64: the n numbers as an
    m×64 matrix X give H_m X H_64, small products that a CPU does fast.
    """
    n = x.shape[-1]
    if n <= 64:
        return x @ H[:n, :n]
    X = x.unflatten(-1, (n // 64, 64)) @ H
    return fwht(X.transpose(-1, -2), H).transpose(-1, -2).flatten(-2)


def fastfood(theta: Tensor, signs: Tensor, order: Tensor, gauss: Tensor, H: Tensor) -> Tensor:
    """Stacked blocks of H G Π H B θ.

    Args:
        theta: (d,), d at most n.
        signs: B, (blocks, n).
        order: Π, (blocks · n,): where each number comes from, which is a place in its own block.
        gauss: G, (blocks, n).
        H: `hadamard(64)`.

    Returns:
        (blocks · n,); E‖·‖² is n · (blocks · n) · ‖θ‖².

    Source: Le et al. 2013, without its last diagonal matrix, which shapes a kernel.
    """
    z = fwht(F.pad(theta, (0, signs.shape[-1] - len(theta))) * signs, H)
    z = z.flatten().index_select(0, order).view_as(z)
    return fwht(z * gauss, H).flatten()


class ProjectedLinear(WrappedLinear):
    """A linear layer moved by a few shared numbers; see the module for the equation."""

    def __init__(
        self, base: Linear, theta: nn.Parameter, scale: nn.Parameter | None, H: Tensor, generator: torch.Generator
    ):
        super().__init__(base)
        self.theta, self.scale = theta, scale  # shared by layers, so that each is one parameter of the model
        n = 1 << (len(theta) - 1).bit_length()  # the first power of two that is not below d
        blocks = -(-self.d_out * self.d_in // n)
        parts = draw_parts(blocks, n, generator, base.weight.device) | {"H": H}
        for name, tensor in parts.items():
            self.register_buffer(name, tensor, persistent=False)  # files hold the seed instead
        self.norm = (n * self.d_out * self.d_in) ** -0.5

    def delta(self) -> Tensor:  # (d_out, d_in)
        theta = self.norm * self.theta if self.scale is None else self.norm * self.scale * self.theta
        moved = fastfood(theta, self.signs, self.order, self.gauss, self.H)  # type: ignore[arg-type]
        return moved[: self.d_out * self.d_in].view(self.d_out, self.d_in)

    def forward(self, x: Tensor) -> Tensor:  # (..., d_in) -> (..., d_out)
        return self.base(x) + (x.to(self.theta.dtype) @ self.delta().T).to(x.dtype)


def draw_parts(blocks: int, n: int, generator: torch.Generator, device: torch.device) -> dict[str, Tensor]:
    """B, Π and G: drawn on the CPU, so that every device has the same; shapes alone on meta."""
    if device.type == "meta":
        kinds = {"signs": torch.int8, "order": torch.int32, "gauss": torch.float32}
        shapes = {"signs": (blocks, n), "order": (blocks * n,), "gauss": (blocks, n)}
        return {name: torch.empty(shapes[name], dtype=kind, device=device) for name, kind in kinds.items()}
    signs = torch.randint(0, 2, (blocks, n), generator=generator, dtype=torch.int8) * 2 - 1
    order = torch.rand(blocks, n, generator=generator).argsort(-1) + n * torch.arange(blocks)[:, None]
    gauss = torch.randn(blocks, n, generator=generator)
    return {"signs": signs.to(device), "order": order.flatten().int().to(device), "gauss": gauss.to(device)}


@dataclass(frozen=True)
class IntrinsicDimension(LinearMethod):
    """All target layers moved by d shared numbers: SAID, or DID without `per_layer_scale`.

    Args:
        d: how many numbers are trained, beside the scales; at least 1.
        per_layer_scale: learn one scale for each transformer block (SAID; without it DID).
        projection_seed: the projection is drawn from it and from the layers' sizes, so that files need not hold it.
        target_modules: names, patterns, "attention" or "all-linear"; see `find_targets`.

    Raises:
        ValueError: d below 1, or a seed below 0.

    Source: see the module.
    """

    peft_type: ClassVar[str] = "INTRINSIC_DIMENSION"
    lr: ClassVar[float] = 3e-2
    mergeable: ClassVar[bool] = True

    d: int = 256
    per_layer_scale: bool = True
    projection_seed: int = 0
    target_modules: Targets = "all-linear"

    def __post_init__(self) -> None:
        if isinstance(self.d, bool) or not isinstance(self.d, int) or self.d < 1:
            raise ValueError(f"d is {self.d!r}; it counts trained numbers, so it is a whole number, at least 1.")
        if not isinstance(self.projection_seed, int) or self.projection_seed < 0:
            raise ValueError(f"projection_seed is {self.projection_seed!r}; it is a whole number, at least 0.")

    def replacements(self, model: nn.Module) -> dict[str, nn.Module]:
        layers = find_targets(model, self.target_modules)
        generator = torch.Generator().manual_seed(self.projection_seed)
        device = next(iter(layers.values())).weight.device
        theta, H = nn.Parameter(torch.zeros(self.d, device=device)), hadamard(64).to(device)
        scales: dict[str, nn.Parameter] = {}  # by transformer block; what stands outside of all has one of its own
        found: dict[str, nn.Module] = {}
        for path, layer in layers.items():
            numbered = re.match(r".*?\.\d+\.", path)
            block = numbered[0] if numbered else ""
            if self.per_layer_scale and block not in scales:
                scales[block] = nn.Parameter(torch.ones(1, device=device))
            found[path] = ProjectedLinear(layer, theta, scales.get(block), H, generator)
        return found
