"""attach, detach, merge, unmerge: what they promise, on an encoder, a Llama and a GPT-2."""

import copy

import models
import pytest
import torch
from every_method import METHODS, SOFT_PROMPTS
from torch import nn

from peft_lessons import attach, count_parameters, detach, fit, merge, quantize, unmerge
from peft_lessons.methods import FullFineTuning, Head, LoRA
from peft_lessons.methods.core import attachment, trained_parameters
from peft_lessons.methods.targets import find_targets

pairs = pytest.mark.parametrize("base", models.ALL.values(), ids=models.ALL.keys())
each_method = pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)


def randomise(model):
    """Random numbers in everything trainable: with B = 0 most wrong code passes."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in trained_parameters(model).values():
            parameter.normal_(std=0.3)


@pairs
@each_method
def test_attaching_changes_nothing_and_detaching_gives_the_base_back_bit_for_bit(base, method):
    model = base()
    before, was, flags = models.bits(model), None, {n: p.requires_grad for n, p in model.named_parameters()}
    if base is not models.bert:
        was = models.logits(model)
    attach(model, method)
    if was is not None and method not in SOFT_PROMPTS:
        assert torch.allclose(models.logits(model), was, atol=1e-6)
    fit(model, models.task(), steps=2, lr=0.05, progress=False)
    if was is not None:
        assert not torch.allclose(models.logits(model), was, atol=1e-3)
    detach(model)
    assert models.same_bits(model, before)
    assert flags == {n: p.requires_grad for n, p in model.named_parameters()}
    assert all(p.grad is None for p in model.parameters())
    assert attachment(model) is None and not model.training


@pairs
@each_method
def test_a_detached_adapter_attached_again_gives_the_same_logits(base, method):
    model = base()
    attach(model, method)
    fit(model, models.task(), steps=2, lr=0.05, progress=False)
    tuned = models.logits(model)
    adapter = detach(model)
    attach(model, adapter)
    assert torch.equal(models.logits(model), tuned)


@pairs
@pytest.mark.parametrize("targets", ["attention", "all-linear"])
def test_merge_is_the_same_function_and_unmerge_undoes_it(base, targets):
    model = base()
    attach(model, LoRA(r=3, alpha=5, target_modules=targets))
    fit(model, models.task(), steps=1, progress=False)
    randomise(model)
    apart, types = models.logits(model), [type(m) for m in model.modules()]
    weights = {name: p.clone() for name, p in model.named_parameters() if name.endswith("base.weight")}
    merge(model)
    assert not any("LoRA" in type(m).__name__ for m in model.modules()), "a merged model is made of plain layers"
    assert torch.allclose(models.logits(model), apart, atol=1e-4)
    unmerge(model)
    assert types == [type(m) for m in model.modules()]
    assert all(torch.equal(model.get_parameter(name), weight) for name, weight in weights.items())
    assert torch.equal(models.logits(model), apart)


@pairs
def test_detaching_a_merged_model_gives_the_base_back_too(base):
    model = base()
    before = models.bits(model)
    attach(model, LoRA(target_modules="all-linear"))
    randomise(model)
    merge(model)
    detach(model)
    assert models.same_bits(model, before)


def test_merging_half_precision_is_undone_exactly():
    model = models.llama().to(torch.bfloat16)
    before = models.bits(model)
    attach(model, LoRA(r=3, alpha=5))
    assert all(p.dtype == torch.float32 for p in trained_parameters(model).values()), "AdamW stalls in bfloat16"
    randomise(model)
    assert models.logits(model).dtype == torch.bfloat16
    unmerge(merge(model))
    detach(model)
    assert models.same_bits(model, before)


def test_only_the_adapter_is_trainable():
    model = attach(models.bert(), LoRA(r=3, alpha=5, target_modules=["query"]))
    trainable = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trainable == [
        f"bert.encoder.layer.{i}.attention.self.query.lora_{factor}" for i in range(2) for factor in "AB"
    ]


def test_initial_weights_depend_on_the_seed_alone():
    def first_a(seed):
        torch.manual_seed(torch.seed() % 1000)
        return next(iter(trained_parameters(attach(models.llama(), LoRA(), seed=seed)).values()))

    assert torch.equal(first_a(0), first_a(0)) and not torch.equal(first_a(0), first_a(1))


def test_attach_leaves_the_callers_random_numbers_alone():
    model = models.llama()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    attach(model, LoRA())
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(
    ("targets", "expected"),
    [
        ("attention", {"query", "key", "value", "dense"}),
        (["query", "attention.self.value"], {"query", "value"}),
        (r".*layer\.1.*query", {"query"}),
    ],
)
def test_targets_by_keyword_name_and_pattern(targets, expected):
    found = find_targets(models.bert(), targets)
    assert {name.rpartition(".")[2] for name in found} == expected
    assert not any("intermediate" in name for name in found)


def test_all_linear_leaves_the_output_layer_out():
    assert "lm_head" not in find_targets(models.llama(), "all-linear")
    assert len(find_targets(models.llama(), "all-linear")) == 2 * 7
    assert len(find_targets(models.gpt2(), "all-linear")) == 2 * 4
    assert "lm_head" in find_targets(models.llama(), ["lm_head"])


BAD_TARGETS = {
    "unknown": ("query_proj", 'No linear layer of this model is called "query_proj". It has attention.self.query'),
    "one of two": (["query", "nope"], 'called "nope"'),
    "nothing": ([], "target_modules is empty"),
    "a norm": (["LayerNorm"], 'No linear layer of this model is called "LayerNorm"'),
    "a broken pattern": ("layer.[", "neither a name nor a regular expression"),
    "no name": (
        5,
        "target_modules is 5; it is a name, a pattern, or a list of them; here attention.self.query",
    ),
    "none": (None, "target_modules is None; it is a name"),
    "no names": ([1], "target_modules is [1]; it is a name"),
}


@pytest.mark.parametrize(("targets", "message"), BAD_TARGETS.values(), ids=BAD_TARGETS.keys())
def test_bad_targets_get_one_sentence_and_leave_the_model_untouched(targets, message):
    model = models.bert()
    before = models.bits(model)
    with pytest.raises(ValueError, match=message.replace("[", r"\[")) as caught:
        attach(model, LoRA(target_modules=targets))
    assert "\n" not in str(caught.value)
    assert models.same_bits(model, before) and attachment(model) is None
    assert not any(p.requires_grad for p in model.parameters())


def test_a_model_without_linear_layers_or_attention():
    with pytest.raises(ValueError, match="no linear layer to attach to"):
        attach(nn.Sequential(nn.ReLU()), LoRA())
    with pytest.raises(ValueError, match="no attention module; name linear layers instead: 0"):
        attach(nn.Sequential(nn.Linear(3, 4)), LoRA())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"r": 0}, "r is 0; the rank is a whole number, at least 1."),
        ({"r": -2}, "r is -2"),
        ({"r": 2.5}, "r is 2.5"),
        ({"r": True}, "r is True"),
        ({"alpha": 0}, "alpha is 0; it must be above 0"),
        ({"dropout": 1.0}, "dropout is 1.0; it is a probability"),
    ],
)
def test_bad_hyperparameters(arguments, message):
    with pytest.raises(ValueError, match=message):
        LoRA(**arguments)


def test_attaching_twice_is_refused_and_nothing_changes():
    model = attach(models.bert(), LoRA(r=2))
    before = models.bits(model)
    with pytest.raises(RuntimeError, match=r"LoRA is attached to this model already: detach\(model\) first"):
        attach(model, LoRA(target_modules=["query"]))
    assert models.same_bits(model, before)


@pytest.mark.parametrize("verb", [detach, merge, unmerge, count_parameters])
def test_verbs_that_need_a_method_say_so(verb):
    with pytest.raises(RuntimeError, match=r"No method is attached to this model: call attach\(model, method\) first."):
        verb(models.llama())


def test_merging_what_cannot_be_merged():
    for method, name in ((Head(), "Head"), (FullFineTuning(), "FullFineTuning")):
        model = attach(models.llama(), method)
        before = models.bits(model)
        with pytest.raises(RuntimeError, match=f"{name} cannot be merged"):
            merge(model)
        assert models.same_bits(model, before)
    tied = attach(models.llama(tied=True), LoRA(target_modules=["q_proj", "lm_head"]))
    before = models.bits(tied)
    with pytest.raises(RuntimeError, match="lm_head shares its weight"):
        merge(tied)
    assert models.same_bits(tied, before)
    merge(attach(models.llama(tied=False), LoRA(target_modules=["lm_head"])))


def test_merging_twice_and_unmerging_what_is_not_merged():
    model = attach(models.llama(), LoRA())
    with pytest.raises(RuntimeError, match="nothing to unmerge"):
        unmerge(model)
    merge(model)
    with pytest.raises(RuntimeError, match="merging twice would add the update twice"):
        merge(model)


def test_attach_takes_methods_and_adapters_only():
    with pytest.raises(TypeError, match="not dict"):
        attach(models.llama(), {"r": 8})
    for verb in (lambda model: attach(model, LoRA()), quantize, detach, merge):
        with pytest.raises(TypeError, match=r"not tuple: model, tokenizer = load_base\(...\)"):
            verb((models.llama(), None))


def test_an_adapter_for_another_shape_is_refused_and_the_model_untouched():
    adapter = detach(attach(models.llama(), LoRA(r=2)))
    adapter.state = {name: tensor[:1] for name, tensor in adapter.state.items()}
    model = models.llama()
    before = models.bits(model)
    with pytest.raises(ValueError, match=r"does not fit this model: .* is \(1, 16\), the model needs \(2, 16\)"):
        attach(model, adapter)
    assert models.same_bits(model, before) and attachment(model) is None


def test_a_copied_model_has_its_own_adapter():
    model = attach(models.llama(), LoRA())
    other = copy.deepcopy(model)
    randomise(other)
    assert not torch.equal(models.logits(model), models.logits(other))
    detach(other)
    assert torch.allclose(models.logits(model), models.logits(other), atol=1e-6)


def test_dropout_acts_in_training_only():
    model = attach(models.llama(), LoRA(dropout=0.5))
    randomise(model)
    assert torch.equal(models.logits(model), models.logits(model))
    model.train()
    assert not torch.equal(models.logits(model), models.logits(model))
