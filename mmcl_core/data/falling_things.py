"""Falling Things (FAT): 21 YCB objects falling through three rendered environments, stereo pairs with exact depth.

Source: J. Tremblay, T. To, S. Birchfield, "Falling Things: A Synthetic Dataset for 3D Object Detection and Pose
Estimation", CVPR Workshops 2018; https://research.nvidia.com/publication/2018-06_Falling-Things. Licence: the Creative
Commons one of that page, for non-commercial use.

=======================================  ==============================================================================
folder or file                           meaning
=======================================  ==============================================================================
``single/<object>_16k/<scene>/``         one falling object, 100 frames; ``<scene>`` is ``<environment>_<0-4>``, the
                                         environments are kitchen, kitedemo and temple
``mixed/<scene>/``                       2 to 10 falling objects, 2000 frames
``NNNNNN.(left|right).(jpg|png)``        colour, 960 x 540
``NNNNNN.(left|right).depth.png``        16 bit, z in 0.1 mm; 65535 = farther than that, here no reading
``NNNNNN.(left|right).seg.png``          8 bit, 0 = none, 255 = the object of ``single``, in ``mixed`` that of the class
``NNNNNN.(left|right).json``             ``objects[]``: ``class``, ``visibility`` (share that is not hidden),
                                         ``bounding_box`` with ``top_left`` and ``bottom_right`` as (row, column)
``_object_settings.json``                ``exported_objects[]``: ``class``, ``segmentation_class_id``
``_camera_settings.json``                ``camera_settings[]``: ``name`` (left, right), ``intrinsic_settings``
=======================================  ==============================================================================

The source is the folder that holds ``single`` and ``mixed``, or the one around it. JSON with the bare ``-nan`` of the
exporter is read. The principal point counts from the outer corner of the picture, (480, 270) is its middle; half a
pixel is taken off for the convention of this package. Classes are the 21 names of the YCB set without ``_16k``, such as
``002_master_chef_can``: those of YCB-Video and of rendered YCB meshes.

The rule of the crops: a box of the left picture, cut at its border, becomes square by replicating its edge (options
``--margin``, ``--context``); boxes below ``--min-side`` and objects below ``--min-visibility`` are left out. The rule
behind the 18,640 + 6,267 crops of Meyer et al. is unpublished. The 31,500 frames of ``single``, the default, come
closest in number; ``--subset single mixed`` takes all, ``--every`` thins them out.

Splits go by scene, as frames of a scene share their background: of each environment, one of five scenes is drawn for
``val`` (see ``--val-scenes``, ``--test-scenes``, ``--seed``). The group of a crop is its scene. ``--stereo`` adds the
modality ``rgb_right``: the same object cut out of the right picture by its own box, missing where it is not seen there.
Crops that are cut already, as Meyer et al. had them, are read too: ``<split>/<class>/<stem>.left.(jpg|png)`` with
``<stem>.left.depth.png`` of the same pixels, for ``--stereo`` ``<stem>.right.(jpg|png)`` besides; <split> is train, val
or test. Depth of 16 bit is in 0.1 mm; of 8 bit it has no unit and is used with ``model.depth_encoding=stored``.
"""

from __future__ import annotations

import argparse
import math
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmcl_core.data.crops import Camera, CropRule
from mmcl_core.data.fat_annotations import Object, read_cameras, read_class_numbers, read_objects
from mmcl_core.data.fat_crops import has_crops, plan_crops, read_distances
from mmcl_core.data.frames import add_crop_arguments, camera_fits, crop_rule, mask_out, same_size, visible_box
from mmcl_core.data.pictures import read_picture, read_rgb
from mmcl_core.data.sources import Plan, Skip, folders_in, given_options, place_in, show_folder
from mmcl_core.data.splits import shuffled
from mmcl_core.data.writer import Sample
from mmcl_core.data.ycb_video import CLASSES
from mmcl_core.errors import ConfigError, DataError
from mmcl_core.words import counted

__all__ = ["CLASSES", "DATA_SET", "FallingThings", "Frame", "split_scenes"]

Array = npt.NDArray[Any]

SUBSETS = {"single": 31_500, "mixed": 30_000}
_HELP = __doc__
_FILE = re.compile(r"(\d+)\.left\.(?:jpg|png|json|depth\.png|seg\.png)")
_SCENE = re.compile(r"(.+)_\d+")
_LAYOUT = "single/<object>_16k/<environment>_<n>/NNNNNN.left.jpg (.depth.png, .seg.png, .json) and mixed/<scene>/..."


