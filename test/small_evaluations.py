"""Small sets that a known network is right and wrong on, and ``evaluate`` run on them."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_models import CONFIG, METADATA, SIDE

from mmcl_core import evaluate
from mmcl_core.data.writer import PreparedWriter, Sample
from mmcl_core.nn.model import RecognitionModel
from mmcl_core.weights import save_weights

CLASSES = ("mug", "ball", "pen")  # the model's


def make_pictures(generator, label, side):
    """Noise; the more there is of the label, the brighter the colours and the more holes in the depth."""
    level = label + generator.normal(0, 0.5)
    rgb = generator.normal(80 + 30 * level, 20, (side, side, 3)).clip(0, 255).astype(np.uint8)
    depth = generator.integers(900, 1100, (side, side)).astype(np.uint16)
    return {"rgb": rgb, "depth": depth * (generator.random((side, side)) > 0.1 + 0.2 * level).astype(np.uint16)}


def write_set(
    path, classes=CLASSES, count=23, side=SIDE, drop=None, modalities=("rgb", "depth"), blank=(), cameras=True,
    groups=lambda i: f"scene{i % 5}",
):  # fmt: skip
    """``drop(i)`` names the modalities that sample i lacks; the depth of ``blank`` samples has no reading."""
    generator = np.random.default_rng(4)
    with PreparedWriter(
        path, classes=classes, size=side, modalities=modalities, description={"source": "test"}
    ) as writer:
        for i in range(count + 3):
            images = make_pictures(generator, i % len(classes), side)
            images["depth"][:] *= i not in blank
            kept = {m: images[m] for m in modalities if m not in (drop(i) if drop else ())}
            camera = None if i % 2 or not cameras else (60.0, 60.0, side / 2, side / 2)
            split = "test" if i < count else "train"
            writer.add(Sample(kept, i % len(classes), split, f"k{i:03d}", groups(i), camera=camera))
    return path


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A small network after a few updates: right more often than not."""
    torch.manual_seed(0)
    generator = np.random.default_rng(0)
    model = RecognitionModel(replace(CONFIG, depth_encoding="normals"), ["rgb", "depth"], 3)
    optimiser = torch.optim.Adam(model.parameters(), 3e-3)
    labels = torch.arange(24) % 3
    for _ in range(30):
        pictures = [make_pictures(generator, int(label), 32) for label in labels]
        rgb = torch.from_numpy(np.stack([p["rgb"] for p in pictures])).permute(0, 3, 1, 2)
        depth = torch.from_numpy(np.stack([p["depth"] for p in pictures]).astype(np.float32))[:, None]
        losses = [
            torch.nn.functional.cross_entropy(model(image, name)[0], labels)
            for name, image in (("rgb", rgb), ("depth", depth))
        ]
        optimiser.zero_grad()
        sum(losses).backward()
        optimiser.step()
    path = tmp_path_factory.mktemp("trained") / "weights.safetensors"
    save_weights(path, model, METADATA | {"temperature": {"rgb": 1.5, "depth": 0.8, "rgbd": 0.9}})
    return path


@pytest.fixture
def run(tmp_path, trained):
    (tmp_path / "run").mkdir()
    shutil.copy(trained, tmp_path / "run")
    return tmp_path / "run"


def run_command(*arguments, status=0):
    assert evaluate.main([*map(str, arguments), "--resamples", "100", "--batch", "4", "--quiet"]) == status


def read(out):
    with (out / "predictions.csv").open() as file:
        lines = list(csv.DictReader(file))
    return json.loads((out / "metrics.json").read_text()), lines
