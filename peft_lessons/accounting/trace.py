"""What one training step holds in memory, byte by byte: live storages, op by op.

    live(t) = Σ bytes of every storage born before t and not yet freed

A storage is the memory behind a tensor and all its views. The trace runs the step under a dispatch mode that sees
every operation, and asks each result for its storage; when the storage dies, its bytes are subtracted. On meta tensors,
which have shapes and no memory, that needs neither the weights nor a GPU.

Source: the mode is PyTorch's `TorchDispatchMode`; counting live storages is the idea of its
`torch.distributed._tools.MemTracker`, which cannot follow frozen parameters.
"""

import gc
import weakref
from bisect import bisect_right
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from peft_lessons.methods.core import output_layer

CATEGORIES = ("weights", "gradients", "optimizer states", "activations", "loss", "temporaries")
STAGES = ("forward", "loss", "backward", "optimizer step")


@dataclass
class Storage:
    """One piece of memory: when it was there, what it was for, and what made it."""

    n_bytes: int
    category: str
    op: str
    born: int  # number of the event; -1 for what is there before the step
    died: int | None = None  # None for what is there after it


@dataclass
class StepMemory:
    """Live bytes over one training step, by category.

    Event i is the birth or death of a storage; `places[i]` says in which stage and module of the step it happened.
    """

    storages: list[Storage]
    places: list[str]
    marks: dict[str, int] = field(default_factory=dict)  # stage -> number of events before it begins

    def live(self) -> np.ndarray:
        """Live bytes after each event, (n_events + 1, n_categories); row 0 is before the step."""
        change = np.zeros((len(self.places) + 1, len(CATEGORIES)), dtype=np.int64)
        for storage in self.storages:
            column = CATEGORIES.index(storage.category)
            change[storage.born + 1, column] += storage.n_bytes
            if storage.died is not None:
                change[storage.died + 1, column] -= storage.n_bytes
        return change.cumsum(0)

    @property
    def peak(self) -> int:
        """The largest number of bytes held at a time."""
        return int(self.live().sum(1).max())

    @property
    def peak_place(self) -> str:
        """Where in the step the peak is."""
        return self.place(int(self.live().sum(1).argmax()))

    def place(self, row: int) -> str:
        """Where in the step row `row` of `live()` is."""
        return self.places[row - 1] if row else "before the step"

    def at_peak(self) -> dict[str, int]:
        """Bytes by category at the peak."""
        live = self.live()
        return _by_category(live[live.sum(1).argmax()])

    def before(self, stage: str) -> dict[str, int]:
        """Bytes by category when a stage of `STAGES` begins; "end" is after the last.

        Raises:
            KeyError: the step has no such stage.
        """
        return _by_category(self.live()[len(self.places) if stage == "end" else self.marks[stage]])

    def largest(self, n: int = 10) -> list[tuple[str, str, int, int]]:
        """What is alive at the peak, added up by category and operation: (category, op, how many, bytes)."""
        peak = int(self.live().sum(1).argmax()) - 1
        found: dict[tuple[str, str], list[int]] = {}
        for s in self.storages:
            if s.born <= peak and (s.died is None or s.died > peak):
                found.setdefault((s.category, s.op), []).append(s.n_bytes)
        rows = [(category, op, len(sizes), sum(sizes)) for (category, op), sizes in found.items()]
        return sorted(rows, key=lambda row: -row[-1])[:n]


def _by_category(row: np.ndarray) -> dict[str, int]:
    return {category: int(n) for category, n in zip(CATEGORIES, row, strict=True)}


