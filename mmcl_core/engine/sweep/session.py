"""A sweep from its plan to its tables: starts the runs, writes the tables after each, and says how far it is.

The folder of a sweep::

    runs/<key>/              run folders, see :mod:`mmcl_core.engine.runfolder`; shared by all tables of the folder
    <table>/table.md .csv    the table, <table> being the name of its file
    <table>/runs.csv         every run with its seed, figures and cost
    <table>/plot*.png        plots
    <table>/index.html       all of it as one page
    <table>/environment.json machine, versions and commands
"""

from __future__ import annotations

import json
import logging
import os
import platform
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mmcl_core.atomic import write_text
from mmcl_core.config import to_dict
from mmcl_core.engine.sweep import pages
from mmcl_core.engine.sweep.plan import Plan, Run
from mmcl_core.engine.sweep.plots import save_plots
from mmcl_core.engine.sweep.pool import Outcome, Task, run_tasks
from mmcl_core.engine.sweep.summary import Summary, summarise
from mmcl_core.engine.sweep.worker import is_complete
from mmcl_core.progress import progress_bar
from mmcl_core.words import counted

__all__ = ["Session", "publish", "slots_for"]

logger = logging.getLogger(__name__)

WORKER = (sys.executable, "-m", "mmcl_core.engine.sweep.worker")


def slots_for(plan: Plan, jobs: int, devices: Sequence[str]) -> list[str]:
    """The device of each run that goes on at a time: the devices in turn.

    Args:
        plan: its settings name the device where none is given.
        jobs: runs at a time; 0: one a device.
        devices: such as ``cuda:0``; none: that of the settings.

    Raises:
        ConfigError: one of ``devices`` is no device, or is not there.
    """
    import torch

    from mmcl_core.backend_torch import pick_device

    for device in devices:
        pick_device(device, "--devices")
    asked = next((run.config.train.device for run in plan.runs.values()), "auto")
    if asked == "auto":
        asked = "cuda:0" if torch.cuda.is_available() else "cpu"
    devices = list(devices) or [asked]
    return [devices[slot % len(devices)] for slot in range(jobs or len(devices))]


