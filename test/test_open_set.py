"""Things that a model does not know, in evaluation: which score keeps them out, and the class unknown."""

import numpy as np
import pytest
from small_evaluations import read, run, run_command, trained, write_set

from mmcl_core.data.cache import PreparedSet
from mmcl_core.engine import open_set
from mmcl_core.recognizer import Recognizer
from mmcl_core.weights import build_model, save_weights

__all__ = ["run", "trained"]  # fixtures


def test_min_score_is_told_for_known_samples_and_unknown_objects(run, tmp_path, capsys):
    """They are in no other figure, and what is answered from each score on is what the recogniser answers."""
    blank = (3, 5)  # a mug, and a kite: without a reading there is no answer from depth
    data = write_set(tmp_path / "set", classes=("mug", "pen", "kite"), blank=blank)
    run_command(run, "--data", data)
    assert "unknown answered" in capsys.readouterr().out
    report = read(run / "evaluation" / "set-test")[0]
    assert (report["data"]["samples"], report["data"]["without_camera"]) == (16, 8)  # without the 7 kites
    prepared, recognizer = PreparedSet.open(data), Recognizer.load(run, device="cpu")
    samples = [prepared.sample(row) for row in prepared.select("test")]
    truth = [("mug", "pen", "kite")[sample.label] for sample in samples]
    given = {name: [sample.images[name] for sample in samples] for name in ("rgb", "depth")}
    cameras = [sample.camera for sample in samples]
    for name, kinds in (("rgb", ["rgb"]), ("depth", ["depth"]), ("rgbd", ["rgb", "depth"])):
        found = report["modalities"][name]["min_score"]
        assert (found["known"], found["unknown"]) == (16, 7)
        assert report["modalities"][name]["samples"] == 16
        for place in (0, 8, 12, 16):
            threshold = found["thresholds"][place]
            answer = recognizer.recognize(**{k: given[k] for k in kinds}, camera=cameras, min_score=threshold)
            told = np.array([not why for why in answer.rejected])
            own = np.array(truth) != "kite"
            right = np.array(answer.labels)[told & own] == np.array(truth)[told & own]
            assert found["answered"][place] == pytest.approx(told[own].mean(), abs=1e-5)
            assert found["unknown_answered"][place] == pytest.approx(told[~own].mean(), abs=1e-5)
            assert found["right"][place] == (pytest.approx(right.mean(), abs=1e-5) if len(right) else None)
    page = (run / "report" / "index.html").read_text()
    assert "min_score, depth: 7 unknown objects, AUROC" in page


def test_answers_of_the_class_unknown_are_no_answers():
    classes = ("mug", "unknown", "pen")
    probabilities = np.array([[0.6, 0.3, 0.1], [0.3, 0.6, 0.1], [0.2, 0.1, 0.7], [0.1, 0.5, 0.4]], np.float32)
    found = open_set.min_score_figures(probabilities, np.array([0, 0, 1, -1]), np.zeros(4, bool), classes)
    assert (found["known"], found["unknown"]) == (2, 2)
    at = found["thresholds"].index(0.5)
    assert (found["answered"][at], found["right"][at], found["unknown_answered"][at]) == (0.5, 1.0, 0.5)
    assert (found["answered"][0], found["unknown_answered"][0]) == (0.5, 0.5)
    assert found["auroc"] == 0.25  # 0.6 and 0.3 of the known against 0.7 and 0.4


def test_samples_of_the_class_unknown_are_in_no_other_figure(trained, tmp_path):
    """A model that knows such a class; its answers by that name are wrong for things that have one."""
    classes = ("mug", "unknown", "pen")
    model, metadata = build_model(trained)
    (tmp_path / "run").mkdir()
    save_weights(tmp_path / "run" / "weights.safetensors", model, metadata | {"classes": list(classes)})
    run_command(tmp_path / "run", "--data", write_set(tmp_path / "set", classes=classes))
    report, lines = read(tmp_path / "run" / "evaluation" / "set-test")
    lines = [line for line in lines if line["modality"] == "rgb"]
    figures = report["modalities"]["rgb"]
    assert {line["class"] for line in lines} == {"mug", "pen"}
    assert len(lines) == figures["samples"] == figures["min_score"]["known"] == 15
    assert (figures["min_score"]["unknown"], report["data"]["left_out"]["unknown_classes"]) == (8, {"unknown": 8})
    right = [line["predicted"] == line["class"] for line in lines]
    assert figures["top1"]["value"] == pytest.approx(np.mean(right))
    assert any(line["predicted"] == "unknown" for line in lines)
