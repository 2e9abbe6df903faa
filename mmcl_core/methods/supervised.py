"""The paper's baseline: the same encoder trained with cross-entropy alone (Section IV, CE)."""

from __future__ import annotations

from torch import Tensor, nn

from mmcl_core.methods.base import Method, Stage, Update, ViewBatch
from mmcl_core.methods.parts import classify_alone, one_network, require_labels

__all__ = ["Supervised"]


class Supervised(Method):
    """Plain cross-entropy on the target modalities.

    Only the classifier head that answers (``model.predict_with``) is trained; the other is left as it is.
    """

    name = "supervised"
    backbones = ("encoder", "resnet18", "resnet50")
    labels_alone = True
    recordable = True

    def check(self) -> None:
        """Refuse to train without any label."""
        require_labels(self)

    def modalities(self) -> tuple[str, ...]:
        """The targets: nothing else is looked at."""
        return self.targets

    def views(self, stage: Stage) -> dict[str, str]:
        """One view of each target."""
        return {modality: modality for modality in self.targets}

    def losses(self, system: nn.Module, batch: ViewBatch, stage: Stage, update: Update) -> dict[str, Tensor]:
        """One term for each target."""
        streams = dict.fromkeys(self.targets, one_network(system))
        return classify_alone(streams, batch, self.config.loss, self.config.model.predict_with)
