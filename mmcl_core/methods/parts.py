"""Building blocks that several methods share: encode the views of a batch, contrast them, classify them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mmcl_core.augment import Picture
from mmcl_core.config import Config, LossConfig
from mmcl_core.errors import ConfigError
from mmcl_core.methods.base import Method, ViewBatch
from mmcl_core.nn.distillation import agreement_loss
from mmcl_core.nn.encoder import Features
from mmcl_core.nn.gather import total, total_number
from mmcl_core.nn.heads import ClassLogits
from mmcl_core.nn.losses import CrossModalNCE, classification_loss
from mmcl_core.nn.model import RecognitionModel

__all__ = [
    "HEADS",
    "Encoded",
    "agree",
    "class_logits",
    "classification_of",
    "classification_term",
    "classify",
    "classify_alone",
    "complete",
    "contrast",
    "encode",
    "make_nce",
    "nothing",
    "one_network",
    "require_classifier",
    "require_labels",
    "require_pairs",
    "unclipped",
]

#: The two classifiers.
HEADS = ClassLogits._fields
#: What answers are softened by before they are compared, as is usual (Hinton et al. 2015).
AGREEMENT_TEMPERATURE = 2.0


class Encoded(NamedTuple):
    """Features of the samples that have a view.

    Attributes:
        features: of n samples.
        rows: their numbers in the batch, int64 [n]; ``None``: all, in order.
        labelled: what a classification loss of them is divided by, see :meth:`ViewBatch.mean_labelled`.
    """

    features: Features
    rows: Tensor | None
    labelled: Tensor

    def spread(self, batch: int) -> Features:
        """Features of all samples of the batch; zeros for those without the view."""
        f1, f5, f7 = (None if f is None else self.spread_one(f, batch) for f in self.features)
        assert f1 is not None
        return Features(f1, f5, f7)

    def spread_one(self, values: Tensor, batch: int) -> Tensor:
        """Values [n, ...] of these samples for all of the batch, [batch, ...]; zeros for the others."""
        if self.rows is None:
            return values
        return values.new_zeros(batch, *values.shape[1:]).index_copy(0, self.rows, values)

    def mask(self, like: Tensor) -> Tensor:
        """Which samples have features: bool of the shape and device of ``like``."""
        if self.rows is None:
            return torch.ones_like(like, dtype=torch.bool)
        return torch.zeros_like(like, dtype=torch.bool).index_fill(0, self.rows, True)


def make_nce(loss: LossConfig) -> CrossModalNCE:
    """The contrastive loss with the settings of ``loss``."""
    return CrossModalNCE(
        loss.level_pairs, loss.clip, loss.regulariser, loss.direction_weight, loss.chunk, loss.drop_same_class
    )


def encode(
    model: RecognitionModel, batch: ViewBatch, views: Mapping[str, str], levels: tuple[int, ...] = ()
) -> dict[str, Encoded]:
    """Encode views, each normalised by its own batch statistics, and each sample only where it has the modality.

    Views that all samples have pass the encoder together. A view that fewer than two samples of the global batch have
    is left out: there is no variance to normalise by.

    Args:
        model: the network.
        batch: pictures of B samples.
        views: the views to encode and their modalities.
        levels: the feature maps wanted besides the embedding, among 5 and 7.
    """
    whole = [view for view in views if view not in batch.present]
    pictures = [(batch.pictures[view].image, views[view], batch.pictures[view].camera) for view in whole]
    together = model.features_together(pictures, levels)
    labelled = {view: batch.mean_labelled(partial(_labels_with, (view,))) for view in views}
    encoded = {view: Encoded(features, None, labelled[view]) for view, features in zip(whole, together, strict=True)}
    for view, modality in views.items():
        picture, rows = batch.pictures[view], batch.rows(view)
        if rows is None:
            continue
        if total_number(len(rows), rows.device) >= 2:
            features = model.features(picture.image[rows], modality, picture.camera[rows], levels=levels)
            encoded[view] = Encoded(features, rows, labelled[view])
        else:
            encoded[view] = Encoded(_nothing(model, levels), rows[:0], labelled[view])
    return {view: encoded[view] for view in views}


def _nothing(model: RecognitionModel, levels: Collection[int]) -> Features:
    """Features of no sample that are part of the graph: there may be no others in the batch."""
    f1 = model.encoder.norm.weight[None][:0]
    f5, f7 = (f1[:, :, None, None].expand(-1, -1, side, side) if side in levels else None for side in (5, 7))
    return Features(f1, f5, f7)


def _labels_with(views: Iterable[str], batch: ViewBatch) -> Tensor:
    """The labels of the samples that have all of these views, -1 for the others, and for one that is the only one."""
    masks = [batch.present[view] for view in views if view in batch.present]
    if not masks:
        return batch.labels
    mask = torch.stack(masks).all(0)
    return batch.labels.masked_fill(~mask | (total(mask.sum()) < 2), -1)  # left out: see encode and complete


def contrast(
    nce: CrossModalNCE, encoded: Mapping[str, Encoded], batch: ViewBatch, weight: float = 1.0
) -> dict[str, Tensor]:
    """Contrastive terms over all ordered pairs of the encoded views, times ``weight``; cells from ``batch.draws``.

    The labels of the batch are those of the run: what a semi-supervised run hides is unknown here too.
    """
    size = len(batch.labels)
    features = {view: part.spread(size) for view, part in encoded.items()}
    cells = {view: batch.draws[view] for view in encoded}
    valid = {view: part.mask(batch.labels) for view, part in encoded.items()}
    everywhere = all(part.rows is None for part in encoded.values())
    terms = nce(features, cells, None if everywhere else valid, batch.labels)
    return terms if weight == 1 else {name: weight * value for name, value in terms.items()}


def classify(
    model: RecognitionModel,
    part: Encoded,
    modality: str,
    labels: Tensor,
    loss: LossConfig,
    heads: Iterable[str] = HEADS,
) -> dict[str, Tensor]:
    """Classification loss of each head on the embeddings of one view, by name of the head (paper, Eq. 7)."""
    logits = class_logits(model, part, modality)
    return {head: classification_of(model, part, logits, head, labels, loss) for head in heads}


def class_logits(model: RecognitionModel, part: Encoded, modality: str) -> ClassLogits | None:
    """Class scores of both heads for the samples that have the view; ``None`` where no process has one."""
    if part.rows is not None and not total_number(len(part.rows), part.rows.device):
        return None
    logits: ClassLogits = model.classifier(part.features.f1, modality)
    return logits


def classification_of(
    model: RecognitionModel, part: Encoded, logits: ClassLogits | None, head: str, labels: Tensor, loss: LossConfig
) -> Tensor:
    """Classification loss of one head; zero where there are no scores."""
    if logits is None:
        return model.classifier.linear.bias.sum() * 0
    labels = labels if part.rows is None else labels[part.rows]
    return classification_term(getattr(logits, head), labels, loss, part.labelled)


def agree(
    model: RecognitionModel, encoded: Mapping[str, Encoded], scores: Mapping[str, ClassLogits | None], batch: ViewBatch
) -> dict[str, Tensor]:
    """The agreement of the answers of several views, by name of the head; see :func:`agreement_loss`."""
    size = len(batch.labels)
    nobody = torch.zeros(size, model.classes, device=batch.labels.device)
    present = [encoded[view].mask(batch.labels) for view in scores]
    terms = {}
    for head in HEADS:
        views = [
            nobody if logits is None else encoded[view].spread_one(getattr(logits, head), size)
            for view, logits in scores.items()
        ]
        terms[head] = agreement_loss(views, present, AGREEMENT_TEMPERATURE)
    return terms


def classification_term(logits: Tensor, labels: Tensor, loss: LossConfig, labelled: Tensor) -> Tensor:
    """Weighted classification loss of class logits [B, C] (paper, Eq. 7); see :meth:`ViewBatch.mean_labelled`."""
    return loss.classification_weight * classification_loss(
        logits, labels, loss.logit_clip, loss.logit_regulariser, loss.label_smoothing, labelled
    )


def unclipped(loss: LossConfig) -> LossConfig:
    """Plain cross-entropy: clip and penalty on logits belong to the contrastive method."""
    return replace(loss, logit_clip=0.0, logit_regulariser=0.0)


def classify_alone(
    streams: Mapping[str, RecognitionModel], batch: ViewBatch, loss: LossConfig, head: str
) -> dict[str, Tensor]:
    """Each modality's stream classifies the pictures of it, by plain cross-entropy on one head: a term for each."""
    terms = {}
    for modality, stream in streams.items():
        part = encode(stream, batch, {modality: modality})[modality]
        terms[f"class {modality}"] = classify(stream, part, modality, batch.labels, unclipped(loss), (head,))[head]
    return terms


