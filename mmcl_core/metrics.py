"""Measures of classification, on numpy arrays alone: accuracy, macro-F1, calibration, intervals, fusion.

Throughout, ``probabilities`` is float [N, C] with rows that sum to 1, ``labels`` is int [N] in [0, C), ``predictions``
is int [N], and N is at least 1. Shares and scores lie in [0, 1]. Nothing depends on the state of a random generator.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmcl_core.errors import InputError

__all__ = [
    "FUSED",
    "Acceptance",
    "CalibrationBins",
    "Estimate",
    "acceptance",
    "accuracy",
    "auroc",
    "bootstrap",
    "calibration_bins",
    "confusion_matrix",
    "expected_calibration_error",
    "fuse",
    "group_means",
    "hits",
    "macro_f1",
    "per_class",
    "softmax",
    "summarise",
    "titles",
    "top_k",
]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Scores = NDArray[np.floating]

#: Name of the fusion of the modalities ``rgb`` and ``depth``.
FUSED = "rgbd"
_CHUNK = 4_000_000  # numbers held at once, beside those that are given: 32 MB


class Estimate(NamedTuple):
    """A figure with the bounds of its bootstrap interval."""

    value: float
    low: float
    high: float


class CalibrationBins(NamedTuple):
    """Samples sorted into bins by confidence; mean confidence and accuracy are NaN in an empty bin.

    Attributes:
        edges: float [bins + 1].
        samples: int [bins].
        confidence: float [bins], mean probability of the predicted class.
        accuracy: float [bins].
    """

    edges: Floats
    samples: Ints
    confidence: Floats
    accuracy: Floats


class Acceptance(NamedTuple):
    """What is left where answers of a lower score become ``unknown``, threshold by threshold.

    Attributes:
        thresholds: float [T].
        answered: float [T], share of the known samples that get an answer; NaN without any.
        right: float [T], share of these answers that are right; NaN where there are none.
        unknown_answered: float [T], share of the unknown objects that get an answer, which cannot be right; NaN without
            any.
    """

    thresholds: Floats
    answered: Floats
    right: Floats
    unknown_answered: Floats


def softmax(logits: ArrayLike, temperature: float = 1.0) -> Floats:
    """Probabilities of class scores [N, C] divided by ``temperature`` > 0."""
    scores = np.asarray(logits, np.float64) / temperature
    powers: Floats = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


def fuse(parts: Sequence[ArrayLike], temperature: float = 1.0) -> Floats:
    """Fuse several modalities: mean of log-probabilities, renormalised (a geometric mean of the distributions).

    Args:
        parts: at least one array of probabilities, all [N, C]. A zero counts as the smallest positive float32.
        temperature: the mean is divided by it; 1 is the plain mean.

    Returns:
        Probabilities, float64 [N, C].

    Raises:
        InputError: no array, or differing shapes.
    """
    arrays = [np.asarray(part, np.float64) for part in parts]
    if not arrays or any(array.shape != arrays[0].shape for array in arrays):
        raise InputError(f"fuse takes arrays of one shape, got {[array.shape for array in arrays]}")
    tiny = float(np.finfo(np.float32).tiny)
    return softmax(np.mean([np.log(np.maximum(array, tiny)) for array in arrays], axis=0), temperature)


def top_k(probabilities: ArrayLike, k: int) -> Ints:
    """The ``min(k, C)`` most probable classes, best first; of equals the lower number. int64 [N, k]."""
    values = np.asarray(probabilities)
    best: Ints = np.empty((len(values), min(k, values.shape[1])), np.int64)
    for rows in _blocks(values):
        best[rows] = np.argsort(-values[rows], axis=1, kind="stable")[:, :k]
    return best


def hits(probabilities: ArrayLike, labels: ArrayLike, k: int = 1) -> NDArray[np.bool_]:
    """Whether the label is among the ``k`` most probable classes; bool [N].

    Raises:
        InputError: shapes that do not fit together, no sample, or a label outside [0, C).
    """
    probabilities, labels = _checked(probabilities, labels)
    found: NDArray[np.bool_] = np.empty(len(labels), np.bool_)
    for rows in _blocks(probabilities):
        values, label = probabilities[rows], labels[rows, None]
        own = np.take_along_axis(values, label, axis=1)
        before = (values > own) | ((values == own) & (np.arange(values.shape[1]) < label))
        found[rows] = before.sum(axis=1) < k
    return found


def accuracy(probabilities: ArrayLike, labels: ArrayLike, k: int = 1) -> float:
    """Top-k accuracy."""
    return float(hits(probabilities, labels, k).mean())


def confusion_matrix(labels: ArrayLike, predictions: ArrayLike, classes: int) -> Ints:
    """Counts, int64 [C, C]: row = label, column = prediction."""
    labels, predictions = np.asarray(labels, np.int64), np.asarray(predictions, np.int64)
    return np.bincount(labels * classes + predictions, minlength=classes**2).reshape(classes, classes)


def per_class(confusion: ArrayLike) -> dict[str, NDArray[Any]]:
    """Precision, recall, F1 (float [C]) and support (int [C]) from a confusion matrix; a quotient of zeros is 0."""
    counts = np.asarray(confusion, np.float64)
    right, actual, predicted = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
    return {
        "precision": _divide(right, predicted),
        "recall": _divide(right, actual),
        "f1": _divide(2 * right, actual + predicted),
        "support": actual.astype(np.int64),
    }


def macro_f1(labels: ArrayLike, predictions: ArrayLike, classes: int) -> float:
    """Mean F1 over the classes that occur among the labels."""
    scores = per_class(confusion_matrix(labels, predictions, classes))
    return float(scores["f1"][scores["support"] > 0].mean())


def calibration_bins(probabilities: ArrayLike, labels: ArrayLike, bins: int = 15) -> CalibrationBins:
    """Sort samples by the probability of the predicted class into ``bins`` equal, left-open intervals of (0, 1]."""
    probabilities, labels = _checked(probabilities, labels)
    confidence = probabilities.max(axis=1).astype(np.float64)
    place = _bin_of(confidence, bins)
    count = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        return CalibrationBins(
            np.linspace(0, 1, bins + 1),
            count,
            np.bincount(place, confidence, bins) / count,
            np.bincount(place, hits(probabilities, labels), bins) / count,
        )


def expected_calibration_error(probabilities: ArrayLike, labels: ArrayLike, bins: int = 15) -> float:
    """Mean over samples of |accuracy - confidence| of the sample's bin (Guo et al., ICML 2017, Eq. 3)."""
    sorted_in = calibration_bins(probabilities, labels, bins)
    gap = np.abs(np.nan_to_num(sorted_in.accuracy - sorted_in.confidence))
    return float((gap * sorted_in.samples).sum() / sorted_in.samples.sum())


