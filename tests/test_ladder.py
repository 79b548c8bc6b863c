"""Ladder side-tuning: no gradient and no stored activation in the backbone, and the same verbs as any method."""

import copy

import models
import pytest
import torch
from torch import nn
from transformers import AutoConfig, GPT2Config, GPT2LMHeadModel, T5Config, T5ForConditionalGeneration

from peft_lessons import attach, count_parameters, detach, fit, load_adapter, merge, save_adapter
from peft_lessons.accounting.setups import Setup, build_on_meta, trace_setup
from peft_lessons.accounting.trace import trace_step
from peft_lessons.bases import DATA
from peft_lessons.methods import FullFineTuning, LadderSideTuning, LoRA
from peft_lessons.methods.additive.ladder import LadderBlock
from peft_lessons.methods.attaching import switch
from peft_lessons.methods.core import trained_parameters

pairs = pytest.mark.parametrize("base", models.ALL.values(), ids=models.ALL.keys())
decoders = pytest.mark.parametrize("base", [models.llama, models.gpt2], ids=["llama", "gpt2"])
LADDER = LadderSideTuning(reduction=4)


def laddered(base, method=LADDER):
    """A model with random numbers in everything trained: with W_up = 0 any wrong ladder passes."""
    model = attach(base(), method)
    if hasattr(model, "set_head"):
        model.set_head(("good", "bad"))
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in trained_parameters(model).values():
            parameter.normal_(std=0.3)
    return model


def batch_of(model):
    texts = ["good day", "an awful walk indeed"]
    batch = dict(model.tokenizer(texts, padding=True, return_tensors="pt", return_token_type_ids=False))
    return batch | {"labels": torch.tensor([0, 1]) if hasattr(model, "set_head") else batch["input_ids"]}


def rungs(model):
    return [module for module in model.modules() if isinstance(module, LadderBlock)]


def saved_inside(model, batch):
    """What autograd keeps from operations inside transformer blocks of the backbone, and how many tensors in all."""
    inside, kept, everything = [0], [], []
    hooks = []
    for module in model.modules():
        frozen = module.base if isinstance(module, LadderBlock) else module
        if isinstance(module, LadderBlock) or type(module).__name__ in ("LlamaDecoderLayer", "BertLayer", "GPT2Block"):
            hooks.append(frozen.register_forward_pre_hook(lambda *_: inside.__setitem__(0, inside[0] + 1)))
            hooks.append(frozen.register_forward_hook(lambda *_: inside.__setitem__(0, inside[0] - 1)))

    def pack(tensor):
        everything.append(tensor)
        if inside[0] and not isinstance(tensor, nn.Parameter):
            kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        model(**batch).loss.backward()
    for hook in hooks:
        hook.remove()
    return len(kept), len(everything)


@pairs
def test_no_gradient_reaches_the_backbone_and_nothing_is_kept_inside_its_blocks(base):
    model = laddered(base).train()
    seen = []
    for block in rungs(model):
        for module in block.base.modules():
            module.register_forward_hook(lambda m, i, out: seen.append(out[0] if isinstance(out, tuple) else out))
    kept, everything = saved_inside(model, batch_of(model))
    assert kept == 0 < everything
    assert seen and not any(t.requires_grad for t in seen if isinstance(t, torch.Tensor))
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == (not parameter.requires_grad), name
        assert parameter.requires_grad == (name in trained_parameters(model))
    trained = [p.grad for p in trained_parameters(model).values()]
    assert all(gradient.abs().max() > 0 for gradient in trained if gradient.numel() > 1)


@pairs
def test_lora_keeps_much_inside_the_same_blocks(base):
    model = laddered(base, LoRA(r=3, alpha=5)).train()
    kept, _ = saved_inside(model, batch_of(model))
    assert kept > 10


@decoders
def test_of_the_backbone_autograd_keeps_the_output_of_each_block_and_no_more(base):
    model = laddered(base).train()
    outputs = []
    for block in rungs(model):
        block.base.register_forward_hook(lambda m, i, out: outputs.append(out.data_ptr()))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        model(**batch_of(model))
    kept = {t.untyped_storage().data_ptr() for t in kept}
    assert set(outputs[:-1]) <= kept  # for W_down; the last one too, where the model's own norm does not copy it


