"""``prepare`` on folders in the stated layouts, through the command: what is read, skipped and refused."""

import filecmp
import io
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections import Counter

import cv2
import numpy as np
import pytest
from conftest import shared_data
from small_sets import files, write_crop, write_set

from mmcl_core import cli
from mmcl_core.config import DataConfig
from mmcl_core.data import runner
from mmcl_core.data.cache import PreparedSet, PreparedWriter
from mmcl_core.data.sheet import colourise_depth, contact_sheet
from mmcl_core.data.sources import data_sets
from mmcl_core.data.splits import split_indices
from mmcl_core.errors import ConfigError, DataError
from mmcl_core.prepare import main


@pytest.fixture
def source(tmp_path):
    """Two splits, two classes and unlabelled samples; one without depth, one without RGB."""
    root = tmp_path / "crops"
    for split, numbers in (("train", range(6)), ("test", range(6, 9))):
        for number in numbers:
            write_crop(root / split / "mug", f"0001_{number:06d}", mask=True)
            write_crop(root / split / "can", f"0002_{number:06d}", mask=True, shape=(20, 31))
    write_crop(root / "train" / "can", "single", depth=False)
    write_crop(root / "test" / "mug", "dark", rgb=False)
    write_crop(root / "train" / "unlabelled", "what_1")
    return root


def words(source, out, *options, name="folder"):
    return [name, "--source", str(source), "--out", str(out), "--workers", "1", "--size", "20", *options]


def run(source, out, *options, name="folder"):
    status = main(words(source, out, *options, name=name))
    return status, PreparedSet.open(out) if status == 0 else None


def failure(capfd, *arguments):
    """The one line on standard error that a refused command ends with."""
    assert main([*arguments, "--workers", "1"]) == 2
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


def test_splits_classes_pairs_and_single_pictures(source, tmp_path, capfd):
    status, prepared = run(source, tmp_path / "set")
    assert status == 0
    assert prepared.classes == ("can", "mug")
    assert prepared.modalities == ("rgb", "depth")
    assert Counter(zip(prepared.splits, prepared.labels.tolist(), strict=True)) == {
        ("train", 0): 7, ("train", 1): 6, ("train", -1): 1, ("test", 0): 3, ("test", 1): 4
    }  # fmt: skip
    assert prepared.keys.tolist() == sorted(prepared.keys)
    row = prepared.keys.tolist().index("train/mug/0001_000002")
    rgb, depth = write_crop(tmp_path / "again", "0001_000002")
    np.testing.assert_array_equal(prepared.images["rgb"][row], rgb)
    np.testing.assert_array_equal(prepared.images["depth"][row], depth)
    assert prepared.groups[row] == "0001"
    assert prepared.sources[row] == "train/mug/0001_000002_rgb.png"
    single, dark = (prepared.keys.tolist().index(key) for key in ("train/can/single", "test/mug/dark"))
    assert prepared.present[[single, dark]].tolist() == [[True, False], [False, True]]
    assert (prepared.groups[single], prepared.groups[dark]) == ("", "")
    out = capfd.readouterr().out
    for text in ("21 samples of 2 classes", "without depth", "(unlabelled)", "next: python -m mmcl_core.train"):
        assert text in out
    assert (tmp_path / "set" / "sheet.png").is_file()


def test_the_summary_tells_how_far_things_are_and_a_command_that_runs(source, tmp_path, capfd):
    run(source, tmp_path / "set")
    out = capfd.readouterr().out
    assert "depth: the crops are 0." in out
    assert "--depth-unit" not in out
    assert out.rstrip().endswith("train.batch=14")
    run(source, tmp_path / "far", "--depth-unit", "10mm")
    assert " m); that is far: is --depth-unit right?" in capfd.readouterr().out
    for path in source.rglob("*_depth.png"):
        path.unlink()
    (source / "train").rename(source / "Training")
    run(source, tmp_path / "colour")
    said = capfd.readouterr().out
    assert said.rstrip().endswith(
        "data.train_split=Training train.modalities=rgb method=amdim amdim.classify_both=true train.batch=14"
    )
    with pytest.raises(DataError, match=r"no split 'train'; it has Training, test; give data\.train_split=Training"):
        split_indices(PreparedSet.open(tmp_path / "colour"), DataConfig(), 0)


def test_frames_of_one_scene_in_several_splits_are_told(tmp_path, capfd):
    """Not where a name such as IMG tells no scenes apart: whole groups would then leave splits empty."""
    for number in range(12):
        for name in ("mug", "can"):
            write_crop(tmp_path / "scenes" / name, f"{number % 3:04d}_{number:06d}")
            write_crop(tmp_path / "images" / name, f"IMG_{number:04d}")
    halves = ("--split", "train=0.5,test=0.5")
    run(tmp_path / "scenes", tmp_path / "torn", *halves)
    assert "that lie in several splits: 3, such as '0000'" in capfd.readouterr().err
    run(tmp_path / "scenes", tmp_path / "whole", *halves, "--keep-groups")
    run(tmp_path / "images", tmp_path / "nameless", *halves)
    assert "in several splits" not in capfd.readouterr().err


