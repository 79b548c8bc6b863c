"""M13. (IA)3 scales the outputs of key and value, but the input of the last feed-forward layer.

Source: r-three/t-few issue 26, huggingface/peft issue 2429; peft 0.21.2 still leaves the sides to
`feedforward_modules`; the method is Liu et al. 2022, "Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper
than In-Context Learning", section 3.3.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from peft import IA3Config
from torch import Tensor, nn

from peft_lessons.assignments.bug_clinic.shared import each, same_names, small_model, with_adapter
from peft_lessons.assignments.core import Exercise, Property
from peft_lessons.assignments.given import close, linear, seeded
from peft_lessons.assignments.told import Told

TARGETS = ["k_proj", "v_proj", "down_proj"]
FEEDFORWARD: tuple[list[str], ...] = (
    ["down_proj"],
    [],
    ["k_proj", "down_proj"],
    ["v_proj"],
)  # as people set it; the first is right


@dataclass(frozen=True)
class Sides:
    """Models with (IA)3 as different settings make it, and a layer to merge with a vector for each of its sides."""

    models: list[Any]
    layer: nn.Linear
    x: Tensor
    l_in: Tensor
    l_out: Tensor


@seeded
def draw_sides(g: torch.Generator) -> Sides:
    order = torch.randperm(len(FEEDFORWARD), generator=g).tolist()
    models = [
        with_adapter(small_model(i), IA3Config(target_modules=TARGETS, feedforward_modules=FEEDFORWARD[i]), i)
        for i in order
    ]
    layer = linear(7, 5, g)
    return Sides(models, layer, *(torch.randn(n, generator=g) for n in ((3, 7), (7,), (5,))))


def ask_sides(given: Sides, told: Told, find: Callable[..., list[str]], merge: Callable[..., Any]) -> None:
    def found() -> None:
        told["wrong sides"] = [[str(path) for path in find(model)] for model in given.models]

    def merged() -> None:
        W, b = given.layer.weight.detach(), given.layer.bias.detach()
        told["W in"], told["b in"] = merge(W.clone(), b.clone(), given.l_in, True)
        told["W out"], told["b out"] = merge(W.clone(), b.clone(), given.l_out, False)

    each(found, merged)


def wrong_sides(given: Sides, told: Told) -> str:
    for model, found in zip(given.models, told["wrong sides"], strict=True):
        expected = [
            name
            for name, module in model.named_modules()
            if hasattr(module, "is_feedforward") and module.is_feedforward is not name.endswith("down_proj")
        ]
        if wrong := same_names(found, expected):
            return wrong
    return ""


def merged_input(given: Sides, told: Told) -> str:
    layer = given.layer.double()
    expected = layer(given.x.double() * given.l_in.double())
    found = given.x.double() @ told.tensor("W in").T + told.tensor("b in")
    return "" if close(found, expected) else "feed-forward: the layer does not give W (l ⊙ x) + b without the vector."


def merged_output(given: Sides, told: Told) -> str:
    layer = given.layer.double()
    expected = given.l_out.double() * layer(given.x.double())
    found = given.x.double() @ told.tensor("W out").T + told.tensor("b out")
    if close(found, expected):
        return ""
    if close(found, expected + (1 - given.l_out.double()) * layer.bias):
        return "key or value: W is right, but l scales the whole output, and b is part of it."
    return "key or value: the layer does not give l ⊙ (W x + b) without the vector."


Exercise(
    "bug_clinic.m13_ia3_side",
    draw_sides,
    ask_sides,
    (
        Property("finds the vectors on the wrong side", 2, wrong_sides),
        Property("merged on the input's side", 1, merged_input),
        Property("merged on the output's side", 1, merged_output),
    ),
)
