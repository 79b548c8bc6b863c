"""Adapters in series and in parallel, AdapterDrop and AdapterFusion against closed forms, counts and hashes.

Oracles: closed forms in float64 (`check_adapter`), an FFN written by hand, 2L(2dm + m + d) and L(2dm + m + d) on the
shapes of real models, identities (one fused adapter is that adapter, all blocks dropped is the base), and SHA-256.
"""

import copy
from dataclasses import replace

import models
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import BertConfig, BertModel, T5Config, T5ForConditionalGeneration

from peft_lessons import attach, count_parameters, detach, fit, load_adapter, merge, save_adapter, switch
from peft_lessons.accounting.library import load_shape
from peft_lessons.accounting.setups import Setup, build_on_meta, trace_setup
from peft_lessons.bases import TextClassifier
from peft_lessons.checks import adapter_parts, check_adapter, check_frozen, fingerprint
from peft_lessons.methods import AdapterFusion, Houlsby, LoRA, ParallelAdapter, Pfeiffer, adapters_dropped
from peft_lessons.methods.additive.bottleneck import BottleneckLinear
from peft_lessons.methods.additive.fusion import FusedLinear
from peft_lessons.methods.core import trained_parameters
from peft_lessons.methods.targets import blocks

SMALL = [
    Houlsby(bottleneck=3),
    Pfeiffer(bottleneck=3),
    ParallelAdapter(bottleneck=3, scaling=4.0, learned_scaling=True),
]
SMALL += [Houlsby(bottleneck=3, train_norms=False, activation="relu"), AdapterFusion(n_adapters=2, bottleneck=3)]
bases = pytest.mark.parametrize("base", models.ALL.values(), ids=models.ALL.keys())
each = pytest.mark.parametrize("method", SMALL, ids=lambda m: type(m).__name__)


def t5() -> T5ForConditionalGeneration:
    """Two encoder and three decoder blocks, d_model 16, a gated feed-forward of 40."""
    torch.manual_seed(1)
    sizes = {"vocab_size": 300, "d_model": 16, "d_kv": 4, "d_ff": 40, "num_layers": 2, "num_decoder_layers": 3}
    config = T5Config(**sizes, num_heads=4, feed_forward_proj="gated-gelu", decoder_start_token_id=0, pad_token_id=0)
    return T5ForConditionalGeneration(config).eval().requires_grad_(False)