class Session:
    """A sweep in the making.

    Args:
        plan: what to do.
        out: folder of the sweep.
        slots: device of each run that goes on at a time.
        arguments: the command line, to be written down.
    """

    def __init__(self, plan: Plan, out: Path, slots: Sequence[str], arguments: Sequence[str] = ()) -> None:
        self.plan, self.out, self.slots, self.arguments = plan, out, list(slots), tuple(arguments)
        self.folder = out / plan.table.path.stem
        self.outcomes: dict[str, Outcome] = {}
        self.threads = max(1, len(os.sched_getaffinity(0)) // len(self.slots))
        self.begun = time.monotonic()
        self.stopped = False

    def run(self) -> bool:
        """Work off what is not done yet; returns whether it went to the end and nothing failed."""
        self.folder.mkdir(parents=True, exist_ok=True)
        runs = self.plan.wanted
        done = [run for run in runs if is_complete(self.out / "runs" / run.key, _tests(run))]
        tasks = [self._task(run) for run in runs if run not in done]
        title, number = self.plan.table.title, counted(len(runs), "run")
        logger.info("%s: %s, %d of them done, %d at a time", title, number, len(done), len(self.slots))
        for place, problem in self.plan.problems.items():
            if place.row in self.plan.rows:
                logger.error("%s, %s, seed %d cannot run: %s", place.row, place.column, place.seed, problem)
        self.write()
        bar = progress_bar(title="runs", unit=" runs", total=len(runs), done=len(done), smoothing=0)
        with bar:

            def ended(task: Task, outcome: Outcome) -> None:
                self.outcomes[task.key] = outcome
                bar.update(outcome.state != "stopped")
                summary = self.write()
                self._say(self.plan.runs[task.key], outcome, summary, len(tasks))

            self.stopped = not run_tasks(tasks, WORKER, self.slots, ended)
        bad = [place for place in self.plan.problems if place.row in self.plan.rows]
        return not self.stopped and not bad and all(outcome.state == "done" for outcome in self.outcomes.values())

    def write(self) -> Summary:
        """Write tables, plots and the page from what there is."""
        self.folder.mkdir(parents=True, exist_ok=True)
        summary = summarise(self.plan, self.out, self.outcomes)
        facts = _environment(self.plan, self.out, self.folder, self.arguments)
        write_text(self.folder / "table.md", pages.markdown(summary))
        write_text(self.folder / "table.csv", pages.csv_of_table(summary))
        write_text(self.folder / "runs.csv", pages.csv_of_runs(summary))
        write_text(self.folder / "environment.json", json.dumps(facts, indent=2) + "\n")
        plots = save_plots(summary, self.folder)
        write_text(self.folder / "index.html", pages.html_page(summary, plots, facts))
        return summary

    def _task(self, run: Run) -> Task:
        config = run.config
        init_from = str(self.out / "runs" / run.source) if run.source else config.model.init_from
        threads = config.train.threads or self.threads
        config = replace(
            config,
            model=replace(config.model, init_from=init_from),
            train=replace(config.train, threads=threads),
        )
        folder = self.out / "runs" / run.key
        return Task(run.key, folder, {"config": to_dict(config), "run": str(folder), "tests": _tests(run)}, run.source)

    def _say(self, run: Run, outcome: Outcome, summary: Summary, total: int) -> None:
        """One line for a run that ended."""
        if outcome.state == "failed":
            log = self.out / "runs" / run.key / "sweep.log"  # none of a run that was given up before it was started
            logger.error("%s failed: %s%s", run.title, outcome.reason, f"; log: {log}" if log.exists() else "")
            return
        if outcome.state == "stopped":
            logger.info("%s stopped, its state is saved", run.title)
            return
        scores = [summary.results[place].scores.get("", {}).get("top1") for place in run.places]
        found = ", ".join(f"{score:.2f} %" for score in scores if score is not None) or "done"
        ended = len(self.outcomes)
        left = (time.monotonic() - self.begun) / ended * (total - ended)
        logger.info(
            "[%d/%d] %s: %s in %.1f min; about %.1f min left",
            ended, total, run.title, found, outcome.seconds / 60, left / 60,
        )  # fmt: skip


def publish(folder: Path, target: Path) -> None:
    """Copy what people read: tables, plots, the page and the environment, no weights and no logs.

    Args:
        folder: of the table within a sweep.
        target: a folder, made where it is missing; the files go to ``target/<table>``.
    """
    place = target / folder.name
    place.mkdir(parents=True, exist_ok=True)
    for old in place.glob("plot*.png"):
        old.unlink()
    for path in sorted(folder.iterdir()):
        if path.suffix in (".md", ".csv", ".html", ".png", ".json"):
            shutil.copyfile(path, place / path.name)


def _environment(plan: Plan, out: Path, folder: Path, arguments: Sequence[str]) -> dict[str, Any]:
    """Machine, versions and commands of a sweep; the machines of the runs are those their folders name."""
    import torch

    import mmcl_core

    command = shlex.join(["python", "-m", "mmcl_core.sweep", *map(_shortened, arguments)])
    try:
        before = json.loads((folder / "environment.json").read_text(encoding="utf-8"))["commands"]
        commands = [str(line) for line in before]
    except (OSError, ValueError, LookupError, TypeError):
        commands = []
    machines: dict[str, int] = {}
    for key in plan.runs:
        try:
            facts = json.loads((out / "runs" / key / "environment.json").read_text(encoding="utf-8"))
            name = (
                f"{facts['gpu'] or 'CPU'}, torch {facts['torch']}, {facts['precision']}, "
                f"{counted(facts['threads'], 'thread')} of {counted(facts['cpus'], 'core')}"
            )
        except (OSError, ValueError, LookupError, TypeError):  # not there yet, or edited
            continue
        machines[name] = machines.get(name, 0) + 1
    return {
        "commands": list(dict.fromkeys([*commands, command])),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "runs": machines,
        "mmcl_core": getattr(mmcl_core, "__version__", "unknown"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "platform": platform.platform(),
        "written": time.strftime("%Y-%m-%d %H:%M %Z"),
    }


def _tests(run: Run) -> list[dict[str, Any]]:
    return [
        {"folder": str(test.folder), "split": test.split, "label": test.label, "hide_camera": test.hide_camera}
        for test in run.tests
    ]


def _shortened(argument: str) -> str:
    """Folders outside the working directory by their last name: where they lie says nothing to others."""
    name, sign, value = argument.rpartition("=")
    path = Path(value)
    if not path.is_absolute():
        return argument
    short = path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else Path(path.name)
    return f"{name}{sign}{short}"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or "unknown")
