"""``prepare falling_things`` on fake frames in the true layout and units."""

from __future__ import annotations

import filecmp
import json
import math
import os
import shutil
from collections import Counter

import cv2
import numpy as np
import pytest
from conftest import shared_data
from fake_falling_things import DRILL, MUG, NUMBERS, bare_nan, prepare, write_frame, write_settings, write_source

from mmcl_core.data import falling_things
from mmcl_core.data.falling_things import CLASSES, split_scenes
from mmcl_core.errors import ConfigError
from mmcl_core.prepare import main

SCENES = [f"{environment}_{n}" for environment in ("kitchen", "kitedemo", "temple") for n in range(5)]


@pytest.fixture
def source(tmp_path):
    return write_source(tmp_path / "data" / "fat")


MIXED = ("--subset", "mixed", "--val-scenes", "kitchen_0")


def test_crops_units_labels_and_cameras(source, tmp_path):
    made = prepare(source, tmp_path / "out", *MIXED)
    assert made.classes == CLASSES
    assert list(made.keys) == [
        f"mixed/{frame}/{name}"
        for frame in ("kitchen_0/000000", "temple_1/000000", "temple_1/000001")
        for name in ("025_mug", "035_power_drill")
    ]
    assert [made.classes[label] for label in made.labels[:2]] == ["025_mug", "035_power_drill"]
    assert list(made.splits) == ["val"] * 2 + ["train"] * 4
    assert list(made.groups[:3]) == ["kitchen_0", "kitchen_0", "temple_1"]
    assert made.sources[0] == "mixed/kitchen_0/000000.left.jpg"
    # 0.1 mm to the nearest mm; the box is the object itself, and its edge is replicated, not the background.
    assert (made.images["depth"][0] == 1100).all()
    assert (made.images["depth"][1] == 700).all()
    assert np.abs(made.images["rgb"][1, 8:24, 12:20].astype(int) - (200, 10, 20)).max() < 12
    # The drill: 20 x 32 pixels from (20, 10), 6 columns of edge on either side; the centre of the file less 0.5.
    np.testing.assert_allclose(made.camera[1], [76.8, 76.9, 47.5 - 14, 26.5 - 10], rtol=1e-6)


def test_names_are_those_of_the_ycb_meshes():
    assert list(CLASSES) == sorted(path.name for path in shared_data("ycb_meshes").iterdir() if path.is_dir())


def test_single_is_the_default_and_a_scene_of_an_environment_is_held_out(source, tmp_path):
    made = prepare(source, tmp_path / "out")
    assert {key.split("/")[0] for key in made.keys} == {"single"}
    assert Counter(made.splits) == {"train": 8, "val": 2}
    held = {group for group, split in zip(made.groups, made.splits, strict=True) if split == "val"}
    assert len(held) == 1
    both = prepare(source, tmp_path / "both", "--subset", "single", "mixed")
    assert len(both) == 16
    splits = {(group, split) for group, split in zip(both.groups, both.splits, strict=True)}
    assert len(splits) == 6, "both subsets of a scene are in one split"


def test_a_margin_shows_the_background_without_reading(source, tmp_path):
    made = prepare(source, tmp_path / "out", *MIXED, "--margin", "0.25")
    depth = made.images["depth"][0]  # 30 x 20 grows to 45 x 35, cut at the top and right border
    assert set(np.unique(depth).tolist()) == {0, 1100}
    assert depth[16, 16] == 1100


def test_boxes_beyond_the_border_are_cut_there_first(tmp_path):
    folder = tmp_path / "mixed" / "temple_0"
    write_settings(folder, NUMBERS)
    write_settings(tmp_path / "mixed" / "temple_1", NUMBERS)
    write_frame(folder, 0, [(MUG, 1, 86, -30, 106, 24)])
    write_frame(tmp_path / "mixed" / "temple_1", 0)
    path = folder / "000000.left.depth.png"
    depth = np.full((54, 96), 9000, np.uint16)
    depth[:24, 86:] = 4000
    cv2.imwrite(str(path), depth)
    made = prepare(tmp_path, tmp_path / "out", "--subset", "mixed", "--val-scenes", "0", "--min-side", "24")
    assert made.keys[0] == "mixed/temple_0/000000/025_mug"
    assert (made.images["depth"][0] == 400).all()
    few = prepare(tmp_path, tmp_path / "few", "--subset", "mixed", "--val-scenes", "0", "--min-side", "25")
    assert "mixed/temple_0/000000/025_mug" not in list(few.keys), "54 pixels high, of which 24 are inside"


