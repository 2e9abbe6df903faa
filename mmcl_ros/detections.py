"""Regions of a picture: out of detector messages, into another picture, and cut to what can be seen.

A box is given by its edges: a pixel with index u covers [u, u + 1), so a whole picture of width W is [0, W).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np

__all__ = [
    "Box",
    "BoxMap",
    "Request",
    "View",
    "box_map",
    "camera_of",
    "clip",
    "cut",
    "intersection",
    "matrix_of",
    "overlap",
    "read_request",
    "source_view",
    "stamp_of",
    "whole_picture",
]


@dataclass(frozen=True)
class Box:
    """One region: the sender's id and the edges in pixels; not yet checked, so NaN is possible."""

    id: str
    left: float
    top: float
    right: float
    bottom: float


def intersection(one: Box, other: Box) -> Box:
    """What two boxes share; where that is nothing its sides are negative."""
    left, top = max(one.left, other.left), max(one.top, other.top)
    return Box(one.id, left, top, min(one.right, other.right), min(one.bottom, other.bottom))


def overlap(one: Box, other: Box) -> float:
    """Intersection over union of two boxes, 0 to 1."""
    shared, *areas = (
        max(0.0, box.right - box.left) * max(0.0, box.bottom - box.top)
        for box in (intersection(one, other), one, other)
    )
    union = sum(areas) - shared
    return shared / union if union > 0 else 0.0


@dataclass(frozen=True)
class Request:
    """The regions of one picture.

    Attributes:
        boxes: in the sender's order.
        frame_id: frame of the picture the boxes were found in; empty: not stated.
        width, height: size of that picture in pixels; 0: not stated.
        header: the message's header, to be returned with the answers; None where there was no message.
        stamp: of that header, nanoseconds.
        exact: the boxes are to be cut as they are, without the margin that models expect around an object.
    """

    boxes: tuple[Box, ...]
    frame_id: str = ""
    width: int = 0
    height: int = 0
    header: Any = None
    stamp: int = 0
    exact: bool = False


@dataclass(frozen=True)
class View:
    """Where a picture was taken: frame, size in pixels, and camera (fx, fy, cx, cy) in pixels if known.

    Attributes:
        camera: by the matrix K of pictures as they were taken.
        rectified: by P; for pictures without distortion only.
    """

    frame_id: str
    width: int
    height: int
    camera: tuple[float, float, float, float] | None = None
    rectified: tuple[float, float, float, float] | None = None

    @classmethod
    def of(cls, header: Any, width: int, height: int, info: Any) -> View:
        """That of a picture; ``info`` as of :func:`mmcl_ros.cameras.info_of_pictures`, None: not known."""
        taken = getattr(info, "as_taken", info)
        rectified = None if taken is info else camera_of(info, width, height)
        return cls(str(header.frame_id), width, height, camera_of(taken, width, height), rectified)


@dataclass(frozen=True)
class BoxMap:
    """Takes boxes of one picture to another one: edge' = scale * edge + offset, per axis."""

    scale: tuple[float, float] = (1.0, 1.0)
    offset: tuple[float, float] = (0.0, 0.0)

    def __call__(self, box: Box) -> Box:
        """The box in pixels of the other picture."""
        (sx, sy), (ox, oy) = self.scale, self.offset
        return Box(box.id, sx * box.left + ox, sy * box.top + oy, sx * box.right + ox, sy * box.bottom + oy)

    def back(self, box: tuple[int, int, int, int], size: tuple[int, int]) -> tuple[int, int, int, int]:
        """Edges in the other picture as edges in the boxes' own, to the nearest pixel.

        Args:
            box: left, top, right and bottom.
            size: (width, height) of the boxes' picture; what the other one shows beyond it is left out.
        """
        (sx, sy), (ox, oy), (width, height) = self.scale, self.offset, size
        left, right = (round(min(max(0.0, (edge - ox) / sx), width)) for edge in box[::2])
        top, bottom = (round(min(max(0.0, (edge - oy) / sy), height)) for edge in box[1::2])
        return left, top, right, bottom


def stamp_of(header: Any) -> int:
    """The stamp of a header in nanoseconds."""
    return int(header.stamp.sec) * 1_000_000_000 + int(header.stamp.nanosec)


