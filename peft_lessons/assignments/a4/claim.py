"""The claim that LoRA divides memory by the share of what it trains, corrected.

    full fine-tuning   the larger of   3 W + A   and   4 W
    LoRA               the larger of   W + 3 p W + A   and   W + 4 p W        p: the share that is trained

Source: weights, gradients and AdamW's two states in one type are the model states of ZeRO (Rajbhandari et al. 2019);
activations and the loss (A) stay, as in issues 1469 and 1514 of Hugging Face peft.
"""

from collections.abc import Callable

import torch

from peft_lessons.assignments.core import Exercise, Property
from peft_lessons.assignments.given import seeded
from peft_lessons.assignments.told import Told

Steps = list[tuple[float, float, float]]


@seeded
def draw_steps(g: torch.Generator) -> Steps:
    """(W, A, p): few tokens and many, small adapters and large ones."""
    found = []
    for most in (0.2, 0.9, 3.0, 20.0):
        a, b, c = torch.rand(3, generator=g, dtype=torch.float64).tolist()
        W = 1e9 * (1 + 9 * a)
        found.append((W, W * most * (0.3 + 0.7 * b), 0.001 + 0.05 * c))
    return [*found, (1e9, 1e7, 0.4 + 0.01 * found[0][2])]


def ask_claim(given: Steps, told: Told, factor: Callable[..., float], limit: Callable[..., float]) -> None:
    told["factor"] = [float(factor(W, A, p)) for W, A, p in given]
    told["limit"] = [float(limit(W, A)) for W, A, _ in given]


def right_factor(W: float, A: float, p: float) -> float:
    """How many times less LoRA holds at its peak."""
    return max(3 * W + A, 4 * W) / max(W + 3 * p * W + A, W + 4 * p * W)


def _same(found: object, right: float) -> bool:
    return isinstance(found, float) and abs(found - right) < 1e-6 * right


def factors(given: Steps, told: Told) -> str:
    for (W, A, p), found in zip(given, told["factor"], strict=True):
        if _same(found, right_factor(W, A, p)):
            continue
        mistakes = {
            "that is the claim itself": 1 / p,
            "activations are missing, on both sides": 4 * W / (W + 4 * p * W),
            "the frozen weights are still in memory": max(3 * W + A, 4 * W) / max(3 * p * W + A, 4 * p * W),
            "activations do not shrink with what is trained": max(3 * W + A, 4 * W)
            / max(W + 3 * p * W + p * A, W + 4 * p * W),
            "the two moments are not added up: one of them is the peak": (4 * W + A) / (W + 4 * p * W + A),
            "a peak is the larger of two moments": (3 * W + A) / (W + 3 * p * W + A),
            "that is the other way round": 1 / right_factor(W, A, p),
            "what does an adapter of share 0 change?": right_factor(W, A, 0),
        }
        named = [says for says, wrong in mistakes.items() if _same(found, wrong)]
        return f"W {W:.3g}, A {A:.3g}, p {p:.3g}: {named[0] if named else f'not {found:.4g} times'}."
    return ""


def limits(given: Steps, told: Told) -> str:
    for (W, A, _), found in zip(given, told["limit"], strict=True):
        if not _same(found, right_factor(W, A, 0)):
            return f"W {W:.3g}, A {A:.3g}: an adapter of no size at all does not bring {found:.4g} times."
    return ""


Exercise(
    "a4.claim",
    draw_steps,
    ask_claim,
    (Property("what LoRA really divides by", 3, factors), Property("the most it could", 1, limits)),
)
