"""Crops cut from recorded bags: what the node looks at, in the layout that ``prepare folder`` reads."""

import contextlib
import csv
import dataclasses
import importlib
import sqlite3
import weakref

import cv2
import numpy as np
import pytest

pytest.importorskip("rosbags", reason="rosbags is not installed: pip install rosbags")

from ros_bags import make_recording, make_view, write_bag
from ros_fakes import CLASSES, FakeRecognizer

from mmcl_core import prepare
from mmcl_core.data.cache import PreparedSet
from mmcl_core.errors import DataError
from mmcl_ros import evaluate_bag, frames
from mmcl_ros.bagfile import Bag
from mmcl_ros.crop_bag import crop_bag, main
from mmcl_ros.evaluate_bag import evaluate
from mmcl_ros.frames import FrameCropper, FrameSettings
from mmcl_ros.picture_files import as_png
from mmcl_ros.record_demo import record
from mmcl_ros.truth import Truth, read_truth


def command(bag, table, out, *options, status=0):
    assert main([*map(str, ("--bag", bag, "--truth", table, "--out", out, *options)), "--quiet"]) == status


def read(path):
    picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert picture is not None, path
    return picture if picture.ndim == 2 else picture[..., ::-1]


def test_boxes_that_are_no_regions_are_told_beside_the_accuracy(recording, tmp_path, caplog):
    """Such as width and height in the columns of the far edges; a space behind a label is no part of it."""
    table = tmp_path / "boxes.csv"
    stamp = read_truth(recording[1])[0].request.stamp
    table.write_text(
        f"stamp_ns,x_min,y_min,x_max,y_max,label\n{stamp},80,20,40,60,{CLASSES[1]}\n{stamp},10,10,50,50,{CLASSES[0]} \n"
    )
    with Bag(recording[0]) as opened:
        found = evaluate(opened, read_truth(table), FakeRecognizer(), ["rgb"], FrameSettings(box_scale=0.0))
    evaluate_bag._warn(found, 0.02)
    assert "rgb: 1 of 2 boxes are no regions, such as: rgb: the box is empty (-40 x 40 pixels)" in caplog.text
    assert "no class that the model names" not in caplog.text


def test_crops_are_written_as_they_are_cut(recording, tmp_path, monkeypatch):
    """Those of hundreds of large boxes would take gigabytes."""
    held, most = weakref.WeakSet(), []
    made = frames.RegionCrops

    class Crops(made):
        __hash__ = object.__hash__

        def __init__(self, index):
            super().__init__(index)
            held.add(self)
            most.append(len(held))

    monkeypatch.setattr(frames, "RegionCrops", Crops)
    monkeypatch.setattr(frames, "PART_BYTES", 1)
    request = read_truth(recording[1])[0].request
    boxes = tuple(dataclasses.replace(request.boxes[0], id=str(number)) for number in range(20))
    truth = Truth(dataclasses.replace(request, boxes=boxes), (CLASSES[0],) * 20)
    with Bag(recording[0]) as opened:
        found = crop_bag(opened, [truth], tmp_path, FrameSettings())
    assert found.classes[CLASSES[0]] == len(list(tmp_path.glob("*/*_rgb.png"))) == 20
    assert len(most) == 20
    assert max(most) <= 3