def acceptance(scores: ArrayLike, right: ArrayLike, unknown: ArrayLike, thresholds: ArrayLike) -> Acceptance:
    """Who gets an answer from each score on.

    Args:
        scores: float [N], of samples of known classes; N may be 0. An answer is given where its score is not below the
            threshold.
        right: bool [N], whether the answer would be right.
        unknown: float [M], scores of samples of no known class; M may be 0.
        thresholds: float [T].
    """
    known, others, lowest = (np.asarray(values, np.float64) for values in (scores, unknown, thresholds))
    answered = known >= lowest[:, None]
    with np.errstate(invalid="ignore"):
        return Acceptance(
            lowest,
            answered.sum(axis=1) / np.float64(known.size),
            (answered & np.asarray(right, np.bool_)).sum(axis=1) / answered.sum(axis=1),
            (others >= lowest[:, None]).sum(axis=1) / np.float64(others.size),
        )


def auroc(known: ArrayLike, unknown: ArrayLike) -> float:
    """How often a known sample scores higher than an unknown one, a tie counting half: the area under the ROC curve.

    Args:
        known: float [N].
        unknown: float [M]. NaN is returned where N or M is 0.
    """
    own, others = np.asarray(known, np.float64), np.sort(np.asarray(unknown, np.float64))
    if not own.size or not others.size:
        return float("nan")
    below, not_above = (np.searchsorted(others, own, side) for side in ("left", "right"))
    return float((below + not_above).mean() / (2 * others.size))


