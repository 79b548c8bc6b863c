"""AdapterDrop at inference: take the adapters out of the lowest blocks for a while.

    blocks 1 … k run as in the base, blocks k + 1 … L with their adapters

What the lowest k blocks compute is then the same for every task that shares the base. With k = L the model is the base
(apart from norms that a method trained). To train without them from the start, see `drop_layers` of the methods.

Source: Rücklé et al. 2021, "AdapterDrop: On the Efficiency of Adapters in Transformers", section 4.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from peft_lessons.methods.core import require_attachment, set_submodule
from peft_lessons.methods.targets import stacks


@contextmanager
def adapters_dropped(model: nn.Module, k: int) -> Iterator[nn.Module]:
    """Inside, the lowest k blocks of each stack run without what the attached method put into them.

    Works for any method that puts modules into blocks. Detach and switch outside of it.

    Args:
        model: with a method attached, not merged.
        k: how many blocks, from 0 to all.

    Raises:
        RuntimeError: nothing is attached, or it is merged.
        ValueError: k is below 0 or above the number of blocks.

    Source: see the module.
    """
    state = require_attachment(model)
    if state.merged:
        raise RuntimeError("The adapter is merged into the weights: unmerge(model) before dropping parts of it.")
    depth = max(len(stack) for stack in stacks(model))
    if not 0 <= k <= depth:
        raise ValueError(f"k is {k}; this model has {depth} blocks, so it can be 0 to {depth}.")
    lowest = tuple(f"{block.path}." for stack in stacks(model) for block in stack[:k])
    dropped = [path for path in state.added if path.startswith(lowest)] if k else []
    try:
        for path in dropped:
            set_submodule(model, path, state.replaced[path])
        yield model
    finally:
        for path in dropped:
            set_submodule(model, path, state.added[path])
