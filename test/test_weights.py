"""The weights file: what goes in comes out, and what is no weights file is refused."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import save_file
from small_models import CONFIG, METADATA, make_model

from mmcl_core import models, weights
from mmcl_core.errors import CheckpointError, UntrainedModalityError
from mmcl_core.nn.model import RecognitionModel
from mmcl_core.recognizer import Recognizer


def test_round_trip(tmp_path):
    model = make_model(trained=("rgb", "depth"))
    weights.save_weights(tmp_path / "weights.safetensors", model, METADATA)
    for path in (tmp_path, tmp_path / "weights.safetensors"):
        state, metadata = weights.load_weights(path)
        assert state.keys() == model.state_dict().keys()
        assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert [p.name for p in tmp_path.iterdir()] == ["weights.safetensors"]
    (tmp_path / "plain").touch()
    assert (tmp_path / "plain").stat().st_mode == (tmp_path / "weights.safetensors").stat().st_mode
    assert metadata == weights.read_metadata(tmp_path)
    assert metadata["classes"] == METADATA["classes"]
    assert metadata["modalities"]["depth"] == {"kind": "depth", "unit": "mm", "invalid": 0}
    assert metadata["trained_modalities"] == metadata["encoded_modalities"] == ["rgb", "depth"]
    assert metadata["temperature"] == {"rgb": 1.0, "depth": 1.0}
    assert metadata["input"]["depth_range_m"] == [0.1, 3.0]
    assert (metadata["seed"], metadata["method"], metadata["note"]) == (7, "mmcl", [1])


def test_built_model_gives_the_same_answers(tmp_path):
    model = make_model(trained=("rgb", "depth")).eval()
    weights.save_weights(tmp_path / "w.safetensors", model, METADATA)
    built, _ = weights.build_model(tmp_path / "w.safetensors")
    assert not built.training
    assert built.config == CONFIG
    assert not any("heads" in key for key in built.state_dict())
    depth = torch.rand(3, 1, 32, 32) * 900
    for ours, theirs in zip(model(depth, "depth"), built(depth, "depth"), strict=True):
        assert torch.equal(ours, theirs)
    whole, metadata = weights.build_model(tmp_path / "w.safetensors", feature_heads=True)
    assert metadata["feature_heads"] == [5, 7]
    assert whole.state_dict().keys() == model.state_dict().keys()


def test_compact_weights_answer_alike_in_less_than_half(tmp_path):
    model = make_model(trained=("rgb", "depth"))
    large = model.encoder.stem[0].bias.data
    large[0] = 70_000.0  # beyond half precision
    weights.save_weights(tmp_path / "weights.safetensors", model, METADATA)
    large[0] = 0.0
    weights.save_compact(tmp_path, tmp_path / "compact.safetensors")
    assert weights.load_weights(tmp_path / "compact.safetensors")[0]["encoder.stem.0.bias"][0] == 70_000
    weights.save_weights(tmp_path / "weights.safetensors", model, METADATA)
    weights.save_compact(tmp_path, tmp_path / "compact.safetensors")
    whole, small = (tmp_path / name for name in ("weights.safetensors", "compact.safetensors"))
    assert small.stat().st_size < 0.5 * whole.stat().st_size
    state, metadata = weights.load_weights(small)
    assert {value.dtype for value in state.values()} <= {torch.float32, torch.int64}
    assert metadata == weights.read_metadata(tmp_path) | {"feature_heads": []}
    statistics = [key for key in state if ".statistics." in key]
    assert statistics
    assert all(torch.equal(state[key], model.state_dict()[key]) for key in statistics)
    depth = torch.rand(3, 1, 32, 32) * 900
    exact, near = (weights.build_model(path)[0](depth, "depth") for path in (whole, small))
    for ours, theirs in zip(exact, near, strict=True):
        assert not torch.equal(ours, theirs)
        torch.testing.assert_close(theirs, ours, rtol=0.01, atol=0.01)
    again = RecognitionModel(CONFIG, ["rgb", "depth"], 5)
    assert "encoder.stem.0.weight" in again.init_from(small)


def test_models_of_the_package_have_names(tmp_path, monkeypatch):
    (tmp_path / "package").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.setattr(models, "_FOLDER", tmp_path / "package")
    monkeypatch.chdir(tmp_path / "here")
    weights.save_weights(tmp_path / "package" / "tools.safetensors", make_model(), METADATA)
    assert models.names() == ("tools",)
    assert weights.read_metadata("tools")["classes"] == METADATA["classes"]
    assert Recognizer.load("tools", device="cpu").modalities == ("rgb",)
    assert RecognitionModel(CONFIG, ["rgb"], 2).init_from("tools")
    for missing in ("other", "tools.safetensors"):
        with pytest.raises(CheckpointError, match=r"no model at .* or tools"):
            Recognizer.load(missing)
        with pytest.raises(CheckpointError, match=r"no weights at .* or tools"):
            weights.load_weights(missing)
    other = METADATA | {"classes": ["a", "b", "c"]}
    (tmp_path / "here" / "tools").mkdir()
    weights.save_weights("tools/weights.safetensors", make_model(), other)
    assert weights.read_metadata("tools")["classes"] == other["classes"], "what lies there goes first"


def test_untrained_modality_is_known(tmp_path):
    model = make_model(trained=("rgb",))
    model.features(torch.rand(4, 1, 32, 32), "depth")  # encoded, but never classified
    weights.save_weights(tmp_path / "w.safetensors", model, METADATA)
    metadata = weights.read_metadata(tmp_path / "w.safetensors")
    assert metadata["trained_modalities"] == ["rgb"]
    assert metadata["encoded_modalities"] == ["rgb", "depth"]
    built, _ = weights.build_model(tmp_path / "w.safetensors")
    with pytest.raises(UntrainedModalityError):
        built(torch.rand(1, 1, 32, 32), "depth")


def test_model_id_names_settings_and_weights(tmp_path):
    for seed in (0, 1):
        weights.save_weights(tmp_path / f"{seed}.safetensors", make_model(seed), METADATA)
    weights.save_weights(tmp_path / "again.safetensors", make_model(0), METADATA)
    first, second, again = (weights.model_id(tmp_path / f"{n}.safetensors") for n in (0, 1, "again"))
    assert first.startswith("0123456789ab-")
    assert len(first) == 21
    assert first == again != second


def test_number_of_classes_is_checked(tmp_path):
    for classes in (["a", "b"], ["a", "b", "b"]):
        with pytest.raises(CheckpointError, match="3 classes"):
            weights.save_weights(tmp_path / "w.safetensors", make_model(), {"classes": classes})
    assert not list(tmp_path.iterdir())


def test_missing_files_are_named(tmp_path):
    with pytest.raises(CheckpointError, match="no weights at"):
        weights.load_weights(tmp_path / "nothing.safetensors")
    with pytest.raises(CheckpointError, match=r"holds no weights\.safetensors"):
        weights.load_weights(tmp_path)
    with pytest.raises(CheckpointError, match="cannot write"):
        weights.save_weights(tmp_path / "no" / "folder.safetensors", make_model(), METADATA)


def test_damaged_files_are_refused(tmp_path):
    good = tmp_path / "good.safetensors"
    weights.save_weights(good, make_model(), METADATA)
    content = good.read_bytes()
    bad = tmp_path / "bad.safetensors"
    for damaged in (b"", b"hello", content[:-1], content[: len(content) // 2], content[100:]):
        bad.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="damaged"):
            weights.load_weights(bad)
    torch.save({"a": torch.zeros(1)}, bad)
    with pytest.raises(CheckpointError, match="not safetensors"):
        weights.build_model(bad)


def test_other_programs_versions_and_settings_are_refused(tmp_path):
    path = tmp_path / "w.safetensors"
    state = {"encoder.norm.weight": torch.zeros(2)}
    save_file(state, path)
    with pytest.raises(CheckpointError, match="another program"):
        weights.load_weights(path)
    save_file(state, path, {"mmcl_core": json.dumps({"version": 99, "package_version": "9.0"})})
    with pytest.raises(CheckpointError, match=r"format 99.*mmcl_core 9\.0"):
        weights.load_weights(path)
    save_file(state, path, {"mmcl_core": json.dumps({"version": 1})})
    with pytest.raises(CheckpointError, match="lacks classes, modalities"):
        weights.load_weights(path)
    save_file(state, path, {"mmcl_core": "{"})
    with pytest.raises(CheckpointError, match="not valid JSON"):
        weights.load_weights(path)
    weights.save_weights(path, make_model(), METADATA)
    full, metadata = weights.load_weights(path)
    metadata["model"]["nrkhs"] = 24
    save_file(full, path, {"mmcl_core": json.dumps(metadata)})
    with pytest.raises(CheckpointError, match="do not fit"):
        weights.build_model(path)


def test_killed_writer_leaves_a_whole_file(tmp_path):
    code = f"""
