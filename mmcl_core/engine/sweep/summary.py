"""The figures of a table, read from its run folders: means over seeds, paired differences, costs, what is missing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mmcl_core.engine.runfolder import is_finished
from mmcl_core.engine.sweep.costs import read_costs
from mmcl_core.engine.sweep.plan import Place, Plan, Run
from mmcl_core.engine.sweep.pool import Outcome, past_failure
from mmcl_core.engine.sweep.seeds import Paired, Spread, paired_difference, spread
from mmcl_core.engine.sweep.table import Column, Comparison, Paper, Row

__all__ = ["MEASURES", "Cost", "Gain", "Line", "Result", "Summary", "read_figures", "summarise"]

#: What is quoted of an evaluation, in percent. ``group_mean`` only of further test sets with groups of several samples.
MEASURES = {"top1": "top-1", "group_mean": "group mean"}


class Cost(NamedTuple):
    """Seconds that all processes of some runs worked, and their cost in CPU- and GPU-hours; what does not count is told
    in :mod:`mmcl_core.engine.sweep.costs`."""

    seconds: float = 0.0
    cpu_hours: float = 0.0
    gpu_hours: float = 0.0


class Line(NamedTuple):
    """A line of the table: a row at one point."""

    row: Row
    point: float | None


@dataclass(frozen=True)
class Result:
    """What there is of one cell with one seed.

    Attributes:
        place: the cell.
        key: name of its run; empty where its settings are wrong.
        state: ``done``, ``failed``, or ``open``: not finished yet.
        reason: of a failure.
        scores: by test set ("" for the own test split) and measure, in percent.
    """

    place: Place
    key: str
    state: str
    reason: str
    scores: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class Gain:
    """A comparison in one column at one point on one test set."""

    comparison: Comparison
    column: str
    point: float | None
    test: str
    measure: str
    found: Paired
    paper: float | None


@dataclass(frozen=True)
class Summary:
    """All figures of a table.

    Attributes:
        plan: what was planned.
        results: of each cell, point and seed.
        costs: by key of the run.
        out: folder of the runs.
    """

    plan: Plan
    results: dict[Place, Result]
    costs: dict[str, Cost]
    out: Path

    @property
    def lines(self) -> list[Line]:
        """The lines of the table."""
        return [Line(row, point) for row, point in self.plan.table.lines]

    @property
    def tests(self) -> list[str]:
        """Names of the test sets that were looked for, the own one ("") first."""
        return list(dict.fromkeys(test.name for run in self.plan.runs.values() for test in run.tests)) or [""]

    def columns(self, test: str) -> dict[str, Column]:
        """The columns that are tested on a test set, by name."""
        asked = next((one.modality for one in self.plan.table.evaluate if one.name == test), ())
        columns = self.plan.table.columns
        return {name: column for name, column in columns.items() if not asked or column.modality in asked}

    def measures(self, test: str) -> list[str]:
        """The measures of a test set that any run has."""
        found = {name for result in self.results.values() for name in result.scores.get(test, {})}
        return [name for name in MEASURES if name in found or name == "top1"]

    def cells(self, line: Line, column: str | None = None) -> list[Result]:
        """The results of a line, of all its columns or one, by seed."""
        return [
            result
            for place, result in self.results.items()
            if place.row == line.row.name and place.point == line.point and column in (None, place.column)
        ]

    def by_seed(self, line: Line, column: str, test: str = "", measure: str = "top1") -> dict[int, float]:
        """Percent by seed."""
        return {
            result.place.seed: result.scores[test][measure]
            for result in self.cells(line, column)
            if measure in result.scores.get(test, {})
        }

    def mean(self, line: Line, column: str, test: str = "", measure: str = "top1") -> Spread | None:
        """Mean and sample standard deviation over the seeds that are done."""
        values = self.by_seed(line, column, test, measure)
        return spread(list(values.values())) if values else None

    def paper(self, line: Line, column: str) -> Paper:
        """The paper's figure."""
        cell = line.row.cells.get(column)
        figure: Paper = cell.figure(line.point) if cell else ()
        return figure

    def cost(self, line: Line) -> Cost:
        """What the runs of a line cost; a run that two lines share counts in both."""
        return self.total({result.key for result in self.cells(line)})

    def total(self, keys: set[str]) -> Cost:
        """What some runs cost."""
        parts = [self.costs[key] for key in sorted(keys) if key in self.costs]
        return Cost(*(sum(part[n] for part in parts) for n in range(3)))

    def gains(self) -> Iterator[Gain]:
        """The comparisons of the table file, as far as there are figures."""
        table = self.plan.table
        for comparison in table.compare:
            first, second = (table.rows[name] for name in comparison.rows)
            for test in self.tests:
                for measure in self.measures(test):
                    for point in table.values:
                        for column in table.columns:
                            pair = Line(first, point), Line(second, point)
                            found = paired_difference(*(self.by_seed(line, column, test, measure) for line in pair))
                            if found is not None:
                                paper = None if test else self._paper_gain(comparison, column, *pair)
                                yield Gain(comparison, column, point, test, measure, found, paper)

    def _paper_gain(self, comparison: Comparison, column: str, first: Line, second: Line) -> float | None:
        if comparison.paper:
            given = comparison.paper.get(column)
            return None if given is None else float(given)
        figures = self.paper(first, column), self.paper(second, column)
        return figures[0][0] - figures[1][0] if all(figures) else None


