"""The complete jobs that wait for the network: bounded in number, and in the memory that their pictures take."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence

from mmcl_ros.intake import Job
from mmcl_ros.pairing import MEMORY

__all__ = ["Backlog"]


class Backlog:
    """A queue whose oldest jobs are dropped where there is no room; the newest one always has some.

    Args:
        limit: most jobs.
        bursts: let as many more wait as have become complete at once, as they do when no sensor is waited for any
            more: that is no sign of work that is too slow.
        memory: most bytes of their pictures, in bursts, too; one that several jobs share counts once.

    Attributes:
        held: bytes of their pictures.
        why: in words what there was too much of when one was dropped last.
    """

    def __init__(self, limit: int, bursts: bool = False, memory: int = MEMORY) -> None:
        self._limit, self._bursts, self._memory = limit, bursts, memory
        self._at_once = 0  # how many more than one, since the queue was within its limit
        self._jobs: deque[Job] = deque()
        self._users: Counter[int] = Counter()  # of each picture, by the identity of its message
        self.held = 0
        self.why = "the queue is full"

    def __len__(self) -> int:
        return len(self._jobs)

    def __iter__(self) -> Iterator[Job]:
        return iter(self._jobs)

    def put(self, jobs: Sequence[Job]) -> int:
        """Append what has become complete at one moment; how many jobs were dropped for it, new ones among them."""
        more = len(jobs) - 1 if self._bursts else 0
        self._at_once = max(0, more, self._at_once if len(self) > self._limit else 0)
        for job in jobs:
            self._jobs.append(job)
            for message in job.pictures.values():
                self.held += 0 if self._users[id(message)] else len(message.data)
                self._users[id(message)] += 1
        dropped = 0
        while len(self) > 1 and (len(self) > self._limit + self._at_once or self.held > self._memory):
            self.why = "the queue is full"
            if self.held > self._memory:
                self.why = f"the queue holds {self._memory / (1 << 30):.3g} GB of pictures, the most there may be"
            self.take()
            dropped += 1
        return dropped

    def take(self) -> Job:
        """The oldest job, which waits no more; there has to be one."""
        job = self._jobs.popleft()
        for message in job.pictures.values():
            self._users[id(message)] -= 1
            if not self._users[id(message)]:
                del self._users[id(message)]
                self.held -= len(message.data)
        return job

    def clear(self) -> None:
        """Let go of all jobs."""
        self._jobs.clear()
        self._users.clear()
        self.held = self._at_once = 0
