"""Which layers of a model that nobody has described LoRA would wrap.

Source: Hugging Face peft 0.21, `target_modules="all-linear"`.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeAlias

import torch
from torch import nn
from transformers import PreTrainedModel

from peft_lessons.assignments.core import Exercise, Property
from peft_lessons.assignments.given import KINDS, random_model, seeded
from peft_lessons.assignments.told import Told
from peft_lessons.methods.targets import find_targets, is_linear

Models: TypeAlias = "dict[str, PreTrainedModel]"


@seeded
def draw_models(g: torch.Generator) -> Models:
    return {kind: random_model(g, kind) for kind in KINDS}


def ask_targets(given: Models, told: Told, choose: Callable[[nn.Module], list[str]]) -> None:
    for kind, model in given.items():
        told[kind] = [str(path) for path in choose(model)]


def chosen(given: Models, told: Told) -> Iterator[tuple[str, PreTrainedModel, list[str]]]:
    """Kind, model and what was chosen in it."""
    for kind, model in given.items():
        found = told[kind]
        assert isinstance(found, list)
        yield kind, model, [str(path) for path in found]


def only_linear(given: Models, told: Told) -> str:
    for kind, model, paths in chosen(given, told):
        for path in paths:
            try:
                module = model.get_submodule(path)
            except AttributeError:
                return f"{kind} has nothing at {path}: give whole paths, as in named_modules()."
            if not is_linear(module):
                return f"in {kind}, {path} is a {type(module).__name__}, and LoRA wraps linear layers."
    return "" if any(paths for *_, paths in chosen(given, told)) else "no layer was chosen in any model."


def no_head(given: Models, told: Told) -> str:
    if not any(paths for *_, paths in chosen(given, told)):
        return "no layer was chosen in any model."
    for kind, model, paths in chosen(given, told):
        head = [n for n, m in model.named_modules() if m is model.get_output_embeddings()]
        if set(head) & set(paths):
            return f"in {kind} the output layer is among them; it stays as it is."
    return ""


def all_targets(of_gpt2: bool, given: Models, told: Told) -> str:
    for kind, model, paths in chosen(given, told):
        if (kind == "gpt2") is not of_gpt2:
            continue
        if missing := [path for path in find_targets(model, "all-linear") if path not in paths]:
            return f"in {kind}, {missing[0]} is missing: what kinds of layer multiply by a matrix?"
    return ""


Exercise(
    "a3.targets",
    draw_models,
    ask_targets,
    (
        Property("linear layers that are there", 1, only_linear),
        Property("not the output layer", 1, no_head),
        Property("all of the others", 1, partial(all_targets, False)),
        Property("all of the others in GPT-2", 1, partial(all_targets, True)),
    ),
)
