"""Whole runs on a tiny set: what they write and learn, and how they fail."""

from __future__ import annotations

import csv
import json
import shutil
import threading

import pytest
import tiny
import torch
import yaml
from small_sets import write_set
from torch import nn

from mmcl_core import train as command
from mmcl_core.config import OptimConfig, TrainConfig, to_dict
from mmcl_core.data.cache import PreparedSet
from mmcl_core.engine import runfolder
from mmcl_core.engine.checkpoint import load_state, save_state
from mmcl_core.engine.device import prepare_device, translate_errors
from mmcl_core.engine.distributed import World
from mmcl_core.engine.recording import batch_tensors, can_record
from mmcl_core.engine.runlog import read_rows
from mmcl_core.engine.samples import Samples
from mmcl_core.engine.trainer import Trainer, train
from mmcl_core.errors import CheckpointError, RunInterruptedError, TrainingError
from mmcl_core.methods import METHODS
from mmcl_core.methods.base import Stage, Update
from mmcl_core.methods.mmcl import MultimodalContrastive
from mmcl_core.methods.parts import classify, encode
from mmcl_core.weights import build_model, load_weights


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.make_set(tmp_path_factory.mktemp("trainer") / "set")


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """A run of the command to its end, on its training split only."""
    folder = tmp_path_factory.mktemp("finished")
    words = ("train.epochs=12", "train.keep=best", "optim.ema=0.8", "optim.clip_grad=1e6", "data.label_share=0.9")
    config = tiny.settings(data, *words)
    (folder / "config.yaml").write_text(yaml.safe_dump(to_dict(config)))
    assert command.main(["--config", str(folder / "config.yaml"), "--out", str(folder / "run")]) == 0
    return folder / "run"


def test_it_learns(finished):
    """Three classes, chance .33."""
    rows = read_rows(finished, "train")
    assert rows[-1]["loss"] < rows[0]["loss"]
    scores = load_weights(finished)[1]["validation"]
    assert scores["accuracy/rgb"] >= 0.8
    assert scores["accuracy/depth"] >= 0.6


def test_run_folder(finished, data):
    names = {path.name for path in finished.iterdir()}
    assert {"config.yaml", "environment.json", "labelled.txt", "metrics.jsonl", "metrics.csv"} <= names
    assert {"timings.jsonl", "weights.safetensors"} <= names
    assert "state.pt" not in names
    facts = json.loads((finished / "environment.json").read_text())
    assert (facts["device"], facts["precision"], facts["processes"]) == ("cpu", "float32", 1)
    rows = read_rows(finished)
    table = list(csv.DictReader((finished / "metrics.csv").open()))
    assert [row["split"] for row in table] == [row["split"] for row in rows]
    assert [float(row["loss"]) for row in table if row["split"] == "train"] == [
        row["loss"] for row in rows if row["split"] == "train"
    ]
    keys = (finished / "labelled.txt").read_text().split()
    assert len(keys) == len(set(keys)) == 29  # ceil(.9 x 32), a fifth of the 40 being held out
    for row in read_rows(finished, "train"):
        terms = sum(value for key, value in row.items() if "->" in key or key.startswith(("class", "regulariser")))
        assert row["loss"] == pytest.approx(terms)
        assert row["grad_norm"] > 0  # is no part of the loss
        assert row["lr"] <= 1e-3


