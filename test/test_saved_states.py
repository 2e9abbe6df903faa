"""When a state is saved, and that a run which was killed goes on from the one that it saved last."""

from __future__ import annotations

import os
import signal
import threading
from types import SimpleNamespace

import pytest
import tiny
import torch
import yaml

from mmcl_core import train as command
from mmcl_core.cli import EXIT_STOPPED
from mmcl_core.config import to_dict
from mmcl_core.engine import checkpoint, trainer
from mmcl_core.engine.checkpoint import SAVE_SHARE, StateWriter, load_state
from mmcl_core.engine.runlog import read_rows
from mmcl_core.errors import CheckpointError, RunInterruptedError

COPYING_S = 2.0


@pytest.fixture
def clock(monkeypatch):
    """An invented time, of which copying a state takes two seconds; nothing is written before it may be."""
    made = SimpleNamespace(now=1000.0, writing=threading.Event())
    snapshot, save_state = checkpoint.snapshot, checkpoint.save_state

    def slow_copy(state):
        made.now += COPYING_S if isinstance(state, dict) else 0.0  # it copies what it holds by itself
        return snapshot(state)

    def slow_write(path, state):
        made.writing.wait(60)
        save_state(path, state)

    monkeypatch.setattr(checkpoint, "time", SimpleNamespace(monotonic=lambda: made.now))
    monkeypatch.setattr(checkpoint, "snapshot", slow_copy)
    monkeypatch.setattr(checkpoint, "save_state", slow_write)
    yield made
    made.writing.set()


def test_saving_takes_its_share_of_the_time_and_no_more(clock, tmp_path):
    writer = StateWriter(tmp_path / "state.pt")
    clock.writing.set()
    assert writer.due()
    for number in range(3):
        writer.save({"number": number}, wait=True)
        assert not writer.due()
        clock.now += 0.99 * COPYING_S / SAVE_SHARE
        assert not writer.due()
        clock.now += 0.02 * COPYING_S / SAVE_SHARE
        assert writer.due()
        assert load_state(writer.path)["number"] == number


def test_no_state_is_due_while_the_last_one_is_being_written(clock, tmp_path):
    writer = StateWriter(tmp_path / "state.pt")
    writer.save({"number": 0})
    clock.now += 100 * COPYING_S / SAVE_SHARE
    assert not writer.due()
    clock.writing.set()
    writer.join()
    assert writer.due()


def counted(counts, die_at, arguments):
    """The training command; writes a line for each update, and kills its process in the place of one of them."""
    train_step = trainer.Trainer.train_step

    def step(self, parts):
        self.writer.join()  # whatever the disk is busy with, the state of the update before is there
        if self.step == die_at:
            os.kill(os.getpid(), signal.SIGKILL)
        with open(counts, "a", encoding="ascii") as file:
            file.write(f"{self.step}\n")
        train_step(self, parts)

    checkpoint.SAVE_SHARE = 1e9  # any save is worth it
    trainer.Trainer.train_step = step
    return command.main(arguments)


def test_a_killed_run_does_what_is_left_and_nothing_twice(tmp_path):
    data, run = tiny.make_set(tmp_path / "set"), tmp_path / "run"
    words = ("method=supervised", "train.epochs=5", "train.save_every=1", "train.log_every=1", "train.validate_every=0")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(to_dict(tiny.settings(data, *words))))
    updates = {}
    for name, die_at, status in (("first", 11, -signal.SIGKILL), ("second", 14, -signal.SIGKILL), ("third", -1, 0)):
        arguments = ["--config", str(tmp_path / "config.yaml"), "--resume", str(run), "--quiet"]
        process = tiny.start(counted, str(tmp_path / name), die_at, arguments)
        process.join()
        assert process.exitcode == status
        updates[name] = [int(line) for line in (tmp_path / name).read_text().split()]
        if status:
            assert load_state(run / "state.pt")["step"] == die_at
            assert [row["step"] for row in read_rows(run, "train")] == list(range(1, die_at + 1))
    assert updates == {"first": list(range(11)), "second": list(range(11, 14)), "third": list(range(14, 20))}
    assert [row["step"] for row in read_rows(run, "train")] == list(range(1, 21))


