"""Frames of recorded sensor data as picture files, to draw boxes in with an annotation tool; needs no running ROS.

Writes ``rgb/<recording>_<stamp>.png`` and ``depth/<recording>_<stamp>.png`` (16 bit, millimetres, 0 = no reading), and
notes them in ``frames.csv`` and ``recordings.csv``. With the boxes as COCO JSON in ``annotations.json`` beside them,
``python -m mmcl_core.prepare coco`` cuts the crops. Depth is written where it is registered to colour. Frames of
further recordings, or of further cameras of this one, may go to the same folder, each under a ``--name`` of its own;
``--keep-groups`` of ``prepare coco`` keeps each name in one split. A second call for the same pictures takes the place
of the first: what that one wrote and this one did not is removed.
"""

from __future__ import annotations

import argparse
import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote
from typing import Any

import numpy as np

from mmcl_core.atomic import write_atomically
from mmcl_core.cli import add_logging_options, command_parser, run_command
from mmcl_core.errors import ConfigError, DataError, InputError
from mmcl_core.progress import progress_bar
from mmcl_core.words import counted
from mmcl_ros.bag_options import add_recording_options, check_window, open_bag, used_topics
from mmcl_ros.bagfile import Bag, Frame
from mmcl_ros.detections import Box, Request, View, box_map, camera_of
from mmcl_ros.frames import DECODERS
from mmcl_ros.picture_files import as_png, check_name
from mmcl_ros.recordings_folder import FRAMES, Written, cameras_of_frames, enter, replace_earlier

__all__ = ["Unpacked", "main", "unpack_bag"]

logger = logging.getLogger(__name__)

_NEAR = 0.01  # largest distance of edges that are the same, in widths of the picture

EXAMPLES = """\
  python -m mmcl_ros.unpack_bag --bag my_bag --out frames --every 2
  python -m mmcl_core.prepare coco --source frames --out data_sets/mine --split train=0.8,val=0.2"""


@dataclass
class Unpacked:
    """What became of the frames of a recording.

    Attributes:
        frames: how many were written.
        depth: how many of them with depth.
        problems: why a frame, or its depth, was left out, and how often.
    """

    frames: int = 0
    depth: int = 0
    problems: Counter[str] = field(default_factory=Counter)


def unpack_bag(
    bag: Bag,
    out: Path,
    every: float = 1.0,
    window: float = 0.02,
    name: str = "",
    assume_registered: bool = False,
) -> Unpacked:
    """Write frames of a recording.

    Args:
        bag: the recording.
        out: folder of the frames; may hold those of other recordings.
        every: at least so many seconds from one frame to the next; 0: all frames.
        window: largest difference in stamps of colour and its depth, seconds.
        name: of the recording, in front of the names of its frames; empty: that of its folder or file.
        assume_registered: take depth for registered to colour though their frames differ.

    Raises:
        DataError: the recording holds no colour pictures; a name that cannot name files, or that another recording, or
            other topics of this one, have in ``out``.
    """
    bag.require_pictures()
    if not bag.topics.rgb:
        raise DataError(f"{bag.path} holds no colour pictures to draw boxes in; its topics: {bag.listing()}")
    name = name or bag.name
    check_name(name, "--name")
    requests = [Request((), stamp=stamp) for stamp in _chosen(bag.stamps(bag.topics.rgb), every)]
    topics = " ".join(used_topics(bag, boxes=False).values())
    planned = [f"{modality}/{name}_{one.stamp}" for one in requests for modality in DECODERS]
    before = enter(out, FRAMES, name, str(bag.path.resolve()), topics, planned)
    result, written = Unpacked(), dict[str, Written]()
    bar = progress_bar(bag.frames(requests, window), title="unpack", unit=" frames", total=len(requests), in_logs=True)
    for frame in bar:
        if bag.topics.depth and "depth" not in frame.stamps:
            result.problems[f"depth: none within {window:g} s (--window)"] += 1
        camera, pictures = _pictures(frame, result, assume_registered)
        for modality, values in pictures.items():
            (out / modality).mkdir(exist_ok=True)
            path = out / modality / f"{name}_{frame.request.stamp}.png"
            write_atomically(path, as_png(values), to_disk=False)
            written[f"{modality}/{path.stem}"] = Written(camera if modality == "rgb" else None, [path])
    replace_earlier(out, FRAMES, name, written, before)
    return result


