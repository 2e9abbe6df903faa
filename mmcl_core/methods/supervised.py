"""The paper's baseline: the same encoder trained with cross-entropy alone (Section IV, CE)."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor, nn

from mmcl_core.methods.base import Method, Stage, Update, ViewBatch
from mmcl_core.methods.parts import classify, encode, one_network

__all__ = ["Supervised"]


class Supervised(Method):
    """Plain cross-entropy on the target modalities.

    Only the classifier head that answers (``model.predict_with``) is trained; the other is left as it is.
    """

    name = "supervised"
    backbones = ("encoder", "resnet18", "resnet50")

    def modalities(self) -> tuple[str, ...]:
        """The targets: nothing else is looked at."""
        return self.targets

    def feature_heads(self) -> tuple[int, ...]:
        """None: only the embedding is used."""
        return ()

    def views(self, stage: Stage) -> dict[str, str]:
        """One view of each target."""
        return {modality: modality for modality in self.targets}

    def losses(self, system: nn.Module, batch: ViewBatch, stage: Stage, update: Update) -> dict[str, Tensor]:
        """One term for each target."""
        model, loss = one_network(system), replace(self.config.loss, logit_clip=0.0, logit_regulariser=0.0)
        encoded = encode(model, batch, self.views(stage))
        head = self.config.model.predict_with
        return {
            f"class {target}": classify(model, encoded[target], target, batch.labels, loss, (head,))[head]
            for target in self.targets
        }
