"""HHA of frames: against the reference program's picture, a slow plane fit, and rooms whose answer is known."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from conftest import shared_data

from mmcl_core.data.hha import gravity, hha, normals
from mmcl_core.errors import InputError

CAMERA = (518.858, 519.470, 325.582, 253.736)
SMALL = (60.0, 58.0, 31.0, 22.5)


def rays(shape, camera):
    fx, fy, cx, cy = camera
    v, u = np.mgrid[: shape[0], : shape[1]]
    return np.stack([(u - cx) / fx, (v - cy) / fy, np.ones(shape)], -1)


def box_room(tilt_degrees, shape=(48, 64), camera=SMALL, floor=1200.0, wall=2500.0):
    """z (mm) of a floor and a wall square to it, seen by a camera turned down by some degrees; and down, [3]."""
    angle = np.radians(tilt_degrees)
    down = np.array([0, np.cos(angle), np.sin(angle)])
    ahead = np.array([0, -np.sin(angle), np.cos(angle)])
    ray = rays(shape, camera)
    with np.errstate(divide="ignore"):
        to_floor, to_wall = floor / (ray @ down), wall / (ray @ ahead)
    on_floor = (to_floor > 0) & ((to_floor < to_wall) | (to_wall < 0))
    return np.where(on_floor, to_floor, to_wall), on_floor, down


@pytest.mark.data
def test_agrees_with_the_reference_program():
    depth = cv2.imread(str(shared_data("hha_sample", "depth.png")), cv2.IMREAD_UNCHANGED)
    raw = cv2.imread(str(shared_data("hha_sample", "rawdepth.png")), cv2.IMREAD_UNCHANGED)
    reference = cv2.imread(str(shared_data("hha_sample", "hha_reference.png")))[..., ::-1].astype(int)
    difference = np.abs(hha(depth, CAMERA, raw == 0) - reference)
    assert (np.median(difference, axis=(0, 1)) <= 1).all()
    assert ((difference <= 5).mean(axis=(0, 1)) >= 0.99).all()


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_normals_are_those_of_a_least_squares_plane(stride):
    random = np.random.default_rng(0)
    z, _, _ = box_room(15)
    z = z + random.normal(0, 20, z.shape)
    used = random.random(z.shape) < 0.6
    used[:12, :12] = False
    found, defined = normals(z, SMALL, used, 3, stride)
    ray = rays(z.shape, SMALL)
    for row in range(found.shape[0]):
        for column in range(0, found.shape[1], 5):
            v, u = row * stride, column * stride
            window = np.s_[max(v - 3, 0) : v + 4, max(u - 3, 0) : u + 4]
            inside = used[window]
            equations = ray[window][inside]
            if len(equations) < 3 or np.linalg.matrix_rank(equations) < 3:
                assert not defined[row, column]
                assert not found[row, column].any()
                continue
            plane = np.linalg.lstsq(equations, 1 / z[window][inside], rcond=None)[0]
            assert defined[row, column]
            np.testing.assert_allclose(found[row, column], plane / np.linalg.norm(plane), atol=1e-4)


def test_readings_on_a_line_define_no_plane():
    z = np.full((9, 9), 1000.0)
    used = np.zeros((9, 9), bool)
    used[4] = True
    assert not normals(z, SMALL, used, 3)[1].any()
    used[5, 4] = True
    assert normals(z, SMALL, used, 1)[1][4, 4]


@pytest.mark.parametrize("tilt", [-20, 0, 10, 35])
def test_gravity_heights_and_angles_of_a_room(tilt):
    z, on_floor, down = box_room(tilt)
    estimate = gravity(*normals(z, SMALL, np.ones(z.shape, bool), 2))
    assert np.degrees(np.arccos(min(estimate @ down, 1))) < 1
    picture = hha(z, SMALL).astype(int)
    inner = np.ones((15, 15), np.uint8)
    floor = cv2.erode(on_floor.astype(np.uint8), inner, borderValue=1) > 0
    wall = cv2.erode((~on_floor).astype(np.uint8), inner, borderValue=1) > 0
    assert floor.sum() + wall.sum() > 600
    assert (np.abs(picture[floor][:, 2] - 38) <= 2).all()
    assert (np.abs(picture[wall][:, 2] - 128) <= 2).all()
    np.testing.assert_array_equal(picture[..., 0], np.rint(31000 / (z / 10)).clip(0, 255))
    height = 120 - (rays(z.shape, SMALL) @ down) * z / 10
    if on_floor.sum() > 200:
        assert np.abs(picture[..., 1] - height.clip(0, 255)).max() <= 4


def test_without_ground_in_view_it_is_assumed_below_the_camera():
    z = np.full((48, 64), 1500.0)  # a wall square to the camera, seen down to 66 cm below it
    picture = hha(z, SMALL)
    assert abs(int(picture[22, 31, 1]) - 131) <= 1
    assert (np.abs(picture[..., 2].astype(int) - 128) <= 1).all()


def test_missing_readings_do_not_bend_normals_but_filled_depth_is_kept():
    z, _, _ = box_room(20)
    filled = z.copy()
    filled[20:24, 20:24] = 500
    hole = np.zeros(z.shape, bool)
    hole[20:24, 20:24] = True
    clean, picture = hha(z, SMALL).astype(int), hha(filled, SMALL, hole).astype(int)
    assert np.abs(picture[..., 2] - clean[..., 2]).max() <= 1
    assert (picture[hole][:, 0] == 255).all()
    assert np.abs(hha(filled, SMALL)[..., 2] - clean[..., 2]).max() > 10


def test_unknown_depth_is_zero_and_an_undefined_angle_180():
    z, _, _ = box_room(20)
    z[:20, :20] = 0
    z[0, 0], z[1, 1] = np.nan, np.inf
    picture = hha(z, SMALL)
    assert not picture[:20, :20, :2].any()
    assert (picture[:15, :15, 2] == 218).all()
    nothing = hha(np.zeros((20, 30), np.uint16), SMALL)
    assert (nothing == (0, 0, 218)).all()


def test_whole_numbers_and_floats_give_the_same():
    z = np.rint(box_room(20)[0])
    np.testing.assert_array_equal(hha(z.astype(np.uint16), SMALL), hha(z, SMALL))


@pytest.mark.parametrize(
    ("depth", "camera", "missing", "said"),
    [
        (np.ones((4, 4, 1)), SMALL, None, r"shape \(4, 4, 1\)"),
        (np.ones((4, 4)), (0, 50, 2, 2), None, "fx, fy > 0"),
        (np.ones((4, 4)), SMALL, np.zeros((4, 5), bool), r"missing has shape \(4, 5\)"),
    ],
)
def test_wrong_arguments_are_named(depth, camera, missing, said):
    with pytest.raises(InputError, match=said):
        hha(depth, camera, missing)
