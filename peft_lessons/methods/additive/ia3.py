"""(IA)3: rescale keys, values and the inside of the FFN by three learned vectors a block.

    k ← l_k ⊙ W_k x        v ← l_v ⊙ W_v x        FFN(x) ← W_out (l_ff ⊙ act(W_in x))

l_k: (d_k,)   l_v: (d_v,)   l_ff: (d_ff,)   all start at 1, so attaching changes nothing. Three vectors in a block, five
in one with cross-attention, where that is rescaled too; "two vectors", as is often said, leaves one out. Everything can
be merged, l_ff included: it goes into W_out's columns (Lialin et al. 2023, section 8.2, say that it cannot).

Source: Liu et al. 2022, "Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning",
section 3.3; the file format is Hugging Face peft's `IA3Config`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from peft_lessons.methods.core import Method, WrappedLinear
from peft_lessons.methods.targets import Linear, Targets, blocks, find_targets, matrix

KEYS_VALUES = {"k", "v", "key", "value", "k_proj", "v_proj", "k_lin", "v_lin", "key_proj", "value_proj"}


class IA3Linear(WrappedLinear):
    """A linear layer with its output rescaled, or, with `feedforward`, its input."""

    def __init__(self, base: Linear, feedforward: bool):
        super().__init__(base)
        self.feedforward = feedforward
        shape = (1, self.d_in) if feedforward else (self.d_out, 1)
        self.ia3_l = nn.Parameter(torch.ones(shape, device=base.weight.device))

    def forward(self, x: Tensor) -> Tensor:  # (..., d_in) -> (..., d_out)
        scale = self.ia3_l.flatten()
        if self.feedforward:
            return self.base((x.to(scale.dtype) * scale).to(x.dtype))
        return (self.base(x).to(scale.dtype) * scale).to(x.dtype)

    def delta(self) -> Tensor:  # (d_out, d_in)
        return (self.ia3_l - 1) * matrix(self.base)

    def delta_bias(self) -> Tensor | None:  # (d_out,)
        if self.feedforward or self.base.bias is None:
            return None
        return (self.ia3_l.flatten() - 1) * self.base.bias

    def changed(self) -> int:
        bias = 0 if self.feedforward or self.base.bias is None else self.d_out
        return self.d_out * self.d_in + bias


@dataclass(frozen=True)
class IA3(Method):
    """(IA)3 on the layers that make keys and values, and on the last layer of each FFN.

    Args:
        target_modules: whose output is rescaled: "keys-values", or names and patterns as in `find_targets`. A layer
            that makes queries, keys and values at once is rescaled whole where it is named, as peft does.
        feedforward_modules: whose input is rescaled: "ffn", the last layer of each FFN, or names and patterns.

    Raises:
        ValueError: feedforward_modules is None; when attached, a target is not there, or keys and values have no layers
            of their own.

    Source: see the module.
    """

    peft_type: ClassVar[str] = "IA3"
    lr: ClassVar[float] = 1e-2
    mergeable: ClassVar[bool] = True

    target_modules: Targets = "keys-values"
    feedforward_modules: Targets = "ffn"

    def __post_init__(self) -> None:
        if self.feedforward_modules is None:
            raise ValueError('feedforward_modules is None; it is "ffn", names or patterns, or () for no such vector.')

    def replacements(self, model: nn.Module) -> Mapping[str, nn.Module]:
        outputs = keys_and_values(model) if self.target_modules == "keys-values" else self.target_modules
        inputs = [b.ffn_out for b in blocks(model)] if self.feedforward_modules == "ffn" else self.feedforward_modules
        ffn = find_targets(model, inputs) if inputs else {}
        layers = find_targets(model, outputs) | ffn
        return {path: IA3Linear(layer, path in ffn) for path, layer in layers.items()}

    def file_targets(self, added: Mapping[str, nn.Module]) -> dict[str, list[str]]:
        ffn = [path for path, module in added.items() if isinstance(module, IA3Linear) and module.feedforward]
        return {"target_modules": list(added), "feedforward_modules": ffn}

    @classmethod
    def from_config(cls, config: dict[str, Any], tensors: Mapping[str, Tensor]) -> "IA3":
        if config.get("exclude_modules"):
            raise ValueError(f"This adapter uses exclude_modules={config['exclude_modules']!r}, which IA3 has not.")
        return cls(config["target_modules"], config.get("feedforward_modules") or ())


def keys_and_values(model: nn.Module) -> list[str]:
    """The layers that make keys and values, cross-attention's included.

    Raises:
        ValueError: they have no layers of their own.
    """
    attention = [path for block in blocks(model, any_ffn=True) for path in (*block.attention, *block.cross_attention)]
    found = [path for path in attention if path.rpartition(".")[2] in KEYS_VALUES]
    if not found:
        names = ", ".join(dict.fromkeys(path.rpartition(".")[2] for path in attention))
        raise ValueError(
            f"This model has no layers of their own for keys and values; its attention has {names}. Name one of these "
            "in target_modules, and all that it makes is rescaled."
        )
    return found
