"""Own RGB-D frames with boxes, annotated in any tool that exports COCO JSON (CVAT, Label Studio, Roboflow, ...).

====================================  =================================================================================
file                                  meaning
====================================  =================================================================================
``*.json``                            ``images[]``: ``id``, ``file_name``, ``width``, ``height``; ``annotations[]``:
                                      ``image_id``, ``category_id``, ``bbox`` (x, y, width, height in pixels of the
                                      colour picture); ``categories[]``: ``id``, ``name``
``<file_name>``                       colour, 8 bit, 3 channels, PNG or JPEG
``--depth`` applied to the path       depth registered to colour, 16 bit, 1 channel, in the unit of ``--depth-unit``,
                                      0 = no reading; may differ from colour in size, not in proportions
====================================  =================================================================================

Annotations are looked for in the source, in ``annotations`` and in its other folders; pictures from the folder of the
JSON and the one above, from the source, from ``images``, from a folder of the name of the split, and at last by their
name alone. JSON files are splits if they are named so, by their folder (``train/_annotations.coco.json``) or themselves
(``annotations/instances_train.json``); ``valid`` means ``val``. Where all name the same split, ``--split`` overrules.

``--depth OLD=NEW`` tells where depth lies: at the path of the colour picture with OLD, where it comes last (or before,
or everywhere, if there is nothing), replaced by NEW, ending in .png; ``=NEW`` appends; ``none`` leaves depth out.
Without the option, the one of ``rgb=depth``, ``color=depth``, ``colour=depth``, ``images=depth``, ``image=depth`` and
``=_depth`` is taken that finds depth for most frames. A frame without depth gives crops of colour alone. Label Studio
puts eight hex digits before the names of uploaded pictures, Roboflow ``.rf.`` and more behind them; pictures and depth
that still have their names from before are found, too. (Have Roboflow export pictures as they are: depth is not resized
or cut with them.)

Crops are cut as the recognizer node cuts them: a square of 1.2 times the longer side of what the picture shows of the
box, filled with the surroundings. The category ``unlabelled`` holds boxes without a label. The group of a crop is its
scene (the path up to its last number) and class. A box that is there twice gives one crop. Boxes marked as a crowd
(``iscrowd``) are left out, unless every box of the file is marked, or CVAT wrote it: CVAT marks every object that was
painted with its brush. A box that CVAT has rotated is replaced by the upright box around it.
"""

from __future__ import annotations

import argparse
import logging
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from mmcl_core.crops import UNLABELLED
from mmcl_core.data.class_names import warn_of_like_names, warn_of_unknown
from mmcl_core.data.coco_annotations import Annotations, Box, find_annotations
from mmcl_core.data.coco_places import SCENE, Places, find_depth, scene_of
from mmcl_core.data.crops import Camera, CropRule, parse_camera, part_inside
from mmcl_core.data.folder import UNLABELLED_NAMES
from mmcl_core.data.frames import add_crop_arguments, camera_fits, crop_rule
from mmcl_core.data.pictures import alike, depth_millimetres, depth_scale, probe, read_rgb
from mmcl_core.data.shares import deal, group_pattern, parse_shares, warn_of_empty, warn_of_torn
from mmcl_core.data.sources import Plan, Skip, given_options
from mmcl_core.data.splits import shuffled
from mmcl_core.data.writer import Sample
from mmcl_core.errors import DataError
from mmcl_core.words import counted

__all__ = ["DATA_SET", "Coco", "Frame"]

logger = logging.getLogger(__name__)

_HELP = __doc__
_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}


@dataclass
class Frame:
    """A task: a picture and its boxes.

    Attributes:
        key: the colour file, relative to the source.
        split, scene: of its crops; scene is what near-duplicates share.
        size: (width, height) that it was annotated in; zeros: not stated.
        depth: the depth file, relative to the source; empty: none.
        boxes: label (-1: none) and (x0, y0, x1, y1) of each annotation.
        stored: see :class:`mmcl_core.data.coco_annotations.Annotations`.
    """

    key: str
    split: str
    scene: str
    size: tuple[int, int]
    depth: str = ""
    boxes: list[tuple[int, Box]] = field(default_factory=list)
    stored: bool = False


