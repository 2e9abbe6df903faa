"""Evaluate a run: ``python -m mmcl_core.evaluate RUN --data DIR [--modality rgb depth rgbd] [--split test]``.

Every sample of the split is looked at once. Prints a table, writes metrics.json, predictions.csv and confusion.png, and
the page report/index.html of the run.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmcl_core.cli import add_logging_options, command_parser, run_command
from mmcl_core.errors import ConfigError, DataError
from mmcl_core.metrics import FUSED, titles

__all__ = ["main", "table"]

#: Samples at once where answers do not depend on it.
BATCH = 64
FEWEST_RESAMPLES = 100
#: Values of min_score that are printed; metrics.json and the report have more.
SHOWN_SCORES = (0.0, 0.5, 0.7, 0.8, 0.9)

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status, see :mod:`mmcl_core.cli`."""
    options = _parser().parse_args(arguments)

    def action() -> None:
        out, page, report = _evaluate(options)
        print(table(report))
        print(f"\nfigures:  {out / 'metrics.json'}\npictures: {out / 'confusion.png'}\nreport:   {page}")

    return run_command(action, options.log_level)


def _evaluate(options: argparse.Namespace) -> tuple[Path, Path, dict[str, Any]]:
    from mmcl_core.engine.evaluation import Settings, evaluate
    from mmcl_core.engine.report import write_report
    from mmcl_core.engine.results import write_results
    from mmcl_core.weights import WEIGHTS_NAME

    batch = _batch(options)
    if batch < 1 or min(options.threads, options.seed) < 0:
        raise ConfigError("--batch must be at least 1, --threads and --seed at least 0")
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
    chosen = {"legacy": settings.legacy, "no-camera": settings.hide_camera, "mirror": settings.mirror}
    chosen["bf16"] = settings.precision == "bf16"
    name = "-".join([evaluation.report["data"]["name"], settings.split, *(word for word, on in chosen.items() if on)])
    if run is None and options.run.name != WEIGHTS_NAME:
        name = f"{options.run.stem}-{name}"  # several models may lie in one folder
    out = options.out or (run or options.run.parent) / "evaluation" / name
    _warn_of_another(out, evaluation.report["data"])
    write_results(evaluation, out)
    try:
        page = write_report(run or out, [out])
    except (OSError, DataError) as error:
        if run is None:
            raise
        logger.warning("the report of the run could not be written (%s) and is put beside the figures", error)
        page = write_report(out, [out])
    return out, page, evaluation.report


def _warn_of_another(out: Path, data: Mapping[str, Any]) -> None:
    """Tell of results on another set in the folder, such as one of the same name that lies elsewhere."""
    try:
        before = json.loads((out / "metrics.json").read_text(encoding="utf-8"))["data"]
        replaced = before["path"] if before["index_sha256"] != data["index_sha256"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return
    if replaced not in (None, data["path"]):
        logger.warning("the results on %s that were in %s are replaced; give another --out to keep both", replaced, out)


def _batch(options: argparse.Namespace) -> int:
    """What ``--batch`` says; by default, under the authors' protocol, that of the training, where its settings are."""
    from mmcl_core.engine.runfolder import read_config
    from mmcl_core.weights import weights_file

    if options.batch is not None or not options.legacy_protocol:
        return BATCH if options.batch is None else int(options.batch)
    run = weights_file(options.run).parent
    return read_config(run).train.batch if (run / "config.yaml").exists() else BATCH


def table(report: Mapping[str, Any]) -> str:
    """The figures of a ``metrics.json`` as text, with their 95 % intervals."""
    data = report["data"]
    lines = [f"{data['name']}, split {data['split']}: {data['samples']} samples, model {report['model']['model_id']}"]
    if report["settings"]["legacy"]:
        lines.append(f"!! {report['protocol']}")
    if report["settings"]["mirror"]:
        lines.append("mirrored: every answer is the mean of the sample's and of its mirror image's")
    if data["without_camera"] and report["model"]["uses_camera"]:
        lines.append(f"without a camera: {data['without_camera']} samples; depth is worth less to this model without")
    left = data["left_out"]
    if left["unlabelled"] or left["unknown_classes"]:
        others = sum(left["unknown_classes"].values())
        lines.append(f"left out: {left['unlabelled']} unlabelled, {others} of things that the model has no name for")
    if left["incomplete_batch"]:
        lines.append(f"left out: {left['incomplete_batch']} of the last, incomplete batch")
    columns = titles(len(report["model"]["classes"]))
    lines.append("".join([f"{'':10}{'samples':>8}", *(f"{title:>24}" for title in columns.values())]))
    for name, figures in report["modalities"].items():
        cells = (_cell(key, figures[key]) for key in columns)
        lines.append("".join([f"{name:10}{figures['samples']:>8}", *(f"{cell:>24}" for cell in cells)]))
    for name, figures in report["modalities"].items():
        if figures["missing"]:
            lines.append(f"{name}: {figures['missing']} samples do not have it")
        if figures["without_reading"]:
            how = "answered by colour" if name == FUSED else "counted as a guess"
            lines.append(f"{name}: the depth of {figures['without_reading']} samples has no reading; {how}")
        if "restricted" in figures:
            only = figures["restricted"]
            lines.append(f"{name}: top-1 among the {only['classes']} classes of the split alone: {only['top1']:.3f}")
    return "\n".join(lines + _min_scores(report["modalities"]))


def _cell(name: str, value: Mapping[str, float]) -> str:
    """A figure with its interval; resampling widens ECE, and so the quantiles are no interval of it."""
    return f"{value['value']:.3f}" + ("" if name == "ece" else f" [{value['low']:.3f}, {value['high']:.3f}]")


def _min_scores(modalities: Mapping[str, Any]) -> list[str]:
    """What some values of ``min_score`` make of strangers, where there are any."""
    lines = []
    for name, figures in modalities.items():
        found = figures["min_score"]
        if not found["stranger"]:
            continue
        for place, threshold in enumerate(found["thresholds"]):
            if threshold in SHOWN_SCORES:
                shares = [found[key][place] for key in ("answered", "right", "strangers")]
                answered, right, strangers = ("-" if share is None else f"{share:.3f}" for share in shares)
                lines.append(
                    f"{name:10}{threshold:>10.2f}{answered:>12}{right:>18}{strangers:>13} of {found['stranger']}"
                )
    if lines:
        lines.insert(0, f"\n{'':10}{'min_score':>10}{'answered':>12}{'right of these':>18}{'strangers answered':>22}")
    return lines


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
        help="folder of the results (default: RUN/evaluation/<data set>-<split>; of a weights file beside it, with "
        "its name in front)",
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
