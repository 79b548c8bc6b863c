"""Selective methods against their oracles: papers' counts, peft's numbers, per-sample gradients, closed forms."""

import copy
import math

import models
import pytest
import torch
from peft import LNTuningConfig, PeftModel, ShiraConfig, TaskType, get_peft_model
from peft.tuners.shira.layer import Linear as PeftShira
from torch import nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)
from transformers.pytorch_utils import Conv1D

from peft_lessons import attach, count_parameters, detach, fit, load_adapter, merge, save_adapter, unmerge
from peft_lessons.accounting.library import load_shape
from peft_lessons.accounting.setups import Setup, build_on_meta
from peft_lessons.checks import check_frozen, check_sparse, fingerprint
from peft_lessons.explorers.memory import explore_memory
from peft_lessons.methods import (
    FAR,
    Adapter,
    AttentionTuning,
    BitFit,
    DiffPruning,
    FullFineTuning,
    LoRA,
    NormTuning,
    SparseUpdate,
    TopLayers,
)
from peft_lessons.methods.core import attachment, require_attachment, trained_parameters
from peft_lessons.methods.selective import masks as choose
from peft_lessons.methods.selective.diff_pruning import GAMMA, ZETA, DiffPruningLinear, pruned
from peft_lessons.methods.selective.far import FARLinear
from peft_lessons.methods.selective.sparse import SparseLinear, top_entries
from peft_lessons.methods.targets import blocks, find_targets, norms
from peft_lessons.training import loss_of

pytestmark = pytest.mark.filterwarnings("ignore:.*config file in tests/random", "ignore:Unable to fetch remote file")
bases = pytest.mark.parametrize("base", models.ALL.values(), ids=models.ALL.keys())
CHOICES = ("bad", "so-so", "good")


def t5():
    """Two blocks of encoder and of decoder, d_model 16, feed-forward 40."""
    torch.manual_seed(1)
    config = T5Config(
        vocab_size=300, d_model=16, d_kv=8, d_ff=40, num_layers=2, num_heads=2, decoder_start_token_id=0, pad_token_id=0
    )
    return T5ForConditionalGeneration(config).eval().requires_grad_(False)


