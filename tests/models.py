"""Small random models that the tests share: an encoder, a Llama, and a GPT-2 with its transposed layers."""

import torch
from datasets import Dataset
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from peft_lessons.bases import TextClassifier
from peft_lessons.tasks import Task

WORDS = "good fine kind warm bad awful rude cold day thing meal room walk".split()
SIZE = {"vocab_size": 300, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}


def tokenizer(padding_side: str = "left") -> PreTrainedTokenizerFast:
    """A byte-level BPE trained on a few words, with bos, eos and pad."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator([f"{a} {b} ->" for a in WORDS for b in WORDS], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", pad_token="<pad>", padding_side=padding_side
    )


def bert() -> TextClassifier:
    """Two layers, d_model 16, feed-forward 40."""
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=300, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=40, pad_token_id=2
    )
    return _as_base(TextClassifier(BertModel(config, add_pooling_layer=False)), "right")


def llama(tied: bool = True) -> LlamaForCausalLM:
    """Two layers, d_model 16, feed-forward 40, keys and values shared by two heads."""
    torch.manual_seed(1)
    config = LlamaConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=40,
        tie_word_embeddings=tied,
        **SIZE,
    )
    return _as_base(LlamaForCausalLM(config), "left")


def gpt2() -> GPT2LMHeadModel:
    """Two layers of Conv1D, d_model 16; absolute positions."""
    torch.manual_seed(1)
    return _as_base(GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=2, n_head=2, n_positions=128, **SIZE)), "left")


def _as_base(model, padding_side):
    """As `load_base` hands it out: frozen, in evaluation mode, with a tokenizer and a name."""
    model.tokenizer = tokenizer(padding_side)
    model.config._name_or_path = "tests/random"
    return model.eval().requires_grad_(False)


ALL = {"bert": bert, "llama": llama, "gpt2": gpt2}


def task(choices: bool = True) -> Task:
    """Good or bad, from one word of eight: learnable in a few steps."""
    good, bad, things = WORDS[:4], WORDS[4:8], WORDS[8:]
    rows = [{"text": f"{w} {t}", "answer": "good" if w in good else "bad"} for w in good + bad for t in things]
    data = Dataset.from_list(rows)
    return Task("toy", data, data, data, ("good", "bad") if choices else None)


def logits(model, texts=("good day", "an awful walk indeed")) -> torch.Tensor:
    """Logits of a few sentences of different lengths, in evaluation mode, at the real tokens."""
    batch = model.tokenizer(list(texts), padding=True, return_tensors="pt", return_token_type_ids=False)
    with torch.no_grad():
        found = model(**batch).logits
    return found if found.dim() == 2 else found[batch["attention_mask"].bool()]


def bits(model) -> dict[str, torch.Tensor]:
    """A copy of every tensor of the model."""
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same_bits(model, before) -> bool:
    """Whether the model's tensors are those of `before`, names and bits."""
    now = model.state_dict()
    return now.keys() == before.keys() and all(torch.equal(now[name], before[name]) for name in before)
