"""The recogniser as one network: raw pictures of any of its modalities to class scores and embedding."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmcl_core import models
from mmcl_core.config import ModelConfig
from mmcl_core.errors import CheckpointError, ConfigError
from mmcl_core.modality import InputSpec, to_network_input
from mmcl_core.nn.authors import load_authors_state
from mmcl_core.nn.encoder import LEVELS, Encoder, Features
from mmcl_core.nn.heads import Classifier
from mmcl_core.nn.network import Network
from mmcl_core.nn.norm import ModalityBatchNorm
from mmcl_core.nn.resnet import ResNetEncoder
from mmcl_core.weights import load_weights

__all__ = ["RecognitionModel", "encoder_settings"]

logger = logging.getLogger(__name__)


class RecognitionModel(Network):
    """Input conversion, one encoder for all modalities (the paper's, or a ResNet) and the two classifiers.

    Args:
        config: the network's settings.
        modalities: names of the modalities it is made for, such as ``("rgb", "depth")``.
        classes: number C of classes.
        feature_heads: levels among 5 and 7 that get an embedding head; ``True``: both, ``False``: none. Only heads
            that a loss uses are worth having: the others get no gradient. A ResNet has none.
        patterns: names that running statistics are kept for; default: the modalities.
        channels: of the encoder's input.

    Raises:
        ConfigError: a setting that no network can be made of.
    """

    kind = "recognition"

    def __init__(
        self,
        config: ModelConfig,
        modalities: Sequence[str],
        classes: int,
        feature_heads: bool | Collection[int] = True,
        *,
        patterns: Sequence[str] = (),
        channels: int = 3,
    ) -> None:
        super().__init__()
        if classes < 1 or config.head_hidden < 1 or not 0 <= config.dropout < 1:
            raise ConfigError(
                f"classes ({classes}) and model.head_hidden ({config.head_hidden}) must be positive, "
                f"model.dropout ({config.dropout}) in [0, 1)"
            )
        self.config = config
        self.classes = classes
        self.modalities = tuple(modalities)
        self.inputs = InputSpec.from_config(config)
        patterns = tuple(patterns) or self.modalities
        self.encoder = _make_encoder(config, patterns, feature_heads, channels)
        self.classifier = Classifier(config.nrkhs, classes, config.head_hidden, config.dropout, patterns)

    @classmethod
    def from_description(
        cls,
        config: ModelConfig,
        modalities: Sequence[str],
        classes: int,
        feature_heads: Collection[int],
        description: Mapping[str, Any],
    ) -> RecognitionModel:
        """See :class:`Network`."""
        return cls(config, modalities, classes, feature_heads)

    def features(
        self, picture: Tensor, modality: str, camera: Tensor | None = None, levels: Collection[int] = LEVELS
    ) -> Features:
        """Embed raw pictures of one modality.

        Args:
            picture: [B, C, size, size], see :func:`mmcl_core.modality.to_network_input` for units and ranges.
            modality: its name.
            camera: [B, 4] intrinsics of these very pictures, or ``None`` where they are unknown.
            levels: the levels that are wanted.
        """
        embedded: Features = self.encoder(to_network_input(picture, modality, camera, self.inputs), modality, levels)
        return embedded

    def features_together(
        self, pictures: Sequence[tuple[Tensor, str, Tensor | None]], levels: Collection[int] = LEVELS
    ) -> list[Features]:
        """:meth:`features` of several batches of equal length.

        Two and more pass the project's encoder as one batch, unless every unit of it normalises, which would take them
        apart again and again.

        Args:
            pictures: picture, modality and camera of each batch.
            levels: the levels that are wanted.
        """
        if len(pictures) < 2 or not isinstance(self.encoder, Encoder) or self.config.unit_norm:
            return [self.features(image, name, camera, levels) for image, name, camera in pictures]
        inputs = torch.cat([to_network_input(image, name, camera, self.inputs) for image, name, camera in pictures])
        f1, f5, f7 = self.encoder(inputs, tuple(name for _, name, _ in pictures), levels)
        count = len(pictures)

        def parts(feature: Tensor | None) -> Sequence[Tensor | None]:
            return [None] * count if feature is None else feature.chunk(count)

        return [Features(*one) for one in zip(f1.chunk(count), parts(f5), parts(f7), strict=True)]

    def logits(self, f1: Tensor, modality: str) -> Tensor:
        """Class scores [B, C] of the deployed head, unclipped, of embeddings [B, R]."""
        both = self.classifier(f1, modality)
        scores: Tensor = both.linear if self.config.predict_with == "linear" else both.mlp
        return scores

    def forward(self, image: Tensor, modality: str, camera: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Class scores [B, C] of the deployed head, unclipped, and the embedding f1 [B, R] of raw pictures."""
        f1 = self.features(image, modality, camera, levels=()).f1
        return self.logits(f1, modality), f1

    def encoders(self) -> tuple[nn.Module, ...]:
        """The one encoder."""
        return (self.encoder,)

    def encoded_modalities(self) -> tuple[str, ...]:
        """Those that the encoder has running statistics of."""
        return self._seen_by(self.encoder.norm)

    def trained_modalities(self) -> tuple[str, ...]:
        """Those that the encoder and the classifier have running statistics of."""
        return tuple(name for name in self._seen_by(self.classifier.norm) if name in self.encoded_modalities())

    def _seen_by(self, norm: ModalityBatchNorm) -> tuple[str, ...]:
        trained = norm.trained_modalities()
        return tuple(name for name in self.modalities if name in trained)

    def feature_levels(self) -> tuple[int, ...]:
        """The levels that have an embedding head."""
        return tuple(int(level) for level in self.encoder.heads)

    def forget_classifier(self) -> None:
        """Count the classifier as never trained."""
        self.classifier.forget()

    def init_from(self, path: str | Path) -> tuple[str, ...]:
        """Start from the encoder of another run, a weights file, or a checkpoint of the authors' program.

        The classifiers stay as they are: a transfer trains new ones, whatever the number of classes (paper, Section
        IV-E). Feature heads and modalities the source does not have stay as they are, too.

        Returns:
            Names of the weights taken over.

        Raises:
            CheckpointError: no such file, or an encoder of other settings; the settings are named.
            ConfigError: this network has a ResNet.
        """
        path = models.located(path)
        if not isinstance(self.encoder, Encoder):
            raise ConfigError(
                f"model.init_from={path} gives weights of the project's encoder and model.backbone is "
                f"{self.config.backbone}; choose model.backbone=encoder, or start from model.backbone_weights"
            )
        if not path.exists():
            raise CheckpointError(
                f"model.init_from={path}: there is no such file; give a run folder, a .safetensors file, a checkpoint "
                f"of the authors' program, or {' or '.join(models.names())}"
            )
        if path.is_dir() or path.suffix == ".safetensors":
            state: Mapping[str, Tensor] = load_weights(path)[0]
        else:
            state = load_authors_state(path, self.modalities)
        theirs, ours = encoder_settings(state), encoder_settings(self.state_dict())
        different = [key for key in ours if theirs[key] != ours[key]]
        if different:
            made = ", ".join(f"model.{key}={theirs[key]}" for key in different)
            here = ", ".join(f"model.{key}={ours[key]}" for key in different)
            raise CheckpointError(f"the encoder in {path} was made with {made}; this model has {here}")
        own = {f"encoder.{key}" for key in self.encoder.state_dict()}
        taken = {key: value for key, value in state.items() if key in own}
        fresh = sorted(own - set(taken))
        missing = [key for key in fresh if ".heads." not in key and ".statistics." not in key]
        if missing:
            raise CheckpointError(f"{path} lacks weights of the encoder: {', '.join(missing)}")
        self.load_state_dict(taken, strict=False)
        parts = {"feature heads" if ".heads." in key else f"statistics of {key.split('.')[-2]}" for key in fresh}
        words = ", ".join(sorted(parts)) or "none"
        logger.info("took %d weights of the encoder from %s; fresh: %s", len(taken), path, words)
        return tuple(taken)


def _make_encoder(
    config: ModelConfig, patterns: Sequence[str], feature_heads: bool | Collection[int], channels: int
) -> Encoder | ResNetEncoder:
    if config.backbone == "encoder":
        unit_norm, depth = config.unit_norm, config.depth
        return Encoder(config.input_size, config.ndf, config.nrkhs, depth, unit_norm, patterns, feature_heads, channels)
    if feature_heads and feature_heads is not True:
        raise ConfigError(
            f"model.backbone={config.backbone} has no maps of {sorted(feature_heads)} cells a side; choose "
            "model.backbone=encoder"
        )
    return ResNetEncoder(config.backbone, config.input_size, config.nrkhs, patterns, channels)


def encoder_settings(state: Mapping[str, Tensor]) -> dict[str, int | bool]:
    """The settings of :class:`ModelConfig` an encoder was made with, read off the shapes of its weights.

    Raises:
        CheckpointError: weights of an encoder are missing.
    """
    try:
        halves = "encoder.stem.1.weight" in state
        blocks = len({key.split(".")[2] for key in state if key.startswith("encoder.to7.")})
        return {
            "input_size": 128 if halves else {3: 64, 2: 32}[blocks],
            "ndf": state["encoder.stem.0.weight"].shape[0],
            "nrkhs": state["encoder.norm.weight"].shape[0],
            "depth": sum(key.startswith("encoder.to5.") and key.endswith(".conv1.weight") for key in state),
            "unit_norm": "encoder.to1.norm.weight" in state,
        }
    except KeyError as error:
        parts = ", ".join(sorted({".".join(key.split(".")[:2]) for key in state})[:4])
        raise CheckpointError(
            "the weights hold no complete encoder of the project, as those of methods mmcl, supervised, amdim and "
            f"two_step do; they hold {parts}, ..."
        ) from error
