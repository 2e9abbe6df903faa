"""What an evaluation leaves in its folder.

====================  ================================================================================================
``metrics.json``      every figure with its interval, per class and confusion, and what was evaluated on what
``predictions.csv``   one line a sample and modality: ``key, group, class, modality, predicted, score``, the next best
``confusion.png``     the confusion matrices of all modalities
``samples.json``      some right and some wrong answers with their pictures, for the report page, and whether depth is
                      shown in colours of the distance (``metric_depth``)
====================  ================================================================================================
"""

from __future__ import annotations

import base64
import csv
import io
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmcl_core import metrics
from mmcl_core.atomic import Content, write_together
from mmcl_core.confusion import save_confusion
from mmcl_core.data.cache import PreparedSet
from mmcl_core.data.sheet import colourise_depth
from mmcl_core.engine.evaluation import Evaluation, Settings
from mmcl_core.modality import modality
from mmcl_core.weights import WEIGHTS_NAME

__all__ = ["evaluation_folder", "warn_of_another", "write_results"]

logger = logging.getLogger(__name__)

TOP = 5
EXAMPLES = 12  # shown of each kind, right and wrong
PICTURE_SIDE = 112
BLOCK = 4096  # rows of the table that are made at a time


def evaluation_folder(run: Path, data: str, settings: Settings) -> Path:
    """Where the results of an evaluation go that is not told another place: in the run, or beside a file of weights.

    Args:
        run: run folder or weights file; a file of another name than a run's has its name in that of the results.
        data: name of the prepared set.
        settings: what was asked for; what is not as usual is in the name.
    """
    chosen = {"legacy": settings.legacy, "no-camera": settings.hide_camera, "mirror": settings.mirror}
    chosen["bf16"] = settings.precision == "bf16"
    name = "-".join([data, settings.split, *(word for word, on in chosen.items() if on)])
    if run.is_dir():
        return run / "evaluation" / name
    if run.name != WEIGHTS_NAME:
        name = f"{run.stem}-{name}"  # several models may lie in one folder
    return run.parent / "evaluation" / name


def warn_of_another(out: Path, data: Mapping[str, Any]) -> None:
    """Tell of results on another set in the folder, such as one of the same name that lies elsewhere.

    Args:
        out: folder of the results.
        data: the set that was looked at now, as ``metrics.json`` tells it.
    """
    try:
        before = json.loads((out / "metrics.json").read_text(encoding="utf-8"))["data"]
        replaced = before["path"] if before["index_sha256"] != data["index_sha256"] else None
    except (OSError, ValueError, KeyError, TypeError):
        return
    if replaced not in (None, data["path"]):
        logger.warning("the results on %s that were in %s are replaced; give another --out to keep both", replaced, out)


def write_results(evaluation: Evaluation, out: Path) -> None:
    """Write all files of an evaluation; the same evaluation gives the same bytes."""
    out.mkdir(parents=True, exist_ok=True)
    files: dict[Path, Content] = {out / "predictions.csv": partial(_write_table, evaluation)}
    files[out / "samples.json"] = (json.dumps(_examples(evaluation)) + "\n").encode()
    figures = evaluation.report["modalities"]
    confusions = {name: figures[name]["confusion"] for name in figures}
    _save_confusion(out / "confusion.png", confusions, evaluation.classes, files.__setitem__)
    # The file that the others are looked for by comes last.
    files[out / "metrics.json"] = (json.dumps(evaluation.report, indent=1) + "\n").encode()
    write_together(files)


def _save_confusion(
    path: Path,
    confusions: Mapping[str, ArrayLike],
    classes: Sequence[str],
    write: Callable[[Path, Content], object],
) -> None:
    """The matrices [C, C] of all modalities, but for classes that have no sample and are never predicted."""
    matrices = {name: np.asarray(counts) for name, counts in confusions.items()}
    total = np.sum(list(matrices.values()), axis=0)
    shown = np.flatnonzero(total.sum(axis=0) + total.sum(axis=1)).tolist()
    titled = {
        f"{name}: {np.trace(counts) / max(1, counts.sum()):.1%} of {counts.sum()}": counts[np.ix_(shown, shown)]
        for name, counts in matrices.items()
    }
    names = [classes[place] for place in shown]
    save_confusion(path, titled, names, names, write=write)


