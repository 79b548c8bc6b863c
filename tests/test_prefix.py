"""Prefix tuning: equal to a text's cache in front, to Hugging Face peft in both directions, with shared keys too.

Oracles: the keys and values of a real text as a prefix are that text prepended; peft's logits, files, generation and
`initialize_kv_prefix_from_text`; 2 L p d_kv numbers.
"""

import json
from contextlib import nullcontext

import models
import prompted
import pytest
import torch
from peft import PeftModel, PrefixTuningConfig, get_peft_model, initialize_kv_prefix_from_text
from prompted import BASES, DECODERS, ROWS, at_tokens, batch, of, random_weights
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import (
    DeepseekV3Config,
    FalconConfig,
    Gemma3nTextConfig,
    GPTBigCodeConfig,
    LlamaConfig,
    MistralConfig,
    MptConfig,
    MptForCausalLM,
    Phi3Config,
    Qwen2Config,
    T5GemmaConfig,
    T5GemmaForConditionalGeneration,
)

from peft_lessons import attach, count_parameters, detach, fit, load_adapter, save_adapter
from peft_lessons.methods import PrefixTuning
from peft_lessons.methods.additive.prefix import PrefixedBody
from peft_lessons.methods.files import CONFIG, WEIGHTS

pytestmark = pytest.mark.filterwarnings("ignore:.*config file in tests/random", "ignore:Unable to fetch remote file")
each_base = pytest.mark.parametrize("base", BASES.values(), ids=BASES.keys())
each_decoder = pytest.mark.parametrize("base", DECODERS.values(), ids=DECODERS.keys())
TEXT = "good meal room"


def difference(a, b):
    return (a - b).abs().max().item()


COMMON = {"hidden_size": 16, "num_hidden_layers": 2, "intermediate_size": 40}
FALCON = {"hidden_size": 16, "num_hidden_layers": 2}
SHARED = {
    "Llama, heads wider than d": of(LlamaConfig, num_attention_heads=4, num_key_value_heads=2, head_dim=6, **COMMON),
    "one head of keys": of(LlamaConfig, num_attention_heads=4, num_key_value_heads=1, **COMMON),
    "Qwen2": of(Qwen2Config, num_attention_heads=4, num_key_value_heads=2, **COMMON),
    "Mistral": of(MistralConfig, num_attention_heads=4, num_key_value_heads=2, **COMMON),
    "Phi-3, output first": of(Phi3Config, num_attention_heads=4, num_key_value_heads=2, **COMMON),
    "Falcon, keys repeated in the cache": of(
        FalconConfig, num_attention_heads=4, num_kv_heads=2, new_decoder_architecture=True, **FALCON
    ),
    "GPTBigCode": of(GPTBigCodeConfig, n_embd=16, n_layer=2, n_head=4, n_positions=64),
}


def text_prefix(base):
    """A base with the cache of TEXT as its prefix, and the ids of TEXT."""
    model = base()
    ids = [0, *model.tokenizer(TEXT, add_special_tokens=False)["input_ids"]]
    return attach(model, PrefixTuning(len(ids), init="text", init_text=TEXT)), ids


def prepended(base, ids, rows=ROWS):
    """What the plain base says at the rows' tokens when these ids stand in front of them."""
    found = at_tokens(base(), [ids + row for row in rows]).split([len(ids) + len(row) for row in rows])
    return torch.cat([part[len(ids) :] for part in found])


@pytest.mark.parametrize("base", [*DECODERS.values(), *SHARED.values()], ids=[*DECODERS, *SHARED])
@pytest.mark.parametrize("side", ["left", "right"])
def test_the_cache_of_a_text_is_that_text_prepended(base, side):
    model, ids = text_prefix(base)
    assert difference(at_tokens(model, side=side), prepended(base, ids)) < 1e-5
    assert difference(at_tokens(model), at_tokens(base())) > 1e-2, "the prefix must be seen at all"


