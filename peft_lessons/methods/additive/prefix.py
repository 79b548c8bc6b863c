"""Prefix tuning: p learned keys and values in front of those of the text, in every layer.

    attention(q, [P_k; K], [P_v; V])        P_k, P_v: (p, n_kv · d_head), a pair for each layer

A prefix is a cache of keys and values that no text has filled: here it is delivered as one, before the text comes.
It reaches every layer directly, where a soft prompt reaches the first and the others through it. Trains 2 L p d_kv
numbers; d_kv = n_kv · d_head counts the heads that keys have, fewer than the queries' where several of these share one.
With `hidden` an MLP makes the prefix, W_2 tanh(W_1 E' + b_1) + b_2, and is dropped when it is saved. It can also begin
as the cache that a real text leaves behind.

In an encoder-decoder the prefix stands in the decoder's self-attention alone, as in peft; the paper has one in the
encoder and one in cross-attention too. There peft gives decoder layer i the pair 2i modulo L of its file: with an
even number of layers two share a pair, and half of the file is read by nobody. Such files are read here as peft reads
them. A prefix with a pair of its own for each layer cannot be written so, and is saved under this course's own name.

Source: Li and Liang 2021, "Prefix-Tuning: Optimizing Continuous Prompts for Generation", sections 4.2 and 4.3; the
order of the numbers, K then V layer by layer, is that of Hugging Face peft's `PrefixEncoder`, as is the start from a
text (`initialize_kv_prefix_from_text`).
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from transformers import DynamicCache, EncoderDecoderCache

from peft_lessons.methods.additive.small import Dense
from peft_lessons.methods.additive.soft_prompt import (
    IN_FILES,
    Numbers,
    SoftPrompt,
    body_of,
    check_growing,
    check_length,
    check_room,
    lengthened,
    n_cached,
    window,
)  # fmt: skip
from peft_lessons.methods.additive.words import check_text, token_ids
from peft_lessons.methods.additive.wrapped import ExtendedModule, arguments

INITS = ("random", "zero", "text")


class MLPPrefix(nn.Module):
    """An MLP that makes the prefix, (p, width) from (p, d_kv)."""

    def __init__(self, n_tokens: int, d: int, hidden: int, width: int, zero: bool, device: torch.device):
        super().__init__()
        self.embedding = nn.Parameter(torch.randn(n_tokens, d, device="cpu").to(device))  # E'
        self.first, self.last = Dense(hidden, d, device), Dense(width, hidden, device)
        if zero:
            nn.init.zeros_(self.last.weight)
            nn.init.zeros_(self.last.bias)

    def forward(self) -> Tensor:
        """The prefix, (p, width)."""
        return self.last(torch.tanh(self.first(self.embedding)))


class PrefixedBody(ExtendedModule):
    """The body of a model, which finds p keys and values in every layer's cache before it reads a text."""

    def __init__(
        self, base: nn.Module, prompt: Any, n_tokens: int, n_layers: int, heads: tuple[int, int], seq2seq: bool = False
    ):
        super().__init__(base)
        self.prompt, self.n_tokens, self.n_layers, self.heads = prompt, n_tokens, n_layers, heads
        self.seq2seq = seq2seq  # the decoder of an encoder-decoder
        self.d_out, self.d_in = n_tokens, 2 * n_layers * heads[0] * heads[1]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        given = self.given(args, kwargs)
        x = given.get("inputs_embeds")
        if x is None:
            x = self.base.get_input_embeddings()(given.pop("input_ids"))  # (batch, length, d)
        given["inputs_embeds"] = x
        if self.training and any(getattr(m, "gradient_checkpointing", False) for m in self.base.modules()):
            raise ValueError("A prefix lies in the cache, which gradient checkpointing takes away: use one of the two.")
        check_growing(given)
        self.check_padding(given.get("attention_mask"))
        cache = given.get("past_key_values")
        if not n_cached(given):
            given["past_key_values"] = self.fill(cache, len(x), x)
        out = self.base(**given | lengthened(self.base, given, self.n_tokens, x, inside=False))
        if cache is None and not self.wants_cache(given):
            out["past_key_values"] = None
        return out

    def check_padding(self, mask: Tensor | None) -> None:
        """Refuse padding between prefix and text where it would change the answer.

        Raises:
            ValueError: the body counts places, or looks less far back than the padded batch is long.
        """
        if mask is None or mask.is_meta or bool(mask[:, 0].all()):
            return
        seen, config = window(self.base), self.base.config
        if config.model_type == "mpt" or (seen is not None and self.n_tokens + mask.shape[1] > seen):
            why = "counts places" if config.model_type == "mpt" else f"looks {seen} places back"
            raise ValueError(
                f"Padding on the left stands between prefix and text, and attention here {why}: pad on the right, or "
                f"give one text at a time."
            )

    def wants_cache(self, given: dict[str, Any]) -> bool:
        """Whether the caller asked for the cache back."""
        asked = given.get("use_cache")
        return bool(getattr(self.base.config, "use_cache", False) if asked is None else asked)

    def fill(self, cache: Any, batch: int, x: Tensor) -> Any:
        """Put the prefix into an empty cache, or a new one."""
        if cache is None:
            cache = DynamicCache(config=self.base.config)
            if self.seq2seq:
                cache = EncoderDecoderCache(cache, DynamicCache())
        own = getattr(cache, "self_attention_cache", cache)
        for i, (keys, values) in enumerate(self.keys_and_values()):
            own.update(*(t.to(x.dtype).expand(batch, -1, -1, -1) for t in (keys, values)), i)
        return cache

    def keys_and_values(self) -> list[tuple[Tensor, Tensor]]:
        """Of each layer, keys and values, (n_kv, p, d_head) each."""
        parts = self.prompt().view(self.n_tokens, self.n_layers, 2, *self.heads).permute(1, 2, 3, 0, 4)
        return [(keys, values) for keys, values in parts]


