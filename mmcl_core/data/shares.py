"""Splits that are drawn by shares, whole units (samples, frames, scenes) at a time."""

from __future__ import annotations

import hashlib
import logging
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from mmcl_core.errors import ConfigError
from mmcl_core.words import counted

__all__ = ["deal", "draw_test_groups", "group_pattern", "parse_shard", "parse_shares", "warn_of_empty", "warn_of_torn"]

logger = logging.getLogger(__name__)

#: Results lie in folders that are named after the split, among others.
_NAME = re.compile(r"\w[\w.-]*")
_CHARACTERS = "letters, digits, _, . and - are allowed, the first one a letter, a digit or _"


def parse_shares(text: str) -> dict[str, float]:
    """``train`` or ``train=0.8,test=0.2`` of ``--split`` as shares that sum to 1.

    Raises:
        ConfigError: not of this form.
    """
    if _NAME.fullmatch(text) and not re.fullmatch(r"\d+\.\d*", text):  # a share alone is no name
        return {text: 1.0}
    pairs = [part.partition("=") for part in text.split(",")]
    try:
        shares = {name.strip(): float(value) for name, _, value in pairs}
    except ValueError:
        shares = {}
    names = [*shares] or ([text] if text and not {"=", ","} & set(text) else [])
    if bad := next((name for name in names if name and not _NAME.fullmatch(name)), ""):
        raise ConfigError(f"--split {text!r}: {bad!r} is no name of a split: {_CHARACTERS}")
    good = shares and all(shares) and min(shares.values()) > 0 and len(shares) == len(pairs)
    if not good or not math.isclose(sum(shares.values()), 1, abs_tol=1e-6):
        raise ConfigError(f"--split {text!r}: a name, or name=share,... with shares > 0 that sum to 1, is expected")
    return shares


def parse_shard(text: str) -> tuple[int, int]:
    """``I/N`` of ``--shard`` as the part I, from 0, of N parts.

    Raises:
        ConfigError: not of this form.
    """
    part, slash, parts = text.partition("/")
    if not (slash and part.isdecimal() and parts.isdecimal() and int(part) < int(parts)):
        raise ConfigError(f"--shard {text!r} is not of the form I/N with I from 0 to N - 1, such as 0/4")
    return int(part), int(parts)


def group_pattern(text: str) -> re.Pattern[str]:
    """The regular expression of ``--group-pattern``.

    Raises:
        ConfigError: it is none.
    """
    try:
        return re.compile(text)
    except re.error as error:
        raise ConfigError(f"--group-pattern {text!r} is no regular expression: {error}") from error


def deal(units: Sequence[Sequence[int]], classes: int, shares: Mapping[str, float], order: Iterable[int]) -> list[str]:
    """The split of each unit, so that each split comes near to its share of every class.

    Each unit goes where its classes lack most, in doubt to the first split. But a class of as many units as there are
    splits, or more, leaves none of them without: its last units go where nothing of it is. Only where these hold other
    classes, whose last ones they are too, may a split be left without one of them.

    Args:
        units: the labels of the samples of each of U units, 0 to ``classes`` - 1; -1 is a class like the others.
        classes: how many there are.
        shares: of the splits, summing to 1.
        order: permutation of the units, in which they are dealt.
    """
    share = np.array(list(shares.values()))
    total, left = np.zeros(classes + 1), np.zeros(classes + 1, np.int64)
    for unit in units:  # a table of all units and classes would be too large
        counts = _counts(unit, classes)
        total, left = total + counts, left + (counts > 0)
    given = np.zeros((len(share), classes + 1))
    enough = left >= len(share)
    chosen = np.zeros(len(units), np.int64)
    for place in order:
        counts = _counts(units[place], classes)
        lacking = (share[:, None] * total - given) @ (counts / np.maximum(total, 1))
        without = given == 0
        due = (counts > 0) & enough & (left <= without.sum(axis=0))
        urgent = (without & due).sum(axis=1)
        chosen[place] = np.argmax(np.where(urgent == urgent.max(), np.round(lacking, 12), -np.inf))
        given[chosen[place]] += counts
        left -= counts > 0
    names = list(shares)
    return [names[target] for target in chosen]


def _counts(labels: Sequence[int], classes: int) -> npt.NDArray[np.float64]:
    """Samples of each class; the last number is of those without a label."""
    return np.bincount(np.asarray(labels, np.int64) % (classes + 1), minlength=classes + 1).astype(np.float64)


def draw_test_groups(groups: Iterable[str], share: float) -> set[str]:
    """About a share of the samples as a test split, whole groups only, the same for every run and machine.

    Groups are taken in the order of a checksum of their name, so that neither order nor place of the files matters.

    Args:
        groups: the group of each sample.
        share: of the samples, in [0, 1].
    """
    counts: dict[str, int] = {}
    for group in groups:
        counts[group] = counts.get(group, 0) + 1
    wanted, taken, chosen = share * sum(counts.values()), 0, set()
    for group in sorted(counts, key=lambda name: hashlib.sha256(name.encode("utf-8", "surrogateescape")).hexdigest()):
        if taken + counts[group] / 2 <= wanted:
            chosen.add(group)
            taken += counts[group]
    return chosen


def warn_of_empty(
    shares: Mapping[str, float], drawn: Sequence[str], units: Sequence[Sequence[int]], classes: Sequence[str], few: str
) -> None:
    """Warn of splits that got nothing of a class.

    Args:
        shares: as asked for.
        drawn: the split of each of U units.
        units: the labels of the samples of each, as for :func:`deal`.
        classes: C names.
        few: what units are, such as ``scenes``.
    """
    has = Counter(label for unit in units for label in set(unit))
    got = {(split, label) for split, unit in zip(drawn, units, strict=True) for label in set(unit)}
    for split in shares:
        empty = [label for label in range(len(classes)) if (split, label) not in got]
        if not empty:
            continue
        fewest = min(empty, key=lambda label: has[label])
        logger.warning(
            "--split: %s gets nothing of %d of %s, such as %s: too few %s (%d)",
            split, len(empty), counted(len(classes), "class"), classes[fewest], few, has[fewest],
        )  # fmt: skip


def warn_of_torn(members: Sequence[tuple[str, str, int]], parts: int, drawn: bool = True) -> None:
    """Tell of groups in several splits; in a hint alone where each class has too few of them to be split by.

    Such a group may be one recording, or names nothing, as that of ``IMG_0001`` to ``IMG_0999``.

    Args:
        members: group, split and label (-1: none) of each sample.
        parts: number of splits.
        drawn: whether the splits are drawn, so that ``--keep-groups`` is a way out; otherwise the source has them.
    """
    splits: dict[str, set[str]] = {}
    groups: dict[int, set[str]] = {}
    for group, split, label in members:
        splits.setdefault(group, set()).add(split)
        groups.setdefault(label, set()).add(group)
    torn = sorted(group for group, names in splits.items() if len(names) > 1)
    if not torn:
        return
    if max((len(names) for label, names in groups.items() if label >= 0), default=parts) < parts:
        logger.info(
            "names within a class differ in their last number alone (such as those of %s): if these are frames of "
            "one recording, figures of the test will be too good; record each class several times, each under a name "
            "of its own, and %s",
            torn[0],
            "give --keep-groups" if drawn else "keep each in one split",
        )
        return
    logger.warning(
        "groups of samples, by name, that lie in several splits: %d, such as %r; if these are frames of one scene "
        "or views of one object, figures of the test will be too good: %s",
        len(torn), torn[0], "--keep-groups keeps each in one split" if drawn else "move each into one split",
    )  # fmt: skip
