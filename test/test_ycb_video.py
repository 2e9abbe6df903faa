"""``prepare ycb_video``: fake frames in the true layout and units, and the real ones."""

from __future__ import annotations

import shutil
from collections import Counter
from functools import partial

import cv2
import numpy as np
import pytest
import small_sets
from conftest import shared_data
from fake_ycb_video import write_frame, write_source

from mmcl_core.data import ycb_video
from mmcl_core.data.ycb_video import CLASSES
from mmcl_core.prepare import main

scipy_io = pytest.importorskip("scipy.io")


@pytest.fixture
def source(tmp_path):
    return write_source(tmp_path / "YCB_Video_Dataset")


prepare = partial(small_sets.prepare, "ycb_video --size 32")


def test_crops_units_labels_and_cameras(source, tmp_path):
    made = prepare(source, tmp_path / "out")
    assert made.classes == CLASSES
    assert len(CLASSES) == 21
    assert list(made.keys[:2]) == ["0005/000001/004_sugar_box", "0005/000001/025_mug"]
    assert list(made.labels) == [2, 13] * 5
    assert set(made.splits) == {"test"}
    assert made.groups[0] == "0005/004_sugar_box"
    assert made.sources[0] == "data/0005/000001-color.png"
    assert (made.images["depth"][0] == 530).all()
    assert (made.images["depth"][1] == 640).all()
    assert (made.images["rgb"][1] == (140, 5, 200)).all()
    # 20 x 30 pixels from (10, 12), five columns of edge on either side, 30 pixels become 32.
    scale = 32 / 30
    expected = [100 * scale, 102 * scale, (31 - 5 + 0.5) * scale - 0.5, (23 - 12 + 0.5) * scale - 0.5]
    np.testing.assert_allclose(made.camera[0], expected, rtol=1e-6)


def test_official_split_every_nth_and_listed_frames(source, tmp_path):
    made = prepare(source, tmp_path / "a", "--split", "official", "--every", "2")
    frames = {(key[:11], split) for key, split in zip(made.keys, made.splits, strict=True)}
    assert frames == {("0005/000001", "train"), ("0005/000003", "train"), ("0050/000001", "test")}
    (tmp_path / "keyframe.txt").write_text("0050/000002\n0005/000002\n0050/000009\n")
    made = prepare(source, tmp_path / "b", "--frames", str(tmp_path / "keyframe.txt"))
    assert {key[:11] for key in made.keys} == {"0005/000002", "0050/000002"}
    assert made.index["skipped"]["first"] == [["0050/000009", "is in the list of frames, and not in the source"]]
    (tmp_path / "windows.txt").write_bytes(b"\xef\xbb\xbf0050/000002\r\n0005/000002\r\n")
    again = prepare(source, tmp_path / "c", "--frames", str(tmp_path / "windows.txt"))
    assert (list(again.keys), again.index["skipped"]["samples"]) == (list(made.keys), 0)


def test_the_videos_that_are_for_testing_are_0048_to_0059(tmp_path):
    for video in ("0047", "0048", "0059", "0060"):
        write_frame(tmp_path / "in" / "data" / video, 1)
    made = prepare(tmp_path / "in", tmp_path / "out", "--split", "official")
    splits = {key[:4]: split for key, split in zip(made.keys, made.splits, strict=True)}
    assert splits == {"0047": "train", "0048": "test", "0059": "test", "0060": "train"}


def test_a_list_of_frames_that_are_not_there(source, tmp_path, capsys):
    (tmp_path / "list.txt").write_text("0050/000009\n")
    words = ["ycb_video", "--source", str(source), "--out", str(tmp_path / "out")]
    assert main([*words, "--frames", str(tmp_path / "list.txt")]) == 2
    assert "complete; 0050/000009: is in the list of frames, and not in the source\n" in capsys.readouterr().err


