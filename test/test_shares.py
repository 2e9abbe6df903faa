"""What is said of drawn splits that tear apart what belongs together, by names alone."""

import logging

import pytest

from mmcl_core.data.shares import warn_of_torn


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
