"""The models that come with the package: they load by name, and recognise real crops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import shared_data

from mmcl_core import models
from mmcl_core.data.pictures import depth_millimetres, read_rgb
from mmcl_core.recognizer import Recognizer
from mmcl_core.weights import read_metadata
from mmcl_ros.parameters import PARAMETERS

FOLDER = Path(models.__file__).parent


@pytest.mark.parametrize("name", models.names())
def test_a_model_loads_and_is_documented(name):
    model = Recognizer.load(name, device="cpu", warm_up=False)
    assert model.modalities == ("rgb", "depth")
    assert not model.uses_camera, "a robot that publishes no camera info can use it"
    assert read_metadata(name)["feature_heads"] == []
    assert f"## {name}\n" in (FOLDER / "README.md").read_text(encoding="utf-8")
    assert (FOLDER / f"{name}.safetensors").stat().st_size < 5e6


def test_the_node_takes_one_of_them():
    assert PARAMETERS["model"].default in models.names()


@pytest.mark.data
def test_ycb21_recognises_real_crops():
    """Every fourth of the 260 crops; what was measured stands in the README of the models, with room for its change."""
    files = sorted(shared_data("real_crops", "ycb_video").glob("*/*_rgb.png"))[::4]
    model = Recognizer.load("ycb21", device="cpu")
    rgb = [read_rgb(file) for file in files]
    depth = [depth_millimetres(file.with_name(file.name.replace("_rgb", "_depth")), 1.0) for file in files]
    right = {}
    for kind, given in (("rgb", {"rgb": rgb}), ("depth", {"depth": depth}), ("rgbd", {"rgb": rgb, "depth": depth})):
        labels = model.recognize(**given).labels
        right[kind] = np.mean([label == file.parent.name for label, file in zip(labels, files, strict=True)])
    assert right["rgb"] > 0.75
    assert right["depth"] > 0.75
    assert right["rgbd"] > 0.9
