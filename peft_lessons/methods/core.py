"""Attaching a method to a model, and taking it off again: written once, for every method.

A method says what is its own (which modules it puts in place, which weights it trains); finding targets,
freezing, attaching, detaching, merging and refusing are here.

Source: the verbs and the in-place wrapping follow Hugging Face peft 0.21 (`inject_adapter_in_model`, `merge_adapter`,
`unload`); merging W + ΔW is Hu et al. 2021, section 4.1.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias, TypeGuard

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

Targets: TypeAlias = "str | Sequence[str]"
Linear: TypeAlias = "nn.Linear | Conv1D"


@dataclass(frozen=True)
class Method:
    """A fine-tuning method and its hyperparameters; subclasses are frozen dataclasses.

    `peft_type` names the method in `adapter_config.json`; `lr` is the learning rate that `fit` takes by default.
    """

    registry: ClassVar[dict[str, type["Method"]]] = {}
    peft_type: ClassVar[str]
    lr: ClassVar[float]
    mergeable: ClassVar[bool] = False
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
    def from_config(cls, config: dict) -> "Method":
        """The method that `adapter_config.json` describes."""
        return cls()


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

    def rank(self) -> int:
        """The largest rank that `delta` can have."""
        return min(self.d_out, self.d_in)

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

    `state` holds every trained tensor by its parameter name, on the CPU; `choices` the answers that a
    classification head knows, in the order of its rows.
    """

    method: Method
    state: dict[str, Tensor]
    choices: tuple[str, ...] | None = None

    def n_bytes(self) -> int:
        """Bytes of the trained tensors."""
        return sum(t.numel() * t.element_size() for t in self.state.values())


@dataclass
class Attachment:
    """What `attach` did to a model, so that `detach` can undo it; kept on the model."""

    method: Method
    added: Mapping[str, nn.Module]  # path -> the module put in place
    replaced: Mapping[str, nn.Module]  # path -> the module that was there
    originals: dict[str, Tensor]  # own weights that the method trains, as they were
    required_grad: dict[str, bool]
    merged: bool = False

    def wrapped(self) -> dict[str, WrappedLinear]:
        """The wrapped linear layers by path."""
        return {path: module for path, module in self.added.items() if isinstance(module, WrappedLinear)}


def attachment(model: nn.Module) -> Attachment | None:
    """The model's `Attachment`, or None where no method is attached."""
    return vars(model).get("_attachment")


def require_attachment(model: nn.Module) -> Attachment:
    """The model's `Attachment`.

    Raises:
        RuntimeError: no method is attached.
    """
    found = attachment(model)
    if found is None:
        raise RuntimeError("No method is attached to this model: call attach(model, method) first.")
    return found


def is_linear(module: nn.Module) -> TypeGuard[Linear]:
    """Whether a method can wrap it: `nn.Linear` or transformers' `Conv1D` (GPT-2's linear layer)."""
    return isinstance(module, nn.Linear | Conv1D)


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
        ValueError: something named is not there; the message lists what is.

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
    wanted = [targets] if isinstance(targets, str) else list(targets)
    if not wanted:
        raise ValueError(f'target_modules is empty; name linear layers: {_names(inner)}, "attention" or "all-linear".')
    matches = {target: [name for name in layers if _fits(target, name)] for target in wanted}
    for target, names in matches.items():
        if not names:
            raise ValueError(
                f'No linear layer of this model is called "{target}". It has {_names(layers)}; '
                '"attention" and "all-linear" work too.'
            )
    chosen = set().union(*matches.values())
    return {name: layer for name, layer in layers.items() if name in chosen}


def _fits(target: str, name: str) -> bool:
    if name == target or name.endswith(f".{target}"):
        return True
    try:
        return re.fullmatch(target, name) is not None
    except re.error as error:
        raise ValueError(f'"{target}" is neither a name nor a regular expression: {error}.') from None


def _names(layers: Mapping[str, Linear]) -> str:
    """The distinct names of linear layers, without the numbered path in front."""
    return ", ".join(dict.fromkeys(re.sub(r"^.*\.\d+\.", "", name) for name in layers))


