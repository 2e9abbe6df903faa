"""Train and evaluate every row of a table, over seeds, and write it beside the paper's figures.

Runs are kept under OUT/runs and shared by all tables with the same OUT: one that is finished is not trained again, one
that was stopped or killed goes on where it was. The table is rewritten after every run: OUT/<table>/index.html,
table.md, table.csv, runs.csv, plots. The format of a table file: mmcl_core/engine/sweep/table.py.

Exit status: 0 all done; 1 a row failed (the table says why, the others went on); 2 wrong arguments, table or data; 75
stopped by Ctrl-C or SIGTERM, the runs having saved their states: the same command goes on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mmcl_core.cli import EXIT_FAILED, EXIT_STOPPED, SETTING, add_logging_options, command_parser, run_command
from mmcl_core.errors import ConfigError
from mmcl_core.words import counted

if TYPE_CHECKING:
    from mmcl_core.engine.sweep.plan import Plan

__all__ = ["main"]

EXAMPLES = """  python -m mmcl_core.sweep --config config/tables/table1_rendered.yaml --jobs 2
  python -m mmcl_core.sweep --config config/tables/table1.yaml --data data_sets/falling_things --devices cuda:0 cuda:1
  python -m mmcl_core.sweep --config config/tables/table3.yaml --dry-run \\
    --data nyud=data_sets/nyud scenenet=data_sets/scenenet"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status (see the module)."""
    options = _parser().parse_intermixed_args(arguments)
    line = sys.argv[1:] if arguments is None else arguments
    return run_command(lambda: _sweep(options, line), options.log_level)


def _sweep(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    from mmcl_core.engine.sweep.plan import make_plan
    from mmcl_core.engine.sweep.session import Session, publish, slots_for
    from mmcl_core.engine.sweep.table import read_table
    from mmcl_core.settings import read_override

    if options.jobs is not None and options.jobs < 1:
        raise ConfigError("--jobs must be at least 1")
    if options.publish and options.publish.resolve() == options.out.resolve():
        raise ConfigError(
            f"--publish {options.publish} is the folder of --out, which has the table anyway; name another"
        )
    overrides = dict(map(read_override, options.overrides))
    table = read_table(options.config)
    plan = make_plan(table, options.seeds, options.rows, overrides, options.data, options.dry_run)
    if options.dry_run:
        return _show(plan, options.out)
    session = Session(plan, options.out, slots_for(plan, options.jobs or 0, options.devices), arguments)
    complete = session.run()
    print(f"table: {session.folder / 'table.md'}\npage:  {session.folder / 'index.html'}")
    if options.publish:
        publish(session.folder, options.publish)
        print(f"published: {options.publish / session.folder.name}")
    return EXIT_STOPPED if session.stopped else 0 if complete else EXIT_FAILED


def _show(plan: Plan, out: Path) -> int:
    """Print the runs of a plan; returns the exit status."""
    for run in plan.wanted:
        source = f"  starts from {run.source}" if run.source else ""
        shared = f"  shared by {len(run.places)} cells" if len(run.places) > 1 else ""
        print(f"{out / 'runs' / run.key}  {run.config.method:12}  {run.title}{source}{shared}")
    problems = {place: problem for place, problem in plan.problems.items() if place.row in plan.rows}
    for place, problem in problems.items():
        print(f"cannot run {place.row}, {place.column}, seed {place.seed}: {problem}", file=sys.stderr)
    print(counted(len(plan.wanted), "run"))
    return EXIT_FAILED if problems else 0


def _seed(word: str) -> int:
    """A word after ``--seeds``, which takes all up to the next option."""
    try:
        return int(word)
    except ValueError:
        before = "; settings go before --seeds" if "=" in word else ""
        raise argparse.ArgumentTypeError(f"{word!r} is no whole number{before}") from None


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("mmcl_core.sweep", __doc__, EXAMPLES)
    add = parser.add_argument
    add("overrides", nargs="*", default=[], metavar=SETTING, help="settings of all runs, last of all")
    add("--config", required=True, metavar="FILE", help="table file (YAML)")
    add("--seeds", nargs="+", type=_seed, default=[0, 1, 2], metavar="N", help="one run each (default: 0 1 2)")
    add("--data", nargs="+", default=[], metavar="[NAME=]DIR", help="prepared sets; DIR alone is the table's first")
    add("--out", default=Path("sweeps"), type=Path, metavar="DIR", help="shared by tables (default: sweeps)")
    add("--rows", nargs="+", default=[], metavar="NAME", help="only these rows, and what they start from")
    add("--jobs", type=int, metavar="N", help="runs at a time (default: one a device)")
    add("--devices", nargs="+", default=[], metavar="NAME", help="taken in turn (default: a GPU if there is one)")
    add("--publish", type=Path, metavar="DIR", help="copy tables, plots and page to DIR/<table>: no weights")
    add("--dry-run", action="store_true", help="check the table and print its runs")
    add_logging_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
