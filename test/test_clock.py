"""Time that training waits for batches, and who else uses the processor: what is counted, and when it is said."""

import logging
import os
import subprocess
import sys
import time

import pytest
import torch

from mmcl_core.engine import clock
from mmcl_core.engine.clock import Clock, Neighbours, Usage, processor_usage

BUSY = "import time\nend = time.time() + 3\nwhile time.time() < end: pass"


def test_usage_counts_other_programs_and_this_one():
    before = processor_usage()
    if before is None:
        pytest.skip("no /proc/stat")
    subprocess.run([sys.executable, "-c", BUSY], check=True)
    between = processor_usage()
    end = time.process_time() + 1.0
    while time.process_time() < end:
        pass
    after = processor_usage()
    assert between.all - before.all >= 0.5  # the other program, which may have had to share its core
    assert between.own - before.own < 0.5
    assert 0.9 <= after.own - between.own <= 1.5
    assert after.all - between.all >= 0.9


@pytest.fixture
def usage(monkeypatch):
    """Set what the processor has done, in seconds."""
    state = {"value": Usage(100.0, 10.0, 0.0)}
    monkeypatch.setattr(clock, "processor_usage", lambda: state["value"])
    monkeypatch.setattr(os, "cpu_count", lambda: 4)

    def go_on(seconds, others, own):
        all_, mine, now = state["value"]
        state["value"] = Usage(all_ + seconds * (others + own), mine + seconds * own, now + seconds)

    return go_on


def watched(usage, caplog, threads, windows):
    neighbours = Neighbours(threads)
    with caplog.at_level(logging.WARNING):
        for window in windows:
            usage(*window)
            neighbours.look()
    return [record.getMessage() for record in caplog.records]


def test_neighbours_are_named_once(usage, caplog):
    said = watched(usage, caplog, 4, [(10, 1.5, 2.5)] * 5)
    assert said == [
        "other programs take 1.5 of 4 processor cores while training uses 4 threads, which wait for one another; "
        "train.threads=2 may be much faster"
    ]


@pytest.mark.parametrize(
    ("threads", "windows"),
    [
        (4, [(10, 0.3, 3.7)] * 4),  # too little
        (4, [(10, 1.5, 2.5), (10, 0.0, 4.0)] * 3),  # never twice in a row
        (2, [(10, 1.5, 2.0)] * 4),  # there is room for both
        (4, [(2, 1.5, 2.5)] * 3),  # watched for too short a time
    ],
)
def test_neighbours_that_are_not_in_the_way_are_not_named(usage, caplog, threads, windows):
    assert watched(usage, caplog, threads, windows) == []


def test_even_beside_many_there_is_one_thread(usage, caplog):
    assert "train.threads=1 " in watched(usage, caplog, 4, [(10, 4.0, 0.4)] * 2)[0]


def test_where_the_system_does_not_tell_nothing_is_said(monkeypatch, caplog):
    monkeypatch.setattr(clock, "processor_usage", lambda: None)
    neighbours = Neighbours(4)
    neighbours.look()
    assert not caplog.records


def test_clock_counts_the_time_until_a_batch_comes(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    def slow():
        for number in range(3):
            now[0] += 3
            yield number

    clock, batches = Clock(torch.device("cpu")), slow()
    now[0] += 50
    clock.start()
    assert [clock.take(batches), clock.take(batches)] == [0, 1]
    now[0] += 2
    assert clock.read() == (8, 0.75)
    clock.start()
    now[0] += 1
    assert clock.read() == (1, 0)