@dataclass(frozen=True)
class PrefixTuning(SoftPrompt):
    """A prefix of n_tokens keys and values in every layer.

    Args:
        n_tokens: the prefix's length p (`num_virtual_tokens` in peft).
        hidden: the width of the MLP that makes it while training (`encoder_hidden_size` in peft); 0 is none.
        init: how it begins: "random" (normal, as in peft), "zero", or the keys and values of a "text".
        init_text: the text; it must have at least n_tokens tokens, of which the first are taken.

    Raises:
        ValueError: n_tokens below 1, an unknown init, a negative width, a text with an MLP or that init does not read;
            when attached, a text that is too short, a prefix as long as the context, or layers without keys and values
            of one size.

    Source: see the module.
    """

    peft_type: ClassVar[str] = "PREFIX_TUNING"
    lr: ClassVar[float] = 3e-2
    inside_cache: ClassVar[bool] = True

    n_tokens: int = 20
    hidden: int = 0
    init: Literal["random", "zero", "text"] = "random"
    init_text: str | None = None

    def __post_init__(self) -> None:
        check_length(self.n_tokens)
        if isinstance(self.hidden, bool) or not isinstance(self.hidden, int) or self.hidden < 0:
            raise ValueError(f"hidden is {self.hidden!r}; it is the MLP's width, or 0 for no MLP.")
        if self.init not in INITS:
            raise ValueError(f"init is {self.init!r}; it can be {', '.join(INITS)}.")
        check_text(self.init, self.init_text, ("text",))
        if self.init == "text" and self.hidden:
            raise ValueError("A prefix from a text is its own numbers: no MLP could begin there; take hidden=0.")

    def replacements(self, model: nn.Module) -> Mapping[str, nn.Module]:
        path, found = body_of(model, decoder=True)
        base: Any = model.get_submodule(path)
        check_room(base, self.n_tokens)
        if "past_key_values" not in arguments(base):
            raise ValueError(f"{type(base).__name__} takes no cache of keys and values, so it can have no prefix.")
        heads, device = key_value_heads(model, base, len(found)), base.get_input_embeddings().weight.device
        width = 2 * len(found) * heads[0] * heads[1]
        if self.hidden:
            d = heads[0] * heads[1]
            prompt: nn.Module = MLPPrefix(self.n_tokens, d, self.hidden, width, self.init == "zero", device)
        elif self.init == "text":
            prompt = Numbers(from_text(model, base, str(self.init_text), self.n_tokens))
        elif self.init == "zero":
            prompt = Numbers(torch.zeros(self.n_tokens, width, device=device))
        else:
            prompt = Numbers(torch.randn(self.n_tokens, width, device="cpu").to(device))
        config: Any = model.config
        return {path: PrefixedBody(base, prompt, self.n_tokens, len(found), heads, config.is_encoder_decoder)}

    def place(self, model: nn.Module) -> str:
        return body_of(model, decoder=True)[0]

    def config(self) -> dict[str, object]:
        return {"num_virtual_tokens": self.n_tokens, "prefix_projection": False}

    def to_file(self, tensors: Mapping[str, Tensor], added: Mapping[str, nn.Module]) -> dict[str, Tensor]:
        found = super().to_file(tensors, added)
        ((path, body),) = added.items()
        if isinstance(body, PrefixedBody) and body.seq2seq:
            pairs, places = found[IN_FILES].unflatten(-1, (body.n_layers, -1)), peft_places(body.n_layers)
            held = torch.zeros_like(pairs)
            held[:, places] = pairs
            if not torch.equal(held[:, places], pairs):
                warnings.warn(
                    "This prefix has a pair of its own for each layer of the decoder, which peft's file cannot hold: "
                    "load_adapter reads this one, peft does not.",
                    stacklevel=3,
                )
                return found | {f"{path}.prompt.weight": found.pop(IN_FILES)}
            found[IN_FILES] = held.flatten(1)
        return found

    def from_file(self, tensors: Mapping[str, Tensor], model: Any) -> dict[str, Tensor]:
        path, found = body_of(model, decoder=True)
        if IN_FILES in tensors and model.config.is_encoder_decoder and not tensors[IN_FILES].shape[-1] % len(found):
            pairs = tensors[IN_FILES].unflatten(-1, (len(found), -1))
            tensors = {**tensors, IN_FILES: pairs[:, peft_places(len(found))].flatten(1)}
        return super().from_file(tensors, model)

    def file_fields(self, added: Mapping[str, nn.Module]) -> dict[str, object]:
        (body,) = (module for module in added.values() if isinstance(module, PrefixedBody))
        n_heads, d_head = body.heads
        sizes = {"num_layers": body.n_layers, "num_attention_heads": n_heads, "token_dim": n_heads * d_head}
        return {**sizes, "num_transformer_submodules": 2 if body.seq2seq else 1}

    @classmethod
    def from_config(cls, config: dict[str, Any], tensors: Mapping[str, Tensor]) -> "PrefixTuning":
        return cls(config["num_virtual_tokens"])


