"""Run folders: which are taken and which are refused, their lock, their log and their report."""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest
import tiny

from mmcl_core.config import Config
from mmcl_core.engine import runfolder
from mmcl_core.engine.report import try_report
from mmcl_core.engine.runlog import RunLog, read_rows
from mmcl_core.engine.trainer import train
from mmcl_core.errors import CheckpointError, ConfigError, DataError
from mmcl_core.weights import load_weights


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.make_set(tmp_path_factory.mktemp("runfolder") / "set")


def test_folders_that_are_taken(data, tmp_path):
    config = tiny.settings(data, "train.epochs=1")
    other = tmp_path / "pictures"
    other.mkdir()
    (other / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(ConfigError, match="not empty"):
        train(config, other)
    with pytest.raises(ConfigError, match="not empty"):
        train(config, other, overwrite=True)
    run = tmp_path / "run"
    train(config, run)
    with pytest.raises(ConfigError, match="finished run"):
        train(config, run)
    (run / "note.txt").write_text("mine")
    (run / "evaluation" / "set-test").mkdir(parents=True)
    train(tiny.settings(data, "train.epochs=1", "seed=1"), run, overwrite=True)
    assert load_weights(run)[1]["seed"] == 1
    assert (run / "note.txt").exists()
    assert not (run / "evaluation").exists()  # it would be shown as that of the new weights


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name", ["report", "evaluation", "metrics.csv"])
def test_what_is_named_as_a_part_of_a_run_and_is_of_none_stays(tmp_path, name, overwrite):
    own = tmp_path / "thesis" / name
    own.parent.mkdir()
    if own.suffix:
        own.write_text("mine")
    else:
        own.mkdir()
    with pytest.raises(ConfigError, match=rf"not empty \({name}\) and holds no run; take another --out"):
        runfolder.start_folder(own.parent, Config(), overwrite)
    assert [path.name for path in own.parent.iterdir()] == [name]


def test_settings_of_something_else_are_no_run(tmp_path):
    for text in ("project: x", "[1]", ": no: yaml"):
        (tmp_path / "config.yaml").write_text(text)
        (tmp_path / "report").mkdir(exist_ok=True)
        with pytest.raises(ConfigError, match=r"config.yaml is not that of a run: .* is left alone"):
            runfolder.start_folder(tmp_path, Config(), overwrite=True)
    assert (tmp_path / "report").exists()
    runfolder.write_config(tmp_path, Config())
    runfolder.start_folder(tmp_path, Config(), overwrite=True)
    assert not (tmp_path / "report").exists()


def test_exports_of_a_replaced_run_are_named(tmp_path, caplog):
    run = tmp_path / "run"
    for name in ("weights.safetensors", "compact.safetensors", "int8/rgb.onnx", "onnx/depth.onnx", "onnx/rgb.onnx"):
        (run / name).parent.mkdir(parents=True, exist_ok=True)
        (run / name).touch()
    runfolder.start_folder(run, Config(), overwrite=True)
    (record,) = caplog.records
    assert "goes on with the old model: compact.safetensors, int8/rgb.onnx, onnx/depth.onnx, onnx/rgb.onnx; export" in (
        record.getMessage()
    )
    assert (run / "onnx" / "rgb.onnx").exists()
    caplog.clear()
    runfolder.start_folder(tmp_path / "new", Config(), overwrite=True)
    assert not caplog.records


def test_one_training_a_folder(data, tmp_path):
    """A second one would mix its log and its state with those of the first."""
    config, run = tiny.settings(data, "train.epochs=1"), tmp_path / "runs" / "run"
    with runfolder.locked(run):
        for how in ({"resume": True}, {"overwrite": True}, {}):
            with pytest.raises(DataError, match="run is being written by another process"):
                train(config, run, **how)
        assert not list(run.iterdir())
    assert not run.exists()
    train(config, run)  # the lock is gone
    with runfolder.locked(run, main=False), runfolder.locked(run):
        pass
    assert runfolder.is_finished(run)


@pytest.mark.parametrize(
    ("setting", "error", "message"),
    [
        ("data.train_split=training", DataError, "give data.train_split=train"),
        ("model.depth_encoding=stored", ConfigError, "metric depth"),
    ],
)
def test_a_refused_training_leaves_no_folder_that_it_made(data, tmp_path, setting, error, message):
    (tmp_path / "mine").mkdir()
    for run in ("runs/of/today/run", "mine/run", "mine/deeper/run"):
        with pytest.raises(error, match=message):
            train(tiny.settings(data, setting), tmp_path / run)
        assert [path.name for path in tmp_path.rglob("*")] == ["mine"]


def test_folders_above_a_run_that_others_use_meanwhile_stay(tmp_path):
    with runfolder.locked(tmp_path / "runs" / "mine"):
        (tmp_path / "runs" / "theirs").mkdir()
    assert [path.name for path in tmp_path.rglob("*")] == ["runs", "theirs"]


def test_a_run_whose_folder_cannot_be_made_leaves_none_above_it(tmp_path, monkeypatch):
    run, mkdir = tmp_path / "runs" / "today" / "run", Path.mkdir

    def refuse(path, *words, **options):
        if path == run and path.parent.exists():
            raise OSError(errno.EDQUOT, "Disk quota exceeded")
        mkdir(path, *words, **options)

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(OSError, match="quota"), runfolder.locked(run):
        pass
    assert not list(tmp_path.iterdir())


def test_a_folder_that_another_training_has_made_meanwhile_stays(tmp_path, monkeypatch):
    run, lock_folder, theirs = tmp_path / "runs" / "run", runfolder.lock_folder, []

    def come_second(folder):
        theirs.append(lock_folder(folder))
        return lock_folder(folder)

    monkeypatch.setattr(runfolder, "lock_folder", come_second)
    with pytest.raises(DataError, match="another process"), runfolder.locked(run):
        pass
    assert os.path.samestat(os.fstat(theirs[0]), run.stat())
    os.close(theirs[0])


def test_a_report_that_cannot_be_written_is_a_line(tmp_path, caplog):
    (tmp_path / "report").touch()
    try_report(tmp_path)
    (record,) = caplog.records
    assert "the report could not be written" in record.getMessage()
    assert record.exc_info is None


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with runfolder.locked(tmp_path / "run"):
        (tmp_path / "run" / "config.yaml").touch()
    assert (tmp_path / "run" / "config.yaml").exists()


def test_log_is_cut_back_to_the_saved_state(tmp_path):
    log = RunLog(tmp_path, None)
    log.row({"split": "train", "step": 1, "loss": 0.1})
    offsets = log.offsets()
    log.row({"split": "train", "step": 2, "loss": 0.2})
    log.timing({"step": 2, "seconds": 3.0})
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"split": "tra')  # killed while writing
    assert [row["step"] for row in read_rows(tmp_path)] == [1, 2]
    log = RunLog(tmp_path, offsets)
    log.row({"split": "train", "step": 2, "loss": 0.3})
    log.close()
    assert [row["loss"] for row in read_rows(tmp_path)] == [0.1, 0.3]
    assert (tmp_path / "timings.jsonl").read_text() == ""
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(CheckpointError, match="shorter"):
        RunLog(tmp_path, offsets)
