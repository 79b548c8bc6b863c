"""BitFit: the biases are trained, nothing else is, and a model without biases is refused.

Source: Ben-Zaken, Goldberg and Ravfogel 2021, "BitFit"; the oracle is the package's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from peft_lessons.assignments.core import Exercise, Property
from peft_lessons.assignments.given import random_model
from peft_lessons.assignments.told import Told
from peft_lessons.methods import BitFit

WITH, WITHOUT = ("gpt2", "opt", "phi", "bert"), "llama"


@dataclass(frozen=True)
class Families:
    """Random models of families with biases, and of one without."""

    seed: int

    @cached_property
    def models(self) -> dict[str, Any]:
        """Kind -> model, everything trainable, as transformers builds them."""
        g = torch.Generator().manual_seed(self.seed)
        return {kind: random_model(g, kind) for kind in (*WITH, WITHOUT)}


def ask_biases(given: Families, told: Told, bitfit: Callable[[nn.Module], list[str]]) -> None:
    for kind in WITH:
        model = given.models[kind]
        try:
            told[f"{kind} names"] = [str(name) for name in bitfit(model)]
        except ValueError as error:
            error.args = (f"{error} (a model of the family {kind}, which has biases)",)
            raise
        told[f"{kind} trained"] = [name for name, p in model.named_parameters() if p.requires_grad]
    try:
        bitfit(given.models[WITHOUT])
    except ValueError:
        told["refused"] = True
    else:
        told["refused"] = False


def every_bias(given: Families, told: Told) -> str:
    for kind in WITH:
        found = set(told[f"{kind} trained"])
        if len(found) == len(list(given.models[kind].parameters())):
            return f"in {kind} everything is trained, as it was before."
        if lacking := [name for name in BitFit().trains(given.models[kind]) if name not in found]:
            return f"in {kind}, {lacking[0]} is not trained."
    return ""


def nothing_else(given: Families, told: Told) -> str:
    if wrong := every_bias(given, told):
        return wrong
    for kind in WITH:
        if others := [name for name in told[f"{kind} trained"] if not name.endswith("bias")]:
            return f"in {kind}, {others[0]} is trained too."
    return ""


def not_the_head(given: Families, told: Told) -> str:
    if wrong := every_bias(given, told):
        return wrong
    for kind in WITH:
        right = BitFit().trains(given.models[kind])
        others = [n for n in told[f"{kind} trained"] if n.endswith("bias") and n not in right]
        if others:
            return f"in {kind}, {others[0]} belongs to the output layer, which stays as it is."
    return ""


def names(given: Families, told: Told) -> str:
    for kind in WITH:
        if sorted(told[f"{kind} names"]) != sorted(BitFit().trains(given.models[kind])):
            return f"in {kind} the names returned are not those of the biases."
    return ""


def refused(given: Families, told: Told) -> str:
    if wrong := every_bias(given, told):
        return wrong
    return "" if told["refused"] is True else "a model without biases would train nothing at all, and nobody is told."


Exercise(
    "a2.bitfit",
    Families,
    ask_biases,
    (
        Property("every bias is trained", 1, every_bias),
        Property("and nothing else", 1, nothing_else),
        Property("the output layer's stays", 1, not_the_head),
        Property("the names", 1, names),
        Property("a model without biases is refused", 1, refused),
    ),
)
