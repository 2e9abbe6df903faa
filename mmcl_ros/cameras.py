"""Camera infos by stamp: a picture is answered with the calibration that held when it was taken."""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from typing import Any

from mmcl_ros.detections import matrix_of, stamp_of
from mmcl_ros.qos import without_transport

__all__ = ["UNKNOWN_CAMERA", "CameraTrack", "RectifiedInfo", "camera_of_crop", "info_of_pictures"]

OTHER_CLOCK_NS = 120_000_000_000
UNKNOWN_CAMERA = (0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class RectifiedInfo:
    """What a ``sensor_msgs/CameraInfo`` says of pictures without distortion; fields as there.

    Attributes:
        k: the matrix of these pictures, which is that of P.
        as_taken: the message itself, whose K is of the pictures before.
    """

    header: Any
    width: int
    height: int
    binning_x: int
    binning_y: int
    roi: Any
    k: tuple[float, ...]
    as_taken: Any


def info_of_pictures(info: Any, topic: str) -> Any:
    """The ``sensor_msgs/CameraInfo`` of the pictures of a topic; a :class:`RectifiedInfo` where K is not theirs.

    One camera info serves the pictures as taken, whose matrix is K, and those that image_proc has rectified, whose
    matrix is in P. These are on topics whose last name has the word rect or rectified (``image_rect_color``).
    """
    name = without_transport(topic).rpartition("/")[2]
    if not {"rect", "rectified"} & set(name.split("_")):
        return info
    fx, fy, cx, cy = matrix_of(info, rectified=True)
    k = (fx, 0.0, cx, 0.0, fy, cy, 0.0, 0.0, 1.0)
    return RectifiedInfo(info.header, info.width, info.height, info.binning_x, info.binning_y, info.roi, k, info)


def camera_of_crop(
    camera: tuple[float, float, float, float] | None, left: int, top: int
) -> tuple[float, float, float, float]:
    """(fx, fy, cx, cy) in pixels of a crop that begins at a pixel of its picture; zeros: that of the latter is None."""
    return (camera[0], camera[1], camera[2] - left, camera[3] - top) if camera else UNKNOWN_CAMERA


class CameraTrack:
    """The camera infos of one stream. A calibration that stays the same is kept once.

    Args:
        capacity: most changes of the calibration that are kept.
    """

    def __init__(self, capacity: int = 10_000) -> None:
        self._capacity = capacity
        self._stamps: list[int] = []
        self._infos: list[Any] = []

    def add(self, info: Any) -> None:
        """Take in a ``sensor_msgs/CameraInfo``; one that is older than others replaces them (a bag that loops)."""
        stamp = stamp_of(info.header)
        keep = bisect.bisect_right(self._stamps, stamp)
        del self._stamps[keep:], self._infos[keep:]
        if self._infos and _calibration(self._infos[-1]) == _calibration(info):
            return
        self._stamps.append(stamp)
        self._infos.append(info)
        excess = max(0, len(self._stamps) - self._capacity)
        del self._stamps[:excess], self._infos[:excess]

    def at(self, stamp: int) -> Any | None:
        """The info that held at a stamp in nanoseconds: the newest until then, failing that the first; None: none.

        Where the first is minutes later the infos are of another clock, which tells nothing: the newest of all holds.
        """
        if not self._infos:
            return None
        if stamp < self._stamps[0] - OTHER_CLOCK_NS:
            return self._infos[-1]
        return self._infos[max(bisect.bisect_right(self._stamps, stamp) - 1, 0)]


def _calibration(info: Any) -> tuple:
    taken = getattr(info, "as_taken", info)
    matrices = (*matrix_of(taken, rectified=False), *matrix_of(taken, rectified=True))
    roi = (info.roi.x_offset, info.roi.y_offset, info.roi.width, info.roi.height)
    # As text, in which a NaN is equal to itself.
    return (info.width, info.height, info.binning_x, info.binning_y, *roi, *map(str, matrices))
