"""Spectra, budgets and update sizes against torch.linalg, brute force, closed forms and real optimizer steps."""

import math

import pytest
import torch
from torch import nn

from peft_lessons.accounting import budgets
from peft_lessons.accounting.budgets import (
    Products,
    krona_at,
    lora_at,
    nearest_kronecker,
    phm_at,
    phm_parameters,
    phm_smallest,
)
from peft_lessons.accounting.spectrum import break_even, check_rank, lora_parameters, spectrum
from peft_lessons.accounting.updates import SCALINGS, first_update, scaling_of
from peft_lessons.methods import LoRA
from peft_lessons.methods.reparameterized.lora import LoRALinear

SHAPES = [(10, 10), (12, 30), (30, 12), (64, 16), (7, 5), (1, 6), (6, 1)]


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def relative(near: torch.Tensor, matrix: torch.Tensor) -> float:
    return float((matrix - near).norm() / matrix.norm())


@pytest.mark.parametrize("shape", SHAPES)
def test_spectrum_is_that_of_torch(shape: tuple[int, int]) -> None:
    matrix = drawn(*shape)
    found = spectrum(matrix.float())
    torch.testing.assert_close(found.singular_values, torch.linalg.svdvals(matrix), rtol=1e-5, atol=1e-6)
    errors = [found.error(r) for r in range(1, found.max_rank + 1)]
    assert errors == sorted(errors, reverse=True) and errors[-1] == 0
    for r, error in enumerate(errors, start=1):
        near = found.approximation(r)
        assert torch.linalg.matrix_rank(near) == r
        assert relative(near, matrix) == pytest.approx(error, abs=1e-6)
        assert found.energy()[r - 1] == pytest.approx(1 - error**2)
    assert relative(found.approximation(found.max_rank), matrix) < 1e-6
    assert list(found.energy()) == sorted(found.energy())


def test_nothing_of_the_same_rank_is_nearer() -> None:
    matrix, r = drawn(12, 9), 3
    best = spectrum(matrix).error(r)
    for seed in range(50):  # the best fit within a random column space, and near the best one
        U = spectrum(matrix).U[:, :r] + (0.01 if seed % 2 else 1.0) * drawn(12, r, seed=seed + 1)
        assert relative(U @ torch.linalg.lstsq(U, matrix).solution, matrix) >= best


def test_some_rows_and_columns_are_those_of_the_whole() -> None:
    found = spectrum(drawn(20, 11))
    part = found.approximation(4, slice(None, None, 3), slice(1, None, 2))
    torch.testing.assert_close(part, found.approximation(4)[::3, 1::2])


def test_rank_for_a_share_of_energy() -> None:
    found = spectrum(torch.diag(torch.tensor([3.0, 2, 1, 1, 1])))  # energies 9, 4, 1, 1, 1 of 16
    assert [found.rank_for(share) for share in (0.5, 9 / 16, 0.57, 13 / 16, 0.95, 1.0)] == [1, 1, 2, 2, 5, 5]
    for shape in SHAPES:
        found = spectrum(drawn(*shape))
        for share in (0.1, 0.5, 0.9, 0.99):
            r = found.rank_for(share)
            assert found.energy()[r - 1] >= share - 1e-12
            assert r == 1 or found.energy()[r - 2] < share
    for share in (0, -1, 1.1):
        with pytest.raises(ValueError, match="above 0 and at most 1"):
            found.rank_for(share)


def test_numerical_rank() -> None:
    assert spectrum(torch.outer(torch.arange(1.0, 11), torch.arange(1.0, 9))).numerical_rank() == 1
    assert spectrum(drawn(9, 4) @ drawn(4, 12)).numerical_rank() == 4


@pytest.mark.parametrize(
    "bad, why",
    [
        (torch.zeros(3), r"shape \(3,\)"),
        (torch.zeros(2, 0), "two dimensions of at least 1"),
        (torch.zeros(2, 2), "entry of the matrix is zero"),
        (torch.tensor([[1.0, math.nan]]), "not finite"),
        ([[1.0, math.inf]], "not finite"),
    ],
)
def test_what_is_no_matrix(bad: object, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        spectrum(bad)


@pytest.mark.parametrize("r", [0, -1, 6, 2.0, True, "3"])
def test_what_is_no_rank(r: object) -> None:
    with pytest.raises(ValueError, match="5 × 7 has ranks from 1 to 5"):
        check_rank(r, 5, 7)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="from 1 to 5"):
        spectrum(drawn(5, 7)).error(r)  # type: ignore[arg-type]


