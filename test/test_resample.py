"""Crop, mirror and resize of batches against torchvision."""

from __future__ import annotations

import pytest
import torch
import torchvision.transforms.functional as TF
from torchvision.transforms import InterpolationMode

from mmcl_core.resample import Axis, bicubic, moved_camera, nearest

BOXES = torch.tensor([[0, 0, 60, 50], [3, 10, 40, 33], [20, 5, 11, 45], [30, 19, 30, 31]])  # top, left, height, width
FLIP = torch.tensor([False, True, False, True])


def batch(height=60, width=50):
    g = torch.Generator().manual_seed(0)
    coarse = torch.rand(4, 3, 9, 8, generator=g) * 300 - 20
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    noise = torch.rand(4, 3, height, width, generator=g) * 40 - 20
    return (smooth + noise).clamp(0, 255).to(torch.uint8)


def axes(out):
    top, left, height, width = BOXES.float().unbind(1)
    return Axis(60, top, height, out), Axis(50, left, width, out, FLIP)


@pytest.mark.parametrize("out", [16, 32, 64])
def test_bicubic_is_torchvisions_resized_crop(out):
    images = batch()
    result = bicubic(images.permute(0, 2, 3, 1).contiguous(), *axes(out))
    assert result.dtype == torch.uint8
    for n in range(4):
        image = TF.hflip(images[n]) if FLIP[n] else images[n]
        expected = TF.resized_crop(
            image, *BOXES[n].tolist(), [out, out], InterpolationMode.BICUBIC, antialias=True
        ).int()
        difference = (result[n].int() - expected).abs()
        assert difference.max() <= 2
        assert difference.float().mean() < 0.3


@pytest.mark.parametrize("out", [16, 64])
def test_nearest_takes_the_pixel_under_the_middle(out):
    plane = torch.arange(4 * 60 * 50).view(4, 60, 50)
    result = nearest(plane, *axes(out))
    for n in range(4):
        top, left, height, width = BOXES[n].tolist()
        image = plane[n].flip(1) if FLIP[n] else plane[n]
        for i in range(out):
            for j in range(0, out, 3):
                assert (
                    result[n, i, j] == image[top + int((i + 0.5) * height / out), left + int((j + 0.5) * width / out)]
                )


def test_camera_sees_the_same_rays():
    """A point of the scene falls on the same place of the picture before and after."""
    camera = torch.tensor([[70.0, 75, 20, 31]]).repeat(4, 1)
    camera[2] = 0
    rows, columns = axes(32)
    moved = moved_camera(camera, rows, columns)
    assert (moved[2] == 0).all()
    for n in (0, 1, 3):
        top, left, height, width = BOXES[n].tolist()
        x, y = 0.11, -0.07
        u, v = 70 * x + 20, 75 * y + 31
        if FLIP[n]:
            u, x = 49 - u, -x
        u, v = (u + 0.5 - left) * 32 / width - 0.5, (v + 0.5 - top) * 32 / height - 0.5
        fx, fy, cx, cy = moved[n].tolist()
        assert fx * x + cx == pytest.approx(u, abs=1e-4)
        assert fy * y + cy == pytest.approx(v, abs=1e-4)


def test_autocast_does_not_coarsen_pictures():
    images = batch().permute(0, 2, 3, 1).contiguous()
    with torch.autocast("cpu", torch.bfloat16):
        inside = bicubic(images, *axes(24))
    assert torch.equal(inside, bicubic(images, *axes(24)))
