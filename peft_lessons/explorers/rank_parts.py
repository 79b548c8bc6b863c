"""What the rank explorer shows of a matrix, each part a string of HTML from numbers that `accounting` gives."""

from functools import cache
from statistics import mean

import numpy as np

from peft_lessons.accounting.budgets import phm_smallest
from peft_lessons.accounting.spectrum import Spectrum, break_even, lora_parameters
from peft_lessons.accounting.updates import SCALINGS, first_update, scaling_of
from peft_lessons.explorers.matrices import Matrix
from peft_lessons.explorers.svg import lines, plain
from peft_lessons.measured import load_measured

RANKS = (1, 2, 4, 8, 16, 32)  # those measured
LR = 1e-3
KEPT, CUT = "#0072B2", "#999999"
BUDGET_HEAD = ("method", "shapes", "numbers", "highest rank", "relative error")


def budget_rows(it: Matrix, budget: int) -> list[list[str]]:
    """One row of words for each method: shapes, numbers stored, highest rank, relative error."""
    d_out, d_in = it.shape
    smallest = {"LoRA": lora_parameters(d_out, d_in, 1), "PHM": phm_smallest(d_out, d_in)}
    rows = []
    for method, spent in it.spend(budget).items():
        if spent is None:
            needs = f", it needs {smallest[method]:,}" if method in smallest else ""
            rows.append([method, f"not possible{needs}", "-", "-", "-"])
        else:
            rows.append([method, spent.form, f"{spent.n_parameters:,}", str(spent.highest_rank), f"{spent.error:.1%}"])
    return rows


def summary(found: Spectrum, r: int) -> str:
    """The finding in words: energy, error, numbers stored, and the ranks of three energies."""
    d_out, d_in = found.shape
    cost, full, crossing = lora_parameters(d_out, d_in, r), d_out * d_in, break_even(d_out, d_in)
    ranks = ", ".join(f"{share} % at rank {found.rank_for(share / 100)}" for share in (90, 95, 99))
    saving = f"{1 - cost / full:.1%} fewer" if cost < full else "none saved"
    return (
        f"<p><b>Rank {r}</b> keeps <b>{found.energy()[r - 1]:.2%}</b> of the energy; the relative error is "
        f"{found.error(r):.2%}. It stores {r} · ({d_in} + {d_out}) = <b>{cost:,}</b> numbers instead of {full:,}: "
        f"{saving}; LoRA stops saving at rank {crossing:.4g}.<br>Energy: {ranks}, of {found.max_rank}.</p>"
    )


def values_chart(found: Spectrum, r: int) -> str:
    """The singular values, kept and cut off."""
    sizes = found.singular_values.tolist()
    points = [(k, sizes[k - 1]) for k in _drawn_ranks(found.max_rank, r)]
    kept = [point for point in points if point[0] <= r]
    return lines(
        {"kept": kept, "cut off": points[len(kept) - 1 :]},
        points={"kept": kept} if found.max_rank <= 64 else None,
        alt=f"Singular values in falling order, cut after the first {r}.",
        x_label="number",
        y_label="singular value",
        marks={f"r = {r}": r},
        colours={"kept": KEPT, "cut off": CUT},
        width=340,
        height=220,
    )


def energy_chart(found: Spectrum, r: int) -> str:
    """The share of the energy kept at each rank."""
    percent = (100 * found.energy()).tolist()
    return lines(
        {"energy": [(k, percent[k - 1]) for k in _drawn_ranks(found.max_rank, r)]},
        points={"energy": [(r, percent[r - 1])]},
        alt=f"Energy kept against rank; rank {r} keeps {percent[r - 1]:.1f} percent.",
        x_label="rank",
        y_label="energy kept, percent",
        marks={f"r = {r}": r},
        y_range=(0, 105),
        width=340,
        height=220,
    )


def _drawn_ranks(highest: int, r: int, most: int = 100) -> list[int]:
    """Ranks at which a narrow chart has a point: all, or an even choice with r and both ends."""
    step = -(-highest // most)
    return sorted({*range(1, highest + 1, step), r, highest})


def parameters_chart(d_out: int, d_in: int, r: int) -> str:
    """Numbers stored by LoRA at each rank against those of the matrix, and where they cross."""
    full, top, crossing = d_out * d_in, min(d_out, d_in), break_even(d_out, d_in)
    return lines(
        {"LoRA": [(k, lora_parameters(d_out, d_in, k)) for k in (1, top)], "the matrix": [(1, full), (top, full)]},
        points={"LoRA": [(r, lora_parameters(d_out, d_in, r))]},
        alt=f"Numbers stored against rank: LoRA's line crosses the matrix's {full:,} at rank {crossing:.4g}.",
        x_label="rank",
        y_label="numbers stored",
        marks={f"equal at {crossing:.4g}": crossing, f"r = {r}": r},
        colours={"the matrix": "#D55E00"},
        width=340,
        height=240,
    )


def update_chart(it: Matrix, r: int, alpha: float, scaling: float, kind: str) -> str:
    """The size of the update after one Adam step at each rank, for three scalings."""
    d_out, d_in = it.shape
    ranks = sorted({1, r, min(d_out, d_in)})
    curves = {
        **{name: [(k, first_update(d_out, k, scaling_of(name, alpha, k), LR)) for k in ranks] for name in SCALINGS},
        "α = 2r": [(k, first_update(d_out, k, 2.0, LR)) for k in ranks],
    }
    size = first_update(d_out, r, scaling, LR)
    share = size / float(it.W.norm())
    chart = lines(
        curves,
        points={kind: [(r, size)]},
        alt=f"Size of the update after one Adam step against rank, for three scalings; here it is {size:.3g}.",
        x_label="rank",
        y_label=f"‖ΔW‖ after the first Adam step, lr {LR:g}",
        log_x=True,
        log_y=True,
        width=340,
        height=240,
    )
    words = f"scaling {plain(scaling)}; ‖ΔW‖ about <b>{size:.3g}</b>, {share:.2%} of ‖W‖"
    return f"{chart}<div>{words}</div>"


@cache
def _accuracies() -> dict[int, list[float]]:
    study = load_measured("lora_rank")
    return {r: [100 * share for share in study.test_accuracy(label=f"r={r}")] for r in RANKS}


@cache
def measured_chart(r: int) -> str:
    """Accuracy on `records` against rank, as measured, and the rank measured nearest to this one.

    Args:
        r: any rank.
    """
    found = _accuracies()
    nearest = min(RANKS, key=lambda k: abs(np.log(k / r)))
    chart = lines(
        {"LoRA": [(k, mean(seeds)) for k, seeds in found.items()]},
        points={"LoRA": [(k, share) for k, seeds in found.items() for share in seeds]},
        alt="Share of records exactly right against rank, three seeds at each rank's own learning rate.",
        x_label="rank",
        y_label="records exactly right, percent (three seeds, and their mean)",
        log_x=True,
        marks={f"r = {r}": r} if RANKS[0] <= r <= RANKS[-1] else None,
        y_range=(0, 105),
        height=220,
    )
    words = (
        f"Measured on the small decoder, task <i>records</i>, each rank at its own learning rate: rank {nearest} gets "
        f"<b>{mean(found[nearest]):.1f} %</b>. That is a training result; it does not depend on the matrix above."
    )
    return f"{chart}<div>{words}</div>"
