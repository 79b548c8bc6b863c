"""A base in four bits: bitsandbytes' bytes, its layer's output and gradient, every method beside it, wrong versions.

Oracles: bitsandbytes 0.50 on the CPU, peft's own reading of the adapter, and the paper's bits per weight.
"""

import math

import models
import pytest
import torch
from every_method import METHODS
from peft import PeftModel
from torch import nn
from torch.nn import functional as F
from transformers import BertConfig, BertModel, GPT2Config, GPT2LMHeadModel, T5Config, T5ForConditionalGeneration
from transformers.pytorch_utils import Conv1D

from peft_lessons import attach, count_parameters, dequantize, detach, fit, merge, quantize, save_adapter, switch
from peft_lessons.bases import TextClassifier
from peft_lessons.methods import BitFit, FullFineTuning, LoRA
from peft_lessons.methods.core import attached, trained_parameters
from peft_lessons.methods.quantizing import bits_per_weight
from peft_lessons.methods.reparameterized import nf4
from peft_lessons.methods.reparameterized.codes import CODES, code_table, dynamic_map, normal_levels
from peft_lessons.methods.reparameterized.quantized_linear import QuantizedLinear
from peft_lessons.methods.selective.masks import fisher_masks, magnitude_masks
from peft_lessons.methods.targets import is_quantized, linear_layers, matrix

theirs = pytest.importorskip("bitsandbytes.functional")
from bitsandbytes.nn import Linear4bit, Params4bit  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.*config file in tests/random")
SHAPES = [
    (24, 40),
    (33, 66),
    (7, 9),
    (5, 64),
    (3, 63),
    (1, 1),
    (128, 256),
]  # theirs errs on 16, 48, 80 columns
TYPES = [torch.float32, torch.bfloat16, torch.float16]
bases = pytest.mark.parametrize("base", models.ALL.values(), ids=models.ALL.keys())


def wide_bert():
    """Two layers whose rows are whole blocks of 64: what bitsandbytes decodes rightly on a CPU."""
    torch.manual_seed(1)
    config = BertConfig(vocab_size=300, hidden_size=64, num_hidden_layers=2, num_attention_heads=2, pad_token_id=2)
    config.intermediate_size = 128
    return models._as_base(TextClassifier(BertModel(config, add_pooling_layer=False)), "right")


def wide_gpt2():
    torch.manual_seed(1)
    config = GPT2Config(n_embd=64, n_layer=1, n_head=2, n_positions=128, **models.SIZE)
    return models._as_base(GPT2LMHeadModel(config), "left")


