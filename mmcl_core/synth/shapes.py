"""Building blocks of procedural objects: lofts, surfaces of revolution, sweeps, boxes, prisms, and joining them.

A :class:`Part` is a piece of surface with texture coordinates in [0, 1] of its own picture. :func:`assemble` packs the
pictures of all parts into one texture and returns a :class:`~mmcl_core.synth.mesh.Mesh` that stands on z = 0. Lengths
are metres; faces are counter-clockwise seen from outside.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np

from mmcl_core.synth.mesh import Mesh

__all__ = [
    "Part",
    "assemble",
    "box",
    "ellipse",
    "loft",
    "patch",
    "prism",
    "revolve",
    "rotation",
    "rounded",
    "smooth",
    "sweep",
]

_PAD = 4  # pixels repeated around every picture, so that reduced textures do not bleed into each other
_MIN_AREA = 1e-11  # square metres; smaller faces come from rings that shrink to a point


@dataclass(frozen=True)
class Part:
    """A piece of surface.

    Attributes:
        vertices: float64 [V, 3], metres.
        faces: int64 [F, 3].
        uv: float64 [F, 3, 2] in [0, 1]; (0, 0) is the top left corner of the picture.
    """

    vertices: np.ndarray
    faces: np.ndarray
    uv: np.ndarray

    def moved(self, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Part:
        """Shifted by x, y, z."""
        return replace(self, vertices=self.vertices + np.array((x, y, z)))

    def turned(self, matrix: np.ndarray) -> Part:
        """Rotated (or scaled, or mirrored) about the origin by a 3 x 3 matrix; a mirror turns the faces round too."""
        turned = replace(self, vertices=self.vertices @ np.asarray(matrix).T)
        if np.linalg.det(matrix) < 0:
            return replace(turned, faces=self.faces[:, ::-1], uv=self.uv[:, ::-1])
        return turned

    def bent(self, change: Callable[[np.ndarray], np.ndarray]) -> Part:
        """With every vertex moved by a function [V, 3] -> [V, 3]."""
        return replace(self, vertices=change(self.vertices))

    def upended(self) -> Part:
        """With the picture upside down, for walls that were built downwards."""
        return replace(self, uv=np.stack([self.uv[..., 0], 1 - self.uv[..., 1]], -1))

    def projected(self) -> Part:
        """With the picture laid on flat: its columns along x, its rows against y."""
        flat = self.vertices[:, :2]
        low, high = flat.min(0), flat.max(0)
        uv = (flat - low) / np.maximum(high - low, 1e-9)
        uv[:, 1] = 1 - uv[:, 1]
        return replace(self, uv=uv[self.faces])


def rotation(axis: int, degrees: float) -> np.ndarray:
    """Rotation about a coordinate axis (0 x, 1 y, 2 z), float [3, 3]."""
    angle, (i, j) = np.deg2rad(degrees), ((axis + 1) % 3, (axis + 2) % 3)
    matrix = np.eye(3)
    matrix[i, i] = matrix[j, j] = np.cos(angle)
    matrix[i, j], matrix[j, i] = -np.sin(angle), np.sin(angle)
    return matrix


def smooth(points: Sequence[Sequence[float]] | np.ndarray, count: int) -> np.ndarray:
    """A curve through control points [K, D] (Catmull-Rom), as ``count`` points, float [count, D]."""
    knots = np.asarray(points, float)
    padded = np.vstack([2 * knots[0] - knots[1], knots, 2 * knots[-1] - knots[-2]])
    place = np.linspace(0, len(knots) - 1, count)
    index = np.minimum(place.astype(int), len(knots) - 2)
    t = (place - index)[:, None]
    a, b, c, d = (padded[index + k] for k in range(4))
    return 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * (b - c) + d - a) * t**3)


def ellipse(count: int, a: float = 1.0, b: float = 1.0, power: float = 2.0) -> np.ndarray:
    """A closed section [count, 2], counter-clockwise, half axes a and b; a power over 2 makes it squarer."""
    angle = 2 * np.pi * np.arange(count) / count
    point = np.stack([np.cos(angle), np.sin(angle)], 1)
    return np.sign(point) * np.abs(point) ** (2 / power) * (a, b)


def loft(rings: np.ndarray) -> Part:
    """The surface over closed rings of points.

    Args:
        rings: float [P, S, 3]; every ring counter-clockwise seen against the direction in which they follow each other.

    Returns:
        The surface; u runs around the rings, v from 1 at the first ring to 0 at the last, by length.
    """
    rings = np.asarray(rings, float)
    count, around = rings.shape[:2]
    steps = np.linalg.norm(np.diff(rings, axis=0), axis=2).mean(1)
    v = 1 - np.concatenate([[0], np.cumsum(steps)]) / max(steps.sum(), 1e-12)
    i, j = (grid.reshape(-1) for grid in np.meshgrid(np.arange(count - 1), np.arange(around), indexing="ij"))

    def corner(down: int, right: int) -> tuple[np.ndarray, np.ndarray]:
        return (i + down) * around + (j + right) % around, np.stack([(j + right) / around, v[i + down]], 1)

    (a, uv_a), (b, uv_b), (c, uv_c), (d, uv_d) = corner(0, 0), corner(0, 1), corner(1, 1), corner(1, 0)
    faces = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
    uv = np.concatenate([np.stack([uv_a, uv_b, uv_c], 1), np.stack([uv_a, uv_c, uv_d], 1)])
    return Part(rings.reshape(-1, 3), faces, uv)


def revolve(profile: Sequence[Sequence[float]] | np.ndarray, segments: int = 32, depth: float = 1.0) -> Part:
    """A surface of revolution about z.

    Args:
        profile: float [P, 2], radius and height; the outside lies to the right of its direction (a wall goes upwards).
        segments: corners around.
        depth: scale along y, for oval bodies.
    """
    radius, height = np.asarray(profile, float).T
    circle = ellipse(segments)
    rings = np.empty((len(radius), segments, 3))
    rings[..., :2] = radius[:, None, None] * circle * (1.0, depth)
    rings[..., 2] = height[:, None]
    return loft(rings)


def sweep(
    path: np.ndarray,
    section: np.ndarray,
    normal: Sequence[float],
    scale: np.ndarray | None = None,
    closed: bool = False,
) -> Part:
    """Move a section along a path that lies in a plane.

    Args:
        path: float [P, 3].
        section: float [S, 2], counter-clockwise: along normal x tangent, and along ``normal``.
        normal: of the plane of the path, unit.
        scale: float [P] or [P, 2], of the section along the path; 1 if None.
        closed: the path is a ring. Otherwise the ends are rounded off a little and closed.
    """
    path, across = np.asarray(path, float), np.asarray(normal, float)
    size = np.ones((len(path), 2)) if scale is None else np.asarray(scale, float).reshape(len(path), -1) * np.ones(2)
    tangent = np.roll(path, -1, 0) - np.roll(path, 1, 0) if closed else np.gradient(path, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    if closed:
        path, size, tangent = (np.concatenate([a, a[:1]]) for a in (path, size, tangent))
    else:
        reach = 0.5 * float(np.linalg.norm(section, axis=1).min())
        start = [path[0] - tangent[0] * reach * size[0, 0] * k for k in (1.0, 1.0, 0.7)]
        end = [path[-1] + tangent[-1] * reach * size[-1, 0] * k for k in (0.7, 1.0, 1.0)]
        path = np.vstack([start, path, end])
        size = np.vstack(
            [0 * size[0], 0.6 * size[0], 0.9 * size[0], size, 0.9 * size[-1], 0.6 * size[-1], 0 * size[-1]]
        )
        tangent = np.vstack([tangent[[0, 0, 0]], tangent, tangent[[-1, -1, -1]]])
    side = np.cross(across, tangent)
    rings = path[:, None] + (size[:, None, :1] * section[None, :, :1]) * side[:, None]
    return loft(rings + (size[:, None, 1:] * section[None, :, 1:]) * across)


def rounded(radius: float, start: float, end: float, bevel: float, steps: int = 3) -> np.ndarray:
    """Profile of a closed cylinder for :func:`revolve`: height from ``start`` to ``end`` with rounded edges."""
    bend = np.linspace(0, np.pi / 2, steps + 1)
    inner = radius - bevel
    lower = np.stack([inner + bevel * np.sin(bend), start + bevel * (1 - np.cos(bend))], 1)
    upper = np.stack([inner + bevel * np.cos(bend), end - bevel * (1 - np.sin(bend))], 1)
    return np.vstack([[(0.0, start)], lower, upper, [(0.0, end)]])


def patch(corners: Sequence[Sequence[float]] | np.ndarray, divisions: int = 2) -> Part:
    """A bilinear patch between four corners: bottom left, bottom right, top right, top left seen from outside."""
    a, b, c, d = np.asarray(corners, float)
    t = np.linspace(0, 1, divisions + 1)
    return _grid(t, t, lambda u, w: (1 - w) * ((1 - u) * a + u * b) + w * ((1 - u) * d + u * c))


# normal, right and up of each side of a box, seen from outside; the front looks along -y
_SIDES = {
    "front": ((0, -1, 0), (1, 0, 0), (0, 0, 1)),
    "back": ((0, 1, 0), (-1, 0, 0), (0, 0, 1)),
    "right": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "left": ((-1, 0, 0), (0, -1, 0), (0, 0, 1)),
    "top": ((0, 0, 1), (1, 0, 0), (0, 1, 0)),
    "bottom": ((0, 0, -1), (1, 0, 0), (0, -1, 0)),
}


def box(size: Sequence[float], bevel: float, divisions: int = 1) -> dict[str, Part]:
    """The six sides of a box with rounded edges, centred on the origin.

    Args:
        size: lengths along x, y and z.
        bevel: radius of the edges.
        divisions: of the flat part of each side, for boxes to be bent.

    Returns:
        Parts named front (-y), back, left, right, top, bottom, each with its own texture coordinates.
    """
    half = np.asarray(size, float) / 2
    bevel = min(bevel, 0.45 * float(half.min()) * 2)
    parts = {}
    for name, axes in _SIDES.items():
        normal, right, up = (np.array(axis, float) for axis in axes)
        reach, rise, away = (float(np.abs(axis) @ half) for axis in (right, up, normal))

        def place(u: np.ndarray, w: np.ndarray, frame: tuple = (normal, right, up, reach, rise, away)) -> np.ndarray:
            normal, right, up, reach, rise, away = frame
            point = normal * away + right * reach * (2 * u - 1) + up * rise * (2 * w - 1)
            core = np.clip(point, -(half - bevel), half - bevel)
            out = point - core
            return core + bevel * out / np.maximum(np.linalg.norm(out, axis=-1, keepdims=True), 1e-12)

        knots = [
            np.concatenate([[0], np.linspace(bevel / 2 / side, 1 - bevel / 2 / side, divisions + 1), [1]])
            for side in (reach, rise)
        ]
        parts[name] = _grid(knots[0], knots[1], place)
    return parts


def prism(outline: np.ndarray, low: float, high: float, bevel: float) -> Part:
    """A plate with a star-shaped outline.

    Args:
        outline: float [S, 2], counter-clockwise in x and y, all of it seen from its mean point.
        low: height of its lower side.
        high: height of its upper side.
        bevel: how far the edges are broken.
    """
    centre = outline.mean(0)
    reach = np.linalg.norm(outline - centre, axis=1, keepdims=True)
    inner = centre + (outline - centre) * np.maximum(1 - bevel / np.maximum(reach, 1e-9), 0.3)
    middle = np.broadcast_to(centre, outline.shape)
    layers = [
        (middle, low),
        (inner, low),
        (outline, low + bevel),
        (outline, high - bevel),
        (inner, high),
        (middle, high),
    ]
    return loft(np.stack([np.column_stack([flat, np.full(len(flat), z)]) for flat, z in layers])).projected()


def assemble(pieces: Iterable[tuple[Part, np.ndarray]], gloss: float = 0.25) -> Mesh:
    """Join parts and their pictures into one mesh, centred over the origin and standing on z = 0.

    Args:
        pieces: parts, each with its uint8 [H, W, 3] picture; one picture may serve several parts.
        gloss: see :class:`~mmcl_core.synth.mesh.Mesh`.
    """
    pairs = list(pieces)
    texture, places = _pack([picture for _, picture in pairs])
    vertices, faces, uv, count = [], [], [], 0
    for part, picture in pairs:
        left, top = places[id(picture)]
        inside = 0.5 + np.clip(part.uv, 0, 1) * (picture.shape[1] - 1, picture.shape[0] - 1)
        uv.append((inside + np.array((left, top))) / (texture.shape[1], texture.shape[0]))
        faces.append(part.faces + count)
        vertices.append(part.vertices)
        count += len(part.vertices)
    points, triangles = np.concatenate(vertices), np.concatenate(faces)
    low, high = points.min(0), points.max(0)
    points = (points - ((low[0] + high[0]) / 2, (low[1] + high[1]) / 2, low[2])).astype(np.float32)
    a, b, c = (points[triangles[:, k]].astype(float) for k in range(3))
    solid = np.linalg.norm(np.cross(b - a, c - a), axis=1) > 2 * _MIN_AREA
    return Mesh(points, triangles[solid], np.concatenate(uv)[solid], texture, gloss)


def _grid(u: np.ndarray, w: np.ndarray, place: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> Part:
    """A patch over knots u (rightwards) and w (upwards), by a function of [., ., 1] arrays to points [., ., 3]."""
    points = place(
        np.broadcast_to(u[None, :, None], (len(w), len(u), 1)), np.broadcast_to(w[:, None, None], (len(w), len(u), 1))
    )
    flat = np.stack(np.meshgrid(u, 1 - w), -1).reshape(-1, 2)
    row, column = (g.reshape(-1) for g in np.meshgrid(np.arange(len(w) - 1), np.arange(len(u) - 1), indexing="ij"))
    a = row * len(u) + column
    b, c, d = a + 1, a + len(u) + 1, a + len(u)
    faces = np.concatenate([np.stack([a, b, c], 1), np.stack([a, c, d], 1)])
    return Part(points.reshape(-1, 3), faces, flat[faces])


def _pack(pictures: Sequence[np.ndarray]) -> tuple[np.ndarray, dict[int, tuple[int, int]]]:
    """Place pictures on shelves, tallest first. Returns the texture and the (left, top) of each picture by its id."""
    unique = sorted({id(p): p for p in pictures}.values(), key=lambda p: (-p.shape[0], -p.shape[1]))
    width = max(2 * (128 + 2 * _PAD), *(p.shape[1] + 2 * _PAD for p in unique))
    places, x, y, shelf = {}, 0, 0, 0
    for picture in unique:
        tall, wide = picture.shape[0] + 2 * _PAD, picture.shape[1] + 2 * _PAD
        if x + wide > width:
            x, y, shelf = 0, y + shelf, 0
        places[id(picture)] = (x + _PAD, y + _PAD)
        x, shelf = x + wide, max(shelf, tall)
    texture = np.full((y + shelf, width, 3), 128, np.uint8)
    for picture in unique:
        left, top = places[id(picture)]
        framed = cv2.copyMakeBorder(picture, _PAD, _PAD, _PAD, _PAD, cv2.BORDER_REPLICATE)
        texture[top - _PAD : top - _PAD + framed.shape[0], left - _PAD : left - _PAD + framed.shape[1]] = framed
    return texture, places