import sys; sys.path[:0] = {sys.path!r}
from small_models import METADATA, make_model
from mmcl_core.weights import save_weights
models = [make_model(0), make_model(1)]
print("ready", flush=True)
while True:
    for model in models:
        save_weights({str(tmp_path / "w.safetensors")!r}, model, METADATA)
"""
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(__file__), "OMP_NUM_THREADS": "1"}
    path = tmp_path / "w.safetensors"
    allowed = [make_model(seed).state_dict()["encoder.stem.0.weight"] for seed in (0, 1)]
    process = subprocess.Popen([sys.executable, "-c", code], env=environment, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"ready\n"
    while not path.exists():
        time.sleep(0.01)
    time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    state, _ = weights.load_weights(path)
    assert any(torch.equal(state["encoder.stem.0.weight"], value) for value in allowed)


EDITS = [
    ("classes", ["mug", "ball", 3.0]),
    ("classes", ["mug", "mug", "pen"]),
    ("trained_modalities", None),
    ("trained_modalities", "rgb"),
    ("trained_modalities", ["rgb", "depth_left"]),
    ("modalities", ["rgb", "depth"]),
    ("input", "x"),
    ("input", {"depth_encoding": "relief", "metric_size": False}),
    ("input", {"size": " ", "depth_encoding": "relief", "metric_size": False}),
    ("input", {"size": 32, "depth_encoding": "relief", "metric_size": None}),
    ("temperature", 0),
    ("temperature", {"depth": 1.0}),
    ("temperature", {"rgb": 1.0, "depth": 1.0, "rgbd": {}}),
    ("temperature", {"rgb": float("nan"), "depth": 1.0}),
    ("model", []),
    ("feature_heads", [""]),
    ("crop_size", "128"),
]


@pytest.mark.parametrize(("name", "value"), EDITS)
def test_metadata_of_another_kind_are_named(tmp_path, name, value):
    path = tmp_path / "w.safetensors"
    weights.save_weights(path, make_model(), METADATA)
    state, metadata = weights.load_weights(path)
    save_file(state, path, {"mmcl_core": json.dumps(metadata | {name: value})})
    with pytest.raises(CheckpointError, match=f"in the metadata {name}.* expected; the file was edited"):
        weights.load_weights(path)


def test_weights_of_other_programs_are_float32_and_finite(tmp_path):
    path = tmp_path / "w.safetensors"
    weights.save_weights(path, make_model(), METADATA)
    state, metadata = weights.load_weights(path)
    text = {"mmcl_core": json.dumps(metadata)}
    name = "encoder.norm.weight"
    save_file(state | {name: state[name].double()}, path, text)
    assert weights.load_weights(path)[0][name].dtype == torch.float32
    save_file(state | {name: torch.full_like(state[name], float("nan"))}, path, text)
    with pytest.raises(CheckpointError, match=rf"no finite numbers \({name}\)"):
        weights.build_model(path)
