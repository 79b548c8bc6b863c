"""Diff pruning: learn a difference to every weight, and which few of the differences to keep.

    y = W x + b + (z ⊙ w) x         w, log α: (d_out, d_in), one number of each for every entry of W
    z = clamp(s (ζ - γ) + γ, 0, 1)  s = sigmoid(logit(u) + log α)   u uniform in (0, 1), drawn anew in each step
    penalty = λ Σ P(z ≠ 0)          P(z ≠ 0) = sigmoid(log α - log(-γ / ζ))

z is a gate that is exactly 0 or exactly 1 with some probability, and yet has a gradient: the hard-concrete
distribution, with γ = -1.5 and ζ = 1.5 as in the authors' code. w starts at 0 and log α at 5, where nearly every gate
is open. In evaluation u is 1/2. So 200 % of the targets' numbers are trained. Afterwards `pruned` keeps the largest
differences, 0.5 % in the paper, to be trained on at fixed positions: that is what is stored and changed.

Source: Guo, Rush and Kim 2020, "Parameter-Efficient Transfer Learning with Diff Pruning"; Louizos, Welling and Kingma
2017 for the gate; constants, and 0.1 as the learning rate of log α, from dguo98/DiffPruning.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from peft_lessons.methods.attaching import detach
from peft_lessons.methods.core import Adapter, LinearMethod, WrappedLinear, attachment
from peft_lessons.methods.selective.sparse import SparseUpdate, check_share, top_entries
from peft_lessons.methods.targets import Linear, Targets

GAMMA, ZETA = -1.5, 1.5  # the gate is stretched from (0, 1) to this, then cut back


class DiffPruningLinear(WrappedLinear):
    """A linear layer with a gated difference; see the module for the equation."""

    def __init__(self, base: Linear, sparsity_penalty: float, alpha_init: float):
        super().__init__(base)
        self.sparsity_penalty = sparsity_penalty
        shape = (self.d_out, self.d_in)
        self.w = nn.Parameter(torch.zeros(shape, device=base.weight.device))
        self.log_alpha = nn.Parameter(torch.full(shape, float(alpha_init), device=base.weight.device))

    def gate(self) -> Tensor:  # (d_out, d_in), between 0 and 1
        noise = torch.logit(torch.rand_like(self.log_alpha).clamp(1e-4, 1 - 1e-4)) if self.training else 0.0
        s = torch.sigmoid(noise + self.log_alpha)
        return (s * (ZETA - GAMMA) + GAMMA).clamp(0, 1)

    def open(self) -> Tensor:  # (d_out, d_in), the probability that the gate is not 0
        return torch.sigmoid(self.log_alpha - math.log(-GAMMA / ZETA))

    def penalty(self) -> Tensor:
        return self.sparsity_penalty * self.open().sum()

    def delta(self) -> Tensor:  # (d_out, d_in)
        return self.gate() * self.w

    def forward(self, x: Tensor) -> Tensor:  # (..., d_in) -> (..., d_out)
        return self.base(x) + (x.to(self.w.dtype) @ self.delta().T).to(x.dtype)


@dataclass(frozen=True)
class DiffPruning(LinearMethod):
    """The first stage: a gated difference to every weight of the targets. `pruned` makes the second from it.

    Args:
        sparsity_penalty: λ, what an open gate costs; at least 0.
        alpha_init: log α at the start.
        alpha_rate: the learning rate of log α, in multiples of that of w; above 0.
        target_modules: names, patterns, "attention" or "all-linear"; see `find_targets`.

    Raises:
        ValueError: a negative penalty, or an `alpha_rate` that is not above 0.

    Source: see the module.
    """

    peft_type: ClassVar[str] = "DIFF_PRUNING"
    lr: ClassVar[float] = 1e-4
    mergeable: ClassVar[bool] = True

    sparsity_penalty: float = 1.25e-7
    alpha_init: float = 5.0
    alpha_rate: float = 1000.0
    target_modules: Targets = "all-linear"

    def __post_init__(self) -> None:
        if not self.sparsity_penalty >= 0:
            raise ValueError(f"sparsity_penalty is {self.sparsity_penalty!r}; it must be at least 0.")
        if not self.alpha_rate > 0:
            raise ValueError(f"alpha_rate is {self.alpha_rate!r}; it must be above 0, or the gates never move.")

    def wrap(self, base: Linear) -> DiffPruningLinear:
        return DiffPruningLinear(base, self.sparsity_penalty, self.alpha_init)

    def lr_scale(self, name: str) -> float:
        return self.alpha_rate if name.endswith(".log_alpha") else 1.0


def pruned(model: nn.Module, keep: float = 0.005) -> Adapter:
    """Detach a trained `DiffPruning` and keep its largest differences, as an adapter to attach and train on.

    Args:
        model: with DiffPruning attached and trained.
        keep: the share of all the targets' entries that is kept, above 0 and at most 1.

    Returns:
        A `SparseUpdate` with the values learned so far, and the classification head.

    Raises:
        RuntimeError: what is attached is not DiffPruning.
        ValueError: keep outside (0, 1].

    Source: Guo et al. 2020, section 3.2: magnitude pruning of z ⊙ w, then training at fixed positions.
    """
    state = attachment(model)
    if state is None or not isinstance(state.method, DiffPruning):
        raise RuntimeError("pruned takes a model with DiffPruning attached and trained.")
    check_share("keep", keep)
    with torch.no_grad():
        deltas = {path: module.delta().cpu() for path, module in state.wrapped().items()}
    masks = top_entries({path: delta.abs() for path, delta in deltas.items()}, keep)
    learned = detach(model)
    tensors = {name: tensor for name, tensor in learned.state.items() if name.startswith("classifier.")}
    for path, index in masks.items():
        tensors |= {f"{path}.index": index.int(), f"{path}.values": deltas[path].flatten()[index]}
    return Adapter(SparseUpdate(keep, masks=masks), tensors, learned.choices)
