"""4-bit linear layers as far as memory is concerned: the bytes they keep, and the weight they make for a moment.

    packed: d_out · d_in / 2 bytes, a byte for each 64 weights, a float32 for each 256 of those blocks, two code tables

Forward and backward each make the whole weight in the type they compute in, and drop it again.

Source: Dettmers et al. 2023, "QLoRA", section 3 (NF4 with double quantisation); bitsandbytes 0.50, `nn.Linear4bit` and
`MatMul4Bit`. On CUDA its forward may decode inside one kernel and never make the whole weight; its backward makes it.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peft_lessons.methods.core import set_submodule
from peft_lessons.methods.targets import linear_layers

BLOCK, OUTER_BLOCK = 64, 256


class FourBitLinear(nn.Module):
    """A frozen linear layer in NF4 with double quantisation, without values."""

    def __init__(self, base: nn.Linear):
        super().__init__()
        self.d_out, self.d_in, self.compute = base.out_features, base.in_features, base.weight.dtype
        n, device = base.weight.numel(), base.weight.device
        blocks = -(-n // BLOCK)
        self.register_buffer("packed", torch.empty(-(-n // 2), dtype=torch.uint8, device=device))
        self.register_buffer("scales", torch.empty(blocks, dtype=torch.uint8, device=device))
        self.register_buffer("outer_scales", torch.empty(-(-blocks // OUTER_BLOCK), dtype=torch.float32, device=device))
        self.register_buffer("offset", torch.empty(1, dtype=torch.float32, device=device))
        self.register_buffer("codes", torch.empty(16, dtype=torch.float32, device=device))
        self.register_buffer("outer_codes", torch.empty(256, dtype=torch.float32, device=device))
        self.bias = base.bias

    def forward(self, x: Tensor) -> Tensor:  # (..., d_in) -> (..., d_out)
        return _FourBitMatmul.apply(x.to(self.compute), self.packed, self.bias, self.d_out).to(x.dtype)


class _FourBitMatmul(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, packed: Tensor, bias: Tensor | None, d_out: int) -> Tensor:
        ctx.save_for_backward(packed)
        ctx.d_out = d_out
        return F.linear(x, x.new_empty(d_out, x.shape[-1]), None if bias is None else bias.to(x.dtype))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (packed,) = ctx.saved_tensors
        d_in = 2 * packed.numel() // ctx.d_out
        return grad @ grad.new_empty(ctx.d_out, d_in), None, None, None


def quantize(model: nn.Module, keep: nn.Module | None, upcast: bool) -> None:
    """Put a 4-bit layer in place of every frozen linear layer, in place.

    Args:
        model: on meta tensors.
        keep: the output layer, which stays as it is.
        upcast: whether all other frozen weights become float32, as peft's `prepare_model_for_kbit_training` makes them.
    """
    for name, layer in linear_layers(model).items():
        if layer is not keep and isinstance(layer, nn.Linear) and not layer.weight.requires_grad:
            set_submodule(model, name, FourBitLinear(layer))
    if upcast:
        for parameter in model.parameters():
            if not parameter.requires_grad:
                parameter.data = parameter.data.float()