@dataclass(frozen=True)
class Reader:
    """How frames become crops."""

    source: Path
    rule: CropRule
    scale: float
    camera: Camera | None
    classes: tuple[str, ...]


class Coco:
    """The layout of this module."""

    name = "coco"
    help = "own frames with boxes, COCO JSON as CVAT, Label Studio and others export it"
    description = _HELP
    examples = """\
  python -m mmcl_core.prepare coco --source frames --out data_sets/mine --split train=0.8,val=0.1,test=0.1 --keep-groups
  python -m mmcl_core.prepare coco --source frames --out data_sets/mine --depth color=aligned --camera 615,615,320,240
  python -m mmcl_core.prepare coco --source frames --annotations cvat/instances_default.json --check"""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the options of this data set."""
        parser.add_argument(
            "--annotations", type=Path, nargs="+", metavar="JSON", help="the annotations (default: those found)"
        )
        parser.add_argument(
            "--depth", metavar="OLD=NEW", help="where the depth of a colour picture lies, or none (default: see above)"
        )
        parser.add_argument(
            "--depth-unit", default="mm", metavar="UNIT",
            help="one step of the depth files: mm, 0.1mm, cm, m/5000, ... (default: mm)",
        )  # fmt: skip
        parser.add_argument(
            "--camera", metavar="FX,FY,CX,CY", help="of all colour pictures, in pixels (default: unknown)"
        )
        add_crop_arguments(parser, margin=0.1, min_side=4, context=True)
        parser.add_argument(
            "--split", default="train", metavar="NAME|NAME=SHARE,...",
            help="where the JSON files name no splits, or the same: a name for all (default: train), or shares, drawn "
            "by frames, such as train=0.8,val=0.1,test=0.1",
        )  # fmt: skip
        parser.add_argument("--keep-groups", action="store_true", help="with shares: draw whole scenes")
        parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the drawn split (default: 0)")
        parser.add_argument(
            "--group-pattern", default=SCENE, metavar="REGEX",
            help="regular expression for the whole path of a picture without its ending and without what Roboflow and "
            f"Label Studio add to names; its first group names the scene (default: {SCENE}, that is the path up to its "
            "last number)",
        )  # fmt: skip

    def plan(self, source: Path, options: argparse.Namespace) -> Plan:
        """List the frames with their boxes, depth files and splits (see the data set protocol)."""
        shares, pattern = parse_shares(options.split), group_pattern(options.group_pattern)
        scale, camera = depth_scale(options.depth_unit), parse_camera(options.camera)
        rule = crop_rule(options)
        files, skips = find_annotations(source, options.annotations)
        splits = _named_splits(source, list(files))
        if given := given_options(self, options, ("split", "keep_groups", "seed")):
            if len(set(splits.values())) == 1:
                splits = {}
            elif splits:
                named = ", ".join(sorted(set(splits.values())))
                logger.warning("%s: not used, as the annotations name splits: %s", ", ".join(given), named)
        names = {name for file in files.values() for name in file.names()}
        classes = tuple(sorted(name for name in names if name.lower() not in UNLABELLED_NAMES))
        warn_of_unknown(classes)
        warn_of_like_names(classes)
        frames = _list_frames(source, files, splits or dict.fromkeys(files, ""), classes, pattern, skips)
        if not frames:
            first = f"; {skips[0].name}: {skips[0].reason}" if skips else ""
            raise DataError(f"{source}: no picture with a box in {', '.join(map(str, files))}{first}")
        if not splits:
            _draw_splits(frames, classes, shares, options.seed, options.keep_groups)
        rule_of_depth = _add_depth(source, frames, options.depth, scale, skips)
        description = {
            "made_by": "mmcl_core.prepare coco",
            "source": source.resolve().name,
            "annotations": {os.path.relpath(path, source): file.checksum for path, file in files.items()},
            "crop": rule.describe(),
            "depth": rule_of_depth,
            "depth_unit": options.depth_unit,
            "camera": options.camera or "unknown",
            "group_pattern": options.group_pattern,
        }
        if not splits:
            description |= {"split": options.split, "keep_groups": options.keep_groups, "seed": options.seed}
        return Plan(
            classes=classes,
            modalities=("rgb", "depth") if rule_of_depth else ("rgb",),
            tasks=frames,
            make=partial(make_samples, Reader(source, rule, scale, camera, classes)),
            total=len(frames),
            description=description,
            skipped=skips,
        )


DATA_SET = Coco()


def make_samples(reader: Reader, frame: Frame) -> Iterator[Sample | Skip]:
    """The crops of a frame, and what is wrong with its files and boxes."""
    try:
        images = {"rgb": read_rgb(reader.source / frame.key)}
        size = images["rgb"].shape[1::-1]
        turned = size == frame.size[::-1]
        if min(frame.size) > 0 and size != frame.size and not (turned and frame.stored):
            wide, high = frame.size
            doubt = "does its EXIF orientation turn it? Then save it upright" if turned else "was it resized?"
            raise DataError(f"is {size[0]} x {size[1]}, and was annotated as {wide} x {high}: {doubt}")
        camera_fits(reader.camera, images["rgb"])
    except DataError as error:
        yield Skip(frame.key, str(error))
        return
    try:
        if frame.depth:
            images["depth"] = depth_millimetres(reader.source / frame.depth, reader.scale)
            if not alike(images["depth"].shape[:2], images["rgb"].shape[:2]):
                high, wide = images.pop("depth").shape
                raise DataError(f"is {wide} x {high}, colour {size[0]} x {size[1]}: depth must be registered to colour")
    except DataError as error:
        yield Skip(frame.depth, f"{error}; the crops of this frame have colour alone")
    digits = max(3, len(str(len(frame.boxes))))
    for number, (label, box) in enumerate(frame.boxes):
        name = reader.classes[label] if label >= 0 else UNLABELLED
        key = f"{frame.key}/{number:0{digits}d}-{name}"
        shown = part_inside(box, width=size[0], height=size[1])
        cut = reader.rule({"rgb": images["rgb"]}, reader.camera, shown)
        if cut is None:
            yield Skip(
                key, f"its box {tuple(round(edge, 1) for edge in box)} is outside the picture or below --min-side"
            )
            continue
        crops, camera = cut
        if "depth" in images:
            zoom = images["depth"].shape[1] / size[0]
            small = replace(reader.rule, min_side=0)({"depth": images["depth"]}, None, [zoom * edge for edge in shown])
            crops |= small[0] if small else {}
        yield Sample(crops, label, frame.split, key, f"{frame.scene}/{name}", frame.key, camera)


def _list_frames(
    source: Path,
    files: Mapping[Path, Annotations],
    splits: Mapping[Path, str],
    classes: Sequence[str],
    pattern: re.Pattern[str],
    skips: list[Skip],
) -> list[Frame]:
    """The annotated pictures that are there, in the order of their keys."""
    frames: dict[str, Frame] = {}
    numbers = {name: label for label, name in enumerate(classes)}
    finder = Places(source)
    places = iter(finder.find([(path, one.file) for path, file in files.items() for one in file.pictures]))
    for path, file in files.items():
        skips += file.faults
        twice = 0
        for picture, place in zip(file.pictures, places):  # noqa: B905 - the places of the next file follow
            if not place:
                skips.append(Skip(picture.file, f"is in {path.name}, and {finder.why_lost(picture.file)}"))
                continue
            new_one = Frame(place, splits[path], scene_of(place, pattern), picture.size, stored=file.stored)
            frame = frames.setdefault(place, new_one)
            if frame.split != splits[path]:
                skips.append(Skip(place, f"is in the splits {frame.split} and {splits[path]}; the second is left out"))
                continue
            if min(frame.size) <= 0:
                frame.size, frame.stored = new_one.size, new_one.stored
            if not _of_one_size(frame, new_one):
                both = " and as ".join(f"{wide} x {high}" for wide, high in (frame.size, new_one.size))
                skips.append(Skip(place, f"was annotated as {both}; the second, in {path.name}, is left out"))
                continue
            boxes = [(numbers.get(name, -1), box) for name, box in picture.boxes]
            known = set(frame.boxes)
            new = [box for box in dict.fromkeys(boxes) if box not in known]
            twice += len(boxes) - len(new)
            frame.boxes += new
        if twice:
            number = counted(twice, "box", "is", "are")
            logger.warning("%s: %s there twice, or in a file before; one of each is taken", path, number)
    return sorted(frames.values(), key=lambda frame: f"{frame.key}/")


def _of_one_size(one: Frame, other: Frame) -> bool:
    """Whether two entries for a picture may hold boxes of the same pixels, as far as they state its size."""
    turned = (one.stored or other.stored) and one.size == other.size[::-1]
    return one.size == other.size or turned or min(other.size) <= 0


def _named_splits(source: Path, paths: Sequence[Path]) -> dict[Path, str]:
    """The split that each file, or its folder in the source, names; empty where none does.

    Raises:
        DataError: some do.
    """
    found: dict[Path, str] = {}
    for path in paths:
        for name in (path.stem, "" if path.parent.resolve() == source.resolve() else path.parent.name):
            words = [_SPLITS[word] for word in re.split("[^a-z]+", name.lower()) if word in _SPLITS]
            if words:
                found.setdefault(path, words[-1])
    if found and len(found) < len(paths):
        other = next(path for path in paths if path not in found)
        raise DataError(
            f"{next(iter(found))} names a split and {other} does not; give those that belong together as --annotations"
        )
    return found


def _draw_splits(
    frames: list[Frame], classes: Sequence[str], shares: dict[str, float], seed: int, scenes: bool
) -> None:
    """Draw whole frames, or whole scenes, so that each split gets its share of every class."""
    units: dict[str, list[Frame]] = {}
    for frame in frames:
        units.setdefault(frame.scene if scenes else frame.key, []).append(frame)
    labels = [[label for frame in unit for label, _ in frame.boxes] for unit in units.values()]
    drawn = deal(labels, len(classes), shares, shuffled(len(units), seed, 0).tolist())
    for unit, split in zip(units.values(), drawn, strict=True):
        for frame in unit:
            frame.split = split
    warn_of_empty(shares, drawn, labels, classes, "scenes" if scenes else "frames")
    members = [(frame.scene or ".", frame.split, label) for frame in frames for label, _ in frame.boxes]
    warn_of_torn(members, len(shares))
    if scenes and len(shares) > 1 and (len(units) < len(shares) or len(units) > 0.9 * len(frames) > 9):
        logger.warning(
            "--keep-groups: %s %s, such as %r; if that is wrong, --group-pattern tells them apart",
            counted(len(frames), "picture", "is", "are"), counted(len(units), "scene"), frames[0].scene or ".",
        )  # fmt: skip


def _add_depth(source: Path, frames: list[Frame], given: str | None, scale: float, skips: list[Skip]) -> str:
    """Give the frames their depth files; returns the rule by which they were found, empty without any."""
    rule, found, why = find_depth(source, [frame.key for frame in frames], given)
    for frame, depth, reason in zip(frames, found, why, strict=True):
        frame.depth = depth
        if reason:
            skips.append(Skip(frame.key, f"has no depth ({reason}): its crops have colour alone"))
    if rule:
        files = [source / depth for depth in found if depth]
        hint = "; --depth none leaves depth out"
        probe(files, lambda path: depth_millimetres(path, scale), "depth", hint)
    return rule
