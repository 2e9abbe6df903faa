"""The worker alone, without ROS: whoever waits for a single answer is told, and no job is lost without a word."""

import logging
import threading
import time
from types import SimpleNamespace

import pytest
from ros_fakes import Robot

from mmcl_ros.intake import Job
from mmcl_ros.ledger import find_problems
from mmcl_ros.worker import IDLE_S, Single, Worker


class Answers:
    """Takes what a single request ends with."""

    def __init__(self):
        self.given = []

    def single(self):
        return Single(None, time.monotonic() + 60, self.given.append)


def made(process, lost=None, running=True, jobs=()):
    """A worker whose intake has some jobs, and a picture for every single request."""
    pairer = SimpleNamespace(waiting=False, deadline=lambda: None)
    left = list(jobs)
    intake = SimpleNamespace(
        pairer=pairer,
        jobs=lambda now: [left.pop(0)] if left else [],
        single=lambda request, now: Job(request, None, {}, {}, now),
    )
    return Worker(intake, threading.Condition(), process, lost, every=False, queue=1, running=lambda: running)


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


@pytest.mark.parametrize("running", [True, False])
def test_a_job_that_raises_is_told_and_the_next_one_is_worked_on(caplog, running):
    """Told to end, a process cannot answer any more, and that is no fault. The place is shown once for all."""
    told = []

    def process(job):
        if job.header == 3:
            worker._stopped = True
        raise MemoryError(f"at {job.header}")

    def lost(job, error):
        told.append((job.header, str(error)))
        raise RuntimeError("nor can that be said")

    worker = made(process, lost, running, [Job(None, number, {}, {}, 0.0) for number in range(4)])
    with caplog.at_level(logging.INFO, "mmcl_ros"):
        worker.run()
    assert told == ([(number, f"at {number}") for number in range(4)] if running else [])
    assert [record.exc_info[0] for record in caplog.records] == ([MemoryError, RuntimeError] if running else [])
    assert {record.levelname for record in caplog.records} <= {"ERROR"}


def test_errors_of_one_type_from_different_places_are_both_shown(caplog):
    def process(job):
        if job.header == 4:
            worker._stopped = True
        if job.header % 2:
            raise AttributeError("one defect")
        raise AttributeError("another one")

    worker = made(process, lambda job, error: None, jobs=[Job(None, number, {}, {}, 0.0) for number in range(5)])
    with caplog.at_level(logging.INFO, "mmcl_ros"):
        worker.run()
    assert [str(record.exc_info[1]) for record in caplog.records] == ["another one", "one defect"]


def test_a_worker_that_was_never_started_can_be_stopped():
    answers = Answers()
    worker = made(None)
    worker.ask(answers.single())
    worker.stop()
    assert answers.given == [None]


@pytest.mark.parametrize(("every", "answers"), [(True, [0, 8, 9, 10]), (False, [0, 10])])
def test_of_requests_that_came_meanwhile_the_newest_are_answered_and_the_others_counted(every, answers):
    """While the first one is worked on ten more come; the queue of the policy every holds three."""
    robot, changed = Robot("rgb", wanted=("rgb",)), threading.Condition()
    robot.collect = lambda: None  # left to the worker
    begun, gate, answered = threading.Event(), threading.Event(), []

    def process(job):
        answered.append(job.header.stamp.sec - 1000)
        begun.set()
        gate.wait(10)

    def come(*numbers):
        for number in numbers:
            with changed:
                robot.send("rgb", stamp=(1000 + number) * 10**9)
                worker.wake()

    worker = Worker(robot.intake, changed, process, None, every, queue=3, running=lambda: True)
    worker.start()
    come(0)
    assert begun.wait(10)
    come(*range(1, 11))
    gate.set()
    end = time.monotonic() + 10
    while len(answered) < len(answers) and time.monotonic() < end:
        time.sleep(0.001)
    worker.stop()
    assert answered == answers
    assert worker.dropped == 11 - len(answers)
    words = f"{worker.dropped} requests dropped since the last report: the queue is full"
    assert find_problems(robot.intake, {}, worker.dropped)["queue full"].startswith(words)
    assert "queue full" not in find_problems(robot.intake, {})


