"""Models and sets that ``evaluate`` cannot take, by name, and unusual ones that it can."""

from __future__ import annotations

import shutil
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from small_evaluations import CLASSES, read, run_command, write_set
from small_models import SIDE, save_model

from mmcl_core.config import load
from mmcl_core.data.writer import PreparedWriter, Sample
from mmcl_core.engine import evaluation
from mmcl_core.engine.runfolder import write_config
from mmcl_core.nn.model import RecognitionModel


def test_a_single_picture_of_a_sensor_makes_no_statistics_under_the_authors_protocol(tmp_path):
    """Some of its batches of 4 hold one sample with depth, or none."""
    save_model(tmp_path / "weights.safetensors", trained=("depth",))
    data = write_set(tmp_path / "set", drop=lambda i: ("depth",) if i % 4 else ())
    run_command(tmp_path, "--data", data, "--modality", "depth", "--legacy-protocol", "--out", tmp_path / "out")
    assert 3 <= read(tmp_path / "out")[0]["modalities"]["depth"]["samples"] <= 6


def test_unknown_objects_are_not_looked_at_under_the_authors_protocol(tmp_path):
    """Statistics are taken on what is looked at: they would be of things that the model does not know."""
    save_model(tmp_path / "weights.safetensors")
    data = write_set(tmp_path / "set", classes=("mug", "pen", "kite"))
    run_command(tmp_path, "--data", data, "--modality", "rgb", "--legacy-protocol", "--out", tmp_path / "out")
    report, lines = read(tmp_path / "out")
    assert report["data"]["samples"] == len(lines) == 16
    assert report["data"]["left_out"]["unknown_classes"] == {"kite": 7}
    assert report["modalities"]["rgb"]["min_score"]["unknown"] == 0


@pytest.mark.parametrize("most", [1, 3])
def test_statistics_are_of_a_limited_number_of_batches_under_the_authors_protocol(tmp_path, monkeypatch, most):
    save_model(tmp_path / "weights.safetensors")
    data, trained_on, forward = write_set(tmp_path / "set"), [], RecognitionModel.forward

    def count(model, *arguments):
        trained_on.append(model.training)
        return forward(model, *arguments)

    monkeypatch.setattr(RecognitionModel, "forward", count)
    monkeypatch.setattr(evaluation, "LEGACY_BATCHES", most)
    run_command(tmp_path, "--data", data, "--modality", "rgb", "--legacy-protocol", "--out", tmp_path / "out")
    assert trained_on == [True] * most + [False] * 5


def test_where_depth_shows_nothing_colour_answers_under_the_authors_protocol_too(tmp_path):
    """Its samples come in another order than they are written down in."""
    save_model(tmp_path / "weights.safetensors")
    data, blank = write_set(tmp_path / "set", blank=range(9)), {f"k{i:03d}" for i in range(9)}
    run_command(tmp_path, "--data", data, "--legacy-protocol", "--out", tmp_path / "out")
    answers = {(line["modality"], line["key"]): line["score"] for line in read(tmp_path / "out")[1]}
    alike = {key for name, key in answers if name == "rgbd" and answers[name, key] == answers["rgb", key]}
    looked_at = {key for _, key in answers}
    assert len(blank & looked_at) >= 6
    assert alike == blank & looked_at


def test_bf16_is_computed_where_it_is_asked_for_and_is_close(tmp_path):
    save_model(tmp_path / "weights.safetensors")
    data, scores = write_set(tmp_path / "set", count=6), {}
    for precision in ("float32", "bf16"):
        out = tmp_path / precision
        run_command(tmp_path, "--data", data, "--modality", "rgb", "--precision", precision, "--out", out)
        scores[precision] = [float(line["score"]) for line in read(out)[1]]
    assert scores["bf16"] == pytest.approx(scores["float32"], abs=0.05)
    assert scores["bf16"] != scores["float32"]


