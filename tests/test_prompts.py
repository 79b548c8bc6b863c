"""Prompt tuning, P-tuning and intrinsic prompts: equal to a text in front, to Hugging Face peft, to the paper's count.

Oracles: the embeddings of a real text as a prompt are that text prepended; peft's logits, files and generation; the
20,480 numbers of Lester et al. 2021 for T5-XXL.
"""

import copy
import json
import re

import models
import prompted
import pytest
import torch
from peft import PeftModel, PromptEncoderConfig, PromptTuningConfig, get_peft_model
from prompted import BASES, DECODERS, ROWS, at_tokens, batch, of, random_weights
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    Gemma3TextConfig,
    GPTNeoConfig,
    LlamaConfig,
    LlamaModel,
    MistralConfig,
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    RobertaConfig,
    RobertaModel,
    T5Config,
    XGLMConfig,
)

from peft_lessons import attach, count_parameters, detach, fit, load_adapter, merge, save_adapter, switch
from peft_lessons.accounting.setups import Setup, chunked_loss, trace_setup
from peft_lessons.bases import TextClassifier
from peft_lessons.methods import IntrinsicPrompt, LoRA, PrefixTuning, PromptTuning, PTuning
from peft_lessons.methods.additive import soft_prompt
from peft_lessons.methods.additive.intrinsic_prompt import NAMES, learn_decoder
from peft_lessons.methods.additive.prompts import nearest_words
from peft_lessons.methods.core import require_attachment
from peft_lessons.methods.files import CONFIG, WEIGHTS
from peft_lessons.methods.quantizing import quantize

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*config file in tests/random",
    "ignore:Unable to fetch remote file",
    "ignore:Position ids are not supported",
)
each_base = pytest.mark.parametrize("base", BASES.values(), ids=BASES.keys())
each_decoder = pytest.mark.parametrize("base", DECODERS.values(), ids=DECODERS.keys())
TEXT = "good meal room"


def text_ids(model, text=TEXT):
    return model.tokenizer(text, add_special_tokens=False)["input_ids"]


def with_text_as_prompt(base):
    """A base with the embeddings of TEXT as its prompt, and how many tokens these are."""
    model = base()
    p = len(text_ids(model))
    return attach(model, PromptTuning(p, "text", TEXT)), p


def prepended(base, rows=ROWS):
    """What the plain base says at the rows' tokens when TEXT stands in front of them."""
    model = base()
    ids = text_ids(model)
    found = at_tokens(model, [ids + row for row in rows]).split([len(ids) + len(row) for row in rows])
    return torch.cat([part[len(ids) :] for part in found])


def difference(a, b):
    return (a - b).abs().max().item()


# --- a text's embeddings as a prompt are that text


@each_base
@pytest.mark.parametrize("side", ["left", "right"])
def test_the_embeddings_of_a_text_are_that_text_prepended(base, side):
    model, _ = with_text_as_prompt(base)
    assert difference(at_tokens(model, side=side), prepended(base)) < 1e-5
    assert difference(at_tokens(model), at_tokens(base())) > 1e-2, "the prompt must be seen at all"


@each_decoder
def test_outside_of_the_body_nothing_is_longer(base):
    model = random_weights(attach(base(), PromptTuning(4)))
    out = model(**batch(side="left"), output_hidden_states=True, logits_to_keep=2)
    assert out.logits.shape == (2, 2, 300)
    assert all(h.shape[1] == 5 for h in out.hidden_states)


def wrong_places(base, given, p, x, inside):
    found = RIGHT(base, given, p, x, inside)
    if "position_ids" in found:
        found["position_ids"] = (found["position_ids"] - p).clamp(min=0)
    return found


def hidden_prompt(base, given, p, x, inside):
    found = RIGHT(base, given, p, x, inside)
    mask = found["attention_mask"].clone()
    mask[:, :p] = 0
    return found | {"attention_mask": mask}


RIGHT = soft_prompt.lengthened


@pytest.mark.parametrize("mutant", [wrong_places, hidden_prompt])
def test_wrong_masks_and_positions_do_not_pass(mutant, monkeypatch):
    monkeypatch.setattr(soft_prompt, "lengthened", mutant)
    model, _ = with_text_as_prompt(prompted.gpt2)
    assert difference(at_tokens(model, side="left"), prepended(prompted.gpt2)) > 1e-3