def test_any_number_of_workers_and_any_shards_give_the_same_set(source, tmp_path):
    (source / "train" / "mug" / "0001_000003_rgb.png").write_bytes(b"broken")
    (source / "train" / "mug" / "lone_mask.png").write_bytes(b"")
    run(source, tmp_path / "one")
    for number in range(2):
        assert run(source, tmp_path / f"part{number}", "--shard", f"{number}/2")[0] == 0
    arguments = ["folder", "--source", str(source), "--out", str(tmp_path / "two"), "--size", "20", "--workers", "2"]
    assert main(arguments) == 0
    merge = ["merge", "--source", str(tmp_path / "part0"), str(tmp_path / "part1"), "--out", str(tmp_path / "merged")]
    assert main(merge) == 0
    assert files(tmp_path / "two") == files(tmp_path / "one")
    assert files(tmp_path / "merged") == files(tmp_path / "one")


def test_pictures_without_suffix_are_told_apart_by_their_type(tmp_path):
    for number in range(2):
        rgb, depth = write_crop(tmp_path / "tmp", f"{number}")
        for split, kind, ending, data in (("a", "x", "jpg", rgb), ("a", "y", "PNG", depth), ("b", "x", "jpeg", rgb)):
            (tmp_path / "in" / split / kind).mkdir(parents=True, exist_ok=True)
            encoded = cv2.imencode(f".{ending.lower()}", data)[1].tobytes()
            (tmp_path / "in" / split / kind / f"{number}.{ending}").write_bytes(encoded)
    _, prepared = run(tmp_path / "in", tmp_path / "set")
    assert prepared.classes == ("x", "y")
    assert prepared.present[prepared.labels == 0].tolist() == [[True, False]] * 4
    assert prepared.present[prepared.labels == 1].tolist() == [[False, True]] * 2


def test_colour_by_other_names(tmp_path, capfd):
    folder = tmp_path / "crops" / "train" / "mug"
    for key, rgb, depth in (("1", "color", "depth"), ("2", "colour", "Depth"), ("3", "RGB", "DEPTH")):
        write_crop(folder, key)
        (folder / f"{key}_rgb.png").rename(folder / f"{key}_{rgb}.png")
        (folder / f"{key}_depth.png").rename(folder / f"{key}_{depth}.png")
    _, prepared = run(tmp_path / "crops", tmp_path / "set")
    assert prepared.keys.tolist() == [f"train/mug/{key}" for key in "123"]
    assert prepared.present.all()
    assert "have both colour and depth" not in capfd.readouterr().err
    for key, rgb in (("1", "color"), ("2", "colour"), ("3", "RGB")):
        (folder / f"{key}_{rgb}.png").rename(folder / f"{key}_image.png")
    assert len(run(tmp_path / "crops", tmp_path / "halves")[1]) == 6
    assert (
        "0 of 6 samples have both colour and depth: files such as train/mug/1_image.png and train/mug/1_depth.png are "
        "read as two samples; where they are one, name them <key>_rgb.png"
    ) in capfd.readouterr().err


