"""Ladder side-tuning: a small network beside the frozen one, which reads every block's output and never sends a
gradient back into it.

    x_0 = W_first h_0                                             h_0 (..., d_model): what the first block reads
    x_i = side_i(μ_i x_(i-1) + (1 - μ_i) W_down,i h_i)            h_i (..., d_model): what block i gives; x_i (..., d)
    h_L <- h_L + W_up norm(x_L)                                   μ_i = sigmoid(α_i / 0.1)      d = d_model / reduction

W_down and W_first are (d, d_model), W_up is (d_model, d); side_i is a `SideBlock`. W_up starts at zero, so attaching
changes nothing, and α at zero, so each rung is half of what comes from below and half of what comes from the side. The
frozen blocks run without gradients, and autograd keeps nothing inside them: of each only h_i, which W_down,i trains on.

Three things are simpler than in the paper. Its side blocks start from the backbone's own weights, pruned by Fisher
information; these start random. Its code gives W_up norm(x_L) to the output layer in place of h_L, unless told to mix
them; here they are added. Its side decoder attends to its side encoder; here an encoder-decoder has the ladder beside
the decoder alone, whose h_i have read the encoder.

Source: Sung, Cho and Bansal 2022, "LST: Ladder Side-Tuning for Parameter and Memory Efficient Transfer Learning",
section 3; ylsung/Ladder-Side-Tuning, `modeling_side_t5.py`, for α, the temperature 0.1 and the last norm.
"""

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from peft_lessons.methods.additive.side_block import SideBlock, weight
from peft_lessons.methods.additive.wrapped import ExtendedModule
from peft_lessons.methods.core import Method
from peft_lessons.methods.targets import blocks

TEMPERATURE = 0.1


class Rail:
    """Hands the side network's x from each wrapped block to the next, and keeps nothing after a pass."""

    x: Tensor | None = None

    def take(self) -> Tensor:
        """What the block below left."""
        x, self.x = self.x, None
        assert x is not None, "a block of the ladder ran without the one below it"
        return x

    def __deepcopy__(self, memo: object) -> "Rail":
        return Rail()


class WrappedBlock(ExtendedModule):
    """A frozen transformer block, `base`, in whose place another module stands; what that lacks is the block's."""

    def by_name(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """What the block is given besides its first argument: mask, cache and the like."""
        names = list(inspect.signature(self.base.forward).parameters)[1:]
        return dict(zip(names, args, strict=False)) | kwargs


class LadderBlock(WrappedBlock):
    """A frozen block and its rung: a way down to the side block beside it; see the module for the equation."""

    def __init__(self, base: nn.Module, side: SideBlock, d_model: int, rail: Rail, first: bool, last: bool):
        super().__init__(base)
        d, device = side.out.shape[0], side.out.device
        self.side, self.rail, self.d_in, self.d_out = side, rail, d_model, d
        self.first = weight(d, d_model, device) if first else None  # (d, d_model)
        self.down = weight(d, d_model, device)  # (d, d_model)
        self.alpha = nn.Parameter(torch.zeros(1, device=device))
        self.norm = nn.LayerNorm(d, device=device) if last else None
        self.up = nn.Parameter(torch.zeros(d_model, d, device=device)) if last else None  # (d_model, d)

    def forward(self, h: Tensor, *args: Any, **kwargs: Any) -> Any:  # (batch, length, d_model), and the same again
        given = self.by_name(args, kwargs)
        if self.training and torch.is_grad_enabled():
            given.pop("past_key_values", None)  # a cache would keep the backbone's keys and values
        below = self.rail.take() if self.first is None else step(h.detach(), self.first)
        with torch.no_grad():
            out = self.base(h, **given)
        h = out[0] if isinstance(out, tuple) else out
        mu = torch.sigmoid(self.alpha / TEMPERATURE)
        x = mu * below + (1 - mu) * step(h, self.down)
        x = self.side(x, given.get("attention_mask"), given.get("past_key_values"), h.dtype)
        if self.up is None or self.norm is None:
            self.rail.x = x
            return out
        h = h + step(self.norm(x), self.up).to(h.dtype)
        return (h, *out[1:]) if isinstance(out, tuple) else h


def step(h: Tensor, W: Tensor) -> Tensor:
    """(..., d_in) -> (..., d_out) in the type of W, multiplied in that of h: so what autograd keeps is h itself."""
    return (h @ W.to(h.dtype).T).to(W.dtype)


@dataclass(frozen=True)
class LadderSideTuning(Method):
    """A ladder beside all blocks of a model; of an encoder-decoder, beside those of its decoder.

    Args:
        reduction: the side network is narrower by this factor: d_model and d_ff are divided by it.

    Raises:
        ValueError: reduction is below 1, or above d_model when it is attached.

    Source: see the module; 8 is what the authors' script takes for T5-base, with the learning rate 3e-3.
    """

    peft_type: ClassVar[str] = "LADDER"
    lr: ClassVar[float] = 3e-3
    why_not_merged: ClassVar[str] = "its side network works beside the blocks, and no weight of theirs can do that work"

    reduction: int = 8

    def __post_init__(self) -> None:
        if isinstance(self.reduction, bool) or not isinstance(self.reduction, int) or self.reduction < 1:
            raise ValueError(f"reduction is {self.reduction!r}; it is a whole number, at least 1.")

    def replacements(self, model: Any) -> Mapping[str, nn.Module]:
        found = blocks(model)
        stack = found[-1].path.rpartition(".")[0]
        found = [block for block in found if block.path.rpartition(".")[0] == stack]
        rail, added, config = Rail(), {}, model.config
        for i, block in enumerate(found):
            base = model.get_submodule(block.path)
            d_model, d_ff = _sizes(model.get_submodule(block.ffn_out))
            if self.reduction > d_model:
                raise ValueError(
                    f"reduction is {self.reduction}, but the model is {d_model} wide: nothing would be left."
                )
            d, side_ff = d_model // self.reduction, max(1, d_ff // self.reduction)
            side = SideBlock(
                d, side_ff, math.gcd(d, config.num_attention_heads), len(found) + i, _is_causal(base),
                config, next(base.parameters()).device,
            )  # fmt: skip
            added[block.path] = LadderBlock(base, side, d_model, rail, first=i == 0, last=block is found[-1])
        return added


def _sizes(layer: Any) -> tuple[int, int]:
    """(d_out, d_in) of a linear layer, also of one that keeps its weight in 4 bits."""
    return (layer.nf, layer.nx) if isinstance(layer, Conv1D) else (layer.out_features, layer.in_features)


def _is_causal(block: nn.Module) -> bool:
    """Whether a block's attention looks back alone."""
    for module in block.modules():
        if hasattr(module, "is_causal"):
            return bool(module.is_causal)
    raise ValueError(f"{type(block).__name__} does not say whether its attention is causal, which a ladder must know.")
