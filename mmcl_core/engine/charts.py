"""Charts of the report page as SVG and HTML text: sharp at any size, coloured by the page's own CSS variables."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

from mmcl_core.metrics import FUSED
from mmcl_core.words import counted

__all__ = ["Series", "colour_of", "heat_table", "line_chart", "reliability_chart"]

Points = Sequence[tuple[float, float]]

_WIDTH, _HEIGHT = 520, 254
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 12, 10, 34
#: More points than this are averaged in runs: a line has no more room.
_POINTS = 300
#: Most classes of a confusion matrix on the page.
CLASSES = 100
#: Most classes of a matrix that is taken in at a glance; of more, the most frequent confusions are listed.
_GLANCE = 30
#: Confusions that are listed beside the matrix, and in place of one that is too large.
_PAIRS, _PAIRS_ALONE = 10, 40
#: Least height of a bar, pixels: one of 0 is seen, too.
_STUB = 3


class Series(NamedTuple):
    """One line: its name, its points, and the number of its colour."""

    name: str
    points: Points
    colour: int


class _Axes:
    """Maps values to pixels."""

    def __init__(self, x: tuple[float, float], y: tuple[float, float]) -> None:
        self.x, self.y = (_widened(*limits) for limits in (x, y))

    def at(self, x: float, y: float) -> tuple[float, float]:
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        return _LEFT + across * (_WIDTH - _LEFT - _RIGHT), _HEIGHT - _BOTTOM - up * (_HEIGHT - _TOP - _BOTTOM)

    def frame(self, x_label: str, y_label: str = "") -> str:
        parts = []
        for value in ticks(*self.y):
            _, v = self.at(self.x[0], value)
            parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{v:.1f}" y2="{v:.1f}"/>')
            parts.append(f'<text x="{_LEFT - 6}" y="{v + 3.5:.1f}" text-anchor="end">{_number(value)}</text>')
        for value in ticks(*self.x):
            u, _ = self.at(value, self.y[0])
            parts.append(f'<text x="{u:.1f}" y="{_HEIGHT - 18}" text-anchor="middle">{_number(value)}</text>')
        middle = (_LEFT + _WIDTH - _RIGHT) / 2
        parts.append(f'<text x="{middle:.0f}" y="{_HEIGHT - 5}" text-anchor="middle">{escape(x_label)}</text>')
        if y_label:
            down = (_TOP + _HEIGHT - _BOTTOM) / 2
            turned = f'transform="rotate(-90 12 {down:.0f})" text-anchor="middle"'
            parts.append(f'<text x="12" y="{down:.0f}" {turned}>{escape(y_label)}</text>')
        return "".join(parts)


def line_chart(
    title: str,
    series: Sequence[Series],
    x_label: str = "update",
    y_limits: tuple[float, float] | None = None,
    marks: Sequence[float] = (),
    last: bool = True,
) -> str:
    """Lines over a common x axis, as a figure with a legend.

    Args:
        title: of the figure.
        series: the lines; values that are not finite are left out.
        x_label: under the axis.
        y_limits: of the axis; ``None``: what the lines need.
        marks: x of vertical lines, ascending, such as the beginnings of stages: each line ends there and begins anew.
        last: whether the legend gives the last value of each line.

    Returns:
        HTML; empty where there is nothing to draw.
    """
    lines = [(s, _thinned([p for p in s.points if math.isfinite(p[1])], marks)) for s in series]
    lines = [(s, pieces) for s, pieces in lines if pieces]
    if not lines:
        return ""
    xs, ys = zip(*(point for _, pieces in lines for points in pieces for point in points), strict=True)
    axes = _Axes((min(xs), max(xs)), y_limits or (min(ys), max(ys)))
    parts = [axes.frame(x_label)]
    for mark in marks:
        u, _ = axes.at(mark, 0)
        parts.append(f'<line class="mark" x1="{u:.1f}" x2="{u:.1f}" y1="{_TOP}" y2="{_HEIGHT - _BOTTOM}"/>')
    for line, points in ((line, points) for line, pieces in lines for points in pieces):
        places = [axes.at(x, y) for x, y in points]
        path = " ".join(f"{u:.1f},{v:.1f}" for u, v in places)
        parts.append(
            f'<polyline class="line s{line.colour}" points="{path}"><title>{escape(line.name)}</title></polyline>'
        )
        if len(places) == 1:
            parts.append(f'<circle class="dot s{line.colour}" cx="{places[0][0]:.1f}" cy="{places[0][1]:.1f}" r="3"/>')
    legend = "".join(
        f'<span><i class="s{line.colour}"></i>{escape(line.name)}'
        + (f" <b>{pieces[-1][-1][1]:.4g}</b></span>" if last else "</span>")
        for line, pieces in lines
    )
    return _figure(title, "".join(parts), f'<div class="legend">{legend}</div>')


def reliability_chart(
    title: str, edges: Sequence[float], confidence: Sequence[float | None], accuracy: Sequence[float | None],
    samples: Sequence[int], colour: int,
) -> str:  # fmt: skip
    """Accuracy against confidence in bins; on the diagonal, probabilities can be taken at their word.

    The number of samples stands over each bar; one of accuracy 0 is a stub.
    """
    axes = _Axes((0, 1), (0, 1.1))  # room for the numbers
    (u, v), (end, top) = axes.at(0, 0), axes.at(1, 1)
    diagonal = f'<line class="mark" x1="{u:.1f}" y1="{v:.1f}" x2="{end:.1f}" y2="{top:.1f}"/>'
    parts, numbers = [axes.frame("confidence", "share right")], []
    for low, high, sure, right, count in zip(edges[:-1], edges[1:], confidence, accuracy, samples, strict=True):
        if right is None or sure is None:
            continue
        (u, v), (end, base) = axes.at(low, right), axes.at(high, 0)
        v = min(v, base - _STUB)
        hint = f"confidence {sure:.3f}, accuracy {right:.3f}, {counted(count, 'sample')}"
        parts.append(
            f'<rect class="bar s{colour}" x="{u + 1:.1f}" y="{v:.1f}" width="{end - u - 2:.1f}" '
            f'height="{base - v:.1f}">'
            f"<title>{hint}</title></rect>"
        )
        middle = f'x="{(u + end) / 2:.1f}" y="{v - 4:.1f}"'
        numbers.append(f'<text class="count" {middle} text-anchor="middle">{_short(count)}</text>')
    return _figure(title, "".join([*parts, diagonal, *numbers]), "")


def _short(count: int) -> str:
    """A number that is no wider than a bar."""
    return str(count) if count < 10_000 else f"{count / 1000:.0f}k"


def heat_table(confusion: Sequence[Sequence[int]], classes: Sequence[str]) -> str:
    """A confusion matrix as an HTML table, shaded by the share of the row; classes that never occur are left out.

    Of more than :data:`CLASSES` a page would be neither read nor opened: the most frequent confusions are listed.
    They stand before the matrix, too, where it is not taken in at a glance.
    """
    size, totals = range(len(classes)), [sum(row) for row in confusion]
    shown = [c for c in size if totals[c] or any(row[c] for row in confusion)]
    if len(shown) > CLASSES:
        return _most_confused(confusion, classes, totals, _PAIRS_ALONE)
    listed = _most_confused(confusion, classes, totals, _PAIRS) if len(shown) > _GLANCE else ""
    head = "".join(
        f'<th scope="col" title="{escape(classes[c])}"><span>{escape(classes[c])}</span></th>' for c in shown
    )
    rows = []
    for row in shown:
        total = totals[row] or 1
        cells = []
        for column in shown:
            count = confusion[row][column]
            kind = "hit" if row == column else "miss"
            hint = f"{escape(classes[row])} called {escape(classes[column])}: {count} of {totals[row]}"
            cells.append(
                f'<td class="{kind}" style="--a:{count / total:.2f}" title="{hint}">{count}</td>'
                if count
                else "<td></td>"
            )
        name = escape(classes[row])
        rows.append(f'<tr><th scope="row" title="{name}"><span>{name}</span></th>{"".join(cells)}</tr>')
    table = f'<table class="heat"><tr><td></td>{head}</tr>{"".join(rows)}</table>'
    return f'{listed}<div class="scroll matrix">{table}</div>'


def _most_confused(
    confusion: Sequence[Sequence[int]], classes: Sequence[str], totals: Sequence[int], number: int
) -> str:
    """The pairs of classes that are taken for one another most often, as an HTML table."""
    pairs = ((n, row, column) for row, line in enumerate(confusion) for column, n in enumerate(line))
    found = heapq.nsmallest(number, (pair for pair in pairs if pair[0] and pair[1] != pair[2]), lambda one: -one[0])
    rows = "".join(
        f"<tr><td>{escape(classes[row])}</td><td>{escape(classes[column])}</td><td>{n}</td>"
        f"<td>{n / totals[row]:.2f}</td></tr>"
        for n, row, column in found
    )
    head = "<tr><th>true class</th><th>answer</th><th>samples</th><th>share of the class</th></tr>"
    shown = counted(len(found), "most frequent confusion")
    note = f"The {shown} of {counted(len(classes), 'class')}; metrics.json has all."
    return f'<p class="muted">{note}</p><div class="scroll"><table class="plain">{head}{rows}</table></div>'


def ticks(low: float, high: float, most: int = 6) -> list[float]:
    """Round numbers between ``low`` and ``high``."""
    step = 10.0 ** math.floor(math.log10((high - low) / most))
    step *= next(factor for factor in (1, 2, 5, 10) if (high - low) / (factor * step) <= most)
    first = math.ceil(low / step - 1e-9)
    return [n * step for n in range(first, math.floor(high / step + 1e-9) + 1)]


def _figure(title: str, drawing: str, below: str) -> str:
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        f'aria-label="{escape(title)}">{drawing}</svg>{below}</figure>'
    )


def _widened(low: float, high: float) -> tuple[float, float]:
    return (low, high) if high > low else (low - 0.5 * (abs(low) or 1), high + 0.5 * (abs(high) or 1))


def _thinned(points: Points, marks: Sequence[float]) -> list[Points]:
    """The pieces of a line between marks, each of at least a point, with no more points than there is room for."""
    run, bounds = -(-len(points) // _POINTS), (-math.inf, *marks, math.inf)
    between = [[p for p in points if low <= p[0] < high] for low, high in itertools.pairwise(bounds)]
    runs = [[piece[at : at + run] for at in range(0, len(piece), run)] for piece in between if piece]
    return [[(some[-1][0], sum(y for _, y in some) / len(some)) for some in piece] for piece in runs]


def _number(value: float) -> str:
    if value and (abs(value) >= 1e5 or abs(value) < 1e-3):
        return f"{value:.1e}".replace(".0e", "e").replace("e-0", "e-").replace("e+0", "e")
    return f"{value:.6g}"


def colour_of(name: str, others: Mapping[str, int]) -> int:
    """Number of the colour of a modality or term: fixed for rgb, depth and rgbd, in turn for others."""
    return {"rgb": 0, "depth": 1, FUSED: 2}.get(name, 3 + others.get(name, 0) % 5)
