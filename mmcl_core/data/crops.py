"""From a rectangle in a picture to the square crop of a prepared set; the camera follows.

The rule: the rectangle, grown by a margin and cut at the border of the picture, becomes square by replicating its own
edge on both sides (as the crops of NYU-D are used in Hoffman et al., CVPR 2016), and is resized. With ``context`` the
square is filled with what the picture shows there; beyond the border of the picture colour repeats its edge and metric
depth has no reading, as where the recognizer node cuts.

Colour is resized by area where it shrinks and bicubically where it grows. Metric depth takes the nearest reading, so
that readings never mix with missing ones or across an edge.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from mmcl_core.crops import resized, square_around
from mmcl_core.errors import ConfigError

__all__ = ["Camera", "CropRule", "Region", "parse_box", "parse_camera", "part_inside"]

Array = npt.NDArray[Any]
Camera = tuple[float, float, float, float]


def parse_camera(text: str | None) -> Camera | None:
    """FX,FY,CX,CY of ``--camera``, in pixels; ``None`` stays ``None``.

    Raises:
        ConfigError: not four finite numbers, or a focal length that is not positive.
    """
    if text is None:
        return None
    try:
        fx, fy, cx, cy = map(float, text.split(","))
    except ValueError:
        fx = fy = cx = cy = math.nan
    if not (math.isfinite(fx + fy + cx + cy) and fx > 0 and fy > 0):
        raise ConfigError(f"--camera {text!r}: four numbers FX,FY,CX,CY are expected, FX and FY above 0")
    return fx, fy, cx, cy


def parse_box(text: str | None) -> tuple[float, float, float, float] | None:
    """X,Y,WIDTH,HEIGHT of ``--box``, in pixels, as x0, y0, x1, y1; ``None`` stays ``None``.

    Raises:
        ConfigError: not four finite numbers, or a side that is not positive.
    """
    if text is None:
        return None
    try:
        x, y, width, height = map(float, text.split(","))
        if width > 0 and height > 0 and math.isfinite(x + y + width + height):
            return x, y, x + width, y + height
    except ValueError:
        pass
    raise ConfigError(f"--box {text!r}: X,Y,WIDTH,HEIGHT in pixels are expected, such as 310,120,90,140")


def part_inside(box: Sequence[float], *, height: int, width: int) -> tuple[float, float, float, float]:
    """What a picture of this size shows of a box (x0, y0, x1, y1); without an area where that is nothing."""
    x0, y0, x1, y1 = box
    return max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height))


@dataclass(frozen=True)
class Region:
    """A square of pixels: ``inside`` is read from the picture, the rest of the square replicates its edge.

    Attributes:
        left, top: corner of the square in the picture, may be negative.
        side: of the square, in pixels.
        inside: left, top, right, bottom of the part that is read (right and bottom exclusive).
    """

    left: int
    top: int
    side: int
    inside: tuple[int, int, int, int]


@dataclass(frozen=True)
class CropRule:
    """How crops are cut.

    Attributes:
        size: side of the finished crop in pixels.
        margin: what the rectangle grows by on every side, as a share of its longer side.
        min_side: rectangles whose longer side (before the margin) is shorter are too small to be used.
        context: fill the square with the neighbourhood of the rectangle instead of replicated edges.
    """

    size: int = 128
    margin: float = 0.0
    min_side: int = 1
    context: bool = False

    def describe(self) -> dict[str, Any]:
        """The rule as plain values, for the description of a set."""
        return {"rule": "rectangle to square by edge replication", **dataclasses.asdict(self)}

    def region(self, box: Sequence[float] | None, *, height: int, width: int) -> Region | None:
        """The square of a rectangle.

        Args:
            box: x0, y0, x1, y1 in pixels, (0, 0) the outer corner of the first pixel and x1, y1 exclusive; ``None``:
                the whole picture.
            height, width: of the picture.

        Returns:
            The square, ``None`` where the rectangle is too small or outside the picture.
        """
        x0, y0, x1, y1 = (0.0, 0.0, float(width), float(height)) if box is None else map(float, box)
        longer = max(x1 - x0, y1 - y0)
        if min(x1 - x0, y1 - y0) <= 0 or longer < self.min_side:
            return None
        if self.context:  # what a robot sees: of the whole pixels that hold the rectangle
            pixels = math.floor(x0), math.floor(y0), math.ceil(x1), math.ceil(y1)
            left, top, right, bottom = square_around(pixels, 1 + 2 * self.margin)
        else:
            grow = self.margin * longer
            # Rounding to the nearest pixel edge, halves up, keeps whole rectangles as they are.
            edges = (x0 - grow, y0 - grow, x1 + grow, y1 + grow)
            left, top, right, bottom = (math.floor(value + 0.5) for value in edges)
        inside = (max(left, 0), max(top, 0), min(right, width), min(bottom, height))
        across, down = inside[2] - inside[0], inside[3] - inside[1]
        if across < 1 or down < 1:
            return None
        if self.context:
            return Region(left, top, right - left, inside)
        side = max(across, down)
        return Region(inside[0] - (side - across) // 2, inside[1] - (side - down) // 2, side, inside)

    def cut(self, image: Array, region: Region) -> Array:
        """The crop of a picture.

        Args:
            image: uint8 [H, W, 3] (colour or a stored depth picture), or [H, W] of metric depth or a mask.
            region: of :meth:`region`.

        Returns:
            [size, size, 3] or [size, size] of the same type.
        """
        x0, y0, x1, y1 = region.inside
        crop = image[y0:y1, x0:x1]
        left, top = x0 - region.left, y0 - region.top
        right, bottom = region.side - left - (x1 - x0), region.side - top - (y1 - y0)
        if left or top or right or bottom:
            unseen = self.context and image.ndim == 2
            how = cv2.BORDER_CONSTANT if unseen else cv2.BORDER_REPLICATE
            crop = cv2.copyMakeBorder(crop, top, bottom, left, right, how)
        return np.ascontiguousarray(resized(crop, self.size))

    def move(self, camera: Camera | None, region: Region) -> Camera | None:
        """The camera of the crop of a picture with ``camera`` (fx, fy, cx, cy; pixel centres at integers)."""
        if camera is None:
            return None
        fx, fy, cx, cy = camera
        scale = self.size / region.side
        # What scaling leaves in place is the outer corner of the first pixel, at (-0.5, -0.5).
        return (
            fx * scale,
            fy * scale,
            (cx - region.left + 0.5) * scale - 0.5,
            (cy - region.top + 0.5) * scale - 0.5,
        )

    def __call__(
        self, images: Mapping[str, Array], camera: Camera | None = None, box: Sequence[float] | None = None
    ) -> tuple[dict[str, Array], Camera | None] | None:
        """Cut the same rectangle out of aligned pictures of one size.

        Args:
            images: by modality, as for :meth:`cut`.
            camera: of the pictures.
            box: as for :meth:`region`.

        Returns:
            The crops and their camera, or ``None`` where the rectangle is too small or outside.
        """
        height, width = next(iter(images.values())).shape[:2]
        region = self.region(box, height=height, width=width)
        if region is None:
            return None
        return {name: self.cut(image, region) for name, image in images.items()}, self.move(camera, region)
