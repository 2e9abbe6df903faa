"""Worker processes: they end with the command that started them, even where that is killed; their threads."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor

import pytest
from small_sets import write_crop
from tiny import start_and_kill, wait_for, workers_of

from mmcl_core.data.workers import one_thread_each

POOL = """
import multiprocessing, sys, time
from concurrent.futures import ProcessPoolExecutor
from mmcl_core.data.workers import end_with_parent
if __name__ == "__main__":
    pool = ProcessPoolExecutor(2, multiprocessing.get_context("spawn"), end_with_parent)
    list(pool.map(abs, range(2)))
    open(sys.argv[1], "w").close()
    time.sleep(600)
"""

MEASUREMENT = """
import sys, time
from pathlib import Path
from mmcl_core.cli import run_command
from mmcl_core.engine.measure import in_fresh_process
def measured():
    Path(sys.argv[1]).touch()
    time.sleep(600)
    return {}
if __name__ == "__main__":
    sys.exit(run_command(lambda: print(in_fresh_process(measured))))
"""

#: A command whose workers take a second for each part.
SLOW = """
import sys, time
from pathlib import Path
from mmcl_core.cli import run_command
from mmcl_core.data.workers import in_order, start_worker
def make(part):
    Path(sys.argv[1]).touch()
    time.sleep(1)
    return [part]
if __name__ == "__main__":
    sys.exit(run_command(lambda: print(list(in_order(make, range(100), 2, start_worker)))))
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["kill", "term"])
def test_workers_end_with_a_parent_that_is_killed(tmp_path, number):
    (tmp_path / "pool.py").write_text(POOL)
    start_and_kill([tmp_path / "pool.py", tmp_path / "ready"], (tmp_path / "ready").exists, number)


def test_a_measurement_ends_with_a_parent_that_is_killed(tmp_path):
    (tmp_path / "measure.py").write_text(MEASUREMENT)
    start_and_kill([tmp_path / "measure.py", tmp_path / "ready"], (tmp_path / "ready").exists, count=1)


def test_ctrl_c_while_a_measurement_starts_is_told_in_a_word(tmp_path):
    """Pressed once its process is there, which still imports."""
    (tmp_path / "measure.py").write_text(MEASUREMENT)
    process = subprocess.Popen(
        [sys.executable, tmp_path / "measure.py", tmp_path / "ready"], stderr=subprocess.PIPE, start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    try:
        assert wait_for(lambda: process.poll() is not None or workers_of(process.pid))
        os.killpg(process.pid, signal.SIGINT)
        error = process.communicate(timeout=60)[1].decode()
    finally:
        os.killpg(process.pid, signal.SIGKILL) if process.poll() is None else None
    assert (process.returncode, error.strip()) == (130, "interrupted")


def test_ctrl_c_pressed_twice_ends_a_command_as_pressed_once(tmp_path):
    (tmp_path / "slow.py").write_text(SLOW)
    process = subprocess.Popen(
        [sys.executable, tmp_path / "slow.py", tmp_path / "ready"], stderr=subprocess.PIPE, start_new_session=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background ignores it
    )  # fmt: skip
    try:
        assert wait_for(lambda: process.poll() is not None or (tmp_path / "ready").exists())
        for _ in range(2):
            os.killpg(process.pid, signal.SIGINT)
            time.sleep(0.3)
        error = process.communicate(timeout=60)[1].decode()
    finally:
        os.killpg(process.pid, signal.SIGKILL) if process.poll() is None else None
    assert process.returncode == 130
    assert error.strip() == "interrupted"


def test_workers_of_prepare_end_with_it(tmp_path):
    write_crop(tmp_path / "crops" / "train" / "mug", "0")
    for number in range(1, 4000):
        os.link(
            tmp_path / "crops" / "train" / "mug" / "0_rgb.png",
            tmp_path / "crops" / "train" / "mug" / f"{number}_rgb.png",
        )
    words = ["-m", "mmcl_core.prepare", "folder", "--source", tmp_path / "crops", "--out", tmp_path / "set"]
    made = tmp_path / "set.partial" / "rgb.u8"
    start_and_kill([*words, "--workers", "2"], lambda: made.exists() and made.stat().st_size)


def test_workers_have_one_thread_each_and_this_process_keeps_its_settings(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        with one_thread_each():
            asked = [pool.submit(os.getenv, name) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")]
        assert [one.result() for one in asked] == ["1", "1"]
    assert (os.environ["OMP_NUM_THREADS"], os.getenv("MKL_NUM_THREADS")) == ("7", None)
