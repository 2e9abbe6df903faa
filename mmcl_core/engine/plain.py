"""The same step, written plainly: eager float32, explicit B x B masks, a pool for every skip.

It is how one would write the method down first and about how the authors' program computes it. The tests
hold the fast formulation of :mod:`mmcl_core.nn` to its values, the benchmark compares times and memory.
It runs on the parameters of a :class:`mmcl_core.nn.encoder.Encoder` and never updates running statistics.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmcl_core.nn.encoder import Encoder, Features, ResidualUnit
from mmcl_core.nn.heads import FeatureHead
from mmcl_core.nn.norm import ModalityBatchNorm

__all__ = ["classify", "contrast", "encode"]


def encode(encoder: Encoder, x: Tensor) -> Features:
    """All embeddings of a batch [B, 3, size, size] in training mode, BatchNorm by the statistics of the batch."""
    with torch.autocast(x.device.type, enabled=False):
        x = x.float()
        for convolution in encoder.stem:
            x = F.relu(convolution(x))
        for block in encoder.to7:
            x = _block(block, x)
        map7 = x
        map5 = x = _block(encoder.to5, x)
        x = _unit(encoder.to1, _block(encoder.to3, x))
        maps = {5: map5, 7: map7}
        f5, f7 = (_head(encoder.heads[str(n)], maps[n]) if str(n) in encoder.heads else None for n in (5, 7))
        return Features(_norm(encoder.norm, x)[:, :, 0, 0], f5, f7)


def contrast(
    features: Mapping[str, Features],
    cells: Mapping[str, Tensor] | None,
    level_pairs: Sequence[str],
    clip: float = 20.0,
    regulariser: float = 0.05,
    direction_weight: float = 1.0,
    valid: Mapping[str, Tensor] | None = None,
    labels: Tensor | None = None,
) -> dict[str, Tensor]:
    """The contrastive loss of one process with all masks written out; the terms of :class:`CrossModalNCE`.

    ``labels``: for ``drop_same_class``; ``None``: every other sample is a negative.
    """
    terms: dict[str, Tensor] = {}
    squares = []
    for pair, (source, target) in itertools.product(level_pairs, itertools.permutations(features, 2)):
        at, to = (int(level) for level in pair.split("-"))
        sources, targets = _at(features[source], at), _at(features[target], to)  # [B, R, h, w]
        batch, width = sources.shape[:2]
        if at == 1:
            sources = sources[:, :, 0, 0]
        else:
            assert cells is not None
            sources = sources.flatten(2)[torch.arange(batch, device=sources.device), :, cells[source]]
        targets = targets.flatten(2)  # [B, R, L]
        locations = targets.shape[2]
        ones = torch.ones(batch, device=sources.device)
        has_source, has_target = (ones if valid is None else valid[view].to(ones) for view in (source, target))
        own = torch.eye(batch, device=sources.device)[:, :, None].expand(-1, -1, locations).reshape(batch, -1)
        columns = has_target[:, None].expand(-1, locations).reshape(1, -1)
        rows = (has_source * has_target)[:, None]
        weight = own * rows
        other = (1 - own) * columns
        if labels is not None:
            same = (labels[:, None] == labels) & (labels >= 0)
            other = other * (~same)[:, :, None].expand(-1, -1, locations).reshape(batch, -1)

        scores = sources @ targets.permute(1, 0, 2).reshape(width, -1) / width**0.5  # [B, B L]
        squares.append((scores**2 * rows * columns).sum() / (rows * columns).sum().clamp(min=1))
        if clip:
            scores = clip * torch.tanh(scores / clip)
        bound = scores.detach().max()
        negatives = (other * torch.exp(scores - bound)).sum(1, keepdim=True)
        losses = torch.log(torch.exp(scores - bound) + negatives) - (scores - bound)
        terms[f"{pair} {source}->{target}"] = direction_weight * (losses * weight).sum() / weight.sum().clamp(min=1)
    terms["regulariser"] = direction_weight * regulariser * torch.stack(squares).sum()
    return terms


def classify(logits: Tensor, labels: Tensor, clip: float = 10.0, regulariser: float = 1e-3) -> Tensor:
    """The classification loss [scalar] over the labelled samples, by one-hot masks."""
    logits = logits.float()
    clipped = clip * torch.tanh(logits / clip) if clip else logits
    labelled = (labels >= 0).float()
    one_hot = F.one_hot(labels.clamp(min=0), logits.shape[1]) * labelled[:, None]
    entropy = -(one_hot * torch.log_softmax(clipped, 1)).sum()
    squares = (labelled[:, None] * logits**2).sum() / logits.shape[1]
    return (entropy + regulariser * squares) / labelled.sum().clamp(min=1)


def _at(features: Features, level: int) -> Tensor:
    found = {1: features.f1[:, :, None, None], 5: features.f5, 7: features.f7}[level]
    assert found is not None
    return found.float()


def _norm(norm: ModalityBatchNorm, x: Tensor) -> Tensor:
    return F.batch_norm(x, None, None, norm.weight, norm.bias, training=True, eps=norm.eps)


def _unit(unit: ResidualUnit, x: Tensor) -> Tensor:
    hidden = unit.conv1(x)
    if unit.norm is not None:
        hidden = _norm(unit.norm, hidden)
    y: Tensor = unit.conv2(F.relu(hidden))
    skip = F.avg_pool2d(x, unit.kernel, unit.stride)
    missing = y.shape[1] - skip.shape[1]
    if missing > 0:
        zeros = skip.new_zeros(skip.shape[0], missing, *skip.shape[2:])
        skip = torch.cat([skip, zeros], 1)
    return y + skip[:, : y.shape[1]]


def _block(block: nn.Module, x: Tensor) -> Tensor:
    for unit in block.children():
        assert isinstance(unit, ResidualUnit)
        x = _unit(unit, x)
    return x


def _head(head: nn.Module, x: Tensor) -> Tensor:
    assert isinstance(head, FeatureHead)
    hidden = head.conv1(x)
    if head.inner_norm is not None:
        hidden = _norm(head.inner_norm, hidden)
    return _norm(head.norm, head.conv2(F.relu(hidden)) + head.shortcut(x))
