"""Pictures and tables as strings of SVG and HTML, from plain numbers.

    bars    stacked horizontal bars     areas   stacked areas over time, the peak written at it
    lines   curves and points, axes linear or logarithmic     table   a plain table

All text is `currentColor`, so that a picture is readable on a light and on a dark page; colours are those of
`figures`. Each picture carries its one-sentence description for those who do not see it. Drawn for 700 pixels' width.

Source: the colours are those of Okabe and Ito 2008; `role="img"` with a label as in WAI-ARIA.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

from peft_lessons.figures import STYLES

WIDTH = 700
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999999", "#F0E442")
Format = Callable[[float], str]


def plain(value: float) -> str:
    """A number in at most four figures, thousands apart."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


@dataclass(frozen=True)
class Axis:
    """Where numbers lie on one side of a picture, between two pixels."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """The pixel of a number; one beyond the ends lies at the end."""
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log10(low), math.log10(high), math.log10(max(value, 1e-300))
        share = (value - low) / (high - low) if high > low else 0.5
        share = 0.0 if share < 0 else 1.0 if share > 1 else share
        return round(self.start + share * (self.end - self.start), 1)

    def ticks(self) -> list[float]:
        """About five round numbers; on a logarithmic axis powers of ten, where those are few of two, or 1, 2 and 5."""
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            tens, fives = [10.0**p for p in powers], [10.0**p * m for p in powers for m in (1, 2, 5)]
            twos = [2.0**k for k in range(math.ceil(math.log2(self.high)) + 1)] if self.low >= 1 else fives
            kinds = [[t for t in kind if self.low * 0.999 <= t <= self.high * 1.001] for kind in (tens, twos, fives)]
            found = next((kind for kind in kinds if len(kind) >= 3), [self.low, self.high])
            return found[:: math.ceil(len(found) / 9)]
        rough = (self.high - self.low) / 5 or 1.0
        unit = 10.0 ** math.floor(math.log10(rough))
        step = next(unit * m for m in (1, 2, 5, 10) if unit * m >= rough * 0.999)
        count = math.floor(self.high / step + 1e-9) - math.ceil(self.low / step - 1e-9) + 1
        return [(math.ceil(self.low / step - 1e-9) + i) * step for i in range(count)]


def colour_of(name: str, position: int, colours: Mapping[str, str] | None = None) -> str:
    """The colour asked for, else the method's own, else one by position; black as the page's text colour."""
    found = (colours or {}).get(name) or (STYLES[name][0] if name in STYLES else PALETTE[position % len(PALETTE)])
    return "currentColor" if found.lower() in ("#000000", "black") else found


def bars(
    rows: Mapping[str, Mapping[str, float]],
    *,
    alt: str,
    unit: str = "",
    marks: Mapping[str, float] | None = None,
    colours: Mapping[str, str] | None = None,
    form: Format = plain,
) -> str:
    """Stacked horizontal bars with a legend, the total beside each, and labelled vertical marks.

    Args:
        rows: label of a bar -> name of a piece -> its size, at least 0.
        alt: what the picture shows, in one sentence.
        unit: written after totals.
        marks: label -> position of a dashed line, such as a limit; one beyond the bars stretches the axis.
        colours: name of a piece -> colour, where it is not to be chosen here.
        form: how a number is written.

    Returns:
        An SVG element.
    """
    names = list(dict.fromkeys(name for pieces in rows.values() for name in pieces))
    left = 12 + 7 * max((len(label) for label in rows), default=0)
    totals = {label: sum(pieces.values()) for label, pieces in rows.items()}
    axis = Axis(0, max([*totals.values(), *(marks or {}).values()], default=1) or 1, left, WIDTH - 110)
    top = 24 if marks else 6
    parts = []
    for row, (label, pieces) in enumerate(rows.items()):
        y, begun = top + 30 * row, 0.0
        parts.append(_text(left - 8, y + 16, label, anchor="end"))
        for name, size in pieces.items():
            x, colour = axis.at(begun), colour_of(name, names.index(name), colours)
            begun += size
            tip = f"<title>{escape(f'{label}: {name} {form(size)} {unit}'.strip())}</title>"
            width = round(axis.at(begun) - x, 2)
            parts.append(f'<rect x="{x}" y="{y}" width="{width}" height="22" fill="{colour}">{tip}</rect>')
        parts.append(_text(axis.at(totals[label]) + 6, y + 16, f"{form(totals[label])} {unit}".strip()))
    bottom = top + 30 * len(rows)
    for label, value in (marks or {}).items():
        parts.append(_rule(axis.at(value), 16, axis.at(value), bottom) + _text(axis.at(value), 12, label, "middle"))
    legend, height = _legend(names, bottom + 6, colours)
    return _svg(height, alt, *parts, legend)


def areas(
    x: Sequence[float],
    series: Mapping[str, Sequence[float]],
    *,
    alt: str,
    x_label: str = "",
    y_label: str = "",
    marks: Mapping[str, float] | None = None,
    peak: str | None = "peak",
    colours: Mapping[str, str] | None = None,
    form: Format = plain,
    height: int = 300,
) -> str:
    """Stacked areas over time, with labelled moments and the highest total written at its place.

    Args:
        x: positions, rising, (n,).
        series: name -> sizes, (n,) each, at least 0, stacked from the bottom.
        alt: what the picture shows, in one sentence.
        x_label: under the axis.
        y_label: above the axis, with its unit.
        marks: label -> position on x of a dashed line.
        peak: the word at the highest total; None to leave it out.
        colours: name -> colour.
        form: how a number is written.
        height: of the picture without its legend, in pixels.

    Returns:
        An SVG element.
    """
    base = [0.0] * len(x)
    totals = [sum(values) for values in zip(*series.values(), strict=True)]
    across = Axis(x[0], x[-1], 70, WIDTH - 16)
    up = Axis(0, 1.12 * max(totals) or 1, height - 40, 30)
    parts = [_axes(across, up, x_label, y_label, form, numbered=False)]  # the marks say where one is
    places = [across.at(a) for a in x]
    below = [f"{place},{up.start}" for place in places]
    for position, (name, values) in enumerate(series.items()):
        base = [low + value for low, value in zip(base, values, strict=True)]
        there = [f"{place},{up.at(b)}" for place, b in zip(places, base, strict=True)]
        fill = colour_of(name, position, colours)
        points = " ".join(there + below[::-1])
        parts.append(f'<polygon points="{points}" fill="{fill}"><title>{escape(name)}</title></polygon>')
        below = there
    parts.append(_moments(marks or {}, across, up))
    if peak is not None:
        i = max(range(len(totals)), key=totals.__getitem__)
        at, anchor = across.at(x[i]), "end" if across.at(x[i]) > WIDTH / 2 else "start"
        parts.append(f'<circle cx="{at}" cy="{up.at(totals[i])}" r="4" fill="currentColor"/>')
        parts.append(
            _text(at + (-8 if anchor == "end" else 8), up.at(totals[i]) - 6, f"{peak} {form(totals[i])}", anchor)
        )
    legend, full = _legend(list(series), height + 4, colours)
    return _svg(full, alt, *parts, legend)


def lines(
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    alt: str,
    x_label: str = "",
    y_label: str = "",
    log_x: bool = False,
    log_y: bool = False,
    points: Mapping[str, Sequence[tuple[float, float]]] | None = None,
    marks: Mapping[str, float] | None = None,
    colours: Mapping[str, str] | None = None,
    form: Format = plain,
    y_range: tuple[float, float] | None = None,
    width: int = WIDTH,
    height: int = 260,
) -> str:
    """Curves, and points of their own, on axes that may be logarithmic.

    Args:
        series: name -> (x, y) pairs joined by a line.
        alt: what the picture shows, in one sentence.
        x_label: under the axis.
        y_label: above the axis, with its unit.
        log_x: a logarithmic axis; numbers that are not above 0 are then left out.
        log_y: the same for y.
        points: name -> (x, y) pairs drawn as dots, in the colour of the series of that name.
        marks: label -> position on x of a dashed line.
        colours: name -> colour.
        form: how a number is written.
        y_range: ends of the y axis, where the numbers are not to choose.
        width: of the picture, in pixels; 340 for two side by side.
        height: of the picture without its legend, in pixels.

    Returns:
        An SVG element.
    """
    dots, names = dict(points or {}), list(dict.fromkeys([*series, *(points or {})]))
    keep = {name: [p for p in series.get(name, ()) if _drawn(p, log_x, log_y)] for name in names}
    spots = {name: [p for p in dots.get(name, ()) if _drawn(p, log_x, log_y)] for name in names}
    every = [p for group in (*keep.values(), *spots.values()) for p in group]
    low, high = y_range or _span([y for _, y in every], log_y)
    xs = [x for x, _ in every] + list((marks or {}).values())
    across = Axis(min(xs, default=0), max(xs, default=1), 70, width - 16, log_x)
    up = Axis(low, high, height - 40, 30, log_y)
    parts = [_axes(across, up, x_label, y_label, form)]
    for position, name in enumerate(names):
        colour = colour_of(name, position, colours)
        route = " ".join(f"{across.at(a)},{up.at(b)}" for a, b in keep[name])
        parts.append(f'<polyline points="{route}" fill="none" stroke="{colour}" stroke-width="2"/>' if route else "")
        parts += [f'<circle cx="{across.at(a)}" cy="{up.at(b)}" r="3.5" fill="{colour}"/>' for a, b in spots[name]]
    parts.append(_moments(marks or {}, across, up))
    legend, full = _legend(names if len(names) > 1 else [], height + 4, colours, width)
    return _svg(full, alt, *parts, legend, width=width)


def table(head: Sequence[str], rows: Sequence[Sequence[object]], *, caption: str) -> str:
    """A plain table: the first column names the rows, the others hold numbers or words.

    Args:
        head: the columns' names.
        rows: one sequence of cells each, as long as the head; anything but a string is written by `plain`.
        caption: the table's title.

    Returns:
        An HTML table.
    """

    def cell(value: object) -> str:
        return escape(plain(value) if isinstance(value, int | float) else str(value))

    top = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = ""
    for first, *others in rows:
        cells = "".join(f"<td>{cell(value)}</td>" for value in others)
        body += f'<tr><th scope="row">{cell(first)}</th>{cells}</tr>'
    title = f"<caption>{escape(caption)}</caption>"
    return f'<table class="peft">{title}<thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>'


def _svg(height: float, alt: str, *parts: str, width: int = WIDTH) -> str:
    if not alt.strip():
        raise ValueError("Every picture needs alt text: one sentence that says what it shows.")
    label = escape(alt)
    style = "max-width: 100%; display: block; font: 13px sans-serif"
    box = f'viewBox="0 0 {width} {height}" width="{width}" style="{style}"'
    body = f"<title>{label}</title>{''.join(parts)}"
    return f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{label}" {box}>{body}</svg>'


def _text(x: float, y: float, words: str, anchor: str = "start") -> str:
    return (
        f'<text x="{round(x, 1)}" y="{round(y, 1)}" text-anchor="{anchor}" fill="currentColor">{escape(words)}</text>'
    )


def _rule(x1: float, y1: float, x2: float, y2: float, dashes: str = "4 3", opacity: float = 1) -> str:
    ends = f'x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"'
    return f'<line {ends} stroke="currentColor" stroke-dasharray="{dashes}" stroke-opacity="{opacity}"/>'


def _axes(across: Axis, up: Axis, x_label: str, y_label: str, form: Format, numbered: bool = True) -> str:
    """Grid lines with their numbers, on the axis across only where asked for, and both labels."""
    parts = [_text(across.start - 60, 14, y_label), _text(across.end, up.start + 36, x_label, "end")]
    for tick in up.ticks():
        y = up.at(tick)
        parts.append(
            _rule(across.start, y, across.end, y, "none", 0.2) + _text(across.start - 6, y + 4, form(tick), "end")
        )
    for tick in across.ticks() if numbered else ():
        x = across.at(tick)
        parts.append(_rule(x, up.start, x, up.start + 5, "none") + _text(x, up.start + 19, plain(tick), "middle"))
    parts.append(_rule(across.start, up.start, across.end, up.start, "none"))
    return "".join(parts)


def _moments(marks: Mapping[str, float], across: Axis, up: Axis) -> str:
    """Dashed lines with a label each, on the side where there is room."""
    parts = []
    for row, (label, value) in enumerate(marks.items()):
        x, y = across.at(value), up.end + 12 + 16 * (row % 3)
        side = ("end", -5) if x > (across.start + across.end) / 2 else ("start", 5)
        parts.append(_rule(x, up.start, x, up.end) + _text(x + side[1], y, label, side[0]))
    return "".join(parts)


def _legend(names: Sequence[str], y: float, colours: Mapping[str, str] | None, width: int = WIDTH) -> tuple[str, float]:
    """Coloured squares with names, in as many rows as they need; and where the picture ends."""
    parts, x = [], 12.0
    for position, name in enumerate(names):
        wide = 26 + 7.5 * len(name)
        if x + wide > width and x > 12:
            x, y = 12.0, y + 20
        square = f'<rect x="{x}" y="{y + 2}" width="12" height="12" fill="{colour_of(name, position, colours)}"/>'
        parts.append(square + _text(x + 17, y + 13, name))
        x += wide
    return "".join(parts), y + (22 if names else 0)


def _drawn(point: tuple[float, float], log_x: bool, log_y: bool) -> bool:
    x, y = point
    return math.isfinite(x) and math.isfinite(y) and (x > 0 or not log_x) and (y > 0 or not log_y)


def _span(values: Sequence[float], log: bool) -> tuple[float, float]:
    """Ends of an axis with a little room; a linear one starts at 0 where nothing is below."""
    low, high = min(values, default=0), max(values, default=1)
    if log:
        return (low / 1.5, high * 1.5) if values else (1, 10)
    return min(0.0, low), high + 0.06 * (high - min(0.0, low)) or 1.0
