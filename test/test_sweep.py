"""Sweeps as a whole: their processes, and real ones that are killed and go on. Not tested: several GPUs."""

import csv
import fcntl
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest
import tiny
import yaml
from small_tables import TABLE, data, write
from tiny import wait_for

import mmcl_core
from mmcl_core import sweep as command
from mmcl_core.config import to_dict
from mmcl_core.engine.runfolder import read_config
from mmcl_core.engine.sweep.costs import read_costs
from mmcl_core.engine.sweep.plan import make_plan
from mmcl_core.engine.sweep.pool import Outcome, Task, last_line, run_tasks
from mmcl_core.engine.sweep.session import Session, publish
from mmcl_core.engine.sweep.table import read_table

__all__ = ["data", "write"]  # fixtures

ROOT = Path(__file__).resolve().parents[1]


def test_publishing_onto_itself_is_refused_before_any_run(write, tmp_path, capsys):
    path = write(TABLE)
    line = ["--config", str(path), "--out", str(tmp_path / "o"), "--publish", str(tmp_path / "x/../o")]
    assert command.main(line) == 2
    assert "is the folder of --out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--devices", "cpu", "cuda:99"], "'cuda:99'"),
        (["--jobs", "0"], "--jobs must be at least 1"),
        (["trian.epochs=1"], "command line: unknown section 'trian'"),
        (["train.epochs=many"], "command line: train.epochs must be int"),
        (["--seeds", "0", "-1"], "--seeds: -1 is no seed"),
        (["--data", "sets", "train.epochs=1"], "has no data set 'train.epochs'"),
        (["--data", "sets", "train.epochs=1"], "settings go before --data"),
    ],
)
def test_wrong_options_are_refused_before_any_run(write, tmp_path, capsys, options, message):
    assert command.main(["--config", str(write(TABLE)), "--out", str(tmp_path / "o"), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


CHILD = """
import json, os, shutil, signal, sys, time
from pathlib import Path
job = json.loads(sys.stdin.readline())
if job["do"] != "silent":
    print("working on", job["name"], job["device"], flush=True)
with open(job["log"], "a") as log:
    log.write(f"+{job['name']}\\n")
    log.flush()
    if job["do"] == "wait":
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
        print("waits", flush=True)
        sys.stdin.read()
        sys.exit(75)
    if job["do"] == "fail":
        print("error: it broke", flush=True)
        sys.exit(3)
    if job["do"] == "silent":
        os.kill(os.getpid(), signal.SIGKILL)
    if job["do"] == "gone":
        shutil.rmtree(Path(job["log"]).with_name(job["name"]))
        sys.exit(3)
    if job["do"] in ("SIGKILL", "SIGTERM"):
        print("12:34:56 INFO so far so good", flush=True)
        os.kill(os.getpid(), getattr(signal, job["do"]))
    time.sleep(1.0 if job["do"] == "longer" else 0.1)
    log.write(f"-{job['name']}\\n")
"""


def tasks_of(folder, *specs):
    """Tasks from (name, what it does, what it comes after)."""
    return [
        Task(name, folder / name, {"name": name, "do": do, "log": str(folder / "log")}, after)
        for name, do, after in specs
    ]


def run_pool(tasks, slots):
    outcomes = {}
    complete = run_tasks(tasks, (sys.executable, "-c", CHILD), slots, lambda t, o: outcomes.update({t.key: o}))
    return complete, outcomes


def test_order_failures_and_devices(tmp_path):
    specs = [("late", "", "a"), ("a", "", ""), ("b", "fail", ""), ("c", "", "b"), ("d", "", "c")]
    specs += [("e", "SIGKILL", ""), ("f", "SIGTERM", ""), ("g", "silent", "")]
    complete, outcomes = run_pool(tasks_of(tmp_path, *specs), ["x", "y"])
    assert complete
    assert {key: outcome.state for key, outcome in outcomes.items()} == {
        **{"late": "done", "a": "done"}, **dict.fromkeys("bcdefg", "failed")
    }  # fmt: skip
    assert outcomes["b"].reason == "it broke (exit status 3)"
    assert outcomes["c"].reason == outcomes["d"].reason == "the run it starts from did not finish"
    assert outcomes["e"].reason == "INFO so far so good (killed by SIGKILL)"
    assert outcomes["g"].reason == f"it said nothing in {tmp_path / 'g' / 'sweep.log'} (killed by SIGKILL)"
    assert "killed by SIGTERM" in outcomes["f"].reason, "not by this sweep, which did not ask it to stop"
    events = (tmp_path / "log").read_text().split()
    assert events.index("-a") < events.index("+late")
    assert not {"+c", "+d"} & set(events)
    assert "working on a x" in (tmp_path / "a" / "sweep.log").read_text()
    (cost,) = read_costs(tmp_path / "a")
    assert (cost["status"], cost["device"], cost["share"]) == (0, "x", 1)
    assert cost["seconds"] >= 0.1
    assert 0 < cost["cpu_seconds"] < cost["seconds"] + 1


def test_a_folder_that_is_removed_while_its_run_goes_on_costs_that_run_alone(tmp_path):
    complete, outcomes = run_pool(tasks_of(tmp_path, ("a", "gone", ""), ("b", "longer", ""), ("c", "", "")), ["x", "y"])
    assert complete
    assert {key: outcome.state for key, outcome in outcomes.items()} == {"a": "failed", "b": "done", "c": "done"}
    assert outcomes["a"].reason == f"it said nothing in {tmp_path / 'a' / 'sweep.log'} (exit status 3)"


def test_what_another_sweep_is_at_comes_last(tmp_path):
    tasks = tasks_of(tmp_path, ("a", "", ""), ("b", "", ""), ("c", "", ""))
    (tmp_path / "a").mkdir()
    with (tmp_path / "a" / "sweep.log").open("ab") as log:
        fcntl.flock(log.fileno(), fcntl.LOCK_EX)
        complete, outcomes = run_pool(tasks, ["x"])
    assert complete
    assert list(outcomes) == ["b", "c", "a"]


def test_a_signal_stops_all_and_starts_no_more(tmp_path):
    tasks = tasks_of(tmp_path, ("a", "wait", ""), ("b", "wait", ""), ("c", "", ""))

    def ask():
        while not all(last_line(tmp_path / name / "sweep.log") == "waits" for name in "ab"):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=ask).start()
    complete, outcomes = run_pool(tasks, ["cpu", "cpu"])
    assert not complete
    assert {key: outcome.state for key, outcome in outcomes.items()} == {"a": "stopped", "b": "stopped"}
    assert read_costs(tmp_path / "a")[0]["share"] == 2


def test_a_signal_finds_a_run_that_has_ended_since_it_was_looked_at(tmp_path):
    tasks, outcomes = tasks_of(tmp_path, ("long", "longer", ""), ("short", "", "")), {}

    def ended(task, outcome):
        outcomes[task.key] = outcome.state
        if task.key == "short":  # the other ends while the tables are written, and is asked to stop after that
            assert wait_for(lambda: "-long" in (tmp_path / "log").read_text())
            time.sleep(0.5)
            os.kill(os.getpid(), signal.SIGTERM)

    assert not run_tasks(tasks, (sys.executable, "-c", CHILD), ["cpu", "cpu"], ended)
    assert outcomes == {"short": "done", "long": "done"}
    assert read_costs(tmp_path / "long")[0]["status"] == 0


def test_processes_use_this_very_package_where_another_copy_would_be_found(tmp_path, monkeypatch):
    (tmp_path / "mmcl_core").mkdir()
    (tmp_path / "mmcl_core" / "__init__.py").touch()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path.parent)
    child = (sys.executable, "-c", "import mmcl_core, sys; sys.stdin.read(1); print(mmcl_core.__file__)")
    run_tasks([Task("a", tmp_path / "a", {})], child, ["cpu"], lambda task, outcome: None)
    assert last_line(tmp_path / "a" / "sweep.log") == mmcl_core.__file__


