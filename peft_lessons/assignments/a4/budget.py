"""Make a step fit a budget of bytes, change as little as possible, and keep the effective batch.

Source: the package's tables of traced steps (`peft_lessons.accounting.tables`) say what each choice holds.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch

from peft_lessons.accounting.budgets import divisors
from peft_lessons.accounting.library import predict_memory
from peft_lessons.accounting.setups import Setup
from peft_lessons.assignments.core import Exercise, Property
from peft_lessons.assignments.given import seeded
from peft_lessons.assignments.told import Told
from peft_lessons.methods import FullFineTuning, LoRA, Method

OPTIMIZERS, LOGITS = ("adamw_fused", "adamw_8bit"), ("kept", "chunked")


class Choice(NamedTuple):
    """What may be changed, in the order of preference: the smallest one that fits is right."""

    optimizer: int  # a place in `OPTIMIZERS`
    checkpointing: bool
    logits: int  # a place in `LOGITS`
    accumulation: int


@dataclass(frozen=True)
class Wanted:
    """A model, a method, a length and an effective batch, which stay, and where the budget lies."""

    shape: str
    method: Method
    length: int
    effective: int
    tight: float  # the budget is that of the choice this far down the list; above 1 nothing fits

    def peak(self, batch: int, checkpointing: bool, logits: str, optimizer: str) -> int:
        """Bytes that a step with these choices holds."""
        setup = Setup(self.method, checkpointing=checkpointing, logits=logits, optimizer=optimizer)
        return predict_memory(self.shape, setup, batch, self.length).peak

    def held(self, choice: Choice) -> int:
        """The same, for a choice."""
        logits, optimizer = LOGITS[choice.logits], OPTIMIZERS[choice.optimizer]
        return self.peak(self.effective // choice.accumulation, choice.checkpointing, logits, optimizer)

    @cached_property
    def peaks(self) -> dict[Choice, int]:
        """Every choice that keeps the effective batch, the preferred first."""
        every = (
            Choice(optimizer, checkpointing, logits, accumulation)
            for optimizer in range(len(OPTIMIZERS))
            for checkpointing in (False, True)
            for logits in range(len(LOGITS))
            for accumulation in divisors(self.effective)
        )
        return {choice: self.held(choice) for choice in every}

    @cached_property
    def budget(self) -> int:
        """The bytes there are: exactly a choice's, or one less than the smallest."""
        falling = sorted(set(self.peaks.values()), reverse=True)
        return falling[-1] - 1 if self.tight > 1 else falling[int(self.tight * (len(falling) - 1))]

    @cached_property
    def right(self) -> Choice | None:
        """The choice that changes least of those that fit."""
        return min((choice for choice, peak in self.peaks.items() if peak <= self.budget), default=None)


@dataclass(frozen=True)
class Invented(Wanted):
    """No real model: two changes would fit, and the order of preference alone decides; `tight` is its budget."""

    def peak(self, batch: int, checkpointing: bool, logits: str, optimizer: str) -> int:
        """States, and for each sequence what the layers keep and the logits: each can be made a part of itself."""
        states = 40 if optimizer == OPTIMIZERS[0] else 10
        return 10**6 * (states + batch * ((4 if checkpointing else 32) + (32 if logits == LOGITS[0] else 4)))

    @cached_property
    def budget(self) -> int:
        """The bytes there are."""
        return int(10**6 * self.tight)


@seeded
def draw_wanted(g: torch.Generator) -> list[Wanted]:
    lora = LoRA(r=2 ** int(torch.randint(2, 6, (), generator=g)), target_modules="all-linear")
    cases: list[tuple[str, Method, float]] = [
        ("qwen2.5-0.5b", lora, 0.0),
        ("llama-3.2-1b", lora, 0.3),
        ("llama-3.1-8b", lora, 0.75),
        ("llama-3.2-1b", FullFineTuning(), 0.7),
        ("qwen2.5-0.5b", FullFineTuning(), 0.98),
        ("gemma-2b", lora, 1.5),
    ]
    found = []
    for shape, method, tight in cases:
        length = 64 * int(torch.randint(4, 24, (), generator=g))
        effective = (12, 16, 20, 24)[int(torch.randint(0, 4, (), generator=g))]
        shift = 0 if tight in (0.0, 0.98, 1.5) else float(torch.rand((), generator=g)) * 0.15 - 0.1
        found.append(Wanted(shape, method, length, effective, tight + shift))
    for tight in (76, 60):  # chunks or checkpointing; checkpointing or another optimizer
        effective = (20, 24)[int(torch.randint(0, 2, (), generator=g))]
        found.append(Invented("an invented model", lora, 512, effective, tight))
    return found


def ask_choices(given: list[Wanted], told: Told, choose: Callable[..., dict[str, Any] | None]) -> None:
    told["chosen"] = [choose(wanted.peak, wanted.budget, wanted.effective) for wanted in given]


def _chosen(given: list[Wanted], told: Told) -> Iterator[tuple[Wanted, dict[str, Any]]]:
    """Each case in which something fits and was chosen, with the choice.

    Raises:
        ValueError: nothing was chosen anywhere.
    """
    if not any(told["chosen"]):
        raise ValueError("no choice was made, whatever the budget")
    for wanted, found in zip(given, told["chosen"], strict=True):
        if wanted.right is not None and found is not None:
            yield wanted, found


def fits(given: list[Wanted], told: Told) -> str:
    for wanted, found in _chosen(given, told):
        if found["batch"] not in range(1, wanted.effective + 1):
            return f"{wanted.shape}: a batch of {found['batch']} sequences cannot be right."
        held = wanted.peak(found["batch"], found["checkpointing"], found["logits"], found["optimizer"])
        if held > wanted.budget:
            return f"{wanted.shape}: {found} holds {held:,} bytes, and there are {wanted.budget:,}."
    return ""


def same_batch(given: list[Wanted], told: Told) -> str:
    for wanted, found in _chosen(given, told):
        if not (isinstance(found["batch"], int) and isinstance(found["accumulation"], int)):
            return f"{wanted.shape}: {found}: batch and accumulation are whole numbers (// gives one, / does not)."
        if found["batch"] * found["accumulation"] != wanted.effective:
            return f"{wanted.shape}: {found} is no effective batch of {wanted.effective}: it trains something else."
    return ""


def changed_least(given: list[Wanted], told: Told) -> str:
    for wanted, found in zip(given, told["chosen"], strict=True):
        right = wanted.right
        if right is None:
            continue
        if found is None:
            return f"{wanted.shape}: there is a choice that fits {wanted.budget:,} bytes, and none was made."
        pairs = {
            "optimizer": OPTIMIZERS[right.optimizer],
            "checkpointing": right.checkpointing,
            "logits": LOGITS[right.logits],
            "accumulation": right.accumulation,
        }
        for field, value in pairs.items():
            if found[field] != value:
                return f"{wanted.shape}: {found} is not the first in the order of preference that fits: see {field}."
    return ""


def says_no(given: list[Wanted], told: Told) -> str:
    for _ in _chosen(given, told):  # an answer that always says no has found out nothing
        pass
    for wanted, found in zip(given, told["chosen"], strict=True):
        if wanted.right is None and found is not None:
            return f"{wanted.shape}: nothing fits {wanted.budget:,} bytes, so None is right."
    return ""


Exercise(
    "a4.budget",
    draw_wanted,
    ask_choices,
    (
        Property("fits the budget", 2, fits),
        Property("keeps the effective batch", 1, same_batch),
        Property("changes no more than it must", 3, changed_least),
        Property("None where nothing fits", 1, says_no),
    ),
)
