"""Finds the pictures that belong together, by their stamps.

One stream is the anchor: each of its messages is to be answered. For every other stream that is wanted the message
nearest in stamp is its partner, if it lies within the window. The pairer waits for a partner only as long as a nearer
one can still come, and never longer than a bounded time, so an anchor whose partner is missing is given out alone.
Stamps that jump back, as those of a bag that loops do, or ahead, as where a clock is set, begin a new run of that
stream alone: what came before stays apart for as long as a late request may want it. A stream that only asks, as
regions do, may come in any order.
Pure Python and free of threads; times in seconds are handed in, so that tests need no clock.
"""

from __future__ import annotations

import bisect
import math
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["MEMORY", "SLOWEST_S", "Group", "Item", "PairCounters", "Pairer", "nearest"]

JUMP_NS = 500_000_000  # a stamp this far behind its predecessor means that time itself jumped
LEAP_NS = 1_000_000_000  # so does one that is this much farther ahead of it than it came after it
# What lies farther off is not late, its clock is another one: the largest values of the parameters history, max_wait.
LATEST_S, SLOWEST_S = 60.0, 10.0
FEW_WAITS, LEAST_SLOW_S = 3, 0.5  # nor is it late by delivery where more than so many waits, and seconds, are missing
CAPACITY = 1000  # most messages of a stream that are kept, however long the history; the parameter says so
MEMORY = 1 << 30  # most bytes that these may take: 0.75 GB is a second of 3840 x 2160 at 30 Hz; the parameter says so
REMEMBERED = 5000  # most stamps of messages that are not kept any more


@dataclass(frozen=True)
class Item:
    """One message: its stamp in nanoseconds, the message, when it was received in seconds, and its size in bytes."""

    stamp: int
    message: Any
    received: float
    size: int = 0


@dataclass(frozen=True)
class Group:
    """An anchor and what was found to go with it.

    Attributes:
        stream: name of the anchor's stream.
        partners: by stream; a stream without a partner is absent.
        gap: smallest distance in seconds to a message of any wanted stream that has none within the window.
        late: of one that only asks: where its partner came and was forgotten, how far its stamp lies behind the newest
            there, seconds.
        slow: whether a stream that is alive had not come as far as the anchor when the wait was over, but nearly.
        hurried: whether it had to go without waiting to the end, as the pictures that were kept took too much memory.
    """

    stream: str
    anchor: Item
    partners: Mapping[str, Item]
    gap: float | None = None
    late: float | None = None
    slow: bool = False
    hurried: bool = False


@dataclass
class PairCounters:
    """What became of the anchors so far.

    Attributes:
        paired: all wanted partners were found. one_sided: only some. unpaired: none though some were wanted.
        lonely: anchors in a row that lacked a partner whose stream was alive.
        smallest_gap: smallest distance in stamps to a partner seen so far, seconds; None: none was seen.
        gaps: by stream, the smallest such distance of these lonely anchors.
        late, slow: of the last anchor that lacked a partner, see :class:`Group`.
        time_jumps: how often the stamps of a stream of pictures jumped back.
        hurried: how many did not wait to the end, see :class:`Group`.
    """

    paired: int = 0
    one_sided: int = 0
    unpaired: int = 0
    lonely: int = 0
    smallest_gap: float | None = None
    gaps: dict[str, float] = field(default_factory=dict)
    late: float | None = None
    slow: bool = False
    time_jumps: int = 0
    hurried: int = 0


