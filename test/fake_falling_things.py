"""A small Falling Things in the true layout, and ``prepare falling_things`` run on it."""

from __future__ import annotations

import json
import math
from functools import partial

import cv2
import numpy as np
import small_sets

DRILL, MUG = "035_power_drill_16k", "025_mug_16k"
#: Of a fake frame: class, visibility, x0, y0, x1, y1 in the left picture of 96 x 54; 4 pixels to the left in the right.
OBJECTS = ((DRILL, 1, 20, 10, 40, 42), (MUG, 0.75, 60, 8, 90, 28))
NUMBERS = {DRILL: 60, MUG: 52, "061_foam_brick_16k": 84}


def bare_nan(content):
    return json.dumps(content, indent="\t").replace("NaN", "-nan")


def write_settings(folder, numbers):
    folder.mkdir(parents=True, exist_ok=True)
    intrinsics = {"resX": 96, "resY": 54, "fx": 76.8, "fy": 76.9, "cx": 48, "cy": 27, "s": 0}
    cameras = [
        {"name": side, "horizontal_fov": 64, "intrinsic_settings": intrinsics,
         "captured_image_size": {"width": 96, "height": 54}}
        for side in ("left", "right")
    ]  # fmt: skip
    (folder / "_camera_settings.json").write_text(bare_nan({"camera_settings": cameras}))
    entries = [
        {"class": name, "segmentation_class_id": number, "cuboid_dimensions": [1, 2, math.nan]}
        for name, number in numbers.items()
    ]
    content = {"exported_object_classes": list(numbers), "exported_objects": entries}
    (folder / "_object_settings.json").write_text(bare_nan(content))


def write_frame(folder, number, objects=OBJECTS, numbers=NUMBERS, suffix="jpg"):
    """Objects at 0.5 m + 1 cm for each pixel of x0, the rest farther than the range of the file."""
    for side, shift in (("left", 0), ("right", 4)):
        color = np.full((54, 96, 3), 30, np.uint8)
        depth, seg = np.full((54, 96), 65535, np.uint16), np.zeros((54, 96), np.uint8)
        entries = []
        for name, visibility, x0, y0, x1, y1 in objects:
            if not math.isnan(x0):
                left = x0 - shift
                color[y0:y1, left:x1 - shift] = 200, 10 + shift, x0  # fmt: skip
                depth[y0:y1, left:x1 - shift] = 5000 + 100 * x0 + 4  # fmt: skip
                seg[y0 + 2:y1, left:x1 - shift] = numbers.get(name, 255)  # fmt: skip
            entries.append({
                "class": name, "visibility": visibility, "location": [1.5, -2, 80], "cuboid": [[math.nan] * 2],
                "bounding_box": {"top_left": [y0, x0 - shift], "bottom_right": [y1, x1 - shift]},
            })  # fmt: skip
        stem = f"{folder}/{number:06d}.{side}"
        cv2.imwrite(f"{stem}.{suffix}", color[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 100])
        cv2.imwrite(f"{stem}.depth.png", depth)
        cv2.imwrite(f"{stem}.seg.png", seg)
        content = {"camera_data": {"location_worldframe": [1, 2, 3]}, "objects": entries}
        with open(f"{stem}.json", "w", encoding="utf-8") as file:
            file.write(bare_nan(content))


def write_source(root):
    """Single: two objects in kitchen_0..4, a frame each; mixed: one frame of kitchen_0 and two of temple_1."""
    for name in (DRILL, MUG):
        for n in range(5):
            folder = root / "single" / name / f"kitchen_{n}"
            write_settings(folder, {name: 255})
            write_frame(folder, 0, [one for one in OBJECTS if one[0] == name], {name: 255})
    for scene, frames in (("kitchen_0", 1), ("temple_1", 2)):
        folder = root / "mixed" / scene
        write_settings(folder, NUMBERS)
        for number in range(frames):
            write_frame(folder, number)
    return root


prepare = partial(small_sets.prepare, "falling_things --size 32 --min-side 10")


def cut_crops(root, bits=16):
    """Crops of two classes in train and val, cut before: <split>/<class>/<stem>.left.jpg and so on."""
    rng = np.random.default_rng(0)
    for split, name, count in (("train", DRILL, 3), ("train", "025_mug", 2), ("val", DRILL, 2)):
        folder = root / split / name
        folder.mkdir(parents=True)
        for number in range(count):
            stem = f"{folder}/kitchen_0_{number:06d}"
            cv2.imwrite(f"{stem}.left.jpg", rng.integers(0, 255, (30, 20, 3), np.uint8))
            cv2.imwrite(f"{stem}.right.jpg", np.full((28, 22, 3), 90, np.uint8))
            depth = np.full((30, 20), 5000 + 10 * number, np.uint16)
            depth[0, 0] = 65535
            cv2.imwrite(f"{stem}.left.depth.png", depth if bits == 16 else (depth // 50).astype(np.uint8))
    return root
