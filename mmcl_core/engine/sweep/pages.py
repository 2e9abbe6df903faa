"""A summary as text for people and programs: Markdown, CSV, and one page of HTML that needs no other file."""

from __future__ import annotations

import base64
import csv
import io
import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from mmcl_core.engine.page import html_document, table_of_values
from mmcl_core.engine.sweep.seeds import Spread
from mmcl_core.engine.sweep.summary import MEASURES, Cost, Gain, Line, Summary
from mmcl_core.engine.sweep.table import OWN_TEST, Paper
from mmcl_core.words import counted

__all__ = ["csv_of_runs", "csv_of_table", "html_page", "markdown"]

#: Abbreviations that titles of rows and comparisons may have, in the paper's words.
_ABBREVIATIONS = {
    "CE": "classification by cross-entropy",
    "CL": "contrastive learning",
    "AMDIM": "augmented multiscale Deep InfoMax, contrast between two views of one sensor's picture",
    "RA": "RandAugment",
    "CMC": "Contrastive Multiview Coding",
}


class _Grid(NamedTuple):
    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


def markdown(summary: Summary) -> str:
    """The tables as Markdown."""
    parts = [f"# {summary.plan.table.title}\n"]
    parts += [f"{line}\n" for line in _facts(summary)]
    for grid in _grids(summary):
        rows = [grid.head, ["---"] * len(grid.head), *grid.rows]
        text = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)
        notes = "".join(f"\n- {note}" for note in grid.notes)
        parts.append(f"## {grid.title}\n\n{text}\n" + (f"{notes}\n" if notes else ""))
    return "\n".join(parts)


def csv_of_table(summary: Summary) -> str:
    """One line for each line of the table, column, test set for it and measure; empty cells where nothing is known."""
    rows = []
    for line in summary.lines:
        cost = summary.cost(line)
        for column in line.row.cells:
            for test in (test for test in summary.tests if column in summary.columns(test)):
                for measure in summary.measures(test):
                    found, cells = summary.mean(line, column, test, measure), summary.cells(line, column)
                    paper = (*(() if test else summary.paper(line, column)), "", "")
                    rows.append(
                        {
                            "row": line.row.name,
                            "title": line.row.title,
                            "point": "" if line.point is None else line.point,
                            "column": column,
                            "test": test or OWN_TEST,
                            "measure": measure,
                            "mean": f"{found.mean:.4f}" if found else "",
                            "std": f"{found.std:.4f}" if found and found.number > 1 else "",
                            "seeds_done": found.number if found else 0,
                            "seeds": len(summary.plan.seeds),
                            "paper": paper[0],
                            "paper_std": paper[1],
                            "failed": sum(cell.state == "failed" for cell in cells),
                            "row_seconds": f"{cost.seconds:.0f}",
                            "row_cpu_hours": f"{cost.cpu_hours:.4f}",
                            "row_gpu_hours": f"{cost.gpu_hours:.4f}",
                        }
                    )
    return _csv(rows)


def csv_of_runs(summary: Summary) -> str:
    """One line for each cell, point and seed: its run folder, state, figures and cost."""
    columns = [(test, measure) for test in summary.tests for measure in summary.measures(test)]
    rows = []
    for place, result in summary.results.items():
        cost = summary.costs.get(result.key, Cost())
        scores = {
            f"{test or OWN_TEST}: {measure}": f"{result.scores[test][measure]:.4f}"
            if measure in result.scores.get(test, {})
            else ""
            for test, measure in columns
        }
        rows.append(
            {
                "row": place.row,
                "column": place.column,
                "point": "" if place.point is None else place.point,
                "seed": place.seed,
                "run": result.key,
                "state": result.state,
                **scores,
                "seconds": f"{cost.seconds:.0f}",
                "cpu_hours": f"{cost.cpu_hours:.4f}",
                "gpu_hours": f"{cost.gpu_hours:.4f}",
                "reason": result.reason,
            }
        )
    return _csv(rows)