def _chosen(stamps: Sequence[int], every: float) -> list[int]:
    """The first of ascending stamps, and each that is far enough from the one before it that was chosen."""
    chosen: list[int] = []
    least = round(every * 1e9)  # 0.067 * 1e9 is a little more than 67000000
    for stamp in dict.fromkeys(stamps):
        if not chosen or stamp - chosen[-1] >= least:
            chosen.append(stamp)
    return chosen


def _pictures(
    frame: Frame, result: Unpacked, assume_registered: bool
) -> tuple[tuple[float, ...] | None, dict[str, np.ndarray]]:
    """The camera of a frame and what is to be written of it, counted; nothing where its colour cannot be read."""
    found, views = {}, {}
    for modality, decode in DECODERS.items():
        message: Any = frame.pictures.get(modality)
        if message is None:
            continue
        try:
            values = found[modality] = decode(message)
        except InputError as error:
            result.problems[f"{modality}: {error}"] += 1
            continue
        height, width = values.shape[:2]
        views[modality] = View.of(message.header, width, height, frame.infos.get(modality))
    if "rgb" not in found:
        return None, {}
    if "depth" in found and (why := _not_registered(views["rgb"], views["depth"], assume_registered)):
        result.problems[f"depth is not registered to colour: {why}"] += 1
        del found["depth"]
    view = views["rgb"]
    result.frames += 1
    result.depth += "depth" in found
    return camera_of(frame.infos.get("rgb"), view.width, view.height, rectified=True), found


def _not_registered(colour: View, depth: View, assume_registered: bool) -> str:
    """Why boxes drawn in colour cannot be cut from depth by their places alone; empty: they can."""
    mapped = box_map(colour, depth, assume_registered)
    if isinstance(mapped, str):
        return mapped
    seen = mapped(Box("", 0, 0, colour.width, colour.height))
    edges = zip((seen.left, seen.top, seen.right, seen.bottom), (0, 0, depth.width, depth.height), strict=True)
    if max(abs(one - other) for one, other in edges) > _NEAR * depth.width:
        return "by its camera it shows another part of the scene"
    return ""


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    parser = command_parser("mmcl_ros.unpack_bag", __doc__, EXAMPLES)
    add_recording_options(parser)
    parser.add_argument("--out", type=Path, required=True, help="folder of the frames")
    parser.add_argument(
        "--every", type=float, default=1.0, help="seconds from one frame to the next; 0: all frames (default: 1)"
    )
    parser.add_argument("--name", default="", help="of the recording (default: that of its folder or file)")
    add_logging_options(parser)
    options = parser.parse_args(arguments)
    return run_command(lambda: _run(options), options.log_level)


def _run(options: argparse.Namespace) -> None:
    check_window(options)
    if not 0 <= options.every < math.inf:
        raise ConfigError(f"--every must be 0 or more seconds, got {options.every:g}")
    if options.out.exists() and not options.out.is_dir():
        raise ConfigError(f"--out {options.out} is a file")
    with open_bag(options) as bag:
        logger.info("topics: %s", ", ".join(used_topics(bag, boxes=False).values()))
        found = unpack_bag(bag, options.out, options.every, options.window, options.name, options.assume_registered)
    for problem, count in found.problems.most_common(5):
        logger.warning("left out in %d of the frames: %s", count, problem)
    if not found.frames:
        raise DataError("no frame could be read; the reasons stand above")
    print(f"{counted(found.frames, 'frame')}, {found.depth} with depth: {options.out}")
    held = cameras_of_frames(options.out)
    cameras, several = set().union(*held.values()), len(held) > 1
    known = f" --camera {camera}" if len(cameras) == 1 and (camera := next(iter(cameras))) else ""
    if any(cameras) and not known:
        words = "the pictures in %s are not all of one known camera (%s): none is named below, and crops have none"
        logger.warning(words, options.out, "; ".join(sorted(one or "not known" for one in cameras)))
    print(
        f"next: draw boxes in the pictures of {options.out / 'rgb'}, export them as COCO JSON to "
        f"{options.out / 'annotations.json'}, then\n  python -m mmcl_core.prepare coco --source "
        f"{quote(str(options.out))} --out data_sets/mine --split train=0.8,val=0.2{' --keep-groups' * several}{known}"
    )


if __name__ == "__main__":
    raise SystemExit(main())
