"""One network that sees several modalities at once, their pictures one after the other along the channels.

A modality that is missing is a block of zeros. What is there and what is missing is a *pattern*, named after what is
there (``rgb``, ``depth``, ``rgb+depth``); as modalities elsewhere, each pattern has running statistics of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmcl_core.config import ModelConfig
from mmcl_core.errors import ConfigError, UntrainedModalityError
from mmcl_core.modality import InputSpec, to_network_input
from mmcl_core.nn.encoder import LEVELS, Features
from mmcl_core.nn.model import RecognitionModel
from mmcl_core.nn.network import Network

__all__ = ["ConcatenatedNetwork", "pattern_of"]


def pattern_of(modalities: Collection[str]) -> str:
    """Name of the pattern in which these modalities are there, such as ``rgb+depth``."""
    return "+".join(modalities)


class ConcatenatedNetwork(Network):
    """An encoder with a widened first convolution, and classifiers. It is asked about one modality at a time.

    Args:
        config: settings.
        modalities: names, in the order of the blocks.
        classes: number C of classes.

    Attributes:
        model: encoder and classifiers, whose "modalities" are patterns: each modality alone, and all of them.
    """

    kind = "concatenated"

    def __init__(self, config: ModelConfig, modalities: Sequence[str], classes: int) -> None:
        super().__init__()
        self.config, self.classes = config, classes
        self.modalities = tuple(modalities)
        self.inputs = InputSpec.from_config(config)
        patterns = (*self.modalities, pattern_of(self.modalities))
        self.model = RecognitionModel(
            config, self.modalities, classes, (), patterns=patterns, channels=3 * len(self.modalities)
        )

    @classmethod
    def from_description(
        cls,
        config: ModelConfig,
        modalities: Sequence[str],
        classes: int,
        feature_heads: Collection[int],
        description: Mapping[str, Any],
    ) -> ConcatenatedNetwork:
        """See :class:`Network`."""
        return cls(config, description["blocks"], classes)

    def description(self) -> dict[str, Any]:
        """The order of the blocks."""
        return {"kind": self.kind, "blocks": list(self.modalities)}

    def embed(self, seen: Mapping[str, Tensor]) -> Tensor:
        """Embeddings f1 [B, R] of samples of one pattern.

        Args:
            seen: network input [B, 3, S, S] of each modality that is there.
        """
        there = [name for name in self.modalities if name in seen]
        empty = torch.zeros_like(seen[there[0]])
        x = torch.cat([seen.get(name, empty) for name in self.modalities], 1)
        f1: Tensor = self.model.encoder(x, pattern_of(there), levels=()).f1
        return f1

    def features(
        self, picture: Tensor, modality: str, camera: Tensor | None = None, levels: Collection[int] = LEVELS
    ) -> Features:
        """The embedding f1 of raw pictures of one modality, all others missing; there are no maps.

        Raises:
            UntrainedModalityError: a modality that there is no block for or, in evaluation, that was never alone.
        """
        if modality not in self.modalities:
            known = ", ".join(self.modalities)
            raise UntrainedModalityError(f"the model has no modality {modality!r}; it was made for {known}")
        return Features(self.embed({modality: to_network_input(picture, modality, camera, self.inputs)}))

    def forward(self, image: Tensor, modality: str, camera: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Class scores [B, C], unclipped, and the embedding f1 [B, R] of raw pictures; see :meth:`features`."""
        f1 = self.features(image, modality, camera).f1
        return self.model.logits(f1, modality), f1

    def encoders(self) -> tuple[torch.nn.Module, ...]:
        """The one encoder."""
        return self.model.encoders()

    def encoded_modalities(self) -> tuple[str, ...]:
        """Those that the encoder saw alone."""
        return self.model.encoded_modalities()

    def trained_modalities(self) -> tuple[str, ...]:
        """Those that were classified alone."""
        return self.model.trained_modalities()

    def forget_classifier(self) -> None:
        """Count the classifier as never trained."""
        self.model.forget_classifier()

    def init_from(self, path: str | Path) -> tuple[str, ...]:
        """Refused: no other network has such a first convolution.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            f"model.init_from={path} gives an encoder that sees one modality at a time, and this network sees "
            f"{pattern_of(self.modalities)} at once; leave model.init_from empty, or start a ResNet from "
            "model.backbone_weights"
        )
