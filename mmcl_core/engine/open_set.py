"""Open-set recognition: from which score on a model should be believed (``min_score``).

A robot shows its model whatever its detector finds. An evaluation set may therefore hold *unknown objects*: samples of
classes that the model does not know, or of the class ``unknown``, which stands for whatever is none of the others.
Accuracy is taken without them; here they are told from the known by the scores of their answers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmcl_core import metrics
from mmcl_core.crops import UNKNOWN

__all__ = ["min_score_figures"]

#: The values of ``min_score`` that an evaluation looks at.
THRESHOLDS = np.round(np.arange(0, 1, 0.05), 2)


def min_score_figures(
    probabilities: NDArray[np.float32], labels: NDArray[np.int64], unanswered: NDArray[np.bool_], classes: Sequence[str]
) -> dict[str, Any]:
    """What each ``min_score`` would answer, of one modality.

    Args:
        probabilities: float [N, C] over the model's classes.
        labels: int [N], rows in ``classes``; -1 for samples of none of them.
        unanswered: bool [N], samples without an answer, as nothing is seen in them.
        classes: the model's.

    Returns:
        Lists by threshold, see :class:`mmcl_core.metrics.Acceptance` (``None`` for NaN), the numbers of samples
        ``known`` and ``unknown``, and ``auroc``, see :func:`mmcl_core.metrics.auroc`, of the probability of the
        best class but ``unknown``.
    """
    named = np.array([name != UNKNOWN for name in classes])
    known = (labels >= 0) & named[labels]
    best = probabilities.argmax(axis=1)
    # Below every threshold where there is no answer, as ``unknown`` is none.
    scores = np.where(unanswered | ~named[best], -1.0, probabilities.max(axis=1))
    right = best == labels
    found = metrics.acceptance(scores[known], right[known], scores[~known], THRESHOLDS)
    surest = probabilities.max(axis=1, where=named, initial=0)
    figures = {name: [_number(value) for value in values] for name, values in found._asdict().items()}
    counts = {"known": int(known.sum()), "unknown": int((~known).sum())}
    return figures | counts | {"auroc": _number(metrics.auroc(surest[known], surest[~known]))}


def _number(value: float) -> float | None:
    return None if math.isnan(value) else round(float(value), 6)
