"""A prompt that learns: trained alone, in front of the course's decoder, on a real task.

Source: Lester, Al-Rfou and Constant 2021, section 2.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from peft_lessons.assignments.core import Exercise, Property
from peft_lessons.assignments.given import fresh_base, weights_hash
from peft_lessons.assignments.told import Told
from peft_lessons.tasks import IGNORED, load_task

STEPS, LENGTH = 30, 8


def prompted_loss(model: Any, prompt: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """The loss of a batch with a prompt, (p, d), in front of each of its rows, (batch, n)."""
    x = model.get_input_embeddings()(batch["input_ids"])
    p = len(prompt)
    mask = F.pad(batch["attention_mask"], (p, 0), value=1)
    return model(
        inputs_embeds=torch.cat([prompt.expand(len(x), -1, -1).to(x.dtype), x], dim=1),
        attention_mask=mask,
        position_ids=(mask.cumsum(-1) - 1).clamp(min=0),
        labels=F.pad(batch["labels"], (p, 0), value=IGNORED),
    ).loss


@dataclass(frozen=True)
class Run:
    """A seed, out of which the course's decoder and batches of a real task are made when asked."""

    seed: int

    @cached_property
    def model(self) -> Any:
        """The decoder, as it is."""
        return fresh_base("tiny").requires_grad_(True)

    @cached_property
    def batches(self) -> list[dict[str, Tensor]]:
        """`STEPS` batches to train on, and four more."""
        task, g = load_task("records"), torch.Generator().manual_seed(self.seed)
        rows = torch.randint(len(task.train), (STEPS + 4, 8), generator=g).tolist()
        return [dict(task.encode_for_decoder(task.train[chosen], self.model.tokenizer)) for chosen in rows]

    def loss(self, prompt: Tensor) -> float:
        """The mean loss of the four other batches."""
        with torch.no_grad():
            return (
                torch.stack([prompted_loss(self.model, prompt, batch) for batch in self.batches[STEPS:]]).mean().item()
            )


def ask_run(given: Run, told: Told, train: Callable[..., tuple[Tensor, list[float]]]) -> None:
    prompt, losses = train(given.model, given.batches[:STEPS], LENGTH)
    told["prompt"], told["losses"] = prompt, [float(loss) for loss in losses]
    told["after"] = weights_hash(given.model)
    told["trainable"] = [name for name, p in given.model.named_parameters() if p.requires_grad]


def one_loss_a_step(given: Run, told: Told) -> str:
    n = len(told["losses"])
    return "" if n == STEPS else f"there are {n} losses for {STEPS} batches."


def its_shape(given: Run, told: Told) -> str:
    shape, d = tuple(told.tensor("prompt").shape), given.model.config.hidden_size
    return (
        ""
        if shape == (LENGTH, d)
        else f"the prompt is {shape}; it should be as many vectors as asked for, of width {d}."
    )


def lowers_the_loss(given: Run, told: Told) -> str:
    if its_shape(given, told):
        return its_shape(given, told)
    prompt = told.tensor("prompt").float()
    with_it, without = given.loss(prompt), given.loss(prompt[:0])
    says = f"the loss is {without:.2f} without the prompt and {with_it:.2f} with it"
    return "" if with_it < 0.75 * without else f"{says}: which learning rate does a prompt need?"


def base_still(given: Run, told: Told) -> str:
    if told["trainable"]:
        return f"{told['trainable'][0]} and {len(told['trainable']) - 1} more can still be trained: freeze the model."
    same = told["after"] == weights_hash(fresh_base("tiny"))
    return "" if same and told["losses"] else "the model's weights are not those of before, bit for bit."


Exercise(
    "a5.train_prompt",
    Run,
    ask_run,
    (
        Property("a loss for each batch", 1, one_loss_a_step),
        Property("as many vectors as asked for", 1, its_shape),
        Property("the prompt lowers the loss", 2, lowers_the_loss),
        Property("the model does not move", 2, base_still),
    ),
)
