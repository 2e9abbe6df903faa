"""Textures of tables, floors, walls and things lying about.

Real rooms are mostly grey, white, beige and brown; a strong colour is the exception. A pool of textures is
a pure function of its seed, whichever process builds it.
"""

from __future__ import annotations

import cv2
import numpy as np

from mmcl_core.synth.paint import colour, finish, noise
from mmcl_core.synth.shade import Pyramid
from mmcl_core.synth.textures import background, texture

__all__ = ["BACKGROUNDS", "TexturePool", "background_texture"]

BACKGROUNDS = ("table", "floor", "wall", "print")
_SIZE = 320


class TexturePool:
    """A pool of background textures for each kind, built when first asked for.

    Args:
        seed: what all textures follow from.
        count: textures of each kind.
    """

    def __init__(self, seed: int, count: int) -> None:
        self.seed, self.count = seed, count
        self._made: dict[tuple[str, int], Pyramid] = {}

    def get(self, kind: str, index: int) -> Pyramid:
        """Texture number ``index`` (taken modulo ``count``) of a kind of :data:`BACKGROUNDS`."""
        key = (kind, index % self.count)
        if key not in self._made:
            rng = np.random.default_rng([self.seed, BACKGROUNDS.index(kind), key[1]])
            self._made[key] = Pyramid(background_texture(kind, rng))
        return self._made[key]


def background_texture(kind: str, rng: np.random.Generator, size: int = _SIZE) -> np.ndarray:
    """One texture, uint8 [size, size, 3].

    Args:
        kind: one of :data:`BACKGROUNDS`.
        rng: what it is drawn from.
        size: its side in pixels.
    """
    own = {"table": 0.5, "floor": 0.4, "wall": 0.45, "print": 1.0}[kind]
    if rng.random() >= own:
        return background(rng, size, kind)
    if kind == "table":
        return texture(str(rng.choice(["plain", "laminate", "concrete"])), rng, size, _muted(rng))
    if kind == "floor":
        return finish(_carpet(rng, size))
    return finish(_sheet(rng, size) if kind == "print" and rng.random() < 0.7 else _clutter(rng, size))


def _muted(rng: np.random.Generator) -> np.ndarray:
    """The colour of some furniture: white, grey, black, beige, brown, pale, seldom strong."""
    pick = rng.random()
    if pick < 0.34:  # white and light grey
        return rng.uniform(175, 245) + rng.normal(0, 4, 3).astype(np.float32)
    if pick < 0.52:  # grey
        return rng.uniform(85, 175) + rng.normal(0, 5, 3).astype(np.float32)
    if pick < 0.66:  # dark
        return rng.uniform(18, 75) + rng.normal(0, 4, 3).astype(np.float32)
    if pick < 0.84:  # beige to brown
        return np.array([1.0, rng.uniform(0.74, 0.92), rng.uniform(0.5, 0.82)], np.float32) * rng.uniform(80, 225)
    if pick < 0.94:
        return colour(rng, (0.08, 0.3), (0.4, 0.9))
    return colour(rng, (0.4, 0.8), (0.3, 0.8))


def _carpet(rng: np.random.Generator, size: int) -> np.ndarray:
    base = _muted(rng) * rng.uniform(0.4, 0.9)
    tufts = (noise(rng, size, int(rng.integers(60, 120)), 2) - 0.5)[..., None] * rng.uniform(40, 130)
    specks = np.stack([noise(rng, size, 90, 1) for _ in range(3)], axis=-1) - 0.5
    return base + tufts + specks * rng.uniform(5, 45)


def _clutter(rng: np.random.Generator, size: int) -> np.ndarray:
    """A room full of things: overlapping boxes, bars and discs in the colours of furniture, out of focus."""
    picture = np.ascontiguousarray(texture("plain", rng, size, _muted(rng)), np.float32)
    for _ in range(int(rng.integers(6, 40))):
        paint = tuple(float(c) for c in _muted(rng))
        x, y = (int(v) for v in rng.integers(0, size, 2))
        w, h = (int(v) for v in np.exp(rng.uniform(np.log(size / 60), np.log(size / 2.5), 2)))
        pick = rng.random()
        if pick < 0.6:
            box = cv2.boxPoints(((x, y), (w, h), float(rng.choice([0, 0, 90, rng.uniform(0, 90)]))))
            cv2.fillConvexPoly(picture, box.astype(np.int32), paint)
        elif pick < 0.8:
            cv2.ellipse(picture, (x, y), (w // 2, h // 2), float(rng.uniform(0, 180)), 0, 360, paint, -1)
        else:
            end = (x + int(rng.normal(0, size / 2)), y + int(rng.normal(0, size / 2)))
            cv2.line(picture, (x, y), end, paint, int(rng.integers(1, 9)))
    return cv2.GaussianBlur(picture, (0, 0), float(rng.uniform(0.4, 4.0)))


def _sheet(rng: np.random.Generator, size: int) -> np.ndarray:
    """A sheet of paper, a keyboard, a magazine: rows of small dark marks, perhaps a picture."""
    paper = _muted(rng) if rng.random() < 0.4 else np.full(3, rng.uniform(200, 250), np.float32)
    ink = 255 - paper if rng.random() < 0.2 else paper * rng.uniform(0.1, 0.5)
    picture = np.tile(paper, (size, size, 1)).astype(np.float32)
    lines = int(rng.integers(6, 40))
    pitch = size / lines
    for k in range(lines):
        if rng.random() < 0.2:
            continue
        top, bottom = int((k + 0.3) * pitch), max(int((k + 0.75) * pitch), int((k + 0.3) * pitch) + 1)
        marks = rng.random(int(rng.integers(8, 60))) < rng.uniform(0.4, 0.9)
        row = cv2.resize(marks.astype(np.float32)[None], (size, 1), interpolation=cv2.INTER_NEAREST)[0]
        row[: int(rng.uniform(0, 0.2) * size)] = 0
        row[int(rng.uniform(0.5, 1.0) * size) :] = 0
        picture[top:bottom] += (ink - paper) * row[None, :, None]
    if rng.random() < 0.4:
        x, y, w, h = (int(v) for v in rng.integers(0, size // 2, 4))
        picture[y : y + h, x : x + w] = _muted(rng)
    return picture