def test_a_prompt_behind_the_text_does_not_pass(monkeypatch):
    model, p = with_text_as_prompt(prompted.gpt2)
    real = torch.cat

    def behind(tensors, dim=0):
        return real(tensors[::-1] if tensors[0].shape[-1] == 16 and tensors[0].dim() == 3 else tensors, dim=dim)

    monkeypatch.setattr(soft_prompt.torch, "cat", behind)
    assert difference(at_tokens(model), prepended(prompted.gpt2)) > 1e-3


# --- padding


@each_base
@pytest.mark.parametrize("method", [PromptTuning(4), PTuning(4), PrefixTuning(4)], ids=lambda m: type(m).__name__)
def test_left_padding_right_padding_and_none_give_the_same_answer(base, method):
    model = random_weights(attach(base(), method))
    alone = torch.cat([at_tokens(model, [row]) for row in ROWS])
    assert difference(at_tokens(model, side="left"), alone) < 1e-5
    assert difference(at_tokens(model, side="right"), alone) < 1e-5


WINDOW = {"hidden_size": 16, "intermediate_size": 40, "num_attention_heads": 4, "num_key_value_heads": 2}
WINDOW |= {"num_hidden_layers": 2, "sliding_window": 6}
PLACES = {
    "t5": prompted.t5,
    "mpt": prompted.mpt,
    "a window": of(MistralConfig, **WINDOW),
    "a window in some layers": of(
        Gemma3TextConfig, head_dim=4, layer_types=["full_attention", "sliding_attention"], **WINDOW
    ),
    "a window, learned positions": of(
        GPTNeoConfig,
        hidden_size=16,
        num_layers=2,
        num_heads=2,
        window_size=6,
        attention_types=[[["global", "local"], 1]],
    ),
}


@pytest.mark.parametrize("base", PLACES.values(), ids=PLACES.keys())
@pytest.mark.parametrize("method", [PromptTuning(4), PTuning(4)], ids=lambda m: type(m).__name__)
def test_where_places_count_the_prompt_stands_behind_the_padding(base, method):
    model = random_weights(attach(base(), method))
    seq2seq = model.config.is_encoder_decoder

    @torch.no_grad()
    def states(given):
        more = {"decoder_input_ids": torch.tensor([[0, 8, 40]] * len(given["input_ids"]))} if seq2seq else {}
        out = model(**given, **more, output_hidden_states=True)
        tokens = given["attention_mask"].bool()
        return [out.logits.flatten(0, 1)] if seq2seq else [h[tokens] for h in (out.logits, *out.hidden_states)]

    alone = [states(batch([row])) for row in ROWS]
    for side in ("left", "right"):
        for found, *expected in zip(states(batch(side=side)), *alone, strict=True):
            assert difference(found, torch.cat(expected)) < 1e-5
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False}
    for use_cache in (True, False):
        written = model.generate(**batch(side="left"), **options, use_cache=use_cache)[:, -6:]
        for row, found in zip(ROWS, written, strict=True):
            assert torch.equal(found, model.generate(**batch([row]), **options)[0, -6:])


@pytest.mark.parametrize("method", [PromptTuning(4), PrefixTuning(4)], ids=lambda m: type(m).__name__)
def test_positions_that_are_given_are_moved_on(method):
    model = random_weights(attach(prompted.gpt2(), method))
    given = batch(side="left")
    positions = (given["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    found = model(**given, position_ids=positions).logits[given["attention_mask"].bool()]
    assert difference(found, at_tokens(model)) < 1e-5
    bare = model(input_ids=torch.tensor([ROWS[0]])).logits[0]
    assert difference(bare, at_tokens(model)[:5]) < 1e-5


def test_peft_ignores_positions_and_its_answer_depends_on_the_padding():
    theirs = get_peft_model(prompted.gpt2(), PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)).eval()
    found = {}
    for side in ("left", "right"):
        given = batch(side=side)
        positions = (given["attention_mask"].cumsum(-1) - 1).clamp(min=0)
        with torch.no_grad():
            logits = theirs(**given, position_ids=positions).logits[:, 4:]
        found[side] = logits[given["attention_mask"].bool()]
    assert difference(found["left"], found["right"]) > 1e-2


def test_roberta_counts_positions_from_behind_its_padding():
    torch.manual_seed(1)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 40}
    encoder = RobertaModel(RobertaConfig(vocab_size=300, pad_token_id=2, **sizes), add_pooling_layer=False)

    def base():
        return models._as_base(prompted.lively(TextClassifier(copy.deepcopy(encoder))), "right")

    model, _ = with_text_as_prompt(base)
    for side in ("left", "right"):
        assert difference(at_tokens(model, side=side), prepended(base)) < 1e-5


