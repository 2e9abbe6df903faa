"""Methods with a stand-in for the second sensor: a tiny one of them, its batch, its stages and updates."""

from __future__ import annotations

import torch
from small_methods import BATCH
from small_methods import batch_for as batch_of_views
from small_methods import build as build_method

from mmcl_core.augment import Picture
from mmcl_core.engine.optim import select, set_mode

SMALL = {
    "pix2pix": ("pix2pix.gan_epochs=2", "pix2pix.alone_epochs=2", "pix2pix.width=4"),
    "admd": tuple(f"admd.{text}" for text in ("alone_epochs=2", "together_epochs=2", "finetune_epochs=2", "hidden=16")),
    "hallucination": tuple(f"hallucination.{name}_epochs=2" for name in ("alone", "together", "finetune")),
}


def build(name, *overrides):
    return build_method(f"method={name}", "train.target=rgb", *SMALL[name], *overrides)


def stage_of(method, name):
    return next(stage for stage in method.stages() if stage.name == name)


def update_of(stage, name):
    return next(update for update in stage.updates if update.name == name)


def batch_for(method, stage, present=None, **arguments):
    """As for all methods, with pictures that stand for the generated ones."""
    batch = batch_of_views(method, stage, present, **arguments)
    if stage.name == "classify":
        g = torch.Generator().manual_seed(1)
        generated = torch.randn(BATCH, 3, 32, 32, generator=g)
        if present and "rgb" in present:
            generated[~present["rgb"]] = arguments.get("fill", 0.0)
            batch.present["generated"] = present["rgb"]
        batch.pictures["generated"] = Picture(generated, torch.zeros(BATCH, 4))
    return batch


def warm_up(method, system):
    """Gives every network running statistics, and the hallucination stream its start."""
    for stage in method.stages():
        method.start_stage(system, stage)
        terms_of(method, system, stage)


def terms_of(method, system, stage, update=None, batch=None, **arguments):
    update = update or stage.updates[-1]
    set_mode(system, stage)
    select(system, update)
    batch = batch or batch_for(method, stage, **arguments)
    torch.manual_seed(0)
    return method.losses(system, batch, stage, update)


def logits_of(stream, picture):
    return stream(picture.image, stream.modalities[0], picture.camera)[0]
