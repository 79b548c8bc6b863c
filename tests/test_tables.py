"""Tables of live bytes: a direct trace to the byte, for any model, setup and size; and the closed form beside them."""

import random
from dataclasses import replace

import numpy as np
import pytest
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
    Qwen2Config,
    T5Config,
)

from peft_lessons import attach, quantize
from peft_lessons.accounting.building import build_table
from peft_lessons.accounting.explain import terms
from peft_lessons.accounting.library import load_shape
from peft_lessons.accounting.memory import closed_form, closed_peak
from peft_lessons.accounting.optimizers import OPTIMIZERS
from peft_lessons.accounting.polynomials import LENGTHS, fit_size, free_primes, monomials
from peft_lessons.accounting.setups import Setup, trace_setup, with_layers
from peft_lessons.methods import FullFineTuning, Head, LoRA

IDS = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
MODELS: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(
        hidden_size=48, intermediate_size=80, num_hidden_layers=6, num_attention_heads=4, num_key_value_heads=2,
        vocab_size=500, tie_word_embeddings=False, **IDS,
    ),
    "qwen2": Qwen2Config(
        hidden_size=64, intermediate_size=96, num_hidden_layers=5, num_attention_heads=4, num_key_value_heads=4,
        vocab_size=300, tie_word_embeddings=True, **IDS,
    ),
    "gpt2": GPT2Config(n_embd=48, n_layer=5, n_head=3, n_positions=700, vocab_size=300, **IDS),
    "bert": BertConfig(
        hidden_size=48, intermediate_size=96, num_hidden_layers=7, num_attention_heads=3, vocab_size=300
    ),
    "t5": T5Config(
        d_model=48, d_ff=80, d_kv=16, num_heads=3, num_layers=3, num_decoder_layers=3, vocab_size=300,
        decoder_start_token_id=0, pad_token_id=2,
    ),
}  # fmt: skip
METHODS = (
    FullFineTuning(),
    Head(),
    LoRA(r=4),
    LoRA(r=6, alpha=3, target_modules="all-linear"),
    LoRA(r=2, dropout=0.1, target_modules="all-linear"),
)


def any_setup(name: str, rng: random.Random) -> Setup:
    """A setup with every choice drawn at random among those that go together."""
    while True:
        weights = rng.choice(["bfloat16", "float32"] + ["nf4"] * (name != "t5"))
        try:
            setup = Setup(
                method=rng.choice(METHODS),
                weights=weights,
                adapters=rng.choice(["float32", "bfloat16"]),
                optimizer=rng.choice(list(OPTIMIZERS)),
                attention=rng.choice(["flash", "flash", "efficient", "math", "eager"]),
                logits=rng.choice(["kept", "kept", "chunked"]) if name not in ("bert", "t5") else "kept",
                checkpointing=rng.random() < 0.4,
                padding=rng.random() < 0.3,
                keep_output=rng.random() < 0.2,
                autocast=rng.random() < 0.3,
                upcast=weights == "nf4" and rng.random() < 0.5,
                device=rng.choice(["cuda", "cuda", "cpu"]),
            )
        except ValueError:
            continue
        if weights != "nf4" or not isinstance(setup.method, FullFineTuning):
            return setup


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", MODELS)
def test_any_configuration_traced_directly_and_by_table_is_equal(name, seed):
    rng = random.Random(f"{name} {seed}")
    setup = any_setup(name, rng)
    table = build_table(MODELS[name], setup)
    for _ in range(2):
        batch, length, rank = rng.randint(1, 9), 8 * rng.randint(1, 60), rng.randint(1, 40)
        if setup.logits == "kept":
            length += rng.randint(0, 7)
        layers = table.n_layers or rng.randint(3, 9)
        optimizer = rng.choice(list(OPTIMIZERS))
        method = replace(setup.method, r=rank) if hasattr(setup.method, "r") else setup.method
        exact = replace(setup, method=method, optimizer=optimizer)
        direct = trace_setup(MODELS[name], exact, batch, length, layers)
        answer = table.evaluate(layers, batch, length, rank, optimizer)
        assert answer.peak == direct.peak, (setup, batch, length, rank, optimizer)
        assert answer.at_peak == direct.at_peak()
        assert answer.place == direct.peak_place
        stages = [stage for stage in ("forward", "loss", "backward", "optimizer step", "end") if stage in answer.before]
        for stage in stages:
            if stage == "end" or stage in direct.marks:
                assert answer.before[stage] == direct.before(stage), stage
        assert table.peak(layers, batch, length, rank, optimizer) == answer.peak
        curve, begins = table.curve(layers, batch, length, rank, optimizer)
        assert round(curve.sum(1).max()) == answer.peak
        assert list(begins.values()) == sorted(begins.values())
        assert sum(t.n_bytes for t in terms(table, layers, batch, length, rank, optimizer)) == answer.peak


