"""The command that a prepared set is to be gone on with."""

import numpy as np
import pytest
from small_sets import CLASSES, sample, write_set

from mmcl_core.data import summary
from mmcl_core.data.cache import PreparedSet, PreparedWriter


@pytest.mark.parametrize(("size", "file"), [(64, "demo.yaml"), (128, "small.yaml")])
def test_many_crops_go_by_their_size(tmp_path, monkeypatch, size, file):
    monkeypatch.setattr(summary, "FEW_CROPS", 2)
    text = summary.next_command(write_set(tmp_path / "set", range(1, 3), size, split="train"))
    assert text.endswith(f"train --config config/{file} --data {tmp_path / 'set'} train.batch=2")


@pytest.mark.parametrize(("count", "words"), [(2, "train.batch=2 train.epochs=300"), (90, "train.epochs=150")])
def test_updates_of_few_crops_are_about_as_many_however_many_there_are(tmp_path, count, words):
    text = summary.next_command(write_set(tmp_path / "set", range(1, count + 1), 65, split="train"))
    assert text.endswith(f"--config config/protocols/few_crops.yaml --data {tmp_path / 'set'} {words}")


def test_samples_of_which_none_has_two_sensors_are_for_classification(tmp_path):
    how = {"classes": CLASSES, "size": 8, "modalities": ("rgb", "depth"), "description": {"made_by": "test"}}
    with PreparedWriter(tmp_path / "set", **how) as writer:
        for number in range(1, 41):
            writer.add(sample(number, split="train", modalities=("rgb",) if number % 5 == 0 else ("depth",)))
    prepared = PreparedSet.open(tmp_path / "set")
    assert np.all(prepared.present.sum(axis=1) == 1)
    assert "method=supervised" in summary.next_command(prepared).split()
    assert "method=supervised" not in summary.next_command(write_set(tmp_path / "both", range(1, 41), split="train"))