class Stage:
    """Where a running step is: which stage, which module, and so what a new storage is for.

    Forward: activations. From the output layer until its gradient has been computed: loss. Backward: what checkpointing
    computes anew is activations again, all else temporary until it turns out to be a parameter's gradient.
    """

    def __init__(self, model: nn.Module):
        self.name = "forward"
        self.module = ""
        self.on_change: Callable[[str], None] = lambda name: None
        self._nodes: list[tuple[int, str]] = []  # autograd's running number at the entry of each module
        self._hooks = [module.register_forward_pre_hook(self._enter(name)) for name, module in _blocks(model)]
        head = output_layer(model)
        self._head = head is not None
        if head is not None:
            self._hooks.append(head.register_forward_pre_hook(self._enter_head))

    def category(self) -> str:
        """The category of a storage that is born now."""
        if self.name == "backward":
            return "activations" if torch.is_grad_enabled() else "temporaries"
        return {"forward": "activations", "loss": "loss"}.get(self.name, "temporaries")

    def place(self) -> str:
        """Stage and module, such as "backward, model.layers.3"."""
        node = torch._C._current_autograd_node()
        module = self.module
        if node is not None and self._nodes:
            module = self._module_of(node._sequence_nr())
        return _place(self.name, module)

    def place_of(self, stage: str, sequence: int | None) -> str:
        """Stage and module, from autograd's running number of an operation."""
        return _place(stage, self._module_of(sequence) if sequence is not None else "")

    def _module_of(self, sequence: int) -> str:
        found = bisect_right(self._nodes, (sequence, "~"))
        return self._nodes[found - 1][1] if found else ""

    def begin_again(self) -> None:
        """A new step begins."""
        self.name, self.module, self._nodes = "forward", "", []

    def go(self, name: str) -> None:
        """Enter a stage."""
        if name != self.name:
            self.name = name
            self.on_change(name)

    def after_forward(self) -> None:
        """The loss is there: its own gradient comes next, or backward where no output layer tells them apart."""
        self.go("loss" if self._head else "backward")

    def close(self) -> None:
        """Take the hooks off the model."""
        for hook in self._hooks:
            hook.remove()

    def _enter(self, name: str) -> Callable[..., None]:
        def enter(*_: Any) -> None:
            self.module = name
            if self.name == "forward":
                self._nodes.append((torch.autograd._get_sequence_nr(), name))

        return enter

    def _enter_head(self, _: nn.Module, inputs: tuple[Any, ...]) -> None:
        if self.name != "forward":  # computed anew by checkpointing, or the second part of a chunked loss
            return
        self.module = "output layer"
        self._nodes.append((torch.autograd._get_sequence_nr(), self.module))
        self.go("loss")
        if inputs and isinstance(inputs[0], Tensor) and inputs[0].requires_grad:
            inputs[0].register_hook(lambda _: self.go("backward"))


def _place(stage: str, module: str) -> str:
    return ", ".join(filter(None, (stage, module if stage != "optimizer step" else "")))


def _blocks(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """The model's layers by path (entries of its module lists), and its embeddings."""
    found = []
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList):
            found += [(f"{name}.{child}", layer) for child, layer in module.named_children()]
        elif isinstance(module, nn.Embedding):
            found.append((name, module))
    return found