def turned(path, orientation):
    """Give a JPEG file an EXIF orientation."""
    data = path.read_bytes()
    entry = b"\x12\x01\x03\0\x01\0\0\0" + bytes([orientation, 0, 0, 0])
    exif = b"Exif\0\0" + b"II*\0\x08\0\0\0" + b"\x01\0" + entry + b"\0\0\0\0"
    path.write_bytes(data[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + data[2:])


def test_jpeg_pictures_are_turned_as_a_viewer_shows_them(tmp_path):
    mugs = tmp_path / "crops" / "mug"
    write_crop(mugs, "a", rgb=False, shape=(32, 16))
    picture = np.full((16, 32, 3), 40, np.uint8)
    picture[:, 16:] = 200  # to the right, which orientation 6 turns downwards
    cv2.imwrite(str(mugs / "a_rgb.jpg"), picture)
    turned(mugs / "a_rgb.jpg", 6)
    _, prepared = run(tmp_path / "crops", tmp_path / "set", "--size", "32")
    assert prepared.present.all()
    image = prepared.images["rgb"][0].astype(int)
    assert abs(image[:14] - 40).max() < 5
    assert abs(image[18:] - 200).max() < 5


def test_pictures_of_other_proportions_are_no_pair(tmp_path, capfd):
    mugs = tmp_path / "crops" / "mug"
    for key, depth in (
        ("same", (24, 32)),
        ("rounded", (15, 21)),
        ("turned", (64, 48)),
        ("wider", (36, 64)),
        ("exif", (48, 64)),
    ):
        write_crop(mugs, key, rgb=False, shape=depth)
        cv2.imwrite(str(mugs / f"{key}_rgb.jpg"), np.zeros((48, 64, 3), np.uint8))
    turned(mugs / "exif_rgb.jpg", 8)
    _, prepared = run(tmp_path / "crops", tmp_path / "set")
    assert prepared.keys.tolist() == ["mug/rounded", "mug/same"]
    error = capfd.readouterr().err
    for key, size in (("turned", "48 x 64"), ("wider", "64 x 36"), ("exif", "64 x 48")):
        assert error.count(f"skipped mug/{key}_depth.png: is {size}, and mug/{key}_rgb.jpg is") == 1
    assert prepared.index["skipped"]["samples"] == 3


def test_a_plain_picture_beside_a_depth_file_is_its_colour(tmp_path):
    rgb, depth = write_crop(tmp_path / "in" / "train" / "x", "7", rgb=False)
    cv2.imwrite(str(tmp_path / "in" / "train" / "x" / "7.png"), rgb[..., ::-1])
    _, prepared = run(tmp_path / "in", tmp_path / "set")
    assert len(prepared) == 1
    np.testing.assert_array_equal(prepared.images["rgb"][0], rgb)
    np.testing.assert_array_equal(prepared.images["depth"][0], depth)


def test_a_source_of_one_modality_gives_a_set_of_one(tmp_path):
    write_crop(tmp_path / "in" / "x", "1", depth=False)
    assert run(tmp_path / "in", tmp_path / "set")[1].modalities == ("rgb",)


@pytest.fixture
def flat(tmp_path):
    """No level of splits; 3 scenes of 10 frames in one class, 5 samples in the other, 10 unlabelled ones."""
    root = tmp_path / "flat"
    for number in range(30):
        write_crop(root / "mug", f"scene{number // 10}_{number:02d}", depth=False)
    for number in range(5):
        write_crop(root / "can", f"{number}", depth=False)
    for number in range(10):
        write_crop(root / "unlabelled", f"u_{number}", depth=False)
    return root


def counts(prepared):
    return Counter(zip(prepared.splits, prepared.labels.tolist(), strict=True))


def test_without_a_level_of_splits_the_option_decides(flat, tmp_path):
    _, prepared = run(flat, tmp_path / "named", "--split", "test")
    assert set(prepared.splits) == {"test"}
    assert prepared.keys[0] == "can/0"
    _, prepared = run(flat, tmp_path / "drawn", "--split", "train=0.6,val=0.2,test=0.2")
    assert counts(prepared) == {
        ("train", 1): 18, ("val", 1): 6, ("test", 1): 6, ("train", 0): 3, ("val", 0): 1, ("test", 0): 1,
        ("train", -1): 6, ("val", -1): 2, ("test", -1): 2,
    }  # fmt: skip
    again, other = (
        run(flat, tmp_path / f"s{seed}", "--split", "train=0.6,val=0.2,test=0.2", "--seed", seed)[1].splits.tolist()
        for seed in ("0", "1")
    )
    assert again == prepared.splits.tolist()
    assert other != again


def test_a_scene_of_several_classes_is_kept_in_one_split(tmp_path):
    """With what has no label, which contrastive losses see, too."""
    for scene in range(12):
        for name in ("mug", "can", "unlabelled"):
            for number in range(2):
                write_crop(tmp_path / "crops" / name, f"desk{scene}_{number}", depth=False)
    _, prepared = run(tmp_path / "crops", tmp_path / "set", "--split", "train=0.5,val=0.25,test=0.25", "--keep-groups")
    drawn = {scene: set(prepared.splits[prepared.groups == scene]) for scene in set(prepared.groups)}
    assert all(len(splits) == 1 for splits in drawn.values())
    assert counts(prepared)["train", 0] == counts(prepared)["train", -1] == 12
    assert counts(prepared)["val", 1] == counts(prepared)["test", 1] == 6


def test_groups_can_be_kept_in_one_split(flat, tmp_path):
    _, prepared = run(flat, tmp_path / "set", "--split", "train=0.67,test=0.33", "--keep-groups")
    mugs = prepared.labels == 1
    for scene in ("scene0", "scene1", "scene2"):
        assert len(set(prepared.splits[mugs & (prepared.groups == scene)])) == 1
    assert counts(prepared)["train", 1] == 20


@pytest.mark.parametrize(
    "text", ["train=0.5", "train=0.5,test=0.6", "train=1,test=0", "a=b", "=1", "", "train=.5,train=.5"]
)
def test_shares_that_make_no_sense_are_refused(flat, tmp_path, capfd, text):
    line = failure(capfd, "folder", "--source", str(flat), "--out", str(tmp_path / "set"), "--split", text)
    assert "--split" in line
    assert "sum to 1" in line


def test_group_pattern(source, tmp_path):
    _, prepared = run(source, tmp_path / "set", "--group-pattern", r"0*(\d)_\d+")
    assert prepared.groups[prepared.keys.tolist().index("train/mug/0001_000002")] == "1"
    assert run(source, tmp_path / "x", "--group-pattern", "(")[0] == 2


def test_depth_units_and_stored_pictures(tmp_path, capfd):
    for key in ("1", "2"):
        _, depth = write_crop(tmp_path / "in" / "train" / "x", key, far=6000)
    _, prepared = run(tmp_path / "in", tmp_path / "set", "--depth-unit", "m/5000")
    np.testing.assert_array_equal(prepared.images["depth"][1], np.floor(depth * 0.2 + 0.5))
    assert prepared.index["description"]["depth_unit"] == "m/5000"
    picture = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    for key in ("1", "2"):
        cv2.imwrite(str(tmp_path / "in" / "train" / "x" / f"{key}_depth.png"), picture[..., ::-1])
    line = failure(capfd, "folder", "--source", str(tmp_path / "in"), "--out", str(tmp_path / "no"))
    assert "none of 2 depth files seems usable" in line
    assert "is 8 bit with 3 channel(s); metric depth is 16 bit with 1 channel (--depth-unit stored takes" in line
    _, prepared = run(tmp_path / "in", tmp_path / "hha", "--depth-unit", "stored")
    np.testing.assert_array_equal(prepared.images["depth"][1], picture)


def test_masks_are_ignored_or_applied(source, tmp_path):
    _, plain = run(source, tmp_path / "plain")
    _, masked = run(source, tmp_path / "masked", "--mask", "apply")
    row, same = (p.keys.tolist().index("train/mug/0001_000002") for p in (plain, masked))
    for name in ("rgb", "depth"):
        assert plain.images[name][row][10:].all(axis=0).any()
        np.testing.assert_array_equal(masked.images[name][same][:10], plain.images[name][row][:10])
        assert not masked.images[name][same][10:].any()
    assert len(plain) - len(masked) == 3
    assert masked.index["skipped"]["first"][0] == ["test/mug/dark", "has no mask, and --mask apply needs one"]


def test_wrong_seeds_and_sets_inside_their_source(source, tmp_path, capfd):
    options = ("--source", str(source), "--out")
    assert "--seed is -1" in failure(capfd, "folder", *options, str(tmp_path / "out"), "--seed", "-1")
    assert "lies in --source" in failure(capfd, "folder", *options, str(source / "prepared"))
    assert not (source / "prepared").exists()


def test_a_set_is_shown_where_its_sheet_cannot_be_written(tmp_path, capfd):
    write_set(tmp_path / "set", range(6))
    assert main(["show", str(tmp_path / "set"), "--sheet", str(tmp_path / "absent" / "a.png")]) == 2
    out, err = capfd.readouterr()
    assert "cannot write the contact sheet" in err
    assert f"{tmp_path / 'set'}: 6 samples" in out


def test_folder_names_that_tell_of_another_layout(source, tmp_path, capfd):
    for number, place in enumerate(("{}/mug", "{}")):
        root = tmp_path / f"in{number}"
        for name in ("Color", "depth"):
            folder = root / place.format(name)
            folder.mkdir(parents=True)
            cv2.imwrite(str(folder / "0.png"), np.full((20, 20, 3), 90, np.uint8))
        error = failure(capfd, "folder", "--source", str(root), "--out", str(tmp_path / "out"))
        assert f"Color and depth would be read as {('splits', 'classes')[number]}" in error
    (source / "test" / "mug").rename(source / "test" / "Mug ")
    status, prepared = run(source, tmp_path / "out", "--split", "train=0.5,test=0.5", "--keep-groups", "--seed", "1")
    error = capfd.readouterr().err
    assert status == 0
    assert {"Mug ", "mug"} <= set(prepared.classes)
    assert "classes of nearly the same name are kept apart: Mug , mug" in error
    assert "--split, --keep-groups, --seed: not used, as the source has splits, test, train" in error


def test_classes_with_a_folder_for_each_instance_are_no_splits(tmp_path, capfd):
    for place in ("mug/mug_1", "mug/mug_2", "can/can_1"):
        write_crop(tmp_path / "crops" / place, "1")
    assert run(tmp_path / "crops", tmp_path / "set")[0] == 0
    warning = "can, mug are read as splits, and the folders in them (can_1, mug_1, mug_2) as classes"
    assert warning in capfd.readouterr().err
    (tmp_path / "crops" / "can").rename(tmp_path / "crops" / "Test-2")
    assert run(tmp_path / "crops", tmp_path / "again")[0] == 0
    assert "are read as splits" not in capfd.readouterr().err


def test_edges_of_jpeg_masks(tmp_path):
    """What a JPEG leaves around the object is not the object, and numbers of objects do not survive it."""
    folder = tmp_path / "in" / "mug"
    folder.mkdir(parents=True)
    for name, level in (("good", 255), ("numbers", 7)):
        mask = np.zeros((64, 64), np.uint8)
        mask[20:45, 18:43] = level
        cv2.imwrite(str(folder / f"{name}_rgb.png"), np.full((64, 64, 3), 90, np.uint8))
        cv2.imwrite(str(folder / f"{name}_mask.jpg"), mask, [cv2.IMWRITE_JPEG_QUALITY, 50])
        inside = mask > 0
    written = cv2.imread(str(folder / "good_mask.jpg"), cv2.IMREAD_GRAYSCALE)
    assert (written[~inside] > 0).any()  # lossy indeed
    status, prepared = run(tmp_path / "in", tmp_path / "out", "--mask", "apply", "--size", "64")
    assert status == 0
    assert prepared.keys.tolist() == ["mug/good"]
    np.testing.assert_array_equal(prepared.images["rgb"][0].any(-1), inside)
    name, reason = prepared.index["skipped"]["first"][0]
    assert name == "mug/numbers_mask.jpg"
    assert "JPEG mask of at most" in reason


def test_cameras_follow_the_crop(source, tmp_path, capfd):
    rows = ["key, fx, fy, cx, cy", "train/can/0002_000001, 60, 61, 14, 9", "0001_000000, 50, 50, 10, 10"]
    (source / "cameras.csv").write_text("\n".join(rows))
    prepared = run(source, tmp_path / "set", "--size", "31")[1]
    keys = prepared.keys.tolist()
    # 31 x 20 pixels get 5 rows above.
    np.testing.assert_allclose(prepared.camera[keys.index("train/can/0002_000001")], (60, 61, 14, 14))
    scale = 31 / 20
    np.testing.assert_allclose(
        prepared.camera[keys.index("train/mug/0001_000000")],
        (50 * scale, 50 * scale, *(2 * (10.5 * scale - 0.5,))),
        rtol=1e-6,
    )
    assert (prepared.camera[:, 0] > 0).sum() == 2
    (source / "cameras.csv").write_text("\n".join([*rows, "x, 0, 1, 2, 3"]))
    assert "cameras.csv, line 4" in failure(capfd, "folder", "--source", str(source), "--out", str(tmp_path / "no"))
    (source / "cameras.csv").write_text("\n".join([*rows, "0001_000001, 500,5, 510,5, 20,5, 20,5"]))
    assert "line 4: more values than" in failure(
        capfd, "folder", "--source", str(source), "--out", str(tmp_path / "no")
    )
    (source / "cameras.csv").write_text("\n".join(rows), encoding="utf-16")
    assert "not UTF-8 text" in failure(capfd, "folder", "--source", str(source), "--out", str(tmp_path / "no"))
    (source / "cameras.csv").write_text("\n".join([*rows, "mug/0009_9, 50, 50, 10, 10"]))
    run(source, tmp_path / "third")
    assert "1 of 3 keys name no crop, such as mug/0009_9" in capfd.readouterr().err
    (source / "cameras.csv").write_text("name,f\n")
    assert "columns key, fx" in failure(capfd, "folder", "--source", str(source), "--out", str(tmp_path / "no"))


def test_a_camera_of_a_colour_file_that_cannot_be_read_is_not_taken_for_that_of_depth(tmp_path):
    """Depth may be of another size, and nothing tells of how many pixels the camera speaks."""
    for key in "ab":
        write_crop(tmp_path / "in" / "mug", key)
        cv2.imwrite(f"{tmp_path}/in/mug/{key}_depth.png", np.full((10, 10), 900, np.uint16))
    (tmp_path / "in" / "mug" / "b_rgb.png").write_bytes(b"")
    (tmp_path / "in" / "cameras.csv").write_text("key,fx,fy,cx,cy\na,60,60,9.5,9.5\nb,60,60,9.5,9.5\n")
    prepared = run(tmp_path / "in", tmp_path / "set")[1]
    assert prepared.present.tolist() == [[True, True], [False, True]]
    assert (prepared.camera[:, 0] > 0).tolist() == [True, False]


@pytest.fixture
def damaged(source):
    mugs = source / "train" / "mug"
    (mugs / "0001_000000_rgb.png").write_bytes(b"")
    cv2.imwrite(str(mugs / "0001_000001_depth.png"), np.zeros((20, 20), np.uint8))
    cut = (mugs / "0001_000002_rgb.png").read_bytes()[:-30]
    (mugs / "0001_000002_rgb.png").write_bytes(cut)
    (mugs / "0001_000002_depth.png").unlink()
    (mugs / "0001_000003_rgb.jpg").write_bytes(cut)
    return source


BAD = ("0001_000000_rgb.png", "0001_000001_depth.png", "0001_000002_rgb.png", "0001_000003_rgb.jpg")


def test_bad_files_are_named_once_skipped_and_counted(damaged, tmp_path, capfd):
    _, prepared = run(damaged, tmp_path / "set")
    keys = prepared.keys.tolist()
    present = {key: prepared.present[keys.index(f"train/mug/0001_{key}")].tolist() for key in ("000000", "000001")}
    assert present == {"000000": [False, True], "000001": [True, False]}
    assert "train/mug/0001_000002" not in keys  # nothing of it is left
    assert "train/mug/0001_000003" in keys
    error = capfd.readouterr().err
    for name, reason in zip(BAD, ("is empty", "8 bit with 1 channel", "truncated", "second rgb picture"), strict=True):
        assert error.count(f"skipped train/mug/{name}: ") == 1
        assert reason in error
    assert prepared.index["skipped"]["samples"] == 4


def test_what_lies_beside_the_pictures_is_named_and_counted(source, tmp_path, capfd):
    train = source / "train"
    (train / "mug" / "0001_000000_depth.tiff").write_bytes(b"x")
    (train / "mug" / "gone_rgb.png").symlink_to(tmp_path / "nowhere")
    (train / "mug" / "more").mkdir()
    (train / "pan" / "instance").mkdir(parents=True)
    _, prepared = run(source, tmp_path / "set")
    error = capfd.readouterr().err
    for name in (
        "mug/0001_000000_depth.tiff: is neither",
        "mug/gone_rgb.png: is a link to",
        "mug/more: is a",
        "pan: holds",
        "pan/instance: is a folder in a class folder",
    ):
        assert error.count(f"skipped train/{name}") == 1
    assert prepared.index["skipped"]["samples"] == 5


def test_a_split_without_a_picture_that_can_be_read_is_named(tmp_path, capfd):
    root = tmp_path / "crops"
    write_crop(root / "train" / "mug", "1")
    write_crop(root / "val" / "mug" / "sequence", "1")
    for place in ("test/mug", "more"):
        (root / place).mkdir(parents=True)
        (root / place / "1_rgb.bmp").write_bytes(b"BM")
    assert main(["folder", "--source", str(root), "--check", "--workers", "1"]) == 2
    out = capfd.readouterr().out
    for name in (
        "more: holds no picture",
        "more/1_rgb.bmp: is neither PNG nor JPEG",
        "test/mug: holds no picture",
        "test/mug/1_rgb.bmp: is neither PNG nor JPEG",
        "val/mug: holds no picture",
        "val/mug/sequence: is a folder in a class folder",
    ):
        assert out.count(f"bad: {name}") == 1


def test_names_that_are_no_utf8_are_named_and_counted(source, tmp_path, capfd):
    whole = files(run(source, tmp_path / "whole")[1].path)
    capfd.readouterr()
    odd = os.fsdecode(b"caf\xe9")
    write_crop(source / "train" / "mug", "odd_1")
    write_crop(source / "train" / "odd", "x_1")
    write_crop(source / "odd" / "mug", "x_1")
    for name in ("train/mug/odd_1_rgb.png", "train/mug/odd_1_depth.png", "train/odd", "odd"):
        (source / name).rename((source / name).with_name((source / name).name.replace("odd", odd)))
    _, prepared = run(source, tmp_path / "set", "--workers", "2")
    error = capfd.readouterr().err
    places = ("train/mug/caf\\udce9_1_rgb.png", "train/caf\\udce9", "caf\\udce9/mug")
    for place in places:
        assert error.count(f"skipped {place}: has a name that is no valid UTF-8") == 1
    assert "Traceback" not in error
    assert prepared.index["skipped"]["samples"] == 3
    assert prepared.classes == ("can", "mug")
    assert (tmp_path / "set" / "samples.csv").read_bytes() == whole["samples.csv"]
    assert main(["folder", "--source", str(source), "--check", "--workers", "1"]) == 2
    assert f"bad: {places[0]}: has a name" in capfd.readouterr().out


def test_a_source_that_is_named_in_other_bytes_than_utf8(source, tmp_path):
    source = source.rename(source.with_name(os.fsdecode(b"caf\xe9")))
    assert run(source, tmp_path / "set")[1].index["description"]["source"] == "caf\\udce9"


def test_a_link_to_an_empty_folder_is_written_through(source, tmp_path):
    (tmp_path / "disk" / "set").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "disk" / "set")
    for options in ((), ("--overwrite",)):
        run(source, tmp_path / "link", *options)
        assert (tmp_path / "link").is_symlink()
        assert [path.name for path in (tmp_path / "disk").iterdir()] == ["set"]
        assert len(PreparedSet.open(tmp_path / "disk" / "set")) > 0