def randomise(model):
    """Random numbers in everything trainable, near what is there."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in trained_parameters(model).values():
            parameter.add_(0.3 * torch.randn_like(parameter))


def plain(layer):
    """W as (d_out, d_in), whichever way round the layer keeps it."""
    return layer.weight.T if isinstance(layer, Conv1D) else layer.weight


# ---- weights that are there: layers, attention, biases, norms ----


@pytest.mark.parametrize(("size", "paper"), [("base", 102_912), ("large", 272_384)])
def test_bitfit_has_the_papers_count(size, paper):
    """Ben-Zaken et al. 2021: 0.09 % of BERT-base and 0.08 % of BERT-large; with the pooler, on meta tensors."""
    shape = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
    config = BertConfig(**(shape if size == "large" else {}))
    with torch.device("meta"):
        model = BertModel(config)
    count = count_parameters(attach(model, BitFit()))
    layers, d, f = config.num_hidden_layers, config.hidden_size, config.intermediate_size
    assert count.trainable == count.changed == paper == layers * (7 * d + f) + 2 * d
    assert round(count.share, 4) == {"base": 0.0009, "large": 0.0008}[size]


@bases
def test_bitfit_trains_every_bias_and_nothing_else(base):
    model = base()
    expected = [name for name, _ in model.named_parameters() if name.endswith(".bias")]
    if not expected:
        before = models.bits(model)
        with pytest.raises(ValueError, match="This model has no biases.* Llama and T5 .* NormTuning.*LoRA") as caught:
            attach(model, BitFit())
        assert "\n" not in str(caught.value) and attachment(model) is None and models.same_bits(model, before)
        return
    attach(model, BitFit())
    fit(model, models.task(), steps=1, progress=False)
    assert [name for name in trained_parameters(model) if not name.startswith("classifier.")] == expected


def test_bitfit_on_t5_and_on_a_qwen_whose_queries_keys_and_values_alone_have_biases():
    with pytest.raises(ValueError, match="This model has no biases"):
        attach(t5(), BitFit())
    config = Qwen2Config(
        vocab_size=300, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=40
    )
    trained = trained_parameters(attach(Qwen2ForCausalLM(config), BitFit()))
    assert {name.split("layers.")[1][2:] for name in trained} == {f"self_attn.{x}_proj.bias" for x in "qkv"}


def test_a_heads_bias_is_not_bitfits():
    config = BertConfig(
        vocab_size=300, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=40
    )
    assert not any(
        "classifier" in n for n in trained_parameters(attach(BertForSequenceClassification(config), BitFit()))
    )


@bases
def test_top_layers_are_the_last_blocks_whole(base):
    model = base()
    last = blocks(model)[-1].path
    expected = [name for name, _ in model.named_parameters() if name.startswith(f"{last}.")]
    assert list(trained_parameters(attach(model, TopLayers(1)))) == expected
    both = trained_parameters(attach(base(), TopLayers(2)))
    frozen = {name for name, _ in base().named_parameters()} - both.keys()
    assert frozen and all(
        "emb" in name or "wte" in name or "wpe" in name or "norm" in name or "ln_f" in name for name in frozen
    )
    with pytest.raises(ValueError, match="k is 3; this model has 2 transformer blocks"):
        attach(base(), TopLayers(3))


def test_below_the_top_layers_nothing_is_kept_for_backward():
    model = attach(models.llama(), TopLayers(1))
    seen = []
    for block in model.model.layers:
        block.register_forward_hook(lambda module, inputs, output: seen.append(output.requires_grad))
    model.train()
    model(torch.tensor([[3, 4, 5]]))
    assert seen == [False, True]


@bases
def test_attention_tuning_trains_the_four_projections(base):
    model = attach(base(), AttentionTuning())
    layers = {name.rpartition(".")[0] for name in trained_parameters(model)}
    assert layers == set(find_targets(base(), "attention"))


def test_cross_attention_alone():
    whole, cross = (set(trained_parameters(attach(t5(), AttentionTuning(cross_only=c)))) for c in (False, True))
    assert cross < whole and len(cross) == 2 * 4 and all("EncDecAttention" in name for name in cross)
    assert len(whole) == (2 + 2 + 2) * 4 and not any("bias" in name for name in whole)
    with pytest.raises(ValueError, match=r"has no cross-attention; AttentionTuning\(\) trains its self-attention"):
        attach(models.llama(), AttentionTuning(cross_only=True))


@bases
def test_norm_tuning_trains_all_norms(base):
    model = attach(base(), NormTuning())
    expected = {f"{path}.{name}" for path, norm in norms(base()).items() for name, _ in norm.named_parameters()}
    assert set(trained_parameters(model)) == expected
    assert count_parameters(model).trainable == 16 * (2 * 5 if base is not models.llama else 5)
    with pytest.raises(ValueError, match='No normalisation layer of this model is called "nope"; it has'):
        attach(base(), NormTuning(["nope"]))


@bases
def test_peft_reads_our_norms(base, tmp_path):
    model = attach(base(), NormTuning())
    if base is models.bert:
        model.set_head(CHOICES)
    randomise(model)
    save_adapter(model, tmp_path)
    other = base()
    if base is models.bert:
        other.set_head(CHOICES, seed=9)
    theirs = PeftModel.from_pretrained(other, tmp_path).eval()
    theirs.tokenizer = model.tokenizer
    assert torch.equal(models.logits(theirs), models.logits(model))


@bases
@pytest.mark.parametrize("some", [False, True], ids=["all", "some"])
def test_we_read_pefts_norms(base, some, tmp_path):
    kind = TaskType.SEQ_CLS if base is models.bert else TaskType.CAUSAL_LM
    names = {models.bert: ["LayerNorm"], models.llama: ["input_layernorm", "post_attention_layernorm", "model.norm"]}
    names[models.gpt2] = ["ln_1", "ln_2", "ln_f"]
    targets = r".*\.1\..*(LayerNorm|input_layernorm|ln_1)" if some else names[base]
    other = base()
    if base is models.bert:
        other.set_head(CHOICES, seed=9)
    theirs = get_peft_model(other, LNTuningConfig(target_modules=targets, task_type=kind)).eval()
    torch.manual_seed(4)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "ln_tuning" in name:
                parameter.normal_()
    theirs.save_pretrained(tmp_path)
    mine = load_adapter(base(), tmp_path, choices=CHOICES if base is models.bert else None)
    theirs.tokenizer = mine.tokenizer
    assert torch.equal(models.logits(theirs), models.logits(mine))


# ---- sparse updates ----


def shira(base, index):
    """peft's SHiRA with this mask, as a module with `values`."""
    d_in, d_out = (base.in_features, base.out_features) if isinstance(base, nn.Linear) else base.weight.shape
    mask = torch.zeros(d_out * d_in).index_fill(0, index.sort().values, 1).view(d_out, d_in)
    with torch.no_grad():
        theirs = PeftShira(base, mask, "default", ShiraConfig(r=1), r=1)
    return theirs


