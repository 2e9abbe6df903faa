"""Who trains, who validates, whose label is kept: stratified draws, pure functions of a seed.

A class's samples are put in an order of their own, drawn from (seed, purpose, class), and its first ones are taken. A
larger share therefore holds the samples of a smaller one, except that of classes of a few samples rounding may take one
fewer; which samples of a class come first does not depend on the other classes.

Validation is drawn by whole groups where the set knows them: frames of one scene or views of one object are nearly
duplicates, and with some of them in training the others would flatter the model.
"""

from __future__ import annotations

import heapq
import logging
from collections import Counter, deque
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mmcl_core.config import DataConfig
from mmcl_core.data.cache import PreparedSet
from mmcl_core.errors import ConfigError, DataError

__all__ = [
    "TRAINING",
    "VALIDATION",
    "group_mask",
    "shuffled",
    "split_indices",
    "split_named",
    "spread_repeats",
    "stratified_mask",
]

logger = logging.getLogger(__name__)

IndexArray = npt.NDArray[np.int64]

#: What the split to train on is named, and the one to validate on.
TRAINING, VALIDATION = ("train", "training"), ("val", "validation", "valid")
_VALIDATION, _LABELLED = 1, 2


def split_named(splits: Sequence[str], names: Sequence[str]) -> str:
    """The split that has one of some names, in small letters or capitals; empty where none has.

    Args:
        splits: of a set.
        names: in small letters, such as :data:`TRAINING`; of several splits it is that of the first name.
    """
    found = {split.lower(): split for split in reversed(splits)}
    return next((found[name] for name in names if name in found), "")


def shuffled(count: int, *place: int) -> IndexArray:
    """A permutation of ``range(count)``, the same on every machine and with every version of NumPy.

    Args:
        count: number of items.
        place: numbers >= 0 that it follows from, such as (seed, epoch).
    """
    # Raw bits are part of what NumPy guarantees never to change, its own permutations are not.
    bits = np.random.Philox(np.random.SeedSequence(place)).random_raw(count)
    return np.argsort(bits, kind="stable").astype(np.int64)


def spread_repeats(order: IndexArray, batch: int) -> IndexArray:
    """An order in which no batch holds an item twice, where that can be.

    What is in a batch already waits for the next one; what waits at the end changes places with an item of an earlier
    batch.

    Args:
        order: items, some of them several times.
        batch: items in a batch.
    """
    batches: list[list[int]] = []
    coming, waiting = iter(order.tolist()), _Waiting()
    while not batches or len(batches[-1]) == batch:
        chosen = dict.fromkeys(waiting.take(batch))
        while len(chosen) < batch and (item := next(coming, None)) is not None:
            if item in chosen:
                waiting.add(item)
            else:
                chosen[item] = None
        if not chosen:
            break
        batches.append(list(chosen))
    _fill_up(batches, waiting.rest(), batch)
    _part_copies(batches)
    return np.array([item for held in batches for item in held], dtype=np.int64)


class _Waiting:
    """Items, some of them several times, in the order in which they came."""

    def __init__(self) -> None:
        self._places: dict[int, deque[int]] = {}  # of each item, ascending
        self._first: list[tuple[int, int]] = []  # a heap: first place and item
        self._count = 0

    def add(self, item: int) -> None:
        """Let an item wait behind all others."""
        places = self._places.setdefault(item, deque())
        if not places:
            heapq.heappush(self._first, (self._count, item))
        places.append(self._count)
        self._count += 1

    def take(self, most: int) -> list[int]:
        """The first ``most`` different items, which wait no longer, once each."""
        taken = [heapq.heappop(self._first)[1] for _ in range(min(most, len(self._first)))]
        for item in taken:
            self._places[item].popleft()
            if self._places[item]:
                heapq.heappush(self._first, (self._places[item][0], item))
        return taken

    def rest(self) -> list[int]:
        """All that wait."""
        return [item for _, item in sorted((place, item) for item, some in self._places.items() for place in some)]


def _fill_up(batches: list[list[int]], left: list[int], batch: int) -> None:
    """Put what is left, all of which the last batch holds, behind it, in exchange for items of earlier batches."""
    held = Counter(item for earlier in batches[:-1] for item in set(earlier))  # by how many of the earlier batches
    for item in left:
        if len(batches[-1]) == batch:
            held.update(set(batches[-1]))
            batches.append([])
        last = batches[-1]
        could = item in last and held[item] < len(batches) - 1
        for place in range(len(batches) - 2, -1, -1) if could else ():
            earlier = batches[place]
            if item in earlier:
                continue
            swapped = next((i for i, other in enumerate(earlier) if other not in last), None)
            if swapped is not None:
                held[item] += 1
                item, earlier[swapped] = earlier[swapped], item
                held[item] -= item not in earlier
                break
        last.append(item)


