"""What the readers of whole frames share: boxes from label pictures, masks, options of the crop rule."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from mmcl_core.data.crops import Camera, CropRule
from mmcl_core.errors import ConfigError, DataError

__all__ = [
    "add_crop_arguments",
    "camera_fits",
    "crop_rule",
    "mask_out",
    "same_size",
    "visible_box",
]

Array = npt.NDArray[Any]


def add_crop_arguments(
    parser: argparse.ArgumentParser, *, margin: float = 0.0, min_side: int = 1, context: bool = False
) -> None:
    """Add ``--margin``, ``--min-side`` and ``--context``, see :class:`~mmcl_core.data.crops.CropRule`.

    Args:
        parser: to add to.
        margin, min_side: their defaults.
        context: fill with the surroundings always, and do not ask.
    """
    parser.add_argument(
        "--margin", type=float, default=margin, metavar="SHARE",
        help=f"boxes grow by this share of their longer side on every side (default: {margin})",
    )  # fmt: skip
    parser.add_argument(
        "--min-side", type=int, default=min_side, metavar="PX",
        help=f"boxes whose longer side is shorter are left out (default: {min_side})",
    )  # fmt: skip
    if context:
        parser.set_defaults(context=True)
        return
    parser.add_argument(
        "--context", action="store_true", help="fill squares with the surroundings instead of replicated edges"
    )


def crop_rule(options: argparse.Namespace) -> CropRule:
    """The rule that ``--size`` and the options of :func:`add_crop_arguments` ask for.

    Raises:
        ConfigError: a value out of range.
    """
    if not 0 <= options.margin <= 2:
        raise ConfigError(f"--margin is {options.margin}; a share from 0 to 2 is expected")
    if options.min_side < 1:
        raise ConfigError(f"--min-side is {options.min_side}; 1 pixel or more is expected")
    return CropRule(options.size, options.margin, options.min_side, options.context)


def visible_box(mask: Array) -> tuple[int, int, int, int] | None:
    """Smallest rectangle around the set pixels: x0, y0, x1, y1, the latter exclusive; None where none is set.

    Args:
        mask: bool [H, W].
    """
    rows = np.flatnonzero(mask.any(axis=1))
    if not len(rows):
        return None
    columns = np.flatnonzero(mask[rows[0] : rows[-1] + 1].any(axis=0))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def mask_out(images: Mapping[str, Array], mask: Array) -> dict[str, Array]:
    """The pictures with 0 (black, no reading) outside of a mask, bool [H, W]."""
    return {name: cv2.copyTo(image, mask.astype(np.uint8)) for name, image in images.items()}


def same_size(image: Array, rgb: Array) -> None:
    """Check that a picture has the pixels of the colour picture.

    Raises:
        DataError: another size; the message does not name the file.
    """
    if image.shape[:2] != rgb.shape[:2]:
        raise DataError(f"is {image.shape[1]} x {image.shape[0]}, the colour picture {rgb.shape[1]} x {rgb.shape[0]}")


def camera_fits(camera: Camera | None, rgb: Array) -> None:
    """Check that a camera looks through the middle half of a picture: one of a resized picture does not.

    Raises:
        DataError: it does not; the message does not name the file.
    """
    height, width = rgb.shape[:2]
    if camera is not None and max(abs(camera[2] / width - 0.5), abs(camera[3] / height - 0.5)) > 0.25:
        raise DataError(
            f"is {width} x {height}, and its camera has its centre at ({camera[2]:g}, {camera[3]:g}): was it resized?"
        )
