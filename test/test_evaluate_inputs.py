"""Models and sets that ``evaluate`` cannot take, by name."""

from __future__ import annotations

import pytest
from test_evaluate import run_command, write_set
from test_recognizer import save_model


def test_models_and_sets_that_do_not_fit(tmp_path, capsys):
    save_model(tmp_path / "weights.safetensors", trained=("depth",))
    rgb_only = write_set(tmp_path / "rgb_only", count=4, modalities=("rgb",))
    strangers = write_set(tmp_path / "strangers", count=4, classes=("kite", "tent"))
    both = write_set(tmp_path / "both", count=4)
    for data, options, message in (
        (rgb_only, [], "nothing to evaluate"),
        (both, ["--modality", "rgbd"], "trained to classify depth, not rgb (--modality rgbd)"),
        (rgb_only, ["--modality", "depth"], "has no modality 'depth'"),
        (strangers, [], "no sample of the model's classes"),
        (tmp_path / "nothing", [], "nothing"),
    ):
        run_command(tmp_path, "--data", data, *options, status=2)
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("there", "named", "said"),
    [
        ("onnx/rgb.onnx", "onnx", "give the run that it was exported from"),
        ("onnx/rgb.onnx", "onnx/rgb.onnx", "give the run that it was exported from"),
        ("killed/state.pt", "killed", "python -m mmcl_core.train --resume"),
        ("other/notes.txt", "other", "not a run"),
    ],
)
def test_what_is_no_trained_run_is_named(tmp_path, capsys, there, named, said):
    (tmp_path / there).parent.mkdir()
    (tmp_path / there).write_bytes(b"x" * 100)
    run_command(tmp_path / named, "--data", tmp_path, status=2)
    assert said in capsys.readouterr().err
