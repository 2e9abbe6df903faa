"""Picture files, read with their faults named; depth units."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import numpy.typing as npt

from mmcl_core.errors import ConfigError, DataError, out_of_memory

__all__ = [
    "FARTHEST_USUAL_M",
    "STORED",
    "alike",
    "depth_millimetres",
    "depth_scale",
    "in_parts",
    "is_metric_png",
    "is_picture",
    "lossless_first",
    "probe",
    "read_mask",
    "read_picture",
    "read_rgb",
]

Array = npt.NDArray[Any]
T = TypeVar("T")

#: The depth unit of pictures that are no metric depth (HHA).
STORED = "stored"
#: Median depth in metres beyond which own crops are asked about their unit.
FARTHEST_USUAL_M = 5.0
_PICTURES = (".png", ".jpg", ".jpeg")
_JPEG = b"\xff\xd8\xff"
#: What is no pixel in the coded picture of a JPEG, and what of that may stand there: DHT, SOS to DRI, APPn, COM.
_JPEG_MARK = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL)
_JPEG_SEGMENTS = frozenset([0xC4, *range(0xDA, 0xDE), *range(0xE0, 0xF0), 0xFE])
#: In a JPEG the edge of a mask has left traces around it: what is nearer to black than to white is outside.
_INSIDE = 128
_IN_MM = {"mm": 1.0, "cm": 10.0, "m": 1000.0}


def depth_scale(unit: str) -> float:
    """Millimetres of one step of the stored numbers.

    Args:
        unit: such as ``mm``, ``0.1mm``, ``cm``, ``m/5000``.

    Raises:
        ConfigError: not of this form.
    """
    match = re.fullmatch(r"(\d*\.?\d+)?\s*(mm|cm|m)(?:/(\d*\.?\d+))?", unit.strip())
    scale = float(match[1] or 1) * _IN_MM[match[2]] / (float(match[3] or 1) or float("nan")) if match else 0.0
    if not scale > 0:
        raise ConfigError(f"depth unit {unit!r} is not understood; write mm, 0.1mm, cm, m/5000, ...")
    return scale


def read_picture(path: Path) -> Array:
    """The pixels of a PNG or JPEG file, colour as R, G, B.

    A JPEG with an EXIF orientation is turned by it, as a viewer shows it; otherwise the pixels are those stored.

    Raises:
        DataError: missing, empty, truncated, or no picture. The message does not repeat the path.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}") from error
    if not data:
        raise DataError("is empty (0 bytes)")
    # Some versions of the decoders fill what is missing with grey and say nothing.
    cut = data[:3] == b"\x89PN" and b"IEND" not in data[-4096:]
    scan = _jpeg_scan(data) if data[:3] == _JPEG else len(data)
    if cut or (data[:3] == _JPEG and data.rfind(b"\xff\xd9", scan) < 0):
        raise DataError(f"is truncated ({len(data)} bytes, without the mark of its end)")
    if data[scan : scan + 2] == b"\xff\xda" and (place := _jpeg_fault(data, scan)):
        raise DataError(f"is damaged at byte {place} of {len(data)}")
    # IMREAD_UNCHANGED would leave the EXIF orientation out; a JPEG has no more channels than these flags keep.
    flags = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH if data[:3] == _JPEG else cv2.IMREAD_UNCHANGED
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:  # what the head of the file says is impossible, or beyond what OpenCV reads
        if out_of_memory(error):
            raise DataError(f"takes more memory than there is: {' '.join(error.err.split())}") from error
        raise DataError(f"is not a readable picture ({len(data)} bytes): {' '.join(error.err.split())}") from error
    if image is None:
        raise DataError(f"is not a readable picture ({len(data)} bytes)")
    return np.ascontiguousarray(image[..., ::-1]) if image.ndim == 3 and image.shape[2] == 3 else image


def _jpeg_scan(data: bytes) -> int:
    """Where the segments before the picture of a JPEG end; one of them may hold a thumbnail with a mark of its end.

    What phones put behind a picture, such as a film, may be longer than the picture.
    """
    place = 2
    while data[place : place + 1] == b"\xff" and data[place + 1 : place + 2] != b"\xda":
        filling = data[place + 1 : place + 2] == b"\xff"
        place += 1 if filling else 2 + int.from_bytes(data[place + 2 : place + 4], "big")
    return place


def _jpeg_fault(data: bytes, place: int) -> int:
    """Where a mark that cannot be in the coded picture of a JPEG, such as in a foreign block, breaks it off; 0: none.

    The decoders make up the rest and say nothing. A block that looks like coded picture, such as zeros, is not found.

    Args:
        data: the file, which has a mark of its end.
        place: of the first of its segments ``SOS``, the beginning of the coded picture.
    """
    while data[place + 1] not in b"\xd8\xd9":
        if data[place + 1] not in _JPEG_SEGMENTS:
            return place
        found = _JPEG_MARK.search(data, place + 2 + int.from_bytes(data[place + 2 : place + 4], "big"))
        if found is None:
            return place
        place = found.start()
    return 0