def test_shares_are_no_name_of_a_split(source, tmp_path, capsys):
    words = ["ycb_video", "--source", str(source), "--out", str(tmp_path / "out"), "--workers", "1"]
    assert main([*words, "--split", "train=0.8,test=0.2"]) == 2
    assert "--split 'train=0.8,test=0.2': the name of one split, or official, is expected" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_other_units_and_jpeg(tmp_path):
    write_frame(tmp_path / "in" / "data" / "0001", 1, suffix="jpg", factor=5000)
    made = prepare(tmp_path / "in", tmp_path / "out")
    assert (made.images["depth"][0] == 530).all()
    assert np.abs(made.images["rgb"][1].astype(int) - (140, 5, 200))[8:24, 8:24].max() < 12


@pytest.mark.parametrize("inside", ["data", "data/0005"])
def test_source_may_be_the_data_folder_or_one_video(source, tmp_path, inside):
    made = prepare(source / inside, tmp_path / "out")
    assert made.keys[0] == "0005/000001/004_sugar_box"


def test_boxes_of_a_frame_without_label_picture(source, tmp_path):
    prepared = prepare(source, tmp_path / "labelled")
    boxes = source / "data/0005/000001-box.txt"
    boxes.write_text(boxes.read_text().replace(" 9.5 ", " 10.0 "))
    (source / "data/0005/000001-label.png").unlink()
    made = prepare(source, tmp_path / "out")
    assert list(made.labels) == [2, 13] * 5
    np.testing.assert_allclose(made.camera[0], prepared.camera[0], rtol=1e-6)  # the last pixel of a box belongs to it
    made = prepare(source, tmp_path / "masked", "--mask", "apply")
    assert len(made) == 8
    assert "label picture" in made.index["skipped"]["first"][0][1]


@pytest.mark.parametrize(
    ("added", "crops"),
    [(b"\n\n", 10), (b"\n004_sugar_box nan 4 20 20\n", 8), (b"\n\xff\xfe 4 4 20 20\n", 8)],
    ids=["blank lines", "no number", "no text"],
)
def test_a_file_of_boxes_that_is_damaged_costs_its_frame_alone(source, tmp_path, added, crops):
    (source / "data/0005/000001-label.png").unlink()
    boxes = source / "data/0005/000001-box.txt"
    boxes.write_bytes(boxes.read_bytes() + added)
    made = prepare(source, tmp_path / "out")
    assert len(made) == crops
    skipped = made.index["skipped"]["first"]
    assert [(name.rpartition("/")[2], "x0 y0 x1 y1 expected" in why) for name, why in skipped] == (
        [] if crops == 10 else [("000001-box.txt", True)]
    )


def test_mask_and_smallest_objects(tmp_path):
    write_frame(tmp_path / "in", 1, {3: (4, 4, 34, 34), 14: (10, 10, 20, 20), 21: (50, 4, 58, 12)})
    made = prepare(tmp_path / "in", tmp_path / "a", "--mask", "apply", "--min-side", "1")
    assert list(made.labels) == [2, 13]  # 8 x 8 pixels of the brick are too few
    inside = np.zeros((30, 30), bool)
    inside[6:16, 6:16] = True
    depth = made.images["depth"][0]
    assert {int(v) for v in np.unique(depth)} == {0, 530}
    assert abs((depth == 0).mean() - inside.mean()) < 0.02
    assert list(prepare(tmp_path / "in", tmp_path / "b", "--min-side", "11").labels) == [2]
    assert len(prepare(tmp_path / "in", tmp_path / "c", "--min-pixels", "64", "--min-side", "1")) == 3


