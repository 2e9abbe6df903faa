"""What a data set is to ``prepare``, and how its readers see their source.

A data set is a module of this package with an object ``DATA_SET`` that has the methods of :class:`DataSet`, and a line
in :data:`mmcl_core.data.DATA_SETS`. It only says which tasks there are and what a task gives; parallel work, progress,
skipping, limits, checks and writing are done by :mod:`mmcl_core.data.runner`.
"""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from mmcl_core.data import DATA_SETS
from mmcl_core.data.files import LITTER
from mmcl_core.data.writer import Sample
from mmcl_core.errors import ConfigError

__all__ = [
    "NOT_UTF8",
    "DataSet",
    "Plan",
    "Skip",
    "data_sets",
    "folders_in",
    "given_options",
    "is_visible",
    "optional_import",
    "place_in",
    "printable",
    "show_folder",
    "visible",
]


#: Why what is named by other bytes than those of UTF-8 is left out: a prepared set is text in UTF-8.
NOT_UTF8 = "has a name that is no valid UTF-8; rename it"


def printable(text: str) -> str:
    r"""A name of a file as text that can be written: what is no valid UTF-8 in it becomes ``\udcxx``."""
    return text.encode("utf-8", "backslashreplace").decode()


@dataclass(frozen=True)
class Skip:
    """A file or sample that is left out.

    Attributes:
        name: the file, relative to the source, or the key of the sample; :func:`printable`.
        reason: what is wrong with it, and what was expected; printable as well.
    """

    name: str
    reason: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", printable(self.name))
        object.__setattr__(self, "reason", printable(self.reason))


@dataclass
class Plan:
    """The work a source gives.

    Attributes:
        classes: names of the classes.
        modalities: that some sample has.
        tasks: what ``make`` is called with, one after the other, such as a frame or the files of a crop; picklable,
            and its ``repr`` says all of it, so that a job goes on with the same tasks alone, see ``--resume``. In the
            order of the keys of their samples, so that shards merge to what one run gives. May be an iterator.
        make: turns a task into its samples and skips; picklable (a function of a module, or ``functools.partial`` of
            one). It may raise: the task is then skipped with the error as the reason.
        total: number of tasks, for the progress bar; ``None``: unknown.
        unit: what a task is, for the progress bar.
        description: provenance and crop rule, the same for all shards (see the writer of prepared sets).
        stored: depth modalities that are 8-bit pictures.
        expected: samples by split that the published set has, to compare with.
        published: what was counted in the source (frames, instances, ...): found, and in the published set.
        skipped: known before the work starts.
        doubtful: files that are read all the same; a check counts them among the bad ones.
        keep: asked for each result in the order of the tasks; what it refuses is dropped. It may count what it keeps.
        wanted: asked for each task before it is begun; what it refuses is passed over. It may go by what was kept so
            far, while ``tasks`` are always the same: by their place there they belong to shards.
    """

    classes: Sequence[str]
    modalities: Sequence[str]
    tasks: Iterable[Any]
    make: Callable[[Any], Iterable[Sample | Skip]]
    total: int | None
    description: Mapping[str, Any]
    stored: Sequence[str] = ()
    expected: Mapping[str, int] | None = None
    published: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    skipped: Sequence[Skip] = field(default_factory=list)
    doubtful: Sequence[Skip] = field(default_factory=list)
    unit: str = "frames"
    keep: Callable[[Sample | Skip], bool] = lambda result: True
    wanted: Callable[[Any], bool] = lambda task: True


class DataSet(Protocol):
    """A kind of source."""

    #: Sub-command of ``prepare``.
    name: str
    #: One line for the list of sub-commands.
    help: str
    #: Layout, units and citation, for the help of the sub-command.
    description: str
    #: Command lines for the help of the sub-command.
    examples: str

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the options that only this data set has; ``--source``, ``--out``, ``--size`` are there already."""

    def plan(self, source: Path, options: argparse.Namespace) -> Plan:
        """Look at a source without reading its pictures.

        Raises:
            DataError: the folder is not in the layout; names what was expected and what was found.
            ConfigError: an option that makes no sense.
        """
        ...


def data_sets() -> dict[str, DataSet]:
    """All kinds of source, by name."""
    found = [importlib.import_module(f"mmcl_core.data.{module}").DATA_SET for module in DATA_SETS]
    return {data_set.name: data_set for data_set in found}


def given_options(data_set: DataSet, options: argparse.Namespace, names: Iterable[str] | None = None) -> list[str]:
    """The options of a data set that are not at their default, as on the command line, such as ``--min-side``.

    Args:
        data_set: whose options.
        options: as parsed.
        names: only these, such as ``min_side``; None: all.
    """
    parser = argparse.ArgumentParser()
    data_set.add_arguments(parser)
    usual = vars(parser.parse_args([]))
    chosen = usual if names is None else names
    return [f"--{name.replace('_', '-')}" for name in chosen if getattr(options, name) != usual[name]]


#: Names that an error message lists.
_ENTRIES = 8
#: What desktops, archives of Macs, Python and network drives leave in folders.
_LEFTOVERS = frozenset({*LITTER, "__MACOSX", "__pycache__", "@eaDir"})


def show_folder(folder: Path) -> str:
    """What lies in a folder, for error messages."""
    if not folder.exists():
        return "no such folder"
    if not folder.is_dir():
        return "a file"
    names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in folder.iterdir())
    more = f" ... ({len(names)} entries)" if len(names) > _ENTRIES else ""
    return (", ".join(names[:_ENTRIES]) or "nothing") + more


def is_visible(name: str) -> bool:
    """Whether a name is neither that of a hidden file or folder nor that of what programs leave in folders."""
    return name[0] != "." and name not in _LEFTOVERS


def visible(folder: Path) -> list[Path]:
    """What lies in a folder, by name; without hidden files and the leftovers of programs."""
    return sorted(entry for entry in folder.iterdir() if is_visible(entry.name))


def folders_in(folder: Path) -> list[Path]:
    """The folders in a folder, of what is :func:`visible`; empty: there is no such folder."""
    return [entry for entry in visible(folder) if entry.is_dir()] if folder.is_dir() else []


def place_in(source: Path, path: Path) -> str:
    """A path relative to the source, as a skip or a set names it."""
    return path.relative_to(source).as_posix()


def optional_import(module: str, purpose: str) -> Any:
    """A module of the extra ``datasets``.

    Raises:
        ConfigError: it is not installed; says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.partition(".")[0]
        raise ConfigError(f"{purpose} needs {package}: pip install {package}, or 'mmcl_ros[datasets]'") from error
