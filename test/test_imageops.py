"""Single operations against PIL on uint8 pictures. Which of them a policy draws: test_randaugment."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as TF
from PIL import Image, ImageDraw, ImageEnhance, ImageOps

from mmcl_core import imageops


def pictures(size=32):
    """Noise, a smooth picture, few levels, one level, a dark one: each stresses another operation."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size] / (size - 1)
    smooth = np.stack([60 + 150 * x, 40 + 100 * y, 200 - 120 * x * y], axis=-1)
    batch = [
        rng.integers(0, 256, (size, size, 3)),
        smooth,
        rng.choice([17, 90, 91, 200], (size, size, 3)),
        np.full((size, size, 3), 77),
        rng.integers(3, 60, (size, size, 3)),
    ]
    return torch.from_numpy(np.stack(batch).astype(np.uint8)).permute(0, 3, 1, 2).contiguous()


def by_pil(batch, operation):
    """``operation(picture, n)`` with PIL, picture by picture."""
    results = [
        np.asarray(operation(Image.fromarray(image.permute(1, 2, 0).numpy()), n)) for n, image in enumerate(batch)
    ]
    return torch.from_numpy(np.stack(results)).permute(0, 3, 1, 2)


FACTORS = torch.tensor([0.1, 0.34, 0.88, 1.3, 1.9])

