"""The bottleneck adapter: its shapes, a start that is nearly nothing, its output and gradients.

Source: Houlsby et al. 2019, "Parameter-Efficient Transfer Learning for NLP", section 2.1.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from peft_lessons.assignments.core import Exercise, Property
from peft_lessons.assignments.given import close, seeded
from peft_lessons.assignments.told import Told
from peft_lessons.checks.adapters import wrong_forward

NAMES = ("down", "down_bias", "up", "up_bias")


@dataclass(frozen=True)
class Drawn:
    """A width, a bottleneck, an input, and numbers to fill the adapter with."""

    d: int
    m: int
    h: Tensor
    parts: dict[str, Tensor]

    def double(self) -> list[Tensor]:
        """The numbers in float64, ready for gradients."""
        return [self.parts[name].double().requires_grad_(True) for name in NAMES]

    def output(self, down: Tensor, b: Tensor, up: Tensor, b2: Tensor, h: Tensor) -> Tensor:
        """h + W_up gelu(W_down h + b) + b', in float64."""
        return h + F.gelu(h @ down.T + b) @ up.T + b2


@seeded
def draw_adapter(g: torch.Generator) -> Drawn:
    d, m = (int(torch.randint(low, high, (), generator=g)) for low, high in ((8, 13), (3, 6)))
    shapes = {"down": (m, d), "down_bias": (m,), "up": (d, m), "up_bias": (d,)}
    parts = {name: torch.randn(shape, generator=g) for name, shape in shapes.items()}
    return Drawn(d, m, torch.randn(2, 5, d, generator=g), parts)


def ask_adapter(given: Drawn, told: Told, make: Callable[[int, int], Any]) -> None:
    adapter = make(given.d, given.m)
    told["trained"] = {name: list(p.shape) for name, p in adapter.named_parameters() if p.requires_grad}
    for name in NAMES:
        part = getattr(adapter, name)
        if not isinstance(part, Tensor):
            raise TypeError(f"{name} is a {type(part).__name__}; a parameter of the adapter is asked for")
        told[f"{name} at the start"] = part
    told["at the start"] = adapter(given.h.clone())
    adapter(given.h.clone()).square().sum().backward()
    told["gets a gradient"] = any(p.grad is not None and bool(p.grad.any()) for p in (adapter.down, adapter.up))
    with torch.no_grad():
        for name in NAMES:
            getattr(adapter, name).copy_(given.parts[name])
    h = given.h.clone()
    with torch.no_grad():
        told["y"] = adapter(h)
    told["h"] = h
    adapter.zero_grad()
    h = given.h.clone().requires_grad_(True)
    adapter(h).square().sum().backward()
    for name in NAMES:
        told[f"gradient of {name}"] = getattr(adapter, name).grad
    told["gradient of h"] = h.grad
    with torch.no_grad():
        told["y of one"] = adapter(given.h[0, 0].clone())


def shapes(given: Drawn, told: Told) -> str:
    for name in NAMES:
        found, right = tuple(told.tensor(f"{name} at the start").shape), tuple(given.parts[name].shape)
        if found != right:
            turned = found == right[::-1] and len(right) == 2
            return f"{name} is {found}, with d {given.d} and m {given.m}" + (": transposed." if turned else ".")
    return ""


def nearly_nothing(given: Drawn, told: Told) -> str:
    if wrong := shapes(given, told):
        return wrong
    off = told.tensor("at the start") - given.h.double()
    says = "a new adapter must give h back, or very nearly so: what is W_up, and what is added to what?"
    return "" if bool(off.abs().max() < 0.01) else says


def can_learn(given: Drawn, told: Told) -> str:
    if wrong := shapes(given, told):
        return wrong
    learns = told["gets a gradient"] is True
    return "" if learns else "at the start neither matrix gets a gradient, and so neither ever will."


def output(given: Drawn, told: Told) -> str:
    parts, y = [t.detach() for t in given.double()], told.tensor("y")
    h = given.h.double()
    if close(y, given.output(*[*parts, h])):
        if not torch.equal(told.tensor("h"), h):
            return "h itself was changed in place; somebody else may need it."
        return "" if close(told.tensor("y of one"), y[0, 0]) else "right for a batch, and not for one vector."
    return wrong_forward(y, h, h, parts, F.gelu) or (
        "filled with numbers, its output is not that of the formula: compare on one vector, by hand."
    )


def gradients(given: Drawn, told: Told) -> str:
    truth = [*given.double(), given.h.double().requires_grad_(True)]
    given.output(*truth).square().sum().backward()
    for name, tensor in zip((*NAMES, "h"), truth, strict=True):
        assert tensor.grad is not None
        if told[f"gradient of {name}"] is None:
            return f"{name} gets no gradient."
        if not close(told.tensor(f"gradient of {name}"), tensor.grad):
            reaches = ", which goes on to the layers below," if name == "h" else ""
            return f"the gradient of {name}{reaches} is not that of the formula: is anything detached?"
    return ""


def trained(given: Drawn, told: Told) -> str:
    found = told["trained"]
    if set(found) == set(NAMES):
        return shapes(given, told)
    more, fewer = sorted(set(found) - set(NAMES)), sorted(set(NAMES) - set(found))
    return f"{fewer[0]} is not trained." if fewer else f"{more[0]} is trained too."


Exercise(
    "a2.adapter",
    draw_adapter,
    ask_adapter,
    (
        Property("shapes", 1, shapes),
        Property("a start that is nearly nothing", 1, nearly_nothing),
        Property("can begin to learn", 1, can_learn),
        Property("output", 3, output),
        Property("gradients", 1, gradients),
        Property("these four are trained", 1, trained),
    ),
)