def read_rgb(path: Path) -> Array:
    """uint8 [H, W, 3] of a colour picture, or of a stored depth picture.

    Raises:
        DataError: as :func:`read_picture`, or another type or number of channels.
    """
    image = read_picture(path)
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        advice = ": save it without transparency" if image.ndim == 3 and image.shape[2] == 4 else ""
        raise DataError(f"is {_kind(image)}; 8 bit with 3 channels expected{advice}")
    return image


def read_mask(path: Path) -> Array:
    """bool [H, W] of an object mask: where a PNG is not 0, and where a JPEG, which blurs edges, is 128 or more.

    Raises:
        DataError: as :func:`read_picture`, or a JPEG that is neither black nor reaches 128, such as one of numbers of
            objects.
    """
    mask = read_picture(path)
    levels = mask if mask.ndim == 2 else mask[..., :3].max(-1)
    with path.open("rb") as file:
        lossy = file.read(3) == _JPEG
    if not lossy:
        return np.asarray(levels != 0)
    if 0 < levels.max() < _INSIDE:
        raise DataError(
            f"is a JPEG mask of at most {levels.max()}, where the object must be {_INSIDE} or more; save masks as PNG"
        )
    return np.asarray(levels >= _INSIDE)


def depth_millimetres(path: Path, scale: float) -> Array:
    """uint16 [H, W] in mm of a 16-bit depth PNG; 0 stays 0, what exceeds 65535 mm counts as no reading.

    Args:
        path: the file.
        scale: millimetres of one step, see :func:`depth_scale`.

    Raises:
        DataError: as :func:`read_picture`, another type or number of channels, or all readings too far or too near.
    """
    image = read_picture(path)
    if image.ndim != 2 or image.dtype != np.uint16:
        raise DataError(f"is {_kind(image)}; metric depth is 16 bit with 1 channel")
    if scale == 1:
        return image
    depth = _millimetres(scale)[image]
    if image.any() and not depth.any():
        raise DataError("has no reading within 65.5 m: is --depth-unit right?")
    return depth


@functools.lru_cache(maxsize=8)
def _millimetres(scale: float) -> Array:
    """uint16 [65536] in mm of every stored number; looked up several times faster than computed for each pixel."""
    millimetres = np.floor(np.arange(65536) * scale + 0.5)
    return np.where(millimetres <= 65535, millimetres, 0).astype(np.uint16)


def in_parts(objects: Iterable[T], size_of: Callable[[T], int], number: int, size: int) -> Iterator[list[T]]:
    """Lists of so many of the objects, in their order, or fewer whose sizes add up to ``size`` or more; none empty."""
    part, held = list[T](), 0
    for one in objects:
        part.append(one)
        held += size_of(one)
        if len(part) >= number or held >= size:
            yield part
            part, held = [], 0
    if part:
        yield part


def is_picture(path: Path) -> bool:
    """Whether a file is a PNG or JPEG, by its ending."""
    return path.suffix.lower() in _PICTURES and path.is_file()


def lossless_first(path: Path) -> tuple[bool, str]:
    """A key to sort files by, so that of two pictures of a name the PNG comes first."""
    return path.suffix.lower() != ".png", path.name


def is_metric_png(path: Path) -> bool:
    """Whether a file is a 16-bit PNG of one channel, by its header."""
    try:
        with path.open("rb") as file:
            head = file.read(26)
    except OSError:
        return False
    return head[:4] == b"\x89PNG" and len(head) == 26 and head[24] == 16 and head[25] == 0


def alike(one: tuple[int, ...], two: tuple[int, ...]) -> bool:
    """Whether two sizes, both (height, width) or both (width, height), have the same proportions, to a pixel."""
    return abs(one[0] * two[1] - one[1] * two[0]) <= max(*one, *two)


def probe(files: Sequence[Path], read: Callable[[Path], Any], name: str, hint: str = "") -> None:
    """Fail before the work where no file of a modality can be used: a wrong unit or a wrong kind of picture.

    Args:
        files: all of them; a dozen are read.
        read: reads a file, raises :class:`~mmcl_core.errors.DataError` where it cannot be used.
        name: of the modality, for the message.
        hint: its end.

    Raises:
        DataError: none of those that were read can be used.
    """
    reason = ""
    for path in files[:: max(1, len(files) // 12)]:
        try:
            read(path)
        except DataError as error:
            reason = reason or f"{path} {error}"
        else:
            return
    raise DataError(f"none of {len(files)} {name} files seems usable: {reason}{hint}")


def _kind(image: Array) -> str:
    return f"{8 * image.dtype.itemsize} bit with {1 if image.ndim == 2 else image.shape[2]} channel(s)"
