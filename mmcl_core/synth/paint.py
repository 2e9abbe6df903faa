"""Colours, noise and print: what the procedural textures are painted with.

Pictures are float32 [H, W, 3], RGB in [0, 255], until :func:`finish`. All randomness comes from the generator
passed in, so that a picture is a pure function of its seed.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import TypeAlias

import cv2
import numpy as np

__all__ = [
    "Range",
    "Size",
    "blank",
    "colour",
    "contrast",
    "cover",
    "finish",
    "label",
    "mix",
    "noise",
    "page_edges",
    "palette",
    "shape_of",
    "small_print",
    "tint",
]

Size: TypeAlias = "int | tuple[int, int]"
Range: TypeAlias = "tuple[float, float]"

# Saturation, value and hue of the colours that things are sold in.
_TINTS: dict[str, tuple[Range, Range, Range]] = {
    "white": ((0.0, 0.06), (0.86, 0.99), (0.0, 1.0)),
    "cream": ((0.06, 0.22), (0.84, 0.97), (0.09, 0.15)),
    "grey": ((0.0, 0.08), (0.4, 0.75), (0.0, 1.0)),
    "black": ((0.0, 0.15), (0.05, 0.2), (0.0, 1.0)),
    "red": ((0.7, 0.92), (0.5, 0.88), (0.97, 1.02)),
    "orange": ((0.7, 0.95), (0.7, 0.97), (0.05, 0.09)),
    "yellow": ((0.6, 0.9), (0.8, 0.98), (0.12, 0.16)),
    "green": ((0.4, 0.85), (0.3, 0.7), (0.25, 0.42)),
    "teal": ((0.4, 0.8), (0.35, 0.75), (0.45, 0.53)),
    "blue": ((0.45, 0.9), (0.4, 0.85), (0.55, 0.66)),
    "navy": ((0.5, 0.85), (0.15, 0.4), (0.58, 0.68)),
    "purple": ((0.35, 0.75), (0.3, 0.7), (0.72, 0.84)),
    "pink": ((0.25, 0.6), (0.75, 0.97), (0.9, 0.98)),
    "brown": ((0.4, 0.75), (0.18, 0.5), (0.04, 0.09)),
    "sand": ((0.2, 0.45), (0.6, 0.85), (0.08, 0.12)),
}

# Letters as strokes over a grid of 3 x 3 points, numbered by rows: unlike the fonts of a library, these look the same
# with every version of it.
_STROKES = """63158,35 60253,3586 2068 015760 2068,34 206,34 20685 06,35,28 17 257 06,3238 068 60428 6082 02860 60253
    60253,48 203586 02,17 0682 072 06482 08,26 042,47 0268"""
_LETTERS = tuple(_STROKES.split())


def shape_of(size: Size) -> tuple[int, int]:
    """(height, width) of a size given as one side or as (height, width)."""
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def colour(
    rng: np.random.Generator, saturation: Range = (0.25, 0.9), value: Range = (0.3, 0.95), hue: Range = (0.0, 1.0)
) -> np.ndarray:
    """A random colour, float32 [3] in [0, 255]; hue, saturation and value are drawn from ranges in [0, 1]."""
    h, s, v = (rng.uniform(*limits) for limits in (hue, saturation, value))
    return np.array(colorsys.hsv_to_rgb(h % 1.0, s, v), np.float32) * 255


def tint(rng: np.random.Generator, **weights: float) -> np.ndarray:
    """A colour by name, float32 [3] in [0, 255]: the names of :data:`_TINTS`, each with its weight."""
    names, weight = list(weights), np.array(list(weights.values()), float)
    return colour(rng, *_TINTS[names[int(rng.choice(len(names), p=weight / weight.sum()))]])


def palette(rng: np.random.Generator, count: int, ground: np.ndarray | None = None) -> list[np.ndarray]:
    """Colours that are used together on one print: a ground (drawn if None), neighbours in hue, and accents."""
    hue = rng.random()
    if ground is None:
        ground = tint(rng, white=4, cream=1, red=1, orange=1, yellow=1, green=1, teal=1, blue=1, navy=1, black=1)
    chosen = [ground]
    for index in range(1, count):
        centre = hue + (rng.choice([0.33, 0.5, 0.66]) if index % 2 == 0 else 0.0)
        chosen.append(colour(rng, (0.3, 0.9), (0.3, 1.0), (centre - 0.06, centre + 0.06)))
    return chosen


def contrast(rng: np.random.Generator, ground: np.ndarray) -> np.ndarray:
    """A colour that can be read on the ground: almost white on dark, almost black (or deep) on light."""
    if float(ground @ (0.299, 0.587, 0.114)) < 130:
        return colour(rng, (0.0, 0.15), (0.92, 1.0))
    return colour(rng, (0.0, 0.9), (0.05, 0.3))


def blank(size: Size, ground: np.ndarray) -> np.ndarray:
    """A picture of one colour, float32 [H, W, 3]."""
    return np.full((*shape_of(size), 3), ground, np.float32)


def mix(first: np.ndarray, second: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Blend two colours or pictures: ``share`` float [H, W] is the part of the second."""
    share = share[..., None].astype(np.float32)
    return (first + (second - first) * share).astype(np.float32)