def test_a_class_of_too_few_samples_is_warned_about(flat, tmp_path, capfd):
    for number in range(2):
        write_crop(flat / "pan", f"{number}", depth=False)
    _, prepared = run(flat, tmp_path / "set", "--split", "train=0.9,val=0.05,test=0.05")
    assert {(split, label) for split, label in counts(prepared) if label == 2} == {("train", 2)}
    error = capfd.readouterr().err
    for split in ("val", "test"):
        assert {label for name, label in counts(prepared) if name == split} >= {0, 1}, "can has 5, mug 30 samples"
        assert error.count(f"--split: {split} gets nothing of 1 of 3 classes, such as pan: too few samples (2)") == 1


def test_check_reports_and_writes_nothing(damaged, source, tmp_path, capfd):
    before = sorted(tmp_path.rglob("*"))
    line = failure(capfd, "folder", "--source", str(damaged), "--check")
    assert "4 bad files or samples, the first: train/mug/0001_000003_rgb.jpg" in line
    assert sorted(tmp_path.rglob("*")) == before
    for path in [*(source / "train" / "mug").iterdir()]:
        path.unlink()
    assert main(["folder", "--source", str(source), "--check", "--workers", "1"]) == 0
    out = capfd.readouterr().out
    assert "nothing wrong in 15 samples" in out
    arguments = ["folder", "--source", str(source), "--check", "--depth-unit", "m/20", "--limit", "3", "--workers", "1"]
    assert main(arguments) == 2
    captured = capfd.readouterr()
    assert "3 bad files or samples, the first: test/can/0002_000006_rgb.png" in captured.err
    assert captured.out.count("m; 0.1 to 20 m is plausible: is the depth unit right?") == 3


