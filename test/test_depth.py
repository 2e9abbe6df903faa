"""Depth encodings against slow loops and known geometry."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest
import torch
from conftest import shared_data

from mmcl_core import depth as encodings


def crops():
    """An object in front of a background, with holes; one crop empty, one with a hole in the middle."""
    rng = np.random.default_rng(0)
    depth = np.full((5, 40, 40), 1300.0)
    for n in range(5):
        low, high = rng.integers(5, 12), rng.integers(28, 35)
        depth[n, low:high, low:high] = 500 + 100 * n
    depth += rng.normal(0, 10, depth.shape)
    depth[rng.random(depth.shape) < 0.1] = 0
    depth[3, 8:33, 8:33] = 0
    depth[4] = 0
    camera = [[100, 110, 19.5, 19.5], [80, 80, 70, -30], [0, 0, 0, 0], [100, 100, 20, 20], [90, 90, 20, 20]]
    return torch.from_numpy(depth).float()[:, None], torch.tensor(camera, dtype=torch.float32)


def reference_loop(plane, quantile=encodings.REFERENCE_QUANTILE):
    """Quantile of the central half, on the stated grid; the whole crop where the middle is empty."""
    side = len(plane)
    for region in (plane[side // 4 : side - side // 4, side // 4 : side - side // 4], plane):
        step = max(1, math.ceil(len(region) / encodings.REFERENCE_GRID))
        readings = sorted(v for v in region[step // 2 :: step, step // 2 :: step].flatten().tolist() if v > 0)
        if readings:
            return readings[int((len(readings) - 1) * quantile)]
    return 0.0


def test_reference_distance():
    depth, _ = crops()
    found = encodings.reference_distance(depth)
    assert found.tolist() == pytest.approx([reference_loop(plane[0]) for plane in depth])
    assert found[0] == pytest.approx(500, abs=15), "the object, not the background"
    assert found[3] > 1200, "the whole crop where the middle is empty"
    assert found[4] == 0


@pytest.mark.parametrize("encoding", ["replicate", "relative", "normals", "relief", "hha"])
def test_what_is_not_positive_and_finite_is_no_reading(encoding):
    depth, camera = crops()
    other = depth.clone()
    for value, rows in ((math.nan, slice(0, 10)), (math.inf, slice(10, 20)), (-math.inf, 25), (-700.0, slice(30, 40))):
        other[:, :, rows][depth[:, :, rows] == 0] = value
    assert not other.isfinite().all()
    for background in (0.0, 0.5):
        found, wanted = (
            encodings.encode(d, camera, encoding=encoding, background_m=background) for d in (other, depth)
        )
        assert torch.equal(found, wanted)


def test_replicate():
    depth, camera = crops()
    result = encodings.encode(depth, camera, encoding="replicate", mean=(91.0,), std=(60.0,), range_m=(0.3, 1.0))
    for n in range(5):
        for y, x in ((20, 20), (2, 3), (13, 30), (39, 0)):
            z = float(depth[n, 0, y, x])
            level = min(255.0, max(0.0, (z / 1000 - 0.3) / 0.7 * 255))
            assert result[n, :, y, x].tolist() == pytest.approx([(level - 91) / 60] * 3, abs=1e-5)


def test_relative():
    depth, camera = crops()
    result = encodings.encode(depth, camera, encoding="relative")
    for n in range(5):
        reference = reference_loop(depth[n, 0])
        for y in range(40):
            for x in range(40):
                z = float(depth[n, 0, y, x])
                behind = (z - reference) / 1000
                expected = [max(-1.5, min(1.5, behind / 0.2)), 1, max(-1.5, min(1.5, behind / 0.05))] if z else [0] * 3
                assert result[n, :, y, x].tolist() == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("encoding", ["replicate", "relative"])
def test_metric_offsets_are_metres(encoding):
    depth, camera = crops()
    result = encodings.encode(depth, camera, encoding=encoding, metric_size=True)
    plain = encodings.encode(depth, camera, encoding=encoding)
    assert torch.equal(result[:, 0], plain[:, 0])
    for n in (0, 1, 3):
        fx, fy, cx, cy = camera[n].tolist()
        z = reference_loop(depth[n, 0])
        for y, x in ((20, 20), (2, 3), (13, 30), (39, 0)):
            # Points on the rays of this pixel and of the crop's middle, at the distance of the object.
            offset = [((x - cx) - (19.5 - cx)) / fx * z / 100, ((y - cy) - (19.5 - cy)) / fy * z / 100]
            expected = [max(-4, min(4, v)) for v in offset] if depth[n, 0, y, x] > 0 else [0, 0]
            assert result[n, 1:, y, x].tolist() == pytest.approx(expected, abs=1e-4)
    assert (result[2, 1:] == 0).all(), "unknown camera"
    assert (result[4, 1:] == 0).all(), "nothing there"


def test_metric_size_does_not_depend_on_resolution_or_distance():
    """The same 0.2 m seen from 0.5 m and 1 m, at 40 and 80 pixels."""
    small = torch.full((2, 1, 40, 40), 500.0)
    small[1] = 1000
    large = small.repeat_interleave(2, 2).repeat_interleave(2, 3)
    camera = torch.tensor([[100.0, 100, 19.5, 19.5], [200, 200, 19.5, 19.5]])
    extents = [encodings.log_extent(small, camera), encodings.log_extent(large, camera * 2)]
    for extent in extents:
        torch.testing.assert_close(extent, torch.full_like(extent, math.log2(0.2 / 0.03) / 2))
    unknown = encodings.log_extent(small, torch.zeros(2, 4))
    assert (unknown == 0).all()


def test_crops_of_metres_are_as_large_as_sizes_are_told():
    """Eight metres across: X and Y are told up to 0.4 m, the extent up to 1.92 m."""
    metres, camera = torch.full((1, 1, 32, 32), 4000.0), torch.tensor([[16.0, 16.0, 15.5, 15.5]])
    offsets = encodings.metric_offsets(metres, camera)
    assert (offsets.min(), offsets.max()) == (-4, 4)
    assert (encodings.log_extent(metres, camera) == 3).all()


def test_width_and_height_have_their_own_focal_length_and_number_of_pixels():
    plain = torch.full((1, 1, 20, 80), 500.0)
    extent = encodings.log_extent(plain, torch.tensor([[400.0, 100.0, 39.5, 9.5]]))
    torch.testing.assert_close(extent, torch.full_like(extent, math.log2(0.1 / 0.03) / 2))  # a square of 0.1 m
    across = torch.linspace(600, 679, 80).expand(1, 1, 20, 80)
    assert encodings.surface_slopes(across)[0, 0, 10, 40].item() == pytest.approx(0.08, rel=0.02)  # in 80 pixels
    for shape, middle in (((20, 80), (slice(5, 15), slice(20, 60))), ((80, 20), (slice(20, 60), slice(5, 15)))):
        depth = torch.full((1, 1, *shape), 2000.0)
        depth[0, 0][middle] = 500
        assert encodings.reference_distance(depth).item() == 500


def test_background_begins_at_the_stated_metres_behind_the_object():
    plane = torch.full((1, 1, 16, 16), 600.0)
    plane[0, 0, 0, :4] = torch.tensor([890.0, 900.0, 901.0, 950.0])
    kept = encodings.drop_background(plane, 0.3)[0, 0]
    assert kept[0, :4].tolist() == [890, 900, 0, 0]
    assert (kept[1:] == 600).all()


def test_background_is_dropped_behind_the_object():
    depth, camera = crops()
    result = encodings.drop_background(depth, 0.4)
    for n in range(5):
        limit = reference_loop(depth[n, 0]) + 400
        expected = torch.where(depth[n] <= limit, depth[n], 0.0)
        assert torch.equal(result[n], expected)
    each = encodings.drop_background(depth, torch.tensor([0.4, math.inf, 0.4, 0.4, 0.4]))
    assert torch.equal(each[1], depth[1])
    assert torch.equal(each[0], result[0])
    whole = encodings.encode(depth, camera, encoding="relative", background_m=0.4)
    assert torch.equal(whole, encodings.encode(result, camera, encoding="relative"))
    assert (whole[0, 1] < encodings.encode(depth, camera, encoding="relative")[0, 1]).any()


def plane(normal, distance, camera, side):
    """Depth in mm of the plane ``normal . P = distance`` (metres) and its points [side, side, 3]."""
    fx, fy, cx, cy = camera
    v, u = np.mgrid[:side, :side].astype(float)
    rays = np.stack([(u - cx) / fx, (v - cy) / fy, np.ones_like(u)], -1)
    z = distance / (rays @ np.asarray(normal))
    return z * 1000, rays * z[..., None]


def unit(*vector):
    return np.asarray(vector) / np.linalg.norm(vector)


CAMERA = (120.0, 130.0, 30.0, 55.0)


@pytest.mark.parametrize("side", [32, 64])
def test_normals_of_planes(side):
    wanted = [unit(0, 0, 1), unit(0.4, -0.2, 1), unit(-0.7, 0.5, 0.8)]
    depth = np.stack([plane(normal, 0.7, CAMERA, side)[0] for normal in wanted])
    assert (depth > 0).all()
    depth[1, 10:14, 20:23] = 0
    depth[2, :, 16:] = 0
    tensor, camera = torch.from_numpy(depth).float()[:, None], torch.tensor([CAMERA] * 3)
    result = encodings.encode(tensor, camera, encoding="normals")
    for n, normal in enumerate(wanted):
        seen = result[n][:, depth[n] > 0]
        # Facing the camera, with z turned around: head-on is (0, 0, 1).
        expected = torch.from_numpy(-normal * [1, 1, -1]).float()
        torch.testing.assert_close(seen, expected[:, None].expand_as(seen), atol=2e-3, rtol=0)
        assert (result[n][:, depth[n] == 0] == 0).all()
    metric = encodings.encode(tensor, camera, encoding="normals", metric_size=True)
    assert torch.equal(metric[:, :2], result[:, :2])
    assert torch.equal(metric[:, 2:], encodings.log_extent(tensor, camera))


def test_plane_fit_is_least_squares():
    """Inverse depth regressed on pixel coordinates, window by window."""
    depth = crops()[0][:3, :, 8:32, 8:32]
    camera = torch.tensor([CAMERA] * 3)
    normals, defined = encodings.plane_fit(depth, camera, 2)
    fx, fy, cx, cy = CAMERA
    for n in range(3):
        for y, x in ((0, 0), (12, 12), (5, 20), (23, 7), (10, 11)):
            rows, values = [], []
            for j in range(max(0, y - 2), min(24, y + 3)):
                for i in range(max(0, x - 2), min(24, x + 3)):
                    if depth[n, 0, j, i] > 0:
                        rows.append([(i - cx) / fx, (j - cy) / fy, 1])
                        values.append(1 / float(depth[n, 0, j, i]))
            if depth[n, 0, y, x] > 0:
                assert defined[n, 0, y, x]
                solution = np.linalg.lstsq(np.array(rows), np.array(values), rcond=None)[0]
                assert normals[n, :, y, x].numpy() == pytest.approx(unit(*solution), abs=1e-3)
            else:
                assert not defined[n, 0, y, x]


def test_normals_need_four_readings_off_a_line():
    depth = torch.zeros(4, 1, 20, 20)
    depth[0, 0, 10, 5:15] = 700
    depth[1, 0, 10, 10] = 700
    depth[2, 0, (8, 10, 10), (10, 8, 10)] = 700
    depth[3, 0, (8, 8, 10, 10), (8, 10, 8, 10)] = 700
    normals, defined = encodings.plane_fit(depth, torch.tensor([CAMERA] * 4), 3)
    assert not defined[:3].any()
    assert (normals[:3] == 0).all()
    assert torch.equal(defined[3], depth[3] > 0)


def test_slopes_are_metres_across_the_crop_whatever_the_camera_and_resolution():
    """Planes that grow by 0.12 m to the right and 0.05 m towards the camera downwards, with holes."""
    for side in (32, 128):
        across = (torch.arange(side) + 0.5) / side - 0.5
        depth = 800 + 120 * across[None, :] - 50 * across[:, None]
        depth[side // 4, side // 4 : side // 2] = 0
        slopes = encodings.surface_slopes(depth[None, None])[0]
        assert (slopes[:, depth == 0] == 0).all()
        for values, expected in zip(slopes[:, depth > 0], (0.12, -0.05), strict=True):
            assert values.numpy() == pytest.approx(expected, rel=0.02)


def test_slopes_against_a_loop_of_least_squares():
    generator = np.random.default_rng(3)
    depth = generator.uniform(700, 900, (9, 9)).astype(np.float32)
    depth[generator.random((9, 9)) < 0.2] = 0
    found = encodings.surface_slopes(torch.from_numpy(depth)[None, None])[0].numpy()
    for y, x in np.argwhere(depth > 0):
        near = [(j, i) for j in range(y - 1, y + 2) for i in range(x - 1, x + 2) if 0 <= j < 9 and 0 <= i < 9]
        near = [(j, i) for j, i in near if depth[j, i] > 0]
        rows = np.array([(i - x, j - y, 1) for j, i in near], float)
        if len(near) < 4 or np.linalg.matrix_rank(rows) < 3:
            assert (found[:, y, x] == 0).all()
            continue
        a, b, c = np.linalg.lstsq(rows, np.array([1000 / depth[j, i] for j, i in near]), rcond=None)[0]
        assert found[:, y, x] == pytest.approx([-a / c**2 * 9, -b / c**2 * 9], rel=2e-3, abs=2e-4)


def test_relief_is_bent_slopes_and_the_distance_to_the_object():
    depth, camera = crops()
    made = encodings.encode(depth, camera, encoding="relief")
    assert torch.equal(made, encodings.encode(depth, torch.zeros_like(camera), encoding="relief"))
    slopes, reference = encodings.surface_slopes(depth), encodings.reference_distance(depth)
    assert made[:, :2].abs().max() < 1
    np.testing.assert_allclose(made[:, :2].numpy(), np.sin(np.arctan(slopes.numpy() / 0.15)), atol=1e-5)
    for n, plane in enumerate(depth[:, 0]):
        for y, x in np.ndindex(*plane.shape):
            behind = float(plane[y, x] - reference[n]) / 100 if plane[y, x] > 0 else 0.0
            assert float(made[n, 2, y, x]) == pytest.approx(np.clip(behind, -1.5, 1.5), abs=1e-4)


def test_unknown_camera_has_the_stated_focal_length():
    depth = crops()[0][:2]
    assumed = torch.tensor([[160.0, 160, 19.5, 19.5]] * 2)
    assert torch.equal(encodings.surface_normals(depth, torch.zeros(2, 4)), encodings.surface_normals(depth, assumed))


def corner(pitch, side=64):
    """A floor that meets a wall, seen from 0.8 m above by a camera looking down by ``pitch`` degrees."""
    down = unit(0, math.cos(math.radians(pitch)), math.sin(math.radians(pitch)))
    ahead = unit(0, -math.sin(math.radians(pitch)), math.cos(math.radians(pitch)))
    camera = (50.0, 50.0, 31.5, 31.5)
    floor, wall = plane(down, 0.8, camera, side)[0], plane(ahead, 2.0, camera, side)[0]
    near = np.where((floor > 0) & ((floor < wall) | (wall <= 0)), floor, wall)
    return near, near == floor, down, camera


@pytest.mark.parametrize("pitch", [0, 12, 30])
def test_hha_of_a_floor_and_a_wall(pitch):
    depth, on_floor, down, camera = corner(pitch)
    assert 0.1 < on_floor.mean() < 0.9
    tensor, row = torch.from_numpy(depth).float()[None, None], torch.tensor([camera])
    result, valid = encodings.hha(tensor, row)
    assert valid.all()
    disparity, height, angle = result[0].numpy()
    assert disparity == pytest.approx(np.minimum(255, np.round(31000 / np.maximum(depth / 10, 100))), abs=1)
    v, u = np.mgrid[:64, :64].astype(float)
    points = (
        np.stack([(u - camera[2]) / camera[0], (v - camera[3]) / camera[1], np.ones_like(u)], -1) * depth[..., None]
    )
    above = 0.8 - points @ down / 1000
    assert height == pytest.approx(np.clip(np.round(above * 100), 0, 255), abs=3)
    away = 4  # where floor and wall share a window, neither is right
    border = np.abs(np.arange(64)[:, None] - on_floor.argmax(0)[None]) <= away
    assert np.abs(angle[on_floor & ~border] - 38).max() <= 2
    assert np.abs(angle[~on_floor & ~border] - 128).max() <= 2


def test_heights_begin_at_the_lowest_reading_also_above_the_axis_of_the_camera():
    """A wall 2 m away, all of it higher than the camera, with a hole."""
    depth = torch.full((1, 1, 32, 32), 2000.0)
    depth[..., 10:14, 10:14] = 0
    camera = torch.tensor([[100.0, 100.0, 15.5, 60.0]])
    heights = encodings.hha(depth, camera)[0][0, 1]
    expected = (200 * (31 - torch.arange(32.0)) / 100).round()[:, None].expand(32, 32)
    assert torch.equal(heights[depth[0, 0] > 0], expected[depth[0, 0] > 0])


def test_gravity_of_one_wall_stays_upright():
    """A wall alone says nothing about its roll: the camera's y axis decides, in the wall's plane."""
    normal = unit(0.2, 0.3, 1)
    normals = torch.from_numpy(normal).float().view(1, 3, 1, 1).expand(1, 3, 8, 8)
    down = encodings.gravity_direction(normals, torch.ones(1, 1, 8, 8, dtype=torch.bool))[0].numpy()
    assert down @ normal == pytest.approx(0, abs=0.01)
    assert down == pytest.approx(unit(*([0, 1, 0] - normal[1] * normal)), abs=0.01)
    nothing = encodings.gravity_direction(normals, torch.zeros(1, 1, 8, 8, dtype=torch.bool))
    assert nothing.tolist() == [[0, 1, 0]]


def test_hha_without_a_reading_is_the_mean():
    depth, camera = crops()
    result = encodings.encode(depth, camera, encoding="hha", mean=(149.2, 67.2, 110.0), std=(57.5, 37.1, 49.4))
    empty = (depth <= 0).expand_as(result)
    assert (result[empty] == 0).all()
    picture, _ = encodings.hha(depth, camera)
    assert picture.min() >= 0 and picture.max() <= 255 and torch.equal(picture, picture.round())  # noqa: PT018


@pytest.mark.parametrize("encoding", ["replicate", "relative", "normals", "relief", "hha"])
def test_a_large_batch_is_worked_off_in_parts_with_the_same_result(encoding, monkeypatch):
    depth, camera = crops()
    whole = encodings.encode(depth, camera, encoding=encoding, background_m=0.5)
    pixels = depth.shape[2] * depth.shape[3]
    for capacity in (1, 2 * pixels, 4 * pixels + 1):
        monkeypatch.setattr(encodings, "CACHED_PIXELS", capacity)
        assert torch.equal(encodings.encode(depth, camera, encoding=encoding, background_m=0.5), whole)


@pytest.mark.data
def test_hha_is_that_of_the_reference_program():
    """A whole room: disparity and height to the unit, the angle to a degree but where surfaces meet."""
    depth = cv2.imread(str(shared_data("hha_sample", "depth.png")), cv2.IMREAD_UNCHANGED)
    expected = cv2.imread(str(shared_data("hha_sample", "hha_reference.png")))[:, :, ::-1].astype(np.float32)
    camera = torch.tensor([[518.858, 519.470, 325.582, 253.736]])
    result, _ = encodings.hha(torch.from_numpy(depth.astype(np.float32))[None, None], camera)
    difference = np.abs(result[0].permute(1, 2, 0).numpy() - expected)
    assert (difference[..., 0] == 0).all()
    assert (difference[..., 1] <= 1).mean() > 0.999
    assert (difference[..., 2] <= 1).mean() > 0.9
    assert np.median(difference[..., 2]) == 0
