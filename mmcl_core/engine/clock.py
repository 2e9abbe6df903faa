"""How fast training is, and how long it waits for data."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NamedTuple, TypeVar

import torch

__all__ = ["Clock", "Reading"]

T = TypeVar("T")


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
