"""ONNX files: what onnxruntime says against what PyTorch says, and files that are none."""

import json
import os
import shutil
import socket
from types import SimpleNamespace

import numpy as np
import pytest
import tiny
from small_evaluations import write_set
from small_models import METADATA, SIDE, TRAINING, make_crops, make_model, run_walled, save_model

from mmcl_core import export
from mmcl_core.crops import fit
from mmcl_core.data.cache import PreparedSet
from mmcl_core.engine import onnx as writer
from mmcl_core.engine.runfolder import write_config
from mmcl_core.errors import CheckpointError, ConfigError, DataError, UntrainedModalityError
from mmcl_core.recognizer import Recognizer
from mmcl_core.weights import save_weights

tiny.needs_onnx()


def command(*arguments):
    return export.main([*map(str, arguments), "--quiet"])


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    (folder / "run").mkdir()
    temperature = {"rgb": 2.0, "depth": 0.5, "rgbd": 0.7}
    save_model(
        folder / "run" / "weights.safetensors",
        temperature=temperature,
        depth_encoding="normals",
        metric_size=True,
        background_m=1.0,
    )
    assert command(folder / "run", "--out", folder / "onnx") == 0
    return folder


def test_an_older_pytorch_is_refused_before_anything_is_written(exported, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(writer.torch, "__version__", "2.7.1+cpu")
    assert command(exported / "run", "--out", tmp_path / "onnx") == 2
    assert "needs PyTorch 2.8 or newer, and this is 2.7.1+cpu" in capsys.readouterr().err
    assert not (tmp_path / "onnx").exists()


def check_agreement(folder):
    torch_model, onnx_model = (Recognizer.load(folder / name, device="cpu") for name in ("run", "onnx"))
    assert (torch_model.backend, onnx_model.backend) == ("torch", "onnx")
    for attribute in ("classes", "modalities", "model_id", "input_size"):
        assert getattr(torch_model, attribute) == getattr(onnx_model, attribute)
    rgb, depth = make_crops([(40, 40), (90, 30), (20, 64)], seed=5)
    depth[0][5:20, 8:30] = 0
    cameras = [(300, 300, 20, 20), None, (150, 160, 30, 9)]
    for crops in ({"rgb": rgb}, {"depth": depth}, {"rgb": rgb, "depth": depth}):
        for count in (1, 3):
            arguments = {key: value[:count] for key, value in crops.items()} | {"camera": cameras[:count]}
            ours, theirs = torch_model.recognize(**arguments), onnx_model.recognize(**arguments)
            np.testing.assert_allclose(theirs.probabilities, ours.probabilities, atol=1e-4)
            np.testing.assert_allclose(theirs.embeddings, ours.embeddings, atol=1e-4)
            assert theirs.labels == ours.labels
            assert theirs.modality == ours.modality
    np.testing.assert_array_equal(theirs.depth_valid, ours.depth_valid)


def test_onnx_agrees_with_torch(exported):
    check_agreement(exported)


def test_onnx_of_the_default_depth_encoding_agrees_with_torch(tmp_path):
    (tmp_path / "run").mkdir()
    save_model(tmp_path / "run" / "weights.safetensors")
    assert command(tmp_path / "run", "--out", tmp_path / "onnx") == 0
    check_agreement(tmp_path)


def test_onnx_works_without_torch(exported):
    answer = run_walled(exported / "onnx", [*TRAINING, "torch", "mmcl_core.nn", "mmcl_core.weights"])
    kind, label, *values = answer.split()
    rgb, depth = np.full((50, 40, 3), 90, np.uint8), np.full((50, 40), 900, np.uint16)
    expected = Recognizer.load(exported / "run", device="cpu").recognize([rgb], [depth])
    assert (kind, label) == ("rgbd", expected.labels[0])
    np.testing.assert_allclose([float(value) for value in values], expected.probabilities[0], atol=1e-4)


def test_one_file_is_one_modality(exported):
    model = Recognizer.load(exported / "onnx" / "depth.onnx", device="cpu")
    assert model.modalities == ("depth",)
    with pytest.raises(
        UntrainedModalityError, match="was exported for depth, not for rgb; leave it out or export it, too"
    ):
        model.recognize(rgb=make_crops([(9, 9)])[0])
    with pytest.raises(ConfigError, match="float32"):
        Recognizer.load(exported / "onnx", precision="bf16")
    with pytest.raises(ConfigError, match="choose auto or cpu"):
        Recognizer.load(exported / "onnx", device="cuda:99")


@pytest.mark.filterwarnings("ignore:Specified provider")
def test_a_gpu_that_onnxruntime_was_built_for_but_cannot_use_is_an_error(exported, monkeypatch):
    """It falls back to the processor without a word, as here where only its list of providers names the GPU."""
    import onnxruntime

    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: both)
    with pytest.raises(ConfigError, match="could not use the GPU"):
        Recognizer.load(exported / "onnx" / "rgb.onnx", device="cuda")
    assert Recognizer.load(exported / "onnx" / "rgb.onnx", device="auto").device == "cpu"


