"""How the recogniser turns crops and boxes into pictures for the network: as training and prepared sets do."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from small_models import SIDE, SIZE

from mmcl_core import crops
from mmcl_core.data.crops import CropRule
from mmcl_core.recognizer import Recognizer


@pytest.mark.parametrize("side", [SIZE, 24, 50, 90, 128])
def test_crops_become_what_the_test_transform_makes_of_them(side):
    """Prepared crops are square; evaluation resizes them with tensors, the recogniser with OpenCV."""
    from mmcl_core.augment import eval_transform

    generator = np.random.default_rng(1)
    smooth = generator.integers(0, 256, (2, 6, 6, 3), np.uint8)
    rgb = np.stack([crops.cv2.resize(image, (side, side)) for image in smooth])
    depth = (500 + rgb[..., 0].astype(np.uint16) * 3) * (generator.random((2, side, side)) > 0.1).astype(np.uint16)
    camera = np.array([[60.0, 61.0, side / 2, side / 3], [0, 0, 0, 0]], np.float32)
    images = {"rgb": torch.from_numpy(rgb), "depth": torch.from_numpy(depth.astype(np.int32))}
    expected = eval_transform(images, torch.from_numpy(camera), SIZE)
    for n in range(2):
        picture, _ = crops.fit(rgb[n], SIZE)
        reference = expected["rgb"].image[n].permute(1, 2, 0).numpy()
        off = np.abs(picture - reference.astype(np.float32))
        assert off.max() <= 1
        picture, moved = crops.fit(depth[n].astype(np.float32), SIZE, camera[n])
        reference = expected["depth"].image[n, 0].numpy()
        np.testing.assert_array_equal(picture, reference)
        np.testing.assert_allclose(moved, expected["depth"].camera[n], atol=1e-3)


@pytest.mark.parametrize("side", [30, 64, 151, 470])
def test_boxes_become_what_a_prepared_set_and_the_test_transform_make_of_them(side):
    """Details finer than the crops of the training set, and the coarseness of a small box, are as training saw them."""
    from mmcl_core.augment import eval_transform

    generator = np.random.default_rng(2)
    rgb = generator.integers(0, 256, (side, side, 3), np.uint8)
    depth = generator.integers(0, 2000, (side, side), np.uint16)
    camera = (90.0, 91.0, side / 2, side / 3)
    prepared, moved = CropRule(64)({"rgb": rgb, "depth": depth}, camera)
    images = {"rgb": prepared["rgb"], "depth": prepared["depth"].astype(np.int32)}
    images = {name: torch.from_numpy(image)[None] for name, image in images.items()}
    expected = eval_transform(images, torch.tensor([moved]), SIZE)
    picture, _ = crops.fit(rgb, SIZE, crop_size=64)
    assert np.abs(picture - expected["rgb"].image[0].permute(1, 2, 0).numpy().astype(np.float32)).max() <= 1
    picture, found = crops.fit(depth.astype(np.float32), SIZE, camera, crop_size=64)
    np.testing.assert_array_equal(picture, expected["depth"].image[0, 0].numpy())
    np.testing.assert_allclose(found, expected["depth"].camera[0], atol=1e-3)


def test_the_nearest_plausible_reading_in_millimetres():
    least = np.full((8, 8), crops.LEAST_PLAUSIBLE_MM, np.uint16)
    np.testing.assert_array_equal(crops.check_depth(least, "depth"), least)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_the_farthest_reading_in_metres_counts_as_in_millimetres(kind):
    farthest = crops.check_depth(np.array([[65.535, 65.536, 0.9]], kind), "depth")
    np.testing.assert_allclose(farthest, [[65535, 0, 900]], rtol=1e-6)


@pytest.mark.parametrize("shape", [(50, 50), (40, 90), (120, 30), (20, 20)])
def test_camera_follows_the_crop(shape):
    columns = np.broadcast_to(1000 + np.arange(shape[1], dtype=np.float32), shape)
    rows = np.broadcast_to(1000 + np.arange(shape[0], dtype=np.float32)[:, None], shape)
    camera = (70.0, 75.0, 11.0, 17.0)
    scale = SIDE / max(shape)
    x, moved = crops.fit(np.ascontiguousarray(columns), SIZE, camera)
    y, _ = crops.fit(np.ascontiguousarray(rows), SIZE, camera)
    u, v = np.meshgrid(np.arange(SIZE), np.arange(SIZE))
    inside = (x > 1000) & (x < 999 + shape[1]) & (y > 1000) & (y < 999 + shape[0])  # the border is replicated
    assert inside.sum() > 100
    off_x = (u - moved[2]) / moved[0] - (x - 1000 - camera[2]) / camera[0]
    off_y = (v - moved[3]) / moved[1] - (y - 1000 - camera[3]) / camera[1]
    half = 0.501 * max(1.0, scale)  # nearest neighbour: half a pixel of the coarser grid
    assert np.abs(off_x[inside]).max() <= half / min(moved[0], camera[0])
    assert np.abs(off_y[inside]).max() <= half / min(moved[1], camera[1])
    assert abs(off_x[inside].mean()) < 0.2 / camera[0]


def test_crops_are_made_square_by_their_border():
    crop = np.zeros((SIDE, SIDE // 2, 3), np.uint8)
    crop[:, 0], crop[:, -1] = (10, 20, 30), (40, 50, 60)
    picture, _ = crops.fit(crop, SIZE)
    assert (picture[:, :7] == (10, 20, 30)).all()
    assert (picture[:, -7:] == (40, 50, 60)).all()
    depth, _ = crops.fit(np.ascontiguousarray(crop[..., 0].T).astype(np.float32), SIZE)
    np.testing.assert_array_equal(depth, picture[..., 0].T)


def test_large_crops_shrink_without_aliasing():
    fine = np.indices((400, 400)).sum(axis=0) % 2 * 255
    picture, _ = crops.fit(np.repeat(fine[..., None], 3, axis=2).astype(np.uint8), SIZE)
    assert np.abs(picture.astype(int) - 127).max() <= 2


@pytest.mark.parametrize("size", [32, 64, 128, 224])
@pytest.mark.parametrize("side", [1, 5, 31, 64, 120, 128])
def test_resizing_in_parts_is_resizing_at_once_without_threads_of_the_blas(side, size):
    target = crops.resized_side(size)
    weights, rebuilt = crops._weights(side, target, size), np.zeros((size, side), np.float32)
    for first, source, band in crops._bands(side, target, size):
        rebuilt[first : first + len(band), source] = band
        assert band.size * 3 * max(side, size) <= 1 << 18  # the limit of OpenBLAS
    np.testing.assert_array_equal(rebuilt, weights)
    image = np.random.default_rng(3).integers(0, 256, (side, side, 3), np.uint8)
    whole = np.einsum("xi,yj,jic->yxc", weights.astype(float), weights.astype(float), image, optimize=True)
    assert np.abs(crops._bicubic(image, target, size) - whole.clip(0, 255)).max() < 0.501


def test_colour_is_looked_at_as_that_of_the_left_camera_where_a_model_knows_both():
    asked = []

    def infer(name, images, cameras):
        asked.append(name)
        return np.ones((len(images), 1), np.float32), np.ones((len(images), 4), np.float32)

    described = {"size": SIZE, "depth_encoding": "relief"}
    metadata = {"classes": ["one"], "input": described, "model": {"nrkhs": 4}, "temperature": {}}
    for trained, used in ((["rgb_right", "rgb", "depth"], "rgb"), (["rgb_right"], "rgb_right")):
        backend = SimpleNamespace(metadata={**metadata, "trained_modalities": trained}, model_id="", infer=infer)
        Recognizer(backend).recognize(rgb=[np.zeros((9, 9, 3), np.uint8)])
        assert asked.pop() == used
