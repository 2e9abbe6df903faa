"""A small YCB-Video in the true layout."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from mmcl_core.data.ycb_video import CLASSES

scipy_io = pytest.importorskip("scipy.io")
#: Rectangles x0, y0, x1, y1 of the objects of a fake frame, by number.
OBJECTS = {3: (10, 12, 30, 42), 14: (40, 8, 60, 28)}


def write_frame(folder, number, objects=OBJECTS, suffix="png", factor=10000, seed=0):
    """64 x 48 pixels; every object z = 0.5 m + its number in cm, floor at 1.2 m."""
    random = np.random.default_rng((seed, number))
    folder.mkdir(parents=True, exist_ok=True)
    label = np.zeros((48, 64), np.uint8)
    metres = np.full((48, 64), 1.2)
    color = random.integers(0, 255, (48, 64, 3)).astype(np.uint8)
    for i, (x0, y0, x1, y1) in objects.items():
        label[y0:y1, x0:x1] = i
        metres[y0:y1, x0:x1] = 0.5 + i / 100
        color[y0:y1, x0:x1] = (10 * i, 5, 200)  # R, G, B
    stem = f"{folder}/{number:06d}"
    cv2.imwrite(f"{stem}-color.{suffix}", color[..., ::-1])
    cv2.imwrite(f"{stem}-depth.png", np.rint(metres * factor).astype(np.uint16))
    cv2.imwrite(f"{stem}-label.png", label)
    meta = {
        "factor_depth": np.array([[factor]], np.uint16),
        "intrinsic_matrix": np.array([[100.0, 0, 31], [0, 102.0, 23], [0, 0, 1]]),
        "cls_indexes": np.array([[i] for i in objects], np.uint8),
    }
    scipy_io.savemat(f"{stem}-meta.mat", meta)
    lines = [f"{CLASSES[i - 1]} {x0 - 0.5} {y0} {x1 - 1} {y1 - 1}\n" for i, (x0, y0, x1, y1) in objects.items()]
    with open(f"{stem}-box.txt", "w") as file:
        file.writelines(lines)


def write_source(root):
    for video, numbers in (("0005", (1, 2, 3)), ("0050", (1, 2))):
        for number in numbers:
            write_frame(root / "data" / video, number, seed=int(video))
    return root
