"""Holds any implementation of a bottleneck adapter against the closed form.

Source: Houlsby et al. 2019, section 2.1: a bottleneck with an activation and a skip connection.
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from peft_lessons.checks.report import TOLERANCE, Check, Report, compare, compare_gradient
from peft_lessons.methods.targets import Linear

MakeAdapter: TypeAlias = Callable[[Linear, int], nn.Module]
NAMES = ("W_down", "b", "W_up", "b'")


def check_adapter(
    make: MakeAdapter,
    *,
    d_in: int = 7,
    d_out: int = 5,
    bottleneck: int = 3,
    activation: Callable[[Tensor], Tensor] = F.gelu,
) -> Report:
    """Hold a bottleneck adapter on a linear layer against h + W_up act(W_down h + b) + b', h = W x + c, in float64.

    Every weight is random and d_in differs from d_out: with W_up at zero, most wrong implementations pass. Checked on
    `nn.Linear` with and without bias and on transformers' `Conv1D`: the state at the start, the forward pass,
    gradients, the frozen base, saving and loading.

    Args:
        make: called as make(layer, bottleneck) with a linear layer; returns the module in its place. Its weights are
            found as `adapter_parts` says.
        d_in: width of the layer's input.
        d_out: width of its output, which is the adapter's width.
        bottleneck: m.
        activation: act.

    Returns:
        A `Report`; its lines name what is wrong where something is.

    Raises:
        AttributeError: the module has no such weights.

    Source: see the module.
    """
    kinds = ("Linear", "Linear without bias", "Conv1D")
    found = [
        replace(c, layer=kind) for kind in kinds for c in _check_on(make, kind, d_in, d_out, bottleneck, activation)
    ]
    return Report(tuple(found))


def adapter_parts(module: nn.Module) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """W_down (m, d), b (m,), W_up (d, m) and b' (d,) of an adapter.

    They are parameters called `down`, `down_bias`, `up` and `up_bias`, or linear layers called `down` and `up`, of the
    module itself or of a module in it.

    Raises:
        AttributeError: there are none.
    """
    for part in module.modules():
        down, up = getattr(part, "down", None), getattr(part, "up", None)
        found: Any
        if isinstance(down, nn.Linear) and isinstance(up, nn.Linear):
            found = (down.weight, down.bias, up.weight, up.bias)
        else:
            found = (down, getattr(part, "down_bias", None), up, getattr(part, "up_bias", None))
        if all(isinstance(tensor, Tensor) for tensor in found):
            return found
    raise AttributeError(
        f"{type(module).__name__} has no adapter: the check looks for down and up, linear layers with bias, or for "
        "parameters down, down_bias, up and up_bias."
    )


def _check_on(
    make: MakeAdapter, kind: str, d_in: int, d_out: int, m: int, act: Callable[[Tensor], Tensor]
) -> list[Check]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        base: Linear = (
            Conv1D(d_out, d_in) if kind == "Conv1D" else nn.Linear(d_in, d_out, bias=kind != "Linear without bias")
        )
        if base.bias is not None:
            nn.init.normal_(base.bias)
        x, weights_of_loss = torch.randn(2, 4, d_in, requires_grad=True), torch.randn(2, 4, d_out)
        drawn = [torch.randn(m, d_out), torch.randn(m), torch.randn(d_out, m), torch.randn(d_out)]
        plain = base(x).detach()
        module: Any = make(base, m).eval()
    parts = adapter_parts(module)
    checks = [
        compare("output at the start", module(x), plain, "attaching must change nothing: W_up and b' start at 0.")
    ]
    alive = bool(parts[0].abs().max() > 0 or parts[2].abs().max() > 0)
    checks.append(Check("weights at the start", alive, 0.0, tuple(parts[0].shape), "W_down and W_up are both zero."))
    hint = "An adapter stands on the layer's output, which is d_out wide."
    named = zip(NAMES, parts, drawn, strict=True)
    shapes = [compare(f"shape of {n}", p, t, hint) for n, p, t in named if p.shape != t.shape]
    if shapes:
        return [*checks, *shapes]
    with torch.no_grad():
        for part, tensor in zip(parts, drawn, strict=True):
            part.copy_(tensor)
    truth = [tensor.double().requires_grad_(True) for tensor in drawn]
    xd = x.detach().double().requires_grad_(True)
    h = copy.deepcopy(base).double()(xd)
    expected = h + act(h @ truth[0].T + truth[1]) @ truth[2].T + truth[3]
    y = module(x)
    hint = wrong_forward(y, h.detach(), xd.detach(), [t.detach() for t in truth], act)
    checks.append(compare("forward", y, expected, hint))
    (expected * weights_of_loss.double()).sum().backward()
    (y * weights_of_loss).sum().backward()
    checks += [compare_gradient(f"gradient of {n}", p, _grad(t)) for n, p, t in zip(NAMES, parts, truth, strict=True)]
    checks.append(compare_gradient("gradient of the input", x, _grad(xd)))
    moved = sum(p.grad.abs().sum().item() for p in base.parameters() if p.grad is not None)
    thawed = any(p.requires_grad for p in base.parameters())
    checks.append(Check("base frozen", not moved and not thawed, moved, (d_out, d_in), "W still takes gradients."))
    saved = load_safetensors(save_safetensors({k: v.contiguous() for k, v in module.state_dict().items()}))
    other = copy.deepcopy(module)
    for part in adapter_parts(other):
        nn.init.ones_(part)
    other.load_state_dict(saved)
    return [*checks, compare("after save and load", other(x), y, "the state dict must hold all four.")]


def _grad(tensor: Tensor) -> Tensor:
    assert tensor.grad is not None
    return tensor.grad


def wrong_forward(y: Tensor, h: Tensor, x: Tensor, parts: list[Tensor], act: Callable[[Tensor], Tensor]) -> str:
    """The mistake that explains a wrong forward pass, where it is one that people make."""
    down, b, up, b2 = parts
    inner = h @ down.T
    update = act(inner + b) @ up.T + b2
    others: dict[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": F.relu, "silu": F.silu, "tanh": torch.tanh}
    mistakes = {
        "the skip connection is missing: h itself must be added": update,
        "the skip connection is there twice": 2 * h + update,
        "the adapter is missing": h,
        "the activation is missing, so that the two matrices are one": h + (inner + b) @ up.T + b2,
        "the activation comes before W_down": h + (act(h) @ down.T + b) @ up.T + b2,
        "the bias b is missing": h + act(inner) @ up.T + b2,
        "the bias b' is missing": h + act(inner + b) @ up.T,
        "both biases are missing": h + act(inner) @ up.T,
    }
    mistakes |= {
        f"the activation is {name}": h + other(inner + b) @ up.T + b2
        for name, other in others.items()
        if other is not act
    }
    found = y.detach().double()
    for hint, wrong in mistakes.items():
        if found.shape == wrong.shape and torch.allclose(found, wrong, atol=TOLERANCE):
            return hint + "."
    return ""
