"""M4. "0.1 % trains, and it still does not fit": LoRA frees gradients and optimizer states, not weights or activations.

Source: huggingface/peft issues 1469 and 1514, lm-sys/FastChat issue 1251; the counting is that of lesson 02.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from peft_lessons.assignments.bug_clinic.shared import each, lora_parameters, small_batch, small_lora
from peft_lessons.assignments.core import Exercise, Property
from peft_lessons.assignments.given import close
from peft_lessons.assignments.told import Told
from peft_lessons.tasks import IGNORED

PARTS = ("weights", "gradients", "optimizer", "activations")


@dataclass(frozen=True)
class Step:
    """A seed, out of which come sizes to account for, and a batch whose rows have answers of different length."""

    seed: int

    @property
    def sizes(self) -> list[tuple[int, int, int]]:
        """n_total, n_trainable and bytes of activations, of some runs."""
        g = torch.Generator().manual_seed(self.seed)
        totals = torch.randint(10**6, 10**10, (5,), generator=g).tolist()
        return [(n, n // (3 + 100 * i) if i else n, 1000 * (n % 977)) for i, n in enumerate(totals)]

    @property
    def model(self) -> Any:
        """A small model with LoRA."""
        return small_lora(self.seed)

    @property
    def batch(self) -> dict[str, Tensor]:
        """Seven rows; the first labels of each are ignored, more in some than in others."""
        batch = small_batch(self.seed, rows=7, length=10)
        for i, row in enumerate(batch["labels"]):
            row[: 2 + (i * 5 + self.seed) % 7] = IGNORED
        return batch


def ask_step(given: Step, told: Told, account: Callable[..., dict[str, int]], run: Callable[..., None]) -> None:
    def accounted() -> None:
        told["bytes"] = [{part: account(*sizes)[part] for part in PARTS} for sizes in given.sizes]

    def mended() -> None:
        model, rows, passes = given.model, [], []

        def seen(_: nn.Module, args: tuple[Tensor], logits: Tensor) -> None:
            rows.append(len(logits))
            passes.append("forward")
            if logits.requires_grad:
                logits.register_hook(lambda _: passes.append("backward"))

        model.get_output_embeddings().register_forward_hook(seen)
        run(model, given.batch, 2)
        told["rows"], told["passes"] = rows, passes
        told["gradients"] = _gradients(model)

    each(accounted, mended)


def _gradients(model: Any) -> Tensor:
    found = [p.grad if p.grad is not None else torch.zeros_like(p) for p in lora_parameters(model).values()]
    return torch.cat([g.flatten() for g in found])


def parts(given: Step, told: Told) -> str:
    for (n_total, n_trainable, activations), found in zip(given.sizes, told["bytes"], strict=True):
        expected = (4 * n_total, 4 * n_trainable, 8 * n_trainable, activations)
        for part, right in zip(PARTS, expected, strict=True):
            if found[part] != right:
                says = (
                    f"for {n_total:,} parameters of which {n_trainable:,} train, {part} are not {found[part]:,} bytes"
                )
                return f"{says}: which of them does AdamW or autograd keep something for, in float32?"
    return ""


def fewer_rows(given: Step, told: Told) -> str:
    rows = told["rows"]
    if not rows or max(rows) > 2:
        return f"{max(rows, default=0)} rows go through the model at once; 2 were allowed."
    if sum(rows) != 7:
        return f"{sum(rows)} rows went through the model; the batch has 7."
    if told["passes"] != ["forward", "backward"] * len(rows):
        return "a part goes forward before the last one went backward, so the activations of both are kept."
    return ""


def same_gradient(given: Step, told: Told) -> str:
    model, found = given.model, told.tensor("gradients")
    model(**given.batch).loss.backward()
    expected = _gradients(model).double()
    if close(found, expected):
        return fewer_rows(given, told)
    ratio = found / expected.where(expected.abs() > 1e-6, torch.inf)
    ratio = ratio[ratio != 0]
    if len(ratio) and bool((ratio - ratio.median()).abs().max() < 1e-3):
        return f"the gradient is {ratio.median():.2f} times that of the whole batch."
    return "the gradient is not that of the whole batch: do all its rows have equally many answer tokens?"


Exercise(
    "bug_clinic.m04_memory",
    Step,
    ask_step,
    (
        Property("the bytes of each part", 2, parts),
        Property("two rows at once at most", 1, fewer_rows),
        Property("the gradient of the whole batch", 1, same_gradient),
    ),
)
