"""Crops as a robot has them, checked and brought to the size of a network; numpy and OpenCV only.

A crop is made square by replicating its border (the rule of the prepared sets), its side is resized to 146/128 of the
network's, and the middle is taken: the test transform of training and evaluation. Colour is resized bicubically with
antialiasing; depth takes the nearest reading, so that readings never mix with missing ones.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mmcl_core.errors import InputError
from mmcl_core.words import counted

__all__ = [
    "CROP_SIZE",
    "FARTHEST_MM",
    "LEAST_PLAUSIBLE_MM",
    "UNKNOWN",
    "UNLABELLED",
    "all_resized",
    "check_cameras",
    "check_depth",
    "check_rgb",
    "fit",
    "mirrored",
    "resized",
    "resized_side",
    "square_around",
    "uses_camera",
]

#: The label of a crop that was not recognised, and the name of a class of crops that are none of the other classes.
UNKNOWN = "unknown"
#: The name of a folder or category of crops without a label.
UNLABELLED = "unlabelled"
#: Side of the crops of a prepared set unless another is asked for.
CROP_SIZE = 128
#: Encodings of depth (:mod:`mmcl_core.depth`) that differ with the camera even without metric size.
_CAMERA_ENCODINGS = ("normals", "hha")
#: Crops of float depth with less than a twentieth of readings within so many metres are taken for millimetres.
_FARTHEST_M = 100.0
#: What 16 bits hold, as prepared sets have depth: float readings beyond so many millimetres count as none, as there.
FARTHEST_MM = 65535
#: Crops of integer depth whose largest reading is below this many millimetres are taken for metres, and refused.
LEAST_PLAUSIBLE_MM = 30
#: Multiplications of a matrix product up to which OpenBLAS, the BLAS of numpy's packages, leaves it to one thread.
_ONE_THREAD = 1 << 18

Array = NDArray[Any]


def square_around(box: tuple[int, int, int, int], scale: float) -> tuple[int, int, int, int]:
    """The square window around a box (left, top, right, bottom) whose side is ``scale`` times its longer side."""
    left, top, right, bottom = box
    side = max(1, round(scale * max(right - left, bottom - top)))
    x, y = math.floor((left + right - side) / 2 + 0.5), math.floor((top + bottom - side) / 2 + 0.5)
    return x, y, x + side, y + side


def uses_camera(inputs: Mapping[str, Any]) -> bool:
    """Whether answers from depth differ with the camera; ``inputs`` is the entry ``input`` of a model's metadata."""
    return bool(inputs["metric_size"]) or inputs["depth_encoding"] in _CAMERA_ENCODINGS


def check_rgb(crop: Any, name: str) -> Array:
    """Check a colour crop.

    Args:
        crop: uint8 [H, W, 3] in the order R, G, B.
        name: of the crop, for error messages.

    Raises:
        InputError: any other type or shape, or no pixels; says how to convert.
    """
    array = _array(crop, name)
    if array.ndim == 2:
        raise InputError(f"{name} is a single channel {array.shape}; grey goes in as np.stack([grey] * 3, -1)")
    if array.ndim != 3 or array.shape[2] != 3:
        fix = "colour crops are [H, W, 3] in the order R, G, B"
        if array.ndim == 4:
            fix = "give a list of single crops [H, W, 3]"
        elif array.ndim == 3 and array.shape[0] == 3:
            fix = "move the channels to the end: crop.transpose(1, 2, 0)"
        elif array.ndim == 3 and array.shape[2] == 4:
            fix = "drop the fourth channel: crop[..., :3]"
        raise InputError(f"{name} has shape {array.shape}; {fix}")
    if array.dtype != np.uint8:
        fix = "convert it to uint8 with values 0..255"
        if np.issubdtype(array.dtype, np.floating):
            fix = "scale it to 0..255 and convert: (crop * 255).astype(np.uint8) for values in 0..1"
        raise InputError(f"{name} is {array.dtype}; colour crops are uint8; {fix}")
    return array