def complete(batch: ViewBatch, views: Collection[str]) -> ViewBatch | None:
    """The samples that have all of these views; ``None`` where fewer than two of the global batch do."""
    masks = [batch.present[view] for view in views if view in batch.present]
    if not masks:
        return batch
    rows = torch.stack(masks).all(0).nonzero().squeeze(1)
    if total_number(len(rows), rows.device) < 2:
        return None
    pictures = {view: Picture(batch.pictures[view].image[rows], batch.pictures[view].camera[rows]) for view in views}
    draws = {name: value[rows] for name, value in batch.draws.items()}
    parts = tuple(replace(part, labels=_labels_with(views, part), present={}) for part in batch.parts)
    return ViewBatch(pictures, {}, batch.labels[rows], batch.index[rows], draws, parts)


def nothing(system: nn.Module) -> Tensor:
    """A loss term of zero that is part of the graph, for a batch that has nothing to learn from."""
    return next(parameter for parameter in system.parameters() if parameter.requires_grad).sum() * 0


def one_network(system: nn.Module) -> RecognitionModel:
    """The system of a method that has a single network."""
    assert isinstance(system, RecognitionModel)
    return system


def require_labels(method: Method) -> None:
    """Refuse training without any label with a :class:`ConfigError`."""
    if method.labelled:
        return
    data = method.config.data
    if data.label_share == 0:
        raise ConfigError(f"method {method.name} learns from labels and data.label_share is 0; take more than that")
    raise ConfigError(
        f"method {method.name} learns from labels and no sample of the split {data.train_split!r} in {data.root} has "
        "one; label some, or train embeddings alone: method=mmcl, amdim, two_step or cmc"
    )


def require_classifier(method: Method, setting: str, epochs: int) -> None:
    """Refuse labels that no classifier learns from (``setting`` gives its epochs) with a :class:`ConfigError`."""
    if epochs == 0 and method.labelled:
        raise ConfigError(
            f"{setting} is 0, so that nothing learns to classify; raise it, or set data.label_share=0 for embeddings "
            "alone"
        )


def require_pairs(config: Config, method: str) -> None:
    """Refuse a single modality with a :class:`ConfigError`."""
    if len(config.train.modalities) < 2:
        raise ConfigError(
            f"method {method} contrasts modalities and needs at least 2, but train.modalities is "
            f"{list(config.train.modalities)}; add one, or take method=amdim for a single modality"
        )
