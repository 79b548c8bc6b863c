"""M11. Wrapped in place: the cell is run again, and the base is no base any more.

Source: huggingface/peft issue 2295 and pull request 2306, huggingface/cookbook pull request 338; peft 0.21.2 warns.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from peft import IA3Config, LoraConfig
from torch import nn

from peft_lessons.assignments.bug_clinic.shared import (
    apart,
    each,
    same_names,
    shuffled,
    small_batch,
    small_lora,
    small_model,
    told_apart,
    tuner_layers,
    with_adapter,
)
from peft_lessons.assignments.core import Exercise, Property
from peft_lessons.assignments.given import close
from peft_lessons.assignments.told import Told

ILL = (False, True, True, False, True, False, True, True)  # of the models below


@dataclass(frozen=True)
class Rerun:
    """A seed, out of which models are made that are a fresh base, or only look like one."""

    seed: int

    def __iter__(self) -> Iterator[nn.Module]:
        yield small_model(self.seed)
        base = small_model(self.seed)
        yield with_adapter(base, self.config, self.seed)
        yield base
        yield small_lora(self.seed + 1).merge_and_unload()
        yield copy.deepcopy(base)
        yield small_lora(self.seed + 2).unload()
        other = small_model(self.seed + 3, "gpt2")
        with_adapter(other, IA3Config(target_modules=["c_attn"], feedforward_modules=[]), self.seed)
        yield other
        yield small_lora(self.seed + 4).get_base_model()

    @property
    def config(self) -> LoraConfig:
        """What the cell asks for when it is run again."""
        return LoraConfig(r=2 + self.seed % 3, lora_alpha=8, target_modules=["q_proj"], task_type="CAUSAL_LM")

    @property
    def first(self) -> Any:
        """The model after the first run: wrapped with more, and trained."""
        return small_lora(self.seed, target_modules=["q_proj", "v_proj", "down_proj"])

    @property
    def fresh(self) -> Any:
        """The model as it should be after the second."""
        with apart(self.seed):
            from peft import get_peft_model

            return get_peft_model(small_model(self.seed), self.config).eval()


def ask_rerun(given: Rerun, told: Told, find: Callable[..., bool], rewrap: Callable[..., Any]) -> None:
    def found() -> None:
        told["said"] = [find(model) for model in shuffled(given, given.seed)]

    def mended() -> None:
        with apart(given.seed):
            model = rewrap(given.first, given.config)
            told["adapters"] = [name for name, _ in model.named_parameters() if "lora_" in name]
            told["wrapped"] = list(tuner_layers(model))
            told["trained"] = [name for name, p in model.named_parameters() if p.requires_grad]
            told["logits"] = model.eval()(**small_batch(given.seed)).logits

    each(found, mended)


def told_them_apart(given: Rerun, told: Told) -> str:
    return told_apart(shuffled(ILL, given.seed), told["said"])


def only_the_new(given: Rerun, told: Told) -> str:
    expected = [name for name, p in given.fresh.named_parameters() if p.requires_grad]
    if left := len(told["adapters"]) - len(expected):
        return f"{len(told['adapters'])} LoRA matrices are in it, {left:+d} against one wrapped fresh."
    if wrapped := set(told["wrapped"]) - set(tuner_layers(given.fresh)):
        return f"{min(wrapped)} still has peft's layer around it, as in a fresh base it has not."
    return same_names(told["trained"], expected)


def fresh_base(given: Rerun, told: Told) -> str:
    with torch.no_grad():
        expected = given.fresh(**small_batch(given.seed)).logits
    same = close(told.tensor("logits"), expected)
    wrong = "a new adapter changes nothing, so the logits must be the base's: what is left of the first run?"
    return "" if same else wrong


Exercise(
    "bug_clinic.m11_wrapped_twice",
    Rerun,
    ask_rerun,
    (
        Property("tells a base from a wrapped model", 2, told_them_apart),
        Property("only the new adapter is there", 1, only_the_new),
        Property("on the base as it was", 1, fresh_base),
    ),
)
