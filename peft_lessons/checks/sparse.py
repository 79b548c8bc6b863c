"""Holds any implementation of a sparse update against the closed form.

Source: Sung, Nair and Raffel 2021, "Training Neural Networks with Fixed Sparse Masks", section 2.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from peft_lessons.checks.report import Check, Report, compare, compare_gradient
from peft_lessons.methods.targets import Linear

MakeSparse: TypeAlias = Callable[[Linear, Tensor], nn.Module]


def check_sparse(make: MakeSparse, *, d_in: int = 7, d_out: int = 5, k: int = 6) -> Report:
    """Hold an implementation of a sparse update against y = W x + b + ΔW x, where ΔW has k entries, in float64.

    The values are set to random numbers and d_in differs from d_out, so that a transposed mask cannot pass. Checked on
    `nn.Linear` and on transformers' `Conv1D`: the start, the forward pass, gradients, the frozen base, merging.

    Args:
        make: called as make(layer, index) with a linear layer and positions in W, (k,), row by row: row · d_in +
            column. Returns the module in its place, whose parameter `values`, (k,), holds the entries of ΔW in the
            order of index. `merge()` may return the merged layer, or change the module itself.
        d_in: width of the input.
        d_out: width of the output.
        k: entries in the mask.

    Returns:
        A `Report`; its lines name what is wrong where something is.

    Raises:
        AttributeError: the module has no `values`.

    Source: see the module.
    """
    found = [replace(c, layer=kind) for kind in ("Linear", "Conv1D") for c in _checks(make, kind, d_in, d_out, k)]
    return Report(tuple(found))


def _checks(make: MakeSparse, kind: str, d_in: int, d_out: int, k: int) -> list[Check]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        base: Linear = Conv1D(d_out, d_in) if kind == "Conv1D" else nn.Linear(d_in, d_out)
        x, g, values = torch.randn(2, 4, d_in, requires_grad=True), torch.randn(2, 4, d_out), torch.randn(k)
        index = torch.randperm(d_in * d_out)[:k]
        plain = base(x).detach()
        W = (base.weight.T if kind == "Conv1D" else base.weight).detach().clone()  # (d_out, d_in)
        module: Any = make(base, index).eval()
    checks = [compare("output at the start", module(x), plain, "attaching must change nothing: values start at 0.")]
    checks.append(compare("number of values", module.values, torch.zeros(k), "one value for each position."))
    if module.values.shape != (k,):
        return checks
    with torch.no_grad():
        module.values.copy_(values)
    delta = torch.zeros(d_out, d_in).double()
    delta.view(-1)[index] = values.double()
    y, xd, gd = module(x), x.detach().double(), g.double().flatten(0, 1)
    other = torch.zeros(d_in, d_out).double()
    other.view(-1)[index] = values.double()
    wrong = plain.double() + xd @ other
    turned = "the positions are counted down the columns; they run along the rows of W, row · d_in + column."
    hint = turned if y.shape == wrong.shape and torch.allclose(y.double(), wrong, atol=1e-5) else ""
    checks.append(compare("forward", y, plain.double() + xd @ delta.T, hint))
    (y * g).sum().backward()
    of_delta = gd.T @ xd.flatten(0, 1)  # (d_out, d_in)
    checks.append(compare_gradient("gradient of values", module.values, of_delta.flatten()[index]))
    checks.append(compare_gradient("gradient of the input", x, g.double() @ (W.double() + delta)))
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    checks.append(
        Check("numbers trained", trained == k, float(abs(trained - k)), (trained,), f"only the {k} values train.")
    )
    merged = module.merge() if hasattr(module, "merge") else None
    layer = module if merged is None else merged
    weight = base.weight.T if kind == "Conv1D" else base.weight
    checks.append(compare("merged weight", weight, W + delta, "merging adds the values at their positions, once."))
    outside = torch.ones(d_out * d_in, dtype=torch.bool)
    outside[index] = False
    same = torch.equal(weight.detach().flatten()[outside], W.flatten()[outside])
    checks.append(Check("entries left alone", same, 0.0, (int(outside.sum()),), "an entry outside the mask moved."))
    checks.append(compare("output when merged", layer(x), y, "a merged layer must not add the update again."))
    return checks
