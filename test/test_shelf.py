"""Meshes that are read once and taken by every process."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from tiny import wait_for

from mmcl_core.errors import DataError, MmclError
from mmcl_core.synth import mesh_files, shelf, stock
from mmcl_core.synth.mesh import Mesh
from mmcl_core.synth.rendered_set import render
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
    return render(str(meshes), out, 12, seed=3, workers=workers, size=32, split="train=1")


def test_what_is_laid_down_is_what_another_process_takes(tmp_path):
    mesh = a_mesh()
    assert MeshShelf(tmp_path).put(7, mesh)
    other = MeshShelf(tmp_path)
    assert same(other.take(7), mesh)
    assert other.take(8) is None


def test_a_mesh_that_somebody_tidies_up_is_none(tmp_path):
    own = MeshShelf(tmp_path)
    assert own.put(0, a_mesh())
    (tmp_path / "0" / "uv.npy").unlink()
    assert own.take(0) is None


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
    monkeypatch.setattr(shelf, "MeshShelf", lambda folder: MeshShelf(folder, room))
    render_to(tmp_path / "set", meshes)
    assert len(reads) == (2 if room is None else 4)
    monkeypatch.undo()
    render_to(tmp_path / "usual", meshes, workers=2)
    for name in ("rgb.u8", "depth.u16", "index.json"):
        assert (tmp_path / "set" / name).read_bytes() == (tmp_path / "usual" / name).read_bytes()


def test_several_processes_read_what_one_reads(meshes, tmp_path, monkeypatch):
    monkeypatch.setattr(stock, "_READS", 1)
    sums = []
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        folder.mkdir()
        sums.append(stock.FolderStock(meshes, shelf=MeshShelf(folder)).check(workers))
        assert sorted(path.name for path in folder.iterdir()) == ["0", "1"]
    assert sums[0] == sums[1] != stock.FolderStock(meshes, up="y").check()
    assert all(same(MeshShelf(tmp_path / "1").take(k), MeshShelf(tmp_path / "2").take(k)) for k in range(2))
    assert stock.FolderStock(meshes).check(2) == sums[0]


def test_several_processes_have_no_more_room_than_one(meshes, tmp_path, monkeypatch):
    monkeypatch.setattr(stock, "_READS", 1)
    box = stock.load_mesh(meshes / "box" / "box.ply", "z")
    arrays = (box.vertices, box.faces, box.uv, box.normals, box.shows, np.asarray(box.gloss), box.texture)
    assert MeshShelf(tmp_path, sum(array.nbytes for array in arrays)).put(9, box)  # just that
    shutil.rmtree(tmp_path / "9")
    stock.FolderStock(meshes, shelf=MeshShelf(tmp_path, 2 * sum(array.nbytes for array in arrays) - 2)).check(2)
    assert not list(tmp_path.iterdir())


def test_several_processes_name_the_first_broken_mesh_and_how_many_there_are(meshes, tmp_path, monkeypatch):
    monkeypatch.setattr(stock, "_READS", 1)
    shutil.copytree(meshes, tmp_path / "set")
    (tmp_path / "set" / "can" / "can.ply").write_text("no mesh")
    with pytest.raises(DataError, match=r"can\.ply"):
        stock.FolderStock(tmp_path / "set").check(2)
    (tmp_path / "set" / "box" / "box.ply").write_text("no mesh")
    with pytest.raises(DataError, match=r"2 of 2 meshes cannot be used, the first: .*box\.ply"):
        stock.FolderStock(tmp_path / "set").check(2)


def test_what_a_killed_command_left_is_removed_by_the_next_and_what_another_uses_is_not(meshes, tmp_path, monkeypatch):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    words = ["-m", "mmcl_core.render", "--objects", meshes, "--out", tmp_path / "long", "--count", "100000"]
    environment = {**os.environ, "TMPDIR": str(temporary), "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, *map(str, words)], env=environment, stderr=subprocess.DEVNULL)
    made = tmp_path / "long.partial" / "rgb.u8"
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    try:
        assert wait_for(lambda: process.poll() is not None or (made.exists() and made.stat().st_size))
        (used,) = temporary.iterdir()
        os.utime(used, (0, 0))
        render_to(tmp_path / "one", meshes)
        assert list(used.iterdir())
    finally:
        process.kill()
        process.wait()
    others = [temporary / f"{shelf._PREFIX}{socket.gethostname()}-{name}" for name in ("file", "link", "new")]
    others.append(temporary / "mmcl-meshes-of_another_machine")
    others[0].touch()
    others[1].symlink_to(tmp_path / "one")
    for other in others[2:]:
        other.mkdir()
    os.utime(others[3], (0, 0))
    render_to(tmp_path / "two", meshes)
    assert sorted(temporary.iterdir()) == sorted(others)
    assert (tmp_path / "one" / "index.json").is_file()


def test_nothing_is_left_behind(meshes, tmp_path, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    render_to(tmp_path / "set", meshes)
    assert not list((tmp_path / "temporary").iterdir())
    monkeypatch.setattr(stock, "load_mesh", None)  # nor is any mesh read in vain
    with pytest.raises(MmclError, match="is not empty"):
        render_to(tmp_path / "set", meshes)
    assert not list((tmp_path / "temporary").iterdir())
