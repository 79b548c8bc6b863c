"""Optimizers, as far as memory is concerned: what each keeps for a weight, and what its step needs for a moment.

Those of PyTorch run as they are, on meta tensors too. Two cannot, so stand-ins make their states: fused AdamW (one CUDA
kernel, nothing temporary) and bitsandbytes' 8-bit AdamW.

Source: `torch.optim` 2.13; bitsandbytes 0.50, `optim/optimizer.py` (`Optimizer2State.init_state`): one byte a value and
one float32 for each block of 256, and plain float32 for tensors below 4,096 values; Dettmers et al. 2022, "8-bit
Optimizers via Block-wise Quantization".
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

BLOCK = 256  # values that share a scale in an 8-bit state
SMALLEST = 4096  # tensors with fewer values keep float32 states


class StatesOnly(torch.optim.Optimizer):
    """Makes the states that a kernel would keep, and nothing else."""

    def __init__(self, params: Iterable[nn.Parameter], make: Callable[[nn.Parameter], dict[str, Tensor]]):
        super().__init__(params, {"lr": 0.0})
        self.make = make

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Create the states of every parameter that has a gradient and none yet."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None and not self.state[parameter]:
                    self.state[parameter] = self.make(parameter)


def _two_moments(parameter: nn.Parameter) -> dict[str, Tensor]:
    return {name: torch.empty_like(parameter) for name in ("exp_avg", "exp_avg_sq")}


def _eight_bit(shared: dict[torch.device, tuple[Tensor, Tensor]]) -> Callable[[nn.Parameter], dict[str, Tensor]]:
    def make(parameter: nn.Parameter) -> dict[str, Tensor]:
        n, device = parameter.numel(), parameter.device
        if n < SMALLEST:
            return {f"state{i}": torch.empty(n, device=device) for i in (1, 2)}
        if device not in shared:  # the 256 values of each code, once for all parameters
            shared[device] = (torch.empty(256, device=device), torch.empty(256, device=device))
        codes = {f"qmap{i}": shared[device][i - 1] for i in (1, 2)}
        states = {f"state{i}": torch.empty(n, dtype=torch.uint8, device=device) for i in (1, 2)}
        return codes | states | {f"absmax{i}": torch.empty(-(-n // BLOCK), device=device) for i in (1, 2)}

    return make


class Tensor2D(NamedTuple):
    """A trained tensor: rows (0 for a vector), columns, and bytes of one number."""

    rows: int
    columns: int
    item: int

    @property
    def values(self) -> int:
        """How many numbers it has."""
        return max(self.rows, 1) * self.columns

    @property
    def n_bytes(self) -> int:
        """Its size."""
        return self.values * self.item


def tensor_of(parameter: nn.Parameter) -> Tensor2D:
    """A parameter's rows, columns and bytes of a number."""
    rows, columns = (0, len(parameter)) if parameter.dim() == 1 else (len(parameter), parameter[0].numel())
    return Tensor2D(rows, columns, parameter.element_size())


def state_bytes(optimizer: str, tensors: Sequence[Tensor2D]) -> int:
    """Bytes of the states that an optimizer keeps for these tensors."""
    if optimizer == "sgd":
        return 0
    if optimizer == "sgd_momentum":
        return sum(t.n_bytes for t in tensors)
    if optimizer == "adafactor":
        return sum((t.rows + t.columns) * t.item for t in tensors)
    if optimizer.startswith("adamw_8bit"):
        return sum(
            2 * (t.values + 4 * -(-t.values // BLOCK)) if t.values >= SMALLEST else 8 * t.values for t in tensors
        )
    return 2 * sum(t.n_bytes for t in tensors)


def code_bytes(optimizer: str, tensors: Sequence[Tensor2D]) -> int:
    """Bytes that the states of all tensors share: the two codes of 8-bit states."""
    return 2 * 256 * 4 if optimizer.startswith("adamw_8bit") and any(t.values >= SMALLEST for t in tensors) else 0


def update_bytes(optimizer: str, tensors: Sequence[Tensor2D], sums: Mapping[int, int]) -> int:
    """The most that an optimizer's step holds beside weights, gradients and states.

    A loop over tensors keeps its last result until the next replaces it, so neighbours count together.

    Args:
        optimizer: one of `OPTIMIZERS`.
        tensors: in the model's order; of many equal layers, three are enough.
        sums: bytes of all tensors by bytes of one number.
    """
    if optimizer == "adamw":  # the last denominator, a square root, and the new denominator
        before = [0, *(t.n_bytes for t in tensors)]
        return max((last + 2 * t.n_bytes for last, t in zip(before, tensors, strict=False)), default=0)
    if optimizer == "adamw_foreach":  # a square root of every tensor of one type
        return max(sums.values(), default=0)
    return _adafactor_bytes(tensors) if optimizer == "adafactor" else 0


def _adafactor_bytes(tensors: Sequence[Tensor2D]) -> int:
    """Follow the names of `torch.optim._adafactor._single_tensor_adafactor` through its loop."""
    highest = row = column = squared = update = 0
    for t in tensors:
        if t.rows:
            old_row, old_column, row, column = row, column, t.rows * t.item, t.columns * t.item
            highest = max(highest, old_row + row + old_column + squared + update)
            highest = max(highest, row + old_column + column + squared + update)
            highest = max(highest, row + column + squared + update + t.n_bytes + t.item)
        else:
            old, squared = squared, t.n_bytes
            highest = max(highest, row + column + old + squared + update, row + column + squared + update + t.n_bytes)
        update = t.n_bytes
    return highest


Make = Callable[[list[nn.Parameter]], torch.optim.Optimizer]

OPTIMIZERS: Mapping[str, Make] = {
    "adamw": lambda params: torch.optim.AdamW(params, foreach=False),
    "adamw_foreach": lambda params: torch.optim.AdamW(params, foreach=True),
    "adamw_fused": lambda params: StatesOnly(params, _two_moments),
    "adamw_8bit": lambda params: StatesOnly(params, _eight_bit({})),
    "adamw_8bit_paged": lambda params: StatesOnly(params, _eight_bit({})),
    "sgd": lambda params: torch.optim.SGD(params, foreach=False),
    "sgd_momentum": lambda params: torch.optim.SGD(params, momentum=0.9, foreach=False),
    "adafactor": lambda params: torch.optim.Adafactor(params, foreach=False),
}
