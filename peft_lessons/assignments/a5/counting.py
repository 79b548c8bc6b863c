"""How many numbers (IA)3 trains in a decoder and in an encoder-decoder.

Source: Liu et al. 2022, section 3.3; T0-3B's 540,672 is among what is asked.
"""

from collections.abc import Callable

import torch

from peft_lessons.assignments.core import Exercise, Property
from peft_lessons.assignments.given import seeded
from peft_lessons.assignments.told import Told

Shape = tuple[int, int, int, int]  # encoder blocks, decoder blocks, d_kv, d_ff
T0_3B: Shape = (24, 24, 2048, 5120)


@seeded
def draw_shapes(g: torch.Generator) -> list[Shape]:
    def size(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=g))

    few, many = size(2, 12), size(13, 30)
    more = [(few, many), (many, few), (size(2, 30), size(2, 30))]  # the encoder has fewer blocks, and more
    both = [(*blocks, size(64, 4096), size(64, 9000)) for blocks in more]
    alone = [(0, size(2, 40), size(64, 4096), size(64, 9000)) for _ in range(3)]
    return [*both, T0_3B, *alone]


def numbers(shape: Shape) -> int:
    """Two vectors of d_kv and one of d_ff a block, and two of d_kv more in a decoder's block behind an encoder."""
    encoder, decoder, d_kv, d_ff = shape
    vectors = 4 if encoder else 2
    return encoder * (2 * d_kv + d_ff) + decoder * (vectors * d_kv + d_ff)


def ask_count(given: list[Shape], told: Told, count: Callable[[int, int, int, int], int]) -> None:
    told["counts"] = [count(*shape) for shape in given]


def _first_wrong(given: list[Shape], told: Told, with_encoder: bool) -> str:
    for shape, n in zip(given, told["counts"], strict=True):
        if bool(shape[0]) is with_encoder and n != numbers(shape):
            encoder, decoder, d_kv, d_ff = shape
            kind = f"{encoder} encoder and {decoder} decoder blocks" if encoder else f"{decoder} blocks, no encoder,"
            return f"{kind} with d_kv {d_kv} and d_ff {d_ff} do not train {n} numbers: list a block's vectors."
    return ""


Exercise(
    "a5.count",
    draw_shapes,
    ask_count,
    (
        Property("in a decoder", 1, lambda given, told: _first_wrong(given, told, False)),
        Property("in an encoder-decoder", 1, lambda given, told: _first_wrong(given, told, True)),
    ),
)
