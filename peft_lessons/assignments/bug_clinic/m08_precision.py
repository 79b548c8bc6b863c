"""M8. Trained parameters in half precision: small updates are rounded away.

Source: huggingface/peft issue 341, keras-team/keras-hub issue 2629; in peft 0.21.2 LoRA's own matrices are made
float32 by default, `modules_to_save` are not.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import AutoConfig, AutoModelForSequenceClassification

from peft_lessons.assignments.bug_clinic.shared import LLAMA_TARGETS, apart, each, same_names
from peft_lessons.assignments.core import Exercise, Property
from peft_lessons.assignments.told import Told


def small_classifier(seed: int = 0, dtype: torch.dtype = torch.float32, head_seed: int | None = None) -> Any:
    """A Llama of two blocks with a new head, `score`: the body's numbers come from the seed, the head's from its own.

    Without `head_seed` the head is another one each time, as with `from_pretrained`.
    """
    config = AutoConfig.for_model(
        "llama", vocab_size=32, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
        num_labels=3, pad_token_id=2,
    )  # fmt: skip
    with apart(seed):
        model = AutoModelForSequenceClassification.from_config(config, dtype=dtype).eval()
    head = torch.Generator()
    head.seed() if head_seed is None else head.manual_seed(head_seed)
    with torch.no_grad():
        model.score.weight.copy_(torch.randn(model.score.weight.shape, generator=head))
    return model


@dataclass(frozen=True)
class Precisions:
    """A seed, out of which models come whose trained parameters are of some precision."""

    seed: int

    def __iter__(self) -> Iterator[Any]:
        for dtype in (torch.float16, torch.bfloat16, torch.float32):
            for task_type in ("SEQ_CLS", None):  # with a head in modules_to_save, and without
                for autocast in (True, False):
                    with apart(self.seed):
                        config = LoraConfig(r=2, target_modules=LLAMA_TARGETS, task_type=task_type)
                        base = small_classifier(self.seed, dtype, self.seed)
                        yield get_peft_model(base, config, autocast_adapter_dtype=autocast)


def ask_precisions(given: Precisions, told: Told, find: Callable[..., list[str]], mend: Callable[..., None]) -> None:
    def found() -> None:
        told["half"] = [[str(name) for name in find(model)] for model in given]

    def mended() -> None:
        states = []
        for model in given:
            mend(model)
            states.append(
                {n: [str(p.dtype), p.requires_grad, p.double().sum().item()] for n, p in model.named_parameters()}
            )
        told["after"] = states

    each(found, mended)


def half(given: Precisions, told: Told) -> str:
    for model, found in zip(given, told["half"], strict=True):
        expected = [n for n, p in model.named_parameters() if p.requires_grad and p.dtype != torch.float32]
        if wrong := same_names(found, expected):
            return wrong
    return ""


def trained_in_float32(given: Precisions, told: Told) -> str:
    for model, after in zip(given, told["after"], strict=True):
        for name, p in model.named_parameters():
            dtype, trained, total = after.get(name, ("gone", False, 0.0))
            if p.requires_grad and (dtype, trained) != ("torch.float32", True):
                return f"{name} is {dtype}{'' if trained else ', and not trained any more'}."
            if p.requires_grad and total != p.double().sum().item():
                return f"{name} does not hold the numbers that it had."
    return ""


def base_as_it_was(given: Precisions, told: Told) -> str:
    if wrong := trained_in_float32(given, told):
        return wrong
    for model, after in zip(given, told["after"], strict=True):
        for name, p in model.named_parameters():
            if not p.requires_grad and after.get(name, [])[:2] != [_name(p), False]:
                return (
                    f"{name}, {_name(p)} and frozen, has become {after.get(name, ['nothing'])[0]}: that costs memory."
                )
    return ""


def _name(parameter: nn.Parameter) -> str:
    return str(parameter.dtype)


Exercise(
    "bug_clinic.m08_precision",
    Precisions,
    ask_precisions,
    (
        Property("finds what is trained in half precision", 2, half),
        Property("trained in float32", 1, trained_in_float32),
        Property("the frozen base stays as it is", 1, base_as_it_was),
    ),
)
