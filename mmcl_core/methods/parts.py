"""Building blocks that several methods share: encode the views of a batch, contrast them, classify them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from mmcl_core.config import Config, LossConfig
from mmcl_core.errors import ConfigError
from mmcl_core.methods.base import ViewBatch
from mmcl_core.nn.encoder import Features
from mmcl_core.nn.losses import CrossModalNCE, classification_loss
from mmcl_core.nn.model import RecognitionModel

__all__ = ["Encoded", "classify", "contrast", "encode", "make_nce", "require_modalities"]


class Encoded(NamedTuple):
    """Features of the samples that have a view.

    Attributes:
        features: of n samples.
        rows: their numbers in the batch, int64 [n]; ``None``: all, in order.
    """

    features: Features
    rows: Tensor | None

    def spread(self, batch: int) -> Features:
        """Features of all samples of the batch; zeros for those without the view."""
        if self.rows is None:
            return self.features
        rows = self.rows
        return Features(
            *(None if f is None else f.new_zeros(batch, *f.shape[1:]).index_copy(0, rows, f) for f in self.features)
        )


def make_nce(loss: LossConfig) -> CrossModalNCE:
    """The contrastive loss with the settings of ``loss``."""
    return CrossModalNCE(loss.level_pairs, loss.clip, loss.regulariser, loss.direction_weight, loss.chunk)


def encode(
    model: RecognitionModel, batch: ViewBatch, views: Mapping[str, str], levels: tuple[int, ...] = ()
) -> dict[str, Encoded]:
    """Encode views one after the other (batch statistics are per view), each sample only where it has the modality.

    Args:
        model: the network.
        batch: pictures of B samples.
        views: the views to encode and their modalities.
        levels: the feature maps wanted besides the embedding, among 5 and 7.
    """
    encoded = {}
    for view, modality in views.items():
        picture, rows = batch.pictures[view], batch.rows(view)
        image, camera = picture.image, picture.camera
        if rows is not None:
            image, camera = image[rows], camera[rows]
        encoded[view] = Encoded(model.features(image, modality, camera, levels=levels), rows)
    return encoded


def contrast(
    nce: CrossModalNCE, encoded: Mapping[str, Encoded], batch: ViewBatch, weight: float = 1.0
) -> dict[str, Tensor]:
    """Contrastive terms over all ordered pairs of the encoded views, times ``weight``; cells from ``batch.draws``."""
    size = len(batch.labels)
    features = {view: part.spread(size) for view, part in encoded.items()}
    cells = {view: batch.draws[view] for view in encoded}
    valid = {view: batch.present.get(view, torch.ones_like(batch.labels, dtype=torch.bool)) for view in encoded}
    terms = nce(features, cells, valid if any(view in batch.present for view in encoded) else None)
    return {name: weight * value for name, value in terms.items()}


def classify(
    model: RecognitionModel,
    part: Encoded,
    modality: str,
    labels: Tensor,
    loss: LossConfig,
    heads: Iterable[str] = ("linear", "mlp"),
) -> dict[str, Tensor]:
    """Classification loss of each head on the embeddings of one view, by name of the head (paper, Eq. 7)."""
    logits = model.classifier(part.features.f1, modality)
    labels = labels if part.rows is None else labels[part.rows]
    return {
        head: loss.classification_weight
        * classification_loss(
            getattr(logits, head), labels, loss.logit_clip, loss.logit_regulariser, loss.label_smoothing
        )
        for head in heads
    }


def require_modalities(config: Config, least: int, method: str) -> None:
    """Refuse fewer than ``least`` modalities with a :class:`ConfigError`."""
    if len(config.train.modalities) < least:
        raise ConfigError(
            f"method {method} contrasts modalities and needs at least {least}, but train.modalities is "
            f"{list(config.train.modalities)}; add one, or take method=amdim for a single modality"
        )
