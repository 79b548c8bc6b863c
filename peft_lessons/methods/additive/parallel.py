"""Parallel adapters: the bottleneck beside the FFN instead of after it.

    FFN(x)  ←  FFN(x) + s · (W_up act(W_down x + b) + b')        W_down: (m, d)   W_up: (d, m)   s: one number

x is the FFN's input, which its first layer sees and its last does not, so the first hands it over. Trains 2dm + m + d
numbers a block. s = 1 is the parallel adapter, s = 4 the scaled one; `learned_scaling` trains s, one number a block.

Source: He et al. 2022, "Towards a Unified View of Parameter-Efficient Transfer Learning", table 1, and
jxhe/unify-parameter-efficient-tuning for the initialisation (W_down uniform Kaiming, W_up zero); Zhu et al. 2021.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from peft_lessons.methods.additive.bottleneck import Activation, Bottleneck, BottleneckMethod, Inserted
from peft_lessons.methods.targets import Linear


class Handover:
    """Where one layer leaves a tensor for another; taking it empties the place, so that nothing is kept alive."""

    def __init__(self) -> None:
        self.left: Tensor | None = None

    def take(self) -> Tensor:
        """What was left.

        Raises:
            RuntimeError: nothing was: the layers were not called in the FFN's order.
        """
        found, self.left = self.left, None
        if found is None:
            raise RuntimeError("The FFN's last layer was called before its first: it has no input to work on.")
        return found

    def __deepcopy__(self, memo: dict[int, object]) -> "Handover":
        return Handover()


class FFNInput(Inserted):
    """The FFN's first layer, as it was; it leaves its input for the adapter."""

    def __init__(self, base: Linear, handover: Handover):
        super().__init__(base)
        self.handover = handover

    def forward(self, x: Tensor) -> Tensor:
        self.handover.left = x
        return self.base(x)


class ParallelLinear(Inserted):
    """The FFN's last layer, and an adapter that works on the FFN's input."""

    def __init__(
        self,
        base: Linear,
        handover: Handover,
        bottleneck: int,
        activation: Activation = "relu",
        scaling: float = 1.0,
        learned_scaling: bool = False,
    ):
        super().__init__(base)
        self.handover = handover
        self.adapter = Bottleneck(self.d_out, bottleneck, activation).to(base.weight.device)
        start = torch.full((1,), scaling, device=base.weight.device)
        self.scaling = nn.Parameter(start) if learned_scaling else scaling

    def forward(self, inner: Tensor) -> Tensor:  # (..., d_ff) -> (..., d)
        x = self.handover.take()
        return self.base(inner) + (self.scaling * self.adapter(x)).to(x.dtype)


@dataclass(frozen=True)
class ParallelAdapter(BottleneckMethod):
    """A bottleneck adapter in parallel to the FFN of each block.

    Args:
        bottleneck: the width m, at least 1.
        activation: "relu" as in the paper, or "gelu".
        scaling: s, above 0; 4 is the paper's scaled parallel adapter.
        learned_scaling: train s, one number a block, from `scaling` on.
        drop_layers: the lowest blocks of each stack that get no adapter.

    Raises:
        ValueError: a hyperparameter that is no such number or choice.

    Source: see the module.
    """

    peft_type: ClassVar[str] = "PARALLEL_ADAPTER"
    lr: ClassVar[float] = 1e-3

    bottleneck: int = 64
    activation: Activation = "relu"
    scaling: float = 1.0
    learned_scaling: bool = False
    drop_layers: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.scaling > 0:
            raise ValueError(f"scaling is {self.scaling!r}; it must be above 0, or the adapter is switched off.")

    def replacements(self, model: nn.Module) -> Mapping[str, nn.Module]:
        made: dict[str, nn.Module] = {}
        for block in self.upper_blocks(model):
            handover, first, last = Handover(), block.ffn_in[0], block.ffn_out
            made[first] = FFNInput(model.get_submodule(first), handover)
            made[last] = ParallelLinear(
                model.get_submodule(last),
                handover,
                self.bottleneck,
                self.activation,
                self.scaling,
                self.learned_scaling,
            )
        return made
