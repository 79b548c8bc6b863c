"""Intrinsic dimension, KronA, PHM adapters and Compacter against their oracles.

Oracles: scipy's Hadamard matrix, the explicit matrix product of Fastfood, peft's LoKr, rank(A ⊗ B) = rank A · rank B,
and the counts of Compacter's paper for T5-base.
"""

import copy
import json
import warnings

import models
import pytest
import torch
from peft import LoKrConfig, PeftModel, get_peft_model
from peft.tuners.lokr.layer import Linear as PeftLoKr
from peft.tuners.lokr.layer import factorization
from safetensors.torch import load_file
from scipy.linalg import hadamard as scipy_hadamard
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import BertConfig, BertModel, T5Config, T5ForConditionalGeneration

from peft_lessons import attach, count_parameters, fit, load_adapter, merge, save_adapter
from peft_lessons.bases import TextClassifier
from peft_lessons.checks import check_kronecker
from peft_lessons.methods import Compacter, IntrinsicDimension, KronA, PHMAdapter
from peft_lessons.methods.attaching import switch
from peft_lessons.methods.core import adapter_tensors, penalty, trained_parameters
from peft_lessons.methods.files import CONFIG, WEIGHTS
from peft_lessons.methods.reparameterized.intrinsic import ProjectedLinear, fastfood, fwht, hadamard
from peft_lessons.methods.reparameterized.kronecker import KronALinear, factorize
from peft_lessons.methods.reparameterized.phm import PHM, PHMAdapterLinear

pytestmark = pytest.mark.filterwarnings("ignore:.*config file in tests/random", "ignore:Unable to fetch remote file")
H64 = hadamard(64)
bases = pytest.mark.parametrize("base", models.ALL.values(), ids=models.ALL.keys())


def randomise(model):
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in trained_parameters(model).values():
            parameter.normal_(std=0.3)
    return model


# ---- Fastfood ----


@pytest.mark.parametrize("n", [1, 2, 4, 32, 64, 128, 512, 4096, 8192])
def test_the_fast_transform_is_scipys_hadamard_matrix(n):
    x = torch.randn(2, 3, n, dtype=torch.float64)
    H, H64 = torch.tensor(scipy_hadamard(n), dtype=torch.float64), hadamard(64).double()
    assert torch.allclose(fwht(x, H64), x @ H.T, atol=1e-9)
    assert torch.allclose(fwht(fwht(x, H64), H64), n * x, atol=1e-8), "H H = n I"
    if n <= 512:
        assert torch.equal(hadamard(n).double(), H)


@pytest.mark.parametrize("n", [0, 3, 12])
def test_a_hadamard_matrix_has_a_power_of_two_of_rows(n):
    with pytest.raises(ValueError, match=f"n is {n}; "):
        hadamard(n)


def explicit_projection(layer: ProjectedLinear) -> torch.Tensor:
    """P as a dense (d_out · d_in, d) matrix, from H, G, Π and B written out."""
    blocks, n = layer.signs.shape
    H = torch.tensor(scipy_hadamard(n), dtype=torch.float64)
    rows = []
    for k in range(blocks):
        G, B = layer.gauss[k].double().diag(), layer.signs[k].double().diag()
        permutation = torch.eye(n, dtype=torch.float64)[layer.order.view(blocks, n)[k].long() - k * n]
        rows.append(H @ G @ permutation @ H @ B)
    size = layer.d_out * layer.d_in
    return torch.cat(rows)[:size, : len(layer.theta)] / (n * size) ** 0.5


