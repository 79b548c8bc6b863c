"""What the memory explorer shows of a training step: strings of HTML, from numbers that `accounting` gives.

Source: see `memory`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from peft_lessons.accounting.advice import GB, Range, Suggestion
from peft_lessons.accounting.explain import Term
from peft_lessons.accounting.rules import Verdict
from peft_lessons.accounting.step import CATEGORIES
from peft_lessons.accounting.tables import Answer
from peft_lessons.explorers.svg import areas, bars, table
from peft_lessons.figures import CATEGORY_COLOURS

GiB = 2**30
COLOURS = dict(zip(CATEGORIES, CATEGORY_COLOURS, strict=True))
DRAWN = 48  # moments drawn of each stage


@dataclass(frozen=True)
class Curve:
    """Live bytes over a step, (moments, categories), and the moment at which each stage begins."""

    moments: np.ndarray
    begins: Mapping[str, int]

    def live(self) -> np.ndarray:
        """Bytes held at each moment."""
        return self.moments

    def stages(self) -> dict[str, np.ndarray]:
        """stage -> its part of the curve, (moments, categories)."""
        starts = [0, *list(self.begins.values())[1:], len(self.moments)]
        return {name: self.moments[a:b] for name, a, b in zip(self.begins, starts, starts[1:], strict=False)}

    def highest(self) -> dict[str, np.ndarray]:
        """stage -> bytes by category at its own highest moment."""
        return {name: part[part.sum(1).argmax()] for name, part in self.stages().items()}


def gib(n_bytes: float) -> str:
    """Bytes in GiB, three decimals."""
    return f"{n_bytes / GiB:,.3f}"


def place_in_words(place: str) -> str:
    """Where the peak is: the loss, a layer's forward or backward pass, or the optimizer's step.

    Args:
        place: as in `Answer.place`, "stage, module".
    """
    stage, _, module = place.partition(", ")
    if stage == "loss":
        return "in the loss" + (f", at {module}" if module else "")
    if stage == "optimizer step":
        return "in the optimizer's step"
    inside = f" inside {module}" if module else ""
    return f"in the {stage} pass{inside}"


def headline(answer: Answer, spread: int, extra: Range) -> str:
    """The peak, where it is, its largest piece, how it compares to the weights, and what comes on top.

    Args:
        answer: what the step holds.
        spread: bytes of it that a paged optimizer can move to the host.
        extra: what the GPU holds beside the step.
    """
    peak, weights = answer.peak, answer.at_peak["weights"]
    largest, size = max(answer.at_peak.items(), key=lambda piece: piece[1])
    paged = ""
    if spread:
        paged = (
            f"<br>The optimizer's states are paged: up to {gib(spread)} GiB of them can move to the host, so the peak "
            f"on the GPU is <b>{gib(peak - spread)} to {gib(peak)} GiB</b>."
        )
    low, high = 12 * weights / GiB, 20 * weights / GiB
    return (
        f'<p data-part="total"><b style="font-size: 22px">{gib(peak)} GiB</b> = {peak:,} bytes at the peak, '
        f"{escape(place_in_words(answer.place))}.{paged}<br>"
        f"The largest piece is <b>{largest}</b>, {gib(size)} GiB, {size / peak:.0%} of it.<br>"
        f"That is <b>{peak / weights:.2f} times the weights</b> ({gib(weights)} GiB as held, adapters included); "
        f"the often quoted &ldquo;12 to 20 times&rdquo; would be {low:,.1f} to {high:,.1f} GiB.<br>"
        f"Apart from it, and not counted: {gib(extra.low)} to {gib(extra.high)} GiB for {escape(extra.text)}.</p>"
    )


def bars_chart(answer: Answer, curve: Curve, card: int) -> str:
    """The highest moment of each stage by category; the highest of them is the peak."""
    highest = {name: row / GiB for name, row in curve.highest().items()}
    totals = {name: row.sum() for name, row in highest.items()}
    top = max(totals, key=lambda name: totals[name])
    present = [i for i in range(len(CATEGORIES)) if any(row[i] for row in highest.values())]
    rows = {
        f"peak: {name}" if name == top else name: {CATEGORIES[i]: float(row[i]) for i in present}
        for name, row in highest.items()
    }
    limit = card * GB / GiB
    return bars(
        rows,
        alt=f"The highest moment of each stage by category; the peak is {gib(answer.peak)} GiB, {answer.place}.",
        unit="GiB",
        marks={f"{card} GB": limit} if limit < 4 * totals[top] else None,
        colours=COLOURS,
        form=short,
    )


def short(value: float) -> str:
    """A number of GiB in three figures, as pictures have room for; the exact one stands above them."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def curve_chart(answer: Answer, curve: Curve) -> str:
    """What the step holds from moment to moment; each stage is drawn equally wide."""
    x: list[float] = []
    rows = []
    for position, part in enumerate(curve.stages().values()):
        kept = _thinned(part.sum(1))
        x += [position + (k + 0.5) / len(part) for k in kept]
        rows.append(part[kept])
    live = np.concatenate(rows) / GiB
    names = list(curve.begins)
    return areas(
        [0.0, *x, float(len(names))],
        {
            category: [column[0], *column, column[-1]]
            for category, column in zip(CATEGORIES, live.T.tolist(), strict=True)
            if any(column)
        },
        alt=f"Bytes held over the step, by category; the peak of {gib(answer.peak)} GiB is {answer.place}.",
        x_label="the step's stages, each drawn equally wide",
        y_label="GiB held",
        marks={f"{name} →" if 2 * i > len(names) else name: float(i) for i, name in enumerate(names)},
        peak="peak",
        colours=COLOURS,
        form=short,
        height=280,
    )


