"""QLoRA on `records`: LoRA on a base in four bits and coarser codes, and where its adapter may go afterwards.

Each test run there has three more accuracies beside `accuracy`, which is on the rounded base it was trained on:
`merged` into that base, `on_original` base, and `requantized`, merged and rounded again. `error_over_update` is
‖W - dq(q(W))‖ / ‖ΔW‖ over all target layers. And NF4 on `sentiment`, MiniLM, without these.
"""

import copy
from functools import partial

import torch
from torch import nn

from peft_lessons import attach, dequantize, detach, evaluate, load_base, merge, quantize
from peft_lessons.methods import LoRA
from peft_lessons.methods.core import attachment
from peft_lessons.methods.targets import matrix
from peft_lessons.tasks import Task
from studies.arm import Arm

KINDS = {"NF4": "nf4", "FP4": "fp4", "int4": "int4", "7 levels": "normal7", "4 levels": "normal4"}


def arms() -> list[Arm]:
    lora = LoRA(r=8, alpha=16, target_modules="all-linear")
    common = {"base": "tiny", "task": "records", "steps": 100, "method": lora}
    found = []
    for name, kind in KINDS.items():
        rates = (1e-3, 3e-3, 1e-2, 2e-2) if kind == "normal4" else (3e-3, 1e-2, 2e-2)
        found.append(Arm(f"QLoRA, {name}", rates=rates, quantize=kind, after=partial(ladder, kind=kind), **common))
    encoder = {"base": "minilm", "task": "sentiment", "steps": 100, "method": LoRA(r=8, alpha=16)}
    return [*found, Arm("QLoRA, NF4", quantize="nf4", rates=(2e-4, 5e-4, 1e-3, 2e-3), **encoder)]


@torch.no_grad()
def ladder(model: nn.Module, task: Task, kind: str) -> dict[str, float]:
    """Accuracy of the trained adapter in three other places, and the base's rounding error beside the update."""
    original = load_base("tiny")[0]
    found = {"error_over_update": error_over_update(model, original)}
    rounded = copy.deepcopy(model)
    merged = merge(dequantize(rounded))
    found["merged"] = evaluate(merged, task)
    again = load_base("tiny")[0]
    again.load_state_dict(merged.state_dict())
    found["requantized"] = evaluate(quantize(again, kind), task)
    found["on_original"] = evaluate(attach(original, detach(rounded)), task)
    return found


def error_over_update(model: nn.Module, original: nn.Module) -> float:
    """‖W - dq(q(W))‖ / ‖ΔW‖ over the layers that a method wraps; `original` is the base before rounding."""
    error, update = 0.0, 0.0
    for path, module in attachment(model).wrapped().items():
        error += (matrix(original.get_submodule(path)) - matrix(module.base)).square().sum().item()
        update += module.delta().square().sum().item()
    return (error / update) ** 0.5
