"""RandAugment on batches: ranges, turns, single operations on depth. Operations by themselves: test_imageops."""

from __future__ import annotations

import math
import typing

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from small_pictures import SIZE, SOURCE, VIEWS, WHOLE, batch, run

from mmcl_core.augment import Augmenter
from mmcl_core.config import AugmentConfig
from mmcl_core.errors import ConfigError
from mmcl_core.policy import DEPTH_SETS, RGB_POLICIES, depth_ops, single_op
from mmcl_core.randaugment import RandAugment, depth_policy


def named(policy, name):
    return next(op for op in RGB_POLICIES[policy] if op.name == name)


def test_ranges_of_the_policies():
    paper = {op.name: (op.low, op.high) for op in RGB_POLICIES["paper"]}
    assert len(paper) == 16
    assert paper["Rotate"] == (0, 30) and paper["Posterize"] == (0, 4) and paper["Solarize"] == (0, 256)  # noqa: PT018
    assert paper["SolarizeAdd"] == (0, 110) and paper["Cutout"] == (0, 40)  # noqa: PT018
    assert all(paper[name] == (0.1, 1.9) for name in ("Color", "Contrast", "Brightness", "Sharpness"))
    assert all(paper[name] == (0, 0.3) for name in ("ShearX", "ShearY"))
    assert all(paper[name] == (0, 100) for name in ("TranslateX", "TranslateY"))
    assert int(named("paper", "Posterize").value(4, 128)) == 0
    assert named("paper", "Contrast").value(4, 128) == pytest.approx(0.34)
    assert named("paper", "TranslateX").value(4, 64) == pytest.approx(4 / 30 * 50)
    assert [int(named("sound", "Posterize").value(m, 128)) for m in (0, 30)] == [8, 4]
    both_ways = {"Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY"}
    assert {op.name for op in RGB_POLICIES["paper"] if op.signed} == both_ways
    both_ways |= {"Contrast", "Brightness", "Color", "Sharpness"}
    assert {op.name for op in RGB_POLICIES["sound"] if op.signed} == both_ways
    assert RGB_POLICIES["none"] == ()
    table_4 = {"Cutout", "Rotate", "TranslateX", "ShearX", "ShearY", "Sharpness"}
    assert {op.name for op in depth_ops("sound", 1)} == set(DEPTH_SETS[1]) == table_4
    assert {op.name for op in depth_ops("paper", 2)} == {"Cutout", "Rotate"}
    config = AugmentConfig(policy="paper")
    operations = depth_policy(config, 128).ops
    assert [op.name for op in operations] == ["Rotate", "Cutout"]
    assert operations[0].value(config.depth_magnitude, 128) == pytest.approx(4)


def apply_one(policy, name, magnitude, image, numbers):
    ops = (named(policy, name),)
    count = len(image)
    zeros = torch.zeros(count, 1, dtype=torch.int64)
    return RandAugment(ops, 1, magnitude, image.shape[-1])(image.clone(), torch.zeros(count, 4), zeros, numbers)[0]


def test_paper_blackens_and_sound_does_not():
    image = batch()[0]["rgb"].permute(0, 3, 1, 2).contiguous()
    numbers = torch.rand(16, 1, 3, generator=torch.Generator().manual_seed(0))
    assert apply_one("paper", "Posterize", 4, image, numbers).max() == 0
    assert apply_one("sound", "Posterize", 4, image, numbers).max() > 200
    assert (apply_one("paper", "Brightness", 4, image, numbers) <= image).all()
    sound = apply_one("sound", "Brightness", 4, image, numbers).float().mean((1, 2, 3)) / image.float().mean((1, 2, 3))
    darker = numbers[:, 0, 0] < 0.5
    assert 0 < darker.sum() < 16
    assert (sound[darker] < 0.93).all()
    assert (sound[~darker] > 1.05).all()
    for op in RGB_POLICIES["sound"]:
        if op.name not in ("AutoContrast", "Equalize"):
            assert torch.equal(apply_one("sound", op.name, 0, image, numbers), image), f"{op.name} at magnitude 0"


def test_solarize_add_of_the_paper_is_that_of_the_authors():
    image = torch.arange(0, 192, dtype=torch.uint8).view(1, 3, 8, 8)
    numbers = torch.zeros(1, 1, 3)
    authors = torch.arange(192) + 14  # 4 / 30 x 110, without its fraction
    authors = torch.where(authors < 128, authors, 255 - authors)
    assert torch.equal(apply_one("paper", "SolarizeAdd", 4, image, numbers).flatten().long(), authors)
    published = torch.arange(192)
    published = torch.where(published < 128, published + 14, published)
    assert torch.equal(apply_one("sound", "SolarizeAdd", 4, image, numbers).flatten().long(), published)