def attach(model: nn.Module, method: Method | Adapter, *, seed: int = 0) -> nn.Module:
    """Attach a method to a model, in place: freeze the model, add the method's weights, leave only those trainable.

    Args:
        model: the base, with nothing attached.
        method: a method with its hyperparameters, or an `Adapter` with trained weights.
        seed: for the random part of the method's initial weights; drawn on the CPU, so every device gets the same.

    Returns:
        The same model.

    Raises:
        RuntimeError: something is attached already.
        ValueError: a target is not there, or an adapter's tensors do not fit; the model is left as it was.
        TypeError: `method` is neither a method nor an adapter.
    """
    present = attachment(model)
    if present is not None:
        raise RuntimeError(
            f"{type(present.method).__name__} is attached to this model already: "
            "detach(model) first (it returns the trained adapter), or load a fresh base."
        )
    if isinstance(method, Adapter):
        return _attach_trained(model, method)
    if not isinstance(method, Method):
        raise TypeError(f"attach takes a method such as LoRA(r=8) or an Adapter, not {type(method).__name__}.")
    required_grad = {name: p.requires_grad for name, p in model.named_parameters()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        added = method.replacements(model)
    replaced = {name: model.get_submodule(name) for name in added}
    model.requires_grad_(False)
    for name, module in added.items():
        module.train(replaced[name].training)
        set_submodule(model, name, module)
    originals = {}
    for name in method.trains(model):
        parameter = model.get_parameter(name)
        originals[name] = parameter.detach().clone() if parameter.is_meta else parameter.detach().cpu().clone()
        parameter.requires_grad_(True)
    vars(model)["_attachment"] = Attachment(method, added, replaced, originals, required_grad)
    return model


def _attach_trained(model: nn.Module, adapter: Adapter) -> nn.Module:
    attach(model, adapter.method)
    _set_head(model, adapter.choices)
    mine = trained_parameters(model)
    problem = _mismatch(mine, adapter.state)
    if problem:
        detach(model)
        raise ValueError(f"This adapter does not fit this model: {problem}.")
    with torch.no_grad():
        for name, tensor in adapter.state.items():
            mine[name].copy_(tensor)
    return model


def _set_head(model: nn.Module, choices: tuple[str, ...] | None) -> None:
    """Give an encoder a head for these answers, or take it off; a decoder has none."""
    setter = getattr(model, "set_head", None)
    if setter is not None:
        setter(choices)


def _mismatch(mine: dict[str, nn.Parameter], theirs: dict[str, Tensor]) -> str | None:
    missing, unknown = sorted(mine.keys() - theirs.keys()), sorted(theirs.keys() - mine.keys())
    if missing:
        return f"it lacks {missing[0]}" + (f" and {len(missing) - 1} more" if len(missing) > 1 else "")
    if unknown:
        return f"it has {unknown[0]}, which the model lacks"
    for name, tensor in theirs.items():
        if tensor.shape != mine[name].shape:
            return f"{name} is {tuple(tensor.shape)}, the model needs {tuple(mine[name].shape)}"
    return None


def detach(model: nn.Module) -> Adapter:
    """Take the attached method off, in place: the model is the untouched base again, bit for bit.

    Returns:
        The method with what it learned; `attach(model, adapter)` puts it back.

    Raises:
        RuntimeError: nothing is attached.
    """
    state = require_attachment(model)
    if state.merged:
        unmerge(model)
    adapter = Adapter(
        state.method,
        {name: p.detach().cpu().clone() for name, p in trained_parameters(model).items()},
        getattr(model, "choices", None),
    )
    for name, original in state.originals.items():
        model.get_parameter(name).data.copy_(original)
    for name, module in state.replaced.items():
        set_submodule(model, name, module)
    _set_head(model, None)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(state.required_grad[name])
        parameter.grad = None
    del vars(model)["_attachment"]
    return adapter


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
        raise RuntimeError(f"{name} cannot be merged: it has no update of its own beside the weights it trains.")
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


def set_submodule(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in place of the one at path `name`."""
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)
