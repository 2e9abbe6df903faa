"""Tiny networks of several streams, and pictures for them."""

from __future__ import annotations

import torch
from small_models import CONFIG
from torch import nn

from mmcl_core.nn.streams import ZERO, Look, StreamsNetwork

PAIR = {"rgb": "rgb", "depth": "depth"}
RULES = {
    "alone": (PAIR, {"rgb": [Look("rgb")], "depth": [Look("depth")]}, {}),
    "zeroed": (PAIR, {"rgb": [Look("rgb"), Look("depth", ZERO)], "depth": [Look("rgb", ZERO), Look("depth")]}, {}),
    "hallucination": ({"rgb": "rgb", "other": "rgb"}, {"rgb": [Look("rgb"), Look("other")]}, {}),
    "generated": (
        PAIR,
        {"rgb": [Look("rgb"), Look("depth", "made")]},
        {"made": {"kind": "toy", "settings": {"by": 2.0}}},
    ),
}


def pictures(modality, count=6, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.rand(count, 3 if modality == "rgb" else 1, 32, 32, generator=g) * (255 if modality == "rgb" else 2000)


def make(rule, trained=True):
    """A network whose answers depend on the pictures; trained: running statistics of every stream."""
    torch.manual_seed(0)
    network = StreamsNetwork(CONFIG, 3, *RULES[rule])
    for name in network.streams:
        stream = network.stream(name)
        for key, parameter in stream.named_parameters():
            if key.endswith("conv2.weight") or key.startswith("classifier"):
                nn.init.normal_(parameter, std=0.3)
        for _ in range(20 if trained else 0):
            stream(pictures(stream.modalities[0]), stream.modalities[0])
    return network.eval()
