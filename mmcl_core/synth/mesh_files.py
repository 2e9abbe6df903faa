"""Mesh files: their triangles, and the colours that their materials, pictures and vertices have.

Lengths are metres and upright is +z. Meshes with +y up are turned: .glb and .gltf files, by their standard (glTF 2.0,
section 3.4), and others where that is said of them. What a face shows is, in this order: the picture of its material,
the colours of its vertices, the plain colour of its material, grey. In .glb and .gltf files the base colour of a
material multiplies its picture or the colours of its vertices, and both it and these are linear light (section 3.9.2).
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np

from mmcl_core.errors import DataError
from mmcl_core.synth.gltf_files import pictures_of_gltf
from mmcl_core.synth.mesh import Mesh
from mmcl_core.synth.obj_files import materials_of, obj_text, plain_text, without_options
from mmcl_core.synth.shade import painted, srgb
from mmcl_core.words import counted

__all__ = ["check_textures", "load_mesh"]

_Y_UP = (".glb", ".gltf")
_GREY = 150
_FARTHEST_UV = 1e6  # repeats of a picture, beyond which float32 does not tell its pixels apart


@dataclass
class _Part:
    """The faces of a file that share a material.

    Attributes:
        vertices: float64 [V, 3], metres.
        faces: int [F, 3].
        colours: uint8 [F, 3], of the faces where there is no picture.
        picture, uv: texture uint8 [H, W, 3], and float64 [V, 2] with rows downwards; or None.
        remark: what is left out; empty: nothing.
    """

    vertices: np.ndarray
    faces: np.ndarray
    colours: np.ndarray
    picture: np.ndarray | None = None
    uv: np.ndarray | None = None
    remark: str = ""


def load_mesh(path: str | Path, up: str = "z") -> Mesh:
    """Load one mesh file with its colours (see the module); nodes are put in their places.

    A mesh far from the origin, by more than a hundred times its size, is moved there.

    Args:
        path: an .obj, .ply, .stl, .off, .glb or .gltf file in metres.
        up: the axis, ``z`` or ``y``, that is up in the file and becomes +z; in .glb and .gltf files it is always +y.

    Returns:
        The mesh; its ``remarks`` name what of the colours is not shown.

    Raises:
        DataError: the file cannot be read, holds no triangles or none with an area, or is not in metres by the look of
            it; or a texture is missing, see :func:`check_textures`.
    """
    check_textures(path)
    try:
        parts = _parts(path)
    except Exception as error:
        raise DataError(f"cannot read the mesh {path}: {_reason(path, error)}") from error
    if not parts:
        raise DataError(f"{path} holds no triangles")
    if not all(np.isfinite(part.vertices).all() for part in parts):
        raise DataError(f"{path} has triangles with corners that are no finite numbers; clean it")
    first = np.cumsum([0, *(len(part.vertices) for part in parts)])
    vertices = np.concatenate([part.vertices for part in parts])
    faces = np.concatenate([part.faces + start for part, start in zip(parts, first, strict=False)])
    sides = vertices[faces[:, 1:]] - vertices[faces[:, :1]]
    if np.linalg.norm(np.cross(sides[:, 0], sides[:, 1]), axis=1).sum() < 1e-9:
        raise DataError(f"{path} holds no triangle with an area")
    extent = float(np.ptp(vertices, axis=0).max())
    if not 0.002 < extent < 5.0:
        raise DataError(f"{path} measures {extent:g} m; meshes are expected in metres, 2 mm to 5 m: scale it")
    middle = (vertices.min(0) + vertices.max(0)) / 2
    if np.abs(middle).max() > 100 * extent:  # as in maps: float32, which meshes have, would bend it
        vertices = vertices - middle
    if up == "y" or _is(path, *_Y_UP):  # by a quarter turn about x
        vertices = vertices[:, [0, 2, 1]] * (1.0, -1.0, 1.0)
    pictures, shows, uv = _skins(parts)
    remarks = tuple(dict.fromkeys([*_outside(path)[1], *(part.remark for part in parts if part.remark)]))
    return Mesh(vertices, faces, uv, pictures[0], others=pictures[1:], shows=shows, remarks=remarks)


def _reason(path: str | Path, error: Exception) -> str:
    """Why a file cannot be read, where trimesh says it in words that do not tell."""
    if isinstance(error, FileNotFoundError) and error.filename != str(path):  # old trimesh opens what is not there
        missing = Path(error.filename).name if error.filename else error
        return f"it names the file {missing}, which is not there; put it there"
    if isinstance(error, ModuleNotFoundError) and error.name == "charset_normalizer":
        return "it is damaged, or has text that is not UTF-8"
    advice = "; if it has other faces than triangles, export it with triangles alone" if _is(path, ".ply") else ""
    return f"{error}{advice}"


def _parts(path: str | Path) -> list[_Part]:
    """The parts of a file, in its order, without points that no triangle uses."""
    import trimesh

    file = io.StringIO(obj_text(Path(path).read_bytes())) if _is(path, ".obj") else str(path)
    kind = Path(path).suffix[1:].lower()
    scene: Any = trimesh.load_scene(file, kind, process=False, resolver=_resolver(path))
    found = []
    for node in scene.graph.nodes_geometry:
        transform, name = scene.graph[node]
        shape = scene.geometry[name]
        if isinstance(shape, trimesh.Trimesh) and len(shape.faces):
            part = _coloured(shape, str(name), linear=_is(path, *_Y_UP))
            if _least_alpha(getattr(shape.visual, "material", None)) < 128:
                part.remark = part.remark or f"{name} is transparent, in parts at least: it is shown opaque"
            used = np.zeros(len(shape.vertices), bool)
            used[part.faces] = True  # points of a scan that no triangle uses are no part of the object
            part.vertices = trimesh.transform_points(part.vertices, transform)[used]
            part.faces = (np.cumsum(used) - 1)[part.faces]
            if np.linalg.det(transform[:3, :3]) < 0:  # a mirror turns triangles inside out
                part.faces = part.faces[:, ::-1]
            part.uv = None if part.uv is None else part.uv[used]
            found.append(part)
    return found


def _coloured(shape: Any, name: str, linear: bool) -> _Part:
    """A geometry of a file as a part, with the colours that it has; ``linear``: those of vertices are linear light."""
    visual, vertices, faces = shape.visual, np.asarray(shape.vertices), np.asarray(shape.faces)
    if visual.kind != "texture":
        grey = np.full((len(faces), 3), _GREY, np.uint8)
        colours = grey if visual.kind is None else _bytes(np.asarray(visual.face_colors, np.uint8), linear)
        if len(colours) != len(faces):
            raise ValueError("its faces have colours of their own")
        return _Part(vertices, faces, colours)
    material, uv = visual.material, visual.uv
    picture, factor = _picture(material), getattr(material, "baseColorFactor", None)
    tint = np.ones(3) if factor is None else np.asarray(factor, np.float64)[:3] / 255
    of_vertices = visual.vertex_attributes.get("color", shape.vertex_attributes.get("color"))
    if of_vertices is not None and len(of_vertices) != len(vertices):
        of_vertices = None
    if picture is not None and uv is not None and len(uv) == len(vertices):
        uv = np.stack([uv[:, 0], 1.0 - uv[:, 1]], axis=1)  # mesh formats count v from the bottom
        part = _Part(vertices, faces, np.empty((0, 3), np.uint8), _tinted(picture, tint), uv)
        lost = ~(np.abs(uv) <= _FARTHEST_UV).all(axis=1)  # not a number, too
        if lost.any():
            uv[lost] = 0.5
            part.remark = (
                f"{name} has no place in its picture (uv) for {counted(int(lost.sum()), 'point')}: its middle is shown"
            )
        if of_vertices is not None and "color" in visual.vertex_attributes and _bytes(of_vertices).min() < 255:
            part.remark = f"{name} has colours of vertices that are to multiply its picture: the picture alone is shown"
        return part
    if of_vertices is not None:
        colours = _bytes(of_vertices, linear)[faces].mean(axis=1).astype(np.uint8)
    else:
        colours = np.tile(_plain(material), (len(faces), 1))
    remark = f"{name} has a picture, but no place in it (uv) for its faces: it is plain" if picture is not None else ""
    return _Part(vertices, faces, _tinted(colours, tint), remark=remark)


def _picture(material: Any) -> np.ndarray | None:
    """The picture of a material, uint8 [H, W, 3]."""
    from PIL import Image
    from trimesh.visual.material import empty_material

    image = getattr(material, "image", None)
    if image is None:
        image = getattr(material, "baseColorTexture", None)
    if image is None:
        return None
    if image.mode == "I" or image.mode.startswith("I;16"):  # as it is, whatever is above 255 would become white
        image = Image.fromarray((np.asarray(image) // 257).astype(np.uint8))
    found = np.array(image.convert("RGB"))
    none = np.array(empty_material().image.convert("RGB"))  # what stands for no material at all
    return None if np.array_equal(found, none) else found


def _least_alpha(material: Any) -> int:
    """How little of the light behind it a material of a .glb or .gltf file stops somewhere; 255: all of it."""
    if getattr(material, "alphaMode", None) not in ("MASK", "BLEND"):
        return 255
    image, factor = material.baseColorTexture, material.baseColorFactor
    least = 255 if factor is None else int(factor[3])
    return min(least, image.getchannel("A").getextrema()[0]) if image is not None and image.mode == "RGBA" else least


def _plain(material: Any) -> np.ndarray:
    """The plain colour of a material, uint8 [3], before its base colour as a factor."""
    if hasattr(material, "baseColorFactor"):
        return np.full(3, 255, np.uint8)
    stated = "kd" in getattr(material, "kwargs", {})
    return np.asarray(material.main_color if stated else (_GREY,) * 3, np.uint8)[:3]


def _bytes(colours: Any, linear: bool = False) -> np.ndarray:
    """Colours as they are stored, in 0..1, 8 or 16 bits, as uint8 [N, 3]; ``linear``: from linear light to sRGB."""
    found = np.asarray(colours)[:, :3]
    if linear:
        found = srgb(np.clip(found / (1 if found.dtype.kind == "f" else np.iinfo(found.dtype).max), 0, 1))
    if found.dtype.kind == "f":
        return (np.clip(np.nan_to_num(found), 0, 1) * 255).round().astype(np.uint8)
    return (found // 257 if found.dtype == np.uint16 else found).astype(np.uint8)


def _tinted(colours: np.ndarray, tint: np.ndarray) -> np.ndarray:
    """Colours uint8 [..., 3] times factors on linear light [3]."""
    if (tint == 1).all():
        return colours
    return painted(colours.reshape(-1, 3), tint).reshape(colours.shape)


def _skins(parts: Sequence[_Part]) -> tuple[list[np.ndarray], np.ndarray, np.ndarray]:
    """The textures of the parts, each once.

    Returns:
        The textures; which of them each face shows, int32 [F]; and uv, float [F, 3, 2].
    """
    pictures: list[np.ndarray] = []
    shows = []
    for part in parts:
        if part.picture is None:
            shows.append(-1)
            continue
        same = [k for k, known in enumerate(pictures) if np.array_equal(known, part.picture)]
        if not same:
            pictures.append(part.picture)
        shows.append(same[0] if same else len(pictures) - 1)
    uvs = [np.empty((len(part.faces), 3, 2)) if part.uv is None else part.uv[part.faces] for part in parts]
    if -1 in shows:  # one texture for the colours of all faces without a picture
        plain = [k for k, picture in enumerate(shows) if picture < 0]
        uv, texture = _coloured_faces(np.concatenate([parts[k].colours for k in plain]))
        pieces = np.split(uv, np.cumsum([len(parts[k].faces) for k in plain])[:-1])
        for k, piece in zip(plain, pieces, strict=True):
            uvs[k], shows[k] = piece, len(pictures)
        pictures.append(texture)
    counts = [len(part.faces) for part in parts]
    return pictures, np.repeat(np.array(shows, np.int32), counts), np.concatenate(uvs)


def _coloured_faces(colours: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A texture with a block of 4 x 4 pixels for every face (reduced pictures stay clean), and its uv."""
    side = int(np.ceil(np.sqrt(len(colours))))
    grid = np.full((side * side, 3), _GREY, np.uint8)
    grid[: len(colours)] = colours
    texture = grid.reshape(side, side, 3).repeat(4, 0).repeat(4, 1)
    row, column = np.divmod(np.arange(len(colours)), side)
    centre = (np.stack([column, row], axis=1) + 0.5) / side
    return np.repeat(centre[:, None], 3, axis=1), texture


