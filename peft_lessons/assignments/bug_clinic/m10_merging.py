"""M10. "Merged, it answers differently": dropout was on in the comparison, or the merged weights were rounded.

Source: huggingface/peft issues 1043, 2066, 2105 and 2321, artidoro/qlora issue 29.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import isclose
from typing import Any

import torch
from torch import Tensor

from peft_lessons.assignments.bug_clinic.shared import apart, each, small_batch, small_lora, tuner_layers
from peft_lessons.assignments.core import Exercise, Property
from peft_lessons.assignments.given import close
from peft_lessons.assignments.told import Told

MODELS = 4  # a wrong difference may be of the right size once, by chance


def rounded(W: Tensor, bits: int) -> Tensor:
    """W on an even grid of 2^bits - 1 levels for each row, as numbers again: a quantiser at its plainest."""
    step = W.abs().amax(-1, keepdim=True) / (2 ** (bits - 1) - 1)
    return (W / step).round() * step


@dataclass(frozen=True)
class Merges:
    """A seed, out of which weights, their updates and quantisers come, and trained LoRAs with dropout."""

    seed: int

    @property
    def matrices(self) -> list[tuple[Tensor, Tensor, int]]:
        """W, the update and the bits of the grid."""
        g = torch.Generator().manual_seed(self.seed)
        sizes = [(bits, size) for bits in (3, 4, 8) for size in (0.02, 0.5)]
        return [(torch.randn(9, 12, generator=g), size * torch.randn(9, 12, generator=g), b) for b, size in sizes]

    def model(self, i: int) -> Any:
        """The i-th trained LoRA, left in training mode, with dropout."""
        model = small_lora(self.seed + i, lora_dropout=0.5).train()
        # larger logits: a loss is rounded less than they are; and of two sizes, so that no one number fits all
        model.get_output_embeddings().weight.data.mul_((10, 300)[i % 2])
        return model

    def batch(self, i: int) -> dict[str, Tensor]:
        """What the i-th model is compared on."""
        return small_batch(self.seed + i)


def ask_merges(given: Merges, told: Told, share: Callable[..., float], merge: Callable[..., Any]) -> None:
    def found() -> None:
        told["shares"] = [
            float(share(W.clone(), delta.clone(), lambda w, bits=bits: rounded(w, bits)))
            for W, delta, bits in given.matrices
        ]

    def mended() -> None:
        with apart(given.seed):
            differences, left = [], 0
            for i in range(MODELS):
                merged, difference = merge(given.model(i), given.batch(i))
                differences.append(float(difference))
                left = max(left, len(tuner_layers(merged)))
                told[f"logits {i}"] = merged.eval()(**given.batch(i)).logits
            told["differences"], told["left"] = differences, left

    each(found, mended)


def shares(given: Merges, told: Told) -> str:
    for (W, delta, bits), found in zip(given.matrices, told["shares"], strict=True):
        error = rounded(W + delta, bits) - (W + delta)
        if not isclose(found, error.norm() / delta.norm(), rel_tol=1e-3):
            named = {
                "that is the error of W alone; what is rounded is the merged weight": rounded(W, bits) - W,
                "this has the update in it; the error is against the merged weight": rounded(W + delta, bits) - W,
            }
            says = [s for s, e in named.items() if isclose(found, e.norm() / delta.norm(), rel_tol=1e-3)]
            return f"{(says or ['it is not the norm of the rounding error, measured by that of the update'])[0]}."
    return ""


def merged_right(given: Merges, told: Told) -> str:
    if told["left"]:
        return f"{told['left']} layers of the merged model still have LoRA beside them."
    if all(close(told.tensor(f"logits {i}"), _expected(given, i)) for i in range(MODELS)):
        return ""
    return "the merged model does not compute what the adapter does in evaluation mode."


def _expected(given: Merges, i: int) -> Tensor:
    with torch.no_grad():
        logits: Tensor = given.model(i).eval()(**given.batch(i)).logits
    return logits


def difference(given: Merges, told: Told) -> str:
    if wrong := merged_right(given, told):
        return wrong
    for i, found in enumerate(told["differences"]):
        if found > 1e-3:
            return f"the difference is {found:.2g}: merging in float32 does not make one of this size; what is random?"
        if not found > 0:
            return "a difference of exactly 0: are there two outputs, or one compared with itself?"
        real = (told.tensor(f"logits {i}") - _expected(given, i)).abs().max()
        if not 1 / 2.5 < found / real < 2.5:  # rounding is not the same on every machine
            return f"the largest difference of the logits is about {real:.1g}, not {found:.1g}."
    return ""


Exercise(
    "bug_clinic.m10_merging",
    Merges,
    ask_merges,
    (
        Property("what rounding costs, in updates", 2, shares),
        Property("merged", 1, merged_right),
        Property("and compared fairly", 1, difference),
    ),
)