def test_two_files_for_one_modality_are_refused(exported, tmp_path):
    for name in ("first", "second"):
        (tmp_path / f"{name}.onnx").write_bytes((exported / "onnx" / "rgb.onnx").read_bytes())
    with pytest.raises(CheckpointError, match=r"second\.onnx: .* another file for rgb; keep one"):
        Recognizer.load(tmp_path)


def test_files_of_different_models_are_refused(exported, tmp_path):
    import onnx

    folder = tmp_path / "mixed"
    folder.mkdir()
    for name in ("rgb", "depth"):
        (folder / f"{name}.onnx").write_bytes((exported / "onnx" / f"{name}.onnx").read_bytes())
    model = onnx.load(str(folder / "rgb.onnx"))
    text = model.metadata_props[0].value.replace("0123456789ab-", "ffffffffffff-")
    onnx.helper.set_model_props(model, {"mmcl_core": text})
    onnx.save(model, str(folder / "rgb.onnx"))
    with pytest.raises(CheckpointError, match="one model"):
        Recognizer.load(folder)
    onnx.helper.set_model_props(model, {})
    onnx.save(model, str(folder / "rgb.onnx"))
    with pytest.raises(CheckpointError, match="another program"):
        Recognizer.load(folder / "rgb.onnx")
    (folder / "rgb.onnx").write_bytes(b"not onnx")
    with pytest.raises(CheckpointError, match="cannot be read"):
        Recognizer.load(folder / "rgb.onnx")


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("classes", ["mug", "ball"], "does not fit its metadata"),
        ("model", {"nrkhs": 7}, "does not fit its metadata"),
        ("input", [], "in the metadata input is"),
        ("modality", "depth_left", "modality is 'depth_left'"),
        ("model_id", None, "model_id None"),
    ],
)
def test_edited_metadata_are_refused(exported, tmp_path, name, value, says):
    import onnx

    model = onnx.load(str(exported / "onnx" / "depth.onnx"))
    metadata = json.loads(model.metadata_props[0].value)
    onnx.helper.set_model_props(model, {"mmcl_core": json.dumps(metadata | {name: value})})
    onnx.save(model, str(tmp_path / "depth.onnx"))
    with pytest.raises(CheckpointError, match=says):
        Recognizer.load(tmp_path / "depth.onnx")


def test_pictures_alone_quantise_nothing(exported, tmp_path):
    pytest.importorskip("onnx")
    from mmcl_core.engine.onnx import export as write_onnx

    data = write_set(tmp_path / "set")
    ((path, _),) = write_onnx(exported / "run", tmp_path / "rgb.onnx", ["rgb"], data=data)
    assert not Recognizer.load(path).model_id.endswith("-int8")


