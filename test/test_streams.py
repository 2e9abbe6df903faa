"""Networks of several streams: who looks at what, what is stored, and the whole way to a label."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tiny
import torch
from safetensors.torch import save_file
from small_models import CONFIG, METADATA, SIDE, make_crops, make_model
from small_streams import PAIR, RULES, make, pictures
from torch import nn

from mmcl_core import weights
from mmcl_core.engine.trainer import train
from mmcl_core.errors import CheckpointError, UntrainedModalityError
from mmcl_core.modality import to_network_input
from mmcl_core.nn import streams
from mmcl_core.nn.streams import ZERO, Look, StreamsNetwork, copy_stream
from mmcl_core.recognizer import Recognizer


class Toy(nn.Module):
    """A generator: the network input times a weight."""

    def __init__(self, by):
        super().__init__()
        self.by = nn.Parameter(torch.tensor(by))

    def forward(self, x):
        return x * self.by


@pytest.fixture(autouse=True)
def toy(monkeypatch):
    monkeypatch.setitem(streams.GENERATORS, "toy", "test_streams:Toy")


def scores(network, name, x):
    """Logits and embedding of a stream alone, of network input."""
    stream = network.stream(name)
    f1 = stream.encoder(x, stream.modalities[0], levels=()).f1
    return stream.logits(f1, stream.modalities[0]), f1


def test_zeros_are_as_many_as_the_pictures_while_statistics_are_taken():
    """As under the authors' protocol of evaluation: a single one would have no variance to be normalised by."""
    network = make("zeroed").train()
    logits, f1 = network(pictures("rgb"), "rgb")
    assert logits.shape == (6, 3)
    assert f1.shape == (6, CONFIG.nrkhs)
    assert logits.isfinite().all()


@pytest.mark.parametrize("rule", RULES)
@torch.no_grad()
def test_answers_are_the_mean_of_what_the_streams_see(rule):
    network = make(rule)
    assert network.trained_modalities() == network.encoded_modalities() == tuple(RULES[rule][1])
    for modality, looks in RULES[rule][1].items():
        image = pictures(modality, seed=3)
        own = to_network_input(image, modality, None, network.inputs)
        seen = {"own": own, ZERO: torch.zeros_like(own), "made": 2 * own}
        alone = [scores(network, look.stream, seen[look.sees]) for look in looks]
        expected = torch.stack([logits for logits, _ in alone]).mean(0)
        logits, embedding = network(image, modality)
        torch.testing.assert_close(logits, expected)
        (own_f1,) = [f1 for (_, f1), look in zip(alone, looks, strict=True) if look.sees == "own"][:1]
        assert torch.equal(embedding, own_f1)
        assert torch.equal(network.features(image, modality, levels=()).f1, own_f1)
        assert logits.std(0).min() > 1e-3  # it looks at the pictures
        assert network(image[:1], modality)[0].shape == (1, 3)
    with pytest.raises(UntrainedModalityError, match="no modality 'depth_left'"):
        network(pictures("depth"), "depth_left")


@pytest.mark.parametrize("rule", RULES)
def test_checkpoint_recogniser_label(rule, tmp_path):
    network = make(rule)
    weights.save_weights(tmp_path / "weights.safetensors", network, METADATA)
    built, metadata = weights.build_model(tmp_path)
    assert isinstance(built, StreamsNetwork)
    assert metadata["network"]["kind"] == "streams"
    assert metadata["trained_modalities"] == list(RULES[rule][1])
    assert built.state_dict().keys() == network.state_dict().keys()
    for modality in RULES[rule][1]:
        for ours, theirs in zip(
            network(pictures(modality), modality), built(pictures(modality), modality), strict=True
        ):
            torch.testing.assert_close(ours, theirs)
    recognizer = Recognizer.load(tmp_path, device="cpu")
    assert recognizer.modalities == tuple(RULES[rule][1])
    rgb, depth = make_crops([(SIDE, SIDE)] * 3)
    answers = recognizer.recognize(rgb=rgb)
    inner = slice(2, 34)
    image = torch.from_numpy(np.stack(rgb).astype(np.float32)[:, inner, inner]).permute(0, 3, 1, 2)
    with torch.no_grad():
        expected = network(image, "rgb")[0].softmax(1)
    np.testing.assert_allclose(answers.probabilities, expected, atol=2e-2)  # resized in 8 bits
    assert answers.labels == [METADATA["classes"][n] for n in answers.probabilities.argmax(1)]
    if "depth" not in RULES[rule][1]:
        with pytest.raises(UntrainedModalityError):
            recognizer.recognize(depth=depth)