def check_textures(path: str | Path) -> str:
    """Look for the textures of a mesh that are in other files.

    These are what the materials of an .obj file name as ``map_Kd``, a .ply file as ``TextureFile``, and the materials
    of a .gltf or .glb file as base colour.

    Args:
        path: a mesh file.

    Returns:
        Why faces of an .obj file will be plain, though they name a material: a short phrase; otherwise empty.

    Raises:
        DataError: a texture of a material that the mesh uses is missing or no picture; names both files. A .gltf or
            .glb file whose pictures or numbers cannot be read.
    """
    if not Path(path).is_file():
        return ""
    resolver = _resolver(path)
    reason, pictures = materials_of(path, resolver) if _is(path, ".obj") else ("", [])
    for file, value in pictures:
        what = f"the mesh {path} has the texture {without_options(value)[0]} ({file})"
        _check_picture(resolver, value, what, "put it there, or take its map_Kd line out for a mesh of plain colour")
    for name in _outside(path)[0]:
        _check_picture(resolver, name, f"the mesh {path} has the texture {name}", "put it there")
    return reason


def _is(path: str | Path, *suffixes: str) -> bool:
    return Path(path).suffix.lower() in suffixes


def _resolver(path: str | Path) -> Any:
    """Finds the files that a mesh names; they may be written as in addresses (``%20``), or with backslashes.

    Options before the name of a picture are passed over; .mtl files come as text.
    """
    from trimesh.resolvers import FilePathResolver

    class Resolver(FilePathResolver):
        def get(self, name: str) -> Any:
            try:
                found = super().get(name)
            except FileNotFoundError:
                found = super().get(unquote(without_options(name)[0]).replace("\\", "/"))
            return plain_text(found) if name.lower().endswith(".mtl") else found

    return Resolver(str(path))


