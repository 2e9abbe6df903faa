"""Splits that ``prepare folder`` draws: shares of classes, scenes kept together, and what is said of them."""

from collections import Counter

import pytest
from small_sets import failure, run, write_crop

pytestmark = pytest.mark.usefixtures("usual_log")


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


def test_what_lies_in_several_splits_of_the_source_is_told(tmp_path, capfd):
    for split, numbers in (("train", range(4)), ("test", range(4, 6))):
        for number in numbers:
            write_crop(tmp_path / "crops" / split / "mug", f"desk{number % 3}_{number}")
    same = (tmp_path / "crops" / "train" / "mug" / "desk0_0_rgb.png").read_bytes()
    for name in ("train/mug/a.png", "test/mug/b.png", "test/mug/c.png"):
        (tmp_path / "crops" / name).write_bytes(same)
    run(tmp_path / "crops", tmp_path / "set")
    error = capfd.readouterr().err
    assert "that lie in several splits: 2, such as 'desk1'" in error
    assert "figures of the test will be too good: move each into one split" in error
    assert "keep-groups" not in error
    assert "2 pictures are byte for byte one of another split, such as test/mug/b.png and train/mug/a.png" in error
    run(tmp_path / "crops" / "train", tmp_path / "flat")
    assert "several splits" not in (error := capfd.readouterr().err)
    assert "byte for byte" not in error


@pytest.mark.parametrize(("pattern", "alone"), [("(desk\\d)_.*", 0), ("(table)_.*", 6)])
def test_groups_to_keep_that_keys_do_not_name_are_told(tmp_path, capfd, pattern, alone):
    for number in range(6):
        write_crop(tmp_path / "crops" / "mug", f"desk{number % 3}_{number}")
    options = ("--split", "train=0.5,test=0.5", "--keep-groups", "--group-pattern", pattern)
    run(tmp_path / "crops", tmp_path / "set", *options)
    warning = "--keep-groups: 6 of 6 keys name no group, such as mug/desk0_0, and are drawn one by one; give a --group"
    assert (warning in capfd.readouterr().err) == bool(alone)


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


def test_a_class_of_too_few_samples_is_warned_about(flat, tmp_path, capfd):
    for number in range(2):
        write_crop(flat / "pan", f"{number}", depth=False)
    _, prepared = run(flat, tmp_path / "set", "--split", "train=0.9,val=0.05,test=0.05")
    assert {(split, label) for split, label in counts(prepared) if label == 2} == {("train", 2)}
    error = capfd.readouterr().err
    for split in ("val", "test"):
        assert {label for name, label in counts(prepared) if name == split} >= {0, 1}, "can has 5, mug 30 samples"
        assert error.count(f"--split: {split} gets nothing of 1 of 3 classes, such as pan: too few samples (2)") == 1