def test_a_step_by_hand():
    """The equations of the module, written out for two blocks without the package's classes."""
    model = laddered(models.llama)
    one, two = rungs(model)
    batch = model.tokenizer(["good day"], return_tensors="pt", return_token_type_ids=False)
    hidden = []
    for block in (one, two):
        block.base.register_forward_hook(lambda m, i, out: hidden.extend([i[0], out]))
    last = {}
    model.model.norm.register_forward_pre_hook(lambda m, i: last.update(h=i[0]))
    with torch.no_grad():
        model(**batch)
        h0, h1, _, h2 = hidden
        x = h0 @ one.first.T
        for block, h in ((one, h1), (two, h2)):
            mu = torch.sigmoid(block.alpha / 0.1)
            x = mu * x + (1 - mu) * h @ block.down.T
            n = nn.functional.layer_norm(x, (4,), block.side.norm.weight, block.side.norm.bias)
            q, k, v = (n @ block.side.qkv.T).chunk(3, -1)
            heads = []
            for head in range(4):  # gcd of 4 heads and d = 4: each is one number wide
                s = q[0, :, head : head + 1] @ k[0, :, head : head + 1].T
                s = s.masked_fill(torch.ones_like(s).triu(1).bool(), -torch.inf)
                heads.append(s.softmax(-1) @ v[0, :, head : head + 1])
            x = x + torch.cat(heads, -1) @ block.side.out.T
            n = nn.functional.layer_norm(x, (4,), block.side.ffn_norm.weight, block.side.ffn_norm.bias)
            x = x + nn.functional.gelu(n @ block.side.ffn_in.T) @ block.side.ffn_out.T
        expected = h2 + nn.functional.layer_norm(x, (4,), two.norm.weight, two.norm.bias) @ two.up.T
    assert torch.allclose(last["h"], expected, atol=1e-5)


@decoders
def test_generating_with_the_cache_equals_the_whole_pass_again_for_each_token(base):
    model = laddered(base)
    batch = model.tokenizer(["good day", "an awful walk indeed"], padding=True, return_tensors="pt")
    batch = {name: batch[name] for name in ("input_ids", "attention_mask")}
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 2}
    cached = model.generate(**batch, **options)
    assert torch.equal(cached, model.generate(**batch, **options, use_cache=False))
    ids, mask = batch["input_ids"], batch["attention_mask"]
    for _ in range(8):
        with torch.no_grad():
            positions = (mask.cumsum(-1) - 1).clamp(min=0)
            logits = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False).logits
        ids = torch.cat([ids, logits[:, -1:].argmax(-1)], dim=1)
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
    assert torch.equal(cached, ids)
    plain = base().generate(**batch, **options)
    assert not torch.equal(plain, cached), "the ladder must matter here"


@decoders
def test_beams_reorder_the_side_networks_keys_too(base):
    model = laddered(base)
    batch = model.tokenizer(["good day"], return_tensors="pt", return_token_type_ids=False)
    options = {"max_new_tokens": 6, "num_beams": 3, "do_sample": False, "eos_token_id": None, "pad_token_id": 2}
    assert torch.equal(model.generate(**batch, **options), model.generate(**batch, **options, use_cache=False))


def test_a_cache_of_fixed_size_is_refused_in_one_sentence():
    model = laddered(models.llama)
    batch = model.tokenizer(["good day"], return_tensors="pt", return_token_type_ids=False)
    with pytest.raises(NotImplementedError, match="growing cache alone"):
        model.generate(**batch, max_new_tokens=2, cache_implementation="static", pad_token_id=2)


