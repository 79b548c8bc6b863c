"""Codes of four bits and less: the levels that a number between -1 and 1 is rounded to.

    NF4       16 levels at quantiles of the normal distribution: 7 below 0, 0 itself, 8 above
    normal7   7 levels made in the same way; normal4: 4 of them: what fewer bits would have
    int4      15 levels at equal distances, -7/7 to 7/7
    FP4       sign, two bits of exponent, one of mantissa: 15 different numbers, two of the 16 codes being 0

Weights of a trained layer are spread much like normal numbers, so levels at normal quantiles are used more evenly than
levels at equal distances. The outermost quantile is that of 0.9677 and not of 1, which would be infinite. One level is
exactly 0, so that padding and pruned weights stay 0. `dynamic_map` is the 8-bit code for the blocks' scales.

Source: Dettmers et al. 2023, "QLoRA: Efficient Finetuning of Quantized LLMs", section 3 and appendix E for NF4's 16
numbers; bitsandbytes 0.50, `get_4bit_type` for the order of FP4's and `create_dynamic_map`; Dettmers 2015, "8-Bit
Approximations for Parallelism in Deep Learning", for the latter's idea.
"""

from statistics import NormalDist

import torch
from torch import Tensor

NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453,
    -0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0,
    0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
FP4 = (0, 0.0625, 8, 12, 4, 6, 2, 3, -0.0, -0.0625, -8, -12, -4, -6, -2, -3)  # by bit pattern, as multiples of 1/12


def normal_levels(n: int) -> list[float]:
    """n levels between -1 and 1 at quantiles of the normal distribution, one of them 0, more above 0 than below.

    Raises:
        ValueError: n is below 3.

    Source: `create_normal_map` of bitsandbytes, here for any n; for 16 it gives NF4 to 2e-7.
    """
    if n < 3:
        raise ValueError(f"n is {n}; a code needs at least one level on either side of 0.")
    outermost = 1 - (1 / (2 * n) + 1 / (2 * (n - 1))) / 2  # 0.9677 for 16
    above, below = n // 2, (n - 1) // 2

    def side(count: int) -> list[float]:
        return [NormalDist().inv_cdf(0.5 + (outermost - 0.5) * (i + 1) / count) for i in range(count)]

    largest = NormalDist().inv_cdf(outermost)
    return [-x / largest for x in reversed(side(below))] + [0.0] + [x / largest for x in side(above)]


CODES: dict[str, tuple[float, ...]] = {
    "nf4": NF4,
    "fp4": FP4,
    "int4": tuple(range(-7, 8)),
    "normal7": tuple(normal_levels(7)),
    "normal4": tuple(normal_levels(4)),
}


def code_table(kind: str, device: torch.device | str = "cpu") -> Tensor:
    """The level of each code number, at most 16, float32, the largest 1.

    Raises:
        ValueError: there is no code of that name; the message lists those there are.
    """
    if kind not in CODES:
        raise ValueError(f"kind is {kind!r}; it can be {', '.join(CODES)}.")
    code = torch.tensor(CODES[kind], dtype=torch.float32, device="cpu")
    return (code / code.abs().max()).to(device)


def dynamic_map(device: torch.device | str = "cpu") -> Tensor:
    """The 8-bit code for scales: 256 levels between -1 and 1, dense near 0 and fine at every size, sorted.

    The levels between 10^-k and 10^(1-k) are equally spaced, and each decade has twice as many as the one below it.
    """
    positive = []
    for i in range(7):
        edges = torch.linspace(0.1, 1, 2**i + 1, dtype=torch.float32, device="cpu")
        positive += (10 ** (i - 6) * (edges[:-1] + edges[1:]) / 2).tolist()
    return torch.tensor(sorted([-x for x in positive] + [0.0] + positive + [1.0]), device="cpu").to(device)
