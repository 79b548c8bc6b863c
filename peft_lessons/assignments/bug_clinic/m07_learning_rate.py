"""M7. The learning rate of full fine-tuning, used for LoRA: too low. Then ten times more, and too high. Sweep.

Source: QwenLM/Qwen3-VL issue 127, haotian-liu/LLaVA issues 1301 and 1375; how much higher it must be depends on the
task, which is what data/measured/decoder.json shows for this course.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import inf, isnan, log, nan

import torch

from peft_lessons.assignments.bug_clinic.shared import each
from peft_lessons.assignments.core import Exercise, Property
from peft_lessons.assignments.told import Told

VERDICTS = {"too low": (1e-6, 1e-5), "fine": (0.02, 0.05), "too high": (30.0, 100.0)}
MOST_RUNS = 25


def loss_curve(lr: float, seed: int, steps: int = 60) -> list[float]:
    """A small run: a LoRA of rank 2 learns a random matrix with Adam; the loss of each step."""
    g = torch.Generator().manual_seed(seed)
    wanted = torch.randn(6, 2, generator=g) @ torch.randn(2, 8, generator=g)
    A, B = (torch.randn(2, 8, generator=g) / 3).requires_grad_(), torch.zeros(6, 2, requires_grad=True)
    optimizer, losses = torch.optim.Adam([A, B], lr=lr), []
    for _ in range(steps):
        loss = (B @ A - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@dataclass(frozen=True)
class Valley:
    """A validation loss by learning rate: lowest at `best`, not a number where training blows up."""

    best: float

    def __call__(self, lr: float) -> float:
        """The loss that a run with this rate ends at."""
        return nan if lr > 12 * self.best else 0.3 + log(lr / self.best) ** 2 / 9


@dataclass(frozen=True)
class Rates:
    """Verdicts and the curves that belong to them, and valleys to search."""

    verdicts: list[str]
    seed: int
    valleys: list[Valley]

    def curve(self, i: int) -> list[float]:
        """The i-th curve; one of those that are too high ends as NaN."""
        low, high = VERDICTS[self.verdicts[i]]
        losses = loss_curve(low + (high - low) * (i / len(self.verdicts)), self.seed + i)
        mine = [j for j, verdict in enumerate(self.verdicts) if verdict == self.verdicts[i]]
        if self.verdicts[i] == "too high" and i == mine[0]:
            return losses[:20] + [nan] * 40
        if self.verdicts[i] == "fine" and i == mine[0]:
            losses[5] = 4 * losses[0]  # one bad batch on the way says nothing
        size = 0.01 if i == mine[1] else 20.0 if i == mine[2] else 1.0  # of the loss, which depends on the task
        return [size * loss for loss in losses]


def draw_rates(seed: int) -> Rates:
    g = torch.Generator().manual_seed(seed)
    verdicts = [list(VERDICTS)[i % 3] for i in torch.randperm(9, generator=g).tolist()]
    lowest, width = torch.tensor([[-4.9, -1.9, -5.0, -3.1], [0.7, 0.8, 4.0, 0.0]])  # first: the start is not a number
    bests = lowest + width * torch.rand(4, generator=g)
    return Rates(verdicts, seed, [Valley(10**u) for u in bests.tolist()])


def ask_rates(given: Rates, told: Told, judge: Callable[..., str], search: Callable[..., float]) -> None:
    def found() -> None:
        told["verdicts"] = [str(judge(given.curve(i))) for i in range(len(given.verdicts))]

    def mended() -> None:
        tried: list[list[float]] = [[] for _ in given.valleys]

        def run(valley: Valley, mine: list[float], lr: float) -> float:
            mine.append(float(lr))
            if len(mine) > MOST_RUNS:
                raise RuntimeError(f"{MOST_RUNS} runs are enough")
            return valley(lr)

        pairs = zip(given.valleys, tried, strict=True)
        told["chosen"] = [float(search(partial(run, valley, mine), 1e-3)) for valley, mine in pairs]
        told["tried"] = tried

    each(found, mended)


def verdicts(given: Rates, told: Told) -> str:
    for i, (right, found) in enumerate(zip(given.verdicts, told["verdicts"], strict=True)):
        if found not in VERDICTS:
            return f"{found!r} is none of {', '.join(VERDICTS)}."
        if found != right:
            losses = given.curve(i)
            return f"a loss that goes {losses[0]:.3f}, {losses[9]:.3f} ... {losses[-1]:.3f} is not {found}."
    return ""


def chosen(given: Rates, told: Told) -> str:
    for valley, lr in zip(given.valleys, told["chosen"], strict=True):
        loss, least = valley(lr), valley(valley.best)
        if isnan(loss) or loss > least + log(2) ** 2 / 9:
            return f"it chose {lr:.1e}, where the loss is {loss:.2f}; {least:.2f} was to be had, at another rate."
    return ""


def not_at_the_edge(given: Rates, told: Told) -> str:
    if wrong := chosen(given, told):
        return wrong
    for lr, tried in zip(told["chosen"], told["tried"], strict=True):
        below = max((t for t in tried if t < lr * 0.99), default=0)
        above = min((t for t in tried if t > lr * 1.01), default=inf)
        if lr > 5 * below or above > 5 * lr:
            return f"it chose {lr:.1e} without trying a rate up to 5 times {'lower' if lr > 5 * below else 'higher'}."
    return ""


Exercise(
    "bug_clinic.m07_learning_rate",
    draw_rates,
    ask_rates,
    (
        Property("reads the loss curve", 2, verdicts),
        Property("chooses a good rate", 1, chosen),
        Property("with a worse one on either side", 1, not_at_the_edge),
    ),
)
