"""Holds any implementation of a rescaled layer, (IA)3's, against the closed form.

Source: Liu et al. 2022, section 3.3: y = l ⊙ (W x + b), or in a feed-forward network y = W (l ⊙ x) + b.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from peft_lessons.checks.report import TOLERANCE, Check, Report, compare, compare_gradient
from peft_lessons.methods.targets import Linear, matrix

MakeIA3: TypeAlias = Callable[[Linear, bool], nn.Module]
KINDS = ("Linear", "Linear without bias", "Conv1D")


def check_ia3(make: MakeIA3) -> Report:
    """Hold an implementation of (IA)3 on one layer against the closed form, in float64.

    The vector is random and the bias not zero, and the layer is not square, so that a vector at the wrong end, or a
    bias that is left out, shows. Checked on `nn.Linear` with and without bias and on transformers' `Conv1D`, rescaled
    at the output and, as in a feed-forward network, at the input: the state at the start, the forward pass, gradients,
    the frozen base and, where the module has them, `delta` and `merge`.

    Args:
        make: called as make(layer, feedforward) with a linear layer; returns the module in its place, with a parameter
            `ia3_l` of the shape that peft gives it: (d_out, 1), or with `feedforward` (1, d_in).

    Returns:
        A `Report`; its lines name what is wrong where something is.

    Raises:
        AttributeError: the module has no parameter `ia3_l`.

    Source: see the module.
    """
    layers = {f"{kind}, feed-forward" if ff else kind: (kind, ff) for ff in (False, True) for kind in KINDS}
    return Report(tuple(replace(c, layer=name) for name, how in layers.items() for c in _on(make, *how)))


def _on(make: MakeIA3, kind: str, feedforward: bool, d_in: int = 7, d_out: int = 5) -> list[Check]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        base: Linear = Conv1D(d_out, d_in) if kind == "Conv1D" else nn.Linear(d_in, d_out, bias=kind == "Linear")
        if base.bias is not None:
            nn.init.normal_(base.bias)
        x, loss = torch.randn(2, 4, d_in, requires_grad=True), torch.randn(2, 4, d_out)
        scale = torch.rand(d_in if feedforward else d_out) + 0.5
        W, plain = matrix(base).detach().double(), base(x).detach()
        b = torch.zeros(d_out).double() if base.bias is None else base.bias.detach().double()
        module: Any = make(base, feedforward).eval()
    vector = getattr(module, "ia3_l", None)
    if not isinstance(vector, nn.Parameter):
        raise AttributeError(f"{type(module).__name__} has no parameter ia3_l, which the check needs.")
    shape = (1, d_in) if feedforward else (d_out, 1)
    if vector.shape != shape:
        hint = "with feedforward the vector rescales what goes in." if feedforward else "it rescales what comes out."
        return [compare("shape of l", vector, torch.empty(shape), hint)]
    checks = [compare("at the start", module(x), plain, "attaching must change nothing: l starts at 1, not at 0.")]
    with torch.no_grad():
        vector.copy_(scale.view(shape))
    truth, xd = scale.double().requires_grad_(True), x.detach().double().requires_grad_(True)
    expected = (xd * truth) @ W.T + b if feedforward else (xd @ W.T + b) * truth
    y = module(x)
    checks.append(compare("forward", y, expected, _wrong_forward(y, xd.detach(), W, b, scale.double(), feedforward)))
    (expected * loss.double()).sum().backward()
    (y * loss).sum().backward()
    assert truth.grad is not None and xd.grad is not None
    checks.append(compare_gradient("gradient of l", vector, truth.grad.view(shape)))
    checks.append(compare_gradient("gradient of x", x, xd.grad))
    thawed = any(p.requires_grad or p.grad is not None for p in base.parameters())
    checks.append(Check("base frozen", not thawed, 0.0, tuple(W.shape), "W or b still takes gradients."))
    merged = W * scale.double().view(shape)
    if hasattr(module, "delta"):
        checks.append(compare("delta", module.delta(), merged - W, "merging adds (l - 1) times W's rows or columns."))
    if hasattr(module, "merge"):
        made = module.merge()
        hint = "l multiplies W's columns." if feedforward else "l multiplies W's rows."
        checks.append(compare("merged weight", matrix(base), merged, hint))
        if base.bias is not None:
            hint = "the bias does not see the input." if feedforward else "the bias is rescaled as well."
            checks.append(compare("merged bias", base.bias, b if feedforward else b * scale.double(), hint))
        layer = module if made is None else made
        checks.append(compare("output when merged", layer(x), y, "a merged layer must not rescale again."))
    return checks


def _wrong_forward(y: Tensor, x: Tensor, W: Tensor, b: Tensor, scale: Tensor, feedforward: bool) -> str:
    """The mistake that explains a wrong forward pass, where it is one that people make."""
    y, plain = y.detach().double(), x @ W.T + b
    mistakes = {"l does nothing": plain}
    if feedforward:
        mistakes["l is added to the input, not multiplied"] = (x + scale) @ W.T + b
        mistakes["the plain output is added: l starts at 1 and needs no skip"] = plain + (x * scale) @ W.T + b
    else:
        mistakes["the bias is not rescaled; l multiplies all that comes out"] = (x @ W.T) * scale + b
        mistakes["the bias is missing"] = (x @ W.T) * scale
        mistakes["l is added to the output, not multiplied"] = plain + scale
        mistakes["the plain output is added: l starts at 1 and needs no skip"] = plain + plain * scale
    for hint, wrong in mistakes.items():
        if y.shape == wrong.shape and torch.allclose(y, wrong, atol=TOLERANCE):
            return hint + "."
    return ""
