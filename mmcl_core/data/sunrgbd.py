"""SUN RGB-D: 10,335 indoor frames of four sensors with outlined objects; crops of objects.

Source: S. Song, S. Lichtenberg, J. Xiao, "SUN RGB-D: A RGB-D Scene Understanding Benchmark Suite", CVPR 2015;
https://rgbd.cs.princeton.edu. It takes in NYU Depth V2, Berkeley B3DO and SUN3D, which ask to be cited too. Offered for
research without a stated licence.

===========================================  ==========================================================================
file of a frame                              meaning
===========================================  ==========================================================================
``image/*.jpg``                              colour
``depth/*.png``, ``depth_bfx/*.png``         z as measured, and with holes filled; 16 bit, rotated by three bits:
                                             ``mm = (v >> 3) | (v << 13)``, 0 = no reading
``annotation2Dfinal/index.json``             ``objects[]``: ``name``; ``frames[0].polygon[]``: ``object`` (row in
                                             ``objects``), ``x[]``, ``y[]`` in pixels of the colour picture
``intrinsics.txt``                           nine numbers, the camera matrix by rows
===========================================  ==========================================================================

Frames lie at different depths: ``kv1/NYUdata/NYU0001``, ``xtion/sun3ddata/brown_bm_1/brown_bm_1/<frame>``, ...; every
folder with ``annotation2Dfinal`` is one. The source is ``SUNRGBD``, the folder that holds it, or a part of it.

A crop is cut around all polygons of an object. The default classes are the 19 of NYU-D; ``--classes`` takes others.
Names are compared in lower case, with words joined by hyphens, and without what follows a colon. The official split,
``allsplit.mat`` of the toolbox, is used where it is given or found at ``SUNRGBDtoolbox/traintestSUNRGBD`` in the
source or beside ``SUNRGBD``; otherwise about half of the frames are drawn for testing, always the same, and frames of
one SUN3D video stay together. The group of a crop is its video, or its frame.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import re
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from mmcl_core.data.crops import Camera, CropRule, part_inside
from mmcl_core.data.frames import add_crop_arguments, crop_rule, same_size
from mmcl_core.data.pictures import is_picture, read_picture, read_rgb
from mmcl_core.data.rooms import CLASSES, plain_name
from mmcl_core.data.shares import draw_test_groups
from mmcl_core.data.sources import Plan, Skip, folders_in, optional_import, place_in, show_folder, visible
from mmcl_core.data.writer import Sample
from mmcl_core.errors import ConfigError, DataError
from mmcl_core.words import counted

__all__ = ["DATA_SET", "Frame", "SunRgbd", "read_depth", "read_objects"]

logger = logging.getLogger(__name__)

Array = npt.NDArray[Any]
Box = tuple[float, float, float, float]

#: Frames of the published set, and the share of them that the official split tests on.
FRAMES, TEST_SHARE = 10_335, 5050 / 10_335
ANNOTATION = "annotation2Dfinal"
_SPLIT_FILE = Path("SUNRGBDtoolbox", "traintestSUNRGBD", "allsplit.mat")
_HELP = __doc__
_LAYOUT = "SUNRGBD/<sensor>/.../<frame>/ with image, depth and annotation2Dfinal/index.json"


@dataclass(frozen=True)
class Frame:
    """A task: a folder, relative to the source; the key is relative to SUNRGBD."""

    key: str
    folder: str
    group: str
    split: str


@dataclass(frozen=True)
class Reader:
    """How frames become crops."""

    source: Path
    rule: CropRule
    classes: tuple[str, ...]
    depth: str


class SunRgbd:
    """The layout of this module."""

    name = "sunrgbd"
    help = "SUN RGB-D: objects of 10,335 indoor frames, metric depth; the 19 classes of NYU-D or others"
    description = _HELP
    examples = """\
  python -m mmcl_core.prepare sunrgbd --source SUNRGBD --splits allsplit.mat --out data_sets/sunrgbd
  python -m mmcl_core.prepare sunrgbd --source SUNRGBD --classes chair,table,cup --out data_sets/sunrgbd_3
  python -m mmcl_core.prepare sunrgbd --source SUNRGBD --check --limit 1000"""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the options of this data set."""
        parser.add_argument(
            "--classes",
            default=",".join(CLASSES),
            metavar="NAME,...",
            help="names of objects to cut (default: %(default)s)",
        )
        parser.add_argument(
            "--depth", choices=("raw", "filled"), default="raw", help="depth or depth_bfx (default: raw, that is depth)"
        )
        parser.add_argument(
            "--splits",
            type=Path,
            metavar="FILE",
            help="the official split, allsplit.mat of the toolbox (default: see above)",
        )
        add_crop_arguments(parser, min_side=20)

    def plan(self, source: Path, options: argparse.Namespace) -> Plan:
        """List the frames (see the data set protocol)."""
        classes = tuple(plain_name(name) for name in options.classes.split(",") if name.strip())
        if not classes or len(set(classes)) < len(classes):
            raise ConfigError(f"--classes {options.classes!r}: different names, joined by commas, are expected")
        frames, how = _list_frames(source, options.splits)
        reader = Reader(source, crop_rule(options), classes, "depth" if options.depth == "raw" else "depth_bfx")
        return Plan(
            classes=classes,
            modalities=("rgb", "depth"),
            tasks=frames,
            make=partial(make_samples, reader),
            total=len(frames),
            description={
                "made_by": "mmcl_core.prepare sunrgbd",
                "source": "SUN RGB-D (Song et al., CVPR 2015)",
                "crop": reader.rule.describe(),
                "boxes": "polygons of annotation2Dfinal",
                "depth": options.depth,
                "split": how,
            },
            published={"frames": (len(frames), FRAMES)},
        )