def _thinned(totals: np.ndarray) -> list[int]:
    """Few moments of a stage, in order: the highest of each of `DRAWN` parts."""
    edges = np.unique(np.linspace(0, len(totals), min(DRAWN, len(totals)) + 1).astype(int))
    return [int(a + totals[a:b].argmax()) for a, b in zip(edges, edges[1:], strict=False)]


def fits_table(fitting: Mapping[int, str], card: int, longest: int, largest: int, batch: int, length: int) -> str:
    """Which cards the step fits, and what still fits the chosen one.

    Args:
        fitting: card in GB -> "yes", "perhaps" or "no".
        card: the chosen one, in GB.
        longest: sequence that fits it at this batch; 0 for none.
        largest: batch that fits it at this length; 0 for none.
        batch: sequences in a batch.
        length: tokens in a sequence.
    """
    row = table(
        ["fits in", *(f"{size} GB" for size in fitting)],
        [["this step", *fitting.values()]],
        caption="Does it fit? (GB of 10⁹ bytes; “perhaps” depends on what the GPU holds beside it)",
    )
    at_length = f"<b>{largest:,}</b>" if largest else "<b>none</b>"
    at_batch = f"<b>{longest:,} tokens</b>" if longest else "<b>none</b>"
    return (
        f"{row}<p>On {card} GB, the most room for everything else left free: longest sequence at batch {batch} "
        f"{at_batch}; largest batch at length {length:,} {at_length}.</p>"
    )


def changes_list(found: Sequence[Suggestion], peak: int) -> str:
    """What to change first: single changes, the largest saving on top."""
    if not found:
        return "<p><b>What to change first:</b> no single change whose prediction is at hand saves anything.</p>"
    rows = [[s.change, gib(s.peak), f"−{gib(peak - s.peak)}", f"−{1 - s.peak / peak:.0%}"] for s in found[:6]]
    return table(["change", "GiB then", "saves", "of the peak"], rows, caption="What to change first, one at a time")


def switches_list(sentences: Sequence[str]) -> str:
    """What happens without being asked for."""
    if not sentences:
        return "<p><b>Silent switches:</b> none here.</p>"
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    return f"<div><b>Silent switches:</b> what happens unasked<ul>{items}</ul></div>"


def terms_fold(terms: Sequence[Term], closed: Sequence[Term], peak: int) -> str:
    """The peak as a sum, term by term; and what is stored, each term with its reason, where there is a closed form."""
    rows = [[t.category, t.formula, f"{t.n_bytes:,}"] for t in terms]
    rows.append(["sum", "the peak", f"{sum(t.n_bytes for t in terms):,}"])
    parts = table(["category", "term", "bytes"], rows, caption=f"{peak:,} bytes at the peak")
    if closed:
        derived = [[t.category, t.formula, f"{t.n_bytes:,}"] for t in closed]
        parts += "<p>n = batch · length tokens, h d_model, f d_ff, q and k widths of queries and keys, L layers, " + (
            "V vocabulary, e bytes of an activation, e_a of an adapter's weight, r rank</p>"
        )
        parts += table(
            ["category", "term", "bytes"], derived, caption="Derived from the architecture: what is held, and why"
        )
    return _fold("terms", "The formulas, term by term", parts)


def rules_fold(verdicts: Sequence[Verdict]) -> str:
    """Public rules of thumb beside the prediction."""
    rows = [[v.rule, v.covers, gib(v.says), gib(v.holds), f"{v.ratio:.2f}"] for v in verdicts]
    head = ["rule of thumb", "counts", "says, GiB", "predicted here, GiB", "ratio"]
    shown = table(head, rows, caption="Each beside what it says it counts")
    return _fold("rules", "Public rules of thumb beside it", shown)


def _fold(key: str, title: str, body: str) -> str:
    return f'<details data-fold="{key}"><summary>{escape(title)}</summary>{body}</details>'


def plain_table(title: str, answer: Answer, curve: Curve) -> str:
    """The peak and each stage's highest moment by category, as plain text in MiB."""
    columns = {"peak": np.array(list(answer.at_peak.values())), **curve.highest()}
    lines = [title, f"peak {gib(answer.peak)} GiB = {answer.peak:,} bytes, {place_in_words(answer.place)}"]
    lines.append("highest, MiB".ljust(18) + "".join(name.rjust(16) for name in columns))
    for i, category in enumerate(CATEGORIES):
        lines.append(category.ljust(18) + "".join(f"{row[i] / 2**20:16,.1f}" for row in columns.values()))
    lines.append("sum".ljust(18) + "".join(f"{row.sum() / 2**20:16,.1f}" for row in columns.values()))
    return "\n".join(lines)