def _outside(path: str | Path) -> tuple[list[str], list[str]]:
    """The pictures in other files that a mesh other than .obj shows, and what of its colours is shown otherwise.

    Raises:
        DataError: a picture of a kind, or numbers, that cannot be read.
    """
    if _is(path, ".obj"):
        moved = [(without_options(value)[1], file) for file, value in materials_of(path, _resolver(path))[1]]
        return [], [f"{options} of map_Kd in {file} is not looked at" for options, file in moved if options]
    if _is(path, ".off"):
        coloured = re.match(rb"\s*(ST)?C", Path(path).read_bytes())
        return [], ["colours of points in .off files are not read: it is grey"] if coloured else []
    if _is(path, ".ply"):
        with Path(path).open("rb") as file:
            header = file.read(1 << 16).partition(b"end_header")[0]
        found = re.findall(rb"^comment\s+TextureFile\s+(.+)", header, re.MULTILINE | re.I)
        names = [name.decode("utf-8", "surrogateescape").strip() for name in found]
        if not re.search(rb"^property\s.*\s(s|u|texture_u|texcoord)\s*$", header, re.MULTILINE):
            return [], []  # without places in it no picture is shown
        return names[-1:], [f"of its {len(names)} pictures {names[-1]} alone is shown"] if len(names) > 1 else []
    return pictures_of_gltf(path) if _is(path, *_Y_UP) else ([], [])


def _check_picture(resolver: Any, name: str, what: str, remedy: str) -> None:
    from PIL import Image

    try:
        Image.open(io.BytesIO(resolver.get(name))).close()
        return
    except FileNotFoundError:
        reason = "which is not there"
    except ValueError:
        reason = "which is not in the folder of the mesh"
    except (OSError, Image.DecompressionBombError) as error:
        reason = f"which cannot be read ({error})"
    raise DataError(f"{what}, {reason}; {remedy}")