@decoders
@pytest.mark.parametrize("kernel", ["sdpa", "eager"])
def test_padding_on_the_left_changes_nothing(base, kernel):
    model = laddered(base)
    model.set_attn_implementation(kernel)
    model.tokenizer.padding_side = "left"
    together = model.tokenizer(["good day", "an awful walk indeed"], padding=True, return_tensors="pt")
    alone = model.tokenizer(["good day"], return_tensors="pt")
    positions = (together["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        padded = model(together["input_ids"], attention_mask=together["attention_mask"], position_ids=positions).logits
        plain = model(alone["input_ids"]).logits
    assert torch.allclose(padded[0, -plain.shape[1] :], plain[0], atol=1e-5)


def test_a_later_token_never_reaches_an_earlier_one_in_a_decoder():
    model = laddered(models.llama)
    ids = torch.arange(3, 11)[None]
    other = ids.clone()
    other[0, -1] = 50
    with torch.no_grad():
        assert torch.equal(model(ids).logits[:, :-1], model(other).logits[:, :-1])


@pairs
def test_attach_changes_nothing_it_learns_and_the_base_stays_bit_for_bit(base):
    model = base()
    before = models.bits(model)
    was = models.logits(model) if base is not models.bert else None
    attach(model, LADDER)
    if was is not None:
        assert torch.equal(models.logits(model), was)
    history = fit(model, models.task(), steps=30, lr=1e-2, progress=False)
    assert history.losses[-1] < history.losses[0] - 0.1
    for block in rungs(model):
        assert block.rail.x is None, "nothing of a pass is kept"
    detach(model)
    assert models.same_bits(model, before)


@pairs
def test_save_load_switch_and_deepcopy(base, tmp_path):
    model = laddered(base)
    tuned = models.logits(model)
    save_adapter(model, tmp_path)
    assert torch.equal(models.logits(load_adapter(base(), tmp_path)), tuned)
    twin = copy.deepcopy(model)
    assert torch.equal(models.logits(twin), tuned)
    assert {id(block.rail) for block in rungs(twin)}.isdisjoint({id(block.rail) for block in rungs(model)})
    assert len({id(block.rail) for block in rungs(twin)}) == 1
    attach(model, LoRA(r=3, alpha=5), name="lora")
    assert not rungs(model)
    switch(model, "default")
    assert torch.equal(models.logits(model), tuned)
    with pytest.raises(RuntimeError, match="LadderSideTuning cannot be merged: its side network works beside"):
        merge(model)


def test_a_pass_that_broke_off_leaves_a_model_that_can_be_copied():
    model = laddered(models.llama).train()
    handle = model.model.norm.register_forward_pre_hook(lambda *_: 1 / 0)
    rungs(model)[1].base.register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        model(**batch_of(model))
    handle.remove()
    assert rungs(copy.deepcopy(model))


@decoders
def test_checkpointing_recorded_states_and_attributes_of_the_block(base):
    model = laddered(base)
    with torch.no_grad():
        plain = model(**batch_of(model)).logits
        states = model(**batch_of(model), output_hidden_states=True).hidden_states
    assert len(states) == 3
    model.gradient_checkpointing_enable()
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    out = model(**batch_of(model))
    assert torch.allclose(out.logits, plain, atol=1e-5)
    out.loss.backward()
    block = rungs(model)[0]
    block.base.attention_type = "full"
    assert block.attention_type == "full"
    with pytest.raises(AttributeError):
        _ = block.no_such_thing


def test_an_encoder_decoder_has_its_ladder_beside_the_decoder():
    torch.manual_seed(0)
    shape = {"d_model": 16, "d_kv": 8, "d_ff": 40, "num_layers": 3, "num_decoder_layers": 2, "num_heads": 2}
    config = T5Config(vocab_size=99, decoder_start_token_id=0, **shape)
    model = T5ForConditionalGeneration(config).eval()
    ids = torch.arange(4, 12)[None]
    was = model(input_ids=ids, labels=ids).logits
    attach(model, LADDER)
    assert len(rungs(model)) == 2 and all("decoder" in n for n in trained_parameters(model))
    out = model(input_ids=ids, labels=ids)
    assert torch.allclose(out.logits, was, atol=1e-5)
    out.loss.backward()
    assert rungs(model)[-1].up.grad.abs().max() > 0
    with torch.no_grad():
        for parameter in trained_parameters(model).values():
            parameter.normal_(std=0.3)
    options = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
    again = model.generate(ids, **options, use_cache=False)
    assert torch.equal(model.generate(ids, **options), again)


@pytest.mark.parametrize("reduction", [4, 8])
def test_the_counts_are_the_formula(reduction):
    """A rung d_model·d + 1, a side block 4d² + 2·d·d_ff/8 + 4d, both ends d·d_model, a norm 2d."""
    config = AutoConfig.from_pretrained(DATA / "shapes" / "bert-base.json")
    count = count_parameters(build_on_meta(config, Setup(method=LadderSideTuning(reduction=reduction))))
    d, f = 768 // reduction, 3072 // reduction
    assert count.trainable == 12 * (768 * d + 1 + 4 * d * d + 2 * d * f + 4 * d) + 2 * 768 * d + 2 * d
    assert count.changed == count.trainable and count.rank == 0 and len(count.modules) == 12
    lora = count_parameters(build_on_meta(config, Setup(method=LoRA(r=8))))
    assert count.trainable > lora.trainable and count.n_total == lora.n_total


def test_less_memory_than_lora_with_more_parameters_in_the_trace_of_llama_1b():
    config = AutoConfig.from_pretrained(DATA / "shapes" / "llama-3.2-1b.json")
    found = {}
    for method in (LoRA(r=8), LadderSideTuning(reduction=8)):
        step = trace_setup(config, Setup(method=method), batch=4, length=512, n_layers=4)
        found[type(method)] = (step.before("loss")["activations"], step.at_peak()["optimizer states"], step.peak)
    (lora, lora_states, lora_peak), (ladder, ladder_states, ladder_peak) = found.values()
    assert ladder < lora / 3 and ladder_states > lora_states and ladder_peak < lora_peak


def test_the_trace_finds_no_backbone_activation_but_the_outputs_of_the_blocks():
    """What LST keeps grows with a block by one (batch, length, d_model) and its side block; full tuning by far more."""
    config = AutoConfig.from_pretrained(DATA / "shapes" / "gpt2.json")

    def per_block(method):
        small, large = (
            trace_setup(config, Setup(method=method, weights="float32", device="cpu"), 2, 64, n)
            .before("loss")["activations"] for n in (3, 4)
        )  # fmt: skip
        return large - small

    h = 2 * 64 * 768 * 4
    ladder, full = per_block(LadderSideTuning(reduction=768)), per_block(FullFineTuning())
    assert h <= ladder < 1.2 * h  # a side network one number wide: all but the rung is small
    assert full > 10 * h


def test_the_trace_agrees_with_meta_and_real_tensors():
    model = laddered(models.llama).train()
    batch = batch_of(model)
    real = trace_step(model, batch).before("loss")["activations"]
    assert real < trace_step(laddered(models.llama, FullFineTuning()).train(), batch).before("loss")["activations"]


@pytest.mark.parametrize("reduction", [0, -1, 2.5, True, "8"])
def test_a_reduction_that_is_none(reduction):
    with pytest.raises(ValueError, match="whole number, at least 1"):
        LadderSideTuning(reduction=reduction)


def test_a_ladder_narrower_than_one():
    with pytest.raises(ValueError, match="reduction is 17, but the model is 16 wide"):
        attach(models.llama(), LadderSideTuning(reduction=17))
    with pytest.raises(ValueError, match="no transformer blocks"):
        attach(nn.Sequential(nn.Linear(3, 3)), LADDER)


class TestMutants:
    """Wrong ladders, each of which a test above must notice."""

    def test_a_backbone_run_with_gradients_would_be_noticed(self, monkeypatch):
        model = laddered(models.llama).train()
        monkeypatch.setattr(torch, "no_grad", torch.enable_grad)
        model.get_input_embeddings().weight.requires_grad_(True)
        kept, _ = saved_inside(model, batch_of(model))
        assert kept > 0

    def test_a_side_network_that_forgets_its_keys_would_be_noticed(self, monkeypatch):
        from peft_lessons.methods.additive.side_block import SideBlock

        model = laddered(models.gpt2)
        batch = model.tokenizer(["an awful walk indeed"], return_tensors="pt", return_token_type_ids=False)
        options = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None, "pad_token_id": 2}
        right = model.generate(**batch, **options)
        monkeypatch.setattr(SideBlock, "_remember", lambda self, cache, k, v: (k, v))
        assert not torch.equal(model.generate(**batch, **options), right)


def test_a_wide_model_of_another_family_on_meta():
    config = GPT2Config(n_embd=64, n_head=4, n_layer=3, vocab_size=50)
    with torch.device("meta"):
        model = GPT2LMHeadModel(config)
    count = count_parameters(attach(model, LADDER))
    assert all(p.is_meta for p in trained_parameters(model).values()) and count.trainable
