"""The LoRA layer: its shapes, its start, its output and gradients, and a base that does not move.

Source: Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", equation 3.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from peft_lessons.assignments.core import Exercise, Property
from peft_lessons.assignments.given import close, linear, seeded
from peft_lessons.assignments.told import Told
from peft_lessons.checks.lora import wrong_forward


@dataclass(frozen=True)
class Layer:
    """A linear layer, a rank and an alpha that differ from each other, an input, and factors to fill in."""

    base: nn.Linear
    r: int
    alpha: float
    x: Tensor
    A: Tensor
    B: Tensor

    @property
    def update(self) -> Tensor:
        """B A x, before any scaling, in float64."""
        return self.x.double() @ self.A.double().T @ self.B.double().T

    @property
    def plain(self) -> Tensor:
        """W x + b, in float64."""
        weight, bias = self.base.weight.detach().double(), self.base.bias.detach().double()
        return self.x.double() @ weight.T + bias


@seeded
def draw_layer(g: torch.Generator) -> Layer:
    d_in, d_out, r = (int(torch.randint(low, high, (), generator=g)) for low, high in ((9, 14), (5, 9), (2, 5)))
    factors = torch.randn(r, d_in, generator=g), torch.randn(d_out, r, generator=g)
    return Layer(linear(d_in, d_out, g), r, 2.5 * r, torch.randn(3, d_in, generator=g), *factors)


def ask_layer(given: Layer, told: Told, make: Callable[[nn.Linear, int, float], Any]) -> None:
    layer = make(given.base, given.r, given.alpha)
    told["at the start"] = layer(given.x)
    for name in ("lora_A", "lora_B"):
        if isinstance(part := getattr(layer, name), nn.Module):
            raise TypeError(f"{name} is a {type(part).__name__}; a parameter of the layer is asked for")
    told["A at the start"], told["B at the start"] = layer.lora_A, layer.lora_B
    told["trained"] = [name for name, p in layer.named_parameters() if p.requires_grad]
    with torch.no_grad():
        layer.lora_A.copy_(given.A)
        layer.lora_B.copy_(given.B)
    x = given.x.clone().requires_grad_(True)
    y = layer(x)
    told["y"] = y
    y.square().sum().backward()
    told["gradient of A"], told["gradient of B"], told["gradient of x"] = layer.lora_A.grad, layer.lora_B.grad, x.grad
    told["W"], told["b"] = given.base.weight, given.base.bias
    with torch.no_grad():
        told["y of a batch"] = layer(given.x.view(1, 3, -1))


def shapes(given: Layer, told: Told) -> str:
    A, B = tuple(told.tensor("A at the start").shape), tuple(told.tensor("B at the start").shape)
    if A == (*given.A.shape[::-1],) and B == (*given.B.shape[::-1],):
        return f"lora_A is {A} and lora_B is {B}: both are transposed."
    if A == tuple(given.B.shape) and B == tuple(given.A.shape):
        return "lora_A and lora_B have changed places."
    right = A == tuple(given.A.shape) and B == tuple(given.B.shape)
    return "" if right else f"lora_A is {A} and lora_B is {B}, with d_in {given.base.in_features}, r {given.r}."


def at_the_start(given: Layer, told: Told) -> str:
    same = close(told.tensor("at the start"), given.plain)
    return "" if same else "a layer that has learned nothing yet must give what the base gives: look at B."


def can_learn(given: Layer, told: Told) -> str:
    zero = not told.tensor("A at the start").any() and not told.tensor("B at the start").any()
    return "A and B both start at zero, so neither gets a gradient, ever." if zero else ""


def forward(given: Layer, told: Told) -> str:
    y, s = told.tensor("y"), given.alpha / given.r
    if close(y, given.plain + s * given.update):
        same = close(told.tensor("y of a batch"), y[None])
        return "" if same else "right for a matrix of rows, and not for a batch of such matrices."
    named = wrong_forward(y, given.plain, given.update, given.base.bias.detach(), s, given.alpha)
    return named or "with B no longer zero the output is not that of the formula: compare on one row, by hand."


def gradients(given: Layer, told: Told) -> str:
    s = given.alpha / given.r
    g = 2 * (given.plain + s * given.update)
    grad_A = s * given.B.double().T @ g.T @ given.x.double()
    grad_B = s * g.T @ (given.x.double() @ given.A.double().T)
    grad_x = g @ (given.base.weight.detach().double() + s * given.B.double() @ given.A.double())
    for name, right in (("A", grad_A), ("B", grad_B), ("x", grad_x)):
        if told[f"gradient of {name}"] is None:
            return f"{name} gets no gradient."
        if not close(told.tensor(f"gradient of {name}"), right):
            reaches = ", which goes on to the layers below," if name == "x" else ""
            return f"the gradient of {name}{reaches} is not that of the formula: is anything detached?"
    return ""


def frozen(given: Layer, told: Told) -> str:
    others = [name for name in told["trained"] if name not in ("lora_A", "lora_B")]
    if others:
        return f"{', '.join(map(str, others))} would be trained too; only lora_A and lora_B are."
    same = torch.equal(told.tensor("W"), given.base.weight.double())
    same = same and torch.equal(told.tensor("b"), given.base.bias.double())
    return "" if same and told["trained"] else "the base layer must stay as it was, and A and B be parameters."


Exercise(
    "a3.lora_layer",
    draw_layer,
    ask_layer,
    (
        Property("shapes of A and B", 1, shapes),
        Property("starts as the base layer", 1, at_the_start),
        Property("can begin to learn", 1, can_learn),
        Property("output once B is not zero", 3, forward),
        Property("gradients", 1, gradients),
        Property("the base is frozen", 2, frozen),
    ),
)
