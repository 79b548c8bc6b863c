"""Adapters in a model that is there already: after the feed-forward network of each block, and all else frozen.

Source: Pfeiffer et al. 2021, "AdapterFusion", for the place; the places are found by `targets.blocks`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from peft_lessons.assignments.core import Exercise, Property
from peft_lessons.assignments.given import close, random_model
from peft_lessons.assignments.told import Told
from peft_lessons.methods.additive.bottleneck import Bottleneck
from peft_lessons.methods.core import set_submodule
from peft_lessons.methods.targets import blocks

FAMILIES = ("bert", "llama")


class After(nn.Module):
    """A layer, and an adapter that reads what it puts out."""

    def __init__(self, layer: nn.Module, adapter: nn.Module):
        super().__init__()
        self.layer, self.adapter = layer, adapter

    def forward(self, x: Tensor) -> Tensor:  # (..., d_in) -> (..., d_out)
        return self.adapter(self.layer(x))


class Residual(Bottleneck):
    """A bottleneck adapter with its skip connection, filled with numbers."""

    def __init__(self, d: int, seed: int):
        super().__init__(d, 3)
        g = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=g) * 0.5)

    def forward(self, h: Tensor) -> Tensor:  # (..., d) -> (..., d)
        return h + super().forward(h)


@dataclass(frozen=True)
class Models:
    """Random models of two families, and adapters for them, from a seed."""

    seed: int

    @cached_property
    def models(self) -> dict[str, Any]:
        """Kind -> model, everything trainable."""
        return {kind: random_model(torch.Generator().manual_seed(self.seed), kind) for kind in FAMILIES}

    @property
    def ids(self) -> Tensor:
        """What they read."""
        return torch.randint(3, 32, (2, 7), generator=torch.Generator().manual_seed(self.seed))

    def adapter(self, d: int) -> Residual:
        """One for this width, the same each time."""
        return Residual(d, self.seed)


def ask_inserted(given: Models, told: Told, insert: Callable[..., None]) -> None:
    for kind, model in given.models.items():
        widths: list[int] = []

        def make(d: int, widths: list[int] = widths) -> Residual:
            widths.append(int(d))
            return given.adapter(d)

        insert(model, make)
        found = {path: part for path, part in model.named_modules() if isinstance(part, After)}
        told[f"{kind} places"], told[f"{kind} widths"] = list(found), widths
        told[f"{kind} trained"] = [name for name, p in model.named_parameters() if p.requires_grad]
        with torch.no_grad():
            told[f"{kind} logits"] = model(input_ids=given.ids).logits


def places(given: Models, told: Told) -> str:
    for kind, model in given.models.items():
        found, parts = told[f"{kind} places"], blocks(model)
        right, attention = [b.ffn_out for b in parts], [b.attention_out for b in parts]
        if sorted(found) == sorted(right):
            continue
        if not found:
            return f"in {kind} there is no After."
        if set(found) & set(attention):
            return f"in {kind} one stands at {sorted(set(found) & set(attention))[0]}, which belongs to attention."
        if lacking := sorted(set(right) - set(found)):
            return (
                f"in {kind} the last feed-forward layer of a block has none: look at {lacking[0].rpartition('.')[0]}."
            )
        return f"in {kind} one stands at {sorted(set(found) - set(right))[0]} too."
    return ""


def widths(given: Models, told: Told) -> str:
    for kind, model in given.models.items():
        found = told[f"{kind} widths"]
        if found != [model.config.hidden_size] * len(blocks(model)):
            return f"in {kind} adapters were made for the widths {found}; they read what a layer puts out, one a block."
    return ""


def outputs(given: Models, told: Told) -> str:
    for kind, model in given.models.items():
        right = {block.ffn_out: model.get_submodule(block.ffn_out) for block in blocks(model)}
        for path, layer in right.items():
            set_submodule(model, path, After(layer, given.adapter(model.config.hidden_size)))
        with torch.no_grad():
            logits = model(input_ids=given.ids).logits
        for path, layer in right.items():
            set_submodule(model, path, layer)
        if not close(told.tensor(f"{kind} logits"), logits):
            return f"{kind} computes something else than with an adapter after each feed-forward network."
    return ""


def frozen(given: Models, told: Told) -> str:
    for kind in FAMILIES:
        found = told[f"{kind} trained"]
        if others := [name for name in found if ".adapter." not in name]:
            return f"in {kind}, {others[0]} would be trained too."
        if len(found) != 4 * len(told[f"{kind} places"]) or not found:
            return f"in {kind} there are {len(found)} trained tensors; an adapter has four."
    return ""


Exercise(
    "a2.insert",
    Models,
    ask_inserted,
    (
        Property("after each feed-forward network", 2, places),
        Property("as wide as what it reads", 1, widths),
        Property("the model's output", 2, outputs),
        Property("adapters trained, all else frozen", 1, frozen),
    ),
)