@pytest.mark.parametrize("shape", [(5, 7), (11, 3)], ids=["wide", "tall"])
def test_a_sparse_layer_is_pefts_shira_with_the_same_mask(shape):
    d_out, d_in = shape
    torch.manual_seed(0)
    base, index = nn.Linear(d_in, d_out), torch.randperm(d_out * d_in)[: d_out + d_in].sort().values
    ours, theirs = SparseLinear(base, index), shira(copy.deepcopy(base), index)
    nn.init.normal_(ours.values)
    theirs.shira_weight["default"].data = ours.values.data.clone()
    x = torch.randn(3, d_in)
    assert torch.allclose(ours(x), theirs(x), atol=1e-6)
    assert torch.allclose(ours.delta(), theirs.get_delta_weight("default").to_dense())
    for module in (ours, theirs):
        module(x).square().sum().backward()
    assert torch.allclose(ours.values.grad, theirs.shira_weight["default"].grad, atol=1e-5)
    theirs.merge()
    assert torch.allclose(ours.merge().weight, theirs.base_layer.weight)


def test_the_package_passes_its_check():
    report = check_sparse(SparseLinear)
    assert report, report
    assert len(report.checks) == 18 and "9 of 9 equal" in str(report)
    assert check_sparse(SparseLinear, d_in=3, d_out=11, k=5)


class Transposed(SparseLinear):
    def delta(self):
        flat = self.values.new_zeros(self.d_out * self.d_in).index_add(0, self.index, self.values)
        return flat.view(self.d_in, self.d_out).T


class DenseInDisguise(SparseLinear):
    """Trains a whole matrix, and masks its output only."""

    def __init__(self, base, index):
        super().__init__(base, index)
        self.dense = nn.Parameter(torch.zeros(self.d_out, self.d_in))


class Random(SparseLinear):
    def __init__(self, base, index):
        super().__init__(base, index)
        nn.init.normal_(self.values)


class Detached(SparseLinear):
    def forward(self, x):
        return self.base(x) + x.detach() @ self.delta().T


class Overwrites(SparseLinear):
    """Puts the values in the place of W's entries instead of adding them."""

    def merge(self):
        self._unmerged = (self.base.weight.detach().clone(), None)
        W = self.base.weight.data.T.contiguous() if self.transposed else self.base.weight.data.clone()
        W.view(-1)[self.index.long()] = self.values.data
        self.base.weight.data = W.T if self.transposed else W
        return self.base


class DriftsWhenMerging(SparseLinear):
    def merge(self):
        layer = super().merge()
        layer.weight.data *= 1 + 1e-6
        return layer


MUTANTS = {
    Transposed: "counted down the columns",
    DenseInDisguise: "only the 6 values train",
    Random: "values start at 0",
    Detached: "gradient of the input",
    Overwrites: "merging adds the values",
    DriftsWhenMerging: "an entry outside the mask moved",
}


@pytest.mark.parametrize(("wrong", "message"), MUTANTS.items(), ids=[m.__name__ for m in MUTANTS])
def test_every_mistake_in_a_sparse_update_is_named(wrong, message):
    report = check_sparse(wrong)
    assert not report and message in str(report)


@bases
def test_masks_come_as_positions_or_as_truths(base):
    layers = find_targets(base(), "attention")
    truths = {path: torch.rand(plain(layer).shape) < 0.2 for path, layer in layers.items()}
    places = {path: truth.flatten().nonzero().flatten() for path, truth in truths.items()}
    one, other = (attach(base(), SparseUpdate(masks=masks)) for masks in (truths, places))
    for model in (one, other):
        if base is models.bert:
            model.set_head(CHOICES)
        randomise(model)
    assert torch.equal(models.logits(one), models.logits(other))
    count = count_parameters(one)
    assert count.trainable == count.changed == sum(int(truth.sum()) for truth in truths.values())


def test_random_masks_depend_on_the_seed_alone_and_keep_their_share():
    def index(seed, keep=0.1):
        return {
            p: m.index.clone()
            for p, m in attachment(attach(models.bert(), SparseUpdate(keep), seed=seed)).wrapped().items()
        }

    first, again, other = index(0), index(0), index(1)
    assert all(torch.equal(first[p], again[p]) for p in first) and any(
        not torch.equal(first[p], other[p]) for p in first
    )
    for path, layer in find_targets(models.bert(), "all-linear").items():
        assert len(first[path].unique()) == round(0.1 * layer.weight.numel())
        assert len(index(0, keep=1)[path]) == layer.weight.numel()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = choose.random_masks(models.bert(), 0.1, seed=3)
        assert torch.randint(99, ()) == (torch.manual_seed(0) and torch.randint(99, ()))
    assert {p: len(i) for p, i in drawn.items()} == {p: len(i) for p, i in first.items()}


