"""A prompt that learns: trained alone, in front of the course's decoder, on a real task.

Source: Lester, Al-Rfou and Constant 2021, section 2.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim.optimizer import register_optimizer_step_pre_hook

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
    steps: list[tuple[Tensor, Tensor]] = []
    of_model = set(map(id, given.model.parameters()))

    def note(optimizer: Any, *_: object) -> None:
        """The vectors, and the gradient that a step is about to follow."""
        vectors = (LENGTH, given.model.config.hidden_size)  # whatever shape the parameter has, such as (1, p, d)
        found = [p for group in optimizer.param_groups for p in group["params"] if id(p) not in of_model]
        steps.extend(
            (p.detach().clone().reshape(vectors), p.grad.clone().reshape(vectors))
            for p in found
            if p.numel() == vectors[0] * vectors[1] and p.grad is not None
        )

    hook = register_optimizer_step_pre_hook(note)
    try:
        prompt, losses = train(given.model, given.batches[:STEPS], LENGTH)
    finally:
        hook.remove()
    for name, noted in zip(("prompts", "gradients"), zip(*steps[:STEPS], strict=True), strict=False):
        told[name] = torch.stack(noted)
    told["prompt"], told["losses"] = prompt, [float(loss) for loss in losses]
    told["after"] = weights_hash(given.model)
    told["trainable"] = [name for name, p in given.model.named_parameters() if p.requires_grad]


def one_loss_a_step(given: Run, told: Told) -> str:
    n = len(told["losses"])
    if n != STEPS:
        return f"there are {n} losses for {STEPS} batches."
    for step, loss, _ in _again(given, told):
        if abs(told["losses"][step] - loss) > 1e-3 * abs(loss):
            return f"the prompt of step {step} has another loss on its batch than {told['losses'][step]:.2f}."
    return ""


def own_gradient(given: Run, told: Told) -> str:
    for step, _, gradient in _again(given, told):
        followed = told["gradients"][step]
        if F.cosine_similarity(followed.flatten(), gradient.flatten(), dim=0) < 0.999:  # clipped or not
            return f"what step {step} follows is not the gradient of its own batch alone."
    return ""


def _again(given: Run, told: Told) -> Iterator[tuple[int, float, Tensor]]:
    """For some steps, by number: loss and gradient of the batch, where the prompt was then.

    Raises:
        ValueError: there were other numbers of steps than of batches.
    """
    if "prompts" not in told.tensors or len(told["prompts"]) != STEPS:
        raise ValueError(f"no optimizer of torch.optim made {STEPS} steps with one parameter of {LENGTH} vectors")
    for step in (0, 1, STEPS // 2, STEPS - 1):
        prompt = told["prompts"][step].requires_grad_()
        loss = prompted_loss(given.model, prompt, given.batches[step])
        yield step, loss.item(), torch.autograd.grad(loss, prompt)[0]


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
    return "" if with_it < 0.75 * without else f"{says}: which start, and which learning rate, does a prompt need?"


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
        Property("each step follows its own batch", 1, own_gradient),
        Property("the prompt lowers the loss", 2, lowers_the_loss),
        Property("the model does not move", 2, base_still),
    ),
)
