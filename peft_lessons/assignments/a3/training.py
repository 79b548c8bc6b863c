"""A training loop for LoRA on the course's decoder and a real task: what moves, and what must not.

Source: the plain PyTorch loop, as in `peft_lessons/training.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from peft_lessons.assignments.core import Exercise, Property
from peft_lessons.assignments.given import fresh_base, weights_hash
from peft_lessons.assignments.told import Told
from peft_lessons.methods import LoRA
from peft_lessons.methods.attaching import attach
from peft_lessons.tasks import load_task

STEPS = 25


@dataclass(frozen=True)
class Run:
    """A seed, out of which the course's decoder with LoRA attached and batches of a real task are made when asked."""

    seed: int

    @cached_property
    def model(self) -> Any:
        """The decoder with LoRA attached."""
        return attach(fresh_base("tiny"), LoRA(r=4, alpha=8, target_modules="all-linear"), seed=self.seed)

    @cached_property
    def batches(self) -> list[dict[str, Tensor]]:
        """What `model(**batch)` takes, `STEPS` times."""
        task, g = load_task("records"), torch.Generator().manual_seed(self.seed)
        rows = torch.randint(len(task.train), (STEPS, 8), generator=g).tolist()
        return [dict(task.encode_for_decoder(task.train[chosen], self.model.tokenizer)) for chosen in rows]


def ask_run(given: Run, told: Told, train: Callable[..., list[float]]) -> None:
    losses = train(given.model, given.batches, 2e-3)
    told["losses"] = [float(loss) for loss in losses]
    added = {name: p for name, p in given.model.named_parameters() if ".lora_" in name}
    told["trained"] = [name for name, p in given.model.named_parameters() if p.requires_grad and name not in added]
    told["B moved"] = all(bool(p.any()) for name, p in added.items() if name.endswith("lora_B"))
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
    same = told["after"] == weights_hash(fresh_base("tiny")) and not told["trained"]
    return "" if same and told["B moved"] is True else "the base's weights are not those of before, bit for bit."


Exercise(
    "a3.train",
    Run,
    ask_run,
    (
        Property("a loss for each batch", 1, one_loss_a_step),
        Property("the loss falls", 2, loss_falls),
        Property("every adapter moved", 1, adapters_moved),
        Property("the base did not", 1, base_still),
    ),
)