def check_depth(crop: Any, name: str) -> Array:
    """Check a metric depth crop and convert it to millimetres.

    Args:
        crop: [H, W], uint16 in millimetres (0 = no reading) or floating point in metres (NaN, infinite, zero, negative
            or beyond 65.535 = no reading, as in prepared sets).
        name: of the crop, for error messages.

    Returns:
        float32 [H, W], millimetres, 0 = no reading.

    Raises:
        InputError: any other type or shape, no pixels, or values that betray another unit; says how to convert.
    """
    array = _array(crop, name)
    if array.ndim != 2:
        fix = "give it as crop[..., 0]" if array.ndim == 3 and array.shape[2] == 1 else "depth crops are [H, W]"
        raise InputError(f"{name} has shape {array.shape}; {fix}")
    if array.dtype.newbyteorder("=") == np.uint16:
        largest = int(array.max())
        if 0 < largest < LEAST_PLAUSIBLE_MM:
            raise InputError(
                f"{name} is uint16, that is millimetres, but its largest reading is {largest}; "
                "metres go in as float32: crop.astype(np.float32)"
            )
        return array.astype(np.float32)
    if not np.issubdtype(array.dtype, np.floating):
        fix = "an 8-bit picture of depth has lost its unit; give the sensor's own values"
        if array.dtype != np.uint8:
            fix = "convert with crop.astype(np.uint16) if the values are millimetres"
        raise InputError(f"{name} is {array.dtype}; depth crops are uint16 in mm or float32 in m; {fix}")
    with np.errstate(over="ignore"):
        metres = array.astype(np.float32)
    # What is too much for millimetres, too, such as the largest float, is how some say that they see nothing.
    valid = (metres > 0) & (metres <= FARTHEST_MM)
    if valid.any() and (near := float(np.percentile(metres[valid], 5))) > _FARTHEST_M:  # the rest may be the sky
        raise InputError(
            f"{name} is {array.dtype}, that is metres, but nearly all of it is beyond {near:.0f}: probably "
            "millimetres; give them as uint16, or divide by 1000"
        )
    return np.where(valid & (metres <= FARTHEST_MM / 1000), metres, np.float32(0)) * 1000


def check_cameras(camera: Any, count: int) -> NDArray[np.float32]:
    """Intrinsics of ``count`` crops as one array.

    Args:
        camera: ``None``, or one (fx, fy, cx, cy) in pixels of each crop's own grid; ``None`` or zeros: unknown.
        count: number of crops.

    Returns:
        float32 [count, 4]; zeros for unknown ones.

    Raises:
        InputError: another number of cameras, or values that are no camera.
    """
    if camera is None:
        return np.zeros((count, 4), np.float32)
    if not isinstance(camera, Iterable):
        raise InputError(f"camera is {camera!r}; give a list with one (fx, fy, cx, cy) a crop, or None")
    camera = list(camera)
    if len(camera) != count:
        numbers = f"{counted(len(camera), 'camera')} for {counted(count, 'crop')}"
        raise InputError(f"{numbers}; give one (fx, fy, cx, cy) a crop, or None")
    rows = np.zeros((count, 4), np.float32)
    for index, one in enumerate(camera):
        if one is None:
            continue
        try:
            values = np.asarray(one, np.float64)
        except (TypeError, ValueError):  # text, or lists of different lengths
            values = np.empty(0)
        if values.shape != (4,) or not np.isfinite(values).all():
            found = " ".join(repr(one).split())
            raise InputError(f"camera[{index}] is {found}; four finite numbers (fx, fy, cx, cy) expected, or None")
        if values.any() and min(values[:2]) <= 0:
            raise InputError(f"camera[{index}] has focal lengths {values[0]:g}, {values[1]:g}; both must be positive")
        rows[index] = values
    return rows


def resized_side(size: int) -> int:
    """Side that a crop is resized to before the middle ``size`` pixels are taken (paper: 146 for 128)."""
    return round(size * 146 / 128)


def resized(picture: Array, side: int) -> Array:
    """A square picture with another side, as the crops of prepared sets are made.

    Depth takes the nearest reading; colours are averaged where the picture shrinks, and bicubic where it grows.

    Args:
        picture: uint8 [S, S, 3], or depth or a mask [S, S].
        side: pixels.
    """
    if len(picture) == side:
        return picture
    smooth = cv2.INTER_AREA if len(picture) > side else cv2.INTER_CUBIC
    how = cv2.INTER_NEAREST_EXACT if picture.ndim == 2 else smooth
    return cv2.resize(picture, (side, side), interpolation=how)


def all_resized(pictures: Array, cameras: NDArray[np.float32], side: int) -> tuple[Array, NDArray[np.float32]]:
    """Square pictures uint8 [N, S, S, 3] or depth [N, S, S] with another side, and their cameras [N, 4]; see above."""
    scale, known = side / pictures.shape[1], cameras[:, 0] > 0
    moved = cameras.astype(np.float32)
    moved[known, :2] *= scale
    moved[known, 2:] = (moved[known, 2:] + 0.5) * scale - 0.5
    if pictures.ndim == 3:
        pictures = pictures.astype(np.float32)
    return np.stack([resized(picture, side) for picture in pictures]), moved


