"""An instrument: the bytes that autograd keeps of a computation until its backward pass.

Source: PyTorch's `torch.autograd.graph.saved_tensors_hooks`, which sees every tensor that is saved.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from peft_lessons.assignments.core import Exercise, Property
from peft_lessons.assignments.given import fresh_base, linear, seeded
from peft_lessons.assignments.told import Told
from peft_lessons.methods import LoRA
from peft_lessons.methods.attaching import attach
from peft_lessons.methods.reparameterized.lora import LoRALinear
from peft_lessons.tasks import load_task

Run = tuple[Callable[[], Tensor], nn.Module]


@dataclass(frozen=True)
class Computations:
    """Inputs of drawn sizes, and computations on them, made when asked."""

    x: Tensor  # (n, d_in), with a gradient of its own
    layers: tuple[nn.Linear, ...]  # three of (d_out, d_in)
    rank: int
    seed: int

    @cached_property
    def small(self) -> dict[str, Run]:
        """What can be counted on paper."""
        x, (first, second, third) = self.x, self.layers
        third.requires_grad_(False)
        half, wide = LoRALinear(_halves(third), self.rank, 8.0), nn.ModuleList([first, second])
        scaled, square = nn.Linear(x.shape[1], 5), nn.Linear(len(x), len(x))
        scale = torch.rand(x.shape[1])
        scaled.register_buffer("scale", scale)
        left, right = nn.Linear(4, 5), nn.Linear(x.shape[1] - 4, 5)
        return {
            "a trained layer": (lambda: first(x), first),
            "a frozen layer": (lambda: third(x), third),
            "two layers with one input": (lambda: first(x) + second(x), wide),
            "a layer that reads a view": (lambda: first(x) + second(x.view(1, *x.shape))[0], wide),
            "a layer that reads a part of its input": (lambda: left(x[:, :4]), left),
            "two layers, a part each": (lambda: left(x[:, :4]) + right(x[:, 4:]), nn.ModuleList([left, right])),
            "LoRA in float32 on bfloat16": (lambda: half(x.bfloat16()), half),
            "the square of what a layer gives": (lambda: first(x).square(), first),
            "a layer that scales by a buffer": (lambda: scaled(x * scale), scaled),
            "an input of W's shape": (lambda: square(x @ x.T), square),
        }

    @cached_property
    def decoder(self) -> Run:
        """The course's decoder with LoRA, on four rows of a real task."""
        model: Any = attach(fresh_base("tiny"), LoRA(r=4, target_modules="all-linear"), seed=self.seed).eval()
        task = load_task("records")
        rows = task.train[self.seed % 100 : self.seed % 100 + 4]
        batch = dict(task.encode_for_decoder(rows, model.tokenizer))
        return lambda: model(**batch).loss, model


def _halves(layer: nn.Linear) -> nn.Linear:
    halves = nn.Linear(layer.in_features, layer.out_features, dtype=torch.bfloat16)
    return halves.requires_grad_(False)


@seeded
def draw_computations(g: torch.Generator) -> Computations:
    n, d_in, d_out, r, seed = (
        int(torch.randint(low, high, (), generator=g)) for low, high in ((5, 12), (13, 30), (6, 12), (2, 5), (0, 10**6))
    )
    x = torch.randn(n, d_in, generator=g).requires_grad_()
    first, second, third = (linear(d_in, d_out, g) for _ in range(3))
    return Computations(x, (first, second, third), r, seed)


def ask_saved(given: Computations, told: Told, count: Callable[[Callable[[], Tensor], nn.Module], int]) -> None:
    told["small"] = {name: count(run, model) for name, (run, model) in given.small.items()}
    told["decoder"] = count(*given.decoder)


def kept(run: Callable[[], Tensor], skip: set[int], whole: bool = True, once: bool = True) -> int:
    """Bytes that autograd keeps of what `run` computes, without the storages in `skip`."""
    found: list[tuple[int, int]] = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in skip:
            found.append((storage.data_ptr(), storage.nbytes() if whole else tensor.nbytes))
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = run()  # holds the graph, so that no address is used again
    sizes = [size for _, size in (dict(found).items() if once else found)]
    del result
    return sum(sizes)


def own(model: nn.Module) -> set[int]:
    """The addresses of a model's parameters and buffers."""
    return {t.untyped_storage().data_ptr() for t in [*model.parameters(), *model.buffers()]}


def small(given: Computations, told: Told) -> str:
    for name, (run, model) in given.small.items():
        found = told["small"][name]
        if found == kept(run, own(model)):
            continue
        mistakes = {
            "the weights are saved too, but are no activations": kept(run, set()),
            "one storage is counted more than once": kept(run, own(model), once=False),
            "a view keeps the whole storage behind it": kept(run, own(model), whole=False),
            "a view keeps the whole storage behind it, and once": kept(run, own(model), whole=False, once=False),
            "the model's buffers are no activations either": kept(
                run, {p.untyped_storage().data_ptr() for p in model.parameters()}
            ),
            "only what is trained was left out, not the frozen weights": kept(
                run, {p.untyped_storage().data_ptr() for p in model.parameters() if p.requires_grad}
            ),
        }
        named = [says for says, wrong in mistakes.items() if found == wrong]
        return f"{name}: {named[0] if named else f'it keeps not {found} bytes'}."
    return ""


def on_the_decoder(given: Computations, told: Told) -> str:
    run, model = given.decoder
    same = told["decoder"] == kept(run, own(model))
    return "" if same else "on the course's decoder with LoRA the sum is another one."


Exercise(
    "a4.saved",
    draw_computations,
    ask_saved,
    (Property("small computations", 3, small), Property("a whole decoder", 2, on_the_decoder)),
)
