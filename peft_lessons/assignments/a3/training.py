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

STEPS, LR = 16, 2e-3
FAR_OFF = 0.01  # of a loss; weight decay or none moves it by less than a hundredth of that


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
    added = {name: p for name, p in given.model.named_parameters() if ".lora_" in name}
    before = {name: p.detach().clone() for name, p in added.items()}
    told["losses"] = [float(loss) for loss in train(given.model, given.batches, LR)]
    told["trained"] = [name for name, p in given.model.named_parameters() if p.requires_grad and name not in added]
    told["still"] = [name for name, p in added.items() if torch.equal(p, before[name])]
    told["after"] = weights_hash(given.model)


def one_loss_a_step(given: Run, told: Told) -> str:
    n = len(told["losses"])
    return "" if n == STEPS else f"there are {n} losses for {STEPS} batches."


def losses(given: Run, told: Told) -> str:
    if wrong := one_loss_a_step(given, told):
        return wrong
    right, found = _right_losses(given), torch.tensor(told["losses"], dtype=torch.float64)
    off = ~((found - right).abs() < FAR_OFF * right)
    if not off.any():
        return ""
    first, last, at = float(found[:4].mean()), float(found[-4:].mean()), int(off.nonzero()[0])
    if at == 0:
        return "the first loss is not that of the first batch, before any step."
    if not last < 0.8 * first:
        return f"the loss goes from {first:.2f} to {last:.2f}: is each gradient used once, and is a step made?"
    if at == 1:
        return "after one batch the model is not where one AdamW step at this learning rate takes it."
    return f"right for {at} losses, and then not: does something of a batch outlive it, or does something start anew?"


def _right_losses(given: Run) -> Tensor:
    optimizer = torch.optim.AdamW([p for p in given.model.parameters() if p.requires_grad], lr=LR)
    found = []
    for batch in given.batches:
        loss = given.model(**batch).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(float(loss.detach()))
    return torch.tensor(found, dtype=torch.float64)


def adapters_moved(given: Run, told: Told) -> str:
    still = told["still"]
    return f"{still[0]} is what it was: what did the optimizer get?" if still else ""


def base_still(given: Run, told: Told) -> str:
    same = told["after"] == weights_hash(fresh_base("tiny")) and not told["trained"]
    if told["still"]:
        return adapters_moved(given, told)  # where nothing is trained, that nothing moves is worth nothing
    return "" if same else "the base's weights are not those of before, bit for bit."


Exercise(
    "a3.train",
    Run,
    ask_run,
    (
        Property("a loss for each batch", 1, one_loss_a_step),
        Property("each loss", 2, losses),
        Property("every adapter moved", 1, adapters_moved),
        Property("the base did not", 1, base_still),
    ),
)
