"""Words as numbers to begin from: a text's tokens, words drawn from the vocabulary, and their embeddings.

Source: the beginnings of Lester et al. 2021, section 3.2.
"""

from typing import Any

import torch
from torch import Tensor


def check_text(init: str, text: object, reading: tuple[str, ...]) -> None:
    """Refuse a text that is none, is missing, or would be read by nobody.

    Args:
        init: how the numbers begin.
        text: the `init_text` given.
        reading: the ways to begin that read it.

    Raises:
        ValueError: it is.
    """
    if text is not None and not isinstance(text, str):
        raise ValueError(f"init_text is {text!r}; it is a string, in which labels have commas between them.")
    if init not in reading and text is not None:
        takes = " or ".join(f'"{name}"' for name in reading)
        raise ValueError(f'init_text is given, but init="{init}" does not read it; it is for {takes}.')
    if init in reading and not (text or "").replace("," if init == "labels" else "", "").strip():
        raise ValueError(f'init_text is empty; init="{init}" needs words to begin from.')


def token_ids(model: Any, text: str) -> list[int]:
    """A text's token ids, without the tokens that a tokenizer puts around a sentence.

    Raises:
        ValueError: the model has no tokenizer, or it makes nothing of the text.
    """
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None:
        raise ValueError("To begin from words the model needs its tokenizer: model.tokenizer = tokenizer.")
    ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
    if not ids:
        raise ValueError(f"The tokenizer makes no token of {text!r}, so there is nothing to begin from.")
    return ids


def drawn_ids(table: Any, n: int) -> list[int]:
    """The ids of n words drawn from the vocabulary of an embedding table: on the CPU, the same for every device."""
    return torch.randint(table.weight.shape[0], (n,), device="cpu").tolist()


def embedded(table: Any, ids: list[int]) -> Tensor:
    """Token ids -> their embeddings, (length, d), float32, outside autograd."""
    with torch.no_grad():
        return table(torch.tensor(ids, dtype=torch.int64).to(table.weight.device)).to(torch.float32)
