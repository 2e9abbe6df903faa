"""HHA: a metric depth frame as horizontal disparity, height above ground and angle to gravity.

Source: S. Gupta, R. Girshick, P. Arbelaez, J. Malik, "Learning Rich Features from RGB-D Images for Object Detection and
Segmentation", ECCV 2014 (the encoding), and S. Gupta, P. Arbelaez, J. Malik, "Perceptual Organization and Recognition
of Indoor Scenes from RGB-D Images", CVPR 2013 (the estimate of gravity). Written from the papers and checked against a
picture that the authors' MATLAB program made.

=======  ==========================================================  ==========================
channel  value                                                       at missing readings
=======  ==========================================================  ==========================
0        disparity ``31000 / max(z, 100)``, z in cm                  0 unless the depth is filled
1        height above the lowest point of the frame, cm              0 unless the depth is filled
2        angle between surface normal and gravity, degrees, + 38     from the neighbours; 180 + 38 without any
=======  ==========================================================  ==========================

All rounded and clipped to 0..255; a floor has angle 38, a wall 128, a ceiling 218. Axes are those of the camera: x to
the right, y down, z away from it. This is the program for whole frames in NumPy, for preparing data sets;
:func:`mmcl_core.depth.hha` encodes batches of crops on the device of a network. A crop shows no ground, so that heights
there are from its lowest reading, and its own estimate of gravity keeps less of the direction before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from mmcl_core.errors import InputError

__all__ = ["gravity", "hha", "normals"]

Array = NDArray[Any]

#: Half sides of the windows that planes are fitted in: small for the angle, large for gravity.
FINE_RADIUS, COARSE_RADIUS = 3, 10
#: A frame whose lowest point is less than this far below the camera (cm) shows no ground;
NO_GROUND_CM = 90.0
#: the ground is then taken to be this far below the camera (cm).
DEFAULT_GROUND_CM = 130.0
UNDEFINED_ANGLE = 180.0
#: Gravity is estimated from every so many rows and columns; neighbours share most of their window.
GRAVITY_STRIDE = 2
#: Weight of the direction before, as a share of the normals: decides only what they leave open.
STEADY = 0.01
BAND_ROWS = 24


def hha(depth_mm: Array, intrinsics: Sequence[float], missing: Array | None = None) -> NDArray[np.uint8]:
    """Encode a frame.

    Args:
        depth_mm: [H, W], millimetres along the optical axis; 0 or not finite = nothing known. Holes may have been
            filled before: filled values give disparity and height, but ``missing`` keeps them out of the normals.
        intrinsics: fx, fy, cx, cy in pixels, pixel centres at integer coordinates.
        missing: bool [H, W], where the sensor had no reading; None: where ``depth_mm`` has none.

    Returns:
        uint8 [H, W, 3] in the order disparity, height, angle.

    Raises:
        InputError: wrong shapes, or intrinsics that are no camera.
    """
    depth_mm = np.asarray(depth_mm)
    _check(depth_mm, intrinsics, missing)
    known = np.isfinite(depth_mm) & (depth_mm > 0)
    z = np.where(known, depth_mm, 0).astype(np.float32) / np.float32(10)
    used = known if missing is None else known & ~np.asarray(missing, bool)
    down = gravity(*normals(z, intrinsics, used, COARSE_RADIUS, GRAVITY_STRIDE))
    fine, defined = normals(z, intrinsics, used, FINE_RADIUS)
    cosine = np.clip(fine @ down.astype(np.float32), -1, 1)
    picture = np.empty((*z.shape, 3), np.float32)
    picture[..., 0] = np.where(known, 31000 / np.maximum(z, 100), 0)
    picture[..., 1] = _height(z, known, intrinsics, down)
    picture[..., 2] = np.where(defined, np.degrees(np.arccos(cosine)), UNDEFINED_ANGLE) + 38
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def normals(
    z: Array, intrinsics: Sequence[float], used: Array, radius: int, stride: int = 1
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Normals of planes fitted around every pixel.

    A plane ``n . P = 1`` through points ``P = z (x, y, 1)`` is ``1/z = n . (x, y, 1)`` in normalised image coordinates
    x, y: a linear regression of inverse depth in the image, whose sums over windows are box filters.

    Args:
        z: [H, W], along the optical axis, any unit.
        intrinsics: fx, fy, cx, cy in pixels.
        used: bool [H, W], the readings to fit.
        radius: half side of the (2 radius + 1)^2 windows; they end at the border of the frame.
        stride: only every so many rows and columns are answered.

    Returns:
        Unit normals [h, w, 3] that point away from the camera (n . P > 0), whether or not the pixel itself has a
        reading, and bool [h, w], where the window holds three readings or more that are not on one line.
    """
    height, width = z.shape
    found = np.empty((len(range(0, height, stride)), len(range(0, width, stride)), 3), np.float32)
    defined = np.empty(found.shape[:2], bool)
    x, y = _rays(z.shape, intrinsics)
    # Bands of rows keep the many intermediate planes in the cache.
    for top in range(0, height, BAND_ROWS):
        first, last = max(top - radius, 0), min(top + BAND_ROWS + radius, height)
        inner = slice(top - first, min(top + BAND_ROWS, height) - first, stride)
        rows = slice(top // stride, top // stride + len(range(height)[top : top + BAND_ROWS : stride]))
        found[rows], defined[rows] = _fit(z[first:last], x, y[first:last], used[first:last], radius, inner)
    return found, defined


def _fit(z: Array, x: Array, y: Array, used: Array, radius: int, rows: slice) -> tuple[Array, Array]:
    """:func:`normals` of some rows of a band; x [1, W] and y [h, 1] in units of normalised image coordinates."""
    one = used.astype(np.float64)
    pixels = 1 / ((x[0, 1] - x[0, 0]) * (y[1, 0] - y[0, 0])) if min(z.shape) > 1 else 0.0
    x, y, side = x * one, y * one, (2 * radius + 1,) * 2
    w = np.divide(1, z, out=np.zeros_like(one), where=used)

    def window(plane: Array) -> Array:
        sums: Array = cv2.boxFilter(plane, -1, side, normalize=False, borderType=cv2.BORDER_CONSTANT)
        return sums[rows, :: rows.step]

    n = np.maximum(window(one), 1)
    mx, my, mw = window(x) / n, window(y) / n, window(w) / n
    xx, xy, yy = window(x * x) / n - mx * mx, window(x * y) / n - mx * my, window(y * y) / n - my * my
    xw, yw = window(x * w) / n - mx * mw, window(y * w) / n - my * mw
    determinant = xx * yy - xy * xy
    # With a pixel as the unit of length it is 0 for readings on a line, 1/27 for the smallest triangle.
    defined = (n > 2.5) & (determinant * pixels**2 > 1e-3)
    determinant[~defined] = 1
    a = (xw * yy - yw * xy) / determinant
    b = (yw * xx - xw * xy) / determinant
    c = mw - a * mx - b * my
    scale = defined / np.maximum(np.sqrt(a * a + b * b + c * c), 1e-12)
    return np.stack([a * scale, b * scale, c * scale], axis=-1), defined


def _rays(shape: tuple[int, ...], intrinsics: Sequence[float]) -> tuple[Array, Array]:
    """Normalised image coordinates: x [1, W] and y [H, 1]."""
    fx, fy, cx, cy = intrinsics
    return ((np.arange(shape[1]) - cx) / fx)[None, :], ((np.arange(shape[0]) - cy) / fy)[:, None]


def gravity(directions: Array, defined: Array) -> NDArray[np.float64]:
    """Estimate which way is down from the normals of a frame.

    Starts from the camera's y axis. Normals within a threshold of the current direction count as floors, those within
    it of the perpendicular plane as walls; the new direction is the most parallel to floors and perpendicular to walls:
    the eigenvector of ``sum over walls n n' - sum over floors n n'`` with the smallest eigenvalue. 5 rounds at 45
    degrees, 5 at 15. Where a single wall leaves the direction open, it stays (the original takes any one in the wall).

    Args:
        directions: [..., 3] unit normals of either sign.
        defined: bool [...], those to use.

    Returns:
        Unit vector [3] in camera axes; the y axis where nothing is defined.
    """
    flat = directions[defined].reshape(-1, 3).T.astype(np.float32)
    rows, columns = np.triu_indices(3)
    products = flat[rows] * flat[columns]
    down = np.array([0.0, 1.0, 0.0])
    for degrees in (45,) * 5 + (15,) * 5:
        cosine = np.abs(down.astype(np.float32) @ flat)
        floor = cosine > np.cos(np.radians(degrees))
        wall = cosine < np.sin(np.radians(degrees))
        if not (floor.any() or wall.any()):
            break
        spread = np.zeros((3, 3))
        spread[rows, columns] = products @ (wall.astype(np.float32) - floor.astype(np.float32))
        spread -= STEADY * flat.shape[1] * np.outer(down, down)
        vector = np.linalg.eigh(spread, UPLO="U")[1][:, 0]
        down = vector if vector @ down >= 0 else -vector
    return down


def _height(z: Array, known: Array, intrinsics: Sequence[float], down: Array) -> Array:
    """Height above the ground in the unit of ``z`` (cm), [H, W]; 0 where nothing is known."""
    right, below, ahead = down
    x, y = _rays(z.shape, intrinsics)
    drop = z * (right * x + (below * y + ahead)).astype(np.float32)
    ground = float(drop.max(where=known, initial=-np.inf))
    return np.where(known, (ground if ground >= NO_GROUND_CM else DEFAULT_GROUND_CM) - drop, 0)


def _check(depth_mm: Array, intrinsics: Sequence[float], missing: Array | None) -> None:
    if depth_mm.ndim != 2:
        raise InputError(f"depth has shape {depth_mm.shape}; a frame [H, W] in millimetres is expected")
    if missing is not None and np.shape(missing) != depth_mm.shape:
        raise InputError(f"missing has shape {np.shape(missing)}, depth {depth_mm.shape}; they must be equal")
    if len(intrinsics) != 4 or not np.isfinite(intrinsics).all() or min(intrinsics[:2]) <= 0:
        raise InputError(f"intrinsics are {tuple(intrinsics)}; (fx, fy, cx, cy) in pixels with fx, fy > 0 expected")
