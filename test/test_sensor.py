"""The sensor models: statistics of noise, quantisation and holes, and that what is lost is 0 and nothing else."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest

from mmcl_core.synth.sensor import DEPTH_CAMERAS, ColourCamera, DepthCamera, to_millimetres
from mmcl_core.synth.shade import SRGB_TO_LINEAR

SIZE = 96
CLEAN = DepthCamera(
    white=0.0, drift=0.0, step=0.0, wiggle=0.0, edge=0.0, dark=0.0, grazing=0.0, shiny=0.0, farthest=20.0
)


def look(
    camera: DepthCamera, z, *, facing=1.0, brightness=0.5, gloss=0.0, focal=600.0, size=SIZE, seed=0
) -> np.ndarray:
    z = np.asarray(z, np.float32) * np.ones((SIZE, SIZE), np.float32)
    maps = [np.asarray(a, np.float32) * np.ones_like(z) for a in (facing, brightness, gloss)]
    return camera.sense(z, *maps, focal, size, np.random.default_rng(seed))


def test_noise_grows_with_the_square_of_depth():
    camera = replace(CLEAN, white=0.04, drift=0.06)
    spread = {z: look(camera, z).astype(float).std() for z in (0.5, 1.0, 2.0)}
    assert spread[2.0] / spread[0.5] == pytest.approx(16, rel=0.25)
    assert spread[2.0] / spread[1.0] == pytest.approx(4, rel=0.25)
    # an error e of the disparity F B / z is z^2 e / (F B) of depth
    assert spread[1.0] == pytest.approx(1000 * np.hypot(0.04, 0.06) / (570 * 0.075), rel=0.3)


def test_steps_of_quantisation_grow_with_the_square_of_depth():
    slope = np.linspace(0, 0.2, SIZE)[None]
    camera = replace(CLEAN, step=0.125)

    def step(z):
        depth = look(camera, z + slope, focal=570.0)  # as fine as the sensor: nothing is interpolated
        return np.median(np.diff(np.unique(depth[depth > 0])))

    assert step(2.0) / step(1.0) == pytest.approx((2.1 / 1.1) ** 2, rel=0.2)
    assert step(1.0) == pytest.approx(1000 * 0.125 * 1.1**2 / (570 * 0.075), rel=0.2)


def test_quantised_depth_is_that_of_the_nearest_step():
    camera, strength = replace(CLEAN, step=0.125), 570 * 0.075
    for z in (0.9, 1.0, 1.1, 1.3):
        depth = look(camera, z, focal=570.0)
        nearest = round(strength / z / 0.125) * 0.125
        assert set(np.unique(depth[depth > 0])) == {round(1000 * strength / nearest)}


def test_without_noise_depth_is_exact_millimetres():
    depth = look(CLEAN, 0.7345)
    assert depth.dtype == np.uint16
    share = (depth == 0).mean()
    assert share < 0.01  # a stray hole remains possible
    assert set(np.unique(depth)) <= {0, 734, 735}
    z = np.array([[0.0, np.inf, np.nan, 1.2345, 40.0, 65.4, 70.0]], np.float32)
    assert to_millimetres(z, np.ones_like(z, bool)).tolist() == [[0, 0, 0, 1234, 40000, 65400, 0]]
    assert to_millimetres(z, np.zeros_like(z, bool)).max() == 0


def test_what_is_out_of_range_has_no_reading():
    assert look(replace(CLEAN, farthest=3.0), 3.5).max() == 0
    assert look(replace(CLEAN, nearest=0.5), 0.4).max() == 0
    assert look(CLEAN, np.inf).max() == 0


def test_a_step_in_depth_casts_a_shadow_on_the_projector_s_other_side():
    z = np.full((SIZE, SIZE), 1.2, np.float32)
    z[:, 32:64] = 0.8
    shadow = 600 * 0.075 * (1 / 0.8 - 1 / 1.2)  # pixels between the two projections of the edge
    for side in (1, -1):
        lost = look(replace(CLEAN, side=side), z) == 0
        left, right = lost[:, :32].sum(1), lost[:, 64:].sum(1)
        wide, narrow = (left, right) if side > 0 else (right, left)
        assert np.median(wide) == pytest.approx(shadow, abs=2.5)
        assert np.median(narrow) < shadow / 2
        assert lost[:, 38:58].mean() < 0.02  # the near thing itself stays
    assert (look(replace(CLEAN, shadow=0.0), z) == 0).sum() < (look(CLEAN, z) == 0).sum()


def test_what_the_colour_camera_sees_beside_the_depth_camera_is_lost_on_the_projector_s_side():
    z = np.full((SIZE, SIZE), 1.2, np.float32)
    z[:, 32:64] = 0.8
    hidden = 600 * 0.075 * (1 / 0.8 - 1 / 1.2)
    for side in (1, -1):
        lost = look(replace(CLEAN, shadow=0.0, colour_base=0.075, side=side), z) == 0
        left, right = lost[:, :32].sum(1), lost[:, 64:].sum(1)
        wide, narrow = (right, left) if side > 0 else (left, right)
        assert np.median(wide) == pytest.approx(hidden, abs=2.5)
        assert np.median(narrow) <= 2


def test_the_driver_smooths_noise_and_leaves_steps():
    z = np.full((SIZE, SIZE), 1.3, np.float32)
    z[:, 48:] = 0.9
    noisy = replace(CLEAN, white=0.05, shadow=0.0, colour_base=0.0)
    rough, smooth = (look(replace(noisy, smooth=on), z, focal=570.0).astype(float) for on in (False, True))
    for part in (np.s_[:, 4:40], np.s_[:, 56:92]):
        assert smooth[part].std() < 0.6 * rough[part].std()
        assert smooth[part].mean() == pytest.approx(rough[part].mean(), abs=2)
    assert not ((smooth > 930) & (smooth < 1240)).any()


def test_edges_lose_their_near_side_in_places_and_run_astray():
    z = np.full((SIZE, SIZE), 1.3, np.float32)
    z[:, 48:] = 0.9
    straight = replace(CLEAN, shadow=0.0, colour_base=0.0)
    near = {edge: (look(replace(straight, edge=edge), z)[:, 48:52] == 0).mean() for edge in (0.0, 0.45)}
    assert near[0.45] > 0.05 > 0.01 > near[0.0]
    for wiggle, least, most in ((0.0, 0.0, 0.7), (1.5, 1.0, 4.0)):
        seen = look(replace(straight, wiggle=wiggle), z)
        first = np.array([np.flatnonzero((row > 0) & (row < 1000))[0] for row in seen])
        assert least <= first.std() <= most


def test_projectors_are_on_either_side():
    rng = np.random.default_rng(0)
    for kind in DEPTH_CAMERAS:
        right = [DepthCamera.draw(rng, kind=kind).side == 1 for _ in range(200)]
        assert 70 < sum(right) < 130


def test_weak_surfaces_lose_readings_and_the_switches_work():
    cases = (("dark", {"brightness": 0.01}), ("grazing", {"facing": 0.05}), ("shiny", {"gloss": 1.0}))
    for name, surface in cases:
        on = (look(replace(CLEAN, **{name: 3.0}), 1.0, **surface) == 0).mean()
        off = (look(CLEAN, 1.0, **surface) == 0).mean()
        assert on > 0.2, name
        assert off < 0.01, name


def test_enlarging_makes_up_no_depths():
    z = np.full((SIZE, SIZE), 1.3, np.float32)
    z[30:70, 30:70] = 0.9
    depth = look(CLEAN, z, focal=1100.0, size=128)  # the sensor is coarser than the window: it is enlarged
    assert depth.shape == (128, 128)
    readings = np.unique(depth[depth > 0])
    assert set(readings) <= {900, 1300}
    assert {900, 1300} <= set(readings)


@pytest.mark.parametrize("tilt", [50, 60, 70, 80])
@pytest.mark.parametrize("size", [32, 64, 96])
def test_a_slope_is_no_step_however_coarse_the_picture(size, tilt):
    """A plane through a window of 24 cm, 0.9 m away; a box of 10 cm before it still has its edges."""
    rows = (np.arange(SIZE) - SIZE / 2)[:, None] * 0.24 / SIZE / 0.9
    plane = 0.9 / (1 + rows * np.tan(np.deg2rad(tilt))) * np.ones((1, SIZE))
    camera = replace(CLEAN, shadow=0.0, colour_base=0.0, wiggle=0.5)
    middle = np.s_[size // 4 : -size // 4]
    assert (look(camera, plane, focal=SIZE * 0.9 / 0.24, size=size)[middle] == 0).mean() < 0.03
    plane[:, 28:68] = np.minimum(plane[:, 28:68], 0.6)
    assert (look(camera, plane, focal=SIZE * 0.9 / 0.24, size=size)[middle] == 0).mean() > 0.02


@pytest.mark.parametrize("patch", [2.0, 6.0])
def test_the_error_over_patches_has_its_deviation_at_any_size_of_them(patch):
    camera = replace(CLEAN, drift=0.06, patch=patch)
    depth = np.stack([look(camera, 1.0, seed=seed).astype(float) for seed in range(8)])
    assert depth.std() == pytest.approx(1000 * 0.06 / (570 * 0.075), rel=0.25)
    alike = np.corrcoef(depth[:, :, :-4].ravel(), depth[:, :, 4:].ravel())[0, 1]
    assert alike == pytest.approx(np.exp(-(4**2) / (4 * patch**2)), abs=0.15)


def test_patches_are_as_large_on_the_sensor_in_a_window_of_any_size():
    """A window twice as fine as the sensor, which its size keeps at that, and one as fine."""
    camera, alike = replace(CLEAN, drift=0.06, patch=4.0), []
    for focal in (570.0, 4 * 570.0):  # 24 pixels of the sensor are the fewest: one is 1 and 1.0 / 1.0 of the window
        window = np.stack([look(camera, 1.0, focal=focal, seed=seed).astype(float) for seed in range(12)])
        step = round(4 * focal / 570)  # four pixels of the sensor
        alike.append(np.corrcoef(window[:, :, :-step].ravel(), window[:, :, step:].ravel())[0, 1])
    assert alike == pytest.approx([np.exp(-1 / 4)] * 2, abs=0.15)


def test_readings_fly_between_near_and_far_at_steps_only():
    z = np.full((SIZE, SIZE), 1.5, np.float32)
    z[:, 48:] = 1.0
    exact = replace(CLEAN, shadow=0.0, colour_base=0.0)
    flying = look(replace(exact, flying=0.8), z)
    between = (flying > 1000) & (flying < 1500)
    assert between.sum() > SIZE / 2
    assert set(np.flatnonzero(between.any(0))) <= set(range(45, 51))
    assert not ((look(exact, z) > 1000) & (look(exact, z) < 1500)).any()
    lost, left = ((look(camera, z)[:, 46:48] == 0).mean() for camera in (exact, replace(exact, flying=0.8)))
    assert left < 0.6 * lost  # the far side of a step, which is lost otherwise, reads as something


def test_the_kinds_differ_as_their_principles_do():
    def errors(kind):
        rng = np.random.default_rng(0)
        made = [replace(DepthCamera.draw(rng, kind=kind), shiny=0.0, dark=0.0) for _ in range(24)]
        return np.median([look(camera, 1.0, seed=n)[20:70, 20:70].astype(float).std() for n, camera in enumerate(made)])

    found = {kind: errors(kind) for kind in DEPTH_CAMERAS}
    assert found["stereo"] > 1.4 * found["xtion"]  # its base is shorter
    rng = np.random.default_rng(1)
    cameras = {kind: DepthCamera.draw(rng, kind=kind) for kind in DEPTH_CAMERAS}
    assert cameras["tof"].flying > 0 == cameras["xtion"].flying
    assert cameras["tof"].shadow == 0 < cameras["xtion"].shadow


PLAIN = ColourCamera(0.3, (1.0, 1.0, 1.0), 1.0, 0.0, 0.4, 0.0, 0.0, 0.0, 0)


def test_photograph_is_monotonic_and_neutral():
    light = np.repeat(np.linspace(0, 1, 64, dtype=np.float32)[None, :, None], 64, axis=0).repeat(3, axis=2)
    picture = PLAIN.photograph(light, 1.0, 1.0, np.random.default_rng(0))
    assert picture.dtype == np.uint8
    assert (np.ptp(picture.astype(int), axis=2) <= 1).all()
    assert (np.diff(picture[10, :, 0].astype(int)) >= 0).all()
    warm = replace(PLAIN, balance=(1.3, 1.0, 0.8)).photograph(light, 1.0, 1.0, np.random.default_rng(0))
    assert warm[..., 0].mean() > warm[..., 1].mean() > warm[..., 2].mean()


def linear(picture):
    """Linear light of a picture that was taken without contrast, below the shoulder of its curve."""
    return SRGB_TO_LINEAR[picture].astype(float)


def flat(*colour):
    return np.full((48, 48, 3), colour, np.float32)


def photograph(light, level=1.0, cell=1.0, **settings):
    return replace(PLAIN, **settings).photograph(light.copy(), level, cell, np.random.default_rng(0))


def test_exposure_goes_by_the_crop_and_by_the_scene():
    """A mean of 0.3 in a scene of white 1 comes out as asked for; a dark thing in a bright scene stays dark."""
    assert linear(photograph(flat(0.3, 0.3, 0.3))).mean() == pytest.approx(0.3, abs=0.005)
    assert linear(photograph(flat(0.3, 0.3, 0.3), exposure=0.2)).mean() == pytest.approx(0.2, abs=0.005)
    assert linear(photograph(flat(0.6, 0.6, 0.6), level=2.0)).mean() == pytest.approx(0.3, abs=0.005)
    dark = flat(0.02, 0.02, 0.02)
    for level in (0.5, 1.0):
        expected = 0.3 * 0.02 / (0.4 * 0.02 + 0.18 * level)
        assert linear(photograph(dark, level)).mean() == pytest.approx(expected, rel=0.05)


def test_saturation_moves_colours_from_their_grey_and_leaves_greys():
    grey = photograph(flat(0.3, 0.3, 0.3), saturation=1.6)
    assert (np.ptp(grey.astype(int), axis=2) <= 1).all()
    colour = np.array([0.35, 0.28, 0.2])
    luma = float(colour @ [0.2126, 0.7152, 0.0722])
    gain = 0.3 / (0.4 * luma + 0.18)
    for saturation in (0.0, 1.0, 1.6):
        found = linear(photograph(flat(*colour), saturation=saturation)).mean((0, 1))
        assert found == pytest.approx(gain * (luma + saturation * (colour - luma)), abs=0.006)


def test_contrast_makes_dark_darker_and_bright_brighter():
    light = np.repeat(np.array([0.08, 0.55], np.float32), 24)[None, :, None] * np.ones((48, 1, 3), np.float32)
    soft, hard = (photograph(light, contrast=contrast).astype(int) for contrast in (0.0, 1.2))
    assert hard[:, :20].mean() < soft[:, :20].mean() - 5
    assert hard[:, 28:].mean() > soft[:, 28:].mean() + 5


def test_lens_and_sharpening_at_an_edge():
    """A reduced picture is sharper; sharpening overshoots on both sides and nowhere else."""
    light = np.repeat(np.array([0.1, 0.4], np.float32), 24)[None, :, None] * np.ones((48, 1, 3), np.float32)

    def steepest(picture):
        return np.abs(np.diff(picture[24, :, 1].astype(int))).max()

    blurred, reduced, sharp = photograph(light, blur=2.0), photograph(light, blur=2.0, cell=4.0), photograph(light)
    assert steepest(blurred) < 0.5 * steepest(reduced)
    assert steepest(reduced) <= steepest(sharp)
    over = photograph(light, sharpen=1.5)
    assert over.max() > sharp.max() + 10
    assert over.min() < sharp.min() - 10
    np.testing.assert_array_equal(over[:, :18], sharp[:, :18])
    np.testing.assert_array_equal(over[:, 30:], sharp[:, 30:])


def test_shot_noise_has_a_variance_that_grows_with_light():
    deviation = {}
    for light in (0.05, 0.2, 0.45):
        found = linear(
            photograph(flat(light, light, light), level=0.55 / 0.18 - light * 0.4 / 0.18, shot=0.002, exposure=0.55)
        )
        assert found.mean() == pytest.approx(light, rel=0.03)
        deviation[light] = found.std()
    assert deviation[0.2] / deviation[0.05] == pytest.approx(2, rel=0.2)
    assert deviation[0.45] / deviation[0.05] == pytest.approx(3, rel=0.2)


def test_photograph_keeps_channels_through_compression():
    light = np.zeros((32, 32, 3), np.float32)
    light[..., 0] = 0.6  # red
    for quality in (0, 80):
        mean = replace(PLAIN, jpeg=quality).photograph(light, 1.0, 1.0, np.random.default_rng(0)).mean((0, 1))
        assert mean[0] > 100 > 30 > max(mean[1], mean[2])


@pytest.mark.parametrize("quality", [40, 80])
def test_compression_spoils_a_reduced_picture_as_if_it_had_been_large(quality):
    """Against the long way: enlarged, compressed, and averaged."""
    noise = np.random.default_rng(0).standard_normal((64, 64, 3)).astype(np.float32)
    light = np.clip(0.3 + 0.5 * cv2.GaussianBlur(noise, (0, 0), 1.2), 0, 1)
    plain = photograph(light)
    for cell in (1, 2, 4):
        large = cv2.resize(plain, None, fx=cell, fy=cell, interpolation=cv2.INTER_CUBIC)
        code = cv2.imencode(".jpg", large[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
        pressed, reference = (
            cv2.resize(picture, (64, 64), interpolation=cv2.INTER_AREA).astype(float)
            for picture in (cv2.imdecode(code, cv2.IMREAD_COLOR)[..., ::-1], large)
        )
        expected = np.abs(pressed - reference).mean()
        sharp = photograph(light, cell=float(cell))
        found = np.abs(photograph(light, cell=float(cell), jpeg=quality).astype(float) - sharp).mean()
        assert 0.6 * expected < found < 1.7 * expected + 0.3


def test_noise_of_the_colour_camera():
    light = np.full((64, 64, 3), 0.3, np.float32)
    quiet = PLAIN.photograph(light, 1.0, 1.0, np.random.default_rng(0))
    noisy = replace(PLAIN, read=0.02).photograph(light, 1.0, 1.0, np.random.default_rng(0))
    small = replace(PLAIN, read=0.02).photograph(light, 1.0, 4.0, np.random.default_rng(0))
    assert quiet.std() == 0
    assert noisy.std() > 2 * small.std() > 0  # a reduced picture averages its noise


@pytest.mark.parametrize("camera", [ColourCamera, DepthCamera])
def test_a_wider_spread_gives_more_unlike_cameras_that_still_exist(camera):
    def draws(spread):
        rng = np.random.default_rng(3)
        made = [vars(camera.draw(rng, spread)) for _ in range(400)]
        return {name: np.array([m[name] for m in made], float) for name in made[0] if name != "jpeg"}

    usual, wide, none = draws(1.0), draws(2.0), draws(0.0)
    wider = [name for name in usual if wide[name].std() > 1.3 * usual[name].std() > 0]
    fixed = {"focal", "base", "side", "step", "smooth", "nearest", "colour_base", "patch", "flying"}
    assert set(wider) >= set(usual) - fixed - {"exposure"}
    for name in set(usual) - fixed:
        assert none[name].std() < 1e-6, name
        assert wide[name].min() >= 0, name
    assert np.isfinite(np.concatenate([v.ravel() for v in wide.values()])).all()


def test_compression_keeps_a_legal_quality_at_any_spread():
    rng = np.random.default_rng(0)
    made = [ColourCamera.draw(rng, 4.0).jpeg for _ in range(300)]
    assert min(made) == 0
    assert all(20 <= quality <= 96 for quality in made if quality)
