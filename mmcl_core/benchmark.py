"""Measure this machine: ``python -m mmcl_core.benchmark train|loss|data|infer|prepare``.

Prints one JSON object a line. ``train`` and ``loss`` measure the plain formulation beside ours in the same run, each in
a process of its own, and end with the ratio, or say that the plain one needs more memory than there is. ``train`` also
says how long a run over as many pairs as the paper's would take and, on a GPU, what share it reaches of the speed of a
large bfloat16 product. Peak memory: of the whole process on the CPU, of the tensors on a GPU.

``prepare DATASET ...`` takes what ``mmcl_core.prepare`` takes, except ``--check`` and ``--resume``, and measures
crops/s, bytes a crop, memory and the time from there to the first batch of training; without ``--out`` the set is made
in the folder for temporary files, and thrown away.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from mmcl_core.cli import SETTING, add_logging_options, command_parser, run_command
from mmcl_core.config import load
from mmcl_core.errors import ConfigError

if TYPE_CHECKING:
    from mmcl_core.engine.measure import Figures

__all__ = ["main"]

EXAMPLES = """\
  python -m mmcl_core.benchmark train --config config/paper_falling_things.yaml --steps 3 train.batch=32
  python -m mmcl_core.benchmark loss --config config/paper_falling_things.yaml
  python -m mmcl_core.benchmark data --config config/demo.yaml
  python -m mmcl_core.benchmark prepare falling_things --source fat --limit 2000"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["prepare"]:
        from mmcl_core.prepare import parse

        asked = parse(words[1:])
        return run_command(lambda: _prepare(asked), asked.log_level)
    parser = command_parser("mmcl_core.benchmark", __doc__, EXAMPLES)
    parser.add_argument(
        "what", choices=("train", "loss", "data", "infer", "prepare"), help="what to measure; prepare as the first word"
    )
    parser.add_argument("overrides", nargs="*", default=[], metavar=SETTING, help="settings that differ from the file")
    parser.add_argument("--config", metavar="FILE", help="settings, YAML (default: those of config.py)")
    parser.add_argument("--steps", type=int, default=5, metavar="N", help="measured repetitions (default: 5)")
    parser.add_argument("--crops", type=int, default=10, metavar="N", help="infer: crops in a frame (default: 10)")
    add_logging_options(parser)
    if "prepare" in words:
        parser.error("prepare comes first, and what it takes after it: prepare DATASET ...; see prepare --help")
    options = parser.parse_intermixed_args(words)
    return run_command(lambda: measure(options), options.log_level)


def measure(options: argparse.Namespace) -> None:
    """Print the figures that the command line asks for."""
    from mmcl_core.engine import benchmarks
    from mmcl_core.engine.checks import check_settings

    if options.steps < 1 or options.crops < 1:
        raise ConfigError("--steps and --crops must be at least 1")
    config = load(options.config, options.overrides)
    check_settings(config, 1)
    if options.what == "infer":
        return _print(benchmarks.infer(config, options.crops, options.steps))
    measured = {"train": benchmarks.train, "loss": benchmarks.loss, "data": benchmarks.data}[options.what]
    _print(measured(config, options.steps))


def _prepare(options: argparse.Namespace) -> None:
    from mmcl_core.engine.benchmarks import prepare

    if options.what in ("merge", "show") or options.check or options.resume:
        raise ConfigError("benchmark prepare measures a data set from its beginning: no merge, show, --check, --resume")
    _print(prepare(options))


def _print(lines: Iterable[tuple[str, Figures]]) -> None:
    for what, figures in lines:
        # Six digits, not decimals: the TFLOP/s of a small network are few.
        rounded = {k: float(f"{value:.6g}") if isinstance(value, float) else value for k, value in figures.items()}
        print(json.dumps({"benchmark": what, **rounded, "machine": platform.machine()}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
