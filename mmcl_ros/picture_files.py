"""Pictures of a recording as files, the way that ``mmcl_core.prepare`` reads them."""

from __future__ import annotations

import cv2
import numpy as np

from mmcl_core.errors import DataError

__all__ = ["as_png", "check_name"]


def as_png(picture: np.ndarray) -> bytes:
    """A picture as the bytes of a PNG file without loss.

    Args:
        picture: uint8 [H, W, 3] RGB, or depth as uint16 [H, W] mm or float32 [H, W] m, 0 = no reading. The file has
            depth in 16 bit and millimetres; what is too far for that is no reading.
    """
    values = picture[..., ::-1] if picture.ndim == 3 else _millimetres(picture)
    return cv2.imencode(".png", np.ascontiguousarray(values))[1].tobytes()


def check_name(name: str, what: str) -> None:
    """Refuse what cannot be part of the name of a file.

    Raises:
        DataError: it begins with a dot or two underscores, or holds a slash; ``what`` says what was named.
    """
    if name.startswith((".", "__")) or any(letter in name for letter in "/\\\0"):
        raise DataError(f"{what} {name!r} cannot name files: no /, \\, and no . or __ in front")


def _millimetres(depth: np.ndarray) -> np.ndarray:
    if depth.dtype == np.uint16:
        return depth
    scaled = np.rint(depth.astype(np.float64) * 1000)
    return np.where(scaled <= np.iinfo(np.uint16).max, scaled, 0).astype(np.uint16)
