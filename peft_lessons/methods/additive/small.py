"""A linear layer of a method's own, which no other method takes for one of the base's."""

import math

import torch
from torch import Tensor, nn


class Dense(nn.Module):
    """y = x Wᵀ + b with W (d_out, d_in), in float32, initialised as PyTorch does `nn.Linear`."""

    def __init__(self, d_out: int, d_in: int, device: torch.device | str):
        super().__init__()
        where = drawn_on(device)
        weight, bias = torch.empty(d_out, d_in, device=where), torch.empty(d_out, device=where)
        nn.init.kaiming_uniform_(weight, a=math.sqrt(5))
        nn.init.uniform_(bias, -1 / math.sqrt(d_in), 1 / math.sqrt(d_in))
        self.weight, self.bias = nn.Parameter(weight.to(device)), nn.Parameter(bias.to(device))

    def forward(self, x: Tensor) -> Tensor:  # (..., d_in) -> (..., d_out)
        return x @ self.weight.T + self.bias


def drawn_on(device: torch.device | str) -> torch.device | str:
    """Where random numbers for a device are drawn: on the CPU, the same for every device; on meta there are none."""
    return device if torch.device(device).type == "meta" else "cpu"