def projected(d, d_in=7, d_out=5, scale=None, seed=0):
    theta = nn.Parameter(torch.randn(d))
    scale = None if scale is None else nn.Parameter(torch.tensor([scale]))
    return ProjectedLinear(nn.Linear(d_in, d_out), theta, scale, H64, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("d", [1, 2, 3, 8, 20, 100])
def test_fastfood_is_the_explicit_matrix_product(d):
    layer = projected(d, scale=1.7)
    expected = 1.7 * (explicit_projection(layer) @ layer.theta.double()).view(5, 7)
    assert torch.allclose(layer.delta().double(), expected, atol=1e-5)
    (layer.delta() * torch.arange(35.0).view(5, 7)).sum().backward()
    gradient = 1.7 * explicit_projection(layer).T @ torch.arange(35.0).double()
    assert torch.allclose(layer.theta.grad.double(), gradient, atol=1e-4), "the gradient goes through Pᵀ"


def test_fastfood_is_linear_and_permutes_within_blocks():
    layer = projected(12)
    parts = layer.signs, layer.order, layer.gauss, H64
    x, y = torch.randn(12), torch.randn(12)
    mixed = fastfood(2 * x - 3 * y, *parts)
    assert torch.allclose(mixed, 2 * fastfood(x, *parts) - 3 * fastfood(y, *parts), atol=1e-3)
    order = layer.order.view(-1, 16)
    assert all(sorted(row.tolist()) == list(range(16 * k, 16 * k + 16)) for k, row in enumerate(order))
    assert set(layer.signs.flatten().tolist()) == {-1, 1}


@pytest.mark.parametrize("d", [3, 64, 1000])
def test_the_projection_keeps_the_norm_on_average(d):
    ratios = [layer.delta().norm() / layer.theta.norm() for layer in (projected(d, 48, 40, seed=s) for s in range(30))]
    assert abs(torch.stack(ratios).square().mean() - 1) < 0.15


def test_an_intrinsic_dimension_is_counted_once_and_has_a_scale_for_each_block():
    model = attach(models.bert(), IntrinsicDimension(d=37))
    count = count_parameters(model)
    assert count.trainable == 37 + 2 and count.rank == 16
    assert count.changed == 2 * (4 * 16 * 16 + 2 * 16 * 40)
    assert len(trained_parameters(model)) == 3
    plain = attach(models.bert(), IntrinsicDimension(d=37, per_layer_scale=False))
    assert count_parameters(plain).trainable == 37


def test_what_stands_outside_of_the_blocks_has_a_scale_of_its_own():
    model = attach(models.llama(tied=False), IntrinsicDimension(d=5, target_modules=["q_proj", "lm_head"]))
    assert count_parameters(model).trainable == 5 + 2 + 1


def test_the_projection_follows_from_its_seed():
    def delta(**fields):
        model = randomise(attach(models.llama(), IntrinsicDimension(d=6, **fields)))
        return model.get_submodule("model.layers.1.mlp.up_proj").delta()

    torch.manual_seed(11)
    first = delta()
    torch.manual_seed(12)
    assert torch.equal(first, delta())
    assert not torch.allclose(first, delta(projection_seed=1), atol=1e-3)


def test_layers_are_projected_each_in_its_own_way():
    model = randomise(attach(models.llama(), IntrinsicDimension(d=6, per_layer_scale=False)))
    one, two = (model.get_submodule(f"model.layers.{i}.mlp.up_proj").delta() for i in (0, 1))
    assert not torch.allclose(one, two, atol=1e-3)


@bases
def test_shared_numbers_survive_copying_saving_merging_and_switching(base, tmp_path):
    model = attach(base(), IntrinsicDimension(d=6), name="a")
    if hasattr(model, "set_head"):
        model.set_head(("good", "bad"))
    randomise(model)
    tuned = models.logits(model)
    other = copy.deepcopy(model)
    assert len(trained_parameters(other)) == len(trained_parameters(model))
    randomise(other)
    assert torch.allclose(models.logits(other), tuned)
    with torch.no_grad():
        next(p for n, p in trained_parameters(other).items() if n.endswith("theta")).zero_()
    assert not torch.allclose(models.logits(other), tuned, atol=1e-3) and torch.equal(models.logits(model), tuned)
    names = set(adapter_tensors(model))
    assert sum(name.endswith("theta") for name in names) == 1
    assert set(adapter_tensors(merge(model))) == names
    save_adapter(model, tmp_path)
    assert len(load_file(tmp_path / WEIGHTS)) == len(names), "theta, the scales and the head; no projection"
    attach(model, KronA(), name="b")
    switch(model, "a")
    assert torch.equal(models.logits(model), tuned)
    assert torch.equal(models.logits(load_adapter(base(), tmp_path)), tuned)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"d": 0}, "d is 0"), ({"d": True}, "d is True"), ({"projection_seed": -1}, "projection_seed is -1")],
)
def test_a_wrong_intrinsic_dimension(arguments, message):
    with pytest.raises(ValueError, match=message):
        IntrinsicDimension(**arguments)


