"""Training crops from recorded sensor data, cut as the recognizer node cuts them; needs no running ROS.

Writes ``<class>/<recording>_<stamp and number>_rgb.png`` and ``..._depth.png`` (16 bit, millimetres, 0 = no reading),
``cameras.csv`` with the camera of each crop where it is known, ``crops.csv`` with all crops and their recordings, and
``recordings.csv`` with the names of these. Boxes without a label go to ``unlabelled``. Further recordings, each with a
name of its own, may go to the same folder.
A second call for a recording takes the place of the first: what that one wrote and this one did not is removed when
the new crops are there. Crops that a person has put elsewhere stay, and are named. With ``--split test`` the crops lie
in ``test/<class>``: whole recordings in one split, so that no test crop shows what a training crop shows.
"""

from __future__ import annotations

import argparse
import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

from mmcl_core.atomic import write_atomically
from mmcl_core.cli import add_logging_options, command_parser, run_command
from mmcl_core.crops import UNLABELLED
from mmcl_core.errors import ConfigError, DataError
from mmcl_core.progress import progress_bar
from mmcl_core.words import counted
from mmcl_ros.bag_options import add_bag_options, cropping, open_bag, remember_colour, true_boxes, used_topics
from mmcl_ros.bagfile import Bag
from mmcl_ros.frames import FrameCropper, FrameSettings, RegionCrops
from mmcl_ros.picture_files import as_png, check_name
from mmcl_ros.recordings_folder import CROPS, Written, enter, replace_earlier
from mmcl_ros.truth import Truth

__all__ = ["Cropped", "crop_bag", "main"]

logger = logging.getLogger(__name__)

EXAMPLES = """\
  python -m mmcl_ros.crop_bag --bag my_bag --truth boxes.csv --out my_crops
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
    name = name or bag.name
    for given, what in ((name, "--name"), (split, "--split"), *((one, "label") for t in truths for one in t.labels)):
        check_name(given, what)
    topics = " ".join(used_topics(bag, boxes=False).values())
    keys = _keys(truths, name, split)
    before = enter(out, CROPS, name, str(bag.path.resolve()), topics, [key for listed in keys for key in listed])
    result, cropper = Cropped(), FrameCropper(settings)
    written: dict[str, Written] = {}
    remember_colour(bag, [cropper])
    frames = bag.frames([truth.request for truth in truths], window)
    pairs = progress_bar(
        zip(truths, keys, frames, strict=True), title="crop", unit=" pictures", total=len(truths), in_logs=True
    )
    for truth, own_keys, frame in pairs:
        parts, answer = cropper.parts(truth.request, frame.pictures, frame.infos, f"no picture within {window:g} s")
        result.boxes += len(truth.labels)
        result.problems.update(f"{modality}: {words}" for modality, (_, words) in answer.problems.items())
        found = set()
        for region in chain.from_iterable(parts):
            found.add(region.index)
            key = own_keys[region.index]
            written[key] = Written(_camera(region), _write(out / key, region))
            result.pictures.update(list(region.crops))
            result.classes[truth.labels[region.index] or UNLABELLED] += 1
        result.reasons.update(one.reason for n, one in enumerate(answer.answers) if n not in found)
    replace_earlier(out, CROPS, name, written, before)
    return result


def _keys(truths: Sequence[Truth], name: str, split: str) -> list[list[str]]:
    """The keys of the crops of all boxes: ``[split/]label/name_stampNNN``, counted through the boxes of a stamp.

    Two detectors that publish on one topic have two messages of a stamp.
    """
    counts: Counter[int] = Counter()
    keys = []
    for truth in truths:
        stamp = truth.request.stamp
        folders = ["/".join(filter(None, (split, label or UNLABELLED))) for label in truth.labels]
        keys.append([f"{folder}/{name}_{stamp}{index:03d}" for index, folder in enumerate(folders, counts[stamp])])
        counts[stamp] += len(folders)
    return keys


def _write(place: Path, region: RegionCrops) -> list[Path]:
    """Write the pictures of a crop; their files."""
    place.parent.mkdir(parents=True, exist_ok=True)
    files = []
    for modality, crop in region.crops.items():
        files.append(place.with_name(f"{place.name}_{modality}.png"))
        write_atomically(files[-1], as_png(crop), to_disk=False)
    return files


def _camera(region: RegionCrops) -> tuple[float, ...] | None:
    """The camera of a sample; its files have one camera only where they are of one size."""
    if len({crop.shape[:2] for crop in region.crops.values()}) > 1 or not any(region.camera):
        return None
    return region.camera


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
    if "=" in options.split or re.fullmatch(r"\d+\.\d*", options.split):
        raise ConfigError(
            f"--split {options.split} is no name of a split for the whole recording; leave it out, and have the split "
            "drawn by prepare folder --split"
        )
    if options.out.exists() and not options.out.is_dir():
        raise ConfigError(f"--out {options.out} is a file")
    with open_bag(options) as bag:
        truths = true_boxes(options, bag)
        logger.info("topics: %s", ", ".join(used_topics(bag, boxes=not options.truth).values()))
        found = crop_bag(bag, truths, options.out, settings, options.window, options.split, options.name)
    _warn(found)
    crops = sum(found.classes.values())
    if not crops:
        raise DataError(f"none of {counted(found.boxes, 'box')} has a picture; the reasons stand above")
    pictures = ", ".join(f"{count} {name}" for name, count in sorted(found.pictures.items()))
    boxes = f"{crops} of {counted(found.boxes, 'box')} of {counted(len(found.classes), 'class')}"
    print(f"{boxes} cropped ({pictures}): {options.out}")


def _warn(found: Cropped) -> None:
    for reason, count in found.reasons.most_common(5):
        logger.warning("%d of %s no crop: %s", count, counted(found.boxes, "box", "has", "have"), reason)
    for problem, count in found.problems.most_common(3):
        logger.warning("in %s, %s", counted(count, "picture"), problem)


if __name__ == "__main__":
    raise SystemExit(main())
