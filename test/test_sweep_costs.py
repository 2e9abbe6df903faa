"""What runs of a sweep cost: processes that wait, that are killed, and that started others. Not tested: GPUs."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
from tiny import wait_for

from mmcl_core.cli import EXIT_ERROR, EXIT_STOPPED
from mmcl_core.engine.sweep import costs
from mmcl_core.engine.sweep.costs import Meter, family_seconds, read_costs, write_end
from mmcl_core.engine.sweep.pool import Task, past_failure, run_tasks
from mmcl_core.engine.sweep.session import WORKER

FACTS = {"process": "one", "device": "cuda:0", "share": 2}

#: Processor time: half a second, at least.
BUSY = "import time\nwhile time.process_time() < 0.5: pass\n"

#: A process of a run that writes what it costs and has one of its own, which works and then sleeps, as it does.
CHILD = f"""
import json, os, subprocess, sys, time
from pathlib import Path
from mmcl_core.engine.sweep import costs
costs.EVERY_S, costs.SHARE = 0.05, 0.0
job = json.loads(sys.stdin.readline())
folder = Path(job["folder"])
with costs.Meter(folder, job["cost"]):
    (folder / "pid").write_text(str(os.getpid()))
    subprocess.Popen([sys.executable, "-c", {BUSY + "time.sleep(600)"!r}])
    time.sleep(600)
