"""Where a soft prompt enters a model, whatever made it: the numbers themselves, a network, or a few coordinates.

The body of a model is the part that embeds tokens and runs the blocks. In its place stands a wrapper that puts p
learned vectors in front of the embedded text, lengthens the mask by p ones, moves the text's positions on by p, and
cuts the first p positions off what comes out. What is around the body never sees them: there are as many logits as the
text has tokens, mean pooling takes the text alone, and generation puts the prompt in once, with the first tokens.

Positions are counted from the mask, so padding on the left, on the right and none give the same answer. Where places
count all the same, because a body is told no positions or its attention looks a number of places back, the prompt goes
between the padding and the text. In an encoder-decoder the prompt stands in front of what the encoder reads, and the
decoder attends to it as to the text.

Source: Lester, Al-Rfou and Constant 2021, "The Power of Scale for Parameter-Efficient Prompt Tuning", section 2.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from peft_lessons.methods.additive.wrapped import ExtendedModule, WrappedModule, arguments
from peft_lessons.methods.core import Method
from peft_lessons.methods.targets import Block, stacks

IN_FILES = "prompt_embeddings"


class Numbers(nn.Module):
    """A prompt that is its own numbers: `weight`, (p, width)."""

    def __init__(self, values: Tensor):
        super().__init__()
        self.weight = nn.Parameter(values.detach().to(torch.float32))

    def forward(self) -> Tensor:
        """The prompt, (p, width)."""
        return self.weight


class PromptedBody(ExtendedModule):
    """The body of a model with a soft prompt in front of what it reads; see the module."""

    def __init__(self, base: nn.Module, prompt: Any, n_tokens: int, width: int, seen_outside: bool = False):
        super().__init__(base)
        check_room(base, n_tokens)
        self.prompt, self.n_tokens = prompt, n_tokens
        self.seen_outside = seen_outside  # a decoder attends to the encoder's prompt
        self.d_out, self.d_in = n_tokens, width

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        given = self.given(args, kwargs)
        ids, x = given.pop("input_ids", None), given.pop("inputs_embeds", None)
        x = self.base.get_input_embeddings()(ids) if x is None else x  # (batch, length, d)
        begins = not n_cached(given)
        if begins:
            prompt = self.prompt().to(x.dtype).expand(len(x), -1, -1)  # (batch, p, d)
            x = torch.cat([prompt, x], dim=1)
        given |= lengthened(self.base, given, self.n_tokens, x, inside=begins)
        out = self.base(inputs_embeds=x, **given)
        if begins and not self.seen_outside:
            out["last_hidden_state"] = out.last_hidden_state[:, self.n_tokens :]
            if out.get("hidden_states") is not None:
                out["hidden_states"] = tuple(h[:, self.n_tokens :] for h in out.hidden_states)
        return out


class CountingBody(WrappedModule):
    """A body in which places count: padding between prompt and text goes in front of both.

    What comes out is in the order of what came in.
    """

    def __init__(self, base: nn.Module, n_tokens: int):
        super().__init__(base)
        self.n_tokens = n_tokens

    def forward(self, **given: Any) -> Any:
        mask, x, p = given.get("attention_mask"), given["inputs_embeds"], self.n_tokens
        if mask is None or mask.is_meta or bool(mask[:, p : p + 1].all()):  # no row has padding there
            return self.base(**given)
        n_pad = (mask[:, p:].cumsum(-1) == 0).sum(-1, keepdim=True)
        place = torch.arange(mask.shape[1], device=mask.device)
        order = torch.where(place < n_pad, place + p, torch.where(place < n_pad + p, place - n_pad, place))
        given["attention_mask"] = mask.gather(1, order)
        if x.shape[1] < mask.shape[1]:  # prompt and padding lie in the cache
            return self.base(**given)
        given["inputs_embeds"] = _in_order(x, order)
        for name in ("position_ids", "token_type_ids"):
            if given.get(name) is not None:
                given[name] = given[name].expand_as(order).gather(1, order)
        out, back = self.base(**given), order.argsort(1)
        out["last_hidden_state"] = _in_order(out.last_hidden_state, back)
        if out.get("hidden_states") is not None:
            out["hidden_states"] = tuple(_in_order(h, back) for h in out.hidden_states)
        return out


def _in_order(x: Tensor, order: Tensor) -> Tensor:
    """The positions of x, (batch, length, d), in another order in each row, (batch, length)."""
    return x.gather(1, order.unsqueeze(-1).expand_as(x))


class SeesPrompt(WrappedModule):
    """A decoder that attends to an encoder with a prompt: its mask for the encoder's positions is as much longer."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        given = self.given(args, kwargs)
        mask, states = given.get("encoder_attention_mask"), given.get("encoder_hidden_states")
        if mask is not None and states is not None:
            given["encoder_attention_mask"] = F.pad(mask, (states.shape[1] - mask.shape[1], 0), value=1)
        return self.base(**given)


