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
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from peft_lessons.accounting.stage import Stage
from peft_lessons.accounting.step import StepMemory, Storage


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
    """The loss itself, or a model output's `loss`."""
    return out if isinstance(out, Tensor) else out.loss


def _states(optimizer: torch.optim.Optimizer | None) -> list[Tensor]:
    if optimizer is None:
        return []
    return [t for state in optimizer.state.values() for t in state.values() if isinstance(t, Tensor) and t.dim()]


def _counters(optimizer: torch.optim.Optimizer | None) -> list[Tensor]:
    """The step counters, one number a tensor; PyTorch keeps them in CPU memory, but for fused optimizers."""
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