def test_int8_is_close(exported, tmp_path):
    data = write_set(tmp_path / "set", count=4, side=SIDE)
    out = tmp_path / "rgb.onnx"
    assert command(exported / "run", "--modality", "rgb", "--int8", "--data", data, "--out", out) == 0
    quantised, exact = Recognizer.load(out, device="cpu"), Recognizer.load(exported / "run", device="cpu")
    assert quantised.model_id == exact.model_id + "-int8"
    assert out.stat().st_size < (exported / "onnx" / "rgb.onnx").stat().st_size
    from mmcl_core.data.cache import PreparedSet

    crops = list(np.asarray(PreparedSet.open(data).images["rgb"]))
    ours, theirs = exact.recognize(rgb=crops), quantised.recognize(rgb=crops)
    difference = np.abs(ours.probabilities - theirs.probabilities).max()
    assert 0 < difference < 0.05


def test_calibration_is_on_the_split_of_the_training(exported, tmp_path):
    from mmcl_core.engine import onnx

    prepared = tiny.make_set(tmp_path / "set")
    run = tmp_path / "run"
    shutil.copytree(exported / "run", run)
    assert onnx._calibration_split(run, PreparedSet.open(prepared)) == "train"
    write_config(run, tiny.settings(prepared, "data.train_split=test"))
    assert onnx._calibration_split(run, PreparedSet.open(prepared)) == "test"
    write_config(run, tiny.settings(prepared, "data.train_split=kinect"))
    with pytest.raises(DataError, match=r"no split 'kinect', by which --int8 is calibrated; it has test, train: give"):
        onnx._calibration_split(run, PreparedSet.open(prepared))
    (run / "config.yaml").unlink()  # what the model was trained on is not known
    for splits, chosen in ((("test", "Training"), "Training"), (("all", "more"), "all")):
        named = SimpleNamespace(path="set", split_names=splits)
        assert onnx._calibration_split(run, named) == chosen


def test_files_come_together_or_not_at_all(exported, tmp_path, monkeypatch):
    from mmcl_core.engine import onnx

    def fail(backend, name, path, *rest, write=onnx._write):
        if name == "depth":
            assert not list((tmp_path / "run" / "onnx").glob("*.onnx"))
            raise KeyboardInterrupt
        return write(backend, name, path, *rest)

    monkeypatch.setattr(onnx, "_write", fail)
    with pytest.raises(KeyboardInterrupt):
        onnx.export(exported / "run", tmp_path / "run" / "onnx")
    assert [path.name for path in tmp_path.rglob("*")] == ["run", "onnx"]