def test_a_text_longer_than_the_window_begins_a_prefix_of_all_its_tokens():
    window = of(MistralConfig, num_attention_heads=4, num_key_value_heads=2, sliding_window=3, **COMMON)
    model, ids = text_prefix(window)
    assert len(ids) > 3
    assert difference(at_tokens(model), prepended(window, ids)) < 1e-5


def test_the_first_layer_of_an_encoder_reads_it_as_a_text_in_front():
    """In an encoder a prepended text would read what follows it, a prefix does not: they are equal for one layer."""
    torch.manual_seed(1)
    model = prompted.bert()
    model.encoder.encoder.layer = model.encoder.encoder.layer[:1]
    model.config.num_hidden_layers = 1
    ids = [0, *model.tokenizer(TEXT, add_special_tokens=False)["input_ids"]]
    rows = [ids + row for row in ROWS]
    expected = at_tokens(model, rows).split([len(row) for row in rows])
    attach(model, PrefixTuning(len(ids), init="text", init_text=TEXT))
    assert difference(at_tokens(model), torch.cat([part[len(ids) :] for part in expected])) < 1e-5


def swapped(self):
    return [(values, keys) for keys, values in RIGHT(self)]


def keys_first(self):
    parts = self.prompt().view(self.n_tokens, 2, self.n_layers, *self.heads).permute(2, 1, 3, 0, 4)
    return [(keys, values) for keys, values in parts]


def backwards(self):
    return RIGHT(self)[::-1]


def heads_mixed(self):
    parts = self.prompt().view(self.n_tokens, self.n_layers, 2, *self.heads[::-1]).permute(1, 2, 4, 0, 3)
    return [(keys, values) for keys, values in parts]


RIGHT = PrefixedBody.keys_and_values


@pytest.mark.parametrize("mutant", [swapped, keys_first, backwards, heads_mixed])
def test_wrong_orders_do_not_pass(mutant, monkeypatch):
    model, ids = text_prefix(prompted.llama)
    expected = prepended(prompted.llama, ids)
    assert difference(at_tokens(model), expected) < 1e-5
    monkeypatch.setattr(PrefixedBody, "keys_and_values", mutant)
    assert difference(at_tokens(model), expected) > 1e-3


# --- peft


def theirs_from(base, folder):
    return PeftModel.from_pretrained(base(), folder).eval()


@pytest.mark.parametrize("base", [*DECODERS.values(), *SHARED.values()], ids=[*DECODERS, *SHARED])
@pytest.mark.parametrize("hidden", [0, 7])
def test_peft_reads_what_we_write(base, hidden, tmp_path):
    model = random_weights(attach(base(), PrefixTuning(3, hidden=hidden)), std=1)
    save_adapter(model, tmp_path)
    assert list(load_file(tmp_path / WEIGHTS)) == ["prompt_embeddings"]
    given = batch()
    with torch.no_grad():
        theirs = theirs_from(base, tmp_path)(**given).logits[given["attention_mask"].bool()]
    assert difference(theirs, at_tokens(model)) < 1e-5
    assert difference(theirs, at_tokens(base())) > 1e-2


@pytest.mark.parametrize("base", [*DECODERS.values(), SHARED["Qwen2"]], ids=[*DECODERS, "Qwen2"])
@pytest.mark.parametrize("hidden", [0, 7])
def test_we_read_what_peft_writes(base, hidden, tmp_path):
    config = PrefixTuningConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=3,
        prefix_projection=bool(hidden),
        encoder_hidden_size=hidden or None,
    )
    theirs = get_peft_model(base(), config).eval()
    theirs.save_pretrained(tmp_path)
    model = load_adapter(base(), tmp_path)
    given = batch()
    with torch.no_grad():
        logits = theirs(**given).logits[given["attention_mask"].bool()]
    assert difference(logits, at_tokens(model)) < 1e-5
    assert fit(model, models.task(), steps=1, progress=False).losses


