"""What one training step really holds in memory, from the allocator, without the tracer's bookkeeping.

Birth, death and size of every piece of memory are the allocator's own events, by address. On a CPU PyTorch's profiler
reports them, and no dispatch mode is on while the step runs. What a piece is for comes from outside too: weights,
states and gradients are known by their addresses, the rest by the stage of the step, and what checkpointing computes
anew within backward by the profiler's own numbers: an operation recorded for autograd there is a recomputation.

Source: PyTorch's profiler with `profile_memory`; its own `torch.profiler._memory_profiler` reads the same events.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch._C._profiler import _EventType
from torch.profiler import ProfilerActivity, profile, record_function

from peft_lessons.accounting.stage import Stage
from peft_lessons.accounting.step import CATEGORIES, StepMemory, Storage
from peft_lessons.accounting.trace import Loss, loss_of_output, make_states, model_loss, no_garbage_collection

os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # the profiler announces its start and stop on stderr otherwise
MARK = "peft_lessons/"


@dataclass(frozen=True)
class Event:
    """The allocator gave memory (`n_bytes` above 0) or took it back (below 0)."""

    address: int
    n_bytes: int
    op: str = ""
    recomputed: bool = False  # within backward: for what checkpointing computes anew
    sequence: int | None = None  # autograd's running number, where known


@dataclass(frozen=True)
class Mark:
    """The step went on to `name`: a stage of the step, or "begin", "gradients", "states" or "end"."""

    name: str


Timeline: TypeAlias = "Iterable[Event | Mark]"
Recorder: TypeAlias = Callable[[Callable[[Callable[[str], None]], None], torch.device], Timeline]


@dataclass
class Known:
    """Addresses of tensors, and so what their memory is for."""

    device: torch.device
    present: dict[int, tuple[int, str]] = field(default_factory=dict)  # before the step: address -> bytes, category
    gradients: set[int] = field(default_factory=set)  # after backward
    states: set[int] = field(default_factory=set)  # after the optimizer's step

    def add_present(self, tensors: Iterable[Tensor], category: str) -> None:
        """Note the storages behind tensors; those on another device, such as AdamW's step counters, are not here."""
        for storage in (t.untyped_storage() for t in tensors if t.device.type == self.device.type):
            if storage.nbytes():
                self.present.setdefault(storage.data_ptr(), (storage.nbytes(), category))


def measure_step(
    model: nn.Module,
    batch: dict[str, Tensor],
    *,
    loss: Loss = model_loss,
    optimizer: torch.optim.Optimizer | None = None,
    keep_output: bool = False,
    record: Recorder | None = None,
) -> StepMemory:
    """Run a training step and measure what it holds; the step is that of `trace_step`, the second one.

    The optimizer's step is taken, so the weights move. The step before is run too, as on any machine its first
    operations leave things behind that stay.

    Args:
        model: with a method attached, in training mode, on a CPU or a CUDA GPU.
        batch: what `loss` needs, on the same device.
        loss: called with model and batch; returns the loss, or an output with a `loss`.
        optimizer: over the model's trainable parameters; none measures forward and backward alone.
        keep_output: hold the output until the next one replaces it, as `out = model(...)` in a loop does.
        record: what runs the step and reads the allocator; the device's own where not given.

    Returns:
        Live bytes over the step, as `trace_step` returns them; on CUDA the bytes that were asked for.

    Raises:
        RuntimeError: nothing in the model is trainable, or the model is on meta or another device without memory
            that can be watched.

    Source: see the module.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    if not trained:
        raise RuntimeError("Nothing in this model is trainable: attach a method first.")
    device = trained[0].device
    if device.type not in ("cpu", "cuda"):
        raise RuntimeError(f"This model is on {device}, where nothing can be measured: only the CPU and CUDA can.")
    if record is None and device.type == "cuda":
        from peft_lessons.accounting.measure_cuda import record_cuda as record
    stage, known = Stage(model), Known(device)
    try:
        with no_garbage_collection():
            timeline = (record or record_cpu)(
                lambda mark: run_step(model, batch, loss, optimizer, keep_output, stage, known, mark), device
            )
    finally:
        stage.close()
    return replay(timeline, known, stage)


def run_step(
    model: nn.Module,
    batch: dict[str, Tensor],
    loss: Loss,
    optimizer: torch.optim.Optimizer | None,
    keep_output: bool,
    stage: Stage,
    known: Known,
    mark: Callable[[str], None],
) -> None:
    """Take two training steps; call `mark` where the second begins, enters a stage, and ends; fill in `known`."""
    trained = [p for p in model.parameters() if p.requires_grad]
    if optimizer is not None:
        make_states(trained, optimizer)
    stage.on_change = mark
    previous = loss(model, batch)
    loss_of_output(previous).backward()
    for parameter in trained:
        parameter.grad = None
    if not keep_output:
        previous = None
    known.add_present(_states(optimizer), "optimizer states")
    known.add_present(_weights(model), "weights")
    known.add_present(batch.values(), "activations")
    stage.begin_again()
    mark("begin")
    out = loss(model, batch)
    total = loss_of_output(out)
    if not keep_output:
        out = None
    previous = None
    stage.after_forward()
    total.backward()
    known.gradients |= addresses(p.grad for p in trained if p.grad is not None)
    mark("gradients")
    del total
    stage.go("optimizer step")
    if optimizer is not None:
        optimizer.step()
        known.states |= addresses(_states(optimizer))
        mark("states")
        optimizer.zero_grad(set_to_none=True)
    else:
        for parameter in trained:
            parameter.grad = None
    mark("end")
    stage.on_change = lambda name: None
    del out


def addresses(tensors: Iterable[Tensor]) -> set[int]:
    """Where the storages behind tensors are."""
    return {tensor.untyped_storage().data_ptr() for tensor in tensors}


def _weights(model: nn.Module) -> Iterator[Tensor]:
    """Parameters, buffers, and what bitsandbytes keeps beside a 4-bit weight."""
    for tensor in [*model.parameters(), *model.buffers()]:
        yield tensor
        parts = [getattr(tensor, "quant_state", None)]
        for part in parts:
            for value in vars(part).values() if part is not None else ():
                if isinstance(value, Tensor):
                    yield value
                elif type(value) is type(part):  # double quantisation: the scales have a state of their own
                    parts.append(value)


def _states(optimizer: torch.optim.Optimizer | None) -> list[Tensor]:
    """Every tensor of the optimizer's state; the scalars that count steps too, which the trace leaves out."""
    if optimizer is None:
        return []
    return [t for state in optimizer.state.values() for t in state.values() if isinstance(t, Tensor)]


