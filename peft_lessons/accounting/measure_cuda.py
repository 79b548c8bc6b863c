"""What one training step holds on a CUDA GPU, from the caching allocator: its history, and its own peaks.

The history names every piece by address and by the bytes that were asked for. The allocator rounds those up to 512
bytes ("allocated") and takes memory from the driver in larger segments ("reserved"); the CUDA context is in none of
them. cuBLAS takes a workspace from the same allocator and keeps it, so it is made before the step and counted apart.

Source: `torch.cuda.memory._record_memory_history` and `memory_stats` of PyTorch 2.13, whose documentation describes the
entries of a snapshot.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peft_lessons.accounting.measure import Event, Mark, measure_step
from peft_lessons.accounting.step import StepMemory

KINDS = ("requested", "allocated", "reserved")
# A mark in the history is a piece of a size that no tensor of a step has, given and taken back at once.
MARKS = {"begin": 467, "forward": 479, "loss": 487, "backward": 491, "optimizer step": 499}
MARKS |= {"gradients": 503, "states": 509, "end": 463}
_NAMES = {size: name for name, size in MARKS.items()}


@dataclass
class Peaks:
    """The allocator's own peaks, without cuBLAS' workspace.

    `stages` has, for each stage of the step, the peak in bytes by kind ("requested", "allocated", "reserved");
    `workspace` the bytes that cuBLAS holds.
    """

    stages: dict[str, dict[str, int]] = field(default_factory=dict)
    workspace: int = 0

    def of_step(self, kind: str) -> int:
        """The peak over the whole step."""
        return max(peaks[kind] for peaks in self.stages.values())


def measure_with_peaks(model: nn.Module, batch: dict[str, Tensor], **options: Any) -> tuple[StepMemory, Peaks]:
    """`measure_step` on a CUDA GPU, and the allocator's own peaks.

    Args:
        model: on a CUDA GPU.
        batch: on the same.
        options: those of `measure_step`.

    Returns:
        Live bytes over the step, and the peaks of its stages.

    Raises:
        RuntimeError: as `measure_step`, or this machine has no CUDA GPU.

    Source: see the module.
    """
    peaks = Peaks()
    return measure_step(model, batch, record=lambda step, device: record_cuda(step, device, peaks), **options), peaks


def record_cuda(
    step: Callable[[Callable[[str], None]], None], device: torch.device, peaks: Peaks | None = None
) -> list[Event | Mark]:
    """Run a step with the allocator's history on; its events and the step's marks, in order.

    Raises:
        RuntimeError: this machine has no CUDA GPU.
    """
    if not torch.cuda.is_available():
        raise RuntimeError("This machine has no CUDA GPU that PyTorch can use.")
    peaks = Peaks() if peaks is None else peaks
    peaks.workspace = warm_up(device)
    stage, counting = "forward", False

    def mark(name: str) -> None:
        nonlocal stage, counting
        if counting and name not in ("gradients", "states"):
            _keep_larger(peaks.stages.setdefault(stage, {}), torch.cuda.memory_stats(device), peaks.workspace)
        torch.empty(MARKS[name], dtype=torch.uint8, device=device)
        counting = counting or name == "begin"
        if name in ("begin", "forward", "loss", "backward", "optimizer step"):
            stage = "forward" if name == "begin" else name
            torch.cuda.reset_peak_memory_stats(device)

    torch.cuda.memory._record_memory_history("all", context="alloc", stacks="python", clear_history=True)
    try:
        step(mark)
        torch.cuda.synchronize(device)
        snapshot = torch.cuda.memory._snapshot(device)
    finally:
        torch.cuda.memory._record_memory_history(None)
    return list(read_snapshot(snapshot, device.index or 0))


def _keep_larger(found: dict[str, int], stats: Mapping[str, int], workspace: int) -> None:
    for kind in KINDS:
        now = stats[f"{kind}_bytes.all.peak"] - workspace
        found[kind] = max(found.get(kind, 0), now)


def warm_up(device: torch.device) -> int:
    """Make cuBLAS take its workspaces, forward's and backward's; how many bytes were asked for."""

    def held() -> int:
        return torch.cuda.memory_stats(device).get("requested_bytes.all.current", 0)

    before = held()
    for dtype in (torch.float32, torch.bfloat16):
        x = torch.ones(64, 64, device=device, dtype=dtype, requires_grad=True)
        bias = torch.ones(64, device=device, dtype=dtype, requires_grad=True)
        F.linear(F.gelu(F.linear(x, x, bias)), x, bias).sum().backward()
        torch.bmm(x[None], x[None]).sum().backward()
        del x, bias
    torch.cuda.synchronize(device)
    return held() - before


def read_snapshot(snapshot: Mapping[str, Any], device: int = 0) -> Iterator[Event | Mark]:
    """The history of a snapshot as events and marks, in order.

    Args:
        snapshot: what `torch.cuda.memory._snapshot()` returns.
        device: number of the GPU.

    Returns:
        Pieces given, with what was asked for, and taken back; marks where their sizes are met.
    """
    marker = None
    for entry in snapshot["device_traces"][device]:
        action, address, size = entry["action"], entry.get("addr", 0), entry["size"]
        if action == "alloc" and size in _NAMES:
            marker = address
            yield Mark(_NAMES[size])
        elif action == "alloc":
            yield Event(address, size, *_frames(entry.get("frames", ())))
        elif action == "free_requested" and address == marker:
            marker = None
        elif action == "free_requested":
            yield Event(address, -size)


def _frames(frames: Iterable[Mapping[str, Any]]) -> tuple[str, bool]:
    """The innermost function of a stack, and whether checkpointing is in it."""
    listed = list(frames)
    again = any(str(f["filename"]).endswith("torch/utils/checkpoint.py") for f in listed)
    return (str(listed[0]["name"]) if listed else ""), again
