"""Prompt tuning: p learned vectors in front of the embedded text, and nothing else.

    h_0 = [P; E(x)]        P: (p, d), trained        E(x): (length, d), frozen

Every weight of the model stays as it is; p · d numbers are trained and stored. They begin as random numbers in
[-0.5, 0.5), as the embeddings of words drawn from the vocabulary, of a text, or of the labels; where these are too
short, drawn words fill the labels' prompt and repetition the text's.

Source: Lester, Al-Rfou and Constant 2021, "The Power of Scale for Parameter-Efficient Prompt Tuning", section 2 and,
for the beginnings, 3.2; repeating a text, and drawing from the whole vocabulary, as Hugging Face peft does (the paper
draws from the 5,000 most frequent words).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peft_lessons.methods.additive.soft_prompt import Numbers, PromptedBody, SoftPrompt, check_length
from peft_lessons.methods.additive.words import check_text, drawn_ids, embedded, token_ids
from peft_lessons.methods.core import require_attachment

INITS = ("vocabulary", "uniform", "text", "labels")


@dataclass(frozen=True)
class PromptTuning(SoftPrompt):
    """A prompt of n_tokens vectors in front of the text.

    Args:
        n_tokens: the prompt's length p (`num_virtual_tokens` in peft).
        init: how it begins: words drawn from the "vocabulary", "uniform" random numbers, a "text", or "labels".
        init_text: the text; for labels, the labels with commas between them.

    Raises:
        ValueError: n_tokens below 1, an unknown init, no text where init needs one, or one that it does not read; when
            attached, a prompt as long as the context, or a model without a tokenizer to read the text.

    Source: see the module.
    """

    peft_type: ClassVar[str] = "PROMPT_TUNING"
    lr: ClassVar[float] = 3e-2

    n_tokens: int = 20
    init: Literal["vocabulary", "uniform", "text", "labels"] = "vocabulary"
    init_text: str | None = None

    def __post_init__(self) -> None:
        check_length(self.n_tokens)
        if self.init not in INITS:
            raise ValueError(f"init is {self.init!r}; it can be {', '.join(INITS)}.")
        check_text(self.init, self.init_text, ("text", "labels"))

    def prompt_module(self, model: Any, table: nn.Module) -> Numbers:
        return Numbers(start(model, table, self.n_tokens, self.init, str(self.init_text)))

    def config(self) -> dict[str, object]:
        drawn = "RANDOM" if self.init == "uniform" else "SAMPLE_VOCAB"  # a text would need its tokenizer's name
        return {"num_virtual_tokens": self.n_tokens, "prompt_tuning_init": drawn}

    @classmethod
    def from_config(cls, config: dict[str, Any], tensors: Mapping[str, Tensor]) -> "PromptTuning":
        random = config.get("prompt_tuning_init", "RANDOM") == "RANDOM"
        return cls(config["num_virtual_tokens"], "uniform" if random else "vocabulary")


def start(model: Any, table: Any, n_tokens: int, init: str, text: str) -> Tensor:
    """The numbers a prompt begins with, (n_tokens, d), float32, where the embedding table is.

    Raises:
        ValueError: the model has no tokenizer to read the text.
    """
    if init == "uniform":
        return (torch.rand(n_tokens, table.weight.shape[1], device="cpu") - 0.5).to(table.weight.device)
    drawn = drawn_ids(table, n_tokens)
    if init == "text":
        ids = token_ids(model, text)
        return embedded(table, (ids * -(-n_tokens // len(ids)))[:n_tokens])
    if init == "labels":
        names = [name for name in (part.strip() for part in text.split(",")) if name][:n_tokens]
        means = torch.stack([embedded(table, token_ids(model, name)).mean(0) for name in names])
        return torch.cat([means, embedded(table, drawn[: n_tokens - len(names)])])
    return embedded(table, drawn)


@torch.no_grad()
def nearest_words(model: Any, k: int = 1) -> list[list[tuple[str, float]]]:
    """For each vector of the prompt that is on, the k nearest tokens by cosine, nearest first, with the cosine.

    Raises:
        RuntimeError: nothing is attached.
        ValueError: what is attached is no prompt in front of the embedded text, or there are no k words.

    Source: the question of Lester et al. 2021, section 7, who ask it of the prompts of T5-XXL.
    """
    state = require_attachment(model)
    if not isinstance(state.method, SoftPrompt) or state.method.inside_cache:
        raise ValueError(f"{type(state.method).__name__} learns no vectors in the space of word embeddings.")
    (body,) = (module for module in state.added.values() if isinstance(module, PromptedBody))
    table = body.base.get_input_embeddings().weight.float()
    if not 1 <= k <= len(table):
        raise ValueError(f"k is {k!r}; the vocabulary has {len(table)} words to be near.")
    cosines = F.normalize(body.prompt(), dim=-1) @ F.normalize(table, dim=-1).T  # (p, vocabulary)
    found = cosines.topk(k, dim=-1)
    return [
        [(model.tokenizer.decode([i]).strip(), round(c, 4)) for i, c in zip(ids, cs, strict=True)]
        for ids, cs in zip(found.indices.tolist(), found.values.tolist(), strict=True)
    ]
