"""The thirty methods of the survey's taxonomy, from `data/methods.json`: where each stands, and what is said of it.

What a survey or a paper says stands with its source, what follows from an equation is marked as such, and what could
not be looked up is left empty.

Source: the taxonomy figure of Lialin, Deshpande and Rumshisky 2023, "Scaling Down to Scale Up".
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes
from matplotlib.patches import FancyBboxPatch

from peft_lessons.bases import DATA

CLASSES = ("additive", "selective", "reparameterized")
COUNTS = ("trainable", "changed", "rank")
COSTS = ("storage", "memory", "computation", "inference", "accuracy")
COLUMNS = ("adapters", "soft prompts", "other", "selective", "reparameterized")  # the first three are additive
MARKS = ("#0072B2", "o"), ("#0072B2", "o"), ("#0072B2", "o"), ("#E69F00", "s"), ("#009E73", "D")


@dataclass(frozen=True)
class Statement:
    """What is said of a method, and by whom."""

    says: str
    source: str

    def __str__(self) -> str:
        return f"{self.says} ({self.source})"


@dataclass(frozen=True)
class SurveyMethod:
    """One of the thirty: `classes` of `CLASSES`, `ours` the package's classes that are it, `said` by count or cost."""

    name: str
    year: int | None
    classes: tuple[str, ...]
    kinds: tuple[str, ...]  # of additive methods: adapters, soft prompts, other
    paper: str | None
    ours: tuple[str, ...]
    said: Mapping[str, tuple[Statement, ...]]
    note: str | None

    def __str__(self) -> str:
        lines = [f"{self.name}: {' + '.join(self.classes)}", self.paper or "paper not established here"]
        for key in (*COUNTS, *COSTS):
            lines.append(f"  {key:<12} {'; '.join(map(str, self.said[key])) or 'not established here'}")
        return "\n".join([*lines, *([f"  {self.note}"] if self.note else [])])


def load_methods_map() -> dict[str, SurveyMethod]:
    """The thirty methods by the survey's names, in the order of its classes.

    Source: see the module.
    """
    entries = json.loads((DATA / "methods.json").read_text(encoding="utf-8"))["methods"]
    return {entry["name"]: _method(entry) for entry in entries}


def _method(entry: dict) -> SurveyMethod:
    paper = entry["paper"]
    said = {
        key: tuple(Statement(**statement) for statement in found)
        for key, found in (entry["counts"] | entry["costs"]).items()
    }
    return SurveyMethod(
        name=entry["name"],
        year=entry["year"],
        classes=tuple(entry["classes"]),
        kinds=tuple(entry["kinds"]),
        paper=f'{paper["authors"]} {paper["year"]}, "{paper["title"]}"' if paper else None,
        ours=tuple(entry["ours"]),
        said=said,
        note=entry["note"],
    )


def plot_methods_map(ax: Axes, methods: Sequence[SurveyMethod]) -> dict[str, tuple[str, ...]]:
    """A row for each method, a column for each class, and the package's class where it has one: its marks are full.

    A method of several classes has a mark in each, joined by a line.

    Args:
        ax: where to draw; about a quarter of an inch high for each method.
        methods: of `load_methods_map`.

    Returns:
        name -> the columns drawn, of `COLUMNS`.
    """
    drawn = {}
    for row, method in enumerate(methods):
        if row % 2 == 0:
            ax.axhspan(row - 0.5, row + 0.5, color="#000000", alpha=0.04, linewidth=0, zorder=0)
        drawn[method.name] = (*method.kinds, *(name for name in method.classes if name != "additive"))
        columns = [COLUMNS.index(name) for name in drawn[method.name]]
        ax.plot(columns, [row] * len(columns), color="#777777", linewidth=1.5, zorder=1)
        for column in columns:
            colour, marker = MARKS[column]
            inside = colour if method.ours else "white"
            ax.plot(column, row, linestyle="none", marker=marker, color=colour, markerfacecolor=inside, markersize=8)
        label = method.name if method.year is None else f"{method.name}, {method.year}"
        for x, text, side in ((-0.6, label, "right"), (4.6, ", ".join(method.ours), "left")):
            ax.annotate(text, (x, row), ha=side, va="center", fontsize=9)
    heads = [name.replace(" ", "\n").replace("eterized", "-\neterized") for name in COLUMNS]
    for x, text in enumerate(heads):
        ax.annotate(text, (x, -0.8), ha="center", va="bottom", fontsize=9)
    ax.plot([-0.4, 2.4], [-3, -3], color=MARKS[0][0], linewidth=1.5)
    ax.annotate("additive", (1, -3.1), ha="center", va="bottom", fontsize=10)
    ax.annotate("in this package", (4.6, -0.8), ha="left", va="bottom", fontsize=9)
    ax.set(xlim=(-3.3, 6.7), ylim=(len(methods) - 0.4, -4.3), xticks=[], yticks=[])
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    return drawn


