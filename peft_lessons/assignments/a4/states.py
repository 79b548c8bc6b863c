"""What tokens do not change: the bytes of weights, gradients and optimizer states of any model.

Source: what judges it are the gradients and states that PyTorch's AdamW really makes; they have their parameter's type.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor, nn

from peft_lessons.accounting.trace import make_states
from peft_lessons.assignments.core import Exercise, Property
from peft_lessons.assignments.given import fresh_base, random_model, seeded
from peft_lessons.assignments.told import Told
from peft_lessons.methods import IA3, BitFit, FullFineTuning, LoRA, Method
from peft_lessons.methods.attaching import attach

CASES: dict[str, tuple[str, torch.dtype, Method]] = {
    "full fine-tuning in float32": ("llama", torch.float32, FullFineTuning()),
    "full fine-tuning in bfloat16, embeddings tied": ("gpt2", torch.bfloat16, FullFineTuning()),
    "LoRA in float32 on bfloat16": ("llama", torch.bfloat16, LoRA(target_modules="all-linear")),
    "(IA)3 in float32 on bfloat16": ("llama", torch.bfloat16, IA3()),
    "BitFit in bfloat16": ("opt", torch.bfloat16, BitFit()),
    "LoRA on the course's decoder": ("tiny", torch.float32, LoRA(target_modules="all-linear")),
}


@dataclass(frozen=True)
class Models:
    """Models with a method attached, made when asked, of sizes drawn from a generator."""

    g: torch.Generator

    @cached_property
    def all(self) -> dict[str, nn.Module]:
        """Each case's model."""
        return {case: self._make(*about) for case, about in CASES.items()}

    def _make(self, kind: str, dtype: torch.dtype, method: Method) -> nn.Module:
        rows, rank = (int(torch.randint(low, high, (), generator=self.g)) for low, high in ((33, 90), (2, 9)))
        model = fresh_base(kind) if kind == "tiny" else random_model(self.g, kind)
        if kind != "tiny":
            model.resize_token_embeddings(rows, mean_resizing=False)
        return attach(model.to(dtype), replace(method, r=rank) if isinstance(method, LoRA) else method)


@seeded
def draw_models(g: torch.Generator) -> Models:
    return Models(g)


def ask_states(given: Models, told: Told, count: Callable[[nn.Module], dict[str, int]]) -> None:
    found = {case: count(model) for case, model in given.all.items()}
    for name in ("weights", "gradients", "optimizer states"):
        told[name] = {case: counted[name] for case, counted in found.items()}


def n_bytes(tensors: list[Tensor]) -> int:
    """Bytes of the storages behind tensors, each once."""
    return sum({t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in tensors}.values())


def weights(given: Models, told: Told) -> str:
    for case, model in given.all.items():
        found = told["weights"][case]
        own = [*model.parameters(), *model.buffers()]
        if found == n_bytes(own):
            continue
        mistakes = {
            "a matrix that two layers share is counted twice": _each_name(model),
            "every number is taken for four bytes": 4 * sum(t.numel() for t in own),
            "buffers are missing": n_bytes(list(model.parameters())),
            "only what is trained is counted; the frozen base is in memory too": sum(t.nbytes for t in _trained(model)),
            "these are numbers, not bytes": sum(t.numel() for t in own),
        }
        return _says(case, found, mistakes)
    return ""


def gradients(given: Models, told: Told) -> str:
    for case, model in given.all.items():
        found, trained = told["gradients"][case], _trained(model)
        if found == sum(t.nbytes for t in trained):
            continue
        return _says(case, found, _mistakes(model, 1))
    return ""


def states(given: Models, told: Told) -> str:
    for case, model in given.all.items():
        found, trained = told["optimizer states"][case], _trained(model)
        optimizer = torch.optim.AdamW(trained, foreach=False)
        make_states(trained, optimizer)
        real = [t for state in optimizer.state.values() for t in state.values() if t.dim()]
        if found == sum(t.nbytes for t in real):
            continue
        one = sum(t.nbytes for t in trained)
        return _says(case, found, {"AdamW keeps more than one number for each": one} | _mistakes(model, 2))
    return ""


def _mistakes(model: nn.Module, times: int) -> dict[str, int]:
    trained = _trained(model)
    return {
        "what is frozen has none": times * sum(p.nbytes for p in model.parameters()),
        "every number is taken for four bytes": times * 4 * sum(p.numel() for p in trained),
        "every number is taken for two bytes": times * 2 * sum(p.numel() for p in trained),
        "the states are of the parameter's own type": times * 4 * sum(p.numel() for p in trained),
        "these are numbers, not bytes": times * sum(p.numel() for p in trained),
    }


def _says(case: str, found: object, mistakes: dict[str, int]) -> str:
    named = [says for says, wrong in mistakes.items() if found == wrong]
    return f"{case}: {named[0] if named else f'not {found}'}."


def _trained(model: nn.Module) -> list[nn.Parameter]:
    return [p for p in model.parameters() if p.requires_grad]


def _each_name(model: nn.Module) -> int:
    found = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return sum(t.nbytes for _, t in found)


Exercise(
    "a4.states",
    draw_models,
    ask_states,
    (
        Property("bytes of the weights", 2, weights),
        Property("bytes of the gradients", 2, gradients),
        Property("bytes of AdamW's states", 2, states),
    ),
)