def weight(shape, dtype=torch.float32, seed=0):
    """Normal weights with an outlier, and a row of zeros where there is room for one."""
    torch.manual_seed(seed)
    W = torch.randn(shape) * 0.02
    W.view(-1)[W.numel() // 2] = 0.3
    if shape[0] > 20:
        W[2] = 0
    return W.to(dtype)


# ---- the codes ----


def test_the_tables_are_bitsandbytes_bit_for_bit():
    for kind in ("nf4", "fp4"):
        assert torch.equal(code_table(kind), theirs.get_4bit_type(kind, device="cpu"))
    assert torch.equal(dynamic_map(), theirs.create_dynamic_map())


def test_nf4_is_quantiles_of_the_normal_distribution():
    derived = torch.tensor(normal_levels(16), dtype=torch.float32)
    assert (derived - code_table("nf4")).abs().max() < 2e-7
    with pytest.raises(ValueError, match="n is 2; a code needs at least one level on either side of 0"):
        normal_levels(2)


@pytest.mark.parametrize("kind", CODES)
def test_every_code_has_exactly_zero_and_one(kind):
    code = code_table(kind)
    assert 0 in code and code.max() == 1 and len(code) <= 16 and code.abs().max() == 1
    assert len(code) == {"normal7": 7, "normal4": 4, "int4": 15}.get(kind, 16)


# ---- blocks ----


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_bytes_and_rounded_weights_are_those_of_bitsandbytes(kind, dtype, shape):
    W, code = weight(shape, dtype), code_table(kind)
    expected, state = theirs.quantize_4bit(W, blocksize=64, quant_type=kind)
    packed, absmax = nf4.quantize_blocks(W, code)
    assert torch.equal(packed, expected.flatten()) and torch.equal(absmax, state.absmax)
    if shape[1] % 2 == 0:  # theirs compiles a program for each odd shape
        rounded = nf4.dequantize_blocks(packed, absmax, code, shape).to(dtype)
        assert torch.equal(rounded, theirs.dequantize_4bit(expected, state))


def test_a_zero_stays_exactly_zero_also_in_a_block_of_zeros_and_a_short_last_block():
    W = torch.cat([torch.zeros(70), torch.randn(20), torch.zeros(63)])
    for code in map(code_table, CODES):
        rounded = nf4.dequantize_blocks(*nf4.quantize_blocks(W, code), code, W.shape)
        assert not rounded[W == 0].any() and rounded.isfinite().all()
    assert not nf4.dequantize_blocks(*nf4.quantize_blocks(torch.zeros(3, 5), code), code, (3, 5)).any()


@pytest.mark.parametrize("kind", CODES)
def test_rounding_is_to_the_nearest_level_and_again_changes_nothing(kind):
    W, code = weight((24, 40)), code_table(kind)
    packed, absmax = nf4.quantize_blocks(W, code)
    rounded = nf4.dequantize_blocks(packed, absmax, code, W.shape)
    grid = code * absmax.repeat_interleave(64)[: W.numel(), None]
    best = (grid - W.flatten()[:, None]).abs().amin(1)
    assert torch.allclose((rounded - W).flatten().abs(), best, atol=1e-8)
    assert torch.equal(nf4.quantize_blocks(rounded, code)[0], packed) or kind in ("fp4", "normal4")  # -1 is no 1 there


def swapped(W, code):
    packed, absmax = nf4.quantize_blocks(W, code)
    return packed >> 4 | packed << 4, absmax


def columns(W, code):
    return nf4.quantize_blocks(W.T.contiguous(), code)


def off_by_one(W, code):
    return nf4.quantize_blocks(W, code.roll(1))


def ceiling(W, code):
    return nf4.quantize_blocks(W, code.sort().values + 0.02)


def one_scale(W, code):
    packed, absmax = nf4.quantize_blocks(W, code)
    return packed, torch.full_like(absmax, absmax.max())


@pytest.mark.parametrize("wrong", [swapped, columns, off_by_one, ceiling, one_scale])
def test_wrong_versions_are_not_equal(wrong):
    W, code = weight((24, 40)), code_table("nf4")
    expected, state = theirs.quantize_4bit(W, blocksize=64, quant_type="nf4")
    packed, absmax = wrong(W, code)
    assert not (torch.equal(packed, expected.flatten()) and torch.equal(absmax, state.absmax))
    rounded = nf4.dequantize_blocks(packed, absmax, code, W.shape)
    assert not torch.equal(rounded, theirs.dequantize_4bit(expected, state))


# ---- double quantisation: as good as theirs, and equal but for near ties ----


def agrees(mine, absmax, state):
    """Whether scales are theirs to one step, ours never the farther, on at most one block in a hundred."""
    scales, outer, offset = mine
    levels = dynamic_map()
    aim = (absmax - state.offset) / state.state2.absmax.repeat_interleave(256)[: len(absmax)]
    further = (levels[scales.int()] - aim).abs() - (levels[state.absmax.int()] - aim).abs()
    steps = (scales.int() - state.absmax.int()).abs()
    return (
        torch.equal(offset, state.offset)
        and torch.equal(outer, state.state2.absmax)
        and int(steps.max()) <= 1
        and float((steps > 0).float().mean()) <= 0.01
        and float(further.abs().max()) <= 1e-4
        and float(further.max()) <= 1e-6
    )


@pytest.mark.parametrize("shape", [(256, 260), (512, 512), (24, 40)])
def test_double_quantisation_is_bitsandbytes_to_near_ties(shape):
    for seed in range(3):
        W = torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * 0.02
        _, state = theirs.quantize_4bit(W, blocksize=64, quant_type="nf4", compress_statistics=True)
        packed, absmax = nf4.quantize_blocks(W, code_table("nf4"))
        assert agrees(nf4.quantize_scales(absmax), absmax, state)
        on_theirs = nf4.dequantize_scales(state.absmax, state.state2.absmax, state.offset, state.state2.code)
        expected = theirs.dequantize_4bit(packed.view(-1, 1), state)
        assert torch.equal(nf4.dequantize_blocks(packed, on_theirs, code_table("nf4"), shape), expected)


def without_the_mean(absmax):
    scales, outer, offset = nf4.quantize_scales(absmax - absmax.mean() + absmax.mean() / 2)
    return scales, outer, offset


def unsigned(absmax):
    scales, outer, offset = nf4.quantize_scales(absmax)
    return scales.clamp(min=128), outer, offset


@pytest.mark.parametrize("wrong", [without_the_mean, unsigned])
def test_wrong_double_quantisation_is_found(wrong):
    W = weight((512, 512))
    _, state = theirs.quantize_4bit(W, blocksize=64, quant_type="nf4", compress_statistics=True)
    absmax = nf4.quantize_blocks(W, code_table("nf4"))[1]
    assert not agrees(wrong(absmax), absmax, state)


# ---- the layer ----


def of_bitsandbytes(layer, kind, double):
    """Their layer on the CPU, computing as it does in training."""
    options = {"compress_statistics": double, "quant_type": kind}
    found = Linear4bit(layer.in_features, layer.out_features, layer.bias is not None, **options)
    found.weight = Params4bit(layer.weight.data.clone(), requires_grad=False, **options).to("cpu")
    if layer.bias is not None:
        found.bias.data = layer.bias.data.clone()
    return found


@pytest.mark.parametrize("kind", ["nf4", "fp4"])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_output_and_gradient_are_those_of_bitsandbytes_layer(kind, bias, dtype):
    torch.manual_seed(2)
    layer = nn.Linear(192, 40, bias=bias, dtype=dtype).requires_grad_(False)
    x, seen = torch.randn(2, 5, 192, dtype=dtype), torch.randn(2, 5, 40, dtype=dtype)
    found = []
    for one in (QuantizedLinear(layer, kind, double=False), of_bitsandbytes(layer, kind, double=False)):
        inputs = x.clone().requires_grad_(True)
        y = one(inputs)
        y.backward(seen)
        found.append((y.detach(), inputs.grad))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])
    assert found[0][0].dtype == dtype and not torch.equal(found[0][0], layer(x))