def test_an_implausible_depth_unit_is_warned_about(source, tmp_path, capfd):
    run(source, tmp_path / "set", "--depth-unit", "0.01mm")
    assert "is the depth unit right?" in capfd.readouterr().err


def test_limit(source, tmp_path):
    assert len(run(source, tmp_path / "set", "--limit", "5")[1]) == 5


def test_a_source_of_another_layout_says_what_was_expected_and_found(tmp_path, capfd):
    (tmp_path / "empty").mkdir()
    (tmp_path / "loose").mkdir()
    (tmp_path / "loose" / "readme.txt").touch()
    (tmp_path / "deep" / "a" / "b" / "c").mkdir(parents=True)
    (tmp_path / "deep" / "a" / "b" / "c" / "1_rgb.png").touch()
    (tmp_path / "mixed").mkdir()
    write_crop(tmp_path / "mixed" / "mug", "1")
    write_crop(tmp_path / "mixed" / "train" / "mug", "1")
    write_crop(tmp_path / "broken" / "mug", "1", depth=False)
    (tmp_path / "broken" / "mug" / "1_rgb.png").write_bytes(b"x")
    expected = {
        "absent": ("a folder expected, found no such folder",),
        "empty": ("expected <split>/<class>/<key>_rgb.png", "found nothing"),
        "loose": ("no pictures found", "found readme.txt"),
        "deep": ("no pictures found", "found a/", "in a/b/: c/"),
        "mixed": ("mixes two layouts", "mixed/mug", "mixed/train/mug"),
        "broken": ("none of 1 rgb files seems usable", "broken/mug/1_rgb.png is not a readable picture"),
    }
    for name, texts in expected.items():
        line = failure(capfd, "folder", "--source", str(tmp_path / name), "--out", str(tmp_path / "set"))
        for text in texts:
            assert text in line
    assert not (tmp_path / "set").exists()


