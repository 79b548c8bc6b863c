"""A frozen linear layer that keeps its weight in four bits, and makes the whole weight only while it multiplies.

    y = dq(W) x + b        W: packed codes and scales, see `nf4`; dq(W): (d_out, d_in), in the type of the computation
    ∂L/∂x = dq(W)ᵀ ∂L/∂y   dq(W) made a second time: nothing of it is kept between forward and backward

No gradient for W: codes are whole numbers. One for b, should a method train it.

Source: Dettmers et al. 2023, "QLoRA: Efficient Finetuning of Quantized LLMs", equation 5; bitsandbytes 0.50,
`nn.Linear4bit` and `MatMul4Bit`. On CUDA its forward may decode inside one kernel and never make the whole weight.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from peft_lessons.methods.reparameterized.codes import code_table, dynamic_map
from peft_lessons.methods.reparameterized.nf4 import (
    BLOCK,
    OUTER_BLOCK,
    dequantize_blocks,
    dequantize_scales,
    quantize_blocks,
    quantize_scales,
)
from peft_lessons.methods.targets import Linear, PackedLinear, matrix, sizes


class QuantizedLinear(PackedLinear):
    """A linear layer in four bits; see the module for the equation.

    Args:
        layer: `nn.Linear` or `Conv1D`; its bias is kept as it is.
        kind: a code of `codes.CODES`.
        double: double quantisation of the blocks' scales.
    """

    scales: Tensor
    outer_scales: Tensor
    offset: Tensor
    code: Tensor
    outer_code: Tensor

    def __init__(self, layer: Linear, kind: str = "nf4", double: bool = True):
        super().__init__()
        W = matrix(layer)
        (self.out_features, self.in_features), self.bias = sizes(layer), layer.bias
        self.kind, self.double_quantization, self.dtype = kind, double, W.dtype
        parts = _empty_parts(W.numel(), double) if W.is_meta else _parts(W, kind, double)
        parts["code"] = torch.zeros(16).to(W.device)
        parts["code"][: len(code_table(kind))] = code_table(kind, W.device)
        for name, tensor in parts.items():
            self.register_buffer(name, tensor)

    def dequantize(self, dtype: torch.dtype | None = None) -> Tensor:  # (d_out, d_in)
        """The rounded weight, in the type that the layer had before, or another."""
        shape, dtype = (self.out_features, self.in_features), dtype or self.dtype
        if self.weight.is_meta:
            return torch.empty(shape, dtype=dtype, device="meta")
        scales = self.scales
        if self.double_quantization:
            scales = dequantize_scales(scales, self.outer_scales, self.offset, self.outer_code)
        return dequantize_blocks(self.weight, scales, self.code, shape).to(dtype)

    def forward(self, x: Tensor) -> Tensor:  # (..., d_in) -> (..., d_out)
        return FourBitProduct.apply(x.to(self.dtype), self.bias, self).to(x.dtype)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, kind={self.kind!r}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "QuantizedLinear":
        """Move with the model, but cast only what is computed, never what is stored."""
        before = dict(self.named_buffers(recurse=False))
        self.dtype = fn(torch.empty(0, dtype=self.dtype, device=self.weight.device)).dtype
        super()._apply(fn, recurse)
        for name, buffer in before.items():
            moved = getattr(self, name)
            if moved.dtype != buffer.dtype:
                setattr(self, name, buffer.to(moved.device))
        return self


class FourBitProduct(torch.autograd.Function):
    """dq(W) x + b, with the weight made anew in the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor | None, layer: QuantizedLinear) -> Tensor:
        ctx.layer = layer
        return F.linear(x, layer.dequantize(x.dtype), None if bias is None else bias.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        of_x, of_bias, _ = ctx.needs_input_grad
        bias = grad.reshape(-1, grad.shape[-1]).sum(0).to(ctx.layer.bias.dtype) if of_bias else None
        return grad @ ctx.layer.dequantize(grad.dtype) if of_x else None, bias, None


def _parts(W: Tensor, kind: str, double: bool) -> dict[str, Tensor]:
    """What is stored, by name: with double quantisation about 4.127 bits a weight, without it 4.5."""
    packed, absmax = quantize_blocks(W, code_table(kind, W.device))
    if not double:
        return {"weight": packed, "scales": absmax}
    scales, outer_scales, offset = quantize_scales(absmax)
    outer_code = dynamic_map(W.device)
    return {"weight": packed, "scales": scales, "outer_scales": outer_scales} | {
        "offset": offset.view(1),
        "outer_code": outer_code,
    }


def _empty_parts(n: int, double: bool) -> dict[str, Tensor]:
    """The same without values, for n weights on meta."""
    blocks = -(-n // BLOCK)
    shapes: dict[str, tuple[int, torch.dtype]] = {"weight": (-(-n // 2), torch.uint8)}
    if double:
        shapes |= {"scales": (blocks, torch.uint8), "outer_scales": (-(-blocks // OUTER_BLOCK), torch.float32)}
        shapes |= {"offset": (1, torch.float32), "outer_code": (256, torch.float32)}
    else:
        shapes["scales"] = (blocks, torch.float32)
    return {name: torch.empty(size, dtype=dtype, device="meta") for name, (size, dtype) in shapes.items()}
