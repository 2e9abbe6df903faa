"""Splits of ``prepare coco``: files that name them, shares drawn by frames or scenes, and what a scene is."""

from __future__ import annotations

import re

import numpy as np
import pytest
from fake_coco import change, prepare, refused, skipped, source, write_frame, write_json, write_source

from mmcl_core.data.coco_places import SCENE, scene_of
from mmcl_core.data.shares import deal
from mmcl_core.prepare import main

__all__ = ["source"]  # a fixture


@pytest.mark.parametrize(
    ("files", "splits"),
    [
        (("annotations/instances_train2017.json", "annotations/instances_val2017.json"), ["train", "val"]),
        (("train/_annotations.coco.json", "valid/_annotations.coco.json"), ["train", "val"]),
        (("task1.json", "task2.json"), ["train", "train"]),
        (("only_test.json", ""), ["test"]),
    ],
)
def test_files_that_name_splits(tmp_path, files, splits):
    source = tmp_path / "in"
    for n, file in enumerate(filter(None, files)):
        folder = file.rpartition("/")[0] if file.startswith(("train", "valid")) else ""
        write_frame(source, f"{folder}/rgb/{n}.png".lstrip("/"))
        write_json(source / file, [f"rgb/{n}.png"])
    assert list(prepare(source, tmp_path / "out").splits) == [split for split in splits for _ in range(2)]


def test_a_picture_in_two_splits_stays_in_one_and_options_are_not_ignored_unsaid(source, tmp_path, capfd):
    (source / "annotations.json").rename(source / "train.json")
    write_json(source / "test.json", ["rgb/000000.png"])
    made = prepare(source, tmp_path / "out", "--split", "train=0.5,val=0.5")
    assert sorted(made.splits) == ["test"] * 2 + ["train"] * 6
    assert "the second is left out" in skipped(made)["rgb/000000.png"]
    assert "--split: not used, as the annotations name splits: test, train" in capfd.readouterr().err
    write_json(source / "more.json", ["rgb/000001.png"])
    assert "names a split and" in refused(capfd, source)
    assert main(["coco", "--source", str(source), "--check", "--annotations", str(source / "train.json")]) == 0


def test_shares_are_drawn_by_frames_or_by_scenes(tmp_path, capfd):
    source = tmp_path / "in"
    names = [f"rgb/{scene}_{n}.png" for scene in "abcdefghij" for n in range(4)]
    for name in names:
        write_frame(source, name)
    write_json(source / "a.json", names)
    drawn = ("--split", "train=0.7,val=0.3")
    frames = prepare(source, tmp_path / "frames", *drawn)
    for label in (0, 1):
        assert np.sum(frames.splits[frames.labels == label] == "val") == 12
    assert len({(key.rpartition("/")[0], split) for key, split in zip(frames.keys, frames.splits, strict=True)}) == 40
    assert "that lie in several splits: 9, such as 'rgb/a'; if these are frames of one scene" in capfd.readouterr().err
    scenes = prepare(source, tmp_path / "scenes", *drawn, "--keep-groups")
    assert "in several splits" not in capfd.readouterr().err
    assert len(set(zip(scenes.groups, scenes.splits, strict=True))) == 20
    assert np.sum(scenes.splits == "val") == 24
    other = prepare(source, tmp_path / "other", *drawn, "--seed", "1")
    assert list(other.splits) != list(frames.splits)
    one = prepare(source, tmp_path / "one", *drawn, "--keep-groups", "--group-pattern", r"rgb/(.).*")
    assert list(one.splits) != []
    assert set(one.groups) == {f"{scene}/{name}" for scene in "abcdefghij" for name in ("cup", "mug")}


def test_a_class_of_one_scene_does_not_hide_that_the_scenes_of_others_lie_in_several_splits(tmp_path, capfd):
    names = [f"rgb/{scene}_{n}.png" for scene in "abc" for n in range(4)]
    for name in names:
        write_frame(tmp_path, name)
    write_json(tmp_path / "a.json", names)
    change(tmp_path / "a.json", lambda content: content["categories"].append({"id": 3, "name": "pen"}))
    change(tmp_path / "a.json", lambda content: content["annotations"][0].update(category_id=3))
    prepare(tmp_path, tmp_path / "out", "--split", "train=0.7,val=0.3")
    assert "that lie in several splits" in capfd.readouterr().err


