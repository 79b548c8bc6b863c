"""A small transformer block of its own, which stands beside a frozen one and attends with the same mask.

    x <- x + W_o attention(W_q n, W_k n, W_v n)      n = norm(x)      x (batch, length, d)
    x <- x + W_out gelu(W_in norm(x))                W_in (d_ff, d)

Norms come first, as in GPT-2. It has no positions of its own: what it reads has been through the frozen block, which
has. While generating, its keys and values lie in the model's cache behind those of the model's own layers.

Source: the block of Vaswani et al. 2017; the place of its norms, Radford et al. 2019, "Language Models are Unsupervised
Multitask Learners".
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.cache_utils import DynamicLayer
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS


class SideBlock(nn.Module):
    """Attention and a feed-forward network, `d` wide; `place` is its layer in the cache, `config` names the kernel."""

    def __init__(
        self, d: int, d_ff: int, n_heads: int, place: int, is_causal: bool, config: Any, device: torch.device | str
    ):
        super().__init__()
        self.n_heads, self.place, self.is_causal, self.config = n_heads, place, is_causal, config
        self.norm, self.ffn_norm = nn.LayerNorm(d, device=device), nn.LayerNorm(d, device=device)
        self.qkv, self.out = weight(3 * d, d, device), weight(d, d, device)
        self.ffn_in, self.ffn_out = weight(d_ff, d, device), weight(d, d_ff, device)

    def forward(self, x: Tensor, mask: Any, cache: Any, dtype: torch.dtype) -> Tensor:
        """x (batch, length, d), with the mask and the cache that the frozen block was given; attends in `dtype`."""
        x = x + self._attend((self.norm(x) @ self.qkv.T).to(dtype), mask, cache).to(x.dtype) @ self.out.T
        return x + F.gelu(self.ffn_norm(x) @ self.ffn_in.T) @ self.ffn_out.T

    def _attend(self, qkv: Tensor, mask: Any, cache: Any) -> Tensor:  # (batch, length, 3 d) -> (batch, length, d)
        q, k, v = qkv.unflatten(-1, (3, self.n_heads, -1)).permute(2, 0, 3, 1, 4)  # (batch, n_heads, length, d_head)
        if cache is not None:
            k, v = self._remember(getattr(cache, "self_attention_cache", cache), k, v)
        attend = ALL_ATTENTION_FUNCTIONS.get(self.config._attn_implementation, sdpa_attention_forward)
        out, _ = attend(self, q, k, v, mask, scaling=q.shape[-1] ** -0.5, is_causal=self.is_causal)
        return out.flatten(2)

    def _remember(self, cache: Any, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        if any(type(layer) is not DynamicLayer for layer in cache.layers):
            raise NotImplementedError(
                "A ladder generates with transformers' growing cache alone: not with a static or sliding one."
            )
        while len(cache.layers) <= self.place:
            cache.layers.append(DynamicLayer())
        return cache.update(k, v, self.place)


def weight(d_out: int, d_in: int, device: torch.device | str) -> nn.Parameter:
    """A new weight, (d_out, d_in), as PyTorch initialises linear layers."""
    values = torch.empty(d_out, d_in, device="cpu")  # drawn on the CPU: the same numbers on every device
    nn.init.kaiming_uniform_(values, a=math.sqrt(5))
    return nn.Parameter(values.to(device))
