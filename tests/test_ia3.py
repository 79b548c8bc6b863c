"""(IA)3: equal to Hugging Face peft in both directions, merged exactly, and the paper's counts to the number."""

import models
import pytest
import torch
from peft import IA3Config, PeftModel, TaskType, get_peft_model
from safetensors.torch import load_file
from torch import nn
from transformers import T5Config, T5ForConditionalGeneration

from peft_lessons import attach, count_parameters, load_adapter, merge, save_adapter, unmerge
from peft_lessons.checks import check_ia3
from peft_lessons.methods.additive.ia3 import IA3, IA3Linear, keys_and_values
from peft_lessons.methods.core import attachment, trained_parameters
from peft_lessons.methods.files import WEIGHTS
from peft_lessons.methods.targets import matrix

pytestmark = pytest.mark.filterwarnings("ignore:.*config file in tests/random", "ignore:Unable to fetch remote file")
METHODS = {
    models.bert: IA3(),
    models.llama: IA3(),
    models.gpt2: IA3(target_modules=("c_attn",)),
}
bases = pytest.mark.parametrize("base", METHODS, ids=lambda base: base.__name__)


def tuned(base):
    """(IA)3 with random vectors, biases that are not zero, and a head for an encoder."""
    model = base()
    torch.manual_seed(4)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()
    attach(model, METHODS[base])
    if hasattr(model, "set_head"):
        model.set_head(("bad", "good", "so-so"))
    with torch.no_grad():
        for parameter in trained_parameters(model).values():
            parameter.normal_(1, 0.5)
    return model


def plain(base, model):
    """The same base without (IA)3, for peft, with a head that is to be replaced."""
    other = base()
    with torch.no_grad():
        for name, parameter in other.named_parameters():
            path, _, leaf = name.rpartition(".")
            found = attachment(model).replaced.get(path)
            parameter.copy_(getattr(found, leaf) if found is not None else model.get_parameter(name))
    if hasattr(other, "set_head"):
        other.set_head(("bad", "good", "so-so"), seed=9)
    return other


@bases
def test_peft_reads_what_we_write(base, tmp_path):
    model = tuned(base)
    save_adapter(model, tmp_path)
    theirs = PeftModel.from_pretrained(plain(base, model), tmp_path).eval()
    theirs.tokenizer = model.tokenizer
    assert (models.logits(theirs) - models.logits(model)).abs().max() < 1e-5
    shapes = {name.split(".")[-2]: t.shape for name, t in load_file(tmp_path / WEIGHTS).items() if "ia3_l" in name}
    ffn, value = {"bert": ("dense", "value"), "llama": ("down_proj", "v_proj"), "gpt2": ("c_proj", "c_attn")}[
        base.__name__
    ]
    assert shapes[ffn][0] == 1 and shapes[value][1] == 1


@bases
def test_we_read_what_peft_writes(base, tmp_path):
    targets = {"bert": ["key", "value", r"output.dense"], "llama": None, "gpt2": None}[base.__name__]
    feedforward = None if targets is None else ["output.dense"]
    kind = TaskType.SEQ_CLS if base is models.bert else TaskType.CAUSAL_LM
    config = IA3Config(task_type=kind, target_modules=targets, feedforward_modules=feedforward, init_ia3_weights=False)
    fresh = base()
    if hasattr(fresh, "set_head"):
        fresh.set_head(("a", "b"))
    theirs = get_peft_model(fresh, config).eval()
    theirs.save_pretrained(tmp_path)
    mine = load_adapter(base(), tmp_path)
    theirs.tokenizer = mine.tokenizer
    assert (models.logits(theirs) - models.logits(mine)).abs().max() < 1e-5