def group_means(values: ArrayLike, groups: Sequence[str], labels: ArrayLike) -> Floats:
    """Mean of ``values`` [N] in each (group, class) pair that occurs, float64 [pairs].

    A group is what a sample shares with its near-duplicates: the scene, or the instance. The mean over pairs does not
    count twenty views of one object twenty times.
    """
    pairs = {pair: number for number, pair in enumerate(dict.fromkeys(_pairs(groups, labels)))}
    place = np.array([pairs[pair] for pair in _pairs(groups, labels)])
    return np.bincount(place, np.asarray(values, np.float64)) / np.bincount(place)


def bootstrap(count: int, resamples: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """How often each of ``count`` samples is drawn in each of ``resamples`` resamples with replacement.

    Yields:
        Weights, float64 [r, count], rows that sum to ``count``; the r add up to ``resamples``.
    """
    generator = np.random.default_rng(seed)
    rows = max(1, _CHUNK // count)
    for start in range(0, resamples, rows):
        number = min(rows, resamples - start)
        drawn = generator.integers(count, size=(number, count)) + np.arange(number)[:, None] * count
        yield np.bincount(drawn.ravel(), minlength=number * count).reshape(number, count).astype(np.float64)


def summarise(
    probabilities: ArrayLike,
    labels: ArrayLike,
    groups: Sequence[str] | None = None,
    *,
    bins: int = 15,
    resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Estimate]:
    """The figures of one evaluation with percentile bootstrap intervals.

    Where a share is 0 or 1, every resample has the same and would give an interval without width. The bound on the
    other side is then that of Clopper and Pearson, exact for as many trials: of 26 right of 26, 0.868 at 95 %.

    Args:
        probabilities: float [N, C].
        labels: int [N].
        groups: name of each sample's group, see :func:`group_means`; ``None``: no ``group_mean``.
        bins: of the calibration error.
        resamples: of the bootstrap. Samples are resampled, for ``group_mean`` the (group, class) pairs.
        level: of the interval, in (0, 1).
        seed: of the bootstrap.

    Returns:
        ``top1``, ``top5``, ``macro_f1``, ``ece`` and, with groups, ``group_mean``.

    Raises:
        InputError: shapes that do not fit together, no sample, or a label outside [0, C).
    """
    probabilities, labels = _checked(probabilities, labels)
    top1, top5 = (hits(probabilities, labels, k) for k in (1, 5))
    values = {
        "top1": float(top1.mean()),
        "top5": float(top5.mean()),
        "macro_f1": macro_f1(labels, probabilities.argmax(axis=1), probabilities.shape[1]),
        "ece": expected_calibration_error(probabilities, labels, bins),
    }
    drawn = _resampled(probabilities, labels, {"top1": top1, "top5": top5}, bins, resamples, seed)
    trials = {"top1": len(labels)} | ({"top5": len(labels)} if probabilities.shape[1] > 5 else {})
    if groups is not None:
        means = group_means(top1, groups, labels)
        values["group_mean"] = float(means.mean())
        weights = bootstrap(len(means), resamples, seed)
        drawn["group_mean"] = np.concatenate([w @ means / len(means) for w in weights])
        trials["group_mean"] = len(means)
    return {
        name: Estimate(value, *_bounds(value, drawn[name], (1 - level) / 2, trials.get(name)))
        for name, value in values.items()
    }


def titles(classes: int) -> dict[str, str]:
    """The figures of :func:`summarise` that tell something among so many classes, and what pages call them."""
    named = {"top1": "top-1", "group_mean": "group mean", "macro_f1": "macro-F1", "top5": "top-5", "ece": "ECE"}
    return {name: title for name, title in named.items() if name != "top5" or classes > 5}


def _bounds(value: float, drawn: Floats, tail: float, trials: int | None) -> tuple[float, float]:
    """The quantiles ``tail`` and ``1 - tail`` of resamples; the exact bound of a share of ``trials`` that is 0 or 1."""
    if trials and value in (0.0, 1.0):
        bound = tail ** (1 / trials)
        return (bound, 1.0) if value else (0.0, 1.0 - bound)
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return float(low), float(high)


def _resampled(
    probabilities: Scores, labels: Ints, means: Mapping[str, NDArray[Any]], bins: int, resamples: int, seed: int
) -> dict[str, Floats]:
    """Every figure of every resample: all of them are functions of weighted sums over classes and bins."""
    count, classes = probabilities.shape
    predictions, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1).astype(np.float64)
    right = predictions == labels
    place, gap = _bin_of(confidence, bins), right - confidence
    results: dict[str, list[Floats]] = {name: [] for name in (*means, "macro_f1", "ece")}
    for weights in bootstrap(count, resamples, seed):
        for name, value in means.items():
            results[name].append(weights @ value / count)
        support, hit, predicted = (
            np.stack([np.bincount(places, one, classes) for one in counted]).astype(np.float64)
            for places, counted in ((labels, weights), (labels, weights * right), (predictions, weights))
        )
        f1 = _divide(2 * hit, support + predicted)
        results["macro_f1"].append((f1 * (support > 0)).sum(axis=1) / (support > 0).sum(axis=1))
        gaps = np.stack([np.bincount(place, one * gap, bins) for one in weights])
        results["ece"].append(np.abs(gaps).sum(axis=1) / count)
    return {name: np.concatenate(parts) for name, parts in results.items()}


def _blocks(values: NDArray[Any]) -> Iterator[slice]:
    """The rows of a matrix a part at a time, of about :data:`_CHUNK` numbers."""
    step = max(1, _CHUNK // max(1, values.shape[1]))
    return (slice(start, start + step) for start in range(0, len(values), step))


def _bin_of(confidence: Floats, bins: int) -> Ints:
    # The edges are compared, not multiplied out, so that a confidence on an edge falls into the bin below it.
    return np.clip(np.searchsorted(np.linspace(0, 1, bins + 1), confidence, side="left") - 1, 0, bins - 1)


def _pairs(groups: Sequence[str], labels: ArrayLike) -> Iterator[tuple[str, int]]:
    return zip(groups, np.asarray(labels).tolist(), strict=True)


def _divide(numerator: Floats, denominator: Floats) -> Floats:
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)


def _checked(probabilities: ArrayLike, labels: ArrayLike) -> tuple[Scores, Ints]:
    scores, numbers = np.asarray(probabilities), np.asarray(labels, np.int64)
    if not np.issubdtype(scores.dtype, np.floating):  # floats stay as they are: a copy of a million samples is large
        scores = scores.astype(np.float64)
    if scores.ndim != 2 or numbers.shape != scores.shape[:1] or not scores.size:
        raise InputError(f"scores [N, C] and labels [N], N, C >= 1, expected, got {scores.shape}, {numbers.shape}")
    if numbers.min() < 0 or numbers.max() >= scores.shape[1]:
        raise InputError(
            f"labels must lie in 0..{scores.shape[1] - 1}, found {numbers.min()}..{numbers.max()}; "
            "leave unlabelled samples (-1) out"
        )
    if any(np.isnan(scores[rows]).any() for rows in _blocks(scores)):  # to them every comparison says no
        raise InputError("scores hold values that are no numbers (NaN); the model that gave them is broken")
    return scores, numbers
