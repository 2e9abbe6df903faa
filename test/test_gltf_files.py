"""Pictures and numbers that .gltf and .glb files hold or name: what cannot be read is told, not shown as white."""

from __future__ import annotations

import base64
import io
import json
import struct

import numpy as np
import pytest

from mmcl_core.errors import DataError
from mmcl_core.synth.mesh_files import load_mesh

pytest.importorskip("trimesh")

POINTS = np.array([(0, 0, 0), (0.1, 0, 0), (0, 0.1, 0)], np.float32)
UV = np.array([(0, 1), (1, 1), (0, 0)], np.float32)


def png():
    from PIL import Image

    file = io.BytesIO()
    Image.new("RGB", (8, 8), (255, 0, 0)).save(file, "PNG")
    return file.getvalue()


def tree_of(picture, buffer):
    """A red triangle; ``picture`` and ``buffer`` are as the file has them."""
    numbers = POINTS.nbytes + UV.nbytes
    return {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0, "TEXCOORD_0": 1}, "material": 0}]}],
        "materials": [{"pbrMetallicRoughness": {"baseColorTexture": {"index": 0}}}],
        "textures": [{"source": 0}],
        "images": [picture],
        "accessors": [
            {"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3"},
            {"bufferView": 1, "componentType": 5126, "count": 3, "type": "VEC2"},
        ],
        "bufferViews": [
            {"buffer": 0, "byteOffset": 0, "byteLength": POINTS.nbytes},
            {"buffer": 0, "byteOffset": POINTS.nbytes, "byteLength": UV.nbytes},
            {"buffer": 0, "byteOffset": numbers, "byteLength": buffer["byteLength"] - numbers},
        ],
        "buffers": [buffer],
    }


def write(path, content, within):
    """A file with a picture of this content ``within`` its numbers, an address, or the numbers of an address."""
    numbers = POINTS.tobytes() + UV.tobytes() + content
    numbers += bytes(-len(numbers) % 4)
    picture, buffer = {"bufferView": 2, "mimeType": "image/png"}, {"byteLength": len(numbers)}
    if within == "address":
        picture = {"uri": "data:image/png;base64," + base64.b64encode(content).decode()}
    if within == "numbers of an address":
        buffer["uri"] = "data:application/octet-stream;base64," + base64.b64encode(numbers).decode()
        path = path.with_suffix(".gltf")
        path.write_text(json.dumps(tree_of(picture, buffer)))
        return path
    text = json.dumps(tree_of(picture, buffer)).encode()
    text += b" " * (-len(text) % 4)
    head = struct.pack("<4sII", b"glTF", 2, 28 + len(text) + len(numbers))
    chunks = (struct.pack("<I4s", len(part), kind) + part for part, kind in ((text, b"JSON"), (numbers, b"BIN\0")))
    path.write_bytes(head + b"".join(chunks))
    return path


@pytest.mark.parametrize("within", ["numbers", "address", "numbers of an address"])
def test_pictures_in_the_file_are_shown_or_said_to_be_none(tmp_path, within):
    mesh = load_mesh(write(tmp_path / "a.glb", png(), within))
    assert (mesh.texture == (255, 0, 0)).all()
    path = write(tmp_path / "b.glb", b"no picture", within)
    with pytest.raises(DataError, match=rf"{path.name} has a texture in it that is no picture, or of a kind that"):
        load_mesh(path)


def test_numbers_that_are_not_beside_the_file_are_missed_by_name(tmp_path):
    picture = {"uri": "data:image/png;base64," + base64.b64encode(png()).decode()}
    size = POINTS.nbytes + UV.nbytes
    (tmp_path / "a.gltf").write_text(json.dumps(tree_of(picture, {"byteLength": size, "uri": "points.bin"})))
    with pytest.raises(DataError, match=r"a\.gltf: it names the file points\.bin, which is not there; put it there"):
        load_mesh(tmp_path / "a.gltf")
    (tmp_path / "points.bin").write_bytes(POINTS.tobytes() + UV.tobytes())
    assert (load_mesh(tmp_path / "a.gltf").texture == (255, 0, 0)).all()


def test_a_damaged_file_asks_for_no_package(tmp_path):
    (tmp_path / "a.stl").write_bytes(b"\xff" * 120)
    with pytest.raises(DataError) as error:
        load_mesh(tmp_path / "a.stl")
    assert "charset" not in str(error.value)
