"""Whole runs of the methods in which a stream stands in for a missing modality: killed, deployed, exported."""

from __future__ import annotations

import signal

import numpy as np
import pytest
import tiny
import torch
import yaml
from tiny import length, read, run_command

from mmcl_core.augment import Picture
from mmcl_core.config import to_dict
from mmcl_core.data.writer import PreparedWriter, Sample
from mmcl_core.engine import trainer
from mmcl_core.engine.runlog import read_rows
from mmcl_core.engine.trainer import train
from mmcl_core.errors import TrainingError, UntrainedModalityError
from mmcl_core.methods import method_class
from mmcl_core.methods.base import ViewBatch
from mmcl_core.modality import to_network_input
from mmcl_core.nn.model import RecognitionModel
from mmcl_core.recognizer import Recognizer
from mmcl_core.weights import build_model, load_weights, save_weights

METHODS = ("pix2pix", "admd", "hallucination")
LEARN = {
    "pix2pix": (
        "pix2pix.gan_epochs=8", "pix2pix.alone_epochs=3", "pix2pix.width=8", "pix2pix.lr=1e-3", "train.epochs=5",
    ),
    "admd": (
        *(f"admd.{text}" for text in ("alone_epochs=8", "together_epochs=1", "hidden=64", "lr=3e-3")),
        "admd.finetune_epochs=2", "admd.finetune_rate=0.5", "train.epochs=10",
    ),
    "hallucination": (
        *(f"hallucination.{text}" for text in ("alone_epochs=6", "together_epochs=1", "finetune_epochs=1")),
        "train.epochs=8",
    ),
}  # fmt: skip


def pictures(count, seed):
    """RGB uint8 and depth uint16 of shapes of all classes, in turn."""
    rng = np.random.default_rng(seed)
    return zip(*(tiny.picture(n % 3, rng) for n in range(count)), strict=True)


@pytest.fixture(scope="module", params=METHODS)
def finished(request, tmp_path_factory):
    """A run whose target is RGB."""
    data = tiny.make_set(tmp_path_factory.mktemp("data") / "set", samples=60)
    run = tmp_path_factory.mktemp(request.param) / "run"
    config = tiny.settings(data, f"method={request.param}", "train.target=rgb", *LEARN[request.param])
    return request.param, train(config, run)


def test_a_stage_hands_on_its_last_weights_though_the_best_are_kept(tmp_path, monkeypatch):
    """The first epoch of each stage is the best by validation; only of the last stage that is what is deployed."""
    data, falling = tiny.make_set(tmp_path / "set"), iter(range(99, 0, -1))
    monkeypatch.setattr(trainer, "scores", lambda *_: {"accuracy/rgb": next(falling) / 100})
    words = [f"hallucination.{name}" for name in ("alone_epochs=2", "together_epochs=0", "finetune_epochs=2")]
    words += ["method=hallucination", "train.target=rgb", "train.epochs=1", "train.validate_every=1"]
    losses = []
    for keep in ("last", "best"):
        result = train(tiny.settings(data, *words, f"train.keep={keep}"), tmp_path / keep)
        losses.append([row["loss"] for row in read_rows(result.run, "train")])
    assert result.selection == "best validation accuracy, epoch 1 of 2"
    assert losses[0] == losses[1]


def test_it_learns_and_answers_from_rgb_alone(finished):
    name, result = finished
    assert result.scores["accuracy/rgb"] >= 0.8  # three classes
    state, metadata = load_weights(result.run)
    assert metadata["trained_modalities"] == ["rgb"]
    assert set(metadata["network"]["streams"]) == {"rgb", "depth" if name == "pix2pix" else "hallucination"}
    assert not [key for key in state if "teacher" in key or "discriminator" in key]
    recognizer = Recognizer.load(result.run)
    assert recognizer.modalities == ("rgb",)
    rgb, depth = pictures(30, 5)
    right = sum(label == tiny.CLASSES[n % 3] for n, label in enumerate(recognizer.recognize(rgb=list(rgb)).labels))
    assert right >= 24
    with pytest.raises(UntrainedModalityError, match="not for depth"):
        recognizer.recognize(depth=[depth[0]])


