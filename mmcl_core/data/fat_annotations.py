"""The JSON files of Falling Things: objects and their boxes, cameras, numbers of the classes."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmcl_core.data.crops import Camera
from mmcl_core.data.ycb_video import CLASSES
from mmcl_core.errors import DataError

__all__ = ["Object", "plain_class", "read_cameras", "read_class_numbers", "read_json", "read_objects"]

#: Strings, which stay as they are, and the numbers that JSON has no word for.
_NO_NUMBER = re.compile(r'"(?:[^"\\]|\\.)*"|-?\b(?:nan|inf)\b(?:\(\w+\))?', re.IGNORECASE)


@dataclass(frozen=True)
class Object:
    """An object in a picture: its class, the how many-th of it, the share that is seen, and x0, y0, x1, y1."""

    label: int
    rank: int
    visibility: float
    box: tuple[float, float, float, float]


def read_json(path: Path) -> Any:
    """The content of a JSON file that may hold ``nan``, ``-nan``, ``-nan(ind)`` or ``inf`` for a number.

    Raises:
        DataError: missing, or no JSON otherwise; the message does not repeat the path.
    """
    try:
        text = path.read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}") from error
    try:
        return json.loads(text)
    except ValueError:
        pass
    try:
        return json.loads(_NO_NUMBER.sub(lambda match: match[0] if match[0][0] == '"' else "NaN", text))
    except ValueError as error:
        raise DataError(f"is no JSON ({len(text)} characters): {error}") from error


def read_objects(path: Path) -> tuple[list[Object], list[str]]:
    """The objects of a picture in the order of their classes, and what is wrong with others.

    Objects without a finite box, as they lie behind the camera, are not among them.

    Args:
        path: ``NNNNNN.left.json`` or ``NNNNNN.right.json``.

    Raises:
        DataError: missing, no JSON, or without ``objects``.
    """
    content = read_json(path)
    entries = content.get("objects") if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise DataError("has no list of objects")
    found, faults, ranks = [], [], Counter[int]()
    for place, entry in enumerate(entries):
        try:
            name = plain_class(entry["class"])
            top, left = map(float, entry["bounding_box"]["top_left"])
            bottom, right = map(float, entry["bounding_box"]["bottom_right"])
            visibility = float(entry["visibility"])
            if name not in CLASSES:
                raise ValueError(f"class {name!r} is none of the {len(CLASSES)}")
            label = CLASSES.index(name)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            faults.append(f"object {place} cannot be used: {error!r}")
            continue
        # Counted before boxes are looked at: the k-th of a class is the same object in both pictures.
        rank = ranks[label]
        ranks[label] += 1
        if all(map(math.isfinite, (left, top, right, bottom, visibility))):
            found.append(Object(label, rank, visibility, (left, top, right, bottom)))
    return sorted(found, key=lambda one: (one.label, one.rank)), faults


def read_cameras(path: Path) -> dict[str, Camera]:
    """The cameras of a folder by side, left and right, pixel centres at integers.

    The file counts the principal point from the outer corner of the picture: (480, 270) is the middle of 960 x 540.

    Args:
        path: ``_camera_settings.json``.

    Raises:
        DataError: missing, or of another form.
    """
    cameras: dict[str, Camera] = {}
    for entry in _entries(path, "camera_settings", "name", "intrinsic_settings"):
        try:
            fx, fy, cx, cy = (float(entry["intrinsic_settings"][name]) for name in ("fx", "fy", "cx", "cy"))
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"holds a camera without fx, fy, cx, cy: {error!r}") from error
        if not (math.isfinite(fx + fy + cx + cy) and min(fx, fy) > 0):
            raise DataError(f"holds fx, fy, cx, cy {fx, fy, cx, cy}")
        cameras[str(entry["name"]).lower()] = (fx, fy, cx - 0.5, cy - 0.5)
    return cameras


def read_class_numbers(path: Path) -> dict[str, int]:
    """The number of every class in the ``seg.png`` of a folder.

    Args:
        path: ``_object_settings.json``.

    Raises:
        DataError: missing, or of another form.
    """
    entries = _entries(path, "exported_objects", "class", "segmentation_class_id")
    try:
        return {plain_class(entry["class"]): int(entry["segmentation_class_id"]) for entry in entries}
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(f"holds an object without a class and its number: {error!r}") from error


def plain_class(name: str) -> str:
    """The name of a class in lower case, without the ``_16k`` of the mesh."""
    return name.strip().lower().removesuffix("_16k")


def _entries(path: Path, name: str, *columns: str) -> list[dict[str, Any]]:
    content = read_json(path)
    entries = content.get(name) if isinstance(content, dict) else None
    good = isinstance(entries, list) and all(isinstance(one, dict) and {*columns} <= {*one} for one in entries)
    if not good or not entries:
        raise DataError(f"has no list {name} with {' and '.join(columns)}")
    return entries
