"""What several seeds say together: their mean and spread, and differences between rows, seed by seed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from mmcl_core.errors import InputError

__all__ = ["Paired", "Spread", "paired_difference", "spread"]


class Spread(NamedTuple):
    """Mean and sample standard deviation (divided by number - 1; NaN for a single value) of ``number`` values."""

    mean: float
    std: float
    number: int


class Paired(NamedTuple):
    """Differences between two rows of results, seed by seed.

    Attributes:
        spread: their mean, standard deviation and number.
        same_sign: whether all have the same sign, none zero.
    """

    spread: Spread
    same_sign: bool


def spread(values: ArrayLike) -> Spread:
    """Mean, standard deviation and number of one or more values.

    Raises:
        InputError: no value.
    """
    array = np.asarray(values, np.float64).ravel()
    if not array.size:
        raise InputError("the mean of no value is asked for")
    return Spread(float(array.mean()), float(array.std(ddof=1)) if array.size > 1 else float("nan"), array.size)


def paired_difference(first: Mapping[int, float], second: Mapping[int, float]) -> Paired | None:
    """``first - second`` over the seeds (keys) that both have; ``None`` where they share none."""
    differences = [first[seed] - second[seed] for seed in first if seed in second]
    if not differences:
        return None
    return Paired(spread(differences), all(d > 0 for d in differences) or all(d < 0 for d in differences))
