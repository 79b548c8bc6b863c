"""Trainable, changed and rank, against the formulas and the papers' own counts."""

import re
from dataclasses import replace

import models
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, RobertaConfig, RobertaModel

from peft_lessons import attach, count_parameters, fit, load_base, merge
from peft_lessons.accounting.library import predict_memory
from peft_lessons.accounting.setups import Setup, trace_setup
from peft_lessons.bases import DATA
from peft_lessons.methods import FullFineTuning, Head, LoRA


def test_lora_counts_follow_the_formula_by_module():
    count = count_parameters(attach(models.bert(), LoRA(r=3, target_modules=["intermediate.dense"])))
    assert [(m.name, m.shape, m.trainable, m.changed, m.rank) for m in count.modules] == [
        (f"bert.encoder.layer.{i}.intermediate.dense", (40, 16), 3 * (40 + 16), 40 * 16, 3) for i in range(2)
    ]
    assert (count.trainable, count.changed, count.rank) == (2 * 3 * 56, 2 * 640, 3)


def test_rank_is_never_above_the_matrix():
    assert count_parameters(attach(models.llama(), LoRA(r=64, target_modules=["k_proj"]))).rank == 8


def test_n_total_is_the_bases_own_whatever_is_attached():
    n_total = sum(p.numel() for p in models.bert().parameters())
    for method in (LoRA(), LoRA(target_modules="all-linear"), Head(), FullFineTuning()):
        model = attach(models.bert(), method)
        fit(model, models.task(), steps=1, progress=False)
        count = count_parameters(model)
        assert count.n_total == n_total and count.head == 2 * 16 + 2
    assert count.trainable == n_total and count.share == 1


def test_counts_are_the_same_when_merged():
    model = attach(models.gpt2(), LoRA(r=3))
    before = count_parameters(model)
    assert before == count_parameters(merge(model)) and before.trainable > 0


def test_the_head_of_a_decoder_is_its_own_copy():
    model = attach(models.llama(tied=True), Head())
    assert count_parameters(model).trainable == 300 * 16
    assert model.lm_head.weight is not model.model.embed_tokens.weight


def test_the_printed_line_and_table():
    count = count_parameters(attach(models.bert(), LoRA(r=3, target_modules=["query"])))
    assert str(count).startswith("trainable 192 of ") and str(count).endswith("changed 512; rank at most 3")
    assert "bert.encoder.layer.1.attention.self.query" in count.table()
    assert "(0.0002%)" in str(replace(count, n_total=100_000_000)), "no share that is printed as nothing"


def test_minilm_rank_8_on_query_and_value():
    model, _ = load_base("minilm")
    count = count_parameters(attach(model, LoRA(r=8, target_modules=["query", "value"])))
    assert count.trainable == 6 * 2 * 8 * (384 + 384) == 73_728 and count.n_total == 22_565_376


@pytest.mark.parametrize(
    ("build", "targets", "r", "expected"),
    [  # the LoRA paper: RoBERTa-base 0.3 M, GPT-2 medium 0.35 M; GPT-3's 4.7 M is 96 layers of q and v at d = 12288
        (lambda: RobertaModel(RobertaConfig()), ["query", "value"], 8, 294_912),
        (lambda: GPT2LMHeadModel(GPT2Config(n_embd=1024, n_layer=24, n_head=16)), ["c_attn"], 4, 24 * 4 * 4 * 1024),
    ],
    ids=["roberta-base", "gpt2-medium"],
)
def test_published_counts_on_meta_tensors(build, targets, r, expected):
    with torch.device("meta"):
        model = build()
    assert count_parameters(attach(model, LoRA(r=r, target_modules=targets))).trainable == expected


def test_the_readmes_minutes_are_those_of_the_bench():
    root = DATA.parent
    measured = dict(re.findall(r"^  (\d\d)_\w+ +(\d+)$", (root / "data/measured/bench.txt").read_text(), re.MULTILINE))
    stated = dict(re.findall(r"^\| (\d\d) \|.*\| ([\d.]+) \|$", (root / "README.md").read_text(), re.MULTILINE))
    assert stated and stated == {lesson: f"{int(seconds) / 60:.1f}" for lesson, seconds in measured.items()}


def test_a_step_is_predicted_with_the_layers_rank_and_optimizer_that_were_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("PEFT_LESSONS_HOME", str(tmp_path))
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = LlamaConfig(**sizes, num_hidden_layers=6, vocab_size=300, tie_word_embeddings=False)
    setup = Setup(LoRA(r=5, target_modules="all-linear"), weights="float32", optimizer="sgd_momentum")
    predicted, direct = predict_memory(config, setup, 2, 40), trace_setup(config, setup, 2, 40)
    assert (predicted.peak, predicted.at_peak, predicted.place) == (direct.peak, direct.at_peak(), direct.peak_place)
