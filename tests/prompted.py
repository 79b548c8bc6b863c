"""What the tests of soft prompts share: texts as ids, other models, and the logits at the real tokens."""

import models
import torch
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    BertForSequenceClassification,
    MptConfig,
    MptForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

from peft_lessons.methods.core import trained_parameters

ROWS = [[11, 45, 7, 200, 33], [150, 9, 61]]  # two texts of different lengths


def batch(rows=ROWS, side="right", pad=2):
    """Texts as ids and mask, padded on one side."""
    longest = max(map(len, rows))
    ids, mask = [], []
    for row in rows:
        fill = longest - len(row)
        ids.append([pad] * fill + row if side == "left" else row + [pad] * fill)
        mask.append([0] * fill + [1] * len(row) if side == "left" else [1] * len(row) + [0] * fill)
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


@torch.no_grad()
def at_tokens(model, rows=ROWS, side="right"):
    """The logits at every real token; of an encoder the body's hidden states."""
    given = batch(rows, side)
    if hasattr(model, "set_head"):
        return model.encoder(**given).last_hidden_state[given["attention_mask"].bool()]
    return model(**given).logits[given["attention_mask"].bool()]


def random_weights(model, std=0.4):
    """Random numbers in everything that is trained."""
    torch.manual_seed(7)
    with torch.no_grad():
        for parameter in trained_parameters(model).values():
            parameter.normal_(std=std)
    return model


def lively(model):
    """The same model with larger weights, so that what comes first changes what follows by more than rounding."""
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(std=0.3)
    return model


def of(config_class, **sizes):
    """A random decoder of another family."""

    def base():
        torch.manual_seed(1)
        model = lively(AutoModelForCausalLM.from_config(config_class(**sizes, **models.SIZE)))
        return models._as_base(model, "left")

    return base


def llama():
    """Keys and values shared by two heads of queries each."""
    return lively(models.llama())


def gpt2():
    """Absolute positions; one layer for queries, keys and values."""
    return lively(models.gpt2())


def bert():
    """An encoder as `load_base` hands it out."""
    return lively(models.bert())


def classifier():
    """Transformers' own BERT for classification, which peft knows."""
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=300, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=40, pad_token_id=2
    )
    model = lively(BertForSequenceClassification(config)).eval().requires_grad_(False)
    model.tokenizer = models.tokenizer("right")
    return model


def t5(n_layers=2):
    """An encoder-decoder with relative positions."""
    torch.manual_seed(1)
    config = T5Config(
        vocab_size=300, d_model=16, d_kv=8, d_ff=40, num_heads=2, num_layers=n_layers, dropout_rate=0,
        decoder_start_token_id=0,
    )  # fmt: skip
    model = lively(T5ForConditionalGeneration(config)).eval().requires_grad_(False)
    model.tokenizer = models.tokenizer("right")
    return model


def mpt():
    """A decoder that is told no positions: it counts places."""
    torch.manual_seed(1)
    config = MptConfig(d_model=16, n_heads=2, n_layers=2, max_seq_len=128, **models.SIZE)
    return models._as_base(lively(MptForCausalLM(config)), "left")


BASES = {"llama": llama, "gpt2": gpt2, "bert": bert}
DECODERS = {"llama": llama, "gpt2": gpt2}
