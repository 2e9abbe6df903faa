"""Samples in which nothing is seen are guessed at, and a guess is right as often as chance has it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mmcl_core.engine.blank import guesses, is_blank


def test_guesses_favour_no_class():
    """Samples without a reading are not all taken for the first class, whatever the order of the set."""
    rows = torch.arange(100, 100 + 7 * 3000)
    found = guesses(rows, 7)
    assert found.sum(1).numpy() == pytest.approx(1)
    assert found.numpy() == pytest.approx(1 / 7, abs=1e-4)
    for best in (1, 3):
        chosen = found.topk(best).indices
        assert np.bincount(chosen.flatten().numpy(), minlength=7) == pytest.approx(3000 * best, rel=0.06)
        for shift in range(7):  # also where the labels go through the classes row by row, as in rendered sets
            right = (chosen == ((rows + shift) % 7)[:, None]).any(1).float().mean()
            assert float(right) == pytest.approx(best / 7, rel=0.06)


def test_depth_without_a_reading_shows_nothing():
    depth = torch.zeros(3, 1, 4, 4)
    depth[1, 0, 2, 2] = 1.0
    assert is_blank(depth).tolist() == [True, False, True]
    assert is_blank(torch.zeros(2, 3, 4, 4)).tolist() == [False, False]  # a picture always shows something
