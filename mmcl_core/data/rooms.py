"""The 19 classes of furniture and room objects that NYU-D, SUN RGB-D and (16 of them) SceneNet RGB-D share."""

from __future__ import annotations

import re

__all__ = ["CLASSES", "class_of"]

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


def class_of(name: str) -> str | None:
    """The class that a data set's own name means, None for any other.

    Case, and whether words are joined by spaces, underscores or hyphens, do not matter: ``night stand`` and
    ``night_stand`` are ``night-stand``. Kinds of an object, such as ``coffee table``, are not taken for it.
    """
    plain = re.sub(r"[\s_-]+", "-", name.strip().lower())
    plain = _OTHER_NAMES.get(plain, plain)
    return plain if plain in CLASSES else None
