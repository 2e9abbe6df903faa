"""The table file of :mod:`mmcl_core.sweep`: which runs make up a table, and what the paper reports for them.

A YAML mapping; settings are given by ``section.key`` as on a command line (see :mod:`mmcl_core.config`):

====================  ================================================================================================
``title``             of the table
``note``              a sentence, or a list of them, that stand under the result: what its reader has to know, such as
                      which data the paper's figures are for
``base``              settings file that every run starts from, relative to the table file
``sets``              name of a data set -> its folder (a prepared set). Rows train on the first one unless they name
                      another; ``--data DIR`` and ``--data NAME=DIR`` replace the folders
``split``             split of a row's own data set that its runs are tested on; default ``test``
``settings``          common overrides of the base
``columns``           name -> ``{title, modality, settings}``: the modality that is tested (default: the name) and the
                      settings of all runs in the column
``points``            ``{title, setting, values}``: every cell is trained once for each value of the setting, the x axis
                      of a plot
``pretraining``       rows that are trained where another row starts from them, and are not shown
``rows``              list of ``{name, title, base, set, settings, init_from, cells, points, note}``; a row's own
                      ``base`` takes the place of the table's, and with ``points`` it has these of the table's alone
``rows: cells``       column -> the paper's figure in percent, ``[mean, std]``, ``null`` where there is none, or
                      ``{paper, settings, init_from}``; with ``points`` the figure may be ``{value: figure}``. A column
                      that is not named has no run
``init_from``         name of another row or of a pre-training: start from the encoder of its run of the same column,
                      point and seed
``evaluate``          list of ``{name, set, split, modality, optional, hide_camera}``: further test sets for the
                      columns of these modalities (default: all). An ``optional`` one that is not on the disk is left
                      out and said so; with ``hide_camera`` the cameras of its crops are withheld
``compare``           list of ``{title, rows: [a, b], paper: {column: gain}}``: a - b paired over seeds; without
                      ``paper`` the gain is that between the paper's figures
====================  ================================================================================================

``{modality}`` in a text among the settings stands for the modality of the column. Overrides apply in the order base,
table, column, row, cell, point, the row's at that point, command line. The setting of the points may be given by a row
at a point, and nowhere else.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from shlex import quote
from typing import Any

import yaml

from mmcl_core.config import Config, load
from mmcl_core.errors import ConfigError
from mmcl_core.presets import where_presets_are
from mmcl_core.settings import OURS, build, hint, is_number, load_yaml, yaml_problem

__all__ = [
    "OWN_TEST", "Cell", "Column", "Comparison", "Paper", "Points", "Row", "Table", "TestSet", "file_name", "read_table"
]  # fmt: skip

#: What a row's own test set is called where a further one stands by its name.
OWN_TEST = "test split"
#: The paper's figure in percent: nothing, (mean,) or (mean, std).
Paper = tuple[float, ...]


@dataclass(frozen=True)
class Column:
    """A column: the modality that is tested in it, and the settings of its runs; ``name`` is its key in the file."""

    name: str = field(default="", metadata={OURS: True})
    title: str = ""
    modality: str = ""
    settings: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Cell:
    """What a row has in a column; ``paper`` is the figure, or figures by point."""

    paper: object = None
    settings: dict = field(default_factory=dict)
    init_from: str = ""

    def figure(self, point: float | None) -> Paper:
        """The paper's figure at a point (``None``: of a table without points)."""
        given: Any = self.paper.get(point) if isinstance(self.paper, Mapping) else self.paper
        return () if given is None else tuple(map(float, given if isinstance(given, (list, tuple)) else [given]))


@dataclass(frozen=True)
class Row:
    """A row; ``points``: its settings at each of the points it has, none: at all of them; ``shown`` is false for a
    pre-training."""

    name: str = ""
    title: str = ""
    base: str = ""
    set: str = ""
    settings: dict = field(default_factory=dict)
    init_from: str = ""
    cells: dict = field(default_factory=dict)
    points: dict = field(default_factory=dict)
    note: str = ""
    shown: bool = field(default=True, metadata={OURS: True})


