"""What is said of drawn splits that tear apart what belongs together, by names alone; groups drawn for testing."""

import logging
import random

import pytest

from mmcl_core.data.shares import deal, draw_test_groups, parse_shard, parse_shares, warn_of_torn
from mmcl_core.errors import ConfigError


def members(*groups, splits=("train", "test")):
    """Two classes, each with a sample of every group in every split."""
    return [(group, split, label) for group in groups for split in splits for label in (0, 1)]


@pytest.mark.parametrize(
    ("given", "level", "said"),
    [
        (members("rec"), logging.INFO, "frames of one recording, figures of the test will be too good"),
        (members("a", "b"), logging.WARNING, "lie in several splits: 2, such as 'a'"),
        ([("rec", "train", 0), ("other", "test", 0)], None, ""),
        ([(f"mug{number}", split, 0) for number, split in enumerate(("train", "test") * 3)], None, ""),
    ],
)
def test_frames_of_one_recording_are_hinted_at_and_torn_scenes_are_warned_of(given, level, said, caplog):
    """One name for a whole class may be that of a recording or of a camera's files."""
    caplog.set_level(logging.INFO)
    warn_of_torn(given, 2)
    assert [record.levelno for record in caplog.records] == ([] if level is None else [level])
    assert said in caplog.text


def test_a_share_alone_is_no_name_of_a_split():
    with pytest.raises(ConfigError, match=r"--split '0\.8': a name, or name=share,\.\.\. with shares"):
        parse_shares("0.8")
    assert parse_shares("2014") == {"2014": 1}
    assert parse_shares("v1.0") == {"v1.0": 1}


@pytest.mark.parametrize("name", ["../x", "a/b", "-x", ".x", "a b"])
def test_names_of_splits_are_names_of_folders(name):
    for text in (name, f"train=0.5,{name}=0.5"):
        with pytest.raises(ConfigError, match=r"is no name of a split: letters, digits, _, \. and - are allowed"):
            parse_shares(text)


def test_shares_are_of_the_whole():
    assert parse_shares("a=0.7, b=0.2, c=0.1") == {"a": 0.7, "b": 0.2, "c": 0.1}
    for text in ("train=0.8,test=0.15", "train=0.8,test=0.25", "train=1.2,test=-0.2", "a=0.5,a=0.5"):
        with pytest.raises(ConfigError, match="shares > 0 that sum to 1"):
            parse_shares(text)


def units_of(*counts):
    """Units by the number of samples that they have of each class."""
    return [[label for label, number in enumerate(unit) for _ in range(number)] for unit in counts]


def test_the_last_units_of_a_class_go_where_nothing_of_it_is_though_others_are_too_many_there():
    """Of the first class, which the units of the second hold too, val and test have more than their share already."""
    units = units_of((600, 0, 1600), (125, 0, 200), (125, 0, 200), (50, 1, 0), (50, 1, 0), (50, 1, 0))
    drawn = deal(units, 3, {"train": 0.8, "val": 0.1, "test": 0.1}, range(6))
    assert drawn == ["train", "val", "test", "train", "val", "test"]


def test_what_a_split_lacks_of_a_class_counts_by_its_share_of_that_class():
    """One of four of the rare class weighs more than some of a thousand."""
    units = units_of((490, 2), (495, 1), (15, 1))
    assert deal(units, 2, {"train": 0.5, "test": 0.5}, range(3)) == ["train", "test", "test"]


def test_samples_without_a_label_are_dealt_among_themselves():
    """In turns with the first class: counted as one with it, each split would get one of the two."""
    units = [[0], [-1]] * 4
    drawn = deal(units, 2, {"train": 0.5, "test": 0.5}, range(8))
    for kind in (0, 1):
        assert sorted(drawn[kind::2]) == ["test"] * 2 + ["train"] * 2


def test_parts_are_counted_from_zero():
    assert [parse_shard(text) for text in ("0/1", "0/4", "3/4")] == [(0, 1), (0, 4), (3, 4)]
    for text in ("4/4", "-1/4", "1", "1/", "/4", "0/0", "a/4", "1.5/4"):
        with pytest.raises(ConfigError, match="not of the form I/N with I from 0 to N - 1"):
            parse_shard(text)


def test_groups_for_testing_are_whole_near_their_share_and_of_no_order():
    rng = random.Random(0)
    groups = [f"room_{number:02d}" for number in range(40) for _ in range(rng.randint(1, 20))]
    chosen = draw_test_groups(groups, 0.4)
    share = sum(group in chosen for group in groups) / len(groups)
    assert share == pytest.approx(0.4, abs=0.02)
    rng.shuffle(groups)
    assert draw_test_groups(groups, 0.4) == chosen
    names = sorted(set(groups))
    assert chosen != set(names[: len(chosen)]), "rooms of one building have neighbouring names"
    assert draw_test_groups(groups, 0.0) == set()
    assert draw_test_groups(groups, 1.0) == set(names)


def test_groups_for_testing_come_as_near_to_their_share_as_the_next_group_allows():
    for number in range(20):
        groups = [f"room_{number}_{n}" for n in range(3) for _ in range(10)]
        assert [len(draw_test_groups(groups, share)) for share in (0.15, 0.2, 0.45, 0.55)] == [0, 1, 1, 2]


def test_a_group_too_large_for_the_share_is_left_to_training():
    """Half of the samples are of one room: with it the tenth for testing would be more than half."""
    for number in range(20):
        groups = [f"large_{number}"] * 50 + [f"small_{number}_{n}" for n in range(50)]
        chosen = draw_test_groups(groups, 0.1)
        assert f"large_{number}" not in chosen
        assert len(chosen) == 10
