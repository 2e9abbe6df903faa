"""Frames of recorded bags as files to annotate, and the crops that ``prepare coco`` makes of them."""

import json

import cv2
import numpy as np
import pytest

pytest.importorskip("rosbags", reason="rosbags is not installed: pip install rosbags")

from ros_bags import BOXES, make_recording, make_view, write_bag
from ros_fakes import CLASSES

from mmcl_core import prepare
from mmcl_core.data.cache import PreparedSet
from mmcl_core.data.pictures import depth_millimetres, read_rgb
from mmcl_ros.bagfile import Bag
from mmcl_ros.crop_bag import crop_bag
from mmcl_ros.detections import View
from mmcl_ros.frames import FrameSettings
from mmcl_ros.picture_files import as_png
from mmcl_ros.truth import read_truth
from mmcl_ros.unpack_bag import _not_registered, main, unpack_bag

SECOND = 10**9


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    return make_recording(tmp_path_factory.mktemp("bags") / "kitchen")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def read(path):
    picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    return picture if picture.ndim == 2 else picture[..., ::-1]


def command(*words, status=0):
    assert main([*map(str, words), "--quiet"]) == status


def test_all_frames_are_written_as_they_were_recorded(recording, tmp_path, capsys):
    command("--bag", recording[0], "--out", tmp_path, "--every", 0)
    stamps = [truth.request.stamp for truth in read_truth(recording[1])]
    name = recording[0].name
    assert names(tmp_path / "rgb") == names(tmp_path / "depth") == [f"{name}_{stamp}.png" for stamp in stamps]
    for number, stamp in enumerate(stamps):
        view = make_view(number)
        assert (read(tmp_path / "rgb" / f"{name}_{stamp}.png") == view.rgb).all()
        assert (read(tmp_path / "depth" / f"{name}_{stamp}.png") == view.depth).all()
    out, warned = capsys.readouterr()
    assert "20 frames, 20 with depth" in out
    assert "--camera 100,100,79.5,59.5" in out
    assert "not all of one known camera" not in warned
    assert "--split train=0.8,val=0.2 --camera" in out, "one recording is no two groups"
    command("--bag", recording[0], "--out", tmp_path, "--name", "second")
    out, warned = capsys.readouterr()
    assert "--camera 100,100,79.5,59.5" in out
    assert "--split train=0.8,val=0.2 --keep-groups --camera" in out
    assert "not all of one known camera" not in warned


def annotate(folder, truths, *recordings):
    """COCO JSON of the true boxes of each recording, as an annotation tool exports it."""
    places = [(recording, truth) for recording in recordings for truth in truths]
    described = {
        "images": [
            {"id": n, "file_name": f"rgb/{name}_{truth.request.stamp}.png", "width": 160, "height": 120}
            for n, (name, truth) in enumerate(places)
        ],
        "categories": [{"id": n, "name": name} for n, name in enumerate(CLASSES)],
        "annotations": [
            {"id": 2 * n + k, "image_id": n, "category_id": CLASSES.index(label), "bbox": list(BOXES[k])}
            for n, (_, truth) in enumerate(places)
            for k, label in enumerate(truth.labels)
        ],
    }
    (folder / "annotations.json").write_text(json.dumps(described))


def prepared(kind, source, out, *options):
    words = [kind, "--source", str(source), "--out", str(out), "--size", "32", "--workers", "1", "--quiet"]
    assert prepare.main([*words, *options]) == 0
    return PreparedSet.open(out)


def test_annotated_frames_give_the_crops_of_the_recording(recording, tmp_path):
    bag, table = recording
    truths = read_truth(table)
    command("--bag", bag, "--out", tmp_path / "frames", "--every", 0)
    annotate(tmp_path / "frames", truths, bag.name)
    with Bag(bag) as opened:
        crop_bag(opened, truths, tmp_path / "crops", FrameSettings())

    def held(made):
        return sorted(
            (made.classes[label], made.images["rgb"][row].tobytes(), made.images["depth"][row].tobytes())
            for row, label in enumerate(made.labels)
        )

    one = prepared("coco", tmp_path / "frames", tmp_path / "one", "--split", "train")
    other = prepared("folder", tmp_path / "crops", tmp_path / "other", "--split", "train")
    assert len(one) == 40
    assert held(one) == held(other)


def test_the_camera_that_is_named_is_that_of_rectified_pictures(tmp_path, capsys):
    written = [("/rgb/image_raw", "rgb", SECOND, SECOND), ("/rgb/camera_info", "info", SECOND, SECOND)]
    command("--bag", write_bag(tmp_path / "bag", written, frame="camera"), "--out", tmp_path / "out")
    focal = 2 * len("/rgb/camera_info")  # of the matrix P; K has half of it
    assert f"--camera {focal},{focal},2,2" in capsys.readouterr().out


def test_each_recording_stays_in_one_split(recording, tmp_path):
    bag, table = recording
    for name in ("kitchen", "hall"):
        command("--bag", bag, "--out", tmp_path / "frames", "--every", 0, "--name", name)
    annotate(tmp_path / "frames", read_truth(table), "kitchen", "hall")
    made = prepared("coco", tmp_path / "frames", tmp_path / "set", "--split", "train=0.5,val=0.5", "--keep-groups")
    found = [{made.keys[row].split("_")[0] for row in made.select(split)} for split in ("train", "val")]
    assert sorted(map(sorted, found)) == [["rgb/hall"], ["rgb/kitchen"]]


