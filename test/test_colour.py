"""Colours of training crops: against a loop over samples and pixels, and what must not change."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mmcl_core.augment import Augmenter
from mmcl_core.colour import NUMBERS, recolour
from mmcl_core.config import AugmentConfig
from mmcl_core.errors import ConfigError

LUMA = np.array([0.299, 0.587, 0.114])


def pictures(count=6, side=9, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (count, 3, side, side), np.uint8))


def slowly(image, numbers, jitter, grey):
    """One sample, one step after the other: white balance, saturation, exposure, contrast."""
    exposure, contrast, saturation, red, blue = (math.exp((2 * float(n) - 1) * jitter) for n in numbers[:5])
    pixels = image.numpy().astype(np.float64).reshape(3, -1).T
    pixels = pixels * [math.sqrt(red), 1, math.sqrt(blue)]
    light = (pixels @ LUMA)[:, None]
    pixels = light + (0.0 if numbers[5] < grey else saturation) * (pixels - light)
    pixels = pixels * exposure
    mean = (pixels @ LUMA).mean()
    pixels = mean + contrast * (pixels - mean)
    return np.clip(pixels, 0, 255).T.reshape(image.shape)


@pytest.mark.parametrize(("jitter", "grey"), [(0.0, 0.0), (0.5, 0.0), (0.3, 0.5), (1.0, 1.0), (0.0, 1.0)])
def test_equals_a_loop_over_samples(jitter, grey):
    image, numbers = pictures(), torch.rand(6, NUMBERS, generator=torch.Generator().manual_seed(2))
    changed = recolour(image, numbers, jitter, grey)
    assert changed.dtype == torch.uint8
    for picture, numbers_of_one, after in zip(image, numbers, changed, strict=True):
        expected = slowly(picture, numbers_of_one, jitter, grey)
        assert np.abs(after.numpy() - expected).max() <= 0.51


def test_the_middle_of_every_range_changes_nothing():
    image = pictures()
    assert torch.equal(recolour(image, torch.full((6, NUMBERS), 0.5), 0.8, 0.2), image)


def test_grey_pictures_in_the_share_that_was_asked_for():
    image = pictures(400, 5)
    changed = recolour(image, torch.rand(400, NUMBERS, generator=torch.Generator().manual_seed(0)), 0.4, 0.25)
    grey = ((changed[:, 0] == changed[:, 1]) & (changed[:, 1] == changed[:, 2])).flatten(1).all(1)
    assert 0.19 < grey.float().mean() < 0.31
    assert torch.equal(recolour(image, torch.rand(400, NUMBERS), 0.0, 0.0), image)


def test_training_crops_change_colour_and_nothing_else():
    rgb = pictures(32, 16).permute(0, 2, 3, 1).contiguous()
    depth = torch.full((32, 16, 16), 700, dtype=torch.int32)
    still = {"policy": "none", "scale": (1.0, 1.0), "ratio": (1.0, 1.0), "flip": 0.0}
    images, camera = {"rgb": rgb, "depth": depth}, torch.tensor([[20.0, 20, 8, 8]]).repeat(32, 1)
    views = {}
    for name, settings in (("plain", {}), ("changed", {"rgb_jitter": 0.5})):
        augmenter = Augmenter(AugmentConfig(**still, **settings), 16, {"rgb": "rgb", "depth": "depth"})
        views[name] = augmenter(images, camera, augmenter.draw(32, torch.Generator().manual_seed(4)))
    assert torch.equal(views["plain"]["rgb"].image, rgb.permute(0, 3, 1, 2))
    differ = (views["changed"]["rgb"].image != views["plain"]["rgb"].image).flatten(1).any(1)
    assert differ.all()
    assert torch.equal(views["changed"]["depth"].image, views["plain"]["depth"].image)
    assert torch.equal(views["changed"]["rgb"].camera, camera)


@pytest.mark.parametrize("setting", [{"rgb_jitter": -0.1}, {"rgb_jitter": 1.5}, {"rgb_grey": 2.0}])
def test_settings_out_of_range(setting):
    with pytest.raises(ConfigError, match=next(iter(setting))):
        Augmenter(AugmentConfig(**setting), 16, {"rgb": "rgb"})