def figures_of(path):
    """Lines of runs.csv without the costs."""
    return [
        {key: value for key, value in row.items() if key not in ("seconds", "cpu_hours", "gpu_hours")}
        for row in csv.DictReader((path / "runs.csv").read_text().splitlines())
    ]


def sweep(*arguments):
    return command.main([str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def swept(data, tmp_path_factory):
    """A finished sweep of three rows and two seeds: one that another starts from, and one that fails."""
    folder = tmp_path_factory.mktemp("swept")
    config = tiny.settings(Path(), "data.val_fraction=0", "train.epochs=3", "train.threads=0", "train.save_every=1")
    (folder / "base.yaml").write_text(yaml.safe_dump(to_dict(config)))
    text = TABLE.replace("SET", str(data)).replace(", depth: 86.1", "").replace(", depth: [79.2, 0.5]", "")
    text = text.replace("name: multi, ", "name: multi, init_from: ce, ")
    text += "  - {name: bad, settings: {train.batch: 4000}, cells: {rgb: 1}}\ncompare: [{rows: [multi, ce]}]\n"
    text += "evaluate: [{name: camera unknown, set: tiny, hide_camera: true}]\n"
    (folder / "table.yaml").write_text(text)
    options = ("--seeds", 0, 1, "--jobs", 2, "--publish", folder / "p")
    assert sweep("--config", folder / "table.yaml", "--out", folder / "out", *options) == command.EXIT_FAILED
    return folder


def test_a_run_that_was_never_started_has_no_log_to_name(write, tmp_path, monkeypatch, caplog):
    def fail(tasks, command, slots, ended):
        (tasks[0].folder).mkdir(parents=True)
        (tasks[0].folder / "sweep.log").write_text("wrong")
        for task in tasks:
            ended(task, Outcome("failed", "why"))
        return True

    monkeypatch.setattr("mmcl_core.engine.sweep.session.run_tasks", fail)
    Session(make_plan(read_table(write()), [0], ["ce"]), tmp_path / "out", ["cpu"]).run()
    first, second = (record.message for record in caplog.records if " failed: why" in record.message)
    assert "sweep.log" in first
    assert "log" not in second


def test_a_chosen_row_that_cannot_run_is_no_success_and_others_are_no_matter(write, tmp_path, monkeypatch):
    monkeypatch.setattr("mmcl_core.engine.sweep.session.run_tasks", lambda *_: True)
    monkeypatch.setattr(Session, "write", lambda session: None)
    table = read_table(write(TABLE.replace("name: multi, ", "name: multi, settings: {optim.lrr: 1}, ")))
    plans = [make_plan(table, [0], [name]) for name in ("multi", "ce")]
    assert [Session(plan, tmp_path / "out", ["cpu"]).run() for plan in plans] == [False, True]


@pytest.mark.parametrize(("given", "threads"), [(0, max(1, len(os.sched_getaffinity(0)) // 2)), (7, 7)])
def test_runs_side_by_side_share_the_cores_unless_told_otherwise(write, tmp_path, monkeypatch, given, threads):
    jobs = []

    def note(tasks, *others):
        jobs.extend(task.job for task in tasks)
        return True

    monkeypatch.setattr("mmcl_core.engine.sweep.session.run_tasks", note)
    monkeypatch.setattr(Session, "write", lambda session: None)
    plan = make_plan(read_table(write()), [0], overrides={"train.threads": given})
    Session(plan, tmp_path / "out", ["cpu"] * 2).run()
    assert {job["config"]["train"]["threads"] for job in jobs} == {threads}


def test_plots_that_a_table_has_no_more_are_published_no_more(tmp_path):
    made, place = tmp_path / "out" / "table", tmp_path / "site" / "table"
    for folder, names in ((made, ["plot.png", "table.md", "notes.log"]), (place, ["plot-gone.png", "own.txt"])):
        folder.mkdir(parents=True)
        for name in names:
            (folder / name).touch()
    publish(made, tmp_path / "site")
    assert sorted(path.name for path in place.iterdir()) == ["own.txt", "plot.png", "table.md"]


@pytest.mark.slow
def test_a_real_sweep(swept):
    out = swept / "out"
    rows = figures_of(out / "table")
    assert [row["state"] for row in rows] == ["done"] * 4 + ["failed"] * 2
    reason = "train.batch is 4000, but the training split has 40 samples; give train.batch=40 or less"
    assert all(reason in row["reason"] for row in rows[4:])
    assert "| bad | failed |" in (out / "table" / "table.md").read_text()
    for row in rows[:4]:
        run = out / "runs" / row["run"]
        report, hidden = (
            json.loads(next(run.glob(f"evaluation/set-test-????????{ending}/metrics.json")).read_text())
            for ending in ("", "-no-camera")
        )
        assert [told["settings"]["hide_camera"] for told in (report, hidden)] == [False, True]
        assert float(row["test split: top1"]) == pytest.approx(100 * report["modalities"]["rgb"]["top1"]["value"])
        assert report["data"]["samples"] == 12
        config = read_config(run)
        assert config.train.threads == max(1, len(os.sched_getaffinity(0)) // 2)
        assert config.seed == int(row["seed"])
        source = next(r["run"] for r in rows if r["row"] == "ce" and r["seed"] == row["seed"])
        assert config.model.init_from == ("" if row["row"] == "ce" else str(out / "runs" / source))
    published = sorted(path.name for path in (swept / "p" / "table").iterdir())
    plots = ["plot-camera_unknown.png", "plot.png"]
    assert published == ["environment.json", "index.html", *plots, "runs.csv", "table.csv", "table.md"]
    facts = json.loads((swept / "p" / "table" / "environment.json").read_text())
    written = "python -m mmcl_core.sweep --config table.yaml --out out --seeds 0 1 --jobs 2 --publish p"
    assert facts["commands"] == [written]
    assert sum(facts["runs"].values()) == 4


@pytest.mark.slow
def test_killed_in_the_middle_and_started_again(swept, tmp_path):
    """SIGKILL of the sweep alone: its run saves and stops, and nothing that was done is done again."""
    expected = [row for row in figures_of(swept / "out" / "table") if row["seed"] == "0"][:2]
    out = tmp_path / "out"
    arguments = ("--config", swept / "table.yaml", "--out", out, "--seeds", 0, "--jobs", 2, "--rows", "ce", "multi")
    first = tiny.start(sweep, *arguments, PYTHONPATH=str(ROOT))
    log = out / "runs" / expected[0]["run"] / "metrics.jsonl"
    while first.exitcode is None and not (log.exists() and log.read_bytes().count(b"\n") >= 2):
        time.sleep(0.005)
    first.kill()
    first.join()
    assert sweep(*arguments) == 0
    assert figures_of(out / "table")[:2] == expected
    for row in expected:
        name = Path("runs") / row["run"] / "metrics.jsonl"
        assert (out / name).read_bytes() == (swept / "out" / name).read_bytes()
    saved = (out / "runs" / expected[0]["run"] / "sweep.log").read_text()
    assert saved.count("--- ") == 2  # the process of the first sweep, and that which went on
    assert "the state is saved" in saved
    costs = read_costs(out / "runs" / expected[0]["run"])
    assert [cost["status"] for cost in costs] == [command.EXIT_STOPPED, 0]
    assert all(cost["seconds"] > 0 and cost["cpu_seconds"] > 0 for cost in costs)
    # Once more: nothing to do, not even an evaluation, and no process is started.
    files = {path: path.stat().st_mtime_ns for path in out.glob("runs/**/*")}
    assert sweep(*arguments) == 0
    assert {path: path.stat().st_mtime_ns for path in out.glob("runs/**/*")} == files


def test_dry_run_lists_and_starts_nothing(write, tmp_path, capsys):
    path = write()
    assert command.main(["--config", str(path), "--out", str(tmp_path / "out"), "--dry-run", "--seeds", "0"]) == 0
    text = capsys.readouterr().out
    assert "4 runs" in text
    assert "multi, depth, seed 0" in text
    assert not (tmp_path / "out").exists()
    assert command.main(["--config", str(path), "--out", str(tmp_path / "out"), "--dry-run", "method=mmlc"]) == 1
    wrong = write(TABLE.replace("name: multi, ", "name: multi, settings: {method: mmlc}, "))
    dry = ["--config", str(wrong), "--out", str(tmp_path / "out"), "--dry-run", "--rows"]
    assert [command.main([*dry, name]) for name in ("multi", "ce")] == [
        1,
        0,
    ]  # others cost nothing
    assert command.main(["--config", str(path), "--out", str(tmp_path / "out"), "--dry-run", "--rows", "x"]) == 2


def test_settings_after_an_option_of_several_words_are_told_to_go_before(write, capsys):
    start = ["--config", str(write()), "--dry-run"]
    with pytest.raises(SystemExit):
        command.main([*start, "--seeds", "0", "train.epochs=2"])
    assert "'train.epochs=2' is no whole number; settings go before --seeds" in capsys.readouterr().err
    assert command.main([*start, "--rows", "ce", "train.epochs=2"]) == 2
    assert "has no row 'train.epochs=2'; known are ce, multi; settings go before --rows" in capsys.readouterr().err


def test_a_dry_run_says_which_data_are_not_there(write, tmp_path, capsys):
    start = ["--config", str(write()), "--dry-run", "--seeds", "0", "--data"]
    assert command.main([*start, str(tmp_path / "none")]) == 0
    said = capsys.readouterr().err
    assert said.count(f"no prepared set in {tmp_path / 'none'}: its runs will have other names than those below") == 1
