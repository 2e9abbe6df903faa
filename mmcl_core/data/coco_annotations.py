"""COCO JSON: pictures with labelled boxes (https://cocodataset.org/#format-data), whichever tool wrote it."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmcl_core.data.sources import Skip, folders_in, place_in, show_folder, visible
from mmcl_core.errors import DataError
from mmcl_core.words import counted

__all__ = ["Annotations", "Box", "Picture", "find_annotations", "read_annotations"]

logger = logging.getLogger(__name__)

#: x0, y0, x1, y1 in pixels, (0, 0) the outer corner of the first pixel.
Box = tuple[float, float, float, float]

_LAYOUT = "JSON files with images, annotations and categories, in it, in annotations/ or in another folder of it"


@dataclass
class Picture:
    """An annotated picture.

    Attributes:
        file: as the annotations name it.
        size: (width, height) in pixels; zeros: not stated.
        boxes: name of the category and box, in the order of the file.
    """

    file: str
    size: tuple[int, int] = (0, 0)
    boxes: list[tuple[str, Box]] = field(default_factory=list)


@dataclass
class Annotations:
    """What a file holds.

    Attributes:
        pictures: with at least one box, in the order of the file.
        faults: entries that cannot be used, and why.
        checksum: SHA-256 of the file.
        stored: whether sizes are those of the stored pixels, boxes those of the picture as its EXIF orientation turns
            it, as Label Studio has it.
    """

    pictures: list[Picture]
    faults: list[Skip]
    checksum: str = ""
    stored: bool = False

    def names(self) -> set[str]:
        """The categories of which there is a box."""
        return {name for picture in self.pictures for name, _ in picture.boxes}


def find_annotations(source: Path, given: Sequence[Path] | None) -> tuple[dict[Path, Annotations], list[Skip]]:
    """The annotations of a source, by file, and files that seem to be some and cannot be read.

    Args:
        source: folder of the frames.
        given: take these files.

    Raises:
        DataError: there are none; one that was given cannot be used.
    """
    if not source.is_dir():
        raise DataError(f"{source}: a folder expected, found {show_folder(source)}")
    if given:
        return {path: read_annotations(path) for path in given}, []
    folders = [source, *folders_in(source)]
    found: dict[Path, Annotations] = {}
    skips = []
    for path in (path for folder in folders for path in visible(folder) if path.suffix.lower() == ".json"):
        try:
            content, checksum = _load(path)
            if isinstance(content, dict) and {"images", "annotations"} <= content.keys():
                found[path] = _parse(path, content, checksum)
        except DataError as error:
            skips.append(Skip(place_in(source, path), str(error).removeprefix(f"{path} ")))
    if not found:
        bad = f"; {skips[0].name} {skips[0].reason}" if skips else ""
        raise DataError(
            f"{source}: no annotations found; expected {_LAYOUT}; found {show_folder(source)}{bad}; "
            "--annotations names others"
        )
    return found, skips


def read_annotations(path: Path) -> Annotations:
    """The annotations of a file.

    Raises:
        DataError: it cannot be read, or is no COCO JSON.
    """
    return _parse(path, *_load(path))


def _load(path: Path) -> tuple[Any, str]:
    """The content of a file and its SHA-256."""
    try:
        data = path.read_bytes()
        return json.loads(data.decode("utf-8-sig")), hashlib.sha256(data).hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{path} is no JSON: {error}") from error


def _parse(path: Path, content: Any, checksum: str) -> Annotations:
    kinds = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(kind), list) for kind in kinds):
        raise DataError(f"{path} is no COCO JSON: lists {', '.join(kinds)} are expected in it")
    pictures: dict[Any, Picture] = {}
    names: dict[Any, str] = {}
    several: dict[str, set[Any]] = {"image_id": set(), "category_id": set()}  # ids that name several things
    faults: list[Skip] = []
    crowds, crowd = 0, _crowds_to_skip(content["annotations"])

    def add_category(entry: Any) -> None:
        name = _text(entry["name"])
        if names.setdefault(_number(entry["id"]), name) != name:
            several["category_id"].add(_number(entry["id"]))
            raise ValueError(f"its id {entry['id']!r} is that of another category, too")

    def add_image(entry: Any) -> None:
        size = (int(float(entry.get("width") or 0)), int(float(entry.get("height") or 0)))
        picture = Picture(_text(entry["file_name"]), size)
        if (first := pictures.setdefault(_number(entry["id"]), picture)) is not picture:
            if first.file != picture.file:
                several["image_id"].add(_number(entry["id"]))
                raise ValueError(f"its id {entry['id']!r} is that of another image, too")
            raise ValueError("an image of its id was there before")

    def add_box(entry: Any) -> None:
        image, category = _number(entry["image_id"]), _number(entry["category_id"])
        for key, value, known in (("image_id", image, pictures), ("category_id", category, names)):
            if value not in known:
                raise ValueError(f"its {key} {entry[key]!r} is not listed")
            if value in several[key]:
                raise ValueError(f"its {key} {entry[key]!r} is listed several times; which is meant is not clear")
        if crowd and _marked(entry) and not _by_cvat(entry.get("attributes")):
            nonlocal crowds
            crowds += 1
            return
        box = _box(entry["bbox"])
        if not entry.get("segmentation"):  # else it is around a mask, turned as it is: CVAT's ellipses
            box = _turned(box, entry.get("attributes"))
        pictures[image].boxes.append((names[category], box))

    for kind, add in (("categories", add_category), ("images", add_image), ("annotations", add_box)):
        for row, entry in enumerate(content[kind]):
            try:
                add(entry)
            except KeyError as error:
                faults.append(Skip(path.name, f"{kind}[{row}] is left out: it has no {error.args[0]}"))
            except (TypeError, ValueError, AttributeError, OverflowError) as error:
                faults.append(Skip(path.name, f"{kind}[{row}] is left out: {error}"))
    if crowds:
        logger.warning(
            "%s: %s left out; set it to 0 for those of a single object",
            path,
            counted(crowds, "box", "marks a crowd (iscrowd) and is", "mark crowds (iscrowd) and are"),
        )
    about = content.get("info")
    stored = isinstance(about, dict) and about.get("contributor") == "Label Studio"
    return Annotations([picture for picture in pictures.values() if picture.boxes], faults, checksum, stored)


def _crowds_to_skip(entries: list[Any]) -> bool:
    """Whether ``iscrowd`` means what COCO means by it: not where all entries have it."""
    return any(isinstance(entry, dict) and not _marked(entry) for entry in entries)


def _marked(entry: Any) -> bool:
    """Whether an entry is marked as a crowd; some tools write numbers as texts."""
    return bool(_number(entry.get("iscrowd")))


def _by_cvat(attributes: Any) -> bool:
    """Whether an entry is one of CVAT, which sets ``iscrowd`` for every object that was painted with a brush."""
    return isinstance(attributes, dict) and "occluded" in attributes and not attributes.get("is_crowd")


def _number(value: Any) -> Any:
    """An id, as a number where it is the text of one: tools differ in it, and some lists of a file from others."""
    return int(value) if isinstance(value, str) and re.fullmatch("0|[1-9][0-9]{0,17}", value) else value


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"a name is expected, found {value!r}")
    return value.strip()


def _box(values: Any) -> Box:
    if not isinstance(values, list) or len(values) != 4:
        raise ValueError(f"bbox is {values!r}; x, y, width, height are expected")
    x, y, width, height = map(float, values)
    if not (math.isfinite(x + y + width + height) and width > 0 and height > 0):
        raise ValueError(f"bbox is {values!r}; a width and a height above 0 are expected")
    return x, y, x + width, y + height


def _turned(box: Box, attributes: Any) -> Box:
    """The upright box around one that CVAT says is rotated, by ``attributes.rotation`` degrees about its centre."""
    turn = float(attributes.get("rotation") or 0) if isinstance(attributes, dict) else 0.0
    if not turn:
        return box
    if not math.isfinite(turn):
        raise ValueError(f"it is rotated by {turn} degrees")
    x0, y0, x1, y1 = box
    across, down = abs(math.cos(math.radians(turn))), abs(math.sin(math.radians(turn)))
    half = ((x1 - x0) * across + (y1 - y0) * down) / 2, ((x1 - x0) * down + (y1 - y0) * across) / 2
    x, y = (x0 + x1) / 2, (y0 + y1) / 2
    return x - half[0], y - half[1], x + half[0], y + half[1]
