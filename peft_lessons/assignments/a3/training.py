"""A training loop for LoRA on the course's decoder and a real task: what moves, and what must not.

Source: the plain PyTorch loop, as in `peft_lessons/training.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from peft_lessons.assignments.core import Exercise, Property
from peft_lessons.assignments.given import weights_hash
from peft_lessons.assignments.told import Told
from peft_lessons.bases import load_base
from peft_lessons.methods import LoRA
from peft_lessons.methods.attaching import attach
from peft_lessons.tasks import load_task

STEPS = 25


@dataclass(frozen=True)
class Run:
    """The course's decoder with LoRA attached, and batches of a real task."""

    model: Any
    batches: list[dict[str, Tensor]]
    before: str


def draw_run(seed: int) -> Run:
    model, tokenizer = load_base("tiny", device="cpu")
    before = weights_hash(model)
    attach(model, LoRA(r=4, alpha=8, target_modules="all-linear"), seed=seed)
    task, g = load_task("records"), torch.Generator().manual_seed(seed)
    rows = torch.randint(len(task.train), (STEPS, 8), generator=g).tolist()
    batches = [dict(task.encode_for_decoder(task.train[chosen], tokenizer)) for chosen in rows]
    return Run(model, batches, before)


def ask_run(given: Run, told: Told, train: Callable[..., list[float]]) -> None:
    losses = train(given.model, given.batches, 2e-3)
    told["losses"] = [float(loss) for loss in losses]
    added = {name: p for name, p in given.model.named_parameters() if ".lora_" in name}
    told["trained"] = [name for name, p in given.model.named_parameters() if p.requires_grad and name not in added]
    told["B moved"] = all(bool(p.any()) for name, p in added.items() if name.endswith("lora_B"))
    told["gradients left"] = any(p.grad is not None and bool(p.grad.any()) for p in added.values())
    told["after"] = weights_hash(given.model)


def one_loss_a_step(given: Run, told: Told) -> str:
    n = len(told["losses"])
    return "" if n == STEPS else f"there are {n} losses for {STEPS} batches."


def loss_falls(given: Run, told: Told) -> str:
    losses = torch.tensor(told["losses"])
    first, last = losses[:5].mean(), losses[-5:].mean()
    says = f"the loss goes from {first:.2f} to {last:.2f}: is each gradient used once, and is a step made?"
    return "" if last < 0.8 * first else says


def adapters_moved(given: Run, told: Told) -> str:
    return "" if told["B moved"] is True else "some lora_B is still zero: what did the optimizer get?"


def base_still(given: Run, told: Told) -> str:
    same = told["after"] == given.before and not told["trained"]
    return "" if same and told["B moved"] is True else "the base's weights are not those of before, bit for bit."


Exercise(
    "a3.train",
    draw_run,
    ask_run,
    (
        Property("a loss for each batch", 1, one_loss_a_step),
        Property("the loss falls", 2, loss_falls),
        Property("every adapter moved", 1, adapters_moved),
        Property("the base did not", 1, base_still),
    ),
)
