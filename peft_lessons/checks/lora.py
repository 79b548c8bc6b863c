"""Holds any implementation of LoRA against the closed form.

Source: Hu et al. 2021, equation 3; the merge of section 4.2.
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from safetensors.torch import load as load_safetensors
from safetensors.torch import save as save_safetensors
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from peft_lessons.checks.report import TOLERANCE, Check, Report, compare, compare_gradient
from peft_lessons.methods.targets import Linear

MakeLoRA: TypeAlias = Callable[[Linear, int, float], nn.Module]


def check_lora(make: MakeLoRA, *, d_in: int = 7, d_out: int = 5, r: int = 3, alpha: float = 5.0) -> Report:
    """Hold an implementation of LoRA against the closed form y = W x + b + (alpha / r) B A x, in float64.

    B is set to random numbers, d_in differs from d_out and r from alpha: with B = 0, a square W or alpha = r, most
    wrong implementations pass. Checked on `nn.Linear` with and without bias and on transformers' `Conv1D`: the state
    at the start, the forward pass, gradients, the frozen base, merging, unmerging, saving and loading.

    Args:
        make: called as make(layer, r, alpha) with a linear layer; returns the module in its place. Its factors are
            found as `lora_A`, (r, d_in), and `lora_B`, (d_out, r): parameters, linear layers, or peft's dictionaries of
            these. `merge()` may return the merged layer, or change the module itself.
        d_in: width of the input.
        d_out: width of the output.
        r: the rank.
        alpha: the scale before dividing by r.

    Returns:
        A `Report`; its lines name what is wrong where something is.

    Raises:
        AttributeError: the module has no `lora_A` or `lora_B`.

    Source: Hu et al. 2021, equation 3; the merge of section 4.2.
    """
    kinds = ("Linear", "Linear without bias", "Conv1D")
    found = [replace(c, layer=kind) for kind in kinds for c in _check_lora_on(make, kind, d_in, d_out, r, alpha)]
    return Report(tuple(found))


def _check_lora_on(make: MakeLoRA, kind: str, d_in: int, d_out: int, r: int, alpha: float) -> list[Check]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        base: Linear = (
            Conv1D(d_out, d_in) if kind == "Conv1D" else nn.Linear(d_in, d_out, bias=kind != "Linear without bias")
        )
        if base.bias is not None:
            nn.init.normal_(base.bias)
        x = torch.randn(2, 4, d_in, requires_grad=True)
        weights_of_loss = torch.randn(2, 4, d_out)
        A0, B0 = torch.randn(r, d_in), torch.randn(d_out, r)
        W = (base.weight.T if kind == "Conv1D" else base.weight).detach().clone()  # (d_out, d_in)
        bias = torch.zeros(d_out) if base.bias is None else base.bias.detach().clone()
        plain = base(x).detach()
        module: Any = make(base, r, alpha).eval()
    A, B = factor(module, "lora_A"), factor(module, "lora_B")
    checks = [compare("output at the start", module(x), plain, "attaching must change nothing: B starts at zero.")]
    checks.append(_nonzero("A at the start", A))
    if A.shape != A0.shape or B.shape != B0.shape:
        return [
            *checks,
            compare("shape of A", A, A0, "A is (r, d_in)."),
            compare("shape of B", B, B0, "B is (d_out, r)."),
        ]
    with torch.no_grad():
        A.copy_(A0)
        B.copy_(B0)
    s, y, xd = alpha / r, module(x), x.detach().double()
    update = xd @ A0.double().T @ B0.double().T
    checks.append(compare("forward", y, plain.double() + s * update, wrong_forward(y, plain, update, bias, s, alpha)))
    (y * weights_of_loss).sum().backward()
    g = weights_of_loss.double().flatten(0, 1)
    flat = xd.flatten(0, 1)
    checks.append(compare_gradient("gradient of A", A, s * B0.double().T @ g.T @ flat))
    checks.append(compare_gradient("gradient of B", B, s * g.T @ (flat @ A0.double().T)))
    expected = weights_of_loss.double() @ (W.double() + s * B0.double() @ A0.double())
    checks.append(compare_gradient("gradient of the input", x, expected))
    moved = sum(p.grad.abs().sum().item() for p in base.parameters() if p.grad is not None)
    thawed = any(p.requires_grad for p in base.parameters())
    checks.append(
        Check("base frozen", not moved and not thawed, moved, tuple(W.shape), "W or b still takes gradients.")
    )
    return checks + _check_merging(module, base, kind, x.detach(), y.detach(), W, s * B0 @ A0)


def _check_merging(module: Any, base: Linear, kind: str, x: Tensor, y: Tensor, W: Tensor, delta: Tensor) -> list[Check]:
    saved = load_safetensors(save_safetensors({k: v.contiguous() for k, v in module.state_dict().items()}))
    other = copy.deepcopy(module)
    for name in ("lora_A", "lora_B"):
        nn.init.ones_(factor(other, name))
    other.load_state_dict(saved)
    checks = [compare("after save and load", other(x), y, "the state dict must hold A and B.")]
    merged = module.merge() if hasattr(module, "merge") else None
    layer = module if merged is None else merged
    weight = base.weight.T if kind == "Conv1D" else base.weight
    checks.append(compare("merged weight", weight, W + delta, "merging adds (alpha / r) B A to W, once."))
    checks.append(compare("output when merged", layer(x), y, "a merged layer must not add the update again."))
    if hasattr(module, "unmerge"):
        module.unmerge()
    weight = base.weight.T if kind == "Conv1D" else base.weight
    checks.append(compare("unmerged weight", weight, W, "unmerging gives W back."))
    checks.append(compare("output when unmerged", module(x), y, "the update must be beside W again."))
    return checks


def factor(module: nn.Module, name: str) -> Tensor:
    """The factor `lora_A` or `lora_B` of a LoRA module, whether a parameter, a linear layer, or peft's dictionary.

    Raises:
        AttributeError: the module has no such factor.
    """
    found = getattr(module, name, None)
    if isinstance(found, nn.ModuleDict):
        found = next(iter(found.values()))
    if isinstance(found, nn.Linear):
        found = found.weight
    if not isinstance(found, Tensor):
        raise AttributeError(f"{type(module).__name__} has no parameter {name}; the check looks for lora_A and lora_B.")
    return found


def _nonzero(name: str, tensor: Tensor) -> Check:
    hint = "A and B both start at zero, so neither ever gets a gradient."
    return Check(name, bool(tensor.abs().max() > 0), 0.0, tuple(tensor.shape), hint)


def wrong_forward(y: Tensor, plain: Tensor, update: Tensor, bias: Tensor, s: float, alpha: float) -> str:
    """The mistake that explains a wrong forward pass, where it is one that people make."""
    y, plain, bias = y.detach().double(), plain.double(), bias.double()
    mistakes = {
        "scaled by alpha, expected alpha / r": plain + alpha * update,
        "not scaled at all, expected alpha / r": plain + update,
        "scaled by r / alpha, expected alpha / r": plain + update / s,
        "the scale is on W x too; it belongs on the update alone": s * (plain + update),
        "W x is missing": s * update,
        "the update is missing": plain,
        "the bias is added twice": plain + bias + s * update,
        "the bias is missing": plain - bias + s * update,
    }
    for hint, wrong in mistakes.items():
        if y.shape == wrong.shape and torch.allclose(y, wrong, atol=TOLERANCE):
            return hint + "."
    return ""