def html_page(summary: Summary, plots: Sequence[Path], environment: Mapping[str, Any]) -> str:
    """The page: tables, plots as embedded pictures, environment."""
    title = summary.plan.table.title
    parts = [f"<h1>{escape(title)}</h1>", *(f'<p class="muted">{escape(line)}</p>' for line in _facts(summary))]
    grids = _grids(summary)
    parts += [_html_grid(grids[0])]
    pictures = "".join(
        f'<figure><div class="scroll"><img alt="{escape(path.stem)}" src="data:image/png;base64,'
        f'{base64.b64encode(path.read_bytes()).decode()}"></div></figure>'
        for path in plots
    )
    parts.append(f'<div class="drawn">{pictures}</div>' if pictures else "")
    parts += [_html_grid(grid) for grid in grids[1:]]
    parts.append(f"<h2>Environment</h2>{table_of_values(environment)}")
    return html_document(title, "".join(parts))


def _html_grid(grid: _Grid) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in grid.head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in grid.rows)
    notes = "".join(f'<p class="muted">{escape(note)}</p>' for note in grid.notes)
    return (
        f'<h2>{escape(grid.title)}</h2><div class="scroll"><table class="plain figures"><tr>{head}</tr>{body}</table>'
        f"</div>{notes}"
    )


def _facts(summary: Summary) -> Iterable[str]:
    plan = summary.plan
    done = sum(result.state == "done" for result in summary.results.values())
    yield (
        f"{done} of {counted(len(summary.results), 'cell')} done, seeds {', '.join(map(str, plan.seeds))}. Top-1 in "
        "percent, mean ± sample standard deviation (n - 1) over the seeds that are done, every test sample once."
    )
    keep = {run.config.train.keep for run in plan.runs.values() if run.places}
    words = {"last": "those of the last epoch", "best": "chosen by the validation split, never by the test split"}
    yield f"Weights: {', '.join(words[key] for key in sorted(keep))}."
    folders = {run.config.data.root for run in plan.runs.values()}
    yield f"Data: {', '.join(sorted({Path(folder).resolve().name for folder in folders}))}."
    shown = " ".join([row.title for row in plan.table.shown] + [one.title for one in plan.table.compare])
    known = [f"{word}: {meant}" for word, meant in _ABBREVIATIONS.items() if re.search(rf"\b{word}\b", shown)]
    if known:
        yield f"{'; '.join(known)}."


def _grids(summary: Summary) -> list[_Grid]:
    grids = [_main(summary)]
    grids += [_further(summary, test) for test in summary.tests if test]
    gains = list(summary.gains())
    if gains:
        grids.append(_gains(summary, gains))
    return [_without_idle_paper(grid) for grid in grids]


def _without_idle_paper(grid: _Grid) -> _Grid:
    """Columns for the paper's figures only where it has any."""
    kept = [k for k, head in enumerate(grid.head) if head != "paper" or any(row[k] != "-" for row in grid.rows)]
    return grid._replace(head=[grid.head[k] for k in kept], rows=[[row[k] for k in kept] for row in grid.rows])


def _main(summary: Summary) -> _Grid:
    columns = summary.plan.table.columns
    head = [""]
    for column in columns.values():
        head += [column.title, "paper"]
    rows = []
    for line in summary.lines:
        cells = [_name(summary, line)]
        for name in columns:
            cells += [_cell(summary, line, name), _paper(summary.paper(line, name))]
        rows.append([*cells, _done(summary, line), *_cost(summary.cost(line))])
    extra = {run.key for run in summary.plan.runs.values() if not run.places and run.key in summary.costs}
    notes = [*summary.plan.table.note]
    notes += [f"{row.title}: {row.note}" for row in summary.plan.table.shown if row.note]
    notes += [f"Not tested on {text}" for text in summary.plan.left_out]
    if extra:
        time, cost = _cost(summary.total(extra))
        notes.append(f"Pre-training runs that rows start from, not in their costs: {len(extra)}, {time}, {cost}")
    notes += _failures(summary)
    return _Grid("Result", [*head, "seeds", "wall time", "cost"], rows, notes)


def _further(summary: Summary, test: str) -> _Grid:
    head, measures, columns = [""], summary.measures(test), summary.columns(test)
    for column in columns.values():
        head += [f"{column.title}: {MEASURES[measure]}" for measure in measures]
    rows = [
        [
            _name(summary, line),
            *(_cell(summary, line, column, test, measure) for column in columns for measure in measures),
        ]
        for line in summary.lines
    ]
    notes = []
    if "group_mean" in measures:
        notes = ["Group mean: accuracy averaged over (scene or instance, class) pairs; near-duplicates count once."]
    return _Grid(f"Tested on {test}", head, rows, notes)


