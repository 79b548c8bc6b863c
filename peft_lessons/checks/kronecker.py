"""Holds any implementation of a Kronecker update against the closed form.

Source: Edalati et al. 2022, "KronA": y = W x + b + scale · (A ⊗ B) x.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from peft_lessons.checks.report import TOLERANCE, Check, Report, compare, compare_gradient
from peft_lessons.methods.targets import Linear

MakeKronA: TypeAlias = Callable[[Linear, tuple[int, int], float], nn.Module]


def check_kronecker(
    make: MakeKronA, *, a_shape: tuple[int, int] = (2, 3), b_shape: tuple[int, int] = (5, 4), scale: float = 1.7
) -> Report:
    """Hold an implementation of KronA against y = W x + b + scale · (A ⊗ B) x, in float64.

    A and B are set to random numbers of four different sides, none of them zero and the scale not 1, so that swapped or
    transposed factors and wrong reshapes show. Checked on `nn.Linear` with and without bias and on transformers'
    `Conv1D`: the state at the start, the forward pass, gradients, the frozen base and, where the module has them,
    `delta` and `merge`.

    Args:
        make: called as make(layer, a_shape, scale) with a linear layer; returns the module in its place, with
            parameters `kron_A`, (a1, a2), and `kron_B`, (b1, b2), where a1 · b1 = d_out and a2 · b2 = d_in.
        a_shape: (a1, a2).
        b_shape: (b1, b2).
        scale: what the update is multiplied by.

    Returns:
        A `Report`; its lines name what is wrong where something is.

    Raises:
        AttributeError: the module has no parameter `kron_A` or `kron_B`.

    Source: Edalati et al. 2022.
    """
    kinds = ("Linear", "Linear without bias", "Conv1D")
    return Report(tuple(replace(c, layer=kind) for kind in kinds for c in _on(make, kind, a_shape, b_shape, scale)))


def _on(make: MakeKronA, kind: str, a_shape: tuple[int, int], b_shape: tuple[int, int], scale: float) -> list[Check]:
    d_out, d_in = a_shape[0] * b_shape[0], a_shape[1] * b_shape[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        base: Linear = Conv1D(d_out, d_in) if kind == "Conv1D" else nn.Linear(d_in, d_out, bias=kind == "Linear")
        if base.bias is not None:
            nn.init.normal_(base.bias)
        x, loss = torch.randn(2, 4, d_in, requires_grad=True), torch.randn(2, 4, d_out)
        A0, B0 = torch.randn(a_shape), torch.randn(b_shape)
        W = (base.weight.T if kind == "Conv1D" else base.weight).detach().clone()  # (d_out, d_in)
        plain = base(x).detach()
        module: Any = make(base, a_shape, scale).eval()
    for name in ("kron_A", "kron_B"):
        if not isinstance(getattr(module, name, None), nn.Parameter):
            raise AttributeError(f"{type(module).__name__} has no parameter {name}; the check needs kron_A and kron_B.")
    A, B = module.kron_A, module.kron_B
    if A.shape != A0.shape or B.shape != B0.shape:
        return [compare("shape of A", A, A0, "A is (a1, a2)."), compare("shape of B", B, B0, "B is (b1, b2).")]
    hint = "attaching must change nothing: one factor starts at zero."
    random = bool(A.any()) or bool(B.any())
    checks = [
        compare("output at the start", module(x), plain, hint),
        Check("one factor random", random, 0.0, a_shape, "with both at zero neither ever gets a gradient."),
    ]
    with torch.no_grad():
        A.copy_(A0)
        B.copy_(B0)
    y, xd, A64, B64 = module(x), x.detach().double(), A0.double(), B0.double()
    K = torch.kron(A64, B64)  # the one place where it is built, to compare with
    hint = _wrong_forward(y, plain, xd, A64, B64, scale)
    checks.append(compare("forward", y, plain.double() + scale * xd @ K.T, hint))
    if y.shape != plain.shape:
        return checks
    (y * loss).sum().backward()
    g, flat = loss.double().flatten(0, 1), xd.flatten(0, 1)
    G = scale * (g.T @ flat).view(a_shape[0], b_shape[0], a_shape[1], b_shape[1])  # the update's gradient, by its parts
    checks.append(compare_gradient("gradient of A", A, torch.einsum("ipjq,pq->ij", G, B64)))
    checks.append(compare_gradient("gradient of B", B, torch.einsum("ipjq,ij->pq", G, A64)))
    checks.append(compare_gradient("gradient of the input", x, loss.double() @ (W.double() + scale * K)))
    thawed = any(p.requires_grad or p.grad is not None for p in base.parameters())
    checks.append(Check("base frozen", not thawed, 0.0, tuple(W.shape), "W or b still takes gradients."))
    if hasattr(module, "delta"):
        checks.append(compare("delta", module.delta(), scale * K, "what is merged is scale · A ⊗ B."))
    if hasattr(module, "merge"):
        merged = module.merge()
        weight = base.weight.T if kind == "Conv1D" else base.weight
        checks.append(compare("merged weight", weight, W + scale * K, "merging adds scale · A ⊗ B to W, once."))
        layer = module if merged is None else merged
        checks.append(compare("output when merged", layer(x), y, "a merged layer must not add the update again."))
    return checks


def _wrong_forward(y: Tensor, plain: Tensor, x: Tensor, A: Tensor, B: Tensor, scale: float) -> str:
    """The mistake that explains a wrong forward pass, where it is one that people make."""
    y, plain = y.detach().double(), plain.double()
    update = x @ torch.kron(A, B).T
    mistakes = {
        "the factors are swapped: this is B ⊗ A": plain + scale * x @ torch.kron(B, A).T,
        "not scaled": plain + update,
        "the scale is on W x too; it belongs on the update alone": scale * (plain + update),
        "W x is missing": scale * update,
        "the update is missing": plain,
    }
    parts = x.unflatten(-1, (B.shape[1], A.shape[1]))  # x cut into b2 x a2 instead of a2 x b2
    turned = (A @ (parts.transpose(-1, -2) @ B.T)).flatten(-2)
    mistakes["x is cut into b2 × a2; A needs a2 rows of b2 numbers"] = plain + scale * turned
    swapped = (A @ (x.unflatten(-1, (A.shape[1], B.shape[1])) @ B.T)).transpose(-1, -2).flatten(-2)
    mistakes["the result is read column by column; it is a1 rows of b1 numbers"] = plain + scale * swapped
    for hint, wrong in mistakes.items():
        if y.shape == wrong.shape and torch.allclose(y, wrong, atol=TOLERANCE):
            return hint + "."
    return ""