FROZEN, ADDED = "#777777", MARKS[0][0]
PLACES = {  # place -> what the block's feed-forward network F gives there, with x its input and h its output
    "in series": "F(x) + A(F(x))",
    "in parallel": "F(x) + A(x)",
    "beside": "F(x);  s ← S(s, F(x))",
    "in the input": "F of [p; x]",
    "in the activations": "W₂ (l ⊙ act(W₁ x))",
}


def plot_places(axes: Sequence[Axes]) -> dict[str, str]:
    """The same block five times, with what is added in blue: the additive family's five places.

    Args:
        axes: five, one a place.

    Returns:
        place -> the formula under it.
    """
    for ax, (place, formula) in zip(axes, PLACES.items(), strict=True):
        ax.set(xlim=(0, 1), ylim=(0, 1), xticks=[], yticks=[], title=place)
        ax.set_xlabel(formula, fontsize=9)
        ax.grid(visible=False)
        ax.spines[:].set_visible(False)
        if place == "in the activations":
            _box(ax, 0.4, 0.3, "W₁", FROZEN)
            _box(ax, 0.4, 0.72, "W₂", FROZEN)
            ax.plot(0.4, 0.51, "o", color="white", markeredgecolor=ADDED, markeredgewidth=2, markersize=16)
            ax.annotate("l", (0.4, 0.505), ha="center", va="center", color=ADDED)
            ends: tuple[float, ...] = (0.02, 0.21, 0.39, 0.45, 0.57, 0.63, 0.81, 0.98)
        else:
            _box(ax, 0.4, 0.45, "F", FROZEN)
            ends = (0.02, 0.36, 0.54, 0.98) if place != "in series" else (0.02, 0.36, 0.54, 0.67, 0.85, 0.98)
        for low, high in zip(ends[::2], ends[1::2], strict=True):
            _arrow(ax, (0.4, low), (0.4, high), FROZEN)
        if place == "in series":
            _box(ax, 0.4, 0.76, "A", ADDED)
        if place == "in parallel":
            _box(ax, 0.82, 0.45, "A", ADDED)
            _arrow(ax, (0.4, 0.15), (0.82, 0.36), ADDED)
            _arrow(ax, (0.82, 0.54), (0.4, 0.8), ADDED)
        if place == "beside":
            _box(ax, 0.82, 0.76, "S", ADDED)
            _arrow(ax, (0.4, 0.62), (0.7, 0.73), ADDED)
            _arrow(ax, (0.82, 0.02), (0.82, 0.67), ADDED)
            _arrow(ax, (0.82, 0.85), (0.82, 0.98), ADDED)
        if place == "in the input":
            for i, x in enumerate((0.1, 0.25, 0.55, 0.7)):
                ax.plot(x, 0.05, "s", color=ADDED if i < 2 else FROZEN, markersize=8)
            ax.annotate("p", (0.22, 0.2), ha="center", color=ADDED)
            ax.annotate("x", (0.68, 0.2), ha="center", color=FROZEN)
    return dict(PLACES)


def _box(ax: Axes, x: float, y: float, text: str, colour: str) -> None:
    ax.add_patch(FancyBboxPatch((x - 0.1, y - 0.07), 0.2, 0.14, boxstyle="round,pad=0.01", facecolor=colour, alpha=0.9))
    ax.annotate(text, (x, y - 0.005), ha="center", va="center", color="white", fontsize=11)


def _arrow(ax: Axes, start: tuple[float, float], end: tuple[float, float], colour: str) -> None:
    ax.annotate("", end, start, arrowprops={"arrowstyle": "->", "color": colour, "linewidth": 1.5})