@dataclass(frozen=True)
class Points:
    """The x axis of a plot: a setting and its values."""

    title: str = ""
    setting: str = ""
    values: tuple[float, ...] = ()


@dataclass(frozen=True)
class TestSet:
    """A further test set."""

    name: str = ""
    set: str = ""
    split: str = "test"
    modality: tuple[str, ...] = ()
    optional: bool = False
    hide_camera: bool = False


@dataclass(frozen=True)
class Comparison:
    """Row a less row b, and the paper's gain by column."""

    title: str = ""
    rows: tuple[str, ...] = ()
    paper: dict = field(default_factory=dict)


@dataclass(frozen=True)
class Table:
    """A table file, read and checked.

    Attributes:
        path: the file.
        title, note, sets, split, settings, points, evaluate, compare: see the module.
        bases: the base of each row.
        columns, rows: by name; ``rows`` holds the pre-trainings too.
    """

    path: Path
    title: str
    note: tuple[str, ...]
    bases: dict[str, Config]
    sets: dict[str, str]
    split: str
    settings: dict[str, Any]
    columns: dict[str, Column]
    rows: dict[str, Row]
    points: Points | None
    evaluate: tuple[TestSet, ...]
    compare: tuple[Comparison, ...]

    @property
    def shown(self) -> tuple[Row, ...]:
        """The rows to show."""
        return tuple(row for row in self.rows.values() if row.shown)

    @property
    def values(self) -> tuple[float | None, ...]:
        """The points; one that is ``None`` in a table without."""
        return self.points.values if self.points else (None,)

    @property
    def lines(self) -> tuple[tuple[Row, float | None], ...]:
        """The rows to show, each at its points."""
        every = self.values
        return tuple((row, point) for row in self.shown for point in every if point in (row.points or every))


@dataclass(frozen=True)
class _File:
    title: str = ""
    note: tuple[str, ...] = ()
    base: str = ""
    sets: dict = field(default_factory=dict)
    split: str = "test"
    settings: dict = field(default_factory=dict)
    columns: dict = field(default_factory=dict)
    points: Points = field(default_factory=Points)
    pretraining: list = field(default_factory=list)
    rows: list = field(default_factory=list)
    evaluate: list = field(default_factory=list)
    compare: list = field(default_factory=list)


def read_table(path: str | Path) -> Table:
    """Read a table file.

    Raises:
        ConfigError: unreadable, a file of settings, an unknown key (with the nearest known one), a name that nothing
            has, or starting points in a circle. Settings are checked when the runs are planned, so that one wrong row
            costs one row.
    """
    path = Path(path)
    values = _mapping(path)
    if not values.keys() & {"columns", "rows"} and values.keys() & {setting.name for setting in fields(Config)}:
        command = f"python -m mmcl_core.train --config {quote(str(path))}"
        raise ConfigError(f"{path} holds settings, not a table: run {command}")
    file = build(_File, values, str(path))
    if not file.base or not file.rows or not file.columns or not file.sets:
        raise ConfigError(f"{path}: a table has base, sets, columns and rows; see mmcl_core/engine/sweep/table.py")
    columns = {}
    for name, value in file.columns.items():
        column = replace(build(Column, value or {}, str(path), f"columns.{name}."), name=str(name))
        columns[column.name] = replace(
            column, title=_one_line(column.title) or column.name, modality=column.modality or column.name
        )
    rows: dict[str, Row] = {}
    for kind, items in (("pretraining", file.pretraining), ("rows", file.rows)):
        for number, item in enumerate(items):
            row = _row(item, columns, f"{kind}[{number}].", path, shown=kind == "rows")
            if row.name in rows:
                raise ConfigError(f"{path}: two rows are named {row.name!r}")
            rows[row.name] = row
    table = Table(
        path,
        _one_line(file.title) or path.stem,
        tuple(filter(None, file.note)),
        {name: load(path.parent / (row.base or file.base)) for name, row in rows.items()},
        {str(name): os.path.expanduser(str(folder)) for name, folder in file.sets.items()},
        file.split,
        file.settings,
        columns,
        rows,
        file.points if "points" in values else None,
        tuple(build(TestSet, item, str(path), f"evaluate[{n}].") for n, item in enumerate(file.evaluate)),
        tuple(_comparison(item, f"compare[{n}].", path) for n, item in enumerate(file.compare)),
    )
    _check(table)
    return table


