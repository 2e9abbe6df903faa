"""What every network that answers for itself offers, whether it is one encoder or several streams.

Evaluation, export, the recogniser and the weights file know nothing else of a network. Which class a weights file
holds is in its metadata, see :data:`mmcl_core.weights.NETWORKS`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor, nn

from mmcl_core.config import ModelConfig
from mmcl_core.modality import InputSpec
from mmcl_core.nn.encoder import LEVELS, Features

__all__ = ["Network"]


class Network(nn.Module, ABC):
    """Raw pictures of one modality at a time to class scores and embedding.

    Attributes:
        kind: its name in weights files, a key of :data:`mmcl_core.weights.NETWORKS`.
        config: the settings.
        classes: number C of classes.
        modalities: names of the modalities it can be asked about.
        inputs: what it is fed.
    """

    kind: ClassVar[str]
    config: ModelConfig
    classes: int
    modalities: tuple[str, ...]
    inputs: InputSpec

    @classmethod
    @abstractmethod
    def from_description(
        cls,
        config: ModelConfig,
        modalities: Sequence[str],
        classes: int,
        feature_heads: Collection[int],
        description: Mapping[str, Any],
    ) -> Network:
        """The network that a weights file describes, with weights yet to be loaded.

        Args:
            config: settings.
            modalities: names.
            classes: number of classes.
            feature_heads: levels that have an embedding head.
            description: see :meth:`description`.
        """

    def description(self) -> dict[str, Any]:
        """What a weights file must say beside settings and modalities: plain values, ``kind`` among them."""
        return {"kind": self.kind}

    @abstractmethod
    def features(
        self, picture: Tensor, modality: str, camera: Tensor | None = None, levels: Collection[int] = LEVELS
    ) -> Features:
        """Embed raw pictures [B, C, size, size] of one modality, with their cameras [B, 4] where known."""

    @abstractmethod
    def forward(self, image: Tensor, modality: str, camera: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Class scores [B, C], unclipped, and the embedding [B, R] of raw pictures."""

    @abstractmethod
    def encoders(self) -> tuple[nn.Module, ...]:
        """The parts that take the time, worth compiling."""

    @abstractmethod
    def encoded_modalities(self) -> tuple[str, ...]:
        """Modalities seen in training, which have embeddings."""

    @abstractmethod
    def trained_modalities(self) -> tuple[str, ...]:
        """Modalities that can be recognised: all that answers for them was trained."""

    def feature_levels(self) -> tuple[int, ...]:
        """Levels that have an embedding head."""
        return ()

    @abstractmethod
    def forget_classifier(self) -> None:
        """Count as never trained to classify: what was not taught must not answer."""

    @abstractmethod
    def init_from(self, path: str | Path) -> tuple[str, ...]:
        """Start from the encoder of another run; returns the names of the weights taken over.

        Raises:
            CheckpointError: no such file, or an encoder that does not fit.
            ConfigError: a network that cannot start from another's encoder.
        """