def labels_of(table):
    """The labels of the samples of each unit, of a table of how many of each class it has."""
    return [np.repeat(np.arange(table.shape[1]), row).tolist() for row in table]


@pytest.mark.parametrize("units", [3, 4, 5, 7, 12])
def test_as_many_units_as_splits_leave_none_without(units):
    shares = {"train": 0.8, "val": 0.1, "test": 0.1}
    table = np.zeros((2 * units + 2, 3), int)
    table[:units, 0], table[units : 2 * units, 1], table[2 * units :, 2] = 4, 1, 1
    drawn = np.array(deal(labels_of(table), 3, shares, np.random.default_rng(units).permutation(len(table))))
    for label in (0, 1):
        own = drawn[table[:, label] > 0]
        assert set(own) == set(shares)
        assert (own == "train").sum() == max(units - 2, round(0.8 * units) if units > 10 else 0)
    assert set(drawn[table[:, 2] > 0]) == {"train"}, "two units cannot be in three splits"


def test_units_of_several_classes_are_dealt_to_their_shares():
    rng = np.random.default_rng(0)
    units = rng.integers(0, 4, (300, 5)) * (rng.random((300, 5)) < 0.3)
    shares = {"train": 0.7, "val": 0.1, "test": 0.2}
    splits = np.array(deal(labels_of(units), 5, shares, rng.permutation(300)))
    for name, share in shares.items():
        np.testing.assert_allclose(units[splits == name].sum(0) / units.sum(0), share, atol=0.04)


@pytest.mark.parametrize(
    ("place", "scene"),
    [
        ("rgb/kitchen_0012.png", "rgb/kitchen"),
        ("rgb/s2/000001-color.jpg", "rgb/s2"),
        ("train/kitchen_0012_png.rf.0b12c9f4a07e33.jpg", "train/kitchen"),
        ("images/1679091c-kitchen_0012.png", "images/kitchen"),
        ("rgb/1305031102.175304.png", "rgb"),
        ("front/1679091.png", "front"),
        ("mug.png", "mug.png"),
    ],
)
def test_scenes_of_names_as_tools_make_them(place, scene):
    assert scene_of(place, re.compile(SCENE)) == scene


def test_scenes_that_are_none_are_warned_of(tmp_path, capfd):
    names = [f"rgb/{letter}.png" for letter in "abcdefghijkl"]
    for name in names:
        write_frame(tmp_path / "in", name)
    write_json(tmp_path / "in" / "a.json", names)
    prepare(tmp_path / "in", tmp_path / "out", "--split", "train=0.5,test=0.5", "--keep-groups")
    assert "12 pictures are 12 scenes, such as 'rgb/a.png'" in capfd.readouterr().err


@pytest.mark.parametrize(("folder", "scene"), [("in/rgb", "rgb"), ("in", ".")])
def test_pictures_of_a_number_alone_are_one_scene_of_their_folder_which_is_said(tmp_path, capfd, folder, scene):
    write_source(tmp_path / "in")
    for path in (tmp_path / "in" / "rgb").iterdir():
        path.rename(tmp_path / folder / path.name)
    split = ("--split", "train=0.5,test=0.5")
    made = prepare(tmp_path / "in", tmp_path / "out", *split, "--keep-groups")
    assert set(made.splits) == {"train"}
    assert f"4 pictures are 1 scene, such as {scene!r}; if that is wrong, --group-pattern" in capfd.readouterr().err
    made = prepare(tmp_path / "in", tmp_path / "frames", *split)
    assert set(made.splits) == {"train", "test"}
    assert f"(such as those of {scene})" in capfd.readouterr().err


def test_the_folder_itself_names_no_split_and_a_single_named_split_may_be_overruled(tmp_path):
    source = write_source(tmp_path / "kitchen_test")
    assert set(prepare(source, tmp_path / "a").splits) == {"train"}
    (source / "annotations.json").rename(source / "instances_Train.json")
    assert set(prepare(source, tmp_path / "b", "--split", "test").splits) == {"test"}
    assert set(prepare(source, tmp_path / "c", "--split", "train=0.5,val=0.5").splits) == {"train", "val"}
