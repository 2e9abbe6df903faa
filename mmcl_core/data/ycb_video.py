"""YCB-Video: 21 household objects on tables, 92 videos of an ASUS Xtion; real test data for YCB models.

Source: Y. Xiang, T. Schmidt, V. Narayanan, D. Fox, "PoseCNN: A Convolutional Neural Network for 6D Object Pose
Estimation in Cluttered Scenes", RSS 2018; https://rse-lab.cs.washington.edu/projects/posecnn/. Licence: MIT.

=======================================  ==============================================================================
file                                     meaning
=======================================  ==============================================================================
``data/<video>/<n>-color.(png|jpg)``     colour, 640 x 480; <video> of 4 digits, <n> of 6
``data/<video>/<n>-depth.png``           16 bit, z in 1 / ``factor_depth`` metres (0.1 mm), 0 = no reading
``data/<video>/<n>-label.png``           8 bit, 0 = none, else the number of the object, 1 to 21
``data/<video>/<n>-meta.mat``            ``factor_depth``, ``intrinsic_matrix``, ``cls_indexes`` (the objects in view)
``data/<video>/<n>-box.txt``             lines ``<object> x0 y0 x1 y1``
=======================================  ==============================================================================

The source is the folder that holds ``data``, ``data`` itself, or one video. A crop is cut around the visible pixels of
an object in the label picture; ``box.txt`` is used only where a frame has no label picture, as its boxes come from
projected models and are off by a few pixels. An object is there at most once in a frame. Classes are the 21 names with
their numbers of the YCB set, such as ``002_master_chef_can``: those of Falling Things. Frames of a video are
near-duplicates: the group of a crop is its video and object. Needs scipy.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmcl_core.data.crops import Camera, CropRule
from mmcl_core.data.frames import (
    add_crop_arguments,
    camera_fits,
    crop_rule,
    mask_out,
    same_size,
    visible_box,
)
from mmcl_core.data.pictures import depth_millimetres, read_picture, read_rgb
from mmcl_core.data.sources import Plan, Skip, folders_in, optional_import, place_in, show_folder, visible
from mmcl_core.data.writer import Sample
from mmcl_core.errors import ConfigError, DataError

__all__ = ["CLASSES", "DATA_SET", "Frame", "YcbVideo"]

Array = npt.NDArray[Any]
#: Number, visible pixels (where known) and box (x0, y0, x1, y1) of an object in a frame.
Object = tuple[int, Array | None, tuple[float, ...]]

#: Class of object number 1, 2, ...
CLASSES = (
    "002_master_chef_can",
    "003_cracker_box",
    "004_sugar_box",
    "005_tomato_soup_can",
    "006_mustard_bottle",
    "007_tuna_fish_can",
    "008_pudding_box",
    "009_gelatin_box",
    "010_potted_meat_can",
    "011_banana",
    "019_pitcher_base",
    "021_bleach_cleanser",
    "024_bowl",
    "025_mug",
    "035_power_drill",
    "036_wood_block",
    "037_scissors",
    "040_large_marker",
    "051_large_clamp",
    "052_extra_large_clamp",
    "061_foam_brick",
)
VIDEOS, FRAMES = 92, 133_936  # as many as the lists of its authors hold; their paper says 133,827
#: The videos held out for testing by the authors.
TEST_VIDEOS = range(48, 60)
_HELP = __doc__
_FILE = re.compile(r"(\d+)-(color\.png|color\.jpg|depth\.png|label\.png|meta\.mat|box\.txt)")
_LAYOUT = "data/<video>/NNNNNN-color.png with NNNNNN-depth.png, -label.png and -meta.mat"


@dataclass
class Frame:
    """A task: the files of one frame by part (color, depth, label, meta, box), relative to the source."""

    key: str
    video: str
    split: str
    files: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Reader:
    """How frames become crops."""

    source: Path
    rule: CropRule
    masked: bool
    min_pixels: int


class YcbVideo:
    """The layout of this module."""

    name = "ycb_video"
    help = "YCB-Video: real frames of the 21 objects of Falling Things"
    description = _HELP
    examples = """\
  python -m mmcl_core.prepare ycb_video --source YCB_Video_Dataset --out data_sets/ycb_video --every 10
  python -m mmcl_core.prepare ycb_video --source YCB_Video_Dataset --out data_sets/ycb_keyframes \\
      --split official --frames YCB_Video_Dataset/image_sets/keyframe.txt
  python -m mmcl_core.prepare ycb_video --source YCB_Video_Dataset --check --every 100"""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the options of this data set."""
        add_crop_arguments(parser, min_side=16)
        parser.add_argument(
            "--split", default="test", metavar="NAME|official",
            help="name of the split that all crops go to (default: test); official: videos 0048 to 0059 are test, the "
            "others train",
        )  # fmt: skip
        parser.add_argument(
            "--every", type=int, default=1, metavar="N", help="take frames 1, 1 + N, 1 + 2 N, ... (default: 1)"
        )
        parser.add_argument(
            "--frames", type=Path, metavar="FILE", help="take the frames it lists as <video>/<n>, a line each"
        )
        parser.add_argument(
            "--min-pixels", type=int, default=100, metavar="N",
            help="objects with fewer visible pixels are left out (default: 100)",
        )  # fmt: skip
        parser.add_argument(
            "--mask", choices=("ignore", "apply"), default="ignore",
            help="apply: what is not the object becomes black and no reading (default: ignore)",
        )  # fmt: skip

    def plan(self, source: Path, options: argparse.Namespace) -> Plan:
        """List the frames and their files (see the data set protocol)."""
        optional_import("scipy.io", "reading -meta.mat files")
        if options.every < 1:
            raise ConfigError(f"--every is {options.every}; 1 or more is expected")
        if not re.fullmatch(r"\w[\w.-]*", options.split):
            raise ConfigError(
                f"--split {options.split!r}: the name of one split, or official, is expected; shares are not drawn, "
                "as frames of a video are near-duplicates"
            )
        reader = Reader(source, crop_rule(options), options.mask == "apply", options.min_pixels)
        listed = _read_list(options.frames) if options.frames else None
        found = list(_list_frames(source, options.split))
        frames, skips = _choose(found, listed, options.every)
        if not frames:
            first = f"; {skips[0].name}: {skips[0].reason}" if skips else ""
            raise DataError(f"{source}: no frame is asked for and complete{first}")
        return Plan(
            classes=CLASSES,
            modalities=("rgb", "depth"),
            tasks=sorted(frames, key=lambda frame: frame.key),
            make=partial(make_samples, reader),
            total=len(frames),
            description={
                "made_by": "mmcl_core.prepare ycb_video",
                "source": "YCB-Video (Xiang et al., RSS 2018), MIT licence",
                "crop": reader.rule.describe(),
                "boxes": f"visible pixels, {reader.min_pixels} or more",
                "mask": options.mask,
                "split": options.split,
                "every": options.every,
                "frames": options.frames.name if options.frames else "all",
            },
            published={"videos": (len({frame.video for frame in found}), VIDEOS), "frames": (len(found), FRAMES)},
            skipped=skips,
        )


