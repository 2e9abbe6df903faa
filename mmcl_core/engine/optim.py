"""Optimisers, frozen parts and the moving average of the weights."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from mmcl_core.config import OptimConfig
from mmcl_core.engine.muon import Muon
from mmcl_core.engine.schedule import average_decay
from mmcl_core.errors import TrainingError
from mmcl_core.methods.base import Stage, Update

__all__ = ["MovingAverage", "make_optimizer", "require_finite", "select", "set_mode"]


def make_optimizer(system: nn.Module, update: Update, device: torch.device) -> torch.optim.Optimizer:
    """The optimiser of an update over its parameters.

    Adam and SGD add the weight decay to the gradient, AdamW and Muon shrink the weights by it. Muon turns the steps of
    all weights of two or more dimensions, first and last layers too; the rest are AdamW's.
    """
    parameters = [p for name, p in system.named_parameters() if update.selects(name)]
    assert parameters, f"update {update.name!r} selects no parameter by {update.trainable}"
    optim: OptimConfig = update.optim
    common: dict[str, Any] = {"lr": optim.lr, "weight_decay": optim.weight_decay}
    if optim.name == "sgd":  # not fused: that cannot take parameters whose first gradient comes in a later step
        return torch.optim.SGD(parameters, momentum=optim.momentum, **common)
    common |= {"betas": optim.betas, "eps": optim.eps, "fused": device.type in ("cpu", "cuda")}
    if optim.name == "muon":
        matrices = [p for p in parameters if p.ndim >= 2]
        return Muon(matrices, [p for p in parameters if p.ndim < 2], momentum=optim.momentum, **common)
    return (torch.optim.AdamW if optim.name == "adamw" else torch.optim.Adam)(parameters, **common)


def select(system: nn.Module, update: Update) -> list[nn.Parameter]:
    """Let gradients flow to the parameters of an update and to no others; returns them."""
    for name, parameter in system.named_parameters():
        wanted = update.selects(name)
        if parameter.requires_grad != wanted:
            parameter.requires_grad_(wanted)
    return [parameter for parameter in system.parameters() if parameter.requires_grad]


def set_mode(system: nn.Module, stage: Stage) -> None:
    """Training mode, but evaluation mode for modules none of whose parameters the stage changes."""
    system.train()
    for prefix, module in system.named_modules():
        names = [f"{prefix}.{name}" if prefix else name for name, _ in module.named_parameters()]
        if names and not any(update.selects(name) for update in stage.updates for name in names):
            module.eval()


def require_finite(system: nn.Module, done: int) -> None:
    """Refuse weights that hold a NaN or an infinity after ``done`` updates (waits for the device once).

    Raises:
        TrainingError: there is one.
    """
    norms = torch._foreach_norm([p.detach() for p in system.parameters()])
    if not torch.stack(list(norms)).isfinite().all():
        raise TrainingError(
            f"weights are not finite after update {done} although the loss was; nothing is saved. "
            "Lower optim.lr, set optim.clip_grad or take train.precision=float32"
        )


class MovingAverage:
    """Exponential moving average of the weights; running statistics and other buffers are copied.

    Args:
        system: the networks, copied as the start of the average.
        decay: share of the old average that an update keeps, in (0, 1); smaller over the first updates.
    """

    def __init__(self, system: nn.Module, decay: float) -> None:
        self.decay = decay
        self.system = copy.deepcopy(system).eval().requires_grad_(False)

    @torch.no_grad()
    def update(self, system: nn.Module, step: int) -> None:
        """Take in the weights after update ``step`` of the stage."""
        share = 1.0 - average_decay(step, self.decay)
        torch._foreach_lerp_(list(self.system.parameters()), [p.detach() for p in system.parameters()], share)
        for mine, theirs in zip(self.system.buffers(), system.buffers(), strict=True):
            mine.copy_(theirs)
