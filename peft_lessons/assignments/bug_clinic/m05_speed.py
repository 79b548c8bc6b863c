"""M5. "LoRA trains a thousandth, so it is fast": the frozen weights are still multiplied, forward and backward.

Source: huggingface/peft issue 664 (30.5 h against 29 h), artidoro/qlora issue 107; counting 2 operations for a
multiply-add is Kaplan et al. 2020, "Scaling Laws for Neural Language Models", section 2.1.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import isclose
from typing import Any

import torch

from peft_lessons.assignments.bug_clinic.shared import each, small_batch, small_lora, small_model, tuner_layers
from peft_lessons.assignments.core import Exercise, Property
from peft_lessons.assignments.given import close
from peft_lessons.assignments.told import Told


@dataclass(frozen=True)
class Runs:
    """A seed, out of which come sizes of training steps, and a trained model to serve."""

    seed: int

    @property
    def sizes(self) -> list[tuple[int, int, int]]:
        """n_total, n_trainable and tokens of some steps; the first is full fine-tuning."""
        g = torch.Generator().manual_seed(self.seed)
        totals = torch.randint(10**4, 10**10, (5,), generator=g).tolist()
        return [(n, n // (1 + 37 * i), 100 + n % 4001) for i, n in enumerate(totals)]

    @property
    def model(self) -> Any:
        """A trained LoRA."""
        return small_lora(self.seed, target_modules=["q_proj", "v_proj", "down_proj"])


def ask_runs(given: Runs, told: Told, count: Callable[..., int], serve: Callable[..., Any]) -> None:
    def counted() -> None:
        told["operations"] = [count(*sizes) for sizes in given.sizes]

    def mended() -> None:
        model = serve(given.model)
        told["logits"] = model.eval()(**small_batch(given.seed)).logits
        told["left"] = list(tuner_layers(model))
        told["parameters"] = [name for name, _ in model.named_parameters()]

    each(counted, mended)


def operations(given: Runs, told: Told) -> str:
    for (n_total, n_trainable, tokens), found in zip(given.sizes, told["operations"], strict=True):
        right = 4 * n_total * tokens + 2 * n_trainable * tokens
        if not isclose(found, right, rel_tol=1e-9):
            per_token = found / tokens / n_total
            says = f"{n_trainable:,} of {n_total:,} train: {per_token:.2f} operations for each parameter and token"
            return f"{says} is not right. Three products of matrices: for what is each of them needed?"
    return ""


def same_answer(given: Runs, told: Told) -> str:
    with torch.no_grad():
        expected = given.model(**small_batch(given.seed)).logits
    return "" if close(told.tensor("logits"), expected) else "the model for serving does not compute what LoRA learned."


def nothing_added(given: Runs, told: Told) -> str:
    if told["left"]:
        return f"{len(told['left'])} layers still do LoRA's extra work or its bookkeeping."
    plain = [name for name, _ in small_model(given.seed).named_parameters()]
    if told["parameters"] != plain:
        return "the model for serving must have the base's parameters and no others, by the base's names."
    return "" if not same_answer(given, told) else "nothing is added, and nothing of what was learned is left."


Exercise(
    "bug_clinic.m05_speed",
    Runs,
    ask_runs,
    (
        Property("operations of a training step", 2, operations),
        Property("served: the same answers", 1, same_answer),
        Property("served: no extra work", 1, nothing_added),
    ),
)