# --- peft, both ways


def theirs_from(base, folder):
    return PeftModel.from_pretrained(base(), folder).eval()


PEFT = {
    "prompt tuning": (PromptTuning(4), PromptTuningConfig, {}),
    "p-tuning, MLP": (PTuning(4, hidden=7), PromptEncoderConfig, {"encoder_hidden_size": 7}),
    "p-tuning, LSTM": (
        PTuning(4, "lstm", hidden=7),
        PromptEncoderConfig,
        {"encoder_hidden_size": 7, "encoder_reparameterization_type": "LSTM"},
    ),
}
each_peft = pytest.mark.parametrize("mine", PEFT.values(), ids=PEFT.keys())


@each_decoder
@each_peft
def test_peft_reads_what_we_write(base, mine, tmp_path):
    model = random_weights(attach(base(), mine[0]))
    save_adapter(model, tmp_path)
    assert list(load_file(tmp_path / WEIGHTS)) == ["prompt_embeddings"]
    assert json.loads((tmp_path / CONFIG).read_text())["num_virtual_tokens"] == 4
    given = batch()
    with torch.no_grad():
        theirs = theirs_from(base, tmp_path)(**given).logits[:, 4:][given["attention_mask"].bool()]
    assert difference(theirs, at_tokens(model)) < 1e-5
    assert difference(theirs, at_tokens(base())) > 1e-2


@each_decoder
@each_peft
def test_we_read_what_peft_writes(base, mine, tmp_path):
    config = mine[1](task_type="CAUSAL_LM", num_virtual_tokens=4, **mine[2])
    theirs = get_peft_model(base(), config).eval()
    theirs.save_pretrained(tmp_path)
    model = load_adapter(base(), tmp_path)
    given = batch()
    with torch.no_grad():
        logits = theirs(**given).logits[:, 4:][given["attention_mask"].bool()]
    assert difference(logits, at_tokens(model)) < 1e-5
    assert fit(model, models.task(), steps=1, progress=False).losses


WIDE = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "ffn_dim": 40}
UNUSUAL = {  # XGLM's heads have another name, OPT's embeddings may be narrower than its layers
    "xglm": XGLMConfig(d_model=16, num_layers=2, attention_heads=2, ffn_dim=40, **models.SIZE),
    "opt": OPTConfig(**WIDE, word_embed_proj_dim=8, do_layer_norm_before=False, **models.SIZE),
}


@pytest.mark.parametrize("config", UNUSUAL.values(), ids=UNUSUAL.keys())
def test_peft_is_told_the_sizes_that_it_would_not_find(config, tmp_path):
    def base():
        torch.manual_seed(1)
        return models._as_base(prompted.lively(AutoModelForCausalLM.from_config(config)), "left")

    model = random_weights(attach(base(), PromptTuning(4)))
    save_adapter(model, tmp_path)
    given = batch()
    with torch.no_grad():
        theirs = theirs_from(base, tmp_path)(**given).logits[:, 4:][given["attention_mask"].bool()]
    assert difference(theirs, at_tokens(model)) < 1e-5


def head_like(model, theirs):
    """peft's classification head, which is a copy beside the model's own."""
    return theirs.base_model.classifier.modules_to_save["default"]


