"""M12. A soft prompt that nothing reads: the same score in every epoch.

Source: huggingface/peft issues 869 and 2642; the prompt's place is that of Lester et al. 2021, "The Power of Scale for
Parameter-Efficient Prompt Tuning", section 2. With peft 0.21.2 prefix tuning works with transformers' new caches.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from peft_lessons.assignments.bug_clinic.shared import each, shuffled, small_batch, small_model, told_apart
from peft_lessons.assignments.core import Exercise, Property
from peft_lessons.assignments.told import Told
from peft_lessons.tasks import IGNORED

ILL = (False, True, True, True, False, True, False)  # of the runs below


def loss_with(
    model: PreTrainedModel, batch: dict[str, Tensor], prompt: Tensor, mistake: str = "", scale: float = 1.0
) -> Tensor:
    """The loss behind a soft prompt (n, d_model), with one of the mistakes that people make, or none."""
    words = model.get_input_embeddings()(batch["input_ids"])
    rows, n = len(words), len(prompt)
    soft = scale * (prompt.detach() if mistake == "detached" else prompt).expand(rows, -1, -1)
    mask = torch.full((rows, n), int(mistake != "masked"))
    parts = [(soft, words), (mask, batch["attention_mask"]), (torch.full((rows, n), IGNORED), batch["labels"])]
    turn = -1 if mistake == "behind" else 1
    embeds, mask, labels = (torch.cat(part[::turn], 1) for part in parts)
    return model(inputs_embeds=embeds, attention_mask=mask, labels=labels).loss


def _loss(
    model: PreTrainedModel, batch: dict[str, Tensor], mistake: str, scale: float, weight: float, prompt: Tensor
) -> Tensor:
    return weight * loss_with(model, batch, prompt, mistake, scale)


@dataclass(frozen=True)
class Prompts:
    """A seed, out of which runs with a soft prompt come, and tensors to put one in front of."""

    seed: int

    def __iter__(self) -> Iterator[tuple[Callable[[Tensor], Tensor], Tensor]]:
        model = small_model(self.seed).requires_grad_(False)
        for i, mistake in enumerate(("", "masked", "behind", "detached", "small", "times zero", "starts at zero")):
            g = torch.Generator().manual_seed(self.seed + i)
            prompt = nn.Parameter(torch.randn(3, 24, generator=g) * (mistake != "starts at zero"))
            batch, scale = small_batch(self.seed + i), 0.0 if mistake == "times zero" else 1.0
            weight = 1e-5 if mistake == "small" else 1.0
            batch["labels"][:, :3] = IGNORED  # a question, which is not to be predicted

            yield partial(_loss, model, batch, mistake, scale, weight), prompt

    @property
    def parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Embeddings, mask and labels of a batch padded on the left, and a prompt."""
        g = torch.Generator().manual_seed(self.seed)
        rows, length, n = 3 + self.seed % 2, 6, 2 + self.seed % 3
        mask = (torch.arange(length) >= torch.arange(rows)[:, None]).long()
        labels = torch.randint(3, 32, (rows, length), generator=g).where(mask == 1, IGNORED)
        return torch.randn(rows, length, 8, generator=g), mask, labels, torch.randn(n, 8, generator=g)


def ask_prompts(given: Prompts, told: Told, find: Callable[..., bool], add: Callable[..., tuple[Tensor, ...]]) -> None:
    def found() -> None:
        told["said"] = [find(*run) for run in shuffled(given, given.seed)]

    def mended() -> None:
        embeds, mask, labels, prompt = given.parts
        prompt.requires_grad_()
        told["embeds"], told["mask"], told["labels"] = added = add(embeds, mask, labels, prompt)
        added[0].sum().backward()
        told["gradient"] = prompt.grad if prompt.grad is not None else torch.zeros(())

    each(found, mended)


def told_them_apart(given: Prompts, told: Told) -> str:
    return told_apart(shuffled(ILL, given.seed), told["said"])


def in_front(given: Prompts, told: Told) -> str:
    embeds, _, _, prompt = given.parts
    expected = torch.cat([prompt.expand(len(embeds), -1, -1), embeds], 1).double()
    found = told.tensor("embeds")
    if found.shape != expected.shape:
        return f"the embeddings are {tuple(found.shape)}; {len(prompt)} vectors were to come to {tuple(embeds.shape)}."
    if not torch.equal(found, expected):
        return "the prompt is not in front of every row, or not as it is."
    return "" if told.tensor("gradient").any() else "no gradient comes back to the prompt."


def mask_and_labels(given: Prompts, told: Told) -> str:
    if wrong := in_front(given, told):
        return wrong
    _, mask, labels, prompt = given.parts
    rows, n = len(mask), len(prompt)
    if not torch.equal(told.tensor("mask"), torch.cat([torch.ones(rows, n), mask], 1).double()):
        return "the mask does not let every row read the prompt, and its own tokens as before."
    if not torch.equal(told.tensor("labels"), torch.cat([torch.full((rows, n), IGNORED), labels], 1).double()):
        return "the labels must say nothing at the prompt, and elsewhere what they said."
    return ""


Exercise(
    "bug_clinic.m12_soft_prompt",
    Prompts,
    ask_prompts,
    (
        Property("tells a prompt that is read from one that is not", 2, told_them_apart),
        Property("the prompt in front", 1, in_front),
        Property("with its mask and labels", 1, mask_and_labels),
    ),
)
