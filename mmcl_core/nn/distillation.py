"""Losses that teach a stream what another one sees: distance of embeddings, and soft targets.

Sources: Hoffman et al., "Learning with Side Information through Modality Hallucination" (CVPR 2016); Garcia et al.,
"Modality Distillation with Multiple Stream Networks for Action Recognition" (ECCV 2018); Hinton et al., "Distilling the
Knowledge in a Neural Network" (2015). No gradient reaches the teacher. All are computed in float32, under autocast
too, and are means over the global batch; see :mod:`mmcl_core.nn.gather` for the rule of gradients.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from mmcl_core.nn.gather import mean_over_samples, processes, total

__all__ = ["agreement_loss", "embedding_distance", "soft_target_loss"]


def embedding_distance(student: Tensor, teacher: Tensor, squash: bool) -> Tensor:
    """Squared distance of embeddings [B, R], mean over features and samples.

    Args:
        student, teacher: of the same samples.
        squash: compare ``sigmoid(x)`` (Hoffman et al., Eq. 1; Garcia et al.) and not the embeddings themselves.
    """
    with torch.autocast(student.device.type, enabled=False):
        one, other = student.float(), teacher.detach().float()
        if squash:
            one, other = one.sigmoid(), other.sigmoid()
        return mean_over_samples((one - other).square().mean(1))


def soft_target_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Cross-entropy between the teacher's softened class probabilities and the student's, mean over samples.

    Args:
        student, teacher: logits [B, C] of the same samples.
        temperature: T that both are divided by. The loss is multiplied by T squared, so that the size of its gradient
            does not depend on T (Hinton et al., Section 2).
    """
    with torch.autocast(student.device.type, enabled=False):
        wanted = F.softmax(teacher.detach().float() / temperature, 1)
        log_p = F.log_softmax(student.float() / temperature, 1)
        return temperature**2 * mean_over_samples(-(wanted * log_p).sum(1))


def agreement_loss(views: Sequence[Tensor], present: Sequence[Tensor], temperature: float) -> Tensor:
    """How far each view's answer is from the fused answer of all views of the same sample.

    The sum over the views of ``T^2 KL(fused || view)``, mean over the samples that have at least two views. Fused is
    what a robot with all sensors would answer, the mean of the log-probabilities of the views that a sample has; it is
    the teacher. No label is needed. Beyond the paper; where no view is a fixed teacher, see Zhang et al., "Deep Mutual
    Learning" (CVPR 2018).

    Args:
        views: logits [B, C] of every view.
        present: bool [B] for every view, which samples have it; logits of the others are not looked at.
        temperature: T that all logits are divided by.

    Returns:
        Scalar; zero (and still part of the graph) where no sample has two views.
    """
    with torch.autocast(views[0].device.type, enabled=False):
        has = torch.stack(list(present)).float()  # [V, B]
        log_p = F.log_softmax(torch.stack([view.float() for view in views]) / temperature, 2)  # [V, B, C]
        several = has.sum(0) >= 2
        with torch.no_grad():
            fused = ((log_p * has[:, :, None]).sum(0) / has.sum(0).clamp(min=1)[:, None]).log_softmax(1)
        apart = (fused.exp() * (fused - log_p)).sum(2)
        count = total(several.sum()).clamp(min=1)
        return temperature**2 * (apart * has * several).sum() * processes() / count