@each_peft
def test_an_encoder_with_transformers_own_head(mine, tmp_path):
    theirs = get_peft_model(prompted.classifier(), mine[1](task_type="SEQ_CLS", num_virtual_tokens=4, **mine[2])).eval()
    theirs.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    assert sorted(tensors) == ["base_model.classifier.bias", "base_model.classifier.weight", "prompt_embeddings"]
    model = prompted.classifier()
    method = type(mine[0]).from_config({"num_virtual_tokens": 4}, {})
    attach(model, method)
    with torch.no_grad():
        model.bert.prompt.weight.copy_(tensors["prompt_embeddings"])
        model.classifier.weight.copy_(tensors["base_model.classifier.weight"])
        model.classifier.bias.copy_(tensors["base_model.classifier.bias"])
        given = batch() | {"token_type_ids": torch.tensor([[0, 0, 1, 1, 1], [0, 1, 1, 0, 0]])}
        assert difference(model(**given).logits, theirs(**given).logits) < 1e-5
        assert difference(model(**batch()).logits, theirs(**batch()).logits) < 1e-5


def test_a_text_classifiers_file_is_pefts_for_a_classification_model(tmp_path):
    model = attach(prompted.bert(), PromptTuning(4))
    model.set_head(("bad", "good"))
    random_weights(model)
    save_adapter(model, tmp_path)
    theirs = theirs_from(prompted.classifier, tmp_path)
    assert torch.equal(theirs.prompt_encoder["default"].embedding.weight, model.bert.prompt.weight)
    assert torch.equal(head_like(model, theirs).weight, model.classifier.weight)
    again = load_adapter(prompted.bert(), tmp_path)
    assert again.choices == ("bad", "good") and torch.equal(models.logits(again), models.logits(model))


@each_peft
def test_an_encoder_decoder_both_ways(mine, tmp_path):
    given = batch() | {"labels": torch.tensor([[5, 9, 40, 1], [77, 8, 1, -100]])}
    theirs = get_peft_model(prompted.t5(), mine[1](task_type="SEQ_2_SEQ_LM", num_virtual_tokens=4, **mine[2])).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    assert load_file(tmp_path / "theirs" / WEIGHTS)["prompt_embeddings"].shape == (8, 16), "half of it is not used"
    model = load_adapter(prompted.t5(), tmp_path / "theirs")
    with torch.no_grad():
        assert difference(model(**given).logits, theirs(**given).logits) < 1e-5
        assert difference(model(**given).logits, prompted.t5()(**given).logits) > 1e-2
    ours = random_weights(attach(prompted.t5(), mine[0]))
    save_adapter(ours, tmp_path / "ours")
    with torch.no_grad():
        assert difference(theirs_from(prompted.t5, tmp_path / "ours")(**given).logits, ours(**given).logits) < 1e-5
    written = ours.generate(**batch(), max_new_tokens=6, do_sample=False)
    assert torch.equal(written, ours.generate(**batch(), max_new_tokens=6, do_sample=False, use_cache=False))
    assert torch.equal(
        written, theirs_from(prompted.t5, tmp_path / "ours").generate(**batch(), max_new_tokens=6, do_sample=False)
    )


@pytest.mark.parametrize("kind", ["MLP", "LSTM"])
def test_the_network_is_pefts(kind):
    config = PromptEncoderConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=4, encoder_hidden_size=7, encoder_reparameterization_type=kind
    )
    theirs = get_peft_model(prompted.llama(), config).eval()
    encoder = theirs.prompt_encoder["default"]
    model = attach(prompted.llama(), PTuning(4, kind.lower(), hidden=7))
    mine = dict(model.model.prompt.named_parameters())
    linear = [m for m in encoder.mlp_head if hasattr(m, "weight")]
    pairs = {"embedding": encoder.embedding.weight}
    for name, layer in zip([n for n in ("first", "second", "last") if f"{n}.weight" in mine], linear, strict=True):
        pairs |= {f"{name}.weight": layer.weight, f"{name}.bias": layer.bias}
    if kind == "LSTM":
        pairs |= {f"lstm.{n}": p for n, p in encoder.lstm_head.named_parameters()}
    assert pairs.keys() == mine.keys()
    with torch.no_grad():
        for name, tensor in pairs.items():
            mine[name].copy_(tensor)
        given = batch()
        logits = theirs(**given).logits[:, 4:][given["attention_mask"].bool()]
    assert difference(logits, at_tokens(model)) < 1e-5


# --- generation


