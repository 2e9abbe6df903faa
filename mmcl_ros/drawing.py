"""Pictures for people to look at: colour or depth with what was recognised drawn on it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from mmcl_ros.detections import Box, BoxMap
from mmcl_ros.images import DEPTH_ENCODINGS, RGB_ENCODINGS, decode_depth, decode_rgb, stated_encoding

__all__ = ["GREEN", "GREY", "RED", "Mark", "draw", "sheet", "to_colour"]

GREEN, RED, GREY = (60, 220, 60), (240, 80, 70), (150, 150, 150)
FARTHEST_M = 4.0  # depth beyond has the colour of this distance
DARK = (20, 20, 20)  # around boxes, so that they are seen on any ground
PANEL = 480  # width of a picture on a sheet, pixels
GAP = 6  # white between the pictures of a sheet, pixels


@dataclass(frozen=True)
class Mark:
    """A box to draw: (x, y, width, height) in pixels of the boxes' picture, a line of words, colour as (R, G, B)."""

    roi: tuple[int, int, int, int]
    words: str
    colour: tuple[int, int, int]


def draw(
    picture: np.ndarray, marks: Iterable[Mark], size: tuple[int, int] = (0, 0), mapped: BoxMap | None = None
) -> np.ndarray:
    """A copy of a picture with boxes and words; words stand over their box, or where nearby no others do.

    Args:
        picture: uint8 [H, W, 3], RGB.
        marks: what to draw.
        size: (width, height) of the picture the boxes are in pixels of, where it is another one; zeros: this one.
        mapped: how boxes map to this picture, where that is known; None: by the size alone.
    """
    drawn = picture.copy()
    height, width = drawn.shape[:2]
    to_here = mapped or BoxMap((width / size[0], height / size[1]) if all(size) else (1.0, 1.0))
    scale = max(0.4, height / 1000)
    boxes = []
    for mark in marks:
        x, y, across, down = mark.roi
        box = to_here(Box("", x, y, x + across, y + down))
        # Edges far outside, as a message may have them, are more than OpenCV can count.
        left, right = (round(min(max(edge, -2), width + 2)) for edge in (box.left, box.right))
        top, bottom = (round(min(max(edge, -2), height + 2)) for edge in (box.top, box.bottom))
        boxes.append((mark, (left, top), (right, bottom)))
    for _, start, end in boxes:
        cv2.rectangle(drawn, start, end, DARK, 4)
    for mark, start, end in boxes:
        cv2.rectangle(drawn, start, end, mark.colour, 2)
    taken: list[tuple[int, int, int, int]] = []
    for mark, start, end in boxes:  # words are not crossed by the boxes of neighbours
        if not mark.words:
            continue
        (wide, high), _ = cv2.getTextSize(mark.words, cv2.FONT_HERSHEY_SIMPLEX, scale, 1)
        left, upper = _free_place((start, end), (wide, high + 5), taken, (width, height))
        taken.append((left, upper, left + wide, upper + high + 5))
        cv2.rectangle(drawn, (left, upper), (left + wide, upper + high + 5), mark.colour, cv2.FILLED)
        place = (left, upper + high + 2)
        cv2.putText(drawn, mark.words, place, cv2.FONT_HERSHEY_SIMPLEX, scale, (0, 0, 0), 1, cv2.LINE_AA)
    return drawn


def _free_place(
    box: tuple[tuple[int, int], tuple[int, int]],
    size: tuple[int, int],
    taken: Sequence[tuple[int, int, int, int]],
    picture: tuple[int, int],
) -> tuple[int, int]:
    """Left and upper edge for words of a (width, height) at a box: over it, in its lower edge, or lines further off.

    A box that is outside the picture keeps its words there.
    """
    ((left, top), (_, bottom)), (wide, high), (width, height) = box, size, picture
    left = max(0, min(left, width - wide)) if left < width else left
    over = max(top - high, 0)
    lines = [over, bottom - high, *(over + way * step * (high + 1) for step in range(1, 9) for way in (1, -1))]
    for upper in lines:
        inside = 0 <= upper <= height - high
        across = (one for one in taken if one[0] <= left + wide and left <= one[2])
        if inside and not any(one[1] <= upper + high and upper <= one[3] for one in across):
            return left, upper
    return left, over


def to_colour(message: Any, sensor: str = "rgb") -> np.ndarray:
    """A picture message fit to look at, uint8 [H, W, 3]: colour as it is, depth from near (red) to 4 m (blue).

    Raises:
        InputError: the message cannot be decoded.
    """
    encoding = stated_encoding(message)
    if (
        sensor == "rgb"
        and (encoding in RGB_ENCODINGS or encoding not in DEPTH_ENCODINGS)
        and "compressedDepth" not in encoding
    ):
        return decode_rgb(message)
    depth = decode_depth(message)
    metres = depth / 1000 if depth.dtype == np.uint16 else depth
    shades = (255 - np.clip(metres / FARTHEST_M, 0, 1) * 255).astype(np.uint8)
    return np.asarray(cv2.applyColorMap(shades, cv2.COLORMAP_TURBO)[..., ::-1] * (depth > 0)[..., None])


def sheet(rows: Sequence[Sequence[np.ndarray | None]], titles: Sequence[str], legend: str = "") -> np.ndarray:
    """Pictures side by side, one title a column, uint8 [H, W, 3]; None leaves a place empty; a legend stands on top."""
    lines = [_title(legend, len(titles))] if legend else []
    lines.append(np.hstack([_title(title) for title in titles]))
    for row in rows:
        panels = [None if one is None else _panel(one) for one in row]
        tallest = max((len(panel) for panel in panels if panel is not None), default=GAP)
        line = np.full((tallest + GAP, (PANEL + GAP) * len(row), 3), 255, np.uint8)
        for column, panel in enumerate(panels):
            if panel is not None:
                left = column * (PANEL + GAP)
                line[: len(panel), left : left + PANEL] = panel
        lines.append(line)
    return np.vstack(lines)


def _panel(picture: np.ndarray) -> np.ndarray:
    height = max(1, round(len(picture) * PANEL / picture.shape[1]))
    shrinks = picture.shape[1] > PANEL
    return cv2.resize(picture, (PANEL, height), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def _title(words: str, panels: int = 1) -> np.ndarray:
    line = np.full((28, (PANEL + GAP) * panels, 3), 255, np.uint8)
    (wide, _), _ = cv2.getTextSize(words, cv2.FONT_HERSHEY_SIMPLEX, 0.55, 1)
    scale = 0.55 * min(1.0, (line.shape[1] - 4) / max(1, wide))
    return cv2.putText(line, words, (2, 19), cv2.FONT_HERSHEY_SIMPLEX, scale, (30, 30, 30), 1, cv2.LINE_AA)
