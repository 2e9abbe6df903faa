"""Two classes of meshes, and the render command run on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmcl_core import render

trimesh = pytest.importorskip("trimesh")
pytest.importorskip("embreex")

SPLIT = "train=0.6,val=0.2,test=0.2"


@pytest.fixture(scope="module")
def meshes(tmp_path_factory) -> Path:
    """Two classes: a box with a printed texture, and a can without one."""
    from PIL import Image

    root = tmp_path_factory.mktemp("meshes")
    box = trimesh.creation.box((0.06, 0.1, 0.15))
    texture = np.random.default_rng(0).integers(0, 255, (16, 16, 3)).astype(np.uint8)
    box.visual = trimesh.visual.TextureVisuals(uv=box.vertices[:, :2] * 5 + 0.5, image=Image.fromarray(texture))
    for name, shape, file in (("box", box, "textured.obj"), ("can", trimesh.creation.cylinder(0.04, 0.12), "can.stl")):
        (root / name).mkdir()
        shape.export(root / name / file)
    return root


def files_of(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.suffix != ".png"}


def words_of(meshes: Path, out: Path) -> list[str]:
    """The usual options."""
    return f"--objects {meshes} --out {out} --count 20 --size 48 --seed 3 --split {SPLIT}".split()


def run(meshes: Path, out: Path, *more: str) -> int:
    return render.main([*words_of(meshes, out), *more])


@pytest.fixture(scope="module")
def whole(meshes, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "set"
    assert run(meshes, out, "--workers", "1") == 0
    return out