# Wrong versions of Fastfood, each of which an oracle above must tell from the right one.


def no_permutation(theta, signs, order, gauss, H):
    return fwht(fwht(nn.functional.pad(theta, (0, signs.shape[-1] - len(theta))) * signs, H) * gauss, H).flatten()


def no_signs(theta, signs, order, gauss, H):
    return fastfood(theta, torch.ones_like(signs), order, gauss, H)


def no_second_transform(theta, signs, order, gauss, H):
    z = fwht(nn.functional.pad(theta, (0, signs.shape[-1] - len(theta))) * signs, H)
    return (z.flatten()[order].view_as(z) * gauss).flatten()


def inverse_permutation(theta, signs, order, gauss, H):
    return fastfood(theta, signs, order.argsort(), gauss, H)


def one_block_for_all(theta, signs, order, gauss, H):
    n = signs.shape[-1]
    return fastfood(theta, signs[:1], order[:n], gauss[:1], H).repeat(len(signs))


WRONG = [no_permutation, no_signs, no_second_transform, inverse_permutation, one_block_for_all]


@pytest.mark.parametrize("wrong", WRONG, ids=lambda function: function.__name__)
def test_wrong_projections_are_told_from_the_right_one(wrong):
    layer = projected(12)
    expected = explicit_projection(layer) @ layer.theta.double() / layer.norm
    parts = layer.theta, layer.signs, layer.order, layer.gauss, H64
    found = [function(*parts)[:35].double() for function in (fastfood, wrong)]
    assert torch.allclose(found[0], expected, atol=1e-3)
    assert not torch.allclose(found[1], expected, atol=1e-1)


# ---- KronA ----


def test_the_sides_are_those_of_peft():
    for size in range(1, 400):
        for factor in (-1, *range(1, 40), 64, 1000):
            assert factorize(size, factor) == factorization(size, factor), (size, factor)


@pytest.mark.parametrize(("d_in", "d_out", "factor"), [(12, 20, -1), (7, 6, -1), (24, 16, 4), (24, 36, 8)])
def test_krona_is_pefts_lokr(d_in, d_out, factor):
    base = nn.Linear(d_in, d_out)
    ours = KronA(factor, 1.3).wrap(copy.deepcopy(base))
    config = LoKrConfig(r=1000, alpha=1300, decompose_factor=factor, init_weights=False)
    theirs = PeftLoKr(base, "default", config, r=1000, alpha=1300).eval()
    with torch.no_grad():
        ours.kron_A.copy_(theirs.lokr_w1["default"])
        ours.kron_B.copy_(theirs.lokr_w2["default"])
    x = torch.randn(3, 5, d_in)
    assert torch.allclose(ours(x), theirs(x), atol=1e-5) and not torch.allclose(ours(x), base(x), atol=1e-3)
    assert torch.allclose(ours.delta(), theirs.get_delta_weight("default"), atol=1e-6)
    theirs.merge()
    assert torch.allclose(ours.merge().weight, theirs.get_base_layer().weight, atol=1e-6)


def test_krona_starts_as_lokr_does():
    layer = KronA().wrap(nn.Linear(24, 36))
    bound = layer.kron_B.shape[1] ** -0.5  # uniform Kaiming with a = √5, as peft's
    assert not layer.kron_A.any() and 0.8 * bound < layer.kron_B.abs().max() <= bound