def randomise(model, std=0.3):
    """Random numbers in everything trainable: with W_up = 0 most wrong code passes."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in trained_parameters(model).values():
            parameter.normal_(std=std)
    return model


def with_head(model, seed=0):
    if hasattr(model, "set_head"):
        model.set_head(("good", "bad"), seed)
    return model


# ---- against closed forms ----


@pytest.mark.parametrize(("activation", "act"), [("gelu", F.gelu), ("relu", F.relu)], ids=["gelu", "relu"])
@pytest.mark.parametrize("shape", [{}, {"d_in": 3, "d_out": 11, "bottleneck": 2}], ids=["wide", "tall"])
def test_the_packages_adapter_is_the_closed_form(activation, act, shape):
    report = check_adapter(lambda base, m: BottleneckLinear(base, m, activation), activation=act, **shape)
    assert report and len(report.checks) == 30, report


class LinearFactors(nn.Module):
    """Right, but written as learners often do: two linear layers."""

    def __init__(self, base, m):
        super().__init__()
        self.base = base.requires_grad_(False)
        d = base.weight.shape[1] if type(base).__name__ == "Conv1D" else base.weight.shape[0]
        self.down, self.up = nn.Linear(d, m), nn.Linear(m, d)
        for parameter in self.up.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x):
        h = self.base(x)
        return h + self.up(F.gelu(self.down(h)))


def test_another_right_implementation_passes():
    assert check_adapter(LinearFactors)


class NoResidual(BottleneckLinear):
    def forward(self, x):
        return self.adapter(self.base(x))


class ResidualTwice(BottleneckLinear):
    def forward(self, x):
        h = self.base(x)
        return h + h + self.adapter(h)


class NoActivation(BottleneckLinear):
    def __init__(self, base, m):
        super().__init__(base, m)
        self.adapter.act = lambda z: z


class OtherActivation(BottleneckLinear):
    def __init__(self, base, m):
        super().__init__(base, m, "relu")


class ActivationFirst(BottleneckLinear):
    def forward(self, x):
        h, a = self.base(x), self.adapter
        return h + (F.gelu(h) @ a.down.T + a.down_bias) @ a.up.T + a.up_bias


class NoInnerBias(BottleneckLinear):
    def forward(self, x):
        h, a = self.base(x), self.adapter
        return h + F.gelu(h @ a.down.T) @ a.up.T + a.up_bias


class NoOuterBias(BottleneckLinear):
    def forward(self, x):
        h, a = self.base(x), self.adapter
        return h + F.gelu(h @ a.down.T + a.down_bias) @ a.up.T


class NoAdapter(BottleneckLinear):
    def forward(self, x):
        return self.base(x)


class OnTheInput(LinearFactors):
    def __init__(self, base, m):
        super().__init__(base, m)
        d = base.weight.shape[0] if type(base).__name__ == "Conv1D" else base.weight.shape[1]
        self.down = nn.Linear(d, m)

    def forward(self, x):
        return self.base(x) + self.up(F.gelu(self.down(x)))


class Thawed(BottleneckLinear):
    def __init__(self, base, m):
        super().__init__(base, m)
        base.requires_grad_(True)


class Detached(BottleneckLinear):
    def forward(self, x):
        h = self.base(x)
        return h + self.adapter(h.detach())


class StopsTheGradient(BottleneckLinear):
    def forward(self, x):
        return self.base(x).detach() + self.adapter(self.base(x))


class NotNearIdentity(BottleneckLinear):
    def __init__(self, base, m):
        super().__init__(base, m)
        nn.init.normal_(self.adapter.up)


class BothZero(BottleneckLinear):
    def __init__(self, base, m):
        super().__init__(base, m)
        nn.init.zeros_(self.adapter.down)


class FrozenDown(BottleneckLinear):
    def __init__(self, base, m):
        super().__init__(base, m)
        self.adapter.down.requires_grad_(False)


class NotSaved(BottleneckLinear):
    def state_dict(self, *arguments, **options):
        return {k: v for k, v in super().state_dict(*arguments, **options).items() if "up" not in k}

    def load_state_dict(self, state, strict=True):
        return super().load_state_dict(state, strict=False)


MUTANTS = {
    NoResidual: "the skip connection is missing",
    ResidualTwice: "the skip connection is there twice",
    NoActivation: "the activation is missing",
    OtherActivation: "the activation is relu",
    ActivationFirst: "the activation comes before W_down",
    NoInnerBias: "the bias b is missing",
    NoOuterBias: "the bias b' is missing",
    NoAdapter: "the adapter is missing",
    OnTheInput: "An adapter stands on the layer's output",
    Thawed: "W still takes gradients",
    Detached: "gradient of the input",
    StopsTheGradient: "gradient of the input",
    NotNearIdentity: "attaching must change nothing",
    BothZero: "W_down and W_up are both zero",
    FrozenDown: "it gets no gradient",
    NotSaved: "the state dict must hold all four",
}


@pytest.mark.parametrize(("wrong", "message"), MUTANTS.items(), ids=[m.__name__ for m in MUTANTS])
def test_every_mistake_is_found_and_named(wrong, message):
    report = check_adapter(wrong)
    assert not report
    assert message in str(report)


def test_a_module_without_an_adapter_gets_one_sentence():
    with pytest.raises(AttributeError, match="Linear has no adapter: the check looks for down and up"):
        check_adapter(lambda base, m: base)
    assert [t.shape for t in adapter_parts(BottleneckLinear(nn.Linear(3, 2), 4))] == [(4, 2), (4,), (2, 4), (2,)]


def test_the_papers_initialisation_is_near_a_no_op_and_ours_is_one():
    ours, papers = (BottleneckLinear(nn.Linear(64, 48), 16, init=init) for init in ("zero", "normal"))
    x = torch.randn(5, 64)
    assert torch.equal(ours(x), ours.base(x))
    moved = (papers(x) - papers.base(x)).abs().max()
    assert 0 < moved < 1e-3
    for weight in (papers.adapter.down, papers.adapter.up):
        assert weight.abs().max() <= 2e-3 and 5e-4 < weight.std() < 1.2e-3
    assert not papers.adapter.down_bias.any() and not papers.adapter.up_bias.any()


@pytest.mark.parametrize("scaling", [1.0, 4.0])
def test_a_parallel_adapter_is_the_ffn_written_by_hand_plus_s_times_the_bottleneck(scaling):
    model = randomise(attach(models.llama(), ParallelAdapter(bottleneck=3, scaling=scaling)))
    mlp, x = model.model.layers[1].mlp, torch.randn(2, 5, 16)
    down, b, up, b2 = (t.double() for t in adapter_parts(mlp.down_proj))
    gate, wide, last = (getattr(mlp, n).weight.double() for n in ("gate_proj", "up_proj", "down_proj"))
    d = x.double()
    expected = (F.silu(d @ gate.T) * (d @ wide.T)) @ last.T + scaling * (F.relu(d @ down.T + b) @ up.T + b2)
    assert torch.allclose(mlp(x).double(), expected, atol=1e-5)
    bert = randomise(attach(models.bert(), ParallelAdapter(bottleneck=3, scaling=scaling)))
    layer = bert.bert.encoder.layer[0]
    down, b, up, b2 = adapter_parts(layer)
    ffn = layer.output.dense.base(F.gelu(layer.intermediate.dense.base(x)))
    whole = layer.output.dense(F.gelu(layer.intermediate.dense(x)))
    assert torch.allclose(whole, ffn + scaling * (F.relu(x @ down.T + b) @ up.T + b2), atol=1e-5)


@bases
def test_the_scale_folds_into_w_up(base):
    scaled = randomise(attach(with_head(base()), ParallelAdapter(bottleneck=3, scaling=4.0)))
    with_head(scaled)
    plain = with_head(attach(base(), ParallelAdapter(bottleneck=3)))
    for name, parameter in trained_parameters(scaled).items():
        other = plain.get_parameter(name)
        other.data.copy_(4 * parameter if ".up" in name and "classifier" not in name else parameter)
    assert torch.allclose(models.logits(scaled), models.logits(plain), atol=1e-5)


def test_a_learned_scale_is_one_number_a_block_and_moves():
    model = attach(models.llama(), ParallelAdapter(bottleneck=3, scaling=4.0, learned_scaling=True))
    plain = attach(models.llama(), ParallelAdapter(bottleneck=3))
    assert count_parameters(model).trainable == count_parameters(plain).trainable + 2
    fit(model, models.task(), steps=3, lr=0.05, progress=False)
    scale = model.model.layers[0].mlp.down_proj.scaling
    assert scale.shape == (1,) and scale.item() != 4.0


def test_the_handed_over_input_is_let_go_and_order_is_checked():
    model = attach(models.llama(), ParallelAdapter(bottleneck=3))
    models.logits(model)
    mlp = model.model.layers[0].mlp
    assert mlp.gate_proj.handover is mlp.down_proj.handover and mlp.gate_proj.handover.left is None
    with pytest.raises(RuntimeError, match="last layer was called before its first"):
        mlp.down_proj(torch.randn(2, 40))
    other = copy.deepcopy(model).model.layers[0].mlp
    assert other.gate_proj.handover is other.down_proj.handover is not mlp.down_proj.handover


@pytest.mark.parametrize("base", [models.llama, models.gpt2, models.bert], ids=["llama", "gpt2", "bert"])
@each
def test_gradients_are_the_same_under_checkpointing(base, method):
    gradients = []
    for checkpointing in (False, True):
        model = with_head(randomise(attach(base(), method)))
        if checkpointing:
            getattr(model, "encoder", model).activation_checkpointing_enable({"use_reentrant": False})
        model.train()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        ids = torch.arange(24).reshape(2, 12) + 5
        labels = torch.tensor([0, 1]) if hasattr(model, "set_head") else ids
        model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss.backward()
        gradients.append({n: p.grad.clone() for n, p in trained_parameters(model).items()})
    assert gradients[0].keys() == gradients[1].keys() and gradients[0]
    assert all(torch.allclose(gradients[0][n], gradients[1][n], atol=1e-6) for n in gradients[0])


@each
def test_generation_with_a_cache_equals_the_forward_pass(method):
    model = randomise(attach(models.llama(), method))
    ids = torch.arange(6)[None] + 5
    written = model.generate(
        ids, attention_mask=torch.ones_like(ids), max_new_tokens=5, do_sample=False, eos_token_id=[]
    )
    again = ids
    for _ in range(5):
        again = torch.cat([again, model(again).logits[:, -1:].argmax(-1)], 1)
    assert torch.equal(written, again)


# ---- counts ----


def bert_of(size: str):
    sizes = {"base": {}, "large": {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16}}
    config = BertConfig(**sizes[size], **({"intermediate_size": 4096} if size == "large" else {}))
    with torch.device("meta"):
        return TextClassifier(BertModel(config, add_pooling_layer=False)), config


@pytest.mark.parametrize(("size", "n_total"), [("base", 108_891_648), ("large", 334_092_288)])
@pytest.mark.parametrize("m", [8, 64, 256])
def test_the_formulas_count_on_bert(size, n_total, m):
    def counted(method):
        return count_parameters(attach(bert_of(size)[0], method))

    config = bert_of(size)[1]
    L, d = config.num_hidden_layers, config.hidden_size
    one = 2 * d * m + m + d
    assert counted(Houlsby(bottleneck=m, train_norms=False)).trainable == 2 * L * one
    assert counted(Houlsby(bottleneck=m)).trainable == 2 * L * one + (2 * L + 1) * 2 * d
    assert counted(Pfeiffer(bottleneck=m)).trainable == L * one
    assert counted(ParallelAdapter(bottleneck=m)).trainable == L * one
    assert counted(ParallelAdapter(bottleneck=m, learned_scaling=True)).trainable == L * (one + 1)
    assert counted(Pfeiffer(bottleneck=m, drop_layers=5)).trainable == (L - 5) * one
    fused = counted(AdapterFusion(n_adapters=3, bottleneck=m))
    assert fused.trainable == 3 * d * d * L and fused.changed == fused.trainable + 3 * L * one
    assert fused.n_total == n_total and fused.rank == 0


def test_houlsbys_size_64_on_bert_large_is_not_3_6_percent():
    count = count_parameters(attach(bert_of("large")[0], Houlsby(bottleneck=64)))
    assert count.trainable == 6_343_680 + 100_352
    assert round(100 * count.share, 2) == 1.93
    frozen_norms = count_parameters(attach(bert_of("large")[0], Houlsby(bottleneck=64, train_norms=False)))
    assert round(100 * frozen_norms.share, 2) == 1.9


def test_an_encoder_decoder_gets_adapters_in_both_stacks_and_none_after_cross_attention():
    method = Houlsby(bottleneck=3, train_norms=False)
    model = attach(t5(), method)
    one = 2 * 16 * 3 + 3 + 16
    assert count_parameters(model).trainable == 2 * 5 * one
    assert not any("EncDecAttention" in m.name for m in count_parameters(model).modules)
    assert count_parameters(attach(t5(), replace(method, drop_layers=1))).trainable == 2 * 3 * one
    parallel = randomise(attach(t5(), ParallelAdapter(bottleneck=3)))
    assert count_parameters(parallel).trainable == 5 * one
    ids = torch.arange(12).reshape(2, 6) + 5
    parallel(input_ids=ids, labels=ids).loss.backward()
    assert all(p.grad.abs().sum() > 0 for p in trained_parameters(parallel).values())
    written = parallel.generate(ids, max_new_tokens=4, do_sample=False, use_cache=False)
    assert written.shape[0] == 2


@pytest.mark.parametrize("shape", ["llama-3.2-1b", "bert-base"])
@pytest.mark.parametrize("method", [Houlsby(), Pfeiffer(drop_layers=1), ParallelAdapter(learned_scaling=True)])
@pytest.mark.parametrize("choices", [{}, {"adapters": "bfloat16"}, {"weights": "nf4", "checkpointing": True}])
def test_a_step_can_be_traced_on_meta_tensors(shape, method, choices):
    config, setup = load_shape(shape), Setup(method, **choices)
    assert trace_setup(config, setup, 2, 16, 3).peak > 0
    count = count_parameters(build_on_meta(config, Setup(method), 3))
    d, m = config.hidden_size, method.bottleneck
    assert count.trainable >= (3 - method.drop_layers) * (2 * d * m + m + d)


# ---- what is left alone ----


@bases
@each
def test_everything_frozen_is_unchanged_by_hash(base, method):
    model = base()
    before = fingerprint(model)
    copied = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    attach(model, method)
    own = [name for name in method.trains(base())]
    fit(model, models.task(), steps=3, lr=0.05, progress=False)
    inside = {n: t for n, t in model.state_dict().items() if n.replace(".base.", ".") in copied}
    report = check_frozen(copied, inside, own)
    assert report, report
    detach(model)
    assert fingerprint(model) == before


def test_switching_task_adapters_leaves_the_base_as_it_was():
    model = models.llama()
    before = fingerprint(model)
    answers = {}
    for name, method in {"a": Pfeiffer(bottleneck=3), "b": Houlsby(bottleneck=2), "c": ParallelAdapter()}.items():
        randomise(attach(model, method, name=name))
        answers[name] = models.logits(model)
    for name in ("b", "a", "c", "b"):
        assert torch.equal(models.logits(switch(model, name)), answers[name])
    for name in ("a", "c", "b"):
        detach(model, name)
    assert fingerprint(model) == before


# ---- AdapterDrop ----


@pytest.mark.parametrize("base", [models.llama, models.gpt2], ids=["llama", "gpt2"])
@pytest.mark.parametrize("method", [*SMALL[1:4], LoRA(r=3, alpha=5)], ids=lambda m: type(m).__name__)
def test_all_blocks_dropped_is_the_base_and_none_dropped_is_the_model(base, method):
    model = base()
    plain = models.logits(model)
    tuned = models.logits(randomise(attach(model, method)))
    with adapters_dropped(model, 2):
        assert torch.equal(models.logits(model), plain)
    with adapters_dropped(model, 0):
        assert torch.equal(models.logits(model), tuned)
    with adapters_dropped(model, 1):
        half = models.logits(model)
    assert not torch.allclose(half, plain, atol=1e-3) and not torch.allclose(half, tuned, atol=1e-3)
    assert torch.equal(models.logits(model), tuned)


def test_one_block_dropped_is_one_adapter_at_zero():
    model = randomise(attach(models.llama(), Pfeiffer(bottleneck=3)))
    with adapters_dropped(model, 1):
        dropped = models.logits(model)
    for parameter in adapter_parts(model.model.layers[0])[2:]:
        nn.init.zeros_(parameter)
    assert torch.allclose(models.logits(model), dropped, atol=1e-6)


def test_dropping_comes_back_after_an_error_and_says_what_is_wrong():
    model = randomise(attach(models.llama(), Pfeiffer(bottleneck=3)))
    tuned = models.logits(model)
    with pytest.raises(ZeroDivisionError), adapters_dropped(model, 2):
        raise ZeroDivisionError
    assert torch.equal(models.logits(model), tuned)
    with pytest.raises(ValueError, match="k is 3; this model has 2 blocks"), adapters_dropped(model, 3):
        pass
    with pytest.raises(RuntimeError, match="No method is attached"), adapters_dropped(models.llama(), 1):
        pass
    merged = merge(attach(models.llama(), LoRA()))
    with pytest.raises(RuntimeError, match="is merged into the weights"), adapters_dropped(merged, 1):
        pass


def test_trained_without_the_lowest_block_equals_dropping_it():
    model = attach(models.llama(), Pfeiffer(bottleneck=3, drop_layers=1))
    assert {m.name.split(".")[2] for m in count_parameters(model).modules} == {"1"}
    tuned = models.logits(randomise(model))
    with adapters_dropped(model, 1):
        assert torch.equal(models.logits(model), tuned)


# ---- AdapterFusion ----


def adapters_of(base, n, method=Pfeiffer(bottleneck=3)):  # noqa: B008, it is frozen
    found = []
    for seed in range(n):
        model = attach(base(), method, seed=seed)
        torch.manual_seed(10 + seed)
        for parameter in trained_parameters(model).values():
            nn.init.normal_(parameter, std=0.3)
        found.append((detach(with_head(model)), models.logits(with_head(model))))
    return [adapter for adapter, _ in found]


@bases
@pytest.mark.parametrize(
    "method",
    [Pfeiffer(bottleneck=3), Houlsby(bottleneck=2, train_norms=False), Pfeiffer(bottleneck=3, drop_layers=1)],
    ids=["pfeiffer", "houlsby", "dropped"],
)
def test_one_fused_adapter_is_that_adapter(base, method):
    (adapter,) = adapters_of(base, 1, method)
    alone = models.logits(with_head(attach(base(), adapter)))
    fused = models.logits(with_head(attach(base(), AdapterFusion.over([adapter]))))
    assert torch.allclose(fused, alone, atol=1e-6)


@bases
def test_equal_adapters_fuse_to_one_whatever_the_attention_says(base):
    (adapter,) = adapters_of(base, 1)
    model = attach(base(), AdapterFusion.over([adapter] * 3))
    for name, parameter in trained_parameters(model).items():
        if name.endswith(("query", "key")):
            nn.init.normal_(parameter)
    alone = models.logits(with_head(attach(base(), adapter)))
    assert torch.allclose(models.logits(with_head(model)), alone, atol=1e-5)


def test_fusion_is_the_closed_form():
    layer = FusedLinear(nn.Linear(7, 5), 4, 3, "gelu")
    for tensor in (*layer.parameters(), *layer.buffers()):
        nn.init.normal_(tensor)
    x = torch.randn(6, 7)
    h = layer.base(x).double()
    expected = []
    for row in h:
        z = [
            layer.up[t].double() @ F.gelu(layer.down[t].double() @ row + layer.down_bias[t]) + layer.up_bias[t]
            for t in range(4)
        ]
        scores = torch.stack([(layer.query.double() @ row) @ (layer.key.double() @ update) for update in z])
        s = scores.softmax(0)
        expected.append(row + sum(s[t] * (layer.value.double() @ z[t]) for t in range(4)))
    assert torch.allclose(layer(x).double(), torch.stack(expected), atol=1e-4)


def test_fusion_trains_attention_alone_and_keeps_the_adapters(tmp_path):
    adapters = adapters_of(models.llama, 3)
    model = attach(models.llama(), AdapterFusion.over(adapters))
    assert {name.rpartition(".")[2] for name in trained_parameters(model)} == {"query", "key", "value"}
    frozen = {n: b.clone() for n, b in model.named_buffers() if ".down_proj." in n}
    fit(model, models.task(), steps=3, lr=0.05, progress=False)
    assert len(frozen) == 2 * 4 and all(torch.equal(model.get_buffer(n), b) for n, b in frozen.items())
    tuned = models.logits(model)
    save_adapter(model, tmp_path)
    assert torch.equal(models.logits(load_adapter(models.llama(), tmp_path)), tuned)
    adapter = detach(model)
    assert torch.equal(models.logits(attach(models.llama(), adapter)), tuned)
    assert torch.equal(
        adapter.state["model.layers.0.mlp.down_proj.down"][1],
        adapters[1].state["model.layers.0.mlp.down_proj.adapter.down"],
    )


def test_what_cannot_be_fused():
    (one,) = adapters_of(models.llama, 1)
    (wider,) = adapters_of(models.llama, 1, Pfeiffer(bottleneck=4))
    (lora,) = adapters_of(models.llama, 1, LoRA(r=2))
    (norms,) = adapters_of(models.llama, 1, Houlsby(bottleneck=3))
    (other,) = adapters_of(models.gpt2, 1)
    for adapters, message in [
        ([], "these are none"),
        ([one, lora], "these are Pfeiffer, LoRA"),
        ([one, wider], "must be of one kind and size"),
        ([norms], "use train_norms=False"),
    ]:
        with pytest.raises(ValueError, match=message):
            AdapterFusion.over(adapters)
    model = models.llama()
    before = models.bits(model)
    with pytest.raises(ValueError, match="it was trained on another model"):
        attach(model, AdapterFusion.over([one, other]))
    assert models.same_bits(model, before)


# ---- refusals ----


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Houlsby(bottleneck=0), "bottleneck is 0; the width is a whole number, at least 1."),
        (lambda: Pfeiffer(bottleneck=2.5), "bottleneck is 2.5"),
        (lambda: Pfeiffer(bottleneck=True), "bottleneck is True"),
        (lambda: Pfeiffer(activation="tanh"), "activation is 'tanh'; it can be gelu, relu."),
        (lambda: Houlsby(init="xavier"), "init is 'xavier'; it can be zero, normal."),
        (lambda: Houlsby(drop_layers=-1), "drop_layers is -1"),
        (lambda: ParallelAdapter(scaling=0.0), "scaling is 0.0; it must be above 0"),
        (lambda: AdapterFusion(n_adapters=0), "n_adapters is 0"),
        (lambda: attach(models.llama(), Pfeiffer(drop_layers=2)), "the model has 2 blocks, so no adapter is left"),
        (lambda: attach(nn.Sequential(nn.Linear(2, 2)), Pfeiffer()), "This model has no transformer blocks"),
    ],
)
def test_bad_hyperparameters_and_models_get_one_sentence(make, message):
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


@each
def test_none_of_them_can_be_merged_and_each_says_why(method):
    model = attach(models.llama(), method)
    why = "depends on the input" if isinstance(method, AdapterFusion) else "an activation stands between"
    with pytest.raises(RuntimeError, match=f"cannot be merged: .*{why}"):
        merge(model)


def test_half_precision_bases_keep_float32_adapters():
    for method in SMALL:
        model = attach(models.llama().to(torch.bfloat16), method)
        kept = {p.dtype for n, p in trained_parameters(model).items() if "norm" not in n}
        assert kept == {torch.float32} and models.logits(randomise(model)).dtype == torch.bfloat16


def test_places_are_the_layers_that_write_into_the_residual_stream():
    model = models.bert()
    found = set(Houlsby().replacements(model))
    assert found == {path for block in blocks(model) for path in (block.attention_out, block.ffn_out)}
    ends = {path.split(".", 4)[4] for path in found}
    assert ends == {"attention.output.dense", "output.dense"}
    assert {path.split(".", 4)[4] for path in Pfeiffer().replacements(model)} == {"output.dense"}
