"""The rank explorer: what a matrix keeps at rank r, what that costs, and what alpha does to the update.

`explore_rank()` shows two examples; `explore_rank(model, {"ΔW": matrix})` adds every weight matrix of a model and
matrices of one's own. The arithmetic is that of `accounting.spectrum`, `accounting.budgets` and `accounting.updates`.

Source: those modules name theirs; the measured accuracies are `data/measured/lora_rank.json`.
"""

from collections.abc import Mapping
from typing import Any

import ipywidgets as widgets
import matplotlib.pyplot as plt
from torch import Tensor

from peft_lessons.accounting.spectrum import check_rank, lora_parameters
from peft_lessons.accounting.updates import SCALINGS, scaling_of
from peft_lessons.explorers.base import Explorer, Still, labelled
from peft_lessons.explorers.matrices import Matrix, examples, listed
from peft_lessons.explorers.picture import heat_map, shaded, thinned
from peft_lessons.explorers.rank_parts import (
    BUDGET_HEAD,
    CUT,
    KEPT,
    budget_rows,
    energy_chart,
    measured_chart,
    parameters_chart,
    summary,
    update_chart,
    values_chart,
)
from peft_lessons.explorers.svg import table
from peft_lessons.figures import plot_matrix

EXAMPLES = "examples"


def explore_rank(*sources: Any, name: str | None = None) -> "RankExplorer":
    """Show what rank does to matrices: two examples, and any that are given.

    Args:
        sources: models, whose two-dimensional weights are listed; mappings of names to matrices; or single matrices.
        name: what to remember the controls under, so that they stand as they were left; None for no memory.

    Returns:
        The explorer: the last expression of a cell shows it, and its `static()` prints the same for paper.

    Raises:
        ValueError: a model has no weight matrix, or a matrix is none; the message names it.
        TypeError: a source is neither model, mapping nor matrix.

    Source: see the module.
    """
    shown: dict[str, dict[str, Matrix]] = {EXAMPLES: examples()}
    for source in sources:
        label, matrices = listed(source)
        taken = [known for known in shown if known.split(" (")[0] == label]
        shown[f"{label} ({len(taken) + 1})" if taken else label] = matrices
    return RankExplorer(shown, name=name)


