"""What a layer keeps for its backward pass, from its sizes alone: four methods, and three layers with one input.

Source: what judges it is what autograd really saves of the layers of PyTorch and of this package.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from peft_lessons.assignments.a4.saved import kept, own
from peft_lessons.assignments.core import Exercise, Property
from peft_lessons.assignments.given import seeded
from peft_lessons.assignments.told import Told
from peft_lessons.methods.reparameterized.lora import LoRALinear

TYPES = {2: torch.bfloat16, 4: torch.float32}
METHODS = ("full", "bitfit", "lora", "ia3")


@dataclass(frozen=True)
class Sizes:
    """Tokens, widths, a rank, and bytes of a number of the activations and of the adapter."""

    n: int
    d_in: int
    d_out: int
    r: int
    e: int
    e_a: int
    layers: int


@seeded
def draw_sizes(g: torch.Generator) -> list[Sizes]:
    found = []
    for e, e_a in ((4, 4), (2, 2), (2, 4), (4, 2)):
        n, d_in, d_out, r, layers = (
            int(torch.randint(low, high, (), generator=g))
            for low, high in ((9, 30), (31, 60), (61, 90), (2, 8), (2, 5))
        )
        found.append(Sizes(n, d_in, d_out, r, e, e_a, layers))
    return found


def ask_kept(
    given: list[Sizes], told: Told, one: Callable[..., dict[str, int]], shared: Callable[..., dict[str, int]]
) -> None:
    told["one"] = [{m: one(m, s.n, s.d_in, s.d_out, s.r, s.e) for m in METHODS} for s in given]
    told["shared"] = [shared(s.layers, s.n, s.d_in, s.r, s.e, s.e_a) for s in given]


class _Gain(nn.Module):
    def __init__(self, base: nn.Linear):
        super().__init__()
        self.base, self.gain = base.requires_grad_(False), nn.Parameter(torch.ones_like(base.bias))

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) * self.gain


def _layer(method: str, s: Sizes, e_a: int) -> nn.Module:
    base = nn.Linear(s.d_in, s.d_out, dtype=TYPES[s.e])
    if method == "full":
        return base
    if method == "ia3":
        return _Gain(base)
    base.weight.requires_grad_(False)
    if method == "bitfit":
        return base
    layer = LoRALinear(base.requires_grad_(False), s.r, 8.0)  # its A and B are in float32
    for factor in (layer.lora_A, layer.lora_B):
        factor.data = factor.data.to(TYPES[e_a])
    return layer


def _real(layers: list[Any], s: Sizes) -> int:
    x = torch.randn(s.n, s.d_in, dtype=TYPES[s.e], requires_grad=True)
    return kept(lambda: sum(layer(x) for layer in layers), set.union(*map(own, layers)))


def _of(method: str) -> Callable[[list[Sizes], Told], str]:
    def wrong(given: list[Sizes], told: Told) -> str:
        for s, found in zip(given, told["one"], strict=True):
            if found[method] == _real([_layer(method, s, s.e)], s):
                continue
            mistakes = {
                "the output is not what the gradient needs": s.e * s.n * s.d_out,
                "something is kept here after all": 0,
                "the whole input is more than this gradient needs": s.e * s.n * s.d_in,
                "W is a weight, not an activation": s.e * s.d_in * s.d_out,
                "A x is kept too": s.e * s.n * s.d_in if method == "lora" else -1,
                "x is kept too": s.e * s.n * s.r if method == "lora" else -1,
                "each number has its type's size": 4 * s.n * s.d_in if method != "lora" else 4 * s.n * (s.d_in + s.r),
            }
            order = list(mistakes.items())[::-1] if method == "lora" else list(mistakes.items())
            named = [says for says, number in order if found[method] == number]
            return f"{s}: {named[0] if named else f'not {found[method]} bytes'}."
        return ""

    return wrong


def _shared(mixed: bool) -> Callable[[list[Sizes], Told], str]:
    def wrong(given: list[Sizes], told: Told) -> str:
        for s, found in zip(given, told["shared"], strict=True):
            if mixed != (s.e != s.e_a) or found == _real([_layer("lora", s, s.e_a) for _ in range(s.layers)], s):
                continue
            mistakes = {
                "layers with one input share it, where no copy is made": s.layers * s.e * s.n * (s.d_in + s.r),
                "each layer makes a copy of its own, in its own type": s.e_a * s.n * (s.d_in + s.layers * s.r),
                "A x is each layer's own": s.e * s.n * (s.d_in + s.r),
                "the input is kept in the type that A multiplies it in": s.e * s.n * (s.d_in + s.layers * s.r),
                "the frozen layer does not keep x: it trains nothing": s.layers * s.e_a * s.n * (s.d_in + s.r)
                + s.e * s.n * s.d_in,
            }
            named = [says for says, number in mistakes.items() if found == number]
            return f"{s}: {named[0] if named else f'not {found} bytes'}."
        return ""

    return wrong


def frozen_parts(given: list[Sizes], told: Told) -> str:
    """BitFit and (IA)3 together: 0 is right for the first, so alone it would pay for nothing."""
    return _of("bitfit")(given, told) or _of("ia3")(given, told)


Exercise(
    "a4.kept",
    draw_sizes,
    ask_kept,
    (
        Property("a trained layer", 1, _of("full")),
        Property("BitFit and (IA)3", 2, frozen_parts),
        Property("LoRA", 1, _of("lora")),
        Property("LoRA on layers with one input", 1, _shared(mixed=False)),
        Property("the same in a type of their own", 2, _shared(mixed=True)),
    ),
)