def finish(picture: np.ndarray) -> np.ndarray:
    """Round to uint8."""
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def noise(
    rng: np.random.Generator, size: Size, cells: int | tuple[int, int] = 4, octaves: int = 4, decay: float = 0.5
) -> np.ndarray:
    """Fractal value noise that repeats without a seam.

    Args:
        rng: source of the random numbers.
        size: side, or (height, width), in pixels.
        cells: blobs along each side, or (down, across), of the coarsest octave; each octave doubles them.
        octaves: number of octaves; those finer than a pixel are left out.
        decay: amplitude of an octave relative to the coarser one.

    Returns:
        float32 [H, W] in [0, 1], mean about 0.5, standard deviation about 0.2.
    """
    height, width = shape_of(size)
    down, across = (cells, cells) if isinstance(cells, int) else cells
    total = np.zeros((height, width), np.float32)
    amplitude = 1.0
    for _ in range(octaves):
        rows, columns = min(down, height), min(across, width)
        grid = rng.random((rows, columns), np.float32)
        y = (np.arange(height, dtype=np.float32) + 0.5) * (rows / height) - 0.5
        x = (np.arange(width, dtype=np.float32) + 0.5) * (columns / width) - 0.5
        # cv2 blends over the border only with enough of it, hence the wrapped pad
        padded = cv2.copyMakeBorder(grid, 2, 2, 2, 2, cv2.BORDER_WRAP)
        grid_x, grid_y = np.tile(x + 2, (height, 1)), np.repeat((y + 2)[:, None], width, axis=1)
        total += amplitude * cv2.remap(padded, grid_x, grid_y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        if rows == height and columns == width:
            break
        down, across, amplitude = down * 2, across * 2, amplitude * decay
    return np.clip(0.5 + 0.2 * (total - total.mean()) / max(float(total.std()), 1e-6), 0.0, 1.0)


def label(rng: np.random.Generator, size: Size, colours: Sequence[np.ndarray] | None = None) -> np.ndarray:
    """A printed label: ground, blocks and bands, a brand in large letters, a motif, small print, a bar code.

    Args:
        rng: source of the random numbers.
        size: side, or (height, width), in pixels.
        colours: four colours to print with, ground first; None draws them.

    Returns:
        uint8 [H, W, 3].
    """
    height, width = shape_of(size)
    colours = list(colours) if colours is not None else palette(rng, 4)
    picture = _ground(rng, (height, width), colours)
    if rng.random() < 0.75:
        _motif(rng, picture, colours)
    if rng.random() < 0.6:  # the field behind the brand
        top, tall = rng.uniform(0.05, 0.5), rng.uniform(0.15, 0.3)
        field = (int(top * height), int((top + tall) * height))
        picture[field[0] : field[1]] = colours[2]
        _word(rng, picture, field, contrast(rng, colours[2]))
    else:
        top = rng.uniform(0.08, 0.5)
        _word(rng, picture, (int(top * height), int((top + 0.25) * height)), contrast(rng, colours[0]))
    for _ in range(int(rng.integers(1, 4))):
        _lines(rng, picture, contrast(rng, colours[0]))
    if rng.random() < 0.6:
        _barcode(rng, picture)
    return finish(picture * (0.95 + 0.1 * noise(rng, (height, width), 3, 2))[..., None])


def cover(rng: np.random.Generator, size: Size, colours: Sequence[np.ndarray]) -> np.ndarray:
    """The front of a book: a calm ground, a picture or ornament, title and author; uint8 [H, W, 3]."""
    height, width = shape_of(size)
    picture = blank((height, width), colours[0])
    style = rng.integers(4)
    if style == 0:  # a picture over the lower part
        top = int(height * rng.uniform(0.25, 0.5))
        scene = noise(rng, (height - top, width), 3, 4)
        picture[top:] = mix(colours[1], colours[2], np.clip((scene - 0.35) * 4, 0, 1))
    elif style == 1:  # a frame
        edge = max(2, int(width * rng.uniform(0.04, 0.1)))
        cv2.rectangle(picture, (edge, edge), (width - edge, height - edge), colours[1].tolist(), max(1, edge // 3))
    elif style == 2:  # large simple shapes
        _motif(rng, picture, colours)
    else:
        picture = mix(colours[0], colours[1], np.linspace(0, rng.uniform(0.5, 1), height)[:, None] * np.ones(width))
    ink = contrast(rng, colours[0])
    head = rng.uniform(0.06, 0.2)
    for row in range(int(rng.integers(1, 4))):
        _word(rng, picture, (int((head + 0.13 * row) * height), int((head + 0.13 * row + 0.11) * height)), ink)
    _word(rng, picture, (int(0.88 * height), int(0.95 * height)), ink)
    return finish(picture)


def page_edges(rng: np.random.Generator, size: Size) -> np.ndarray:
    """The edges of a stack of pages, seen from the side: off-white with fine lines along the rows; uint8."""
    height, width = shape_of(size)
    paper = colour(rng, (0.03, 0.18), (0.82, 0.98), (0.09, 0.15))
    lines = 0.86 + 0.18 * rng.random((height, 1, 1), np.float32)
    return finish(paper * lines * (0.92 + 0.12 * noise(rng, (height, width), (8, 2), 3))[..., None])


def small_print(rng: np.random.Generator, size: Size, colours: Sequence[np.ndarray]) -> np.ndarray:
    """The side of a packet: a heading, columns of small print, a table and a bar code; uint8 [H, W, 3]."""
    height, width = shape_of(size)
    picture = blank((height, width), colours[0])
    ink = contrast(rng, colours[0])
    band = int(height * rng.uniform(0.1, 0.2))
    picture[:band] = colours[1]
    _word(rng, picture, (0, band), contrast(rng, colours[1]))
    for _ in range(3):
        _lines(rng, picture, ink)
    if rng.random() < 0.7:
        _barcode(rng, picture)
    return finish(picture)


def _ground(rng: np.random.Generator, size: tuple[int, int], colours: Sequence[np.ndarray]) -> np.ndarray:
    height, width = size
    y, x = np.linspace(0, 1, height)[:, None] * np.ones(width), np.ones((height, 1)) * np.linspace(0, 1, width)
    style = rng.integers(6)
    if style == 0:
        return mix(colours[0], colours[1], y)
    if style == 1:  # a block of another colour on top or at the foot
        return mix(colours[0], colours[1], (y > rng.uniform(0.4, 0.8)) ^ bool(rng.random() < 0.5))
    if style == 2:  # a wave
        wave = rng.uniform(0.3, 0.7) + rng.uniform(0.05, 0.2) * np.sin(2 * np.pi * (x + rng.random()))
        return mix(colours[0], colours[1], y > wave)
    if style == 3:  # bands
        return mix(colours[0], colours[1], np.sin(2 * np.pi * (y * rng.integers(2, 7) + rng.random())) > 0.75)
    if style == 4:  # slanted stripes
        count, slant = rng.integers(3, 9), rng.integers(1, 4)
        return mix(colours[0], 0.7 * colours[0] + 0.3 * colours[1], np.sin(2 * np.pi * (x * count + y * slant)) > 0)
    return blank(size, colours[0])


def _motif(rng: np.random.Generator, picture: np.ndarray, colours: Sequence[np.ndarray]) -> None:
    """Draw fruit-like blobs, a disc or a leaf somewhere in the middle."""
    height, width = picture.shape[:2]
    centre = np.array([rng.uniform(0.25, 0.75) * width, rng.uniform(0.35, 0.75) * height])
    radius = rng.uniform(0.12, 0.3) * min(height, width)
    style = rng.integers(3)
    if style == 0:
        for _ in range(int(rng.integers(3, 9))):
            spot, reach = centre + rng.normal(0, 0.6, 2) * radius, radius * rng.uniform(0.3, 0.6)
            ink = colours[int(rng.integers(1, len(colours)))]
            _disc(picture, spot, (reach, reach * rng.uniform(0.7, 1)), rng.uniform(0, 180), ink)
            _disc(picture, spot - reach * 0.3, (reach * 0.25, reach * 0.2), 0, np.minimum(ink * 1.5 + 30, 255))
    elif style == 1:
        _disc(picture, centre, (radius * 1.3, radius), rng.uniform(0, 180), colours[1])
        _disc(picture, centre, (radius, radius * 0.75), rng.uniform(0, 180), colours[-1])
    else:
        angles = np.sort(rng.uniform(0, 2 * np.pi, int(rng.integers(5, 12))))
        points = radius * rng.uniform(0.5, 1.3, len(angles))
        star = centre + points[:, None] * np.stack([np.cos(angles), np.sin(angles)], 1)
        cv2.fillPoly(picture, [np.rint(star).astype(np.int32)], colours[-1].tolist(), cv2.LINE_8)


def _disc(picture: np.ndarray, centre: np.ndarray, axes: Range, angle: float, ink: np.ndarray) -> None:
    middle = (round(float(centre[0])), round(float(centre[1])))
    sides = (max(1, round(axes[0])), max(1, round(axes[1])))
    cv2.ellipse(picture, middle, sides, angle, 0, 360, ink.tolist(), -1, cv2.LINE_8)


def _word(rng: np.random.Generator, picture: np.ndarray, rows: tuple[int, int], ink: np.ndarray) -> None:
    """Write a word of random letters into the rows, as large as fits."""
    letters, width = rng.choice(len(_LETTERS), int(rng.integers(3, 9))), picture.shape[1]
    slim = rng.uniform(0.5, 0.9)  # width of a letter relative to its height
    tall = min(0.75 * (rows[1] - rows[0]), 0.9 * width / (len(letters) * slim * 1.35))
    step = tall * slim * 1.35
    thick = max(1, round(tall * rng.uniform(0.1, 0.25)))
    if tall < 3:
        return
    spare = width - len(letters) * step
    left = spare * (0.5 if rng.random() < 0.6 else rng.uniform(0.05, 0.95)) + 0.175 * step
    top = (rows[0] + rows[1] - tall) / 2
    strokes = []
    for place, letter in enumerate(letters):
        for stroke in _LETTERS[letter].split(","):
            row, column = np.divmod(np.array([int(digit) for digit in stroke]), 3)
            points = np.stack([left + place * step + column * tall * slim / 2, top + row * tall / 2], 1)
            strokes.append(np.rint(points).astype(np.int32))
    cv2.polylines(picture, strokes, False, ink.tolist(), thick, cv2.LINE_8)


def _lines(rng: np.random.Generator, picture: np.ndarray, ink: np.ndarray) -> None:
    """Small print: rows of words too small to be read, as dashes of uneven length."""
    height, width = picture.shape[:2]
    row, left = int(rng.uniform(0.15, 0.85) * height), int(rng.uniform(0.03, 0.6) * width)
    right = min(width - 2, left + int(rng.uniform(0.2, 0.5) * width))
    step = max(3, int(height * rng.uniform(0.018, 0.035)))
    for line in range(row, min(height - 2, row + step * int(rng.integers(3, 9))), step):
        x = left
        while x < right:
            end = min(right, x + int(rng.integers(3, 14)))
            dash = picture[line : line + max(1, step // 2), x:end]
            dash += 0.75 * (ink - dash)
            x = end + 2


def _barcode(rng: np.random.Generator, picture: np.ndarray) -> None:
    height, width = picture.shape[:2]
    tall, wide = max(6, int(height * 0.14)), max(12, int(width * rng.uniform(0.16, 0.3)))
    if height < tall or width < wide:
        return
    top, left = int(rng.uniform(0.55, 0.95) * (height - tall)), int(rng.uniform(0, 1) * (width - wide))
    bars = np.where(rng.random(wide) < 0.5, 20.0, 245.0)
    bars[:2] = bars[-2:] = 245.0
    picture[top : top + tall, left : left + wide] = bars[None, :, None]
