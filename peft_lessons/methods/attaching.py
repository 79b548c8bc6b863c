"""The verbs: attach a method to a model, switch between several, detach, merge, unmerge; written once, for all methods.

Several adapters can be attached under names of their own. One of them is on; the others lie beside the model, so that
each sees the plain base.

Source: the verbs are those of Hugging Face peft 0.21 (`get_peft_model`, `set_adapter`, `delete_adapter`,
`merge_adapter`).
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from peft_lessons.methods.core import (
    Adapter,
    Attachment,
    Method,
    Rack,
    active,
    adapter_tensors,
    attached,
    attachment,
    rack_of,
    require_attachment,
    set_submodule,
)
from peft_lessons.methods.targets import is_quantized


def attach(model: nn.Module, method: Method | Adapter, *, name: str = "default", seed: int = 0) -> nn.Module:
    """Attach a method to a model, in place: freeze the model, add the method's weights, leave only those trainable.

    Args:
        model: the base; adapters attached before under other names are switched off.
        method: a method with its hyperparameters, or an `Adapter` with trained weights.
        name: what `switch` and `detach` call it; needed where several are attached.
        seed: for the random part of the method's initial weights; drawn on the CPU, so every device gets the same.

    Returns:
        The same model.

    Raises:
        RuntimeError: an adapter of that name is attached already.
        ValueError: a target is not there, or an adapter's tensors do not fit; the model is left as it was.
        TypeError: `model` is no model, or `method` neither a method nor an adapter.
    """
    rack = rack_of(model)
    if rack and name in rack.attachments:
        raise RuntimeError(
            f"{type(rack.attachments[name].method).__name__} is attached to this model already: detach(model) first "
            "(it returns the trained adapter), or give this one a name: attach(model, method, name=...)."
        )
    trained = method if isinstance(method, Adapter) else None
    method = trained.method if trained else method
    if not isinstance(method, Method):
        raise TypeError(f"attach takes a method such as LoRA(r=8) or an Adapter, not {type(method).__name__}.")
    before = active(model)
    rack = rack or Rack({n: p.requires_grad for n, p in model.named_parameters()}, {})
    switch(model, None)
    try:
        state = _prepare(model, method, seed)
    except Exception:
        switch(model, before)
        raise
    vars(model)["_adapters"] = rack
    rack.attachments[name] = state
    _put_on(model, name)
    if trained and (problem := _fill(model, trained)):
        detach(model, name)
        switch(model, before)
        raise ValueError(f"This adapter does not fit this model: {problem}.")
    return model


def switch(model: nn.Module, name: str | None) -> nn.Module:
    """Put one of the attached adapters on and the others off, in place; None leaves the plain base.

    An adapter that is merged is unmerged first. Nothing is lost: switching back gives the same function.

    Returns:
        The same model.

    Raises:
        LookupError: no adapter of that name is attached; the message lists those that are.
    """
    names = attached(model)
    if name is not None and name not in names:
        known = ", ".join(names) if names else "none"
        raise LookupError(f'No adapter "{name}" is attached to this model; there is {known}.')
    if name != active(model):
        _take_off(model)
        if name is not None:
            _put_on(model, name)
    return model


def detach(model: nn.Module, name: str | None = None) -> Adapter:
    """Take an adapter off for good, in place: the base is untouched, bit for bit.

    Args:
        model: with a method attached.
        name: which of several; the one that is on where not given. Another that is on stays on.

    Returns:
        The method with what it learned; `attach(model, adapter)` puts it back.

    Raises:
        RuntimeError: nothing is attached, or all are switched off and no name is given.
        LookupError: no adapter of that name is attached.
    """
    if name is None:
        require_attachment(model)
        name = active(model)
    before = active(model)
    switch(model, name)
    state = require_attachment(model)
    if state.merged:
        unmerge(model)
    adapter = Adapter(
        state.method,
        {key: tensor.detach().cpu().clone() for key, tensor in adapter_tensors(model).items()},
        getattr(model, "choices", None),
    )
    switch(model, None)
    rack = rack_of(model)
    assert rack is not None and name is not None
    del rack.attachments[name]
    if not rack.attachments:
        del vars(model)["_adapters"]
    if before != name:
        switch(model, before)
    return adapter


def _prepare(model: nn.Module, method: Method, seed: int) -> Attachment:
    """Make the method's modules; the model, a plain base, is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        added = method.replacements(model)
    originals = {}
    for name in method.trains(model):
        parameter = model.get_parameter(name).detach()
        originals[name] = parameter.clone() if parameter.is_meta else parameter.cpu().clone()
    return Attachment(method, added, {name: model.get_submodule(name) for name in added}, originals, {})


