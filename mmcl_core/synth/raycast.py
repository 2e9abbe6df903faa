"""Ray casting: a pinhole camera, solids (one Embree scene each) and flat panels.

Lengths are metres. The world has +z up; a camera has x right, y down, z forward. Rays have directions
(x, y, 1) in the camera, not unit vectors, so that the ray parameter of a hit is its metric depth z.
A solid is placed by moving the rays into its frame; its Embree scene is built once.

Vectors of many pixels are [3, N], a row for each coordinate: what NumPy does with long rows takes a tenth of the time
that it takes with N rows of three. Only Embree wants these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from mmcl_core.synth.mesh import Mesh, along_edges

__all__ = ["Camera", "Hits", "Panel", "Placed", "Solid", "blocked", "cast", "dot"]

_DIRECTIONS = 400  # in which the outermost points of a solid are looked for
_SURFACE = 1e-3  # shadow rays start this far off the surface, metres


@dataclass(frozen=True)
class Camera:
    """A pinhole camera; pixel centres are at integer coordinates.

    Attributes:
        fx, fy, cx, cy: intrinsics in pixels.
        rotation: float32 [3, 3], camera to world.
        position: float32 [3], world.
    """

    fx: float
    fy: float
    cx: float
    cy: float
    rotation: np.ndarray
    position: np.ndarray

    def rays(self, width: int, height: int) -> np.ndarray:
        """World directions through all pixels, row by row, float32 [3, height * width]; depth along each is 1."""
        x = (np.arange(width, dtype=np.float32) - np.float32(self.cx)) / np.float32(self.fx)
        y = (np.arange(height, dtype=np.float32) - np.float32(self.cy)) / np.float32(self.fy)
        right, down, forward = self.rotation.T.astype(np.float32)[..., None]
        rows = y * down + forward
        rays: np.ndarray = (rows[:, :, None] + (x * right)[:, None, :]).reshape(3, -1)
        return rays

    def project(self, points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Pixel coordinates [N, 2] and depths [N] of world points [N, 3]."""
        local = (points - self.position) @ self.rotation
        z = np.maximum(local[:, 2], 1e-6)
        pixels = np.stack([self.fx * local[:, 0] / z + self.cx, self.fy * local[:, 1] / z + self.cy], axis=1)
        return pixels, local[:, 2]

    def window(self, left: float, top: float, side: float, size: int) -> Camera:
        """The camera of a square window of this picture, resized to ``size`` x ``size`` pixels.

        Args:
            left, top: the window's outer corner in pixels of this camera (its first pixel centre is at ``left + 0.5``
                on a scale where pixel 0 covers 0 to 1).
            side: side of the window in pixels of this camera.
            size: pixels on a side of the result.
        """
        k = size / side
        cx, cy = (self.cx + 0.5 - left) * k - 0.5, (self.cy + 0.5 - top) * k - 0.5
        return Camera(self.fx * k, self.fy * k, cx, cy, self.rotation, self.position)


class Solid:
    """A mesh that rays can hit.

    Attributes:
        mesh: the mesh.
        centre, radius: bounding sphere in the frame of the mesh, metres.
        outline: float32 [M, 3], the vertices that lie outermost in some direction: enough for boxes and support.
        edges: float32 [N, 3], points along rims and sharp edges, evenly spread, 2 mm apart or more; with ``outline``.
    """

    def __init__(self, mesh: Mesh) -> None:
        self.mesh = mesh
        low, high = mesh.bounds
        self.centre = (low + high) / 2
        self.radius = float(np.linalg.norm(mesh.vertices - self.centre, axis=1).max())
        self.outline = _outermost(mesh.vertices - self.centre) + self.centre
        self._scene = _embree_scene(mesh)

    @cached_property
    def edges(self) -> np.ndarray:
        """See the class; worked out when first asked for."""
        return np.concatenate([self.outline, along_edges(self.mesh)])

    def hit(self, origins: np.ndarray, directions: np.ndarray) -> dict[str, np.ndarray]:
        """Nearest hits in the mesh's frame: embreex's geomID (-1: none), primID, u, v, tfar per ray [N, 3]."""
        found: dict[str, np.ndarray] = self._scene.run(origins, directions, output=1)
        return found

    def occludes(self, origins: np.ndarray, directions: np.ndarray, reach: np.ndarray | None = None) -> np.ndarray:
        """Whether each ray [N, 3] meets the mesh within ``reach`` [N] lengths of its direction, bool [N]."""
        if reach is None:
            return np.asarray(self._scene.run(origins, directions, query="OCCLUDED") >= 0)
        return np.asarray(self._scene.run(origins, directions, reach, query="OCCLUDED") >= 0)