def lengthened(base: Any, given: dict[str, Any], p: int, x: Tensor, inside: bool) -> dict[str, Any]:
    """Mask, positions and token types for a text with p positions in front of it.

    Args:
        base: the body.
        given: what the body was given for the text alone.
        p: the prompt's length.
        x: what the body will read, (batch, length, d).
        inside: the prompt is in x; else it lies in the cache.

    Raises:
        ValueError: prompt and text are longer than the context, the mask is not (batch, length), or what is given does
            not follow on what lies in the cache.
    """
    check_growing(given)
    limit, seen = context(base), n_cached(given)
    n_text, end = x.shape[1] - (p if inside else 0), seen + x.shape[1]
    if limit is not None and end > limit:
        raise ValueError(
            f"A prompt of {p} tokens and a text of {end - p} are longer than the {limit} this model reads."
        )
    found: dict[str, Any] = {"return_dict": True}
    mask, positions, types = (given.get(name) for name in ("attention_mask", "position_ids", "token_type_ids"))
    if mask is not None:
        mask = found["attention_mask"] = F.pad(mask, (p, 0), value=1)
    if seen > p and (ends := _end(mask, positions, p)) not in (None, seen + n_text):
        raise ValueError(
            f"The cache holds {seen - p} tokens of the text behind a prompt of {p}, and {n_text} more are given for a "
            f"text of {ends - p}: give the tokens alone that are not in the cache, and a mask for the whole text."
        )
    first = first_position(base)
    if positions is not None:
        positions = positions + p
        if inside:
            own = torch.arange(first, first + p, device=x.device).expand(len(positions), -1)
            positions = torch.cat([own, positions], dim=1)
        found["position_ids"] = positions
    elif mask is not None and "position_ids" in arguments(base):
        found["position_ids"] = (mask.cumsum(-1) - 1).clamp(min=0)[:, -x.shape[1] :] + first
    if types is not None and inside:
        found["token_type_ids"] = F.pad(types, (p, 0))
    return found


def _end(mask: Tensor | None, positions: Tensor | None, p: int) -> int | None:
    """Where prompt and text end, by the lengthened mask or else by the text's positions; None where neither says it."""
    if mask is not None or positions is None or positions.is_meta:
        return None if mask is None else mask.shape[1]
    return int(positions.max()) + 1 + p


def check_growing(given: dict[str, Any]) -> None:
    """Refuse a cache of a fixed length, and the mask that comes with one.

    Raises:
        ValueError: it is one.
    """
    mask, cache = given.get("attention_mask"), given.get("past_key_values")
    if getattr(cache, "is_compileable", False) or (mask is not None and mask.dim() != 2):
        raise ValueError("A soft prompt needs a mask of shape (batch, length), and a cache that grows.")


def n_cached(given: dict[str, Any]) -> int:
    """How many positions lie in the cache that a body is given."""
    cache = given.get("past_key_values")
    return 0 if cache is None else int(cache.get_seq_length())


def window(base: Any) -> int | None:
    """How many places the most short-sighted attention layer looks back; None where all of them see everything."""
    config = base.config
    kinds = getattr(config, "layer_types", None) or getattr(config, "attention_layers", None)  # the latter in GPT-Neo
    if kinds and not any(kind.startswith(("sliding", "chunked", "local")) for kind in kinds):
        return None
    names = ("sliding_window", "attention_chunk_size", "local_attention", "window_size")
    found = [size for size in (getattr(config, name, None) for name in names) if isinstance(size, int) and size > 0]
    return min(found, default=None)


def counts_places(base: Any) -> bool:
    """Whether padding between prompt and text changes what a body makes of positions that are counted from the mask."""
    relative = ("relative_attention", "relative_attention_num_buckets")  # DeBERTa; MPNet
    return (
        "position_ids" not in arguments(base)
        or window(base) is not None
        or any(getattr(base.config, name, None) for name in relative)
    )


