"""How fast training is, how long it waits for data, and who else uses the processor."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

import torch

from mmcl_core.words import counted

__all__ = ["Clock", "Neighbours", "Reading", "Usage", "processor_usage"]

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds that other programs are watched for at a time, and how often in a row they have to be in the way.
WATCHED_S, IN_A_ROW = 5.0, 2


class Reading(NamedTuple):
    """What a clock says: ``seconds`` since its start, and the share of them spent waiting for data, 0..1."""

    seconds: float
    data_wait: float


class Clock:
    """Time since it was started last.

    The host of a GPU is far ahead of it, and waits for batches without any harm. What counts there is how long the GPU
    has nothing to do: from the end of what was started before a batch came to the start of what follows.

    Args:
        device: what trains.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self.start()

    def start(self) -> None:
        """Begin at zero."""
        self._since, self._waited = time.perf_counter(), 0.0
        self._events: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def take(self, batches: Iterator[T]) -> T:
        """The next batch; until it comes is time waited."""
        if self._device.type == "cuda":
            before, after = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            before.record(torch.cuda.current_stream(self._device))
            batch = next(batches)
            after.record(torch.cuda.current_stream(self._device))
            self._events.append((before, after))
            return batch
        start = time.perf_counter()
        batch = next(batches)
        self._waited += time.perf_counter() - start
        return batch

    def read(self) -> Reading:
        """The time since the start. A GPU must have done all it was told (:func:`torch.cuda.synchronize`)."""
        seconds = time.perf_counter() - self._since
        waited = self._waited + sum(before.elapsed_time(after) for before, after in self._events) / 1000
        return Reading(seconds, waited / seconds)


class Usage(NamedTuple):
    """Seconds of processor time since some start: of all programs, of this one; and the clock's ``now``."""

    all: float
    own: float
    now: float


def processor_usage() -> Usage | None:
    """What the processor has done so far; ``None`` where the system does not tell (Linux does)."""
    try:
        fields = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()
        ticks = [int(field) for field in fields[1:8]]
    except (OSError, ValueError):
        return None
    user, nice, system, _idle, _waiting, interrupts, soft_interrupts = ticks
    own = os.times()
    busy = (user + nice + system + interrupts + soft_interrupts) / os.sysconf("SC_CLK_TCK")
    return Usage(busy, own.user + own.system, time.perf_counter())


class Neighbours:
    """Warns once where other programs use the cores that the threads of this one run on.

    The threads of an operation wait for the last of them, spinning: one that is not given its core holds up all the
    others, and two threads beside one busy program are several times slower than one.

    Args:
        threads: of this program.
    """

    def __init__(self, threads: int) -> None:
        self._threads, self._cores = threads, os.cpu_count() or 1
        self._last, self._row = processor_usage(), 0

    def look(self) -> None:
        """Called now and then."""
        now = processor_usage()
        if now is None or self._last is None or now.now - self._last.now < WATCHED_S:
            return
        others = (now.all - self._last.all - (now.own - self._last.own)) / (now.now - self._last.now)
        self._last = now
        fewer = max(1, int(self._cores - others + 0.25))
        self._row = self._row + 1 if others >= 0.5 and fewer < self._threads else 0
        if self._row == IN_A_ROW:
            self._last = None  # said once
            logger.warning(
                "other programs take %.1f of %s while training uses %d threads, which wait for one "
                "another; train.threads=%d may be much faster",
                others,
                counted(self._cores, "processor core"),
                self._threads,
                fewer,
            )
