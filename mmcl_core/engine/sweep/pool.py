"""Processes side by side: each started when what it waits for is done, watched, and asked to stop when we are."""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import re
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mmcl_core
from mmcl_core.cli import EXIT_STOPPED
from mmcl_core.engine.interrupt import StopSignals
from mmcl_core.engine.sweep.costs import read_costs, write_end

__all__ = ["Outcome", "Task", "last_line", "past_failure", "run_tasks"]

logger = logging.getLogger(__name__)

_PAUSE = 0.1  # seconds between two looks
_HEAD = "--- "  # begins the line of a log in front of what a process says


@dataclass(frozen=True)
class Task:
    """Something to do in a process of its own.

    Attributes:
        key: its name.
        folder: where ``sweep.log`` (what it says) and ``sweep.jsonl`` go (what each process cost, see
            :mod:`mmcl_core.engine.sweep.costs`).
        job: handed to the process as a line of JSON on its standard input, see :func:`run_tasks`.
        after: key of the task that has to be done before; empty, or one that is not in the list: none.
    """

    key: str
    folder: Path
    job: Mapping[str, Any]
    after: str = ""


@dataclass(frozen=True)
class Outcome:
    """How a task ended: ``done``, ``failed`` or ``stopped``, for a failure why, and the seconds that it worked."""

    state: str
    reason: str = ""
    seconds: float = 0.0


@dataclass
class _Running:
    task: Task
    process: subprocess.Popen[str]
    facts: Mapping[str, Any]
    begun: float = field(default_factory=time.monotonic)


def run_tasks(
    tasks: Sequence[Task],
    command: Sequence[str],
    slots: Sequence[str],
    ended: Callable[[Task, Outcome], None],
) -> bool:
    """Run tasks, as many at once as there are slots.

    The job of a task goes to its process with ``device`` set to that of its slot, and with ``cost``, the ``process``
    (its name), ``device`` and ``share`` of its lines in ``sweep.jsonl``. Standard input stays open: a process sees its
    end when this one is gone, however that happened. SIGTERM, SIGINT and SIGUSR1 are answered by SIGTERM to all
    processes; it returns when they have ended.

    Args:
        tasks: in the order in which to start them, as far as ``after`` allows; those that a process of another sweep
            is at come after the others.
        command: program and arguments of every process.
        slots: device of each place; the tasks on a device that is there twice share it.
        ended: called in this process after the end of each task that was started or given up.

    Returns:
        Whether all was worked off; ``False`` when a signal ended it.
    """
    waiting, running = list(tasks), dict[int, _Running]()
    open_keys, failed = {task.key for task in tasks}, set[str]()
    with StopSignals() as signals:
        asked = False
        try:
            while running or (waiting and not asked):
                if signals.asked and not asked:
                    asked = True
                    logger.warning("stopping: %d run(s) save their state", len(running))
                    for one in running.values():
                        with contextlib.suppress(ProcessLookupError):  # send_signal would take its status from _look
                            os.kill(one.process.pid, signal.SIGTERM)
                for slot in range(len(slots)):
                    if asked or slot in running:
                        continue
                    ready = [t for t in waiting if t.after not in open_keys or t.after in failed]
                    if not ready:
                        break
                    task = next((t for t in ready if not _is_taken(t.folder)), ready[0])
                    waiting.remove(task)
                    if task.after in failed:
                        failed.add(task.key)
                        ended(task, Outcome("failed", "the run it starts from did not finish"))
                        continue
                    running[slot] = _start(task, command, slots[slot], slots.count(slots[slot]))
                for slot in list(running):
                    outcome = _look(running[slot], asked)
                    if outcome is not None:
                        task = running.pop(slot).task
                        (failed.add if outcome.state != "done" else open_keys.discard)(task.key)
                        ended(task, outcome)
                if running:
                    time.sleep(_PAUSE)
        finally:
            for one in running.values():
                one.process.terminate()
    return not asked


def last_line(log: Path) -> str:
    """The last line of a log with something in it, without the time in front; empty without one."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return re.sub(r"^\d\d:\d\d:\d\d ", "", last)[:400]


def _is_taken(folder: Path) -> bool:
    """Whether a process, of another sweep, holds the lock of a task's log, see :mod:`mmcl_core.engine.sweep.worker`."""
    with contextlib.suppress(OSError), (folder / "sweep.log").open("rb") as log:  # none yet, or no locks there
        try:
            fcntl.flock(log.fileno(), fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def _start(task: Task, command: Sequence[str], device: str, share: int) -> _Running:
    task.folder.mkdir(parents=True, exist_ok=True)
    facts = {"process": uuid.uuid4().hex[:12], "device": device, "share": share}
    with (task.folder / "sweep.log").open("a", encoding="utf-8") as log:
        log.write(f"{_HEAD}{time.strftime('%Y-%m-%d %H:%M:%S')}, device {device}\n")
        log.flush()
        # A session of its own: Ctrl-C in the terminal reaches this process alone, which passes it on as SIGTERM.
        process = subprocess.Popen(
            list(command), stdin=subprocess.PIPE, stdout=log, stderr=log, text=True, start_new_session=True,
            env={**os.environ, "PYTHONPATH": _search_path()},
        )  # fmt: skip
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it ended at once; its log says why
        process.stdin.write(json.dumps({**task.job, "device": device, "cost": facts}) + "\n")
        process.stdin.flush()
    return _Running(task, process, facts)


def _search_path() -> str:
    """Where Python looks first: at this very package, also when another copy of it is installed."""
    here = str(Path(mmcl_core.__file__).resolve().parents[1])
    return os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH", "")]))


def _look(one: _Running, asked: bool) -> Outcome | None:
    """How a process ended, its cost written down; ``None`` while it runs."""
    pid, status, usage = os.wait4(one.process.pid, os.WNOHANG)
    if pid == 0:
        return None
    code = one.process.returncode = os.waitstatus_to_exitcode(status)
    assert one.process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        one.process.stdin.close()
    elapsed, cpu_seconds = time.monotonic() - one.begun, usage.ru_utime + usage.ru_stime
    seconds = write_end(one.task.folder, one.facts, code, elapsed, cpu_seconds)
    if code == 0:
        return Outcome("done", "", seconds)
    if code == EXIT_STOPPED or (asked and code == -signal.SIGTERM):
        return Outcome("stopped", "stopped by a signal", seconds)
    return Outcome("failed", _reason(one.task.folder, code), seconds)


def _reason(folder: Path, code: int) -> str:
    said = last_line(folder / "sweep.log").removeprefix("error: ")
    if not said or said.startswith(_HEAD):
        said = f"it said nothing in {folder / 'sweep.log'}"
    how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
    return f"{said} ({how})"


def past_failure(folder: Path) -> str:
    """Why the last process of a task failed, in an earlier start; empty where it did not, or nobody saw it end."""
    code = next((int(record["status"] or 0) for record in reversed(read_costs(folder))), 0)
    return "" if code in (0, EXIT_STOPPED, -signal.SIGTERM) else _reason(folder, code)
