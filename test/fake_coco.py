"""Small frames with annotations as annotation tools export them, and ``prepare coco`` run on them."""

from __future__ import annotations

import json
from functools import partial

import cv2
import numpy as np
import pytest
import small_sets

from mmcl_core.prepare import main

WIDTH, HEIGHT = 80, 60
CUP, MUG = [10, 20, 30, 20], [50, 5, 20, 20]


def write_frame(folder, name, depth="depth", level=1000, zoom=1.0, old="rgb"):
    """A frame whose cup is level mm away and whose mug is 1 m behind; where they are not, depth is 5 m."""
    colour = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    far = np.full((HEIGHT, WIDTH), 5000, np.uint16)
    for (x, y, w, h), shade, mm in ((CUP, 200, level), (MUG, 20, level + 1000)):
        colour[y : y + h, x : x + w] = shade
        far[y : y + h, x : x + w] = mm
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), colour)
    if depth:
        place = folder / name.replace(old, depth)
        place.parent.mkdir(parents=True, exist_ok=True)
        size = (round(WIDTH * zoom), round(HEIGHT * zoom))
        cv2.imwrite(str(place.with_suffix(".png")), cv2.resize(far, size, interpolation=cv2.INTER_NEAREST))


def write_json(path, pictures, boxes=((1, CUP), (2, MUG)), categories=("cup", "mug")):
    content = {
        "images": [{"id": i, "file_name": name, "width": WIDTH, "height": HEIGHT} for i, name in enumerate(pictures)],
        "annotations": [
            {"id": 10 * i + n, "image_id": i, "category_id": category, "bbox": box, "iscrowd": 0}
            for i in range(len(pictures))
            for n, (category, box) in enumerate(boxes)
        ],
        "categories": [{"id": n, "name": name} for n, name in enumerate(categories, 1)],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return content


def write_source(root, frames=4):
    names = [f"rgb/{n:06d}.png" for n in range(frames)]
    for n, name in enumerate(names):
        write_frame(root, name, level=1000 + n)
    write_json(root / "annotations.json", names)
    return root


@pytest.fixture
def source(tmp_path):
    return write_source(tmp_path / "in")


prepare = partial(small_sets.prepare, "coco --size 36")


def refused(capfd, source, *more):
    assert main(["coco", "--source", str(source), "--check", "--workers", "1", *more]) == 2
    return "".join(capfd.readouterr())


def has(made, modality):
    return made.present[:, made.modalities.index(modality)]


def skipped(made):
    return dict(made.index["skipped"]["first"])


def change(path, edit):
    content = json.loads(path.read_text())
    edit(content)
    path.write_text(json.dumps(content))