@each_decoder
@pytest.mark.parametrize("beams", [1, 2])
def test_generation_with_the_cache_without_it_and_pefts_are_equal(base, beams, tmp_path):
    model = random_weights(attach(base(), PromptTuning(4)))
    save_adapter(model, tmp_path)
    options = {"max_new_tokens": 6, "do_sample": False, "num_beams": beams, "eos_token_id": 299}
    row = {name: tensor[:1] for name, tensor in batch().items()}
    written = model.generate(**row, **options)
    assert written.shape == (1, 11)
    assert torch.equal(written, model.generate(**row, **options, use_cache=False))
    assert torch.equal(written, theirs_from(base, tmp_path).generate(**row, **options))
    assert not torch.equal(written, base().generate(**row, **options))
    padded = model.generate(**batch(side="left"), **options)
    assert torch.equal(padded[:1], written)
    alone = model.generate(input_ids=torch.tensor([ROWS[1]]), attention_mask=torch.ones(1, 3).long(), **options)
    assert torch.equal(padded[1, -6:], alone[0, -6:])


@pytest.mark.parametrize("method", [PromptTuning(4), PrefixTuning(4)], ids=lambda m: type(m).__name__)
def test_a_static_cache_is_refused(method):
    model = attach(prompted.llama(), method)
    with pytest.raises(ValueError, match="a cache that grows"):
        model.generate(**batch(side="left"), max_new_tokens=3, cache_implementation="static")


@pytest.mark.parametrize("method", [PromptTuning(4), PrefixTuning(4)], ids=lambda m: type(m).__name__)
def test_what_the_feed_forward_part_is_does_not_matter(method, tmp_path):
    def experts():
        torch.manual_seed(1)
        sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
        config = MixtralConfig(**sizes, intermediate_size=24, num_local_experts=2, **models.SIZE)
        return models._as_base(prompted.lively(MixtralForCausalLM(config)), "left")

    model = random_weights(attach(experts(), method))
    save_adapter(model, tmp_path)
    given = batch(ROWS[:1])
    with torch.no_grad():
        theirs = theirs_from(experts, tmp_path)(**given).logits[0, -5:]
    assert difference(theirs, at_tokens(model, ROWS[:1])) < 1e-5


@each_decoder
@pytest.mark.parametrize("method", [PromptTuning(4), PrefixTuning(4)], ids=lambda m: type(m).__name__)
def test_going_on_from_a_cache(base, method):
    model = random_weights(attach(base(), method))
    options = {"max_new_tokens": 3, "do_sample": False, "eos_token_id": 299}
    given = batch(side="left")
    for n_new in (1, 4, 5):  # generate takes the cache's 4 positions of the prompt for 4 of the text
        first = model.generate(**given, **options, return_dict_in_generate=True)
        text = torch.cat([first.sequences, torch.arange(20, 20 + n_new).expand(2, -1)], dim=1)
        mask = F.pad(given["attention_mask"], (0, 3 + n_new), value=1)
        expected = model.generate(text, attention_mask=mask, **options)[:, -3:]
        for whole in ({"attention_mask": mask}, {}):
            with pytest.raises(ValueError, match="The cache holds 7 tokens of the text behind a prompt of 4, and"):
                model.generate(text, **whole, past_key_values=copy.deepcopy(first.past_key_values), **options)
        cache = first.past_key_values
        found = model.generate(text[:, 7:], attention_mask=mask, past_key_values=cache, **options)
        assert torch.equal(found[:, -3:], expected)


# --- counts, beginnings, and what is refused


def test_counts():
    model = attach(prompted.llama(), PromptTuning(5))
    count = count_parameters(model)
    assert (count.trainable, count.changed, count.rank) == (5 * 16, 5 * 16, 0)
    assert count.n_total == sum(p.numel() for p in prompted.llama().parameters())
    assert count_parameters(attach(prompted.llama(), IntrinsicPrompt(3, 5))).trainable == 3
    hidden, d = 7, 16
    mlp = count_parameters(attach(prompted.llama(), PTuning(5, hidden=hidden))).trainable
    assert mlp == 5 * d + (d * hidden + hidden) + (hidden * hidden + hidden) + (hidden * d + d)


def test_the_papers_count_for_t5_xxl():
    """Lester et al. 2021: a prompt of 5 tokens for T5-XXL has 20,480 parameters."""
    config = T5Config(d_model=4096, d_kv=64, num_heads=64, d_ff=10240, num_layers=24, feed_forward_proj="gated-gelu")
    with torch.device("meta"):
        model = AutoModelForSeq2SeqLM.from_config(config)
    assert count_parameters(attach(model, PromptTuning(5))).trainable == 20_480


