"""NF4 and its relatives: a weight in four bits, in blocks of 64 that each have a scale; and the scales in eight bits.

    absmax_b = max |w| over block b             code_i = the level nearest to w_i / absmax_b      w_i ≈ level · absmax_b
    absmax ≈ map[scale] · outer_scale + offset  scale: 8 bits a block      outer_scale: 32 bits for each 256 blocks

Two codes are packed in a byte, the first in the high half. The blocks run along the rows of W (d_out, d_in). The second
line is double quantisation: offset is the mean of all absmax, so that what remains has both signs and the map's sign is
of use. Together 4 + 8/64 + 32/(64 · 256) = 4.127 bits a weight, in place of 4.5 without it.

Bytes and rounded weights are those of bitsandbytes, bit for bit, without double quantisation. With it, some 0.2 % of
the scales differ by one step, where two levels are equally near.

Source: Dettmers et al. 2023, "QLoRA: Efficient Finetuning of Quantized LLMs", section 3; bitsandbytes 0.50.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from peft_lessons.methods.reparameterized.codes import dynamic_map

BLOCK, OUTER_BLOCK = 64, 256


def nearest(x: Tensor, code: Tensor) -> Tensor:
    """The number of the level nearest to each x."""
    order = code.argsort()
    middles = (code[order[1:]] + code[order[:-1]]) / 2
    return order[torch.bucketize(x, middles)]


def quantize_blocks(W: Tensor, code: Tensor) -> tuple[Tensor, Tensor]:
    """A weight as packed codes, (n / 2,) uint8, and the largest entry of each block, (n / 64,) float32.

    Args:
        W: of any shape; n entries, row by row.
        code: the levels, from `code_table`.

    Source: see the module.
    """
    flat = W.detach().float().flatten()
    blocks = F.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)
    absmax = blocks.abs().amax(1)
    largest = absmax.clamp(min=1e-38)  # a block of zeros stays zeros
    scaled = blocks * (1 / largest)[:, None]
    if len(flat) % BLOCK:
        scaled[-1] = blocks[-1] / largest[-1]  # bitsandbytes divides in a last block that is not full
    number = nearest(scaled, code).to(torch.uint8).flatten()
    packed = number[::2] << 4 | number[1::2]
    return packed[: (len(flat) + 1) // 2], absmax


def dequantize_blocks(packed: Tensor, absmax: Tensor, code: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The rounded weight, float32, of this shape: each byte's two levels from a table, times the block's scale."""
    levels = F.pad(code, (0, 16 - len(code)))
    pairs = torch.cartesian_prod(levels, levels).view(torch.int64).flatten()  # (256,), two float32 in one entry
    numbers = F.pad(packed, (0, -len(packed) % (BLOCK // 2))).int()
    blocks = pairs.index_select(0, numbers).view(torch.float32).view(-1, BLOCK)
    return blocks.mul_(absmax[:, None]).flatten()[: torch.Size(shape).numel()].view(shape)


def quantize_scales(absmax: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Double quantisation: scales (n,) uint8, outer scales (n / 256,) and the offset, () float32."""
    offset = absmax.mean()
    outer = F.pad(absmax - offset, (0, -len(absmax) % OUTER_BLOCK)).view(-1, OUTER_BLOCK)
    outer_scales = outer.abs().amax(1)
    scaled = outer / outer_scales.clamp(min=1e-38)[:, None]
    return nearest(scaled, dynamic_map(absmax.device)).to(torch.uint8).flatten()[: len(absmax)], outer_scales, offset


def dequantize_scales(scales: Tensor, outer_scales: Tensor, offset: Tensor, outer_code: Tensor) -> Tensor:
    """absmax (n,) float32, rounded; `outer_code` is `dynamic_map`."""
    levels = F.pad(outer_code[scales.int()], (0, -len(scales) % OUTER_BLOCK)).view(-1, OUTER_BLOCK)
    return (levels * outer_scales[:, None]).flatten()[: len(scales)] + offset
