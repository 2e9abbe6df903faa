"""Where crops, erased rectangles and the window of evaluation lie: all places there are, each as often as any other."""

from __future__ import annotations

import pytest
import torch
import torchvision.transforms.functional as TF
from small_pictures import SIZE, batch, run, windows
from torchvision.transforms import InterpolationMode

from mmcl_core import augment
from mmcl_core.config import AugmentConfig

#: Views that are cropped and left alone otherwise.
PLAIN = {"policy": "none", "flip": 0}


def evenly(numbers, places):
    """Whether whole numbers are all of ``range(places)``, each about as often as the others."""
    counts = torch.bincount(numbers, minlength=places)
    expected = len(numbers) / places
    return len(counts) == places and bool((counts - expected).abs().max() < 5 * expected**0.5)


def test_crops_lie_anywhere_in_the_picture_up_to_its_last_row_and_column():
    """Squares of 12 pixels in 16: five rows, five columns, in any combination."""
    images, camera = batch(2000, 16)
    config = AugmentConfig(**PLAIN, scale=(144 / 256, 144 / 256), ratio=(1, 1))
    left, top, width, height = windows(run(config, images, camera)["rgb"], camera).round().long().unbind(1)
    assert width.unique().tolist() == height.unique().tolist() == [12]
    assert evenly(left, 5)
    assert evenly(top, 5)
    assert evenly(5 * top + left, 25)


@pytest.mark.parametrize(
    ("shape", "ratio", "expected"),
    [
        ((24, 24), (0.5, 0.5), (12, 24)),
        ((24, 24), (2.0, 3.0), (24, 12)),
        ((24, 48), (0.5, 0.8), (19, 24)),
        ((24, 48), (0.01, 100.0), (48, 24)),
        ((48, 24), (0.8, 1.5), (24, 30)),
        ((40, 3), (20.0, 20.0), (3, 1)),
    ],
)
def test_the_largest_crop_of_the_nearest_ratio_where_none_fits(shape, ratio, expected):
    """The whole picture where its own ratio is allowed."""
    image = torch.zeros(4, *shape, 3, dtype=torch.uint8)
    config = AugmentConfig(**PLAIN, scale=(1.0, 1.0), ratio=ratio)
    camera = torch.tensor([[60.0, 60.0, 10.0, 10.0]]).repeat(4, 1)
    found = windows(run(config, {"rgb": image}, camera, views={"rgb": "rgb"})["rgb"], camera)[:, 2:]
    torch.testing.assert_close(found, torch.tensor([expected] * 4).float(), atol=1e-3, rtol=0)


def test_erased_rectangles_have_the_stated_area_and_ratio_and_lie_anywhere():
    """2 to 25 % of the picture, wide as often as high; the place of the rows tells nothing of that of the columns."""
    full = {"depth": torch.full((1500, SIZE, SIZE), 700, dtype=torch.int32)}
    config = AugmentConfig(**PLAIN, scale=(1, 1), ratio=(1, 1), depth_erase=1.0)
    erased = run(config, full, torch.zeros(1500, 4), views={"depth": "depth"})["depth"].image[:, 0] == 0
    rows, columns = erased.any(2), erased.any(1)
    high, wide = rows.sum(1), columns.sum(1)
    area, ratio = high * wide / SIZE**2, (wide / high).log()
    assert area.min() < 0.03
    assert area.max() > 0.22
    assert area.mean().item() == pytest.approx((0.02 + 0.25) / 2, abs=0.01)
    assert ratio.mean().item() == pytest.approx(0.0, abs=0.06)
    assert ratio.std().item() == pytest.approx(2 * torch.tensor(2.5).log().item() / 12**0.5, abs=0.06)
    # First row and column as shares of the places there are.
    top, left = ((mask.int().argmax(1) + 0.5) / (SIZE - side + 1) for mask, side in ((rows, high), (columns, wide)))
    for place in (top, left):
        assert place.mean().item() == pytest.approx(0.5, abs=0.03)
        assert place.std().item() == pytest.approx(12**-0.5, abs=0.03)
    assert abs(torch.corrcoef(torch.stack([top, left]))[0, 1].item()) < 0.1
    assert rows[:, -1].any()
    assert columns[:, -1].any()


def test_what_befalls_depth_is_drawn_apart():
    """Whether the background goes tells nothing of how far a sample is moved."""
    scene = torch.full((800, 48, 48), 1500, dtype=torch.int32)
    scene[:, 10:38, 10:38] = 600
    config = AugmentConfig(**PLAIN, scale=(1, 1), ratio=(1, 1), depth_background_m=0.3, depth_offset_m=0.2)
    depth = run(config, {"depth": scene}, torch.zeros(800, 4), size=48, views={"depth": "depth"})["depth"].image
    dropped = (depth == 0).flatten(1).any(1)
    moved = depth[:, 0, 24, 24] - 600
    assert 300 < dropped.sum() < 500
    assert moved[dropped].mean().item() == pytest.approx(0, abs=25)
    assert moved[~dropped].mean().item() == pytest.approx(0, abs=25)
    assert moved[dropped].min() < -150
    assert moved[dropped].max() > 150


@pytest.mark.parametrize(("height", "width"), [(64, 96), (96, 64), (50, 51), (40, 52)])
def test_evaluation_takes_the_middle_of_pictures_that_are_not_square(height, width):
    """The shorter side is resized, the longer one by the same factor: nothing is stretched."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(2, 3, 8, 8, generator=generator) * 255
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear").to(torch.uint8)
    camera = torch.tensor([[60.0, 62.0, width / 2 - 0.5, height / 2 - 0.5]]).repeat(2, 1)
    images = {
        "rgb": smooth.permute(0, 2, 3, 1).contiguous(),
        "depth": torch.arange(1, height * width + 1).view(1, height, width).repeat(2, 1, 1),
    }
    size = 48
    found = augment.eval_transform(images, camera, size)
    resized = TF.resize(smooth, [round(size * 146 / 128)], InterpolationMode.BICUBIC, antialias=True)
    difference = (found["rgb"].image.int() - TF.center_crop(resized, [size, size]).int()).abs()
    assert difference.max() <= 2
    assert difference.float().mean() < 0.3
    fx, fy, cx, cy = found["depth"].camera[0].tolist()
    assert fy / fx == pytest.approx(62 / 60, rel=0.02)
    assert (cx, cy) == pytest.approx((size / 2 - 0.5, size / 2 - 0.5), abs=0.51)
    number = found["depth"].image[0, 0] - 1
    x, y = number % width - (width / 2 - 0.5), (number / width).floor() - (height / 2 - 0.5)
    assert ((torch.arange(size) - cx) / fx - x / 60).abs().max() < 0.51 / 60
    assert ((torch.arange(size)[:, None] - cy) / fy - y / 62).abs().max() < 0.51 / 62
