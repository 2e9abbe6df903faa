"""From a table and seeds to runs: their settings, what they start from, and which cells share one.

A run is named by its content: the settings that differ from the defaults, the content of its data set and of weights
it starts from, or the name of the run it starts from. The same cell in two tables is therefore trained once, a set that
was moved is the same set, and a setting that a later version adds does not rename the runs that are there; a method
that came to do something else by the same settings does.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from mmcl_core.config import Config, config_hash, override, to_dict
from mmcl_core.data.files import INDEX
from mmcl_core.engine.checks import check_settings
from mmcl_core.engine.runfolder import FREE_SETTINGS, flat
from mmcl_core.engine.sweep.table import Row, Table
from mmcl_core.errors import CheckpointError, ConfigError, DataError
from mmcl_core.methods import method_class
from mmcl_core.settings import hint
from mmcl_core.weights import weights_file

__all__ = ["Place", "Plan", "Run", "Test", "locate_sets", "make_plan"]

logger = logging.getLogger(__name__)

#: A method that keeps something for every sample is asked whether its settings make sense with this many.
MANY_SAMPLES = 1_000_000


class Place(NamedTuple):
    """A cell at one point with one seed."""

    row: str
    column: str
    point: float | None
    seed: int


@dataclass(frozen=True)
class Test:
    """One test set of a table, found on the disk.

    Attributes:
        name: in the table; empty for a row's own data set.
        folder: the prepared set.
        split: of it.
        modalities: columns of these modalities are tested on it; empty: all.
        content: names the content of the set.
        hide_camera: whether the cameras of the crops are withheld.
    """

    name: str
    folder: Path
    split: str
    modalities: tuple[str, ...]
    content: str
    hide_camera: bool = False

    @property
    def label(self) -> str:
        """Name of the folder of its figures in a run."""
        ending = "-no-camera" if self.hide_camera else ""
        return f"{self.folder.resolve().name}-{self.split}-{self.content[:8]}{ending}"


@dataclass
class Run:
    """One training with its evaluations.

    Attributes:
        key: its name, that of its folder.
        config: all settings but the path of the run it starts from.
        source: key of the run it starts from, or empty.
        places: the cells that show it; none for a pre-training.
        tests: what it is evaluated on, its own test split first.
        title: for people.
    """

    key: str
    config: Config
    source: str
    title: str
    places: list[Place] = field(default_factory=list)
    tests: list[Test] = field(default_factory=list)


@dataclass(frozen=True)
class Plan:
    """What there is to do.

    Attributes:
        table: what it was made of.
        seeds: the seeds.
        rows: names of the rows to run now; the others show what is there.
        runs: by key; a run comes after the one it starts from, otherwise seed after seed.
        keys: key of the run of each cell.
        problems: why a cell has no run.
        left_out: optional test sets that are not there.
    """

    table: Table
    seeds: tuple[int, ...]
    rows: tuple[str, ...]
    runs: dict[str, Run]
    keys: dict[Place, str]
    problems: dict[Place, str]
    left_out: tuple[str, ...]

    @property
    def wanted(self) -> tuple[Run, ...]:
        """The runs of the chosen rows and what they start from, sources first."""
        keys = {key for place, key in self.keys.items() if place.row in self.rows}
        while more := {self.runs[key].source for key in keys} - keys - {""}:
            keys |= more
        return tuple(run for key, run in self.runs.items() if key in keys)


def locate_sets(table: Table, given: Sequence[str]) -> dict[str, Path]:
    """Folders of the data sets of a table.

    Args:
        table: names them.
        given: ``DIR`` for the first one, or ``NAME=DIR``.

    Raises:
        ConfigError: an unknown name, or one that is given twice.
    """
    folders, named = {name: Path(folder) for name, folder in table.sets.items()}, set[str]()
    for text in given:
        name, sign, folder = text.partition("=")
        if not sign:
            name, folder = next(iter(folders)), text
        if name not in folders:
            setting = "; settings go before --data" if "." in name else ""
            raise ConfigError(f"--data {text}: {table.path} has no data set {name!r}{hint(name, folders)}{setting}")
        if name in named:
            raise ConfigError(f"--data {text}: the data set {name!r} is given twice; NAME=DIR says which is which")
        named.add(name)
        folders[name] = Path(folder).expanduser()  # after NAME= no shell but bash has done it
    return folders


def make_plan(
    table: Table,
    seeds: Sequence[int],
    rows: Sequence[str] = (),
    overrides: Mapping[str, Any] | None = None,
    data: Sequence[str] = (),
    dry: bool = False,
) -> Plan:
    """Plan the runs of a table.

    Args:
        table: the table.
        seeds: one run of every cell for each.
        rows: names of the rows to run; none: all. What they start from is run too.
        overrides: settings of all runs, last of all.
        data: see :func:`locate_sets`.
        dry: only to be shown: the data sets need not be there.

    Raises:
        ConfigError: an unknown row or data set; a seed or data set given as a setting, or as that of the points; the
            setting of the points given elsewhere; a setting for all runs that there is not; a seed below 0.
        DataError: a data set that is not there, or has no such split.
    """
    given = [overrides or {}, table.settings, *(column.settings for column in table.columns.values())]
    for row in table.rows.values():
        given += [row.settings, *row.points.values(), *(cell.settings for cell in row.cells.values())]
    given += [{table.points.setting: table.points.values}] if table.points else []
    for name, option in (("seed", "--seeds"), ("data.root", "--data")):
        if any(_gives(settings, name) for settings in given):
            raise ConfigError(f"{name} of a sweep is given by {option}, not as a setting")
    _check_axis(table, overrides or {})
    if min(seeds, default=0) < 0:
        raise ConfigError(f"--seeds: {min(seeds)} is no seed; take 0 or more")
    override(Config(), overrides or {}, "command line")  # what no row could be run with is no matter of the rows
    known = {row.name: row for row in table.shown}
    for name in rows:
        if name not in known:
            setting = "; settings go before --rows" if "=" in name else ""
            raise ConfigError(f"--rows: {table.path} has no row {name!r}{hint(name, known)}{setting}")
    chosen = tuple(name for name in known if not rows or name in rows)
    planner = _Planner(table, overrides or {}, locate_sets(table, data), dry)
    for seed in dict.fromkeys(seeds):
        for row, point in table.lines:
            for column in row.cells:
                planner.place(Place(row.name, column, point, seed), needed=row.name in chosen)
    return Plan(
        table, tuple(dict.fromkeys(seeds)), chosen, planner.runs, planner.keys, planner.problems,
        tuple(planner.left_out),
    )  # fmt: skip


def _gives(settings: Mapping[str, Any], name: str) -> bool:
    """Whether settings, of sections or ``section.key``, hold one of that name."""
    return name in dict(flat(dict(settings)))


def _check_axis(table: Table, overrides: Mapping[str, Any]) -> None:
    """Refuse a value for the setting of the points that these would replace, or that would replace them all."""
    if table.points is None:
        return
    name = table.points.setting
    if _gives(overrides, name):
        raise ConfigError(
            f"{name} is what the points of {table.path} are values of, and no setting of all runs: leave it out, or "
            "change the values there"
        )
    given = {"settings": [table.settings], "columns": [column.settings for column in table.columns.values()]}
    for row in table.rows.values():
        given[f"row {row.name}"] = [row.settings, *(cell.settings for cell in row.cells.values())]
    for where, several in given.items():
        if any(_gives(settings, name) for settings in several):
            point = table.points.values[0]
            raise ConfigError(
                f"{table.path}, {where}: {name} is set by the points; what a row has at one of them is given under its "
                f"points, as {point:g}: {{{name}: ...}}"
            )


class _Planner:
    def __init__(self, table: Table, overrides: Mapping[str, Any], folders: Mapping[str, Path], dry: bool) -> None:
        self.table, self.overrides, self.folders, self.dry = table, overrides, folders, dry
        self.runs: dict[str, Run] = {}
        self.keys: dict[Place, str] = {}
        self.problems: dict[Place, str] = {}
        self.left_out: list[str] = []
        self._contents: dict[Path, tuple[str, tuple[str, ...]]] = {}
        self._digests: dict[str, str] = {}
        self.further = [test for test in map(self._further, table.evaluate) if test is not None]

    def place(self, place: Place, needed: bool) -> None:
        """Add the run of a cell, and what it starts from. Where it is not ``needed``, missing data are no error."""
        modality, known = self.table.columns[place.column].modality, set(self.runs)
        try:
            run = self._run(place)
            own = self._test("", self._set_of(self.table.rows[place.row]), self.table.split, ())
            tests = [test for test in (own, *self.further) if modality in (test.modalities or (modality,))]
            self._refuse_chosen(run, tests)
        except (ConfigError, DataError) as error:
            if needed and isinstance(error, DataError):
                raise
            self.runs = {key: run for key, run in self.runs.items() if key in known}  # none for a cell that is not run
            self.problems[place] = str(error)
            return
        self.keys[place] = run.key
        run.places.append(place)
        run.tests += [test for test in tests if test not in run.tests]

    def _run(self, place: Place) -> Run:
        row = self.table.rows[place.row]
        cell, folder = row.cells[place.column], self._set_of(row)
        origin = cell.init_from or row.init_from
        source = self._run(place._replace(row=origin)).key if origin else ""
        config = self._settings(place)
        check_settings(config, 1)
        method_class(config.method)(config, ("a", "b"), MANY_SAMPLES)
        start, backbone = source or self._weights_of(config.model.init_from), config.model.backbone_weights
        key = _key(config, self._content(folder)[0], start, self._weights_of(backbone))
        if key not in self.runs:
            point = "" if place.point is None else f" at {place.point:g}"
            title = f"{row.name}, {place.column}{point}, seed {place.seed}"
            self.runs[key] = Run(key, config, source, title)
        return self.runs[key]

    def _settings(self, place: Place) -> Config:
        """Settings of a run, in the order that the table file documents."""
        table, row, column = self.table, self.table.rows[place.row], self.table.columns[place.column]
        where = f"{table.path}, row {row.name}, column {column.name}"
        config = table.bases[row.name]
        for settings in (table.settings, column.settings, row.settings, row.cells[place.column].settings):
            config = override(config, _filled(settings, column.modality), where)
        if table.points is not None and place.point is not None:
            # 32 is as good as 32.0 for a setting of real numbers, and the only way for one of whole numbers.
            point = int(place.point) if place.point.is_integer() else place.point
            config = override(config, {table.points.setting: point}, where)
            config = override(config, _filled(row.points.get(place.point, {}), column.modality), where)
        config = override(config, self.overrides, "command line")
        return override(config, {"seed": place.seed, "data.root": str(self._set_of(row))}, where)

    def _refuse_chosen(self, run: Run, tests: Sequence[Test]) -> None:
        """Refuse to test weights on what they, or those that they start from, are chosen by."""
        if run.source:
            self._refuse_chosen(self.runs[run.source], tests)
        data, content = run.config.data, self._content(Path(run.config.data.root))[0]
        for test in tests:
            if run.config.train.keep == "best" and (test.content, test.split) == (content, data.val_split):
                raise ConfigError(
                    f"{run.title}: train.keep=best chooses weights by data.val_split={data.val_split}, and that split "
                    f"of {test.folder} is what they are tested on; choose by another (data.val_split, or '' with "
                    "data.val_fraction=0.1), or take train.keep=last"
                )

    def _set_of(self, row: Row) -> Path:
        return self.folders[row.set or next(iter(self.folders))]

    def _content(self, folder: Path) -> tuple[str, tuple[str, ...]]:
        """SHA-256 of the index of a set, and its splits; in a dry run the path of one that is not there."""
        if folder not in self._contents:
            try:
                text = (folder / INDEX).read_bytes()
                self._contents[folder] = (hashlib.sha256(text).hexdigest(), tuple(json.loads(text)["splits"]))
            except (OSError, ValueError, LookupError, TypeError) as error:
                if not self.dry:
                    name = next((name for name, path in self.folders.items() if path == folder), "NAME")
                    raise DataError(
                        f"no prepared set in {folder} (data set {name!r} of {self.table.path}); say where it is with "
                        f"--data {name}=DIR, or make it with mmcl_core.prepare or mmcl_core.render"
                    ) from error
                logger.warning("no prepared set in %s: its runs will have other names than those below", folder)
                self._contents[folder] = (f"missing {folder}", ())
        return self._contents[folder]

    def _weights_of(self, path: str) -> str:
        """Names the content of weights that runs start from: another training of the same path is another start."""
        if path and path not in self._digests:
            try:
                self._digests[path] = hashlib.sha256(weights_file(path).read_bytes()).hexdigest()
            except (CheckpointError, OSError):
                self._digests[path] = path  # the run itself says what is wrong with it
        return self._digests.get(path, "")

    def _test(
        self, name: str, folder: Path, split: str, modalities: tuple[str, ...], hide_camera: bool = False
    ) -> Test:
        content, splits = self._content(folder)
        if splits and split not in splits:
            raise DataError(f"{folder} has no split {split!r}; it has {', '.join(splits)}")
        return Test(name, folder, split, modalities, content, hide_camera)

    def _further(self, test: Any) -> Test | None:
        folder = self.folders[test.set]
        if test.optional and not (folder / INDEX).exists() and not self.dry:
            self.left_out.append(f"{test.name}: no prepared set in {folder}")
            logger.warning("not tested on %s: no prepared set in %s (--data %s=DIR)", test.name, folder, test.set)
            return None
        return self._test(test.name, folder, test.split, test.modality, test.hide_camera)


def _filled(value: Any, modality: str) -> Any:
    """The value with the column's modality put in for ``{modality}``."""
    if isinstance(value, str):
        return value.replace("{modality}", modality)
    if isinstance(value, Mapping):
        return {key: _filled(inner, modality) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_filled(inner, modality) for inner in value]
    return value


def _key(config: Config, content: str, start: str, backbone: str) -> str:
    """Twelve hexadecimal digits, see the module: the hash of the settings with contents in the place of paths, and of
    the version of the method."""
    usual = dict(flat(to_dict(Config())))
    where_and_when = {name: usual[name] for name in FREE_SETTINGS}
    contents = {"data.root": content, "model.init_from": start, "model.backbone_weights": backbone}
    key, version = config_hash(override(config, where_and_when | contents)), method_class(config.method).version
    return key if version == 1 else hashlib.sha256(f"{key} {version}".encode()).hexdigest()[:12]
