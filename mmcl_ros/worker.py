"""The one thread that recognises: takes complete jobs from the intake, the newest only or every one in order."""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mmcl_ros.backlog import Backlog
from mmcl_ros.detections import Request
from mmcl_ros.intake import Intake, Job

__all__ = ["Single", "Worker"]

logger = logging.getLogger(__name__)

IDLE_S = 0.5


@dataclass
class Single:
    """A request for one answer from the newest pictures; ``done`` is called with the answer, or None in the end."""

    request: Request | None
    deadline: float
    done: Callable[[Any], None]


class Worker(threading.Thread):
    """Works off jobs until :meth:`stop`.

    Args:
        intake: where jobs come from.
        changed: condition that guards the intake; see :meth:`wake`.
        process: called with each job, outside the lock.
        lost: called with a job on which ``process`` has raised, and what it raised; whoever waits for it is told here.
        every: answer all jobs in order; otherwise only the newest one that is complete.
        queue: most jobs that wait under ``every``; see :class:`mmcl_ros.backlog.Backlog`.
        running: whether answers can still be sent; told to end, a process cannot, and that is no fault.

    Attributes:
        enabled: whether jobs are worked on that nobody has asked for by :meth:`ask`.
        dropped: jobs that were overtaken, or beyond the queue.
        failure: in words what has ended the thread before its time; empty: nothing.
    """

    def __init__(
        self,
        intake: Intake,
        changed: threading.Condition,
        process: Callable[[Job], None],
        lost: Callable[[Job, Exception], None],
        every: bool,
        queue: int,
        running: Callable[[], bool],
    ) -> None:
        super().__init__(name="recognizer", daemon=True)
        self._intake, self._changed, self._process, self._lost = intake, changed, process, lost
        self._running = running
        self._known: set[tuple[object, ...]] = set()  # errors whose place was shown
        self._jobs = Backlog(queue, bursts=True) if every else Backlog(1)
        self._singles: deque[Single] = deque()
        self._was_single = False  # the last job; jobs of the topics take turns with those that were asked for
        self._stopped = False
        self.enabled = True
        self.failure = ""
        self.dropped = self._overtaken = 0  # the latter are counted when the thread is done with what it works on
        self._began: float | None = None  # to work on a job

    @property
    def busy(self) -> float:
        """For how long it has been at work on one job, seconds; 0: it waits for one."""
        return 0.0 if (began := self._began) is None else time.monotonic() - began

    @property
    def full(self) -> str:
        """In words, what there was too much of when a job was dropped last."""
        return self._jobs.why

    def wake(self) -> None:
        """Have the thread look at the intake if anything waits there; the caller holds the lock.

        While the thread is at work, which may be for long, what is complete is taken from the intake here: whatever
        waits there keeps all its pictures. Nothing is to wait for a thread that has ended.
        """
        if self._stopped:
            self._intake.pairer.clear()
        elif self._began is not None:
            self._collect(time.monotonic())
        elif self._singles or self._intake.pairer.waiting:
            self._changed.notify()

    def ask(self, single: Single) -> None:
        """Have the newest pictures recognised, enabled or not; once stopped, there is no answer."""
        with self._changed:
            if not self._stopped:
                self._singles.append(single)
                self._changed.notify()
                return
        single.done(None)

    def stop(self) -> None:
        """End the thread after the job it is working on; requests for single answers end without one."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        if self.is_alive():  # else it was never started
            self.join()
        self._give_up()

    def _give_up(self) -> None:
        while self._singles:
            self._singles.popleft().done(None)

    def run(self) -> None:
        """Wait for jobs and process them."""
        try:
            self._work()
        except Exception as error:  # in what surrounds the work on a job; nobody answers any more, which is to be said
            self.failure = f"{type(error).__name__}: {error}"
            self.note("the thread that recognises has ended", error)
            with self._changed:
                self._stopped = True
            self._give_up()

    def _work(self) -> None:
        while True:
            job = None
            with self._changed:
                self._began = None
                while job is None and not self._stopped:  # a job that was taken is worked on, though the end comes now
                    job = self._next()
                    if job is None:
                        self._changed.wait(self._timeout())
                self._began = None if job is None else time.monotonic()
            if job is None:
                return
            try:
                self._process(job)
            except Exception as error:  # a defect must not end the thread and leave the robot without answers
                self._lose(job, error)
                if job.done is not None:  # somebody waits for it
                    job.done(None)

    def _lose(self, job: Job, error: Exception) -> None:
        self.note("an answer was lost", error)
        if not self._running():
            return
        try:
            self._lost(job, error)
        except Exception as another:
            self.note("a lost answer could not be told", another)

    def note(self, words: str, error: Exception) -> None:
        """Log an error with its place; at DEBUG only where the same was said before, or when told to end."""
        places = [(frame.f_code.co_filename, line) for frame, line in traceback.walk_tb(error.__traceback__)]
        key = (words, type(error), *places[-1:])
        new = self._running() and key not in self._known  # the same defect may come with every picture
        logger.log(logging.ERROR if new else logging.DEBUG, "%s", words, exc_info=error)
        if new:
            self._known.add(key)

    def _collect(self, now: float) -> None:
        """Take the jobs that are complete, as many as may wait."""
        found = self._intake.jobs(now)
        if self.enabled:
            self._overtaken += self._jobs.put(found)
        else:
            self._jobs.clear()

    def _next(self) -> Job | None:
        now = time.monotonic()
        self._collect(now)
        self.dropped, self._overtaken = self.dropped + self._overtaken, 0
        waiting = [] if self._jobs and self._was_single else list(self._singles)
        self._was_single = False
        for single in waiting:
            job = self._intake.single(single.request, now)
            if job is not None or now >= single.deadline:
                self._singles.remove(single)
                if job is None:
                    single.done(None)
                else:
                    job.done = single.done
                    self._was_single = True
                    return job
        return self._jobs.take() if self._jobs else None

    def _timeout(self) -> float:
        ends = [single.deadline for single in self._singles]
        deadline = self._intake.pairer.deadline()
        if deadline is not None:
            ends.append(deadline)
        return min(IDLE_S, max(0.001, min(ends) - time.monotonic())) if ends else IDLE_S
