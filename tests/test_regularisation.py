"""Weight decay, L2-SP and dropout in the one training loop: each against its closed form."""

import models
import pytest
import torch
from torch import nn

from peft_lessons import attach, detach, fit
from peft_lessons.methods import FAR, DiffPruning, FullFineTuning, LoRA, NormTuning, SparseUpdate, TopLayers
from peft_lessons.methods.core import require_attachment, trained_parameters

bases = pytest.mark.parametrize("base", models.ALL.values(), ids=models.ALL.keys())


def gradients(monkeypatch, model, **options):
    """The gradients that the first step of a fit hands to AdamW, by name; the weights are put back."""
    seen, before = {}, {name: p.detach().clone() for name, p in trained_parameters(model).items()}

    def step(self, closure=None):
        seen.update({name: p.grad.clone() for name, p in trained_parameters(model).items()})

    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", step)
        fit(model, models.task(), steps=1, progress=False, **options)
    assert all(torch.equal(p, before[name]) for name, p in trained_parameters(model).items())
    return seen


@bases
@pytest.mark.parametrize("method", [FullFineTuning(), TopLayers(1), NormTuning()], ids=["full", "top", "norms"])
def test_l2_sp_adds_its_strength_times_the_distance_to_the_gradient(base, method, monkeypatch):
    """Li et al. 2018: the gradient of l2_sp / 2 · Σ (w - w0)² is l2_sp · (w - w0); the new head is not pulled."""
    model = attach(base(), method)
    fit(model, models.task(), steps=2, lr=1e-2, progress=False)
    plain, pulled = gradients(monkeypatch, model), gradients(monkeypatch, model, l2_sp=0.7)
    originals = require_attachment(model).originals
    moved = 0.0
    for name, weight in trained_parameters(model).items():
        distance = weight.detach() - originals[name] if name in originals else torch.zeros(())
        assert torch.allclose(pulled[name] - plain[name], 0.7 * distance.expand_as(weight), atol=1e-5)
        moved = max(moved, distance.abs().max().item())
    assert moved > 1e-3


@bases
def test_with_a_strong_pull_the_weights_stay(base):
    def distance(**options):
        model = attach(base(), FullFineTuning())
        fit(model, models.task(), steps=30, lr=1e-2, progress=False, **options)
        pairs = [(model.get_parameter(n), w) for n, w in require_attachment(model).originals.items()]
        return torch.cat([(now - start).flatten() for now, start in pairs]).norm().item()

    assert distance(l2_sp=1000.0) < 0.1 * distance()


@bases
@pytest.mark.parametrize("method", [LoRA(r=2), SparseUpdate(0.1), FAR(0.2), DiffPruning()], ids=lambda m: m.peft_type)
def test_l2_sp_needs_weights_of_the_base(base, method):
    model = attach(base(), method)
    message = f"{type(method).__name__} trains no weight of the base, so l2_sp has nothing to pull."
    with pytest.raises(ValueError, match=message):
        fit(model, models.task(), steps=1, l2_sp=0.1, progress=False)


@bases
def test_weight_decay_shrinks_what_is_trained_by_rate_times_decay(base):
    """Loshchilov and Hutter 2019: one step of AdamW takes lr · decay · w away, beside what the gradient does."""

    def after(decay):
        model = attach(base(), FullFineTuning())
        fit(model, models.task(), steps=1, lr=1e-3, weight_decay=decay, progress=False)
        return trained_parameters(model)

    plain, decayed, start = after(0.0), after(0.4), base()
    for name, weight in decayed.items():
        if not name.startswith("classifier."):
            expected = -1e-3 * 0.4 * start.get_parameter(name)
            assert torch.allclose(weight - plain[name], expected, atol=1e-7)


def rates(model):
    return [module.p for module in model.modules() if isinstance(module, nn.Dropout)]


@pytest.mark.parametrize("base", [models.bert, models.gpt2], ids=["bert", "gpt2"])
def test_dropout_is_every_layers_rate_while_training_and_restored_after(base):
    model = attach(base(), FullFineTuning())
    own, seen = rates(model), []
    fit(model, models.task(), steps=1, dropout=0.37, progress=False, on_step=lambda step: seen.extend(rates(model)))
    assert seen and set(seen) == {0.37} and rates(model) == own != seen

    def stop(step):
        raise RuntimeError("stop here")

    with pytest.raises(RuntimeError, match="stop here"):
        fit(model, models.task(), steps=1, dropout=0.37, progress=False, on_step=stop)
    assert rates(model) == own
    kept = []
    fit(model, models.task(), steps=1, progress=False, on_step=lambda step: kept.extend(rates(model)))
    assert kept == own


def test_dropout_changes_training_and_none_is_none():
    def losses(rate):
        model = attach(models.bert(), FullFineTuning())
        return fit(model, models.task(), steps=3, dropout=rate, progress=False).losses

    off = losses(0.0)
    assert off == losses(0.0) != losses(0.5)
    assert off != losses(None), "a BERT's own rate is 0.1"


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5, float("nan")])
def test_no_probability(rate):
    model = attach(models.bert(), FullFineTuning())
    with pytest.raises(ValueError, match="it is a probability, at least 0 and below 1"):
        fit(model, models.task(), steps=1, dropout=rate, progress=False)


def test_dropout_where_there_is_none_is_no_silent_nothing():
    model = attach(models.llama(), FullFineTuning())
    with pytest.raises(ValueError, match="no dropout layer, so dropout would do nothing"):
        fit(model, models.task(), steps=1, dropout=0.1, progress=False)
    assert fit(model, models.task(), steps=1, dropout=0.0, progress=False).losses
    detach(model)
    attach(model, LoRA())
    assert fit(model, models.task(), steps=1, dropout=0.1, progress=False).losses


@pytest.mark.parametrize("options", [{"weight_decay": -0.1}, {"l2_sp": -1.0}, {"l2_sp": float("nan")}])
def test_a_push_away_is_refused(options):
    with pytest.raises(ValueError, match="both must be at least 0"):
        fit(attach(models.bert(), FullFineTuning()), models.task(), steps=1, progress=False, **options)
