"""ModDrop: a stream for each modality, trained alone, then together while whole modalities are dropped.

Source: Neverova et al., "ModDrop: Adaptive Multi-Modal Gesture Recognition" (TPAMI 2016), as the paper compares it
(Table III): the streams are joined by the mean of their logits.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmcl_core.errors import ConfigError
from mmcl_core.methods.base import Method, Stage, Update, ViewBatch
from mmcl_core.methods.parts import classification_term, classify_alone, require_labels, unclipped
from mmcl_core.modality import to_network_input
from mmcl_core.nn.streams import ZERO, Look, StreamsNetwork

__all__ = ["ModDrop"]


class ModDrop(Method):
    """``alone``: each stream classifies by itself. ``together``: the mean of the logits is trained with dropout.

    In the second stage a stream looks at zeros where its modality was dropped from a sample, or is lacking; each
    modality is dropped by itself, so that a few samples keep none. Single values of the network input are dropped, too.
    A modality that is missing at test time is zeros. Plain cross-entropy on the head that answers.
    """

    name = "moddrop"
    backbones = ("encoder", "resnet18", "resnet50")
    labels_alone = True

    def check(self) -> None:
        """Refuse a single modality, and training without labels."""
        train = self.config.train
        if len(train.modalities) < 2:
            raise ConfigError(
                f"method {self.name} joins modalities, but train.modalities is {list(train.modalities)}; name at least "
                "two, or take method=supervised for a single one"
            )
        require_labels(self)

    def build(self) -> nn.Module:
        """The streams, and for each target its picture beside zeros."""
        names = self.modalities()
        answers = {
            target: [Look(target), *(Look(name, ZERO) for name in names if name != target)] for target in self.targets
        }
        return StreamsNetwork(self.config.model, len(self.classes), {name: name for name in names}, answers)

    def deployed(self, system: nn.Module) -> StreamsNetwork:
        """The streams."""
        assert isinstance(system, StreamsNetwork)
        return system

    def stages(self) -> tuple[Stage, ...]:
        """The two stages; nothing answers before the second."""
        updates, train = (Update(self.config.optim),), self.config.train
        alone = Stage("alone", self.config.moddrop.alone_epochs, updates, validates=False)
        together = Stage("together", train.epochs, updates)
        return (alone, together) if alone.epochs else (together,)

    def views(self, stage: Stage) -> dict[str, str]:
        """One view of each modality."""
        return {name: name for name in self.modalities()}

    def draw(self, batch: int, stage: Stage, generator: torch.Generator) -> dict[str, Tensor]:
        """In the second stage: whether each sample keeps each modality, bool [batch]."""
        if stage.name == "alone":
            return {}
        keep = self.config.moddrop.modality_keep
        return {name: torch.rand(batch, generator=generator) < keep for name in self.modalities()}

    def losses(self, system: nn.Module, batch: ViewBatch, stage: Stage, update: Update) -> dict[str, Tensor]:
        """See the class."""
        network = self.deployed(system)
        if stage.name == "together":
            return {"class": self.together(network, batch)}
        streams = {name: network.stream(name) for name in self.modalities()}
        return classify_alone(streams, batch, self.config.loss, self.config.model.predict_with)

    def together(self, network: StreamsNetwork, batch: ViewBatch) -> Tensor:
        """Loss of the mean of the logits of all streams."""
        scores = []
        for name in self.modalities():
            stream = network.stream(name)
            f1 = stream.encoder(self.seen(network, batch, name), name, levels=()).f1
            scores.append(stream.logits(f1, name).float())
        loss = unclipped(self.config.loss)
        return classification_term(torch.stack(scores).mean(0), batch.labels, loss, batch.mean_labelled())

    def seen(self, network: StreamsNetwork, batch: ViewBatch, name: str) -> Tensor:
        """Network input [B, 3, S, S] of a stream: zeros for samples without the modality, and dropout elsewhere."""
        picture, keep = batch.pictures[name], batch.draws[name]
        if name in batch.present:
            keep = keep & batch.present[name]
        own = to_network_input(picture.image, name, picture.camera, network.inputs)
        dropped = F.dropout(own, 1 - self.config.moddrop.input_keep)
        return torch.where(keep[:, None, None, None], dropped, 0.0)  # not a product: what is lacking may be anything
