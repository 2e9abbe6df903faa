"""What follows from the number of the update alone: learning rate, averaging decay, random seed.

None of it has state, so a resumed run continues exactly where a killed one stood.
"""

from __future__ import annotations

import hashlib
import math

import torch

from mmcl_core.config import OptimConfig

__all__ = ["average_decay", "learning_rate", "step_generator", "step_seed"]


def learning_rate(step: int, optim: OptimConfig, steps_per_epoch: int, epochs: int) -> float:
    """Learning rate of an update.

    The rate grows linearly over the first ``warmup_steps`` updates (update 0 takes one ``warmup_steps``-th of it) and
    is multiplied by the factor of the schedule: ``multistep`` by ``gamma`` at the start of every milestone epoch
    (paper: epochs 0-30, 31-45 and 46 on, milestones 31 and 46), ``cosine`` down to 0 at the end of the stage.

    Args:
        step: update within the stage, from 0.
        optim: rate, warm-up and schedule.
        steps_per_epoch: updates in an epoch, >= 1.
        epochs: epochs in the stage.

    Returns:
        The rate, >= 0.
    """
    warmup = min(1.0, (step + 1) / optim.warmup_steps) if optim.warmup_steps > 0 else 1.0
    factor = 1.0
    if optim.schedule == "multistep":
        epoch = step // steps_per_epoch
        factor = optim.gamma ** sum(epoch >= milestone for milestone in optim.milestones)
    elif optim.schedule == "cosine":
        total = steps_per_epoch * epochs
        start = min(max(optim.warmup_steps, 0), total - 1)
        factor = 0.5 * (1 + math.cos(math.pi * max(step - start, 0) / max(total - start, 1)))
    return optim.lr * warmup * factor


def average_decay(step: int, decay: float) -> float:
    """Decay of the moving average after update ``step``: short memory at first, so that the start is forgotten."""
    return min(decay, (1 + step) / (10 + step))


def step_seed(seed: int, *place: int | str) -> int:
    """A seed in [0, 2**63) for one place of the run, such as ``(stage, step)``; unrelated for unequal places."""
    text = "/".join(str(part) for part in (seed, *place))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def step_generator(seed: int, *place: int | str) -> torch.Generator:
    """A fresh CPU generator for one place of the run; see :func:`step_seed`."""
    return torch.Generator().manual_seed(step_seed(seed, *place))