@pytest.fixture
def stopped(tmp_path):
    """A run that was stopped after its first epoch."""
    run, config = tmp_path / "run", tmp_path / "config.yaml"
    words = ("method=supervised", "train.epochs=2", "train.batch=16", "optim.warmup_steps=0")
    config.write_text(yaml.safe_dump(to_dict(tiny.settings(tiny.make_set(tmp_path / "set"), *words))))
    with tiny.stopped_after_an_epoch():
        assert command.main(["--config", str(config), "--out", str(run)]) == EXIT_STOPPED
    return run


def test_the_best_weights_so_far_outlive_a_stop(tmp_path, monkeypatch):
    """Those of the first epoch, after which the run is stopped: accuracy falls from there."""
    validate, end_epoch = trainer.Trainer._validate, trainer.Trainer._end_epoch

    def falling(self, epoch, source):
        monkeypatch.setattr(trainer, "scores", lambda _, targets: {f"accuracy/{name}": 0.9**epoch for name in targets})
        validate(self, epoch, source)

    def stop(self, epoch):
        self.stopping = True
        end_epoch(self, epoch)

    monkeypatch.setattr(trainer.Trainer, "_validate", falling)
    words = ("method=supervised", "train.epochs=3", "train.keep=best", "train.validate_every=1")
    settings = tiny.settings(tiny.make_set(tmp_path / "set"), *words)
    whole = trainer.train(settings, tmp_path / "whole")
    assert whole.selection == "best validation accuracy, epoch 1 of 3"
    with monkeypatch.context() as patch:
        patch.setattr(trainer.Trainer, "_end_epoch", stop)
        with pytest.raises(RunInterruptedError):
            trainer.train(settings, tmp_path / "run")
    assert trainer.train(settings, tmp_path / "run", resume=True).selection == whole.selection
    weights = [(tmp_path / name / "weights.safetensors").read_bytes() for name in ("whole", "run")]
    assert weights[0] == weights[1]