def test_small_hidden_and_unprojected_objects_are_left_out(tmp_path):
    folder = tmp_path / "mixed" / "temple_0"
    write_settings(folder, NUMBERS)
    nothing = (math.nan,) * 4
    brick = "061_foam_brick_16k"
    write_frame(folder, 0, [(MUG, 0.2, 5, 5, 25, 25), (DRILL, 1, 40, 5, 70, 30), (brick, 1, 2, 2, 9, 9)])
    write_frame(folder, 1, [(MUG, 0, *nothing), (MUG, 1, 40, 5, 60, 25), (brick, 0.3, 70, 5, 85, 20)])
    made = prepare(tmp_path, tmp_path / "a", "--subset", "mixed", "--val-scenes", "0")
    frames = ["000000/035_power_drill", "000001/025_mug-1", "000001/061_foam_brick"]
    assert list(made.keys) == [f"mixed/temple_0/{frame}" for frame in frames]
    assert made.index["skipped"]["samples"] == 0
    strict = ["--subset", "mixed", "--val-scenes", "0", "--min-visibility", "0.5", "--min-side", "25"]
    assert list(prepare(tmp_path, tmp_path / "b", *strict).keys) == [f"mixed/temple_0/{frames[0]}"]
    every = prepare(tmp_path, tmp_path / "c", "--subset", "mixed", "--val-scenes", "0", "--every", "2")
    assert len(every) == 1


def test_right_picture_is_cut_by_its_own_box(source, tmp_path):
    folder = source / "mixed" / "temple_1"
    write_frame(folder, 1, [(DRILL, 1, 20, 10, 40, 42)])
    content = json.loads((folder / "000001.right.json").read_text().replace("-nan", "NaN"))
    content["objects"][0]["visibility"] = 0.1
    (folder / "000001.right.json").write_text(bare_nan(content))
    (source / "mixed/kitchen_0/000000.right.jpg").unlink()
    made = prepare(source, tmp_path / "out", *MIXED, "--stereo")
    assert made.modalities == ("rgb", "depth", "rgb_right")
    right = made.present[:, made.modalities.index("rgb_right")].astype(bool)
    assert list(right) == [False, False, True, True, False]
    images = made.images["rgb_right"]
    assert np.abs(images[3, 8:24, 12:20].astype(int) - (200, 14, 20)).max() < 12
    assert made.index["skipped"]["samples"] == 1
    file, reason = made.index["skipped"]["first"][0]
    assert file == "mixed/kitchen_0/000000.right.jpg"
    assert "no rgb_right" in reason


@pytest.mark.parametrize("subset", ["single", "mixed"])
def test_class_numbers_of_seg_png(source, tmp_path, subset):
    options = ["--subset", subset, "--val-scenes", "kitchen_0", "--context"]
    tight = prepare(source, tmp_path / "tight", *options, "--boxes", "visible")
    row = next(i for i, key in enumerate(tight.keys) if key.endswith("035_power_drill"))
    # The fake seg.png misses the two upper rows of an object: 20 x 30 pixels from (20, 12).
    scale = 32 / 30
    expected = [76.8 * scale, 76.9 * scale, (47.5 - 15 + 0.5) * scale - 0.5, (26.5 - 12 + 0.5) * scale - 0.5]
    np.testing.assert_allclose(tight.camera[row], expected, rtol=1e-6)
    masked = prepare(source, tmp_path / "masked", *options, "--mask", "apply", "--min-side", "32")
    assert {key.rpartition("/")[2] for key in masked.keys} == {"035_power_drill"}
    depth, rgb = masked.images["depth"][0], masked.images["rgb"][0]
    inside = np.zeros((32, 32), bool)
    inside[2:, 6:26] = True
    assert (depth[inside] == 700).all()
    assert (depth[~inside] == 0).all()
    assert (rgb[~inside] == 0).all()
    assert rgb[inside].max(axis=1).min() > 100


def test_uncompressed_colour(tmp_path):
    folder = tmp_path / "mixed" / "temple_0"
    write_settings(folder, NUMBERS)
    write_frame(folder, 0, suffix="png")
    made = prepare(tmp_path, tmp_path / "out", "--subset", "mixed", "--val-scenes", "0", "--stereo")
    assert (made.images["rgb"][1] == (200, 10, 20)).all()
    assert (made.images["rgb_right"][1] == (200, 14, 20)).all()