def test_bad_files_are_named_skipped_and_counted(source, tmp_path, capsys):
    video = source / "data" / "0005"
    (video / "000001-depth.png").write_bytes((video / "000001-depth.png").read_bytes()[:60])
    (video / "000002-meta.mat").write_bytes(b"MATLAB")
    (video / "000003-color.png").unlink()
    cv2.imwrite(str(source / "data/0050/000001-label.png"), np.full((48, 64), 7, np.uint8))
    made = prepare(source, tmp_path / "out")
    assert {key[:11] for key in made.keys} == {"0050/000002"}
    assert made.index["skipped"]["samples"] == 4
    reasons = dict(made.index["skipped"]["first"])
    assert "truncated" in reasons["data/0005/000001-depth.png"]
    assert "no usable MATLAB file" in reasons["data/0005/000002-meta.mat"]
    assert reasons["0005/000003"] == "has no color file"
    assert "the object 7; -meta.mat names 3, 14" in reasons["data/0050/000001-label.png"]
    capsys.readouterr()
    assert main(["ycb_video", "--source", str(source), "--check", "--workers", "1"]) == 2
    assert "4 bad files or samples, the first: 0005/000003" in capsys.readouterr().err


def test_check_of_a_part_says_how_much_of_it_is_there(source, capsys, monkeypatch):
    check = ["ycb_video", "--source", str(source), "--check", "--workers", "1"]
    assert main(check) == 2
    said = capsys.readouterr()
    assert "videos: 2 found, the published set has 92; frames: 5 found, the published set has 133936" in said.err
    assert "bad" not in said.err
    monkeypatch.setattr(ycb_video, "VIDEOS", 2)
    monkeypatch.setattr(ycb_video, "FRAMES", 5)
    assert main(check) == 0
    assert "frames: 5 found, 5 published" in capsys.readouterr().out


def test_a_resized_frame_does_not_fit_its_camera(source, tmp_path):
    for part in ("color", "depth", "label"):
        path = str(source / f"data/0050/000001-{part}.png")
        image = cv2.imread(path, cv2.IMREAD_UNCHANGED)
        half = (image.shape[1] // 2, image.shape[0] // 2)
        cv2.imwrite(path, cv2.resize(image, half, interpolation=cv2.INTER_NEAREST))
    reasons = dict(prepare(source, tmp_path / "out").index["skipped"]["first"])
    assert "was it resized?" in reasons["data/0050/000001-color.png"]


def test_check_finds_an_implausible_unit(source, capsys):
    write_frame(source / "data" / "0060", 1, factor=65535)
    path = source / "data/0060/000001-meta.mat"
    meta = {name: value for name, value in scipy_io.loadmat(path).items() if not name.startswith("__")}
    scipy_io.savemat(path, {**meta, "factor_depth": np.array([[1000]], np.uint16)})
    capsys.readouterr()
    assert main(["ycb_video", "--source", str(source), "--check", "--workers", "1"]) == 2
    assert "data/0060/000001-color.png" in capsys.readouterr().err


def test_wrong_root_says_what_was_expected_and_found(tmp_path, capsys):
    (tmp_path / "pictures" / "cats").mkdir(parents=True)
    assert main(["ycb_video", "--source", str(tmp_path / "pictures"), "--check"]) == 2
    said = capsys.readouterr().err
    assert "expected data/<video>/NNNNNN-color.png" in said
    assert "found cats/" in said


@pytest.mark.data
def test_real_frames(tmp_path):
    source = tmp_path / "in"
    shutil.copytree(
        shared_data("ycb_video_frames", "data"), source / "data", ignore=shutil.ignore_patterns("*9-*", "*7-*")
    )
    made = prepare(source, tmp_path / "out", "--size", "64")
    assert len(made) == 13
    counts = Counter(made.classes[label] for label in made.labels)
    assert counts["006_mustard_bottle"] == 2
    assert counts["025_mug"] == counts["061_foam_brick"] == 1
    middle = made.images["depth"][:, 24:40, 24:40]
    medians = [np.median(crop[crop > 0]) for crop in middle]
    assert np.all(np.array(medians) > 400)
    assert np.all(np.array(medians) < 1500)
    # The camera of a crop sees the centre of the crop where the frame's camera saw the centre of the box.
    mug = list(made.keys).index("0000/000001/025_mug")
    x = (31.5 - made.camera[mug, 2]) / made.camera[mug, 0]
    assert x == pytest.approx(((335 + 504 - 1) / 2 - 312.99) / 1066.78, abs=0.002)
