"""The worker alone, without ROS: whoever waits for a single answer is told, whenever the end comes."""

import threading
import time
from types import SimpleNamespace

from mmcl_ros.intake import Job
from mmcl_ros.worker import Single, Worker


class Answers:
    """Takes what a single request ends with."""

    def __init__(self):
        self.given = []

    def single(self):
        return Single(None, time.monotonic() + 60, self.given.append)


def made(process):
    """A worker whose intake has a picture for every single request."""
    pairer = SimpleNamespace(waiting=False, deadline=lambda: None)
    intake = SimpleNamespace(
        pairer=pairer, jobs=lambda now: [], single=lambda request, now: Job(request, None, {}, {}, now)
    )
    return Worker(intake, threading.Condition(), process, every=False, queue=1, running=lambda: True)


def test_a_single_request_that_still_waits_when_the_worker_ends_is_told():
    first, second, late = Answers(), Answers(), Answers()

    def process(job):
        """As the first is worked on, the second is asked for and the end is called for."""
        worker.ask(second.single())
        ending.start()
        while not worker._stopped:
            time.sleep(0.001)
        job.done("answer")

    worker = made(process)
    ending = threading.Thread(target=worker.stop)
    worker.ask(first.single())
    worker.start()
    worker.join(10)
    ending.join(10)
    worker.ask(late.single())
    assert first.given == ["answer"]
    assert second.given == [None]
    assert late.given == [None]
