"""Names, input specifications and the way from raw pictures to network input. Encodings are tested in test_depth."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
import torch

from mmcl_core.config import ModelConfig
from mmcl_core.errors import ConfigError, InputError
from mmcl_core.modality import InputSpec, modality, to_network_input, to_raw


def spec(**changes):
    return InputSpec.from_config(ModelConfig(**changes))


def test_names():
    for name, kind in (("rgb", "rgb"), ("rgb_right", "rgb"), ("depth", "depth"), ("depth_b", "depth")):
        assert (modality(name).name, modality(name).kind) == (name, kind)
    assert (modality("depth").unit, modality("depth").invalid) == ("mm", 0)
    assert modality("rgb").invalid is None
    for name in ("thermal", "", "RGB", "rgbd", "depths"):
        with pytest.raises(ConfigError, match="unknown modality"):
            modality(name)


def test_spec_holds_the_settings_and_survives_json():
    config = ModelConfig(input_size=64, depth_encoding="normals", metric_size=True, background_m=0.5)
    made = InputSpec.from_config(config)
    assert made.size == 64
    for field in dataclasses.fields(InputSpec):
        if field.name != "size":
            assert getattr(made, field.name) == getattr(config, field.name)
    assert InputSpec.from_dict(json.loads(json.dumps(made.to_dict()))) == made
    values = made.to_dict()
    values.pop("rgb_mean")
    with pytest.raises(ConfigError, match="rgb_mean"):
        InputSpec.from_dict(values)
    with pytest.raises(ConfigError, match="gamma"):
        InputSpec.from_dict({**made.to_dict(), "gamma": 1})


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"rgb_mean": (1.0,)}, "rgb_mean"),
        ({"rgb_std": (1.0, 0.0, 1.0)}, "rgb_std"),
        ({"depth_std": (1.0, 2.0)}, "depth_std"),
        ({"depth_mean": (math.nan,)}, "depth_mean"),
        ({"rgb_std": (1.0, math.inf, 1.0)}, "rgb_std"),
        ({"depth_range_m": (1.0, 1.0)}, "depth_range_m"),
        ({"depth_range_m": (1.0, math.inf)}, "depth_range_m"),
        ({"background_m": math.nan}, "background_m"),
        ({"depth_range_m": (-1.0, 1.0)}, "depth_range_m"),
        ({"background_m": -0.1}, "background_m"),
        ({"depth_encoding": "stored", "background_m": 0.1}, "background_m"),
        ({"depth_encoding": "hha", "metric_size": True}, "metric_size"),
        ({"depth_encoding": "relief", "metric_size": True}, "metric_size"),
        ({"depth_encoding": "stored", "metric_size": True}, "metric_size"),
        ({"depth_encoding": "jet"}, "jet"),
        ({"input_size": 0}, "input_size"),
    ],
)
def test_contradictions_are_refused(changes, word):
    with pytest.raises(ConfigError, match=word):
        spec(**changes)


def test_rgb_is_normalised_per_channel():
    image = torch.randint(0, 256, (2, 3, 8, 9), dtype=torch.uint8)
    made = spec(rgb_mean=(10.0, 20.0, 30.0), rgb_std=(1.0, 2.0, 4.0))
    for given in (image, image.float()):
        result = to_network_input(given, "rgb_left", None, made)
        assert result.dtype == torch.float32
        for channel in range(3):
            expected = (image[:, channel].float() - 10 * (channel + 1)) / 2**channel
            torch.testing.assert_close(result[:, channel], expected)


def test_stored_pictures_take_the_depth_statistics():
    image = torch.randint(0, 256, (2, 3, 8, 8), dtype=torch.uint8)
    result = to_network_input(image, "depth", None, spec(depth_encoding="stored", depth_mean=(91.0,), depth_std=(2.0,)))
    torch.testing.assert_close(result, (image.float() - 91) / 2)
    three = spec(depth_encoding="stored", depth_mean=(1.0, 2.0, 3.0), depth_std=(2.0, 2.0, 2.0))
    torch.testing.assert_close(to_network_input(image, "depth", None, three)[:, 2], (image[:, 2].float() - 3) / 2)


@pytest.mark.parametrize("encoding", ["replicate", "relative", "normals", "relief", "hha"])
def test_every_encoding_gives_three_channels(encoding):
    depth = 500 + 200 * torch.rand(3, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    depth[0, 0, 3:9, 4:8] = 0
    depth[2] = 0
    camera = torch.tensor([[90.0, 90, 15, 16], [0, 0, 0, 0], [90, 90, 15, 16]])
    made = spec(depth_encoding=encoding, background_m=0.15)
    result = to_network_input(depth, "depth", camera, made)
    assert (result.dtype, result.shape) == (torch.float32, (3, 3, 32, 32))
    assert result.isfinite().all()
    unknown = to_network_input(depth, "depth", None, made)
    assert torch.equal(unknown[1], result[1])
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(to_network_input(depth, "depth", camera, made), result)
    weird = torch.where(depth > 0, depth, torch.tensor([float("nan"), float("inf"), -5.0]).view(3, 1, 1, 1))
    assert torch.equal(to_network_input(weird, "depth", camera, made), result)


def test_wrong_pictures_are_refused():
    made = spec()
    with pytest.raises(InputError, match=r"\[B, 1, H, W\]"):
        to_network_input(torch.zeros(2, 3, 8, 8), "depth", None, made)
    with pytest.raises(InputError, match=r"\[B, 3, H, W\]"):
        to_network_input(torch.zeros(2, 1, 8, 8), "rgb", None, made)
    with pytest.raises(InputError, match="camera"):
        to_network_input(torch.zeros(2, 1, 8, 8), "depth", torch.zeros(1, 4), made)
    with pytest.raises(InputError, match="float32 of shape"):
        to_raw(torch.zeros(2, 8, 8, 3), "rgb")
    with pytest.raises(InputError, match="rgb"):
        to_raw(torch.zeros(2, 8, 8), "rgb")


def test_prepared_layout_becomes_raw():
    image = torch.randint(0, 256, (2, 5, 6, 3), dtype=torch.uint8)
    assert torch.equal(to_raw(image, "rgb")[1, 2, 3, 4], image[1, 3, 4, 2])
    depth = torch.randint(0, 60000, (2, 5, 6), dtype=torch.int32)
    assert torch.equal(to_raw(depth, "depth"), depth[:, None].float())
