"""FAR, freeze and reconfigure: of each feed-forward layer, train the output nodes that would move most.

    y[nodes] = W_learn x + b_learn        W_learn: (k, d_in)   b_learn: (k,)    trained copies of rows of W and b
    y[others] = W_frozen x + b_frozen     the other rows, frozen

An output node is a row of W. k of them are trained, so the gradient is a smaller dense matrix, which hardware likes
better than scattered entries. At the start the two parts are the dense layer. Which rows: those with the largest L1
movement in a short fine-tuning of everything, `masks.learner_nodes`; without it, rows drawn at random.

Here W x is computed whole and its learner rows are replaced, so that the frozen layer may be of any kind; the authors
split W, and save that part of the arithmetic.

Source: Vucetic et al. 2022, "Efficient Fine-Tuning of BERT Models on the Edge".
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from peft_lessons.methods.core import Method, WrappedLinear
from peft_lessons.methods.selective.sparse import check_share
from peft_lessons.methods.targets import Linear, blocks, find_targets, matrix


class FARLinear(WrappedLinear):
    """A linear layer whose rows `nodes` are trained; see the module for the equation."""

    nodes: Tensor

    def __init__(self, base: Linear, nodes: Tensor):
        super().__init__(base)
        nodes = nodes.to(base.weight.device, torch.int64)
        self.register_buffer("nodes", nodes)  # (k,)
        self.learner = nn.Parameter(matrix(base).detach()[nodes].float())  # (k, d_in)
        self.learner_bias = None if base.bias is None else nn.Parameter(base.bias.detach()[nodes].float())  # (k,)

    def forward(self, x: Tensor) -> Tensor:  # (..., d_in) -> (..., d_out)
        learned = nn.functional.linear(x.to(self.learner.dtype), self.learner, self.learner_bias)  # (..., k)
        return self.base(x).index_copy(-1, self.nodes, learned.to(x.dtype))

    def delta(self) -> Tensor:  # (d_out, d_in)
        rows = self.learner - matrix(self.base)[self.nodes]
        return rows.new_zeros(self.d_out, self.d_in).index_copy(0, self.nodes, rows)

    def delta_bias(self) -> Tensor | None:  # (d_out,)
        if self.learner_bias is None:
            return None
        moved = self.learner_bias - self.base.bias[self.nodes]
        return moved.new_zeros(self.d_out).index_copy(0, self.nodes, moved)

    def rank(self) -> int:
        return min(len(self.nodes), self.d_out, self.d_in)

    def changed(self) -> int:
        return sum(p.numel() for p in (self.learner, self.learner_bias) if p is not None)


@dataclass(frozen=True)
class FAR(Method):
    """Training of a share of the output nodes of each feed-forward layer.

    Args:
        share: of a layer's nodes, drawn at random, above 0 and at most 1; `nodes` say it themselves.
        nodes: path of a feed-forward layer -> numbers of its nodes, (k,).

    Raises:
        ValueError: share outside (0, 1]; nodes that are empty or not there (when attached).

    Source: see the module.
    """

    peft_type: ClassVar[str] = "FAR"
    lr: ClassVar[float] = 5e-4
    mergeable: ClassVar[bool] = True

    share: float = 0.05
    nodes: Mapping[str, Tensor] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_share("share", self.share)
        if self.nodes is not None and not self.nodes:
            raise ValueError("nodes is empty, so there is nothing to train; None draws random ones.")

    def replacements(self, model: nn.Module) -> Mapping[str, nn.Module]:
        paths = [path for block in blocks(model) for path in block.ffn] if self.nodes is None else list(self.nodes)
        layers = find_targets(model, paths)
        return {path: FARLinear(layer, self._nodes_of(path, layer)) for path, layer in layers.items()}

    def _nodes_of(self, path: str, layer: Linear) -> Tensor:
        d_out = WrappedLinear(layer).d_out
        if self.nodes is None:
            return torch.randperm(d_out, device="cpu")[: max(1, round(self.share * d_out))].sort().values
        nodes = self.nodes[path]
        if not nodes.is_meta and (not len(nodes) or nodes.min() < 0 or nodes.max() >= d_out):
            raise ValueError(f"The nodes of {path} must be numbers from 0 to {d_out - 1}, at least one.")
        return nodes

    @classmethod
    def from_config(cls, config: dict[str, Any], tensors: Mapping[str, Tensor]) -> "FAR":
        return cls(config["share"], {n.removesuffix(".nodes"): t for n, t in tensors.items() if n.endswith(".nodes")})
