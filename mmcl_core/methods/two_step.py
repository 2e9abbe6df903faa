"""Self-supervised learning first, classifier heads on the frozen encoder second (the paper's two-step comparison)."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from mmcl_core.methods.amdim import two_views
from mmcl_core.methods.base import Method, Stage, Update, ViewBatch
from mmcl_core.methods.parts import classify, contrast, encode, make_nce, one_network, require_classifier
from mmcl_core.nn.losses import draw_cells

__all__ = ["TwoStep"]

#: Epochs of the second stage at whose start its rate falls to a fifth: the authors' program says 15 and 25, and steps
#: after these epochs.
HEAD_MILESTONES = (16, 26)


class TwoStep(Method):
    """``contrast``: all pairs of ``train.modalities``, or two augmentations of a single one. ``heads``: the classifier.

    The second stage runs ``train.head_epochs`` epochs at a rate that is multiplied by ``optim.gamma`` at epochs 16 and
    26, counted from 0, and warms up over ``optim.warmup_steps`` updates as the first does (that of the authors' program
    does not). The encoder is frozen in it, running statistics included, and evaluates with them; the authors' program
    keeps normalising by those of the batch.
    """

    name = "two_step"
    pairs = True
    contrasts = True
    recordable = True

    def check(self) -> None:
        """Refuse labels that nothing learns from."""
        require_classifier(self, "train.head_epochs", self.config.train.head_epochs)

    def stages(self) -> tuple[Stage, ...]:
        """The two stages; without ``train.head_epochs``, or without a label, the first alone."""
        train, optim = self.config.train, self.config.optim
        heads = replace(optim, milestones=HEAD_MILESTONES)
        first = Stage("contrast", train.epochs, (Update(optim, ("encoder.",)),), validates=False, self_supervised=True)
        second = Stage("heads", train.head_epochs, (Update(heads, ("classifier.",)),))
        return (first, second) if train.head_epochs and self.labelled else (first,)

    def views(self, stage: Stage) -> dict[str, str]:
        """Stage 1: the views to contrast. Stage 2: one view of each target."""
        modalities = self.targets if stage.name == "heads" else self.config.train.modalities
        if stage.name == "contrast" and len(modalities) == 1:
            return two_views(modalities[0])
        return {modality: modality for modality in modalities}

    def draw(self, batch: int, stage: Stage, generator: torch.Generator) -> dict[str, Tensor]:
        """The level-5 cell of each view that serves as source."""
        return draw_cells(batch, tuple(self.views(stage)), generator)

    def losses(self, system: nn.Module, batch: ViewBatch, stage: Stage, update: Update) -> dict[str, Tensor]:
        """Stage 1: the contrastive terms. Stage 2: one classification term for each target and head."""
        model, loss = one_network(system), self.config.loss
        if stage.name == "contrast":
            encoded = encode(model, batch, self.views(stage), self.feature_heads())
            return contrast(make_nce(loss), encoded, batch, loss.contrastive_weight)
        encoded = encode(model, batch, self.views(stage))
        return {
            f"class {target} {head}": value
            for target in self.targets
            for head, value in classify(model, encoded[target], target, batch.labels, loss).items()
        }