"""

#: A sweep of such a process.
SWEEP = f"""
import sys
from pathlib import Path
from mmcl_core.engine.sweep.pool import Task, run_tasks
folder = Path(sys.argv[1])
run_tasks([Task("a", folder, {{"folder": str(folder)}})], (sys.executable, "-c", {CHILD!r}), ["cpu"], print)
"""


@pytest.fixture
def clock(monkeypatch):
    """An invented time, and invented processor time."""
    made = SimpleNamespace(now=1000.0, cpu=0.0)
    monkeypatch.setattr(costs, "time", SimpleNamespace(monotonic=lambda: made.now, strftime=time.strftime))
    monkeypatch.setattr(costs, "family_seconds", lambda: made.cpu)
    return made


@contextmanager
def beside(do):
    """Something is done in a thread meanwhile."""
    thread = threading.Thread(target=do)
    thread.start()
    yield
    thread.join()


def numbers(folder):
    return [(cost["status"], cost["seconds"], cost["waited"], cost["cpu_seconds"]) for cost in read_costs(folder)]


def test_waiting_does_not_count(clock, tmp_path):
    meter = Meter(tmp_path, FACTS)
    clock.now += 1
    clock.cpu += 0.5
    with meter.waiting():
        clock.now += 500
        assert numbers(tmp_path) == [(None, 1, 0, 0.5)]
    clock.now += 7
    clock.cpu += 8
    meter.write()
    assert numbers(tmp_path) == [(None, 8, 500, 8.5)]
    assert write_end(tmp_path, FACTS, 0, 520.0, 9.0) == 20
    assert numbers(tmp_path) == [(0, 20, 500, 9.0)]


def test_a_process_that_waited_to_its_end_did_not_work(clock, tmp_path):
    meter = Meter(tmp_path, FACTS)
    clock.now += 1
    with meter.waiting():
        assert write_end(tmp_path, FACTS, -signal.SIGTERM, 700.0, 0.3) == 1
    assert numbers(tmp_path) == [(-signal.SIGTERM, 1, 699, 0.3)]


def test_what_a_killed_process_knew_of_those_it_had_started_stays(clock, tmp_path):
    """Its own last line told of 60 seconds; the system then tells of those alone that it waited for."""
    clock.cpu = 60
    Meter(tmp_path, FACTS).write()
    write_end(tmp_path, FACTS, -signal.SIGKILL, 50.0, 11.0)
    assert numbers(tmp_path) == [(-signal.SIGKILL, 50, 0, 60)]


def test_processor_time_does_not_shrink_when_a_process_is_forgotten(clock, tmp_path):
    meter = Meter(tmp_path, FACTS)
    for cpu in (5, 3):
        clock.cpu = cpu
        meter.write()
    assert numbers(tmp_path) == [(None, 0, 0, 5)]


def test_the_last_line_of_each_process_counts_and_old_lines_stand_for_themselves(tmp_path):
    old = {"status": 0, "seconds": 3, "cpu_seconds": 4, "share": 1}
    new = {**old, "waited": 0.0, "waiting": False}
    lines = [old, old, {**new, "process": "a", "status": None}, {**new, "process": "b"}, {**new, "process": "a"}]
    wrong = [
        {**old, "status": None},
        {**new, "process": "a", "waited": None},
        {**old, "process": "c"},
        {**new, "share": ""},
    ]
    text = "".join(json.dumps(line) + "\n" for line in (*lines, *wrong))
    (tmp_path / costs.FILE).write_text(text + '{"status": 0, "seco')
    assert [cost.get("process") for cost in read_costs(tmp_path)] == [None, None, "b", "a"]
    assert [cost["status"] for cost in read_costs(tmp_path)] == [0, 0, 0, 0]


def test_an_end_that_nobody_saw_is_no_failure(clock, tmp_path):
    (tmp_path / "sweep.log").write_text("error: it broke\n")
    write_end(tmp_path, {**FACTS, "process": "before"}, 1, 1.0, 1.0)
    assert past_failure(tmp_path) == "it broke (exit status 1)"
    Meter(tmp_path, FACTS).write()
    assert past_failure(tmp_path) == ""


@pytest.mark.parametrize("status", [0, EXIT_STOPPED, -signal.SIGTERM])
def test_a_run_that_was_asked_to_stop_has_not_failed(clock, tmp_path, status):
    (tmp_path / "sweep.log").write_text("error: it broke\n")
    write_end(tmp_path, FACTS, status, 1.0, 1.0)
    assert past_failure(tmp_path) == ""


def test_a_full_disk_does_not_end_the_run(clock, tmp_path):
    meter = Meter(tmp_path / "gone", FACTS)
    with meter:
        meter.status = 0
    assert read_costs(tmp_path / "gone") == []


def test_processes_of_processes_count_whether_they_go_on_or_not():
    before = family_seconds()
    subprocess.run([sys.executable, "-c", BUSY], check=True)
    between = family_seconds()
    assert between - before >= 0.5
    nested = f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {BUSY + 'time.sleep(600)'!r}]).wait()"
    process = subprocess.Popen([sys.executable, "-c", nested], start_new_session=True)
    try:
        assert wait_for(lambda: family_seconds() - between >= 0.5)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_process_killed_before_those_it_started(tmp_path):
    """The system tells nothing of them to whoever waits for its end."""
    ended = []
    task = Task("a", tmp_path, {"folder": str(tmp_path)})

    def kill():
        assert wait_for(lambda: any(cost["cpu_seconds"] >= 0.5 for cost in read_costs(tmp_path)))
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)

    with beside(kill):
        run_tasks([task], (sys.executable, "-c", CHILD), ["cpu"], lambda task, outcome: ended.append(outcome))
    os.killpg(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    assert "killed by SIGKILL" in ended[0].reason
    (cost,) = read_costs(tmp_path)
    assert (cost["status"], cost["device"], cost["share"]) == (-signal.SIGKILL, "cpu", 1)
    assert cost["cpu_seconds"] >= 0.5
    assert cost["seconds"] == pytest.approx(ended[0].seconds, abs=1e-3)


def test_killed_together_with_the_sweep(tmp_path):
    """As a machine that is switched off: nobody sees the end."""
    sweep = subprocess.Popen([sys.executable, "-c", SWEEP, str(tmp_path)])
    try:
        assert wait_for(lambda: any(cost["cpu_seconds"] >= 0.5 for cost in read_costs(tmp_path)))
    finally:
        sweep.kill()
        sweep.wait()
        os.killpg(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    (cost,) = read_costs(tmp_path)
    assert (cost["status"], cost["device"], cost["waited"]) == (None, "cpu", 0)
    assert cost["cpu_seconds"] >= 0.5
    assert cost["seconds"] > 0


def test_a_run_that_another_sweep_trains_costs_what_its_own_processes_do(tmp_path):
    """The real process of a run, which waits for the lock of its log, and then finds settings that no run can have."""
    log, held = (tmp_path / "sweep.log").open("a"), []
    fcntl.flock(log.fileno(), fcntl.LOCK_EX)
    begun = time.monotonic()

    def let_go():
        assert wait_for(lambda: any(cost["waiting"] for cost in read_costs(tmp_path)))
        since = time.monotonic()
        time.sleep(1)
        held.append(time.monotonic() - since)
        log.close()

    job = {"config": {"method": "none"}, "run": str(tmp_path), "tests": []}
    with beside(let_go):
        run_tasks([Task("a", tmp_path, job)], WORKER, ["cpu"], lambda task, outcome: held.append(outcome.seconds))
    elapsed = time.monotonic() - begun
    (cost,) = read_costs(tmp_path)
    assert cost["status"] == EXIT_ERROR
    assert cost["waited"] >= held[0]
    assert cost["seconds"] + cost["waited"] <= elapsed
    assert cost["seconds"] == pytest.approx(held[1], abs=1e-3)