@pytest.mark.parametrize(("rank_a", "rank_b"), [(1, 1), (2, 3), (3, 2), (4, 5)])
def test_the_rank_of_a_kronecker_product_is_the_product_of_ranks(rank_a, rank_b):
    layer = KronALinear(nn.Linear(30, 24), (4, 6))  # A (4, 6), B (6, 5)
    with torch.no_grad():
        layer.kron_A.copy_(torch.randn(4, rank_a) @ torch.randn(rank_a, 6))
        layer.kron_B.copy_(torch.randn(6, rank_b) @ torch.randn(rank_b, 5))
    assert torch.linalg.matrix_rank(layer.delta().double(), tol=1e-4) == rank_a * rank_b <= layer.rank() == 20


def test_t5_base_has_the_papers_count_on_queries_and_values():
    model = t5_base()
    attach(model, KronA(target_modules=["q", "v"]))
    assert count_parameters(model).trainable == 115_200, "(24 · 24 + 32 · 32) for each of 72 matrices"


class Largest(TorchDispatchMode):
    """The most numbers that any result has had."""

    def __init__(self):
        super().__init__()
        self.found = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.found = max(self.found, out.numel() if isinstance(out, torch.Tensor) else 0)
        return out


def test_the_product_is_never_built():
    layer = KronALinear(nn.Linear(48, 36), (6, 6))
    layer.base.forward = lambda x: x.new_zeros(2, 36)  # what the base does is not counted
    x = torch.randn(2, 48)
    with Largest() as sizes:
        layer(x).sum().backward()
    assert sizes.found < 36 * 48 / 10
    with Largest() as sizes:
        layer.delta()
    assert sizes.found == 36 * 48


@pytest.mark.parametrize(
    "shape", [{}, {"a_shape": (3, 1), "b_shape": (2, 7)}, {"a_shape": (4, 5), "b_shape": (1, 3), "scale": 0.4}]
)
def test_krona_passes_its_check(shape):
    report = check_kronecker(KronALinear, **shape)
    assert report, report
    assert len(report.checks) == 30


class Swapped(KronALinear):
    def forward(self, x):
        return self.base(x) + self.scale * x @ torch.kron(self.kron_B, self.kron_A).T


class TransposedProduct(KronALinear):
    def forward(self, x):
        X = x.unflatten(-1, (self.kron_B.shape[1], self.kron_A.shape[1])).transpose(-1, -2)
        return self.base(x) + self.scale * (self.kron_A @ (X @ self.kron_B.T)).flatten(-2)


class ReadByColumns(KronALinear):
    def forward(self, x):
        X = x.unflatten(-1, (self.kron_A.shape[1], self.kron_B.shape[1]))
        return self.base(x) + self.scale * (self.kron_A @ (X @ self.kron_B.T)).transpose(-1, -2).flatten(-2)


class ScalesTheBaseToo(KronALinear):  # as the survey's listing
    def forward(self, x):
        return self.scale * (self.base(x) + x @ torch.kron(self.kron_A, self.kron_B).T)


class NoScale(KronALinear):
    def forward(self, x):
        return self.base(x) + x @ torch.kron(self.kron_A, self.kron_B).T


class NoBase(KronALinear):
    def forward(self, x):
        return self.scale * x @ torch.kron(self.kron_A, self.kron_B).T


class ReshapesByColumns(KronALinear):  # the survey's kronecker_vector_prod: the result cut by A's and B's columns
    def forward(self, x):
        X = x.unflatten(-1, (self.kron_A.shape[1], self.kron_B.shape[1]))
        Y = (self.kron_A @ (X @ self.kron_B.T)).flatten(-2)
        Y = nn.functional.pad(Y, (0, max(0, x.shape[-1] - Y.shape[-1])))[..., : x.shape[-1]]
        Y = Y.unflatten(-1, (self.kron_A.shape[1], self.kron_B.shape[1])).transpose(-1, -2).flatten(-2)
        Y = nn.functional.pad(Y, (0, max(0, self.d_out - Y.shape[-1])))[..., : self.d_out]
        return self.base(x) + self.scale * Y


class BothZero(KronALinear):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        nn.init.zeros_(self.kron_B)