def test_the_stand_in_alone_knows_the_classes(finished):
    """What stands in for depth is not a bystander: its own logits, from RGB pictures, tell the classes apart."""
    name, result = finished
    model, _ = build_model(result.run)
    rgb, depth = (torch.from_numpy(np.stack(images).astype(np.float32)) for images in pictures(30, 6))
    source = to_network_input(rgb.permute(0, 3, 1, 2), "rgb", None, model.inputs)
    if name == "pix2pix":
        source = model.generators["depth_of_rgb"](source)
        wanted = to_network_input(depth[:, None], "depth", None, model.inputs)
        right, wrong = ((source - one).abs().mean().item() for one in (wanted, wanted.roll(1, 0)))
        assert right < 0.6 * wrong  # it made the depth of its own picture
    stream = model.stream("depth" if name == "pix2pix" else "hallucination")
    modality = stream.modalities[0]
    logits = stream.logits(stream.encoder(source, modality).f1, modality)
    least = 0.8 if name == "hallucination" else 0.6  # adversaries of so few samples lose a class with some seeds
    assert (logits.argmax(1) == torch.arange(30) % 3).float().mean() >= least


def test_every_stage_is_logged(finished):
    name, result = finished
    rows = [row for row in read_rows(result.run) if row["split"] == "train"]
    terms = {}
    for row in rows:
        terms.setdefault(row["stage"], set()).update(key for key in row if "/" in key or key.startswith("class"))
    adversaries = {"pix2pix": "gan", "admd": "hallucinate"}.get(name)
    stages = {
        "pix2pix": ["gan", "alone", "classify"],
        "admd": ["alone", "together", "hallucinate", "finetune"],
        "hallucination": ["alone", "together", "hallucinate", "finetune"],
    }[name]
    assert list(terms) == stages
    expected = {
        "pix2pix": {f"discriminator/{n}" for n in ("real", "fake")} | {f"generator/{n}" for n in ("fooling", "l1")},
        "admd": {"discriminator/real", "discriminator/fake", "hallucination/fooling"},
    }
    assert adversaries is None or terms[adversaries] == expected[name]


def test_onnx_file_answers_alike(finished, tmp_path):
    tiny.needs_onnx()
    from mmcl_core import export

    _, result = finished
    assert export.main([str(result.run), "--out", str(tmp_path / "rgb.onnx"), "--quiet"]) == 0
    rgb = list(next(pictures(9, 7)))
    found, expected = (Recognizer.load(path).recognize(rgb=rgb) for path in (tmp_path / "rgb.onnx", result.run))
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-4)
    np.testing.assert_allclose(found.embeddings, expected.embeddings, atol=1e-4)


@pytest.mark.parametrize("head", ["linear", "mlp"])
@pytest.mark.parametrize("name", [*METHODS, "moddrop"])
def test_streams_are_trained_alone_to_answer_with_the_head_that_is_asked_for(name, head):
    settings = tiny.settings("unused", f"method={name}", "train.target=rgb", f"model.predict_with={head}")
    method = method_class(name)(settings, tiny.CLASSES)
    system = method.build()
    stage = next(stage for stage in method.stages() if stage.name == "alone")
    rgb, depth = (torch.from_numpy(np.stack(images).astype(np.float32)) for images in pictures(6, 8))
    camera = torch.zeros(6, 4)
    shown = {"rgb": Picture(rgb.permute(0, 3, 1, 2), camera), "depth": Picture(depth[:, None], camera)}
    batch = ViewBatch(shown, {}, torch.arange(6) % 3, torch.arange(6))
    sum(method.losses(system, batch, stage, stage.updates[0]).values()).backward()
    learning = {key for key, weight in system.named_parameters() if weight.grad is not None}
    heads = {key.split(".")[-2] for key in learning if key.endswith(("linear.weight", "output.weight"))}
    assert heads == {"linear" if head == "linear" else "output"}
    assert sum("encoder.stem" in key for key in learning) == 4  # weight and bias of both streams


@pytest.mark.parametrize("name", METHODS)
def test_every_stream_starts_from_the_encoder_of_another_run(name, tmp_path):
    """The teacher's, too: it is not deployed, and takes the statistics of its own modality."""
    settings = tiny.settings("unused", f"method={name}", "train.target=rgb", f"model.init_from={tmp_path}")
    source = RecognitionModel(settings.model, ("rgb", "depth"), 3, ())
    for modality, level in (("rgb", 90), ("depth", 140)):
        source.encoder(level + torch.randn(4, 3, 32, 32), modality)
    save_weights(tmp_path / "weights.safetensors", source, {"classes": list(tiny.CLASSES)})
    method = method_class(name)(settings, tiny.CLASSES)
    system = method.build()
    method.load_start(system)
    network = method.deployed(system)
    for stream in (*map(network.stream, network.streams), method.real_stream(system)):
        for key, value in stream.encoder.state_dict().items():
            assert torch.equal(value, source.encoder.state_dict()[key]), key
        assert stream.encoded_modalities() == stream.modalities