@pytest.mark.parametrize("d_out, d_in, r", [(10, 10, 1), (512, 64, 8), (7, 5, 3)])
def test_lora_counts_what_the_layer_has(d_out: int, d_in: int, r: int) -> None:
    layer = LoRALinear(nn.Linear(d_in, d_out, bias=False), r, alpha=1)
    assert lora_parameters(d_out, d_in, r) == sum(p.numel() for p in (layer.lora_A, layer.lora_B))
    crossing = break_even(d_out, d_in)
    assert lora_parameters(d_out, d_in, math.ceil(crossing)) >= d_out * d_in
    assert lora_parameters(d_out, d_in, math.ceil(crossing) - 1) < d_out * d_in


def test_the_two_examples_of_lesson_07() -> None:
    assert lora_parameters(10, 10, 1) == 20 and break_even(10, 10) == 5
    assert lora_parameters(512, 64, 8) == 4608 and 56 < break_even(512, 64) < 57


# ---- Kronecker products ----


@pytest.mark.parametrize("a, b", [((3, 2), (4, 5)), ((1, 6), (5, 1)), ((4, 4), (2, 2)), ((2, 7), (3, 1))])
def test_a_kronecker_product_is_found_again(a: tuple[int, int], b: tuple[int, int]) -> None:
    A, B = drawn(*a), drawn(*b, seed=1)
    matrix = torch.kron(A, B)
    found_A, found_B = nearest_kronecker(matrix, *a)
    torch.testing.assert_close(torch.kron(found_A[0], found_B[0]), matrix)
    assert Products(matrix).error(*a) < 1e-6
    spent = krona_at(Products(matrix), A.numel() + B.numel())
    assert spent and spent.error < 1e-6 and spent.n_parameters <= A.numel() + B.numel()


