"""Multimodal contrastive learning with classification as a second task: the paper's method (Section III)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmcl_core.errors import ConfigError
from mmcl_core.methods.base import Method, Stage, Update, ViewBatch
from mmcl_core.methods.parts import (
    HEADS,
    agree,
    class_logits,
    classification_of,
    contrast,
    encode,
    make_nce,
    one_network,
    require_pairs,
)
from mmcl_core.nn.losses import draw_cells

__all__ = ["MultimodalContrastive"]


class MultimodalContrastive(Method):
    """One encoder for all modalities; every ordered pair of them is contrasted, the targets are classified.

    With ``train.target: both`` the classification losses of all modalities are added, and ``loss.agreement_weight`` may
    draw their answers to the fused one.
    """

    name = "mmcl"
    pairs = True
    contrasts = True
    recordable = True

    def check(self) -> None:
        """Refuse a single modality, and the agreement of a single target."""
        require_pairs(self.config, self.name)
        if self.config.loss.agreement_weight and len(self.targets) < 2:
            raise ConfigError(
                "loss.agreement_weight compares the answers of several targets and train.target is "
                f"{self.config.train.target}; set train.target=both, or loss.agreement_weight=0"
            )

    def views(self, stage: Stage) -> dict[str, str]:
        """One view of each modality."""
        return {modality: modality for modality in self.config.train.modalities}

    def draw(self, batch: int, stage: Stage, generator: torch.Generator) -> dict[str, Tensor]:
        """The level-5 cell of each view that serves as source."""
        return draw_cells(batch, tuple(self.views(stage)), generator)

    def losses(self, system: nn.Module, batch: ViewBatch, stage: Stage, update: Update) -> dict[str, Tensor]:
        """Contrastive terms, one classification term for each target and head (Eq. 8), and the agreement."""
        model, loss = one_network(system), self.config.loss
        encoded = encode(model, batch, self.views(stage), self.feature_heads())
        terms = contrast(make_nce(loss), encoded, batch, loss.contrastive_weight)
        scores = {target: class_logits(model, encoded[target], target) for target in self.targets}
        for target, logits in scores.items():
            for head in HEADS:
                part = encoded[target]
                terms[f"class {target} {head}"] = classification_of(model, part, logits, head, batch.labels, loss)
        if loss.agreement_weight:
            for head, value in agree(model, encoded, scores, batch).items():
                terms[f"agreement {head}"] = loss.agreement_weight * value
        return terms