def test_the_best_epoch_of_the_target_does_not_choose_the_teacher(tmp_path):
    """Before the last stage validation asks the target's own stream alone; both streams go on from the last epoch."""
    data = tiny.make_set(tmp_path / "set")
    losses = {}
    for keep in ("best", "last"):
        words = ("admd.alone_epochs=4", "admd.together_epochs=1", "admd.hidden=16", f"train.keep={keep}")
        config = tiny.settings(data, "method=admd", "train.target=rgb", "train.epochs=1", *words)
        train(config, tmp_path / keep)
        losses[keep] = [row["loss"] for row in read_rows(tmp_path / keep, "train")]
    scores = [row["accuracy"] for row in read_rows(tmp_path / "best", "val") if row["stage"] == "alone"]
    assert scores.index(max(scores)) < len(scores) - 1, "the best epoch must not be the last"
    assert losses["best"] == losses["last"]


RESUMED = {
    "pix2pix": (
        *(f"pix2pix.{text}" for text in ("gan_epochs=2", "alone_epochs=1", "copies=2", "width=4")),
        "train.epochs=3", "augment.scale=[0.3, 1.0]",
    ),
    "admd": (
        *(f"admd.{text}" for text in ("alone_epochs=2", "together_epochs=1", "hidden=16", "lr=1e-3")),
        "train.epochs=3", "train.keep=best",
    ),
    "hallucination": (
        *(f"hallucination.{stage}_epochs=1" for stage in ("alone", "together", "finetune")),
        "train.epochs=2", "optim.ema=0.9",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", METHODS)
def test_killed_in_every_part_of_the_run(name, tmp_path):
    """SIGKILL near the start, in the middle and in the last stage: log and weights come out the same, bit for bit."""
    data = tiny.make_set(tmp_path / "set", missing=True, unlabelled=5)
    config = tiny.settings(data, "train.save_every=1", f"method={name}", "train.target=rgb", *RESUMED[name])
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(to_dict(config)))
    assert run_command("--config", path, "--out", tmp_path / "whole") == 0
    expected, run = read(tmp_path / "whole"), tmp_path / "run"
    arguments = ("--config", path, "--resume", run)
    for share in (0.15, 0.5, 0.9):
        mark = share * len(expected["metrics.jsonl"])
        status = run_command(
            *arguments,
            until=lambda mark=mark: length(run / "metrics.jsonl") > mark,
            do=lambda process: process.kill(),
        )
        assert status == -signal.SIGKILL
    assert run_command(*arguments) == 0
    assert read(run) == expected


@pytest.mark.parametrize(
    ("seed", "told"), [(0, "a stage needs what"), (1, "so that the network does not answer for it")]
)
def test_a_run_whose_batches_hold_no_pairs_says_so_instead_of_leaving_a_network_that_answers_nothing(
    tmp_path, seed, told
):
    """Two of 48 samples have depth; whether they ever meet in a batch is chance."""
    rng = np.random.default_rng(7)
    with PreparedWriter(
        tmp_path / "set", classes=("a", "b"), size=32, modalities=("rgb", "depth"), description={}
    ) as w:
        for number in range(60):
            images = {"rgb": rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)}
            if number in (3, 30):
                images["depth"] = np.full((32, 32), 800, np.uint16)
            w.add(Sample(images, number % 2, "train" if number < 48 else "val", f"s{number:02d}"))
    settings = ("method=admd", "train.target=rgb", "train.epochs=1", "data.val_fraction=0", f"seed={seed}")
    stages = ("admd.alone_epochs=2", "admd.together_epochs=0", "admd.finetune_epochs=0", "admd.hidden=8")
    with pytest.raises(TrainingError, match=f"{told}.*raise train.batch"):
        train(tiny.settings(tmp_path / "set", *settings, *stages), tmp_path / "run")
    assert not (tmp_path / "run" / "weights.safetensors").exists()
