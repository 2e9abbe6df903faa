"""What the names of topics tell: which pictures are likely meant, and which belong to one camera."""

from __future__ import annotations

import re

from mmcl_ros.qos import without_transport

__all__ = ["depth_rank", "nearness", "rgb_rank", "shared_words", "shows_depth"]


def rgb_rank(topic: str) -> tuple:
    """Topics of colour pictures in the order in which they are likely meant."""
    name = topic.lower()
    return (not any(word in name for word in ("color", "colour", "rgb")), "compressed" in name, len(name), name)


def depth_rank(topic: str) -> tuple:
    """The same for depth; the first value: whether it is not called so."""
    name = topic.lower()
    registered = any(word in name for word in ("aligned", "registered"))
    return ("depth" not in name, not registered, "compressed" in name, len(name), name)


def shows_depth(topic: str) -> bool:
    """Whether colour pictures are by their name depth in false colours, such as ``/camera/depth/image_colored``."""
    return any("depth" in word for word in without_transport(topic).lower().strip("/").split("/")[1:][-2:])


def shared_words(one: str, other: str) -> int:
    """How many words, parted by ``/`` and ``_``, two names begin with together; a transport's name is none."""
    count = 0
    parts = (re.split("[/_]", without_transport(name).strip("/")) for name in (one, other))
    for left, right in zip(*parts, strict=False):
        if left != right:
            break
        count += 1
    return count


def nearness(info: str, picture: str) -> tuple[int, int]:
    """How near a camera info and a picture are by name: leading words they share, then by how little is left."""
    return shared_words(info, picture), -without_transport(picture).count("/")
