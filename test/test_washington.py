"""``prepare washington``: a fake data set in the true layout and units."""

from __future__ import annotations

from functools import partial

import cv2
import numpy as np
import pytest
import small_sets
from fake_washington import INSTANCES, write_crop, write_source

from mmcl_core.data.washington import CLASSES, read_trial
from mmcl_core.errors import DataError
from mmcl_core.prepare import main


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    return write_source(tmp_path_factory.mktemp("wrgbd"))


prepare = partial(small_sets.prepare, "washington --size 48")


def test_crops_units_labels_groups_and_cameras(source, tmp_path):
    made = prepare(source, tmp_path / "out")
    assert made.classes == CLASSES
    assert len(CLASSES) == 51
    assert len(made) == 7 * 2 * 3  # frames 1, 6 and 11
    assert list(made.keys) == sorted(made.keys)
    row = list(made.keys).index("food_bag/food_bag_2/food_bag_2_1_11")
    assert made.classes[made.labels[row]] == "food_bag"
    assert made.groups[row] == "food_bag_2"
    assert made.sources[row] == "rgbd-dataset/food_bag/food_bag_2/food_bag_2_1_11_crop.png"
    depth = made.images["depth"][row]
    assert depth[24, 24] == 611
    assert depth[2, 24] == 1000
    assert (made.images["rgb"][row][24, 24] == (11, 2, 10)).all()
    # 16 x 24 pixels, four columns of edge on either side, 24 pixels become 48; the first pixel is at (301, 201) from 1.
    expected = [570.3 * 2, 570.3 * 2, (320 - 301 + 4 + 0.5) * 2 - 0.5, (240 - 201 + 0.5) * 2 - 0.5]
    np.testing.assert_allclose(made.camera[row], expected, rtol=1e-5)


@pytest.mark.parametrize("trial", range(1, 11))
def test_trials_hold_one_instance_of_each_class_out(source, tmp_path, trial):
    held_out = read_trial(source / "testinstance_ids.txt", trial)
    assert held_out == {f"{name}_{numbers[trial % len(numbers)]}" for name, numbers in INSTANCES.items()}
    if trial in (2, 10):
        made = prepare(source, tmp_path / "out", "--trial", str(trial))
        assert {group for group, split in zip(made.groups, made.splits, strict=True) if split == "test"} == held_out
        assert len(set(made.groups)) == 7


def test_every_nth_frame_and_no_trial(source, tmp_path):
    made = prepare(source, tmp_path / "all", "--every", "1", "--trial", "0")
    assert len(made) == 7 * 2 * 4
    assert set(made.splits) == {"train"}
    made = prepare(source, tmp_path / "few", "--every", "10", "--trial", "0")
    assert {key.rpartition("_")[2] for key in made.keys} == {"1", "11"}


def test_mask(source, tmp_path):
    made = prepare(source, tmp_path / "out", "--mask", "apply")
    depth, rgb = made.images["depth"][0], made.images["rgb"][0]
    assert {int(v) for v in np.unique(depth)} == {0, 601}
    assert depth[24, 24] == 601
    assert not rgb[2].any()
    assert rgb[24, 24].any()


def test_inner_folder_and_given_trials(source, tmp_path):
    words = ("--trials", str(source / "testinstance_ids.txt"))
    made = prepare(source / "rgbd-dataset", tmp_path / "out", *words)
    assert made.sources[0].startswith("apple/apple_1/")
    assert len(prepare(source / "rgbd-dataset", tmp_path / "beside")) == len(made)