@pytest.fixture(scope="module")
def table():
    return build_table(MODELS["llama"], Setup(LoRA(target_modules="all-linear")))


def test_more_of_anything_never_needs_less(table):
    sizes = {"layers": 6, "batch": 2, "length": 64, "rank": 8}
    for name in sizes:
        peaks = [table.peak(**sizes | {name: n}) for n in (3, 4, 8, 16, 64, 256)]
        assert peaks == sorted(peaks) and len(set(peaks)) == len(peaks), name


def test_bytes_are_additive(table):
    """Activations of two batches of one are those of a batch of two; a layer more always costs the same."""
    stored = [table.evaluate(6, batch, 64, 8).before["loss"]["activations"] for batch in (1, 2, 3)]
    assert stored[2] - stored[1] == stored[1] - stored[0]
    weights = [table.evaluate(layers, 1, 64, 8).before["forward"]["weights"] for layers in (3, 4, 50, 51)]
    assert weights[1] - weights[0] == weights[3] - weights[2]


def test_exact_at_the_corners_it_was_made_from(table):
    for length in LENGTHS:
        setup = Setup(LoRA(r=7, target_modules="all-linear"))
        assert table.peak(3, 61, length, 7) == trace_setup(MODELS["llama"], setup, 61, length, 3).peak


@pytest.mark.parametrize("sizes", [(0, 1, 1, 1), (6, 0, 1, 1), (6, 1, 0, 1), (6, 1, 1, 0), (2, 1, 1, 1)])
def test_impossible_sizes_are_one_sentence(table, sizes):
    with pytest.raises(ValueError, match=r"must be at least 1|from 3 layers on"):
        table.evaluate(*sizes)


def test_a_table_of_layers_that_do_not_repeat_is_for_its_own_number():
    table = build_table(MODELS["t5"], Setup(LoRA()))
    assert table.n_layers == 3
    with pytest.raises(ValueError, match="for 3 layers, not for 4"):
        table.evaluate(4, 1, 8)


def test_the_progress_of_building_is_told():
    told = []
    build_table(MODELS["bert"], Setup(Head()), lambda done, total: told.append((done, total)))
    assert told == [(i, 6) for i in range(1, 7)]


def test_a_chunked_loss_is_for_decoders():
    with pytest.raises(ValueError, match="for decoders"):
        build_table(MODELS["bert"], Setup(LoRA(), logits="chunked"))
    with pytest.raises(ValueError, match="8 equal parts"):
        trace_setup(MODELS["llama"], Setup(LoRA(), logits="chunked"), 1, 12)


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        ({"weights": "int3"}, "bfloat16, float32, nf4"),
        ({"optimizer": "adam"}, "adamw, adamw_foreach"),
        ({"upcast": True}, 'weights="nf4"'),
        ({"logits": "chunked", "keep_output": True}, "nothing to keep"),
        ({"method": "lora"}, "a method such as"),
    ],
)
def test_choices_that_do_not_exist_or_go_together(choices, said):
    with pytest.raises(ValueError, match=said):
        Setup(**choices)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_a_base_in_four_bits_holds_what_quantize_stores(name):
    setup = Setup(LoRA(r=4), weights="nf4", device="cpu")
    real = AutoModelForCausalLM.from_config(MODELS[name], dtype=setup.dtype).requires_grad_(False)
    attach(quantize(real, backend="torch"), setup.method)
    stored = [*real.parameters(), *(b for n, b in real.named_buffers() if n in real.state_dict())]
    held = trace_setup(MODELS[name], setup, 1, 8).before("forward")["weights"]
    assert held == pytest.approx(sum(t.numel() * t.element_size() for t in stored), abs=400)  # rotary frequencies


