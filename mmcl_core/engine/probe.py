"""How much a self-supervised embedding already tells about the classes: nearest neighbours and a linear classifier.

Both work on unit embeddings of labelled training samples and are scored on the validation split. They change nothing
in the run.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmcl_core.engine.validation import Outputs

__all__ = ["knn_accuracy", "linear_accuracy", "probe"]


def probe(train: Outputs, test: Outputs, modalities: Sequence[str], classes: int) -> dict[str, float]:
    """``knn/<m>`` and ``linear/<m>``, accuracies in [0, 1], for each modality with labelled samples on both sides."""
    result: dict[str, float] = {}
    for modality in modalities:
        known, asked = train.usable(modality), test.usable(modality)
        if known.any() and asked.any():
            parts = (
                F.normalize(train.values[modality][known], dim=1),
                train.labels[known],
                F.normalize(test.values[modality][asked], dim=1),
                test.labels[asked],
                classes,
            )
            result[f"knn/{modality}"] = knn_accuracy(*parts)
            result[f"linear/{modality}"] = linear_accuracy(*parts)
    return result


def knn_accuracy(
    known: Tensor, known_labels: Tensor, asked: Tensor, labels: Tensor, classes: int, k: int = 20, tau: float = 0.07
) -> float:
    """Accuracy of the vote of the k nearest neighbours, each weighted by ``exp(cosine / tau)`` (Wu et al. 2018).

    Args:
        known: unit embeddings [N, R] with ``known_labels`` int64 [N].
        asked: unit embeddings [M, R] with the true ``labels`` int64 [M].
        classes: number of classes.
        k: neighbours, at most N are taken.
        tau: temperature of the weights.
    """
    right = 0
    for rows, truth in zip(asked.split(1024), labels.split(1024), strict=True):
        cosine, index = (rows @ known.T).topk(min(k, len(known)), dim=1)
        votes = torch.zeros(len(rows), classes).scatter_add_(1, known_labels[index], (cosine / tau).exp())
        right += int((votes.argmax(1) == truth).sum())
    return right / len(labels)


def linear_accuracy(
    known: Tensor, known_labels: Tensor, asked: Tensor, labels: Tensor, classes: int, decay: float = 1e-4
) -> float:
    """Accuracy of multinomial logistic regression, fitted to the end with L-BFGS; arguments as above."""
    mean, scale = known.mean(0), known.std(0, correction=0).clamp(min=1e-6)
    known, asked = (known - mean) / scale, (asked - mean) / scale
    weight = torch.zeros(classes, known.shape[1], requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(F.linear(known, weight, bias), known_labels) + decay * weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)  # type: ignore[arg-type]
    with torch.no_grad():
        return (F.linear(asked, weight, bias).argmax(1) == labels).double().mean().item()