def test_the_network_is_pefts():
    config = PrefixTuningConfig(
        task_type="CAUSAL_LM", num_virtual_tokens=3, prefix_projection=True, encoder_hidden_size=7
    )
    theirs = get_peft_model(prompted.llama(), config).eval()
    encoder, model = theirs.prompt_encoder["default"], attach(prompted.llama(), PrefixTuning(3, hidden=7))
    prompt = model.model.prompt
    with torch.no_grad():
        prompt.embedding.copy_(encoder.embedding.weight)
        for mine, layer in ((prompt.first, encoder.transform[0]), (prompt.last, encoder.transform[2])):
            mine.weight.copy_(layer.weight)
            mine.bias.copy_(layer.bias)
        given = batch()
        logits = theirs(**given).logits[given["attention_mask"].bool()]
    assert difference(logits, at_tokens(model)) < 1e-5


@each_decoder
def test_the_start_from_a_text_is_pefts(base):
    theirs = get_peft_model(base(), PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4))
    tokenizer = models.tokenizer()
    found = initialize_kv_prefix_from_text(theirs, tokenizer, text=f"<s>{TEXT}", use_chat_template=False)
    model = attach(base(), PrefixTuning(4, init="text", init_text=TEXT))
    body = next(m for m in model.modules() if isinstance(m, PrefixedBody))
    assert difference(body.prompt(), found) < 1e-6


@pytest.mark.parametrize("hidden", [0, 7])
def test_an_encoder_with_transformers_own_head(hidden, tmp_path):
    config = PrefixTuningConfig(
        task_type="SEQ_CLS", num_virtual_tokens=4, prefix_projection=bool(hidden), encoder_hidden_size=hidden or None
    )
    theirs = get_peft_model(prompted.classifier(), config).eval()
    theirs.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / WEIGHTS)
    model = attach(prompted.classifier(), PrefixTuning(4))
    with torch.no_grad():
        model.bert.prompt.weight.copy_(tensors["prompt_embeddings"])
        model.classifier.weight.copy_(tensors["base_model.classifier.weight"])
        model.classifier.bias.copy_(tensors["base_model.classifier.bias"])
        assert difference(model(**batch()).logits, theirs(**batch()).logits) < 1e-5
        assert difference(model(**batch()).logits, prompted.classifier()(**batch()).logits) > 1e-3


def test_a_text_classifiers_file_is_pefts_for_a_classification_model(tmp_path):
    model = attach(prompted.bert(), PrefixTuning(4))
    model.set_head(("bad", "good"))
    random_weights(model)
    save_adapter(model, tmp_path)
    theirs = theirs_from(prompted.classifier, tmp_path)
    assert torch.equal(theirs.prompt_encoder["default"].embedding.weight, model.bert.prompt.weight)
    again = load_adapter(prompted.bert(), tmp_path)
    assert torch.equal(models.logits(again), models.logits(model))


SEQ2SEQ = batch() | {"labels": torch.tensor([[5, 9, 40, 1], [77, 8, 1, -100]])}


def t5_prefix(hidden, n_layers):
    config = PrefixTuningConfig(
        task_type="SEQ_2_SEQ_LM",
        num_virtual_tokens=4,
        prefix_projection=bool(hidden),
        encoder_hidden_size=hidden or None,
    )
    return get_peft_model(prompted.t5(n_layers), config).eval()


@pytest.mark.parametrize("hidden", [0, 7])
@pytest.mark.parametrize("n_layers", [1, 2, 3, 4])
def test_an_encoder_decoders_prefix_from_peft_and_back(hidden, n_layers, tmp_path):
    theirs = t5_prefix(hidden, n_layers)
    theirs.save_pretrained(tmp_path / "theirs")
    model = load_adapter(prompted.t5(n_layers), tmp_path / "theirs")
    with torch.no_grad():
        assert difference(model(**SEQ2SEQ).logits, theirs(**SEQ2SEQ).logits) < 1e-5
        assert difference(model(**SEQ2SEQ).logits, prompted.t5(n_layers)(**SEQ2SEQ).logits) > 1e-2
    save_adapter(model, tmp_path / "ours")
    again = PeftModel.from_pretrained(prompted.t5(n_layers), tmp_path / "ours").eval()
    with torch.no_grad():
        assert difference(again(**SEQ2SEQ).logits, model(**SEQ2SEQ).logits) < 1e-5
    options = {"max_new_tokens": 6, "do_sample": False}
    written = model.generate(**batch(), **options)
    assert torch.equal(written, model.generate(**batch(), **options, use_cache=False))
    assert torch.equal(written, again.generate(**batch(), **options))
    assert json.loads((tmp_path / "ours" / CONFIG).read_text())["task_type"] == "SEQ_2_SEQ_LM"


