"""Merging (IA)3's vectors into the weights: rows or columns, and what of the bias.

Source: Liu et al. 2022, section 3.3; that l_ff can be merged follows from W (l ⊙ x) = (W diag(l)) x.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from peft_lessons.assignments.a5.rescaling import KINDS, Layers, draw_layers
from peft_lessons.assignments.core import Exercise, Property
from peft_lessons.assignments.given import close
from peft_lessons.assignments.told import Told


def ask_merge(given: Layers, told: Told, merge: Callable[..., tuple[Tensor, Tensor]]) -> None:
    for kind, feedforward in KINDS.items():
        base = given.bases[kind].requires_grad_(False)
        W, b = merge(base.weight.clone(), base.bias.clone(), given.scales[kind].clone(), feedforward)
        told[f"{kind} W"], told[f"{kind} b"] = W, b


def merged_keys(given: Layers, told: Told) -> str:
    W, scale = given.bases["keys"].weight.detach().double(), given.scales["keys"].double()
    if close(told.tensor("keys W"), scale[:, None] * W):
        return ""
    if close(told.tensor("keys W"), W + scale[:, None]):
        return "the vector is added to W; it multiplies."
    return "each entry of the output belongs to one row of W: multiply that row."


def merged_bias(given: Layers, told: Told) -> str:
    b, scale = given.bases["keys"].bias.detach().double(), given.scales["keys"].double()
    return "" if close(told.tensor("keys b"), scale * b) else "the bias is part of the output that is rescaled."


def merged_ffn(given: Layers, told: Told) -> str:
    W, scale = given.bases["ffn"].weight.detach().double(), given.scales["ffn"].double()
    if close(told.tensor("ffn W"), scale[None, :] * W):
        return ""
    return "each entry of the input meets one column of W: multiply that column."


def ffn_bias_stays(given: Layers, told: Told) -> str:
    same = close(told.tensor("ffn b"), given.bases["ffn"].bias.detach().double())
    same = same and not torch.equal(told.tensor("ffn W"), given.bases["ffn"].weight.detach().double())
    return "" if same else "W changes, and the bias, which is added behind it, does not."


Exercise(
    "a5.ia3_merge",
    draw_layers,
    ask_merge,
    (
        Property("the weight that makes keys", 1, merged_keys),
        Property("its bias", 1, merged_bias),
        Property("the feed-forward network's last weight", 1, merged_ffn),
        Property("its bias stays", 1, ffn_bias_stays),
    ),
)
