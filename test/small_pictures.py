"""A batch of pictures whose coordinates can be read off, and augmentation run on it."""

from __future__ import annotations

import numpy as np
import torch

from mmcl_core.augment import Augmenter

VIEWS = {"rgb": "rgb", "depth": "depth"}
SIZE, SOURCE = 32, 48
WHOLE = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0)}


def batch(count=16, source=SOURCE, seed=0):
    """RGB noise, and depth whose readings are the numbers of their pixels, with holes."""
    rng = np.random.default_rng(seed)
    rgb = rng.integers(0, 256, (count, source, source, 3), np.uint8)
    depth = np.tile(np.arange(1, source**2 + 1, dtype=np.int32).reshape(source, source), (count, 1, 1))
    depth[rng.random(depth.shape) < 0.05] = 0
    images = {"rgb": torch.from_numpy(rgb), "depth": torch.from_numpy(depth)}
    return images, torch.tensor([[60.0, 62.0, 22.0, 25.0]]).repeat(count, 1)


def run(config, images, camera, seed=1, size=SIZE, views=VIEWS):
    augmenter = Augmenter(config, size, views)
    return augmenter(images, camera, augmenter.draw(len(camera), torch.Generator().manual_seed(seed)))


def windows(picture, camera):
    """Left, top, width and height of the crops, from what became of an unflipped camera."""
    scale = picture.camera[:, :2] / camera[:, :2]
    corner = camera[:, 2:] + 0.5 - (picture.camera[:, 2:] + 0.5) / scale
    return torch.cat([corner, SIZE / scale], dim=1)
