"""What an evaluation leaves in its folder.

====================  ================================================================================================
``metrics.json``      every figure with its interval, per class and confusion, and what was evaluated on what
``predictions.csv``   one line a sample and modality: ``key, group, class, modality, predicted, score``, the next best
``confusion.png``     the confusion matrices of all modalities
``samples.json``      some right and some wrong answers with their pictures, for the report page
====================  ================================================================================================
"""

from __future__ import annotations

import base64
import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mmcl_core import metrics
from mmcl_core.atomic import write_text
from mmcl_core.data.cache import PreparedSet
from mmcl_core.data.sheet import colourise_depth
from mmcl_core.engine.evaluation import Evaluation
from mmcl_core.engine.figures import save_confusion
from mmcl_core.modality import modality

__all__ = ["write_results"]

TOP = 5
EXAMPLES = 12  # shown of each kind, right and wrong
PICTURE_SIDE = 112


def write_results(evaluation: Evaluation, out: Path) -> None:
    """Write all files of an evaluation; the same evaluation gives the same bytes."""
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "predictions.csv", _table(evaluation))
    write_text(out / "samples.json", json.dumps(_examples(evaluation)) + "\n")
    figures = evaluation.report["modalities"]
    save_confusion(out / "confusion.png", {n: figures[n]["confusion"] for n in figures}, evaluation.classes)
    # The file that the others are looked for by comes last.
    write_text(out / "metrics.json", json.dumps(evaluation.report, indent=1) + "\n")


def _table(evaluation: Evaluation) -> str:
    prepared, classes = evaluation.prepared, evaluation.classes
    number = min(TOP, len(classes))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    others = [f"{kind}{place}" for place in range(2, number + 1) for kind in ("top", "score")]
    writer.writerow(["key", "group", "class", "modality", "predicted", "score", *others])
    for name, found in evaluation.predictions.items():
        best = metrics.top_k(found.probabilities, number)
        scores = np.take_along_axis(found.probabilities, best, axis=1)
        for row, label, places, values in zip(found.rows, found.labels, best, scores, strict=True):
            answers = [
                cell
                for c, p in zip(places, values, strict=True)
                for cell in (classes[c], np.format_float_positional(p, 6))
            ]
            writer.writerow([prepared.keys[row], prepared.groups[row], classes[label], name, *answers])
    return text.getvalue()


def _examples(evaluation: Evaluation) -> dict[str, list[dict[str, Any]]]:
    """Samples that every modality gets right, and samples that some modality gets wrong, spread over the classes."""
    answers: dict[int, dict[str, tuple[int, float]]] = {}
    labels: dict[int, int] = {}
    for name, found in evaluation.predictions.items():
        best = found.probabilities.argmax(axis=1)
        for row, label, place, values in zip(found.rows, found.labels, best, found.probabilities, strict=True):
            answers.setdefault(int(row), {})[name] = (int(place), float(values[place]))
            labels[int(row)] = int(label)
    wrong = [row for row, given in answers.items() if any(place != labels[row] for place, _ in given.values())]
    right = [row for row in answers if row not in set(wrong)]
    # The surest mistakes first: they say most about the model.
    wrong.sort(key=lambda row: -max(score for place, score in answers[row].values() if place != labels[row]))
    chosen = {"wrong": _spread(wrong, labels), "right": _spread(right, labels)}
    return {
        kind: [_example(evaluation, row, labels[row], answers[row]) for row in rows] for kind, rows in chosen.items()
    }


def _spread(rows: list[int], labels: Mapping[int, int]) -> list[int]:
    """The first rows of each class, class after class, at most :data:`EXAMPLES`."""
    seen: dict[int, int] = {}
    turn = []
    for place, row in enumerate(rows):
        seen[labels[row]] = seen.get(labels[row], -1) + 1
        turn.append((seen[labels[row]], place, row))
    return [row for _, _, row in sorted(turn)[:EXAMPLES]]


def _example(evaluation: Evaluation, row: int, label: int, answers: Mapping[str, tuple[int, float]]) -> dict[str, Any]:
    prepared, classes = evaluation.prepared, evaluation.classes
    return {
        "key": str(prepared.keys[row]),
        "class": classes[label],
        "pictures": _pictures(prepared, row, evaluation),
        "answers": {
            name: {"predicted": classes[place], "score": round(score, 4), "right": place == label}
            for name, (place, score) in answers.items()
        },
    }


def _pictures(prepared: PreparedSet, row: int, evaluation: Evaluation) -> dict[str, str]:
    """By modality a small JPEG as base64 text."""
    pictures = {}
    for column, name in enumerate(prepared.modalities):
        if not prepared.present[row, column] or name not in {*evaluation.predictions, "rgb", "depth"}:
            continue
        image = np.asarray(prepared.images[name][row])
        if modality(name).kind == "depth" and image.ndim == 2:
            image = colourise_depth(image)
        smaller = cv2.resize(image, (PICTURE_SIDE, PICTURE_SIDE), interpolation=cv2.INTER_AREA)
        _, code = cv2.imencode(".jpg", smaller[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])
        pictures[name] = base64.b64encode(code.tobytes()).decode()
    return pictures
