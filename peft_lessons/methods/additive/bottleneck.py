"""Bottleneck adapters: a small network with a skip connection, after a layer that writes into the residual stream.

    h  ←  h + W_up act(W_down h + b) + b'        W_down: (m, d)   b: (m,)   W_up: (d, m)   b': (d,)

h is the layer's output, (..., d), before the residual sum and the norm. Trains 2dm + m + d numbers a place. Houlsby's
stands after attention and after the FFN of each block, and the norms are trained too; Pfeiffer's after the FFN alone.
(The survey's "only after self-attention" is a slip: the authors' library sets it after the FFN.) `drop_layers` leaves
the lowest blocks without adapters: AdapterDrop. Two details differ from the papers' code: their adapter comes after the
layer's dropout, ours before it; and Pfeiffer's reads its input after one more norm, which only some models have.

Source: Houlsby et al. 2019, "Parameter-Efficient Transfer Learning for NLP", and google-research/adapter-bert for the
initialisation; Pfeiffer et al. 2021, "AdapterFusion", and adapter-hub/adapters, `SeqBnConfig`; Rücklé et al. 2021,
"AdapterDrop".
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peft_lessons.methods.core import Method, WrappedLinear
from peft_lessons.methods.targets import Block, Linear, norm_parameters, stacks

Activation = Literal["gelu", "relu"]
Init = Literal["zero", "normal"]


class Bottleneck(nn.Module):
    """W_up act(W_down h + b) + b'; see the module. `init` "zero" starts W_up at zero, "normal" both weights near it."""

    def __init__(self, d: int, m: int, activation: Activation = "gelu", init: Init = "zero"):
        super().__init__()
        self.act = F.gelu if activation == "gelu" else F.relu
        down, up = torch.empty(m, d, device="cpu"), torch.zeros(d, m, device="cpu")  # the same on every device
        if init == "zero":
            nn.init.kaiming_uniform_(down, a=math.sqrt(5))
        else:
            for weight in (down, up):
                nn.init.trunc_normal_(weight, std=1e-3, a=-2e-3, b=2e-3)
        self.down, self.down_bias = nn.Parameter(down), nn.Parameter(torch.zeros(m, device="cpu"))
        self.up, self.up_bias = nn.Parameter(up), nn.Parameter(torch.zeros(d, device="cpu"))

    def forward(self, h: Tensor) -> Tensor:  # (..., d) -> (..., d)
        z = self.act(h.to(self.down.dtype) @ self.down.T + self.down_bias)  # (..., m)
        return (z @ self.up.T + self.up_bias).to(h.dtype)


class Inserted(WrappedLinear):
    """A linear layer and something beside or after it that is no matrix: no entry of W changes, numbers are added."""

    def rank(self) -> None:
        return None

    def changed(self) -> int:
        own = [*self.named_parameters(), *self.named_buffers()]
        return sum(tensor.numel() for name, tensor in own if not name.startswith("base."))


class BottleneckLinear(Inserted):
    """A linear layer with a bottleneck adapter on its output."""

    def __init__(self, base: Linear, bottleneck: int, activation: Activation = "gelu", init: Init = "zero"):
        super().__init__(base)
        self.adapter = Bottleneck(self.d_out, bottleneck, activation, init).to(base.weight.device)

    def forward(self, x: Tensor) -> Tensor:  # (..., d_in) -> (..., d_out)
        h = self.base(x)
        return h + self.adapter(h)


class BottleneckMethod(Method):
    """What the bottleneck methods share: their checks, their files, and the blocks that have adapters."""

    mergeable: ClassVar[bool] = False
    why_not_merged: ClassVar[str] = "an activation stands between its two matrices, so that no matrix is their equal"

    bottleneck: int
    drop_layers: int

    def __post_init__(self) -> None:
        if isinstance(self.bottleneck, bool) or not isinstance(self.bottleneck, int) or self.bottleneck < 1:
            raise ValueError(f"bottleneck is {self.bottleneck!r}; the width is a whole number, at least 1.")
        if isinstance(self.drop_layers, bool) or not isinstance(self.drop_layers, int) or self.drop_layers < 0:
            raise ValueError(f"drop_layers is {self.drop_layers!r}; it is a whole number of blocks, at least 0.")
        for name, choices in (("activation", Activation), ("init", Init)):
            if getattr(self, name, None) not in (None, *get_args(choices)):
                raise ValueError(f"{name} is {getattr(self, name)!r}; it can be {', '.join(get_args(choices))}.")

    def upper_blocks(self, model: nn.Module) -> list[Block]:
        """The blocks that get adapters: all but the lowest `drop_layers` of each stack.

        Raises:
            ValueError: none is left.
        """
        found = [block for stack in stacks(model) for block in stack[self.drop_layers :]]
        if not found:
            depth = max(len(stack) for stack in stacks(model))
            raise ValueError(f"drop_layers is {self.drop_layers}; the model has {depth} blocks, so no adapter is left.")
        return found


@dataclass(frozen=True)
class Houlsby(BottleneckMethod):
    """A bottleneck adapter after attention and after the FFN of each block, and the norms trained with it.

    Cross-attention gets none, as in Karimi Mahabadi et al. 2021.

    Args:
        bottleneck: the width m, at least 1.
        activation: "gelu" as in the paper, or "relu".
        train_norms: train the gains and biases of all norms too, as the paper does.
        init: "zero" starts W_up at zero, so that attaching changes nothing; "normal" is the paper's: both weights from
            a normal distribution of standard deviation 0.001, cut off at two of them, so that it changes very little.
        drop_layers: the lowest blocks of each stack that get no adapter.

    Raises:
        ValueError: a hyperparameter that is no such number or choice.

    Source: Houlsby et al. 2019, section 2.1 and google-research/adapter-bert.
    """

    peft_type: ClassVar[str] = "HOULSBY"
    lr: ClassVar[float] = 1e-3

    bottleneck: int = 64
    activation: Activation = "gelu"
    train_norms: bool = True
    init: Init = "zero"
    drop_layers: int = 0

    def replacements(self, model: nn.Module) -> Mapping[str, nn.Module]:
        paths = [path for block in self.upper_blocks(model) for path in (block.attention_out, block.ffn_out)]
        made = (BottleneckLinear(model.get_submodule(p), self.bottleneck, self.activation, self.init) for p in paths)
        return dict(zip(paths, made, strict=True))

    def trains(self, model: nn.Module) -> list[str]:
        return norm_parameters(model) if self.train_norms else []


@dataclass(frozen=True)
class Pfeiffer(BottleneckMethod):
    """A bottleneck adapter after the FFN of each block: half of Houlsby's, and the norms stay frozen.

    Args:
        bottleneck: the width m, at least 1; AdapterHub's default is d / 16.
        activation: "relu" as in the paper, or "gelu".
        init: as in `Houlsby`.
        drop_layers: the lowest blocks of each stack that get no adapter.

    Raises:
        ValueError: a hyperparameter that is no such number or choice.

    Source: Pfeiffer et al. 2021, section 2 and appendix; adapter-hub/adapters, `SeqBnConfig`.
    """

    peft_type: ClassVar[str] = "PFEIFFER"
    lr: ClassVar[float] = 1e-3

    bottleneck: int = 64
    activation: Activation = "relu"
    init: Init = "zero"
    drop_layers: int = 0

    def replacements(self, model: nn.Module) -> Mapping[str, nn.Module]:
        paths = [block.ffn_out for block in self.upper_blocks(model)]
        made = (BottleneckLinear(model.get_submodule(p), self.bottleneck, self.activation, self.init) for p in paths)
        return dict(zip(paths, made, strict=True))
