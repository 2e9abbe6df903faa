"""``prepare`` as a command: what it says, shards, what is replaced, and how it goes on after an interruption."""

import filecmp
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from small_sets import failure, files, run, words, write_crop

from mmcl_core.cli import as_plain_text
from mmcl_core.config import DataConfig
from mmcl_core.data import runner
from mmcl_core.data.cache import PreparedSet
from mmcl_core.data.sources import data_sets
from mmcl_core.data.splits import split_indices
from mmcl_core.data.writer import PreparedWriter
from mmcl_core.errors import DataError
from mmcl_core.prepare import main

pytestmark = pytest.mark.usefixtures("usual_log")


def test_the_summary_tells_how_far_things_are_and_a_command_that_runs(crops, tmp_path, capfd):
    run(crops, tmp_path / "set")
    out = capfd.readouterr().out
    assert "depth: the crops are 0." in out
    assert "--depth-unit" not in out
    assert out.rstrip().endswith("train.batch=14")
    run(crops, tmp_path / "far", "--depth-unit", "10mm")
    assert " m); that is far: is --depth-unit right?" in capfd.readouterr().out
    for path in crops.rglob("*_depth.png"):
        path.unlink()
    (crops / "train").rename(crops / "Training")
    run(crops, tmp_path / "colour")
    said = capfd.readouterr().out
    assert said.rstrip().endswith("data.train_split=Training train.modalities=rgb method=supervised train.batch=14")
    with pytest.raises(DataError, match=r"no split 'train'; it has Training, test; give data\.train_split=Training"):
        split_indices(PreparedSet.open(tmp_path / "colour"), DataConfig(), 0)


def test_any_number_of_workers_and_any_shards_give_the_same_set(crops, tmp_path):
    (crops / "train" / "mug" / "0001_000003_rgb.png").write_bytes(b"broken")
    (crops / "train" / "mug" / "lone_mask.png").write_bytes(b"")
    run(crops, tmp_path / "one")
    for number in range(2):
        assert run(crops, tmp_path / f"part{number}", "--shard", f"{number}/2")[0] == 0
    arguments = ["folder", "--source", str(crops), "--out", str(tmp_path / "two"), "--size", "20", "--workers", "2"]
    assert main(arguments) == 0
    merge = ["merge", "--source", str(tmp_path / "part0"), str(tmp_path / "part1"), "--out", str(tmp_path / "merged")]
    assert main(merge) == 0
    assert files(tmp_path / "two") == files(tmp_path / "one")
    assert files(tmp_path / "merged") == files(tmp_path / "one")


def test_a_link_to_an_empty_folder_is_written_through(crops, tmp_path):
    (tmp_path / "disk" / "set").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "set")
    for options in ((), ("--overwrite",)):
        run(crops, tmp_path / "link", *options)
        assert (tmp_path / "link").is_symlink()
        assert [path.name for path in (tmp_path / "disk").iterdir()] == ["set"]
        assert len(PreparedSet.open(tmp_path / "disk" / "set")) > 0


def test_limit(crops, tmp_path):
    assert len(run(crops, tmp_path / "set", "--limit", "5")[1]) == 5


def test_an_existing_set_is_replaced_only_when_asked(crops, tmp_path, capfd):
    run(crops, tmp_path / "set", "--limit", "2")
    line = failure(capfd, "folder", "--source", str(crops), "--out", str(tmp_path / "set"))
    assert "not empty" in line
    assert "--overwrite" in line
    assert len(run(crops, tmp_path / "set", "--limit", "3", "--overwrite")[1]) == 3


def test_help_names_every_data_set_with_examples(capfd):
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    text = capfd.readouterr().out
    for name, data_set in data_sets().items():
        assert name in text
        with pytest.raises(SystemExit):
            main([name, "--help"])
        page = capfd.readouterr().out
        assert as_plain_text(data_set.description).strip().splitlines()[0] in page
        assert not re.search(r"``|\*\*\w|:\w+:`", page)
        assert f"python -m mmcl_core.prepare {name} --source" in page


def test_interrupting_the_command_ends_it_without_a_half_set(crops, tmp_path):
    for number in range(4000):
        os.link(crops / "train" / "mug" / "0001_000000_rgb.png", crops / "train" / "mug" / f"{number}_rgb.png")
    process = subprocess.Popen(
        [sys.executable, "-m", "mmcl_core.prepare", "folder", "--source", str(crops), "--out", str(tmp_path / "set"),
         "--workers", "2"],
        stderr=subprocess.PIPE, start_new_session=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a job in the background ignores it
    )  # fmt: skip
    try:
        labels = tmp_path / "set.partial" / "rgb.u8"
        while not (labels.exists() and labels.stat().st_size) and process.poll() is None:
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)
        error = process.communicate(timeout=60)[1].decode()
    finally:
        process.kill()
    assert process.returncode == 130
    assert "interrupted" in error
    assert "Traceback" not in error
    assert not (tmp_path / "set").exists()
    partial = tmp_path / "set.partial"  # stays only where its state was noted, which happens every few seconds
    assert (partial / "progress.json").is_file() == partial.exists()
    assert ("--resume" in error) == partial.exists()