class BothRandom(KronALinear):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        nn.init.normal_(self.kron_A)


class Thawed(KronALinear):
    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.base.requires_grad_(True)


class DetachedInput(KronALinear):
    def forward(self, x):
        X = x.detach().unflatten(-1, (self.kron_A.shape[1], self.kron_B.shape[1]))
        return self.base(x) + self.scale * (self.kron_A @ (X @ self.kron_B.T)).flatten(-2)


class MergesSwapped(KronALinear):
    def delta(self):
        return self.scale * torch.kron(self.kron_B, self.kron_A)


class MergesWithoutScale(KronALinear):
    def delta(self):
        return torch.kron(self.kron_A, self.kron_B)


class WrongShape(KronALinear):
    def __init__(self, base, a_shape, scale):
        super().__init__(base, a_shape, scale)
        self.kron_A = nn.Parameter(self.kron_A.data.T)


MUTANTS = {
    Swapped: "the factors are swapped: this is B ⊗ A",
    TransposedProduct: "x is cut into b2 × a2",
    ReadByColumns: "the result is read column by column",
    ReshapesByColumns: "forward",
    ScalesTheBaseToo: "the scale is on W x too",
    NoScale: "not scaled",
    NoBase: "W x is missing",
    BothZero: "neither ever gets a gradient",
    BothRandom: "attaching must change nothing",
    Thawed: "still takes gradients",
    DetachedInput: "gradient of the input",
    MergesSwapped: "what is merged is",
    MergesWithoutScale: "merged weight",
    WrongShape: "the shape should be",
}


@pytest.mark.parametrize("wrong", MUTANTS, ids=lambda kind: kind.__name__)
def test_wrong_kronecker_updates_fail_the_check_and_hear_why(wrong):
    report = check_kronecker(wrong, a_shape=(2, 3), b_shape=(5, 4))
    failed = "\n".join(str(check) for check in report.checks if not check.passed)
    assert not report and MUTANTS[wrong] in failed


def test_the_check_needs_the_factors_by_name():
    with pytest.raises(AttributeError, match="Identity has no parameter kron_A"):
        check_kronecker(lambda base, a_shape, scale: nn.Identity())


@pytest.mark.parametrize("base", [models.bert, models.llama], ids=["bert", "llama"])
@pytest.mark.parametrize("factor", [-1, 2])
def test_peft_reads_our_kronecker_files(base, factor, tmp_path):
    model = attach(base(), KronA(decompose_factor=factor, scale=1.5, target_modules="all-linear"))
    if hasattr(model, "set_head"):
        model.set_head(("good", "bad"))
    save_adapter(randomise(model), tmp_path)
    fresh = base()
    if hasattr(fresh, "set_head"):
        fresh.set_head(("good", "bad"), seed=9)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Unexpected keyword")
        theirs = PeftModel.from_pretrained(fresh, tmp_path).eval()
    theirs.tokenizer = model.tokenizer
    assert (models.logits(theirs) - models.logits(model)).abs().max() < 1e-5


@pytest.mark.parametrize("factor", [-1, 2])
def test_we_read_pefts_lokr_files(factor, tmp_path):
    config = LoKrConfig(
        r=64, alpha=48, decompose_factor=factor, target_modules="all-linear", task_type="CAUSAL_LM", init_weights=False
    )
    theirs = get_peft_model(models.llama(), config).eval()
    theirs.save_pretrained(tmp_path)
    mine = load_adapter(models.llama(), tmp_path)
    theirs.tokenizer = mine.tokenizer
    assert (models.logits(theirs) - models.logits(mine)).abs().max() < 1e-5
    assert not torch.allclose(models.logits(mine), models.logits(models.llama()), atol=1e-3)
    merge(mine)
    assert (models.logits(theirs) - models.logits(mine)).abs().max() < 1e-4


