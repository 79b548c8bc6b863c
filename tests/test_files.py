"""Adapter files are Hugging Face peft's own, in both directions; broken files get one sentence."""

import json

import models
import pytest
import torch
from every_method import METHODS
from peft import LoraConfig, PeftModel, TaskType, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification

from peft_lessons import attach, fit, load_adapter, load_base, merge, save_adapter
from peft_lessons.methods import AdapterFusion, LoRA
from peft_lessons.methods.core import attachment, trained_parameters
from peft_lessons.methods.files import CONFIG, WEIGHTS

pytestmark = pytest.mark.filterwarnings("ignore:.*config file in tests/random", "ignore:Unable to fetch remote file")
bases = pytest.mark.parametrize("base", models.ALL.values(), ids=models.ALL.keys())
TARGETS = ["attention", "all-linear", r".*\.1\..*", ["dense", "c_proj", "v_proj"]]
CHOICES = ("bad", "so-so", "good")
ROUND_TRIP = [*METHODS, AdapterFusion(n_adapters=2, bottleneck=3)]


def tuned(base, method):
    """A model with random numbers in everything trained, the head included."""
    model = attach(base(), method)
    if hasattr(model, "set_head"):
        model.set_head(CHOICES)
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in trained_parameters(model).values():
            parameter.normal_(std=0.3)
    return model


def fresh(base):
    """The base for peft: the same weights, and a head of its own to be replaced."""
    model = base()
    if hasattr(model, "set_head"):
        model.set_head(CHOICES, seed=9)
    return model


def fitting(base, targets):
    """Only the names that this base has."""
    if isinstance(targets, str):
        return targets
    names = {name.rpartition(".")[2] for name, _ in base().named_modules()}
    return [target for target in targets if target in names]


@bases
@pytest.mark.parametrize("targets", TARGETS, ids=["attention", "all-linear", "pattern", "names"])
@pytest.mark.parametrize("use_rslora", [False, True])
def test_peft_reads_what_we_write(base, targets, use_rslora, tmp_path):
    model = tuned(base, LoRA(r=3, alpha=5, target_modules=fitting(base, targets), use_rslora=use_rslora))
    save_adapter(model, tmp_path)
    theirs = PeftModel.from_pretrained(fresh(base), tmp_path).eval()
    theirs.tokenizer = model.tokenizer
    assert (models.logits(theirs) - models.logits(model)).abs().max() < 1e-5


@bases
@pytest.mark.parametrize("use_rslora", [False, True])
def test_we_read_what_peft_writes(base, use_rslora, tmp_path):
    kind = TaskType.SEQ_CLS if base is models.bert else TaskType.CAUSAL_LM
    targets = ["query", "dense"] if base is models.bert else "all-linear"
    config = LoraConfig(
        r=3, lora_alpha=5, target_modules=targets, use_rslora=use_rslora, task_type=kind, init_lora_weights=False
    )
    theirs = get_peft_model(fresh(base), config).eval()
    theirs.save_pretrained(tmp_path)
    mine = load_adapter(base(), tmp_path, choices=CHOICES if base is models.bert else None)
    theirs.tokenizer = mine.tokenizer
    assert (models.logits(theirs) - models.logits(mine)).abs().max() < 1e-5
    if base is models.bert:
        assert mine.choices == CHOICES


@bases
@pytest.mark.parametrize("method", ROUND_TRIP, ids=lambda method: type(method).__name__)
def test_save_and_load_round_trip(base, method, tmp_path):
    model = tuned(base, method)
    save_adapter(model, tmp_path)
    other = load_adapter(base(), tmp_path)
    assert torch.equal(models.logits(other), models.logits(model))
    assert getattr(other, "choices", None) == getattr(model, "choices", None)
    assert type(attachment(other).method) is type(method)


@pytest.mark.parametrize("auto", [AutoModel, AutoModelForSequenceClassification, AutoModelForMaskedLM])
def test_peft_reads_an_adapter_of_a_model_that_makes_no_text(auto, tmp_path):
    def base():
        torch.manual_seed(0)
        return auto.from_config(models.bert().config).eval()

    model, ids = tuned(base, LoRA(r=3, alpha=5, target_modules=["query", "value"])), torch.arange(3, 12).view(1, -1)
    save_adapter(model, tmp_path)
    theirs = PeftModel.from_pretrained(base(), tmp_path).eval()
    with torch.no_grad():
        assert (theirs(input_ids=ids)[0] - model.eval()(input_ids=ids)[0]).abs().max() < 1e-5