DATA_SET = YcbVideo()


def make_samples(reader: Reader, frame: Frame) -> Iterator[Sample | Skip]:
    """The crops of a frame, or what is wrong with it."""
    part = "meta"
    try:
        scale, camera, ids = _read_meta(reader.source / frame.files["meta"])
        part = "color"
        images = {"rgb": read_rgb(reader.source / frame.files[part])}
        camera_fits(camera, images["rgb"])
        part = "depth"
        images["depth"] = depth_millimetres(reader.source / frame.files[part], scale)
        same_size(images["depth"], images["rgb"])
        part = "label" if "label" in frame.files else "box"
        if part == "label":
            labels = read_picture(reader.source / frame.files[part])
            same_size(labels, images["rgb"])
            objects = list(_visible_objects(labels, ids))
        elif reader.masked:
            raise DataError("cannot replace the label picture, which --mask apply needs")
        else:
            objects = _read_boxes(reader.source / frame.files[part])
    except DataError as error:
        yield Skip(frame.files[part], str(error))
        return
    for number, mask, box in objects:
        if mask is not None and np.count_nonzero(mask) < reader.min_pixels:
            continue
        shown = mask_out(images, mask) if reader.masked and mask is not None else images
        cut = reader.rule(shown, camera, box)
        if cut is not None:
            name = CLASSES[number - 1]
            group = f"{frame.video}/{name}"
            yield Sample(cut[0], number - 1, frame.split, f"{frame.key}/{name}", group, frame.files["color"], cut[1])