def _gains(summary: Summary, gains: Sequence[Gain]) -> _Grid:
    """A line for each comparison and point, a cell for each column and test set."""
    table, seeds = summary.plan.table, len(summary.plan.seeds)
    # a further test set whose samples have groups is judged by their mean: near-duplicates count once
    judged = {test: summary.measures(test)[-1] for test in summary.tests}
    gains = [gain for gain in gains if gain.measure == judged[gain.test]]
    compared = {(gain.test, gain.column) for gain in gains}
    head, places = [""], {}
    for test, (column, shown) in itertools.product(judged, table.columns.items()):
        if (test, column) in compared:
            places[test, column] = len(head)
            head += [f"{shown.title}, {test}"] if test else [shown.title, "paper"]
    rows: dict[str, list[str]] = {}
    for gain in gains:
        title = gain.comparison.title + (f", {_point(summary, gain.point)}" if gain.point is not None else "")
        row = rows.setdefault(title, [title, *["-"] * (len(head) - 1)])
        at, mean = places[gain.test, gain.column], gain.found.spread
        row[at] = _number(mean, sign=True) + (" *" if gain.found.same_sign and mean.number > 1 else "")
        row[at] += f" ({mean.number} of {seeds})" if mean.number < seeds else ""
        if gain.paper is not None:
            row[at + 1] = f"{gain.paper:+.2f}"
    notes = ["*: the same sign in all seeds."]
    grouped = [test for test, measure in judged.items() if measure == "group_mean"]
    notes += [f"{', '.join(grouped)}: group means."] if grouped else []
    return _Grid("Differences, paired over seeds (points)", head, list(rows.values()), notes)


def _name(summary: Summary, line: Line) -> str:
    return line.row.title if line.point is None else f"{line.row.title}, {_point(summary, line.point)}"


def _point(summary: Summary, point: float) -> str:
    axis = summary.plan.table.points
    share = axis is not None and axis.setting == "data.label_share"
    return f"{100 * point:g} % of the labels" if share else f"{point:g}"


def _cell(summary: Summary, line: Line, column: str, test: str = "", measure: str = "top1") -> str:
    cells, found = summary.cells(line, column), summary.mean(line, column, test, measure)
    if not cells:
        return "-"
    failed = sum(cell.state == "failed" for cell in cells)
    if found is None:
        return "failed" if failed else "…"
    short = f" ({found.number} of {len(cells)})" if found.number < len(cells) else ""
    return _number(found) + short


def _number(found: Spread, sign: bool = False) -> str:
    mean = f"{found.mean:+.2f}" if sign else f"{found.mean:.2f}"
    return f"{mean} ± {found.std:.2f}" if found.number > 1 else mean


def _paper(figure: Paper) -> str:
    return " ± ".join(f"{value:g}" for value in figure) or "-"


def _done(summary: Summary, line: Line) -> str:
    """Seeds that are done in every column of the line."""
    cells = summary.cells(line)
    states = {seed: {c.state for c in cells if c.place.seed == seed} for seed in summary.plan.seeds}
    return f"{sum(state == {'done'} for state in states.values())} of {len(states)}"


def _cost(cost: Cost) -> tuple[str, str]:
    hours = [f"{cost.cpu_hours:.2f} CPU-h"] if cost.cpu_hours else []
    hours += [f"{cost.gpu_hours:.2f} GPU-h"] if cost.gpu_hours else []
    minutes, seconds = divmod(round(cost.seconds), 60)
    wall = f"{minutes // 60} h {minutes % 60:02d} min" if minutes >= 60 else f"{minutes} min {seconds:02d} s"
    return (wall if cost.seconds else "-"), " + ".join(hours) or "-"


def _failures(summary: Summary) -> list[str]:
    """Each reason once, with the cells it holds for."""
    reasons: dict[str, list[str]] = {}
    for place, result in summary.results.items():
        if result.state == "failed":
            point = "" if place.point is None else f" at {place.point:g}"
            reasons.setdefault(result.reason, []).append(f"{place.row}, {place.column}{point}, seed {place.seed}")
    return [f"Failed: {'; '.join(places)}: {reason}" for reason, places in reasons.items()]


def _csv(rows: Sequence[Mapping[str, object]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else ["row"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
