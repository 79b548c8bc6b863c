"""Three counts of a fine-tuned model: what is trained, what is changed, and the rank of the change.

Source: Lialin, Deshpande and Rumshisky 2023, "Scaling Down to Scale Up", section 12, which asks for all three.
"""

import math
from dataclasses import dataclass
from typing import Any

from torch import nn

from peft_lessons.methods.core import require_attachment, trained_parameters
from peft_lessons.methods.targets import is_quantized, sizes


@dataclass(frozen=True)
class ModuleCount:
    """The counts of one module, or of one weight that is trained as it is."""

    name: str
    shape: tuple[int, ...]
    trainable: int
    changed: int
    rank: int | None  # the largest rank the change can have; None for vectors, which have none


@dataclass(frozen=True)
class ParameterCount:
    """The counts by module, and in total.

    `n_total` counts the base alone, without adapter and classification head; `head` the classification head, which is
    trained beside every method; `trainable` and `changed` leave it out, as papers do.
    """

    modules: tuple[ModuleCount, ...]
    n_total: int
    head: int

    @property
    def trainable(self) -> int:
        """Numbers that the optimizer updates."""
        return sum(m.trainable for m in self.modules)

    @property
    def changed(self) -> int:
        """Numbers of the base that differ after merging."""
        return sum(m.changed for m in self.modules)

    @property
    def rank(self) -> int:
        """The largest rank that the change of one matrix can have; 0 where no matrix changes."""
        return max((m.rank for m in self.modules if m.rank is not None), default=0)

    @property
    def share(self) -> float:
        """Trainable numbers over the base's, between 0 and 1."""
        return self.trainable / self.n_total

    def __str__(self) -> str:
        head = f", and {self.head:,} in the head" if self.head else ""
        share = f"{self.share:.3%}" if not 0 < self.share < 1e-5 else f"{100 * self.share:.1g}%"
        return (
            f"trainable {self.trainable:,} of {self.n_total:,} ({share}){head}; "
            f"changed {self.changed:,}; rank at most {self.rank}"
        )

    def table(self) -> str:
        """One line a module: name, shape, trainable, changed, rank."""
        wide = max((len(m.name) for m in self.modules), default=4)
        lines = [f"{'module':<{wide}}  {'shape':>12}  {'trainable':>10}  {'changed':>10}  {'rank':>5}"]
        for m in self.modules:
            shape = " x ".join(map(str, m.shape))
            lines.append(f"{m.name:<{wide}}  {shape:>12}  {m.trainable:>10,}  {m.changed:>10,}  {m.rank or '-':>5}")
        return "\n".join(lines)


def count_parameters(model: nn.Module) -> ParameterCount:
    """Count what the attached method trains and changes, and the rank of the change.

    Args:
        model: a model with a method attached.

    Returns:
        The counts by module and in total; `print` gives the line that lessons show.

    Raises:
        RuntimeError: nothing is attached.

    Source: the three counts of Lialin et al. 2023, section 12.
    """
    state = require_attachment(model)
    modules: list[ModuleCount] = []
    head, seen = 0, set()
    counted: dict[str, Any] = {path: m for path, m in state.added.items() if hasattr(m, "changed")}
    for path, module in counted.items():
        own = [p for p in module.parameters() if p.requires_grad and id(p) not in seen]  # some are shared by modules
        seen |= {id(p) for p in own}
        shape, trainable = (module.d_out, module.d_in), sum(p.numel() for p in own)
        modules.append(ModuleCount(path, shape, trainable, module.changed(), module.rank()))
    for name, parameter in trained_parameters(model).items():
        if id(parameter) in seen:
            continue
        if hasattr(model, "set_head") and name.startswith("classifier."):
            head += parameter.numel()
            continue
        rank = min(parameter.shape) if parameter.dim() == 2 else None
        modules.append(ModuleCount(name, tuple(parameter.shape), parameter.numel(), parameter.numel(), rank))
    return ParameterCount(tuple(modules), _n_total(model, head), head)


def _n_total(model: nn.Module, head: int) -> int:
    """The base's parameters: a module's `base`, or a copy that was trained in its place, is part of it."""
    state = require_attachment(model)
    added = {p for m in state.added.values() for n, p in m.named_parameters() if not n.startswith("base.")}
    base = {p for m in state.replaced.values() for p in m.parameters()}
    packed = {layer: layer.weight for layer in model.modules() if is_quantized(layer)}
    plain = ((set(model.parameters()) - added) | base) - set(packed.values())
    return sum(p.numel() for p in plain) + sum(math.prod(sizes(layer)) for layer in packed) - head
