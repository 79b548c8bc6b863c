"""M14. "LoRA cannot forget, the base is frozen": with the adapter on, the old task is as lost as any.

Source: refact issue 311, huggingface/transformers issue 24330. That LoRA forgets less than full fine-tuning
is Biderman et al. 2024, "LoRA Learns Less and Forgets Less"; it is not asked for here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import isclose
from typing import Any

import torch
from torch import Tensor

from peft_lessons.assignments.bug_clinic.shared import apart, each, small_batch, small_lora, small_model
from peft_lessons.assignments.core import Exercise, Property
from peft_lessons.assignments.given import close
from peft_lessons.assignments.told import Told


@dataclass(frozen=True)
class Old:
    """A seed, out of which adapters come, trained for something new, and batches of the old task."""

    seed: int

    def model(self, i: int) -> Any:
        """The i-th model; it is left in training mode and has dropout."""
        return small_lora(self.seed + i, lora_dropout=0.3).train()

    def batch(self, i: int) -> dict[str, Tensor]:
        """The i-th batch of the old task."""
        return small_batch(self.seed + 10 + i)

    def losses(self, i: int) -> tuple[float, float]:
        """The old task's loss with the adapter and without."""
        with torch.no_grad():
            on = self.model(i).eval()(**self.batch(i)).loss.item()
            return on, small_model(self.seed + i)(**self.batch(i)).loss.item()


def ask_old(given: Old, told: Told, forgotten: Callable[..., float], old_logits: Callable[..., Tensor]) -> None:
    def found() -> None:
        with apart(given.seed):
            told["forgotten"] = [float(forgotten(given.model(i), given.batch(i))) for i in range(4)]

    def mended() -> None:
        with apart(given.seed):
            model = small_lora(given.seed + 5, "gpt2", target_modules=["c_attn"])  # whose base has dropout of its own
            before = model(**given.batch(5)).logits.detach()
            told["old"] = old_logits(model.train(), given.batch(5))
            told["adapter still on"] = bool((model.eval()(**given.batch(5)).logits - before).abs().max() < 1e-4)
            told["trained"] = sum(p.requires_grad for p in model.parameters())

    each(found, mended)


def measured(given: Old, told: Told) -> str:
    for i, found in enumerate(told["forgotten"]):
        on, off = given.losses(i)
        if not isclose(found, on - off, abs_tol=1e-4):
            if isclose(found, off - on, abs_tol=1e-4):
                return "the sign: more loss on the old task is more forgotten."
            if isclose(found, on, abs_tol=1e-4) or isclose(found, off, abs_tol=1e-4):
                return "that is a loss; what was forgotten is a difference of two."
            says = f"a loss of {on:.3f} with the adapter and {off:.3f} without is not {found:.3f} forgotten"
            return f"{says}: is dropout off?"
    return ""


def exact(given: Old, told: Told) -> str:
    with torch.no_grad():
        expected = small_model(given.seed + 5, "gpt2")(**given.batch(5)).logits
    return "" if close(told.tensor("old"), expected) else "these are not the logits that the base gave before training."


def still_on(given: Old, told: Told) -> str:
    if wrong := exact(given, told):
        return wrong
    if told["adapter still on"] is not True:
        return "afterwards the adapter is gone or off, so the new task is lost instead."
    return "" if told["trained"] else "afterwards nothing is trained any more."


Exercise(
    "bug_clinic.m14_forgetting",
    Old,
    ask_old,
    (
        Property("what is forgotten", 2, measured),
        Property("the old answers, exactly", 1, exact),
        Property("and the new ones after them", 1, still_on),
    ),
)