@pytest.mark.parametrize("fields", [{"r": 1}, {"r": 1, "decompose_both": True}])
def test_a_factor_of_low_rank_is_refused(fields, tmp_path):
    config = LoKrConfig(target_modules="all-linear", task_type="CAUSAL_LM", **fields)
    get_peft_model(models.llama(), config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="keeps a factor as a product of two smaller ones") as caught:
        load_adapter(models.llama(), tmp_path)
    assert "\n" not in str(caught.value)


def test_what_krona_does_not_have_is_refused(tmp_path):
    save_adapter(attach(models.llama(), KronA()), tmp_path)
    config = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps(config | {"rank_pattern": {"q_proj": 4}}))
    with pytest.raises(ValueError, match="uses rank_pattern="):
        load_adapter(models.llama(), tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"decompose_factor": 0}, "decompose_factor is 0"),
        ({"decompose_factor": -2}, "decompose_factor is -2"),
        ({"decompose_factor": 2.0}, "decompose_factor is 2.0"),
        ({"scale": 0}, "scale is 0; it must be above 0"),
    ],
)
def test_a_wrong_krona(arguments, message):
    with pytest.raises(ValueError, match=message):
        KronA(**arguments)


# ---- PHM adapters and Compacter ----


def t5_base():
    """The shape of T5-base, without memory."""
    with torch.device("meta"):
        return T5ForConditionalGeneration(T5Config(d_model=768, d_ff=3072, num_layers=12, num_heads=12, d_kv=64))


@pytest.mark.parametrize(
    ("method", "trainable"),
    [
        (Compacter(plus_plus=True), 104_704),
        (Compacter(plus_plus=True, train_norms=False), 57_088),
        (Compacter(), 161_728),
        (Compacter(train_norms=False), 114_112),
    ],
    ids=["++", "++ without norms", "with norms", "without norms"],
)
def test_t5_base_has_the_papers_counts(method, trainable):
    count = count_parameters(attach(t5_base(), method))
    assert count.trainable == count.changed == trainable and count.n_total == 222_903_552
    if method == Compacter(plus_plus=True):
        assert f"{count.share:.3%}" == "0.047%"
    if method == Compacter():
        assert f"{count.share:.3%}" == "0.073%"


def test_compacter_leaves_cross_attention_alone():
    model = attach(t5_base(), Compacter())
    added = [name for name, module in model.named_modules() if isinstance(module, PHMAdapterLinear)]
    assert len(added) == 48 and not any("EncDecAttention" in name for name in added)


