"""The ResNet back end against torchvision's own, its weights files, and who may use it."""

from __future__ import annotations

import dataclasses
import shutil

import numpy as np
import pytest
import tiny
import torch
from small_models import CONFIG, METADATA

from mmcl_core import weights
from mmcl_core.config import override
from mmcl_core.engine.trainer import train
from mmcl_core.errors import CheckpointError, ConfigError, RunInterruptedError, UntrainedModalityError
from mmcl_core.methods import method_class
from mmcl_core.nn.model import RecognitionModel
from mmcl_core.nn.resnet import ResNetEncoder
from mmcl_core.recognizer import Recognizer

models = pytest.importorskip("torchvision.models")


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """A ResNet-18 of torchvision with weights and running statistics of its own, and its file."""
    torch.manual_seed(1)
    network = models.resnet18(weights=None)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if "running_mean" in name or name.endswith(("bn1.bias", "bn2.bias")):
                value.normal_(std=0.1)
            elif "running_var" in name:
                value.uniform_(0.5, 1.5)
    path = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(network.state_dict(), path)
    return network.eval(), path


def test_the_trunk_is_torchvisions(reference):
    network, path = reference
    encoder = ResNetEncoder("resnet18", 64, 10, ("rgb", "depth"))
    encoder.load_torchvision(path)
    encoder.norm.statistics["rgb"].count += 1  # else it counts as never trained
    network.fc = torch.nn.Identity()
    x = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        pooled = network(x)
        torch.testing.assert_close(encoder.eval().trunk(x), pooled)
        found = encoder(x, "rgb")
        torch.testing.assert_close(found.f1, encoder.bottleneck(pooled) / (1 + 1e-5) ** 0.5)
    assert (found.f5, found.f7) == (None, None)
    with pytest.raises(UntrainedModalityError):
        encoder(x, "depth")
    # In training as well, statistics included, and each modality has its own.
    encoder.train()(x, "depth")
    network.train()(x)
    torch.testing.assert_close(encoder.trunk.bn1.statistics["depth"].mean, network.bn1.running_mean)
    assert not torch.equal(encoder.trunk.bn1.statistics["rgb"].mean, network.bn1.running_mean)
    network.eval()


@pytest.mark.parametrize("kind", ["resnet18", "resnet50"])
def test_the_trunk_is_of_the_kind_that_is_asked_for(kind):
    with torch.device("meta"):
        ours, theirs = ResNetEncoder(kind, 64, 10, ("rgb",)), getattr(models, kind)(weights=None)
    trunk = {name: value.shape for name, value in ours.trunk.named_parameters()}
    assert trunk == {name: value.shape for name, value in theirs.named_parameters() if not name.startswith("fc.")}
    assert ours.bottleneck.weight.shape == (10, theirs.fc.in_features)


def test_a_wider_first_convolution_sees_each_picture_like_one(reference):
    network, path = reference
    encoder = ResNetEncoder("resnet18", 32, 10, ("rgb",), channels=6)
    encoder.load_torchvision(path)
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(encoder.trunk.conv1(torch.cat([x, x], 1)), network.conv1(x), atol=1e-5, rtol=1e-4)


def test_files_that_do_not_fit_are_named(reference, tmp_path):
    _, path = reference
    encoder = ResNetEncoder("resnet18", 32, 10, ("rgb",))
    with pytest.raises(CheckpointError, match="no file at"):
        encoder.load_torchvision(tmp_path / "nothing.pth")
    (tmp_path / "bad.pth").write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="cannot be read"):
        encoder.load_torchvision(tmp_path / "bad.pth")
    (tmp_path / "settings.yaml").write_text("admd:\n  alone_epochs: 59\n")
    with pytest.raises(CheckpointError, match="cannot be read"):
        encoder.load_torchvision(tmp_path / "settings.yaml")
    torch.save([1], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="holds a list"):
        encoder.load_torchvision(tmp_path / "list.pth")
    torch.save(tmp_path, tmp_path / "pickle.pth")  # an object: reading it would execute something
    with pytest.raises(CheckpointError, match="cannot be read"):
        encoder.load_torchvision(tmp_path / "pickle.pth")
    state = torch.load(path, weights_only=True)
    del state["layer3.1.bn2.running_var"]
    state["layer1.0.conv1.weight"] = torch.zeros(3)
    torch.save(state, tmp_path / "other.pth")
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    with pytest.raises(
        CheckpointError, match=r"layer1\.0\.conv1\.weight, layer3\.1\.bn2\.statistics\.rgb\.var missing"
    ):
        encoder.load_torchvision(tmp_path / "other.pth")
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())


