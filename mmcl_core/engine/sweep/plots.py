"""Plots of a summary in the colours of the report pages, drawn with matplotlib without a display."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmcl_core.confusion import save_figure
from mmcl_core.engine.charts import colour_of
from mmcl_core.engine.sweep.summary import Line, Summary
from mmcl_core.engine.sweep.table import Column, Row, file_name

__all__ = ["save_plots"]

#: The light colours of :mod:`mmcl_core.engine.page`.
_COLOURS = ("#2f6db5", "#d07a1c", "#2f8f63", "#8a5bb5", "#b84a62", "#6a7480", "#1f9aa6", "#a3852b")
_TEXT, _MUTED, _GRID = "#1d2023", "#666d75", "#dfe1e4"
#: Letters in a line of a row's title; a longer one is broken, so that it does not take the room of the figures.
_TITLE_WIDTH = 42
#: The same over a panel, which ends where the next one begins.
_PANEL_TITLE_WIDTH = 46
_LEGEND_COLUMNS = 2
#: What tells the rows of curves apart besides their colours; the diamond is the paper's.
_MARKERS = ("o", "s", "^", "v", "P", "X", "<", ">")
_DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)), (0, (3, 3)))
#: Rows stand beside one another at a point, so far apart: their error bars do not hide each other.
_APART = 0.02
#: Where an axis of accuracy ends, percent.
_MOST = 101.0


def save_plots(summary: Summary, folder: Path) -> list[Path]:
    """Draw ``plot.png`` of the own test split and one for each further test set that has figures.

    A table with points is drawn as curves over them, any other as one line of dots for each row: seeds small, their
    mean as a bar, the paper's figure as a hollow diamond, a point of accuracy as wide in every panel. Plots that an
    earlier start left, of figures that are no longer those of the table, are removed.

    Returns:
        The files.
    """
    import matplotlib

    paths = []
    for number, test in enumerate(summary.tests):
        if any(test in result.scores for result in summary.results.values()):
            path = folder / ("plot.png" if not number else f"plot-{file_name(test)}.png")
            with matplotlib.rc_context({"text.parse_math": False}):  # a $ in a title is a dollar
                (_save_curves if summary.plan.table.points else _save_dots)(summary, test, path)
            paths.append(path)
    for old in set(folder.glob("plot*.png")) - set(paths):
        old.unlink(missing_ok=True)
    return paths


def _save_dots(summary: Summary, test: str, path: Path) -> None:
    columns, lines = _ordered(summary.columns(test)), summary.lines
    others = {column.modality: number for number, column in enumerate(columns)}
    figure, panels = _panels(len(columns), 1.3 + 0.34 * len(lines))
    papers = False
    for panel, column in zip(panels, columns, strict=True):
        colour = _COLOURS[colour_of(column.modality, others)]
        for height, line in enumerate(lines):
            values = list(summary.by_seed(line, column.name, test).values())
            panel.plot(values, [height] * len(values), "o", color=colour, alpha=0.45, markersize=4.5, linewidth=0)
            if values:
                mean = sum(values) / len(values)
                panel.plot([mean, mean], [height - 0.3, height + 0.3], color=colour, linewidth=2.4)
            paper = () if test else summary.paper(line, column.name)
            if paper:
                panel.plot(paper[0], height, "D", markerfacecolor="none", color=_MUTED, markersize=6)
                papers = True
        panel.set_yticks(range(len(lines)), [textwrap.fill(line.row.title, _TITLE_WIDTH) for line in lines])
        panel.set_ylim(len(lines) - 0.5, -0.5)
        panel.set_xlabel("top-1, %")
        _dress(panel, column.title + (f", {test}" if test else ""))
    _share_span(panels)
    note = "dots: seeds, bar: mean" + (", diamond: the paper's figure" if papers else "")
    figure.supxlabel(note, fontsize=8, color=_MUTED)
    save_figure(figure, path)


def _ordered(columns: Mapping[str, Column]) -> list[Column]:
    """RGB before depth, further modalities after them."""
    return sorted(columns.values(), key=lambda column: colour_of(column.modality, {}))


def _share_span(panels: Sequence[Any]) -> None:
    """Let every x axis run over as many points of accuracy, with its own figures in the middle, and not past 100."""
    limits = [panel.get_xlim() if panel.lines else (0.0, 0.0) for panel in panels]
    half = max(high - low for low, high in limits) / 2
    for panel, (low, high) in zip(panels, limits, strict=True):
        if panel.lines and half:
            middle = max(min((low + high) / 2, _MOST - half), high - half)
            panel.set_xlim(middle - half, middle + half)


def _save_curves(summary: Summary, test: str, path: Path) -> None:
    table = summary.plan.table
    assert table.points is not None
    columns = _ordered(summary.columns(test))
    rows = -(-(len(table.shown) + 1) // _LEGEND_COLUMNS)
    figure, panels = _panels(len(columns), 3.6 + 0.22 * rows)
    log = min(table.points.values) > 0 and max(table.points.values) > 5 * min(table.points.values)
    papers = False
    for panel, column in zip(panels, columns, strict=True):
        for number, row in enumerate(table.shown):
            colour, places = _COLOURS[number % len(_COLOURS)], _dodged(table.points.values, table.shown, number, log)
            every = sorted(table.points.values)
            found = [(point, summary.mean(Line(row, point), column.name, test)) for point in every]
            at = [(point, mean) for point, mean in found if mean is not None]
            if at:
                panel.errorbar(
                    [places[point] for point, _ in at],
                    [mean.mean for _, mean in at],
                    [mean.std if mean.number > 1 else 0 for _, mean in at],
                    color=colour, marker=_MARKERS[number % len(_MARKERS)], linestyle=_DASHES[number % len(_DASHES)],
                    markersize=5, capsize=2.5, elinewidth=1.2, linewidth=1.6, label=row.title,
                )  # fmt: skip
            paper = [(point, summary.paper(Line(row, point), column.name)) for point in table.points.values]
            known = [(places[point], figure[0]) for point, figure in paper if figure and not test]
            if known:
                panel.plot(*zip(*known, strict=True), "D", markerfacecolor="none", color=colour)
                papers = True
        if log:
            panel.set_xscale("log")
        panel.set_xticks(table.points.values, [f"{value:g}" for value in table.points.values])
        panel.minorticks_off()
        panel.set_xlabel((table.points.title or table.points.setting) + (" (log scale)" if log else ""))
        panel.set_ylabel("top-1, %")
        _dress(panel, column.title + (f", {test}" if test else ""))
    named: dict[str, Any] = {}
    for panel in panels:  # a row may have runs in some columns alone
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            named.setdefault(label, handle)
    if papers:
        named["the paper's figure, in the colour of its row"] = panels[0].plot(
            [], "D", markerfacecolor="none", color="black"
        )[0]
    if named:
        figure.legend(
            named.values(), named.keys(), loc="outside lower left", ncols=_LEGEND_COLUMNS, frameon=False, fontsize=8
        )
    save_figure(figure, path)


def _dodged(points: Iterable[float], rows: Sequence[Row], number: int, log: bool) -> dict[float, float]:
    """Where a row's figures stand for each point."""
    points = list(points)
    step = _APART * (number - (len(rows) - 1) / 2)
    return {point: point * (1 + step) if log else point + step * (max(points) - min(points)) for point in points}


def _panels(count: int, height: float) -> tuple[Any, list[Any]]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1.8 + 4.0 * count, height), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(1, count, squeeze=False, sharey=True)[0])


def _dress(panel: Any, title: str) -> None:
    panel.set_title(textwrap.fill(title, _PANEL_TITLE_WIDTH), fontsize=10, color=_TEXT, loc="left")
    panel.grid(color=_GRID, linewidth=0.8)
    panel.set_axisbelow(True)
    panel.tick_params(colors=_MUTED, labelsize=8, length=0)
    for label in (panel.xaxis.label, panel.yaxis.label):
        label.set(color=_MUTED, fontsize=9)
    for side, spine in panel.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(_GRID)