@dataclass
class _Stream:
    """Messages of one stream by stamp: those since its stamps last jumped, and what is kept of those before."""

    stamps: list[int] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)
    past: list[Item] = field(default_factory=list)
    gone: list[int] = field(default_factory=list)  # stamps since the jump whose messages are not kept any more
    latest: int = 0  # the latest stamp since the jump
    jumped: float = -math.inf  # when the first message after the jump was received, seconds
    crowded: bool = False  # messages were dropped lately that a request may still want

    def note(self, item: Item) -> bool:
        """Whether a message that has come shows that the stamps jumped back."""
        back = 0 < item.stamp < self.latest - JUMP_NS
        self.latest = item.stamp if back else max(self.latest, item.stamp)
        self.jumped = item.received if back else self.jumped
        return back

    def leaps(self, item: Item) -> bool:
        """Whether the stamp of a message that has come lies ahead of the others by more than time has passed."""
        return bool(self.items) and item.stamp - self.latest > LEAP_NS + (item.received - self.items[-1].received) * 1e9

    def start_over(self) -> None:
        """Put all messages apart: a new run begins."""
        self.past = sorted([*self.past, *self.items], key=lambda item: item.stamp)
        self.stamps, self.items, self.gone = [], [], []

    def find(self, stamp: int, window: float) -> tuple[Item | None, float]:
        """The message nearest to a stamp and its distance in seconds; of before if it alone is within the window."""
        if stamp == 0:  # tells no time: take the newest picture, the likeliest to be meant
            return (self.items[-1] if self.items else None), 0.0
        found: list[tuple[Item | None, float]] = []
        for items, stamps in ((self.items, self.stamps), (self.past, [item.stamp for item in self.past])):
            index = nearest(stamps, stamp)
            if index is not None:
                found.append((items[index], abs(stamps[index] - stamp) / 1e9))
                if found[-1][1] <= window:
                    return found[-1]
        return found[0] if found else (None, 0.0)

    def loses(self, stamp: int, window: float, count: int) -> bool:
        """Whether the message for a stamp is among so many first ones."""
        index = nearest(self.stamps, stamp)
        return index is not None and index < count and abs(self.stamps[index] - stamp) <= window * 1e9

    def forget(self, count: int) -> None:
        """Drop the messages of the first stamps; the stamps are remembered as long as any history could be."""
        self.gone = sorted([*self.gone, *self.stamps[:count]])[-REMEMBERED:]
        del self.gone[: bisect.bisect_left(self.gone, self.latest - int(LATEST_S * 1e9))]
        del self.stamps[:count], self.items[:count]

    def forgot(self, stamp: int, window: float) -> bool:
        """Whether there was a message for this stamp that is not kept any more."""
        index = nearest(self.gone, stamp)
        return index is not None and abs(self.gone[index] - stamp) <= window * 1e9


def nearest(stamps: list[int], stamp: int) -> int | None:
    """Index of the sorted stamp nearest to the given one, the earlier one of two equally near; None: no stamps.

    Of equal stamps it is the last, which is that of the newest picture where stamps stand still or are coarse.
    """
    place = bisect.bisect_right(stamps, stamp)
    if not 0 < place < len(stamps) or stamp - stamps[place - 1] <= stamps[place] - stamp:
        place = max(0, place - 1)
    return bisect.bisect_right(stamps, stamps[place]) - 1 if stamps else None


def _excess(items: Sequence[Item], most: int, memory: int) -> int:
    """How many of the first messages there is no room for; the last one always has some."""
    held = 0
    for number, item in enumerate(reversed(items)):
        held += item.size
        if number and (number >= most or held > memory):
            return len(items) - number
    return 0