def _list_frames(source: Path, split: str) -> Iterator[Frame]:
    root = source / "data" if (source / "data").is_dir() else source
    folders = folders_in(root)
    if root.is_dir() and any(_FILE.fullmatch(path.name) for path in visible(root)):
        folders = [root]
    count = 0
    for folder in folders:
        frames: dict[str, Frame] = {}
        for path in visible(folder):
            if match := _FILE.fullmatch(path.name):
                video = folder.resolve().name
                held_out = video.isdecimal() and int(video) in TEST_VIDEOS
                which = ("test" if held_out else "train") if split == "official" else split
                frame = frames.setdefault(match[1], Frame(f"{video}/{match[1]}", video, which))
                frame.files.setdefault(match[2].partition(".")[0], place_in(source, path))
        count += len(frames)
        yield from frames.values()
    if not count:
        inside = f"; in {folders[0].relative_to(source)}/: {show_folder(folders[0])}" if folders else ""
        raise DataError(f"{source}: no frames; expected {_LAYOUT}; found {show_folder(source)}{inside}")


def _choose(found: list[Frame], listed: set[str] | None, every: int) -> tuple[list[Frame], list[Skip]]:
    """The frames that are asked for and have all files, and what is wrong with the others that are asked for."""
    frames, skips = [], []
    for frame in found:
        number = int(frame.key.rpartition("/")[2])
        if (listed is not None and frame.key not in listed) or (number - 1) % every:
            continue
        gone = [part for part in ("color", "depth", "meta") if part not in frame.files]
        gone += ["label"] if not {"label", "box"} & set(frame.files) else []
        if gone:
            skips.append(Skip(frame.key, f"has no {', no '.join(gone)} file"))
        else:
            frames.append(frame)
    missing = (listed or set()) - {frame.key for frame in found}
    return frames, skips + [Skip(key, "is in the list of frames, and not in the source") for key in sorted(missing)]


def _read_list(path: Path) -> set[str]:
    if not path.is_file():
        raise ConfigError(f"--frames {path}: no such file; expected lines <video>/<n>, such as 0048/000001")
    lines = path.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    return {line.strip() for line in lines if line.strip()}


def _read_meta(path: Path) -> tuple[float, Camera, set[int]]:
    """Millimetres of a step of depth, the camera, and the numbers of the objects in view."""
    loadmat = optional_import("scipy.io", "reading -meta.mat files").loadmat
    try:
        meta = loadmat(path, variable_names=("factor_depth", "intrinsic_matrix", "cls_indexes"))
        factor, matrix = float(meta["factor_depth"].item()), np.asarray(meta["intrinsic_matrix"], float)
        ids = {int(number) for number in np.ravel(meta["cls_indexes"])}
    except Exception as error:  # what loadmat raises depends on where the file is damaged
        what = "factor_depth, intrinsic_matrix and cls_indexes"
        raise DataError(f"is no usable MATLAB file with {what}: {error!r}") from error
    if not factor > 0 or matrix.shape != (3, 3) or not min(matrix[0, 0], matrix[1, 1]) > 0:
        raise DataError(f"holds factor_depth {factor} and intrinsic_matrix {matrix.tolist()}")
    return 1000 / factor, (matrix[0, 0], matrix[1, 1], matrix[0, 2], matrix[1, 2]), ids


def _visible_objects(labels: Array, ids: set[int]) -> Iterator[Object]:
    if labels.ndim != 2 or labels.dtype != np.uint8:
        raise DataError(f"is {labels.dtype} of shape {labels.shape}; 8 bit with 1 channel expected")
    for number in np.flatnonzero(np.bincount(labels.ravel())):
        if number == 0:
            continue
        if number > len(CLASSES) or number not in ids:
            raise DataError(f"holds the object {number}; -meta.mat names {', '.join(map(str, sorted(ids)))}")
        mask = labels == number
        box = visible_box(mask)
        assert box is not None, "the number was found in the picture"
        yield int(number), mask, box


def _read_boxes(path: Path) -> list[Object]:
    found: list[Object] = []
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()  # a line that is no text is no box either
    for line in filter(str.strip, lines):
        name, *numbers = line.split()
        try:
            x0, y0, x1, y1 = map(float, numbers)
            if not math.isfinite(x0 + y0 + x1 + y1):
                raise ValueError("no number")
            found.append((CLASSES.index(name) + 1, None, (x0, y0, x1 + 1, y1 + 1)))  # their last pixel is inside
        except ValueError as error:
            raise DataError(f"has the line {line!r}; <object> x0 y0 x1 y1 expected") from error
    return sorted(found, key=lambda one: one[0])
