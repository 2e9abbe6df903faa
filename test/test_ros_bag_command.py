"""``python -m mmcl_ros.evaluate_bag``: the files it writes, and what it says and refuses."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

pytest.importorskip("rosbags", reason="rosbags is not installed: pip install rosbags")

from ros_bags import command, tiny_model

from mmcl_ros.evaluate_bag import main

ROOT = Path(__file__).resolve().parents[1]


def test_two_runs_of_the_command_write_the_same_bytes(recording, tmp_path, capsys):
    model, more = tiny_model(tmp_path / "run"), ("--drop", "depth:1.5-1.7", "--drop", "rgb:0.0-0.2")
    for name in ("one", "two"):
        arguments = command(*recording, model, tmp_path / name)
        assert main([*arguments, "--modality", "rgb", "depth", "rgbd", "--drop", "depth:0.5-1.0", *more]) == 0
    assert "rgbd   accuracy" in capsys.readouterr().out
    for modality in ("rgb", "depth", "rgbd"):
        files = [(tmp_path / name / f"predictions_{modality}.csv").read_bytes() for name in ("one", "two")]
        assert files[0] == files[1]
        assert files[0].count(b"\n") == 41
        picture = cv2.imread(str(tmp_path / "one" / f"confusion_{modality}.png"))
        assert min(picture.shape[:2]) > 100
    pictures = [(tmp_path / name / "answers.png").read_bytes() for name in ("one", "two")]
    assert pictures[0] == pictures[1]
    report = json.loads((tmp_path / "one" / "metrics.json").read_text())
    assert set(report["modalities"]) == {"rgb", "depth", "rgbd"}
    assert report["drop"] == {"depth": [[0.5, 1.0], [1.5, 1.7]], "rgb": [[0.0, 0.2]]}
    lost = {name: report["modalities"][name]["rejected"]["no_picture"] for name in ("rgb", "depth")}
    assert lost == {"rgb": 4, "depth": 14}
    assert report["mirror"] is False


def test_mirror_images_are_looked_at_where_that_is_asked_for(recording, tmp_path):
    model, scores = tiny_model(tmp_path / "run"), []
    for words in ([], ["--mirror"]):
        assert main([*command(*recording, model, tmp_path / "out"), "--modality", "rgb", *words]) == 0
        assert json.loads((tmp_path / "out" / "metrics.json").read_text())["mirror"] is bool(words)
        with (tmp_path / "out" / "predictions_rgb.csv").open(newline="") as file:
            scores.append([row["score"] for row in csv.DictReader(file)])
    assert scores[0] != scores[1]


def test_answers_below_the_score_that_is_asked_for_are_rejected(recording, tmp_path, capsys):
    arguments = [*command(*recording, tiny_model(tmp_path / "run"), tmp_path / "out"), "--modality", "rgb"]
    for least, rejected in (("0", 0), ("1", 40)):
        assert main([*arguments, "--min-score", least]) == 0
        assert f"of 40 boxes, {rejected} rejected" in capsys.readouterr().out


def test_a_stretch_that_loses_no_picture_is_told(recording, tmp_path, capsys):
    arguments = command(*recording, tiny_model(tmp_path / "run"), tmp_path / "out")
    for stretch, told in (("0.5-1.0", False), ("50-60", True)):
        assert main([*arguments, "--modality", "depth", "--drop", f"depth:{stretch}"]) == 0
        assert ("dropping depth: no picture is lost" in capsys.readouterr().err) == told


def test_the_command_needs_no_ros(recording, tmp_path):
    """In a process that cannot import rclpy."""
    model = tiny_model(tmp_path / "run")
    code = (
        "import sys; sys.modules['rclpy'] = None; sys.path.insert(0, sys.argv.pop(1));"
        "from mmcl_ros.evaluate_bag import main; sys.exit(main(sys.argv[1:]))"
    )
    arguments = command(*recording, model, tmp_path / "out")
    done = subprocess.run(
        [sys.executable, "-c", code, str(ROOT), *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "metrics.json").exists()


def test_an_error_of_the_command_is_one_line(tmp_path, capsys):
    assert main(command(tmp_path / "no", tmp_path / "no.csv", tmp_path / "no", tmp_path / "out")) == 2
    err = capsys.readouterr().err.strip()
    assert err.startswith("error: no recording at")
    assert "\n" not in err


def test_an_out_that_is_a_file_is_refused_before_the_work(recording, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("mmcl_ros.evaluate_bag.evaluate", lambda *_: pytest.fail("worked in vain"))
    bag, table = recording
    assert main(command(bag, table, tiny_model(tmp_path / "run"), table)) == 2
    assert f"error: {table}: File exists" in capsys.readouterr().err


def test_the_command_says_what_makes_figures_other_than_they_seem(recording, tmp_path, capsys):
    bag, table = recording
    model = tiny_model(tmp_path / "run")
    rows = list(csv.DictReader(table.open()))
    for number, row in enumerate(rows):
        if number >= 10:  # two boxes a picture
            row["stamp_ns"] = int(row["stamp_ns"]) + 10**12
        row["width"], row["height"] = (200, 100) if number >= 2 else ("", "")
    shifted = tmp_path / "shifted.csv"
    with shifted.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    assert main([*command(bag, shifted, model, tmp_path / "out"), "--modality", "rgb"]) == 0
    told = [line.partition(" WARNING ")[2] for line in capsys.readouterr().err.splitlines()]
    assert "rgb: 15 of 20 true pictures have none in the recording within 0.02 s of their stamp" in told
    (problem,) = [line for line in told if line.startswith("rgb: in 4 of 20 pictures, rgb: boxes are of a 200 x 100")]
    figures = json.loads((tmp_path / "out" / "metrics.json").read_text())["modalities"]["rgb"]
    assert figures["problems"] == {problem.removeprefix("rgb: in 4 of 20 pictures, "): 4}
    for wrong, message in (
        ("--window=-1", "--window must be 0 or more seconds"),
        ("--window=nan", "--window must be 0 or more seconds"),
        ("--min-score=2", "--min-score must be 0 to 1"),
        ("--box-scale=9", "--box-scale must be 0 to 5"),
    ):
        assert main([*command(bag, table, model, tmp_path / "out"), wrong]) == 2
        assert message in capsys.readouterr().err