def _part_copies(batches: list[list[int]]) -> None:
    """Move what a batch holds a second time to batches without it, through chains of exchanges, as far as can be."""
    room = [len(batch) for batch in batches]
    spare: list[int] = []
    for place, batch in enumerate(batches):
        batches[place] = list(dict.fromkeys(batch))
        room[place] -= len(batches[place])
        spare += (Counter(batch) - Counter(batches[place])).elements()
    held = [set(batch) for batch in batches]
    stuck: set[int] = set()  # items that no chain leads on from, which later exchanges do not change

    def move(item: int) -> bool:
        """Put an item where there is room; what it drives out goes on."""
        came: dict[int, tuple[int, int]] = {item: (item, -1)}  # by item: which drives it out, and of which batch
        coming, opened = deque([item]), set[int]()
        while coming:
            one = coming.popleft()
            for place in (place for place, items in enumerate(held) if one not in items):
                if room[place]:
                    room[place] -= 1
                    batches[place].append(one)
                    held[place].add(one)
                    while one != item:
                        other, at = came[one]
                        batches[at][batches[at].index(one)] = other
                        held[at] ^= {one, other}
                        one = other
                    return True
                if place not in opened:
                    opened.add(place)
                    new = [other for other in batches[place] if other not in came]
                    came |= dict.fromkeys(new, (one, place))
                    coming.extend(new)
        stuck.update(came)
        return False

    stay = [item for item in spare if item in stuck or not move(item)]
    for item in stay:
        place = next(place for place, left in enumerate(room) if left)
        room[place] -= 1
        batches[place].append(item)


def split_indices(prepared: PreparedSet, data: DataConfig, seed: int) -> tuple[IndexArray, IndexArray, IndexArray]:
    """Rows to train on and to validate on, and the labels to train with.

    Validation is the split ``val_split`` where the set has it; otherwise ``val_fraction`` of the labelled training
    samples, of each class about its share, but never its last training sample: whole groups where :func:`group_mask`
    finds enough of them, else single samples. Unlabelled samples stay in training, as nothing can be measured on them,
    but for near-duplicates of what validates, those of groups that are held back. Of the N labelled ones that remain,
    ceil(``label_share`` N) keep their label; with ``unlabelled: drop`` these alone are trained on.

    Args:
        prepared: the set.
        data: names of the splits and shares.
        seed: of the draws.

    Returns:
        Training rows, validation rows (empty without validation), both int64 and ascending, and the labels of the
        training rows, int64, -1 = unlabelled.

    Raises:
        DataError: the set has no split ``train_split``, or none of another name than the default that ``val_split``
            asks for; or all of its samples were dropped.
        ConfigError: a share out of its range.
    """
    if not 0 <= data.val_fraction < 1:
        raise ConfigError(f"data.val_fraction is {data.val_fraction}; a share in [0, 1) is expected")
    if not 0 <= data.label_share <= 1:
        raise ConfigError(f"data.label_share is {data.label_share}; a share in [0, 1] is expected")
    if data.train_split not in prepared.split_names:
        like = split_named(prepared.split_names, TRAINING)
        hint = f"; give data.train_split={like}" if like else " (data.train_split)"
        names = ", ".join(prepared.split_names)
        raise DataError(f"{prepared.path} has no split {data.train_split!r}; it has {names}{hint}")
    train = prepared.select(data.train_split)
    if data.val_split not in ("", DataConfig().val_split, *prepared.split_names):
        names = ", ".join(prepared.split_names)
        raise DataError(f"{prepared.path} has no split {data.val_split!r} (data.val_split); it has {names}")
    if data.val_split and data.val_split in prepared.split_names:
        val = prepared.select(data.val_split)
    else:
        held, beside = _held_back(prepared, train, data.val_fraction, seed)
        train, val = train[~(held | beside)], train[held]
    labels = prepared.labels[train]
    if data.label_share < 1:
        labels[~stratified_mask(labels, data.label_share, seed, _LABELLED, least=1, up=True)] = -1
    if data.unlabelled == "drop":
        kept = labels >= 0
        if not kept.any():
            raise DataError(
                f"data.unlabelled=drop leaves nothing to train on: no sample of the split {data.train_split!r} of "
                f"{prepared.path} has a label in this run; take data.unlabelled=keep"
            )
        train, labels = train[kept], labels[kept]
    return train, val, labels