@dataclass
class Placed:
    """A solid in the world: ``world = rotation @ point + position``.

    Attributes:
        solid: what it is.
        rotation, position: float [3, 3] and [3].
        shine: factor on the gloss of its mesh.
        paint: factors on the linear colours of its texture, [3]; None: as it is.
        centre, outline: the solid's bounding sphere centre [3] and outermost points [M, 3] in the world.
    """

    solid: Solid
    rotation: np.ndarray
    position: np.ndarray
    shine: float = 1.0
    paint: np.ndarray | None = None
    centre: np.ndarray = field(init=False)
    outline: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        turned = self.rotation.astype(np.float32).T
        self.centre = self.solid.centre @ turned + self.position.astype(np.float32)
        self.outline = self.solid.outline @ turned + self.position.astype(np.float32)

    @cached_property
    def edges(self) -> np.ndarray:
        """Those of the solid in the world, float32 [N, 3]; worked out when first asked for."""
        edges: np.ndarray = self.solid.edges @ self.rotation.T.astype(np.float32) + self.position.astype(np.float32)
        return edges


@dataclass
class Panel:
    """A flat rectangle or ellipse: table, floor, wall, a sheet of paper.

    Attributes:
        centre: [3], world.
        u, v: unit vectors along its sides, [3].
        half: half lengths along u and v, metres (may be infinite).
        texture: which background texture it shows.
        scale: metres that one repeat of the texture covers.
        offset: shift of the texture in repeats, (u, v).
        gloss: as of a mesh.
        round: an ellipse instead of a rectangle.
    """

    centre: np.ndarray
    u: np.ndarray
    v: np.ndarray
    half: tuple[float, float]
    texture: int = 0
    scale: float = 1.0
    offset: tuple[float, float] = (0.0, 0.0)
    gloss: float = 0.1
    round: bool = False
    normal: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.normal = np.cross(self.u, self.v)


@dataclass
class Hits:
    """What N rays from the camera meet first.

    Attributes:
        z: float32 [N], depth in metres; infinite where nothing was met.
        owner: int32 [N]: index of the solid; number of solids + index of the panel; -1 nothing.
        triangle: int32 [N], triangle of the solid.
        u, v: float32 [N], on a solid the barycentric weights of corners 1 and 2; on a panel metres from its centre.
    """

    z: np.ndarray
    owner: np.ndarray
    triangle: np.ndarray
    u: np.ndarray
    v: np.ndarray


def cast(position: np.ndarray, rays: np.ndarray, placed: Sequence[Placed], panels: Sequence[Panel] = ()) -> Hits:
    """Nearest hits of rays from one point.

    Args:
        position: float [3], where all rays start.
        rays: float32 [3, N], directions with depth 1 (see :meth:`Camera.rays`).
        placed, panels: what there is to hit.
    """
    n = rays.shape[1]
    hits = Hits(
        np.full(n, np.inf, np.float32), np.full(n, -1, np.int32), np.zeros(n, np.int32), *np.zeros((2, n), np.float32)
    )
    length2 = dot(rays, rays)
    for k, thing in enumerate(placed):
        offset = thing.centre - position
        along = offset.astype(np.float32) @ rays
        reach2 = np.float32(offset @ offset - (thing.solid.radius * 1.001) ** 2)
        index = np.flatnonzero((along * along > reach2 * length2) & (along > 0)) if reach2 > 0 else np.arange(n)
        if len(index) == 0:
            continue
        rotation = thing.rotation.astype(np.float32)
        start = ((position - thing.position) @ rotation).astype(np.float32)
        found = thing.solid.hit(np.tile(start, (len(index), 1)), rays.take(index, 1).T @ rotation)
        near = np.flatnonzero((found["geomID"] >= 0) & (found["tfar"] < hits.z.take(index)))
        index = index.take(near)
        hits.owner[index], hits.triangle[index] = k, found["primID"].take(near)
        hits.z[index], hits.u[index], hits.v[index] = (found[name].take(near) for name in ("tfar", "u", "v"))
    for k, panel in enumerate(panels):
        _cast_panel(position, rays, panel, len(placed) + k, hits)
    return hits


