"""Two adapters on one base: taken off as copies, put back exactly, and refused where they do not fit.

Source: one base with an adapter for each task is the case of Houlsby et al. 2019, section 1.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from peft_lessons.assignments.a2.inserting import After, Residual
from peft_lessons.assignments.core import Exercise, Property
from peft_lessons.assignments.given import close, linear, seeded
from peft_lessons.assignments.told import Told

PLACES = ("0", "2")
SPOILED = {
    "lacking": "one of whose tensors is missing",
    "foreign": "with a tensor too many",
    "renamed": "one of whose tensors has another name",
}


@dataclass(frozen=True)
class Swaps:
    """A base of three layers, the last one trained, as a head is; numbers for three adapters; an input."""

    seed: int
    x: Tensor
    adapters: list[dict[str, Tensor]]

    def model(self) -> nn.Sequential:
        """The base with an adapter in both places, filled with the first one's numbers."""
        g = torch.Generator().manual_seed(self.seed)
        layers = [linear(5, 6, g).requires_grad_(False), linear(6, 4, g).requires_grad_(False)]
        adapted = [After(layer, Residual(layer.out_features, i)) for i, layer in enumerate(layers)]
        model = nn.Sequential(adapted[0], nn.Tanh(), adapted[1], linear(4, 3, g))
        self.fill(model, 0)
        return model

    def fill(self, model: nn.Module, which: int) -> None:
        """Train it, so to speak: the numbers change in place."""
        with torch.no_grad():
            for name, tensor in self.adapters[which].items():
                model.get_parameter(name).copy_(tensor)

    def output(self, which: int) -> Tensor:
        """What the model gives with one of the adapters."""
        model = self.model()
        self.fill(model, which)
        with torch.no_grad():
            return model(self.x)


@seeded
def draw_swaps(g: torch.Generator) -> Swaps:
    sizes = {"down": (3, None), "down_bias": (3,), "up": (None, 3), "up_bias": (None,)}
    adapters: list[dict[str, Tensor]] = []
    for _ in range(3):
        shapes = {
            f"{place}.adapter.{name}": tuple(d if n is None else n for n in size)
            for place, d in zip(PLACES, (6, 4), strict=True)
            for name, size in sizes.items()
        }
        adapters.append({name: torch.randn(shape, generator=g) for name, shape in shapes.items()})
    return Swaps(int(torch.randint(2**31, (), generator=g)), torch.randn(3, 5, generator=g), adapters)


def ask_swaps(
    given: Swaps,
    told: Told,
    take: Callable[[nn.Module], dict[str, Tensor]],
    put: Callable[[nn.Module, dict[str, Tensor]], None],
) -> None:
    model = given.model()
    base = [p for name, p in model.named_parameters() if ".adapter." not in name]
    adapters = [p for name, p in model.named_parameters() if ".adapter." in name]
    kept = []
    for i in (0, 1):
        given.fill(model, i)
        kept.append(dict(reversed(take(model).items())))  # names say where a tensor belongs, not their order
    given.fill(model, 2)
    for i, state in enumerate(kept):
        told[f"names {i}"] = sorted(map(str, state))
        for name, tensor in state.items():
            told[f"state {i} {name}"] = tensor
    for i in (0, 1):
        put(model, kept[i])  # gradients are on, as they are for whoever calls it
        told[f"with {i}"] = model(given.x)
    now = [p for name, p in model.named_parameters() if ".adapter." in name]
    told["in place"] = all(a is b and a.requires_grad for a, b in zip(adapters, now, strict=True))
    given.fill(model, 2)  # training goes on with what was put on
    told["the one kept"] = kept[1]["0.adapter.up"]
    put(model, kept[0])
    told["with 0 again"] = model(given.x)
    told["base"] = torch.cat([p.flatten() for p in base])
    for name, spoil in (("lacking", _lacking), ("foreign", _foreign), ("renamed", _renamed)):
        told[f"{name} refused"] = _refused(put, model, spoil(given.adapters[1]))
        with torch.no_grad():
            told[f"after {name}"] = model(given.x)


def _lacking(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in state.items() if name != "2.adapter.up_bias"}


def _foreign(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in state.items()} | {"4.adapter.up": torch.zeros(2)}


def _renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.replace("2.adapter.up_bias", "3.adapter.up_bias"): tensor.clone() for name, tensor in state.items()}


def _refused(put: Callable[..., Any], model: nn.Module, state: dict[str, Tensor]) -> str:
    """What was raised, by name."""
    try:
        put(model, state)
    except Exception as error:  # whatever the learner's code raises
        return "ValueError" if isinstance(error, ValueError) else type(error).__name__
    return ""


def states(given: Swaps, told: Told) -> str:
    for i in (0, 1):
        found, right = told[f"names {i}"], sorted(given.adapters[i])
        if others := [name for name in found if name not in right]:
            return f"{others[0]} is no adapter's: the base does not travel."
        if lacking := [name for name in right if name not in found]:
            return f"{lacking[0]} is missing."
    return ""


def copies(given: Swaps, told: Told) -> str:
    if wrong := states(given, told):
        return wrong
    for i in (0, 1):
        for name, right in given.adapters[i].items():
            if not torch.equal(told.tensor(f"state {i} {name}"), right.double()):
                return "what was taken off changed when the model was trained on: it is no copy."
    return ""


def put_on(given: Swaps, told: Told) -> str:
    for i in (0, 1):
        if not close(told.tensor(f"with {i}"), given.output(i)):
            return f"with adapter {i + 1} put on, the model does not compute what it did when that was taken off."
    says = "an adapter's parameters are new ones, or no longer trained: the numbers belong into those that are there."
    return "" if told["in place"] is True else says


def independent(given: Swaps, told: Told) -> str:
    if wrong := put_on(given, told):
        return wrong
    if not torch.equal(told.tensor("the one kept"), given.adapters[1]["0.adapter.up"].double()):
        return "training on changed the adapter that was put on, in the dictionary where it is kept."
    base = torch.cat([p.flatten() for name, p in given.model().named_parameters() if ".adapter." not in name])
    same = torch.equal(told.tensor("base"), base.double()) and close(told.tensor("with 0 again"), given.output(0))
    return "" if same else "back to the first adapter, the model is not what it was."


def refused(given: Swaps, told: Told) -> str:
    if wrong := put_on(given, told):
        return wrong
    for name, says in SPOILED.items():
        raised = told[f"{name} refused"]
        if raised != "ValueError":
            return f"an adapter {says} {f'raises {raised}' if raised else 'is put on'}, where a ValueError is right."
        if not close(told.tensor(f"after {name}"), given.output(0)):
            return f"an adapter {says} is refused, but part of it has been put on already."
    return ""


Exercise(
    "a2.swap",
    draw_swaps,
    ask_swaps,
    (
        Property("the adapter and nothing else", 1, states),
        Property("copies", 1, copies),
        Property("put on", 2, put_on),
        Property("adapters stay apart", 1, independent),
        Property("what does not fit is refused", 1, refused),
    ),
)
