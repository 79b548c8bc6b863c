"""Attaching a method to a model, and taking it off again: written once, for every method.

A method says what is its own (which modules it puts in place, which weights it trains); freezing, attaching, switching,
detaching, merging and refusing are here. `targets` finds the layers.

Several adapters can be attached under names of their own. One of them is on; the others lie beside the model, so that
each sees the plain base.

Source: the verbs and the in-place wrapping follow Hugging Face peft 0.21 (`inject_adapter_in_model`, `merge_adapter`,
`unload`); merging W + ΔW is Hu et al. 2021, section 4.1.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from peft_lessons.methods.targets import Linear, Targets, find_targets


@dataclass(frozen=True)
class Method:
    """A fine-tuning method and its hyperparameters; subclasses are frozen dataclasses.

    `peft_type` names the method in `adapter_config.json`; `lr` is the learning rate that `fit` takes by default.
    """

    registry: ClassVar[dict[str, type["Method"]]] = {}
    peft_type: ClassVar[str]
    lr: ClassVar[float]
    mergeable: ClassVar[bool] = False
    why_not_merged: ClassVar[str] = "it has no update of its own beside the weights it trains"
    file_suffixes: ClassVar[dict[str, str]] = {}  # parameter name here -> its name in peft's files

    def __init_subclass__(cls) -> None:
        if "peft_type" in vars(cls):
            Method.registry[cls.peft_type] = cls

    def replacements(self, model: nn.Module) -> Mapping[str, nn.Module]:
        """The modules to put in place, by path. Must not change the model."""
        return {}

    def trains(self, model: nn.Module) -> list[str]:
        """Names of the model's own parameters that the method trains, after the replacements."""
        return []

    def config(self) -> dict[str, object]:
        """The method's own fields of `adapter_config.json`."""
        return {}

    @classmethod
    def from_config(cls, config: dict[str, Any], tensors: Mapping[str, Tensor]) -> "Method":
        """The method that `adapter_config.json` and the tensors beside it describe.

        Raises:
            KeyError: a field is missing.
            ValueError: a field says what the method cannot be.
        """
        return cls()

    def lr_scale(self, name: str) -> float:
        """What `fit` multiplies the learning rate by for the parameter of this name."""
        return 1.0


class LinearMethod(Method):
    """A method that wraps each of its target linear layers in a module of its own."""

    target_modules: Targets

    def wrap(self, base: Linear) -> "WrappedLinear":
        """The module to put in the layer's place."""
        raise NotImplementedError

    def replacements(self, model: nn.Module) -> Mapping[str, nn.Module]:
        return {name: self.wrap(layer) for name, layer in find_targets(model, self.target_modules).items()}


class WrappedLinear(nn.Module):
    """A frozen linear layer, `base`, and what a method adds to it.

    Subclasses define `forward` and, where the method can be merged, `delta`. Works on `nn.Linear`, whose weight is
    (d_out, d_in), and on transformers' `Conv1D`, whose weight is (d_in, d_out).
    """

    base: Linear
    d_in: int
    d_out: int

    def __init__(self, base: Linear):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.transposed = isinstance(base, Conv1D)
        self.d_out, self.d_in = base.weight.shape[::-1] if self.transposed else base.weight.shape
        self._unmerged_weight: Tensor | None = None

    @property
    def weight(self) -> Tensor:
        """The base layer's weight: some models look at it from outside."""
        return self.base.weight

    @property
    def bias(self) -> Tensor | None:
        """The base layer's bias."""
        return self.base.bias

    def delta(self) -> Tensor:
        """What merging adds to W, (d_out, d_in)."""
        raise NotImplementedError

    def rank(self) -> int | None:
        """The largest rank that `delta` can have; None where what is added is no matrix."""
        return min(self.d_out, self.d_in)

    def changed(self) -> int:
        """How many numbers of W differ after merging; for what cannot be merged, the numbers added."""
        return self.d_out * self.d_in

    @torch.no_grad()
    def merge(self) -> Linear:
        """Fold `delta` into the base layer's weight and return that layer, now plain.

        A copy of the unmerged weight is kept in CPU memory, so that `unmerge` is exact in every dtype.

        Raises:
            RuntimeError: it is merged already.
        """
        if self._unmerged_weight is not None:
            raise RuntimeError("This layer is merged already: merging twice would add the update twice.")
        self._unmerged_weight = self.base.weight.detach().cpu().clone()
        delta = self.delta().T if self.transposed else self.delta()
        self.base.weight.copy_(self.base.weight.to(delta.dtype) + delta)
        return self.base

    @torch.no_grad()
    def unmerge(self) -> None:
        """Give the base layer the weight back that it had before `merge`.

        Raises:
            RuntimeError: it is not merged.
        """
        if self._unmerged_weight is None:
            raise RuntimeError("This layer is not merged, so there is nothing to unmerge.")
        self.base.weight.copy_(self._unmerged_weight)
        self._unmerged_weight = None