def test_the_average_of_the_weights_is_what_is_deployed(tmp_path, monkeypatch):
    average, leave = {}, trainer.Trainer._leave

    def note(self):
        average.update({name: value.clone() for name, value in self.average.system.named_parameters()})
        leave(self)
        assert all(torch.equal(value, average[name]) for name, value in self.system.named_parameters())

    monkeypatch.setattr(trainer.Trainer, "_leave", note)
    settings = tiny.settings(tiny.make_set(tmp_path / "set"), "method=supervised", "train.epochs=1", "optim.ema=0.9")
    assert trainer.train(settings, tmp_path / "run").selection == "last epoch of 1, average of the weights"
    assert average


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("model", "ndf", 16),
        ("optim", "name", "sgd"),
        ("optim", "ema", 0.9),
        ("train", "batch", 8),
        ("optim", "lr", 1.0),
    ],
)
def test_a_run_whose_settings_were_edited_does_not_go_on(stopped, capsys, section, name, value):
    settings = yaml.safe_load((stopped / "config.yaml").read_text())
    before, settings[section][name] = settings[section][name], value
    (stopped / "config.yaml").write_text(yaml.safe_dump(settings))
    capsys.readouterr()
    assert command.main(["--resume", str(stopped), "--quiet"]) == 2
    error = capsys.readouterr().err
    assert f"{section}.{name}: {before!r} -> {value!r}" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda state: state.pop("log"),
        lambda state: state.pop("optimizers"),
        lambda state: state["optimizers"].clear(),
        lambda state: state["system"].popitem(),
        lambda state: state["system"].update(more=torch.ones(1)),
        lambda state: state["window"].clear(),
    ],
)
def test_a_state_of_another_version_is_named(stopped, capsys, change):
    state = load_state(stopped / "state.pt")
    change(state)
    checkpoint.save_state(stopped / "state.pt", state)
    capsys.readouterr()
    assert command.main(["--resume", str(stopped), "--quiet"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {stopped / 'state.pt'} does not fit the run")
    assert error.count("\n") == 1


def test_a_state_of_another_format_is_refused_by_its_version(tmp_path):
    path = tmp_path / "state.pt"
    checkpoint.save_state(path, {"stage": 0, "step": 1})
    state = load_state(path)
    for version in (state["version"] + 1, None):
        torch.save({**state, "version": version}, path)
        with pytest.raises(CheckpointError, match=f"is a state of version {version}; this program reads version "):
            load_state(path)


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ({"stage": 2}, "was saved in stage 3, and method supervised has 1 (train):"),
        ({"stage": 1}, "was saved in stage 2, and method supervised has 1 (train):"),
        ({"stage": -1}, "was saved in stage 0, and method supervised has 1 (train):"),
        ({"step": 5}, "was saved after update 5 of stage train, which has 4:"),
        ({"step": -1}, "was saved after update -1 of stage train, which has 4:"),
    ],
)
def test_a_state_of_a_stage_or_update_that_there_is_not_is_refused(stopped, capsys, place, said):
    state = load_state(stopped / "state.pt")
    state.update(place)
    checkpoint.save_state(stopped / "state.pt", state)
    before = {path: path.read_bytes() for path in stopped.iterdir() if path.is_file()}
    capsys.readouterr()
    assert command.main(["--resume", str(stopped), "--quiet"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {stopped / 'state.pt'} {said}")
    assert "--overwrite" in error
    assert error.count("\n") == 1
    assert {path: path.read_bytes() for path in stopped.iterdir() if path.is_file()} == before


def test_where_a_run_goes_on_is_no_edited_setting(stopped):
    settings = yaml.safe_load((stopped / "config.yaml").read_text())
    settings["train"]["threads"], settings["out"], settings["model"]["init_from"] = 2, "elsewhere", "moved"
    (stopped / "config.yaml").write_text(yaml.safe_dump(settings))
    assert command.main(["--resume", str(stopped), "--quiet"]) == 0


def test_a_run_whose_log_was_edited_is_refused_before_any_work(stopped, capsys):
    log = stopped / "metrics.jsonl"
    log.write_bytes(log.read_bytes()[1:] + b"\n")
    capsys.readouterr()
    assert command.main(["--resume", str(stopped), "--quiet"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {log} is damaged in line 1")
    assert error.count("\n") == 1
    assert load_state(stopped / "state.pt")["step"] == 2


def test_a_run_that_lost_its_settings_goes_on_with_the_same_and_loses_nothing_to_others(stopped, capsys):
    config, saved = stopped.parent / "config.yaml", (stopped / "config.yaml").read_text()
    (stopped / "config.yaml").unlink()
    before = {path: path.read_bytes() for path in stopped.iterdir() if path.is_file()}
    for words in (
        ["--resume", str(stopped)],
        ["--config", str(config), "--out", str(stopped)],
        ["--config", str(config), "--resume", str(stopped), "optim.lr=0.5"],
    ):
        capsys.readouterr()
        assert command.main([*words, "--quiet"]) == 2
        assert capsys.readouterr().err.count("\n") == 1
        assert {path: path.read_bytes() for path in stopped.iterdir() if path.is_file()} == before
    assert command.main(["--config", str(config), "--resume", str(stopped), "--quiet"]) == 0
    assert [row["step"] for row in read_rows(stopped, "train")] == [2, 3, 4]
    assert (stopped / "config.yaml").read_text() == saved
    (stopped / "config.yaml").unlink()
    assert command.main(["--config", str(config), "--out", str(stopped), "--quiet"]) == 2
    assert (stopped / "weights.safetensors").exists()
