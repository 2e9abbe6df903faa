"""Whether a sensor is alive, how fast it is, and what the stages of the work cost; free of rclpy and of clocks."""

from __future__ import annotations

import enum
import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

__all__ = ["Health", "Latencies", "Rate", "State", "choose", "percentiles"]


class State(enum.IntEnum):
    """The state of a sensor; the constants of ``mmcl_ros/msg/ModalityHealth``."""

    OFF = 0
    NO_PUBLISHER = 1
    MISMATCH = 2
    SILENT = 3
    ALIVE = 4
    STALE = 5
    RECOVERING = 6
    BAD_PICTURES = 7
    UNREGISTERED = 8


class Rate:
    """Events per second over a sliding window."""

    def __init__(self, seconds: float = 3.0) -> None:
        self._seconds = seconds
        self._times: deque[float] = deque(maxlen=1000)

    def tick(self, now: float) -> None:
        """Count one event."""
        self._times.append(now)

    def value(self, now: float) -> float:
        """Events per second; 0 when there were fewer than two in the window."""
        while self._times and not 0 <= now - self._times[0] <= self._seconds:
            self._times.popleft()
        if len(self._times) < 2 or now <= self._times[0]:
            return 0.0
        return (len(self._times) - 1) / max(now - self._times[0], 1e-9)


@dataclass
class Health:
    """What is known about one picture stream.

    Attributes:
        stale_after: seconds without a picture after which the sensor counts as lost.
        recover_after: seconds for which pictures have to come again before it is trusted again.
        faults: how many answers in a row have found fault with its picture, up to now.
    """

    stale_after: float = 0.5
    recover_after: float = 1.0
    received: int = 0
    malformed: int = 0
    encoding: str = ""
    link: tuple[State, str] = (State.NO_PUBLISHER, "")
    faults: int = 0
    last: float | None = None
    rate: Rate = field(default_factory=Rate)
    _stretch: float | None = None
    _delays: deque[float] = field(default_factory=lambda: deque(maxlen=100))
    _problem: tuple[State, str] | None = None

    @property
    def problem(self) -> tuple[State, str] | None:
        """What the last answer that was to stand on its picture found wrong with it: state and words; None: nothing.

        To be set once for each such answer.
        """
        return self._problem

    @problem.setter
    def problem(self, problem: tuple[State, str] | None) -> None:
        self._problem = problem
        self.faults = self.faults + 1 if problem else 0

    def observe(self, now: float, delay: float | None = None) -> None:
        """A picture was received; ``delay`` is the time since its stamp in seconds, where that is known."""
        self._follow(now)
        if self.last is not None and now - self.last > self.stale_after:
            self._stretch = now
        self.last = now
        self.received += 1
        self.rate.tick(now)
        if delay is not None:
            self._delays.append(delay)

    def forget(self) -> None:
        """Take the picture that comes next for the first one; counters stay."""
        self.last = self._stretch = None

    def age(self, now: float) -> float | None:
        """Seconds since the last picture, None before the first; after a jump back of the clock, since that jump."""
        self._follow(now)
        return None if self.last is None else now - self.last

    def _follow(self, now: float) -> None:
        """A clock that has jumped back (a simulation that starts over) tells no age: count from here.

        A step back that is shorter than ``stale_after``, as of two who publish it, is no break of the pictures.
        """
        if self.last is not None and now < self.last:
            self._stretch = now if self.last - now > self.stale_after else self._stretch
            self.last = now

    def delay(self) -> float | None:
        """Median time from stamp to receipt in seconds."""
        return statistics.median(self._delays) if self._delays else None

    def flow(self, now: float) -> State:
        """Whether pictures come: SILENT, ALIVE, STALE or RECOVERING."""
        age = self.age(now)
        if age is None:
            return State.SILENT
        if age > self.stale_after:
            return State.STALE
        if self._stretch is not None and now - self._stretch < self.recover_after:
            return State.RECOVERING
        return State.ALIVE

    def state(self, now: float) -> tuple[State, str]:
        """The state to report, and in words what is wrong."""
        flow = self.flow(now)
        lost = flow in (State.SILENT, State.STALE) or self.link[1]  # by a clock that stands still nothing grows stale
        if lost and self.link[0] is not State.ALIVE:
            return self.link
        if flow is State.SILENT:
            return flow, "a publisher is there but has sent no picture yet"
        if flow is State.STALE:
            return flow, f"no picture for {self.age(now):.1f} s"
        if self.problem:
            return self.problem
        if flow is State.RECOVERING:
            return flow, f"pictures come again; trusted after {self.recover_after:g} s without a break"
        return flow, ""


def choose(flows: dict[str, State]) -> list[str]:
    """The modalities to answer from, of those wanted: the alive ones, failing these the recovering ones.

    Args:
        flows: flow state by wanted modality, in order of preference.
    """
    for state in (State.ALIVE, State.RECOVERING):
        found = [name for name, flow in flows.items() if flow is state]
        if found:
            return found
    return []


class Latencies:
    """The time spent per stage on the last frames."""

    def __init__(self, frames: int = 1000) -> None:
        self._seconds: dict[str, deque[float]] = {}
        self._frames = frames

    def add(self, stage: str, seconds: float) -> None:
        """Note the time one frame spent in a stage."""
        self._seconds.setdefault(stage, deque(maxlen=self._frames)).append(seconds)

    def seconds(self) -> dict[str, list[float]]:
        """A copy of the times, by stage."""
        return {stage: list(values) for stage, values in self._seconds.items()}


def percentiles(seconds: Mapping[str, Sequence[float]]) -> dict[str, tuple[float, float, float]]:
    """By stage, the 50th, 90th and 99th percentile in milliseconds, linear between neighbours."""
    table = {}
    for stage, values in seconds.items():
        ordered = np.sort(values) * 1e3
        # np.percentile gives the same in ten times the time, and the node does this every second.
        places = np.array([0.5, 0.9, 0.99]) * (len(ordered) - 1)
        p50, p90, p99 = np.interp(places, np.arange(len(ordered)), ordered)
        table[stage] = (float(p50), float(p90), float(p99))
    return table