def read_request(message: Any) -> Request:
    """The regions of a message of one of :data:`mmcl_ros.message_types.REGION_TYPES`.

    A rotated box counts as the upright one around it.
    """
    header = message.header
    common = {"frame_id": str(header.frame_id), "header": header, "stamp": stamp_of(header)}
    if hasattr(message, "detections"):
        return Request(tuple(_detection_box(one) for one in message.detections), **common)
    boxes = []
    for region in message.regions:
        roi = region.roi
        left, top = int(roi.x_offset), int(roi.y_offset)
        boxes.append(Box(str(region.id), left, top, left + int(roi.width), top + int(roi.height)))
    return Request(tuple(boxes), width=int(message.width), height=int(message.height), **common)


def _detection_box(detection: Any) -> Box:
    center = detection.bbox.center
    place = getattr(center, "position", center)  # vision_msgs before version 4 has x and y in the centre itself
    size = getattr(detection.bbox, "size", None)  # of yolo_msgs alone
    width, height = (size.x, size.y) if size is not None else (detection.bbox.size_x, detection.bbox.size_y)
    width, height, theta = float(width), float(height), float(center.theta)
    if theta and math.isfinite(theta):
        cos, sin = abs(math.cos(theta)), abs(math.sin(theta))
        width, height = width * cos + height * sin, width * sin + height * cos
    name = str(getattr(detection, "id", "") or getattr(detection, "tracking_id", ""))
    x, y = float(place.x), float(place.y)
    return Box(name, x - width / 2, y - height / 2, x + width / 2, y + height / 2)


def whole_picture(view: View, centre: float | None = None) -> Request:
    """One region: the whole picture, or the centred square whose side is the share ``centre`` of the shorter side."""
    if centre is None:
        box = Box("image", 0, 0, view.width, view.height)
    else:
        side = centre * min(view.width, view.height)
        left, top = (view.width - side) / 2, (view.height - side) / 2
        box = Box("center", left, top, left + side, top + side)
    return Request((box,), view.frame_id, view.width, view.height, exact=True)


def source_view(request: Request, seen: Sequence[View], colour: Any = None) -> View:
    """The picture that the boxes of a request were found in.

    Args:
        request: its boxes.
        seen: the last picture of each sensor, colour first; one that is missing now is remembered from earlier frames.
        colour: the ``sensor_msgs/CameraInfo`` of colour pictures where none is looked at: boxes that state the size of
            their picture may be of those all the same.
    """
    same = [view for view in seen if not request.frame_id or view.frame_id == request.frame_id]
    if request.width and request.height:
        size = (request.width, request.height)
        drawn_in = next((view for view in same if (view.width, view.height) == size), None)
        # Boxes that name no frame are of a picture that was seen, and so of its frame.
        frame = request.frame_id or next((view.frame_id for view in (drawn_in, *seen) if view), "")
        if drawn_in is None and colour is not None and colour.header.frame_id in ("", frame):
            drawn_in = View.of(colour.header, *size, colour)
        return replace(drawn_in or View(frame, *size), frame_id=frame)
    if same:
        return same[0]
    if seen:
        return replace(seen[0], frame_id=request.frame_id)
    return View(request.frame_id, 0, 0)  # no picture was seen yet


def matrix_of(info: Any, rectified: bool) -> tuple[float, float, float, float]:
    """(fx, fy, cx, cy) of a ``sensor_msgs/CameraInfo`` in pixels of the whole sensor, as they stand there.

    Args:
        info: the message, of ROS 2 or ROS 1.
        rectified: take those of pictures without distortion, the matrix P, where the message states it (as zeros say
            that it does not); otherwise, and for pictures as the sensor took them, K.
    """
    k: Sequence[float] = getattr(info, "k", getattr(info, "K", ()))
    p: Sequence[float] = getattr(info, "p", getattr(info, "P", ()))
    fx, fy, cx, cy = (p[0], p[5], p[2], p[6]) if rectified and len(p) == 12 and p[0] > 0 else (k[0], k[4], k[2], k[5])
    return float(fx), float(fy), float(cx), float(cy)


