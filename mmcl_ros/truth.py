"""True boxes and labels of a recording: from a CSV file, or from a detections topic that carries classes.

The CSV has one row per box and the columns ``stamp_ns, x_min, y_min, x_max, y_max, label``; the edges are pixels of the
colour picture (of the depth picture where there is no colour), the upper ones exclusive. An optional column ``id``
names the box, optional ``width, height`` state the size of the picture it was drawn in.
"""

from __future__ import annotations

import csv
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from mmcl_core.crops import UNKNOWN
from mmcl_core.errors import DataError
from mmcl_ros.bagfile import Bag
from mmcl_ros.detections import Box, Request, read_request
from mmcl_ros.message_types import REGION_TYPES, REGIONS_TYPE

__all__ = ["TRUTH_COLUMNS", "Truth", "is_unknown", "read_topic", "read_truth"]

TRUTH_COLUMNS = ("stamp_ns", "x_min", "y_min", "x_max", "y_max", "label")


@dataclass(frozen=True)
class Truth:
    """One picture's boxes with their true labels, in the same order."""

    request: Request
    labels: tuple[str, ...]


def is_unknown(label: str, classes: Collection[str]) -> bool:
    """Whether a true label is of no class that a model names: such boxes are left out of accuracy.

    Args:
        label: of a box; empty: not labelled, which is not unknown.
        classes: the model's; none: not known.
    """
    return label == UNKNOWN or bool(label and classes and label not in classes)


def read_truth(path: Path) -> list[Truth]:
    """The pictures of a CSV file by stamp, their boxes in the order of the file.

    Raises:
        DataError: a missing column or value, a value of no column, or one that is no number, with its line; text that
            is not UTF-8.
    """
    rows = []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # spreadsheets put a mark in front
            reader = csv.DictReader(file, skipinitialspace=True, strict=True)
            reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
            missing = [name for name in TRUTH_COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise DataError(_no_columns(path, reader.fieldnames or (), missing))
            for row in reader:
                line = reader.line_num
                if any(row[name] is None for name in TRUTH_COLUMNS):
                    raise DataError(f"{path}, line {line}: fewer values than columns")
                if any(row.get(None, ())):  # empty ones are what spreadsheets put at the end
                    raise DataError(f"{path}, line {line}: more values than columns; put text with commas into quotes")
                try:
                    edges = [float(row[name]) for name in TRUTH_COLUMNS[1:5]]
                    size = (_side(row, "width"), _side(row, "height"))
                    rows.append((_stamp(row), row.get("id") or "", edges, size, row["label"].strip()))
                except ValueError as error:
                    raise DataError(f"{path}, line {line}: {error}") from error
    except OSError as error:
        raise DataError(f"cannot read the true boxes {path}: {error.strerror}") from error
    except csv.Error as error:
        raise DataError(f"{path}, line {reader.line_num}: no CSV ({error}); is a quotation mark left open?") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not in UTF-8: {error}; save it as CSV in UTF-8") from error
    if not rows:
        raise DataError(f"{path} holds no boxes")
    rows.sort(key=lambda row: row[0])
    truths = []
    for stamp, group in groupby(rows, key=lambda row: row[0]):
        listed = list(group)
        boxes = tuple(Box(name or str(n), *edges) for n, (_, name, edges, _, _) in enumerate(listed))
        sizes = sorted({size for _, _, _, size, _ in listed if all(size)})
        if len(sizes) > 1:
            raise DataError(f"{path}: the picture of stamp {stamp} is {' and '.join(f'{w} x {h}' for w, h in sizes)}")
        width, height = sizes[0] if sizes else (0, 0)
        request = Request(boxes, width=width, height=height, stamp=stamp)
        truths.append(Truth(request, tuple(label for *_, label in listed)))
    return truths


def _stamp(row: Mapping[str, str]) -> int:
    """The stamp of a line, nanoseconds."""
    try:
        return int(row["stamp_ns"])
    except ValueError as error:
        raise ValueError(
            f"stamp_ns is {row['stamp_ns']!r}; a whole number of nanoseconds with all its digits is needed "
            "(spreadsheets round such numbers unless the column is of text)"
        ) from error


def _side(row: Mapping[str, str], name: str) -> int:
    """The width or height that a line states, 0 where it states none; spreadsheets may write 640 as 640.0."""
    text = (row.get(name) or "").strip() or "0"
    side = float(text)
    if not 0 <= side < 2**32 or side != int(side):
        raise ValueError(f"{name} is {text}; give the pixels of the picture as a whole number, or nothing")
    return int(side)


def _no_columns(path: Path, names: Sequence[str], missing: Sequence[str]) -> str:
    """What is wrong with a table without some columns: most of all that others than commas part them."""
    for sign, called in ((";", "semicolons"), ("\t", "tabs")):
        if any(sign in name for name in names):
            return f"{path}: its columns are parted by {called}, and commas are needed; save it as CSV with commas"
    return f"{path} lacks the columns {', '.join(missing)}; needed are {', '.join(TRUTH_COLUMNS)}"


def read_topic(bag: Bag) -> list[Truth]:
    """The boxes of a detections topic of the bag with their best classes, by stamp.

    The topic is the one that was named, else the first with classes of those that may be of the camera of the pictures;
    from then on it is that of ``bag.topics``.

    Raises:
        DataError: there is no such topic, it has no boxes, or they carry no classes.
    """
    candidates, boxes = bag.sources_of_truth(), False
    for topic in candidates:
        if bag.kinds[topic] == REGIONS_TYPE:
            boxes = True
            continue
        truths = []
        for _, message in bag.messages(topic):
            truths.append(Truth(read_request(message), tuple(_best_class(one) for one in message.detections)))
        boxes = boxes or any(truth.labels for truth in truths)
        if any(label for truth in truths for label in truth.labels):
            bag.use_detections(topic)
            return sorted(truths, key=lambda truth: truth.request.stamp)
    raise DataError(_no_classes(bag, candidates, boxes))


def _no_classes(bag: Bag, candidates: Sequence[str], boxes: bool) -> str:
    """Where classes were looked for in vain, and where else they may be."""
    if not candidates:
        kinds = " or ".join(kind for kind in REGION_TYPES if kind != REGIONS_TYPE)
        return f"{bag.path} has no {kinds} topic with classes; give the true boxes as a CSV file (--truth)"
    seen = ", ".join(f"{topic} ({bag.kinds[topic]})" for topic in candidates)
    others = ", ".join(f"{one} ({bag.kinds[one]})" for one in bag.region_topics() if one not in candidates)
    named = f"name another topic (--detections-topic), such as {others}, or " if others else ""
    what = f"the boxes of {seen} carry no classes" if boxes else f"there are no boxes on {seen}"
    return f"{bag.path}: {what}; {named}give the true boxes as a CSV file (--truth)"


def _best_class(detection: Any) -> str:
    if hasattr(detection, "class_name"):  # yolo_msgs states one
        return str(detection.class_name)
    found = [getattr(one, "hypothesis", one) for one in detection.results]
    best = max(found, key=lambda one: one.score, default=None)
    return str(getattr(best, "class_id", getattr(best, "id", "")))
