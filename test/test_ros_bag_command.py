"""``python -m mmcl_ros.evaluate_bag``: the files it writes, and what it says and refuses."""

import argparse
import csv
import dataclasses
import importlib
import itertools
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

pytest.importorskip("rosbags", reason="rosbags is not installed: pip install rosbags")

from ros_bags import DEPTH, RGB, column, command, make_view, run, tiny_model, write_bag
from ros_fakes import FakeRecognizer
from small_sets import full_disk

from mmcl_core.errors import ConfigError, DataError
from mmcl_ros import evaluate_bag
from mmcl_ros.bag_options import add_bag_options, cropping, open_bag
from mmcl_ros.evaluate_bag import main
from mmcl_ros.frames import FrameSettings
from mmcl_ros.record_demo import DEMO_TOPICS, record
from mmcl_ros.truth import TRUTH_COLUMNS

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
    assert report["topics"] == {"rgb": RGB, "depth": DEPTH}


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


def test_boxes_smaller_than_is_asked_for_are_no_regions(recording, tmp_path, capsys):
    """As with the parameter of the node; of the two boxes of a picture both have a side of 40 pixels."""
    arguments = [*command(*recording, tiny_model(tmp_path / "run"), tmp_path / "out"), "--modality", "rgb"]
    assert main([*arguments, "--min-box", "40"]) == 0
    assert "of 40 boxes, 0 rejected" in capsys.readouterr().out
    assert main([*arguments, "--min-box", "41"]) == 2
    assert "40 of 40 boxes are no regions, such as: rgb: the box is 40 x 40 pixels; at" in capsys.readouterr().err


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


@pytest.mark.parametrize("module", ["evaluate_bag", "crop_bag", "unpack_bag"])
def test_a_recording_is_no_place_for_what_is_made_of_it(recording, capsys, module):
    bag, table = recording
    before = sorted(bag.iterdir())
    more = {"evaluate_bag": ["--truth", str(table), "--model", "ycb21"], "crop_bag": ["--truth", str(table)]}
    command_of = importlib.import_module(f"mmcl_ros.{module}").main
    assert command_of(["--bag", str(bag), "--out", str(bag), *more.get(module, [])]) == 2
    assert f"error: --out {bag} is a recording" in capsys.readouterr().err
    assert sorted(bag.iterdir()) == before


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
    assert "rgb: 15 of 20 true pictures have none in the recording within 0.02 s of the stamp" in told
    (problem,) = [line for line in told if line.startswith("rgb: in 4 of 20 pictures, rgb: boxes are of a 200 x 100")]
    figures = json.loads((tmp_path / "out" / "metrics.json").read_text())["modalities"]["rgb"]
    assert figures["problems"] == {problem.removeprefix("rgb: in 4 of 20 pictures, "): 4}
    for wrong, message in (
        ("--window=-1", "--window must be 0 or more seconds"),
        ("--window=nan", "--window must be 0 or more seconds"),
        ("--min-score=2", "--min-score must be 0 to 1"),
        ("--box-scale=9", "--box-scale must be 0 to 5"),
        ("--device=nowhere", "device is 'nowhere'"),
        ("--min-box=0", "--min-box at least 1"),
    ):
        assert main([*command(bag, table, model, tmp_path / "out"), wrong]) == 2
        assert message in capsys.readouterr().err


def options(*words):
    """What the commands on recordings take, as they read it."""
    parser = argparse.ArgumentParser()
    add_bag_options(parser)
    return parser.parse_args([*map(str, words)])


def test_what_the_command_line_says_of_cutting_is_how_boxes_are_cut():
    """The bounds that an error names are among what is taken."""
    assert cropping(options("--bag", "bag")) == FrameSettings()
    most = options("--bag", "bag", "--box-scale", 5, "--min-depth-valid", 1, "--assume-registered", "--window", 0)
    assert cropping(most) == FrameSettings(box_scale=5.0, min_depth_valid=1.0, assume_registered=True)
    least = options("--bag", "bag", "--box-scale", 0, "--min-depth-valid", 0)
    assert cropping(least) == FrameSettings(box_scale=0.0, min_depth_valid=0.0)
    for name, value in (("--min-depth-valid", 1.1), ("--window", "inf")):
        with pytest.raises(ConfigError, match=name):
            cropping(options("--bag", "bag", name, value))


def test_topics_that_the_command_line_names_are_read(recording):
    names = {"rgb": DEMO_TOPICS["depth_info"], "depth": DEMO_TOPICS["rgb_info"]}
    words = [word for name, topic in names.items() for word in (f"--{name}-info-topic", topic)]
    with open_bag(options("--bag", recording[0], *words)) as bag:
        assert bag.topics.infos == names
    with pytest.raises(DataError, match="has no topic /nope"):
        open_bag(options("--bag", recording[0], "--detections-topic", "/nope"))


def test_a_wider_window_takes_pictures_of_other_stamps(recording, tmp_path):
    bag, table = recording
    head, *rows = table.read_text().splitlines()
    late = [f"{int(row.split(',')[0]) + 30_000_000},{row.split(',', 1)[1]}" for row in rows]
    (tmp_path / "late.csv").write_text("\n".join([head, *late]))
    arguments = command(bag, tmp_path / "late.csv", tiny_model(tmp_path / "run"), tmp_path / "out")
    assert main([*arguments, "--window", "0.04"]) == 0
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["modalities"]["auto"]["unpaired"] == 0