def first_position(base: nn.Module) -> int:
    """The position of a text's first token: 0, but behind the padding's own in RoBERTa and its relatives."""
    table = getattr(getattr(base, "embeddings", None), "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)
    return 0 if padding is None else padding + 1


def context(base: Any) -> int | None:
    """How many tokens a body reads at most; None where its positions are relative."""
    limit = getattr(base.config, "max_position_embeddings", None)
    return None if limit is None else limit - first_position(base)


def check_room(base: nn.Module, p: int) -> None:
    """Refuse a prompt that leaves no room for a text.

    Raises:
        ValueError: it is as long as the context, or longer.
    """
    limit = context(base)
    if limit is not None and p >= limit:
        raise ValueError(f"A prompt of {p} tokens leaves no room for a text: this model reads at most {limit}.")


def body_of(model: nn.Module, decoder: bool = False) -> tuple[str, list[Block]]:
    """The path of a model's body and its blocks: of an encoder-decoder, the encoder, or the decoder.

    Raises:
        ValueError: the model has no blocks, or is itself the body.
    """
    found = stacks(model, any_ffn=True)[-1 if decoder else 0]
    path = found[0].path
    while path:
        path = path.rpartition(".")[0]
        if path and isinstance(model.get_submodule(path), PreTrainedModel):
            return path, found
    raise ValueError(
        f"A soft prompt is put in front of the body inside a model with a head; {type(model).__name__} has no head."
    )


def check_length(n_tokens: object) -> None:
    """Refuse a length that is none.

    Raises:
        ValueError: it is not a whole number, or below 1.
    """
    if isinstance(n_tokens, bool) or not isinstance(n_tokens, int) or n_tokens < 1:
        raise ValueError(f"n_tokens is {n_tokens!r}; a prompt's length is a whole number, at least 1.")


class SoftPrompt(Method):
    """A method that learns what stands in front of the text; `prompt_module` says how its numbers are made.

    A file of peft's holds the numbers alone, whatever made them while training.
    """

    why_not_merged: ClassVar[str] = "what it learns is read with the text, and no weight can hold it"
    file_prefix: ClassVar[str] = "base_model."
    inside_cache: ClassVar[bool] = False  # keys and values in every layer, not vectors in front of the text

    n_tokens: int

    def prompt_module(self, model: Any, table: nn.Module) -> nn.Module:
        """The module whose forward gives the prompt, (n_tokens, d); `table` is the embedding layer."""
        raise NotImplementedError

    def replacements(self, model: nn.Module) -> Mapping[str, nn.Module]:
        path, _ = body_of(model)
        base: Any = model.get_submodule(path)
        table, decoder = base.get_input_embeddings(), body_of(model, decoder=True)[0]
        check_room(base, self.n_tokens)
        prompt, width = self.prompt_module(model, table), table.weight.shape[1]
        inner = CountingBody(base, self.n_tokens) if counts_places(base) else base
        body = PromptedBody(inner, prompt, self.n_tokens, width, seen_outside=decoder != path)
        return {path: body} | ({} if decoder == path else {decoder: SeesPrompt(model.get_submodule(decoder))})

    def place(self, model: nn.Module) -> str:
        """The path of the module that holds the prompt."""
        return body_of(model)[0]

    @torch.no_grad()
    def to_file(self, tensors: Mapping[str, Tensor], added: Mapping[str, nn.Module]) -> dict[str, Tensor]:
        modules: list[Any] = [module for module in added.values() if "prompt" in dict(module.named_children())]
        (prompt,) = (module.prompt for module in modules)
        own = tuple(f"{path}." for path in added)
        return {n: t for n, t in tensors.items() if not n.startswith(own)} | {IN_FILES: prompt()}

    def from_file(self, tensors: Mapping[str, Tensor], model: Any) -> dict[str, Tensor]:
        """The adapter's tensors; of a file for an encoder-decoder the rows beyond n_tokens are used by nobody."""
        found = dict(tensors)
        if IN_FILES in found:
            prompt = found.pop(IN_FILES)
            used = prompt[: self.n_tokens] if model.config.is_encoder_decoder else prompt
            found[f"{self.place(model)}.prompt.weight"] = used
        return found

    def file_fields(self, added: Mapping[str, nn.Module]) -> dict[str, object]:
        (body,) = (module for module in added.values() if isinstance(module, PromptedBody))
        config = body.base.config  # peft asks for these three, and does not find them in every model's configuration
        sizes = {"num_layers": config.num_hidden_layers, "num_attention_heads": config.num_attention_heads}
        return {**sizes, "token_dim": body.d_in, "num_transformer_submodules": 1}