def test_a_merged_adapter_is_saved_as_what_it_is(tmp_path):
    model = tuned(models.llama, LoRA(r=3, alpha=5))
    apart = models.logits(model)
    save_adapter(merge(model), tmp_path)
    assert torch.equal(models.logits(load_adapter(models.llama(), tmp_path)), apart)


def test_a_loaded_adapter_trains_on(tmp_path):
    save_adapter(tuned(models.bert, LoRA(r=3, alpha=5)), tmp_path)
    model = load_adapter(models.bert(), tmp_path, choices=("good", "bad", "other"))
    model.set_head(("good", "bad"))
    assert fit(model, models.task(), steps=3, progress=False).losses


def test_the_file_holds_the_adapter_alone_in_peft_names(tmp_path):
    save_adapter(tuned(models.bert, LoRA(r=3, alpha=5, target_modules=["query"])), tmp_path)
    names = sorted(load_file(tmp_path / WEIGHTS))
    prefix = "base_model.model.bert.encoder.layer"
    expected = [f"{prefix}.{i}.attention.self.query.lora_{f}.weight" for i in range(2) for f in "AB"]
    assert names == sorted([*expected, "base_model.model.classifier.bias", "base_model.model.classifier.weight"])
    assert json.loads((tmp_path / CONFIG).read_text())["target_modules"] == ["query"]


def test_minilm_and_peft_agree(tmp_path):
    def base():
        return load_base("minilm", device="cpu")[0]

    model = tuned(base, LoRA(r=4, alpha=6))
    save_adapter(model, tmp_path)
    theirs = PeftModel.from_pretrained(fresh(base), tmp_path).eval()
    theirs.tokenizer = model.tokenizer
    assert (models.logits(theirs) - models.logits(model)).abs().max() < 1e-5


@pytest.fixture
def saved(tmp_path):
    return save_adapter(tuned(models.llama, LoRA(r=3, alpha=5, target_modules=["q_proj"])), tmp_path / "adapter")


def change(folder, **fields):
    config = json.loads((folder / CONFIG).read_text()) | fields
    (folder / CONFIG).write_text(json.dumps({name: value for name, value in config.items() if value != "drop"}))


def refused(folder, error, message):
    """Loading says one sentence and leaves the model as it was."""
    model = models.llama()
    before = models.bits(model)
    with pytest.raises(error, match=message) as caught:
        load_adapter(model, folder)
    assert "\n" not in str(caught.value)
    assert models.same_bits(model, before) and attachment(model) is None


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_a_missing_file(saved, name):
    (saved / name).unlink()
    refused(saved, FileNotFoundError, f"has no {name}")


def test_pickled_weights_are_not_read(saved):
    (saved / WEIGHTS).rename(saved / "adapter_model.bin")
    refused(saved, FileNotFoundError, f"has no {WEIGHTS}")


def test_a_cut_off_weights_file(saved):
    data = (saved / WEIGHTS).read_bytes()
    (saved / WEIGHTS).write_bytes(data[: len(data) // 2])
    refused(saved, ValueError, "is not a whole safetensors file")


def test_a_configuration_that_is_none(saved):
    (saved / CONFIG).write_text("{oops")
    refused(saved, ValueError, "is not a peft configuration")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"peft_type": "BOFT"}, "holds BOFT; the course reads .*FULL, .*HEAD, .*LORA"),
        ({"use_dora": True}, "uses use_dora=True, which plain LoRA does not have"),
        ({"rank_pattern": {"q_proj": 4}}, "uses rank_pattern="),
        ({"bias": "all"}, "uses bias='all'"),
        ({"init_lora_weights": "pissa"}, "initialised by 'pissa', which changes the base too"),
        ({"r": "drop"}, "lacks 'r', which LORA needs"),
        ({"r": 0}, "r is 0"),
        ({"r": 4}, r"the model needs \(4, 16\)"),
        ({"target_modules": ["k_proj"]}, r"does not fit this model: it lacks model.layers.0.self_attn.k_proj.lora_A"),
        ({"target_modules": ["nope"]}, 'No linear layer of this model is called "nope"'),
    ],
)
def test_what_plain_lora_cannot_be(saved, fields, message):
    change(saved, **fields)
    refused(saved, ValueError, message)


def test_a_surplus_tensor(saved):
    tensors = load_file(saved / WEIGHTS) | {"base_model.model.extra.lora_A.weight": torch.zeros(1)}
    save_file(tensors, saved / WEIGHTS)
    refused(saved, ValueError, "it has extra.lora_A, which the model lacks")


def test_another_base_is_warned_about(saved):
    change(saved, base_model_name_or_path="someone/else")
    with pytest.warns(UserWarning, match="was trained on someone/else; the model is tests/random"):
        load_adapter(models.llama(), saved)
