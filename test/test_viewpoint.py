"""Depth from another place: against points turned one by one, planes, and what hides what."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from mmcl_core.depth import plane_fit, reference_distance
from mmcl_core.viewpoint import STEEPEST, change_view, random_rotations

SIDE = 40
CAMERA = (150.0, 165.0, 17.0, 22.5)


def rotation(degrees, axis):
    """Rodrigues' formula, float64 [3, 3]."""
    x, y, z = np.asarray(axis) / np.linalg.norm(axis)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    angle = math.radians(degrees)
    return np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * cross @ cross


def turn(depth, camera, turned):
    """One crop [H, W], or a stack [B, H, W] with as many cameras and rotations."""
    single = depth.ndim == 2
    depth, camera, turned = (torch.as_tensor(np.asarray(a), dtype=torch.float32) for a in (depth, camera, turned))
    if single:
        depth, camera, turned = depth[None], camera[None], turned[None]
    result = change_view(depth[:, None], camera, turned)[:, 0].numpy()
    return result[0] if single else result


def plate(side=SIDE, seed=0):
    """A bumpy plate in front of a slanted wall, with missing readings."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:side, :side]
    depth = 900 + 3.0 * x + 2.0 * y
    inside = (np.abs(x - side / 2) < side / 4) & (np.abs(y - side / 2) < side / 5)
    depth = np.where(inside, 600 + 0.7 * x + 8 * np.sin(y / 3), depth)
    return np.where(rng.random((side, side)) < 0.05, 0, depth).round()


def plane_of(normal, distance, camera=CAMERA, side=SIDE):
    """Depth of the plane ``normal . P = normal_z * distance``."""
    fx, fy, cx, cy = camera
    v, u = np.mgrid[:side, :side]
    return normal[2] * distance / (normal[0] * (u - cx) / fx + normal[1] * (v - cy) / fy + normal[2])


def centre_of(depth, camera):
    fx, fy, cx, cy = camera
    middle = (len(depth) - 1) / 2
    reference = float(reference_distance(torch.as_tensor(depth, dtype=torch.float32)[None, None]))
    return reference * np.array([(middle - cx) / fx, (middle - cy) / fy, 1.0])


def turn_by_loops(depth, camera, turned):
    """Point by point: readings first, then the middles between neighbours on one surface."""
    fx, fy, cx, cy = camera
    side, centre = len(depth), centre_of(depth, camera)
    points = {}
    for v in range(side):
        for u in range(side):
            if depth[v, u] > 0:
                point = depth[v, u] * np.array([(u - cx) / fx, (v - cy) / fy, 1.0])
                points[v, u] = turned @ (point - centre) + centre
    middles, slope = [], STEEPEST / min(fx, fy)
    for (v, u), point in points.items():
        for near in ((v, u + 1), (v + 1, u)):
            if near in points:
                low, high = sorted((depth[v, u], depth[near]))
                if high <= low * (1 + slope):
                    middles.append((point + points[near]) / 2)

    def nearest(some):
        found = np.full((side, side), np.inf)
        for x, y, z in some:
            u, v = round(fx * x / z + cx), round(fy * y / z + cy)
            if 0 <= u < side and 0 <= v < side:
                found[v, u] = min(found[v, u], z)
        return found

    first, second = nearest(points.values()), nearest(middles)
    seen = np.where(second < first * (1 - slope), second, first)
    return np.where(np.isinf(seen), 0, seen)


@pytest.mark.parametrize(
    ("degrees", "axis"), [(4.3, (1, 0.2, 0)), (13.1, (0.3, -1, 0.2)), (22.7, (0.1, 0.4, 1)), (31.9, (-1, 1, 0.5))]
)
def test_equals_points_one_by_one(degrees, axis):
    depth, turned = plate(), rotation(degrees, axis)
    fast, slow = turn(depth, CAMERA, turned), turn_by_loops(depth, CAMERA, turned)
    same = np.isclose(fast, slow, rtol=1e-5, atol=0.01)
    assert (~same).sum() <= 3, "beyond points that lie on the border of two pixels"
    assert (slow > 0).mean() > 0.3
    assert (slow != depth).mean() > 0.5


def test_points_behind_the_camera_are_not_seen():
    """A very wide lens close to a wall: turned by 45 degrees, one end of it comes round behind the lens."""
    camera, turned = (6.0, 6.0, 19.5, 19.5), rotation(45, (0, 1, 0))
    depth = np.full((SIDE, SIDE), 200.0)
    fast = turn(depth, camera, turned)
    columns = (np.arange(SIDE) - 19.5) / 6
    beyond = 200 - 200 * columns * math.sin(math.radians(45)) < 0
    assert 0 < beyond.sum() < SIDE / 2, "some readings of each row come to lie behind the lens"
    without = np.where(beyond[None], 0, depth)
    assert (fast >= 0).all()
    assert np.array_equal(fast, turn(without, camera, turned))


def test_a_crop_whose_object_has_no_distance_stays_as_it_is():
    depth = np.zeros((64, 64))
    depth[0, 0] = depth[20, 0] = 700.0  # beside the readings that the distance is estimated from
    assert reference_distance(torch.from_numpy(depth)[None, None]).item() == 0
    assert np.array_equal(turn(depth, CAMERA, rotation(20, (0, 1, 0))), depth)


def test_zero_degrees_change_nothing():
    rng = np.random.default_rng(1)
    noise = rng.integers(300, 3000, (4, SIDE, SIDE)) * (rng.random((4, SIDE, SIDE)) < 0.8)
    crops = np.stack([*noise, plate(), plane_of((0.6, -0.5, 0.62), 700)])
    for camera in (CAMERA, (0.0,) * 4, (35.0, 30.0, 19.5, 19.5)):
        assert np.array_equal(turn(crops, [camera] * 6, [np.eye(3)] * 6), crops.astype(np.float32))
    no_turn = random_rotations(torch.rand(6, 3), 0.0)
    assert torch.equal(no_turn, torch.eye(3).expand(6, 3, 3))


@pytest.mark.parametrize("axis", [(1, 0, 0), (0, 1, 0), (1, -1, 0.5)])
def test_a_slanted_plane_stays_a_plane_with_the_turned_normal(axis):
    normal = np.array([0.35, -0.25, 1.0])
    normal /= np.linalg.norm(normal)
    depth, turned = plane_of(normal, 800.0), rotation(12, axis)
    centre, after = centre_of(depth, CAMERA), turned @ normal
    seen = turn(depth, CAMERA, turned)
    fx, fy, cx, cy = CAMERA
    v, u = np.mgrid[:SIDE, :SIDE]
    points = np.stack([(u - cx) / fx * seen, (v - cy) / fy * seen, seen], -1)
    foot = turned @ (np.array([0, 0, 800.0]) - centre) + centre
    off = np.abs((points - foot) @ after)[seen > 0]
    # Half a pixel aside on a surface that is oblique by the angle of its normal.
    assert off.max() < 0.75 * 900 / 150 * math.sqrt(1 - after[2] ** 2) + 0.05
    inner = seen[8:-8, 8:-8]
    assert (inner > 0).mean() > 0.99
    fitted, defined = plane_fit(torch.from_numpy(seen)[None, None], torch.tensor([CAMERA]), 6)
    fitted = fitted[0].permute(1, 2, 0)[8:-8, 8:-8].numpy()[defined[0, 0, 8:-8, 8:-8].numpy()]
    assert np.degrees(np.arccos((fitted @ after).clip(-1, 1))).mean() < 1.5
    assert np.degrees(np.arccos(normal @ after)) > 8


def test_the_nearer_surface_is_seen_and_what_it_hid_is_not():
    """A board before a wall, turned about the vertical axis: it keeps its distance, the wall slides behind it."""
    depth = np.full((SIDE, SIDE), 1200.0)
    depth[:, 14:26] = 600
    camera = (150.0, 150.0, 19.5, 19.5)
    seen = turn(depth, camera, rotation(8, (0, 1, 0)))
    assert (np.abs(seen[:, 15:25] - 600) < 12).all(), "the board stays, with nothing of the wall in it"
    # The wall lies 600 mm behind the centre: it slides 600 sin 8 = 83 mm, 10.5 pixels, to the right.
    wall = seen[20] > 1000
    assert not wall[:9].any(), "from beside the picture"
    assert wall[11:13].all()
    assert not seen[20, 28:35].any(), "what the board hid"
    assert wall[38:].all()


def test_missing_readings_stay_missing():
    depth = np.full((SIDE, SIDE), 800.0)
    depth[12:20, 12:20] = 0
    depth[30, 5] = np.nan
    seen = turn(depth, CAMERA, rotation(3, (1, 1, 0)))
    assert np.isfinite(seen).all()
    assert (seen[13:19, 13:19] == 0).all()
    nothing = np.zeros((SIDE, SIDE))
    assert np.array_equal(turn(nothing, CAMERA, rotation(10, (1, 0, 0))), nothing)


def test_an_unknown_camera_is_four_crop_sides_away():
    turned, middle = rotation(9, (1, 2, 0)), (SIDE - 1) / 2
    assumed = (4.0 * SIDE, 4.0 * SIDE, middle, middle)
    assert np.array_equal(turn(plate(), (0, 0, 0, 0), turned), turn(plate(), assumed, turned))
    assert not np.array_equal(turn(plate(), assumed, turned), turn(plate(), CAMERA, turned))


def test_a_sample_is_turned_by_itself():
    crops, cameras = [plate(seed=n) for n in range(3)], [CAMERA, (0,) * 4, (90.0, 90.0, 19.5, 10.0)]
    turned = [rotation(10, (1, 0, 0)), rotation(20, (0, 1, 0)), rotation(5, (0, 0, 1))]
    together = turn(np.stack(crops), cameras, np.stack(turned))
    for n in range(3):
        assert np.array_equal(turn(crops[n], cameras[n], turned[n]), together[n])


def test_rotations_are_uniform_in_angle_and_axis():
    turned = random_rotations(torch.rand(4000, 3, generator=torch.Generator().manual_seed(0)), 15.0).double()
    assert torch.allclose(turned @ turned.transpose(1, 2), torch.eye(3, dtype=torch.float64), atol=1e-6)
    assert torch.allclose(torch.linalg.det(turned), torch.ones(4000, dtype=torch.float64), atol=1e-6)
    angle = torch.rad2deg(torch.acos(((turned.diagonal(dim1=1, dim2=2).sum(1) - 1) / 2).clamp(-1, 1)))
    assert angle.max() <= 15.01
    assert torch.histc(angle, 5, 0, 15).min() > 700
    axis = torch.stack([turned[:, b, a] - turned[:, a, b] for a, b in ((1, 2), (2, 0), (0, 1))], 1)
    axis = torch.nn.functional.normalize(axis, dim=1)
    assert axis.mean(0).abs().max() < 0.03
    assert (axis.square().mean(0) - 1 / 3).abs().max() < 0.03
    numbers = torch.tensor([[0.5, 0.25, 1.0]])  # the y axis
    assert np.allclose(random_rotations(numbers, 15.0)[0].numpy(), rotation(15, (0, 1, 0)), atol=1e-6)