def test_a_sum_of_products_is_found_again() -> None:
    n, d_out, d_in = 4, 12, 20
    A, B = drawn(n, n, n), drawn(n, d_out // n, d_in // n, seed=1)
    matrix = sum(torch.kron(a, b) for a, b in zip(A, B, strict=True))
    assert isinstance(matrix, torch.Tensor)
    found_A, found_B = nearest_kronecker(matrix, n, n, n)
    again = sum(torch.kron(a, b) for a, b in zip(found_A, found_B, strict=True))
    torch.testing.assert_close(again, matrix)
    spent = phm_at(Products(matrix), phm_parameters(d_out, d_in, n))
    assert spent and spent.error < 1e-6 and spent.form == "n = 4"
    assert spent.n_parameters == A.numel() + B.numel() == n**3 + d_out * d_in // n
    assert Products(matrix).error(n, n, n - 1) > 0.01  # one term fewer does not hold it


def test_the_error_is_that_of_the_factors_and_no_product_is_nearer() -> None:
    matrix, products = drawn(12, 10), Products(drawn(12, 10))
    for a1, b1, terms in ((3, 2, 1), (4, 5, 1), (2, 2, 2), (12, 1, 1), (1, 1, 1), (12, 10, 1)):
        A, B = nearest_kronecker(matrix, a1, b1, terms)
        near = sum(torch.kron(a, b) for a, b in zip(A, B, strict=True))
        assert isinstance(near, torch.Tensor)
        assert products.error(a1, b1, terms) == pytest.approx(relative(near, matrix), abs=1e-6)
    for seed in range(50):  # the best B for a random A, by least squares
        A = nearest_kronecker(matrix, 3, 2)[0][0] + (0.01 if seed % 2 else 1.0) * drawn(3, 2, seed=seed + 1)
        blocks = budgets.rearranged(matrix, 3, 2)
        a = A.reshape(-1, 1)
        assert relative(a @ (a.T @ blocks) / a.square().sum(), blocks) >= products.error(3, 2) - 1e-9


def test_an_outer_product_is_a_kronecker_product_too() -> None:
    matrix = drawn(8, 6)
    assert Products(matrix).error(8, 1) == pytest.approx(spectrum(matrix).error(1))


def test_every_method_stays_within_its_budget_and_gains_by_more() -> None:
    matrix = drawn(16, 24)
    taken, products = spectrum(matrix), Products(matrix)
    before: dict[str, float] = {}
    for r in range(1, 17):
        budget = lora_parameters(16, 24, r)
        for spent in (lora_at(taken, budget), krona_at(products, budget), phm_at(products, budget)):
            if spent is None:
                continue
            assert spent.n_parameters <= budget and 1 <= spent.highest_rank <= 16
            if spent.method != "KronA":  # it tries some of its shapes alone
                assert spent.error <= before.get(spent.method, 1) + 1e-9
            before[spent.method] = spent.error
    assert set(before) == {"LoRA", "KronA", "PHM"}


def test_krona_is_the_best_of_all_shapes_where_it_tries_all(monkeypatch: pytest.MonkeyPatch) -> None:
    products = Products(drawn(12, 8))
    monkeypatch.setattr(budgets, "TRIED", 1000)
    for budget in (20, 30, 44, 60):
        spent = krona_at(products, budget)
        every = [
            products.error(a1, b1)
            for a1 in (1, 2, 3, 4, 6, 12)
            for b1 in (1, 2, 4, 8)
            if a1 * b1 + 96 // (a1 * b1) <= budget
        ]
        assert spent and spent.error == pytest.approx(min(every), abs=2e-6)


def test_the_identity_is_one_product_and_lora_pays_for_every_part() -> None:
    eye = torch.eye(64, dtype=torch.float64)
    lora, krona = lora_at(spectrum(eye), 128), krona_at(Products(eye), 128)
    assert krona and (krona.n_parameters, krona.highest_rank) == (128, 64) and krona.error < 1e-6
    assert lora and lora.error == pytest.approx(math.sqrt(63 / 64))


def test_too_small_a_budget_buys_nothing() -> None:
    matrix = drawn(16, 24)
    assert lora_at(spectrum(matrix), 39) is None and lora_at(spectrum(matrix), 40)
    assert krona_at(Products(matrix), 5) is None
    smallest = phm_smallest(16, 24)
    assert phm_at(Products(matrix), smallest - 1) is None and phm_at(Products(matrix), smallest)


def test_shapes_that_do_not_divide() -> None:
    with pytest.raises(ValueError, match="5 × 2 does not divide a matrix of 12 × 8"):
        nearest_kronecker(drawn(12, 8), 5, 2)


# ---- the size of an update ----


def real_step(d: int, r: int, alpha: float, rs: bool, lr: float) -> float:
    torch.manual_seed(0)
    layer = LoRALinear(nn.Linear(d, d), r, alpha, use_rslora=rs)
    optimizer = torch.optim.Adam([layer.lora_A, layer.lora_B], lr=lr)
    x, target = torch.randn(64, d), torch.randn(64, d)
    (layer(x) - target).square().sum().backward()  # large gradients: Adam's eps counts for nothing
    A = layer.lora_A.detach().clone()
    optimizer.step()
    assert torch.equal(layer.lora_A, A)  # no gradient while B is zero
    torch.testing.assert_close(layer.lora_B.abs(), torch.full_like(layer.lora_B, lr), rtol=1e-2, atol=0)
    return layer.delta().norm().item()


@pytest.mark.parametrize("kind", SCALINGS)
@pytest.mark.parametrize("r", [2, 4, 16, 32])
def test_a_real_step_is_as_large_as_expected(kind: str, r: int) -> None:
    d, alpha, lr = 256, 16.0, 1e-3
    expected = first_update(d, r, scaling_of(kind, alpha, r), lr)
    assert real_step(d, r, alpha, kind == "α / √r", lr) == pytest.approx(expected, rel=0.12)


def test_the_scalings_are_lora_s() -> None:
    for kind, rs in (("α / r", False), ("α / √r", True)):
        assert LoRA(r=9, alpha=6, use_rslora=rs).wrap(nn.Linear(12, 12)).scaling == scaling_of(kind, 6, 9)


def test_one_falls_one_stays_one_grows() -> None:
    sizes = {kind: [first_update(512, r, scaling_of(kind, 16, r)) for r in (4, 64)] for kind in SCALINGS}
    assert sizes["α / r"][1] == pytest.approx(sizes["α / r"][0] / 4)
    assert sizes["α / √r"][1] == pytest.approx(sizes["α / √r"][0])
    assert first_update(512, 64, scaling_of("α / r", 128, 64)) == pytest.approx(
        4 * first_update(512, 4, scaling_of("α / r", 8, 4))
    )


def test_bad_scalings() -> None:
    for alpha in (0, -1, math.nan, math.inf):
        with pytest.raises(ValueError, match="it must be above 0"):
            scaling_of("α / r", alpha, 4)
    with pytest.raises(ValueError, match="at least 1"):
        scaling_of("α / r", 16, 0)
    with pytest.raises(LookupError, match="no scaling"):
        scaling_of("r", 16, 4)
