"""Attention and dropout on meta tensors as a real device runs them.

`F.scaled_dot_product_attention` chooses its kernel by device, type and mask, and on meta tensors it chooses as no real
device does. So the trace names the kernel: `choose_kernel` applies PyTorch's rules, `kernels` puts the operation that
the device would run in place. Memory differs: flash and efficient keep O(T) numbers a head for the backward pass, math
and eager keep the T × T matrix of probabilities.

Source: PyTorch's `sdp_utils.cpp` (flash: 16-bit, no mask, head size up to 256; efficient: no grouped queries) and
`sdpa_attention.py` of transformers (a mask makes it repeat keys and values for grouped queries).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import create_position_bias_mask, repeat_kv
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask

from peft_lessons.accounting.autocast import as_product

KERNELS = ("flash", "efficient", "math", "eager")


def choose_kernel(
    attention: str,
    *,
    device: str = "cuda",
    dtype: torch.dtype = torch.bfloat16,
    grouped: bool = False,
    bias: bool = False,
    head_dim: int = 64,
    dropout: float = 0.0,
) -> str:
    """The attention kernel that really runs when one is asked for: PyTorch falls back in silence.

    Args:
        attention: what is asked for, one of `KERNELS`; "flash" is PyTorch's own first choice.
        device: "cuda" or "cpu".
        dtype: of queries, keys and values.
        grouped: several query heads share one key and value head.
        bias: there is a padding mask or a position bias.
        head_dim: numbers in a head.
        dropout: on the probabilities.

    Returns:
        One of `KERNELS`, or "cpu" for the CPU's flash kernel.

    Raises:
        ValueError: no such kernel.
    """
    if attention not in KERNELS:
        raise ValueError(f'attention is "{attention}"; it can be {", ".join(KERNELS)}.')
    if attention == "eager" or attention == "math":
        return attention
    if device == "cpu":
        return "math" if dropout else "cpu"
    if attention == "flash" and dtype != torch.float32 and not bias and head_dim <= 256:
        return "flash"
    return "math" if grouped and not bias else "efficient"


def _attention(name: str, device: str):  # type: ignore[no-untyped-def]
    """An attention function for transformers that runs one kernel's operation, or what PyTorch falls back to."""

    def attend(
        module: nn.Module,
        query: Tensor,  # (batch, heads, length, head_dim)
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        dropout: float = 0.0,
        scaling: float | None = None,
        is_causal: bool | None = None,
        position_bias: Tensor | None = None,
        **_: object,
    ) -> tuple[Tensor, None]:
        query, key, value = as_product(query, key, value)
        causal = bool(getattr(module, "is_causal", True) if is_causal is None else is_causal)
        if position_bias is not None:
            attention_mask = create_position_bias_mask(position_bias, attention_mask, causal, query, key)
        biased, groups = attention_mask is not None, query.shape[1] // key.shape[1]
        causal = causal and not biased
        if biased and groups > 1:
            key, value, groups = repeat_kv(key, groups), repeat_kv(value, groups), 1
        kernel = choose_kernel(
            name, device=device, dtype=query.dtype, grouped=groups > 1, bias=biased,
            head_dim=query.shape[-1], dropout=dropout,
        )  # fmt: skip
        bias = _as_bias(attention_mask, query)
        aten = torch.ops.aten
        if kernel == "flash":
            out = aten._scaled_dot_product_flash_attention(query, key, value, dropout, causal, False, scale=scaling)[0]
        elif kernel == "efficient":
            if bias is not None:
                bias = bias.expand(query.shape[0], query.shape[1], -1, -1)
            out = aten._scaled_dot_product_efficient_attention(
                query, key, value, bias, True, dropout, causal, scale=scaling
            )[0]
        elif kernel == "cpu":
            out = aten._scaled_dot_product_flash_attention_for_cpu(
                query, key, value, dropout, causal, attn_mask=bias, scale=scaling
            )[0]
        else:
            out = aten._scaled_dot_product_attention_math(
                query, key, value, bias, dropout, causal, scale=scaling, enable_gqa=groups > 1
            )[0]
        return out.transpose(1, 2).contiguous(), None

    return attend


def _as_bias(mask: Tensor | None, query: Tensor) -> Tensor | None:
    """What PyTorch makes of a mask of truths: zeros and minus infinities in the queries' type, anew in every layer."""
    if mask is None or mask.dtype != torch.bool:
        return mask
    zero, minus_infinity = (torch.scalar_tensor(x, dtype=query.dtype, device=query.device) for x in (0.0, -torch.inf))
    return torch.where(mask, zero, minus_infinity)


for _device in ("cuda", "cpu"):
    for _name in ("flash", "efficient", "math"):
        AttentionInterface.register(f"meta_{_name[:2]}_{_device}", _attention(_name, _device))
        ALL_MASK_ATTENTION_FUNCTIONS.register(f"meta_{_name[:2]}_{_device}", sdpa_mask)


def attention_name(attention: str, device: str) -> str:
    """The name under which transformers finds a kernel; "flash" may not be in it, or the Hub would be asked for one."""
    return "eager" if attention == "eager" else f"meta_{attention[:2]}_{device}"


def _fused_dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Dropout as CUDA runs it: one kernel, and a mask of one byte a number."""
    return torch.native_dropout(input, p, True)[0] if training and p else input


@contextmanager
def kernels(device: str) -> Iterator[None]:
    """Dropout as on the device, while tracing on meta tensors."""
    if device == "cuda":
        with patch.object(F, "dropout", _fused_dropout):
            yield
    else:
        yield
