"""``python -m mmcl_ros.crop_bag``: what it says, names of recordings, and the tables that it keeps of a folder."""

import csv
import dataclasses
import importlib
import re
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("rosbags", reason="rosbags is not installed: pip install rosbags")

from ros_bags import make_view, write_bag
from small_sets import full_disk

from mmcl_ros.bagfile import Bag
from mmcl_ros.crop_bag import crop_bag, main
from mmcl_ros.detections import Box, Request
from mmcl_ros.frames import FrameSettings
from mmcl_ros.record_demo import record
from mmcl_ros.recordings_folder import CROPS, Written, enter, replace_earlier
from mmcl_ros.truth import TRUTH_COLUMNS, Truth, read_truth


def command(bag, table, out, *options):
    assert main([*map(str, ("--bag", bag, "--truth", table, "--out", out, *options))]) == 0


def table_of(path):
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))[1:]


def keys(out):
    """Of the crops that lie in a folder."""
    return sorted(path.relative_to(out).as_posix().removesuffix("_rgb.png") for path in out.rglob("*_rgb.png"))


def test_a_box_without_a_crop_leaves_the_others_their_labels_and_numbers(recording, tmp_path, capsys):
    stamp = read_truth(recording[1])[0].request.stamp
    rows = ("80,20,40,60,bright", "10,10,50,50,dark", "80,20,120,80,", "10,10,50,50,can")  # the first one is empty
    table = tmp_path / "boxes.csv"
    table.write_text("\n".join([",".join(TRUTH_COLUMNS), *(f"{stamp},{row}" for row in rows)]))
    command(*recording[:1], table, tmp_path / "out")
    assert keys(tmp_path / "out") == [f"can/bag_{stamp}003", f"dark/bag_{stamp}001", f"unlabelled/bag_{stamp}002"]
    told = capsys.readouterr()
    assert "3 of 4 boxes of 3 classes cropped (3 depth, 3 rgb): " in told.out
    assert "1 of 4 boxes have no crop: rgb: the box is empty" in told.err
    with Bag(recording[0]) as bag:
        found = crop_bag(bag, read_truth(table), tmp_path / "out", FrameSettings())
    assert found.classes == {"can": 1, "dark": 1, "unlabelled": 1}


def test_a_wider_window_takes_pictures_of_other_stamps_and_a_split_may_be_a_year(recording, tmp_path, capsys):
    bag, table = recording
    head, *rows = table.read_text(encoding="utf-8").splitlines()
    lines = [f"{head},width,height"]
    for number, row in enumerate(rows):
        stamp, others = row.split(",", 1)
        lines.append(f"{int(stamp) + 30_000_000},{others},{'200,100' if number < 2 else ','}")
    (tmp_path / "late.csv").write_text("\n".join(lines), encoding="utf-8")
    command(bag, tmp_path / "late.csv", tmp_path / "out", "--window", "0.04", "--split", "2021")
    assert len(list(tmp_path.glob("out/2021/*/*_rgb.png"))) == 38
    assert "in 1 picture, rgb: boxes are of a 200 x 100 picture" in capsys.readouterr().err


def test_crops_of_an_unknown_camera_have_none(tmp_path):
    bag = write_bag(tmp_path / "bag", [("/rgb", "rgb", 10**9, 10**9)], side=16)
    truth = Truth(Request((Box("", 4, 4, 12, 12),), stamp=10**9), ("dark",))
    with Bag(bag) as opened:
        assert crop_bag(opened, [truth], tmp_path / "out", FrameSettings()).pictures == {"rgb": 1}
    assert not (tmp_path / "out" / "cameras.csv").exists()


def test_cameras_are_noted_to_six_digits(tmp_path):
    view = dataclasses.replace(make_view(0), camera=(1066.78, 1067.49, 79.5, 59.5))
    command(*record(tmp_path / "r", iter([view])), tmp_path / "out")
    assert [row[1:3] for row in table_of(tmp_path / "out" / "cameras.csv")] == 2 * [["1066.78", "1067.49"]]


@pytest.mark.parametrize("earlier", [False, True])
def test_a_name_of_any_signs_is_told_from_longer_ones_when_crops_are_replaced(recording, tmp_path, earlier):
    """An earlier version noted crops with a camera alone: the others lie where it has put some."""
    bag, table = recording
    out, name = tmp_path / "crops", "kitchen [1]+"
    for given in (name, f"{name}_1"):
        command(bag, table, out, "--name", given, "--split", "train")
    others = [row for row in table_of(out / "cameras.csv") if f"{name}_1_" in row[0]]
    if earlier:
        (out / "crops.csv").unlink()
        lines = (out / "cameras.csv").read_text(encoding="utf-8").splitlines(keepends=True)
        lost = next(line for line in lines if f"{name}_1_" not in line and "kitchen" in line)
        (out / "cameras.csv").write_text("".join(line for line in lines if line != lost), encoding="utf-8")
    command(bag, table, out, "--name", name, "--split", "test")
    found = keys(out)
    assert {key.partition("/")[0] for key in found if f"{name}_1_" not in key} == {"test"}
    assert len(found) == len(others) + 40 == 80
    assert sorted(row[0] for row in table_of(out / "cameras.csv")) == found
    assert [row for row in table_of(out / "cameras.csv") if f"{name}_1_" in row[0]] == others
    assert [row[0] for row in table_of(out / "crops.csv") if row[1] == name] == [
        key for key in found if f"{name}_1_" not in key
    ]


def test_only_some_pictures_of_other_hands_are_named_and_empty_lines_of_a_table_are_none(recording, tmp_path, capsys):
    bag, table = recording
    command(bag, table, tmp_path)
    with (tmp_path / "recordings.csv").open("a", encoding="utf-8") as file:
        file.write("\n")
    moved = sorted(tmp_path.glob("dark/*_rgb.png"))[:7]
    (tmp_path / "own").mkdir()
    for path in moved:
        (tmp_path / "own" / path.name).write_bytes(path.read_bytes())
    capsys.readouterr()
    command(bag, table, tmp_path)
    listed = ", ".join(f"own/{path.name}" for path in moved[:5])
    assert f"7 pictures of the recording 'bag' lie where no call has put them, and stay: {listed} and 2 more\n" in (
        capsys.readouterr().err
    )


def test_recordings_that_are_cropped_at_the_same_time_lose_none_of_each_other(tmp_path):
    names = [f"recording_{number}" for number in range(16)]

    def crop(name):
        key = f"mug/{name}_1000"
        before = enter(tmp_path, CROPS, name, f"/{name}", "/rgb", [key])
        replace_earlier(tmp_path, CROPS, name, {key: Written((1.0, 1.0, 0.0, 0.0), [])}, before)

    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(crop, names))
    for table in ("recordings.csv", CROPS, "cameras.csv"):
        assert len(table_of(tmp_path / table)) == len(names)


def test_a_full_disk_is_named_and_leaves_whole_the_crops_that_were_there(recording, tmp_path, capsys, monkeypatch):
    bag, table = recording
    command(bag, table, tmp_path, "--split", "test")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.png")}
    monkeypatch.setattr(importlib.import_module("mmcl_ros.crop_bag"), "as_png", lambda crop: bytes(1 << 16))
    with full_disk(1 << 15):
        assert main(["--bag", str(bag), "--truth", str(table), "--out", str(tmp_path), "--split", "test"]) == 2
    assert re.search(r"error: .*/test/\w+/bag_\d+_rgb\.png: File too large", capsys.readouterr().err)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.png*")} == before