def _held_back(
    prepared: PreparedSet, rows: IndexArray, share: float, seed: int
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Which of these rows validate, and which have no label and are of the same groups, so that nothing learns them."""
    labels = prepared.labels[rows]
    # A sample of no known group is one of its own.
    named = zip(prepared.groups[rows], prepared.keys[rows], strict=True)
    groups = [group or f"/{key}" for group, key in named]
    if share > 0 and len(set(groups)) < len(rows):
        held = group_mask(labels, groups, share, seed, _VALIDATION)
        if held is not None:
            taken = {groups[row] for row in np.flatnonzero(held)}
            return held, np.array([group in taken for group in groups]) & ~held
        logger.warning(
            "%s has too few groups to hold %g of each class back as whole groups: single samples are drawn, and "
            "validation may hold near-duplicates of training samples",
            prepared.path,
            share,
        )
    return stratified_mask(labels, share, seed, _VALIDATION, spare=1), np.zeros(len(rows), bool)


def group_mask(
    labels: IndexArray, groups: Sequence[str] | npt.NDArray[np.str_], share: float, seed: int, purpose: int
) -> npt.NDArray[np.bool_] | None:
    """Draw about a share of the labelled samples of each class as whole groups, which may hold several classes.

    The groups are gone through in a drawn order; one is taken if that brings the counts of its classes nearer to their
    share and leaves each of them a sample.

    Args:
        labels: int64 [N], -1 = unlabelled, which are never drawn.
        groups: [N], their names.
        share: in [0, 1].
        seed, purpose: what the draw follows from, besides the groups.

    Returns:
        bool [N], or ``None`` where the groups are too few: some class is more than a sample below half or above
        twice its share, or all together are below half.
    """
    labelled = labels >= 0
    classes, counts = np.unique(labels[labelled], return_counts=True)
    names = {name: number for number, name in enumerate(sorted(set(groups)))}
    member = np.fromiter((names[name] for name in groups), np.int64, len(groups))
    order = np.argsort(member[labelled], kind="stable")  # a table of all groups and classes would be too large
    listed = np.searchsorted(classes, labels[labelled][order])
    ends = np.cumsum(np.bincount(member[labelled], minlength=len(names)))
    wanted, held = share * counts, np.zeros(len(classes), np.int64)
    chosen = np.zeros(len(names), dtype=bool)
    for number in shuffled(len(names), seed, purpose):
        own = np.bincount(listed[ends[number - 1] if number else 0 : ends[number]], minlength=len(classes))
        more = held + own
        nearer = np.abs(more - wanted).sum() < np.abs(held - wanted).sum()
        if nearer and (more < counts)[own > 0].all():
            chosen[number], held = True, more
    too_few = (held < wanted / 2 - 1).any() or held.sum() < wanted.sum() / 2
    if too_few or (held > 2 * wanted + 1).any():
        return None
    return chosen[member] & labelled


def stratified_mask(
    labels: IndexArray, share: float, seed: int, purpose: int, *, least: int = 0, spare: int = 0, up: bool = False
) -> npt.NDArray[np.bool_]:
    """Draw a share of the labelled samples, of each class its part.

    Args:
        labels: int64 [N], -1 = unlabelled, which are never drawn.
        share: in [0, 1].
        seed, purpose: what the draw follows from, besides the classes.
        least: draw at least so many of a class, as far as the total allows it for all classes.
        spare: leave at least so many of a class.
        up: round the total up instead of to the nearest number.

    Returns:
        bool [N].
    """
    classes, counts = np.unique(labels[labels >= 0], return_counts=True)
    wanted = share * int(counts.sum())
    # 0.07 * 100 is a little more than 7: without the margin its ceil would be 8.
    total = int(np.ceil(wanted - 1e-9)) if up else int(np.floor(wanted + 0.5))
    mask = np.zeros(len(labels), dtype=bool)
    for label, take in zip(classes, _allot(counts, total, share, least, spare), strict=True):
        rows = np.flatnonzero(labels == label)
        mask[rows[shuffled(len(rows), seed, purpose, int(label))[:take]]] = True
    return mask


def _allot(counts: IndexArray, total: int, share: float, least: int, spare: int) -> IndexArray:
    """How many of each class: largest remainders within the bounds, first classes first where they tie."""
    most = np.maximum(counts - spare, 0)
    floor = np.minimum(least if least * len(counts) <= total else 0, most)
    total = min(total, int(most.sum()))
    exact = share * counts
    take = np.clip(np.floor(exact).astype(np.int64), floor, most)
    while (missing := total - int(take.sum())) != 0:
        step = 1 if missing > 0 else -1
        gap = step * (exact - take)
        gap[take >= most if step > 0 else take <= floor] = -np.inf
        take[int(np.argmax(np.round(gap, 9)))] += step
    return take
