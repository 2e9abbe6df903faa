"""The cross-modal contrastive loss and the classification loss (paper, Section III-C).

Both are computed in float32, under autocast too. In a data-parallel run negatives are those of the global
batch and every mean is over the global batch; see :mod:`mmcl_core.nn.gather` for the rule of gradients.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmcl_core.errors import ConfigError
from mmcl_core.nn.encoder import Features
from mmcl_core.nn.gather import gather_with_grad, process_index, processes, total

__all__ = ["LEVEL_PAIRS", "CrossModalNCE", "classification_loss", "draw_cells", "soft_clip"]

LEVEL_PAIRS: dict[str, tuple[int, int]] = {"1-5": (1, 5), "1-7": (1, 7), "5-5": (5, 5), "5-7": (5, 7), "1-1": (1, 1)}
"""Names of the level pairs -> level of the source, level of the targets."""

_Direction = tuple[str, str, str]  # level pair, source view, target view
_ABSENT = torch.finfo(torch.float32).min  # stands for a score of no weight; -inf would make gradients NaN


class CrossModalNCE(nn.Module):
    """Noise-contrastive loss between the views of a batch, summed over all ordered pairs of views.

    The score of source s and target t is ``<s, t> / sqrt(R)``. The source of a sample is compared with every
    location of the same sample in the other view (positives); negatives are all locations of all other samples
    there. A term is the mean over samples and locations of ``softplus(logsumexp(negatives) - positive)``
    of soft-clipped scores (paper, Eq. 1-6).

    Args:
        level_pairs: among ``1-5``, ``1-7``, ``5-5``, ``5-7``, ``1-1``.
        clip: bound c of the soft clip ``c tanh(score / c)``; 0: none.
        regulariser: weight of the mean over all pairs of the squared score, taken before the clip.
        direction_weight: factor on everything: 1 sums the directions (paper), 0.5 halves (authors' program).
        chunk: a batch of more samples than this is worked off in chunks of at most as many sources, whose scores are
            computed again in backward, so that memory grows with the batch and not with its square.
        drop_same_class: whether samples of the source's class are left out of its negatives, where both classes are
            known (beyond the paper; supervision without making them positives). The regulariser still takes all pairs.

    Raises:
        ConfigError: an unknown level pair, or none.
    """

    def __init__(
        self,
        level_pairs: Sequence[str],
        clip: float = 20.0,
        regulariser: float = 0.05,
        direction_weight: float = 1.0,
        chunk: int = 256,
        drop_same_class: bool = False,
    ) -> None:
        super().__init__()
        unknown = [pair for pair in level_pairs if pair not in LEVEL_PAIRS]
        if unknown or not level_pairs:
            wrong = f"unknown level pair {unknown[0]!r} in" if unknown else "no level pair in"
            raise ConfigError(f"{wrong} loss.level_pairs; choose from {', '.join(LEVEL_PAIRS)}")
        if chunk < 1:
            raise ConfigError(f"loss.chunk must be positive, got {chunk}")
        self.level_pairs = tuple(level_pairs)
        self.clip = clip
        self.regulariser = regulariser
        self.direction_weight = direction_weight
        self.chunk = chunk
        self.drop_same_class = drop_same_class

    def forward(
        self,
        features: Mapping[str, Features],
        cells: Mapping[str, Tensor] | None = None,
        valid: Mapping[str, Tensor] | None = None,
        labels: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Loss terms of a batch.

        Args:
            features: view -> embeddings of the same B samples (B alike on all processes).
            cells: view -> int64 [B] in [0, 25), the cell of the 5 x 5 map that is the sample's source there; needed
                for pairs with a source of level 5 (see :func:`draw_cells`).
            valid: view -> bool [B], whether the sample has that view. One that has not is neither source, nor
                positive, nor negative there.
            labels: int64 [B], classes of the samples, -1 for unknown, which stays a negative to all; needed, and
                looked at, for ``drop_same_class`` only.

        Returns:
            Terms ``"1-5 rgb->depth"`` ... and ``"regulariser"``; their sum is the loss. A source without any
            negative adds zero.

        Raises:
            ConfigError: cells, labels or feature maps that the loss needs are missing.
        """
        if self.drop_same_class and labels is None:
            raise ConfigError("loss.drop_same_class needs the labels of the batch")
        views = tuple(features)
        device = features[views[0]].f1.device
        with torch.autocast(device.type, enabled=False):
            present = torch.stack([_presence(features[view].f1, valid[view] if valid else None) for view in views], 1)
            everywhere = gather_with_grad(present)
            classes = None
            if self.drop_same_class and labels is not None:
                classes = labels.to(device), gather_with_grad(labels.to(device))
            losses: dict[_Direction, Tensor] = {}
            squares = []
            for level in sorted({LEVEL_PAIRS[pair][1] for pair in self.level_pairs}):
                pairs = [pair for pair in self.level_pairs if LEVEL_PAIRS[pair][1] == level]
                locations = {view: gather_with_grad(_locations(features[view], level)) for view in views}
                for group in self._groups([(p, s, t) for t in views for p in pairs for s in views if s != t], present):
                    targets = list(dict.fromkeys(target for _, _, target in group))
                    own = [_sources(features[s], LEVEL_PAIRS[p][0], cells[s] if cells else None) for p, s, _ in group]
                    both = [present[:, views.index(s)] * present[:, views.index(t)] for _, s, t in group]
                    loss, square = self._against(
                        _stack(own).unflatten(0, (len(targets), -1)),
                        _stack([locations[target] for target in targets]),
                        _stack(both).unflatten(0, (len(targets), -1)),
                        _stack([everywhere[:, views.index(target)] for target in targets]),
                        valid is not None,
                        classes,
                    )
                    losses |= zip(group, (self.direction_weight * loss).flatten(), strict=True)
                    squares.append(square.sum())
        order = itertools.product(self.level_pairs, itertools.permutations(views, 2))
        terms = {f"{p} {s}->{t}": losses[p, s, t] for p, (s, t) in order}
        return {**terms, "regulariser": self.direction_weight * self.regulariser * torch.stack(squares).sum()}

    def _groups(self, directions: list[_Direction], present: Tensor) -> list[list[_Direction]]:
        """Which directions to a level are worked off at once.

        All of them on a GPU, which waits for every operation to be started; one after the other on a processor, whose
        cache holds the scores of one, and where memory counts.
        """
        if present.device.type == "cuda" and len(present) <= self.chunk:
            return [directions]
        return [[direction] for direction in directions]

    def _against(
        self,
        sources: Tensor,
        targets: Tensor,
        weight: Tensor,
        present: Tensor,
        masked: bool,
        classes: tuple[Tensor, Tensor] | None,
    ) -> tuple[Tensor, Tensor]:
        """Mean losses and mean squared scores of a group of directions, [V, K] each.

        Args:
            sources: [V, K, b, R], for each of the V target views of the group the K sources that look at it.
            targets: [V, B, L, R], of all processes.
            weight: [V, K, b], whether a sample has both views.
            present: [V, B], whether a sample has the target view.
            masked: whether any sample lacks any view.
            classes: see :func:`_sums`.
        """
        rows = sources.shape[2]
        first = process_index() * rows
        sources = sources / sources.shape[3] ** 0.5
        loss = square = torch.zeros((), device=sources.device)
        for start in range(0, rows, self.chunk):
            part = slice(start, start + self.chunk)
            labels = None if classes is None else (classes[0][part], classes[1])
            own = sources[:, :, part], targets, weight[:, :, part], present, first + start
            arguments = (*own, self.clip, masked, labels)
            if rows > self.chunk and torch.is_grad_enabled():
                sums = checkpoint(_sums, *arguments, use_reentrant=False, preserve_rng_state=False)
            else:
                sums = _sums(*arguments)
            loss, square = loss + sums[0], square + sums[1]
        scale = processes() / (total(weight.sum(2)).clamp(min=1) * targets.shape[2])
        return loss * scale, square * scale / present.sum(1, keepdim=True).clamp(min=1)


def _stack(parts: list[Tensor]) -> Tensor:
    """``torch.stack`` that does not copy a single part."""
    return parts[0][None] if len(parts) == 1 else torch.stack(parts)


def draw_cells(batch: int, views: Sequence[str], generator: torch.Generator | None = None) -> dict[str, Tensor]:
    """For every view and sample the cell of the 5 x 5 map that is its source: int64 [batch], uniform in [0, 25)."""
    return {view: torch.randint(25, (batch,), generator=generator) for view in views}


def classification_loss(
    logits: Tensor,
    labels: Tensor,
    clip: float = 10.0,
    regulariser: float = 1e-3,
    smoothing: float = 0.0,
    count: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of soft-clipped class scores plus a penalty on their squares, mean over the labelled samples.

    Args:
        logits: [B, C], unclipped.
        labels: int64 [B]; -1 is unlabelled and counts for nothing.
        clip: bound c of the soft clip ``c tanh(logit / c)``; 0: none.
        regulariser: weight of the mean squared logit, taken before the clip.
        smoothing: mass spread evenly over all classes, in [0, 1).
        count: what the sum over the samples of all processes is divided by; ``None``: the number of labelled ones.

    Returns:
        Scalar; zero (and still part of the graph) when nothing is labelled.
    """
    with torch.autocast(logits.device.type, enabled=False):
        logits = logits.float()
        labelled = labels >= 0
        clipped = soft_clip(logits, clip)
        entropy = F.cross_entropy(clipped, labels, ignore_index=-1, label_smoothing=smoothing, reduction="sum")
        squares = (logits.square().mean(1) * labelled).sum()
        count = total(labelled.sum()).clamp(min=1) if count is None else count
        return (entropy + regulariser * squares) * processes() / count


def soft_clip(x: Tensor, bound: float) -> Tensor:
    """``bound * tanh(x / bound)``; ``x`` itself for a bound of 0."""
    return bound * torch.tanh(x / bound) if bound else x


def _sums(
    sources: Tensor,
    targets: Tensor,
    weight: Tensor,
    present: Tensor,
    first: int,
    clip: float,
    masked: bool,
    classes: tuple[Tensor, Tensor] | None,
) -> tuple[Tensor, Tensor]:
    """Weighted sums over b rows of the losses and of the squared scores, [V, K] each.

    Source i of [V, K, b, R] belongs to the sample first + i of the targets [V, B, L, R]: its positives are a diagonal
    of the scores [V, K, b, B, L], and the negatives are what remains when that diagonal is blotted out. ``classes``:
    of the sources [b] and of all samples [B].
    """
    shape = (*sources.shape[:3], *targets.shape[1:3])
    sources, targets = sources.flatten(1, 2), targets.flatten(1, 2)
    scores = (sources.squeeze(0) @ targets.squeeze(0).mT).view(shape)
    squares = ((weight[:, :, None] @ scores.square().sum(4)).squeeze(2) @ present[:, :, None]).squeeze(2)
    scores = soft_clip(scores, clip)
    positives = scores.diagonal(first, 2, 3)  # [V, K, L, b]
    negatives = scores.diagonal_scatter(torch.full_like(positives, _ABSENT), first, 2, 3)
    if masked:
        negatives = negatives.masked_fill((present == 0)[:, None, None, :, None], _ABSENT)
    if classes is not None:
        own, all_ = classes[0][:, None], classes[1]
        negatives = negatives.masked_fill(((own == all_) & (own >= 0))[:, :, None], _ABSENT)
    losses = F.softplus(negatives.logsumexp((3, 4))[:, :, None] - positives)
    return (losses * weight[:, :, None]).sum((2, 3)), squares


def _locations(features: Features, level: int) -> Tensor:
    """All targets of a level, float32 [B, L, R]; no copy for channels-last maps."""
    return _map(features, level).flatten(2).transpose(1, 2)


def _sources(features: Features, level: int, cells: Tensor | None) -> Tensor:
    """One source per sample, float32 [B, R]."""
    if level == 1:
        return features.f1.float()
    if cells is None:
        raise ConfigError(f"a source of level {level} needs the cells drawn for every view")
    locations = _locations(features, level)
    return locations[torch.arange(len(cells), device=locations.device), cells.to(locations.device)]


def _map(features: Features, level: int) -> Tensor:
    feature = {1: features.f1[:, :, None, None], 5: features.f5, 7: features.f7}[level]
    if feature is None:
        raise ConfigError(f"the loss needs feature maps of level {level}, which the encoder was not asked for or lacks")
    return feature.float()


def _presence(f1: Tensor, valid: Tensor | None) -> Tensor:
    return f1.new_ones(len(f1), dtype=torch.float32) if valid is None else valid.to(f1.device).float()
