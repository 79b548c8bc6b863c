"""What an answer costs a decoder: arithmetic and cache, in closed form.

    forward: tokens · (2 N + 4 n_layers n_heads head_dim · (cached + tokens)) + 2 d_model vocab      operations
    cache:   2 n_layers n_kv_heads head_dim · tokens · bytes                                       bytes

N counts the weights of the linear layers, without embeddings and output layer; a multiplication and an addition are
two operations. The second term is attention over every position, as a kernel that does not skip the masked half
computes it. Norms, activation functions and softmax are left out.

Source: Kaplan et al. 2020, "Scaling Laws for Neural Language Models", section 2.1; for backward passes see there too.
"""

import math
from dataclasses import dataclass

from transformers import PreTrainedModel

from peft_lessons.methods.targets import linear_layers, output_layer


@dataclass(frozen=True)
class DecoderShape:
    """The numbers that the costs depend on."""

    n_linear: int  # N, weights in linear layers, without the output layer
    n_layers: int
    n_heads: int
    n_kv_heads: int  # fewer than n_heads where heads share keys and values
    head_dim: int
    d_model: int
    vocab: int


def decoder_shape(model: PreTrainedModel) -> DecoderShape:
    """Read the shape off a transformers decoder.

    Adapters count towards `n_linear` only where they are linear layers of their own.
    """
    config, head = model.config, output_layer(model)
    layers = {name: layer for name, layer in linear_layers(model).items() if layer is not head}
    n_heads = config.num_attention_heads
    return DecoderShape(
        n_linear=sum(layer.weight.numel() for layer in layers.values()),
        n_layers=config.num_hidden_layers,
        n_heads=n_heads,
        n_kv_heads=getattr(config, "num_key_value_heads", None) or n_heads,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // n_heads,
        d_model=config.hidden_size,
        vocab=config.vocab_size,
    )


def forward_flops(shape: DecoderShape, tokens: int, cached: int = 0) -> int:
    """Operations of one forward pass that ends in one row of logits.

    Args:
        shape: the model's.
        tokens: new tokens that are read.
        cached: earlier tokens whose keys and values are kept from before.
    """
    linear = 2 * shape.n_linear
    attention = 4 * shape.n_layers * shape.n_heads * shape.head_dim * (cached + tokens)
    return tokens * (linear + attention) + 2 * shape.d_model * shape.vocab


def kv_cache_bytes(shape: DecoderShape, tokens: int, bytes_per_number: int = 4) -> int:
    """Bytes of the keys and values of one sequence of so many tokens."""
    return 2 * shape.n_layers * shape.n_kv_heads * shape.head_dim * tokens * bytes_per_number


def break_even(training: float, prompt_once: float, prompt_answer: float, tuned_answer: float) -> float:
    """Answers after which tuning has cost less than prompting; infinite where a prompted answer is no dearer.

    Args:
        training: operations of tuning, spent once.
        prompt_once: operations spent once for prompting, such as filling a cache.
        prompt_answer: operations of one answer with demonstrations in the prompt.
        tuned_answer: operations of one answer of the tuned model.
    """
    saved = prompt_answer - tuned_answer
    return max(0, math.ceil((training - prompt_once) / saved)) if saved > 0 else math.inf
