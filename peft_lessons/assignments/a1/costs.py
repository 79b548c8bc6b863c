"""What an answer costs with examples in the prompt, and after how many answers tuning was the cheaper way.

Source: Kaplan et al. 2020, "Scaling Laws for Neural Language Models", section 2.1; the comparison is that of Liu et al.
2022, "Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning", with caching added.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from peft_lessons.accounting.inference import DecoderShape, forward_flops
from peft_lessons.assignments.core import Exercise, Property
from peft_lessons.assignments.given import seeded
from peft_lessons.assignments.told import Told

Costs: TypeAlias = "tuple[int, int, int, int]"  # training, prompt_once, prompt_answer, tuned_answer


@dataclass(frozen=True)
class Prices:
    """Models, lengths, and costs."""

    shapes: list[DecoderShape]
    lengths: list[tuple[int, int]]  # tokens of a question, tokens of the demonstrations
    crossing: list[Costs]
    extreme: list[Costs]  # at once, never, never


@seeded
def draw_prices(g: torch.Generator) -> Prices:
    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=g))

    shapes = [
        DecoderShape(number(10**6, 10**9), number(2, 40), number(2, 30), 2, number(16, 128), 8 * number(9, 400), v)
        for v in (number(1000, 9000), number(30_000, 99_000))
    ]
    lengths = [(number(5, 40), number(50, 400)) for _ in shapes]
    crossing = []
    for half in (0, None, 1):  # a little more than n answers make up for it, exactly n, almost n + 1
        tuned, once = number(10**6, 10**7), number(10**6, 10**9)
        saved, n = 2 * number(10**5, 10**8), number(50, 10**5)
        more = 0 if half is None else half * saved // 2 + number(1, saved // 2)
        crossing.append((once + n * saved + more, once, tuned + saved, tuned))
    at_once = (number(10, 10**6), 10**6 + number(0, 9), 500, 400)
    return Prices(shapes, lengths, crossing, [at_once, (10**9, 0, 700, 700), (10**9, 0, 700, number(701, 900))])


def ask_prices(
    given: Prices,
    told: Told,
    flops: Callable[..., int],
    prompting: Callable[..., tuple[int, int]],
    break_even: Callable[..., float],
) -> None:
    told["flops"] = [flops(shape, sum(n), 0) for shape, n in zip(given.shapes, given.lengths, strict=True)]
    told["cached"] = [flops(shape, q, d) for shape, (q, d) in zip(given.shapes, given.lengths, strict=True)]
    told["own"] = [
        [flops(shape, d, 0), flops(shape, q, d), flops(shape, q + d, 0)]
        for shape, (q, d) in zip(given.shapes, given.lengths, strict=True)
    ]
    for caching in (False, True):
        pairs = zip(given.shapes, given.lengths, strict=True)
        told[f"prompting {caching}"] = [list(prompting(shape, q, d, caching)) for shape, (q, d) in pairs]
    told["crossing"] = [break_even(*costs) for costs in given.crossing]
    told["extreme"] = [break_even(*costs) for costs in given.extreme]


def forward(given: Prices, told: Told) -> str:
    for shape, (q, d), found in zip(given.shapes, given.lengths, told["flops"], strict=True):
        if found != forward_flops(shape, q + d):
            return (
                _mistake(shape, q + d, 0, found) or "it is not what the formula gives: put in one small model by hand."
            )
    return ""


def forward_cached(given: Prices, told: Told) -> str:
    for shape, (q, d), found in zip(given.shapes, given.lengths, told["cached"], strict=True):
        if found != forward_flops(shape, q, d):
            if found == forward_flops(shape, q):
                return "new tokens attend to the cached ones as well."
            return _mistake(shape, q, d, found) or "with cached tokens it is not what the formula gives."
    return ""


def paid_once_and_always(given: Prices, told: Told) -> str:
    """Judged in the learner's own counts where those are wrong, so that one mistake is charged once."""
    for i, (shape, (q, d)) in enumerate(zip(given.shapes, given.lengths, strict=True)):
        right = [forward_flops(shape, d), forward_flops(shape, q, d), forward_flops(shape, q + d)]
        own = told["own"][i]
        for filling, asking, reading in [right, own] if len({0, *own}) == 4 else [right]:
            apart, kept = told["prompting False"][i], told["prompting True"][i]
            if apart == [0, reading] and kept == [filling, asking]:
                break
        else:
            if told["prompting False"][i][0] != 0:
                return "without a cache nothing is paid once, and every answer reads all of the prompt."
            if told["prompting True"][i][0] == 0:
                return "somebody has to fill the cache."
            return "who reads how many tokens, beside how many cached ones, once and for each answer?"
    return ""


def crossing(given: Prices, told: Told) -> str:
    for costs, n in zip(given.crossing, told["crossing"], strict=True):
        if isinstance(n, bool) or not isinstance(n, int | float) or not math.isfinite(n) or n != int(n):
            return f"{n} is no whole number of answers."
        if _dearer(costs, int(n)):
            return f"after {int(n):,} answers tuning has still cost more."
        if n > 0 and not _dearer(costs, int(n) - 1):
            return f"{int(n):,} is not the first: one answer before, tuning had cost no more already."
    return ""


def _dearer(costs: Costs, answers: int) -> bool:
    """Whether tuning has cost more by then."""
    training, once, prompted, tuned = costs
    return training + answers * tuned > once + answers * prompted


def at_once_or_never(given: Prices, told: Told) -> str:
    if wrong := crossing(given, told):
        return wrong
    at_once, *never = told["extreme"]
    if at_once != 0:
        return f"where tuning costs less from the start, it is not after {at_once} answers."
    if early := [n for n in never if n != math.inf]:
        return f"where a prompted answer costs no more than a tuned one, it is not after {early[0]} answers."
    return ""


def _mistake(shape: DecoderShape, tokens: int, cached: int, found: Any) -> str:
    linear, head = 2 * shape.n_linear, 2 * shape.d_model * shape.vocab
    attention = 4 * shape.n_layers * shape.n_heads * shape.head_dim * (cached + tokens)
    mistakes = {
        "a multiplication and an addition are two operations": tokens * (linear // 2 + attention) + head,
        "6 N is training, with its backward pass": tokens * (3 * linear + attention) + head,
        "attention is missing": tokens * linear + head,
        "attention is counted for one token": tokens * linear + attention + head,
        "the output layer is missing": tokens * (linear + attention),
        "the output layer is counted for every token; only the last one's logits are needed": tokens
        * (linear + attention + head),
        "heads times their width is n_heads * head_dim, which need not be d_model": tokens
        * (linear + 4 * shape.n_layers * shape.d_model * (cached + tokens))
        + head,
        "key-value heads are shared; every query head still computes its own scores": tokens
        * (linear + 4 * shape.n_layers * shape.n_kv_heads * shape.head_dim * (cached + tokens))
        + head,
        "the cached tokens are computed again": forward_flops(shape, tokens + cached),
    }
    named = [says for says, wrong in mistakes.items() if found == wrong]
    return f"{named[0]}." if named else ""


Exercise(
    "a1.break_even",
    draw_prices,
    ask_prices,
    (
        Property("a forward pass", 2, forward),
        Property("with cached tokens", 1, forward_cached),
        Property("what is paid once, and for each answer", 1, paid_once_and_always),
        Property("the first answer from which tuning is cheaper", 2, crossing),
        Property("at once, or never", 1, at_once_or_never),
    ),
)