def test_with_double_quantisation_the_layer_is_theirs_within_a_step_of_the_scales():
    torch.manual_seed(2)
    layer = nn.Linear(512, 256).requires_grad_(False)
    x = torch.randn(4, 512, requires_grad=True)
    difference = (QuantizedLinear(layer)(x) - of_bitsandbytes(layer, "nf4", True)(x)).abs().max()
    assert difference < 1e-3 * layer(x).abs().max() * 10


def test_it_keeps_nothing_of_the_whole_weight_between_forward_and_backward():
    layer = QuantizedLinear(nn.Linear(64, 48))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        layer(torch.randn(3, 64, requires_grad=True)).sum()
    assert not any(t.numel() >= 64 * 48 for t in kept)


def test_moving_and_casting_leave_what_is_stored_alone():
    layer = QuantizedLinear(nn.Linear(96, 40))
    stored = {name: tensor.clone() for name, tensor in layer.named_buffers()}
    rounded = layer.dequantize()
    half = layer.to(torch.bfloat16)
    assert all(torch.equal(tensor, stored[name]) for name, tensor in half.named_buffers())
    assert half.dequantize().dtype == torch.bfloat16 and torch.equal(half.dequantize(), rounded.bfloat16())
    assert half.bias.dtype == torch.bfloat16 and layer.to("meta").dequantize().is_meta


def test_saved_and_loaded_it_is_the_same():
    one, other = QuantizedLinear(nn.Linear(96, 40)), QuantizedLinear(nn.Linear(96, 40))
    x = torch.randn(3, 96)
    assert not torch.equal(one(x), other(x))
    other.load_state_dict(one.state_dict())
    assert torch.equal(one(x), other(x))


