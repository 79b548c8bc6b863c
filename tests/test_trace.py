"""The tracer of live bytes: counted by hand on one layer, the same on meta tensors, and the model left as it was."""

import pytest
import torch
from models import bert, llama
from torch import nn

from peft_lessons import attach
from peft_lessons.accounting.kernels import choose_kernel
from peft_lessons.accounting.optimizers import OPTIMIZERS
from peft_lessons.accounting.step import CATEGORIES
from peft_lessons.accounting.trace import trace_step
from peft_lessons.methods import FullFineTuning, LoRA


def summed(model, batch):
    return model(batch["x"]).sum()


def test_one_linear_layer_by_hand():
    model = nn.Linear(6, 4, bias=False)
    optimizer = OPTIMIZERS["adamw"](list(model.parameters()))
    step = trace_step(model, {"x": torch.zeros(5, 6)}, loss=summed, optimizer=optimizer)
    weights, x, y = 4 * 24, 4 * 30, 4 * 20
    assert step.before("forward") == by_category(weights=weights, states=2 * weights, activations=x)
    assert step.before("backward")["activations"] == x + 4  # y is not needed for W's gradient; the sum is 4 bytes
    assert step.before("optimizer step")["gradients"] == weights
    assert step.before("end") == by_category(weights=weights, states=2 * weights, activations=x)
    # The optimizer's square root and denominator are the most that is held beside weights, gradient, states and x.
    assert step.peak == weights * (1 + 1 + 2 + 2) + x > weights + x + y
    assert step.peak_place == "optimizer step"
    assert sum(step.at_peak().values()) == step.peak
    assert [row[:3] for row in step.largest(3)][0] == ("optimizer states", "state", 2)


def by_category(weights=0, gradients=0, states=0, activations=0):
    return dict(zip(CATEGORIES, (weights, gradients, states, activations, 0, 0), strict=True))


def test_a_frozen_layer_has_no_gradient_and_keeps_no_input():
    model = nn.Sequential(nn.Linear(6, 6, bias=False).requires_grad_(False), nn.Linear(6, 4, bias=False))
    step = trace_step(model, {"x": torch.zeros(5, 6)}, loss=summed)
    assert step.before("optimizer step")["gradients"] == 4 * 24
    assert step.before("backward")["activations"] == 2 * 4 * 30 + 4  # x belongs to the batch; the first output is kept


@pytest.mark.parametrize("make", [bert, lambda: llama(tied=False)], ids=["bert", "llama"])
@pytest.mark.parametrize("method", [FullFineTuning(), LoRA(r=3, alpha=7, target_modules="all-linear")])
def test_meta_and_real_tensors_give_the_same_bytes(make, method):
    found = []
    for device in ("cpu", "meta"):
        model = attach(make(), method)
        if hasattr(model, "set_head"):
            model.set_head(("no", "yes"))
            labels = torch.zeros(3, dtype=torch.long)
        else:
            labels = torch.ones(3, 11, dtype=torch.long)
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0  # attention with dropout takes another path on a CPU
        model = model.to(device).eval()
        if device == "meta":
            model.config._attn_implementation = "meta_fl_cpu"
        else:
            model.config._attn_implementation = "sdpa"
        ids, mask = torch.ones(2, 3, 11, dtype=torch.long).unbind()
        batch = {"input_ids": ids.clone(), "attention_mask": mask.clone(), "labels": labels}
        optimizer = OPTIMIZERS["adamw"]([p for p in model.parameters() if p.requires_grad])
        step = trace_step(model, {k: v.to(device) for k, v in batch.items()}, optimizer=optimizer)
        found.append((step.peak, step.peak_place, step.at_peak(), step.before("loss"), step.before("end")))
    assert found[0] == found[1]


def test_the_output_that_is_kept_is_held_through_the_next_step():
    model = attach(llama(), LoRA()).train()
    ids = torch.ones(2, 8, dtype=torch.long)
    batch = {"input_ids": ids, "labels": ids}
    dropped, kept = (trace_step(model, batch, keep_output=keep) for keep in (False, True))
    logits = 2 * 8 * 300 * 4
    assert kept.before("forward")["loss"] - dropped.before("forward")["loss"] == logits + 4  # and the loss itself
    assert kept.before("optimizer step")["loss"] >= logits
    assert kept.peak > dropped.peak


def test_the_model_is_left_as_it_was():
    model = attach(llama(), LoRA()).train()
    ids = torch.ones(2, 8, dtype=torch.long)
    before = {name: p.clone() for name, p in model.named_parameters()}
    trace_step(model, {"input_ids": ids, "labels": ids})
    assert all(not module._forward_pre_hooks for module in model.modules())
    assert all(p.grad is None and torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_nothing_to_train_is_one_sentence():
    with pytest.raises(RuntimeError, match="attach a method first"):
        trace_step(nn.Linear(2, 2).requires_grad_(False), {"x": torch.zeros(1, 2)}, loss=summed)


@pytest.mark.parametrize(
    ("asked", "given", "runs"),
    [
        ("flash", {}, "flash"),
        ("flash", {"dtype": torch.float32}, "efficient"),
        ("flash", {"dtype": torch.float32, "grouped": True}, "math"),
        ("flash", {"bias": True}, "efficient"),
        ("flash", {"bias": True, "grouped": True}, "efficient"),  # transformers repeats keys and values first
        ("flash", {"head_dim": 512}, "efficient"),
        ("efficient", {"grouped": True}, "math"),
        ("math", {}, "math"),
        ("eager", {"dtype": torch.float32}, "eager"),
        ("flash", {"device": "cpu"}, "cpu"),
        ("flash", {"device": "cpu", "dropout": 0.1}, "math"),
    ],
)
def test_the_kernel_that_really_runs(asked, given, runs):
    assert choose_kernel(asked, **given) == runs


def test_an_unknown_kernel_is_named():
    with pytest.raises(ValueError, match="flash, efficient, math, eager"):
        choose_kernel("fast")
