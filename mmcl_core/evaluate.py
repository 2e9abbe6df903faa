"""Evaluate a run: ``python -m mmcl_core.evaluate RUN --data DIR [--modality rgb depth rgbd] [--split test]``.

Every sample of the split is looked at once. Prints a table, writes metrics.json, predictions.csv and confusion.png, and
the page report/index.html of the run.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmcl_core.cli import add_logging_options, command_parser, run_command
from mmcl_core.errors import ConfigError, DataError

__all__ = ["main"]

#: Samples at once where answers do not depend on it.
BATCH = 64
FEWEST_RESAMPLES = 100

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status, see :mod:`mmcl_core.cli`."""
    options = _parser().parse_args(arguments)

    def action() -> None:
        from mmcl_core.engine.results_table import table

        out, page, report = _evaluate(options)
        print(table(report))
        print(f"\nfigures:  {out / 'metrics.json'}\npictures: {out / 'confusion.png'}\nreport:   {page}")

    return run_command(action, options.log_level)


def _evaluate(options: argparse.Namespace) -> tuple[Path, Path, dict[str, Any]]:
    from mmcl_core.engine.evaluation import Settings, evaluate
    from mmcl_core.engine.report import write_report
    from mmcl_core.engine.results import evaluation_folder, warn_of_another, write_results

    batch = _batch(options)
    if batch < 1 or options.seed < 0 or not 0 <= options.threads <= 1024:  # as train.threads
        raise ConfigError("--batch must be at least 1, --seed at least 0, --threads from 0 to 1024")
    if options.resamples < FEWEST_RESAMPLES:
        raise ConfigError(
            f"--resamples is {options.resamples}; at least {FEWEST_RESAMPLES} are needed for the ends of 95 % intervals"
        )
    if options.threads:
        from mmcl_core.backend_torch import set_threads

        set_threads(options.threads)
    settings = Settings(
        split=options.split,
        modalities=tuple(options.modality),
        batch=batch,
        device=options.device,
        precision=options.precision,
        legacy=options.legacy_protocol,
        resamples=options.resamples,
        seed=options.seed,
        hide_camera=options.hide_camera,
        mirror=options.mirror,
    )
    evaluation = evaluate(options.run, options.data, settings)
    run = options.run if options.run.is_dir() else None
    out = options.out or evaluation_folder(options.run, evaluation.report["data"]["name"], settings)
    warn_of_another(out, evaluation.report["data"])
    write_results(evaluation, out)
    try:
        page = write_report(run or out, [out])
    except (OSError, DataError) as error:
        if run is None:
            raise
        logger.warning("the report of the run could not be written (%s) and is put beside the figures", error)
        page = write_report(out, [out])
    return out, page, evaluation.report


def _batch(options: argparse.Namespace) -> int:
    """What ``--batch`` says; by default, under the authors' protocol, that of the training, where its settings are."""
    from mmcl_core.engine.runfolder import read_config
    from mmcl_core.weights import weights_file

    if options.batch is not None or not options.legacy_protocol:
        return BATCH if options.batch is None else int(options.batch)
    run = weights_file(options.run).parent
    return read_config(run).train.batch if (run / "config.yaml").exists() else BATCH


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("mmcl_core.evaluate", __doc__)
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder, weights file, or ycb21")
    parser.add_argument("--data", required=True, type=Path, metavar="DIR", help="prepared set")
    parser.add_argument(
        "--modality",
        nargs="+",
        default=[],
        metavar="NAME",
        help="rgb, depth, and rgbd for the fusion (default: all that model and set have)",
    )
    parser.add_argument("--split", default="test", help="what of the set to look at (default: %(default)s)")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder of the results (default: RUN/evaluation/<data set>-<split>, with -mirror and the like behind; of "
        "a weights file beside it, of ycb21 in the current folder, with its name in front but for weights.safetensors)",
    )
    parser.add_argument(
        "--batch", type=int, help=f"samples at once (default: {BATCH}, and with --legacy-protocol that of the training)"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: %(default)s)")
    parser.add_argument(
        "--precision", choices=("float32", "bf16"), default="float32", help="of the network (default: %(default)s)"
    )
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: torch chooses")
    parser.add_argument(
        "--resamples", type=int, default=1000, help="of the bootstrap, 100 or more (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the bootstrap (default: %(default)s)")
    parser.add_argument(
        "--hide-camera",
        action="store_true",
        help="withhold the cameras (focal lengths) of the crops: what depth is worth where a robot publishes none",
    )
    parser.add_argument(
        "--mirror",
        action="store_true",
        help="look at every sample and its mirror image and average the answers, as Recognizer.load(mirror=True)",
    )
    parser.add_argument(
        "--legacy-protocol",
        action="store_true",
        help="as the authors' program: BatchNorm re-estimated on test batches, shuffled, last batch dropped",
    )
    add_logging_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main())