def test_a_bert_of_two_sizes_by_the_formula():
    n, reduction = 4, 8
    config = BertConfig(hidden_size=64, intermediate_size=160, num_hidden_layers=3, num_attention_heads=2)

    def trainable(method):
        with torch.device("meta"):
            model = TextClassifier(BertModel(config, add_pooling_layer=False))
        return count_parameters(attach(model, method)).trainable

    d, m, blocks = 64, 8, 3
    norms = (2 * blocks + 1) * 2 * d
    assert trainable(Compacter(n=n, reduction=reduction)) == 2 * blocks * (2 * (d + m) + m + d) + n**3 + norms
    expected = 2 * blocks * (2 * (n**3 + d * m // n) + m + d) + norms
    assert trainable(PHMAdapter(n=n, reduction=reduction)) == expected


@pytest.mark.parametrize("rank", [None, 1, 2])
def test_a_phm_weight_is_the_sum_of_kronecker_products(rank):
    layer = PHM(12, 8, 4, torch.device("cpu"), rank)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_()
    B = layer.B if rank is None else torch.stack([layer.s[i] @ layer.t[i] for i in range(4)])
    expected = sum(torch.kron(layer.A[i], B[i]) for i in range(4))
    assert torch.allclose(layer.weight(), expected, atol=1e-5)
    assert all(torch.linalg.matrix_rank(b) <= (rank or 2) for b in B)
    x = torch.randn(3, 12)
    assert torch.allclose(layer(x), x @ expected.T + layer.bias, atol=1e-5)


def test_a_phm_layer_can_be_any_matrix_for_n_of_1_and_complex_products_for_2():
    one = PHM(6, 4, 1, torch.device("cpu"))
    with torch.no_grad():
        one.A.fill_(1.0)
    assert torch.equal(one.weight(), one.B[0])
    two = PHM(2, 2, 2, torch.device("cpu"))
    with torch.no_grad():  # A_1 = I, A_2 = the turn by 90 degrees: (a + bi) times a vector
        two.A.copy_(torch.tensor([[[1.0, 0], [0, 1]], [[0, -1], [1, 0]]]))
        two.B.copy_(torch.tensor([[[3.0]], [[2.0]]]))
    product = (3 + 2j) * (5 - 1j)
    assert torch.equal(two(torch.tensor([5.0, -1.0])), torch.tensor([product.real, product.imag]))


def test_compacters_rule_is_one_and_a_phm_adapters_are_many():
    model = attach(models.bert(), Compacter())
    rules = {id(m.A) for m in model.modules() if isinstance(m, PHM)}
    assert len(rules) == 1 and sum(name.endswith(".A") for name in trained_parameters(model)) == 1
    own = attach(models.bert(), PHMAdapter())
    assert len({id(m.A) for m in own.modules() if isinstance(m, PHM)}) == 8


def test_compacter_starts_as_the_paper_says_but_for_the_zero():
    adapter = attach(t5_on_cpu(), Compacter()).encoder.block[0].layer[1].DenseReluDense.wo
    assert 0.008 < adapter.down.A.std() < 0.012
    assert adapter.down.s.any() and adapter.down.t.any() and adapter.up.t.any() and not adapter.up.s.any()
    adapter(torch.randn(3, adapter.d_in)).square().sum().backward()
    assert adapter.up.s.grad.any(), "what starts at zero learns at once"


def t5_on_cpu():
    config = T5Config(d_model=16, d_ff=24, num_layers=1, num_heads=2, d_kv=8, vocab_size=30)
    return T5ForConditionalGeneration(config)


@bases
def test_compacter_learns_and_is_shared_after_copying(base):
    model = attach(base(), Compacter(reduction=2))
    losses = fit(model, models.task(), steps=30, lr=2e-2, progress=False).losses
    assert sum(losses[-5:]) < sum(losses[:5])
    other = copy.deepcopy(model)
    assert len({id(m.A) for m in other.modules() if isinstance(m, PHM)}) == 1
    assert len(trained_parameters(other)) == len(trained_parameters(model))
    assert penalty(model) is None


@pytest.mark.parametrize("kind", [PHMAdapter, Compacter])
def test_the_bottleneck_is_rounded_up_to_a_multiple_of_n(kind):
    wide = kind(n=4, reduction=32)
    assert [wide.bottleneck(nn.Linear(5, d)) for d in (768, 384, 192, 128, 16)] == [24, 12, 8, 4, 4]


@pytest.mark.parametrize(
    ("arguments", "message"), [({"n": 0}, "n is 0"), ({"reduction": -1}, "reduction is -1"), ({"n": 2.0}, "n is 2.0")]
)
def test_a_wrong_phm_adapter(arguments, message):
    for kind in (PHMAdapter, Compacter):
        with pytest.raises(ValueError, match=message):
            kind(**arguments)


def test_a_width_that_n_does_not_divide():
    model = models.bert()
    before = models.bits(model)
    with pytest.raises(ValueError, match="n is 3, which does not divide 16, the width of the model."):
        attach(model, Compacter(n=3))
    assert models.same_bits(model, before)


def test_adapters_with_an_activation_are_not_merged():
    model = attach(models.llama(), Compacter())
    with pytest.raises(RuntimeError, match="Compacter cannot be merged: a nonlinearity stands between"):
        merge(model)


def test_what_one_of_the_shared_rules_learns_all_have(tmp_path):
    model = randomise(attach(models.llama(), Compacter(plus_plus=True)))
    save_adapter(model, tmp_path)
    assert torch.equal(models.logits(load_adapter(models.llama(), tmp_path)), models.logits(model))
    held = [name for name in load_file(tmp_path / WEIGHTS) if name.endswith(".A")]
    assert len(held) == 1