@pytest.mark.parametrize(("policy", "side", "left"), [("paper", 6, (125, 123, 114)), ("sound", 5, (0, 0, 0))])
def test_cutout_in_8_bit_pictures_and_in_metric_depth(policy, side, left):
    """The authors' program cuts 6 x 6 pixels to grey at M = 4; distances become a hole of 5 x 5."""
    config = AugmentConfig(policy=policy, depth_op="Cutout", depth_op_probability=1.0)
    in_depth = depth_policy(config, 128)
    in_colour = Augmenter(config, 128, VIEWS)._policies["rgb"]
    alone = RandAugment((named(policy, "Cutout"),), 1, 4, 128, in_colour.fill)
    picture, distances = torch.full((1, 3, 128, 128), 200, dtype=torch.uint8), torch.full((1, 1, 128, 128), 700.0)
    drawn = {"ops": torch.zeros(1, 1, dtype=torch.int64), "numbers": torch.full((1, 1, 3), 0.5)}
    for cut, image, length, values in (
        (alone, picture, side, (125, 123, 114)),
        (in_depth, picture, side, left),
        (in_depth, distances, 5, (0,)),
    ):
        out, _ = cut(image.clone(), torch.zeros(1, 4), **drawn)
        expected = image.clone()
        expected[..., 61 : 61 + length, 61 : 61 + length] = torch.tensor(values, dtype=image.dtype).view(1, -1, 1, 1)
        assert torch.equal(out, expected)


def test_operations_are_applied_in_turn():
    """Against one sample and one operation at a time."""
    images, _ = batch(12, SIZE)
    image = images["rgb"].permute(0, 3, 1, 2).contiguous()
    for policy in ("paper", "sound"):
        together = RandAugment(RGB_POLICIES[policy], 3, 9, SIZE, (125, 123, 114))
        drawn = together.draw(12, torch.Generator().manual_seed(8))
        result, _ = together(image.clone(), torch.zeros(12, 4), **drawn)
        for n in range(12):
            one = image[n : n + 1].clone()
            for turn, op in enumerate(drawn["ops"][n].tolist()):
                single = RandAugment((RGB_POLICIES[policy][op],), 1, 9, SIZE, (125, 123, 114))
                zero = torch.zeros(1, 1, dtype=torch.int64)
                one, _ = single(one, torch.zeros(1, 4), zero, drawn["numbers"][n : n + 1, turn : turn + 1])
            assert torch.equal(one[0], result[n])


