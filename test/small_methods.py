"""Methods of tiny networks and a batch for them."""

from __future__ import annotations

import tiny
import torch

from mmcl_core.augment import Picture
from mmcl_core.engine.optim import set_mode
from mmcl_core.methods import method_class
from mmcl_core.methods.base import ViewBatch

BATCH = 12


def build(*overrides):
    config = tiny.settings("unused", "model.dropout=0", "model.metric_size=true", *overrides)
    method = method_class(config.method)(config, tiny.CLASSES)
    torch.manual_seed(0)
    return method, method.build()


def batch_for(method, stage, present=None, labels=None, fill=0.0, seed=0):
    """Random pictures and cameras for every view; where a sample lacks it, ``fill``, and cameras that go with it."""
    g, of_cameras = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(seed + 1)
    pictures, present = {}, present or {}
    for view, modality in method.views(stage).items():
        shape, low, span = ((3, 32, 32), 0, 255) if modality == "rgb" else ((1, 32, 32), 500, 700)  # mm
        image = low + span * torch.rand(BATCH, *shape, generator=g)
        camera = 20 + 20 * torch.rand(BATCH, 4, generator=of_cameras)
        if view in present:
            image[~present[view]], camera[~present[view]] = fill, 100.0 if fill else 0.0
        pictures[view] = Picture(image, camera)
    labels = torch.arange(BATCH) % 3 if labels is None else labels
    return ViewBatch(pictures, present, labels, torch.arange(BATCH), method.draw(BATCH, stage, g))


def losses(method, system, stage=None, **arguments):
    stage = stage or method.stages()[0]
    set_mode(system, stage)
    return method.losses(system, batch_for(method, stage, **arguments), stage, stage.updates[0])