def blocked(
    points: np.ndarray,
    normals: np.ndarray,
    directions: np.ndarray,
    placed: Sequence[Placed],
    reach: float = np.inf,
) -> np.ndarray:
    """Whether a solid lies between surface points and a light.

    Args:
        points, normals: float32 [3, N], surface points and unit normals.
        directions: float32 [3, N], unit vectors towards the light.
        placed: the solids.
        reach: metres beyond which nothing counts.

    Returns:
        bool [N].
    """
    result = np.zeros(points.shape[1], bool)
    start = points + np.float32(_SURFACE) * normals
    for thing in placed:
        offset = thing.centre[:, None] - start
        along = dot(offset, directions)
        radius = thing.solid.radius
        close = dot(offset, offset) - along * along < radius * radius
        index = np.flatnonzero(close & (along > -radius) & (along < reach + radius) & ~result)
        if len(index) == 0:
            continue
        rotation = thing.rotation.astype(np.float32)
        origin = (start.take(index, 1) - thing.position.astype(np.float32)[:, None]).T @ rotation
        limit = None if np.isinf(reach) else np.full(len(index), reach, np.float32)
        result[index] = thing.solid.occludes(origin, directions.take(index, 1).T @ rotation, limit)
    return result


def dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Scalar products [N] of vectors [3, N] or one vector [3] with vectors [3, N]."""
    total: np.ndarray = a[0] * b[0]
    total += a[1] * b[1]
    total += a[2] * b[2]
    return total


def _cast_panel(position: np.ndarray, rays: np.ndarray, panel: Panel, owner: int, hits: Hits) -> None:
    offset = (panel.centre - position).astype(np.float32)
    normal, u, v = (a.astype(np.float32) for a in (panel.normal, panel.u, panel.v))
    with np.errstate(divide="ignore", invalid="ignore"):
        z = (normal @ offset) / (normal @ rays)
        index = np.flatnonzero((z > 1e-3) & (z < hits.z))
    if len(index) == 0:
        return
    z = z.take(index)
    point = rays.take(index, 1) * z - offset[:, None]
    pu, pv = u @ point, v @ point
    a, b = pu / np.float32(panel.half[0]), pv / np.float32(panel.half[1])
    inside = (a * a + b * b <= 1) if panel.round else (np.abs(a) <= 1) & (np.abs(b) <= 1)
    near = np.flatnonzero(inside)
    index = index.take(near)
    hits.owner[index], hits.z[index] = owner, z.take(near)
    hits.u[index], hits.v[index] = pu.take(near), pv.take(near)


def _embree_scene(mesh: Mesh) -> Any:
    from embreex.mesh_construction import TriangleMesh
    from embreex.rtcore_scene import EmbreeScene

    scene = EmbreeScene()
    TriangleMesh(scene, mesh.vertices, mesh.faces)  # indexed: built in 0.6 of the time of loose triangles
    return scene


def _outermost(points: np.ndarray) -> np.ndarray:
    """The points farthest out along evenly spread directions (a Fibonacci sphere), without repeats."""
    k = np.arange(_DIRECTIONS) + 0.5
    z = 1 - 2 * k / _DIRECTIONS
    ring, angle = np.sqrt(1 - z * z), np.pi * (1 + 5**0.5) * k
    sphere = np.stack([ring * np.cos(angle), ring * np.sin(angle), z], axis=1).astype(np.float32)
    axes = np.concatenate([np.eye(3), -np.eye(3)]).astype(np.float32)
    far = (np.concatenate([sphere, axes]) @ points.T).argmax(axis=1)  # along rows that lie together in memory
    return np.asarray(points[np.unique(far)])