@dataclass(frozen=True)
class Folder:
    """What all frames of a folder share.

    Attributes:
        cameras: by side; a side is missing where the settings cannot be read.
        numbers: of ``seg.png`` by class; empty where it is not needed.
    """

    place: str
    scene: str
    cameras: Mapping[str, Camera]
    numbers: Mapping[str, int]


@dataclass(frozen=True)
class Frame:
    """A task: a frame, its folder relative to the source."""

    key: str
    folder: Folder
    number: str
    colour: str
    split: str


@dataclass(frozen=True)
class Reader:
    """How frames become crops."""

    source: Path
    rule: CropRule
    min_visibility: float
    stereo: bool
    tight: bool
    masked: bool


class FallingThings:
    """The layout of this module."""

    name = "falling_things"
    help = "Falling Things: 21 YCB objects, rendered stereo frames with exact depth"
    description = _HELP
    examples = """\
  python -m mmcl_core.prepare falling_things --source fat --size 256 --out data_sets/falling_things
  python -m mmcl_core.prepare falling_things --source fat --out data_sets/fat_stereo --stereo --subset single mixed
  python -m mmcl_core.prepare falling_things --source fat --out data_sets/fat_3 --test-scenes 1 --val-scenes kitchen_2
  python -m mmcl_core.prepare falling_things --source fat_crops --out data_sets/fat_crops
  python -m mmcl_core.prepare falling_things --source fat --check --limit 1000"""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the options of this data set."""
        parser.add_argument(
            "--subset", nargs="+", choices=tuple(SUBSETS), default=["single"],
            help="which frames (default: single, see above)",
        )  # fmt: skip
        add_crop_arguments(parser, min_side=32)
        parser.add_argument(
            "--min-visibility", type=float, default=0.3, metavar="SHARE",
            help="objects with less of them in sight are left out (default: 0.3)",
        )  # fmt: skip
        parser.add_argument(
            "--boxes", choices=("annotated", "visible"), default="annotated",
            help="boxes of the JSON, or what seg.png shows inside of them (default: annotated)",
        )  # fmt: skip
        parser.add_argument(
            "--mask", choices=("ignore", "apply"), default="ignore",
            help="apply: what is not of the class of the object becomes black and no reading (default: ignore)",
        )  # fmt: skip
        parser.add_argument("--stereo", action="store_true", help="add the right colour picture, modality rgb_right")
        parser.add_argument(
            "--every", type=int, default=1, metavar="N", help="take frames 0, N, 2 N, ... of each folder (default: 1)"
        )
        for split, count in (("val", 1), ("test", 0)):
            parser.add_argument(
                f"--{split}-scenes", default=str(count), metavar="N|SCENE,...",
                help=f"scenes of split {split}: so many drawn of each environment, or names (default: {count})",
            )  # fmt: skip
        parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the drawn scenes (default: 0)")

    def plan(self, source: Path, options: argparse.Namespace) -> Plan:
        """List the frames and read what their folders share (see the data set protocol)."""
        if options.every < 1:
            raise ConfigError(f"--every is {options.every}; 1 or more is expected")
        if not 0 <= options.min_visibility <= 1:
            raise ConfigError(f"--min-visibility is {options.min_visibility}; a share from 0 to 1 is expected")
        if has_crops(source):
            if given := [option for option in given_options(self, options) if option != "--stereo"]:
                raise ConfigError(f"{source} holds crops that are cut already, where {', '.join(given)} cannot apply: "
                                  "leave out what is for whole frames")  # fmt: skip
            return plan_crops(source, options)
        tight, masked = options.boxes == "visible", options.mask == "apply"
        reader = Reader(source, crop_rule(options), options.min_visibility, options.stereo, tight, masked)
        folders = _list_folders(source, options.subset)
        scenes = sorted({folder.name for _, folder in folders})
        splits = split_scenes(scenes, options.val_scenes, options.test_scenes, options.seed)
        skips: list[Skip] = []
        frames: list[Frame] = []
        for key, folder in folders:
            shared = _read_settings(reader, folder, skips)
            if shared is not None:
                frames += _list_frames(key, folder, shared, splits[folder.name], options.every, skips)
        frames.sort(key=lambda frame: frame.key + "/")
        expected = sum(SUBSETS[name] for name in set(options.subset))
        return Plan(
            classes=CLASSES,
            modalities=("rgb", "depth", "rgb_right") if options.stereo else ("rgb", "depth"),
            tasks=frames,
            make=partial(make_samples, reader),
            total=len(frames),
            description=_describe(reader, options, splits),
            published={"frames": (len(frames), expected)} if options.every == 1 else {},
            skipped=skips,
        )


DATA_SET = FallingThings()


def make_samples(reader: Reader, frame: Frame) -> Iterator[Sample | Skip]:
    """The crops of a frame, or what is wrong with it."""
    stem = f"{frame.folder.place}/{frame.number}"
    part = "left.json"
    try:
        objects, faults = read_objects(reader.source / f"{stem}.{part}")
        wanted = [one for one in objects if one.visibility >= reader.min_visibility]
        images: dict[str, Array] = {}
        numbers: Array | None = None
        if wanted:
            part = f"left.{frame.colour}"
            images["rgb"] = read_rgb(reader.source / f"{stem}.{part}")
            part = "left.depth.png"
            images["depth"] = read_distances(reader.source / f"{stem}.{part}")
            same_size(images["depth"], images["rgb"])
            part = f"left.{frame.colour}"
            camera_fits(frame.folder.cameras.get("left"), images["rgb"])
            if frame.folder.numbers:
                part = "left.seg.png"
                numbers = _read_numbers(reader.source / f"{stem}.{part}", images["rgb"])
    except DataError as error:
        yield Skip(f"{stem}.{part}", str(error))
        return
    yield from (Skip(f"{stem}.left.json", fault) for fault in faults)
    crops = {one: _cut(reader, frame, one, images, numbers, frame.folder.cameras.get("left")) for one in wanted}
    right: dict[tuple[int, int], Array] = {}
    if reader.stereo and any(crops.values()):
        right, skip = _right_crops(reader, frame, stem)
        yield from [skip] if skip else []
    for one, cut in crops.items():
        if cut is None:
            continue
        shown = dict(cut[0])
        if (one.label, one.rank) in right:
            shown["rgb_right"] = right[one.label, one.rank]
        key = f"{frame.key}/{CLASSES[one.label]}" + (f"-{one.rank}" if one.rank else "")
        yield Sample(shown, one.label, frame.split, key, frame.folder.scene, f"{stem}.left.{frame.colour}", cut[1])


def split_scenes(scenes: Iterable[str], val: str, test: str, seed: int) -> dict[str, str]:
    """The split of every scene: train, val or test.

    Args:
        scenes: names such as ``kitchen_0``.
        val, test: names joined by commas, or how many to draw of each environment.
        seed: of the draw, which depends on nothing else than the names of the scenes of an environment.

    Raises:
        ConfigError: an unknown scene, one in both splits, or none left to train on.
    """
    splits = dict.fromkeys(scenes, "train")
    environments: dict[str, list[str]] = {}
    for scene in sorted(splits):
        match = _SCENE.fullmatch(scene)
        environments.setdefault(match[1] if match else scene, []).append(scene)
    for split, asked in (("test", test), ("val", val)):
        names = [name.strip() for name in asked.split(",") if name.strip()]
        if asked.strip().isdecimal():
            names = []
            for environment, members in environments.items():
                # Drawn from all, so that what is free keeps its place in the order.
                number = zlib.crc32(environment.encode("utf-8", "surrogateescape"))
                order = [members[i] for i in shuffled(len(members), seed, number)]
                names += [scene for scene in order if splits[scene] == "train"][: int(asked)]
        for name in names:
            if splits.get(name) != "train":
                state = f"is {splits[name]} already" if name in splits else f"unknown; there are {', '.join(splits)}"
                raise ConfigError(f"--{split}-scenes {asked!r}: {name!r} {state}")
            splits[name] = split
    if "train" not in splits.values():
        raise ConfigError(
            f"--val-scenes {val} and --test-scenes {test} leave none of {counted(len(splits), 'scene')} to train on"
        )
    return splits


def _describe(reader: Reader, options: argparse.Namespace, splits: Mapping[str, str]) -> dict[str, Any]:
    return {
        "made_by": "mmcl_core.prepare falling_things",
        "source": "Falling Things (Tremblay et al., CVPR Workshops 2018), for non-commercial use",
        "subset": sorted(set(options.subset)),
        "crop": reader.rule.describe(),
        "boxes": options.boxes,
        "min_visibility": reader.min_visibility,
        "mask": options.mask,
        "every": options.every,
        "stereo": reader.stereo,
        "scenes": {name: sorted(s for s in splits if splits[s] == name) for name in sorted(set(splits.values()))},
    }


def _list_folders(source: Path, subsets: Iterable[str]) -> list[tuple[str, Path]]:
    """Key and path of the folders of frames."""
    roots = (source, *folders_in(source))
    root = next((path for path in roots if any((path / name).is_dir() for name in SUBSETS)), None)
    if root is None:
        found = show_folder(source)
        raise DataError(f"{source}: expected {_LAYOUT}, or crops in {{train,val}}/<class>/; found {found}")
    found_folders = []
    for subset in sorted(set(subsets)):
        top = root / subset
        if not top.is_dir():
            raise DataError(f"{root}: expected {subset}/, found {show_folder(root)}; --subset takes another choice")
        upper = folders_in(top)
        folders = upper if subset == "mixed" else [path for one in upper for path in folders_in(one)]
        if not folders:
            raise DataError(f"{top}: no scenes; expected {_LAYOUT}; found {show_folder(top)}")
        found_folders += [(folder.relative_to(root).as_posix(), folder) for folder in folders]
    return found_folders


def _list_frames(key: str, folder: Path, shared: Folder, split: str, every: int, skips: list[Skip]) -> Iterator[Frame]:
    names = set(os.listdir(folder))
    numbers = sorted({match[1] for name in names if (match := _FILE.fullmatch(name))}, key=int)
    if not numbers:
        skips.append(Skip(key, f"holds no frames; found {show_folder(folder)}"))
    for number in numbers:
        if int(number) % every:
            continue
        colour = "png" if f"{number}.left.png" in names else "jpg"
        wanted = [f"left.{colour}", "left.depth.png", "left.json", *(["left.seg.png"] if shared.numbers else [])]
        gone = [part for part in wanted if f"{number}.{part}" not in names]
        if gone:
            skips.append(Skip(f"{key}/{number}", f"has no {', no '.join(gone)}"))
        else:
            yield Frame(f"{key}/{number}", shared, number, colour, split)


def _read_settings(reader: Reader, folder: Path, skips: list[Skip]) -> Folder | None:
    """What the frames of a folder share; None where ``seg.png`` is needed and nothing tells its numbers."""
    place = place_in(reader.source, folder)
    cameras: dict[str, Camera] = {}
    numbers: dict[str, int] = {}
    try:
        cameras = read_cameras(folder / "_camera_settings.json")
    except DataError as error:
        skips.append(Skip(f"{place}/_camera_settings.json", f"{error}; the cameras of its frames stay unknown"))
    if reader.tight or reader.masked:
        try:
            numbers = read_class_numbers(folder / "_object_settings.json")
        except DataError as error:
            skips.append(Skip(f"{place}/_object_settings.json", f"{error}; its frames are left out"))
            return None
    return Folder(place, folder.name, cameras, numbers)


def _read_numbers(path: Path, rgb: Array) -> Array:
    image = read_picture(path)
    same_size(image, rgb)
    if image.ndim != 2:
        raise DataError(f"is of shape {image.shape}; 1 channel is expected")
    return image


def _cut(
    reader: Reader, frame: Frame, one: Object, images: Mapping[str, Array], numbers: Array | None, camera: Camera | None
) -> tuple[dict[str, Array], Camera | None] | None:
    """The crops of an object; ``numbers`` is ``seg.png`` where it is needed."""
    height, width = images["rgb"].shape[:2]
    x0, y0, x1, y1 = (float(np.clip(v, 0, most)) for v, most in zip(one.box, (width, height) * 2, strict=True))
    if x1 <= x0 or y1 <= y0:
        return None
    box: tuple[float, ...] = (x0, y0, x1, y1)
    if numbers is None:
        return reader.rule(images, camera, box)
    mask = numbers == frame.folder.numbers.get(CLASSES[one.label], -1)
    if reader.tight:
        left, top = math.floor(x0), math.floor(y0)
        tight = visible_box(mask[top : math.ceil(y1), left : math.ceil(x1)])
        if tight is None:
            return None
        box = (tight[0] + left, tight[1] + top, tight[2] + left, tight[3] + top)
    return reader.rule(mask_out(images, mask) if reader.masked else images, camera, box)


def _right_crops(reader: Reader, frame: Frame, stem: str) -> tuple[dict[tuple[int, int], Array], Skip | None]:
    """Colour crops of the right picture by class and rank of the object; and what is wrong with one of its files."""
    part = "right.json"
    numbers: Array | None = None
    try:
        objects, _ = read_objects(reader.source / f"{stem}.{part}")
        part = f"right.{frame.colour}"
        images = {"rgb": read_rgb(reader.source / f"{stem}.{part}")}
        if frame.folder.numbers:
            part = "right.seg.png"
            numbers = _read_numbers(reader.source / f"{stem}.{part}", images["rgb"])
    except DataError as error:
        return {}, Skip(f"{stem}.{part}", f"{error}; the crops of its frame have no rgb_right")
    wanted = [one for one in objects if one.visibility >= reader.min_visibility]
    cuts = {(one.label, one.rank): _cut(reader, frame, one, images, numbers, None) for one in wanted}
    return {which: cut[0]["rgb"] for which, cut in cuts.items() if cut is not None}, None