def test_best_weights_are_deployed_and_load(finished):
    from mmcl_core.augment import eval_transform
    from mmcl_core.data.batches import BatchSource
    from mmcl_core.data.splits import split_indices
    from mmcl_core.engine.runfolder import read_config

    _, metadata = load_weights(finished)
    best = max(read_rows(finished, "val"), key=lambda row: row["accuracy"])
    assert metadata["selection"].startswith(f"best validation accuracy, epoch {best['epoch'] + 1} of 12")
    assert metadata["validation"]["accuracy"] == pytest.approx(best["accuracy"])
    assert metadata["trained_modalities"] == ["rgb", "depth"]
    assert set(metadata["temperature"]) == {"rgb", "depth", "rgbd"}
    model, _ = build_model(finished)
    config = read_config(finished)
    prepared = PreparedSet.open(config.data.root)
    _, val, _ = split_indices(prepared, config.data, config.seed)
    source = BatchSource(
        prepared, val, batch=64, seed=0, device=torch.device("cpu"), resident="memmap",
        modalities=("rgb", "depth"), shuffle=False,
    )  # fmt: skip
    (batch,) = source.ordered()
    pictures = eval_transform(batch.images, batch.camera, 32)
    for modality in ("rgb", "depth"):
        logits, _ = model(pictures[modality].image, modality, pictures[modality].camera)
        assert (logits.argmax(1) == batch.labels).float().mean() == pytest.approx(best[f"accuracy/{modality}"])


@pytest.mark.parametrize(
    "words", [("method=supervised", "train.validate_every=1"), ("method=mmcl", "data.label_share=0", "train.probe=1")]
)
def test_after_a_look_at_the_validation_samples_training_goes_on_as_before(data, tmp_path, words):
    """Every update is normalised by its batch, which counts in the running statistics."""
    result = train(tiny.settings(data, *words, "train.epochs=3"), tmp_path / "run")
    updates = 3 * Samples(tiny.settings(data, *words), World(), torch.device("cpu")).steps_per_epoch
    state, _ = load_weights(result.run)
    counts = {name: int(value) for name, value in state.items() if name.startswith("encoder.norm.statistics.")
              and name.endswith(".count")}  # fmt: skip
    assert counts
    assert set(counts.values()) == {updates}