def test_frames_are_so_far_apart_and_others_stay(tmp_path):
    stamps = [second * SECOND + part for second in range(5) for part in (0, SECOND // 4, SECOND // 2)]
    for name in ("a", "b"):
        write_bag(tmp_path / name, [("/rgb/image_raw", "rgb", stamp, stamp) for stamp in stamps])
    command("--bag", tmp_path / "a", "--out", tmp_path / "out", "--every", 1.25)
    chosen = [0, 1.25, 2.5, 4]
    assert names(tmp_path / "out" / "rgb") == [f"a_{round(stamp * SECOND)}.png" for stamp in chosen]
    command("--bag", tmp_path / "b", "--out", tmp_path / "out", "--every", 2)
    assert len(names(tmp_path / "out" / "rgb")) == 4 + 3
    assert not (tmp_path / "out" / "depth").exists()


@pytest.mark.parametrize("milliseconds", [67, 134, 535])
def test_frames_that_are_just_so_far_apart_are_all_written(tmp_path, milliseconds):
    stamps = [SECOND + n * milliseconds * 1_000_000 for n in range(4)]
    bag = write_bag(tmp_path / "bag", [("/rgb/image_raw", "rgb", stamp, stamp) for stamp in stamps])
    command("--bag", bag, "--out", tmp_path / "out", "--every", milliseconds / 1000)
    assert names(tmp_path / "out" / "rgb") == [f"bag_{stamp}.png" for stamp in stamps]


def test_pictures_that_repeat_a_stamp_are_told_of(tmp_path, caplog):
    """As in a simulation that was started anew while it was recorded."""
    stamps = [SECOND, 2 * SECOND]
    for name, times in (("once", stamps), ("again", stamps * 2)):
        written = [("/rgb/image_raw", "rgb", stamp, 100 * SECOND + n) for n, stamp in enumerate(times)]
        with Bag(write_bag(tmp_path / name, written)) as opened:
            assert unpack_bag(opened, tmp_path / "out", every=0).frames == 2
        words = "again: 2 pictures have the stamp of one before, on /rgb/image_raw"
        assert (words in caplog.text) is (name == "again")
        assert "have the stamp of" not in caplog.text or name == "again"


def test_what_cannot_be_read_or_is_not_registered_is_left_out_and_told(tmp_path, capsys):
    written = [("/rgb/image_raw", "rgb", n * SECOND, n * SECOND) for n in range(1, 4)]
    written += [("/depth/image_raw", "depth", n * SECOND, n * SECOND) for n in range(1, 4)]
    written += [("/rgb/image_raw", "odd", 4 * SECOND, 4 * SECOND), ("/rgb/image_raw", "rgb", 5 * SECOND, 5 * SECOND)]
    bag = write_bag(tmp_path / "bag", written)
    assert main(["--bag", str(bag), "--out", str(tmp_path / "out")]) == 0
    out, err = capsys.readouterr()
    assert "4 frames, 0 with depth" in out
    assert "2 of the frames: depth: none within 0.02 s" in err
    assert "3 of the frames: depth is not registered to colour" in err
    assert "1 of the frames: rgb: " in err
    with Bag(bag) as opened:
        found = unpack_bag(opened, tmp_path / "out", assume_registered=True)
    assert (found.frames, found.depth) == (4, 3)


@pytest.mark.parametrize(
    ("focal", "width", "height", "said"),
    [
        (100.0, 160, 120, ""),
        (200.0, 320, 240, ""),
        (300.0, 320, 240, "another part of the scene"),
        (None, 320, 240, ""),
        (None, 320, 180, "another shape"),
    ],
)
def test_depth_is_registered_where_it_shows_what_colour_shows(focal, width, height, said):
    colour = View("camera", 160, 120, (100.0, 100.0, 79.5, 59.5))
    camera = focal and (focal, focal, (width - 1) / 2, (height - 1) / 2)
    found = _not_registered(colour, View("camera", width, height, camera), False)
    assert said in found
    assert bool(said) == bool(found)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--every", "-1"], "--every must be 0 or more seconds"),
        (["--every", "nan"], "--every must be 0 or more seconds"),
        (["--window", "-1"], "--window must be 0 or more seconds"),
        (["--name", "../x"], "cannot name files"),
        (["--rgb-topic", "/nothing"], "has no topic /nothing"),
    ],
)
def test_errors_are_one_line(recording, tmp_path, capsys, options, message):
    command("--bag", recording[0], "--out", tmp_path / "out", *options, status=2)
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_a_recording_of_depth_alone_has_nothing_to_draw_in(tmp_path, capsys):
    bag = write_bag(tmp_path / "bag", [("/depth/image_raw", "depth", SECOND, SECOND)])
    command("--bag", bag, "--out", tmp_path / "out", status=2)
    assert "no colour pictures to draw boxes in; its topics: /depth/image_raw" in capsys.readouterr().err


def test_files_are_in_the_colours_and_the_unit_that_prepare_reads(tmp_path):
    rgb = np.random.default_rng(0).integers(0, 256, (4, 5, 3)).astype(np.uint8)
    (tmp_path / "rgb.png").write_bytes(as_png(rgb))
    np.testing.assert_array_equal(read_rgb(tmp_path / "rgb.png"), rgb)
    metres = np.float32([[0, 0.0006, 1.2344, 1.2346, 65.535, 65.6, 3e38]])
    for depth, stored in ((metres, [0, 1, 1234, 1235, 65535, 0, 0]), (np.uint16([[0, 1, 65535]]), [0, 1, 65535])):
        (tmp_path / "depth.png").write_bytes(as_png(depth))
        assert depth_millimetres(tmp_path / "depth.png", 1.0).tolist() == [stored]