def _mapping(path: Path) -> dict[str, Any]:
    text = ""
    try:
        text = path.read_text(encoding="utf-8")
        loaded = load_yaml(text)
    except OSError as error:
        where = where_presets_are(error, "tables", "tables")
        raise ConfigError(f"cannot read the table {path}: {error.strerror}{where}") from error
    except (yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{path} is not valid YAML: {yaml_problem(error, text)}") from error
    if not isinstance(loaded, dict):
        raise ConfigError(f"{path} holds a {type(loaded).__name__}; a mapping is expected")
    return loaded


def _row(item: Any, columns: Mapping[str, Column], prefix: str, path: Path, shown: bool) -> Row:
    row = build(Row, _with_settings_by_point(item, prefix, path), str(path), prefix)
    if not row.name:
        raise ConfigError(f"{path}: {prefix.rstrip('.')} has no name")
    cells = {}
    for name, value in ((str(name), value) for name, value in row.cells.items()):  # a name may look like a number
        if name not in columns:
            raise ConfigError(f"{path}: row {row.name} has a cell in an unknown column {name!r}{hint(name, columns)}")
        cells[name] = _cell(value, f"{prefix}cells.{name}.", path)
    if shown and not cells:
        raise ConfigError(f"{path}: row {row.name} has no cells; name its columns, with null for no figure")
    if not shown:
        cells = cells or dict.fromkeys(columns, Cell())
    return replace(row, title=_one_line(row.title) or row.name, cells=cells, shown=shown)


def _one_line(title: str) -> str:
    """A title as it fits into a cell of the table: without the breaks of lines that YAML may leave in it."""
    return " ".join(title.split())


def _comparison(item: Any, prefix: str, path: Path) -> Comparison:
    comparison = build(Comparison, item, str(path), prefix)
    title = _one_line(comparison.title) or " - ".join(comparison.rows)
    return replace(comparison, title=title, paper={str(name): figure for name, figure in comparison.paper.items()})


def _with_settings_by_point(item: Any, prefix: str, path: Path) -> Any:
    """A row as the file gives it, its points as a mapping to settings, also where they are a list."""
    if not isinstance(item, Mapping) or "points" not in item:
        return item
    points = item["points"]
    if isinstance(points, list) and all(isinstance(point, (int, float)) for point in points):
        points = {point: {} for point in points}
    if (
        not isinstance(points, Mapping)
        or not points
        or not all(isinstance(point, (int, float)) and isinstance(own, Mapping) for point, own in points.items())
    ):
        raise ConfigError(f"{path}: {prefix}points is {points!r}; give a list of numbers, or {{number: settings}}")
    return {**item, "points": points}


def _cell(value: Any, prefix: str, path: Path) -> Cell:
    # A mapping by point has numbers as keys, a cell written out has words.
    written_out = isinstance(value, Mapping) and any(isinstance(key, str) for key in value)
    cell = build(Cell, value, str(path), prefix) if written_out else Cell(value)
    figures: Iterable[Any] = cell.paper.values() if isinstance(cell.paper, Mapping) else [cell.paper]
    for figure in figures:
        parts = figure if isinstance(figure, (list, tuple)) else [figure]
        if figure is not None and not (0 < len(parts) <= 2 and all(map(is_number, parts))):
            raise ConfigError(f"{path}: {prefix}paper is {figure!r}; give a number, [mean, std], or null")
    return cell


def file_name(test: str) -> str:
    """What the name of a test set is in the name of its plot."""
    return "".join(letter if letter.isalnum() else "_" for letter in test)


def _check(table: Table) -> None:
    """Refuse names that nothing has."""
    where = str(table.path)
    if table.points is not None and not (table.points.setting and len(set(table.values)) == len(table.values) > 0):
        raise ConfigError(f"{where}: points takes a setting and its values, one or more, each once")
    for row in table.rows.values():
        _known(row.set or next(iter(table.sets)), table.sets, f"{where}: row {row.name}, set")
        for point in row.points:
            if point not in table.values:
                known = ", ".join(f"{value:g}" for value in table.values if value is not None) or "none"
                raise ConfigError(f"{where}: row {row.name} has the point {point:g}; the table has {known}")
        for name, cell in row.cells.items():
            for point in cell.paper if isinstance(cell.paper, Mapping) else ():
                if point not in table.values:
                    known = ", ".join(f"{value:g}" for value in table.values if value is not None) or "none"
                    raise ConfigError(
                        f"{where}: row {row.name}, {name}: a figure at the point {point!r}; the table has {known}"
                    )
            source = cell.init_from or row.init_from
            if source:
                _known(source, table.rows, f"{where}: row {row.name}, init_from")
                if name not in table.rows[source].cells:
                    raise ConfigError(f"{where}: row {row.name} starts from {source}, which has no cell in {name}")
        _no_circle(table, row.name)
    shown = [("rows", row.name, row.title) for row in table.shown]
    named: dict[tuple[str, str], str] = {}
    for kind, name, title in [*shown, *(("columns", column.name, column.title) for column in table.columns.values())]:
        if (other := named.setdefault((kind, title), name)) != name:
            raise ConfigError(f"{where}: the {kind} {other} and {name} are both titled {title!r}; tell them apart")
    _check_tests(table)
    _check_comparisons(table)


def _check_tests(table: Table) -> None:
    """Refuse further test sets that are not there, or that the table could not tell from others."""
    where = str(table.path)
    if twice := [name for name, count in Counter(file_name(test.name) for test in table.evaluate).items() if count > 1]:
        names = " and ".join(repr(test.name) for test in table.evaluate if file_name(test.name) == twice[0])
        raise ConfigError(f"{where}: test sets under evaluate are named {names}; their plots would be one file")
    for test in table.evaluate:
        _known(test.set, table.sets, f"{where}: evaluate, set")
        if not test.name:
            raise ConfigError(f"{where}: a test set under evaluate has no name")
        if test.name == OWN_TEST:
            raise ConfigError(
                f"{where}: a test set under evaluate is named {OWN_TEST!r}, as the rows' own is in the CSV files; take "
                "another name"
            )
        tested = {column.modality: column for column in table.columns.values()}
        for name in test.modality:
            _known(name, tested, f"{where}: evaluate, {test.name}, modality")


def _check_comparisons(table: Table) -> None:
    """Refuse comparisons of what is not there, and two that would be one line of the table."""
    where, titles = str(table.path), set[str]()
    for comparison in table.compare:
        if len(comparison.rows) != 2:
            raise ConfigError(f"{where}: compare {comparison.title!r} takes two rows, got {list(comparison.rows)}")
        for name in comparison.rows:
            _known(name, {row.name: row for row in table.shown}, f"{where}: compare {comparison.title!r}, rows")
        for name, figure in comparison.paper.items():
            _known(name, table.columns, f"{where}: compare {comparison.title!r}, paper")
            if figure is not None and not is_number(figure):
                raise ConfigError(f"{where}: compare {comparison.title!r}, paper: {name} is {figure!r}; give a number")
        if comparison.title in titles:
            raise ConfigError(f"{where}: two comparisons are titled {comparison.title!r}; tell them apart")
        titles.add(comparison.title)


def _known(name: str, known: Mapping[str, Any], where: str) -> None:
    if name not in known:
        raise ConfigError(f"{where}: unknown name {name!r}{hint(name, known)}")


def _no_circle(table: Table, name: str, above: Sequence[str] = ()) -> None:
    if name in above:
        raise ConfigError(f"{table.path}: rows start from each other in a circle: {' <- '.join([*above, name])}")
    row = table.rows[name]
    for source in {cell.init_from or row.init_from for cell in row.cells.values()} - {""}:
        if source in table.rows:
            _no_circle(table, source, [*above, name])
