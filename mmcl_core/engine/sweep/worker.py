"""One run of a sweep in a process of its own: it trains, or goes on training, and then evaluates.

The job comes as one line of JSON on standard input: ``config``, ``device``, ``run`` (folder), ``tests`` (``folder``,
``split``, ``label`` and ``hide_camera`` of each) and ``cost``, see :func:`mmcl_core.engine.sweep.pool.run_tasks`. When
the other end of standard input is closed, because the sweep has ended or was killed, the run saves its state and stops.
Standard output is the log; it is locked, so that a second process for the same run waits until the first has ended,
which costs the run nothing (a sweep therefore begins with runs that nobody is at). Exit statuses are those of
:mod:`mmcl_core.train`.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sys
import threading
from contextlib import suppress
from pathlib import Path
from typing import Any

from mmcl_core.cli import run_command
from mmcl_core.engine.sweep.costs import Meter
from mmcl_core.errors import ConfigError

__all__ = ["is_complete", "main"]


def main() -> int:
    """Do the job on standard input; returns the exit status."""
    job = json.loads(sys.stdin.readline())
    threading.Thread(target=_stop_when_alone, name="sweep-watch", daemon=True).start()
    meter = Meter(Path(job["run"]), job["cost"])
    with suppress(OSError):  # a file system without locks
        try:
            fcntl.flock(sys.stdout.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with meter.waiting():
                fcntl.flock(sys.stdout.fileno(), fcntl.LOCK_EX)
    with meter:
        meter.status = run_command(lambda: _work(job))
    return meter.status


def is_complete(run: Path, tests: list[dict[str, Any]]) -> bool:
    """Whether a run is trained and evaluated, with these very weights, on all its tests."""
    from mmcl_core.engine.runfolder import is_finished

    return is_finished(run) and all(_is_current(run, test) for test in tests)


def _work(job: dict[str, Any]) -> None:
    from mmcl_core.config import from_dict, override
    from mmcl_core.engine import runfolder
    from mmcl_core.engine.trainer import train

    config, run = override(from_dict(job["config"]), {"train.device": job["device"]}), Path(job["run"])
    if (run / "config.yaml").exists():
        saved = runfolder.read_config(run)
        found = runfolder.differences(saved, config)
        changed = [text for text in found if text.partition(":")[0] not in runfolder.STARTING_WEIGHTS]
        if changed:
            raise ConfigError(
                f"{run} was made with other defaults ({'; '.join(changed)}); remove it, or take another --out"
            )
    train(config, run, resume=True)
    _evaluate(run, config.train.device, config.train.threads, job["tests"])


def _evaluate(run: Path, device: str, threads: int, tests: list[dict[str, Any]]) -> None:
    """Evaluate where the figures are missing or of other weights, and write the report page."""
    from mmcl_core.engine.evaluation import Settings, evaluate
    from mmcl_core.engine.report import try_report
    from mmcl_core.engine.results import write_results

    if threads:
        from mmcl_core.backend_torch import set_threads

        set_threads(threads)
    for test in tests:
        if _is_current(run, test):
            continue
        settings = Settings(split=test["split"], device=device, hide_camera=test["hide_camera"])
        found = evaluate(run, test["folder"], settings)
        write_results(found, run / "evaluation" / test["label"])
    try_report(run)


def _is_current(run: Path, test: dict[str, str]) -> bool:
    """Whether the figures of a test are there, and of these weights; the label names the content of the set."""
    from mmcl_core.engine.sweep.summary import read_figures
    from mmcl_core.errors import CheckpointError
    from mmcl_core.weights import model_id

    found, figures = read_figures(run / "evaluation" / test["label"])
    try:
        return bool(figures) and found == model_id(run)
    except CheckpointError:  # the run itself says so, and costs no other one
        return False


def _stop_when_alone() -> None:
    sys.stdin.read()
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
