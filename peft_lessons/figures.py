"""Every figure's style, and the few kinds of figure that lessons share.

Plot functions draw on the `ax` they are given from plain data and return the numbers they drew, so that tests can
look at them. A method keeps one colour and one marker through the whole course.

Source: the colours are those of Okabe and Ito 2008, chosen to stay apart for colour-blind readers.
"""

import io
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import ConnectionPatch
from matplotlib.transforms import offset_copy

plt.style.use(Path(__file__).with_name("lessons.mplstyle"))

STYLES: dict[str, tuple[str, str]] = {  # name -> colour, marker
    "LoRA": ("#0072B2", "o"),
    "full fine-tuning": ("#D55E00", "s"),
    "QLoRA, NF4": ("#0072B2", "$N$"),
    "QLoRA, FP4": ("#0072B2", "$F$"),
    "QLoRA, int4": ("#0072B2", "$i$"),
    "QLoRA, 7 levels": ("#0072B2", "$7$"),
    "QLoRA, 4 levels": ("#0072B2", "$4$"),
    "head only": ("#009E73", "^"),
    "Houlsby": ("#E69F00", "X"),
    "Pfeiffer": ("#E69F00", "p"),
    "parallel": ("#E69F00", "<"),
    "scaled parallel": ("#E69F00", ">"),
    "in-context learning": ("#CC79A7", "D"),
    "zero-shot": ("#56B4E9", "v"),
    "majority class": ("#777777", "x"),
    "chance": ("#777777", "x"),
    "full, random weights": ("#000000", "*"),
    "top layer": ("#D55E00", "H"),
    "norms": ("#D55E00", "+"),
    "BitFit": ("#D55E00", "1"),
    "random mask": ("#CC79A7", "2"),
    "Fisher mask": ("#CC79A7", "3"),
    "lottery mask": ("#CC79A7", "4"),
    "diff pruning": ("#CC79A7", "|"),
    "FAR": ("#CC79A7", "_"),
    "KronA": ("#CC79A7", "h"),
    "PHM adapter": ("#56B4E9", "d"),
    "Compacter": ("#009E73", "P"),
    "Compacter++": ("#009E73", "8"),
    "intrinsic, d=256": ("#000000", "."),
    "prompt, words": ("#CC79A7", "$w$"),
    "prompt, random": ("#000000", "$r$"),
    "prompt, labels": ("#009E73", "$l$"),
    "prompt, examples": ("#0072B2", "$e$"),
    "P-tuning": ("#009E73", "$P$"),
    "prefix, random": ("#56B4E9", "$K$"),
    "prefix, examples": ("#56B4E9", "$V$"),
    "prefix, MLP": ("#56B4E9", "$M$"),
    "(IA)3": ("#009E73", "$3$"),
    "T-Few": ("#000000", "$T$"),
    "LoRA, three losses": ("#56B4E9", "$L$"),
}
CATEGORY_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")  # of a step's memory, in order
OTHERS = (("#E69F00", "P"), ("#000000", "*"), ("#56B4E9", "v"), ("#009E73", "^"), ("#CC79A7", "D"))


def style_of(name: str, position: int = 0) -> tuple[str, str]:
    """Colour and marker of a method; a free pair, by position, for a name that is no method."""
    return STYLES.get(name, OTHERS[position % len(OTHERS)])


def show(figure: Figure, alt: str) -> None:
    """Display a figure with its alternative text, and close it.

    The text travels with the picture (nbconvert writes it into the page) and stands in its place where pictures are
    not shown.

    Raises:
        ValueError: the alternative text is empty.
    """
    if not alt.strip():
        raise ValueError("Every figure needs alt text: one sentence that says what it shows.")
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    plt.close(figure)
    display({"image/png": picture.getvalue(), "text/plain": alt}, metadata={"image/png": {"alt": alt}}, raw=True)


def plot_runs(
    ax: Axes, x: Sequence[float], runs: Mapping[str, Sequence[Sequence[float]]], *, percent: bool = True
) -> dict[str, np.ndarray]:
    """Lines of means over seeds, with every seed's point behind them, labelled at their right ends.

    Args:
        ax: where to draw.
        x: positions, (n,).
        runs: label -> one row of n values for each seed.
        percent: values are shares, drawn in percent.

    Returns:
        label -> the means drawn, (n,).

    Raises:
        ValueError: a run has not one value for each position.
    """
    drawn = {}
    for position, (label, rows) in enumerate(runs.items()):
        values = np.asarray(rows, dtype=float) * (100 if percent else 1)
        if values.ndim != 2 or values.shape[1] != len(x):
            raise ValueError(
                f"{label} has values of shape {values.shape}; one row of {len(x)} for each seed is needed."
            )
        colour, marker = style_of(label, position)
        for row in values:
            ax.plot(x, row, linestyle="none", marker=marker, color=colour, alpha=0.3, markersize=4)
        drawn[label] = values.mean(0)
        ax.plot(x, drawn[label], color=colour, marker=marker)
    _label_ends(ax, x[-1], {label: means[-1] for label, means in drawn.items()})
    return drawn