class Pairer:
    """Pairs messages of several streams by stamp.

    Args:
        window: largest distance in stamps of two partners, seconds.
        wait: longest time an anchor waits for a partner, seconds.
        history: how far back in stamps messages are kept, seconds.
        capacity, memory: most messages kept per stream, and most bytes that they take; those of before the stamps
            jumped have as much again. Where there is no room for what an anchor waits with, it waits no longer.
    """

    def __init__(
        self, window: float, wait: float, history: float = 1.0, capacity: int = CAPACITY, memory: int = MEMORY
    ) -> None:
        self.window, self.wait, self.history, self.capacity, self.memory = window, wait, history, capacity, memory
        self.counters = PairCounters()
        self._streams: dict[str, _Stream] = {}
        self._pending: deque[tuple[str, Item]] = deque()
        self._hurried: list[Group] = []  # given out ahead of those that wait
        self.anchor = ""
        self._partners: tuple[str, ...] = ()
        self._awaited: frozenset[str] = frozenset()

    def expect(self, anchor: str, partners: Collection[str], awaited: Collection[str]) -> None:
        """State which stream is answered, which streams are wanted with it, and which of these are worth waiting for.

        The anchor's own stream is among the wanted ones where it carries a picture itself.
        Anchors of a stream that has ceased to be the anchor are still given out.
        """
        self.anchor, self._partners, self._awaited = anchor, tuple(partners), frozenset(awaited)

    def add(self, stream: str, item: Item) -> bool:
        """Take in a message; True when it is a picture whose stamp shows that the stamps of its stream jumped back."""
        place = self._streams.setdefault(stream, _Stream())
        leaps, jumped = place.leaps(item), place.note(item)
        if stream == self.anchor:
            self._pending.append((stream, item))
            if stream not in self._partners:  # nothing is ever paired with it
                return False
        self.counters.time_jumps += jumped
        if jumped or leaps:
            place.start_over()
        index = bisect.bisect_right(place.stamps, item.stamp)
        place.stamps.insert(index, item.stamp)
        place.items.insert(index, item)
        self._forget(place, item.received)
        return jumped

    def _forget(self, place: _Stream, now: float) -> None:
        """Drop what no request can be paired with any more."""
        needed = place.stamps[-1] - int(self.history * 1e9)
        if self._pending:  # what an anchor that still waits may be paired with is not forgotten
            needed = min(needed, min(anchor.stamp for _, anchor in self._pending) - int(self.window * 1e9))
        oldest = bisect.bisect_left(place.stamps, needed)
        aged = min([now, *(anchor.received for _, anchor in self._pending)]) - self.history - self.wait
        # Stamps that stand still would never age.
        while oldest < len(place.items) and place.items[oldest].received < aged:
            oldest += 1
        oldest = min(oldest, len(place.items) - 1)
        excess = _excess(place.items, self.capacity, self.memory)
        place.crowded = excess > oldest
        if place.crowded:
            self._hurry(lambda anchor: place.loses(anchor.stamp, self.window, excess))
        if oldest := max(oldest, excess):
            place.forget(oldest)
        if place.past:
            past = [item for item in place.past if item.received >= aged]
            excess = _excess(past, self.capacity, self.memory)
            if excess:
                self._hurry(lambda anchor: anchor.received < place.jumped)
            place.past = past[excess:]

    def _hurry(self, loses: Callable[[Item], bool]) -> None:
        """Settle the anchors that are about to lose a picture, and for the sake of order those before them."""
        last = max((number for number, (_, anchor) in enumerate(self._pending, 1) if loses(anchor)), default=0)
        for _ in range(last):
            group = self._settle(*self._pending.popleft(), math.inf)
            assert group is not None, "none waits so long"
            self._hurried.append(group)

    @property
    def kept(self) -> str:
        """In words, which pictures are kept for requests to come, and what to do where one was not."""
        if any(place.crowded for place in self._streams.values()):
            return f"{self.most}; send fewer or smaller pictures, or regions sooner"
        return f"pictures are kept for history = {self.history:g} s; raise history"

    @property
    def most(self) -> str:
        """In words, for how many pictures there is room."""
        return f"no more than the newest {self.capacity} are kept, nor more than {self.memory / (1 << 30):.3g} GB"

    def clear(self) -> None:
        """Drop all messages, those that wait among them; the counters stay."""
        self._streams.clear()
        self._pending.clear()
        self._hurried.clear()

    def ready(self, now: float) -> list[Group]:
        """Anchors whose partners are settled, in order of arrival; none overtakes an earlier one."""
        groups, self._hurried = self._hurried, []
        while self._pending:
            stream, anchor = self._pending[0]
            group = self._settle(stream, anchor, now)
            if group is None:
                break
            self._pending.popleft()
            groups.append(group)
        return groups

    @property
    def waiting(self) -> bool:
        """Whether any anchor has not been given out yet."""
        return bool(self._pending or self._hurried)

    def deadline(self) -> float | None:
        """When the first waiting anchor will be given out at the latest, seconds; None: none waits."""
        if self._hurried:
            return -math.inf
        return self._pending[0][1].received + self.wait if self._pending else None

    def newest(self, stream: str) -> Item | None:
        """The message of a stream with the latest stamp."""
        items = self._streams.get(stream, _Stream()).items
        return items[-1] if items else None

    def newest_together(self, streams: Sequence[str]) -> dict[str, Item]:
        """The newest messages of several streams that belong together; empty where there are none.

        Of the first stream none is taken that lies farther than ``wait`` behind its newest.
        """
        first, *others = (self._streams.get(name, _Stream()) for name in streams)
        for item in reversed(first.items):
            if item.stamp < first.stamps[-1] - self.wait * 1e9:
                break
            found = [(other, nearest(other.stamps, item.stamp)) for other in others]
            partners = [other.items[place] for other, place in found if place is not None]
            if len(partners) == len(others) and all(
                abs(partner.stamp - item.stamp) <= self.window * 1e9 for partner in partners
            ):
                return dict(zip(streams, (item, *partners), strict=True))
        return {}

    def _settle(self, stream: str, anchor: Item, now: float) -> Group | None:
        partners: dict[str, Item] = {}
        gap = late = None
        slow = hurried = False
        wanted = [name for name in self._partners if name != stream]
        for name in wanted:
            place = self._streams.get(name, _Stream())
            found, distance = place.find(anchor.stamp, self.window)
            settled = found is not None and (distance == 0 or self._passed(place, stream, anchor, distance))
            if not settled and name in self._awaited:
                if now < anchor.received + self.wait:
                    return None
                hurried |= now == math.inf
            if found is None:
                continue
            if anchor.stamp:
                counters = self.counters
                counters.gaps[name] = min(distance, counters.gaps.get(name, distance))
                counters.smallest_gap = min(distance, distance if (least := counters.smallest_gap) is None else least)
            if distance <= self.window:
                partners[name] = found
                continue
            gap = distance if gap is None else min(gap, distance)
            # A picture that is yet to come may be nearer than what has come; an hour off it is of another clock.
            slow |= (
                not hurried and name in self._awaited and place.latest < anchor.stamp and distance <= self._slowest()
            )
            if place.forgot(anchor.stamp, self.window):
                late = max(late or 0.0, (place.latest - anchor.stamp) / 1e9)
        current = any(self._streams[name].latest - anchor.stamp < self.history / 2 * 1e9 for name in partners)
        if current or stream in self._partners:
            late = None  # a request that is late is late for all pictures, and a picture asks for none of long ago
        self._count(stream, wanted, partners, hurried)
        if gap is not None:
            self.counters.late, self.counters.slow = late, slow
        return Group(stream, anchor, partners, gap, late, slow, hurried)

    def _slowest(self) -> float:
        """How far, in seconds, what comes late by its delivery may lie behind when the wait is over."""
        return min(max(FEW_WAITS * self.wait, LEAST_SLOW_S), SLOWEST_S - self.wait)

    def _passed(self, place: _Stream, stream: str, anchor: Item, distance: float) -> bool:
        """Whether no nearer partner than the one found can come, as its stream is further than the anchor."""
        within, own = distance <= self.window, self._streams[stream]
        if anchor.stamp > place.latest + JUMP_NS:  # the anchor is of before the jump, and so is its partner
            return within and bool(place.past)
        # Just after its own stream has jumped an anchor seems to be long past to a stream that is about to follow.
        follows = place.jumped < own.jumped <= anchor.received < own.jumped + self.wait
        return place.latest > anchor.stamp and (within or not follows)

    def _count(self, stream: str, wanted: list[str], partners: Mapping[str, Item], hurried: bool) -> None:
        if len(partners) == len(wanted):
            self.counters.paired += 1
        elif partners or stream in self._partners:
            self.counters.one_sided += 1
        else:
            self.counters.unpaired += 1
        if hurried:
            self.counters.hurried += 1
            if max(self.counters.gaps.values(), default=0.0) <= SLOWEST_S:
                return  # whether its partner would have come nobody knows; one of another clock would not have
        missing = [name for name in wanted if name in self._awaited and name not in partners]
        self.counters.lonely = self.counters.lonely + 1 if missing else 0
        if not missing:
            self.counters.gaps.clear()
