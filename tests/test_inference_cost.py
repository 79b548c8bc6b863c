"""The closed forms of an answer's cost, against counted operations and against a real cache."""

import math

import models
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from peft_lessons.accounting.inference import DecoderShape, break_even, decoder_shape, forward_flops, kv_cache_bytes

SHAPE = DecoderShape(n_linear=100, n_layers=2, n_heads=3, n_kv_heads=1, head_dim=5, d_model=7, vocab=11)


def grouped() -> LlamaForCausalLM:
    """A Llama whose four heads share two keys and values, of a width that is not d_model."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=50, hidden_size=24, intermediate_size=40, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=64, attn_implementation="eager",
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def counted(model, ids, **kwargs):
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        output = model(input_ids=ids, logits_to_keep=1, use_cache=True, **kwargs)
    return counter.get_total_flops(), output.past_key_values


def cache_bytes(cache) -> int:
    return sum(layer.keys.nbytes + layer.values.nbytes for layer in cache.layers)


@pytest.mark.parametrize("tokens", [1, 9, 33])
def test_forward_and_cache_are_those_of_a_real_pass(tokens):
    model = grouped()
    flops, cache = counted(model, torch.zeros(1, tokens, dtype=torch.long))
    rotary = (
        2 * tokens * model.config.head_dim // 2 * model.config.num_hidden_layers
    )  # an outer product a layer at most
    assert abs(flops - forward_flops(decoder_shape(model), tokens)) <= rotary
    assert cache_bytes(cache) == kv_cache_bytes(decoder_shape(model), tokens)


def test_with_a_cache_only_the_new_tokens_are_read():
    model = grouped()
    _, cache = counted(model, torch.zeros(1, 20, dtype=torch.long))
    flops, cache = counted(model, torch.zeros(1, 6, dtype=torch.long), past_key_values=cache)
    assert flops == forward_flops(decoder_shape(model), 6, cached=20)
    assert forward_flops(decoder_shape(model), 6, cached=20) < forward_flops(decoder_shape(model), 26)
    assert cache_bytes(cache) == kv_cache_bytes(decoder_shape(model), 26)


def test_the_formulas_by_hand():
    assert forward_flops(SHAPE, 4) == 4 * 2 * 100 + 4 * 2 * 3 * 5 * 4 * 4 + 2 * 7 * 11
    assert forward_flops(SHAPE, 4, cached=6) == 4 * 2 * 100 + 4 * 2 * 3 * 5 * 4 * 10 + 2 * 7 * 11
    assert kv_cache_bytes(SHAPE, 9, 2) == 2 * 2 * 1 * 5 * 9 * 2


def test_shape_of_a_llama_and_a_gpt2():
    assert decoder_shape(grouped()).n_kv_heads == 2
    assert decoder_shape(grouped()).n_linear == 3 * (24 * 32 * 2 + 24 * 16 * 2 + 3 * 24 * 40)
    for name in ("llama", "gpt2"):
        model = models.ALL[name]()
        shape = decoder_shape(model)
        assert shape.d_model == shape.n_heads * shape.head_dim == model.config.hidden_size
        assert shape.vocab == model.config.vocab_size


@pytest.mark.parametrize(
    ("training", "once", "prompted", "tuned", "answers"),
    [(100, 0, 12, 2, 10), (101, 0, 12, 2, 11), (100, 50, 12, 2, 5), (10, 50, 12, 2, 0), (100, 0, 2, 2, math.inf)],
)
def test_break_even(training, once, prompted, tuned, answers):
    assert break_even(training, once, prompted, tuned) == answers
    if 0 < answers < math.inf:
        cost = lambda n: (training + n * tuned, once + n * prompted)  # noqa: E731
        assert cost(answers)[0] <= cost(answers)[1] and cost(answers - 1)[0] > cost(answers - 1)[1]
