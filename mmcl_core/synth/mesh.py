"""Textured triangle meshes, and folders of them.

A folder of objects holds one sub-folder per class, named as the class. The mesh files lie in it, or in sub-folders of
it; each is an instance of the class. Where a folder holds ``textured.*``, its other files are taken for the same object
without texture (as in the downloads of YCB) and left out; of files that differ in their suffix only, the first by name
is taken, and of sub-folders that are versions of one object, as YCB names them (``google_16k``, ``poisson``, ...), one.
Hidden files and folders are passed over, and what programs leave, such as ``__MACOSX``.
What is in the files: :mod:`mmcl_core.synth.mesh_files`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mmcl_core.data.sources import folders_in, visible
from mmcl_core.errors import DataError

__all__ = ["MESH_SUFFIXES", "Mesh", "along_edges", "object_files", "smooth_normals"]

MESH_SUFFIXES = (".obj", ".ply", ".glb", ".gltf", ".stl", ".off")
_VERSIONS = ("google_16k", "google_64k", "google_512k", "poisson", "tsdf")  # of one object, in the downloads of YCB
_ALONG_EDGES = 800  # most points along the edges of a mesh
_CROWD = 256  # faces around a point, above which they are not compared one by one


@dataclass
class Mesh:
    """A textured triangle mesh in metres.

    Attributes:
        vertices: float32 [V, 3], metres. Upright is +z. Where the mesh stands along z does not matter to the renderer.
        faces: int32 [F, 3], counter-clockwise seen from outside (both sides are rendered all the same).
        uv: float32 [V, 2], or [F, 3, 2] for each corner of each face. (0, 0) is the top left corner of the
            texture, (1, 1) its bottom right corner (rows downwards); values outside [0, 1] repeat the texture.
        texture: uint8 [H, W, 3], RGB.
        gloss: strength of the highlight in [0, 1]: 0 chalk, 0.3 printed board or plastic, 1 polished metal.
        normals: float32 [F, 3, 3], unit normals at the corners; left out, they are smoothed over edges
            flatter than 40 degrees.
        others: further textures, each as ``texture``.
        shows: int32 [F], the texture of each face: 0 is ``texture``, k is ``others[k - 1]``; left out, all show
            ``texture``.
        remarks: what of the colours of its file the mesh does not show, a short phrase each.
    """

    vertices: np.ndarray
    faces: np.ndarray
    uv: np.ndarray
    texture: np.ndarray
    gloss: float = 0.25
    normals: np.ndarray = field(default_factory=lambda: np.empty((0, 3, 3), np.float32))
    others: Sequence[np.ndarray] = ()
    shows: np.ndarray = field(default_factory=lambda: np.empty(0, np.int32))
    remarks: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self.vertices = np.ascontiguousarray(self.vertices, np.float32)
        self.faces = np.ascontiguousarray(self.faces, np.int32)
        self.uv = np.ascontiguousarray(self.uv, np.float32)
        if self.uv.ndim == 2:
            self.uv = self.uv[self.faces]
        for picture in (self.texture, *self.others):
            if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
                raise DataError(f"a texture must be uint8 [H, W, 3], not {picture.dtype} {picture.shape}")
        if self.uv.shape != (len(self.faces), 3, 2):
            raise DataError(
                f"uv must have one pair per vertex or per corner; {self.uv.shape} for {len(self.faces)} faces"
            )
        if len(self.shows) != len(self.faces):
            self.shows = np.zeros(len(self.faces), np.int32)
        if len(self.normals) != len(self.faces):
            self.normals = smooth_normals(self.vertices, self.faces)

    @property
    def bounds(self) -> np.ndarray:
        """Lowest and highest corner, float32 [2, 3], metres."""
        return np.stack([self.vertices.min(0), self.vertices.max(0)])


def smooth_normals(vertices: np.ndarray, faces: np.ndarray, crease: float = 40.0) -> np.ndarray:
    """Unit normals at the corners of the faces.

    The normal of a corner is the mean, weighted by area, of the faces around that point which are within
    ``crease`` degrees of the face itself: round parts look round and edges stay sharp. Vertices at one
    position (seams of the texture) count as one.

    Args:
        vertices: float [V, 3].
        faces: int [F, 3].
        crease: greatest angle between faces that are smoothed together, degrees.

    Returns:
        float32 [F, 3, 3].
    """
    unit, area = _face_normals(vertices, faces)
    corner_point = _welded(vertices)[faces].reshape(-1)  # the point under each of the 3F corners
    count = np.bincount(corner_point, minlength=int(corner_point.max()) + 1)
    cosine = np.cos(np.deg2rad(crease))
    own = np.repeat(np.arange(len(faces)), 3)  # the face of each corner
    even = _even(corner_point, unit[own], np.cos(np.deg2rad(crease / 2)))
    total = np.stack([np.bincount(corner_point, area[own, k]) for k in range(3)], axis=1)[corner_point]
    order = np.argsort(corner_point, kind="stable")
    start = np.cumsum(count) - count
    rest = np.flatnonzero(~even[corner_point] & (count <= _CROWD)[corner_point])
    degree = count[corner_point[rest]]
    corner = np.repeat(rest, degree)  # every corner that is left, once per face around its point
    step = np.arange(len(corner)) - np.repeat(np.cumsum(degree) - degree, degree)
    other = order[start[corner_point[corner]] + step] // 3
    near = np.einsum("ij,ij->i", unit[corner // 3], unit[other]) > cosine
    corner, other = corner[near], other[near]
    for k in range(3):
        total[rest, k] = np.bincount(corner, area[other, k], len(corner_point))[rest]
    for point in np.flatnonzero((count > _CROWD) & ~even):
        corner = order[start[point] : start[point] + count[point]]
        total[corner] = _sums_of_near(unit[corner // 3], area[corner // 3], cosine)
    length = np.linalg.norm(total, axis=1, keepdims=True)
    total = np.where(length > 1e-20, total / np.maximum(length, 1e-20), np.repeat(unit, 3, axis=0))
    return total.reshape(-1, 3, 3).astype(np.float32)


def _even(point: np.ndarray, unit: np.ndarray, cosine: float) -> np.ndarray:
    """Whether all faces around each point are near its middle, and so near each other: most are on smooth surfaces.

    Args:
        point: int [N], the point at each corner.
        unit: float64 [N, 3], the normal of the corner's face.
        cosine: of half the angle within which faces are near.

    Returns:
        bool [points].
    """
    total = np.stack([np.bincount(point, unit[:, k]) for k in range(3)], axis=1)
    middle = total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-20)
    far = np.einsum("ij,ij->i", unit, middle[point]) < cosine + 1e-9
    return np.asarray(np.bincount(point, far) == 0)


def _sums_of_near(unit: np.ndarray, area: np.ndarray, cosine: float) -> np.ndarray:
    """For each of many faces around a point the sum of ``area`` [N, 3] over those with a normal near its own.

    Normals are put in cells of space; pairs of cells that are all near, or all far, need no look at their faces.

    Args:
        unit: the normals [N, 3], as :func:`_face_normals` gives them.
        area: the normals with the areas as their lengths [N, 3].
        cosine: of the angle; near are those with a greater one.
    """
    for parts in (256, 64, 16, 4):
        cell = np.unique(np.round(unit * parts), axis=0, return_inverse=True)[1].reshape(-1)
        if cell.max() < 4 * np.sqrt(len(unit)):
            break
    size = np.bincount(cell)
    middle = np.stack([np.bincount(cell, unit[:, k]) / size for k in range(3)], axis=1)
    whole = np.stack([np.bincount(cell, area[:, k]) for k in range(3)], axis=1)
    radius = np.zeros(len(size))
    np.maximum.at(radius, cell, np.linalg.norm(unit - middle[cell], axis=1))
    # u . v - a . b = (u - a) . v + a . (v - b), for u and v in cells around a and b: none is longer than 1
    slack = radius[:, None] + radius + 1e-9
    between = middle @ middle.T
    total = ((between - slack > cosine).astype(np.float64) @ whole)[cell]
    unclear = np.abs(between - cosine) <= slack
    members = np.split(np.argsort(cell, kind="stable"), np.cumsum(size)[:-1])
    for own, others in zip(members, unclear, strict=True):
        if others.any():
            other = np.concatenate([members[k] for k in np.flatnonzero(others)])
            total[own] += (unit[own] @ unit[other].T > cosine) @ area[other]
    return total


def along_edges(mesh: Mesh) -> np.ndarray:
    """Points along the rims of open meshes and edges above 20 degrees, 2 mm apart, or as far as 800 of them are.

    Returns:
        float32 [N, 3], metres.
    """
    point = _welded(mesh.vertices)
    pairs = mesh.faces[:, [0, 1, 1, 2, 2, 0]].reshape(-1, 2)
    low, high = np.sort(point[pairs], axis=1).astype(np.int64).T
    _, first, edge, faces = np.unique(
        low * len(point) + high, return_index=True, return_inverse=True, return_counts=True
    )
    normals = np.repeat(_face_normals(mesh.vertices, mesh.faces)[0], 3, axis=0)
    total = np.stack([np.bincount(edge.reshape(-1), normals[:, k], len(first)) for k in range(3)], axis=1)
    bent = np.linalg.norm(total, axis=1) < faces * np.cos(np.deg2rad(10))  # half the angle between two faces
    pairs = pairs[first[(faces == 1) | bent]]
    if len(pairs) == 0:
        return np.empty((0, 3), np.float32)
    start, way = mesh.vertices[pairs[:, 0]], mesh.vertices[pairs[:, 1]] - mesh.vertices[pairs[:, 0]]
    length = np.linalg.norm(way, axis=1)
    ends = np.cumsum(np.maximum(length, 1e-9), dtype=np.float64)
    place = np.linspace(0, ends[-1], min(_ALONG_EDGES, int(ends[-1] / 0.002) + 1), endpoint=False)
    edge = np.searchsorted(ends, place, side="right")
    share = 1 - (ends[edge] - place) / np.maximum(length[edge], 1e-12)
    return np.asarray(start[edge] + share[:, None] * way[edge], np.float32)


def _face_normals(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Normals [F, 3] of length one (zero without an area), and of twice the area of each face."""
    corners = vertices[faces].astype(np.float64)
    area = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    return area / np.maximum(np.linalg.norm(area, axis=1, keepdims=True), 1e-20), area