def test_beginnings():
    model = prompted.llama()
    table = model.get_input_embeddings().weight

    def prompt(method, seed=0):
        found = attach(model, method, seed=seed).model.prompt().detach().clone()
        detach(model)
        return found

    words = prompt(PromptTuning(6))
    assert all((row == table).all(1).any() for row in words) and not torch.equal(words, prompt(PromptTuning(6), 1))
    uniform = prompt(PromptTuning(50, "uniform"))
    assert -0.5 <= uniform.min() < -0.4 and 0.4 < uniform.max() < 0.5
    ids = text_ids(model)
    assert torch.equal(prompt(PromptTuning(2, "text", TEXT)), table[ids[:2]])
    assert torch.equal(prompt(PromptTuning(len(ids) + 1, "text", TEXT)), table[[*ids, ids[0]]])
    labels = prompt(PromptTuning(4, "labels", "good meal, bad"))
    assert torch.allclose(labels[0], table[text_ids(model, "good meal")].mean(0))
    assert torch.allclose(labels[1], table[text_ids(model, "bad")].mean(0))
    assert all((row == table).all(1).any() for row in labels[2:])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PromptTuning(0), "n_tokens is 0; a prompt's length is a whole number, at least 1."),
        (lambda: PTuning(True), "n_tokens is True"),
        (lambda: PrefixTuning(1.5), "n_tokens is 1.5"),
        (lambda: IntrinsicPrompt(3, -1), "n_tokens is -1"),
        (lambda: IntrinsicPrompt(0), "d is 0; it is a whole number"),
        (lambda: PromptTuning(init="xavier"), "init is 'xavier'; it can be vocabulary, uniform, text, labels."),
        (lambda: PromptTuning(init="text"), 'init_text is empty; init="text" needs words to begin from.'),
        (lambda: PromptTuning(init="labels", init_text=" "), 'init="labels" needs words'),
        (lambda: PromptTuning(init="labels", init_text=" ,\t,"), 'init="labels" needs words'),
        (
            lambda: PromptTuning(init="labels", init_text=("good", "bad")),
            "init_text is ('good', 'bad'); it is a string",
        ),
        (lambda: PromptTuning(init_text="good"), 'init="vocabulary" does not read it; it is for "text" or "labels"'),
        (lambda: PrefixTuning(init_text="good"), 'init="random" does not read it; it is for "text"'),
        (lambda: PrefixTuning(init="text", init_text=5), "init_text is 5; it is a string"),
        (lambda: learn_decoder([torch.ones(2, 3)], 3), "at least two prompts of one shape"),
        (lambda: learn_decoder(2 * [torch.ones(2, 3)], 0), "d is 0, hidden 64 and steps 500; each is at least 1."),
        (lambda: learn_decoder(2 * [torch.ones(2, 3)], 2, steps=0), "d is 2, hidden 64 and steps 0"),
        (lambda: PTuning(encoder="gru"), "encoder is 'gru'; it can be mlp, lstm, none."),
        (lambda: PTuning(hidden=-1), "hidden is -1"),
        (lambda: PrefixTuning(hidden=-1), "hidden is -1"),
        (lambda: PrefixTuning(init="kaiming"), "init is 'kaiming'; it can be random, zero, text."),
        (lambda: PrefixTuning(init="text"), "init_text is empty"),
        (lambda: PrefixTuning(hidden=3, init="text", init_text="good"), "no MLP could begin there"),
    ],
)
def test_bad_hyperparameters(make, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


REFUSED = {
    "as long as the context": (PromptTuning(128), "A prompt of 128 tokens leaves no room for a text: this model reads"),
    "a prefix as long": (PrefixTuning(200), "A prompt of 200 tokens leaves no room"),
    "no token in the text": (PromptTuning(4, "labels", "good,\t"), None),
    "a text too short": (PrefixTuning(9, init="text", init_text="good"), "init_text has 2 tokens, and the prefix 9"),
    "a decoder of another length": (
        IntrinsicPrompt(2, 4, decoder=dict(zip(NAMES, map(torch.ones, ((3, 2), 3, (60, 3), 60)), strict=True))),
        r"The decoder's W_2 is \(60, 3\); for a prompt of 4 x 16 numbers and d=2 it is \(64, 3\).",
    ),
    "a decoder of another d": (
        IntrinsicPrompt(2, 4, decoder=dict(zip(NAMES, map(torch.ones, ((3, 5), 3, (64, 3), 64)), strict=True))),
        r"The decoder's W_1 is \(3, 5\); for a prompt of 4 x 16 numbers and d=2 it is \(3, 2\).",
    ),
    "an empty decoder": (IntrinsicPrompt(2, 4, decoder={}), "The decoder lacks W_1"),
    "half a decoder": (IntrinsicPrompt(2, 4, decoder={"W_1": torch.ones(3, 2)}), "The decoder lacks b_1; it has W_1, "),
}


@pytest.mark.parametrize(("method", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_what_does_not_fit_is_said_and_changes_nothing(method, message):
    model = prompted.gpt2()
    before = models.bits(model)
    if message is None:  # an empty label is left out
        attach(model, method)
        return
    with pytest.raises(ValueError, match=message) as caught:
        attach(model, method)
    assert "\n" not in str(caught.value)
    assert models.same_bits(model, before)


@pytest.mark.parametrize("method", [PromptTuning(4), PTuning(4), PrefixTuning(4)], ids=lambda m: type(m).__name__)
def test_a_file_with_more_rows_than_it_says_is_refused(method, tmp_path):
    save_adapter(attach(prompted.gpt2(), method), tmp_path)
    config = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps(config | {"num_virtual_tokens": 2}))
    model = prompted.gpt2()
    before = models.bits(model)
    with pytest.raises(ValueError, match=r"does not fit this model: transformer.prompt.weight is \(4, .* needs \(2, "):
        load_adapter(model, tmp_path)
    assert models.same_bits(model, before)


@pytest.mark.parametrize("method", [PromptTuning(120), PrefixTuning(120)], ids=lambda m: type(m).__name__)
def test_prompt_and_text_longer_than_the_context(method):
    model = attach(prompted.gpt2(), method)
    at_tokens(model, [list(range(10, 18))])
    with pytest.raises(ValueError, match="A prompt of 120 tokens and a text of 9 are longer than the 128 this model"):
        at_tokens(model, [list(range(10, 19))])
    with pytest.raises(ValueError, match="A prompt of 120 tokens and a text of 9 are longer than the 128 this model"):
        model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=7, do_sample=False, eos_token_id=299)


def test_a_model_without_a_head_or_a_tokenizer():
    config = LlamaConfig(vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    with pytest.raises(ValueError, match="LlamaModel has no head"):
        attach(LlamaModel(config), PromptTuning(3))
    model = prompted.llama()
    del model.tokenizer
    with pytest.raises(ValueError, match="the model needs its tokenizer"):
        attach(model, PromptTuning(3, "text", "good"))


def test_merging_is_refused():
    with pytest.raises(RuntimeError, match="PromptTuning cannot be merged: what it learns is read with the text"):
        merge(attach(prompted.llama(), PromptTuning(3)))


# --- beside other things


def test_switching_between_a_prompt_and_lora():
    model = prompted.llama()
    plain = at_tokens(model)
    soft = at_tokens(random_weights(attach(model, PromptTuning(4), name="soft")))
    low = at_tokens(random_weights(attach(model, LoRA(r=2), name="low")))
    prefix = at_tokens(random_weights(attach(model, PrefixTuning(3), name="prefix")))
    for name, expected in {"soft": soft, "low": low, None: plain, "prefix": prefix}.items():
        assert torch.equal(at_tokens(switch(model, name)), expected)


@pytest.mark.parametrize("method", [PromptTuning(4), PTuning(4), PrefixTuning(4), IntrinsicPrompt(3, 4)], ids=repr)
def test_half_precision_bases_keep_a_float32_prompt(method):
    model = attach(models.llama().to(torch.bfloat16), method)
    assert all(p.dtype == torch.float32 for p in model.parameters() if p.requires_grad)
    assert models.logits(model).dtype == torch.bfloat16
    assert fit(model, models.task(), steps=2, progress=False).losses


@pytest.mark.parametrize("method", [PromptTuning(4), PTuning(4), PTuning(4, "lstm"), PrefixTuning(4)], ids=repr)
@pytest.mark.parametrize("shape", ["llama", "bert"])
def test_it_is_traced_on_shapes_alone(method, shape):
    config = getattr(models, shape)().config
    memory = trace_setup(config, Setup(method, weights="float32", attention="efficient"), 2, 24)
    assert memory.peak > 0


@each_decoder
@pytest.mark.parametrize("method", [PromptTuning(4), PrefixTuning(4)], ids=lambda m: type(m).__name__)
def test_a_loss_in_parts_asks_for_the_decoder_and_gets_the_prompt_too(base, method):
    model = random_weights(attach(base(), method))
    given = {"input_ids": torch.arange(10, 26).view(2, 8), "attention_mask": torch.ones(2, 8, dtype=torch.int64)}
    given["labels"] = given["input_ids"]
    assert difference(chunked_loss(model, given, chunks=2), model(**given).loss) < 1e-5


def test_the_gradient_ends_in_the_prompt():
    model = attach(prompted.llama(), PromptTuning(4))
    model(**batch(), labels=batch()["input_ids"]).loss.backward()
    assert [name for name, p in model.named_parameters() if p.grad is not None] == ["model.prompt.weight"]


# --- the nearest words


def test_the_nearest_words_to_a_text_are_its_own():
    model, _ = with_text_as_prompt(prompted.llama)
    pieces = [model.tokenizer.decode([i]).strip() for i in text_ids(model)]
    found = nearest_words(model, k=2)
    assert [words[0][0] for words in found] == pieces
    assert all(words[0][1] == pytest.approx(1, abs=1e-4) and words[1][1] < 1 for words in found)
    for k in (0, 301):
        with pytest.raises(ValueError, match=f"k is {k}; the vocabulary has 300 words to be near."):
            nearest_words(model, k)
    with pytest.raises(ValueError, match="PrefixTuning learns no vectors in the space of word embeddings"):
        nearest_words(attach(prompted.llama(), PrefixTuning(3)))
    with pytest.raises(ValueError, match="LoRA learns no vectors"):
        nearest_words(attach(prompted.llama(), LoRA()))


# --- intrinsic prompts


def test_a_decoder_that_was_learned_gives_the_prompts_back():
    torch.manual_seed(0)
    axes, weights = torch.randn(2, 4 * 16), torch.randn(6, 2)
    prompts = [(w @ axes).view(4, 16) for w in weights]  # six prompts in a plane
    decoder = learn_decoder(prompts, d=2, hidden=32, steps=600)
    model = attach(prompted.llama(), IntrinsicPrompt(2, 4, decoder=decoder))
    prompt = require_attachment(model).added["model"].prompt
    optimizer = torch.optim.Adam([prompt.z], lr=0.05)
    for _ in range(300):
        loss = F.mse_loss(prompt(), prompts[0])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert loss < 0.02 * prompts[0].square().mean()
    assert [n for n, p in model.named_parameters() if p.requires_grad] == ["model.prompt.z"]


def test_an_intrinsic_prompt_is_saved_with_its_decoder(tmp_path):
    torch.manual_seed(0)
    decoder = learn_decoder([torch.randn(4, 16) for _ in range(3)], d=2, hidden=8, steps=5)
    model = random_weights(attach(prompted.llama(), IntrinsicPrompt(2, 4, decoder=decoder)))
    save_adapter(model, tmp_path)
    again = load_adapter(prompted.llama(), tmp_path)
    assert torch.equal(at_tokens(again), at_tokens(model))
    with pytest.raises(ValueError, match="at least two prompts of one shape"):
        learn_decoder([torch.randn(4, 16)], d=2)


# --- four bits


@each_decoder
@pytest.mark.parametrize("method", [PromptTuning(4), PTuning(4), PrefixTuning(4), IntrinsicPrompt(3, 4)], ids=repr)
def test_a_base_in_four_bits_takes_a_prompt(base, method):
    model = quantize(base())
    plain = at_tokens(model)
    attach(model, method)
    assert fit(model, models.task(), steps=1, progress=False).losses
    assert difference(at_tokens(model), plain) > 1e-3
    detach(model)
    assert torch.equal(at_tokens(model), plain)