@pytest.mark.parametrize("split", ["train=0.8,test=0.2", "0.8"])
def test_shares_are_not_taken_for_the_name_of_a_split(split, recording, tmp_path, capfd):
    command(*recording, tmp_path / "out", "--split", split, status=2)
    assert f"--split {split} is no name of a split" in capfd.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_crops_are_those_that_a_recogniser_is_handed(recording, tmp_path):
    bag, table = recording
    recognizer = FakeRecognizer()
    with Bag(bag) as opened:
        truths = read_truth(table)
        evaluate(opened, truths, recognizer, ["rgbd"], FrameSettings())
        found = crop_bag(opened, truths, tmp_path, FrameSettings())
    assert found.boxes == 40
    assert sum(found.classes.values()) == found.pictures["rgb"] == found.pictures["depth"] == 40
    with (tmp_path / "cameras.csv").open() as file:
        cameras = {key: tuple(map(float, values)) for key, *values in list(csv.reader(file))[1:]}
    for truth, call in zip(truths, recognizer.calls, strict=True):
        for number, label in enumerate(truth.labels):
            key = f"{label}/{bag.name}_{truth.request.stamp}{number:03d}"
            assert np.array_equal(read(tmp_path / f"{key}_rgb.png"), call.rgb[number])
            depth = read(tmp_path / f"{key}_depth.png")
            assert depth.dtype == np.uint16
            assert np.array_equal(depth, call.depth[number])
            assert cameras[key] == pytest.approx(call.camera[number], rel=1e-5)


def test_prepare_reads_them_and_keeps_recordings_together(recording, tmp_path, capsys):
    bag, table = recording
    other, other_table = record(tmp_path / "second", (make_view(number) for number in range(4)))
    command(bag, table, tmp_path / "crops")
    command(other, other_table, tmp_path / "crops", status=2)
    assert "holds crops of another recording, or of other topics, named 'bag' (" in capsys.readouterr().err
    command(other, other_table, tmp_path / "crops", "--name", "second")
    command(bag, table, tmp_path / "crops")  # adds nothing new
    line = ["folder", "--source", tmp_path / "crops", "--out", tmp_path / "set", "--size", "32", "--quiet"]
    assert prepare.main([*map(str, line), "--split", "train=0.5,test=0.5", "--keep-groups"]) == 0
    prepared = PreparedSet.open(tmp_path / "set")
    assert len(prepared) == 40 + 8
    assert sorted(prepared.classes) == sorted(CLASSES)
    assert prepared.present.all()
    assert (prepared.camera[:, 0] > 0).all()
    assert len(set(prepared.groups)) == 2
    for label in set(prepared.labels.tolist()):
        rows = prepared.labels == label
        places = set(zip(prepared.groups[rows], prepared.splits[rows], strict=True))
        assert len(places) == 2, "of each class, each recording in one split"


def test_a_second_call_replaces_the_crops_of_the_first(recording, tmp_path, capsys):
    """Nothing stays where it was: no crop in two splits, none under a label that was corrected."""
    bag, table = recording
    out = tmp_path / "crops"
    command(bag, table, out, "--split", "train")
    other, other_table = record(tmp_path / "bag_1", (make_view(number) for number in range(4)))
    command(other, other_table, out, "--name", f"{bag.name}_1", "--split", "train")
    keys = {path.name for path in out.rglob("*.png")}
    corrected = tmp_path / "boxes.csv"
    corrected.write_text(table.read_text(encoding="utf-8").replace(",dark,", ",middle,"), encoding="utf-8")
    command(bag, corrected, out, "--split", "test")
    found = list(out.rglob("*.png"))
    assert {path.name for path in found} == keys
    assert len(found) == len(keys) == 2 * (40 + 8)
    assert {path.parent.name for path in out.glob("test/*/*.png")} == {"middle", "bright"}
    assert all(path.name.startswith(f"{bag.name}_1_") for path in out.glob("train/*/*.png"))
    with (out / "cameras.csv").open() as file:
        assert {row[0] for row in list(csv.reader(file))[1:]} == {
            path.relative_to(out).as_posix().removesuffix("_rgb.png") for path in out.rglob("*_rgb.png")
        }
    command(bag, table, out, "--depth-topic", "/camera/aligned_depth_to_color/image_raw", "--split", "test")
    with Bag(bag) as opened:
        opened.topics.depth = ""
        with pytest.raises(DataError, match="or of other topics"):
            crop_bag(opened, read_truth(table), out, FrameSettings())