def test_cameras_are_moved_by_one_operation_after_the_other():
    """Turned, shifted and sheared: the order matters to where the principal point ends."""
    ops = tuple(named("paper", name) for name in ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY"))
    together, single = RandAugment(ops, 3, 20, SIZE), RandAugment(ops, 1, 20, SIZE)
    drawn = together.draw(60, torch.Generator().manual_seed(8))
    image = batch(60, SIZE)[0]["rgb"].permute(0, 3, 1, 2).contiguous()
    camera = torch.tensor([[60.0, 60.0, 22.0, 9.0]]).repeat(60, 1)
    image_then, camera_then = together(image.clone(), camera.clone(), **drawn)
    for turn in range(3):
        part = {name: value[:, turn : turn + 1] for name, value in drawn.items()}
        image, camera = single(image, camera, **part)
    assert torch.equal(image, image_then)
    torch.testing.assert_close(camera_then, camera, atol=1e-3, rtol=1e-5)
    assert (camera[:, 2:] - torch.tensor([22.0, 9.0])).abs().amax(1).min() > 0.1


def test_each_draw_is_applied_or_not_by_itself():
    policy = RandAugment(RGB_POLICIES["paper"], 3, 4, SIZE, probability=0.3)
    applied = policy.draw(4000, torch.Generator().manual_seed(0))["ops"] >= 0
    assert (applied.float().mean(0) - 0.3).abs().max() < 0.03
    assert applied.sum(1).bincount(minlength=4).tolist() == pytest.approx([1372, 1764, 756, 108], abs=120)


def test_all_operations_are_drawn_alike():
    policy = RandAugment(RGB_POLICIES["paper"], 3, 4, SIZE)
    ops = policy.draw(4000, torch.Generator().manual_seed(0))["ops"]
    share = torch.bincount(ops.flatten(), minlength=16) / 12000
    assert (share - 1 / 16).abs().max() < 0.012
    assert (ops[:, 0] == ops[:, 1]).any(), "with replacement"


def test_magnitude_scale_is_thirty():
    assert math.isclose(named("paper", "Rotate").value(30, 64), 30)
    with pytest.raises(ConfigError, match="magnitude"):
        RandAugment((), 1, 31, SIZE)


VALUE_OPS = ("Brightness", "Contrast", "Invert", "Equalize", "AutoContrast")


def depth_batch(count=6, side=SIZE):
    """Depth with holes at whole levels of 0.5..2.0 m, partly outside; the last sample has no reading at all."""
    rng = np.random.default_rng(7)
    y, x = np.mgrid[:side, :side] / side
    depth = 400 + 1800 * rng.random((count, 1, 1)) * (x + y) / 2 + rng.integers(0, 300, (count, side, side))
    depth = 500 + np.round((depth - 500) * 255 / 1500) * 1500 / 255
    depth[rng.random(depth.shape) < 0.1] = 0
    depth[-1] = 0
    return torch.from_numpy(depth).float()[:, None]


def slow_value_op(name, reading, factor, noise=None):
    """One picture [S, S] in mm, range 0.5..2.0 m: PIL on the 8-bit picture of the readings alone."""
    rows = [(y, x) for y in range(SIZE) for x in range(SIZE) if reading[y, x] > 0]
    if not rows:
        return reading.clone()
    levels = torch.stack([((reading[at] - 500) * 255 / 1500).clamp(0, 255) for at in rows])
    if name == "Speckle":
        new = (levels * (1 + factor * torch.stack([noise[at] for at in rows]))).clamp(0, 255)
    else:
        strip = Image.fromarray(levels.round().to(torch.uint8)[None].numpy())
        if name in ("Brightness", "Contrast"):
            strip = getattr(ImageEnhance, name)(strip).enhance(factor)
        else:
            strip = getattr(ImageOps, name.lower())(strip)
        new = torch.from_numpy(np.asarray(strip).copy())[0].float()
    out = torch.zeros_like(reading)
    for at, level in zip(rows, new.tolist(), strict=True):
        out[at] = max(1.0, 500 + level * 1500 / 255)
    return out


@pytest.mark.parametrize("name", [*VALUE_OPS, "Speckle"])
def test_single_value_operation_on_metric_depth(name):
    depth = depth_batch()
    config = AugmentConfig(policy="paper", depth_op=name, depth_op_probability=1.0, depth_magnitude=4)
    policy = depth_policy(config, SIZE, (0.5, 2.0))
    drawn = policy.draw(len(depth), torch.Generator().manual_seed(0))
    out, _ = policy(depth.clone(), torch.zeros(len(depth), 4), **drawn)
    factor = policy.ops[0].value(4, SIZE)
    noise = drawn.get("noise", torch.zeros(len(depth), SIZE, SIZE))
    for n in range(len(depth)):
        expected = slow_value_op(name, depth[n, 0], factor, noise[n])
        assert torch.equal(out[n, 0] > 0, expected > 0)
        assert (out[n, 0] - expected).abs().max() <= 0.02, (name, n)
    assert (out - depth).abs().max() > 50


def test_inverting_depth_twice_gives_it_back():
    """Levels keep their fraction: of an inversion nothing is rounded to a 255th of the range."""
    depth = depth_batch().clamp(max=1999) * (depth_batch() > 500)
    policy = depth_policy(AugmentConfig(policy="paper", depth_op="Invert", depth_op_probability=1.0), SIZE, (0.5, 2.0))
    drawn = policy.draw(len(depth), torch.Generator())
    once, _ = policy(depth.clone(), torch.zeros(len(depth), 4), **drawn)
    assert torch.allclose(once[depth > 0], 2500 - depth[depth > 0], atol=1e-2)
    twice, _ = policy(once.clone(), torch.zeros(len(depth), 4), **drawn)
    assert torch.allclose(twice, depth, atol=1e-2)


def test_a_reading_stays_one_whatever_its_level_becomes():
    """Level 0 of a range that begins at the camera is a distance of 1 mm, not the 0 that stands for no reading."""
    depth = torch.tensor([0.0, 2.0, 1275.0, 2550.0, 9000.0]).repeat(1, 1, 5, 1)
    policy = depth_policy(AugmentConfig(policy="paper", depth_op="Invert", depth_op_probability=1.0), 5, (0.0, 2.55))
    out, _ = policy(depth.clone(), torch.zeros(1, 4), **policy.draw(1, torch.Generator()))
    assert out[0, 0, 0].tolist() == pytest.approx([0, 2548, 1275, 1, 1], abs=1e-2)


@pytest.mark.parametrize("name", ["Invert", "Equalize", "Speckle", "Sharpness"])
def test_single_operation_on_a_stored_picture(name):
    """8-bit depth pictures (HHA) are changed as pictures, by PIL's rules."""
    image = torch.from_numpy(np.random.default_rng(1).integers(0, 200, (4, 3, SIZE, SIZE), dtype=np.uint8))
    policy = depth_policy(AugmentConfig(policy="paper", depth_op=name, depth_op_probability=1.0), SIZE)
    drawn = policy.draw(4, torch.Generator().manual_seed(2))
    out, _ = policy(image.clone(), torch.zeros(4, 4), **drawn)
    assert out.dtype == torch.uint8
    for n in range(4):
        if name == "Speckle":
            factor = 1 + policy.ops[0].value(4, SIZE) * drawn["noise"][n]
            expected = torch.stack([(plane.float() * factor).clamp(0, 255).round() for plane in image[n]]).byte()
        else:
            picture = Image.fromarray(image[n].permute(1, 2, 0).numpy())
            value = policy.ops[0].value(4, SIZE)
            changed = (
                ImageEnhance.Sharpness(picture).enhance(value)
                if name == "Sharpness"
                else getattr(ImageOps, name.lower())(picture)
            )
            expected = torch.from_numpy(np.asarray(changed).copy()).permute(2, 0, 1)
        assert (out[n].int() - expected.int()).abs().max() <= (1 if name == "Sharpness" else 0)


def test_a_single_operation_is_applied_to_the_stated_share():
    full = {"depth": torch.full((400, SOURCE, SOURCE), 700, dtype=torch.int32)}
    still = {**WHOLE, "flip": 0, "policy": "paper", "depth_op": "Invert"}

    def inverted(**settings):
        views = {"depth": "depth"}
        image = run(AugmentConfig(**still, **settings), full, torch.zeros(400, 4), views=views)["depth"].image
        levels = image.flatten(1).amax(1)
        assert torch.equal(levels, image.flatten(1).amin(1))
        assert set(levels.round().tolist()) <= {700.0, 1850.0}
        return int((levels > 1000).sum())

    assert 160 < inverted() < 240
    assert 50 < inverted(depth_op_probability=0.2) < 110
    assert inverted(depth_op_probability=0.0) == 0
    assert inverted(depth_op_probability=1.0) == 400


@pytest.mark.parametrize("name", [*VALUE_OPS, "Speckle", "TranslateY", "Cutout"])
def test_single_operations_take_rows_of_the_global_draws(name):
    images, camera = batch()
    augmenter = Augmenter(AugmentConfig(depth_op=name, depth_magnitude=15), SIZE, VIEWS, (0.2, 1.8))
    draws = augmenter.draw(16, torch.Generator().manual_seed(4))
    whole = augmenter(images, camera, draws)["depth"].image
    part = augmenter({k: v[5:9] for k, v in images.items()}, camera[5:9], draws.rows(slice(5, 9)))["depth"].image
    assert torch.equal(part, whole[5:9])
    assert torch.equal(whole, augmenter(images, camera, draws)["depth"].image)


def test_single_operation_settings():
    with pytest.raises(ConfigError, match=r"augment\.policy is none"):
        Augmenter(AugmentConfig(policy="none", depth_op="Cutout"), SIZE, VIEWS)
    with pytest.raises(ConfigError, match=r"depth_op_probability is 1\.5"):
        Augmenter(AugmentConfig(depth_op="Cutout", depth_op_probability=1.5), SIZE, VIEWS)
    assert [op.name for op in depth_policy(AugmentConfig(depth_op="Speckle"), SIZE).ops] == ["Speckle"]
    offered = typing.get_args(typing.get_type_hints(AugmentConfig)["depth_op"])
    assert all(len(single_op(policy, name)) == 1 for policy in ("paper", "sound") for name in offered if name)
