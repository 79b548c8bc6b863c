"""Adapters in a model that is there already: after the feed-forward network of each block, and all else frozen.

Source: Pfeiffer et al. 2021, "AdapterFusion", for the place; the places are found by `targets.blocks`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from peft_lessons.assignments.core import Exercise, Property
from peft_lessons.assignments.given import close, random_model
from peft_lessons.assignments.told import Told
from peft_lessons.methods.additive.bottleneck import Bottleneck
from peft_lessons.methods.core import set_submodule
from peft_lessons.methods.targets import blocks

FAMILIES = {"bert": "BERT", "llama": "Llama"}


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
    stopped = None
    for kind in FAMILIES:  # one family that goes wrong does not keep the other from being asked
        try:
            _ask_one(given, told, insert, kind)
        except Exception as error:  # whatever the learner's code raises
            stopped = stopped or error
    if stopped:
        raise stopped


def _ask_one(given: Models, told: Told, insert: Callable[..., None], kind: str) -> None:
    model, widths = given.models[kind], list[int]()

    def make(d: int) -> Residual:
        widths.append(int(d))
        return given.adapter(d)

    insert(model, make)
    told[f"{kind} places"] = [path for path, part in model.named_modules() if isinstance(part, After)]
    told[f"{kind} widths"] = widths
    told[f"{kind} trained"] = [name for name, p in model.named_parameters() if p.requires_grad]
    with torch.no_grad():
        told[f"{kind} logits"] = model(input_ids=given.ids).logits


def places(kind: str, given: Models, told: Told) -> str:
    model, found, width = given.models[kind], told[f"{kind} places"], told[f"{kind} widths"]
    right, attention = [b.ffn_out for b in blocks(model)], [b.attention_out for b in blocks(model)]
    if not found:
        return "there is no After."
    if set(found) & set(attention):
        return f"one stands at {sorted(set(found) & set(attention))[0]}, which belongs to attention."
    if lacking := sorted(set(right) - set(found)):
        return f"the last feed-forward layer of a block has none: look at {lacking[0].rpartition('.')[0]}."
    if more := sorted(set(found) - set(right)):
        return f"one stands at {more[0]} too."
    as_wide = width == [model.config.hidden_size] * len(right)
    return (
        "" if as_wide else f"adapters were made for the widths {width}; they read what a layer puts out, one a block."
    )


def outputs(kind: str, given: Models, told: Told) -> str:
    model = given.models[kind]
    for block in blocks(model):
        layer = model.get_submodule(block.ffn_out)
        set_submodule(model, block.ffn_out, After(layer, given.adapter(model.config.hidden_size)))
    with torch.no_grad():
        logits = model(input_ids=given.ids).logits
    says = "it computes something else than with an adapter after each feed-forward network."
    return "" if close(told.tensor(f"{kind} logits"), logits) else says


def frozen(kind: str, given: Models, told: Told) -> str:
    found, n = told[f"{kind} trained"], len(told[f"{kind} places"])
    if others := [name for name in found if ".adapter." not in name]:
        return f"{others[0]} would be trained too."
    return "" if found and len(found) == 4 * n else f"{len(found)} tensors are trained; each of {n} adapters has four."


Exercise(
    "a2.insert",
    Models,
    ask_inserted,
    tuple(
        Property(f"{says} {FAMILIES[kind]}", 1, partial(wrong, kind))
        for kind in FAMILIES
        for says, wrong in (("the places in a", places), ("the output of a", outputs), ("what is trained in a", frozen))
    ),
)