def test_two_messages_of_a_stamp_do_not_take_the_place_of_each_others_crops(recording, tmp_path):
    """As two detectors on one topic send them."""
    bag, table = recording
    truths = [
        Truth(dataclasses.replace(truth.request, boxes=(box,)), ("can",))
        for truth in read_truth(table)
        for box in truth.request.boxes
    ]
    with Bag(bag) as opened:
        found = crop_bag(opened, truths, tmp_path, FrameSettings())
    files = sorted(tmp_path.rglob("*_rgb.png"))
    assert found.classes == {"can": 40}
    assert len(files) == 40
    stamp = truths[0].request.stamp
    with Bag(bag) as opened:
        alike = [dataclasses.replace(truth, labels=("can", "can")) for truth in read_truth(table)]
        found = crop_bag(opened, 2 * alike, tmp_path / "twice", FrameSettings())
    assert len(list(tmp_path.glob("twice/*/*_rgb.png"))) == found.boxes == 80
    assert [file.name for file in files[:2]] == [f"bag_{stamp}{number:03d}_rgb.png" for number in (0, 1)]


def test_split_and_boxes_without_label(recording, tmp_path):
    bag, table = recording
    lines = table.read_text(encoding="utf-8").splitlines()
    column = lines[0].split(",").index("label")
    for number in (1, 2):
        values = lines[number].split(",")
        values[column] = ""
        lines[number] = ",".join(values)
    (tmp_path / "boxes.csv").write_text("\n".join(lines), encoding="utf-8")
    command(bag, tmp_path / "boxes.csv", tmp_path / "crops", "--split", "test")
    assert {path.name for path in (tmp_path / "crops").iterdir()} == {
        *("test", "cameras.csv", "crops.csv", "recordings.csv")
    }
    assert len(list((tmp_path / "crops/test/unlabelled").glob("*_rgb.png"))) == 2
    line = ["folder", "--source", tmp_path / "crops", "--out", tmp_path / "set", "--size", "32", "--quiet"]
    assert prepare.main([*map(str, line)]) == 0
    prepared = PreparedSet.open(tmp_path / "set")
    assert set(prepared.splits) == {"test"}
    assert (prepared.labels == -1).sum() == 2
    assert (prepared.camera[:, 0] > 0).all()


@pytest.mark.parametrize(
    ("label", "split"), [("a/b", ""), ("a\\b", ""), ("..", ""), (".a", ""), ("__a", ""), ("dark", "../x")]
)
def test_a_label_that_names_no_folder_is_refused_before_anything_is_written(recording, tmp_path, label, split):
    bag, table = recording
    text = table.read_text(encoding="utf-8").replace("dark", label)
    (tmp_path / "boxes.csv").write_text(text, encoding="utf-8")
    with Bag(bag) as opened, pytest.raises(DataError, match="cannot name files"):
        crop_bag(opened, read_truth(tmp_path / "boxes.csv"), tmp_path / "crops", FrameSettings(), split=split)
    assert not (tmp_path / "crops").exists()


def test_boxes_without_pictures_are_told(tmp_path, capsys):
    bag, table = record(tmp_path / "r", (make_view(number) for number in range(3)))
    text = table.read_text(encoding="utf-8").splitlines()
    lost = text[1].split(",")
    lost[0] = str(int(lost[0]) + 10**12)
    (tmp_path / "boxes.csv").write_text("\n".join([*text, ",".join(lost)]), encoding="utf-8")
    assert main(["--bag", str(bag), "--truth", str(tmp_path / "boxes.csv"), "--out", str(tmp_path / "crops")]) == 0
    assert "1 of 7 boxes have no crop: no picture within 0.02 s" in capsys.readouterr().err


def test_float_depth_is_stored_in_millimetres():
    from ros_fakes import image, regions

    from mmcl_ros.detections import read_request

    depth = np.full((60, 60), 0.5, np.float32)
    depth[0, :4] = (np.nan, np.inf, -1, 70.0)
    cropper = FrameCropper(FrameSettings(box_scale=0.0))
    found, _ = cropper.crops(read_request(regions([(0, 0, 60, 60)])), {"depth": image(depth, "32FC1")})
    stored = cv2.imdecode(np.frombuffer(as_png(found[0].crops["depth"]), np.uint8), cv2.IMREAD_UNCHANGED)
    assert stored.dtype == np.uint16
    assert stored[0, :4].tolist() == [0, 0, 0, 0]
    assert set(stored[1:].ravel().tolist()) == {500}