def _welded(vertices: np.ndarray) -> np.ndarray:
    """Numbers [V] of the points that vertices are at; those at one position, such as a seam's, have the same.

    In the order of (x, y, z), as ``np.unique`` of the rows would number them, at half its time.
    """
    number = np.zeros(len(vertices), np.int64)
    for axis in np.round(vertices.astype(np.float64), 6).T:
        own, place = np.unique(axis, return_inverse=True)
        number = np.unique(number * len(own) + place.reshape(-1), return_inverse=True)[1].reshape(-1)
    return number


def object_files(folder: str | Path) -> tuple[list[tuple[str, str, Path]], list[Path]]:
    """The mesh files of a folder of objects.

    Args:
        folder: one sub-folder per class (see the module).

    Returns:
        (class, instance, mesh file), ordered by class and instance, and the mesh files that are left out. An instance
        is named as its class or sub-folder where that holds one mesh, with the name of the file added where it holds
        several.

    Raises:
        DataError: no such folder, or no mesh in it.
    """
    root = Path(folder)
    expected = f"expected one sub-folder per class with a mesh ({' '.join(MESH_SUFFIXES)}) in it"
    if not root.is_dir():
        raise DataError(f"there is no folder {root}; {expected}, or the word household")
    found: list[tuple[str, str, Path]] = []
    left_out: list[Path] = []
    for place in folders_in(root):
        inner = [p for p in folders_in(place) if _mesh_files(p)]
        if _mesh_files(place):
            left_out += [path for p in inner for path in _mesh_files(p)]
        elif inner and {p.name for p in inner} <= {*_VERSIONS}:
            inner.sort(key=lambda p: _VERSIONS.index(p.name))
            left_out += [path for p in inner[1:] for path in _mesh_files(p)]
            inner = inner[:1]
        for holder in (place,) if _mesh_files(place) else inner:
            files = _mesh_files(holder)
            taken = {path.stem: path for path in reversed([p for p in files if p.stem == "textured"] or files)}
            left_out += sorted({*files} - {*taken.values()})
            name = holder.relative_to(root).as_posix()
            for stem, path in sorted(taken.items()):
                found.append((place.name, name if len(taken) == 1 else f"{name}/{stem}", path))
    if not found:
        raise DataError(f"no mesh in {root}: {expected}, such as {root / 'mug' / 'textured.obj'}")
    return found, left_out


def _mesh_files(folder: Path) -> list[Path]:
    return [p for p in visible(folder) if p.suffix.lower() in MESH_SUFFIXES and p.is_file()]
