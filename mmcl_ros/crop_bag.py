"""Training crops from recorded sensor data, cut as the recognizer node cuts them; needs no running ROS.

Writes ``<class>/<recording>_<stamp and number>_rgb.png`` and ``..._depth.png`` (16 bit, millimetres, 0 = no reading),
and ``cameras.csv`` with the camera of each crop where it is known. Boxes without a label go to ``unlabelled``. Further
recordings, each with a name of its own, may go to the same folder; crops of an earlier call for the same recording are
replaced. With ``--split test`` the crops lie in ``test/<class>``: whole recordings in one split, so that no test crop
shows what a training crop shows.
"""

from __future__ import annotations

import argparse
import csv
import glob
import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from mmcl_core.cli import add_logging_options, command_parser, run_command
from mmcl_core.errors import ConfigError, DataError
from mmcl_core.progress import progress_bar
from mmcl_ros.bag_options import add_bag_options, cropping, open_bag, remember_colour, true_boxes
from mmcl_ros.bagfile import Bag
from mmcl_ros.frames import FrameCropper, FrameSettings, RegionCrops
from mmcl_ros.truth import Truth

__all__ = ["Cropped", "crop_bag", "main"]

logger = logging.getLogger(__name__)

CAMERAS, RECORDINGS = "cameras.csv", "recordings.csv"
UNLABELLED = "unlabelled"
_COLUMNS = ("key", "fx", "fy", "cx", "cy")
_RECORDING_COLUMNS = ("name", "recording", "topics")  # earlier versions wrote no topics
EXAMPLES = """\
  python -m mmcl_ros.crop_bag --bag DIR --truth boxes.csv --out my_crops
  python -m mmcl_core.prepare folder --source my_crops --out data_sets/mine --split train=0.8,val=0.2"""


@dataclass
class Cropped:
    """What became of the boxes of a recording.

    Attributes:
        boxes: how many there were.
        classes: crops of each class folder.
        pictures: crops of each modality.
        reasons: why boxes have no crop, and how often.
        problems: what was wrong with pictures as a whole, such as ``depth: ...``, and how often.
    """

    boxes: int = 0
    classes: Counter[str] = field(default_factory=Counter)
    pictures: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    problems: Counter[str] = field(default_factory=Counter)


def crop_bag(
    bag: Bag,
    truths: Sequence[Truth],
    out: Path,
    settings: FrameSettings,
    window: float = 0.02,
    split: str = "",
    name: str = "",
) -> Cropped:
    """Write the crops of all true boxes of a recording.

    Args:
        bag: the recording.
        truths: its boxes with their labels.
        out: folder of the crops; may hold those of other recordings.
        settings: how boxes are cut.
        window: largest difference in stamps of a box and its pictures, seconds.
        split: name of the level above the class folders; empty: none.
        name: of the recording, in front of the names of its crops; empty: that of its folder or file.

    Raises:
        DataError: a label, split or name that cannot name files, or a name that another recording, or other topics of
            this one, have in ``out``.
    """
    name = name or bag.path.resolve().name.removesuffix(".bag")
    for given, what in ((name, "--name"), (split, "--split"), *((one, "label") for t in truths for one in t.labels)):
        _check_name(given, what)
    known = _read_table(out / CAMERAS, _COLUMNS)
    topics = " ".join(topic for topic in (bag.topics.rgb, bag.topics.depth) if topic)
    if _enter(out / RECORDINGS, name, str(bag.path.resolve()), topics):
        _remove_crops(out, name, known)
    result, cropper = Cropped(), FrameCropper(settings)
    remember_colour(bag, [cropper])
    missing = f"no picture within {window:g} s"
    frames = bag.frames([truth.request for truth in truths], window)
    pairs = progress_bar(
        zip(truths, frames, strict=True), title="crop", unit=" pictures", total=len(truths), in_logs=True
    )
    for truth, frame in pairs:
        regions, answer = cropper.crops(truth.request, frame.pictures, frame.infos, missing)
        result.boxes += len(truth.labels)
        result.problems.update(f"{modality}: {words}" for modality, (_, words) in answer.problems.items())
        found = {region.index for region in regions}
        result.reasons.update(one.reason for n, one in enumerate(answer.answers) if n not in found)
        for region in regions:
            label = truth.labels[region.index] or UNLABELLED
            key = f"{name}_{truth.request.stamp}{region.index:03d}"
            folder = out / split / label
            _write(folder, key, region, result.pictures)
            place = f"{split}/{label}/{key}" if split else f"{label}/{key}"
            camera = _camera(region)
            if camera:
                known[place] = tuple(f"{value:.6g}" for value in camera)
            result.classes[label] += 1
    if known or (out / CAMERAS).exists():
        _write_table(out / CAMERAS, _COLUMNS, known)
    return result