def test_a_folder_of_other_crops_and_cameras_is_not_written_over(recording, tmp_path):
    bag, table = recording
    (tmp_path / "cameras.csv").write_text("fx,fy\n1,2\n", encoding="utf-8")
    command(bag, table, tmp_path, status=2)
    assert (tmp_path / "cameras.csv").read_text(encoding="utf-8") == "fx,fy\n1,2\n"


def test_recordings_of_an_earlier_version_go_on(recording, tmp_path, capsys):
    """It noted no topics: whatever they are, the recording is the same, and from now on they are known."""
    bag, table = recording
    names = tmp_path / "recordings.csv"
    names.write_text(f"name,recording\n{bag.name},{bag.resolve()}\nother,/bags/other\n", encoding="utf-8")
    command(bag, table, tmp_path, "--name", "other", status=2)
    assert "of other topics, named 'other' (/bags/other); give --name" in capsys.readouterr().err
    command(bag, table, tmp_path)
    with names.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["name", "recording", "topics"]
    assert rows[1][:2] == [bag.name, str(bag.resolve())]
    assert rows[1][2].startswith("/")
    assert rows[2] == ["other", "/bags/other", ""]
    command(bag, table, tmp_path)
    with Bag(bag) as opened:
        opened.topics.depth = ""
        with pytest.raises(DataError, match="or of other topics"):
            crop_bag(opened, read_truth(table), tmp_path, FrameSettings())


def test_a_table_of_other_columns_is_named_with_what_to_do(recording, tmp_path, capsys):
    bag, table = recording
    (tmp_path / "recordings.csv").write_text("who,what\n1,2\n", encoding="utf-8")
    command(bag, table, tmp_path, status=2)
    assert "recordings.csv has the columns who, what; this command writes name, recording" in capsys.readouterr().err


def pictures(out):
    return {path.relative_to(out).as_posix() for path in out.rglob("*.png")}


def without_cameras(out):
    """The folder as an earlier version left it, of a recording whose cameras are not known."""
    for name in ("cameras.csv", "crops.csv"):
        (out / name).unlink()


def test_crops_that_cannot_be_replaced_stay(recording, tmp_path):
    """A call that finds no picture for any box, as one with a wrong table does, costs nothing."""
    bag, table = recording
    out = tmp_path / "crops"
    command(bag, table, out)
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    header, *rows = table.read_text(encoding="utf-8").splitlines()
    moved = [f"{int(row.split(',')[0]) + 10**12},{row.split(',', 1)[1]}" for row in rows]
    (tmp_path / "boxes.csv").write_text("\n".join([header, *moved]), encoding="utf-8")
    command(bag, tmp_path / "boxes.csv", out, status=2)
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("earlier", [False, True])
def test_what_a_person_has_moved_stays_and_is_named(recording, tmp_path, capsys, earlier):
    """Also into a folder that the command uses; masks are the person's, too."""
    bag, table = recording
    out = tmp_path / "crops"
    command(bag, table, out)
    before = pictures(out)
    if earlier:
        (out / "crops.csv").unlink()
    first, second = sorted(out.glob("dark/*_rgb.png"))[:2]
    kept = [out / "sorted" / first.name, out / "middle" / second.name, out / "dark" / "bag_1_mask.png"]
    for path, content in zip(kept, (first.read_bytes(), second.read_bytes(), b"mask"), strict=True):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    first.unlink()
    command(bag, table, out)
    assert pictures(out) == before | {path.relative_to(out).as_posix() for path in kept}
    words = "2 pictures of the recording 'bag' lie where no call has put them, and stay: "
    assert f"{words}middle/{second.name}, sorted/{first.name}\n" in capsys.readouterr().err