def test_a_stream_that_was_not_trained_does_not_answer():
    network = make("zeroed", trained=False)
    assert network.trained_modalities() == ()
    rgb = network.stream("rgb").train()
    rgb(pictures("rgb"), "rgb")
    assert network.encoded_modalities() == ("rgb",)
    assert network.trained_modalities() == ()  # the depth stream takes part in every answer
    with pytest.raises(UntrainedModalityError):
        network.eval()(pictures("rgb"), "rgb")
    network.stream("depth").train()(pictures("depth"), "depth")
    assert network.trained_modalities() == ("rgb", "depth")
    network.forget_classifier()
    assert network.trained_modalities() == ()
    assert network.encoded_modalities() == ("rgb", "depth")


def test_rules_that_cannot_be_are_refused(tmp_path):
    with pytest.raises(ValueError, match="nobody looks"):
        StreamsNetwork(CONFIG, 3, PAIR, {"rgb": [Look("depth", ZERO)]})
    with pytest.raises(ValueError, match="names left, which"):
        StreamsNetwork(CONFIG, 3, PAIR, {"rgb": [Look("rgb"), Look("left")]})
    with pytest.raises(CheckpointError, match="unknown kind of generator 'gan'"):
        StreamsNetwork(CONFIG, 3, PAIR, {"rgb": [Look("rgb")]}, {"g": {"kind": "gan", "settings": {}}})
    path = tmp_path / "w.safetensors"
    weights.save_weights(path, make("alone"), METADATA)
    state, metadata = weights.load_weights(path)
    for change, message in (
        ({"kind": "forest"}, "unknown kind of network 'forest'"),
        ({"kind": "streams"}, "do not fit"),
    ):
        save_file(state, path, {"mmcl_core": json.dumps({**metadata, "network": change})})
        with pytest.raises(CheckpointError, match=message):
            weights.build_model(path)


def test_files_without_the_entry_are_a_single_network(tmp_path):
    path = tmp_path / "w.safetensors"
    weights.save_weights(path, make_model(), METADATA)
    state, metadata = weights.load_weights(path)
    assert metadata.pop("network") == {"kind": "recognition"}
    for key in ("backbone", "backbone_weights"):
        del metadata["model"][key]
    save_file(state, path, {"mmcl_core": json.dumps(metadata)})
    assert weights.build_model(path)[1]["trained_modalities"] == ["rgb"]


def test_copied_streams_answer_alike_whatever_their_modality():
    network = make("alone")
    before = network.stream("depth")
    torch.nn.init.normal_(before.classifier.linear.weight)
    copy_stream(network.stream("rgb"), before)
    x = torch.randn(4, 3, 32, 32)
    assert torch.equal(scores(network, "rgb", x)[0], scores(network, "depth", x)[0])


def test_streams_start_from_the_encoder_of_another_run(tmp_path):
    data = tiny.make_set(tmp_path / "set", samples=20)
    train(tiny.settings(data, "train.epochs=1", "method=supervised"), tmp_path / "run")
    config = tiny.settings(data).model
    network = StreamsNetwork(config, 3, *RULES["alone"])
    taken = network.init_from(tmp_path / "run")
    theirs, _ = weights.load_weights(tmp_path / "run")
    assert "streams.depth.encoder.norm.statistics.depth.mean" in taken
    for name in ("rgb", "depth"):
        own = network.stream(name).encoder.state_dict()
        assert all(torch.equal(value, theirs[f"encoder.{key}"]) for key, value in own.items())


def test_onnx_file_of_streams(tmp_path):
    tiny.needs_onnx()
    from mmcl_core import export

    weights.save_weights(tmp_path / "weights.safetensors", make("zeroed"), METADATA)
    assert export.main([str(tmp_path), "--out", str(tmp_path / "onnx"), "--quiet"]) == 0
    ours, theirs = Recognizer.load(tmp_path, device="cpu"), Recognizer.load(tmp_path / "onnx", device="cpu")
    rgb, depth = make_crops([(40, 40), (90, 30), (20, 64)], seed=5)
    for crops in ({"rgb": rgb}, {"depth": depth}):
        found, expected = theirs.recognize(**crops), ours.recognize(**crops)
        np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-4)
        np.testing.assert_allclose(found.embeddings, expected.embeddings, atol=1e-4)