@pytest.mark.parametrize("every", [True, False])
def test_no_more_pictures_are_kept_for_as_long_as_the_work_on_one_takes(every):
    """The network may be busy for seconds, with hundreds of regions or at its start; a picture can be 25 MB."""
    robot, changed = Robot("rgb", wanted=("rgb",)), threading.Condition()
    robot.collect = lambda: None  # left to the worker
    begun, gate = threading.Event(), threading.Event()

    def process(job):
        begun.set()
        gate.wait(10)

    worker = Worker(robot.intake, changed, process, None, every, queue=3, running=lambda: True)
    worker.start()
    kept = []
    for number in range(60):
        with changed:
            robot.send("rgb", stamp=(1000 + number) * 10**9)
            worker.wake()
            kept.append(len(robot.intake.pairer._streams["rgb"].items) + len(robot.intake.pairer._pending))
        assert begun.wait(10)
    with changed:
        jobs = len(worker._jobs)
    gate.set()
    worker.stop()
    assert max(kept) <= 3, "the pictures of the last second, which is what history says"
    assert jobs == (3 if every else 1)


def test_jobs_that_become_complete_at_once_are_no_sign_of_slow_work():
    """As when a sensor has been waited for, for five seconds of thirty pictures each, and is given up."""
    found = []
    pairer = SimpleNamespace(waiting=False, deadline=lambda: None)
    intake = SimpleNamespace(pairer=pairer, jobs=lambda now: found.pop(0) if found else [])
    worker = Worker(intake, threading.Condition(), None, None, every=True, queue=3, running=lambda: True)

    def come(count):
        found.append([Job(None, None, {}, {}, 0.0)] * count)
        worker._collect(0.0)
        return len(worker._jobs), worker.dropped + worker._overtaken

    assert come(10) == (10, 0)
    assert [come(1) for _ in range(4)] == [(11, 0), (12, 0), (12, 1), (12, 2)], "no faster than one is worked off"
    while len(worker._jobs) > 3:
        assert worker._next() is not None
    assert [come(1) for _ in range(2)] == [(3, 3), (3, 4)], "as before"
    assert come(2) == (4, 5)


def test_a_thread_that_ends_before_its_time_says_so_and_leaves_nobody_waiting(caplog):
    """A defect in what gives it work: nothing is answered any more, and no request hangs."""

    def broken(now):
        raise RuntimeError("no jobs")

    worker, first, late = made(None), Answers(), Answers()
    worker._intake.jobs = broken
    worker.ask(first.single())
    worker.start()
    worker.join(10)
    worker.ask(late.single())
    assert (first.given, late.given) == ([None], [None])
    assert worker.failure == "RuntimeError: no jobs"
    assert "the thread that recognises has ended" in caplog.text
    worker.stop()


def test_those_who_ask_all_the_time_leave_the_topics_their_turn():
    worked = []

    def process(job):
        worked.append("asked" if job.done else "topic")
        if job.done:
            job.done("answer")
            if len(worked) < 12:
                worker.ask(Answers().single())

    worker = made(process, jobs=[Job(None, None, {}, {}, 0.0) for _ in range(20)])
    for _ in range(3):
        worker.ask(Answers().single())
    worker.start()
    end = time.monotonic() + 10
    while len(worked) < 12 and time.monotonic() < end:
        time.sleep(0.001)
    worker.stop()
    assert worked[:8] == ["asked", "topic"] * 4


def test_what_came_while_answers_were_not_wanted_is_not_answered_later():
    robot, changed, answered = Robot("rgb", wanted=("rgb",)), threading.Condition(), []
    robot.collect = lambda: None  # left to the worker
    worker = Worker(robot.intake, changed, answered.append, None, every=True, queue=9, running=lambda: True)
    for number in range(6):
        worker.enabled = number % 3 == 2
        robot.send("rgb", stamp=(1000 + number) * 10**9)
        worker._collect(time.monotonic())
    assert [job.header.stamp.sec - 1000 for job in worker._jobs] == [5], "what waited then is past, too"
    assert worker.dropped == worker._overtaken == 0, "nobody wanted them"


def test_the_thread_sleeps_no_longer_than_the_first_that_waits():
    """A request for its partner, or somebody for a picture; without any it looks now and then."""
    robot = Robot("rgbd")
    robot.collect = lambda: None
    worker = Worker(robot.intake, threading.Condition(), print, None, every=True, queue=9, running=lambda: True)
    assert worker._timeout() == IDLE_S
    robot.now = time.monotonic()
    robot.send("rgb")
    assert worker._timeout() <= robot.intake.pairer.wait < IDLE_S
    robot.intake.start_over()
    assert worker._timeout() == IDLE_S
    worker.ask(Single(None, time.monotonic() + 0.05, print))
    assert 0 < worker._timeout() <= 0.05
