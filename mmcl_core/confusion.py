"""Pictures of confusion matrices, drawn with matplotlib, without a display."""

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
#: Most classes that are named at the axes; with more the cells shrink, and the picture does not grow.
NAMED = 100
#: Most classes whose counts are written into the cells.
COUNTED = 30


def save_confusion(
    path: Path,
    matrices: Mapping[str, ArrayLike],
    rows: Sequence[str],
    columns: Sequence[str],
    labels: tuple[str, str] = ("true class", "predicted"),
) -> None:
    """Draw confusion matrices side by side, rows normalised, counts written in where there is room.

    Args:
        path: PNG to write.
        matrices: by title, counts [R, C] (row = true class, column = answer).
        rows, columns: R and C names; more than :data:`NAMED` are left out.
        labels: names of the axes, down and across.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    most = max(len(rows), len(columns))
    cell = CELL_IN * min(1.0, NAMED / most)
    width, height = 0.4 + cell * len(columns), 0.4 + cell * len(rows)
    figure = Figure(figsize=(2 + max(2.2, width) * len(matrices), 2 + height), dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(matrices), squeeze=False, sharey=True)[0]
    down, across = ([name.replace("$", r"\$") for name in names] for names in (rows, columns))  # $: no formula begins
    for axis, (title, counts) in zip(axes, matrices.items(), strict=True):
        _draw(axis, np.asarray(counts), title)
        if most <= NAMED:
            axis.set_xticks(range(len(across)), across, rotation=90, fontsize=8)
            axis.set_yticks(range(len(down)), down, fontsize=8)
        axis.set_xlabel(labels[1])
    axes[0].set_ylabel(labels[0])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        how: dict[str, Any] = {"format": "png", "bbox_inches": "tight", "metadata": {"Software": None}}
        write_atomically(path, lambda file: figure.savefig(file, **how))
    if any("missing from" in str(warning.message) for warning in caught):
        logger.warning("%s shows boxes for letters that its font lacks; the tables beside it have all names", path)


def _draw(axis: Any, counts: np.ndarray, title: str) -> None:
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    axis.imshow(share, cmap="Blues", vmin=0, vmax=1)
    axis.set_title(title, fontsize=10)
    if max(counts.shape) <= COUNTED:
        for row, column in np.argwhere(counts):
            colour = "white" if share[row, column] > 0.55 else "black"
            axis.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=6.5, color=colour)
