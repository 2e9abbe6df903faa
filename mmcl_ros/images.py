"""Image messages to arrays, whatever their encoding, row padding and byte order.

Works on any object with the fields of ``sensor_msgs/Image`` or ``sensor_msgs/CompressedImage``: messages of rclpy and
those that :mod:`rosbags` reads from a file. Every message is first checked and brought to tightly packed rows in the
byte order of this machine; the colour conversion then is cv_bridge's where that imports and gives right answers (a
build for NumPy 1 does not under NumPy 2), else that of rosbags-image, else OpenCV's own, which also takes the encodings
that an older cv_bridge does not know. All three give equal arrays. Pictures of two planes (nv12, nv21, nv24) are always
converted by OpenCV.

Colour comes out as ``uint8 [H, W, 3]`` in RGB order, depth as ``uint16 [H, W]`` in millimetres or ``float32 [H, W]`` in
metres (REP 118), 0 where there is no reading. An array may share memory with its message and be read-only.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mmcl_core.errors import InputError
from mmcl_ros.compressed import decode_compressed_colour, decode_compressed_depth, decode_compressed_mosaic

__all__ = ["DEPTH_ENCODINGS", "RGB_ENCODINGS", "decode_depth", "decode_rgb", "rgb_backend", "stated_encoding"]

logger = logging.getLogger(__name__)

# encoding -> (type of a value, values per pixel)
RGB_ENCODINGS: dict[str, tuple[str, int]] = {
    "rgb8": ("u1", 3),
    "bgr8": ("u1", 3),
    "rgba8": ("u1", 4),
    "bgra8": ("u1", 4),
    "mono8": ("u1", 1),
    "rgb16": ("u2", 3),
    "bgr16": ("u2", 3),
    "rgba16": ("u2", 4),
    "bgra16": ("u2", 4),
    "mono16": ("u2", 1),
    "yuv422": ("u1", 2),
    "yuv422_yuy2": ("u1", 2),
    **{f"bayer_{pattern}8": ("u1", 1) for pattern in ("rggb", "bggr", "gbrg", "grbg")},
    **{f"bayer_{pattern}16": ("u2", 1) for pattern in ("rggb", "bggr", "gbrg", "grbg")},
    "uyvy": ("u1", 2),
    "yuyv": ("u1", 2),
    "8UC1": ("u1", 1),
    "8UC3": ("u1", 3),
    "8UC4": ("u1", 4),
    "16UC3": ("u2", 3),
    "16UC4": ("u2", 4),
    "nv12": ("u1", 1),  # the plane of luma; that of chroma follows it, see CHROMA
    "nv21": ("u1", 1),
    "nv24": ("u1", 1),
}
# Encodings of two planes -> (side in pixels of the squares that share a chroma value, which of its two comes first)
CHROMA: dict[str, tuple[int, str]] = {"nv12": (2, "Cb"), "nv21": (2, "Cr"), "nv24": (1, "Cb")}
DEPTH_ENCODINGS: dict[str, tuple[str, int]] = {"16UC1": ("u2", 1), "mono16": ("u2", 1), "32FC1": ("f4", 1)}
# Later names for older ones, and OpenCV's type names, whose channel order is blue, green, red.
SYNONYMS = {"uyvy": "yuv422", "yuyv": "yuv422_yuy2", "8UC1": "mono8", "8UC3": "bgr8", "8UC4": "bgra8"}


@dataclass(frozen=True)
class PackedImage:
    """The fields of ``sensor_msgs/Image`` that converters look at: packed rows, native byte order."""

    encoding: str
    height: int
    width: int
    step: int
    is_bigendian: int
    data: Any


def decode_rgb(message: Any) -> np.ndarray:
    """The colour picture of an ``Image`` or ``CompressedImage`` message.

    16-bit encodings are scaled from their full range to 8 bits, grey ones repeated over the three channels; luma and
    chroma are taken for those of ITU-R BT.601 in the limited range.

    Returns:
        uint8 [H, W, 3], RGB order.

    Raises:
        InputError: an unknown encoding (named, with the supported ones), or data that does not fit the stated size.
    """
    encoding = stated_encoding(message).partition(";")[0].strip()
    if hasattr(message, "format"):
        mosaic = decode_compressed_mosaic(message) if encoding in RGB_ENCODINGS else None
        if mosaic is None:
            return decode_compressed_colour(message)
        values = mosaic
    else:
        values = _pixels(message, RGB_ENCODINGS, "colour")
        if encoding in CHROMA:
            return _with_chroma(values, message, encoding)
    if values.dtype == np.uint16:
        values = ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)
    encoding = encoding.replace("16", "8")
    encoding = SYNONYMS.get(encoding, encoding)
    if encoding == "rgb8":
        return values
    if encoding.startswith("yuv422") and values.shape[1] % 2:
        raise InputError(f"encoding {encoding!r} shares colour between two columns, but the width is {values.shape[1]}")
    if encoding.startswith("bayer") and min(values.shape[:2]) < 2:
        raise InputError(
            f"encoding {encoding!r} needs at least 2 x 2 pixels, not {values.shape[1]} x {values.shape[0]}"
        )
    height, width = values.shape[:2]
    packed = PackedImage(encoding, height, width, width * RGB_ENCODINGS[encoding][1], 0, values.reshape(-1).data)
    try:
        picture = rgb_backend()[1](packed)
    except Exception as error:  # an older cv_bridge does not know every encoding, and has exceptions of its own
        logger.debug("%s does not convert %s: %s", rgb_backend()[0], encoding, error)
        picture = _opencv(packed)
    return np.asarray(picture, dtype=np.uint8)


def decode_depth(message: Any) -> np.ndarray:
    """The depth picture of an ``Image`` or ``CompressedImage`` message.

    ``16UC1`` is millimetres and ``32FC1`` metres (REP 118); ``mono16`` on a depth topic is what recordings of the
    RealSense tools call millimetres. NaN, infinite and negative values count as no reading.

    Returns:
        uint16 [H, W] millimetres or float32 [H, W] metres; 0: no reading.

    Raises:
        InputError: an unknown encoding (named, with the supported ones), or data that does not fit the stated size.
    """
    if hasattr(message, "format"):
        return decode_compressed_depth(message)
    values = _pixels(message, DEPTH_ENCODINGS, "depth")
    if values.dtype == np.float32:
        return np.where((values > 0) & (values < np.inf), values, np.float32(0))
    return values


def stated_encoding(message: Any) -> str:
    """What a message says its pixels are: ``encoding`` of an Image, ``format`` of a CompressedImage."""
    return str(getattr(message, "format", getattr(message, "encoding", "")))


@functools.cache
def rgb_backend() -> tuple[str, Callable[[PackedImage], np.ndarray]]:
    """Name and function of the colour conversion in use; found out once per process."""
    for name, build in (("cv_bridge", _cv_bridge), ("rosbags-image", _rosbags_image)):
        try:
            convert = build()
            probe = convert(PackedImage("bgr8", 1, 2, 6, 0, np.arange(6, dtype=np.uint8).data))
            if np.array_equal(probe, [[[2, 1, 0], [5, 4, 3]]]):
                return name, convert
            logger.info("%s is not used: it converts a test picture wrongly", name)
        except Exception as error:  # a library built for another NumPy fails in any way it likes
            logger.debug("%s is not used: %s", name, error)
    return "opencv", _opencv


def _pixels(message: Any, known: dict[str, tuple[str, int]], what: str) -> np.ndarray:
    """The values of a raw picture: [H, W] or [H, W, C], packed and in native byte order."""
    encoding = str(message.encoding)
    if encoding not in known:
        raise InputError(f"encoding {encoding!r} is not known for {what}; supported are {', '.join(known)}")
    kind, channels = known[encoding]
    dtype = np.dtype(kind)
    height, width, step = int(message.height), int(message.width), int(message.step)
    row = width * channels * dtype.itemsize
    if height < 1 or width < 1:
        raise InputError(f"the picture is {width} x {height} pixels")
    step = step or row
    if step < row:
        raise InputError(f"step is {step} bytes, but {width} pixels of {encoding} take {row}")
    data = np.frombuffer(message.data, np.uint8)
    needed = step * (height - 1) + row
    if data.size < needed:
        raise InputError(
            f"truncated: {data.size} bytes of data, but {width} x {height} pixels of {encoding} with step {step} "
            f"take {needed}"
        )
    rows = np.ndarray((height, row), np.uint8, buffer=data, strides=(step, 1))
    values = np.ascontiguousarray(rows).view(dtype.newbyteorder(">" if message.is_bigendian else "<"))
    values = values.astype(dtype, copy=False)
    return values if channels == 1 else values.reshape(height, width, channels)


def _with_chroma(luma: np.ndarray, message: Any, encoding: str) -> np.ndarray:
    """The picture of two planes; [H, W] is the first one, the other follows it at once.

    A row of chroma takes as many bytes as one of luma, padding included, or in full resolution twice as many. As where
    luma ends is not stated, no surplus of data is accepted: it may lie between the planes.
    """
    import cv2

    side, first = CHROMA[encoding]
    height, width = luma.shape
    if height % side or width % side:
        raise InputError(
            f"encoding {encoding!r} shares colour between 2 x 2 pixels, but the picture is {width} x {height}"
        )
    rows, row, step = height // side, 2 * width // side, 2 * (int(message.step) or width) // side
    start = (int(message.step) or width) * height
    data = np.frombuffer(message.data, np.uint8)
    if not start + step * (rows - 1) + row <= data.size <= start + step * rows:
        raise InputError(
            f"{data.size} bytes of data, but the two planes of {width} x {height} pixels of {encoding} with step "
            f"{int(message.step) or width} take {start + step * rows}"
        )
    chroma = np.ndarray((rows, row), np.uint8, buffer=data, offset=start, strides=(step, 1)).reshape(rows, -1, 2)
    if side == 1:  # OpenCV has no such code: every pixel becomes 2 x 2 that share their colour
        luma = luma.repeat(2, axis=0).repeat(2, axis=1)
    code = cv2.COLOR_YUV2RGB_NV12 if first == "Cb" else cv2.COLOR_YUV2RGB_NV21
    picture = np.asarray(cv2.cvtColorTwoPlane(luma, np.ascontiguousarray(chroma), code))
    return picture if side == 2 else np.ascontiguousarray(picture[::2, ::2])


def _cv_bridge() -> Callable[[PackedImage], np.ndarray]:
    from cv_bridge import CvBridge

    bridge = CvBridge()
    return lambda image: bridge.imgmsg_to_cv2(image, "rgb8")


def _rosbags_image() -> Callable[[PackedImage], np.ndarray]:
    from rosbags.image import image_to_cvimage

    convert: Callable[[Any, str], np.ndarray] = image_to_cvimage
    return lambda image: convert(image, "rgb8")


def _opencv(image: PackedImage) -> np.ndarray:
    import cv2

    # OpenCV names a Bayer pattern by the second and third pixel of the second row, ROS by the first row.
    code = {
        "bgr8": cv2.COLOR_BGR2RGB,
        "rgba8": cv2.COLOR_RGBA2RGB,
        "bgra8": cv2.COLOR_BGRA2RGB,
        "mono8": cv2.COLOR_GRAY2RGB,
        "yuv422": cv2.COLOR_YUV2RGB_UYVY,
        "yuv422_yuy2": cv2.COLOR_YUV2RGB_YUY2,
        "bayer_rggb8": cv2.COLOR_BayerBG2RGB,
        "bayer_bggr8": cv2.COLOR_BayerRG2RGB,
        "bayer_gbrg8": cv2.COLOR_BayerGR2RGB,
        "bayer_grbg8": cv2.COLOR_BayerGB2RGB,
    }[image.encoding]
    channels = RGB_ENCODINGS[image.encoding][1]
    shape = (image.height, image.width) if channels == 1 else (image.height, image.width, channels)
    return np.asarray(cv2.cvtColor(np.frombuffer(image.data, np.uint8).reshape(shape), code))
