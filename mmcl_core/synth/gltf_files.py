"""What trimesh passes over in .gltf and .glb files, or takes for something else: found here, and told or refused."""

from __future__ import annotations

import base64
import importlib.util
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmcl_core.errors import DataError

__all__ = ["pictures_of_gltf"]

_NONSENSE = (LookupError, TypeError, AttributeError)  # of a file that is not as the standard says
_COMPRESSED = {"KHR_draco_mesh_compression": "DracoPy", "EXT_meshopt_compression": ""}  # what reads it, if anything
_FAN = 6  # a mode of primitives


def pictures_of_gltf(path: str | Path) -> tuple[list[str], list[str]]:
    """The pictures in other files that a .gltf or .glb file shows, and what of its pictures is shown otherwise.

    Raises:
        DataError: a picture of a kind, numbers or triangles that cannot be read.
    """
    tree, rest = _tree(path)
    if _whole_numbers(tree):
        raise DataError(f"the mesh {path} has points or uv in whole numbers (normalized); export it with float ones")
    try:
        return _pictures(path, tree, rest)
    except _NONSENSE as error:
        raise DataError(f"cannot read the mesh {path}: its textures are not as glTF has them ({error!r})") from error


def _pictures(path: str | Path, tree: dict[str, Any], rest: int) -> tuple[list[str], list[str]]:
    names, remarks = [], []
    for packed, reader in _COMPRESSED.items():
        if packed in tree.get("extensionsRequired", ()) and not (reader and importlib.util.find_spec(reader)):
            remedy = f"pip install {reader}, or export it" if reader else "export it"
            raise DataError(f"the mesh {path} is compressed ({packed}); {remedy} without compression")
    if any(part.get("mode") == _FAN for mesh in tree.get("meshes", ()) for part in mesh["primitives"]):
        raise DataError(f"the mesh {path} has triangles as fans, which are not read; export it with plain triangles")
    for shown, picture in _base_colours(tree):
        if shown.get("texCoord", 0) or "KHR_texture_transform" in shown.get("extensions", {}):
            remarks.append("a picture has uv of its own (texCoord, KHR_texture_transform): the first ones are taken")
        if picture.get("mimeType") == "image/ktx2" or str(picture.get("uri", "")).lower().endswith(".ktx2"):
            raise DataError(f"the mesh {path} has a texture of the kind KTX2, which cannot be read; export it as PNG")
        if "bufferView" not in picture and not picture.get("uri", "data:").startswith("data:"):
            names.append(picture["uri"])
        elif (content := _content(path, tree, rest, picture)) is not None:
            _check(path, content)
    return names, remarks


def _content(path: str | Path, tree: dict[str, Any], rest: int, picture: dict[str, Any]) -> bytes | None:
    """What the file itself holds of a picture; None: it is in a file of numbers beside it."""
    if "bufferView" not in picture:
        return _from_address(picture["uri"])
    view = tree["bufferViews"][picture["bufferView"]]
    start, size = int(view.get("byteOffset", 0)), int(view["byteLength"])
    address = tree["buffers"][view["buffer"]].get("uri")
    if address is not None:
        return _from_address(address)[start : start + size] if address.startswith("data:") else None
    with Path(path).open("rb") as file:
        file.seek(rest + start)
        return file.read(size)


def _from_address(address: str) -> bytes:
    try:
        return base64.b64decode(address.partition(",")[2])
    except ValueError:
        return b""


def _check(path: str | Path, content: bytes) -> None:
    from PIL import Image

    try:
        Image.open(io.BytesIO(content)).close()
    except (OSError, Image.DecompressionBombError) as error:
        told = "has a texture in it that is no picture, or of a kind that cannot be read; make it PNG"
        raise DataError(f"the mesh {path} {told}") from error


def _tree(path: str | Path) -> tuple[dict[str, Any], int]:
    """What a .gltf or .glb file says of its content, and where its numbers begin in a .glb file.

    What is no JSON is left to who reads it whole.
    """
    with Path(path).open("rb") as file:
        content = file.read(20)
        binary = content[:4] == b"glTF"
        content = file.read(int.from_bytes(content[12:16], "little")) if binary else content + file.read()
        rest = file.tell() + 8
    try:
        tree: dict[str, Any] = json.loads(content)
    except ValueError:
        return {}, rest
    return tree, rest


def _whole_numbers(tree: dict[str, Any]) -> bool:
    """Whether points or uv are whole numbers that stand for shares of one, which trimesh does not divide."""
    try:
        parts = [part["attributes"] for mesh in tree["meshes"] for part in mesh["primitives"]]
        numbers = [part[name] for part in parts for name in ("POSITION", "TEXCOORD_0") if name in part]
        return any(tree["accessors"][number].get("normalized", False) for number in numbers)
    except _NONSENSE:
        return False


def _base_colours(tree: dict[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """The base colours of the materials that are used: how a texture is shown, and its picture."""
    try:
        used = {part.get("material") for mesh in tree["meshes"] for part in mesh["primitives"]}
        for number in sorted(used - {None}):
            shown = tree["materials"][number].get("pbrMetallicRoughness", {}).get("baseColorTexture")
            if shown is not None:
                texture = tree["textures"][shown["index"]]
                sources = [texture, *texture.get("extensions", {}).values()]
                yield shown, tree["images"][next(one["source"] for one in reversed(sources) if "source" in one)]
    except (*_NONSENSE, StopIteration):
        return