def test_auto_does_without_a_sensor_that_was_not_recorded(tmp_path):
    stamps = range(10**9, 5 * 10**9, 10**9)
    bag = write_bag(tmp_path / "bag", [("/depth", "depth", stamp, stamp) for stamp in stamps])
    table = tmp_path / "boxes.csv"
    table.write_text(f"{','.join(TRUTH_COLUMNS)}\n" + "".join(f"{stamp},0,0,4,4,dark\n" for stamp in stamps))
    found = run((bag, table), ["auto"], min_depth_valid=0.0)["auto"].figures()
    assert found["answered_from"] == {"depth": 4}
    for modality, sensors in (("rgb", ["rgb", "depth"]), ("rgbd", ["rgb", "depth"]), ("auto", ["rgb"])):
        with pytest.raises(DataError, match="has no rgb pictures; its topics: /depth "):
            run((bag, table), [modality], recognizer=FakeRecognizer(sensors))


def test_four_pictures_from_the_first_to_the_last_are_shown_as_each_modality_saw_them(recording):
    found = run(recording, ["rgb", "depth"])
    assert [len(one.shown) for one in found.values()] == [4, 4]
    corners = {name: [one.shown[place][-1, 0].tolist() for place in (0, -1)] for name, one in found.items()}
    assert corners["rgb"] == [[20] * 3, [120] * 3]
    assert all(red != blue for red, _, blue in corners["depth"]), "depth is shown in colours"


def test_latencies_are_milliseconds_of_each_picture(recording, monkeypatch):
    looks = itertools.count()
    monkeypatch.setattr(evaluate_bag, "time", SimpleNamespace(perf_counter=lambda: next(looks) ** 2))
    total = run(recording, ["rgb"])["rgb"].figures()["latency_ms"]["total"]
    seconds = [1 + 4 * picture for picture in range(20)]  # between two looks
    assert total == pytest.approx({f"p{share}": 1000 * np.percentile(seconds, share) for share in (50, 90, 99)})


def test_a_box_without_a_reading_of_depth_is_told_from_one_whose_depth_nobody_looked_at(tmp_path):
    view = dataclasses.replace(make_view(0), depth=np.zeros((120, 160), np.uint16))
    found = run(record(tmp_path, iter([view])), ["rgb", "depth"])
    assert {name: column(one, "depth_valid") for name, one in found.items()} == {
        "rgb": ["", ""],
        "depth": ["0.0000", "0.0000"],
    }


def test_batches_that_were_too_large_for_the_memory_are_told(recording):
    model = FakeRecognizer()
    recognize = model.recognize

    def little_memory(rgb=None, **others):
        if len(rgb) > 1:
            raise MemoryError
        return recognize(rgb=rgb, **others)

    model.recognize = little_memory
    figures = run(recording, ["rgb"], recognizer=model)["rgb"].figures()
    assert figures["accuracy"] == 1.0
    assert any("memory" in problem for problem in figures["problems"])


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("evaluate_bag", ["--bag", "bag", "--model", "ycb21", "--out", "out"]),
        ("crop_bag", ["--bag", "bag", "--out", "out"]),
        ("unpack_bag", ["--bag", "bag", "--out", "out"]),
    ],
)
def test_without_rosbags_commands_say_what_to_install_and_how_they_are_run(tmp_path, module, words):
    """As the Python of the system is after rosdep, which has no key for it but one of pip."""
    assert_told_of_rosbags(tmp_path, f"from mmcl_ros.{module} import main; sys.exit(main({words}))")


def test_without_rosbags_a_recording_is_not_begun(tmp_path):
    code = "from mmcl_ros.record_demo import record; from mmcl_core.cli import run_command; from pathlib import Path;"
    assert_told_of_rosbags(tmp_path, f"{code} sys.exit(run_command(lambda: record(Path('out'), iter(()))))")


def assert_told_of_rosbags(folder, code):
    wall = f"import sys; sys.modules['rosbags'] = None; sys.path.insert(0, {str(ROOT)!r});"
    done = subprocess.run(
        [sys.executable, "-c", f"{wall} {code}"], capture_output=True, text=True, check=False, cwd=folder
    )
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: recordings are read and written by rosbags, which cannot be imported (")
    assert "pip install rosbags in a virtual environment" in line
    assert "/bin/python -m mmcl_ros." in line
    assert not list(folder.iterdir())


def test_a_disk_that_is_full_leaves_the_evaluation_that_was_there(recording, tmp_path, capsys):
    arguments = [*command(*recording, tiny_model(tmp_path / "run"), tmp_path / "out"), "--quiet", "--modality"]
    assert main([*arguments, "rgb", "depth"]) == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
    with full_disk(len(before["predictions_depth.csv"])):  # the pictures are larger
        assert main([*arguments, "depth"]) == 2
    assert "confusion_depth.png: File too large" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()} == before
