"""Where a method attaches: linear layers by name, the blocks of a transformer and their seams, and its norms.

A block is self-attention, perhaps cross-attention, and a feed-forward network (FFN); the last linear layer of each
writes into the residual stream. That holds for BERT, GPT-2, Llama, T5 and their relatives, so that nothing here knows a
model by name.

Source: the meaning of `target_modules` is Hugging Face peft's; the seams are those of Vaswani et al. 2017, figure 1.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeGuard

from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

Targets: TypeAlias = "str | Sequence[str]"


class PackedLinear(nn.Module):
    """A frozen linear layer whose `weight` is stored in a form of its own, such as four bits."""

    in_features: int
    out_features: int
    weight: Tensor
    bias: Any  # a parameter or None

    def dequantize(self) -> Tensor:
        """The matrix that is meant, (d_out, d_in)."""
        raise NotImplementedError


Linear: TypeAlias = "nn.Linear | Conv1D | PackedLinear"


def is_linear(module: nn.Module) -> TypeGuard[Linear]:
    """Whether a method can wrap it: `nn.Linear`, transformers' `Conv1D` (GPT-2's linear layer), or one in four bits."""
    return isinstance(module, nn.Linear | Conv1D | PackedLinear)


def is_quantized(module: nn.Module) -> bool:
    """Whether it is a linear layer in four bits, ours or bitsandbytes'."""
    return isinstance(module, PackedLinear) or (isinstance(module, nn.Linear) and hasattr(module.weight, "quant_state"))


def sizes(layer: Linear) -> tuple[int, int]:
    """(d_out, d_in)."""
    return (layer.nf, layer.nx) if isinstance(layer, Conv1D) else (layer.out_features, layer.in_features)


def matrix(layer: Any) -> Tensor:
    """What a linear layer multiplies by, (d_out, d_in); made anew where it is stored in four bits."""
    if isinstance(layer, PackedLinear):
        return layer.dequantize()
    if is_quantized(layer):
        from bitsandbytes.functional import dequantize_4bit  # not where it is not needed: it is slow to import

        return dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    return layer.weight.T if isinstance(layer, Conv1D) else layer.weight


def refuse_quantized(model: nn.Module, paths: Sequence[str] = ("",)) -> None:
    """Refuse to train weights, anywhere under these paths, that are in four bits.

    Raises:
        ValueError: some are.
    """
    for path in paths:
        for name, module in model.get_submodule(path).named_modules(prefix=path):
            if is_quantized(module):
                raise ValueError(
                    f"{name} is in four bits, which cannot be trained: take a method that leaves it frozen, such as "
                    "LoRA, or dequantize(model) first."
                )


def linear_layers(model: nn.Module) -> dict[str, Linear]:
    """Every linear layer of a model by path, output layer and classification head included."""
    return {name: module for name, module in model.named_modules() if is_linear(module)}


def output_layer(model: nn.Module) -> nn.Module | None:
    """The layer that turns hidden states into logits: the language-model head or the classification head."""
    getter = getattr(model, "get_output_embeddings", None)
    return getter() if getter is not None else getattr(model, "classifier", None)


def find_targets(model: nn.Module, targets: Targets) -> dict[str, Linear]:
    """The linear layers that `target_modules` means, by path, in the model's order.

    Args:
        model: any transformers model.
        targets: "attention" (every linear layer inside an attention module), "all-linear" (every linear layer but
            the output layer), or names and patterns. A name fits the end of a path ("query", "attention.self.query");
            a pattern is a regular expression for the whole path.

    Raises:
        ValueError: something named is not there, or is no name; the message lists what is.

    Source: the meaning of Hugging Face peft's `target_modules`, with "attention" added.
    """
    layers = linear_layers(model)
    head = output_layer(model)
    inner = {name: layer for name, layer in layers.items() if layer is not head}
    if not inner:
        raise ValueError("This model has no linear layer to attach to.")
    if targets == "all-linear":
        return inner
    if targets == "attention":
        attention = [n for n, m in model.named_modules() if "attention" in type(m).__name__.lower()]
        found = {n: m for n, m in inner.items() if any(n.startswith(f"{a}.") for a in attention)}
        if not found:
            raise ValueError(
                f'This model has no attention module; name linear layers instead: {_names(inner)}, or "all-linear".'
            )
        return found
    wanted = [targets] if isinstance(targets, str) else list(targets) if isinstance(targets, Collection) else None
    if wanted is None or not all(isinstance(target, str) for target in wanted):
        raise ValueError(
            f"target_modules is {targets!r}; it is a name, a pattern, or a list of them; here {_names(inner)}."
        )
    if not wanted:
        raise ValueError(f'target_modules is empty; name linear layers: {_names(inner)}, "attention" or "all-linear".')
    matches = {target: [name for name in layers if fits(target, name)] for target in wanted}
    for target, names in matches.items():
        if not names:
            raise ValueError(
                f'No linear layer of this model is called "{target}". It has {_names(layers)}; '
                '"attention" and "all-linear" work too.'
            )
    chosen = set().union(*matches.values())
    return {name: layer for name, layer in layers.items() if name in chosen}


