"""What the names of topics tell: which pictures are likely meant, and which belong to one camera."""

from __future__ import annotations

import re

from mmcl_ros.qos import without_transport

__all__ = ["camera_of", "depth_rank", "nearness", "rgb_rank"]


def camera_of(topic: str) -> str:
    """The first word of a topic: where a robot has several cameras, their names differ in it."""
    return topic.strip("/").partition("/")[0]


def rgb_rank(topic: str) -> tuple:
    """Topics of colour pictures in the order in which they are likely meant."""
    name = topic.lower()
    return (not any(word in name for word in ("color", "colour", "rgb")), "compressed" in name, len(name), name)


def depth_rank(topic: str, apart: bool) -> tuple:
    """The same for depth; ``apart``: not of the frame of the colour pictures, and so of no use beside them."""
    name = topic.lower()
    registered = any(word in name for word in ("aligned", "registered"))
    return ("depth" not in name, apart, not registered, "compressed" in name, len(name), name)


def nearness(info: str, picture: str) -> tuple[int, int]:
    """How near a camera info and a picture are by name: leading words they share, then by how little is left."""
    picture = without_transport(picture)
    count = 0
    for left, right in zip(re.split("[/_]", info), re.split("[/_]", picture), strict=False):
        if left != right:
            break
        count += 1
    return count, -picture.count("/")
