"""M9. Evaluated at 0.965, loaded again at 0.496: the file holds the adapter, and the new head was never in it.

Source: huggingface/peft issues 577, 876 and 1836; still so in peft 0.21.2 without `task_type`.
"""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from math import isclose
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from torch import nn

from peft_lessons.assignments.bug_clinic.m08_precision import small_classifier
from peft_lessons.assignments.bug_clinic.shared import (
    LLAMA_TARGETS,
    apart,
    each,
    shuffled,
    small_batch,
    told_apart,
    with_adapter,
)
from peft_lessons.assignments.core import Exercise, Property
from peft_lessons.assignments.given import close
from peft_lessons.assignments.told import Told

SETTINGS: tuple[tuple[bool, dict[str, Any]], ...] = (
    (True, {}),
    (False, {"task_type": "SEQ_CLS"}),
    (True, {"modules_to_save": ["classifier"]}),
    (False, {"modules_to_save": ["score"]}),
    (True, {"target_modules": [*LLAMA_TARGETS, "score"]}),
    (True, {"task_type": "FEATURE_EXTRACTION"}),
)


@dataclass(frozen=True)
class Heads:
    """A seed, out of which trained classifiers come, of which some will lose their head in a file."""

    seed: int

    def __iter__(self) -> Iterator[tuple[Any, Callable[[], Any]]]:
        """A trained model, and what makes a base for it: the same body with another head."""
        for i, (_, setting) in enumerate(SETTINGS):
            seed = self.seed + i
            config = LoraConfig(**({"r": 2, "target_modules": LLAMA_TARGETS, "lora_dropout": 0.3} | setting))
            made = with_adapter(small_classifier(seed, head_seed=seed), config, seed)
            yield made.train(), partial(small_classifier, seed, head_seed=seed + 1)

    @property
    def batch(self) -> dict[str, torch.Tensor]:
        """Rows to compare logits on."""
        batch = small_batch(self.seed)
        return {name: batch[name] for name in ("input_ids", "attention_mask")}


def ask_heads(given: Heads, told: Told, differ: Callable[..., float], wrap: Callable[..., Any]) -> None:
    def found() -> None:
        told["differences"] = [float(differ(model, make, given.batch)) for model, make in shuffled(given, given.seed)]

    def mended() -> None:
        with apart(given.seed), tempfile.TemporaryDirectory() as folder:
            model = wrap(small_classifier(given.seed))
            told["trained"] = [name for name, p in model.named_parameters() if p.requires_grad]
            for parameter in model.parameters():
                if parameter.requires_grad:
                    nn.init.normal_(parameter, std=0.3)
            told["logits"] = model.eval()(**given.batch).logits
            model.save_pretrained(folder)
            again = PeftModel.from_pretrained(small_classifier(given.seed), folder).eval()
            told["logits again"] = again(**given.batch).logits

    each(found, mended)


def _ill(given: Heads) -> list[bool]:
    return shuffled([ill for ill, _ in SETTINGS], given.seed)


def differences(given: Heads, told: Told) -> str:
    found = told["differences"]
    if wrong := told_apart(_ill(given), [not abs(difference) < 1e-4 for difference in found]):
        return f"a difference above 0 is a loss: {wrong}"
    for (model, make), difference in zip(shuffled(given, given.seed), found, strict=True):
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
            model.save_pretrained(folder)
            again = PeftModel.from_pretrained(make(), folder).eval()(**given.batch).logits
            right = (model.eval()(**given.batch).logits - again).abs().max().item()
        if not isclose(difference, right, rel_tol=1e-3, abs_tol=1e-4):
            return "that is not the largest of the differences, by size."
    return ""


def trained(given: Heads, told: Told) -> str:
    lora, head = (any(kind in name for name in told["trained"]) for kind in ("lora_B", "score"))
    if not lora or not head:
        return f"{'the head' if lora else 'LoRA'} is not trained."
    asked = ("q_proj.lora_", "v_proj.lora_", "score.")
    others = [n for n in told["trained"] if not any(part in n for part in asked)]
    if others:
        return f"{others[0]} is trained too."
    missing = [part for part in LLAMA_TARGETS if not any(part in n for n in told["trained"])]
    return f"there is no LoRA at {missing[0]}." if missing else ""


def comes_back(given: Heads, told: Told) -> str:
    if wrong := trained(given, told):
        return wrong
    same = close(told.tensor("logits again"), told.tensor("logits"))
    return "" if same else "saved and loaded again, the model gives other logits: what of it is not in the file?"


Exercise(
    "bug_clinic.m09_lost_head",
    Heads,
    ask_heads,
    (
        Property("the round trip tells", 2, differences),
        Property("LoRA and the head are trained", 1, trained),
        Property("both come back from the file", 1, comes_back),
    ),
)