def test_a_folder_in_the_place_of_a_file_is_refused_before_the_work(exported, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("mmcl_core.engine.onnx._write", None)
    (tmp_path / "d.onnx").mkdir()
    assert command(exported / "run", "--modality", "depth", "--out", tmp_path / "d.onnx") == 2
    (tmp_path / "out" / "rgb.onnx").mkdir(parents=True)
    assert command(exported / "run", "--out", tmp_path / "out") == 2
    (tmp_path / "file").touch()
    assert command(exported / "run", "--out", tmp_path / "file") == 2
    err = capsys.readouterr().err
    assert "d.onnx is a folder; name another --out" in err
    assert "rgb.onnx is a folder; name another --out" in err
    assert "a folder is expected there" in err


def test_a_compact_file_answers_like_the_run(exported, capsys):
    out = exported / "new" / "small.safetensors"
    assert command(exported / "run", "--format", "safetensors", "--out", out) == 0
    assert f"{out}: 0." in capsys.readouterr().out
    exact, small = (Recognizer.load(path, device="cpu") for path in (exported / "run", out))
    rgb, depth = make_crops([(40, 40), (90, 30)], seed=6)
    ours, theirs = (model.recognize(rgb=rgb, depth=depth) for model in (exact, small))
    np.testing.assert_allclose(theirs.probabilities, ours.probabilities, atol=0.02)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "safetensors", "--out", "w.safetensors", "--int8"], "are for ONNX"),
        (["--format", "safetensors", "--out", "w.onnx"], "ends in .safetensors"),
        (["--out", "model.onnx"], "one file for rgb and depth"),
        (["--out", "folder", "--int8"], "needs --data"),
        (["--out", "folder", "--data", "set"], "--data is for the calibration of --int8"),
        (["--out", "x.onnx", "--modality", "rgb_left"], "not rgb_left"),
        (["--out", "x.safetensors"], "add --format safetensors"),
    ],
)
def test_errors_are_one_line(exported, capsys, monkeypatch, tmp_path, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert command(exported / "run", *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert not list(tmp_path.iterdir())


def test_the_model_itself_is_not_replaced(exported, capsys):
    path = exported / "run" / "weights.safetensors"
    before = path.read_bytes()
    for name in (path, exported / "run"):
        assert command(name, "--format", "safetensors", "--out", path) == 2
        assert "is the model itself" in capsys.readouterr().err
    assert path.read_bytes() == before


def test_hha_is_refused(tmp_path, capsys):
    save_model(tmp_path / "weights.safetensors", depth_encoding="hha")
    assert command(tmp_path, "--modality", "depth", "--out", tmp_path / "depth.onnx") == 2
    assert "hha" in capsys.readouterr().err
    assert not (tmp_path / "depth.onnx").exists()
    assert command(tmp_path, "--out", tmp_path / "onnx") == 2
    assert "run this model with PyTorch, or export --modality rgb\n" in capsys.readouterr().err
    assert not (tmp_path / "onnx").exists()


def test_a_model_that_was_never_taught_to_classify_is_refused(tmp_path, capsys):
    model = make_model(trained=("rgb", "depth"))
    model.forget_classifier()
    save_weights(tmp_path / "weights.safetensors", model, METADATA)
    for out in ("onnx", "rgb.onnx"):
        assert command(tmp_path, "--out", tmp_path / out) == 2
        assert "was not trained to classify any modality: nothing to export" in capsys.readouterr().err
    assert len(list(tmp_path.iterdir())) == 1


def test_a_modality_named_twice_is_exported_once_and_what_a_killed_export_left_goes(exported, tmp_path):
    left = tmp_path / f".export-{socket.gethostname()}-left"
    left.mkdir()
    (left / "rgb.onnx").touch()
    os.utime(left, (0, 0))
    assert command(exported / "run", "--modality", "rgb", "rgb", "--out", tmp_path / "rgb.onnx") == 0
    assert Recognizer.load(tmp_path / "rgb.onnx").modalities == ("rgb",)
    assert [path.name for path in tmp_path.iterdir()] == ["rgb.onnx"]


@pytest.mark.parametrize("side", [0, 20])
def test_calibration_pictures_are_spread_over_the_whole_split_and_made_as_the_recogniser_makes_them(tmp_path, side):
    """``side``: of the crops that the model was trained on, where it is known; not of those of this set."""
    onnx = pytest.importorskip("mmcl_core.engine.onnx", reason="onnx is not installed")
    prepared = PreparedSet.open(tiny.make_set(tmp_path / "set", samples=onnx.CALIBRATION_SAMPLES + 50))
    rows = prepared.select("train")
    pictures = onnx._samples(prepared, "rgb", tiny.SIDE, side, stored=False, split="train")["image"]
    assert len(pictures) == onnx.CALIBRATION_SAMPLES
    with pytest.raises(DataError, match=r"depth in .* is distances, and the model takes pictures"):
        onnx._samples(prepared, "depth", tiny.SIDE, side, stored=True, split="train")
    for picture, row in zip(pictures[[0, -1]], rows[[0, -1]], strict=True):
        made, _ = fit(prepared.images["rgb"][row], tiny.SIDE, prepared.camera[row], side)
        np.testing.assert_array_equal(picture, made)
