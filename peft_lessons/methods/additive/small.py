"""A linear layer of a method's own, which no other method takes for one of the base's."""

import math

import torch
from torch import Tensor, nn


class Dense(nn.Module):
    """y = x Wᵀ + b with W (d_out, d_in), in float32, initialised as PyTorch does `nn.Linear`."""

    def __init__(self, d_out: int, d_in: int, device: torch.device | str):
        super().__init__()
        weight, bias = torch.empty(d_out, d_in, device="cpu"), torch.empty(d_out, device="cpu")
        nn.init.kaiming_uniform_(weight, a=math.sqrt(5))  # drawn on the CPU: the same numbers on every device
        nn.init.uniform_(bias, -1 / math.sqrt(d_in), 1 / math.sqrt(d_in))
        self.weight, self.bias = nn.Parameter(weight.to(device)), nn.Parameter(bias.to(device))

    def forward(self, x: Tensor) -> Tensor:  # (..., d_in) -> (..., d_out)
        return x @ self.weight.T + self.bias
