"""Meshes that are read once and taken by every process."""

from __future__ import annotations

import errno
import tempfile
from pathlib import Path

import numpy as np
import pytest

from mmcl_core import render
from mmcl_core.errors import MmclError
from mmcl_core.synth import mesh_files, shelf, stock
from mmcl_core.synth.mesh import Mesh
from mmcl_core.synth.shelf import MeshShelf

trimesh = pytest.importorskip("trimesh")
pytest.importorskip("embreex")


def a_mesh(side: int = 4) -> Mesh:
    """Two triangles with a picture each, of another size."""
    draw = np.random.default_rng(side)
    first, second = (draw.integers(0, 256, (side, width, 3), np.uint8) for width in (side, 3))
    corners, faces = draw.random((4, 3)), np.array([[0, 1, 2], [1, 3, 2]])
    return Mesh(corners, faces, draw.random((4, 2)), first, 0.7, others=(second,), shows=np.array([0, 1], np.int32))


def same(first: Mesh, second: Mesh) -> bool:
    names = ("vertices", "faces", "uv", "texture", "gloss", "normals", "shows")
    pairs = [(getattr(first, name), getattr(second, name)) for name in names]
    pairs += [(len(first.others), len(second.others)), *zip(first.others, second.others, strict=True)]
    return all(np.array_equal(a, b) and np.asarray(a).dtype == np.asarray(b).dtype for a, b in pairs)


@pytest.fixture(scope="module")
def meshes(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("meshes")
    for name, shape in (
        ("box", trimesh.creation.box((0.06, 0.1, 0.15))),
        ("can", trimesh.creation.cylinder(0.04, 0.1)),
    ):
        (root / name).mkdir()
        shape.export(root / name / f"{name}.ply")
    return root


def render_to(out: Path, meshes: Path, workers: int = 1) -> str:
    return render.render(str(meshes), out, 12, seed=3, workers=workers, size=32, split="train=1")


def test_what_is_laid_down_is_what_another_process_takes(tmp_path):
    mesh = a_mesh()
    assert MeshShelf(tmp_path).put(7, mesh)
    other = MeshShelf(tmp_path)
    assert same(other.take(7), mesh)
    assert other.take(8) is None


def test_who_writes_to_a_mesh_writes_to_his_own(tmp_path):
    own = MeshShelf(tmp_path)
    own.put(0, a_mesh())
    own.take(0).vertices[:] = 0  # that it can be written to at all is what Embree's wrapper asks for
    assert same(own.take(0), a_mesh())


def test_a_mesh_without_room_is_left_out_and_a_smaller_one_is_not(tmp_path):
    own = MeshShelf(tmp_path, room=2000)
    assert not own.put(0, a_mesh(32))
    assert own.put(1, a_mesh(4))
    assert not own.put(2, a_mesh(24))  # it would have fitted alone
    assert [own.take(number) is None for number in range(3)] == [True, False, True]
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.npy")) < 2000 + 8 * 128  # heads of the files


def test_a_full_disk_leaves_no_half_of_a_mesh(tmp_path, monkeypatch):
    own, save, left = MeshShelf(tmp_path), np.save, iter(range(3))

    def until_full(*words, **options):
        if next(left, None) is None:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(*words, **options)

    monkeypatch.setattr(shelf.np, "save", until_full)
    assert not own.put(0, a_mesh())
    monkeypatch.undo()
    assert own.take(0) is None
    assert not list(tmp_path.iterdir())
    assert not own.put(1, a_mesh())  # nor is it tried again


@pytest.mark.parametrize("room", [None, 0])
def test_each_file_is_read_once_where_there_is_room_and_the_crops_are_the_same(meshes, tmp_path, monkeypatch, room):
    reads = []
    monkeypatch.setattr(stock, "load_mesh", lambda path, up: reads.append(path) or mesh_files.load_mesh(path, up))
    monkeypatch.setattr(render, "MeshShelf", lambda folder: MeshShelf(folder, room))
    render_to(tmp_path / "set", meshes)
    assert len(reads) == (2 if room is None else 4)
    monkeypatch.undo()
    render_to(tmp_path / "usual", meshes, workers=2)
    for name in ("rgb.u8", "depth.u16", "index.json"):
        assert (tmp_path / "set" / name).read_bytes() == (tmp_path / "usual" / name).read_bytes()


def test_nothing_is_left_behind(meshes, tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    render_to(tmp_path / "set", meshes)
    assert not list((tmp_path / "temporary").iterdir())
    with pytest.raises(MmclError):
        render_to(tmp_path / "set", meshes)  # it is there
    assert not list((tmp_path / "temporary").iterdir())
