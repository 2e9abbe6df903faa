"""Predictions on a split while training, their accuracy, and the temperatures that make them calibrated."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mmcl_core.augment import Picture, eval_transform
from mmcl_core.data.batches import BatchSource
from mmcl_core.engine.blank import is_blank
from mmcl_core.errors import UntrainedModalityError
from mmcl_core.metrics import FUSED

__all__ = ["Outputs", "collect", "fit_temperature", "fit_temperatures", "scores"]

logger = logging.getLogger(__name__)


@dataclass
class Outputs:
    """What a network says about N samples, in host memory.

    Attributes:
        values: by modality, float32 [N, ...]: class logits or embeddings.
        present: by modality, bool [N], whether the sample has it; rows without it are meaningless.
        labels: int64 [N], -1 unlabelled.
    """

    values: dict[str, Tensor]
    present: dict[str, Tensor]
    labels: Tensor

    def usable(self, *modalities: str) -> Tensor:
        """Bool [N]: labelled samples that have all these modalities."""
        mask = self.labels >= 0
        for modality in modalities:
            mask = mask & self.present[modality]
        return mask


@torch.no_grad()
def collect(
    ask: Callable[[Picture, str], Tensor],
    source: BatchSource,
    modalities: Sequence[str],
    size: int,
    device: torch.device,
    bf16: bool,
) -> Outputs:
    """Ask about every sample of a source once, one modality at a time, with the test transform.

    Args:
        ask: pictures and their modality -> [B, ...]; its networks are in evaluation mode.
        source: the samples, in order.
        modalities: what to look at.
        size: side of the network input in pixels.
        device: where the networks are.
        bf16: whether to compute under bf16 autocast.

    Returns:
        The answers. No sample counts as having a modality that no batch of the training taught anything about so far,
        nor depth without a reading, about which no network is asked.
    """
    values: dict[str, list[Tensor]] = {name: [] for name in modalities}
    present: dict[str, list[Tensor]] = {name: [] for name in modalities}
    labels: list[Tensor] = []
    for batch in source.ordered():
        pictures = eval_transform(batch.images, batch.camera, size)
        for name in modalities:
            present[name].append(batch.present[name] & ~is_blank(pictures[name].image))
            try:
                with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                    values[name].append(ask(pictures[name], name).float())
            except UntrainedModalityError:
                if not labels:
                    logger.warning("%s is not validated: no batch so far had enough of it to learn from", name)
                present[name][-1] = torch.zeros_like(batch.present[name])
        labels.append(batch.labels)
    known = torch.cat(labels).cpu()
    joined = {name: torch.cat(parts).cpu() for name, parts in values.items() if parts}
    nothing = torch.zeros_like(next(iter(joined.values()), torch.zeros(len(known), 1)))
    have = {name: torch.cat(parts).cpu() for name, parts in present.items()}
    return Outputs({name: joined.get(name, nothing) for name in modalities}, have, known)


def scores(logits: Outputs, targets: Sequence[str]) -> dict[str, float]:
    """``accuracy/<m>`` and ``loss/<m>`` for each modality that any labelled sample has, and the mean ``accuracy``."""
    result: dict[str, float] = {}
    for modality in targets:
        mask = logits.usable(modality)
        if mask.any():
            values, labels = logits.values[modality][mask], logits.labels[mask]
            result[f"accuracy/{modality}"] = (values.argmax(1) == labels).double().mean().item()
            result[f"loss/{modality}"] = F.cross_entropy(values, labels).item()
    found = [value for key, value in result.items() if key.startswith("accuracy/")]
    return {"accuracy": sum(found) / len(found), **result} if found else result


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The T in [0.05, 20] that minimises the cross-entropy of ``softmax(logits / T)`` (Guo et al. 2017).

    Labels are softened by 1 / (N + 2), after Platt (1999): with N answers that are all right, plain labels would take T
    to its lower bound and every score, right or wrong, to 1.

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
        return F.cross_entropy(logits / math.exp(log_t), labels, label_smoothing=1 / (len(labels) + 2)).item()

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


def fit_temperatures(logits: Outputs | None, targets: Sequence[str]) -> dict[str, float]:
    """A temperature for each target, and ``rgbd`` for the fusion of several; 1 without predictions.

    The fusion is the mean of the log-probabilities of ``rgb`` and ``depth``, or of all targets where one of these is
    none, at their own temperatures; ``rgbd`` divides that.
    """
    fused = (FUSED,) if len(targets) > 1 else ()
    parts = ("rgb", "depth") if {"rgb", "depth"} <= set(targets) else tuple(targets)
    if logits is None:
        return dict.fromkeys((*targets, *fused), 1.0)
    result = {}
    for modality in targets:
        mask = logits.usable(modality)
        result[modality] = fit_temperature(logits.values[modality][mask], logits.labels[mask])
    if fused:
        mask = logits.usable(*parts)
        each = [F.log_softmax(logits.values[name][mask] / result[name], 1) for name in parts]
        result[FUSED] = fit_temperature(torch.stack(each).mean(0), logits.labels[mask])
    return result
