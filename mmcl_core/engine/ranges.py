"""The numbers that settings may be."""

from __future__ import annotations

import math
from typing import Any

from mmcl_core.config import Config
from mmcl_core.errors import ConfigError

__all__ = ["check_ranges"]

#: setting -> (least, most or None), both allowed.
_RANGES: dict[str, tuple[float, float | None]] = {
    "data.val_fraction": (0, 0.999),
    "data.label_share": (0, 1),
    "data.label_repeats": (0, 1000),
    "model.ndf": (1, None),
    "model.nrkhs": (1, None),
    "model.depth": (1, None),
    "model.head_hidden": (1, None),
    "model.dropout": (0, 0.999),
    "loss.contrastive_weight": (0, None),
    "loss.classification_weight": (0, None),
    "loss.agreement_weight": (0, None),
    "loss.clip": (0, None),
    "loss.regulariser": (0, None),
    "loss.direction_weight": (0, None),
    "loss.logit_clip": (0, None),
    "loss.logit_regulariser": (0, None),
    "loss.chunk": (1, None),
    "loss.label_smoothing": (0, 0.999),
    "optim.lr": (0, None),
    "optim.eps": (1e-16, None),
    "optim.weight_decay": (0, None),
    "optim.momentum": (0, 0.999999),
    "optim.warmup_steps": (0, None),
    "optim.gamma": (0, None),
    "optim.clip_grad": (0, None),
    "optim.ema": (0, 0.999999),
    "train.epochs": (1, None),
    "train.head_epochs": (0, None),
    "train.batch": (2, None),
    "train.accumulate": (1, None),
    "train.threads": (0, 1024),
    "train.log_every": (1, None),
    "train.save_every": (0, None),
    "train.validate_every": (0, None),
    "train.probe": (0, None),
    "pix2pix.gan_epochs": (1, None),
    "pix2pix.alone_epochs": (0, None),
    "pix2pix.copies": (1, None),
    "pix2pix.width": (1, None),
    "pix2pix.dropout": (0, 0.999),
    "pix2pix.l1_weight": (0, None),
    "pix2pix.lr": (0, None),
    "admd.alone_epochs": (0, None),
    "admd.together_epochs": (0, None),
    "admd.finetune_epochs": (0, None),
    "admd.finetune_rate": (0, 1),
    "admd.hidden": (1, None),
    "admd.lr": (0, None),
    "hallucination.alone_epochs": (0, None),
    "hallucination.together_epochs": (0, None),
    "hallucination.finetune_epochs": (0, None),
    "hallucination.finetune_rate": (0, 1),
    "hallucination.distance_weight": (0, None),
    "hallucination.imitation": (0, 1),
    "hallucination.temperature": (0.01, None),
    "cmc.width": (1, None),
    "cmc.temperature": (0.0125, None),
    "cmc.momentum": (0, 0.999999),
    "cmc.negatives": (1, None),
    "cmc.lr": (0, None),
    "cmc.sgd_momentum": (0, 0.999999),
    "cmc.weight_decay": (0, None),
    "cmc.probe_epochs": (0, None),
    "cmc.probe_lr": (0, None),
    "input_dropout.probability": (0.05, 1),
    "moddrop.alone_epochs": (0, None),
    "moddrop.modality_keep": (0.01, 1),
    "moddrop.input_keep": (0.01, 1),
}


def check_ranges(config: Config) -> None:
    """Check every number by itself.

    Raises:
        ConfigError: naming the setting, its value and what it may be.
    """
    for name, (least, most) in _RANGES.items():
        section, key = name.split(".")
        value: Any = getattr(getattr(config, section), key)
        if not math.isfinite(value):
            raise ConfigError(f"{name} is {value}; it must be finite")
        if not (value >= least and (most is None or value <= most)):
            span = f"at least {least}" if most is None else f"from {least} to {most}"
            raise ConfigError(f"{name} is {value}; it must be {span}")
    if config.seed < 0:
        raise ConfigError(f"seed is {config.seed}; it must be at least 0")
    if config.optim.milestones and min(config.optim.milestones) < 0:
        raise ConfigError(f"optim.milestones is {list(config.optim.milestones)}; each must be at least 0")
    for section in ("optim", "pix2pix", "admd"):
        betas = getattr(getattr(config, section), "betas", ())
        if not all(0 <= beta < 1 for beta in betas):
            raise ConfigError(f"{section}.betas is {list(betas)}; each must be from 0 to below 1")
    if config.train.batch // config.train.accumulate < 2:
        raise ConfigError(
            f"train.batch={config.train.batch} in train.accumulate={config.train.accumulate} parts leaves a part fewer "
            "than 2 samples, which batch statistics need; lower train.accumulate"
        )