DATA_SET = SunRgbd()


def make_samples(reader: Reader, frame: Frame) -> Iterator[Sample | Skip]:
    """The crops of a frame, and what is wrong with its files."""
    folder = reader.source / frame.folder
    place = Path(frame.folder)
    at = place / ANNOTATION / "index.json"
    camera: Camera | None = None
    try:
        boxes, faults = read_objects(reader.source / at)
        labels = {i: label for i, (name, _) in boxes.items() if (label := _label(name, reader.classes)) >= 0}
        at = place / "image"  # named if it does not hold one picture
        at = place / "image" / _only_file(folder / "image")
        images = {"rgb": read_rgb(reader.source / at)} if labels else {}
        at = place / reader.depth
        at = place / reader.depth / _only_file(folder / reader.depth)
        if labels:
            images["depth"] = read_depth(reader.source / at)
            same_size(images["depth"], images["rgb"])
    except DataError as error:
        yield Skip(at.as_posix(), str(error))
        return
    yield from (Skip((place / ANNOTATION / "index.json").as_posix(), fault) for fault in faults)
    try:
        camera = _read_camera(folder / "intrinsics.txt")
    except DataError as error:
        yield Skip((place / "intrinsics.txt").as_posix(), f"{error}; the camera stays unknown")
    for i, label in sorted(labels.items()):
        height, width = images["rgb"].shape[:2]
        cut = reader.rule(images, camera, part_inside(boxes[i][1], height=height, width=width))
        if cut is not None:
            key = f"{frame.key}/{i:03d}-{reader.classes[label]}"
            yield Sample(cut[0], label, frame.split, key, frame.group, frame.folder, cut[1])


def read_depth(path: Path) -> Array:
    """uint16 [H, W] in mm of a depth file, whose bits are rotated to the left by three.

    Raises:
        DataError: missing, damaged, or not 16 bit with one channel.
    """
    stored = read_picture(path)
    if stored.ndim != 2 or stored.dtype != np.uint16:
        raise DataError(f"is {stored.dtype} of shape {stored.shape}; depth is 16 bit with 1 channel")
    return (stored >> np.uint16(3)) | (stored << np.uint16(13))


def read_objects(path: Path) -> tuple[dict[int, tuple[str, Box]], list[str]]:
    """The objects of a frame.

    Args:
        path: ``annotation2Dfinal/index.json``.

    Returns:
        Name and box (x0, y0, x1, y1, in pixels, around all its polygons) by row of the object; and what cannot be read.

    Raises:
        DataError: missing, no JSON, or of another form.
    """
    try:
        content = _load_json(path.read_text(encoding="utf-8-sig", errors="replace"))
        objects, polygons = content["objects"], content["frames"][0]["polygon"]
        names = [plain_name(str((one or {}).get("name", "")).partition(":")[0]) for one in objects]
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise DataError(f"is no annotation with objects and frames[0].polygon: {error!r}") from error
    boxes: dict[int, tuple[str, Box]] = {}
    faults = []
    for place, polygon in enumerate(polygons):
        if isinstance(polygon, dict) and not all(isinstance(polygon.get(k), list) and polygon[k] for k in "xy"):
            continue  # a point, or nothing: some are in the published files
        try:
            i = int(polygon["object"])
            x, y = (_coordinates(polygon[axis]) for axis in "xy")
            name = names[i] if i >= 0 else ""
        except (ValueError, KeyError, IndexError, TypeError) as error:
            faults.append(f"polygon {place} cannot be used: {error!r}")
            continue
        # A coordinate is the middle of a pixel, a box ends at the outer edge of its pixels.
        box = (min(x), min(y), max(x) + 1, max(y) + 1)
        if i in boxes:
            old = boxes[i][1]
            box = (min(old[0], box[0]), min(old[1], box[1]), max(old[2], box[2]), max(old[3], box[3]))
        boxes[i] = (name, box)
    return boxes, faults


