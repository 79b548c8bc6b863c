"""The decoder learns `records` through 0.5 % of its linear layers' entries, chosen in four ways, and through rows.

What is spent on the choice comes before the 100 steps: Fisher reads 256 sentences, each with a backward pass; the
lottery ticket takes 50 steps of full fine-tuning; diff pruning 100 steps of its own; FAR 20 of full fine-tuning. The
choice depends on the seed, not on the rate.
"""

from collections.abc import Callable

from torch import nn

from peft_lessons import attach, fit
from peft_lessons.methods import FAR, DiffPruning, SparseUpdate
from peft_lessons.methods.core import Adapter, Method
from peft_lessons.methods.selective.diff_pruning import pruned
from peft_lessons.methods.selective.masks import fisher_masks, learner_nodes, lottery_masks
from peft_lessons.tasks import Task
from studies.arm import Arm

KEEP = 0.005
FULL_RATE = 1e-3  # of full fine-tuning on this task, chosen on validation in the study `decoder`


def arms() -> list[Arm]:
    common = {"base": "tiny", "task": "records", "steps": 100, "method": SparseUpdate(keep=KEEP)}
    return [
        Arm("random mask", rates=(3e-2, 1e-1, 3e-1), **common),
        Arm("Fisher mask", rates=(5e-3, 1e-2, 2e-2), prepare=once(fisher), **common),
        Arm("lottery mask", rates=(3e-2, 1e-1, 3e-1, 1.0), prepare=once(lottery), **common),
        Arm("diff pruning", rates=(3e-2, 1e-1, 3e-1), prepare=once(diff), **common),
        Arm("FAR", rates=(1e-2, 3e-2, 1e-1, 3e-1), prepare=once(far), **common | {"method": FAR(share=0.05)}),
    ]


def fisher(model: nn.Module, task: Task, seed: int) -> Method:
    return SparseUpdate(masks=fisher_masks(model, task, KEEP, n_samples=256, seed=seed))


def lottery(model: nn.Module, task: Task, seed: int) -> Method:
    return SparseUpdate(masks=lottery_masks(model, task, KEEP, steps=50, lr=FULL_RATE, seed=seed))


def diff(model: nn.Module, task: Task, seed: int) -> Adapter:
    attach(model, DiffPruning(sparsity_penalty=1e-6, alpha_rate=300), seed=seed)
    fit(model, task, 100, lr=FULL_RATE, seed=seed, progress=False)
    return pruned(model, KEEP)


def far(model: nn.Module, task: Task, seed: int) -> Method:
    return FAR(share=0.05, nodes=learner_nodes(model, task, 0.05, steps=20, lr=FULL_RATE, seed=seed))


def once(choose: Callable) -> Callable:
    """The choice for each seed, made once and kept for the other rates."""
    made = {}

    def prepare(model: nn.Module, task: Task, lr: float, seed: int) -> Method | Adapter:
        if seed not in made:
            made[seed] = choose(model, task, seed)
        return made[seed]

    return prepare