def record_cpu(step: Callable[[Callable[[str], None]], None], device: torch.device) -> list[Event | Mark]:
    """Run a step under the profiler; the allocator's events on the CPU and the step's marks, in order."""

    def mark(name: str) -> None:
        with record_function(MARK + name):
            pass

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step(mark)
    assert profiler.profiler is not None and profiler.profiler.kineto_results is not None
    found = list(_read(profiler.profiler.kineto_results.experimental_event_tree()))
    found.sort(key=lambda item: item[0])
    return [item for _, item in found]


def _read(roots: Iterable[Any]) -> Iterator[tuple[int, Event | Mark]]:
    """The events of the profiler's tree, each with its time; what is inside an operation has the operation's number."""
    stack: list[tuple[Any, str, bool, int | None]] = [(root, "", False, None) for root in roots]
    while stack:
        node, op, recorded, sequence = stack.pop()
        kind, fields = node.typed
        if kind == _EventType.Allocation:
            if fields.device.type == "cpu" and fields.alloc_size:
                yield node.start_time_ns, Event(fields.ptr, fields.alloc_size, op, recorded, sequence)
            continue
        name = str(node.name)
        if name.startswith(MARK):
            yield node.start_time_ns, Mark(name.removeprefix(MARK))
        if kind == _EventType.TorchOp and fields.sequence_number >= 0:
            operation = "::" in name and "autograd::" not in name
            recorded = recorded or operation
            sequence = fields.sequence_number if sequence is None else sequence
        op = name.removeprefix("aten::") if not op and "::" in name and "autograd::" not in name else op
        stack += [(child, op, recorded, sequence) for child in node.children]


def replay(timeline: Timeline, known: Known, stage: Stage) -> StepMemory:
    """Follow the allocator through a step.

    Args:
        timeline: its events and the step's marks, in order.
        known: what is at which address.
        stage: the step's `Stage`, for the names of the modules.

    Returns:
        Live bytes over the step.

    Raises:
        ValueError: the timeline does not reach the end of the step.
    """
    record = StepMemory([], [], {"forward": 0})
    live: dict[int, Storage] = {}
    now, begun = "forward", False
    for item in timeline:
        if isinstance(item, Mark):
            if item.name == "begin":
                begun = True
                left = {a: s for a, s in live.items() if a not in known.present}
                live = {a: Storage(n, category, "present", -1) for a, (n, category) in known.present.items()} | left
                record.storages, now = list(live.values()), "forward"
            elif item.name in ("gradients", "states"):
                category = "gradients" if item.name == "gradients" else "optimizer states"
                for address in getattr(known, item.name) & live.keys():
                    live[address].category = category
            elif item.name == "end":
                return record
            else:
                now = item.name
                if begun:
                    record.marks.setdefault(now, len(record.places))
            continue
        if item.n_bytes > 0:
            born = len(record.places) if begun else -1
            live[item.address] = Storage(item.n_bytes, category_of(now, item.recomputed), item.op, born)
            if begun:
                record.storages.append(live[item.address])
        else:
            gone = live.pop(item.address, None)
            if gone is None:
                continue
            gone.died = len(record.places)
        if begun:
            record.places.append(stage.place_of(now, item.sequence))
    raise ValueError("The record of this step breaks off before its end.")


def category_of(stage: str, recomputed: bool) -> str:
    """What memory is for that is given in a stage, until it turns out to be a gradient or a state."""
    if stage == "backward":
        return "activations" if recomputed else "temporaries"
    return {"forward": "activations", "loss": "loss"}.get(stage, "temporaries")


def residues(predicted: StepMemory, measured: StepMemory) -> dict[str, tuple[int, int]]:
    """Predicted and measured bytes: the step's peak, and of each category the largest it reaches.

    Args:
        predicted: from the trace.
        measured: from the allocator.

    Returns:
        "peak" and every category, each with its two numbers.
    """
    mine, theirs = predicted.live().max(0), measured.live().max(0)
    pairs = {name: (int(mine[i]), int(theirs[i])) for i, name in enumerate(CATEGORIES)}
    return {"peak": (predicted.peak, measured.peak)} | pairs