def fits(target: str, name: str) -> bool:
    """Whether a name or pattern of `target_modules` means the module at this path.

    Raises:
        ValueError: it is neither a name that fits nor a regular expression.
    """
    if name == target or name.endswith(f".{target}"):
        return True
    try:
        return re.fullmatch(target, name) is not None
    except re.error as error:
        raise ValueError(f'"{target}" is neither a name nor a regular expression: {error}.') from None


def _names(layers: Mapping[str, Linear]) -> str:
    """The distinct names of linear layers, without the numbered path in front."""
    return ", ".join(dict.fromkeys(re.sub(r"^.*\.\d+\.", "", name) for name in layers))


@dataclass(frozen=True)
class Block:
    """One transformer block: its path, and the paths of its linear layers, in the model's order but for the outputs."""

    path: str
    attention: tuple[str, ...]  # self-attention's, the output projection last (Phi-3 defines it first)
    cross_attention: tuple[str, ...]
    ffn: tuple[str, ...]  # two, or three where the FFN is gated; the output last

    @property
    def attention_out(self) -> str:
        """The layer by which self-attention writes into the residual stream."""
        return self.attention[-1]

    @property
    def ffn_in(self) -> tuple[str, ...]:
        """The layers that read the FFN's input."""
        return self.ffn[:-1]

    @property
    def ffn_out(self) -> str:
        """The layer by which the FFN writes into the residual stream."""
        return self.ffn[-1]


def blocks(model: nn.Module, any_ffn: bool = False) -> list[Block]:
    """The transformer blocks of a model, lowest first; an encoder-decoder's encoder before its decoder.

    Args:
        model: any transformers model, with nothing attached.
        any_ffn: whether the feed-forward part may be of any kind: for who asks about attention alone.

    Raises:
        ValueError: it has no transformer blocks, or their feed-forward part is not two or three linear layers.

    Source: see the module.
    """
    found: list[Block] = []
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{block.path}.") for block in found)
        if isinstance(module, nn.ModuleList) and not inside:
            here = [_block(f"{name}.{n}", child) for n, child in module.named_children()]
            if all(block.attention for block in here):
                found += here
    if not found:
        raise ValueError("This model has no transformer blocks: no list of layers that each have attention.")
    for block in found:
        if len(block.ffn) not in (2, 3) and not any_ffn:
            raise ValueError(
                f"{block.path} has {len(block.ffn)} linear layers outside attention; a feed-forward network of two or "
                "three is what this method knows (a mixture of experts is not)."
            )
    return found


def stacks(model: nn.Module, any_ffn: bool = False) -> list[list[Block]]:
    """The same blocks by stack: one list, or two for an encoder-decoder.

    Raises:
        ValueError: as in `blocks`.

    Source: see the module.
    """
    found: dict[str, list[Block]] = {}
    for block in blocks(model, any_ffn):
        found.setdefault(block.path.rpartition(".")[0], []).append(block)
    return list(found.values())


def _block(path: str, module: nn.Module) -> Block:
    layers = {f"{path}.{name}": layer for name, layer in linear_layers(module).items()}
    outer: list[str] = []
    for name, part in module.named_modules():
        if "attention" in type(part).__name__.lower() and not any(f"{path}.{name}".startswith(f"{o}.") for o in outer):
            outer.append(f"{path}.{name}")
    attention = [tuple(layer for layer in layers if layer.startswith(f"{o}.")) for o in outer]
    attention = [group for group in attention if group]
    taken = {layer for group in attention for layer in group}
    ffn = tuple(layer for layer in layers if layer not in taken)
    first, *others = attention or [()]
    if ffn:  # both outputs are as wide as the residual stream
        wide = [layer for layer in first if sizes(layers[layer])[0] == sizes(layers[ffn[-1]])[0]]
        first = tuple(sorted(first, key=lambda layer: layer in wide[-1:]))
    return Block(path, first, tuple(layer for group in others for layer in group), ffn)


def norms(model: nn.Module) -> dict[str, nn.Module]:
    """Every normalisation layer with weights (LayerNorm, RMSNorm) by path.

    Raises:
        ValueError: there is none.
    """
    found = {
        name: module
        for name, module in model.named_modules()
        if "norm" in type(module).__name__.lower() and isinstance(getattr(module, "weight", None), nn.Parameter)
    }
    if not found:
        raise ValueError("This model has no normalisation layer with weights to train.")
    return found


def norm_parameters(model: nn.Module) -> list[str]:
    """The names of the weights of all normalisation layers.

    Raises:
        ValueError: there is none.
    """
    return [f"{path}.{name}" for path, norm in norms(model).items() for name, _ in norm.named_parameters()]
