"""The options that the commands on recordings share: a recording, its true boxes, and how they are cut."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterable
from pathlib import Path

from mmcl_core.errors import ConfigError, InputError
from mmcl_ros.bagfile import Bag, Topics
from mmcl_ros.detections import stamp_of
from mmcl_ros.frames import FrameCropper, FrameSettings
from mmcl_ros.images import decode_rgb
from mmcl_ros.truth import Truth, read_topic, read_truth

__all__ = [
    "add_bag_options",
    "add_recording_options",
    "add_topic_options",
    "check_window",
    "cropping",
    "open_bag",
    "remember_colour",
    "true_boxes",
    "used_topics",
]


def add_recording_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that say which pictures of which recording."""
    parser.add_argument("--bag", type=Path, required=True, help="rosbag2 folder (sqlite3, MCAP) or ROS 1 .bag file")
    add_topic_options(parser)
    for name in ("rgb", "depth"):
        text = f"camera info of {name} (default: that beside the pictures, if any)"
        parser.add_argument(f"--{name}-info-topic", default="", help=text)
    parser.add_argument("--window", type=float, default=0.02, help="pairing window in seconds (default: 0.02)")
    parser.add_argument("--assume-registered", action="store_true", help="depth is registered though frames differ")


def add_topic_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that name the topics of pictures."""
    for name, what in (("rgb", "colour"), ("depth", "depth")):
        text = f"{what} pictures (default: guessed from name, frame, type and encoding)"
        parser.add_argument(f"--{name}-topic", default="", help=text)


def add_bag_options(parser: argparse.ArgumentParser) -> None:
    """Add these, and the options that say which boxes are cut, and how."""
    usual = FrameSettings()
    add_recording_options(parser)
    parser.add_argument("--truth", type=Path, help="CSV of true boxes (default: classes of the bag's detections topic)")
    parser.add_argument("--detections-topic", default="", help="boxes (default: guessed from name, frame and type)")
    parser.add_argument(
        "--box-scale", type=float, default=usual.box_scale,
        help=f"side of the square window, in longer sides of the box; 0: as it is (default: {usual.box_scale:g})",
    )  # fmt: skip
    parser.add_argument(
        "--min-depth-valid", type=float, default=usual.min_depth_valid,
        help=f"smallest share of a box with a depth reading for depth to be used (default: {usual.min_depth_valid:g})",
    )  # fmt: skip
    parser.add_argument(
        "--min-box", type=int, default=usual.min_box,
        help=f"smallest side of a box inside the picture, pixels (default: {usual.min_box})",
    )  # fmt: skip


def check_window(options: argparse.Namespace) -> None:
    """Refuse a pairing window that makes no sense.

    Raises:
        ConfigError: it is no number of seconds.
    """
    if not 0 <= options.window < float("inf"):
        raise ConfigError(f"--window must be 0 or more seconds, got {options.window:g}")


def cropping(options: argparse.Namespace) -> FrameSettings:
    """How boxes are cut.

    Raises:
        ConfigError: numbers that make no sense.
    """
    check_window(options)
    if not 0 <= options.box_scale <= 5 or not 0 <= options.min_depth_valid <= 1 or options.min_box < 1:
        raise ConfigError("--box-scale must be 0 to 5, --min-depth-valid 0 to 1, --min-box at least 1")
    return FrameSettings(
        box_scale=options.box_scale,
        min_depth_valid=options.min_depth_valid,
        min_box=options.min_box,
        assume_registered=options.assume_registered,
    )


def open_bag(options: argparse.Namespace) -> Bag:
    """The recording, to be closed.

    Raises:
        ConfigError: what is to be written would lie among the files of a recording.
        DataError: there is none, or a named topic is not in it.
    """
    out = getattr(options, "out", None)
    if out and (out / "metadata.yaml").exists():
        raise ConfigError(f"--out {out} is a recording (it has a metadata.yaml); name another folder")
    given = {name: topic for name in ("rgb", "depth") if (topic := getattr(options, f"{name}_info_topic"))}
    regions = getattr(options, "detections_topic", "")
    return Bag(options.bag, Topics(options.rgb_topic, options.depth_topic, regions, given))


def true_boxes(options: argparse.Namespace, bag: Bag) -> list[Truth]:
    """The true boxes, by stamp.

    Raises:
        DataError: the recording holds no pictures, or there are no boxes with labels.
    """
    bag.require_pictures()
    return read_truth(options.truth) if options.truth else read_topic(bag)


def used_topics(bag: Bag, boxes: bool) -> dict[str, str]:
    """The topics that pictures are read from, and with ``boxes`` the one that true boxes are read from."""
    names = ("rgb", "depth", "detections") if boxes else ("rgb", "depth")
    return {name: topic for name in names if (topic := getattr(bag.topics, name))}


def remember_colour(bag: Bag, croppers: Iterable[FrameCropper]) -> None:
    """Tell croppers what boxes were drawn in, also where only depth is cut."""
    track = bag.cameras().get("rgb") if bag.topics.rgb else None
    for _, message in bag.messages(*filter(None, [bag.topics.rgb])):
        with contextlib.suppress(InputError):  # one that cannot be decoded; the next one may
            decode_rgb(message)
            info = track.at(stamp_of(message.header)) if track else None
            for cropper in croppers:
                cropper.remember("rgb", message, info)
            return