EXACT = {
    "autocontrast": (
        lambda x: imageops.lookup(x, imageops.autocontrast_table(x)),
        lambda p, n: ImageOps.autocontrast(p),
    ),
    "equalize": (lambda x: imageops.lookup(x, imageops.equalize_table(x)), lambda p, n: ImageOps.equalize(p)),
    "invert": (lambda x: imageops.lookup(x, imageops.invert_table(x)), lambda p, n: ImageOps.invert(p)),
    "posterize": (
        lambda x: imageops.lookup(x, imageops.posterize_table(torch.tensor([1, 2, 4, 7, 8]))),
        lambda p, n: ImageOps.posterize(p, (1, 2, 4, 7, 8)[n]),
    ),
    "solarize": (
        lambda x: imageops.lookup(x, imageops.solarize_table(torch.tensor([0, 34.1, 128, 200, 256]))),
        lambda p, n: ImageOps.solarize(p, (0, 34.1, 128, 200, 256)[n]),
    ),
    "brightness": (
        lambda x: imageops.lookup(x, imageops.brightness_table(FACTORS)),
        lambda p, n: ImageEnhance.Brightness(p).enhance(float(FACTORS[n])),
    ),
    "contrast": (
        lambda x: imageops.lookup(x, imageops.contrast_table(x, FACTORS)),
        lambda p, n: ImageEnhance.Contrast(p).enhance(float(FACTORS[n])),
    ),
    "color": (
        lambda x: imageops.color(x, FACTORS),
        lambda p, n: ImageEnhance.Color(p).enhance(float(FACTORS[n])),
    ),
    "sharpness": (
        lambda x: imageops.sharpness(x, FACTORS),
        lambda p, n: ImageEnhance.Sharpness(p).enhance(float(FACTORS[n])),
    ),
    "translate x": (
        lambda x: imageops.affine(x, imageops.translation(FACTORS * 7, "x")),
        lambda p, n: p.transform(p.size, Image.Transform.AFFINE, (1, 0, float(FACTORS[n]) * 7, 0, 1, 0)),
    ),
    "translate y": (
        lambda x: imageops.affine(x, imageops.translation(-FACTORS * 7, "y")),
        lambda p, n: p.transform(p.size, Image.Transform.AFFINE, (1, 0, 0, 0, 1, -float(FACTORS[n]) * 7)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", EXACT)
@pytest.mark.parametrize("size", [32, 33])
def test_equal_to_pil(name, size):
    ours, theirs = EXACT[name]
    batch = pictures(size)
    before = batch.clone()
    result, expected = ours(batch), by_pil(batch, theirs)
    assert result.dtype == torch.uint8
    assert torch.equal(batch, before), "the input was changed"
    # A blend in single precision may fall on the other side of an integer.
    differing = (result.int() - expected.int()).abs()
    assert differing.max() <= 1
    assert (differing > 0).float().mean() <= (1e-3 if name in ("color", "sharpness") else 0)


ANGLES = torch.tensor([-30.0, -4.0, 0.0, 4.0, 27.5])
SHEARS = torch.tensor([-0.3, -0.04, 0.0, 0.04, 0.3])

MOVES = {
    "rotate": (lambda x: imageops.rotation(ANGLES, x.shape[-2:]), lambda p, n: p.rotate(float(ANGLES[n]))),
    "shear x": (
        lambda x: imageops.shear(SHEARS, "x"),
        lambda p, n: p.transform(p.size, Image.Transform.AFFINE, (1, float(SHEARS[n]), 0, 0, 1, 0)),
    ),
    "shear y": (
        lambda x: imageops.shear(SHEARS, "y"),
        lambda p, n: p.transform(p.size, Image.Transform.AFFINE, (1, 0, 0, float(SHEARS[n]), 1, 0)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MOVES)
def test_moves_as_pil(name):
    """PIL computes coordinates in fixed point: at most one pixel in two hundred is its neighbour."""
    matrix, theirs = MOVES[name]
    batch = pictures(64)
    result, expected = imageops.affine(batch, matrix(batch)), by_pil(batch, theirs)
    assert (result != expected).any(1).float().mean() < 5e-3


@pytest.mark.parametrize("height", [64, 40])
def test_rotation_as_torchvision(height):
    batch = pictures(64)[:, :, :height].contiguous()
    for n, degrees in enumerate(ANGLES.tolist()):
        result = imageops.affine(batch[n : n + 1], imageops.rotation(ANGLES[n : n + 1], (height, 64)))
        expected = TF.rotate(batch[n : n + 1], degrees)
        assert (result != expected).any(1).float().mean() < 5e-3


@pytest.mark.parametrize("table", [imageops.autocontrast_table, imageops.equalize_table])
@pytest.mark.parametrize("other", [0, 255])
def test_pixels_that_do_not_count_change_no_table(table, other):
    """As of the pixels that count alone, whatever lies beside them."""
    image = pictures()[:, :1, :, :20].contiguous()
    beside = torch.cat([image, torch.full_like(image, other)], dim=3)
    use = torch.arange(40).expand(beside.shape) < 20
    assert torch.equal(table(beside, use), table(image))


def test_levels_with_fractions_lie_on_the_line_between_two_entries():
    table = (torch.arange(256) * 3 % 256).view(1, 1, 256)
    levels = torch.tensor([0.0, 0.25, 84.5, 85.5, 170.75, 253.5, 254.0, 254.5, 255.0]).view(1, 1, 3, 3)
    expected = np.interp(levels.flatten().numpy(), np.arange(256), table.flatten().numpy())
    np.testing.assert_allclose(imageops.lookup_between(levels, table).flatten().numpy(), expected)
    last = torch.where(torch.arange(256) == 255, 0, 9).view(1, 1, 256)
    assert imageops.lookup_between(torch.full((1, 1, 1, 1), 254.5), last).item() == 4.5


def test_posterize_to_no_bits_is_black():
    assert imageops.lookup(pictures(), imageops.posterize_table(torch.zeros(5))).max() == 0


AMOUNTS = [0.0, 14.67, 60.0, 110.0, 127.9]


def test_solarize_add_as_published():
    batch = pictures()
    result = imageops.lookup(batch, imageops.solarize_add_table(torch.tensor(AMOUNTS)))
    for image, amount, out in zip(batch.int(), AMOUNTS, result.int(), strict=True):
        assert torch.equal(out, torch.where(image < 128, (image + int(amount)).clamp(max=255), image))


def test_solarize_add_of_the_authors():
    """All levels are raised and clipped; the upper half is inverted after that."""
    batch = pictures()
    result = imageops.lookup(batch, imageops.add_then_solarize_table(torch.tensor(AMOUNTS)))
    for image, amount, out in zip(batch, AMOUNTS, result, strict=True):
        raised = np.clip(image.permute(1, 2, 0).numpy() + amount, 0, 255).astype(np.uint8)
        expected = np.asarray(ImageOps.solarize(Image.fromarray(raised), 128))
        np.testing.assert_array_equal(out.permute(1, 2, 0).numpy(), expected)


def test_cutout_as_erase():
    batch = pictures(40)
    centre = torch.tensor([[0.5, 0.5], [0.0, 0.99], [0.01, 0.02], [0.7, 0.2], [0.5, 0.5]])
    side = torch.tensor([10.0, 12.0, 7.9, 1.0, 0.0])
    result = imageops.cutout(batch, centre, side, (125, 123, 114))
    for image, (y, x), length, out in zip(batch, centre.tolist(), side.tolist(), result, strict=True):
        top, left = int(max(0, y * 40 - length / 2)), int(max(0, x * 40 - length / 2))
        expected = TF.erase(image, top, left, int(length), int(length), torch.tensor([125, 123, 114]).view(3, 1, 1))
        assert torch.equal(out, expected)


def test_cutout_as_a_rectangle_of_pil():
    batch = pictures(40)
    centre = torch.tensor([[0.5, 0.5], [0.0, 0.99], [0.01, 0.02], [0.7, 0.2], [0.5, 0.5]])
    side = torch.tensor([10.0, 12.0, 4 / 30 * 40, 1.0, 0.0])
    result = imageops.cutout(batch, centre, side, (125, 123, 114), inclusive=True)
    for image, (y, x), length, out in zip(batch, centre.tolist(), side.tolist(), result, strict=True):
        expected = Image.fromarray(image.permute(1, 2, 0).numpy())
        top, left = int(max(0, y * 40 - length / 2)), int(max(0, x * 40 - length / 2))
        corners = (left, top, min(40, left + length), min(40, top + length))
        ImageDraw.Draw(expected).rectangle(corners, (125, 123, 114))
        np.testing.assert_array_equal(out.permute(1, 2, 0).numpy(), np.asarray(expected))


def test_depth_sharpness_leaves_holes_and_their_neighbours():
    rng = np.random.default_rng(3)
    depth = torch.from_numpy(rng.integers(400, 900, (3, 1, 20, 20))).float()
    depth[0, 0, 5:8, 9] = 0
    depth[2] = 0
    factor = torch.tensor([0.3, 1.7, 0.3])
    result = imageops.sharpness_depth(depth, factor)
    for n in range(3):
        for y in range(20):
            for x in range(20):
                around = depth[n, 0, max(0, y - 1) : y + 2, max(0, x - 1) : x + 2]
                value = depth[n, 0, y, x]
                expected = value
                if around.numel() == 9 and (around > 0).all():
                    smooth = (around.sum() + 4 * value) / 13
                    expected = smooth + factor[n] * (value - smooth)
                assert result[n, 0, y, x] == pytest.approx(float(expected), rel=1e-5)


def test_depth_sharpness_makes_no_reading_vanish():
    """Sharpened, a speck far in front of its neighbours would lie behind the camera: it stays where it is."""
    depth = torch.full((1, 1, 5, 5), 1000.0)
    depth[0, 0, 2, 2] = 100
    result = imageops.sharpness_depth(depth, torch.tensor([1.9]))
    assert result[0, 0, 2, 2] == 100
    assert (result > 0).all()
    expected = 12100 / 13 + 1.9 * (1000 - 12100 / 13)
    assert result[0, 0, 1, 1].item() == pytest.approx(expected)


def test_affine_moves_depth_without_mixing():
    depth = torch.arange(1, 401).view(1, 1, 20, 20).float()
    moved = imageops.affine(depth, imageops.rotation(torch.tensor([12.0]), (20, 20)))
    assert set(moved.flatten().tolist()) <= {0.0, *depth.flatten().tolist()}
    assert moved[0, 0, 10, 10] in depth[0, 0, 8:13, 8:13]
    assert (moved == 0).any()


def test_rows_are_independent():
    batch = pictures()
    together = imageops.color(imageops.sharpness(batch, FACTORS), FACTORS)
    for n in range(5):
        factor = FACTORS[n : n + 1]
        assert torch.equal(together[n : n + 1], imageops.color(imageops.sharpness(batch[n : n + 1], factor), factor))
