"""M2. Gradient checkpointing with a frozen input: an error at best, adapters without gradients at worst.

Source: huggingface/peft issues 137 and 1142, microsoft/LoRA issue 120; transformers' own models are mended (28 of 28
gradients with peft 0.21.2), a hand-written `checkpoint(..., use_reentrant=True)` is as ever.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from peft_lessons.assignments.bug_clinic.shared import each, same_names
from peft_lessons.assignments.core import Exercise, Property
from peft_lessons.assignments.given import close, linear, seeded
from peft_lessons.assignments.told import Told


class Block(nn.Module):
    """x + tanh(W x + b + B A x): a frozen linear layer with LoRA; it counts how often it is computed."""

    def __init__(self, d_model: int = 8, r: int = 2, seed: int = 0):
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.base = linear(d_model, d_model, g).requires_grad_(False)
        self.lora_A = nn.Parameter(torch.randn(r, d_model, generator=g) * 0.3)
        self.lora_B = nn.Parameter(torch.zeros(d_model, r))
        self.computed = 0

    def forward(self, x: Tensor) -> Tensor:  # (..., d_model) -> (..., d_model)
        self.computed += 1
        return x + torch.tanh(self.base(x) + x @ self.lora_A.T @ self.lora_B.T)


@dataclass(frozen=True)
class Checkpointed:
    """Factors of a finished run, of which some never moved, and blocks with an input to run."""

    factors: dict[str, Tensor]
    dead: list[str]
    seed: int
    x: Tensor

    @property
    def blocks(self) -> list[Block]:
        """Three fresh blocks."""
        return [Block(seed=self.seed + i) for i in range(3)]


@seeded
def draw_run(g: torch.Generator) -> Checkpointed:
    factors, dead = {}, []
    kinds = torch.cat([torch.arange(6), torch.randint(0, 6, (4,), generator=g)])  # each kind is there at every seed
    for i, kind in enumerate(kinds[torch.randperm(10, generator=g)].tolist()):
        B = torch.randn(6, 2, generator=g)
        B = (
            torch.zeros(6, 2),
            B * 1e-12,  # to allclose it is zero
            torch.cat([B[:3].sign(), -B[:3].sign()]),  # of ones, so that the sum is zero to the last bit
            torch.full((6, 2), 0.5),
            B.index_fill(0, torch.tensor(0), 0.0),
            B,
        )[kind]
        factors[f"layers.{i}.q_proj.lora_A"] = torch.randn(2, 8, generator=g)
        factors[f"layers.{i}.q_proj.lora_B"] = B
        factors[f"layers.{i}.q_proj.bias"] = torch.zeros(6)  # no adapter's
        dead += [f"layers.{i}.q_proj.lora_B"] * (kind == 0)
    return Checkpointed(factors, dead, int(torch.randint(1000, (), generator=g)), torch.randn(4, 8, generator=g))


def ask_run(
    given: Checkpointed,
    told: Told,
    find: Callable[[dict[str, Tensor]], list[str]],
    run: Callable[[list[Block], Tensor], Tensor],
) -> None:
    def found() -> None:
        told["dead"] = [str(name) for name in find(given.factors)]

    def mended() -> None:
        blocks = given.blocks
        y = run(blocks, given.x.clone())
        told["y"] = y
        y.square().sum().backward()
        told["computed"] = [block.computed for block in blocks]
        for i, block in enumerate(blocks):
            told[f"gradient {i}"] = block.lora_B.grad if block.lora_B.grad is not None else torch.zeros(1)

    each(found, mended)


def dead(given: Checkpointed, told: Told) -> str:
    return same_names(told["dead"], given.dead)


def gradients(given: Checkpointed, told: Told) -> str:
    blocks, y = given.blocks, given.x
    for block in blocks:
        y = block(y)
    if not close(told.tensor("y"), y.double()):
        return "the blocks do not give what they give without checkpointing."
    y.square().sum().backward()
    for i, block in enumerate(blocks):
        right = block.lora_B.grad
        if right is None or not close(told.tensor(f"gradient {i}"), right.double()):
            return f"lora_B of block {i} gets no gradient, or not that of a run without checkpointing."
    return ""


def still_checkpointed(given: Checkpointed, told: Told) -> str:
    again = [n >= 2 for n in told["computed"]]
    if all(again):
        return "" if not gradients(given, told) else "each block is computed again, but the gradients are wrong."
    return (
        f"{again.count(False)} of {len(again)} blocks are not computed again for the backward pass: no memory is saved."
    )


Exercise(
    "bug_clinic.m02_checkpointing",
    draw_run,
    ask_run,
    (
        Property("finds the dead adapters", 2, dead),
        Property("every adapter gets its gradient", 1, gradients),
        Property("and memory is still saved", 1, still_checkpointed),
    ),
)
