"""Several adapters on one base: switched by name, detached one by one, and the base bit for bit the same throughout."""

import copy

import models
import pytest
import torch

from peft_lessons import attach, count_parameters, detach, fit, load_adapter, merge, save_adapter, switch, unmerge
from peft_lessons.methods import FullFineTuning, Head, LoRA
from peft_lessons.methods.core import active, attached, trained_parameters

pairs = pytest.mark.parametrize("base", models.ALL.values(), ids=models.ALL.keys())
OF_A_BERT = detach(attach(models.bert(), LoRA(r=2)))
THREE = {"low": LoRA(r=3, alpha=5), "full": FullFineTuning(), "head": Head()}


def three(base):
    """A base with three adapters trained on it, the last one on, and the logits of each."""
    model, logits = base(), {}
    for seed, (name, method) in enumerate(THREE.items()):
        attach(model, method, name=name)
        fit(model, models.task(), steps=2, lr=0.05, seed=seed, progress=False)
        logits[name] = models.logits(model)
    return model, logits


@pairs
def test_each_name_gives_its_own_function_back_whatever_was_on_before(base):
    model, logits = three(base)
    assert attached(model) == tuple(THREE) and active(model) == "head"
    for name in ("low", "head", "full", "low", "full"):
        switch(model, name)
        assert active(model) == name
        assert torch.equal(models.logits(model), logits[name])
    assert len({round(values.sum().item(), 4) for values in logits.values()}) == 3


@pairs
def test_with_all_off_the_model_is_the_base_bit_for_bit(base):
    before = models.bits(base())
    model, _ = three(base)
    switch(model, None)
    assert models.same_bits(model, before) and active(model) is None
    assert not any(p.requires_grad for p in model.parameters())
    with pytest.raises(RuntimeError, match=r"switched off: switch\(model, name\) first; there is low, full, head."):
        count_parameters(model)


@pairs
def test_detached_one_by_one_in_any_order(base):
    before = models.bits(base())
    model, logits = three(base)
    low = detach(model, "low")
    assert attached(model) == ("full", "head") and active(model) == "head"
    assert torch.equal(models.logits(model), logits["head"])
    detach(model)
    assert attached(model) == ("full",) and active(model) is None
    assert models.same_bits(model, before)
    switch(model, "full")
    assert torch.equal(models.logits(model), logits["full"])
    detach(model)
    assert attached(model) == () and models.same_bits(model, before)
    attach(model, low)
    assert torch.equal(models.logits(model), logits["low"])


@pairs
def test_only_the_one_that_is_on_is_trained(base):
    model, logits = three(base)
    switch(model, "low")
    fit(model, models.task(), steps=2, lr=0.05, progress=False)
    assert not torch.allclose(models.logits(model), logits["low"], atol=1e-3)
    for name in ("full", "head"):
        assert torch.equal(models.logits(switch(model, name)), logits[name])


def test_each_adapter_has_its_own_head():
    model = models.bert()
    attach(model, LoRA(r=2), name="two")
    model.set_head(("bad", "good"))
    attach(model, LoRA(r=2), name="three")
    assert model.choices is None
    model.set_head(("red", "green", "blue"))
    assert models.logits(model).shape[1] == 3
    assert models.logits(switch(model, "two")).shape[1] == 2 and model.choices == ("bad", "good")
    switch(model, None)
    assert model.choices is None and model.classifier is None


def test_a_merged_adapter_is_unmerged_when_another_comes_on():
    model = models.llama()
    before = models.bits(model)
    attach(model, LoRA(r=3, alpha=5), name="a")
    torch.nn.init.normal_(next(p for n, p in trained_parameters(model).items() if n.endswith("lora_B")))
    apart = models.logits(model)
    merge(model)
    switch(model, None)
    assert models.same_bits(model, before)
    assert torch.equal(models.logits(switch(model, "a")), apart)
    with pytest.raises(RuntimeError, match="not merged"):
        unmerge(model)


def test_saving_and_loading_take_the_one_that_is_on(tmp_path):
    model, logits = three(models.llama)
    save_adapter(switch(model, "low"), tmp_path)
    assert torch.equal(models.logits(load_adapter(models.llama(), tmp_path)), logits["low"])


def test_a_copied_model_has_its_own_rack():
    model, logits = three(models.bert)
    other = copy.deepcopy(model)
    switch(other, "low")
    detach(other, "full")
    assert attached(model) == tuple(THREE) and active(model) == "head"
    assert torch.equal(models.logits(switch(model, "full")), logits["full"])
    assert torch.equal(models.logits(other), logits["low"])


@pytest.mark.parametrize(
    ("act", "error", "message"),
    [
        (lambda m: switch(m, "nope"), LookupError, 'No adapter "nope" is attached to this model; there is a, b.'),
        (lambda m: detach(m, "nope"), LookupError, 'No adapter "nope"'),
        (lambda m: attach(m, LoRA(), name="a"), RuntimeError, r"attached to this model already: detach\(model\) first"),
        (
            lambda m: attach(m, LoRA(target_modules=["x"]), name="c"),
            ValueError,
            "No linear layer of this",
        ),
        (lambda m: attach(m, OF_A_BERT, name="c"), ValueError, "does not fit this model"),
    ],
    ids=["switch", "detach", "same name", "bad target", "an adapter of another shape"],
)
def test_what_is_refused_leaves_everything_as_it_was(act, error, message):
    model = models.llama()
    for name in "ab":
        attach(model, LoRA(r=3), name=name)
    switch(model, "a")
    before, rack = models.bits(model), attached(model)
    with pytest.raises(error, match=message) as caught:
        act(model)
    assert "\n" not in str(caught.value)
    assert models.same_bits(model, before) and attached(model) == rack and active(model) == "a"
    assert all(p.requires_grad == ("lora_" in n) for n, p in model.named_parameters())


def test_nothing_is_attached_to_a_plain_model():
    assert attached(models.bert()) == () and active(models.bert()) is None
    with pytest.raises(LookupError, match='No adapter "a" is attached to this model; there is none.'):
        switch(models.bert(), "a")
    assert switch(model := models.bert(), None) is model
