"""Unimodal contrastive learning (AMDIM) with classification: the paper's unimodal comparison (CL + CE)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmcl_core.methods.base import Method, Stage, Update, ViewBatch
from mmcl_core.methods.parts import classify, contrast, encode, make_nce, one_network
from mmcl_core.nn.losses import draw_cells

__all__ = ["UnimodalContrastive", "two_views"]


def two_views(modality: str) -> dict[str, str]:
    """Two views, ``<modality>_a`` and ``<modality>_b``: independent augmentations of the same picture."""
    return {f"{modality}_a": modality, f"{modality}_b": modality}


class UnimodalContrastive(Method):
    """Two augmentations of a picture are contrasted, and the first is classified, or both.

    With ``train.target: both`` every modality is contrasted with itself; modalities never meet.
    """

    name = "amdim"
    contrasts = True
    version = 2  # 1 classified both views
    recordable = True

    def modalities(self) -> tuple[str, ...]:
        """The targets: nothing else is looked at."""
        return self.targets

    def views(self, stage: Stage) -> dict[str, str]:
        """Two views of each target."""
        return {view: modality for target in self.targets for view, modality in two_views(target).items()}

    def draw(self, batch: int, stage: Stage, generator: torch.Generator) -> dict[str, Tensor]:
        """The level-5 cell of each view that serves as source."""
        return draw_cells(batch, tuple(self.views(stage)), generator)

    def losses(self, system: nn.Module, batch: ViewBatch, stage: Stage, update: Update) -> dict[str, Tensor]:
        """Contrastive terms within each target and one classification term for each target and head."""
        model, loss = one_network(system), self.config.loss
        terms: dict[str, Tensor] = {}
        for target in self.targets:
            encoded = encode(model, batch, two_views(target), self.feature_heads())
            for name, value in contrast(make_nce(loss), encoded, batch, loss.contrastive_weight).items():
                terms[f"{name} {target}" if name == "regulariser" else name] = value
            views = list(encoded.values()) if self.config.amdim.classify_both else [next(iter(encoded.values()))]
            parts = [classify(model, view, target, batch.labels, loss) for view in views]
            for head in parts[0]:
                terms[f"class {target} {head}"] = torch.stack([part[head] for part in parts]).mean()
        return terms
