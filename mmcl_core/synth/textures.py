"""Procedural materials, and backgrounds made of them.

Every material is a function of a generator and a size, and can be given its base colour. Materials repeat without a
visible seam wherever the thing itself does (not wood, not print).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import cv2
import numpy as np

from mmcl_core.errors import ConfigError
from mmcl_core.synth.paint import Range, Size, blank, colour, finish, label, mix, noise, shape_of, tint

__all__ = ["MATERIALS", "PLACES", "background", "ceramic", "glaze", "texture"]


class Material(Protocol):
    """A material: paints a uint8 [H, W, 3] picture, in the given base colour (float [3], 0..255) or its own."""

    def __call__(self, rng: np.random.Generator, size: Size, base: np.ndarray | None = None) -> np.ndarray: ...


def texture(kind: str, rng: np.random.Generator, size: Size, base: np.ndarray | None = None) -> np.ndarray:
    """Paint a picture of a material.

    Args:
        kind: one of :data:`MATERIALS`.
        rng: source of the random numbers; the same state gives the same picture.
        size: side, or (height, width), in pixels.
        base: main colour, float [3] RGB in [0, 255]; None draws one that suits the material.

    Returns:
        uint8 [H, W, 3], RGB.

    Raises:
        ConfigError: there is no such material.
    """
    if kind not in MATERIALS:
        raise ConfigError(f"there is no texture {kind!r}; choose one of {', '.join(sorted(MATERIALS))}")
    return MATERIALS[kind](rng, size, base)


# What surfaces at home and in offices are made of, with weights. Table tops are often plain and light.
_TABLE = {"laminate": 4, "wood": 4, "plain": 2, "weave": 2, "marble": 1, "concrete": 1, "paper": 1, "checks": 1}
_FLOOR = {"planks": 3, "tiles": 2, "carpet": 3, "concrete": 2, "laminate": 1, "terrazzo": 1, "wood": 1}
_WALL = {"plaster": 5, "plain": 2, "concrete": 1, "tiles": 1, "stripes": 1, "planks": 1, "paper": 1, "weave": 1}
PLACES: dict[str, dict[str, int]] = {"table": _TABLE, "floor": _FLOOR, "wall": _WALL}


def background(rng: np.random.Generator, size: Size, place: str) -> np.ndarray:
    """Paint a plausible surface for a table, floor or wall: mostly muted, often light grey, white or brown.

    One in ten is a coloured cloth or paint, because such rooms exist as well.

    Args:
        rng: source of the random numbers.
        size: side, or (height, width), in pixels.
        place: "table", "floor" or "wall".

    Returns:
        uint8 [H, W, 3], RGB.

    Raises:
        ConfigError: there is no such place.
    """
    if place not in PLACES:
        raise ConfigError(f"there is no place {place!r}; choose one of {', '.join(PLACES)}")
    weights = PLACES[place]
    kinds, weight = list(weights), np.array(list(weights.values()), float)
    kind = str(rng.choice(kinds, p=weight / weight.sum()))
    vivid = rng.random() < 0.1
    base = None
    if kind not in ("wood", "planks", "marble"):  # these know their own colours
        base = colour(rng, (0.3, 0.6), (0.35, 0.8)) if vivid else _muted(rng, dark=place == "floor")
    picture = MATERIALS[kind](rng, size, base).astype(np.float32)
    grey = picture @ np.array((0.299, 0.587, 0.114), np.float32)
    return finish(mix(grey[..., None], picture, np.full(grey.shape, 1.0 if vivid else rng.uniform(0.5, 0.85))))


def ceramic(rng: np.random.Generator, size: Size, base: np.ndarray | None = None) -> np.ndarray:
    """Glazed ware; the first rows are the rim. Plain, banded, speckled, dotted, dipped, or with a print."""
    height, width = shape_of(size)
    base = glaze(rng) if base is None else np.asarray(base, np.float32)
    picture, ink = blank(size, base), tint(rng, blue=3, navy=2, brown=2, red=1, green=1, black=1, white=1, sand=1)
    y, x = _grid(size)
    styles = ["plain", "rim", "bands", "dots", "dipped", "speckle", "print"]
    style = rng.choice(styles, p=[0.2, 0.2, 0.15, 0.1, 0.15, 0.1, 0.1])
    if style == "rim":
        wide = rng.uniform(0.03, 0.14)
        picture = mix(picture, ink, (y < wide) | (np.abs(y - wide * 1.9) < wide * 0.25) * (rng.random() < 0.5))
    elif style == "bands":
        picture = mix(picture, ink, np.sin(2 * np.pi * (y * rng.uniform(2, 8) + rng.random())) > rng.uniform(-0.2, 0.8))
    elif style == "dots":
        across, down = int(rng.integers(4, 12)), int(rng.integers(2, 6))
        far = np.hypot((x * across + 0.5 * (np.floor(y * down) % 2)) % 1 - 0.5, y * down % 1 - 0.5)
        picture = mix(picture, ink, far < rng.uniform(0.15, 0.35))
    elif style == "dipped":
        edge = rng.uniform(0.3, 0.7) + 0.1 * (noise(rng, size, (1, 4), 2) - 0.5)
        picture = mix(picture, ink, np.clip((y - edge) * rng.uniform(15, 80) + 0.5, 0, 1))
    elif style == "speckle":
        picture = mix(picture, ink, 0.8 * (noise(rng, size, 48, 1) > 0.8))
    elif style == "print":
        wide, tall = int(width * rng.uniform(0.25, 0.45)), int(height * rng.uniform(0.4, 0.7))
        top, left = (height - tall) // 2, int(rng.uniform(0, 1) * (width - wide))
        colours = [base, *(colour(rng) for _ in range(3))]
        picture[top : top + tall, left : left + wide] = label(rng, (tall, wide), colours)
    return finish(picture * (0.96 + 0.08 * noise(rng, size, 3, 3))[..., None])


def _plain(rng: np.random.Generator, size: Size, base: np.ndarray | None = None) -> np.ndarray:
    base = colour(rng) if base is None else base
    return finish(base * (0.96 + 0.08 * noise(rng, size, 4, 4, 0.7))[..., None])


def _gradient(rng: np.random.Generator, size: Size, base: np.ndarray | None = None) -> np.ndarray:
    first, second = colour(rng) if base is None else base, colour(rng)
    return finish(mix(first, second, 0.5 - 0.5 * np.cos(2 * np.pi * _grid(size)[0])))


def _stripes(rng: np.random.Generator, size: Size, base: np.ndarray | None = None) -> np.ndarray:
    first = colour(rng) if base is None else base
    phase = _grid(size)[int(rng.integers(2))] * rng.integers(3, 16)
    share = (np.sin(2 * np.pi * phase) > rng.uniform(-0.6, 0.8)).astype(np.float32)
    return finish(mix(first, _partner(rng, first), share) * (0.95 + 0.1 * noise(rng, size, 8, 4))[..., None])


def _checks(rng: np.random.Generator, size: Size, base: np.ndarray | None = None) -> np.ndarray:
    first = colour(rng) if base is None else base
    y, x = _grid(size)
    count = int(rng.integers(3, 12))
    across, down = np.sin(2 * np.pi * count * x) > 0, np.sin(2 * np.pi * count * y) > 0
    share = 0.5 * across + 0.5 * down if rng.random() < 0.6 else (across ^ down).astype(float)  # gingham or chess
    return finish(mix(first, _partner(rng, first), share) * (0.92 + 0.16 * noise(rng, size, 40, 2))[..., None])


def _wood(rng: np.random.Generator, size: Size, base: np.ndarray | None = None) -> np.ndarray:
    """Grain along the columns: bent year rings, fine pores, and a slow change of tone."""
    base = _timber(rng) if base is None else base
    bend = noise(rng, size, (3, 1), 3)
    rings = np.abs((_grid(size)[0] * rng.uniform(2, 6) + bend * rng.uniform(2, 5)) % 1 * 2 - 1)
    pores = noise(rng, size, (64, 4), 2)
    tone = 1 + rng.uniform(0.08, 0.3) * (rings - 0.5) + 0.25 * (pores - 0.5) + 0.2 * (bend - 0.5)
    return finish(base * tone[..., None] ** np.array((0.9, 1.0, 1.15), np.float32))


def _planks(rng: np.random.Generator, size: Size, base: np.ndarray | None = None) -> np.ndarray:
    picture = _wood(rng, size, base).astype(np.float32)
    y, x = _grid(size)
    rows = int(rng.integers(4, 10))
    row = np.minimum((y * rows).astype(int), rows - 1)
    along = (x * rng.integers(1, 3) + rng.random(rows)[row]) % 1
    tone = rng.uniform(0.85, 1.1, (rows, 2)).astype(np.float32)[row, (along < 0.5).astype(int)]
    gap = (y * rows % 1 < 0.04) | (along < 0.005) | (np.abs(along - 0.5) < 0.003)
    return finish(picture * (tone * np.where(gap, rng.uniform(0.4, 0.8), 1.0))[..., None])


def _laminate(rng: np.random.Generator, size: Size, base: np.ndarray | None = None) -> np.ndarray:
    base = _muted(rng) if base is None else base
    return finish(base * (0.94 + 0.05 * noise(rng, size, 90, 1) + 0.06 * noise(rng, size, 5, 4, 0.7))[..., None])


def _marble(rng: np.random.Generator, size: Size, base: np.ndarray | None = None) -> np.ndarray:
    base = colour(rng, (0.0, 0.12), (0.2, 0.95)) if base is None else base
    veins = np.abs(noise(rng, size, 2, 6, 0.55) - 0.5) * rng.uniform(12, 30)
    tone = mix(base, 0.5 * base + 0.5 * (255 - base), 0.5 * np.exp(-veins) * noise(rng, size, 3, 3))
    return finish(tone * (0.9 + 0.15 * noise(rng, size, 3, 5))[..., None])


def _concrete(rng: np.random.Generator, size: Size, base: np.ndarray | None = None) -> np.ndarray:
    base = _muted(rng) if base is None else base
    return finish(base * (0.78 + 0.3 * noise(rng, size, 3, 7, 0.65) + 0.1 * noise(rng, size, 100, 1))[..., None])


def _terrazzo(rng: np.random.Generator, size: Size, base: np.ndarray | None = None) -> np.ndarray:
    base = _muted(rng) if base is None else base
    cells = int(rng.integers(14, 36))
    picture = blank(size, base)
    for light in (0.6, 0.8, 1.15):
        picture = mix(picture, np.minimum(base * light, 255), noise(rng, size, cells, 1) > 0.74)
    return finish(picture * (0.95 + 0.1 * noise(rng, size, 60, 1))[..., None])


def _plaster(rng: np.random.Generator, size: Size, base: np.ndarray | None = None) -> np.ndarray:
    base = colour(rng, (0.0, 0.15), (0.75, 0.97)) if base is None else base
    rough = noise(rng, size, 30, 3, 0.8)
    relief = rough - np.roll(rough, 1, axis=0)
    return finish(base * (0.97 + rng.uniform(0.1, 0.5) * relief + 0.06 * (noise(rng, size, 2, 3) - 0.5))[..., None])


def _tiles(rng: np.random.Generator, size: Size, base: np.ndarray | None = None) -> np.ndarray:
    base = _muted(rng) if base is None else base
    y, x = _grid(size)
    rows, columns = int(rng.integers(2, 8)), int(rng.integers(2, 8))
    row, column = np.minimum((y * rows).astype(int), rows - 1), np.minimum((x * columns).astype(int), columns - 1)
    tone = rng.uniform(0.9, 1.06, (rows, columns)).astype(np.float32)[row, column]
    grout = (y * rows % 1 < 0.03 * rows / 3) | (x * columns % 1 < 0.03 * columns / 3)
    surface = base * (tone * (0.94 + 0.12 * noise(rng, size, 6, 5, 0.7)))[..., None]
    return finish(mix(surface, colour(rng, (0.0, 0.1), (0.4, 0.9)), grout))


def _weave(rng: np.random.Generator, size: Size, base: np.ndarray | None = None) -> np.ndarray:
    """Cloth: warp and weft pass over each other, every thread a little different."""
    base = _muted(rng) if base is None else base
    (height, width), (y, x) = shape_of(size), _grid(size)
    threads = max(4, min(height, width) // int(rng.integers(4, 9)))
    over = np.sin(np.pi * threads * x) * np.sin(np.pi * threads * y) > 0
    relief = np.where(over, np.abs(np.sin(np.pi * threads * y)), np.abs(np.sin(np.pi * threads * x)))
    uneven = noise(rng, size, (threads, 2), 1) * over + noise(rng, size, (2, threads), 1) * ~over
    tone = 0.75 + 0.2 * relief + 0.25 * (uneven - 0.5) + 0.1 * noise(rng, size, 3, 3)
    return finish(mix(base, _partner(rng, base), over * rng.uniform(0, 0.3)) * tone[..., None])


def _carpet(rng: np.random.Generator, size: Size, base: np.ndarray | None = None) -> np.ndarray:
    base = colour(rng, (0.05, 0.4), (0.2, 0.7)) if base is None else base
    loose = rng.standard_normal(shape_of(size), np.float32)
    pile = cv2.GaussianBlur(loose, (0, 0), float(rng.uniform(0.6, 1.2)), borderType=cv2.BORDER_REFLECT_101)
    tone = 0.95 + rng.uniform(0.15, 0.4) * pile + 0.25 * (noise(rng, size, 4, 4) - 0.5)
    return finish(base * np.clip(tone, 0.3, 1.7)[..., None])


def _metal(rng: np.random.Generator, size: Size, base: np.ndarray | None = None) -> np.ndarray:
    """Brushed along the columns."""
    base = colour(rng, (0.0, 0.08), (0.55, 0.85)) if base is None else base
    return finish(base * (0.86 + 0.2 * noise(rng, size, (90, 1), 2) + 0.1 * noise(rng, size, 2, 3))[..., None])


def _paper(rng: np.random.Generator, size: Size, base: np.ndarray | None = None) -> np.ndarray:
    base = colour(rng, (0.0, 0.15), (0.8, 0.98), (0.08, 0.16)) if base is None else base
    return finish(base * (0.96 + 0.06 * noise(rng, size, 50, 3, 0.8))[..., None])


MATERIALS: dict[str, Material] = {
    "carpet": _carpet,
    "ceramic": ceramic,
    "checks": _checks,
    "concrete": _concrete,
    "gradient": _gradient,
    "laminate": _laminate,
    "marble": _marble,
    "metal": _metal,
    "paper": _paper,
    "plain": _plain,
    "planks": _planks,
    "plaster": _plaster,
    "stripes": _stripes,
    "terrazzo": _terrazzo,
    "tiles": _tiles,
    "weave": _weave,
    "wood": _wood,
}


def _grid(size: Size) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of every pixel's centre, float32 [H, W] in (0, 1)."""
    height, width = shape_of(size)
    y, x = (np.arange(height, dtype=np.float32) + 0.5) / height, (np.arange(width, dtype=np.float32) + 0.5) / width
    return np.broadcast_to(y[:, None], (height, width)), np.broadcast_to(x, (height, width))