def stop_after(monkeypatch, samples):
    """The next runs note every task and end after so many samples."""
    monkeypatch.setattr(runner, "SAVE_EVERY_S", 0.0)
    add = PreparedWriter.add

    def counting(self, sample):
        if len(self) >= samples:
            raise KeyboardInterrupt
        add(self, sample)

    monkeypatch.setattr(PreparedWriter, "add", counting)


def same_files(one, two):
    names = sorted(path.name for path in one.iterdir() if path.name != "sheet.png")
    return names == sorted(path.name for path in two.iterdir() if path.name != "sheet.png") and not any(
        filecmp.cmpfiles(one, two, names, shallow=False)[1:]
    )


@pytest.mark.parametrize("samples", [1, 4, 6])
def test_an_interrupted_job_goes_on_to_the_same_set(damaged_crops, tmp_path, monkeypatch, capfd, samples):
    run(damaged_crops, tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_after(patch, samples)
        assert main(words(damaged_crops, tmp_path / "set")) == 130
    partial = tmp_path / "set.partial"
    assert (partial / "progress.json").is_file()
    with (partial / "rgb.u8").open("ab") as file:  # what was written after the last note is cut off
        file.write(b"torn")
    capfd.readouterr()
    assert "--resume" in failure(capfd, *words(damaged_crops, tmp_path / "set"))
    assert "other options" in failure(capfd, *words(damaged_crops, tmp_path / "set", "--size", "24", "--resume"))
    assert main(words(damaged_crops, tmp_path / "set", "--resume", "--workers", "2")) == 0
    assert same_files(tmp_path / "whole", tmp_path / "set")
    assert not partial.exists()
    capfd.readouterr()  # a command that is killed while it draws the sheet has finished the set
    told = f"is finished, and nothing is left to go on with: `python -m mmcl_core.prepare show {tmp_path / 'set'}`"
    assert told in failure(capfd, *words(damaged_crops, tmp_path / "set", "--resume"))


def test_resume_without_a_part_begins_and_a_damaged_part_is_refused(crops, tmp_path, monkeypatch, capfd):
    run(crops, tmp_path / "whole")
    run(crops, tmp_path / "new", "--resume")
    assert same_files(tmp_path / "whole", tmp_path / "new")
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        assert main(words(crops, tmp_path / "set")) == 130
    (tmp_path / "set.partial" / "labels.i64").write_bytes(b"")
    assert "labels.i64 is shorter" in failure(capfd, *words(crops, tmp_path / "set", "--resume"))
    (tmp_path / "set.partial" / "progress.json").write_text("{")
    assert "progress.json is damaged" in failure(capfd, *words(crops, tmp_path / "set", "--resume"))
    run(crops, tmp_path / "set", "--overwrite")
    assert same_files(tmp_path / "whole", tmp_path / "set")


@pytest.mark.parametrize(
    "change", ["last gone", "first gone", "first renamed", "one more of those done", "one more", "cameras"]
)
def test_a_changed_source_does_not_go_on(crops, tmp_path, monkeypatch, capfd, change):
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        assert main(words(crops, tmp_path / "set")) == 130
    last = json.loads((tmp_path / "set.partial" / "progress.json").read_text())["state"]["task"]
    assert last == "test/can/0002_000007"
    if change in ("last gone", "first gone"):
        key = last if change == "last gone" else "test/can/0002_000006"
        for path in (crops / key).parent.glob(f"{(crops / key).name}*"):
            path.unlink()
    elif change == "first renamed":
        for path in (crops / "test" / "can").glob("0002_000006*"):
            path.rename(path.with_name(path.name.replace("0002", "0001")))
    elif change == "cameras":  # half of the set would be without
        (crops / "cameras.csv").write_text("key,fx,fy,cx,cy\n0002_000006,50,50,20,20\n")
    else:
        write_crop(crops / ("test/can" if change == "one more of those done" else "train/mug"), "0002_0000065")
    assert "the source or the options have changed" in failure(capfd, *words(crops, tmp_path / "set", "--resume"))
    assert not (tmp_path / "set").exists()


def test_no_more_samples_than_were_asked_for_on_going_on(crops, tmp_path, monkeypatch, capfd):
    with monkeypatch.context() as patch:
        stop_after(patch, 4)
        assert main(words(crops, tmp_path / "set")) == 130
    told = "set.partial holds 4 samples already, and --limit is 2; give a greater one, or none, to go on"
    assert told in failure(capfd, *words(crops, tmp_path / "set", "--resume", "--limit", "2"))
    assert len(run(crops, tmp_path / "set", "--resume", "--limit", "5")[1]) == 5
