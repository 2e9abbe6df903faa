"""Modality hallucination: a stream learns to see in one modality what its teacher sees in another.

Sources: Hoffman, Gupta, Darrell, "Learning with Side Information through Modality Hallucination" (CVPR 2016), and
Garcia, Morerio, Murino, "Modality Distillation with Multiple Stream Networks for Action Recognition" (ECCV 2018).

The hallucination stream minimises ``w distance(embedding, teacher's embedding) + (1 - i) CE(label) + i T^2 CE(teacher's
softened answer)``. The default is Garcia et al.; ``hallucination.imitation: 0`` gives the loss of Hoffman et al., who
train it together with the mean of the logits, where here, as with Garcia et al., one follows the other.

What is compared is the embedding; the publications compare the last map of a detector and of a ResNet.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from mmcl_core.method_config import HallucinationConfig
from mmcl_core.methods.base import Update, ViewBatch
from mmcl_core.methods.stand_in import HALLUCINATION, TaughtStandIn, answer
from mmcl_core.nn.distillation import embedding_distance, soft_target_loss

__all__ = ["ModalityHallucination"]


class ModalityHallucination(TaughtStandIn):
    """Distance to the teacher's embedding, labels, and the teacher's soft answers."""

    name = "hallucination"
    taught: ClassVar[dict[str, tuple[str, ...]]] = {"main": ("distance", "class", "imitation")}

    @property
    def settings(self) -> HallucinationConfig:
        """The method's own section of the settings."""
        return self.config.hallucination

    def hallucinate_updates(self) -> tuple[Update, ...]:
        """The whole hallucination stream, with ``optim``."""
        return (Update(self.config.optim, (f"network.streams.{HALLUCINATION}.",)),)

    def teach(self, system: nn.Module, pair: ViewBatch, update: Update) -> dict[str, Tensor]:
        """See the module; a sample without a label has a distance and soft answers to learn from."""
        settings = self.settings
        with torch.no_grad():
            wanted, theirs = answer(self.real_stream(system), pair, self.missing)
        logits, ours = answer(self.deployed(system).stream(HALLUCINATION), pair, self.target)
        distance = embedding_distance(ours, theirs, settings.distance == "sigmoid")
        soft = soft_target_loss(logits, wanted, settings.temperature)
        return {
            "distance": settings.distance_weight * distance,
            "class": (1 - settings.imitation) * self.joint([logits], pair),
            "imitation": settings.imitation * self.config.loss.classification_weight * soft,
        }
