"""M1. Trainable parameters: 0, or an optimizer that holds other parameters than those of the adapter.

Source: huggingface/peft issues 41, 245 and 282; still so in peft 0.21.2: from_pretrained loads for inference.
"""

import copy
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import AdamW, Optimizer

from peft_lessons.assignments.bug_clinic.shared import (
    apart,
    base_hash,
    each,
    lora_parameters,
    shuffled,
    small_batch,
    small_lora,
    small_model,
    told_apart,
)
from peft_lessons.assignments.core import Exercise, Property
from peft_lessons.assignments.given import close
from peft_lessons.assignments.told import Told

ILL = (False, True, True, False, True, True, False, True)  # of the runs below


@dataclass(frozen=True)
class Runs:
    """A seed, out of which models and their optimizers are made when asked."""

    seed: int

    def __iter__(self) -> Iterator[tuple[Any, Optimizer]]:
        sound = small_lora(self.seed)
        yield sound, AdamW([p for p in sound.parameters() if p.requires_grad])
        loaded = small_lora(self.seed + 1, inference_mode=True)
        loaded.requires_grad_(False)
        yield loaded, AdamW(loaded.parameters())
        copied = small_lora(self.seed + 2)
        yield copied, AdamW([p for p in copy.deepcopy(copied).parameters() if p.requires_grad])
        A, B = ([p for n, p in sound.named_parameters() if kind in n] for kind in ("lora_A", "lora_B"))
        yield sound, AdamW([{"params": A, "lr": 1e-4}, {"params": B, "lr": 1e-3}])
        early = small_lora(self.seed + 3)
        yield early, AdamW([p for n, p in early.named_parameters() if "lora_" not in n])
        half = small_lora(self.seed + 4)
        next(p for n, p in half.named_parameters() if "lora_B" in n).requires_grad_(False)
        yield half, AdamW(half.parameters())
        whole = small_lora(self.seed + 5)
        yield whole, AdamW(whole.parameters())
        yield whole, AdamW(A)

    @property
    def saved(self) -> Any:
        """The adapter that is to be trained on."""
        return small_lora(self.seed + 6)


def ask_runs(given: Runs, told: Told, find: Callable[..., bool], resume: Callable[..., Any]) -> None:
    def found() -> None:
        told["said"] = [find(*run) for run in shuffled(given, given.seed)]

    def resumed() -> None:
        with tempfile.TemporaryDirectory() as folder, apart(given.seed):
            given.saved.save_pretrained(folder)
            model, optimizer = resume(small_model(given.seed + 6), folder)
            batch = small_batch(given.seed)
            told["optimizer"] = type(optimizer).__name__, sorted({group["lr"] for group in optimizer.param_groups})
            told["logits"] = model.eval()(**batch).logits
            before = {n: p.detach().clone() for n, p in lora_parameters(model).items()}
            model.train()(**batch).loss.backward()
            optimizer.step()
            told["moved"] = [not torch.equal(p, before[n]) for n, p in lora_parameters(model).items()]
            told["base"] = base_hash(model)

    each(found, resumed)


def told_them_apart(given: Runs, told: Told) -> str:
    return told_apart(shuffled(ILL, given.seed), told["said"])


def goes_on(given: Runs, told: Told) -> str:
    with torch.no_grad():
        expected: Tensor = given.saved(**small_batch(given.seed)).logits
    if not close(told.tensor("logits"), expected):
        return "before its first step the model does not compute what the saved adapter does: is it the saved one?"
    name, rates = told["optimizer"]
    if name != "AdamW" or rates != [1e-3]:
        return f"the optimizer is {name} with a rate of {', '.join(map(str, rates))}, which was not asked for."
    if not told["moved"] or not all(told["moved"]):
        return f"after one step {sum(told['moved'])} of {len(told['moved'])} LoRA matrices have moved."
    return ""


def base_still(given: Runs, told: Told) -> str:
    same = told["base"] == base_hash(small_model(given.seed + 6))
    return "" if same and not goes_on(given, told) else "one step must move the adapter, and leave the base's weights."


Exercise(
    "bug_clinic.m01_nothing_trains",
    Runs,
    ask_runs,
    (
        Property("tells ill runs from sound ones", 2, told_them_apart),
        Property("goes on from the saved adapter", 1, goes_on),
        Property("and the base stays", 1, base_still),
    ),
)
