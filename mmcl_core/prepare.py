"""Make a prepared set, which training and evaluation read, from a data set on disk.

A file that is missing or damaged is named, skipped and counted. The set is the same for any number of workers, and
appears under its name only when it is complete. What was interrupted or killed goes on with --resume.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmcl_core.cli import add_logging_options, as_plain_text, command_parser, run_command
from mmcl_core.data.cache import PreparedSet, merge_sets
from mmcl_core.data.runner import check_plan, write_plan
from mmcl_core.data.shares import parse_shard
from mmcl_core.data.sheet import contact_sheet
from mmcl_core.data.sources import DataSet, Plan, data_sets
from mmcl_core.data.summary import check_summary, summary
from mmcl_core.errors import ConfigError, DataError
from mmcl_core.words import counted

__all__ = ["main", "parse", "plan_of"]

_DOWNLOADED = "the data set as downloaded"
_SOURCES = {"folder": "folder of your crops", "coco": "folder of your frames"}
_EXAMPLES = """\
  python -m mmcl_core.prepare folder --source my_crops --out data_sets/mine  own crops, see: prepare folder --help
  python -m mmcl_core.prepare folder --source my_crops --check               look for trouble, write nothing
  python -m mmcl_core.prepare merge --source data_sets/part0 data_sets/part1 --out data_sets/all
  python -m mmcl_core.prepare show data_sets/mine                            verify, count, draw a contact sheet"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status (see :mod:`mmcl_core.cli`)."""
    options = parse(arguments)

    def action() -> None:
        if options.what == "merge":
            chosen = {"unknown": options.unknown, "overwrite": options.overwrite}
            return _finish(merge_sets(options.source, options.out, **chosen))
        if options.what == "show":
            return _finish(PreparedSet.open(options.set), options.sheet)
        return _prepare(options)

    return run_command(action, options.log_level)


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The options of a command line; ``what`` is the data set, or ``merge`` or ``show``."""
    return _parser(data_sets()).parse_args(arguments)


def _parser(known: dict[str, DataSet]) -> argparse.ArgumentParser:
    parser = command_parser("mmcl_core.prepare", __doc__, _EXAMPLES)
    commands = parser.add_subparsers(dest="what", required=True, metavar="DATASET")
    raw = argparse.RawDescriptionHelpFormatter
    for name, data_set in known.items():
        one = commands.add_parser(
            name, help=data_set.help, description=as_plain_text(data_set.description), formatter_class=raw,
            epilog=f"examples:\n{data_set.examples}",
        )  # fmt: skip
        one.add_argument("--source", type=Path, required=True, metavar="DIR", help=_SOURCES.get(name, _DOWNLOADED))
        one.add_argument("--out", type=Path, metavar="DIR", help="folder of the prepared set")
        one.add_argument("--size", type=int, default=128, metavar="PX", help="side of the square crops (default: 128)")
        data_set.add_arguments(one)
        one.add_argument(
            "--check", action="store_true", help="read everything and report counts and bad files; write nothing"
        )
        one.add_argument("--limit", type=int, metavar="N", help="stop after N samples, for a trial")
        one.add_argument("--shard", default="0/1", metavar="I/N", help="part I of N (from 0), to merge later")
        one.add_argument(
            "--workers", type=int, default=len(os.sched_getaffinity(0)), metavar="N",
            help="processes (default: one for each core)",
        )  # fmt: skip
        one.add_argument("--overwrite", action="store_true", help="replace a prepared set that is there already")
        one.add_argument(
            "--resume", action="store_true",
            help="go on with what an interrupted run of the same command left in <out>.partial; the set is the same",
        )  # fmt: skip
        add_logging_options(one)
    merge = commands.add_parser("merge", help="join prepared sets, such as the shards of one job")
    merge.add_argument("--source", nargs="+", required=True, metavar="DIR", help="prepared sets")
    merge.add_argument(
        "--unknown", nargs="+", default=[], metavar="DIR",
        help="prepared sets of things that are none of the classes: all their samples become the class unknown",
    )  # fmt: skip
    merge.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the joined set")
    merge.add_argument("--overwrite", action="store_true", help="replace a prepared set that is there already")
    add_logging_options(merge)
    show = commands.add_parser("show", help="verify a prepared set, print its counts, write a contact sheet")
    show.add_argument("set", type=Path, metavar="DIR", help="the prepared set")
    show.add_argument("--sheet", type=Path, metavar="PNG", help="the contact sheet (default: DIR/sheet.png)")
    add_logging_options(show)
    return parser


def plan_of(options: argparse.Namespace) -> tuple[Plan, dict[str, Any]]:
    """The work that options of a data set ask for, and what :func:`~mmcl_core.data.runner.write_plan` is to keep to.

    Raises:
        ConfigError: an option out of its range.
        DataError: a source that is not in the layout.
    """
    if not 16 <= options.size <= 4096:
        raise ConfigError(f"--size is {options.size}; 16 to 4096 pixels are expected")
    if options.workers < 1 or (options.limit is not None and options.limit < 1):
        raise ConfigError("--workers and --limit must be at least 1")
    if getattr(options, "seed", 0) < 0:
        raise ConfigError(f"--seed is {options.seed}; it must be at least 0")
    shard = parse_shard(options.shard)
    plan = data_sets()[options.what].plan(options.source, options)
    return plan, {"workers": options.workers, "limit": options.limit, "shard": shard}


def _prepare(options: argparse.Namespace) -> None:
    plan, work = plan_of(options)
    if options.check:
        return _check(plan, options, work)
    if options.out is None:
        raise ConfigError("give --out DIR for the prepared set, or --check to write nothing")
    began = time.monotonic()
    write_plan(plan, options.out, options.size, overwrite=options.overwrite, resume=options.resume, **work)
    prepared = PreparedSet.open(options.out, verify=False)
    print(f"{len(prepared) / (time.monotonic() - began):.0f} crops/s with {options.workers} worker(s)")
    return _finish(prepared)


def _check(plan: Plan, options: argparse.Namespace, work: dict[str, Any]) -> None:
    found = check_plan(plan, **work)
    text, problems = check_summary(plan, found, whole=options.limit is None and options.shard == "0/1")
    print(text)
    if problems:
        raise DataError(f"{options.source}: {'; '.join(problems)}")
    print(f"{options.source}: nothing wrong in {counted(found.samples.total(), 'sample')}")


def _finish(prepared: PreparedSet, sheet: Path | None = None) -> None:
    try:
        print(f"contact sheet: {contact_sheet(prepared, sheet or prepared.path / 'sheet.png')}")
    finally:  # the set is good, wherever the sheet can be put
        print(summary(prepared))


if __name__ == "__main__":
    sys.exit(main())