def _put_on(model: Any, name: str) -> None:
    """Attach what is prepared to the plain base."""
    rack = rack_of(model)
    assert rack is not None and rack.on is None
    state = rack.attachments[name]
    model.requires_grad_(False)
    for path, module in state.added.items():
        set_submodule(model, path, module.train(state.replaced[path].training))
    for key in state.originals:
        parameter = model.get_parameter(key)
        if key in state.own:
            parameter.data.copy_(state.own.pop(key))
        parameter.requires_grad_(True)
    if state.head is not None:
        model.classifier, model.choices = state.head
    rack.on = name


def _take_off(model: Any) -> None:
    """Make the model the plain base again, and keep what is trained."""
    rack, state = rack_of(model), attachment(model)
    if rack is None or state is None:
        return
    if state.merged:
        unmerge(model)
    for name, original in state.originals.items():
        parameter = model.get_parameter(name)
        state.own[name] = parameter.detach().clone()
        parameter.data.copy_(original)
    for name, module in state.replaced.items():
        set_submodule(model, name, module)
    if hasattr(model, "set_head"):
        state.head = None if model.choices is None else (model.classifier, model.choices)
        model.set_head(None)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(rack.required_grad[name])
        parameter.grad = None
    rack.on = None


def _fill(model: Any, adapter: Adapter) -> str | None:
    """Copy an adapter's tensors into the one that is on; what is wrong with them, where something is."""
    if hasattr(model, "set_head"):
        model.set_head(adapter.choices)
    mine = adapter_tensors(model)
    problem = _mismatch(mine, adapter.state)
    if problem is None:
        with torch.no_grad():
            for name, tensor in adapter.state.items():
                mine[name].copy_(tensor)
    return problem


def _mismatch(mine: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> str | None:
    missing, unknown = sorted(mine.keys() - theirs.keys()), sorted(theirs.keys() - mine.keys())
    if missing:
        return f"it lacks {missing[0]}" + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
    if unknown:
        return f"it has {unknown[0]}, which the model lacks"
    for name, tensor in theirs.items():
        if tensor.shape != mine[name].shape:
            return f"{name} is {tuple(tensor.shape)}, the model needs {tuple(mine[name].shape)}"
    return None


def merge(model: nn.Module) -> nn.Module:
    """Fold the attached method into the base's weights: the same function, and no extra work at inference.

    The wrapped layers are plain layers again; a classification head stays. `unmerge` undoes it exactly.

    Raises:
        RuntimeError: nothing is attached, it is merged already, the method cannot be merged, or the base is in four
            bits.
    """
    state = require_attachment(model)
    name = type(state.method).__name__
    if state.merged:
        raise RuntimeError(f"{name} is merged already: merging twice would add the update twice.")
    if not state.method.mergeable:
        raise RuntimeError(f"{name} cannot be merged: {state.method.why_not_merged}.")
    if any(is_quantized(module.base) for module in state.wrapped().values()):
        raise RuntimeError(
            "The base is in four bits, to which an update cannot be added exactly: dequantize(model) first and merge "
            "into the rounded weights, or load the 16-bit base, attach the adapter there and merge."
        )
    for path, module in state.wrapped().items():
        shared = [n for n, p in model.named_parameters(remove_duplicate=False) if p is module.base.weight]
        if len(shared) > 1:
            raise RuntimeError(
                f"{path} shares its weight with {shared[0]}: merging would change both. Untie them first."
            )
    for path, module in state.wrapped().items():
        set_submodule(model, path, module.merge())
    state.merged = True
    return model


def unmerge(model: nn.Module) -> nn.Module:
    """Undo `merge`: the base's weights as they were, the adapter beside them again.

    Raises:
        RuntimeError: nothing is attached, or it is not merged.
    """
    state = require_attachment(model)
    if not state.merged:
        raise RuntimeError("This model is not merged, so there is nothing to unmerge.")
    for path, module in state.wrapped().items():
        module.unmerge()
        set_submodule(model, path, module)
    state.merged = False
    return model