def _load_json(text: str) -> Any:
    """The content of an annotation; some that are published hold names such as ``"wall\\"``, which are no JSON.

    Without backslashes most can be read; of others, such as ``""sofa"bed"``, the names lose their quotation marks.
    """
    for tried in (text, text.replace("\\", "")):
        with suppress(ValueError):
            return json.loads(tried, strict=tried is text)
    named = re.compile(r'("name"\s*:\s*")(.*?)("\s*[,}])')
    return json.loads(named.sub(lambda one: one[1] + re.sub(r'[\\"]', "", one[2]) + one[3], text), strict=False)


def _label(name: str, classes: Sequence[str]) -> int:
    """The class that a typed name means, -1 for none: ``chair1``, ``chair #2`` and ``chair.`` are chairs."""
    for one in (name, plain_name(re.sub(r"[-.#]*\d*[-.]*$", "", name))):
        if one in classes:
            return classes.index(one)
    return -1


def _coordinates(values: Any) -> list[float]:
    found = [float(value) for value in values]
    if not found or not all(map(math.isfinite, found)):
        raise ValueError("no finite coordinates")
    return found


def _only_file(folder: Path) -> str:
    names = [path.name for path in visible(folder) if is_picture(path)] if folder.is_dir() else []
    if len(names) != 1:
        raise DataError(f"one picture expected, found {show_folder(folder)}")
    return names[0]


def _list_frames(source: Path, given: Path | None) -> tuple[list[Frame], str]:
    """The frames in order, and how they were split."""
    root = source / "SUNRGBD" if (source / "SUNRGBD").is_dir() else source
    folders = list(_frame_folders(root))
    if not folders:
        raise DataError(f"{source}: no folder {ANNOTATION} below; expected {_LAYOUT}; found {show_folder(source)}")
    folders.sort(key=lambda path: path.relative_to(root).as_posix() + "/")
    groups = [_group(folder, root) for folder in folders]
    near = (root / _SPLIT_FILE, source / _SPLIT_FILE, root.resolve().parent / _SPLIT_FILE)
    path = given or next((path for path in near if path.is_file()), None)
    if path is None:
        logger.warning(
            "no allsplit.mat: frames, those of NYU-D among them, are drawn for testing, not comparable with published "
            "numbers"
        )
        test = draw_test_groups(groups, TEST_SHARE)
        splits, how = ["test" if group in test else "train" for group in groups], "drawn"
    else:
        known = _read_splits(path)
        splits, how = [known.get(_tail(folder.resolve().parts), "") for folder in folders], "official (allsplit.mat)"
        if not any(splits):
            raise DataError(f"{path} names none of the {counted(len(folders), 'frame')}, such as {folders[0]}")
        if "" in splits:
            logger.warning(
                "%s in no split and left out, such as %s",
                counted(splits.count(""), "frame", "is", "are"),
                folders[splits.index("")],
            )
    frames = [
        Frame(folder.relative_to(root).as_posix(), place_in(source, folder), group, split)
        for folder, group, split in zip(folders, groups, splits, strict=True)
        if split
    ]
    return frames, how


def _frame_folders(root: Path) -> Iterator[Path]:
    """Folders with annotations, also behind links; what is there by several ways is found once, without links first."""
    seen: set[Path] = set()
    waiting, links = [root], deque[Path]()
    while waiting or links:
        folder = waiting.pop() if waiting else links.popleft()
        if folder.resolve() in seen:
            continue
        seen.add(folder.resolve())
        inner = folders_in(folder)
        if folder / ANNOTATION in inner:
            yield folder
            continue
        for path in inner:
            (links if path.is_symlink() else waiting).append(path)


def _group(folder: Path, root: Path) -> str:
    place = folder.relative_to(root)
    return (place.parent if "sun3ddata" in folder.resolve().parts else place).as_posix()


def _tail(parts: Sequence[str]) -> tuple[str, ...]:
    """What names a frame wherever the data set lies: its folder and the one around it."""
    return tuple(parts[-2:])


def _read_splits(path: Path) -> dict[tuple[str, ...], str]:
    try:
        content = optional_import("scipy.io", "reading allsplit.mat").loadmat(path)
        return {
            _tail(PurePosixPath(str(np.ravel(cell)[0])).parts): split
            for name, split in (("alltrain", "train"), ("alltest", "test"))
            for cell in np.ravel(content[name])
        }
    except ConfigError:
        raise
    except Exception as error:  # an empty file raises a kind of its own
        raise DataError(f"{path} is no MATLAB file with alltrain and alltest: {error!r}") from error


def _read_camera(path: Path) -> Camera:
    try:
        numbers = [float(text) for text in path.read_text(encoding="utf-8").split()]
        fx, _, cx, _, fy, cy = numbers[:6]
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DataError("is no camera matrix of nine numbers") from error
    if not (min(fx, fy) > 0 and all(map(math.isfinite, numbers))):
        raise DataError(f"is no camera matrix: focal lengths {fx:g}, {fy:g}")
    return fx, fy, cx, cy
