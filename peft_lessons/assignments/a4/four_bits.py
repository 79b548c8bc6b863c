"""A base in four bits: what is stored, what is not in four bits, and what a product needs for a moment.

Source: Dettmers et al. 2023, "QLoRA", section 3; what judges it is the storage of the package's own 4-bit layer.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from peft_lessons.assignments.core import Exercise, Property
from peft_lessons.assignments.given import seeded
from peft_lessons.assignments.told import Told
from peft_lessons.methods.reparameterized.quantized_linear import QuantizedLinear


@dataclass(frozen=True)
class Base:
    """Shapes of linear layers, how many other numbers there are, and bytes of each of those."""

    matrices: list[tuple[int, int]]
    others: int
    e: int


@seeded
def draw_base(g: torch.Generator) -> Base:
    sizes = [8 * n for n in torch.randint(20, 200, (5, 2), generator=g).flatten().tolist()]
    wide, tall = (sizes[0], 2048), (2048, sizes[1])  # neither width with the other makes the largest
    matrices = [wide, tall, *zip(sizes[2::2], sizes[3::2], strict=True), (1000, 3)]  # the last fills no whole block
    matrices.insert(
        2, matrices.pop(max(range(6), key=lambda i: math.prod(matrices[i])))
    )  # the largest is not the first
    return Base(matrices, int(torch.randint(10**5, 10**6, (), generator=g)), 2)


def ask_base(
    given: Base,
    told: Told,
    layer_bytes: Callable[[int, int, bool], int],
    base_bytes: Callable[[list[tuple[int, int]], int, int], tuple[int, int]],
) -> None:
    told["double"] = [layer_bytes(d_out, d_in, True) for d_out, d_in in given.matrices]
    told["single"] = [layer_bytes(d_out, d_in, False) for d_out, d_in in given.matrices]
    told["base"] = list(base_bytes(list(given.matrices), given.others, given.e))


def stored(d_out: int, d_in: int, double: bool) -> int:
    """Bytes of the codes and scales of one layer, without the tables that are the same for every layer."""
    layer = QuantizedLinear(nn.Linear(d_in, d_out, bias=False, device="meta").requires_grad_(False), "nf4", double)
    return sum(t.nbytes for name, t in layer.named_buffers() if name not in ("code", "outer_code", "offset"))


def _layers(name: str) -> Callable[[Base, Told], str]:
    def wrong(given: Base, told: Told) -> str:
        for (d_out, d_in), found in zip(given.matrices, told[name], strict=True):
            if found == stored(d_out, d_in, name == "double"):
                continue
            n = d_out * d_in
            blocks = -(-n // 64)
            mistakes = {
                "the codes alone are not all: each block has a scale": n / 2,
                "that is without double quantisation": n // 2 + 4 * blocks,
                "that is with double quantisation": n // 2 + blocks + 4 * -(-blocks // 256),
                "the scales have scales of their own": n // 2 + blocks,
                "a block that is not full takes as much as a full one": n // 2 + 4 * (n // 64),
                "a block of scales that is not full has a scale too": n // 2 + blocks + 4 * (blocks // 256),
                "blocks run through the whole matrix, not row by row": n // 2 + 4 * d_out * -(-d_in // 64),
                "these are bits": 8 * stored(d_out, d_in, name == "double"),
            }
            named = [says for says, number in mistakes.items() if found == number]
            return f"{d_out} by {d_in}: {named[0] if named else f'not {found} bytes'}."
        return ""

    return wrong


def everything(given: Base, told: Told) -> str:
    found, linear = told["base"][0], sum(stored(*shape, True) for shape in given.matrices)
    if found == linear + given.e * given.others:
        return ""
    mistakes = {
        "embeddings, norms and output layer are not in four bits, and count too": linear,
        "the others are not in four bits": linear + given.others // 2,
        "the others have a size of their own": linear + 4 * given.others,
    }
    named = [says for says, number in mistakes.items() if found == number]
    return f"{named[0] if named else f'the base does not take {found} bytes'}."


def for_a_moment(given: Base, told: Told) -> str:
    found, sizes = told["base"][1], [given.e * d_out * d_in for d_out, d_in in given.matrices]
    if found == max(sizes):
        return ""
    if found == sum(sizes):
        return "the whole weights are made one after another, and dropped again."
    return f"the largest weight that is made whole does not take {found} bytes."


Exercise(
    "a4.four_bits",
    draw_base,
    ask_base,
    (
        Property("a layer, with double quantisation", 2, _layers("double")),
        Property("a layer, without it", 1, _layers("single")),
        Property("the whole base", 1, everything),
        Property("for a moment, in a product", 1, for_a_moment),
    ),
)