@pytest.mark.parametrize("n_layers", [2, 3])
def test_an_encoder_decoders_own_prefix_is_saved_whole(n_layers, tmp_path):
    model = random_weights(attach(prompted.t5(n_layers), PrefixTuning(4, hidden=7)), std=1)
    with pytest.warns(UserWarning, match="peft does not") if n_layers == 2 else nullcontext():
        save_adapter(model, tmp_path)
    again = load_adapter(prompted.t5(n_layers), tmp_path)
    with torch.no_grad():
        assert torch.equal(again(**SEQ2SEQ).logits, model(**SEQ2SEQ).logits)
    own = {2: "base_model.decoder.prompt.weight", 3: "prompt_embeddings"}
    assert list(load_file(tmp_path / WEIGHTS)) == [own[n_layers]]


def test_a_prefix_of_another_shape_does_not_fit_an_encoder_decoder(tmp_path):
    save_adapter(attach(prompted.llama(), PrefixTuning(4)), tmp_path)
    with pytest.raises(ValueError, match=r"does not fit this model: decoder.prompt.weight is \(4, 32\)"):
        load_adapter(prompted.t5(3), tmp_path)


def test_in_pefts_prefix_for_an_even_number_of_layers_half_of_the_numbers_get_no_gradient():
    theirs = t5_prefix(0, 4)
    theirs(**SEQ2SEQ).loss.backward()
    used = theirs.prompt_encoder["default"].embedding.weight.grad.unflatten(-1, (4, -1)).abs().sum((0, 2)) > 0
    assert used.tolist() == [True, False, True, False]


# --- generation


@pytest.mark.parametrize("base", [*DECODERS.values(), *SHARED.values()], ids=[*DECODERS, *SHARED])
@pytest.mark.parametrize("beams", [1, 2])
def test_generation_with_the_cache_without_it_and_pefts_are_equal(base, beams, tmp_path):
    model = random_weights(attach(base(), PrefixTuning(4)), std=1)
    save_adapter(model, tmp_path)
    options = {"max_new_tokens": 6, "do_sample": False, "num_beams": beams, "eos_token_id": 299}
    row = {name: tensor[:1] for name, tensor in batch().items()}
    written = model.generate(**row, **options)
    assert torch.equal(written, model.generate(**row, **options, use_cache=False))
    assert torch.equal(written, theirs_from(base, tmp_path).generate(**row, **options))
    padded = model.generate(**batch(side="left"), **options)
    assert torch.equal(padded[:1], written)


def test_a_decoder_with_a_configuration_of_its_own():
    torch.manual_seed(1)
    part = {**COMMON, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 6, **models.SIZE}
    model = T5GemmaForConditionalGeneration(T5GemmaConfig(encoder=part, decoder=part, vocab_size=300))
    model = prompted.lively(model).eval().requires_grad_(False)
    options = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "decoder_start_token_id": 0}
    plain = model.generate(**batch(), **options)
    random_weights(attach(model, PrefixTuning(4)), std=2)
    assert count_parameters(model).trainable == 2 * 2 * 4 * 2 * 6
    written = model.generate(**batch(), **options)
    assert torch.equal(written, model.generate(**batch(), **options, use_cache=False))
    assert not torch.equal(written, plain)


# --- counts, and what is refused


def test_counts():
    count = count_parameters(attach(prompted.llama(), PrefixTuning(5)))
    d_kv = 2 * 4  # two heads of keys, 4 wide, where queries have four
    assert (count.trainable, count.changed, count.rank) == (2 * 2 * 5 * d_kv, 2 * 2 * 5 * d_kv, 0)
    assert count.n_total == sum(p.numel() for p in prompted.llama().parameters())
    assert count_parameters(attach(prompted.gpt2(), PrefixTuning(5))).trainable == 2 * 2 * 5 * 16
    mlp = count_parameters(attach(prompted.llama(), PrefixTuning(5, hidden=7))).trainable
    assert mlp == 5 * d_kv + (d_kv * 7 + 7) + (7 * 2 * 2 * d_kv + 2 * 2 * d_kv)


