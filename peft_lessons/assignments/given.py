"""What exercises hand out, drawn from a seed, and how their judges compare.

Source: the models are transformers' own, of two blocks and random weights; nothing is downloaded.
"""

import copy
import functools
import hashlib
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from peft_lessons.bases import load_base

Given = TypeVar("Given")
TOLERANCE = 1e-5
KINDS: dict[str, dict[str, object]] = {
    "llama": {"num_key_value_heads": 2},
    "gpt_neox": {},
    "opt": {"ffn_dim": 40, "word_embed_proj_dim": 24},
    "gpt2": {},
    "phi": {},
    "bert": {"is_decoder": True},
}


def seeded(draw: Callable[[torch.Generator], Given]) -> Callable[[int], Given]:
    """A draw from a seed, out of one from a generator of its own: the caller's random numbers are left alone."""

    @functools.wraps(draw)
    def drawn(seed: int) -> Given:
        return draw(torch.Generator().manual_seed(seed))

    return drawn


def linear(d_in: int, d_out: int, g: torch.Generator) -> nn.Linear:
    """A linear layer with random weights and a random bias that is not small."""
    layer = nn.Linear(d_in, d_out)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(d_out, d_in, generator=g) / d_in**0.5)
        layer.bias.copy_(torch.randn(d_out, generator=g))
    return layer


def random_model(g: torch.Generator, kind: str) -> PreTrainedModel:
    """A decoder of two blocks with random weights, of one of the families in `KINDS`."""
    sizes = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = AutoConfig.for_model(
        kind, vocab_size=32, max_position_embeddings=64, bos_token_id=0, eos_token_id=1, pad_token_id=2,
        **sizes, **KINDS[kind],
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=g) * 0.2)
    return model


def fresh_base(name: str) -> Any:
    """A copy of the base of this name, on the CPU, that the caller may change; read from disk once."""
    return copy.deepcopy(_base(name))


@functools.cache
def _base(name: str) -> Any:
    return load_base(name, device="cpu")[0]


def close(found: Tensor, expected: Tensor) -> bool:
    """Whether it has the same shape and is nowhere further off than 1e-5, or 1e-5 of the largest entry."""
    if found.shape != expected.shape:
        return False
    off = (found.double() - expected.detach().double()).abs().max() / expected.abs().max().clamp(min=1)
    return bool(off < TOLERANCE)


def weights_hash(model: nn.Module) -> str:
    """sha256 of all weights of the base, whatever wraps them; those that an adapter added are left out."""
    names = sorted((name.replace(".base.", "."), p) for name, p in model.named_parameters() if ".lora_" not in name)
    digest = hashlib.sha256()
    for name, parameter in names:
        digest.update(name.encode())
        digest.update(parameter.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
