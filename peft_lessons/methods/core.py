"""What a method is, the layer it wraps, and what of it is attached to a model.

A method says what is its own: which modules it puts in place, which weights it trains. `targets` finds the layers,
`attaching` puts the modules there and takes them off again, `files` writes them to disk.

Source: the in-place wrapping follows Hugging Face peft 0.21 (`inject_adapter_in_model`); merging W + ΔW is
Hu et al. 2021, section 4.1.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from peft_lessons.methods.targets import Linear, Targets, find_targets, sizes


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
    file_prefix: ClassVar[str] = "base_model.model."  # in front of the names of a module's tensors in peft's files

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
        """The method's own fields of `adapter_config.json`: its hyperparameters by name."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.repr}

    def file_targets(self, added: Mapping[str, nn.Module]) -> dict[str, list[str]]:
        """Field of `adapter_config.json` that names layers -> the paths of those that it means."""
        return {"target_modules": list(added)}

    def file_fields(self, added: Mapping[str, nn.Module]) -> dict[str, object]:
        """Fields of `adapter_config.json` that depend on the model."""
        return {}

    def to_file(self, tensors: Mapping[str, Tensor], added: Mapping[str, nn.Module]) -> dict[str, Tensor]:
        """What a file keeps of the adapter's tensors, by name; a name without a dot has no prefix in the file."""
        return dict(tensors)

    def from_file(self, tensors: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
        """The adapter's tensors by name, from what `to_file` or peft kept of them."""
        return dict(tensors)

    @classmethod
    def from_config(cls, config: dict[str, Any], tensors: Mapping[str, Tensor]) -> "Method":
        """The method that `adapter_config.json` and the tensors beside it describe.

        Raises:
            KeyError: a field is missing.
            ValueError: a field says what the method cannot be.
        """
        found = {field.name: config[field.name] for field in fields(cls) if field.repr}
        return cls(**{name: tuple(value) if isinstance(value, list) else value for name, value in found.items()})

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
    (d_out, d_in), on transformers' `Conv1D`, whose weight is (d_in, d_out), and on a layer in four bits, whose
    weight is bytes: `matrix(self.base)` is (d_out, d_in) for each of them.
    """

    base: Linear
    d_in: int
    d_out: int

    def __init__(self, base: Linear):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.d_out, self.d_in = sizes(base)
        self._unmerged: tuple[Tensor, Tensor | None] | None = None

    @property
    def transposed(self) -> bool:
        """Whether the base layer's weight is stored as (d_in, d_out)."""
        return isinstance(self.base, Conv1D)

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

    def delta_bias(self) -> Tensor | None:
        """What merging adds to b, (d_out,); None where that is nothing."""
        return None

    def rank(self) -> int | None:
        """The largest rank that `delta` can have; None where what is added is no matrix."""
        return min(self.d_out, self.d_in)

    def changed(self) -> int:
        """How many numbers of W differ after merging; for what cannot be merged, the numbers added."""
        return self.d_out * self.d_in

    @torch.no_grad()
    def merge(self) -> Linear:
        """Fold `delta` and `delta_bias` into the base layer and return that layer, now plain.

        A copy of what was there is kept in CPU memory, so that `unmerge` is exact in every dtype.

        Raises:
            RuntimeError: it is merged already.
        """
        if self._unmerged is not None:
            raise RuntimeError("This layer is merged already: merging twice would add the update twice.")
        weight, bias = self.base.weight, self.base.bias
        self._unmerged = weight.detach().cpu().clone(), None if bias is None else bias.detach().cpu().clone()
        delta, delta_bias = self.delta(), self.delta_bias()
        weight.copy_(weight.to(delta.dtype) + (delta.T if self.transposed else delta))
        if bias is not None and delta_bias is not None:
            bias.copy_(bias.to(delta_bias.dtype) + delta_bias)
        return self.base

    @torch.no_grad()
    def unmerge(self) -> None:
        """Give the base layer back what it had before `merge`.

        Raises:
            RuntimeError: it is not merged.
        """
        if self._unmerged is None:
            raise RuntimeError("This layer is not merged, so there is nothing to unmerge.")
        weight, bias = self._unmerged
        self.base.weight.copy_(weight)
        if bias is not None:
            self.base.bias.copy_(bias)
        self._unmerged = None


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


def rack_of(model: nn.Module) -> Rack | None:
    """All adapters attached to a model; None where there is none.

    Raises:
        TypeError: it is no model, such as the pair that `load_base` returns.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"A model is needed here, not {type(model).__name__}: model, tokenizer = load_base(...).")
    return vars(model).get("_adapters")


def attached(model: nn.Module) -> tuple[str, ...]:
    """The names of the attached adapters, in the order in which they came."""
    rack = rack_of(model)
    return tuple(rack.attachments) if rack else ()


def active(model: nn.Module) -> str | None:
    """The name of the adapter that is on; None where the model is the plain base."""
    rack = rack_of(model)
    return rack.on if rack else None


def attachment(model: nn.Module) -> Attachment | None:
    """The `Attachment` that is on, or None where the model is the plain base."""
    rack = rack_of(model)
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


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that training changes, by name; for a merged model the adapter's, which are off it."""
    state = require_attachment(model)
    found = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if state.merged:
        for path, module in state.added.items():  # a parameter that modules share has the name it had unmerged
            own = {f"{path}.{n}": p for n, p in module.named_parameters() if p.requires_grad}
            found |= {n: p for n, p in own.items() if not any(p is q for q in found.values())}
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
    modules: list[Any] = [module for module in require_attachment(model).added.values() if hasattr(module, "penalty")]
    parts = [module.penalty() for module in modules]
    return torch.stack(parts).sum() if parts else None


def set_submodule(model: nn.Module, name: str, module: nn.Module) -> None:
    """Put a module in place of the one at path `name`."""
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)