def test_what_the_mlp_made_is_the_same_function_without_it(tmp_path):
    model = random_weights(attach(prompted.llama(), PrefixTuning(4, hidden=7)))
    made = at_tokens(model)
    save_adapter(model, tmp_path)
    folded = load_adapter(prompted.llama(), tmp_path)
    assert torch.equal(at_tokens(folded), made)
    assert count_parameters(folded).trainable == 2 * 2 * 4 * 8 < count_parameters(model).trainable
    adapter = detach(model)
    assert sum("first" in name for name in adapter.state) == 2, "off the model the network is kept"


def test_a_prefix_of_zeros_still_takes_its_share_of_attention():
    model = attach(prompted.llama(), PrefixTuning(4, init="zero"))
    assert count_parameters(model).trainable and difference(at_tokens(model), at_tokens(prompted.llama())) > 1e-3


def test_checkpointing_takes_the_cache_away_and_is_refused():
    model = attach(prompted.llama(), PrefixTuning(3))
    model.model.base.activation_checkpointing_enable({"use_reentrant": False})
    model.train()
    with pytest.raises(ValueError, match="gradient checkpointing takes away"):
        model(**batch(), labels=batch()["input_ids"])
    model.eval()
    model(**batch())


def test_layers_without_keys_of_their_own_are_said():
    sizes = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 4, "num_kv_shared_layers": 1}
    shares = of(Gemma3nTextConfig, **{**COMMON, **sizes}, hidden_size_per_layer_input=8, vocab_size_per_layer_input=300)
    with pytest.raises(ValueError, match="Of the 2 layers of this model 1 have keys and values of their own"):
        attach(shares(), PrefixTuning(3))


def test_keys_and_values_of_different_sizes_are_said():
    sizes = {"qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 6, "q_lora_rank": 8, "kv_lora_rank": 8}
    latent = of(DeepseekV3Config, num_attention_heads=4, first_k_dense_replace=2, **COMMON, **sizes)
    with pytest.raises(ValueError, match="Not all keys and values of this model are of one size"):
        attach(latent(), PrefixTuning(3))


def test_where_padding_would_move_the_text_away_the_side_is_asked_for():
    torch.manual_seed(0)
    model = MptForCausalLM(MptConfig(d_model=32, n_heads=4, n_layers=2, vocab_size=100, max_seq_len=64))
    attach(model, PrefixTuning(n_tokens=5)).eval()
    ids, mask = torch.randint(3, 99, (1, 7)), torch.ones(1, 7, dtype=torch.int64)
    with torch.no_grad():
        alone = model(input_ids=ids, attention_mask=mask).logits
        right = model(input_ids=F.pad(ids, (0, 4)), attention_mask=F.pad(mask, (0, 4))).logits[:, :7]
        assert (right - alone).abs().max() < 1e-5
        with pytest.raises(ValueError, match="counts places: pad on the right, or give one text at a time"):
            model(input_ids=F.pad(ids, (4, 0)), attention_mask=F.pad(mask, (4, 0)))


def test_padding_that_would_push_a_prefix_out_of_the_window_is_refused():
    def padded(sliding_window):
        window = of(
            MistralConfig, num_attention_heads=4, num_key_value_heads=2, sliding_window=sliding_window, **COMMON
        )
        model = random_weights(attach(window(), PrefixTuning(4)))
        alone = torch.cat([at_tokens(model, [row]) for row in ROWS])
        assert difference(at_tokens(model, side="right"), alone) < 1e-5
        return difference(at_tokens(model, side="left"), alone)

    assert padded(9) < 1e-5  # 4 in front, and 5 with the padding
    with pytest.raises(ValueError, match="looks 8 places back: pad on the right, or give one text at a time"):
        padded(8)
