"""Measure this machine: ``python -m mmcl_core.benchmark train|loss|data|infer|prepare``.

Prints one JSON object a line. ``train`` and ``loss`` measure the plain formulation beside ours in the same run, each in
a process of its own, and end with the ratio, or say that the plain one needs more memory than there is. ``train`` also
says how long a run over as many pairs as the paper's would take and, on a GPU, what share it reaches of the speed of a
large bfloat16 product. Peak memory: of the whole process on the CPU, of the tensors on a GPU.

``prepare DATASET ...`` takes what ``mmcl_core.prepare`` takes and measures crops/s, bytes a crop, memory and the time
from there to the first batch of training; without ``--out`` the set is made in the folder for temporary files, and
thrown away.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmcl_core.cli import SETTING, add_logging_options, command_parser, run_command
from mmcl_core.config import Config, load
from mmcl_core.errors import ConfigError, TrainingError

if TYPE_CHECKING:
    from mmcl_core.engine.measure import Figures

__all__ = ["main"]

BATCHES = (140, 512, 1024)
#: Samples of the first batch of a prepared set: the paper's on Falling Things.
FIRST_BATCH = 140
#: Training pairs of the authors' crops of Falling Things.
FALLING_THINGS = 18_640
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
    from mmcl_core.engine.checks import check_settings

    if options.steps < 1 or options.crops < 1:
        raise ConfigError("--steps and --crops must be at least 1")
    config = load(options.config, options.overrides)
    check_settings(config, 1)
    {"train": _train, "loss": _loss, "data": _data, "infer": _infer}[options.what](config, options)


def _train(config: Config, options: argparse.Namespace) -> None:
    from mmcl_core.engine.device import train_device
    from mmcl_core.engine.measure import in_fresh_process, measure_product, measure_train

    share = {}
    ours = in_fresh_process(measure_train, config, False, options.steps)
    pairs, epochs = FALLING_THINGS, int(ours["epochs"])
    hours = pairs // config.train.batch * epochs * float(ours["seconds"]) / 3600
    if train_device(config.train.device).type == "cuda":  # no one product says what a processor can do
        best = float(in_fresh_process(measure_product, config, options.steps)["tflops"])
        share = {"product_tflops": best, "share_of_product": float(ours["tflops"]) / best}
    _line("train", formulation="ours", batch=config.train.batch, **ours, **share)
    _line("train", projected=f"stage {ours['stage']}: {epochs} epochs of {pairs} samples", hours=hours)
    if config.method == "mmcl" and config.model.backbone == "encoder":
        _beside("train", config.train.batch, ours, measure_train, config, True, options.steps)
    else:
        _line("train", formulation="plain", left_out="there is one of method=mmcl with model.backbone=encoder alone")


def _loss(config: Config, options: argparse.Namespace) -> None:
    from mmcl_core.engine.measure import in_fresh_process, measure_loss

    for batch in BATCHES:
        ours = in_fresh_process(measure_loss, config, False, batch, options.steps)
        _line("loss", formulation="ours", batch=batch, **ours)
        _beside("loss", batch, ours, measure_loss, config, True, batch, options.steps)


def _data(config: Config, options: argparse.Namespace) -> None:
    from mmcl_core.engine.measure import in_fresh_process, measure_data

    _line("data", size=config.model.input_size, **in_fresh_process(measure_data, config, options.steps))


def _infer(config: Config, options: argparse.Namespace) -> None:
    from mmcl_core.engine.measure import in_fresh_process, measure_infer

    _line("infer", crops=options.crops, **in_fresh_process(measure_infer, config, options.crops, options.steps))


def _prepare(options: argparse.Namespace) -> None:
    from mmcl_core.engine.measure import in_fresh_process
    from mmcl_core.engine.measure_sets import measure_first_batch, measure_prepare

    if options.what in ("merge", "show") or options.check or options.resume:
        raise ConfigError("benchmark prepare measures a data set from its beginning: no merge, show, --check, --resume")
    with tempfile.TemporaryDirectory() as folder:
        out = options.out or Path(folder) / "set"
        _line("prepare", set=options.what, size=options.size, **measure_prepare(options, out))
        _line("first_batch", set=options.what, **in_fresh_process(measure_first_batch, out, FIRST_BATCH))


def _beside(what: str, batch: int, ours: Figures, function: Callable[..., Figures], *arguments: Any) -> None:
    """The plain formulation, and ours in relation to it. That it needs too much memory is a result, too."""
    from mmcl_core.engine.measure import in_fresh_process

    try:
        plain = in_fresh_process(function, *arguments)
    except TrainingError as error:
        _line(what, formulation="plain", batch=batch, failed=str(error))
        return
    _line(what, formulation="plain", batch=batch, **plain)
    keys = [key for key in ("seconds", "cpu_seconds", "peak_memory_mb") if key in plain]
    _line(what, ratio="ours/plain", batch=batch, **{key: float(ours[key]) / float(plain[key]) for key in keys})


def _line(what: str, **figures: float | str) -> None:
    rounded = {key: round(value, 4) if isinstance(value, float) else value for key, value in figures.items()}
    print(json.dumps({"benchmark": what, **rounded, "machine": platform.machine()}), flush=True)


if __name__ == "__main__":
    sys.exit(main())
