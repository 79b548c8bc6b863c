"""The (IA)3 layer: which side of a linear layer is rescaled, and what is trained.

Source: Liu et al. 2022, "Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning",
section 3.3.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from peft_lessons.assignments.core import Exercise, Property
from peft_lessons.assignments.given import close, linear, seeded
from peft_lessons.assignments.told import Told

KINDS = {"keys": False, "ffn": True}  # name -> the argument `feedforward`


@dataclass(frozen=True)
class Layers:
    """A layer that makes keys and one that ends a feed-forward network, and for each an input and a vector."""

    bases: dict[str, nn.Linear]
    x: dict[str, Tensor]
    scales: dict[str, Tensor]

    def plain(self, kind: str) -> Tensor:
        """W x + b, in float64."""
        return _affine(self.bases[kind], self.x[kind])

    def rescaled(self, kind: str) -> Tensor:
        """What (IA)3 gives, in float64."""
        scale = self.scales[kind].double()
        if KINDS[kind]:
            return _affine(self.bases[kind], self.x[kind].double() * scale)
        return self.plain(kind) * scale


def _affine(base: nn.Linear, x: Tensor) -> Tensor:
    return x.double() @ base.weight.detach().double().T + base.bias.detach().double()


@seeded
def draw_layers(g: torch.Generator) -> Layers:
    bases = {"keys": linear(9, 6, g), "ffn": linear(11, 5, g)}
    x = {kind: torch.randn(4, base.in_features, generator=g) for kind, base in bases.items()}
    sizes = {"keys": 6, "ffn": 11}
    return Layers(bases, x, {kind: torch.rand(n, generator=g) * 2 + 0.5 for kind, n in sizes.items()})


def ask_layers(given: Layers, told: Told, make: Callable[[nn.Linear, bool], Any]) -> None:
    layers = {kind: make(given.bases[kind], feedforward) for kind, feedforward in KINDS.items()}
    for kind, layer in layers.items():
        told[f"{kind} at the start"] = layer(given.x[kind])
        told[f"{kind} trained"] = {n: list(p.shape) for n, p in layer.named_parameters() if p.requires_grad}
    for kind, layer in layers.items():
        told[f"{kind} W"], told[f"{kind} b"] = given.bases[kind].weight, given.bases[kind].bias
        told[f"{kind} starts with"] = layer.ia3_l
        y = layer(given.x[kind])
        told[f"{kind} learns"] = y.requires_grad and bool(torch.autograd.grad(y.sum(), layer.ia3_l)[0].any())
    for kind, layer in layers.items():
        with torch.no_grad():
            layer.ia3_l.copy_(given.scales[kind].view(layer.ia3_l.shape))
        told[f"{kind} rescaled"] = layer(given.x[kind])


def at_the_start(given: Layers, told: Told) -> str:
    for kind in KINDS:
        ones = bool((told.tensor(f"{kind} starts with") == 1).all())
        if not ones or not close(told.tensor(f"{kind} at the start"), given.plain(kind)):
            return f"a new layer ({kind}) must give what its base gives: which number changes nothing when multiplied?"
    return ""


def rescales_keys(given: Layers, told: Told) -> str:
    y, scale = told.tensor("keys rescaled"), given.scales["keys"].double()
    if close(y, given.rescaled("keys")):
        return ""
    bias = given.bases["keys"].bias.detach().double()
    if close(y, (given.plain("keys") - bias) * scale + bias):
        return "the bias is left out of the rescaling: it is part of the keys."
    if close(y, given.plain("keys") + scale):
        return "the vector is added; it multiplies."
    if close(y, given.plain("keys") * (1 + scale)):
        return "it multiplies by 1 + l, so l = 1 would not leave the keys alone."
    return "for keys and values the layer's output is rescaled, entry by entry."


def rescales_ffn(given: Layers, told: Told) -> str:
    y, scale = told.tensor("ffn rescaled"), given.scales["ffn"].double()
    if close(y, given.rescaled("ffn")):
        return ""
    bias = given.bases["ffn"].bias.detach().double()
    if close(y, _affine(given.bases["ffn"], given.x["ffn"]) * scale[:5]):
        return "here the layer's output is rescaled; for the feed-forward network it is what goes into its last layer."
    if close(y, (given.rescaled("ffn") - bias) + bias * scale[:5]):
        return "the bias is rescaled too; it is added behind."
    return "for the feed-forward network the input of its last layer is rescaled, entry by entry."


def only_the_vector(given: Layers, told: Told) -> str:
    for kind, n in (("keys", 6), ("ffn", 11)):
        found = told[f"{kind} trained"]
        if list(found) != ["ia3_l"]:
            return f"trained in the layer for {kind}: {', '.join(found) or 'nothing'}; it should be ia3_l alone."
        if torch.Size(found["ia3_l"]).numel() != n:
            base = given.bases[kind]
            return f"ia3_l is {found['ia3_l']} for {kind}, with d_in {base.in_features} and d_out {base.out_features}."
        same = torch.equal(told.tensor(f"{kind} W"), given.bases[kind].weight.double())
        if not same or not torch.equal(told.tensor(f"{kind} b"), given.bases[kind].bias.double()):
            return "the base layer must stay as it was."
        if not told[f"{kind} learns"]:
            return f"in the layer for {kind} no gradient comes back to ia3_l, so nothing would be learned."
    return ""


Exercise(
    "a5.ia3_layer",
    draw_layers,
    ask_layers,
    (
        Property("starts as the base layer", 1, at_the_start),
        Property("keys and values rescaled", 2, rescales_keys),
        Property("the feed-forward network rescaled", 2, rescales_ffn),
        Property("one vector is trained, and no more", 2, only_the_vector),
    ),
)
