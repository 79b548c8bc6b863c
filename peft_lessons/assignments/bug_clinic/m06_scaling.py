"""M6. alpha, alpha / r or alpha / sqrt(r): the same numbers mean another scale in another code.

Source: rasbt/LLMs-from-scratch issue 1079, huggingface/peft issue 826; alpha / sqrt(r) is Kalajdzievski 2023.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import isclose

import torch
from torch import Tensor, nn

from peft_lessons.assignments.bug_clinic.shared import each
from peft_lessons.assignments.core import Exercise, Property
from peft_lessons.assignments.given import linear, seeded
from peft_lessons.assignments.told import Told

RULES: dict[str, Callable[[float, int], float]] = {
    "alpha": lambda alpha, r: alpha,
    "alpha / r": lambda alpha, r: alpha / r,
    "alpha / sqrt(r)": lambda alpha, r: alpha / r**0.5,
    "1": lambda alpha, r: 1.0,
}


class SomeLoRA(nn.Module):
    """A LoRA layer as somebody wrote it: base, lora_A, lora_B, r, alpha, and a scale that it does not show."""

    def __init__(self, base: nn.Linear, A: Tensor, B: Tensor, alpha: float, rule: str):
        super().__init__()
        self.base, self.r, self.alpha = base, A.shape[0], alpha
        self.lora_A, self.lora_B = nn.Parameter(A), nn.Parameter(B)
        scale = RULES[rule](alpha, self.r)  # in a closure, and no attribute: it is to be found from what is computed
        self._update = lambda x: scale * x @ self.lora_A.T @ self.lora_B.T

    def forward(self, x: Tensor) -> Tensor:  # (..., d_in) -> (..., d_out)
        return self.base(x) + self._update(x)


@dataclass(frozen=True)
class Layers:
    """Layers by four rules, in an order that is drawn, and scales to reach in peft."""

    rules: list[str]
    layers: list[SomeLoRA]
    wanted: list[tuple[float, int, bool]]


@seeded
def draw_layers(g: torch.Generator) -> Layers:
    rules = [list(RULES)[i % 4] for i in torch.randperm(8, generator=g).tolist()]
    layers = []
    for rule in rules:
        r = int(torch.randint(2, 7, (), generator=g))
        base, A, B = linear(9, 6, g), torch.randn(r, 9, generator=g), torch.randn(6, r, generator=g)
        base.requires_grad_(False).weight.mul_(30)  # a base that is not small beside the update
        base.bias.mul_(90)
        layers.append(SomeLoRA(base, A, B, 1.5 * r + 3, rule))
    ranks = torch.randint(2, 64, (6,), generator=g).tolist()
    return Layers(rules, layers, [(16.0, 16, False)] + [(0.5 + r % 5, r, r % 2 == 0) for r in ranks])


def ask_layers(given: Layers, told: Told, find: Callable[..., str], alpha_for: Callable[..., float]) -> None:
    def found() -> None:
        told["rules"] = [str(find(layer)) for layer in given.layers]

    def mended() -> None:
        told["alphas"] = [float(alpha_for(scale, r, rslora)) for scale, r, rslora in given.wanted]

    each(found, mended)


def rules(given: Layers, told: Told) -> str:
    for rule, found, layer in zip(given.rules, told["rules"], given.layers, strict=True):
        if found not in RULES:
            return f"{found!r} is none of {', '.join(RULES)}."
        if found != rule:
            return f"a layer with r {layer.r} and alpha {layer.alpha:g} does not scale by {found}."
    return ""


def alphas(given: Layers, told: Told) -> str:
    for (scale, r, rslora), found in zip(given.wanted, told["alphas"], strict=True):
        reached = found / (r**0.5 if rslora else r)
        if not isclose(reached, scale, rel_tol=1e-6):
            kind = "with use_rslora=True" if rslora else "by default"
            return (
                f"at r {r} {kind}, lora_alpha={found:g} makes peft scale by {reached:g}; {scale:g} was to be reached."
            )
    return ""


Exercise(
    "bug_clinic.m06_scaling",
    draw_layers,
    ask_layers,
    (Property("finds the rule of a closed layer", 2, rules), Property("the same scale in peft", 1, alphas)),
)