LAYER = "bert.encoder.layer.0.attention.self.query"
BAD_MASKS = {
    "empty": ({}, "masks is empty"),
    "unknown": ({"nope": torch.tensor([0])}, 'called "nope"'),
    "no entry": ({LAYER: torch.tensor([], dtype=torch.int64)}, "must be positions, whole numbers"),
    "floats": ({LAYER: torch.tensor([1.5])}, "must be positions, whole numbers"),
    "outside": ({LAYER: torch.tensor([256])}, "needs different positions, from 0 to 255"),
    "twice": ({LAYER: torch.tensor([3, 3])}, "needs different positions"),
    "shape": ({LAYER: torch.ones(4, 4, dtype=torch.bool)}, r"is \(4, 4\); its weight is \(16, 16\)"),
}


@pytest.mark.parametrize(("masks", "message"), BAD_MASKS.values(), ids=BAD_MASKS.keys())
def test_bad_masks_get_one_sentence_and_leave_the_model_untouched(masks, message):
    model = models.bert()
    before = models.bits(model)
    with pytest.raises(ValueError, match=message) as caught:
        attach(model, SparseUpdate(masks=masks))
    assert "\n" not in str(caught.value) and models.same_bits(model, before) and attachment(model) is None


@pytest.mark.parametrize("share", [0, -0.1, 1.5, float("nan")])
def test_no_share(share):
    model, task = models.bert(), models.task()
    calls = [
        lambda: SparseUpdate(share),
        lambda: FAR(share),
        lambda: choose.random_masks(model, share),
        lambda: choose.magnitude_masks(model, share),
        lambda: choose.fisher_masks(model, task, share),
        lambda: choose.lottery_masks(model, task, share),
        lambda: choose.learner_nodes(model, task, share),
        lambda: pruned(attach(models.bert(), DiffPruning()), share),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="above 0 and at most 1"):
            call()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TopLayers(0), "k is 0; it is a number of blocks"),
        (lambda: TopLayers(True), "k is True"),
        (lambda: TopLayers(1.5), "k is 1.5"),
        (lambda: DiffPruning(sparsity_penalty=-1), "sparsity_penalty is -1; it must be at least 0"),
        (lambda: DiffPruning(alpha_rate=0), "alpha_rate is 0; it must be above 0"),
        (lambda: FAR(nodes={}), "nodes is empty"),
        (lambda: top_entries({}, 0.1), "no scores to choose from"),
        (lambda: choose.fisher_masks(models.bert(), models.task(), n_samples=0), "n_samples is 0"),
        (lambda: choose.lottery_masks(models.bert(), models.task(), steps=0), "steps is 0"),
    ],
)
def test_bad_hyperparameters(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# ---- how masks are chosen ----


def scores_of_mask(masks, scores):
    """The lowest score inside a mask and the highest outside it."""
    inside = torch.cat([scores[p].flatten()[i] for p, i in masks.items()])
    out = []
    for path, matrix in scores.items():
        flat = matrix.flatten().clone()
        flat[masks.get(path, torch.tensor([], dtype=torch.int64))] = -1
        out.append(flat)
    return inside.min(), torch.cat(out).max(), len(inside)


@bases
def test_magnitude_masks_keep_the_largest_weights_of_all_matrices_together(base):
    model = base()
    scores = {path: plain(layer).abs() for path, layer in find_targets(model, "all-linear").items()}
    lowest, highest, n = scores_of_mask(choose.magnitude_masks(model, 0.03), scores)
    assert lowest >= highest and n == round(0.03 * sum(m.numel() for m in scores.values()))


def fisher_by_hand(base, task, n_samples, seed):
    """A loop over sentences with one plain backward pass each; and, for the mutant, one for the batch."""
    model = base()
    if base is models.bert:
        model.set_head(task.choices, seed)
    layers = find_targets(model, "all-linear")
    model.requires_grad_(True)
    order = torch.randperm(len(task.train), generator=torch.Generator().manual_seed(seed))[:n_samples].tolist()
    squares, sums = ({path: torch.zeros(plain(layer).shape) for path, layer in layers.items()} for _ in range(2))
    for row in order:
        model.zero_grad()
        loss_of(model, task, task.train[[row]]).backward()
        for path, layer in layers.items():
            gradient = layer.weight.grad.T if isinstance(layer, Conv1D) else layer.weight.grad
            squares[path] += gradient.square() / n_samples
            sums[path] += gradient / n_samples
    return squares, {path: mean.square() for path, mean in sums.items()}


@bases
def test_fisher_is_the_mean_of_squared_per_sample_gradients(base):
    model, task = base(), models.task()
    before, flags = models.bits(model), {n: p.requires_grad for n, p in model.named_parameters()}
    found = choose.fisher(model, task, n_samples=6, seed=2)
    assert models.same_bits(model, before) and flags == {n: p.requires_grad for n, p in model.named_parameters()}
    assert getattr(model, "choices", None) is None
    right, of_the_batch = fisher_by_hand(base, task, 6, 2)
    assert found.keys() == right.keys()
    scale = max(float(m.max()) for m in right.values())
    assert max(float((found[p] - right[p]).abs().max()) for p in right) < 1e-6 * scale
    assert max(float((found[p] - of_the_batch[p]).abs().max()) for p in right) > 1e-2 * scale
    lowest, highest, n = scores_of_mask(choose.fisher_masks(model, task, 0.03, n_samples=6, seed=2), right)
    assert lowest >= highest * (1 - 1e-5) and n == round(0.03 * sum(m.numel() for m in right.values()))


@bases
def test_lottery_masks_are_what_full_fine_tuning_moves_most_and_the_model_is_rewound(base):
    model, task = base(), models.task()
    before = models.bits(model)
    masks = choose.lottery_masks(model, task, 0.03, steps=3, lr=1e-3, seed=1)
    assert models.same_bits(model, before) and attachment(model) is None
    other = attach(base(), FullFineTuning())
    fit(other, task, 3, lr=1e-3, seed=1, progress=False)
    old, new = find_targets(base(), "all-linear"), find_targets(other, "all-linear")
    moved = {path: (plain(new[path]) - plain(old[path])).abs().detach() for path in old}
    lowest, highest, n = scores_of_mask(masks, moved)
    assert lowest >= highest and n == round(0.03 * sum(m.numel() for m in moved.values()))


@bases
def test_learner_nodes_are_the_rows_that_full_fine_tuning_moves_most(base):
    model, task = base(), models.task()
    before = models.bits(model)
    nodes = choose.learner_nodes(model, task, 0.2, steps=3, lr=1e-3, seed=1)
    assert models.same_bits(model, before)
    other = attach(base(), FullFineTuning())
    fit(other, task, 3, lr=1e-3, seed=1, progress=False)
    assert set(nodes) == {path for block in blocks(base()) for path in block.ffn}
    for path, chosen in nodes.items():
        old, new = base().get_submodule(path), other.get_submodule(path)
        far = (plain(new) - plain(old)).abs().sum(1)
        if old.bias is not None:
            far = far + (new.bias - old.bias).abs()
        rest = torch.ones(len(far), dtype=torch.bool)
        rest[chosen] = False
        assert far[chosen].min() >= far[rest].max() and len(chosen) == round(0.2 * len(far))


@bases
def test_choosing_needs_the_plain_base(base):
    model, task = base(), models.task()
    attach(model, LoRA(), name="other")
    for choice in (choose.fisher_masks, choose.lottery_masks, choose.learner_nodes):
        with pytest.raises(RuntimeError, match="chosen on the plain base"):
            choice(model, task)


def test_an_interrupted_or_failed_choice_leaves_the_model_as_it_was():
    model, task = models.bert(), models.task()
    before = models.bits(model)
    wrong = type(task)("wrong", task.train, task.test, task.test, ("fine",))
    for choice in (choose.fisher_masks, choose.lottery_masks, choose.learner_nodes):
        with pytest.raises(ValueError, match="is not among the answers"):
            choice(model, wrong)
        assert models.same_bits(model, before) and attachment(model) is None and model.choices is None
        assert not any(p.requires_grad for p in model.parameters())


# ---- diff pruning ----


def expected_gate(log_alpha):
    """E[z] in closed form: the integral of P(z > c) over c in (0, 1), by substitution of the stretched gate."""
    a = math.exp(log_alpha)
    low, high = ((c - GAMMA) / (ZETA - GAMMA) for c in (0, 1))
    if abs(a - 1) < 1e-6:
        integral = (high - low) - (high**2 - low**2) / 2
    else:

        def antiderivative(t):  # of a (1 - t) / (t + a (1 - t))
            return -a * t / (1 - a) + a / (1 - a) ** 2 * math.log(a + (1 - a) * t)

        integral = antiderivative(high) - antiderivative(low)
    return (ZETA - GAMMA) * integral


@pytest.mark.parametrize("log_alpha", [-3.0, -0.7, 0.0, 1.2, 5.0])
def test_the_gate_is_hard_concrete(log_alpha):
    """Closed forms of P(z ≠ 0) and E[z], the latter also integrated numerically, against a million draws."""
    layer = DiffPruningLinear(nn.Linear(1000, 1000), 0.0, log_alpha).train()
    torch.manual_seed(0)
    z = layer.gate().detach().double()
    assert z.min() >= 0 and z.max() <= 1
    open_ = layer.open()[0, 0].item()
    assert abs((z != 0).double().mean().item() - open_) < 2e-3
    assert abs(open_ - torch.sigmoid(torch.tensor(log_alpha)).item()) < 1e-6, "γ = -ζ: the logarithm is zero"
    c = torch.linspace(0, 1, 200_001).double()
    larger = torch.sigmoid(log_alpha - torch.logit((c - GAMMA) / (ZETA - GAMMA)))
    assert abs(torch.trapezoid(larger, c).item() - expected_gate(log_alpha)) < 1e-6
    assert abs(z.mean().item() - expected_gate(log_alpha)) < 2e-3
    one = torch.sigmoid(torch.tensor(log_alpha - math.log((1 - GAMMA) / (ZETA - 1)))).item()
    assert abs((z == 1).double().mean().item() - one) < 2e-3, "the gate is exactly open as often as it should be"


class NeverShut(DiffPruningLinear):
    """Concrete and not hard: not stretched, so never exactly 0."""

    def gate(self):
        return torch.sigmoid(torch.logit(torch.rand_like(self.log_alpha)) + self.log_alpha)


class NotCutBack(DiffPruningLinear):
    def gate(self):
        s = torch.sigmoid(torch.logit(torch.rand_like(self.log_alpha)) + self.log_alpha)
        return s * (ZETA - GAMMA) + GAMMA


class OneDrawForAll(DiffPruningLinear):
    def gate(self):
        s = torch.sigmoid(torch.logit(torch.rand(1)) + self.log_alpha)
        return (s * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


@pytest.mark.parametrize("wrong", [NeverShut, NotCutBack, OneDrawForAll])
def test_wrong_gates_are_seen(wrong):
    layer = wrong(nn.Linear(1000, 1000), 0.0, -0.7).train()
    torch.manual_seed(1)
    z = layer.gate().detach()
    right = (z != 0).double().mean().item() - layer.open()[0, 0].item(), z.double().mean().item() - expected_gate(-0.7)
    assert max(map(abs, right)) > 0.02


def test_evaluation_is_deterministic_and_training_is_not():
    model = attach(models.llama(), DiffPruning())
    randomise(model)
    assert torch.equal(models.logits(model), models.logits(model))
    layer = next(iter(attachment(model).wrapped().values()))
    stretched = (3 * torch.sigmoid(layer.log_alpha) - 1.5).clamp(0, 1)
    assert torch.allclose(layer.gate(), stretched)
    model.train()
    assert not torch.equal(models.logits(model), models.logits(model))


def test_the_penalty_counts_open_gates_and_shuts_them():
    model = attach(models.llama(), DiffPruning(sparsity_penalty=0.5, alpha_init=1.0, alpha_rate=1))
    layers = attachment(model).wrapped().values()
    n = sum(layer.log_alpha.numel() for layer in layers)
    assert abs(sum(layer.penalty() for layer in layers).item() - 0.5 * n / (1 + math.exp(-1))) < 1e-2
    fit(model, models.task(), steps=20, lr=0.1, progress=False)
    opened = torch.cat([layer.open().flatten() for layer in attachment(model).wrapped().values()]).mean()
    assert opened < 0.6
    free = attach(models.llama(), DiffPruning(sparsity_penalty=0.0, alpha_init=1.0, alpha_rate=1))
    fit(free, models.task(), steps=20, lr=0.1, progress=False)
    assert torch.cat([layer.open().flatten() for layer in attachment(free).wrapped().values()]).mean() > opened


@bases
def test_diff_pruning_trains_twice_its_targets_and_log_alpha_has_its_own_rate(base):
    model = base()
    n = sum(layer.weight.numel() for layer in find_targets(model, "all-linear").values())
    method = DiffPruning(alpha_rate=50)
    count = count_parameters(attach(model, method))
    assert count.trainable == 2 * n and count.changed == n
    assert {method.lr_scale(name) for name in trained_parameters(model)} == {1.0, 50}
    before = {name: p.clone() for name, p in trained_parameters(model).items()}
    fit(model, models.task(), steps=2, lr=1e-3, progress=False)
    steps = {"w": 0.0, "log_alpha": 0.0}
    for name, parameter in trained_parameters(model).items():
        if not name.startswith("classifier."):
            kind = name.rpartition(".")[2]
            steps[kind] = max(steps[kind], (parameter - before[name]).abs().max().item())
    assert steps["w"] < 2e-3 < 0.01 < steps["log_alpha"] < 0.1, "Adam's first steps are of the size of the rate"


@bases
def test_pruned_keeps_the_largest_differences_and_the_head(base):
    model = attach(base(), DiffPruning(alpha_rate=1))
    fit(model, models.task(), steps=2, progress=False)
    randomise(model)
    before, logits = base().state_dict(), models.logits(model)
    deltas = {path: layer.delta().detach() for path, layer in attachment(model).wrapped().items()}
    adapter = pruned(model, keep=0.1)
    assert isinstance(adapter, Adapter) and attachment(model) is None and models.same_bits(model, before)
    lowest, highest, n = scores_of_mask(adapter.method.masks, {p: d.abs() for p, d in deltas.items()})
    assert lowest >= highest and n == round(0.1 * sum(d.numel() for d in deltas.values()))
    attach(model, adapter)
    for path, layer in attachment(model).wrapped().items():
        inside = layer.delta() != 0
        assert torch.equal(layer.delta()[inside], deltas[path][inside]) and int(inside.sum()) == len(layer.values)
    assert getattr(model, "choices", None) == (models.task().choices if base is models.bert else None)
    assert fit(model, models.task(), steps=1, progress=False).losses
    whole = attach(base(), DiffPruning(alpha_rate=1))
    fit(whole, models.task(), steps=2, progress=False)
    randomise(whole)
    attach(whole, pruned(whole, keep=1))
    assert torch.allclose(models.logits(whole), logits, atol=1e-5), "with everything kept it is the same function"


def test_pruned_takes_diff_pruning_alone():
    for model in (models.llama(), attach(models.llama(), LoRA())):
        with pytest.raises(RuntimeError, match="pruned takes a model with DiffPruning attached"):
            pruned(model)


# ---- FAR ----


@pytest.mark.parametrize("kind", ["Linear", "no bias", "Conv1D"])
def test_far_is_the_dense_layer_split_by_rows(kind):
    torch.manual_seed(0)
    base = Conv1D(5, 7) if kind == "Conv1D" else nn.Linear(7, 5, bias=kind == "Linear")
    nodes, x = torch.tensor([1, 4]), torch.randn(3, 7)
    W, y = plain(base).detach().clone(), base(x).detach()
    bias = None if base.bias is None else base.bias.detach().clone()
    layer = FARLinear(base, nodes)
    assert torch.equal(layer.learner, W[nodes]) and torch.allclose(layer(x), y, atol=1e-6)
    with torch.no_grad():
        for parameter in layer.parameters():
            if parameter.requires_grad:
                parameter.normal_()
    new_W, new_b = W.clone(), None if bias is None else bias.clone()
    new_W[nodes] = layer.learner.detach()
    if bias is not None:
        new_b[nodes] = layer.learner_bias.detach()
    dense = nn.functional.linear(x, new_W, new_b)
    assert torch.allclose(layer(x), dense, atol=1e-6)
    assert torch.equal(layer(x)[:, [0, 2, 3]], base(x)[:, [0, 2, 3]]), "frozen nodes are the base's, bit for bit"
    assert layer.changed() == 2 * (7 + (bias is not None)) and layer.rank() == 2
    merged = layer.merge()
    assert torch.allclose(merged(x), dense, atol=1e-6)
    layer.unmerge()
    assert torch.equal(plain(base), W) and (bias is None or torch.equal(base.bias, bias))


def test_far_refuses_nodes_that_are_not_there():
    path = blocks(models.bert())[0].ffn_out
    for nodes in (torch.tensor([16]), torch.tensor([-1]), torch.tensor([], dtype=torch.int64)):
        with pytest.raises(ValueError, match="must be numbers from 0 to 15, at least one"):
            attach(models.bert(), FAR(nodes={path: nodes}))
    assert list(attachment(attach(models.bert(), FAR(nodes={path: torch.tensor([3])}))).added) == [path]


# ---- what moves and what does not ----

EVERY = {
    "top layers": (TopLayers(1), 1e-3),
    "attention": (AttentionTuning(), 1e-3),
    "biases": (BitFit(), 1e-2),
    "norms": (NormTuning(), 1e-2),
    "sparse": (SparseUpdate(0.1), 1e-2),
    "diff pruning": (DiffPruning(alpha_rate=1), 1e-3),
    "far": (FAR(0.2), 1e-3),
}


@bases
@pytest.mark.parametrize(("method", "lr"), EVERY.values(), ids=EVERY.keys())
@pytest.mark.parametrize("weight_decay", [0.0, 0.5], ids=["", "decay"])
def test_what_is_frozen_is_unchanged_by_hash_after_training(base, method, lr, weight_decay):
    if isinstance(method, BitFit) and base is models.llama:
        pytest.skip("a Llama has no biases")
    model, before = base(), base()
    attach(model, method)
    fit(model, models.task(), steps=3, lr=lr, weight_decay=weight_decay, progress=False)
    report = check_frozen(before, model, list(require_attachment(model).originals))
    assert report, report
    detach(model)
    assert fingerprint(model) == fingerprint(before)


@bases
@pytest.mark.parametrize("method", [SparseUpdate(0.1), FAR(0.2)], ids=["sparse", "far"])
def test_merged_the_mask_moved_and_no_entry_beside_it(base, method):
    model, before = base(), base()
    attach(model, method)
    fit(model, models.task(), steps=3, lr=1e-2, weight_decay=0.5, progress=False)
    allowed = {}
    for path, layer in attachment(model).wrapped().items():
        mask = torch.zeros(layer.d_out, layer.d_in, dtype=torch.bool)
        if isinstance(method, FAR):
            mask[layer.nodes] = True
            if layer.bias is not None:
                allowed[f"{path}.bias"] = mask[:, 0]
        else:
            mask.view(-1)[layer.index.long()] = True
        allowed[f"{path}.weight"] = mask.T if layer.transposed else mask
    apart = models.logits(model)
    merge(model)
    report = check_frozen(before, model, allowed)
    assert report, report
    assert torch.allclose(models.logits(model), apart, atol=1e-4)
    unmerge(model)
    assert torch.equal(models.logits(model), apart)
    detach(model)
    assert fingerprint(model) == fingerprint(before)


def test_the_check_finds_every_kind_of_drift():
    before = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    allowed = ["0.bias", "1.bias"]

    def after(change):
        model = copy.deepcopy(before)
        with torch.no_grad():
            model[0].bias += 1
            model[1].bias += 1
            change(model)
        return model

    assert check_frozen(before, after(lambda m: None), allowed)
    assert check_frozen(before.state_dict(), after(lambda m: None).state_dict(), dict.fromkeys(allowed))
    one_entry = torch.zeros(4, 3, dtype=torch.bool)
    one_entry[2, 1] = True
    mutants = {
        "1.weight moved, and should be frozen.": lambda m: m[1].weight.view(-1)[0].mul_(1 + 1e-6),
        "0.weight moved, and should be frozen, and 1 more.": lambda m: [x.weight.mul_(0.99) for x in m],
        "0.bias did not move, and should.": lambda m: m[0].bias.copy_(before[0].bias),
        "1.weight is gone, or has another shape.": lambda m: delattr(m[1], "weight"),
        "1.bias is gone, or has another shape.": lambda m: setattr(m[1], "bias", nn.Parameter(torch.zeros(3))),
    }
    for message, change in mutants.items():
        report = check_frozen(before, after(change), allowed)
        assert not report and message in str(report), report
        assert sum(not check.passed for check in report.checks) == 1
    masked = {"0.weight": one_entry} | dict.fromkeys(allowed)
    assert check_frozen(before, after(lambda m: m[0].weight[2, 1].add_(1)), masked)
    report = check_frozen(before, after(lambda m: m[0].weight[2].add_(1)), masked)
    assert "0.weight moved in an entry that its mask leaves out." in str(report)
    with pytest.raises(KeyError, match=r"2.weight is no weight of this model"):
        check_frozen(before, before, ["2.weight"])


def test_the_check_sees_bits_in_every_type():
    for dtype in (torch.float32, torch.bfloat16, torch.int64, torch.bool):
        tensor = torch.ones(3, 2, dtype=dtype)
        other = tensor.clone()
        other[0, 0] = 0
        assert fingerprint({"a": tensor}) == fingerprint({"a": tensor.clone()}) != fingerprint({"a": other})
        assert not check_frozen({"a": tensor}, {"a": other}, [])
    assert fingerprint({"a": torch.tensor(1.5)}) and fingerprint({"a": torch.ones(3, 2).T})


# ---- on meta tensors, at the sizes of real models ----


@pytest.mark.parametrize("name", ["bert-base", "llama-3.2-1b", "gpt2", "t5-base"])
@pytest.mark.parametrize(("method", "lr"), EVERY.values(), ids=EVERY.keys())
def test_counts_on_real_shapes_without_memory(name, method, lr):
    config = load_shape(name)
    if isinstance(method, BitFit) and name in ("llama-3.2-1b", "t5-base"):
        with pytest.raises(ValueError, match="has no biases"):
            build_on_meta(config, Setup(method))
        return
    count = count_parameters(build_on_meta(config, Setup(method)))
    assert 0 < count.changed and 0 < count.trainable < 2.1 * count.n_total
    if isinstance(method, NormTuning) and name == "llama-3.2-1b":
        assert count.trainable == (2 * 16 + 1) * 2048
    if isinstance(method, SparseUpdate):
        assert abs(count.changed / sum(m.shape[0] * m.shape[1] for m in count.modules) - 0.1) < 1e-3
    if isinstance(method, BitFit) and name == "bert-base":
        assert count.trainable == 102_912 - 768, "the shape comes without its pooler, whose bias has 768 numbers"


def test_the_memory_explorer_offers_each_with_its_hyperparameters():
    """Masks and nodes have no control: the explorer draws them at random, and their number is what counts."""
    shown = explore_memory(model="gpt2", length=256)
    for method in ("TopLayers", "AttentionTuning", "BitFit", "NormTuning", "SparseUpdate", "FAR", "DiffPruning"):
        shown.choose(model="gpt2", method=method)
        assert not shown.problem, shown.problem
    assert "SparseUpdate_keep" in shown.controls and "SparseUpdate_masks" not in shown.controls
    assert "FAR_share" in shown.controls and "FAR_nodes" not in shown.controls
