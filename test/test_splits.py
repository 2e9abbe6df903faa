"""Splits: what validates, which samples keep their label, and that classes and groups get their shares."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
from small_sets import CLASSES, prepared, write_set

from mmcl_core.config import DataConfig
from mmcl_core.data.cache import PreparedSet
from mmcl_core.data.splits import TRAINING, group_mask, split_indices, split_named, stratified_mask
from mmcl_core.data.writer import PreparedWriter, Sample
from mmcl_core.errors import ConfigError, DataError

__all__ = ["prepared"]  # a fixture


def test_a_split_of_the_set_validates_before_any_fraction(prepared):
    data = DataConfig(val_split="test", val_fraction=0.5)
    train, val, labels = split_indices(prepared, data, 0)
    assert train.tolist() == prepared.select("train").tolist()
    assert val.tolist() == prepared.select("test").tolist()
    assert labels.tolist() == prepared.labels[train].tolist()
    assert len(split_indices(prepared, DataConfig(), 0)[1]) == 0  # no split "val", no fraction
    with pytest.raises(DataError, match="no split 'training'; it has test, train"):
        split_indices(prepared, DataConfig(train_split="training"), 0)
    with pytest.raises(DataError, match=r"no split 'vall' \(data.val_split\); it has "):
        split_indices(prepared, DataConfig(val_split="vall"), 0)
    for wrong in (DataConfig(val_fraction=1.0), DataConfig(label_share=1.5)):
        with pytest.raises(ConfigError, match="a share in"):
            split_indices(prepared, wrong, 0)


@pytest.mark.parametrize(
    ("splits", "found"),
    [
        (("test", "training", "train"), "train"),
        (("test", "Training"), "Training"),
        (("TRAIN", "Train"), "TRAIN"),
        (("pretrain", "trainval"), ""),
        ((), ""),
    ],
)
def test_the_split_to_train_on_goes_by_its_name(splits, found):
    assert split_named(splits, TRAINING) == found


def test_samples_without_a_label_can_be_dropped(prepared):
    few = DataConfig(val_split="test", label_share=0.3)
    train, val, labels = split_indices(prepared, few, 5)
    kept, same_val, kept_labels = split_indices(prepared, replace(few, unlabelled="drop"), 5)
    assert 0 < len(kept) < len(train)
    assert kept.tolist() == train[labels >= 0].tolist()
    assert kept_labels.tolist() == labels[labels >= 0].tolist()
    assert same_val.tolist() == val.tolist()
    with pytest.raises(DataError, match=r"data\.unlabelled=drop leaves nothing to train on"):
        split_indices(prepared, replace(few, label_share=0.0, unlabelled="drop"), 5)


def test_a_validation_fraction_is_stratified_seeded_and_leaves_unlabelled_samples_alone(prepared, monkeypatch):
    data = DataConfig(val_split="", val_fraction=0.25)
    monkeypatch.setattr(prepared, "groups", np.full(len(prepared), "", dtype=object))
    train, val, labels = split_indices(prepared, data, 7)
    rows = prepared.select("train")
    assert sorted([*train, *val]) == rows.tolist()
    assert (np.diff(train) > 0).all()
    assert (np.diff(val) > 0).all()
    counts = np.bincount(prepared.labels[rows][prepared.labels[rows] >= 0])
    held = np.bincount(prepared.labels[val], minlength=3)
    assert held.sum() == round(0.25 * counts.sum())
    assert (np.abs(held - 0.25 * counts) < 1).all()
    assert (prepared.labels[val] >= 0).all()
    assert labels.tolist() == prepared.labels[train].tolist()
    again, other = split_indices(prepared, data, 7)[1], split_indices(prepared, data, 8)[1]
    assert again.tolist() == val.tolist()
    assert other.tolist() != val.tolist()


def test_validation_holds_whole_groups_back(tmp_path):
    with PreparedWriter(tmp_path / "set", classes=CLASSES, size=8, modalities=("rgb",)) as writer:
        for number in range(240):  # 24 objects of 10 views, 8 of each class
            label = -1 if number % 10 == 9 else number // 10 % 3
            image = np.full((8, 8, 3), number, np.uint8)
            writer.add(Sample({"rgb": image}, label, "train", f"{number:03d}", f"object{number // 10}"))
    prepared = PreparedSet.open(tmp_path / "set")
    data = DataConfig(val_split="", val_fraction=0.25)
    train, val, _ = split_indices(prepared, data, 5)
    assert not set(prepared.groups[train]) & set(prepared.groups[val])
    beside = {row for row in range(240) if prepared.groups[row] in set(prepared.groups[val]) and row % 10 == 9}
    assert sorted([*train, *val, *beside]) == list(range(240))  # views without a label of objects that validate
    assert np.bincount(prepared.labels[val]).tolist() == [18, 18, 18]  # two objects of each class
    assert split_indices(prepared, data, 5)[1].tolist() == val.tolist()
    assert split_indices(prepared, data, 6)[1].tolist() != val.tolist()


def test_a_sample_of_no_group_leaves_the_others_in_theirs(tmp_path):
    with PreparedWriter(tmp_path / "set", classes=CLASSES, size=8, modalities=("rgb",)) as writer:
        for number in range(121):
            group = f"scene{number // 10}" if number < 120 else ""
            image = np.full((8, 8, 3), number, np.uint8)
            writer.add(Sample({"rgb": image}, number // 10 % 3, "train", f"{number:03d}", group))
    prepared = PreparedSet.open(tmp_path / "set")
    train, val, _ = split_indices(prepared, DataConfig(val_split="", val_fraction=0.25), 5)
    assert len(val) > 20
    assert not set(prepared.groups[train]) & set(prepared.groups[val]) - {""}


def test_samples_of_no_group_are_drawn_one_by_one(tmp_path):
    """They are not one group more, which would be held back whole or not at all."""
    with PreparedWriter(tmp_path / "set", classes=CLASSES, size=8, modalities=("rgb",)) as writer:
        for number in range(120):
            group = f"scene{number // 10}" if number < 60 else ""
            image = np.full((8, 8, 3), number, np.uint8)
            writer.add(Sample({"rgb": image}, number % 3, "train", f"{number:03d}", group))
    prepared = PreparedSet.open(tmp_path / "set")
    _, val, _ = split_indices(prepared, DataConfig(val_split="", val_fraction=0.25), 5)
    single = val[val >= 60]
    assert 0 < len(single) < 60
    assert len(val) == pytest.approx(30, abs=3)


def test_scenes_of_several_classes_are_held_back_as_nearly_as_they_allow():
    rng = np.random.default_rng(0)
    labels, scenes = rng.integers(0, 4, 600), rng.integers(0, 30, 600).astype(str)
    held = group_mask(labels, scenes, 0.2, 1, 1)
    assert not set(scenes[held]) & set(scenes[~held])
    counts = np.bincount(labels)
    assert (np.abs(np.bincount(labels[held]) - 0.2 * counts) < 0.1 * counts).all()


def test_no_class_is_held_back_whole_or_far_beyond_its_share():
    """Whatever the order of the groups: 10 of the 20 of the rare class are too many, and so are all of a class."""
    labels = np.array([0] * 200 + [1] * 20)
    scenes = np.array(["both"] * 20 + [f"scene{n // 18}" for n in range(180)] + ["both"] * 10 + ["rare"] * 10)
    views = np.array([f"large{label}" if n % 20 else f"small{label}" for n, label in enumerate(labels)])
    told = set()
    for seed in range(20):
        held = group_mask(labels, scenes, 0.1, seed, 1)
        told.add(held is None)
        if held is not None:
            assert held[labels == 1].sum() <= 5
            assert 9 <= held[labels == 0].sum() <= 41
        held = group_mask(labels, views, 0.95, seed, 1)
        assert held is None or not set(labels) - set(labels[~held])
    assert told == {True, False}


def test_a_class_never_loses_its_last_training_sample_to_validation(tmp_path):
    with PreparedWriter(tmp_path / "set", classes=CLASSES, size=8, modalities=("rgb",)) as writer:
        for number in range(12):
            image = np.full((8, 8, 3), number, np.uint8)
            writer.add(Sample({"rgb": image}, int(number == 5), "train", f"{number:02d}"))
    prepared = PreparedSet.open(tmp_path / "set")
    train, val, labels = split_indices(prepared, DataConfig(val_split="", val_fraction=0.95), 0)
    assert (len(train), len(val)) == (2, 10)
    assert sorted(labels) == [0, 1]


def test_too_few_groups_to_hold_back_are_said(tmp_path, caplog):
    labels = np.array([0] * 30 + [1] * 30)
    assert group_mask(labels, (np.arange(60) // 15).astype(str), 0.1, 0, 1) is None  # two groups of each class
    assert group_mask(labels, labels.astype(str), 0.5, 0, 1) is None  # never all of a class
    prepared = write_set(tmp_path / "set", range(20), split="train")
    _, val, _ = split_indices(prepared, DataConfig(val_split="", val_fraction=0.2), 0)
    assert len(val) > 0
    assert "too few groups" in caplog.text


@pytest.mark.parametrize("share", [0.0, 0.05, 0.1, 0.3, 0.5, 0.99, 1.0])
def test_a_label_share_keeps_ceil_of_it_stratified(prepared, share):
    rows = prepared.select("train")
    truth = prepared.labels[rows]
    labels = split_indices(prepared, DataConfig(label_share=share), 3)[2]
    labelled = int((truth >= 0).sum())
    kept = labels >= 0
    assert kept.sum() == -(-round(share * 100) * labelled // 100)  # ceil in whole numbers
    np.testing.assert_array_equal(labels[kept], truth[kept])
    counts = np.bincount(labels[kept], minlength=3)
    if share >= 0.1:
        assert counts.min() >= 1
        assert (np.abs(counts - share * np.bincount(truth[truth >= 0])) <= 1).all()


def test_a_label_share_is_no_more_than_its_ceil_and_leaves_no_class_without(prepared, monkeypatch):
    """0.07 of 100 is a little more than 7 to a computer: 7 keep their label, not 8."""
    for share, count, wanted in ((0.07, 100, 7), (0.07, 101, 8), (0.1, 30, 3), (0.1, 31, 4)):
        assert stratified_mask(np.zeros(count, np.int64), share, 0, 2, up=True).sum() == wanted
    rows = prepared.select("train")
    rare = np.zeros(len(prepared), np.int64)
    rare[rows[[4, 9]]] = 1
    rare[rows[20]] = 2
    monkeypatch.setattr(prepared, "labels", rare)
    labels = split_indices(prepared, DataConfig(label_share=0.1), 3)[2]
    assert np.bincount(labels[labels >= 0]).tolist() == [2, 1, 1]  # of 38


def test_a_larger_share_holds_the_smaller_one(prepared):
    keeps = [split_indices(prepared, DataConfig(label_share=share), 3)[2] >= 0 for share in (0.1, 0.3, 0.6, 1.0)]
    for smaller, larger in itertools.pairwise(keeps):
        assert (larger[smaller]).all()


def test_classes_with_few_samples_keep_one_for_training():
    labels = np.array([0] * 40 + [1] * 2 + [2] + [-1] * 5)
    held = stratified_mask(labels, 0.9, 0, 1, spare=1)
    assert [int(held[labels == label].sum()) for label in (0, 1, 2, -1)] == [38, 1, 0, 0]
    kept = stratified_mask(labels, 0.07, 0, 2, least=1, up=True)
    assert [int(kept[labels == label].sum()) for label in (0, 1, 2, -1)] == [2, 1, 1, 0]
    labels = np.array([0] * 40 + [1, 1, 2, 2, 3, 3])
    kept = stratified_mask(labels, 0.1, 0, 2, least=1, up=True)  # 5 of 46: the large class gives way
    assert np.bincount(labels[kept]).tolist() == [2, 1, 1, 1]
    assert not stratified_mask(np.full(4, -1), 0.5, 0, 1).any()


def test_a_class_is_drawn_alike_whatever_the_others_are():
    labels = np.array([0, 1] * 30)
    alone = np.where(labels == 0, 0, -1)
    together, single = stratified_mask(labels, 0.5, 4, 1), stratified_mask(alone, 0.5, 4, 1)
    assert (together[labels == 0] == single[labels == 0]).all()
    assert (together[labels == 0] != together[labels == 1]).any()  # its order is its own
    assert (single != stratified_mask(alone, 0.5, 4, 2)).any()  # and another one for another purpose


def test_an_unlabelled_set_can_be_trained_on(tmp_path):
    prepared = write_set(tmp_path / "set", range(6), label=-1, split="train")
    data = replace(DataConfig(), val_fraction=0.5, label_share=0.1)
    train, val, labels = split_indices(prepared, data, 0)
    assert (len(train), len(val)) == (6, 0)
    assert set(labels.tolist()) == {-1}