def plot_bars(ax: Axes, values: Mapping[str, Sequence[float]], *, percent: bool = True) -> dict[str, float]:
    """Horizontal bars of means over seeds with every seed's point on them, the mean written beside each.

    Args:
        ax: where to draw.
        values: label -> one value for each seed.
        percent: values are shares, drawn in percent.

    Returns:
        label -> the mean drawn.
    """
    drawn = {}
    for position, (label, seeds) in enumerate(values.items()):
        points = np.asarray(seeds, dtype=float) * (100 if percent else 1)
        colour, marker = style_of(label, position)
        drawn[label] = float(points.mean())
        ax.barh(label, drawn[label], color=colour, alpha=0.35)
        ax.plot(points, [label] * len(points), linestyle="none", marker=marker, color=colour, markersize=5)
        text = f"{drawn[label]:.0f} %" if percent else f"{drawn[label]:,.3g}"
        ax.annotate(text, (max(points.max(), drawn[label]), label), (8, 0), textcoords="offset points", va="center")
    ax.invert_yaxis()
    ax.grid(axis="y", visible=False)
    return drawn


def plot_matrix(ax: Axes, matrix: np.ndarray, title: str, *, limit: float | None = None) -> np.ndarray:
    """A small matrix as coloured squares, zero in white, its shape under the title.

    Returns:
        The matrix drawn.
    """
    matrix = np.asarray(matrix, dtype=float)
    limit = float(np.abs(matrix).max()) if limit is None else limit
    ax.imshow(matrix, vmin=-limit, vmax=limit, aspect="equal")
    ax.set_title(f"{title}\n{matrix.shape[0]} × {matrix.shape[1]}", fontsize=10)
    ax.set(xticks=[], yticks=[])
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    return matrix


def plot_step(ax: Axes, live: np.ndarray, categories: Sequence[str], begins: Mapping[str, int]) -> tuple[float, str]:
    """What a training step holds from moment to moment, one category on the other; its peak is marked.

    Stages are drawn equally wide, as some of them have thousands of moments and some a few.

    Args:
        ax: where to draw.
        live: what is held at each moment, in the order of the step, (moments, categories).
        categories: names of the columns, from the bottom up.
        begins: stage -> its first moment, in order.

    Returns:
        The height of the peak, and its stage.

    Raises:
        ValueError: the columns have not as many names.
    """
    live = np.asarray(live, dtype=float)
    if live.shape[1] != len(categories):
        raise ValueError(f"There are {live.shape[1]} columns and {len(categories)} names.")
    edges = [0, *list(begins.values())[1:], len(live)]  # what is there before the step goes with its first stage
    x = np.concatenate([i + np.arange(b - a) / (b - a) for i, (a, b) in enumerate(itertools.pairwise(edges)) if b > a])
    x, heights = np.append(x, len(begins)), np.append(live, live[-1:], axis=0)
    ax.stackplot(x, heights.T, labels=categories, colors=CATEGORY_COLOURS, step="post", linewidth=0)
    for position, stage in enumerate(begins):
        ax.axvline(position, color="#777777", linewidth=0.6)
        ax.text(
            position + 0.5,
            1.01,
            stage.replace(" ", "\n"),
            transform=ax.get_xaxis_transform(),
            ha="center",
            va="bottom",
            fontsize=8,
        )
    totals = live.sum(1)
    top = int(totals.argmax())
    ax.plot(x[top], totals[top], marker="v", color="#000000", markersize=6, clip_on=False)
    ax.set(xlim=(0, len(begins)), xticks=[], ylim=(0, 1.08 * totals[top]))
    ax.grid(axis="x", visible=False)
    return float(totals[top]), [stage for stage, first in begins.items() if first <= top][-1]


def _label_ends(ax: Axes, x: float, ends: Mapping[str, float]) -> None:
    """Write each line's name at its right end, not above the axes; names pushed apart are tied to their ends."""
    low, high = ax.get_ylim()
    gap = 0.075 * (high - low)
    names = sorted(ends, key=lambda name: ends[name])
    heights = [ends[name] for name in names]
    for i in range(1, len(heights)):
        heights[i] = max(heights[i], heights[i - 1] + gap)
    heights[-1] = min(heights[-1], high)
    for i in reversed(range(len(heights) - 1)):
        heights[i] = min(heights[i], heights[i + 1] - gap)
    beside = offset_copy(ax.transData, ax.get_figure(root=True), x=7, units="points")
    for name, height in zip(names, heights, strict=True):
        colour, _ = style_of(name, list(ends).index(name))
        if abs(height - ends[name]) > gap / 4:
            ax.add_artist(ConnectionPatch((x, ends[name]), (x, height), "data", beside, color=colour, linewidth=0.7))
        ax.annotate(name, (x, height), (8, 0), textcoords="offset points", va="center", color=colour)
