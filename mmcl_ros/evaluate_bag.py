"""Accuracy of a model on recorded sensor data, by sensor; needs no running ROS.

Writes for each modality ``predictions_<modality>.csv`` and ``confusion_<modality>.png``, and for all of them
``metrics.json`` and ``answers.png``: some pictures with right answers in green, wrong ones in red, rejected in grey.
The crops and their answers are made by the code that the node runs, with the nearest pictures of the whole recording.
Two runs write the same CSV files byte for byte; times are in ``metrics.json`` only. What an evaluation by other
modalities left in the folder is removed.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import io
import json
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import astuple, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from mmcl_core import metrics
from mmcl_core.atomic import Content, write_together
from mmcl_core.cli import add_logging_options, command_parser, run_command
from mmcl_core.confusion import save_confusion
from mmcl_core.crops import UNKNOWN
from mmcl_core.errors import ConfigError, DataError, InputError
from mmcl_core.words import counted
from mmcl_ros.bag_options import add_bag_options, cropping, open_bag, remember_colour, true_boxes, used_topics
from mmcl_ros.bagfile import Bag, Frame
from mmcl_ros.drawing import GREEN, GREY, RED, Mark, draw, sheet, to_colour
from mmcl_ros.frames import NAME_IT, Answer, FrameAnswer, FrameRecognizer, FrameSettings, Result
from mmcl_ros.health import Latencies, percentiles
from mmcl_ros.intake import wanted_modalities
from mmcl_ros.recognizers import RecognizerLike
from mmcl_ros.truth import Truth, is_unknown

__all__ = ["Evaluation", "evaluate", "main"]

logger = logging.getLogger(__name__)

MODALITIES = ("rgb", "depth", "rgbd", "auto")
FILES = ("predictions_{}.csv", "confusion_{}.png")  # of each
LEGEND = "green right, red wrong (truth in brackets), grey rejected or without truth"
SHOWN = 4  # pictures on the sheet, spread over the recording
EXAMPLES = """\
  python -m mmcl_ros.evaluate_bag --bag demo/ros/bag --truth demo/ros/truth.csv --model demo/run \\
    --modality rgb depth rgbd --out demo/ros/evaluation
  python -m mmcl_ros.evaluate_bag --bag my_bag --model ycb21 --modality auto --drop depth:1.0-2.5 --out my_figures"""


@dataclass(frozen=True)
class Row:
    """The answer for one true box: a line of ``predictions_<modality>.csv``."""

    stamp_ns: int
    index: int
    id: str
    x: int
    y: int
    width: int
    height: int
    truth: str
    label: str
    score: str
    correct: int | str
    result: str
    modality: str
    reason: str
    depth_valid: str
    rgb_stamp_ns: int | str
    depth_stamp_ns: int | str


@dataclass
class Evaluation:
    """What one modality setting gave.

    Attributes:
        rows: one per true box.
        labels: index of the true class of each box, -1 where it has no label and where it is an unknown object.
        probabilities: of each box; None where it was not answered.
        problems: what was wrong with pictures as a whole, such as ``depth: ...``, and how often.
        shown: some of the pictures with the answers drawn on them, uint8 [H, W, 3]; None where there was no picture.
        unpaired, one_sided: pictures none, or only some, of whose wanted modalities were found.
    """

    classes: Sequence[str]
    rows: list[Row] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    probabilities: list[np.ndarray | None] = field(default_factory=list)
    problems: Counter[str] = field(default_factory=Counter)
    shown: list[np.ndarray | None] = field(default_factory=list)
    unpaired: int = 0
    one_sided: int = 0
    frames: int = 0
    latencies: Latencies = field(default_factory=lambda: Latencies(1_000_000))

    def add(self, truth: Truth, frame: Frame, found: FrameAnswer) -> None:
        """Enter the answers for one picture."""
        problems = {name: words for name, (_, words) in found.problems.items()}
        remarks = {
            name: words.replace(NAME_IT, "; name it (--depth-info-topic)") for name, words in found.remarks.items()
        }
        self.problems.update(f"{name}: {words}" for told in (problems, remarks) for name, words in told.items())
        self.problems.update(found.notes.values())
        for index, (answer, label) in enumerate(zip(found.answers, truth.labels, strict=True)):
            best = answer.labels[0] if answer.labels else ""
            counts = bool(label) and not is_unknown(label, self.classes)
            stamps = [frame.stamps.get(name, "") if name in frame.pictures else "" for name in ("rgb", "depth")]
            row = Row(
                truth.request.stamp,
                index,
                answer.id,
                *answer.roi,
                truth=label,
                label=answer.label,
                score=f"{answer.score:.6f}",
                correct=int(best == label) if counts else "",
                result=answer.result.name.lower(),
                modality=answer.modality,
                reason=answer.reason,
                depth_valid=f"{answer.depth_valid:.4f}" if answer.depth_valid >= 0 else "",
                rgb_stamp_ns=stamps[0],
                depth_stamp_ns=stamps[1],
            )
            self.rows.append(row)
            self.labels.append(self.classes.index(label) if counts else -1)
            self.probabilities.append(answer.probabilities)

    def show(self, truth: Truth, pictures: Mapping[str, Any], found: FrameAnswer) -> None:
        """Keep a picture with its answers, drawn on colour where they had any of it, else on depth."""
        self.shown.append(None)
        sensor = "rgb" if "rgb" in pictures else "depth"
        if sensor in pictures:
            marks = [_mark(answer, label) for answer, label in zip(found.answers, truth.labels, strict=True)]
            with contextlib.suppress(InputError):  # a picture that cannot be decoded; its answers say so
                self.shown[-1] = draw(to_colour(pictures[sensor], sensor), marks, found.size, found.maps.get(sensor))

    @property
    def counted(self) -> list[Row]:
        """The rows that accuracy is taken of: those with a label, but for unknown objects."""
        return [row for row, label in zip(self.rows, self.labels, strict=True) if label >= 0]

    @property
    def unknown(self) -> list[Row]:
        """The rows of boxes that are of no class which the model names, see :func:`mmcl_ros.truth.is_unknown`."""
        return [row for row in self.rows if is_unknown(row.truth, self.classes)]

    def figures(self) -> dict[str, Any]:
        """The figures of ``metrics.json``."""
        results = Counter(row.result for row in self.rows)
        right = [bool(row.correct) for row in self.counted]
        accepted = [bool(row.correct) for row in self.counted if _accepted(row)]
        pairs = zip(self.labels, self.probabilities, strict=True)
        known = [(label, answer) for label, answer in pairs if label >= 0 and answer is not None]
        figures: dict[str, Any] = {
            "boxes": len(self.rows),
            "unlabelled": sum(not row.truth for row in self.rows),
            "frames": self.frames,
            "accuracy": float(np.mean(right)) if right else None,
            "accuracy_of_accepted": float(np.mean(accepted)) if accepted else None,
            "rejected": {name: count for name, count in sorted(results.items()) if name != "accepted"},
            "problems": dict(self.problems.most_common(20)),
            "unpaired": self.unpaired,
            "one_sided": self.one_sided,
            "answered_from": dict(sorted(Counter(row.modality or "nothing" for row in self.rows).items())),
            "unknown": len(self.unknown),
            "unknown_answered": sum(map(_accepted, self.unknown)),
        }
        if known:
            labels = np.array([label for label, _ in known])
            probabilities = np.stack([answer for _, answer in known])
            predicted = probabilities.argmax(axis=1)
            figures["macro_f1"] = metrics.macro_f1(labels, predicted, len(self.classes))
            figures["ece"] = metrics.expected_calibration_error(probabilities, labels)
        stages = percentiles(self.latencies.seconds())
        figures["latency_ms"] = {
            stage: dict(zip(("p50", "p90", "p99"), values, strict=True)) for stage, values in stages.items()
        }
        return figures


def _accepted(row: Row) -> bool:
    return row.result == "accepted"


def _mark(answer: Answer, label: str) -> Mark:
    """A box with the answer, and the truth where it is another."""
    if answer.result is not Result.ACCEPTED:
        return Mark(answer.roi, f"rejected ({label})", GREY)
    if answer.label == label or not label:
        return Mark(answer.roi, f"{answer.label} {answer.score:.2f}", GREEN if label else GREY)
    return Mark(answer.roi, f"{answer.label} {answer.score:.2f} ({label})", RED)


def evaluate(
    bag: Bag,
    truths: Sequence[Truth],
    recognizer: RecognizerLike,
    modalities: Sequence[str],
    settings: FrameSettings,
    window: float = 0.02,
    drops: dict[str, list[tuple[float, float]]] | None = None,
) -> dict[str, Evaluation]:
    """Answer every true box of a recording, by each modality setting.

    Raises:
        ConfigError: a modality that :func:`mmcl_ros.intake.wanted_modalities` refuses.
        DataError: the recording has no pictures of a modality, or no true box has a label.
    """
    if not any(label for truth in truths for label in truth.labels):
        raise DataError("no true box has a label; there is nothing to compare answers with")
    wanted = {}
    modalities = list(dict.fromkeys(modalities))  # one that is named twice is evaluated once
    for name in modalities:
        wanted[name] = wanted_modalities(name, recognizer)
        absent = [one for one in wanted[name] if not getattr(bag.topics, one)]
        if absent and (name != "auto" or len(absent) == len(wanted[name])):
            raise DataError(f"{bag.path} has no {' and no '.join(absent)} pictures; its topics: {bag.listing()}")
    found = {name: Evaluation(list(recognizer.classes)) for name in modalities}
    answerers = {name: FrameRecognizer(recognizer, settings) for name in modalities}
    remember_colour(bag, answerers.values())
    missing = f"no picture within {window:g} s"
    frames = bag.frames([truth.request for truth in truths], window, drops)
    shown = set(np.linspace(0, len(truths) - 1, min(SHOWN, len(truths)), dtype=int).tolist())
    for number, (truth, frame) in enumerate(zip(truths, frames, strict=True)):
        for name in modalities:
            pictures = {one: frame.pictures[one] for one in wanted[name] if one in frame.pictures}
            started = time.perf_counter()
            answer = answerers[name](truth.request, pictures, frame.infos, missing)
            answer.seconds["total"] = time.perf_counter() - started
            result = found[name]
            result.frames += 1
            result.unpaired += not pictures
            result.one_sided += 0 < len(pictures) < len(wanted[name])
            for stage, seconds in answer.seconds.items():
                result.latencies.add(stage, seconds)
            result.add(truth, Frame(truth.request, pictures, frame.stamps, frame.infos), answer)
            if number in shown:
                result.show(truth, pictures, answer)
    return found


def write(out: Path, found: dict[str, Evaluation], about: dict[str, Any]) -> dict[str, Any]:
    """Write the files of a run and return the content of ``metrics.json``; those of other modalities are removed."""
    out.mkdir(parents=True, exist_ok=True)
    other = [file.format(name) for name in MODALITIES if name not in found for file in FILES]
    files: dict[Path, Content] = {}
    report = {**about, "modalities": {name: result.figures() for name, result in found.items()}}
    for name, result in found.items():
        table, picture = (out / file.format(name) for file in FILES)
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(column.name for column in fields(Row))
        writer.writerows(map(astuple, result.rows))
        files[table] = text.getvalue().encode()
        draw_confusion(picture, result, name, files.__setitem__)
    pictures = sheet(list(zip(*(result.shown for result in found.values()), strict=True)), list(found), LEGEND)
    files[out / "answers.png"] = cv2.imencode(".png", pictures[..., ::-1])[1].tobytes()
    files[out / "metrics.json"] = (json.dumps(report, indent=2) + "\n").encode()
    write_together(files)
    if past := [name for name in other if (out / name).exists()]:
        words = "%s held %s of another evaluation, removed; give another --out to keep both"
        logger.warning(words, out, ", ".join(past))
        for name in past:
            (out / name).unlink()
    return report


def draw_confusion(path: Path, result: Evaluation, title: str, write: Callable[[Path, Content], object]) -> None:
    """A picture of the confusion matrix: the true classes that occur against the answers, rejections last."""
    pairs = Counter((row.truth, row.label) for row in result.rows if row.truth)
    truths = {truth for truth, _ in pairs}
    rows, columns = sorted(truths), [*sorted((truths | {label for _, label in pairs}) - {UNKNOWN}), UNKNOWN]
    counts = np.zeros((len(rows), len(columns)), int)
    for (truth, label), number in pairs.items():
        counts[rows.index(truth), columns.index(label)] = number
    right = [int(row.correct) for row in result.counted]
    title += f": {np.mean(right):.3f} of {len(right)} right" if right else ": unknown objects alone"
    save_confusion(path, {title: counts}, rows, columns, write=write)


def parse_drop(text: str) -> tuple[str, tuple[float, float]]:
    """``depth:1.0-2.5`` as a modality and a stretch of seconds from the beginning."""
    name, _, stretch = text.partition(":")
    start, _, end = stretch.partition("-")
    try:
        bounds = (float(start), float(end))
    except ValueError:
        bounds = (1.0, 0.0)
    if name not in ("rgb", "depth") or not bounds[0] < bounds[1] < float("inf"):  # nan, too
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form depth:1.0-2.5")
    return name, bounds


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = command_parser("mmcl_ros.evaluate_bag", __doc__, EXAMPLES)
    add_bag_options(parser)
    parser.add_argument("--model", required=True, help="run folder, weights file, or ycb21")
    parser.add_argument(
        "--modality", nargs="+", default=["auto"], choices=MODALITIES, help="one report each (default: auto)"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--drop", type=parse_drop, action="append", default=[], help="lose a sensor: depth:1.0-2.5 (s)")
    parser.add_argument("--min-score", type=float, default=0.0, help="answers below become unknown (default: 0)")
    parser.add_argument("--mirror", action="store_true", help="as the parameter of the node")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ... (default: auto)")
    add_logging_options(parser)
    options = parser.parse_args(arguments)
    return run_command(lambda: _run(options), options.log_level)


def _run(options: argparse.Namespace) -> None:
    from mmcl_core.recognizer import Recognizer

    settings = replace(cropping(options), min_score=options.min_score)
    if not 0 <= options.min_score <= 1:
        raise ConfigError(f"--min-score must be 0 to 1, got {options.min_score:g}")
    drops: dict[str, list[tuple[float, float]]] = {}
    for name, stretch in options.drop:
        drops.setdefault(name, []).append(stretch)
    with open_bag(options) as bag:
        truths = true_boxes(options, bag)
        recognizer = Recognizer.load(options.model, options.device, mirror=options.mirror)
        options.out.mkdir(parents=True, exist_ok=True)  # what cannot be written to is refused before the work
        found = evaluate(bag, truths, recognizer, options.modality, settings, options.window, drops)
        topics = used_topics(bag, boxes=not options.truth)
    _warn(found, options.window)
    _refuse_unanswered(found)
    about = {
        "bag": str(options.bag),
        "model": recognizer.model_id,
        "mirror": recognizer.mirror,
        "topics": topics,
        "drop": drops,
        "damaged_messages": len(bag.damaged),
    }
    report = write(options.out, found, about)
    print(f"topics:   {', '.join(topics.values())}")
    for name, figures in report["modalities"].items():
        rejected = sum(not _accepted(row) for row in found[name].counted)
        known = figures["boxes"] - figures["unlabelled"] - figures["unknown"]
        more = f", {figures['unlabelled']} more without a label" if figures["unlabelled"] else ""
        if figures["unknown"]:
            more += f", {figures['unknown_answered']} of {counted(figures['unknown'], 'unknown object')} answered"
        accuracy = f"accuracy {figures['accuracy']:.3f}" if known else "no accuracy"
        print(f"{name:6} {accuracy} of {counted(known, 'box')}{more}, {rejected} rejected")
    print(f"figures:  {options.out / 'metrics.json'}\npictures: {options.out / 'answers.png'}")


def _refuse_unanswered(found: Mapping[str, Evaluation]) -> None:
    """Refuse true boxes that are of another recording, or in other units.

    Raises:
        DataError: none of them was answered, by any modality; with the reason of most.
    """
    if any(answer is not None for result in found.values() for answer in result.probabilities):
        return
    rows = [row for result in found.values() for row in result.rows]
    ((reason, result), count), *_ = Counter((row.reason or row.result, row.result) for row in rows).most_common(1)
    hint = "; stamps are expected in nanoseconds, as in the recording, and boxes in pixels of its pictures"
    raise DataError(
        f"none of the {counted(len(next(iter(found.values())).rows), 'true box')} was answered, {count} of "
        f"{counted(len(rows), 'time')} as: {reason}{hint if result in ('no_picture', 'bad_region') else ''}"
    )


def _warn(found: dict[str, Evaluation], window: float) -> None:
    """Say what makes the figures other than they seem."""
    for name, result in found.items():
        if result.unpaired:
            words = "%s: %d of %s none in the recording within %g s of the stamp"
            logger.warning(words, name, result.unpaired, counted(result.frames, "true picture", "has", "have"), window)
        reasons = [row.reason for row in result.rows if row.result == "bad_region"]
        if reasons:
            boxes = counted(len(result.rows), "box", "is no region", "are no regions")
            logger.warning("%s: %d of %s, such as: %s", name, len(reasons), boxes, reasons[0])
        for problem, count in result.problems.most_common(3):
            logger.warning("%s: in %d of %s, %s", name, count, counted(result.frames, "picture"), problem)
    result = next(iter(found.values()))
    if unknown := result.unknown:
        names = sorted({row.truth for row in unknown})
        listed = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
        words = "%s of no class that the model names (%s), and left out of accuracy"
        logger.warning(words, counted(len(unknown), "box", "is", "are"), listed)
    if not result.counted:
        words = "no box is of a class of the model: there is no accuracy; it names %s"
        logger.warning(words, ", ".join(result.classes))


if __name__ == "__main__":
    raise SystemExit(main())