class LiveBytes(TorchDispatchMode):
    """Follow every storage that operations make, from birth to death."""

    def __init__(self, stage: Stage, scalar: float = 1.0):
        super().__init__()
        self.stage, self.scalar = stage, scalar
        self.record = StepMemory([], [], {"forward": 0})
        self.known: dict[int, Storage] = {}
        self.open = False
        stage.on_change = lambda name: self.record.marks.setdefault(name, len(self.record.places))  # type: ignore

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten._local_scalar_dense.default and args[0].is_meta:
            return self.scalar  # a meta tensor has no value: masks ask whether all is real, Adafactor for a norm
        out = func(*args, **(kwargs or {}))
        for tensor in tree_iter(out) if self.open else ():
            if isinstance(tensor, Tensor):
                self.add(tensor, self.stage.category(), str(func.overloadpacket.__name__), event=True)
        return out

    def add(self, tensor: Tensor, category: str, op: str, event: bool = False) -> None:
        """Count the storage behind a tensor, unless it is known."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self.known or not storage.nbytes():
            return
        entry = Storage(storage.nbytes(), category, op, len(self.record.places) if event else -1)
        if event:
            self.record.places.append(self.stage.place())
        self.known[key] = entry
        self.record.storages.append(entry)
        weakref.finalize(storage, self._freed, key).atexit = False

    def ignore(self, tensors: list[Tensor]) -> None:
        """Never count these."""
        for tensor in tensors:
            self.known[tensor.untyped_storage()._cdata] = Storage(0, "optimizer states", "counter", -1)

    def relabel(self, tensors: Iterator[Tensor] | list[Tensor], category: str) -> None:
        """Say what storages turned out to be for."""
        for tensor in tensors:
            if entry := self.known.get(tensor.untyped_storage()._cdata):
                entry.category = category

    def _freed(self, key: int) -> None:
        entry = self.known.pop(key)
        if self.open:
            entry.died = len(self.record.places)
            self.record.places.append(self.stage.place())


Loss = Callable[[nn.Module, dict[str, Tensor]], Any]


def model_loss(model: nn.Module, batch: dict[str, Tensor]) -> Any:
    """What a transformers model returns for a batch with labels."""
    return model(**batch)


def trace_step(
    model: nn.Module,
    batch: dict[str, Tensor],
    *,
    loss: Loss = model_loss,
    optimizer: torch.optim.Optimizer | None = None,
    keep_output: bool = False,
    scalar: float = 1.0,
) -> StepMemory:
    """Trace the second training step of a model, when the optimizer's states exist.

    Args:
        model: with a method attached, in training mode, on meta or on a real device.
        batch: what `loss` needs, on the same device.
        loss: called with model and batch; returns the loss, or an output with a `loss`.
        optimizer: over the model's trainable parameters; none traces forward and backward alone.
        keep_output: hold the output until the next one replaces it, as `out = model(...)` in a loop does.
        scalar: what meta tensors say when an operation asks for a value.

    Returns:
        Live bytes over the step.

    Raises:
        RuntimeError: nothing in the model is trainable.

    Source: see the module.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise RuntimeError("Nothing in this model is trainable: attach a method first.")
    stage = Stage(model)
    mode = LiveBytes(stage, scalar)
    previous = None
    with no_garbage_collection():
        if optimizer is not None:
            with mode:
                make_states(trained, optimizer)
        mode.open = True
        for tensor in [*model.parameters(), *model.buffers()]:
            mode.add(tensor, "weights", "parameter")
        states = _states(optimizer)
        for tensor in states:
            mode.add(tensor, "optimizer states", "state")
        mode.ignore(_counters(optimizer))
        for tensor in batch.values():
            mode.add(tensor, "activations", "batch")
        with mode:
            if keep_output:  # the step before: only what it leaves alive counts
                previous = loss(model, batch)
                loss_of_output(previous).backward()
                for parameter in trained:
                    parameter.grad = None
                mode.record, kept = StepMemory([], [], {"forward": 0}), list(mode.known.values())
                mode.record.storages = kept
                for entry in kept:
                    entry.born = -1
                stage.begin_again()
            out = loss(model, batch)
            total = loss_of_output(out)
            if not keep_output:
                out = None
            previous = None
            stage.after_forward()
            total.backward()
            mode.relabel([p.grad for p in trained if p.grad is not None], "gradients")
            del total
            stage.go("optimizer step")
            if optimizer is not None:
                with torch._C.DisableTorchFunction():  # an autocast around the step does not reach the optimizer
                    optimizer.step()
                mode.relabel(iter(_states(optimizer)), "optimizer states")
                optimizer.zero_grad(set_to_none=True)
            else:
                for parameter in trained:
                    parameter.grad = None
        mode.open = False
    stage.close()
    del out, previous
    return mode.record


def loss_of_output(out: Any) -> Tensor:
    return out if isinstance(out, Tensor) else out.loss


def _states(optimizer: torch.optim.Optimizer | None) -> list[Tensor]:
    if optimizer is None:
        return []
    return [t for state in optimizer.state.values() for t in state.values() if isinstance(t, Tensor) and t.dim()]


def _counters(optimizer: torch.optim.Optimizer | None) -> list[Tensor]:
    """The step counters, one number a tensor, which PyTorch keeps in CPU memory whatever the device."""
    states = [] if optimizer is None else optimizer.state.values()
    return [t for state in states for t in state.values() if isinstance(t, Tensor) and not t.dim()]


def make_states(trained: list[nn.Parameter], optimizer: torch.optim.Optimizer) -> None:
    """Take an optimizer step that creates the states: with gradients of zero and no learning rate it moves nothing."""
    rates = [group["lr"] for group in optimizer.param_groups]
    decay = [group.get("weight_decay", 0) for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"], group["weight_decay"] = 0.0, 0.0
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    for group, lr, weight_decay in zip(optimizer.param_groups, rates, decay, strict=True):
        group["lr"], group["weight_decay"] = lr, weight_decay


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Storages die when their last reference goes, not when the collector happens to run."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
