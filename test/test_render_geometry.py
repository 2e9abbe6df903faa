"""Depth and camera of a rendered crop, put back into space, are the scene that was rendered."""

from __future__ import annotations

import shutil

import cv2
import numpy as np
import pytest
from small_meshes import files_of, meshes, run, whole

from mmcl_core.data.cache import PreparedSet
from mmcl_core.synth import crops as crop_module
from mmcl_core.synth.crops import CropMaker
from mmcl_core.synth.raycast import cast
from mmcl_core.synth.stock import FolderStock

trimesh = pytest.importorskip("trimesh")
pytest.importorskip("embreex")

__all__ = ["meshes", "whole"]  # fixtures


def crops_and_scenes(meshes, size, monkeypatch):
    scenes, compose = [], crop_module.compose
    monkeypatch.setattr(crop_module, "compose", lambda *words: scenes.append(compose(*words)) or scenes[-1])
    maker = CropMaker(FolderStock(meshes), 5, size, {"train": 1.0}, sensor="none", neighbours=1)
    return [(maker(number), scenes[-1]) for number in range(8)]


def imager_rays(scene, column, row, size):
    """Directions [N, 3] in the world, at depth 1, through places of the crop, by the camera of the whole imager."""
    camera, step = scene.camera, scene.side / size
    x, y = scene.left + (column + 0.5) * step - 0.5, scene.top + (row + 0.5) * step - 0.5
    local = np.stack([(x - camera.cx) / camera.fx, (y - camera.cy) / camera.fy, np.ones_like(x)], -1).reshape(-1, 3)
    return local @ camera.rotation.T


@pytest.mark.parametrize("size", [64, 256], ids=["windows larger than the crop", "windows smaller than the crop"])
def test_points_of_a_crop_lie_where_they_are_in_the_scene(meshes, monkeypatch, size):
    enlarged, points_on_table = 0, 0
    row, column = np.mgrid[:size, :size].astype(np.float64)
    for crop, scene in crops_and_scenes(meshes, size, monkeypatch):
        fx, fy, cx, cy = crop.camera
        position, z = scene.camera.position, crop.depth / 1000
        local = np.stack([(column - cx) / fx * z, (row - cy) / fy * z, z], -1).reshape(-1, 3)
        points = local @ scene.camera.rotation.T + position

        # across: the imager sees each point at the middle of its pixel of the window
        read = z.reshape(-1) > 0
        seen = scene.camera.project(points[read])[0]
        x, y = (scene.left + (column + 0.5) * scene.side / size, scene.top + (row + 0.5) * scene.side / size)
        np.testing.assert_allclose(seen, np.stack([x, y], -1).reshape(-1, 2)[read] - 0.5, atol=1e-3)

        # along: the table has the height of its panel. Depth of a window smaller than the crop is cast at the window's
        # pixels and enlarged by the nearest, which is up to scale / 2 pixels of the crop off
        scale = max(size / round(scene.side), 1.0)
        enlarged += scale > 1
        off = (-scale / 2, scale / 2) if scale > 1 else (0.0, 0.0)
        rays = imager_rays(scene, column, row, size)
        hits = cast(position, rays.T.astype(np.float32), scene.placed, scene.panels)
        edge = np.ones((2 * int(np.ceil(scale)) + 1,) * 2)
        on_table = (hits.owner == len(scene.placed)).reshape(size, size) & (crop.depth > 0)
        table = cv2.erode(on_table.astype(np.uint8), edge).reshape(-1) > 0
        points_on_table += int(table.sum())
        up = rays[:, 2]
        shifted = np.stack([imager_rays(scene, column + a, row + b, size)[:, 2] for a in off for b in off])
        height = scene.panels[0].centre[2]
        bound = (position[2] - height) * np.abs(up / shifted - 1).max(0) + 0.0006 * np.abs(
            up
        )  # depth is rounded to a millimetre
        assert (np.abs(points[:, 2] - height) <= bound)[table].all()
        if scale == 1:  # and everything else is where it is
            near = np.abs(hits.z - z.reshape(-1)) < 0.0006
            assert near[read].mean() > 0.999
    assert points_on_table > 8 * 0.1 * size**2
    assert (enlarged if size == 256 else 8 - enlarged) >= 5


def test_meshes_with_y_up_make_the_same_crops_where_that_is_said(meshes, whole, tmp_path, capsys):
    lying = shutil.copytree(meshes, tmp_path / meshes.name)
    can = trimesh.load(lying / "can" / "can.stl", process=False)
    can.vertices = can.vertices[:, [0, 2, 1]] * (1.0, 1.0, -1.0)
    can.export(lying / "can" / "can.stl")
    box, lines = lying / "box" / "textured.obj", []
    for line in box.read_text().splitlines():
        x, y, z = line.split()[1:4] if line.startswith("v ") else ("", "", "")
        lines.append(f"v {x} {z} {-float(y)}" if x else line)
    box.write_text("\n".join(lines))
    assert run(lying, tmp_path / "set", "--up", "y", "--workers", "1") == 0
    made, usual = files_of(tmp_path / "set"), files_of(whole)
    assert {name for name, data in made.items() if data != usual[name]} == {"index.json"}
    assert PreparedSet.open(tmp_path / "set").index["description"]["up"] == "y"
    assert run(lying, tmp_path / "lying", "--workers", "1") == 0
    assert files_of(tmp_path / "lying")["depth.u16"] != usual["depth.u16"]
    assert run("household", tmp_path / "other", "--up", "y") == 2
    assert "--up y is for folders of meshes" in capsys.readouterr().err