@dataclass
class Adapter:
    """A method with its trained weights, off its base: `detach` returns it, `attach` takes it.

    `state` holds every tensor that makes the adapter by its name, on the CPU: the trained weights, and what was drawn
    or chosen once and is needed with them. `choices` are the answers that a classification head knows, in the order of
    its rows.
    """

    method: Method
    state: dict[str, Tensor]
    choices: tuple[str, ...] | None = None

    def n_bytes(self) -> int:
        """Bytes of all tensors: what is stored."""
        return sum(t.numel() * t.element_size() for t in self.state.values())


@dataclass
class Attachment:
    """What `attach` did to a model, so that `switch` and `detach` can undo it; kept on the model."""

    method: Method
    added: Mapping[str, nn.Module]  # path -> the module put in place
    replaced: Mapping[str, nn.Module]  # path -> the module that was there
    originals: dict[str, Tensor]  # own weights that the method trains, as they were
    own: dict[str, Tensor]  # the same as trained, while the adapter is off
    head: tuple[nn.Module, tuple[str, ...]] | None = None  # the classification head, while the adapter is off
    merged: bool = False

    def wrapped(self) -> dict[str, WrappedLinear]:
        """The wrapped linear layers by path."""
        return {path: module for path, module in self.added.items() if isinstance(module, WrappedLinear)}


@dataclass
class Rack:
    """All adapters attached to a model by name, and which one is on."""

    required_grad: dict[str, bool]  # the base's, before the first adapter
    attachments: dict[str, Attachment]
    on: str | None = None


def attached(model: nn.Module) -> tuple[str, ...]:
    """The names of the attached adapters, in the order in which they came."""
    rack = _rack(model)
    return tuple(rack.attachments) if rack else ()


def active(model: nn.Module) -> str | None:
    """The name of the adapter that is on; None where the model is the plain base."""
    rack = _rack(model)
    return rack.on if rack else None


def attachment(model: nn.Module) -> Attachment | None:
    """The `Attachment` that is on, or None where the model is the plain base."""
    rack = _rack(model)
    return rack.attachments[rack.on] if rack and rack.on is not None else None


def require_attachment(model: nn.Module) -> Attachment:
    """The `Attachment` that is on.

    Raises:
        RuntimeError: no method is attached, or all are switched off.
    """
    found = attachment(model)
    if found is None and (names := attached(model)):
        raise RuntimeError(f"Every adapter is switched off: switch(model, name) first; there is {', '.join(names)}.")
    if found is None:
        raise RuntimeError("No method is attached to this model: call attach(model, method) first.")
    return found


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
        TypeError: `method` is neither a method nor an adapter.
    """
    rack = _rack(model)
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
    rack = _rack(model)
    assert rack is not None and name is not None
    del rack.attachments[name]
    if not rack.attachments:
        del vars(model)["_adapters"]
    if before != name:
        switch(model, before)
    return adapter


def _rack(model: nn.Module) -> Rack | None:
    return vars(model).get("_adapters")


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


def _put_on(model: nn.Module, name: str) -> None:
    """Attach what is prepared to the plain base."""
    rack = _rack(model)
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


def _take_off(model: nn.Module) -> None:
    """Make the model the plain base again, and keep what is trained."""
    rack, state = _rack(model), attachment(model)
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


def _fill(model: nn.Module, adapter: Adapter) -> str | None:
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
        RuntimeError: nothing is attached, it is merged already, or the method cannot be merged.
    """
    state = require_attachment(model)
    name = type(state.method).__name__
    if state.merged:
        raise RuntimeError(f"{name} is merged already: merging twice would add the update twice.")
    if not state.method.mergeable:
        raise RuntimeError(f"{name} cannot be merged: {state.method.why_not_merged}.")
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


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that training changes, by name; for a merged model the adapter's, which are off it."""
    state = require_attachment(model)
    found = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if state.merged:
        for path, module in state.added.items():
            found |= {f"{path}.{n}": p for n, p in module.named_parameters() if p.requires_grad}
    return found


def adapter_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Everything that makes the adapter that is on, by name: its trained parameters, and its modules' own buffers.

    In a module that a method adds, `base` is what was there before.
    """
    found: dict[str, Tensor] = dict(trained_parameters(model))
    for path, module in require_attachment(model).added.items():
        kept = module.state_dict().keys()
        for name, buffer in module.named_buffers():
            if name in kept and not name.startswith("base."):
                found[f"{path}.{name}"] = buffer
    return found


def penalty(model: nn.Module) -> Tensor | None:
    """What the attached method adds to the loss, summed over its modules; None where it adds nothing."""
    parts = [module.penalty() for module in require_attachment(model).added.values() if hasattr(module, "penalty")]
    return torch.stack(parts).sum() if parts else None


def set_submodule(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in place of the one at path `name`."""
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)