def test_an_existing_set_is_replaced_only_when_asked(source, tmp_path, capfd):
    run(source, tmp_path / "set", "--limit", "2")
    line = failure(capfd, "folder", "--source", str(source), "--out", str(tmp_path / "set"))
    assert "not empty" in line
    assert "--overwrite" in line
    assert len(run(source, tmp_path / "set", "--limit", "3", "--overwrite")[1]) == 3


@pytest.mark.parametrize("options", [("--size", "4"), ("--limit", "0"), ("--shard", "2/2"), ("--shard", "x"), ()])
def test_wrong_options_are_refused(source, tmp_path, capfd, options):
    out = ("--out", str(tmp_path / "set")) if options else ()
    failure(capfd, "folder", "--source", str(source), *out, *options)


def test_show_verifies(source, tmp_path, capfd):
    run(source, tmp_path / "set")
    assert main(["show", str(tmp_path / "set"), "--sheet", str(tmp_path / "sheet.png")]) == 0
    assert "21 samples" in capfd.readouterr().out
    assert cv2.imread(str(tmp_path / "sheet.png")).shape[0] > 3 * 72
    path = tmp_path / "set" / "depth.u16"
    path.write_bytes(path.read_bytes()[:-7] + b"edited!")
    assert main(["show", str(tmp_path / "set")]) == 2
    assert f"error: {path} was changed" in capfd.readouterr().err


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
        assert data_set.description.strip().splitlines()[0] in page
        assert f"python -m mmcl_core.prepare {name} --source" in page


