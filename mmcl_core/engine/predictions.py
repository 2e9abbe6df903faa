"""The answers of a network to the samples of a split, by one modality, and their fusion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmcl_core import metrics
from mmcl_core.errors import DataError
from mmcl_core.metrics import FUSED

__all__ = ["Predictions", "fused"]

#: Samples fused at a time, to spare memory.
FUSED_TOGETHER = 4096


@dataclass(frozen=True)
class Predictions:
    """Answers of one modality.

    Attributes:
        rows: int64 [n], rows of the prepared set, ascending.
        labels: int64 [n], rows in the model's list of classes; -1 for an unknown object.
        probabilities: float32 [n, C] over the model's classes.
        blank: bool [n], depth without a single reading, which is answered as the recogniser does: alone by uniform
            probabilities, in the fusion by colour.
    """

    rows: NDArray[np.int64]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    blank: NDArray[np.bool_]

    def known(self) -> Predictions:
        """Those of samples whose class the model knows."""
        kept = self.labels >= 0
        if kept.all():
            return self
        return Predictions(self.rows[kept], self.labels[kept], self.probabilities[kept], self.blank[kept])

    def unanswered(self, name: str) -> NDArray[np.bool_]:
        """Bool [n], samples that the recogniser does not answer; in the fusion colour answers for depth."""
        return self.blank & (name != FUSED)


def fused(predictions: Mapping[str, Predictions], temperature: float) -> Predictions:
    """The fusion of the answers by ``rgb`` and ``depth``, of the samples that have both.

    Args:
        predictions: by modality, of the same samples where they have it.
        temperature: of the fusion, see :func:`mmcl_core.metrics.fuse`.

    Raises:
        DataError: no sample has both.
    """
    rgb, depth = predictions["rgb"], predictions["depth"]
    rows, at_rgb, at_depth = np.intersect1d(rgb.rows, depth.rows, assume_unique=True, return_indices=True)
    if not len(rows):
        raise DataError(f"no sample has both rgb and depth; leave {FUSED} out")
    mixed = np.empty((len(rows), rgb.probabilities.shape[1]), np.float32)
    for start in range(0, len(rows), FUSED_TOGETHER):
        part = slice(start, start + FUSED_TOGETHER)
        both = [rgb.probabilities[at_rgb[part]], depth.probabilities[at_depth[part]]]
        mixed[part] = metrics.fuse(both, temperature)
    blank = depth.blank[at_depth]
    mixed[blank] = rgb.probabilities[at_rgb[blank]]
    return Predictions(rows, rgb.labels[at_rgb], mixed, blank)
