"""A small Washington RGB-D Object Dataset in the true layout."""

from __future__ import annotations

import cv2
import numpy as np

INSTANCES = {"apple": (1, 2, 3), "food_bag": (1, 2), "water_bottle": (1, 10)}


def write_crop(stem, z, colour, height=24, width=16, loc=(301, 201)):
    """An object of z mm in front of a background at 1 m; the mask leaves a frame of 4 pixels."""
    mask = np.zeros((height, width), np.uint8)
    mask[4:-4, 4:-4] = 255
    rgb = np.where(mask[..., None] > 0, colour, (1, 2, 3)).astype(np.uint8)
    depth = np.where(mask > 0, z, 1000).astype(np.uint16)
    cv2.imwrite(f"{stem}_crop.png", rgb[..., ::-1])
    cv2.imwrite(f"{stem}_depthcrop.png", depth)
    cv2.imwrite(f"{stem}_maskcrop.png", mask)
    if loc:
        with open(f"{stem}_loc.txt", "w") as file:
            file.write(f"{loc[0]},{loc[1]}")


def trials_text():
    """Titles, names and blank lines as the authors' file has them."""
    text = ""
    for trial in range(1, 11):
        held_out = [f"{name}_{numbers[trial % len(numbers)]}" for name, numbers in INSTANCES.items()]
        text += f"****** trial {trial} ******\n" + "\n".join(held_out) + "\n\n\n"
    return text


def write_source(root):
    for c, (name, numbers) in enumerate(INSTANCES.items()):
        for number in numbers:
            folder = root / "rgbd-dataset" / name / f"{name}_{number}"
            folder.mkdir(parents=True)
            for video in (1, 2):
                for frame in (1, 2, 6, 11):
                    write_crop(f"{folder}/{name}_{number}_{video}_{frame}", 600 + frame, (10 + c, number, 10 * video))
    (root / "testinstance_ids.txt").write_text(trials_text())
    return root
