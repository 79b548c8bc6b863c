"""`torch.autocast` on meta tensors, which PyTorch lacks: products in bfloat16, sensitive functions in float32.

Autocast casts the inputs of each operation anew. Only a float32 parameter that is trained is cast once and kept for
the rest of the forward pass; and whatever the backward pass needs is kept as it was used. So a frozen float32 weight
costs its bfloat16 copy on top, and the inputs of q, k and v three copies of one tensor.

Source: "Autocast Op Reference", PyTorch 2.13, the lists for CUDA and for CPU; `cached_cast` in ATen's
`autocast_mode.cpp` for what is kept.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

PRODUCTS = frozenset(
    "linear matmul __matmul__ __rmatmul__ mm bmm addmm addbmm baddbmm mv scaled_dot_product_attention".split()
)
SENSITIVE = {
    "cuda": frozenset(
        "pow __pow__ __rpow__ rsqrt exp expm1 log log10 log1p log2 reciprocal softmax log_softmax softmin layer_norm "
        "group_norm norm cross_entropy nll_loss mse_loss l1_loss kl_div sum prod cumsum cumprod softplus cosh sinh tan "
        "acos asin erfinv renorm cdist dist cosine_similarity".split()
    ),
    "cpu": frozenset(["mse_loss", "prod"]),
}


_running: "list[MetaAutocast]" = []


class MetaAutocast(TorchFunctionMode):
    """Cast as `torch.autocast(device, torch.bfloat16)` does. Enter it for the forward pass; in the backward pass,
    which function modes do not reach into, checkpointing enters `recompute` by itself.

    Args:
        device: whose lists to follow, "cuda" or "cpu".
    """

    def __init__(self, device: str):
        super().__init__()
        self.device, self.sensitive = device, SENSITIVE[device]
        self.kept: dict[int, Tensor] = {}
        self.keeps = True

    def __enter__(self) -> "MetaAutocast":
        _running.append(self)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        _running.pop()
        super().__exit__(*error)

    def around(self, loss: Callable[..., Any]) -> Callable[..., Any]:
        """The same loss; when the forward pass ends, the kept copies go, and later casts are not kept."""

        def run(*args: Any) -> Any:
            self.keeps = True
            try:
                return loss(*args)
            finally:
                self.kept.clear()
                self.keeps = False

        return run

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = getattr(func, "__name__", ""), kwargs or {}
        if name in PRODUCTS:
            args, kwargs = tree_map(self._down, (args, kwargs))
        elif name in self.sensitive:
            args, kwargs = tree_map(_up, (args, kwargs))
        return func(*args, **kwargs)

    def _down(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dtype != torch.float32:
            return value
        if not (self.keeps and value.requires_grad and value.is_leaf):
            return value.to(torch.bfloat16)
        if id(value) not in self.kept:
            self.kept[id(value)] = value.to(torch.bfloat16)
        return self.kept[id(value)]


def _up(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype == torch.bfloat16 else value


def recompute() -> tuple[Any, Any]:
    """Checkpointing's `context_fn`: what is computed again is cast as before, and nothing kept."""
    if not _running:
        return nullcontext(), nullcontext()
    again = MetaAutocast(_running[-1].device)
    again.keeps = False
    return nullcontext(), again


def as_product(*inputs: Tensor) -> tuple[Tensor, ...]:
    """The inputs of a matrix product as a running `MetaAutocast` casts them; unchanged where none runs."""
    return tuple(_running[-1]._down(x) for x in inputs) if _running else inputs
