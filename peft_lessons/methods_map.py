"""The thirty methods of the survey's taxonomy, from `data/methods.json`: where each stands, and what is said of it.

What a survey or a paper says stands with its source, what follows from an equation is marked as such, and what could
not be looked up is left empty.

Source: the taxonomy figure of Lialin, Deshpande and Rumshisky 2023, "Scaling Down to Scale Up".
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from matplotlib.axes import Axes

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