def test_four_bit_weights_cannot_be_trained():
    with pytest.raises(ValueError, match="leaves the base frozen"):
        trace_setup(MODELS["llama"], Setup(FullFineTuning(), weights="nf4"), 1, 8)


def test_t5_in_four_bits_is_refused_by_name():
    with pytest.raises(ValueError, match="feed-forward output in float32"):
        trace_setup(MODELS["t5"], Setup(LoRA(), weights="nf4"), 1, 8)


def test_a_size_that_is_no_polynomial_is_refused():
    with pytest.raises(ValueError, match="bytes at lengths"):
        fit_size([1, 10, 100, 1000], 61, 67)
    with pytest.raises(ValueError, match="share factors"):
        free_primes([61 * 67 * 71 * 73 * 79 * 83 * 89 * 97 * 101 * 103 * 107 * 109 * 113])


def test_fitted_sizes_are_exact():
    for size in (
        lambda t: 5,
        lambda t: 61 * 4 * t,
        lambda t: 61 * 67 * 2 * t,
        lambda t: 3 * t * t,
        lambda t: 8 * (t + 1),
    ):
        row = fit_size([size(t) for t in LENGTHS], 61, 67)
        for length in (1, 33, 1000):
            assert row @ monomials(1, 61, length, 67)[: len(row)] == size(length)
    assert np.count_nonzero(fit_size([96, 160, 288, 416], 61, 67)) == 1  # the length rounded up to 32


CLOSED = (
    FullFineTuning(),
    LoRA(r=5, target_modules=["q_proj", "v_proj"]),
    LoRA(r=16),
    LoRA(r=3, target_modules="all-linear"),
    LoRA(r=3, target_modules="all-linear", dropout=0.1),
    LoRA(r=3, target_modules=["k_proj", "down_proj"]),
)
SWITCHES = (
    {},
    {"adapters": "bfloat16"},
    {"checkpointing": True},
    {"weights": "float32", "device": "cpu"},
    {"device": "cpu", "optimizer": "adafactor"},
)


@pytest.mark.parametrize("switches", SWITCHES, ids=str)
@pytest.mark.parametrize("name", ["llama-3.2-1b", "qwen2.5-0.5b", "mistral-7b-v0.3"])
def test_the_closed_form_is_the_trace_to_the_byte(name, switches):
    config = with_layers(load_shape(name), 4)
    for method in CLOSED:
        setup = Setup(method, **switches)
        form = closed_form(config, setup, 3, 72)
        step = trace_setup(config, setup, 3, 72)
        found = {c: sum(t.n_bytes for t in form if t.category == c) for c in {t.category for t in form}}
        for category in ("weights", "optimizer states", "activations"):
            assert found[category] == step.before("loss")[category], (method, category)
        assert found["gradients"] == step.before("optimizer step")["gradients"]
        if step.peak_place.startswith(("loss", "optimizer")):
            assert closed_peak(form) == step.peak, method
        else:
            assert closed_peak(form) < step.peak, "the third peak is above the other two"


@pytest.mark.parametrize(
    ("name", "switches", "said"),
    [
        ("gpt2", {}, "llama, mistral, qwen2"),
        ("llama-2-7b", {"attention": "eager"}, "flash attention"),
        ("llama-2-7b", {"weights": "nf4"}, "bfloat16 weights"),
        ("llama-2-7b", {"method": Head()}, "not for Head"),
        ("llama-2-7b", {"method": LoRA(target_modules=["o_proj"])}, "q_proj, k_proj or v_proj"),
    ],
)
def test_the_closed_form_says_where_it_ends(name, switches, said):
    with pytest.raises(ValueError, match=said):
        closed_form(load_shape(name), Setup(**switches), 1, 8)


def test_known_totals():
    """Llama-2-7B in bfloat16, one sequence of 1,024 tokens, LoRA r = 16 on every linear layer: the reference traces."""
    known = {"bfloat16": 18.340, "float32": 21.742}
    for adapters, gib in known.items():
        setup = Setup(LoRA(r=16, target_modules="all-linear"), adapters=adapters)
        assert closed_peak(closed_form(load_shape("llama-2-7b"), setup, 1, 1024)) / 2**30 == pytest.approx(
            gib, abs=2e-3
        )