def test_bad_files_are_named_skipped_and_counted(tmp_path, capsys):
    source = tmp_path / "in"
    folder = source / "rgbd-dataset" / "lime" / "lime_1"
    folder.mkdir(parents=True)
    for frame in (1, 6, 11, 16, 21):
        write_crop(f"{folder}/lime_1_1_{frame}", 700, (0, 200, 0))
    (folder / "lime_1_1_1_crop.png").write_bytes(b"")
    (folder / "lime_1_1_6_depthcrop.png").unlink()
    (folder / "lime_1_1_11_loc.txt").write_text("somewhere")
    cv2.imwrite(str(folder / "lime_1_1_16_depthcrop.png"), np.ones((5, 5), np.uint16))
    (source / "rgbd-dataset" / "unicorn").mkdir()
    (source / "rgbd-dataset" / "__MACOSX").mkdir()
    (folder / "._lime_1_1_21_crop.png").write_bytes(b"")  # as Macs leave beside what they copy
    write_crop(f"{folder}/lime_2_1_1", 700, (0, 200, 0))
    made = prepare(source, tmp_path / "out", "--trial", "0")
    assert [key.rpartition("_")[2] for key in made.keys] == ["11", "21"]
    assert (made.camera[:, 0] > 0).tolist() == [False, True]
    skipped = dict(made.index["skipped"]["first"])
    place = "rgbd-dataset/lime/lime_1/lime_1_1_"
    assert skipped[place + "1_crop.png"] == "is empty (0 bytes)"
    assert "cannot be read" in skipped[place + "6_depthcrop.png"]
    assert "5 x 5, the colour picture 16 x 24" in skipped[place + "16_depthcrop.png"]
    assert "x,y" in skipped[place + "11_loc.txt"]
    assert "none of the 51 classes" in skipped["unicorn"]
    assert not any("._" in place or "__MACOSX" in place for place in skipped)
    assert skipped["rgbd-dataset/lime/lime_1/lime_2_1_1_crop.png"] == "lies in the folder of another instance, lime_1"
    capsys.readouterr()
    assert main(["washington", "--source", str(source), "--trial", "0", "--check", "--workers", "1"]) == 2
    said = capsys.readouterr().err
    assert "6 bad files or samples" in said
    assert "classes: 1 found, the published set has 51; instances: 1 found, the published set has 300" in said


def test_check_finds_an_implausible_unit(tmp_path, capsys):
    folder = tmp_path / "rgbd-dataset" / "lime" / "lime_1"
    folder.mkdir(parents=True)
    write_crop(f"{folder}/lime_1_1_1", 7, (0, 200, 0), height=40, width=40)
    assert main(["washington", "--source", str(tmp_path), "--trial", "0", "--check", "--workers", "1"]) == 2
    assert "the first: rgbd-dataset/lime/lime_1/lime_1_1_1_crop.png" in capsys.readouterr().err


def test_wrong_root_and_missing_trials_are_explained(source, tmp_path, capsys):
    (tmp_path / "in" / "cats").mkdir(parents=True)
    for options in ([], ["--trial", "0"]):
        assert main(["washington", "--source", str(tmp_path / "in"), "--check", *options]) == 2
        said = capsys.readouterr().err
        assert "expected rgbd-dataset/<class>" in said
        assert "found cats/" in said
    (tmp_path / "in" / "apple" / "apple_1").mkdir(parents=True)
    assert main(["washington", "--source", str(tmp_path / "in"), "--check"]) == 2
    assert "expected testinstance_ids.txt in it or beside it" in capsys.readouterr().err
    assert main(["washington", "--source", str(tmp_path / "in"), "--trial", "0", "--check"]) == 2
    assert "no crops; expected rgbd-dataset/<class>" in capsys.readouterr().err
    assert main(["washington", "--source", str(source), "--trial", "11", "--check"]) == 2
    assert "no trial 11; it has 1, 2, 3" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("****** trial 1 ******\napple_1\napple_2\n", "several instances of a class"),
        ("****** trial 1 ******\nhouse\n", "'house'"),
        ("apple_1\n", "it has none"),
    ],
)
def test_damaged_trials_are_refused(tmp_path, text, said):
    (tmp_path / "ids.txt").write_text(text)
    with pytest.raises(DataError, match=said):
        read_trial(tmp_path / "ids.txt", 1)