def _write_table(evaluation: Evaluation, file: BinaryIO) -> None:
    prepared, classes = evaluation.prepared, evaluation.classes
    number = min(TOP, len(classes))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    others = [f"{kind}{place}" for place in range(2, number + 1) for kind in ("top", "score")]
    writer.writerow(["key", "group", "class", "modality", "predicted", "score", *others])
    for name, found in evaluation.predictions.items():
        for start in range(0, len(found.rows), BLOCK):
            part = slice(start, start + BLOCK)
            best = metrics.top_k(found.probabilities[part], number)
            scores = np.take_along_axis(found.probabilities[part], best, axis=1)
            for row, label, places, values in zip(found.rows[part], found.labels[part], best, scores, strict=True):
                answers = [
                    cell
                    for c, p in zip(places, values, strict=True)
                    for cell in (classes[c], np.format_float_positional(p, 6))
                ]
                writer.writerow([prepared.keys[row], prepared.groups[row], classes[label], name, *answers])
            file.write(text.getvalue().encode())
            text.seek(0)
            text.truncate()


def _examples(evaluation: Evaluation) -> dict[str, Any]:
    """Samples that every modality gets right, and samples that some modality gets wrong, spread over the classes."""
    predictions = evaluation.predictions
    rows, first = np.unique(np.concatenate([found.rows for found in predictions.values()]), return_index=True)
    labels, surest = np.zeros(len(rows), np.int64), np.full(len(rows), -1.0)
    for found in predictions.values():
        at, missed = np.searchsorted(rows, found.rows), found.probabilities.argmax(axis=1) != found.labels
        labels[at] = found.labels
        surest[at] = np.maximum(surest[at], np.where(missed, found.probabilities.max(axis=1), -1.0))
    order = np.argsort(first)
    right, wrong = order[surest[order] < 0], order[surest[order] >= 0]
    # The surest mistakes first: they say most about the model.
    wrong = wrong[np.argsort(-surest[wrong], kind="stable")]
    chosen = {"wrong": _spread(wrong, labels[wrong]), "right": _spread(right, labels[right])}
    examples = {
        kind: [_example(evaluation, int(rows[n]), int(labels[n])) for n in some] for kind, some in chosen.items()
    }
    shown = {name for some in examples.values() for example in some for name in example["pictures"]}
    return {**examples, "metric_depth": any(_is_metric(evaluation.prepared, name) for name in shown)}


def _is_metric(prepared: PreparedSet, name: str) -> bool:
    """Whether a modality is depth that is stored as distances."""
    return modality(name).kind == "depth" and prepared.images[name].ndim == 3


def _spread(numbers: NDArray[np.int64], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """The first of each class, class after class, at most :data:`EXAMPLES`; ``labels`` as long as ``numbers``."""
    by_class = np.argsort(labels, kind="stable")
    starts = np.searchsorted(labels[by_class], labels[by_class])  # where the class of each begins
    turn = np.empty(len(numbers), np.int64)
    turn[by_class] = np.arange(len(numbers)) - starts
    return numbers[np.argsort(turn, kind="stable")[:EXAMPLES]]


def _example(evaluation: Evaluation, row: int, label: int) -> dict[str, Any]:
    prepared, classes = evaluation.prepared, evaluation.classes
    answers = {}
    for name, found in evaluation.predictions.items():
        if len(at := np.flatnonzero(found.rows == row)):
            values = found.probabilities[at[0]]
            place = int(values.argmax())
            score = round(float(values[place]), 4)
            answers[name] = {"predicted": classes[place], "score": score, "right": place == label}
    return {
        "key": str(prepared.keys[row]),
        "class": classes[label],
        "pictures": _pictures(prepared, row, evaluation),
        "answers": answers,
    }


def _pictures(prepared: PreparedSet, row: int, evaluation: Evaluation) -> dict[str, str]:
    """By modality a small JPEG as base64 text."""
    pictures = {}
    for column, name in enumerate(prepared.modalities):
        if not prepared.present[row, column] or name not in {*evaluation.predictions, "rgb", "depth"}:
            continue
        image = np.asarray(prepared.images[name][row])
        if _is_metric(prepared, name):
            image = colourise_depth(image)
        smaller = cv2.resize(image, (PICTURE_SIDE, PICTURE_SIDE), interpolation=cv2.INTER_AREA)
        _, code = cv2.imencode(".jpg", smaller[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
        pictures[name] = base64.b64encode(code.tobytes()).decode()
    return pictures
