"""The verbs for a base in four bits: quantize it, and give it plain weights back.

Source: `BitsAndBytesConfig` and `dequantize` of transformers 5: every linear layer but the output layer, and not those
that a model declares must stay in 32 bits.
"""

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any, Literal

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from peft_lessons.methods.attaching import switch
from peft_lessons.methods.core import active, attached, rack_of, set_submodule
from peft_lessons.methods.reparameterized.codes import code_table
from peft_lessons.methods.reparameterized.nf4 import BLOCK
from peft_lessons.methods.reparameterized.quantized_linear import QuantizedLinear
from peft_lessons.methods.targets import Linear, is_quantized, linear_layers, matrix, output_layer, sizes

THEIRS = ("nf4", "fp4")  # the codes that bitsandbytes has


def quantize(
    model: nn.Module,
    kind: str = "nf4",
    double: bool = True,
    backend: Literal["torch", "bitsandbytes"] | None = None,
) -> nn.Module:
    """Round every frozen linear layer but the output layer to four bits, in place; what was rounded away is lost.

    Embeddings, norms, biases and the output layer stay as they are. Then attach a method: it trains beside the frozen
    codes. On GPT-2 the rows of W are those of (d_out, d_in), whatever way its layers store them.

    Args:
        model: a plain base with nothing attached.
        kind: "nf4", "fp4", "int4", or the coarser "normal7" and "normal4", which are stored in four bits too.
        double: double quantisation: the blocks' scales in eight bits, 4.127 bits a weight in place of 4.5.
        backend: "torch" is this package's own layer, "bitsandbytes" that library's `Linear4bit`. Where not given, the
            latter on a CUDA GPU, for the codes that it has. On a CPU layers whose rows are not whole blocks of 64 are
            always this package's.

    Returns:
        The same model.

    Raises:
        RuntimeError: it is in four bits already, or an adapter is attached.
        ValueError: an unknown kind or backend, a kind that bitsandbytes has not, no frozen linear layer, or a weight
            that is not finite.

    Source: see the module.
    """
    if attached(model):
        raise RuntimeError(
            "An adapter is attached: quantize the plain base first and attach then; detach(model) gives the adapter."
        )
    code_table(kind)
    if backend not in (None, "torch", "bitsandbytes"):
        raise ValueError(f'backend is {backend!r}; it can be "torch", "bitsandbytes" or None.')
    if backend == "bitsandbytes" and kind not in THEIRS:
        raise ValueError(f'bitsandbytes has no code {kind!r}, only {" and ".join(THEIRS)}: backend="torch" has it.')
    if any(is_quantized(layer) for layer in linear_layers(model).values()):
        raise RuntimeError("This model is in four bits already, and rounding again would start from rounded weights.")
    chosen = dict(_to_round(model))
    if not chosen:
        raise ValueError("This model has no frozen linear layer to quantize: model.requires_grad_(False) freezes it.")
    for name, layer in chosen.items():
        if not layer.weight.is_meta and not bool(torch.isfinite(layer.weight).all()):
            raise ValueError(f"{name} has a weight that is not finite, so its block would have no scale.")
    for name, layer in chosen.items():
        theirs = backend == "bitsandbytes" if backend else layer.weight.is_cuda and kind in THEIRS and _installed()
        if not layer.weight.is_cuda and sizes(layer)[1] % BLOCK:
            theirs = False  # version 0.50.2 takes wrong scales on a CPU where a row is not a whole number of blocks
        new = _bitsandbytes(layer, kind, double) if theirs else QuantizedLinear(layer, kind, double)
        vars(new)["plain_type"] = type(layer)
        set_submodule(model, name, new.train(layer.training))
    return model


def dequantize(model: nn.Module) -> nn.Module:
    """Put plain layers with the rounded weights in place of those in four bits, in place; adapters stay attached.

    The weights are those the adapter was trained on, so that `merge` folds it in with no further error.

    Returns:
        The same model.

    Raises:
        RuntimeError: nothing in it is in four bits.

    Source: see the module.
    """
    if not any(is_quantized(module) for module in model.modules()):
        raise RuntimeError("Nothing in this model is in four bits, so there is nothing to dequantize.")
    before, rack = active(model), rack_of(model)
    switch(model, None)
    found = {name: layer for name, layer in linear_layers(model).items() if is_quantized(layer)}
    plain = {layer: _plain(layer) for layer in found.values()}
    _swap(model, plain)
    for state in rack.attachments.values() if rack else ():
        state.replaced = {path: plain.get(module, module) for path, module in state.replaced.items()}
        for module in state.added.values():
            _swap(module, plain)
    if rack:
        rack.required_grad |= {f"{name}.weight": False for name in found}
    return switch(model, before)


def bits_per_weight(model: nn.Module) -> float:
    """Bits stored for each weight of the layers in four bits, scales and tables included.

    Raises:
        RuntimeError: nothing in it is in four bits.
    """
    layers = [layer for layer in linear_layers(model).values() if isinstance(layer, QuantizedLinear)]
    if not layers:
        raise RuntimeError("Nothing in this model is in four bits of this package's own.")
    stored = sum(8 * t.numel() * t.element_size() for layer in layers for t in layer.buffers())
    return stored / sum(layer.in_features * layer.out_features for layer in layers)


def _to_round(model: Any) -> Iterator[tuple[str, Linear]]:
    """Frozen linear layers, without the output layer, shared weights, and those a model declares to stay."""
    head = output_layer(model)
    stays = {*(getattr(model, "_keep_in_fp32_modules", None) or ())}
    uses: dict[int, int] = {}
    for _, parameter in model.named_parameters(remove_duplicate=False):
        uses[id(parameter)] = uses.get(id(parameter), 0) + 1
    for name, layer in linear_layers(model).items():
        frozen = not layer.weight.requires_grad and uses.get(id(layer.weight)) == 1
        if layer is not head and frozen and not stays.intersection(name.split(".")):
            yield name, layer


def _installed() -> bool:
    return find_spec("bitsandbytes") is not None


def _bitsandbytes(layer: Linear, kind: str, double: bool) -> nn.Module:
    """The same layer as bitsandbytes keeps it."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    (d_out, d_in), W = sizes(layer), matrix(layer).detach()
    options: Any = {"compress_statistics": double, "quant_type": kind}
    new: Any = Linear4bit(d_in, d_out, layer.bias is not None, compute_dtype=W.dtype, device="meta", **options)
    stored: Any = Params4bit(W.contiguous(), requires_grad=False, module=new, **options)
    new.weight = stored.to(W.device)  # which rounds it
    new.bias = layer.bias
    new.support_avx512bf16_for_cpu = False  # it would repack the weight and compute in bfloat16 outside of training
    return new


def _plain(layer: Any) -> Linear:
    """An `nn.Linear`, or `Conv1D` where it was one, with the rounded weight."""
    W = matrix(layer)
    d_out, d_in = sizes(layer)
    if getattr(layer, "plain_type", nn.Linear) is Conv1D:
        new: Any = Conv1D(d_out, d_in)
        W = W.T.contiguous()
    else:
        new = nn.Linear(d_in, d_out, bias=layer.bias is not None, device="meta")
    new.weight = nn.Parameter(W, requires_grad=False)
    new.bias = layer.bias
    return new.train(layer.training)


def _swap(root: nn.Module, new: dict[Any, Linear]) -> None:
    """Put the new layers in place of the old ones, anywhere below a module."""
    for module in list(root.modules()):
        for name, child in module.named_children():
            if child in new:
                setattr(module, name, new[child])