def _enter(path: Path, name: str, recording: str, topics: str) -> bool:
    """Note whose crops bear a name: crops of two recordings would take each other's place; whether it was known."""
    known = _read_table(path, _RECORDING_COLUMNS, least=2)
    held, listed = known.get(name, (recording, topics))
    if held != recording or listed not in ("", topics):  # topics of an earlier version are not known
        words = f"{held}, {listed}" if listed else held
        raise DataError(
            f"{path.parent} holds crops of another recording, or of other topics, named {name!r} ({words}); "
            "give --name NAME"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    _write_table(path, _RECORDING_COLUMNS, {**known, name: (recording, topics)})
    return name in known


def _remove_crops(out: Path, name: str, cameras: dict[str, tuple[str, ...]]) -> None:
    """Remove the crops that an earlier call made of a recording: their labels, split or cut may have changed."""
    own = re.compile(rf"{re.escape(name)}_\d+")
    found = [path for path in out.rglob(f"{glob.escape(name)}_*.png") if own.fullmatch(path.stem.rpartition("_")[0])]
    for path in found:
        path.unlink()
    for key in [key for key in cameras if own.fullmatch(key.rpartition("/")[2])]:
        del cameras[key]
    if found:
        logger.info("%d pictures of an earlier call for the recording %r in %s are replaced", len(found), name, out)


def _check_name(name: str, what: str) -> None:
    if name.startswith((".", "__")) or any(letter in name for letter in "/\\\0"):
        raise DataError(f"{what} {name!r} cannot be the name of a folder of crops: no /, \\, and no . or __ in front")


def _write(folder: Path, key: str, region: RegionCrops, count: Counter[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for modality, crop in region.crops.items():
        values = crop[..., ::-1] if modality == "rgb" else _millimetres(crop)
        encoded = cv2.imencode(".png", np.ascontiguousarray(values))[1]
        (folder / f"{key}_{modality}.png").write_bytes(encoded.tobytes())
        count[modality] += 1


def _millimetres(depth: np.ndarray) -> np.ndarray:
    """Depth as the files hold it, uint16; what is too far for that is no reading."""
    if depth.dtype == np.uint16:
        return depth
    scaled = np.rint(depth.astype(np.float64) * 1000)
    return np.where(scaled <= np.iinfo(np.uint16).max, scaled, 0).astype(np.uint16)


def _camera(region: RegionCrops) -> tuple[float, ...] | None:
    """The camera of a sample; its files have one camera only where they are of one size."""
    if len({crop.shape[:2] for crop in region.crops.values()}) > 1 or not any(region.camera):
        return None
    return region.camera


def _read_table(path: Path, columns: tuple[str, ...], least: int | None = None) -> dict[str, tuple[str, ...]]:
    """The rows of a table by their first value, none where there is no file; what its columns lack is empty.

    Args:
        path: the table.
        columns: as this version writes them.
        least: how many of these an earlier version wrote; None: all.
    """
    if not path.exists():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        head = tuple(next(rows, ()))
        if head not in (columns, columns[:least]):
            raise DataError(
                f"{path} has the columns {', '.join(head) or '(none)'}; this command writes "
                f"{', '.join(columns)}: move the file away, or take another --out"
            )
        return {key: (*values, *[""] * (len(columns) - 1 - len(values))) for key, *values in filter(None, rows)}


def _write_table(path: Path, columns: tuple[str, ...], rows: dict[str, tuple[str, ...]]) -> None:
    part = path.with_suffix(".part")
    with part.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows((key, *values) for key, values in sorted(rows.items()))
    part.replace(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = command_parser("mmcl_ros.crop_bag", __doc__, EXAMPLES)
    add_bag_options(parser)
    parser.add_argument("--out", type=Path, required=True, help="folder of the crops")
    parser.add_argument("--split", default="", help="put the crops into this split (default: no level of splits)")
    parser.add_argument("--name", default="", help="of the recording (default: that of its folder or file)")
    add_logging_options(parser)
    options = parser.parse_args(arguments)
    return run_command(lambda: _run(options), options.log_level)


def _run(options: argparse.Namespace) -> None:
    settings = cropping(options)
    if options.out.exists() and not options.out.is_dir():
        raise ConfigError(f"--out {options.out} is a file")
    with open_bag(options) as bag:
        logger.info("topics: %s", ", ".join(topic for topic in (bag.topics.rgb, bag.topics.depth) if topic))
        found = crop_bag(
            bag, true_boxes(options, bag), options.out, settings, options.window, options.split, options.name
        )
    _warn(found)
    crops = sum(found.classes.values())
    if not crops:
        raise DataError(f"none of {found.boxes} boxes has a picture; the reasons stand above")
    pictures = ", ".join(f"{count} {name}" for name, count in sorted(found.pictures.items()))
    print(f"{crops} of {found.boxes} boxes of {len(found.classes)} classes cropped ({pictures}): {options.out}")


def _warn(found: Cropped) -> None:
    for reason, count in found.reasons.most_common(5):
        logger.warning("%d of %d boxes have no crop: %s", count, found.boxes, reason)
    for problem, count in found.problems.most_common(3):
        logger.warning("in %d pictures, %s", count, problem)


if __name__ == "__main__":
    raise SystemExit(main())