def test_interrupting_the_command_ends_it_without_a_half_set(source, tmp_path):
    for number in range(4000):
        os.link(source / "train" / "mug" / "0001_000000_rgb.png", source / "train" / "mug" / f"{number}_rgb.png")
    process = subprocess.Popen(
        [sys.executable, "-m", "mmcl_core.prepare", "folder", "--source", str(source), "--out", str(tmp_path / "set"),
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
def test_an_interrupted_job_goes_on_to_the_same_set(damaged, tmp_path, monkeypatch, capfd, samples):
    run(damaged, tmp_path / "whole")
    with monkeypatch.context() as patch:
        stop_after(patch, samples)
        assert main(words(damaged, tmp_path / "set")) == 130
    partial = tmp_path / "set.partial"
    assert (partial / "progress.json").is_file()
    with (partial / "rgb.u8").open("ab") as file:  # what was written after the last note is cut off
        file.write(b"torn")
    capfd.readouterr()
    assert "--resume" in failure(capfd, *words(damaged, tmp_path / "set"))
    assert "other options" in failure(capfd, *words(damaged, tmp_path / "set", "--size", "24", "--resume"))
    assert main(words(damaged, tmp_path / "set", "--resume", "--workers", "2")) == 0
    assert same_files(tmp_path / "whole", tmp_path / "set")
    assert not partial.exists()


def test_resume_without_a_part_begins_and_a_damaged_part_is_refused(source, tmp_path, monkeypatch, capfd):
    run(source, tmp_path / "whole")
    run(source, tmp_path / "new", "--resume")
    assert same_files(tmp_path / "whole", tmp_path / "new")
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        assert main(words(source, tmp_path / "set")) == 130
    (tmp_path / "set.partial" / "labels.i64").write_bytes(b"")
    assert "labels.i64 is shorter" in failure(capfd, *words(source, tmp_path / "set", "--resume"))
    (tmp_path / "set.partial" / "progress.json").write_text("{")
    assert "progress.json is damaged" in failure(capfd, *words(source, tmp_path / "set", "--resume"))
    run(source, tmp_path / "set", "--overwrite")
    assert same_files(tmp_path / "whole", tmp_path / "set")


@pytest.mark.parametrize("change", ["last gone", "first gone", "first renamed", "one more of those done", "one more"])
def test_a_changed_source_does_not_go_on(source, tmp_path, monkeypatch, capfd, change):
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        assert main(words(source, tmp_path / "set")) == 130
    last = json.loads((tmp_path / "set.partial" / "progress.json").read_text())["state"]["task"]
    assert last == "test/can/0002_000007"
    if change in ("last gone", "first gone"):
        key = last if change == "last gone" else "test/can/0002_000006"
        for path in (source / key).parent.glob(f"{(source / key).name}*"):
            path.unlink()
    elif change == "first renamed":
        for path in (source / "test" / "can").glob("0002_000006*"):
            path.rename(path.with_name(path.name.replace("0002", "0001")))
    else:
        write_crop(source / ("test/can" if change == "one more of those done" else "train/mug"), "0002_0000065")
    assert "the source or the options have changed" in failure(capfd, *words(source, tmp_path / "set", "--resume"))
    assert not (tmp_path / "set").exists()


# --- what commands share ----------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _logging():
    """Commands set logging up for a whole process; tests share one."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = handlers, level


def raising(error):
    def action():
        raise error

    return action


def test_exit_statuses(capfd):
    assert cli.run_command(lambda: None) == 0
    assert cli.run_command(lambda: 75) == 75
    assert cli.run_command(raising(ConfigError("no such knob"))) == 2
    assert cli.run_command(raising(PermissionError(13, "Permission denied", "/data/x"))) == 2
    assert cli.run_command(raising(KeyboardInterrupt())) == 130
    error = capfd.readouterr().err
    assert error.splitlines() == ["error: no such knob", "error: /data/x: Permission denied", "", "interrupted"]
    with pytest.raises(ZeroDivisionError):
        cli.run_command(lambda: 1 // 0)


def test_only_process_0_logs_what_is_no_warning(monkeypatch, capfd):
    for rank, expected in (("0", ["hello", "careful"]), ("1", ["careful"])):
        monkeypatch.setenv("RANK", rank)
        cli.set_up_logging()
        logging.getLogger("x").info("hello")
        logging.getLogger("x").warning("careful")
        assert [line.split()[-1] for line in capfd.readouterr().err.splitlines()] == expected


def test_names_that_are_no_utf8_are_printed(monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, "utf-8"))
    assert cli.run_command(lambda: print(os.fsdecode(b"caf\xe9"), flush=True)) == 0
    assert written.getvalue() == b"caf\\udce9\n"


def test_a_traceback_is_shown_on_request(capfd):
    cli.run_command(raising(DataError("bad")), logging.DEBUG)
    assert "Traceback" in capfd.readouterr().err


# --- contact sheet ----------------------------------------------------------------------------------------------------


def test_colour_of_depth():
    depth = np.zeros((4, 10), np.uint16)
    depth[1:] = np.linspace(500, 1500, 10)
    picture = colourise_depth(depth)
    assert not picture[0].any()
    assert picture[1, 0, 0] > picture[1, 0, 2]  # near: red
    assert picture[1, -1, 2] > picture[1, -1, 0]  # far: blue
    assert not colourise_depth(np.zeros((3, 3), np.uint16)).any()


def test_a_sheet_has_a_row_for_each_class_that_occurs(tmp_path):
    prepared = write_set(tmp_path / "set", [0, 3, 1, 4], split="train")
    one_row = 72 + 18 + 4
    assert cv2.imread(str(contact_sheet(prepared, tmp_path / "a.png"))).shape[0] == 2 * one_row + 4
    assert cv2.imread(str(contact_sheet(tmp_path / "set", tmp_path / "b.png", max_classes=1))).shape[0] == one_row + 4
    with pytest.raises(DataError, match="cannot write the contact sheet"):
        contact_sheet(prepared, tmp_path / "absent" / "a.png")


# --- real crops -------------------------------------------------------------------------------------------------------


@pytest.mark.data
def test_real_crops(tmp_path):
    _, ycb = run(shared_data("real_crops", "ycb_video"), tmp_path / "ycb", "--split", "test")
    assert (len(ycb), len(ycb.classes), ycb.index["skipped"]["samples"]) == (260, 12, 0)
    assert len(set(zip(ycb.groups, ycb.labels.tolist(), strict=True))) == 13
    assert ycb.present.all()
    _, mosd = run(shared_data("real_crops", "mosd"), tmp_path / "mosd", "--mask", "apply")
    assert mosd.classes == ("box", "cylinder")
    assert len(mosd) == 505
    assert {split: entry["unlabelled"] for split, entry in mosd.index["splits"].items()} == {"test": 264, "train": 22}
    index = json.loads((tmp_path / "mosd" / "index.json").read_text())
    assert index["description"]["crop"]["rule"] == "rectangle to square by edge replication"