def peft_places(n_layers: int) -> list[int]:
    """Which pair of a file peft gives to each layer of an encoder-decoder's decoder."""
    return [2 * i % n_layers for i in range(n_layers)]


@torch.no_grad()
def cache_of(model: Any, base: Any, ids: list[int]) -> list[tuple[Tensor, Tensor]]:
    """The keys and values that these tokens leave behind in each layer, (1, n_kv, length, d_head) each."""
    cache = DynamicCache()  # without the configuration: whole, also where attention sees a window only
    table = base.get_input_embeddings().weight
    given: dict[str, Any] = {"input_ids": torch.tensor([ids], device=table.device), "past_key_values": cache}
    if model.config.is_encoder_decoder:  # behind an encoder that says nothing
        width = model.get_encoder().get_input_embeddings().weight.shape[1]
        given["encoder_hidden_states"] = table.new_zeros(1, 1, width)
        given["past_key_values"] = EncoderDecoderCache(cache, DynamicCache())
    base(**given)
    return [(layer.keys, layer.values) for layer in cache.layers]


def key_value_heads(model: Any, base: Any, n_layers: int) -> tuple[int, int]:
    """How many heads keys have, and their width, in the cache that one token leaves behind.

    Raises:
        ValueError: not every layer leaves keys and values there, or they are not all of one size.
    """
    left = [pair for pair in cache_of(model, base, [0]) if None not in pair]
    if len(left) != n_layers:
        raise ValueError(
            f"Of the {n_layers} layers of this model {len(left)} have keys and values of their own in the cache, so it "
            f"can have no prefix."
        )
    found = {(t.shape[1], t.shape[3]) for pair in left for t in pair}
    if len(found) > 1:
        raise ValueError("Not all keys and values of this model are of one size, so no one prefix fits them.")
    return found.pop()


def from_text(model: Any, base: Any, text: str, n_tokens: int) -> Tensor:
    """The keys and values of a text's first n_tokens tokens, as a prefix, (n_tokens, 2 L d_kv).

    Raises:
        ValueError: the text has fewer tokens, or the model has no tokenizer.
    """
    ids = token_ids(model, text)
    if getattr(model.tokenizer, "bos_token_id", None) is not None:
        ids = [model.tokenizer.bos_token_id, *ids]
    if len(ids) < n_tokens:
        raise ValueError(
            f"init_text has {len(ids)} tokens, and the prefix {n_tokens}: make it longer, or the prefix shorter."
        )
    parts = [t[0] for pair in cache_of(model, base, ids[:n_tokens]) for t in pair]  # (n_kv, p, d_head) each
    return torch.stack(parts).permute(2, 0, 1, 3).reshape(n_tokens, -1).float()