class RankExplorer(Explorer):
    """Move rank, alpha and budget over any of the matrices listed; made by `explore_rank`.

    Args:
        sources: source -> name -> matrix.
        name: what to remember the controls under; None for no memory.
    """

    heading = "Rank: what a matrix keeps, and what it costs"
    parts = (
        ("weight", "approximation", "difference"),
        "summary",
        ("values", "energy"),
        "budgets",
        ("parameters", "update"),
        "measured",
    )

    def __init__(self, sources: Mapping[str, Mapping[str, Matrix]], *, name: str | None = None):
        self.sources = sources
        first = next(iter(sources))
        chosen = {"style": {"description_width": "initial"}, "layout": {"width": "38em"}}
        controls = {
            "source": labelled(widgets.Dropdown, "source", "where the matrix comes from", options=list(sources)),
            "matrix": labelled(widgets.Dropdown, "matrix", "which matrix", options=list(sources[first]), **chosen),
            "slider": labelled(widgets.IntSlider, "rank", "rank of the approximation", value=1, min=1, readout=False),
            "rank": labelled(widgets.IntText, "rank, typed", "the same rank, as a number", value=1),
            "alpha": labelled(widgets.FloatText, "alpha", "LoRA's alpha, in the scaling of the update", value=16.0),
            "scaling": labelled(widgets.Dropdown, "scaling", "the factor before B A", options=list(SCALINGS)),
            "follows": labelled(
                widgets.Checkbox,
                "budget follows rank",
                "compare at what LoRA of this rank stores",
                value=True,
                indent=False,
            ),
            "budget": labelled(widgets.IntText, "budget", "numbers that each method may store", value=20),
        }
        super().__init__(controls, name=name)

    def adjust(self, changed: str) -> None:
        """The matrices of the source, the rank's maximum, the slider beside the typed rank, and the budget."""
        c = self.controls
        if changed == "source":
            c["matrix"].options = list(self.sources[c["source"].value])
        d_out, d_in = self._picked(self.values).shape
        if changed in ("", "source", "matrix"):
            c["slider"].max = min(d_out, d_in)
            c["rank"].value = min(c["rank"].value, c["slider"].max)
        if changed == "slider":
            c["rank"].value = c["slider"].value
        elif 1 <= c["rank"].value <= c["slider"].max:
            c["slider"].value = c["rank"].value
        c["budget"].disabled = c["follows"].value
        if c["follows"].value:
            c["budget"].value = lora_parameters(d_out, d_in, c["slider"].value)

    def answer(self, values: Mapping[str, Any]) -> dict[str, str]:
        """Pictures, singular values, budgets and update size at these values; see `parts`.

        Raises:
            ValueError: a rank that the matrix cannot have, an alpha that is not above 0, a budget below 1.
        """
        it, r, budget = self._picked(values), values["rank"], values["budget"]
        d_out, d_in = it.shape
        check_rank(r, d_out, d_in)
        if budget < 1:
            raise ValueError(f"The budget is {budget} numbers; it must be at least 1.")
        scaling = scaling_of(values["scaling"], values["alpha"], r)
        rows, columns = thinned(d_out, d_in)
        near = it.spectrum.approximation(r, rows, columns)
        weight = it.W[rows, columns]

        def draw(part: Tensor, title: str) -> str:
            return heat_map(part.numpy(), title=title, limit=it.limit, shape=(d_out, d_in))

        return {
            "weight": it.picture,
            "approximation": draw(near, f"the nearest of rank {r}"),
            "difference": draw(weight - near, "the difference"),
            "summary": summary(it.spectrum, r),
            "values": values_chart(it.spectrum, r),
            "energy": energy_chart(it.spectrum, r),
            "budgets": table(BUDGET_HEAD, budget_rows(it, budget), caption=f"The same {budget:,} numbers, spent by"),
            "parameters": parameters_chart(d_out, d_in, r),
            "update": update_chart(it, r, values["alpha"], scaling, values["scaling"]),
            "measured": measured_chart(r),
        }

    def still(self, values: Mapping[str, Any]) -> Still:
        """The pictures, the energy and the budgets as a figure and a table."""
        it, r = self._picked(values), values["rank"]
        d_out, d_in = it.shape
        rows, columns = thinned(d_out, d_in)
        W, near = it.W[rows, columns], it.spectrum.approximation(r, rows, columns)
        fig, axes = plt.subplots(1, 4, figsize=(10, 2.8), width_ratios=[1, 1, 1, 1.5], layout="constrained")
        pictures = ((W, "W"), (near, f"nearest of rank {r}"), (W - near, "difference"))
        for ax, (matrix, title) in zip(axes, pictures, strict=False):
            plot_matrix(ax, shaded(matrix.numpy(), it.limit), title, limit=1)
            ax.set_title(f"{title}\n{d_out} × {d_in}", fontsize=10)
            ax.images[0].set(interpolation="nearest", extent=(0, d_in, d_out, 0))
        energy = it.spectrum.energy()
        axes[3].plot(range(1, len(energy) + 1), 100 * energy, color=KEPT, marker="o" if len(energy) < 20 else None)
        axes[3].axvline(r, color=CUT, linestyle="--")
        axes[3].set(xlabel="rank", title="energy kept, percent", ylim=(0, 105))
        alt = f"{values['matrix']}, its nearest matrix of rank {r}, the difference, and the energy kept at each rank."
        budget = values["budget"] if not values["follows"] else lora_parameters(d_out, d_in, r)
        head = f"{values['matrix']}, {d_out} x {d_in}, rank {r}: {it.spectrum.energy()[r - 1]:.1%} of the energy kept"
        cells = [BUDGET_HEAD, *[[str(cell) for cell in row] for row in budget_rows(it, budget)]]
        wide = [max(len(row[i]) for row in cells) for i in range(len(BUDGET_HEAD))]
        body = ["  ".join(cell.ljust(w) for cell, w in zip(row, wide, strict=True)).rstrip() for row in cells]
        return Still(fig, alt, "\n".join([head, f"{budget:,} numbers, spent by", *body]))

    def _picked(self, values: Mapping[str, Any]) -> Matrix:
        return self.sources[values["source"]][values["matrix"]]
