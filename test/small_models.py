"""Tiny networks with random weights, their files, crops for them, and a recogniser behind walls."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from mmcl_core.config import ModelConfig
from mmcl_core.nn.model import RecognitionModel
from mmcl_core.weights import save_weights

SIZE, SIDE = 32, 36  # the network's side, and that of the resized crop
CONFIG = ModelConfig(input_size=32, ndf=8, nrkhs=16, depth=1, head_hidden=12, depth_range_m=(0.1, 3.0))
METADATA = {"classes": ["mug", "ball", "pen"], "config_hash": "0123456789ab", "seed": 7, "method": "mmcl", "note": [1]}
ROOT = Path(__file__).resolve().parents[1]
#: A program that recognises where some modules cannot be imported.
BLOCKED = """
import sys
class Wall:
    def find_spec(self, name, path=None, target=None):
        if any(name == wall or name.startswith(wall + ".") for wall in {walls}):
            raise ImportError("walled off: " + name)
sys.meta_path.insert(0, Wall())
sys.path.insert(0, {root!r})
import numpy as np
from mmcl_core.recognizer import Recognizer
recognizer = Recognizer.load({model!r}, device="cpu")
rgb, depth = np.full((50, 40, 3), 90, np.uint8), np.full((50, 40), 900, np.uint16)
answer = recognizer.recognize([rgb], [depth])
print(answer.modality[0], answer.labels[0], *answer.probabilities[0])
"""
#: What a robot does not need.
TRAINING = [f"mmcl_core.{name}" for name in ("engine", "methods", "synth", "data", "augment", "cli")]
TRAINING += ["torchvision", "matplotlib", "rclpy"]


def make_model(seed=0, trained=("rgb",)):
    torch.manual_seed(seed)
    model = RecognitionModel(CONFIG, ["rgb", "depth"], 3)
    for name in trained:
        channels = 3 if name == "rgb" else 1
        model(torch.rand(4, channels, 32, 32) * 200, name)
    return model


def save_model(path, trained=("rgb", "depth"), temperature=None, **settings):
    """A network with random weights, some statistics, and answers that depend on the picture."""
    torch.manual_seed(0)
    model = RecognitionModel(dataclasses.replace(CONFIG, **settings), ["rgb", "depth"], 3)
    for name, parameter in model.named_parameters():
        if name.endswith("conv2.weight") or name.startswith("classifier"):
            torch.nn.init.normal_(parameter, std=0.3)
    # The hidden units are positive: without their mean the classes would differ by it more than by the picture.
    model.classifier.output.weight.data -= model.classifier.output.weight.data.mean(dim=1, keepdim=True)
    stored = settings.get("depth_encoding") == "stored"
    for name in trained:
        for _ in range(20):
            shape = (16, 3 if name == "rgb" or stored else 1, SIZE, SIZE)
            model(torch.rand(shape) * (255 if shape[1] == 3 else 2000), name)
    metadata = METADATA | {"temperature": temperature or {}, "crop_size": SIDE}
    save_weights(path, model, metadata)
    return model.eval()


def make_crops(sizes, seed=0):
    generator = np.random.default_rng(seed)
    rgb = [generator.integers(0, 256, (h, w, 3), np.uint8) for h, w in sizes]
    depth = [generator.integers(400, 2500, (h, w)).astype(np.uint16) for h, w in sizes]
    return rgb, depth


def run_walled(model, walls):
    """What the recogniser of a run answers, printed, where the modules ``walls`` cannot be imported."""
    code = BLOCKED.format(walls=walls, root=str(ROOT), model=str(model))
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=model, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout
