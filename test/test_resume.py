"""Runs that are killed, stopped or damaged, in real processes. Bit-equality is tested on the CPU, one thread."""

from __future__ import annotations

import os
import random
import shutil
import signal
import time

import pytest
import tiny
import torch
import yaml
from small_sets import full_disk
from tiny import length, read, run_command

from mmcl_core import train as command
from mmcl_core.atomic import write_atomically, write_together
from mmcl_core.cli import EXIT_STOPPED
from mmcl_core.config import to_dict
from mmcl_core.engine import runlog
from mmcl_core.engine.checkpoint import StateWriter, load_state, save_state
from mmcl_core.engine.runlog import RunLog
from mmcl_core.errors import CheckpointError

VARIANTS = {
    "mmcl": ("optim.ema=0.9", "train.keep=best", "train.epochs=5", "model.dropout=0.3", "train.accumulate=2"),
    "two_step": ("method=two_step", "train.probe=1", "train.epochs=2", "train.head_epochs=3"),
}
#: Methods whose steps follow from more than weights, statistics and optimisers, or that drop pictures at random.
DRAWING = {
    "cmc": ("method=cmc", "cmc.width=8", "cmc.negatives=7", "train.epochs=3", "cmc.probe_epochs=2"),
    "input_dropout": ("method=input_dropout", "input_dropout.drop=either", "train.epochs=4"),
    "moddrop": ("method=moddrop", "moddrop.alone_epochs=2", "train.epochs=3"),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.make_set(tmp_path_factory.mktemp("resume") / "set", missing=True, unlabelled=5)


@pytest.fixture(scope="module", params=VARIANTS)
def uninterrupted(request, data, tmp_path_factory):
    """Settings file of a run, and what it leaves when it is left alone."""
    folder = tmp_path_factory.mktemp(request.param)
    config = tiny.settings(data, "train.save_every=1", *VARIANTS[request.param])
    (folder / "config.yaml").write_text(yaml.safe_dump(to_dict(config)))
    assert run_command("--config", folder / "config.yaml", "--out", folder / "run") == 0
    return folder / "config.yaml", read(folder / "run")


def test_killed_at_any_moment(uninterrupted, tmp_path):
    """SIGKILL at random moments of the run: the first while it starts, the others after so much of the log."""
    config, expected = uninterrupted
    run, draw = tmp_path / "run", random.Random(3)
    arguments = ("--config", config, "--resume", run)
    marks = sorted(draw.uniform(0, 0.98) * len(expected["metrics.jsonl"]) for _ in range(4))

    def kill(process):
        time.sleep(draw.uniform(0, 0.05))  # not only right after a row was written
        process.kill()

    statuses = [run_command(*arguments, until=run.exists, do=kill)]
    for mark in marks:
        statuses.append(run_command(*arguments, until=lambda m=mark: length(run / "metrics.jsonl") > m, do=kill))
    assert statuses.count(-signal.SIGKILL) >= 4
    assert run_command(*arguments) == 0
    assert read(run) == expected
    assert not [path.name for path in run.iterdir() if path.name.startswith("state") or path.suffix == ".part"]


@pytest.mark.parametrize("name", DRAWING)
def test_memory_and_dropping_go_on_where_they_were(name, data, tmp_path):
    """SIGKILL in either half of the run; the weights are those of a run that was left alone."""
    config, run = tmp_path / "config.yaml", tmp_path / "run"
    settings = tiny.settings(data, "train.save_every=1", "train.validate_every=0", *DRAWING[name])
    config.write_text(yaml.safe_dump(to_dict(settings)))
    assert run_command("--config", config, "--out", tmp_path / "alone") == 0
    expected = read(tmp_path / "alone")
    for share in (0.3, 0.7):
        mark = share * len(expected["metrics.jsonl"])
        status = run_command(
            *("--config", config, "--resume", run),
            until=lambda m=mark: length(run / "metrics.jsonl") > m,
            do=lambda process: process.kill(),
        )
        assert status == -signal.SIGKILL
    assert run_command("--resume", run) == 0
    assert read(run) == expected


def test_killed_while_the_folder_was_made(uninterrupted, tmp_path):
    config, expected = uninterrupted
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml.123.part").write_text("method: mm")
    assert run_command("--config", config, "--resume", run) == 0
    assert read(run) == expected
    assert not list(run.glob("*.part"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1], ids=["SIGTERM", "SIGUSR1"])
def test_signal_saves_and_exits(uninterrupted, tmp_path, number):
    config, expected = uninterrupted
    run = tmp_path / "run"
    begun = run_command(
        *("--config", config, "--out", run),
        until=lambda: length(run / "metrics.jsonl") > 0,
        do=lambda process: os.kill(process.pid, number),
    )
    assert begun == EXIT_STOPPED
    assert load_state(run / "state.pt")["step"] > 0
    assert not (run / "weights.safetensors").exists()
    assert run_command("--resume", run) == 0
    assert read(run) == expected


def test_damaged_state_is_not_loaded(tmp_path):
    path = tmp_path / "state.pt"
    save_state(path, {"weights": torch.arange(5000.0)})
    content = path.read_bytes()
    for part in (
        content[: len(content) // 2],
        content[:-7],
        b"",
        b"x\n",
        b"PK\x03\x04",
        b"admd:\n  lr: 1",
        b"M",
        b"h\x96",
    ):
        path.write_bytes(part)
        with pytest.raises(CheckpointError, match=str(path)) as caught:
            load_state(path)
        assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match="no saved state"):
        load_state(tmp_path / "other.pt")


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    write_atomically(path, lambda file: file.write(b"old"))

    def fail(file):
        file.write(b"new but incomplete")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, fail)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_files_that_belong_together_are_all_old_or_all_new(tmp_path):
    table, last = tmp_path / "table", tmp_path / "last"
    write_together({table: b"old", last: b"old"})
    with pytest.raises(OSError, match="File too large") as caught, full_disk(4):
        write_together({table: b"new", last: b"newer"})
    assert caught.value.filename == str(last)
    assert (table.read_bytes(), last.read_bytes()) == (b"old", b"old")
    write_together({table: b"new", last: lambda file: file.write(b"newer")})
    assert (table.read_bytes(), last.read_bytes()) == (b"new", b"newer")
    assert len(list(tmp_path.iterdir())) == 2