def test_the_bits_are_the_papers():
    """4 + 8/64 + 32/(64 · 256), and the tables of one layer, which are nothing beside a large one."""
    paper = 4 + 8 / 64 + 32 / (64 * 256)
    assert round(paper, 3) == 4.127 and round(4 + 32 / 64 - paper, 3) == 0.373
    for double, expected in ((True, paper), (False, 4.5)):
        model = nn.Sequential(QuantizedLinear(nn.Linear(11008, 4096, bias=False, device="meta"), double=double))
        assert bits_per_weight(model) == pytest.approx(expected, abs=3e-4)
        tables = 32 * (16 + (256 + 1 if double else 0)) / (11008 * 4096)
        assert bits_per_weight(model) == pytest.approx(expected + tables, abs=1e-12)
    small = nn.Sequential(QuantizedLinear(nn.Linear(512, 256, bias=False)))
    assert bits_per_weight(small) == paper + 32 * (16 + 257) / (512 * 256)
    with pytest.raises(RuntimeError, match="Nothing in this model is in four bits"):
        bits_per_weight(nn.Linear(3, 4))


# ---- the verbs ----


def test_theirs_is_theirs_where_it_can_be():
    layers = linear_layers(quantize(wide_gpt2(), backend="bitsandbytes"))
    assert {type(layer) for name, layer in layers.items() if name != "lm_head"} == {Linear4bit}
    assert {type(layer) for layer in linear_layers(quantize(wide_gpt2())).values()} == {QuantizedLinear, nn.Linear}
    narrow = linear_layers(quantize(models.bert(), backend="bitsandbytes")).values()
    assert {type(layer) for layer in narrow} == {QuantizedLinear}  # rows of 16 and 40, not whole blocks


