"""What the processes of a run cost: the lines of its ``sweep.jsonl``, of which the last one of each process counts.

===============  ===================================================================================================
``process``      name of the process; a line without one stands for itself
``status``       exit status, negative for a signal; ``null`` as long as the process goes on
``seconds``      wall-clock time that it has worked
``waited``       seconds that it has waited for another process of the same run, which are not in ``seconds``
``waiting``      whether it waits at present
``cpu_seconds``  processor time of the process and of the processes that it started
``device``       what it trains on, shared by ``share`` processes of the sweep
===============  ===================================================================================================

The process of a run writes a line when it starts, when it begins to wait, and while it works every ``EVERY_S`` seconds
or every ``SHARE`` of its time, whichever is longer; the sweep writes the last one. A process that was killed, be it
together with the sweep or the machine, thus keeps what it cost until its last line. All processes of a run count, also
for work that was lost and done once more. What does not count:

* what a process that was killed together with its sweep did after its last line;
* what processes that it had started did after its last line where it was killed before them, and that of any where
  there is no ``/proc``, as long as their parent has not waited for their end;
* a training outside of a sweep in the same folder.
"""

from __future__ import annotations

import json
import os
import resource
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from mmcl_core.settings import is_number

__all__ = ["FILE", "Meter", "family_seconds", "read_costs", "write_end"]

FILE = "sweep.jsonl"
#: Seconds, and share of the time so far, from one line of a process that works to its next.
EVERY_S, SHARE = 5.0, 0.02

_NUMBERS = ("seconds", "cpu_seconds", "share")


def read_costs(folder: Path) -> list[dict[str, Any]]:
    """What each process of a run cost so far, the one that wrote last at the end; see the module for the keys.

    Lines that were cut off or edited are left out.

    Args:
        folder: of the run.
    """
    try:
        lines = (folder / FILE).read_bytes().splitlines()
    except FileNotFoundError:
        return []
    found: dict[object, dict[str, Any]] = {}
    for number, line in enumerate(lines):
        record: Any = None
        with suppress(ValueError):
            record = json.loads(line)
        if not isinstance(record, dict) or not _is_whole(record):
            continue
        name = record.get("process")
        key = name if isinstance(name, str) else number
        found.pop(key, None)  # to the end
        found[key] = record
    return list(found.values())


def write_end(folder: Path, facts: Mapping[str, Any], status: int, seconds: float, cpu_seconds: float) -> float:
    """Write the last line of a process that has ended.

    Args:
        folder: of the run.
        facts: ``process``, ``device`` and ``share``.
        status: exit status.
        seconds: from its start to its end.
        cpu_seconds: of it and of the processes whose end it has waited for. Its own last line tells of others, too.

    Returns:
        The seconds that it has worked.
    """
    own = next((record for record in read_costs(folder) if record.get("process") == facts["process"]), None)
    waited = 0.0
    if own is not None:
        cpu_seconds = max(cpu_seconds, own["cpu_seconds"])
        waited = max(0.0, seconds - own["seconds"]) if own["waiting"] else own["waited"]
    with suppress(OSError):  # the folder has been removed, or the disk is full: the other runs go on
        _write(folder, facts, status, seconds - waited, waited, False, cpu_seconds)
    return seconds - waited


class Meter:
    """Writes down what this process costs; as a context manager at once, now and then, and once more at the end.

    Args:
        folder: of the run, which exists.
        facts: ``process``, ``device`` and ``share``, given by the sweep.

    Attributes:
        status: what the process is about to end with, once that is known.
    """

    def __init__(self, folder: Path, facts: Mapping[str, Any]) -> None:
        self.status: int | None = None
        self._folder, self._facts = folder, facts
        self._begun, self._waited, self._cpu_seconds = time.monotonic(), 0.0, 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._go_on, name="sweep-meter", daemon=True)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The time in a ``with`` block does not count."""
        since = time.monotonic()
        self.write(waiting=True)
        try:
            yield
        finally:
            self._waited += time.monotonic() - since

    def write(self, waiting: bool = False) -> None:
        """Write a line. A disk that is full loses it, and nothing else."""
        seconds = time.monotonic() - self._begun - self._waited
        # Not less than before: of processes that have ended, and that nobody waited for, nothing is known any more.
        self._cpu_seconds = max(self._cpu_seconds, family_seconds())
        with suppress(OSError):
            _write(self._folder, self._facts, self.status, seconds, self._waited, waiting, self._cpu_seconds)

    def __enter__(self) -> Meter:
        self.write()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()
        self.write()

    def _go_on(self) -> None:
        while not self._over.wait(max(EVERY_S, SHARE * (time.monotonic() - self._begun - self._waited))):
            self.write()


def family_seconds() -> float:
    """Processor time of this process and of all that it started, directly or not, and that its parent still knows."""
    ended = sum(sum(resource.getrusage(who)[:2]) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    children: dict[int, list[tuple[int, float]]] = {}
    for place in Path("/proc").glob("[0-9]*"):
        with suppress(OSError, ValueError, IndexError):  # it has ended meanwhile
            # After the name, which may hold anything: state, parent, ... and from the 12th on four kinds of ticks.
            fields = (place / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
            ticks = sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
            children.setdefault(int(fields[1]), []).append((int(place.name), ticks))
    alive, left = 0.0, [os.getpid()]
    while left:
        for child, seconds in children.get(left.pop(), ()):
            alive += seconds
            left.append(child)
    return ended + alive


def _write(
    folder: Path,
    facts: Mapping[str, Any],
    status: int | None,
    seconds: float,
    waited: float,
    waiting: bool,
    cpu_seconds: float,
) -> None:
    line = {
        "written": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "status": status,
        "seconds": round(seconds, 3),
        "waited": round(waited, 3),
        "waiting": waiting,
        "cpu_seconds": round(cpu_seconds, 3),
        **facts,
    }
    with (folder / FILE).open("ab", buffering=0) as file:  # one write, which those of others do not come between
        file.write(json.dumps(line).encode() + b"\n")


def _is_whole(record: Mapping[str, Any]) -> bool:
    ended = "process" not in record
    return (
        all(is_number(record.get(name)) for name in _NUMBERS)
        and (is_number(record.get("status")) or (not ended and record.get("status", 0) is None))
        and (ended or (is_number(record.get("waited")) and isinstance(record.get("waiting"), bool)))
    )