def test_background_writer_copies_before_it_returns(tmp_path):
    writer, weights = StateWriter(tmp_path / "state.pt"), torch.ones(1000)
    writer.save({"weights": weights})
    weights.zero_()
    writer.join()
    assert load_state(tmp_path / "state.pt")["weights"].eq(1).all()
    failing = StateWriter(tmp_path / "no" / "folder" / "state.pt")
    failing.save({})
    with pytest.raises(CheckpointError, match="cannot write"):
        failing.join()


def test_a_full_disk_keeps_the_last_state_and_says_so(tmp_path):
    writer = StateWriter(tmp_path / "state.pt")
    writer.save({"step": 1}, wait=True)
    with pytest.raises(CheckpointError, match="File too large"), full_disk(1 << 16):
        writer.save({"step": 2, "weights": torch.ones(1 << 16)}, wait=True)
    assert load_state(tmp_path / "state.pt")["step"] == 1
    assert [path.name for path in tmp_path.iterdir()] == ["state.pt"]


def test_a_full_disk_is_told_with_the_name_of_the_log(tmp_path, monkeypatch):
    monkeypatch.setattr(runlog, "_tensorboard", lambda run: None)
    with pytest.raises(OSError, match=r"metrics\.jsonl"), RunLog(tmp_path, None) as log, full_disk(8):
        log.row({"split": "train", "step": 0, "loss": 1.0})


def test_resume_with_other_settings_names_them(uninterrupted, tmp_path, capsys):
    config, _ = uninterrupted
    finished = config.parent / "run"
    assert command.main(["--config", str(config), "--resume", str(finished), "optim.lr=0.5"]) == 2
    assert "optim.lr: 0.001 -> 0.5" in capsys.readouterr().err
    assert command.main(["--resume", str(finished)]) == 0  # finished: nothing is done
    assert command.main(["--config", str(config), "--out", str(finished)]) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert command.main(["--resume", str(tmp_path)]) == 2
    assert "no run to resume" in capsys.readouterr().err


def test_what_may_differ_is_as_it_was_where_nothing_else_is_said(uninterrupted, data, tmp_path, monkeypatch):
    """The data of a run are named by its folder, not by the file of settings it was made from."""
    settings = yaml.safe_load(uninterrupted[0].read_text()) | {"out": ""}
    settings["data"] = settings["data"] | {"root": str(tmp_path / "other")}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(settings))
    run = tmp_path / "run"
    shutil.copytree(uninterrupted[0].parent / "run", run)
    parse = command._parser().parse_intermixed_args
    config, _ = command.settings(parse(["--config", str(tmp_path / "tiny.yaml"), "--resume", str(run)]))
    assert config.data.root == str(data)
    config, _ = command.settings(
        parse(["--config", str(tmp_path / "tiny.yaml"), "--resume", str(run), "--data", "elsewhere", "train.threads=3"])
    )
    assert (config.data.root, config.train.threads) == ("elsewhere", 3)
    words = ["--config", str(tmp_path / "tiny.yaml"), "--resume", str(run), "train={threads: 3}"]
    config, _ = command.settings(parse(words))
    assert config.train.threads == 3


def test_a_state_saved_before_the_first_new_row_holds_the_length_of_the_log(tmp_path):
    log = RunLog(tmp_path, None)
    log.row({"split": "train", "step": 1})
    offsets = log.offsets()
    log.row({"split": "train", "step": 2})
    log.close()
    resumed = RunLog(tmp_path, offsets)
    assert resumed.offsets() == offsets
    resumed.close()
