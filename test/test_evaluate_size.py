"""Evaluation of crops of another size than training saw."""

import numpy as np
import pytest
import torch
from small_evaluations import read, run, run_command, trained, write_set
from small_models import SIDE

from mmcl_core.data.cache import PreparedSet
from mmcl_core.recognizer import Recognizer
from mmcl_core.weights import build_model, save_weights

__all__ = ["run", "trained"]  # fixtures


@pytest.mark.parametrize(("side", "trained_on"), [(SIDE // 2, SIDE), (2 * SIDE, SIDE), (160, 0)])
def test_crops_of_another_side_than_training_saw_are_brought_to_it_as_the_recogniser_does(
    run, tmp_path, side, trained_on
):
    """0: a file of an earlier version, which does not tell."""
    model, metadata = build_model(run, torch.device("cpu"))
    save_weights(run / "weights.safetensors", model, metadata | {"crop_size": trained_on})
    data = write_set(tmp_path / "set", side=side)
    run_command(run, "--data", data)
    prepared, recognizer = PreparedSet.open(data), Recognizer.load(run, device="cpu")
    rgb, depth = (list(np.asarray(prepared.images[name][:23])) for name in ("rgb", "depth"))
    for name, crops in (("rgb", {"rgb": rgb}), ("depth", {"depth": depth})):
        own = [float(line["score"]) for line in read(run / "evaluation" / "set-test")[1] if line["modality"] == name]
        answer = recognizer.recognize(**crops, camera=prepared.camera[:23])
        np.testing.assert_allclose(answer.scores, own, atol=1e-4)