@pytest.mark.parametrize("base", [*models.ALL.values(), wide_bert, wide_gpt2], ids=lambda base: base.__name__)
@pytest.mark.parametrize("backend", ["torch", "bitsandbytes"])
def test_quantize_rounds_every_linear_layer_but_the_output_layer(base, backend):
    model, plain = base(), base()
    assert quantize(model, backend=backend) is model
    layers = linear_layers(model)
    assert {name for name, layer in layers.items() if not is_quantized(layer)} <= {"lm_head"}
    for name, layer in layers.items():
        expected = matrix(plain.get_submodule(name))
        assert matrix(layer).shape == expected.shape
        assert torch.equal(matrix(layer), expected) == (name == "lm_head")
        code = code_table("nf4")
        once = nf4.dequantize_blocks(*nf4.quantize_blocks(expected, code), code, expected.shape)
        assert name == "lm_head" or (matrix(layer) - once).abs().max() < 1e-3
    dequantize(model)
    assert [type(m) for m in model.modules()] == [type(m) for m in plain.modules()]
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert not any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("base", [wide_bert, wide_gpt2])
def test_both_backends_are_the_same_model(base):
    one, other = quantize(base(), double=False), quantize(base(), double=False, backend="bitsandbytes")
    for name, layer in linear_layers(one).items():
        assert torch.equal(matrix(layer), matrix(other.get_submodule(name)))
    attach(one, LoRA(r=3, alpha=5)), attach(other, LoRA(r=3, alpha=5))
    for model in (one, other):
        fit(model, models.task(), steps=2, lr=0.05, progress=False)
    assert torch.allclose(models.logits(one), models.logits(other), atol=1e-5)
    assert (
        count_parameters(one).n_total == count_parameters(other).n_total == sum(p.numel() for p in base().parameters())
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu_it_is_theirs_with_equal_results():
    on_gpu, here = quantize(wide_bert().cuda(), double=False), quantize(wide_bert(), double=False)
    assert {type(layer) for layer in linear_layers(on_gpu).values()} == {Linear4bit}
    for name, layer in linear_layers(here).items():
        same = matrix(on_gpu.get_submodule(name)).cpu() == matrix(layer)
        assert same.float().mean() > 0.999  # a weight halfway between two levels may go either way


TRAINED = {"FullFineTuning", "AttentionTuning", "TopLayers"}


@pytest.mark.parametrize("backend", ["torch", "bitsandbytes"])
@pytest.mark.parametrize("method", [*METHODS, BitFit()], ids=lambda method: type(method).__name__)
def test_every_method_works_beside_it_or_says_why_not(method, backend):
    model = quantize(models.bert() if backend == "torch" else wide_bert(), backend=backend)
    before = models.bits(model)
    if type(method).__name__ in TRAINED:
        with pytest.raises(ValueError, match=r"is in four bits, which cannot be trained: take .* LoRA, or dequantize"):
            attach(model, method)
        assert models.same_bits(model, before) and attached(model) == ()
        return
    attach(model, method)
    assert not any(is_quantized(model.get_submodule(n.rpartition(".")[0])) for n in trained_parameters(model)) or (
        isinstance(method, BitFit)
    )
    fit(model, models.task(), steps=2, lr=0.05, progress=False)
    tuned = models.logits(model)
    adapter = detach(model)
    assert models.same_bits(model, before)
    attach(model, adapter)
    assert torch.equal(models.logits(model), tuned)
    dequantize(model)
    assert torch.allclose(models.logits(model), tuned, atol=1e-6)
    if method.mergeable:
        assert torch.allclose(models.logits(merge(model)), tuned, atol=1e-5)
    detach(model)
    assert not any(is_quantized(module) for module in model.modules())


def test_the_gradient_beside_it_is_that_of_the_rounded_base():
    model = attach(quantize(models.llama()), LoRA(r=3, alpha=5, target_modules="all-linear"))
    plain = attach(dequantize(quantize(models.llama())), LoRA(r=3, alpha=5, target_modules="all-linear"))
    batch = model.tokenizer(["good day", "an awful walk"], padding=True, return_tensors="pt")
    batch = {name: batch[name] for name in ("input_ids", "attention_mask")}
    for one in (model, plain):
        torch.manual_seed(5)
        for parameter in trained_parameters(one).values():
            nn.init.normal_(parameter, std=0.3)
        one(**batch, labels=batch["input_ids"]).loss.backward()
    for name, parameter in trained_parameters(model).items():
        assert torch.allclose(parameter.grad, plain.get_parameter(name).grad, atol=1e-6) and parameter.grad.any()


def test_a_bias_gets_its_gradient_from_a_single_vector_too():
    layer = QuantizedLinear(nn.Linear(64, 3))
    layer(torch.randn(64)).sum().backward()
    assert torch.equal(layer.bias.grad, torch.ones(3))


def test_biases_get_the_gradient_that_they_would_have():
    torch.manual_seed(1)
    plain = nn.Linear(40, 24)
    layer, x = QuantizedLinear(plain), torch.randn(2, 3, 40)
    F.linear(x, layer.dequantize(), layer.bias).square().sum().backward()
    expected = layer.bias.grad.clone()
    layer.bias.grad = None
    layer(x).square().sum().backward()
    assert torch.allclose(layer.bias.grad, expected, atol=1e-4) and expected.any()


@bases
def test_merging_is_refused_until_the_base_is_plain_and_then_loses_nothing(base):
    model = attach(quantize(base()), LoRA(r=3, alpha=5, target_modules="all-linear"))
    fit(model, models.task(), steps=2, lr=0.05, progress=False)
    tuned = models.logits(model)
    with pytest.raises(RuntimeError, match=r"The base is in four bits, .* dequantize\(model\) first .*load the 16-bit"):
        merge(model)
    assert torch.equal(models.logits(model), tuned)
    merge(dequantize(model))
    assert torch.allclose(models.logits(model), tuned, atol=1e-5)
    detach(model)
    rounded = dequantize(quantize(base()))
    assert models.same_bits(model, models.bits(rounded))


def test_dequantize_reaches_adapters_that_are_off():
    model = quantize(models.gpt2())
    attach(model, LoRA(r=3, alpha=5), name="a")
    fit(model, models.task(), steps=2, lr=0.05, progress=False)
    attach(model, LoRA(r=2, target_modules="all-linear"), name="b")
    fit(model, models.task(), steps=2, lr=0.05, progress=False)
    found = {name: models.logits(switch(model, name)) for name in ("a", "b")}
    switch(model, "a")
    dequantize(model)
    for name in ("b", "a"):
        switch(model, name)
        assert torch.allclose(models.logits(model), found[name], atol=1e-6)
        assert torch.allclose(models.logits(merge(model)), found[name], atol=1e-5)
    switch(model, None)
    assert isinstance(model.transformer.h[0].attn.c_attn, Conv1D)
    assert not any(is_quantized(module) for module in model.modules())


@bases
def test_peft_reads_an_adapter_that_was_trained_on_four_bits(base, tmp_path):
    model = attach(quantize(base()), LoRA(r=3, alpha=5, target_modules="all-linear"))
    fit(model, models.task(), steps=2, lr=0.05, progress=False)
    save_adapter(model, tmp_path)
    plain = dequantize(quantize(base()))
    if hasattr(plain, "set_head"):
        plain.set_head(model.choices, seed=9)
    found = PeftModel.from_pretrained(plain, tmp_path).eval()
    found.tokenizer = model.tokenizer
    assert (models.logits(found) - models.logits(model)).abs().max() < 1e-5


def test_half_precision_rounds_and_computes_in_its_own_type():
    model = quantize(models.llama().to(torch.bfloat16))
    assert models.logits(model).dtype == torch.bfloat16
    attach(model, LoRA(r=3, alpha=5))
    fit(model, models.task(), steps=1, lr=0.01, progress=False)
    assert matrix(dequantize(model).model.layers[0].mlp.up_proj).dtype == torch.bfloat16


def test_what_t5_keeps_in_32_bits_and_shares_stays():
    torch.manual_seed(0)
    config = T5Config(d_model=16, d_kv=8, num_heads=2, d_ff=40, num_layers=2, vocab_size=99, decoder_start_token_id=0)
    model = quantize(T5ForConditionalGeneration(config).requires_grad_(False))
    rounded = {name.rpartition(".")[2] for name, layer in linear_layers(model).items() if is_quantized(layer)}
    assert rounded == {"q", "k", "v", "o", "wi"}
    attach(model, LoRA(r=3, alpha=5, target_modules="all-linear"))
    ids = torch.arange(12).view(2, 6)
    model(input_ids=ids, labels=ids).loss.backward()
    assert all(p.grad is not None for p in trained_parameters(model).values())


def test_masks_by_size_are_those_of_the_rounded_weights_and_fisher_is_refused():
    model, plain = quantize(models.bert()), dequantize(quantize(models.bert()))
    expected = magnitude_masks(plain, 0.1)
    assert all(torch.equal(index, expected[path]) for path, index in magnitude_masks(model, 0.1).items())
    with pytest.raises(ValueError, match="in four bits, which cannot be trained"):
        fisher_masks(model, models.task())


WRONG = {
    "kind": ({"kind": "nf3"}, "kind is 'nf3'; it can be nf4, fp4, int4, normal7, normal4."),
    "backend": ({"backend": "cuda"}, 'backend is \'cuda\'; it can be "torch", "bitsandbytes" or None.'),
    "theirs": ({"kind": "int4", "backend": "bitsandbytes"}, "bitsandbytes has no code 'int4', only nf4 and fp4"),
}


@pytest.mark.parametrize(("arguments", "message"), WRONG.values(), ids=WRONG.keys())
def test_bad_arguments_get_one_sentence_and_leave_the_model_untouched(arguments, message):
    model = models.llama()
    before = models.bits(model)
    with pytest.raises(ValueError) as caught:
        quantize(model, **arguments)
    assert message in str(caught.value) and models.same_bits(model, before)


def test_what_cannot_be_quantized_says_why():
    with pytest.raises(RuntimeError, match="in four bits already"):
        quantize(quantize(models.llama()))
    with pytest.raises(RuntimeError, match="An adapter is attached: quantize the plain base first"):
        quantize(attach(models.llama(), LoRA()))
    with pytest.raises(RuntimeError, match="An adapter is attached"):
        quantize(switch(attach(models.llama(), LoRA()), None))
    with pytest.raises(ValueError, match="no frozen linear layer"):
        quantize(models.llama().requires_grad_(True))
    with pytest.raises(RuntimeError, match="nothing to dequantize"):
        dequantize(models.llama())
    broken = models.llama()
    broken.model.layers[1].mlp.up_proj.weight.data[0, 0] = math.inf
    before = models.bits(broken)
    with pytest.raises(ValueError, match=r"model.layers.1.mlp.up_proj has a weight that is not finite"):
        quantize(broken)
    assert models.same_bits(broken, before)


def test_full_fine_tuning_works_again_on_the_rounded_weights():
    model = dequantize(quantize(models.llama()))
    before = models.bits(model)
    attach(model, FullFineTuning())
    fit(model, models.task(), steps=1, lr=0.01, progress=False)
    detach(model)
    assert models.same_bits(model, before)
