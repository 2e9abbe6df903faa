"""A small NYU-D in the true layouts: folders of crops, and the labelled file."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from mmcl_core.data.rooms import CLASSES


def hha_picture(seed, height=30, width=40):
    """HHA of a noisy wall: smooth disparity, rough angle."""
    random = np.random.default_rng(seed)
    ramp = np.linspace(120, 135, width)[None, :] + np.zeros((height, 1))
    angle = np.clip(128 + random.normal(0, 6, (height, width)), 38, 218)
    return np.stack([ramp, np.full((height, width), 60.0 + seed), angle], -1).astype(np.uint8)


def crop_folders(root, *, images="image", order="rgb", spelling=str):
    for s, (split, count) in enumerate((("train", 3), ("test", 2))):
        for c, name in enumerate(("bed", "night-stand", "toilet")):
            for part in (images, "depth"):
                (root / split / part / spelling(name)).mkdir(parents=True)
            for i in range(count):
                colour = np.full((30, 40, 3), (200, 10 * c, 100 * s + i), np.uint8)
                picture = hha_picture(10 * c + i)
                end = f"{spelling(name)}/img_{i:04d}.png"
                cv2.imwrite(str(root / split / images / end), colour[..., ::-1])
                # The writer of OpenCV expects B, G, R: handing it R, G, B swaps the channels in the file.
                cv2.imwrite(str(root / split / "depth" / end), picture[..., ::-1] if order == "rgb" else picture)
    return root


SCENES = ("kitchen_0001", "kitchen_0001", "office_0002", "bedroom_0003")
NAMES = ("wall", "garbage bin", "night stand", "coffee table", *(n for n in CLASSES if "-" not in n))


def labelled_file(path):
    """Frames of 64 x 48: a bin and two chairs in front of a wall; the first chair in frame i is at 1 + i / 10 m."""
    h5py = pytest.importorskip("h5py")
    frames = len(SCENES)
    labels = np.ones((frames, 48, 64), np.uint16)
    instances = np.ones((frames, 48, 64), np.uint8)
    depth = np.full((frames, 48, 64), 3.0, np.float32)
    images = np.full((frames, 48, 64, 3), 50, np.uint8)
    chair = NAMES.index("chair") + 1
    for i in range(frames):
        for number, instance, rows, columns, z in (
            (2, 1, slice(20, 45), slice(2, 22), 1.5),
            (chair, 1, slice(10, 40), slice(25, 45), 1 + i / 10),
            (chair, 2, slice(10, 34), slice(46, 62), 2.0),
        ):
            labels[i, rows, columns], instances[i, rows, columns], depth[i, rows, columns] = number, instance, z
            images[i, rows, columns] = (10 * number, instance, 7)
    raw = depth.copy()
    raw[:, 12:16, 30:34] = 0
    raw[:, 12:16, 50:54] = 70.0  # farther than 16 bits tell
    with h5py.File(path, "w") as file:
        for name, array in (("labels", labels), ("instances", instances), ("depths", depth), ("rawDepths", raw)):
            file[name] = array.transpose(0, 2, 1)
        file["images"] = images.transpose(0, 3, 2, 1)
        for name, texts in (("names", NAMES), ("scenes", SCENES)):
            cells = [
                file.create_dataset(f"#refs#/{name}{i}", data=np.array([[ord(c)] for c in text], np.uint16)).ref
                for i, text in enumerate(texts)
            ]
            file[name] = np.array([cells], dtype=h5py.ref_dtype)
    return path
