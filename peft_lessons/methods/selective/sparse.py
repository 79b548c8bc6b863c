"""A sparse update: train k chosen entries of a frozen weight, and leave all others where they are.

    y = W x + b + ΔW x        ΔW[index] = values, elsewhere 0        values: (k,)   index: (k,), row by row in W

The values start at 0, so attaching changes nothing; ΔW can be added to W after training. Which k entries is the whole
question: `masks` has the answers of FishMask and LT-SFT, `DiffPruning` learns them. Without one the entries are drawn
at random, the baseline that needs no data. k numbers are trained, stored (with as many positions) and changed, but ΔW
and its gradient are made in full for each layer, so nothing is saved in arithmetic.

Source: the fixed sparse mask of Sung, Nair and Raffel 2021, "Training Neural Networks with Fixed Sparse Masks", and of
Ansell et al. 2021, "Composable Sparse Fine-Tuning"; at random, the SHiRA-rand of Bhardwaj et al. 2024, "Sparse High
Rank Adapters", which Hugging Face peft has.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn

from peft_lessons.methods.core import LinearMethod, WrappedLinear
from peft_lessons.methods.targets import Linear, Targets, find_targets, sizes

Masks: TypeAlias = Mapping[str, Tensor]  # path -> positions (k,) in W row by row, or a truth for each entry of W


class SparseLinear(WrappedLinear):
    """A linear layer with a sparse update; see the module for the equation."""

    index: Tensor

    def __init__(self, base: Linear, index: Tensor):
        super().__init__(base)
        device = base.weight.device
        self.register_buffer("index", index.to(device, torch.int32))  # (k,), row · d_in + column
        self.values = nn.Parameter(torch.zeros(len(index), device=device))  # (k,)

    def forward(self, x: Tensor) -> Tensor:  # (..., d_in) -> (..., d_out)
        return self.base(x) + (x.to(self.values.dtype) @ self.delta().T).to(x.dtype)

    def delta(self) -> Tensor:  # (d_out, d_in)
        flat = self.values.new_zeros(self.d_out * self.d_in)
        return flat.index_add(0, self.index, self.values).view(self.d_out, self.d_in)

    def rank(self) -> int:
        return min(len(self.values), self.d_out, self.d_in)

    def changed(self) -> int:
        return len(self.values)


@dataclass(frozen=True)
class SparseUpdate(LinearMethod):
    """A sparse update of the layers that `masks` names, or, without masks, of a random share of each target.

    Args:
        keep: the share of a matrix that a random mask holds, above 0 and at most 1; masks say it themselves.
        target_modules: for random masks; names, patterns, "attention" or "all-linear", see `find_targets`.
        masks: path -> which entries: positions in W row by row, or a truth for each, (d_out, d_in).

    Raises:
        ValueError: keep outside (0, 1]; masks that are empty or do not fit their layers (when attached).

    Source: see the module.
    """

    peft_type: ClassVar[str] = "SPARSE"
    lr: ClassVar[float] = 1e-3
    mergeable: ClassVar[bool] = True

    keep: float = 0.005
    target_modules: Targets = "all-linear"
    masks: Masks | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        check_share("keep", self.keep)
        if self.masks is not None and not self.masks:
            raise ValueError("masks is empty, so there is nothing to train; None draws random ones.")

    def replacements(self, model: nn.Module) -> Mapping[str, nn.Module]:
        if self.masks is None:
            found = find_targets(model, self.target_modules)
            return {path: SparseLinear(layer, random_entries(layer, self.keep)) for path, layer in found.items()}
        found = find_targets(model, list(self.masks))
        return {path: SparseLinear(layer, _positions(path, layer, self.masks[path])) for path, layer in found.items()}

    @classmethod
    def from_config(cls, config: dict[str, Any], tensors: Mapping[str, Tensor]) -> "SparseUpdate":
        masks = {name.removesuffix(".index"): t for name, t in tensors.items() if name.endswith(".index")}
        return cls(config["keep"], config["target_modules"], masks)


def check_share(name: str, share: float) -> None:
    """Refuse what is no share of a whole.

    Raises:
        ValueError: it is not above 0 and at most 1.
    """
    if not 0 < share <= 1:
        raise ValueError(f"{name} is {share!r}; it is a share, above 0 and at most 1.")


def random_entries(layer: Linear, keep: float) -> Tensor:
    """Positions of a random share of a layer's weights, (k,), from torch's current seed; on meta, only their number."""
    n = math.prod(sizes(layer))
    k = max(1, round(keep * n))
    if layer.weight.is_meta:
        return torch.empty(k, dtype=torch.int32, device="meta")
    return torch.randperm(n, device="cpu")[:k].sort().values


def top_entries(scores: Masks, keep: float) -> dict[str, Tensor]:
    """Positions of the largest scores over all matrices together, by path; a matrix that has none is left out.

    Args:
        scores: path -> one number for each entry of W, (d_out, d_in).
        keep: the share of all entries, above 0 and at most 1.

    Raises:
        ValueError: keep outside (0, 1], or no scores.
    """
    check_share("keep", keep)
    if not scores:
        raise ValueError("There are no scores to choose from.")
    flat = torch.cat([matrix.flatten() for matrix in scores.values()])
    chosen = torch.zeros(len(flat), dtype=torch.bool)
    chosen[flat.topk(max(1, round(keep * len(flat)))).indices.cpu()] = True
    parts = chosen.split([matrix.numel() for matrix in scores.values()])
    found = {path: part.nonzero().flatten() for path, part in zip(scores, parts, strict=True)}
    return {path: index for path, index in found.items() if len(index)}


def _positions(path: str, layer: Linear, mask: Tensor) -> Tensor:
    """A mask as positions, (k,)."""
    wrapped = WrappedLinear(layer)
    shape = (wrapped.d_out, wrapped.d_in)
    if mask.dtype == torch.bool:
        if mask.shape != shape:
            raise ValueError(f"The mask of {path} is {tuple(mask.shape)}; its weight is {shape}, (d_out, d_in).")
        mask = mask.flatten().nonzero().flatten()
    if mask.dim() != 1 or not len(mask) or mask.is_floating_point():
        raise ValueError(f"The mask of {path} must be positions, whole numbers (k,), or a truth for each entry.")
    if not mask.is_meta and (mask.min() < 0 or mask.max() >= shape[0] * shape[1] or len(mask.unique()) < len(mask)):
        raise ValueError(f"The mask of {path} needs different positions, from 0 to {shape[0] * shape[1] - 1:,}.")
    return mask