def prepare_one(root, objects, *more):
    """The set of one frame with these objects, pixels as they are."""
    folder = root / "mixed" / "temple_0"
    write_settings(folder, NUMBERS)
    write_frame(folder, 0, objects, suffix="png")
    return prepare(root, root / "out", "--subset", "mixed", "--val-scenes", "0", "--stereo", *more)


def test_a_mask_leaves_the_object_alone_in_both_pictures(tmp_path):
    """Not what another one covers of its box, nor the two upper rows, which the fake seg.png misses."""
    objects = [(DRILL, 1, 20, 10, 60, 42), (MUG, 1, 40, 8, 60, 30)]
    made = prepare_one(tmp_path, objects, "--mask", "apply", "--size", "40")
    assert set(np.unique(made.images["depth"][1]).tolist()) == {0, 700}
    for name, colour in (("rgb", (200, 10, 20)), ("rgb_right", (200, 14, 20))):
        image = made.images[name][1]
        assert (image[:6] == 0).all()
        assert {tuple(pixel) for pixel in image.reshape(-1, 3).tolist()} == {(0, 0, 0), colour}


def test_two_objects_of_a_class_go_with_their_own_right_pictures(tmp_path):
    made = prepare_one(tmp_path, [(MUG, 1, 10, 8, 40, 28), (MUG, 1, 60, 8, 90, 28)])
    assert list(made.keys) == ["mixed/temple_0/000000/025_mug", "mixed/temple_0/000000/025_mug-1"]
    for name in ("rgb", "rgb_right"):
        assert made.images[name][:, 16, 16, 2].tolist() == [10, 60]


def test_scenes_are_drawn_by_environment_and_seed():
    splits = split_scenes(SCENES, "1", "1", 0)
    assert Counter(splits.values()) == {"train": 9, "val": 3, "test": 3}
    for split in ("val", "test"):
        assert {scene[:-2] for scene in SCENES if splits[scene] == split} == {"kitchen", "kitedemo", "temple"}
    assert split_scenes(reversed(SCENES), "1", "1", 0) == splits
    assert len({tuple(split_scenes(SCENES, "1", "0", seed).items()) for seed in range(8)}) > 4
    kitchens = [scene for scene in SCENES if "kitchen" in scene]
    assert split_scenes(kitchens, "1", "1", 0) == {scene: splits[scene] for scene in kitchens}
    named = split_scenes(SCENES, "2", "temple_0,kitchen_4", 0)
    assert Counter(named.values()) == {"train": 7, "val": 6, "test": 2}
    assert named["temple_0"] == named["kitchen_4"] == "test"
    for val, test in (("5", "0"), ("temple_0", "temple_0"), ("attic_1", "0")):
        with pytest.raises(ConfigError, match="--val-scenes"):
            split_scenes(SCENES, val, test, 0)


def test_bad_files_are_named_skipped_and_counted(source, tmp_path, capsys):
    folder = source / "mixed" / "temple_1"
    for number in range(2, 7):
        write_frame(folder, number)
    (folder / "000000.left.depth.png").write_bytes((folder / "000000.left.depth.png").read_bytes()[:80])
    (folder / "000001.left.json").write_text('{"objects": [')
    (folder / "000002.left.jpg").unlink()
    (folder / "000003.left.json").write_text('{"camera_data": {}}')
    cv2.imwrite(str(folder / "000004.left.depth.png"), np.full((50, 96), 900, np.uint16))
    content = json.loads((folder / "000005.left.json").read_text().replace("-nan", "NaN"))
    content["objects"][0]["class"] = "teapot_16k"
    (folder / "000005.left.json").write_text(bare_nan(content))
    (source / "mixed/kitchen_0/_camera_settings.json").write_text('{"camera_settings": [{"name": "left"}]}')
    made = prepare(source, tmp_path / "out", *MIXED)
    assert [key[6:] for key in made.keys] == [
        "kitchen_0/000000/025_mug", "kitchen_0/000000/035_power_drill", "temple_1/000005/025_mug",
        "temple_1/000006/025_mug", "temple_1/000006/035_power_drill",
    ]  # fmt: skip
    assert not made.camera[:2].any()
    assert made.camera[2:].all()
    reasons = dict(made.index["skipped"]["first"])
    assert made.index["skipped"]["samples"] == len(reasons) == 7
    assert "truncated" in reasons["mixed/temple_1/000000.left.depth.png"]
    assert "no JSON" in reasons["mixed/temple_1/000001.left.json"]
    assert "no left.jpg" in reasons["mixed/temple_1/000002"]
    assert "no list of objects" in reasons["mixed/temple_1/000003.left.json"]
    assert "96 x 50, the colour picture 96 x 54" in reasons["mixed/temple_1/000004.left.depth.png"]
    assert "teapot" in reasons["mixed/temple_1/000005.left.json"]
    assert "intrinsic_settings" in reasons["mixed/kitchen_0/_camera_settings.json"]
    capsys.readouterr()
    check = ["falling_things", "--source", str(source), "--check", "--workers", "1", "--min-side", "10", *MIXED]
    assert main(check) == 2
    assert "7 bad files or samples, the first: mixed/kitchen_0/_camera_settings.json" in capsys.readouterr().err