@bases
def test_it_merges_whole_the_feed_forward_vector_too(base):
    model = tuned(base)
    apart = models.logits(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items() if ".base." in name}
    merge(model)
    assert not any(isinstance(module, IA3Linear) for module in model.modules())
    merged = models.logits(model)
    assert not torch.equal(merged, apart) and (merged - apart).abs().max() < 1e-6 * max(1, apart.abs().max())
    unmerge(model)
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize("feedforward", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_the_closed_form(feedforward, bias):
    torch.manual_seed(0)
    base, x = nn.Linear(5, 7, bias=bias), torch.randn(3, 5)
    W, b = base.weight.detach().clone(), 0 if base.bias is None else base.bias.detach().clone()
    layer = IA3Linear(base, feedforward)
    assert torch.equal(layer(x), base(x))
    scale = nn.init.normal_(layer.ia3_l).detach().flatten()
    expected = (x * scale) @ W.T + b if feedforward else (x @ W.T + b) * scale
    assert torch.allclose(layer(x), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("d_model", "n_heads", "d_ff", "expected"), [(2048, 32, 5120, 540_672), (4096, 64, 10240, 1_081_344)]
)
def test_the_papers_counts_on_t0(d_model, n_heads, d_ff, expected):
    config = T5Config(
        d_model=d_model, d_kv=64, num_heads=n_heads, d_ff=d_ff, num_layers=24, feed_forward_proj="gated-gelu"
    )
    with torch.device("meta"):
        model = T5ForConditionalGeneration(config)
    assert count_parameters(attach(model, IA3())).trainable == expected


class Mine(nn.Module):
    """A learner's own layer, for the conformance check; subclasses make a mistake."""

    def __init__(self, base, feedforward):
        super().__init__()
        self.base, self.feedforward = base.requires_grad_(False), feedforward
        d_out, d_in = matrix(base).shape
        self.ia3_l = nn.Parameter(self.start(d_in, d_out))

    def start(self, d_in, d_out):
        return torch.ones((1, d_in) if self.feedforward else (d_out, 1))

    def forward(self, x):
        scale = self.ia3_l.flatten()
        return self.base(x * scale) if self.feedforward else self.base(x) * scale


class AlwaysTheOutput(Mine):
    def start(self, d_in, d_out):
        return torch.ones(d_out, 1)

    def forward(self, x):
        return self.base(x) * self.ia3_l.flatten()


class FromZero(Mine):
    def start(self, d_in, d_out):
        return torch.zeros_like(super().start(d_in, d_out))


class ForgetsTheBias(Mine):
    def forward(self, x):
        if self.feedforward or self.base.bias is None:
            return super().forward(x)
        return (self.base(x) - self.base.bias) * self.ia3_l.flatten() + self.base.bias


class Added(Mine):
    def forward(self, x):
        scale = self.ia3_l.flatten()
        return self.base(x + scale - 1) if self.feedforward else self.base(x) + scale - 1


class Twice(Mine):
    def forward(self, x):
        return super().forward(x) + self.base(x)


class Cut(Mine):
    def forward(self, x):
        scale = self.ia3_l.detach().flatten()
        return self.base(x * scale) if self.feedforward else self.base(x) * scale


class Thawed(Mine):
    def __init__(self, base, feedforward):
        super().__init__(base, feedforward)
        base.requires_grad_(True)


class MergesRows(IA3Linear):
    def delta(self):
        return (self.ia3_l.flatten()[: self.d_out, None] - 1) * matrix(self.base)


class MergesNoBias(IA3Linear):
    def delta_bias(self):
        return None


MISTAKES = {
    AlwaysTheOutput: "with feedforward the vector rescales what goes in",
    FromZero: "l starts at 1, not at 0",
    ForgetsTheBias: "the bias is not rescaled",
    Added: "",
    Twice: "l starts at 1 and needs no skip",
    Cut: "it gets no gradient",
    Thawed: "W or b still takes gradients",
    MergesRows: "l multiplies W's columns",
    MergesNoBias: "the bias is rescaled as well",
}


@pytest.mark.parametrize("make", [IA3Linear, Mine])
def test_the_conformance_check_passes_what_is_right(make):
    report = check_ia3(make)
    assert report.passed and "the same on Conv1D, feed-forward: " in str(report), report


@pytest.mark.parametrize(("make", "hint"), MISTAKES.items(), ids=lambda found: getattr(found, "__name__", None))
def test_the_conformance_check_names_the_mistake(make, hint):
    failed = [check for check in check_ia3(make).checks if not check.passed]
    assert failed and any(hint in check.hint for check in failed), [str(check) for check in failed]


def test_the_conformance_check_needs_the_vector():
    with pytest.raises(AttributeError, match="Linear has no parameter ia3_l"):
        check_ia3(lambda base, feedforward: base)


def t5(**changes):
    """A small random encoder-decoder with gated feed-forward networks."""
    torch.manual_seed(1)
    sizes = {"vocab_size": 50, "d_model": 16, "d_kv": 4, "num_heads": 3, "d_ff": 40, "num_layers": 2}
    return T5ForConditionalGeneration(T5Config(**sizes, feed_forward_proj="gated-gelu", **changes)).eval()


def t5_logits(model):
    """Logits of an encoder's and a decoder's input."""
    ids = torch.arange(24).view(2, 12)
    with torch.no_grad():
        return model(input_ids=ids, decoder_input_ids=ids[:, :5] + 20).logits


def test_an_encoder_decoder_is_rescaled_as_peft_does_cross_attention_included(tmp_path):
    config = IA3Config(
        task_type=TaskType.SEQ_2_SEQ_LM,
        target_modules=["k", "v", "wo"],
        feedforward_modules=["wo"],
        init_ia3_weights=False,
    )
    theirs = get_peft_model(t5(), config).eval()
    theirs.save_pretrained(tmp_path)
    mine = load_adapter(t5(), tmp_path)
    assert not torch.allclose(t5_logits(mine), t5_logits(t5()), atol=1e-3)
    assert (t5_logits(theirs) - t5_logits(mine)).abs().max() < 1e-5
    own = attach(t5(), IA3())
    with torch.no_grad():
        for name, vector in trained_parameters(own).items():
            vector.copy_(mine.get_parameter(name))
    assert torch.equal(t5_logits(own), t5_logits(mine)), "the same layers, found without their names"
    apart = t5_logits(mine)
    assert (t5_logits(merge(mine)) - apart).abs().max() < 1e-5


def test_scaling_what_the_gate_lets_through_is_scaling_what_goes_in():
    """The authors' code rescales the output of `wi_1`; with a gated FFN that is the input of `wo`."""
    torch.manual_seed(0)
    scale, attached, theirs = torch.rand(40) + 0.5, attach(t5(), IA3()), t5()
    path = "encoder.block.0.layer.1.DenseReluDense"
    with torch.no_grad():
        attached.get_submodule(f"{path}.wo").ia3_l.copy_(scale[None])
        theirs.get_submodule(f"{path}.wi_1").weight.mul_(scale[:, None])
    assert torch.allclose(t5_logits(attached), t5_logits(theirs), atol=1e-5)


@pytest.mark.parametrize("bias", [False, True])
def test_the_feed_forward_layer_rescaled_at_its_output_is_another_method_and_no_error(bias):
    torch.manual_seed(0)
    inside, outside = (IA3Linear(nn.Linear(40, 16, bias=bias), feedforward) for feedforward in (True, False))
    assert inside.ia3_l.shape == (1, 40) and outside.ia3_l.shape == (16, 1)
    assert inside.changed() == 16 * 40 and outside.changed() == 16 * 40 + 16 * bias
    mistaken = attach(models.llama(), IA3(target_modules=("k_proj", "v_proj", "down_proj"), feedforward_modules=()))
    right = attach(models.llama(), IA3())
    counts = [count_parameters(model).trainable for model in (mistaken, right)]
    assert counts == [2 * (8 + 8 + 16), 2 * (8 + 8 + 40)]


def test_merging_changes_what_is_counted_as_changed():
    model = tuned(models.bert)
    count = count_parameters(model).changed
    before = {name: p.clone() for name, p in plain(models.bert, model).named_parameters()}
    merge(model)
    changed = {name: int((p != before[name]).sum()) for name, p in model.named_parameters()}
    assert sum(n for name, n in changed.items() if not name.startswith("classifier.")) == count


def test_three_vectors_a_block_and_five_with_cross_attention():
    attach(model := models.llama(), IA3())
    assert len(trained_parameters(model)) == 3 * model.config.num_hidden_layers
    with torch.device("meta"):
        t5 = T5ForConditionalGeneration(T5Config(num_layers=2))
    vectors = list(trained_parameters(attach(t5, IA3())))
    assert sum("encoder" in name for name in vectors) == 2 * 3 and sum("decoder" in name for name in vectors) == 2 * 5


def test_a_model_that_makes_keys_and_values_in_one_layer_is_refused_by_name():
    model = models.gpt2()
    before = models.bits(model)
    with pytest.raises(
        ValueError, match="no layers of their own for keys and values; its attention has c_attn, c_proj"
    ):
        attach(model, IA3())
    assert models.same_bits(model, before)
    with pytest.raises(ValueError, match='No linear layer of this model is called "nope"'):
        attach(model, IA3(target_modules=["nope"]))
    with pytest.raises(ValueError, match='No linear layer of this model is called "up"'):
        attach(models.llama(), IA3(feedforward_modules="up"))
    with pytest.raises(ValueError, match="feedforward_modules is None; it is"):
        IA3(feedforward_modules=None)
    assert len(keys_and_values(models.llama())) == 4