@pytest.mark.parametrize(("split", "told"), [("train", True), ("test", False)])
def test_figures_of_what_was_trained_on_are_told(tmp_path, caplog, split, told):
    data = write_set(tmp_path / "set", count=4)
    (tmp_path / "run").mkdir()
    save_model(tmp_path / "run" / "weights.safetensors")
    for config, warned in (("", False), ("other", False), ("set", told)):
        if config:
            write_config(tmp_path / "run", load(None, [f"data.root={tmp_path / config}"]))
        caplog.clear()
        evaluation.evaluate(tmp_path / "run", data, evaluation.Settings(split=split, device="cpu", resamples=100))
        assert ("is what this model was trained on" in caplog.text) == warned


def test_models_and_sets_that_do_not_fit(tmp_path, capsys):
    save_model(tmp_path / "weights.safetensors", trained=("depth",))
    rgb_only = write_set(tmp_path / "rgb_only", count=4, modalities=("rgb",))
    unknown = write_set(tmp_path / "unknown", count=4, classes=("kite", "tent"))
    both = write_set(tmp_path / "both", count=4)
    for data, options, message in (
        (rgb_only, [], "nothing to evaluate"),
        (both, ["--modality", "rgbd"], "trained to classify depth, not rgb (--modality rgbd)"),
        (rgb_only, ["--modality", "depth"], "has no modality 'depth'"),
        (unknown, [], "no sample of the model's classes"),
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


def test_depth_of_another_kind_and_a_split_without_labels_are_named(tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    save_model(run / "weights.safetensors", depth_encoding="normals")
    save_model(tmp_path / "weights.safetensors", depth_encoding="stored")
    sets = {}
    for name, stored, label in (("hha", ["depth"], 0), ("unlabelled", [], -1)):
        sets[name] = tmp_path / name
        with PreparedWriter(
            sets[name], classes=CLASSES, size=SIDE, modalities=["rgb", "depth"], stored=stored, description={}
        ) as writer:
            picture = np.full((SIDE, SIDE, 3), 99, np.uint8)
            depth = picture if stored else np.full((SIDE, SIDE), 900, np.uint16)
            writer.add(Sample({"rgb": picture, "depth": depth}, label, "test", "k"))
    metric = write_set(tmp_path / "metric", count=4)
    for model, data, message in (
        (run, sets["hha"], f"depth in {sets['hha']} is pictures, and the model takes distances"),
        (tmp_path, metric, f"depth in {metric} is distances, and the model takes pictures"),
        (run, sets["unlabelled"], "has a label to compare answers with"),
    ):
        run_command(model, "--data", data, status=2)
        assert message in capsys.readouterr().err
    run_command(run, "--data", sets["hha"], "--modality", "rgb")


def test_a_lack_of_memory_is_told_with_what_to_do(tmp_path, monkeypatch, capsys):
    save_model(tmp_path / "weights.safetensors")
    data = write_set(tmp_path / "set", count=4)
    for error, said in (
        (
            torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore"),
            "[CUDA out of memory. Tried",
        ),
        (MemoryError(), "[host memory]"),
    ):
        monkeypatch.setattr(RecognitionModel, "forward", Mock(side_effect=error))
        run_command(tmp_path, "--data", data, status=1)
        told = capsys.readouterr().err
        assert "error: out of memory with 4 sample(s) at once: evaluate with a lower --batch" in told
        assert said in told
        assert "more" not in told
    monkeypatch.setattr(RecognitionModel, "forward", Mock(side_effect=RuntimeError("size of tensor")))
    with pytest.raises(RuntimeError, match="size of tensor"):
        run_command(tmp_path, "--data", data)
    assert not (tmp_path / "evaluation").exists()


def test_results_on_another_set_of_the_name_are_replaced_with_a_word(tmp_path, capfd):
    """Not those on the same set, though it was moved."""
    save_model(tmp_path / "weights.safetensors")
    first = write_set(tmp_path / "here" / "set", count=6)
    moved = shutil.copytree(first, tmp_path / "there" / "set")
    other = write_set(tmp_path / "elsewhere" / "set", count=8)
    for data, told in ((first, None), (first, None), (moved, None), (other, moved), (other, None)):
        run_command(tmp_path, "--data", data, "--modality", "rgb")
        said = capfd.readouterr().err
        assert ("are replaced" in said) == (told is not None)
        assert told is None or f"the results on {told} that were in {tmp_path / 'evaluation' / 'set-test'}" in said