def test_check_of_a_good_source(source, capsys, monkeypatch):
    check = ["falling_things", "--source", str(source.parent), "--check", "--workers", "1", "--min-side", "10"]
    assert main(check) == 2
    assert "frames: 10 found, the published set has 31500" in capsys.readouterr().err
    monkeypatch.setitem(falling_things.SUBSETS, "single", 10)
    assert main(check) == 0
    assert "nothing wrong in 10 samples" in capsys.readouterr().out


def test_a_resized_frame_does_not_fit_its_camera(source, tmp_path):
    stem = str(source / "mixed" / "temple_1" / "000000.left")
    for part in ("jpg", "depth.png"):
        image = cv2.imread(f"{stem}.{part}", cv2.IMREAD_UNCHANGED)
        cv2.imwrite(f"{stem}.{part}", cv2.resize(image, (48, 27), interpolation=cv2.INTER_NEAREST))
    reasons = dict(prepare(source, tmp_path / "out", *MIXED).index["skipped"]["first"])
    assert "is 48 x 27, and its camera has its centre at (47.5, 26.5)" in reasons["mixed/temple_1/000000.left.jpg"]


def test_workers_limit_and_shards_do_not_change_the_set(source, tmp_path):
    options = ["--subset", "single", "mixed", "--stereo"]
    whole = prepare(source, tmp_path / "one", *options)
    prepare(source, tmp_path / "two", *options, "--workers", "2")
    for i in range(2):
        prepare(source, tmp_path / f"part{i}", *options, "--shard", f"{i}/2")
    parts = [str(tmp_path / f"part{i}") for i in range(2)]
    assert main(["merge", "--source", *parts, "--out", str(tmp_path / "merged")]) == 0
    names = [
        "rgb.u8",
        "rgb_right.u8",
        "depth.u16",
        "labels.i64",
        "camera.f32",
        "present.u1",
        "samples.csv",
        "index.json",
    ]
    for other in ("two", "merged"):
        assert filecmp.cmpfiles(tmp_path / "one", tmp_path / other, names, shallow=False)[0] == names
    limited = prepare(source, tmp_path / "few", *options, "--limit", "3")
    assert list(limited.keys) == list(whole.keys[:3])


def test_a_scene_whose_name_is_no_utf8_is_left_out(source, tmp_path):
    whole = prepare(source, tmp_path / "whole", *MIXED)
    scene = next(path for path in sorted((source / "mixed").iterdir()) if path.name != "kitchen_0")
    shutil.copytree(scene, scene.with_name(os.fsdecode(b"caf\xe9_0")))
    made = prepare(source, tmp_path / "out", *MIXED)
    assert list(made.keys) == list(whole.keys)
    assert made.index["skipped"]["first"] == [
        [rf"mixed/caf\udce9_0/00000{n}.left.jpg", "has a name that is no valid UTF-8; rename it"] for n in (0, 1)
    ]
    assert r"caf\udce9_0" in made.index["description"]["scenes"]["train"]


@pytest.mark.parametrize(
    ("folders", "options", "said"),
    [
        (["cats/dogs"], [], ["expected single/<object>_16k/", "found cats/"]),
        (["train/mug"], [], ["or crops in {train,val}/<class>/; found train/"]),
        (["train/025_mug"], [], ["no pair of pictures", "<stem>.left.depth.png"]),
        (["mixed/kitchen_0"], [], ["expected single/, found mixed/", "--subset"]),
        (["single"], [], ["no scenes", "found nothing"]),
    ],
)
def test_wrong_root_says_what_was_expected_and_found(tmp_path, capsys, folders, options, said):
    for folder in folders:
        (tmp_path / "in" / folder).mkdir(parents=True)
    assert main(["falling_things", "--source", str(tmp_path / "in"), "--check", *options]) == 2
    error = capsys.readouterr().err
    assert all(text in error for text in said)