def summarise(plan: Plan, out: Path, outcomes: Mapping[str, Outcome]) -> Summary:
    """Read what the run folders hold.

    Args:
        plan: of the table.
        out: the sweep's folder, with ``runs/``.
        outcomes: how the runs of this start ended, by key.
    """
    results = {}
    for place in _places(plan):
        if place in plan.problems:
            results[place] = Result(place, "", "failed", plan.problems[place], {})
            continue
        run = plan.runs[plan.keys[place]]
        scores, missing = _scores(run, out / "runs" / run.key, plan.table.columns[place.column].modality)
        outcome = outcomes.get(run.key)
        if outcome is not None and outcome.state == "failed":
            results[place] = Result(place, run.key, "failed", outcome.reason, scores)
        elif not scores and place.row not in plan.rows and (reason := past_failure(out / "runs" / run.key)):
            results[place] = Result(place, run.key, "failed", reason, scores)  # and is not run anew in this start
        elif missing:
            results[place] = Result(place, run.key, "failed", missing, scores)
        else:
            results[place] = Result(place, run.key, "done" if scores else "open", "", scores)
    costs = {key: _cost(out / "runs" / key) for key in plan.runs}
    return Summary(plan, results, costs, out)


def _places(plan: Plan) -> list[Place]:
    """All cells in the order of the table, those without a run too."""
    return [
        Place(row.name, column, point, seed)
        for row, point in plan.table.lines
        for column in row.cells
        for seed in plan.seeds
    ]


def _scores(run: Run, folder: Path, modality: str) -> tuple[dict[str, dict[str, float]], str]:
    """Figures by test set and measure, and why there is none for a modality that was to be tested."""
    scores: dict[str, dict[str, float]] = {}
    if not is_finished(folder):
        return scores, ""
    for test in run.tests:
        if modality not in (test.modalities or (modality,)):
            continue
        _, found = read_figures(folder / "evaluation" / test.label)
        if not found:
            continue  # not evaluated yet
        if modality not in found:
            return scores, f"tested with {', '.join(found)}, the column asks for {modality}"
        scores[test.name] = {name: value for name, value in found[modality].items() if test.name or name == "top1"}
    return scores, ""


def read_figures(folder: Path) -> tuple[str, dict[str, dict[str, float]]]:
    """The model that was evaluated, and its measures in percent by modality.

    Nothing of either where the evaluation is not there, or damaged: it is made anew, then.
    """
    try:
        report = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        return str(report.get("model", {}).get("model_id", "")), {
            str(name): _measures(figures) for name, figures in report["modalities"].items()
        }
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return "", {}


def _measures(figures: Mapping[str, Any]) -> dict[str, float]:
    several = len(figures.get("per_class", ())) < figures.get("groups", 0) < figures.get("samples", 0)
    return {name: 100 * float(figures[name]["value"]) for name in MEASURES if several or name == "top1"}


def _cost(folder: Path) -> Cost:
    records: list[dict[str, Any]] = read_costs(folder)
    gpu = [record for record in records if str(record.get("device")).startswith("cuda") and record["share"] > 0]
    return Cost(
        sum(record["seconds"] for record in records),
        sum(record["cpu_seconds"] for record in records if record not in gpu) / 3600,
        sum(record["seconds"] / record["share"] for record in gpu) / 3600,
    )
