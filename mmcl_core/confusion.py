"""Pictures of confusion matrices, drawn with matplotlib, without a display."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import ArrayLike

from mmcl_core.atomic import Content, write_atomically

__all__ = ["save_confusion", "save_figure"]

logger = logging.getLogger(__name__)

CELL_IN, DPI = 0.27, 110
#: Most classes that are named at the axes; with more the cells shrink, and the picture does not grow.
NAMED = 100
#: Most classes whose counts are written into the cells, and whose matrices stand side by side.
COUNTED = 30
#: Room for a letter of a class's name, inches.
_LETTER_IN = 0.065
#: Where the colours of a share begin, so that the smallest is seen.
_PALEST = 0.12
#: Width and most height of a colour bar, inches.
_BAR_IN = (0.14, 4.0)


def save_confusion(
    path: Path,
    matrices: Mapping[str, ArrayLike],
    rows: Sequence[str],
    columns: Sequence[str],
    write: Callable[[Path, Content], object] = write_atomically,
) -> None:
    """Draw confusion matrices, rows normalised: right answers in blue, wrong ones in red.

    Up to :data:`COUNTED` classes they stand side by side with the counts written in; larger ones one under another.

    Args:
        path: PNG to write.
        matrices: by title, counts [R, C] (row = true class, column = answer).
        rows, columns: R and C names; an answer is right where both are the same. More than :data:`NAMED` are left out.
        write: writes the file, now or later.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    most = max(len(rows), len(columns), 1)
    named = most <= NAMED
    cell = CELL_IN * min(1.0, NAMED / most)
    room = _LETTER_IN * max(map(len, [*rows, *columns]), default=0) if named else 0.0
    width, height = max(2.2, 0.4 + cell * len(columns)), 0.4 + cell * len(rows)
    grid = (1, len(matrices)) if most <= COUNTED else (len(matrices), 1)
    size = (2.5 + room + width * grid[1], (1.2 + room + height) * grid[0])
    figure = Figure(figsize=size, dpi=DPI, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(*grid, squeeze=False, sharey=True)
    down, across = ([name.replace("$", r"\$") for name in names] for names in (rows, columns))  # $: no formula begins
    same = np.array(rows)[:, None] == np.array(columns)[None]
    for axis, (title, counts) in zip(axes.flat, matrices.items(), strict=True):
        shades = _draw(axis, np.asarray(counts), same, title)
        if named:
            axis.set_xticks(range(len(across)), across, rotation=90, fontsize=8)
            axis.set_yticks(range(len(down)), down, fontsize=8)
        axis.set_xlabel("answer")
    for axis in axes[:, 0]:
        axis.set_ylabel("true class")
    _add_bars(figure, axes, shades, (width * grid[1], height))
    save_figure(figure, path, write, bbox_inches="tight")


def save_figure(
    figure: Any, path: Path, write: Callable[[Path, Content], object] = write_atomically, **how: Any
) -> None:
    """Write a figure of matplotlib as PNG, whole or not at all; letters that its font lacks are told once a file.

    Args:
        figure: to be written.
        path: PNG to write.
        write: writes the file, now or later.
        how: further arguments of ``savefig``.
    """

    def draw(file: BinaryIO) -> None:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            figure.savefig(file, **{"format": "png", "metadata": {"Software": None}, **how})
        if any("missing from" in str(warning.message) for warning in caught):
            _tell_of_boxes(path)

    write(path, draw)


@cache
def _tell_of_boxes(path: Path) -> None:
    logger.warning("%s shows boxes for letters that its font lacks; the tables beside it have all names", path)


def _draw(axis: Any, counts: np.ndarray, same: np.ndarray, title: str) -> list[Any]:
    """Draw a matrix; returns what the colour bars of right and wrong answers are made from."""
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    shades = [
        axis.imshow(np.ma.masked_where((kind != same) | (counts == 0), share), cmap=_colours(name), vmin=0, vmax=1)
        for name, kind in (("Blues", True), ("Reds", False))
    ]
    axis.set_title(title, fontsize=10)
    if max(counts.shape) <= COUNTED:
        for row, column in np.argwhere(counts):
            colour = "white" if share[row, column] > 0.55 else "black"
            axis.text(column, row, str(counts[row, column]), ha="center", va="center", fontsize=6.5, color=colour)
    return shades


def _colours(name: str) -> Any:
    """A colour map of matplotlib without its palest colours."""
    from matplotlib import colormaps
    from matplotlib.colors import ListedColormap

    return ListedColormap(colormaps[name](np.linspace(_PALEST, 1, 256)))


def _add_bars(figure: Any, axes: np.ndarray, shades: Sequence[Any], size: tuple[float, float]) -> None:
    """Colour bars at the right edge, of right and of wrong answers; ``size`` of the first matrices, inches."""
    width, height = size
    shrink = min(1.0, _BAR_IN[1] / height)
    for shade, title in zip(reversed(shades), ("wrong", "right"), strict=True):  # each is put right of the matrices
        thick = _BAR_IN[0] / width
        room: dict[str, float] = {"fraction": thick, "pad": 1.3 * thick, "aspect": shrink * height / _BAR_IN[0]}
        bar = figure.colorbar(shade, ax=axes[0, :], shrink=shrink, **room)
        bar.ax.set_title(title, fontsize=7)
        bar.ax.tick_params(labelsize=7)
        if title == "right":
            bar.set_ticks([])
        else:
            bar.set_label("share of the row", fontsize=8)
