"""Merging a LoRA layer into its base and taking it out again, once each.

Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", section 4.1.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from peft_lessons.assignments.a3.layer import Layer, draw_layer
from peft_lessons.assignments.core import Exercise, Property
from peft_lessons.assignments.given import close
from peft_lessons.assignments.told import Told


def ask_merge(given: Layer, told: Told, merge: Callable[[Any], None], unmerge: Callable[[Any], None]) -> None:
    layer = ToMerge(given)
    weight = layer.base.weight
    merge(layer)
    told["merged W"], told["merged b"], told["flag"] = layer.base.weight, layer.base.bias, layer.merged
    told["in place"] = layer.base.weight is weight and not weight.requires_grad
    told["after"] = layer(given.x)
    told["twice"] = _refused(merge, layer)
    told["W after twice"] = layer.base.weight
    unmerge(layer)
    told["W again"], told["output again"], told["A"] = layer.base.weight, layer(given.x), layer.lora_A
    told["unmerged twice"] = _refused(unmerge, layer)
    told["W after all"] = layer.base.weight


class ToMerge(nn.Module):
    """A finished LoRA layer with a switch: while `merged`, its base does all the work."""

    def __init__(self, given: Layer):
        super().__init__()
        self.base = given.base.requires_grad_(False)
        self.lora_A, self.lora_B = nn.Parameter(given.A.clone()), nn.Parameter(given.B.clone())
        self.scaling, self.merged = given.alpha / given.r, False

    def forward(self, x: Tensor) -> Tensor:  # (..., d_in) -> (..., d_out)
        y = self.base(x)
        return y if self.merged else y + self.scaling * (x @ self.lora_A.T) @ self.lora_B.T


def _refused(change: Callable[[Any], None], layer: Any) -> str:
    """What was raised, by name."""
    try:
        change(layer)
    except Exception as error:  # whatever the learner's code raises
        return "RuntimeError" if isinstance(error, RuntimeError) else type(error).__name__
    return ""


def _merged(given: Layer) -> Tensor:
    return given.base.weight.detach().double() + given.alpha / given.r * given.B.double() @ given.A.double()


def merged_weight(given: Layer, told: Told) -> str:
    W, found = given.base.weight.detach().double(), told.tensor("merged W")
    BA, s = given.B.double() @ given.A.double(), given.alpha / given.r
    if close(found, _merged(given)):
        return ""
    mistakes = {
        "the weight has not changed, or only in a copy of it": W,
        "the scale is missing from what is added": W + BA,
        "it is scaled by alpha, which leaves the rank out": W + given.alpha * BA,
        "the update was taken off, not added": W - s * BA,
        "W itself is scaled": s * (W + BA),
        "W is gone: the update stands in its place": s * BA,
        "it was added twice": W + 2 * s * BA,
    }
    named = [says for says, wrong in mistakes.items() if close(found, wrong)]
    return f"{named[0]}." if named else "the merged weight is not the one that makes the update unnecessary."


def same_function(given: Layer, told: Told) -> str:
    if told["flag"] is not True:
        return "layer.merged must say that it is merged; else forward adds the update a second time."
    if told["in place"] is not True:
        return "base.weight must be changed in place: it is another parameter now, or one that is trained."
    same = close(told.tensor("after"), given.plain + given.alpha / given.r * given.update)
    same = same and torch.equal(told.tensor("merged b"), given.base.bias.detach().double())
    return "" if same else "merging must not change what the layer computes, nor its bias."


def merged_once(given: Layer, told: Told) -> str:
    once = told.tensor("merged W")
    if close(once, given.base.weight.detach().double()):
        return "nothing was merged even once."
    return _once("merging", told["twice"], close(told.tensor("W after twice"), once))


def _once(what: str, raised: str, same: bool) -> str:
    if not same:
        return f"{what} a second time changes the weight."
    found = f"raises {raised}" if raised else "raises nothing"
    return "" if raised == "RuntimeError" else f"{what} a second time {found}, where RuntimeError is right."


def unmerged(given: Layer, told: Told) -> str:
    same = close(told.tensor("W again"), given.base.weight.detach().double())
    return "" if same else "after unmerging, W is not what it was before."


def unmerged_once(given: Layer, told: Told) -> str:
    same = close(told.tensor("output again"), given.plain + given.alpha / given.r * given.update)
    same = same and torch.equal(told.tensor("A"), given.A.double())
    if not same:
        return "unmerged, the layer must compute the same as before, from W and the untouched A and B."
    return _once("unmerging", told["unmerged twice"], close(told.tensor("W after all"), told.tensor("W again")))


Exercise(
    "a3.merge",
    draw_layer,
    ask_merge,
    (
        Property("the merged weight", 2, merged_weight),
        Property("the same function", 1, same_function),
        Property("merged only once", 1, merged_once),
        Property("W again after unmerging", 1, unmerged),
        Property("unmerged only once", 1, unmerged_once),
    ),
)
