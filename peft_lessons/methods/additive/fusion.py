"""AdapterFusion: attention over adapters that were trained before, to use what several tasks have learned.

    z_t = W_up,t act(W_down,t h + b_t) + b'_t        the update of adapter t, frozen; t = 1 … n
    h  ←  h + Σ_t s_t V z_t        s = softmax_t((Q h) · (K z_t))        Q, K, V: (d, d), trained

Trains 3d² numbers a place. V starts as the identity, so that one adapter alone (s = 1) stays what it was.

Source: Pfeiffer et al. 2021, "AdapterFusion: Non-Destructive Task Composition for Transfer Learning", section 3;
adapter-hub/adapters, `BertFusion`, for the residual, which is added after the attention. (There Q and K have biases;
the paper's have none.)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peft_lessons.methods.additive.bottleneck import (
    Activation,
    Bottleneck,
    BottleneckMethod,
    Houlsby,
    Inserted,
    Pfeiffer,
)
from peft_lessons.methods.core import Adapter
from peft_lessons.methods.targets import Linear

PARTS = ("down", "down_bias", "up", "up_bias")


class FusedLinear(Inserted):
    """A linear layer with several frozen bottleneck adapters on its output, and attention over them."""

    def __init__(self, base: Linear, n_adapters: int, bottleneck: int, activation: Activation = "relu"):
        super().__init__(base)
        self.act = F.gelu if activation == "gelu" else F.relu
        fresh = [Bottleneck(self.d_out, bottleneck, activation).to(base.weight.device) for _ in range(n_adapters)]
        self.take([{part: getattr(adapter, part).detach() for part in PARTS} for adapter in fresh])
        d, device = self.d_out, base.weight.device
        self.query, self.key = (nn.Parameter(torch.randn(d, d, device="cpu").mul(0.02).to(device)) for _ in range(2))
        self.value = nn.Parameter(torch.eye(d, device=device))

    def take(self, adapters: Sequence[Mapping[str, Tensor]]) -> None:
        """Let these be the frozen adapters, each by the names of a `Bottleneck`'s parameters."""
        for part in PARTS:  # down: (n, m, d), up: (n, d, m), their biases (n, m) and (n, d)
            stacked = torch.stack([adapter[part] for adapter in adapters])
            self.register_buffer(part, stacked.to(self.base.weight.device, copy=True))

    def updates(self, h: Tensor) -> Tensor:  # (..., d) -> (..., n, d)
        """What each adapter would add to h."""
        z = self.act(torch.einsum("...d,nmd->...nm", h.to(self.down.dtype), self.down) + self.down_bias)  # type: ignore
        return (torch.einsum("...nm,ndm->...nd", z, self.up) + self.up_bias).to(h.dtype)  # type: ignore

    def attention(self, h: Tensor, z: Tensor) -> Tensor:  # (..., d), (..., n, d) -> (..., n)
        """How much of each adapter is taken; sums to 1."""
        return ((z @ self.key.T) @ (h @ self.query.T).unsqueeze(-1)).squeeze(-1).softmax(-1)

    def forward(self, x: Tensor) -> Tensor:  # (..., d_in) -> (..., d_out)
        y = self.base(x)
        h = y.to(self.query.dtype)
        z = self.updates(h)
        mixed = (self.attention(h, z).unsqueeze(-1) * z).sum(-2)  # V of a weighted sum is the sum of weighted V z
        return y + (mixed @ self.value.T).to(y.dtype)


@dataclass(frozen=True)
class AdapterFusion(BottleneckMethod):
    """Attention over frozen bottleneck adapters; `AdapterFusion.over(adapters)` takes trained ones.

    Made without `over` it has fresh adapters, of which nothing can be learned: enough to count and to predict memory.

    Args:
        n_adapters: how many adapters, at least 1.
        bottleneck: their width m, at least 1.
        activation: theirs.
        after_attention: they stand after attention too, as Houlsby's; else after the FFN alone, as Pfeiffer's.
        drop_layers: the lowest blocks of each stack that have none.

    Raises:
        ValueError: a hyperparameter that is no such number or choice.

    Source: see the module.
    """

    peft_type: ClassVar[str] = "ADAPTER_FUSION"
    lr: ClassVar[float] = 1e-3
    why_not_merged: ClassVar[str] = "how much it takes of each adapter depends on the input"
    trained_before: ClassVar[tuple[Adapter, ...]] = ()

    n_adapters: int = 3
    bottleneck: int = 64
    activation: Activation = "relu"
    after_attention: bool = False
    drop_layers: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.n_adapters, bool) or not isinstance(self.n_adapters, int) or self.n_adapters < 1:
            raise ValueError(f"n_adapters is {self.n_adapters!r}; it is a whole number, at least 1.")

    @classmethod
    def over(cls, adapters: Sequence[Adapter]) -> "AdapterFusion":
        """The fusion of adapters that `detach` returned. Their classification heads are left behind.

        Raises:
            ValueError: there is none, they are not of one kind and size, or their norms were trained with them.
        """
        methods = [adapter.method for adapter in adapters]
        bottlenecks = [method for method in methods if isinstance(method, Houlsby | Pfeiffer)]
        if not methods or len(bottlenecks) < len(methods):
            found = ", ".join(type(method).__name__ for method in methods) or "none"
            raise ValueError(f"Fusion is over adapters trained with Pfeiffer or Houlsby; these are {found}.")
        if len({replace(method, init="zero") for method in bottlenecks}) > 1:
            raise ValueError(f"All adapters must be of one kind and size; these are {', '.join(map(repr, methods))}.")
        first = bottlenecks[0]
        if isinstance(first, Houlsby) and first.train_norms:
            raise ValueError("These adapters trained the norms too, which cannot be fused: use train_norms=False.")
        fusion = cls(len(methods), first.bottleneck, first.activation, isinstance(first, Houlsby), first.drop_layers)
        object.__setattr__(fusion, "trained_before", tuple(adapters))
        return fusion

    def replacements(self, model: nn.Module) -> Mapping[str, nn.Module]:
        made: dict[str, nn.Module] = {}
        for block in self.upper_blocks(model):
            for path in (block.attention_out, block.ffn_out) if self.after_attention else (block.ffn_out,):
                made[path] = fused = FusedLinear(
                    model.get_submodule(path), self.n_adapters, self.bottleneck, self.activation
                )
                if self.trained_before:
                    fused.take([_parts(adapter, path, fused) for adapter in self.trained_before])
        return made


def _parts(adapter: Adapter, path: str, fused: FusedLinear) -> dict[str, Tensor]:
    """The tensors that an adapter has for one place.

    Raises:
        ValueError: it has none, or of another shape.
    """
    found = {part: adapter.state.get(f"{path}.adapter.{part}") for part in PARTS}
    if any(t is None or t.shape != getattr(fused, part).shape[1:] for part, t in found.items()):
        raise ValueError(f"An adapter has no tensors that fit {path}: it was trained on another model.")
    return {part: tensor for part, tensor in found.items() if tensor is not None}
