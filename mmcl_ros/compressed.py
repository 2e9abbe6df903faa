"""Compressed image messages to arrays: JPEG and PNG colour, PNG depth, and the ``compressedDepth`` transport.

A ``compressedDepth`` message starts with 12 bytes (a format number and two float32 values A and B) in front of a PNG
or RVL stream of 16-bit values: millimetres for ``16UC1``; for ``32FC1`` the inverse depth, so that a value v > 0 means
A / (v - B) metres. RVL is run-length and variable-length coding of depth differences (A. D. Wilson, "Fast lossless
depth image compression", ISS 2017); its stream is preceded by the width and height as 32-bit numbers.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from mmcl_core.errors import InputError

__all__ = ["decode_compressed_colour", "decode_compressed_depth", "decode_compressed_mosaic", "decode_rvl"]

DEPTH_HEADER = struct.Struct("<iff")
SIZE_HEADER = struct.Struct("<II")
MAX_PIXELS = 1 << 26
VIDEO = ("h264", "h265", "hevc", "av1", "vp9")  # in the format of what encoders publish as CompressedImage


def decode_compressed_colour(message: Any) -> np.ndarray:
    """The picture of a ``CompressedImage`` as uint8 [H, W, 3], RGB order; JPEG, PNG, whatever OpenCV reads.

    Raises:
        InputError: the data is no readable picture, or the message says that it is depth.
    """
    import cv2

    if "compressedDepth" in message.format or message.format.partition(";")[0].strip() in ("16UC1", "32FC1"):
        raise InputError(f"format {message.format!r} is depth; it cannot serve as colour")
    picture = _imdecode(message.data, cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION, message.format)
    # The transport writes "rgb8; jpeg compressed rgb8" when it handed red first to an encoder that takes blue first.
    if "compressed rgb" in message.format:
        return picture
    return np.ascontiguousarray(picture[:, :, ::-1])


def decode_compressed_mosaic(message: Any) -> np.ndarray | None:
    """The Bayer mosaic of a ``CompressedImage``, uint8 or uint16 [H, W]; None where the message holds no mosaic.

    The transport compresses a Bayer picture as it is, but for newer versions that write JPEG, and say ``mono8`` then.

    Raises:
        InputError: the data is no readable picture.
    """
    import cv2

    encoding, _, coding = message.format.partition(";")
    if not encoding.strip().startswith("bayer_") or any(f"compressed {kind}" in coding for kind in ("bgr", "mono")):
        return None
    picture = _imdecode(message.data, cv2.IMREAD_UNCHANGED, message.format)
    return picture if picture.ndim == 2 else None


def decode_compressed_depth(message: Any) -> np.ndarray:
    """The depth of a ``CompressedImage``: uint16 [H, W] millimetres or float32 [H, W] metres, 0 for no reading.

    Raises:
        InputError: a lossy or unknown format, a truncated header, or data that cannot be decoded.
    """
    encoding, _, coding = (part.strip() for part in message.format.partition(";"))
    data = bytes(message.data)
    if "compressedDepth" not in coding:
        if "jp" in message.format.lower():
            raise InputError(f"format {message.format!r} is lossy and holds no depth; use compressedDepth or raw")
        return _plain_depth(data, message.format)
    if encoding not in ("16UC1", "mono16", "32FC1"):
        raise InputError(f"compressedDepth of encoding {encoding!r} is not known; supported are 16UC1, 32FC1")
    if len(data) <= DEPTH_HEADER.size:
        raise InputError(f"truncated: a compressedDepth message of {len(data)} bytes")
    _, a, b = DEPTH_HEADER.unpack_from(data)
    payload = data[DEPTH_HEADER.size :]
    values = decode_rvl(payload) if "rvl" in coding.lower() else _png_depth(payload, message.format)
    return _depth_values(values, encoding, a, b)


def decode_rvl(data: bytes) -> np.ndarray:
    """Decode an RVL stream with its size in front.

    The stream consists of 4-bit groups, the highest of each little-endian 32-bit word first: one bit that says whether
    the number goes on, and three bits of the number, the lowest first. The numbers alternate: how many zeros follow,
    how many other values follow, and for each of these its zigzag-coded difference from the one before.

    Returns:
        uint16 [H, W].

    Raises:
        InputError: the stream ends early or does not fill the stated size.
    """
    if len(data) < SIZE_HEADER.size:
        raise InputError(f"truncated: an RVL stream of {len(data)} bytes")
    width, height = SIZE_HEADER.unpack_from(data)
    count = width * height
    if not 0 < count <= MAX_PIXELS:
        raise InputError(f"an RVL stream of {width} x {height} pixels")
    numbers = _rvl_numbers(np.frombuffer(data, "<u4", (len(data) - SIZE_HEADER.size) // 4, SIZE_HEADER.size))
    heads = []  # where the two lengths of each pair of runs stand; in pictures with speckles there are thousands
    number, size = numbers.item, numbers.size
    place = used = 0
    while place < count:
        if used + 1 >= size:
            raise InputError(f"truncated: the RVL stream ends after {place} of {count} pixels")
        zeros, others = number(used), number(used + 1)
        heads.append(used)
        used += 2 + others
        place += zeros + others
        if used > size or place > count or zeros + others == 0:
            raise InputError(f"the RVL stream does not fit {width} x {height} pixels: corrupt or truncated")
    return _rvl_values(numbers[:used], np.array(heads), count).reshape(height, width)


def _rvl_values(numbers: np.ndarray, heads: np.ndarray, count: int) -> np.ndarray:
    """The pixels, uint16 [count], of numbers whose lengths of runs stand at ``heads`` and one after each."""
    places = np.stack([heads, heads + 1], 1).reshape(-1)
    filled = np.repeat(np.tile([False, True], heads.size), numbers[places])
    is_code = np.ones(numbers.size, bool)
    is_code[places] = False
    codes = numbers[is_code]
    depth = np.zeros(count, np.uint16)
    depth[filled] = np.cumsum((codes >> 1) ^ -(codes & 1)) & 0xFFFF  # the differences go on from run to run
    return depth


def _rvl_numbers(words: np.ndarray) -> np.ndarray:
    octets = words.astype(">u4").view(np.uint8)
    groups = np.stack([octets >> 4, octets & 15], 1).reshape(-1).astype(np.int64)
    ends = np.flatnonzero(groups < 8)
    if not ends.size:
        return np.zeros(0, np.int64)
    groups = groups[: ends[-1] + 1]
    starts = np.concatenate([[0], ends[:-1] + 1])
    rank = np.arange(groups.size) - np.repeat(starts, ends - starts + 1)
    if rank.max() > 9:
        raise InputError("an RVL number of more than 30 bits: corrupt stream")
    return np.add.reduceat((groups & 7) << (3 * rank), starts)


def _plain_depth(data: bytes, name: str) -> np.ndarray:
    """Depth that is stored as it is: a PNG or TIFF of millimetres, or a TIFF of metres as of the encoding 32FC1."""
    import cv2

    picture = _imdecode(data, cv2.IMREAD_UNCHANGED, name)
    if picture.ndim == 2 and picture.dtype == np.float32:
        return np.where((picture > 0) & (picture < np.inf), picture, np.float32(0))
    return _sixteen_bits(picture, name)


def _png_depth(data: bytes, name: str) -> np.ndarray:
    import cv2

    return _sixteen_bits(_imdecode(data, cv2.IMREAD_UNCHANGED, name), name)


def _sixteen_bits(picture: np.ndarray, name: str) -> np.ndarray:
    if picture.ndim != 2 or picture.dtype != np.uint16:
        raise InputError(f"format {name!r}: depth is 16 bits and one channel, not {picture.dtype} {picture.shape}")
    return picture


def _depth_values(values: np.ndarray, encoding: str, a: float, b: float) -> np.ndarray:
    if encoding != "32FC1":
        return values
    divisor = values.astype(np.float32) - np.float32(b)
    good = (values > 0) & (divisor > 0)
    metres = np.zeros(values.shape, np.float32)
    np.divide(np.float32(a), divisor, out=metres, where=good)
    return np.where(np.isfinite(metres) & (metres > 0), metres, np.float32(0))


@contextmanager
def _quiet_opencv() -> Iterator[None]:
    """Keep OpenCV from writing lines of its own about every corrupt picture: whoever asked for it is told already."""
    import cv2

    # An older OpenCV has no such switch for Python.
    switch = getattr(getattr(cv2.utils, "logging", None), "setLogLevel", None)
    before = switch(0) if switch else None
    try:
        yield
    finally:
        if switch:
            switch(before)


def _damaged(data: bytes) -> bool:
    """Whether a PNG or JPEG file states more bytes than it has, or more than :data:`MAX_PIXELS`, or lacks its end.

    One flipped bit makes it so, and OpenCV would ask for gigabytes of memory before it finds out. Of a JPEG that was
    cut off OpenCV before 4.11 makes a picture, its lower part smeared.
    """
    width = height = 0
    if data.startswith(b"\xff\xd8") and data.find(b"\xff\xd9", data.rfind(b"\xff\xda")) < 0:
        return True  # no end after the start of the last scan; in coded pixels neither mark occurs
    if data.startswith(b"\x89PNG\r\n\x1a\n") and len(data) >= 24:
        width, height = struct.unpack_from(">II", data, 16)
        place, kind = 8, b""
        while place + 8 <= len(data) and kind != b"IEND":
            length, kind = struct.unpack_from(">I4s", data, place)
            place += 12 + length
        if place > len(data):
            return True
    place = 2
    while data.startswith(b"\xff\xd8") and place + 9 <= len(data) and data[place] == 0xFF:
        mark, length, rows, columns = struct.unpack_from(">xBHxHH", data, place)
        if 0xC0 <= mark <= 0xCF and mark not in (0xC4, 0xC8, 0xCC):  # the start of a frame
            width, height = columns, rows
            break
        place += 1 if mark == 0xFF else 2 + length  # a mark may have bytes of padding before it
    return width * height > MAX_PIXELS


def _imdecode(data: Any, flags: int, name: str) -> np.ndarray:
    import cv2

    if any(coding in name.lower() for coding in VIDEO):
        raise InputError(
            f"format {name!r} is video, whose pictures follow from those before and are not decoded here: take the raw "
            "pictures or JPEG of the driver, or what a decoder publishes"
        )
    octets = np.frombuffer(data, np.uint8)
    try:
        with _quiet_opencv():
            picture = None if not octets.size or _damaged(octets.tobytes()) else cv2.imdecode(octets, flags)
    except cv2.error as error:
        raise InputError(f"format {name!r}: {octets.size} bytes that cannot be decoded: {error.err}") from error
    if picture is None:
        raise InputError(f"format {name!r}: {octets.size} bytes that are no readable picture: corrupt or truncated")
    return np.asarray(picture)
