"""Predictions on a split while training, their accuracy, and the temperatures that make them calibrated."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmcl_core.augment import test_transform
from mmcl_core.data.batches import BatchSource
from mmcl_core.methods.base import Method

__all__ = ["Predictions", "fit_temperature", "fit_temperatures", "predict", "scores"]


@dataclass
class Predictions:
    """What a model says about N samples, in host memory.

    Attributes:
        logits: by modality, float32 [N, C].
        embeddings: by modality, float32 [N, R].
        present: by modality, bool [N], whether the sample has it; rows without it are meaningless.
        labels: int64 [N], -1 unlabelled.
    """

    logits: dict[str, Tensor]
    embeddings: dict[str, Tensor]
    present: dict[str, Tensor]
    labels: Tensor

    def usable(self, *modalities: str) -> Tensor:
        """Bool [N]: labelled samples that have all these modalities."""
        mask = self.labels >= 0
        for modality in modalities:
            mask = mask & self.present[modality]
        return mask


@torch.no_grad()
def predict(
    method: Method, system: nn.Module, source: BatchSource, modalities: Sequence[str], device: torch.device, bf16: bool
) -> Predictions:
    """Predict every sample of a source once with the test transform; the system must be in evaluation mode.

    Args:
        method: knows how to ask the system.
        system: the networks.
        source: the samples, in order.
        modalities: what to predict from, one at a time.
        device: where the networks are.
        bf16: whether to compute under bf16 autocast.
    """
    parts: dict[tuple[str, str], list[Tensor]] = {}
    for batch in source.ordered():
        pictures = test_transform(batch.images, batch.camera, method.config.model.input_size)
        for modality in modalities:
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                logits, embedding = method.predict(system, pictures[modality], modality)
            parts.setdefault(("logits", modality), []).append(logits.float())
            parts.setdefault(("embedding", modality), []).append(embedding.float())
            parts.setdefault(("present", modality), []).append(batch.present[modality])
        parts.setdefault(("labels", ""), []).append(batch.labels)
    joined = {key: torch.cat(pieces).cpu() for key, pieces in parts.items()}
    by = {kind: {m: joined[kind, m] for m in modalities} for kind in ("logits", "embedding", "present")}
    return Predictions(by["logits"], by["embedding"], by["present"], joined["labels", ""])


def scores(predictions: Predictions, targets: Sequence[str]) -> dict[str, float]:
    """``accuracy/<m>`` and ``loss/<m>`` for each modality that any labelled sample has, and the mean ``accuracy``."""
    result: dict[str, float] = {}
    for modality in targets:
        mask = predictions.usable(modality)
        if mask.any():
            logits, labels = predictions.logits[modality][mask], predictions.labels[mask]
            result[f"accuracy/{modality}"] = (logits.argmax(1) == labels).double().mean().item()
            result[f"loss/{modality}"] = F.cross_entropy(logits, labels).item()
    found = [value for key, value in result.items() if key.startswith("accuracy/")]
    return {"accuracy": sum(found) / len(found), **result} if found else result


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The T in [0.05, 20] that minimises the cross-entropy of ``softmax(logits / T)`` (Guo et al. 2017).

    Args:
        logits: [N, C].
        labels: int64 [N], all >= 0. N = 0 gives 1.
    """
    if len(labels) == 0:
        return 1.0
    logits = logits.double()
    low, high = math.log(0.05), math.log(20.0)
    golden = (math.sqrt(5) - 1) / 2

    def entropy(log_t: float) -> float:
        return F.cross_entropy(logits / math.exp(log_t), labels).item()

    # The cross-entropy is convex in 1 / T, hence has a single valley in log T.
    a, b = high - golden * (high - low), low + golden * (high - low)
    at_a, at_b = entropy(a), entropy(b)
    for _ in range(40):
        if at_a <= at_b:
            high, b, at_b = b, a, at_a
            a = high - golden * (high - low)
            at_a = entropy(a)
        else:
            low, a, at_a = a, b, at_b
            b = low + golden * (high - low)
            at_b = entropy(b)
    return math.exp((low + high) / 2)


def fit_temperatures(predictions: Predictions | None, targets: Sequence[str]) -> dict[str, float]:
    """A temperature for each target, and ``rgbd`` for their fusion where there are two; 1 without predictions.

    The fusion is the mean of the log-probabilities of the modalities at their own temperatures; ``rgbd`` divides that.
    """
    result = dict.fromkeys(targets, 1.0)
    if predictions is not None:
        for modality in targets:
            mask = predictions.usable(modality)
            result[modality] = fit_temperature(predictions.logits[modality][mask], predictions.labels[mask])
    if len(targets) > 1:
        result["rgbd"] = 1.0
        if predictions is not None:
            mask = predictions.usable(*targets)
            fused = _fuse({m: predictions.logits[m][mask] / result[m] for m in targets})
            result["rgbd"] = fit_temperature(fused, predictions.labels[mask])
    return result


def _fuse(logits: Mapping[str, Tensor]) -> Tensor:
    return torch.stack([F.log_softmax(values, 1) for values in logits.values()]).mean(0)