def camera_of(info: Any, width: int, height: int, rectified: bool = False) -> tuple[float, float, float, float] | None:
    """(fx, fy, cx, cy) in pixels of a picture of the given size from a ``sensor_msgs/CameraInfo``, None if unknown.

    What is ``rectified`` goes by P, see :func:`matrix_of`: depth, and pictures of image_proc.

    As the message defines it, the matrix is of the whole sensor; of that the picture shows the region ``roi``, with
    ``binning_x`` times ``binning_y`` pixels joined to one; zeros: all of it, none joined. A calibration made at another
    resolution of the same shape is scaled.
    """
    if info is None:
        return None
    fx, fy, cx, cy = matrix_of(info, rectified)
    if not (fx > 0 and fy > 0 and math.isfinite(fx + fy + cx + cy)):
        return None
    part = info.roi if info.roi.width and info.roi.height else info
    if part is info.roi:
        cx, cy = cx - part.x_offset, cy - part.y_offset
    joined = max(1, info.binning_x) / max(1, info.binning_y)
    sx, sy = (width / part.width, height / part.height) if part.width and part.height else (1.0, 1.0)
    if abs(sx / sy * joined - 1) > 0.01:
        return None
    return fx * sx, fy * sy, (cx + 0.5) * sx - 0.5, (cy + 0.5) * sy - 0.5


def box_map(source: View, target: View, assume_registered: bool = False) -> BoxMap | str:
    """How boxes of one picture map to another picture, or in words why that is not known.

    Two pictures are registered when they name the same frame, or one names none. A difference in size is bridged by
    the cameras where both are known, else by plain scaling where the pictures have the same shape. Both cameras go by
    the same kind of matrix, as K and P of one camera differ: by P where both pictures are rectified, else by K.
    """
    if source.frame_id and target.frame_id and source.frame_id != target.frame_id and not assume_registered:
        return (
            f"boxes are in frame {source.frame_id!r}, the picture is in {target.frame_id!r}: register it to "
            "that frame, or set assume_registered if it is"
        )
    if (source.width, source.height) == (target.width, target.height):
        return BoxMap()
    rectified = source.rectified and target.rectified
    one, other = (source.rectified, target.rectified) if rectified else (source.camera, target.camera)
    if one and other:
        (fx, fy, cx, cy), (gx, gy, dx, dy) = one, other
        sx, sy = gx / fx, gy / fy
        return BoxMap((sx, sy), (dx + 0.5 - sx * (cx + 0.5), dy + 0.5 - sy * (cy + 0.5)))
    sx, sy = target.width / source.width, target.height / source.height
    if abs(sx / sy - 1) <= 0.01:
        return BoxMap((sx, sy))
    return (
        f"boxes are of a {source.width} x {source.height} picture, this one is {target.width} x {target.height}: "
        "another shape, and without both camera infos it is not known how they relate"
    )


def clip(box: Box, width: int, height: int, smallest: int = 1) -> tuple[int, int, int, int] | str:
    """The part of a box inside a picture as whole pixels (left, top, right, bottom), or in words why there is none."""
    edges = (box.left, box.top, box.right, box.bottom)
    if not all(math.isfinite(edge) for edge in edges):
        return "the box is not a number"
    if box.right <= box.left or box.bottom <= box.top:
        return f"the box is empty ({box.right - box.left:g} x {box.bottom - box.top:g} pixels)"
    left, top = max(0, math.floor(box.left)), max(0, math.floor(box.top))
    right, bottom = min(width, math.ceil(box.right)), min(height, math.ceil(box.bottom))
    if right <= left or bottom <= top:
        return f"the box lies outside the {width} x {height} picture"
    if min(right - left, bottom - top) < smallest:
        return f"the box is {right - left} x {bottom - top} pixels; at least {smallest} a side are asked for"
    return left, top, right, bottom


def cut(values: np.ndarray, window: tuple[int, int, int, int]) -> np.ndarray:
    """The part of a picture in a window; beyond its edges colour [H, W, 3] repeats and depth [H, W] has no reading."""
    left, top, right, bottom = window
    height, width = values.shape[:2]
    inside = values[max(top, 0) : bottom, max(left, 0) : right]
    margins = (max(-top, 0), max(bottom - height, 0), max(-left, 0), max(right - width, 0))
    if not any(margins):
        return inside
    # np.pad takes ten times as long, which is most of what a crop costs.
    return cv2.copyMakeBorder(inside, *margins, cv2.BORDER_REPLICATE if values.ndim == 3 else cv2.BORDER_CONSTANT)
