"""Multimodal contrastive learning with classification as a second task: the paper's method (Section III)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmcl_core.methods.base import Method, Stage, Update, ViewBatch
from mmcl_core.methods.parts import classify, contrast, encode, make_nce, one_network, require_modalities
from mmcl_core.nn.losses import draw_cells

__all__ = ["MultimodalContrastive"]


class MultimodalContrastive(Method):
    """One encoder for all modalities; every ordered pair of them is contrasted, the targets are classified.

    With ``train.target: both`` the classification losses of all modalities are added.
    """

    name = "mmcl"

    def check(self) -> None:
        """Refuse a single modality."""
        require_modalities(self.config, 2, self.name)

    def views(self, stage: Stage) -> dict[str, str]:
        """One view of each modality."""
        return {modality: modality for modality in self.config.train.modalities}

    def draw(self, batch: int, stage: Stage, generator: torch.Generator) -> dict[str, Tensor]:
        """The level-5 cell of each view that serves as source."""
        return draw_cells(batch, tuple(self.views(stage)), generator)

    def losses(self, system: nn.Module, batch: ViewBatch, stage: Stage, update: Update) -> dict[str, Tensor]:
        """Contrastive terms and one classification term for each target and head (Eq. 8)."""
        model, loss = one_network(system), self.config.loss
        encoded = encode(model, batch, self.views(stage), self.feature_heads())
        terms = contrast(make_nce(loss), encoded, batch, loss.contrastive_weight)
        for target in self.targets:
            for head, value in classify(model, encoded[target], target, batch.labels, loss).items():
                terms[f"class {target} {head}"] = value
        return terms
