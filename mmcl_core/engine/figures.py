"""Pictures drawn with matplotlib, without a display."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mmcl_core.atomic import write_atomically

__all__ = ["save_confusion"]

logger = logging.getLogger(__name__)

CELL_IN, DPI = 0.27, 110
#: Most classes that are named at the axes.
NAMED = 100
#: Longest side of the cells of a matrix, inches: with many classes they shrink, and the picture does not grow.
SIDE_IN = CELL_IN * NAMED


def save_confusion(path: Path, confusions: Mapping[str, ArrayLike], classes: Sequence[str]) -> None:
    """Draw confusion matrices side by side, rows normalised, counts written in where there is room.

    Classes without any sample and never predicted are left out. More than :data:`NAMED` are numbered, not named.

    Args:
        path: PNG to write.
        confusions: by title, counts [C, C] (row = label, column = prediction).
        classes: C names.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = [name.replace("$", r"\$") for name in classes]  # a dollar, not the beginning of a formula
    matrices = {title: np.asarray(counts) for title, counts in confusions.items()}
    total = sum(matrices.values())
    shown = np.flatnonzero(np.asarray(total).sum(axis=0) + np.asarray(total).sum(axis=1)).tolist()
    side = 0.4 + min(CELL_IN * len(shown), SIDE_IN)
    named = len(shown) <= NAMED
    figure = Figure(figsize=(2 + max(2.2, side) * len(matrices), 2 + side), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(matrices), squeeze=False, sharey=True)[0]
    for axis, (title, counts) in zip(axes, matrices.items(), strict=True):
        _draw(axis, counts[np.ix_(shown, shown)], title)
        if named:
            axis.set_xticks(range(len(shown)), [names[place] for place in shown], rotation=90, fontsize=8)
            axis.set_yticks(range(len(shown)), [names[place] for place in shown], fontsize=8)
        axis.set_xlabel("predicted")
    axes[0].set_ylabel("true class")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        how: dict[str, Any] = {"format": "png", "bbox_inches": "tight", "metadata": {"Software": None}}
        write_atomically(path, lambda file: figure.savefig(file, **how))
    if any("missing from" in str(warning.message) for warning in caught):
        logger.warning("%s shows boxes for letters that its font lacks; the report page shows all names", path)


def _draw(axis: Any, counts: np.ndarray, title: str) -> None:
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axis.set_title(f"{title}: {np.trace(counts) / max(1, counts.sum()):.1%} of {counts.sum()}", fontsize=10)
    if len(counts) <= 30:
        for row, column in np.argwhere(counts):
            colour = "white" if share[row, column] > 0.55 else "black"
            axis.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=6.5, color=colour)
