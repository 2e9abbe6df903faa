"""The 19 classes of furniture and room objects that NYU-D, SUN RGB-D and (16 of them) SceneNet RGB-D share."""

from __future__ import annotations

import re

__all__ = ["CLASSES", "class_of", "plain_name"]

CLASSES = (
    "bathtub",
    "bed",
    "bookshelf",
    "box",
    "chair",
    "counter",
    "desk",
    "door",
    "dresser",
    "garbage-bin",
    "lamp",
    "monitor",
    "night-stand",
    "pillow",
    "sink",
    "sofa",
    "table",
    "television",
    "toilet",
)

_OTHER_NAMES = {"garbagebin": "garbage-bin", "nightstand": "night-stand", "tv": "television"}


def plain_name(name: str) -> str:
    """A name in lower case with its words joined by hyphens; other names of the 19 classes become theirs.

    ``Night Stand``, ``night_stand`` and ``nightstand`` are ``night-stand``, ``tv`` is ``television``.
    """
    plain = re.sub(r"[\s_-]+", "-", name.strip().lower())
    return _OTHER_NAMES.get(plain, plain)


def class_of(name: str) -> str | None:
    """The class that a data set's own name means, None for any other.

    Kinds of an object, such as ``coffee table``, are not taken for it.
    """
    plain = plain_name(name)
    return plain if plain in CLASSES else None
