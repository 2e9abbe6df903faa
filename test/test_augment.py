"""Draws, views and the transform of evaluation. What RandAugment does to them is tested in test_randaugment."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as TF
from small_pictures import SIZE, SOURCE, VIEWS, WHOLE, batch, run, windows
from torchvision.transforms import InterpolationMode

from mmcl_core import augment
from mmcl_core.augment import Augmenter
from mmcl_core.config import AugmentConfig
from mmcl_core.errors import ConfigError, InputError

CHANGES = {
    "depth_holes": 0.3,
    "depth_erase": 0.5,
    "depth_offset_m": 0.1,
    "depth_background_m": 0.05,
    "depth_view_deg": 12.0,
    "rgb_jitter": 0.5,
    "rgb_grey": 0.2,
}


@pytest.mark.parametrize("policy", ["none", "paper", "sound"])
def test_views_are_raw_pictures(policy):
    images, camera = batch()
    before = {name: image.clone() for name, image in images.items()}
    views = run(AugmentConfig(policy=policy, depth_set=1, **CHANGES), images, camera)
    assert (views["rgb"].image.dtype, views["rgb"].image.shape) == (torch.uint8, (16, 3, SIZE, SIZE))
    assert (views["depth"].image.dtype, views["depth"].image.shape) == (torch.float32, (16, 1, SIZE, SIZE))
    assert views["depth"].image.min() == 0
    assert views["rgb"].camera.shape == views["depth"].camera.shape == (16, 4)
    assert all(torch.equal(images[name], before[name]) for name in images)
    assert (camera == batch()[1]).all()


@pytest.mark.parametrize("policy", ["none", "paper", "sound"])
def test_same_draws_same_views_and_rows_of_the_global_batch(policy):
    images, camera = batch()
    config = AugmentConfig(policy=policy, depth_set=1, camera_dropout=0.5, **CHANGES)
    augmenter = Augmenter(config, SIZE, VIEWS)
    generator = torch.Generator().manual_seed(5)
    draws = augmenter.draw(16, generator)
    once, again = augmenter(images, camera, draws), augmenter(images, camera, draws)
    other = augmenter(images, camera, augmenter.draw(16, generator))
    for rows in (slice(0, 8), slice(5, 6), slice(8, 16)):
        part = augmenter({k: v[rows] for k, v in images.items()}, camera[rows], draws.rows(rows))
        for view in VIEWS:
            assert torch.equal(part[view].image, once[view].image[rows])
            assert torch.equal(part[view].camera, once[view].camera[rows])
    for view in VIEWS:
        assert torch.equal(once[view].image, again[view].image)
        assert not torch.equal(once[view].image, other[view].image)


def test_draws_follow_from_the_generator_alone():
    augmenter = Augmenter(AugmentConfig(**CHANGES), SIZE, VIEWS)
    state = torch.random.get_rng_state()
    first, second = (augmenter.draw(7, torch.Generator().manual_seed(3)).values for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), state), "the global generator was used"
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) and len(first[name]) == 7 for name in first)


def test_every_sample_has_a_draw_of_its_own():
    images, camera = batch(1)
    images = {name: image.repeat(24, *[1] * (image.ndim - 1)) for name, image in images.items()}
    for config in (AugmentConfig(policy="none"), AugmentConfig(**WHOLE, flip=0, rgb_magnitude=15)):
        views = run(config, images, camera.repeat(24, 1))
        distinct = {view: len({image.numpy().tobytes() for image in views[view].image}) for view in VIEWS}
        assert distinct["rgb"] >= 20
        assert distinct["depth"] >= 18


def test_flip_is_shared_and_crop_is_not():
    images, camera = batch(64)
    views = {"a": "rgb", "b": "rgb", "depth": "depth"}
    out = run(AugmentConfig(policy="none", **WHOLE), images, camera, size=SOURCE, views=views)
    plain = images["rgb"].permute(0, 3, 1, 2)
    mirrored = (out["a"].image == plain.flip(3)).flatten(1).all(1)
    assert ((out["a"].image == plain).flatten(1).all(1) ^ mirrored).all()
    assert 15 < mirrored.sum() < 49
    assert torch.equal(out["a"].image, out["b"].image)
    depth = images["depth"][:, None].float()
    assert torch.equal(out["depth"].image, torch.where(mirrored[:, None, None, None], depth.flip(3), depth))
    assert torch.equal(out["a"].camera[:, 2], torch.where(mirrored, SOURCE - 1 - camera[:, 2], camera[:, 2]))
    cropped = run(AugmentConfig(policy="none"), images, camera, views=views)
    assert all((cropped["a"].camera[n] != cropped["b"].camera[n]).any() for n in range(64))


def test_aligned_views_show_the_same_window_and_plain_ones_nothing_else():
    images, camera = batch()
    images["depth"] = images["rgb"][..., 0].int() + 1  # what registered pictures show
    config = AugmentConfig(scale=(0.2, 1.0), depth_set=1, **CHANGES)
    pictures = {"rgb": "rgb", "rgb_plain": "rgb", "depth": "depth"}
    augmenter = Augmenter(config, SOURCE, pictures, aligned=True, plain=("rgb_plain", "depth"))
    draws = augmenter.draw(16, torch.Generator().manual_seed(3))
    assert not any(name.startswith(("rgb_plain/ops", "depth/ops", "depth/holes")) for name in draws.values)
    views = augmenter(images, camera, draws)
    cameras = [views[view].camera for view in pictures]
    assert torch.equal(cameras[1], cameras[2])
    bare = Augmenter(AugmentConfig(policy="none", scale=(0.2, 1.0)), SOURCE, pictures, aligned=True)
    expected = bare(images, camera, bare.draw(16, torch.Generator().manual_seed(3)))
    assert torch.equal(views["rgb_plain"].image, expected["rgb"].image)
    assert torch.equal(views["depth"].image, expected["depth"].image)
    assert not torch.equal(views["rgb"].image, expected["rgb"].image)
    # Nearest pixels of depth lie within what bicubic interpolation made of the same ones.
    assert (views["depth"].image[:, 0] - 1 - views["rgb_plain"].image[:, 0]).abs().mean() < 30
    apart = Augmenter(config, SOURCE, pictures, plain=pictures)
    found = apart(images, camera, apart.draw(16, torch.Generator().manual_seed(3)))
    assert (found["depth"].image[:, 0] - 1 - found["rgb_plain"].image[:, 0]).abs().mean() > 60


def test_crops_have_the_stated_area_and_ratio():
    images, camera = batch(400, 24)
    config = AugmentConfig(policy="none", flip=0, scale=(0.3, 0.9), ratio=(0.7, 1.4))
    left, top, width, height = windows(run(config, images, camera)["rgb"], camera).unbind(1)
    assert (left > -1e-3).all() and (left + width < 24.001).all() and (top > -1e-3).all()  # noqa: PT018
    area, ratio = width * height / 24**2, width / height
    assert 0.25 < area.min() < 0.36 and 0.85 < area.max() < 0.96  # noqa: PT018
    assert 0.64 < ratio.min() < 0.8 and 1.25 < ratio.max() < 1.52  # noqa: PT018
    assert abs(float(ratio.log().mean())) < 0.06
    assert (left > 0.5).any() and (left + width > 23.5).any()  # noqa: PT018


def test_ratios_are_of_width_to_height_and_uniform_in_their_logarithm():
    images, camera = batch(400)
    config = AugmentConfig(policy="none", flip=0, scale=(0.1, 0.2), ratio=(0.5, 3.0))
    _, _, width, height = windows(run(config, images, camera)["rgb"], camera).unbind(1)
    ratio = (width / height).log()
    assert ratio.min().item() == pytest.approx(np.log(0.5), abs=0.1)
    assert ratio.max().item() == pytest.approx(np.log(3.0), abs=0.1)
    assert ratio.mean().item() == pytest.approx(np.log(0.5 * 3.0) / 2, abs=0.1)


def test_each_kind_has_its_own_number_of_operations():
    draws = Augmenter(AugmentConfig(rgb_ops=2, depth_ops=5), SIZE, VIEWS).draw(7, torch.Generator()).values
    assert (draws["rgb/ops"].shape, draws["depth/ops"].shape) == ((7, 2), (7, 5))


def test_cutout_leaves_grey_in_colour_and_no_reading_in_depth():
    images = {
        "rgb": torch.full((200, SOURCE, SOURCE, 3), 255, dtype=torch.uint8),
        "depth": torch.full((200, SOURCE, SOURCE), 700, dtype=torch.int32),
    }
    once = {"rgb_ops": 1, "rgb_magnitude": 30, "depth_op": "Cutout", "depth_op_probability": 1, "depth_magnitude": 30}
    views = run(AugmentConfig(policy="paper", flip=0, **WHOLE, **once), images, torch.zeros(200, 4))
    grey = (views["rgb"].image == torch.tensor([125, 123, 114]).view(3, 1, 1)).all(1)
    cut = grey.flatten(1).any(1)
    assert 2 < cut.sum() < 30  # one operation of 16
    assert (views["rgb"].image[cut] == 255).all(1).logical_or(grey[cut]).all()
    assert set(views["depth"].image.unique().tolist()) == {0.0, 700.0}
    assert (views["depth"].image == 0).flatten(1).any(1).all()


def test_widest_crop_where_none_fits():
    """Twice as wide as high cannot hold the whole area: the widest picture of the nearest ratio is taken."""
    images, camera = batch(5)
    config = AugmentConfig(policy="none", flip=0, scale=(1.0, 1.0), ratio=(2.0, 2.0))
    _, _, width, height = windows(run(config, images, camera)["depth"], camera).round().unbind(1)
    assert width.tolist() == [SOURCE] * 5
    assert height.tolist() == [SOURCE / 2] * 5


@pytest.mark.parametrize("policy", ["none", "paper", "sound"])
def test_the_camera_follows_its_pixel(policy):
    """The pixel at the principal point shows the same reading before and after, whatever was done to the picture."""
    images, camera = batch(200)
    config = AugmentConfig(policy=policy, depth_set=1, depth_magnitude=8)
    ops = [op for op in ("Sharpness", "Cutout") if policy != "none"]
    augmenter = Augmenter(config, SIZE, {"depth": "depth"})
    draws = augmenter.draw(200, torch.Generator().manual_seed(2))
    picture = augmenter(images, camera, draws)["depth"]
    checked = 0
    for n in range(200):
        if ops and any(augmenter._policies["depth"].ops[k].name in ops for k in draws.values["depth/ops"][n].tolist()):
            continue  # these change readings
        x, y = (round(v) for v in picture.camera[n, 2:].tolist())
        if 0 <= x < SIZE and 0 <= y < SIZE and picture.image[n, 0, y, x] > 0:
            number = int(picture.image[n, 0, y, x]) - 1
            scale = max(1.0, float((camera[n, :2] / picture.camera[n, :2]).max()))
            # Half a pixel from rounding, and half a pixel for each nearest neighbour in turn.
            tolerance = 0.75 * scale + 0.75 + (1.5 * scale if ops else 0)
            assert abs(number % SOURCE - 22) <= tolerance
            assert abs(number // SOURCE - 25) <= tolerance
            checked += 1
    assert checked > (30 if policy != "none" else 120)


def test_rays_of_a_crop_and_flip():
    """Every pixel sees along the same ray as the pixel it was taken from."""
    images, camera = batch(50)
    augmenter = Augmenter(AugmentConfig(policy="none", flip=0.5), SIZE, {"depth": "depth"})
    draws = augmenter.draw(50, torch.Generator().manual_seed(2))
    picture = augmenter(images, camera, draws)["depth"]
    sign = torch.where(draws.values["flip"] < 0.5, -1.0, 1.0).view(-1, 1, 1)
    fx, fy, cx, cy = (value.view(-1, 1, 1) for value in picture.camera.unbind(1))
    number = picture.image[:, 0] - 1
    x, y = (torch.arange(SIZE) - cx) / fx, (torch.arange(SIZE)[:, None] - cy) / fy
    off_x = (x * sign - (number % SOURCE - 22) / 60).abs()
    off_y = (y - ((number / SOURCE).floor() - 25) / 62).abs()
    readings = number >= 0
    assert (off_x[readings] < 0.51 / 60).all()
    assert (off_y[readings] < 0.51 / 62).all()


def test_unknown_cameras_stay_unknown():
    images, camera = batch()
    camera[::2] = 0
    views = run(AugmentConfig(depth_set=1, depth_offset_m=0.1), images, camera)
    for picture in views.values():
        assert (picture.camera[::2] == 0).all()
        assert (picture.camera[1::2, :2] > 0).all()
    hidden = run(AugmentConfig(camera_dropout=0.5), *batch(200))
    gone = (hidden["rgb"].camera == 0).all(1)
    assert torch.equal(gone, (hidden["depth"].camera == 0).all(1))
    assert 60 < gone.sum() < 140


@pytest.mark.parametrize("policy", ["paper", "sound"])
def test_depth_keeps_its_readings(policy):
    """Neither crop nor operations make up a distance; only Sharpness blends."""
    images, camera = batch(100)
    config = AugmentConfig(policy=policy, depth_set=2, depth_magnitude=12, depth_holes=0.2, depth_erase=0.5)
    depth = run(config, images, camera)["depth"].image
    for n in range(100):
        assert set(depth[n].flatten().tolist()) <= {0.0, *images["depth"][n].flatten().tolist()}
    images["depth"][:] = 0
    config = AugmentConfig(policy=policy, depth_set=1, **CHANGES)
    assert run(config, images, camera)["depth"].image.abs().max() == 0


def test_offset_moves_readings_and_keeps_the_metric_size():
    images, camera = batch(200)
    images["depth"] = torch.where(images["depth"] > 0, 900 + images["depth"] % 64, 0)
    config = AugmentConfig(policy="none", **WHOLE, flip=0, depth_offset_m=0.2)
    moved = run(config, images, camera, size=SOURCE)["depth"]
    source = images["depth"][:, None].float()
    readings = source > 0
    assert torch.equal(moved.image > 0, readings)
    offset = torch.stack([(m - s)[r].median() for m, s, r in zip(moved.image, source, readings, strict=True)])
    assert torch.allclose(((moved.image - source) * readings), offset.view(-1, 1, 1, 1) * readings, atol=1e-3)
    assert -200 <= offset.min() < -150 and 150 < offset.max() <= 200  # noqa: PT018
    reference = augment.reference_distance(source)
    before, after = reference / camera[:, 0], (reference + offset) / moved.camera[:, 0]
    torch.testing.assert_close(before, after, rtol=1e-4, atol=0)
    near = {"depth": torch.full((200, SOURCE, SOURCE), 30, dtype=torch.int32)}
    close = run(config, near, camera, views={"depth": "depth"})["depth"]
    assert close.image.min() >= 15 and (close.camera[:, :2] > 0).all()  # noqa: PT018


def test_a_change_of_viewpoint_moves_depth_alone():
    """RGB, cameras and all other draws are what they are without it, and every sample is turned its own way."""
    images, camera = batch(1)
    images["depth"] = (700 + 40 * torch.sin(torch.arange(SOURCE) / 3) + torch.arange(SOURCE)[:, None]).int()[None]
    images = {name: image.repeat(20, *[1] * (image.ndim - 1)) for name, image in images.items()}
    camera = 4 * camera.repeat(20, 1)
    settings = {"policy": "none", **WHOLE, "flip": 0.0}
    still = run(AugmentConfig(**settings), images, camera)
    turned = run(AugmentConfig(**settings, depth_view_deg=20.0), images, camera)
    assert torch.equal(turned["rgb"].image, still["rgb"].image)
    for view in VIEWS:
        assert torch.equal(turned[view].camera, still[view].camera)
    assert len({image.numpy().tobytes() for image in still["depth"].image}) == 1
    assert len({image.numpy().tobytes() for image in turned["depth"].image}) == 20
    seen = turned["depth"].image
    assert (seen > 0).float().mean() > 0.8
    assert (seen[seen > 0] - 730).abs().max() < 120, "turned about the object"
    everything = run(AugmentConfig(depth_view_deg=20.0), images, camera)["rgb"].image
    assert torch.equal(everything, run(AugmentConfig(), images, camera)["rgb"].image)


def test_holes_cover_a_drawn_share_in_blobs():
    full = {"depth": torch.full((300, SOURCE, SOURCE), 700, dtype=torch.int32)}
    config = AugmentConfig(policy="none", depth_holes=0.4)
    depth = run(config, full, torch.zeros(300, 4), views={"depth": "depth"})["depth"].image[:, 0]
    holes = depth == 0
    share = holes.float().mean((1, 2))
    assert share.max() < 0.42
    assert share.min() < 0.02
    assert 0.17 < share.mean() < 0.23
    neighbours = (holes[:, :, 1:] & holes[:, :, :-1]).sum() / holes[:, :, 1:].sum()
    assert neighbours > 0.6  # scattered holes would have 0.3


def test_erased_rectangles():
    full = {"depth": torch.full((300, SOURCE, SOURCE), 700, dtype=torch.int32)}
    config = AugmentConfig(policy="none", depth_erase=0.5)
    erased = run(config, full, torch.zeros(300, 4), views={"depth": "depth"})["depth"].image[:, 0] == 0
    count = erased.flatten(1).sum(1)
    assert 110 < (count > 0).sum() < 190
    for one in erased[count > 0]:
        rows, columns = one.any(1), one.any(0)
        assert torch.equal(one, rows[:, None] & columns[None])
        assert torch.equal(rows.nonzero().diff(dim=0).unique(), torch.tensor([1]))
    assert count.max() <= 0.3 * SIZE**2


def test_background_is_dropped_for_half_of_the_samples():
    scene = torch.full((200, SOURCE, SOURCE), 1500, dtype=torch.int32)
    scene[:, 10:38, 10:38] = 600
    config = AugmentConfig(policy="none", **WHOLE, depth_background_m=0.3)
    depth = run(config, {"depth": scene}, torch.zeros(200, 4), size=SOURCE, views={"depth": "depth"})["depth"].image
    dropped = (depth == 0).flatten(1).any(1)
    assert 70 < dropped.sum() < 130
    assert set(depth[dropped].unique().tolist()) == {0.0, 600.0}
    assert set(depth[~dropped].unique().tolist()) == {600.0, 1500.0}


def test_stored_depth_pictures():
    images, camera = batch()
    images["depth"] = images["rgb"].flip(0)
    out = run(AugmentConfig(depth_set=1, depth_erase=0.5, depth_holes=0.2), images, camera)["depth"]
    assert (out.image.dtype, out.image.shape) == (torch.uint8, (16, 3, SIZE, SIZE))
    for setting in ("depth_offset_m", "depth_view_deg"):
        with pytest.raises(ConfigError, match=setting):
            run(AugmentConfig(**{setting: 0.1}), images, camera)


@pytest.mark.parametrize(("source", "size"), [(128, 128), (96, 64), (64, 32), (50, 64)])
def test_evaluation_transform_is_torchvisions(source, size):
    coarse = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 255
    smooth = torch.nn.functional.interpolate(coarse, (source, source), mode="bilinear").to(torch.uint8)
    images, camera = batch(3, source)
    images["rgb"] = smooth.permute(0, 2, 3, 1).contiguous()
    pictures = augment.eval_transform(images, camera, size)
    resized = TF.resize(smooth, [round(size * 146 / 128)], InterpolationMode.BICUBIC, antialias=True)
    difference = (pictures["rgb"].image.int() - TF.center_crop(resized, [size, size]).int()).abs()
    assert difference.max() <= 2
    assert difference.float().mean() < 0.3
    depth = pictures["depth"].image
    for n in range(3):
        assert set(depth[n].flatten().tolist()) <= {0.0, *images["depth"][n].flatten().tolist()}
    fx, fy, cx, cy = pictures["depth"].camera[0].tolist()
    number = depth[:, 0] - 1
    off = (torch.arange(size) - cx) / fx - (number % source - 22) / 60
    assert off[number >= 0].abs().max() < 0.51 / 60
    assert fy / fx == pytest.approx(62 / 60)
    assert cy == pytest.approx((25.5 / source - 0.5) * round(size * 146 / 128) + size / 2 - 0.5, abs=0.51)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("flip", 1.5), ("scale", (0.0, 1.0)), ("scale", (0.5, 1.2)), ("ratio", (1.4, 0.7)), ("rgb_ops", -1),
        ("rgb_magnitude", 31.0), ("depth_magnitude", -1.0), ("depth_holes", 1.1), ("depth_offset_m", -0.1),
        ("depth_background_m", -1.0), ("camera_dropout", 2.0), ("depth_erase", -0.5),
        ("depth_view_deg", 46.0), ("depth_view_deg", -1.0),
    ],
)  # fmt: skip
def test_settings_out_of_range(setting, value):
    with pytest.raises(ConfigError, match=r"\d"):
        Augmenter(AugmentConfig(**{setting: value}), SIZE, VIEWS)


def test_wrong_layouts():
    images, camera = batch()
    augmenter = Augmenter(AugmentConfig(), SIZE, VIEWS)
    draws = augmenter.draw(16, torch.Generator())
    with pytest.raises(InputError, match="rgb: uint8"):
        augmenter({**images, "rgb": images["rgb"].float()}, camera, draws)
    with pytest.raises(InputError, match="draws for 15"):
        augmenter(images, camera, draws.rows(slice(0, 15)))
    with pytest.raises(InputError, match="depth in mm"):
        augment.eval_transform({"depth": images["depth"][..., None]}, camera, SIZE)
    with pytest.raises(ConfigError, match="thermal"):
        Augmenter(AugmentConfig(), SIZE, {"x": "thermal"})
