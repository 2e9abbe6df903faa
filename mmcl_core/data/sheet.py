"""A contact sheet: one picture that shows what a prepared set holds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from mmcl_core.atomic import write_atomically
from mmcl_core.crops import UNLABELLED
from mmcl_core.data.cache import PreparedSet
from mmcl_core.errors import DataError

__all__ = ["colourise_depth", "contact_sheet"]

Array = npt.NDArray[Any]

_COLUMNS = 8  # most samples of a class
_CELL = 72  # side of a crop, pixels
_GAP, _PAPER, _INK = 4, 255, (40, 40, 40)


def colourise_depth(depth: Array) -> Array:
    """Metric depth as a picture: near is red, far is blue, stretched between the crop's own 2nd and 98th percentile.

    Args:
        depth: [H, W] in mm, 0 = no reading.

    Returns:
        uint8 [H, W, 3], R, G, B; no reading is black.
    """
    valid = depth > 0
    if not valid.any():
        return np.zeros((*depth.shape, 3), np.uint8)
    near, far = np.percentile(depth[valid], (2, 98))
    closeness = np.clip((far - depth.astype(np.float32)) / max(far - near, 1.0), 0, 1)
    bgr = cv2.applyColorMap((255 * closeness + 0.5).astype(np.uint8), cv2.COLORMAP_TURBO)
    return np.where(valid[..., None], bgr[..., ::-1], 0).astype(np.uint8)


def contact_sheet(
    prepared: PreparedSet | str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    max_classes: int = 60,
) -> Path:
    """Write a PNG: a row for each class that occurs, with evenly spread samples of it, each in all its modalities.

    Args:
        prepared: the set, or its folder.
        path: the PNG file.
        max_classes: most classes shown, the first of those that occur; unlabelled samples have a row besides.

    Returns:
        ``path``.

    Raises:
        DataError: no such set, or the file cannot be written.
    """
    if not isinstance(prepared, PreparedSet):
        prepared = PreparedSet.open(prepared, verify=False)
    classes = sorted({*prepared.labels.tolist()} - {-1})[:max_classes]
    rows = [(label, np.flatnonzero(prepared.labels == label)) for label in (*classes, -1)]
    rows = [(label, members) for label, members in rows if len(members)]
    columns = min(_COLUMNS, max(len(members) for _, members in rows))
    names = [UNLABELLED if label < 0 else prepared.classes[label] for label, _ in rows]
    titles = [f"{name} ({len(members)})" for name, (_, members) in zip(names, rows, strict=True)]
    longest = max(cv2.getTextSize(title, cv2.FONT_HERSHEY_SIMPLEX, 0.4, 1)[0][0] for title in titles)
    width = columns * (_CELL * len(prepared.modalities) + _GAP) + _GAP
    height = _CELL + 18 + _GAP
    sheet = np.full((height * len(rows) + _GAP, max(width, longest + 2 * _GAP, 240), 3), _PAPER, np.uint8)
    for line, (title, (_, members)) in enumerate(zip(titles, rows, strict=True)):
        top = line * height + _GAP
        cv2.putText(sheet, title, (_GAP, top + 12), cv2.FONT_HERSHEY_SIMPLEX, 0.4, _INK, 1, cv2.LINE_AA)
        chosen = members[np.linspace(0, len(members) - 1, min(columns, len(members))).round().astype(int)]
        for column, row in enumerate(chosen):
            left = _GAP + column * (_CELL * len(prepared.modalities) + _GAP)
            strip = np.hstack([_thumbnail(prepared, name, row) for name in prepared.modalities])
            sheet[top + 18 : top + 18 + _CELL, left : left + strip.shape[1]] = strip
    path = Path(path)
    data = cv2.imencode(".png", sheet[..., ::-1])[1].tobytes()
    try:
        write_atomically(path, data)
    except OSError as error:
        raise DataError(f"cannot write the contact sheet {path}: {error.strerror}") from error
    return path


def _thumbnail(prepared: PreparedSet, name: str, row: int) -> Array:
    if not prepared.present[row, prepared.modalities.index(name)]:
        blank = np.full((_CELL, _CELL, 3), 225, np.uint8)
        return np.asarray(cv2.line(blank, (0, 0), (_CELL, _CELL), (190, 190, 190), 1))
    image = np.asarray(prepared.images[name][row])
    picture = colourise_depth(image) if image.ndim == 2 else image
    return np.asarray(cv2.resize(picture, (_CELL, _CELL), interpolation=cv2.INTER_AREA))