def test_last_lines_name_the_next_command(data, tmp_path, capsys):
    config = tmp_path / "name.yaml"
    config.write_text(yaml.safe_dump(to_dict(tiny.settings("", "train.epochs=1"))))
    run = tmp_path / "run"
    assert command.main(["--config", str(config), "train.target=rgb", "--data", str(data), "--out", str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-3].startswith("validation accuracy, rgb: ")
    assert lines[-1] == f"next: python -m mmcl_core.evaluate {run} --data {data}"
    assert load_weights(run)[1]["trained_modalities"] == ["rgb"]


def test_a_set_of_training_crops_alone_is_not_what_to_evaluate_on_next(tmp_path, capsys):
    data = tmp_path / "set"
    write_set(data, range(12), size=32, split="train")
    config = tmp_path / "name.yaml"
    config.write_text(yaml.safe_dump(to_dict(tiny.settings("", "train.epochs=1", "train.batch=6"))))
    assert command.main(["--config", str(config), "--data", str(data), "--out", str(tmp_path / "run")]) == 0
    assert capsys.readouterr().out.splitlines()[-1].endswith("--data ANOTHER_SET")


def test_a_resumed_run_stays_in_its_folder(finished, tmp_path, capsys):
    assert command.main(["--resume", str(finished), "--out", str(tmp_path / "elsewhere")]) == 2
    assert f"--out {tmp_path / 'elsewhere'} names another" in capsys.readouterr().err
    assert command.main(["--resume", str(finished), f"out={tmp_path / 'elsewhere'}"]) == 2
    assert f"out={tmp_path / 'elsewhere'} names another" in capsys.readouterr().err
    assert not (tmp_path / "elsewhere").exists()
    assert command.main(["--resume", str(finished), "--out", f"{finished}/", "--quiet"]) == 0
    assert command.main(["--resume", str(finished), f"out={finished}", "--quiet"]) == 0
    with pytest.raises(SystemExit):
        command.main(["--resume", str(finished), "--overwrite"])
    assert "--overwrite: not allowed with argument --resume" in capsys.readouterr().err


def test_a_finished_run_is_finished_also_where_its_data_have_gone(finished, tmp_path, capsys):
    assert command.main(["--resume", str(finished), "--data", str(tmp_path / "gone")]) == 0
    assert capsys.readouterr().out.endswith(f"next: python -m mmcl_core.evaluate {finished} --data DIR\n")


def test_other_data_is_not_resumed(data, tmp_path, monkeypatch):
    monkeypatch.setitem(METHODS, "toy", "test_trainer:Breaks")
    run, words = tmp_path / "run", ("method=toy", "train.save_every=1", "train.log_every=1")
    with pytest.raises(TrainingError):
        train(tiny.settings(data, *words), run)
    assert (run / "state.pt").exists()
    moved = tiny.make_set(tmp_path / "other", samples=43)
    with pytest.raises(CheckpointError, match="other data"):
        train(tiny.settings(moved, *words), run, resume=True)
    state = load_state(run / "state.pt")
    content, _, drawn = state["data"].partition("-")
    save_state(run / "state.pt", state | {"data": f"{content}-{drawn[::-1]}"})
    with pytest.raises(CheckpointError, match="drew other samples"):
        train(tiny.settings(data, *words), run, resume=True)
    save_state(run / "state.pt", state | {"data": content})  # as earlier versions wrote it
    train(tiny.settings(data, *words), run, resume=True)
    assert runfolder.is_finished(run)


class Breaks(MultimodalContrastive):
    """From its sixth update (number 5) on a term is infinite."""

    name = "toy"
    calls = 0

    def losses(self, system, batch, stage, update):
        self.calls += 1
        terms = super().losses(system, batch, stage, update)
        return {**terms, "class rgb mlp": terms["class rgb mlp"] * (float("inf") if self.calls > 5 else 1.0)}


@pytest.mark.parametrize("log_every", [1, 3, 100])
def test_a_loss_that_is_not_finite_is_named(data, tmp_path, monkeypatch, log_every):
    """Whenever the terms are looked at, the message names the very update, and no later state is on the disk."""
    monkeypatch.setitem(METHODS, "toy", "test_trainer:Breaks")
    looks = (f"train.log_every={log_every}", f"train.save_every={int(log_every < 100)}")  # or as an epoch ends
    config = tiny.settings(data, "method=toy", *looks, "train.epochs=3")
    with pytest.raises(TrainingError, match=r"'class rgb mlp' became inf in update 5 \(stage train, epoch 1") as error:
        train(config, tmp_path / "run")
    assert "optim.lr" in str(error.value)
    state = load_state(tmp_path / "run" / "state.pt")
    assert state["step"] <= 5
    assert all(value.isfinite().all() for value in state["system"].values())
    assert not (tmp_path / "run" / "weights.safetensors").exists()
    rows = [row for row in read_rows(tmp_path / "run") if row["split"] == "train"]
    assert len(list(csv.DictReader((tmp_path / "run" / "metrics.csv").open()))) >= len(rows)  # of a failed run, too
    assert not [thread for thread in threading.enumerate() if thread.name == "state-writer"]


def test_weights_that_are_not_finite_are_not_deployed(data, tmp_path, monkeypatch):
    """The very last number of the last weight, after the last update, whose loss was finite."""

    def poisoned(trainer, parts, train_step=Trainer.train_step):
        train_step(trainer, parts)
        if trainer.step == 3:
            with torch.no_grad():
                list(trainer.system.parameters())[-1].view(-1)[-1] = float("nan")

    monkeypatch.setattr(Trainer, "train_step", poisoned)
    words = ("train.epochs=1", "train.validate_every=0")
    with pytest.raises(TrainingError, match=r"weights are not finite after update 4 although the loss was"):
        train(tiny.settings(data, *words), tmp_path / "run")
    assert not (tmp_path / "run" / "weights.safetensors").exists()


def test_float32_on_a_gpu_has_no_shorter_factors(monkeypatch):
    """Torch leaves TF32 on for convolutions unless told."""
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    for name in ("allow_tf32", "benchmark"):
        monkeypatch.setattr(torch.backends.cudnn, name, getattr(torch.backends.cudnn, name))
    before = torch.get_float32_matmul_precision()
    found = []
    for precision in ("float32", "bf16", "float32"):
        prepare_device(TrainConfig(), torch.device("cuda"), precision)
        found.append((torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32))
    torch.set_float32_matmul_precision(before)
    assert found == [("highest", False), ("high", True), ("highest", False)]


def test_out_of_memory_suggests_settings(data):
    train = tiny.settings(data).train
    message = r"train\.batch=8.*train\.accumulate.*model\.ndf"
    with pytest.raises(TrainingError, match=message), translate_errors(train, 1):
        torch.empty(2**55)
    with pytest.raises(RuntimeError, match="size of tensor"), translate_errors(train, 1):
        torch.zeros(2) + torch.zeros(3)  # any other error stays what it is


def test_a_compiler_that_is_missing_is_said_to_be():
    from torch._dynamo.exc import TorchDynamoException

    told = r"torch.compile failed \(InvalidCxxCompiler: No working C\+\+ compiler found\); .* train.compile=off"
    with pytest.raises(TrainingError, match=told), translate_errors(TrainConfig(), 1):
        raise TorchDynamoException("InvalidCxxCompiler: No working C++ compiler found\n\nSet TORCHDYNAMO_VERBOSE=1")


class Adversary(MultimodalContrastive):
    """A recogniser and a critic that tells depth from RGB embeddings, with optimisers of their own and a memory."""

    name = "toy"

    class System(nn.Module):
        def __init__(self, model, samples):
            super().__init__()
            self.model, self.critic = model, nn.Linear(32, 1)
            self.register_buffer("bank", torch.zeros(samples))
            self.started = nn.Parameter(torch.zeros(()), requires_grad=False)

    def build(self):
        return self.System(super().build(), self.samples)

    def deployed(self, system):
        return system.model

    def stages(self):
        critic = Update(OptimConfig(lr=0.1, warmup_steps=0), ("critic.",), "critic")
        model = Update(self.config.optim, ("model.",), "model")
        return (Stage("duel", 1, (critic, model)), Stage("alone", 1, (model,)))

    def start_stage(self, system, stage):
        with torch.no_grad():
            system.started += 1

    def losses(self, system, batch, stage, update):
        system.bank[batch.index] += 1
        encoded = encode(system.model, batch, self.views(stage))
        real, fake = (system.critic(encoded[m].features.f1).mean() for m in ("rgb", "depth"))
        if update.name == "critic":
            return {"critic": fake - real}
        head = classify(system.model, encoded["rgb"], "rgb", batch.labels, self.config.loss)
        return {"fool": real - fake, **{f"class {n}": v for n, v in head.items()}}


def test_methods_with_adversaries_memory_and_stages(data, tmp_path, monkeypatch):
    monkeypatch.setitem(METHODS, "toy", "test_trainer:Adversary")
    from mmcl_core.engine import trainer as module

    kept = {}

    class Watched(module.Trainer):
        def train_step(self, batches):
            before = {key: value.clone() for key, value in self.system.state_dict().items()}
            super().train_step(batches)
            after = self.system.state_dict()
            kept.setdefault(self.stage.name, []).append({k for k in after if not torch.equal(after[k], before[k])})
            kept["system"] = self.system

    monkeypatch.setattr(module, "Trainer", Watched)
    config = tiny.settings(data, "method=toy", "train.target=rgb", "train.batch=16", "train.log_every=1")
    train(config, tmp_path / "run")
    assert all({"critic.weight", "model.encoder.to1.conv1.weight", "bank"} <= step for step in kept["duel"])
    assert all("critic.weight" not in step for step in kept["alone"])
    system = kept["system"]
    assert system.started == 2
    assert system.bank.sum() == 2 * (2 + 1) * 16  # two steps an epoch; both updates of the first stage see the batch
    duel = [row for row in read_rows(tmp_path / "run", "train") if row["stage"] == "duel"]
    assert {"critic/critic", "model/fool", "model/class mlp"} <= set(duel[0])
    assert [row["step"] for row in read_rows(tmp_path / "run", "train")] == [1, 2, 3, 4]


def test_transfer_takes_the_encoder(data, tmp_path, finished):
    config = tiny.settings(data, f"model.init_from={finished}", "optim.lr=0", "train.epochs=1", "method=supervised")
    train(config, tmp_path / "run")
    old, new = load_weights(finished)[0], load_weights(tmp_path / "run")[0]
    names = [key for key in new if key.startswith("encoder.") and ".statistics." not in key]
    assert names
    assert all(torch.equal(old[key], new[key]) for key in names)
    assert not torch.equal(old["classifier.linear.weight"], new["classifier.linear.weight"])


def test_a_resumed_run_needs_no_file_of_the_weights_it_began_with(data, tmp_path, finished):
    start = tmp_path / "start.safetensors"
    shutil.copy(finished / "weights.safetensors", start)
    settings = (f"model.init_from={start}", "method=supervised", "train.save_every=1", "train.log_every=1")
    train(tiny.settings(data, *settings), tmp_path / "whole")
    with tiny.stopped_after_an_epoch(), pytest.raises(RunInterruptedError):
        train(tiny.settings(data, *settings), tmp_path / "run")
    start.unlink()
    train(tiny.settings(data, *settings), tmp_path / "run", resume=True)
    for name in ("weights.safetensors", "metrics.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize("overrides", [("train.precision=bf16",), ("train.channels_last=false", "optim.name=adamw")])
def test_other_ways_to_compute(data, tmp_path, overrides):
    result = train(tiny.settings(data, "train.epochs=1", *overrides), tmp_path / "run")
    assert set(result.scores) >= {"accuracy/rgb", "accuracy/depth"}


def test_several_updates_are_augmented_at_once_as_one_by_one(tmp_path):
    config = tiny.settings(tiny.make_set(tmp_path / "set"), "augment.policy=sound", "augment.depth_holes=0.2")
    samples = Samples(config, World(0, 1), torch.device("cpu"))
    stage = samples.method.stages()[0]
    augmenter = samples.method.augmenter(stage)
    with samples.epoch(0, 0) as batches:
        parts = [part for update in batches for part in update]
    places = [(0, update, 0) for update in range(len(parts))]
    together = samples.views(parts, augmenter, stage, places)
    assert len(together) == len(parts) > 1
    for part, place, views in zip(parts, places, together, strict=True):
        (alone,) = samples.views([part], augmenter, stage, [place])
        for mine, other in zip(batch_tensors(views), batch_tensors(alone), strict=True):
            torch.testing.assert_close(mine, other, atol=1e-3, rtol=1e-5)


@pytest.mark.parametrize(
    ("alike", "overrides", "incomplete"),
    [
        (True, (), ()),
        (True, ("method=supervised", "train.target=rgb"), ("depth",)),
        (True, ("method=two_step", "train.head_epochs=1"), ()),
        (False, (), ("depth",)),
        (False, ("train.cuda_graph=off",), ()),
        (False, ("train.accumulate=2",), ()),
        (False, ("model.depth_encoding=hha",), ()),
        (False, ("loss.chunk=2",), ()),
        (False, ("method=pix2pix", "train.target=rgb"), ()),
    ],
)
def test_what_is_recorded_on_a_gpu(data, tmp_path, alike, overrides, incomplete):
    config = tiny.settings(data, *overrides)
    method = Samples(config, World(0, 1), torch.device("cpu")).method
    for stage in method.stages():
        assert can_record(config, method, stage, incomplete, torch.device("cuda"), 1) == alike
        assert not can_record(config, method, stage, incomplete, torch.device("cpu"), 1)
        assert not can_record(config, method, stage, incomplete, torch.device("cuda"), 2)
