"""What the readers of whole frames share: cameras that do not fit a picture, and groups drawn for testing."""

import random

import numpy as np
import pytest

from mmcl_core.data.frames import camera_fits, draw_test_groups
from mmcl_core.errors import DataError


@pytest.mark.parametrize(("cx", "cy"), [(5, 30), (75, 30), (40, 5), (40, 58), (320, 240)])
def test_a_camera_whose_centre_is_at_the_edge_is_of_another_size(cx, cy):
    picture = np.zeros((60, 80, 3), np.uint8)
    camera_fits((100.0, 100.0, 41.0, 28.0), picture)
    camera_fits(None, picture)
    with pytest.raises(DataError, match="80 x 60"):
        camera_fits((100.0, 100.0, cx, cy), picture)


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


def test_a_group_too_large_for_the_share_is_left_to_training():
    """Half of the samples are of one room: with it the tenth for testing would be more than half."""
    for number in range(20):
        groups = [f"large_{number}"] * 50 + [f"small_{number}_{n}" for n in range(50)]
        chosen = draw_test_groups(groups, 0.1)
        assert f"large_{number}" not in chosen
        assert len(chosen) == 10