def test_pictures_of_other_hands_stay_where_no_call_was_before(recording, tmp_path, capsys):
    """They have the names that prepare asks for, and the recording is called as they are."""
    bag, table = recording
    own = tmp_path / "own" / "dark" / "bag_000_rgb.png"
    own.parent.mkdir(parents=True)
    own.write_bytes(b"mine")
    for _ in range(2):
        command(bag, table, tmp_path / "own")
        assert own.read_bytes() == b"mine"
        words = "1 picture of the recording 'bag' lies where no call has put it, and stays: dark/bag_000_rgb.png"
        assert words in capsys.readouterr().err


def test_what_a_stopped_call_has_written_is_replaced(recording, tmp_path, monkeypatch):
    bag, table = recording
    out = tmp_path / "crops"
    command(bag, table, out, "--split", "train")
    module = importlib.import_module("mmcl_ros.crop_bag")
    before, write, left = pictures(out), module._write, iter(range(3))

    def stopped(place, region):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return write(place, region)

    monkeypatch.setattr(module, "_write", stopped)
    command(bag, table, out, "--split", "test", status=130)
    assert len(pictures(out)) > len(before)
    monkeypatch.undo()
    command(bag, table, out, "--split", "train")
    assert pictures(out) == before


def test_crops_without_cameras_are_replaced_too(recording, tmp_path):
    """Those of an earlier version in the folders of this call, those of this version wherever it has put them."""
    bag, table = recording
    out = tmp_path / "crops"
    command(bag, table, out)
    without_cameras(out)
    text = table.read_text(encoding="utf-8")
    corrected = tmp_path / "boxes.csv"
    corrected.write_text(text.replace(",dark,", ",middle,", 1), encoding="utf-8")
    command(bag, corrected, out)
    assert len(pictures(out)) == 2 * 40
    (out / "cameras.csv").unlink()
    command(bag, table, out, "--split", "test")
    assert len(pictures(out)) == 2 * 40
    assert {name.split("/")[0] for name in pictures(out)} == {"test"}


def test_a_recording_that_does_not_say_what_its_detections_consist_of_is_told_apart_from_a_damaged_one(
    tmp_path, capsys, monkeypatch
):
    """Those of ROS 2 Humble in sqlite3 hold no definitions; vision_msgs need not be where they are looked at."""
    bag, table = make_recording(tmp_path, "sqlite3")
    with contextlib.closing(sqlite3.connect(next(bag.glob("*.db3")))) as base:
        base.execute("DELETE FROM message_definitions")
        base.execute("UPDATE topics SET type = 'vision_msgs/msg/Detection2DArray' WHERE name = '/detections'")
        base.commit()
    about = bag / "metadata.yaml"
    about.write_text(about.read_text().replace("mmcl_ros/msg/RegionArray", "vision_msgs/msg/Detection2DArray"))
    monkeypatch.setattr("mmcl_ros.bagfile.shared", lambda package, name: None)
    assert main(["--bag", str(bag), "--out", str(tmp_path / "crops"), "--quiet"]) == 2
    told = capsys.readouterr().err
    assert "does not say what vision_msgs/msg/Detection2DArray, which /detections carries, consists of" in told
    assert "damaged" not in told
    command(bag, table, tmp_path / "crops")


def test_a_camera_info_below_the_pictures_is_theirs_too(tmp_path):
    """The driver of the ZED publishes it beside them and below them, and recordings may have either."""
    pictures = {"rgb": "/zed/rgb/color/rect/image", "depth": "/zed/depth/depth_registered"}
    infos = {name: f"{topic}/camera_info" for name, topic in pictures.items()}
    written = [(topic, name, 1, 1) for name, topic in pictures.items()]
    written += [(topic, "info", 1, 2) for topic in infos.values()]
    with Bag(write_bag(tmp_path / "bag", written, "zed_left")) as bag:
        assert bag.topics.infos == infos
