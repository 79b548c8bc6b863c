"""Optimizers, as far as memory is concerned: what each keeps for a weight, and what its step needs for a moment.

Those of PyTorch run as they are, on meta tensors too. Two cannot, so stand-ins make their states: fused AdamW (one CUDA
kernel, nothing temporary) and bitsandbytes' 8-bit AdamW.

Source: `torch.optim` 2.13; bitsandbytes 0.50, `optim/optimizer.py` (`Optimizer2State.init_state`): one byte a value and
one float32 for each block of 256, and plain float32 for tensors below 4,096 values; Dettmers et al. 2022, "8-bit
Optimizers via Block-wise Quantization".
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

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