def fit(
    crop: Array, size: int, camera: Sequence[float] | None = None, crop_size: int = 0
) -> tuple[Array, NDArray[np.float32]]:
    """The network's picture of a crop.

    Args:
        crop: uint8 [H, W, 3] or float32 [H, W] with 0 = no reading.
        size: side of the network's input.
        camera: intrinsics (fx, fy, cx, cy) of the crop; ``None`` or zeros: unknown.
        crop_size: side of the crops of the training set, which the crop is brought to first, as those were: otherwise
            a large crop would show details, and a small one a coarseness, that training never saw. 0, not known: those
            larger than :data:`CROP_SIZE` are brought to that.

    Returns:
        The picture, [size, size, 3] or [size, size] of the same type, and its camera, float32 [4].
    """
    height, width = crop.shape[:2]
    side, target = max(height, width), resized_side(size)
    top, left = (side - height) // 2, (side - width) // 2
    if height != width:
        around = (top, side - height - top, left, side - width - left)
        crop = cv2.copyMakeBorder(crop, *around, cv2.BORDER_REPLICATE)
    margin = round((target - size) / 2)
    crop = resized(crop, crop_size or min(side, CROP_SIZE))
    picture = _nearest(crop, target, size) if crop.ndim == 2 else _bicubic(crop, target, size)
    moved = np.zeros(4, np.float32)
    if camera is not None and np.any(camera):
        fx, fy, cx, cy = camera
        scale = target / side
        # Pixel centres are at integers: the edge of the picture, at -0.5, is what scaling leaves in place.
        moved[:] = (
            fx * scale,
            fy * scale,
            (cx + left + 0.5) * scale - 0.5 - margin,
            (cy + top + 0.5) * scale - 0.5 - margin,
        )
    return picture, moved


def mirrored(pictures: Array, cameras: NDArray[np.float32]) -> tuple[Array, NDArray[np.float32]]:
    """Pictures [N, S, S] or [N, S, S, 3] with left and right exchanged, and their cameras [N, 4]."""
    turned = cameras.copy()
    known = cameras[:, 0] > 0
    turned[known, 2] = pictures.shape[2] - 1 - cameras[known, 2]
    return np.ascontiguousarray(pictures[:, :, ::-1]), turned


def _nearest(plane: Array, target: int, size: int) -> Array:
    """The pixel that the middle of each of the inner ``size`` of ``target`` output pixels lies in."""
    steps = np.arange(size) + round((target - size) / 2)
    index = (2 * steps + 1) * len(plane) // (2 * target)
    return plane[index[:, None], index]


def _bicubic(image: Array, target: int, size: int) -> NDArray[np.uint8]:
    """The inner ``size`` pixels of a square picture that is resized to ``target``."""
    side = len(image)
    tall = _weighted(image.reshape(side, -1).astype(np.float32), target, size).reshape(size, side, 3)
    wide = _weighted(np.ascontiguousarray(tall.transpose(1, 0, 2)).reshape(side, -1), target, size)
    np.clip(np.rint(wide, out=wide), 0, 255, out=wide)
    return wide.astype(np.uint8).reshape(size, size, 3).transpose(1, 0, 2)


def _weighted(rows: NDArray[np.float32], target: int, size: int) -> NDArray[np.float32]:
    """Rows [side, M] resized along the first axis, [size, M], by products that numpy's BLAS starts no threads for.

    The threads of OpenBLAS wait for one another, and go on after a product, by spinning on cores that others need.
    """
    resized_rows = np.empty((size, rows.shape[1]), np.float32)
    for first, source, weights in _bands(len(rows), target, size):
        np.matmul(weights, rows[source], out=resized_rows[first : first + len(weights)])
    return resized_rows


@functools.lru_cache(maxsize=256)
def _bands(side: int, target: int, size: int) -> list[tuple[int, slice, NDArray[np.float32]]]:
    """:func:`_weights` without most of its zeros: first output pixel, pixels of the source and weights of each part."""
    weights, count = _weights(side, target, size), size
    while True:
        parts = []
        for first in range(0, size, count):
            band = weights[first : first + count]
            used = np.flatnonzero(band.any(axis=0))
            source = slice(int(used[0]), int(used[-1]) + 1)
            parts.append((first, source, np.ascontiguousarray(band[:, source])))
        largest = max(band.size for *_, band in parts) * max(side, size) * 3
        if largest <= _ONE_THREAD or count <= 2:  # products with a single row are of another kind and limit
            return parts
        count = (count + 1) // 2


def _weights(side: int, target: int, size: int) -> NDArray[np.float32]:
    """Antialiased bicubic weights (Keys, a = -0.5), as in :mod:`mmcl_core.resample`: [size, side], rows sum to 1."""
    scale = side / target
    centres = (np.arange(size) + round((target - size) / 2) + 0.5) * scale
    t = np.minimum(np.abs(np.arange(side) + 0.5 - centres[:, None]) / max(scale, 1.0), 2.0)
    values = np.where(t < 1, (1.5 * t - 2.5) * t * t + 1, ((-0.5 * t + 2.5) * t - 4) * t + 2)
    return (values / values.sum(axis=1, keepdims=True)).astype(np.float32)


def _array(crop: Any, name: str) -> Array:
    if not isinstance(crop, np.ndarray):
        raise InputError(f"{name} is a {type(crop).__name__}; a numpy array is expected")
    if not crop.size:
        raise InputError(f"{name} is empty (shape {crop.shape}); leave boxes without pixels out, or give None")
    return np.ma.filled(crop, 0)  # what a mask hides is no reading