def _choose(rng: np.random.Generator, *makers: Callable[[], np.ndarray]) -> np.ndarray:
    return makers[int(rng.integers(len(makers)))]()


def _muted(rng: np.random.Generator, dark: bool = False) -> np.ndarray:
    """White, grey, beige, brown or a greyed colour."""
    low: Range = (0.2, 0.65) if dark else (0.3, 0.75)
    return _choose(
        rng,
        lambda: colour(rng, (0.0, 0.07), low if dark else (0.75, 0.98)),
        lambda: colour(rng, (0.0, 0.08), low),
        lambda: colour(rng, (0.08, 0.4), (low[0] + 0.1, low[1] + 0.15), (0.05, 0.13)),
        lambda: colour(rng, (0.05, 0.25), low),
    )


def glaze(rng: np.random.Generator) -> np.ndarray:
    """The colour of a glaze, float32 [3]: most often white or cream, then earth tones and blues, seldom vivid."""
    return tint(
        rng, white=6, cream=3, grey=1, sand=2, brown=2, black=1, navy=1, blue=2, teal=1, green=1, red=1, yellow=0.5
    )


def _timber(rng: np.random.Generator) -> np.ndarray:
    return colour(rng, (0.25, 0.62), (0.3, 0.85), (0.05, 0.105))


def _partner(rng: np.random.Generator, base: np.ndarray) -> np.ndarray:
    """A second colour for a pattern: as grey or as vivid as the first, but lighter or darker."""
    vivid = float(base.max() - base.min()) / max(float(base.max()), 1.0)
    light = float(base.max()) > 150
    near = colour(rng, (0.3 * vivid, vivid), (0.25, 0.6) if light else (0.6, 0.95))
    return near if rng.random() < 0.6 else np.full(3, 235.0 if not light else rng.uniform(60, 120), np.float32)