@pytest.mark.parametrize("name", ["mmcl", "amdim", "two_step"])
def test_methods_that_contrast_maps_refuse_it(name):
    with pytest.raises(ConfigError, match=r"needs the feature maps.*model.backbone=encoder"):
        method_class(name)(tiny.settings("unused", f"method={name}", "model.backbone=resnet18"), tiny.CLASSES)
    config = dataclasses.replace(CONFIG, backbone="resnet18")
    with pytest.raises(ConfigError, match="no maps"):
        RecognitionModel(config, ("rgb",), 3, (5,))
    with pytest.raises(ConfigError, match="project's encoder"):
        RecognitionModel(config, ("rgb",), 3, ()).init_from("a_run")


def test_training_starts_from_the_file_and_ends_in_a_label(reference, tmp_path, monkeypatch):
    network, path = reference
    data = tiny.make_set(tmp_path / "set", samples=20)
    overrides = ("method=supervised", "train.target=rgb", "train.epochs=1", "model.backbone=resnet18")
    with pytest.raises(ConfigError, match="weights of a ResNet"):
        train(tiny.settings(data, "method=supervised", f"model.backbone_weights={path}"), tmp_path / "no")
    config = tiny.settings(data, *overrides, "optim.lr=0", "optim.weight_decay=0", f"model.backbone_weights={path}")
    train(config, tmp_path / "run")
    state, metadata = weights.load_weights(tmp_path / "run")
    assert metadata["model"]["backbone"] == "resnet18"
    for key in ("conv1.weight", "layer4.1.conv2.weight", "bn1.bias"):
        assert torch.equal(state[f"encoder.trunk.{key}"], network.state_dict()[key])
    path.rename(path.with_suffix(".away"))  # what is deployed needs no other file
    try:
        recognizer = Recognizer.load(tmp_path / "run", device="cpu")
    finally:
        path.with_suffix(".away").rename(path)
    rgb, _ = tiny.picture(1, np.random.default_rng(0))
    assert recognizer.recognize(rgb=[rgb]).labels[0] in tiny.CLASSES


def test_a_run_goes_on_where_the_weights_that_it_began_with_have_been_moved(reference, tmp_path):
    _, path = reference
    settings = ("method=supervised", "train.target=rgb", "train.epochs=2", "model.backbone=resnet18")
    config = tiny.settings(tiny.make_set(tmp_path / "set", samples=20), *settings, f"model.backbone_weights={path}")
    with tiny.stopped_after_an_epoch(), pytest.raises(RunInterruptedError):
        train(config, tmp_path / "run")
    moved = shutil.copy(path, tmp_path / "moved.pth")
    train(override(config, {"model.backbone_weights": str(moved)}), tmp_path / "run", resume=True)
    assert Recognizer.load(tmp_path / "run", device="cpu").classes == tiny.CLASSES


def test_onnx_file_of_a_resnet(tmp_path):
    tiny.needs_onnx()
    from small_models import make_crops

    from mmcl_core import export

    torch.manual_seed(0)
    model = RecognitionModel(dataclasses.replace(CONFIG, backbone="resnet18"), ("rgb",), 3, ())
    for _ in range(3):
        model(torch.rand(8, 3, 32, 32) * 255, "rgb")
    weights.save_weights(tmp_path / "weights.safetensors", model, METADATA)
    assert export.main([str(tmp_path), "--out", str(tmp_path / "rgb.onnx"), "--quiet"]) == 0
    rgb, _ = make_crops([(40, 40), (90, 30)], seed=5)
    ours, theirs = (
        Recognizer.load(path, device="cpu").recognize(rgb=rgb) for path in (tmp_path, tmp_path / "rgb.onnx")
    )
    assert abs(ours.probabilities - theirs.probabilities).max() < 1e-4
