"""Whole runs on a tiny set: what they write, how they fail, and the parts they are made of."""

from __future__ import annotations

import csv
import errno
import fcntl
import json
import shutil

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
import yaml
from small_sets import write_set
from torch import nn

from mmcl_core import train as command
from mmcl_core.config import OptimConfig, TrainConfig, to_dict
from mmcl_core.data.cache import PreparedSet, PreparedWriter, Sample
from mmcl_core.engine import runfolder
from mmcl_core.engine.checkpoint import load_state, save_state
from mmcl_core.engine.checks import check_data, check_settings
from mmcl_core.engine.clock import Clock
from mmcl_core.engine.device import prepare_device, translate_errors
from mmcl_core.engine.distributed import World
from mmcl_core.engine.interrupt import RunInterruptedError
from mmcl_core.engine.optim import MovingAverage, make_optimizer, set_mode
from mmcl_core.engine.probe import knn_accuracy, linear_accuracy
from mmcl_core.engine.recording import batch_tensors, can_record
from mmcl_core.engine.report import try_report
from mmcl_core.engine.runlog import RunLog, read_rows
from mmcl_core.engine.samples import Samples
from mmcl_core.engine.trainer import Trainer, train
from mmcl_core.engine.validation import Outputs, fit_temperature, fit_temperatures, scores
from mmcl_core.errors import CheckpointError, ConfigError, DataError, TrainingError, UntrainedModalityError
from mmcl_core.methods import METHODS
from mmcl_core.methods.base import Stage, Update
from mmcl_core.methods.mmcl import MultimodalContrastive
from mmcl_core.methods.parts import classify, encode
from mmcl_core.nn.norm import ModalityBatchNorm
from mmcl_core.recognizer import Recognizer
from mmcl_core.weights import build_model, load_weights


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.make_set(tmp_path_factory.mktemp("trainer") / "set")


@pytest.fixture(scope="module")
def finished(data, tmp_path_factory):
    """A run of the command to its end, on its training split only."""
    folder = tmp_path_factory.mktemp("finished")
    config = tiny.settings(data, "train.epochs=12", "train.keep=best", "optim.ema=0.8", "data.label_share=0.9")
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
        assert row["lr"] <= 1e-3


def test_best_weights_are_deployed_and_load(finished):
    from mmcl_core.augment import eval_transform
    from mmcl_core.data.batches import BatchSource, split_indices
    from mmcl_core.data.cache import PreparedSet
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


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["method=mmlc"], "did you mean mmcl"),
        (["train.modalities=[rgb, depth_left]"], "depth_left"),
        (["train.target=depth", "train.modalities=[rgb]"], "not among train.modalities"),
        (["train.batch=100"], "32 samples"),
        (["train.batch=9", "train.accumulate=2"], "take 8"),
        (["train.batch=4", "train.accumulate=4"], "fewer than 2"),
        (["train.accumulate=0"], "train.accumulate is 0"),
        (["model.input_size=48"], "128, 64, 32"),
        (["loss.level_pairs=[1-5, 3-5]"], "loss.level_pairs"),
        (["loss.level_pairs=[]"], "at least one"),
        (["loss.contrastive_weight=-1"], "loss.contrastive_weight is -1"),
        (["loss.agreement_weight=1", "method=supervised"], "take method=mmcl"),
        (["train.keep=best", "data.val_fraction=0"], "val_fraction"),
        (["train.keep=best", "data.label_share=0"], "no training sample has a label in this run; take train.keep=last"),
        (["optim.ema=1.5"], "optim.ema is 1.5"),
        (["optim.gamma=-0.2"], "optim.gamma is -0.2"),
        (["loss.direction_weight=-1"], "loss.direction_weight is -1"),
        (["train.epochs=0"], "train.epochs is 0"),
        (["seed=-1"], "seed is -1"),
        (["optim.betas=[0.9, 1.0]"], "optim.betas is [0.9, 1.0]"),
        (["method=two_step", "train.head_epochs=0"], "nothing learns to classify"),
        (["method=supervised", "data.label_share=0"], "learns from labels"),
        (["train.device=cuda:99"], "cuda:99"),
        (["train.device=gpu"], "auto, cpu, cuda"),
        (["model.depth_encoding=stored"], "metric depth"),
        (["data.train_split=training"], "training"),
        (["model.init_from=nowhere.pth"], "nowhere.pth: there is no such file; give a run folder"),
    ],
    ids=lambda value: str(value[0]) if isinstance(value, list) else "",
)
def test_errors_before_any_work(data, tmp_path, overrides, message, capsys):
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(to_dict(tiny.settings(data))))
    assert command.main(["--config", str(config), "--out", str(tmp_path / "run"), *overrides]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "depth_encoding is replicate, which needs distances, but depth in .* is depth pictures .*; choose stored"),
        (["model.depth_encoding=stored", "augment.depth_offset_m=0.1"], "augment.depth_offset_m: needs distances"),
    ],
)
def test_settings_for_distances_and_a_set_of_depth_pictures(tmp_path, overrides, message):
    with PreparedWriter(
        tmp_path / "set", classes=("a",), size=32, modalities=("rgb", "depth"), stored=("depth",)
    ) as writer:
        picture = np.zeros((32, 32, 3), np.uint8)
        for number in range(12):
            writer.add(Sample({"rgb": picture, "depth": picture}, 0, "train", f"{number:02d}"))
    with pytest.raises(ConfigError, match=message):
        train(tiny.settings(tmp_path / "set", *overrides), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_settings_of_another_method_are_told(caplog):
    overrides = (
        "method=admd",
        "train.target=rgb",
        "hallucination.alone_epochs=8",
        "hallucination.imitation=0",
        "admd.lr=1",
    )
    check_settings(tiny.settings("unused", *overrides), 1)
    (record,) = caplog.records
    told = (
        "hallucination.alone_epochs, hallucination.imitation: settings of method hallucination, ignored as method is "
    )
    assert record.getMessage() == told + "admd"


def test_a_method_is_told_whether_the_set_has_labels(tmp_path):
    data = tiny.make_set(tmp_path / "set", unlabelled=40)  # all that is trained on
    with pytest.raises(ConfigError, match="no sample of the split 'train'"):
        train(tiny.settings(data, "method=supervised"), tmp_path / "run")
    train(tiny.settings(data, "method=two_step", "train.epochs=1", "train.head_epochs=30"), tmp_path / "run")
    assert {row["stage"] for row in read_rows(tmp_path / "run", "train")} == {"contrast"}


def test_no_best_weights_without_a_label_to_judge_by(tmp_path):
    data = tiny.make_set(tmp_path / "set", unlabelled=16)
    config = tiny.settings(data, "train.keep=best", "data.val_split=test", "data.train_split=train")
    prepared = PreparedSet.open(data)
    prepared.labels[prepared.select("test")] = -1
    with pytest.raises(ConfigError, match="no validation sample has a label"):
        check_data(config, prepared, ("rgb",), prepared.select("train"), prepared.select("test"), 64)


def test_warm_up_is_measured_by_the_updates_that_there_are(tmp_path, caplog):
    prepared = PreparedSet.open(tiny.make_set(tmp_path / "set"))
    train, test = prepared.select("train"), prepared.select("test")
    steps = len(train) // 8
    config = tiny.settings(prepared.path, "train.batch=8", "train.epochs=1", f"optim.warmup_steps={steps}")
    check_data(config, prepared, ("rgb",), train, test, 3 * len(train))
    assert "warmup_steps" not in caplog.text
    check_data(config, prepared, ("rgb",), train, test, len(train))
    assert f"optim.warmup_steps is {steps} of {steps} updates" in caplog.text


@pytest.mark.parametrize("wrong", ["augment.scale=[0.5,2]", "augment.camera_dropout=2"])
def test_a_wrong_augmentation_leaves_the_run_that_it_was_to_replace(tmp_path, wrong):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/weights.safetensors").write_text("precious")
    config = tiny.settings(tiny.make_set(tmp_path / "set"), "augment.policy=none", wrong)
    with pytest.raises(ConfigError, match=r"augment\."):
        train(config, tmp_path / "run", overwrite=True)
    assert (tmp_path / "run/weights.safetensors").read_text() == "precious"


def test_classes_without_a_training_sample_are_named(tmp_path, caplog):
    data = tiny.make_set(tmp_path / "set")
    config = tiny.settings(data)
    prepared = PreparedSet.open(data)
    train, test = prepared.select("train"), prepared.select("test")
    check_data(config, prepared, ("rgb",), train, test, len(train))
    assert "sample to train on" not in caplog.text
    lacking = train[prepared.labels[train] != 1]
    check_data(config, prepared, ("rgb",), lacking, test, len(lacking))
    assert f"classes have no sample to train on: {prepared.classes[1]}" in caplog.text
    assert "of one class" not in caplog.text
    alone = train[prepared.labels[train] == 1]
    check_data(tiny.settings(data, f"train.batch={len(alone)}"), prepared, ("rgb",), alone, test, len(alone))
    assert f"all labelled samples to train on are of one class, {prepared.classes[1]}" in caplog.text


def test_training_without_validation_is_told_unless_it_is_meant(tmp_path, caplog):
    data = tiny.make_set(tmp_path / "set")
    prepared = PreparedSet.open(data)
    train, none = prepared.select("train"), np.zeros(0, np.int64)
    for split, told in (("", False), ("val", True)):
        settings = tiny.settings(data, f"data.val_split={split}", "data.val_fraction=0", "train.keep=last")
        check_data(settings, prepared, ("rgb",), train, none, len(train))
        assert ("no samples in the split 'val': training goes on without validation" in caplog.text) == told


def test_a_folder_whose_name_looks_like_a_date(data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(to_dict(tiny.settings(data))))
    for name in ("2024-11-26", "a: b", "my set #1", "größe 😀"):
        assert command.main(["--config", "config.yaml", "--data", name, "--out", "run"]) == 2
        assert f"error: {name} is not a prepared set" in capsys.readouterr().err


def test_folders_that_are_taken(data, tmp_path, finished):
    config = tiny.settings(data, "train.epochs=1")
    other = tmp_path / "pictures"
    other.mkdir()
    (other / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(ConfigError, match="not empty"):
        train(config, other)
    with pytest.raises(ConfigError, match="not empty"):
        train(config, other, overwrite=True)
    run = tmp_path / "run"
    train(config, run)
    with pytest.raises(ConfigError, match="finished run"):
        train(config, run)
    (run / "note.txt").write_text("mine")
    (run / "evaluation" / "set-test").mkdir(parents=True)
    train(tiny.settings(data, "train.epochs=1", "seed=1"), run, overwrite=True)
    assert load_weights(run)[1]["seed"] == 1
    assert (run / "note.txt").exists()
    assert not (run / "evaluation").exists()  # it would be shown as that of the new weights


def test_a_resumed_run_stays_in_its_folder(finished, tmp_path, capsys):
    assert command.main(["--resume", str(finished), "--out", str(tmp_path / "elsewhere")]) == 2
    assert f"--out {tmp_path / 'elsewhere'} names another" in capsys.readouterr().err
    assert command.main(["--resume", str(finished), f"out={tmp_path / 'elsewhere'}"]) == 2
    assert f"out={tmp_path / 'elsewhere'} names another" in capsys.readouterr().err
    assert not (tmp_path / "elsewhere").exists()
    assert command.main(["--resume", str(finished), "--out", f"{finished}/", "--quiet"]) == 0
    assert command.main(["--resume", str(finished), f"out={finished}", "--quiet"]) == 0


def test_one_training_a_folder(data, tmp_path):
    """A second one would mix its log and its state with those of the first."""
    config, run = tiny.settings(data, "train.epochs=1"), tmp_path / "runs" / "run"
    with runfolder.locked(run):
        for how in ({"resume": True}, {"overwrite": True}, {}):
            with pytest.raises(DataError, match="run is being written by another process"):
                train(config, run, **how)
        assert not list(run.iterdir())
    assert not run.exists()
    train(config, run)  # the lock is gone
    with runfolder.locked(run, main=False), runfolder.locked(run):
        pass
    assert runfolder.is_finished(run)


def test_a_report_that_cannot_be_written_is_a_line(tmp_path, caplog):
    (tmp_path / "report").touch()
    try_report(tmp_path)
    (record,) = caplog.records
    assert "the report could not be written" in record.getMessage()
    assert record.exc_info is None


def test_a_file_system_without_locks(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with runfolder.locked(tmp_path / "run"):
        (tmp_path / "run" / "config.yaml").touch()
    assert (tmp_path / "run" / "config.yaml").exists()


def test_other_data_is_not_resumed(data, tmp_path, monkeypatch):
    monkeypatch.setitem(METHODS, "toy", "test_trainer:Breaks")
    run = tmp_path / "run"
    with pytest.raises(TrainingError):
        train(tiny.settings(data, "method=toy", "train.save_every=1", "train.log_every=1"), run)
    assert (run / "state.pt").exists()
    moved = tiny.make_set(tmp_path / "other", samples=43)
    with pytest.raises(CheckpointError, match="other data"):
        train(tiny.settings(moved, "method=toy"), run, resume=True)
    state = load_state(run / "state.pt")
    content, _, drawn = state["data"].partition("-")
    save_state(run / "state.pt", state | {"data": f"{content}-{drawn[::-1]}"})
    with pytest.raises(CheckpointError, match="drew other samples"):
        train(tiny.settings(data, "method=toy"), run, resume=True)
    save_state(run / "state.pt", state | {"data": content})  # as earlier versions wrote it
    train(tiny.settings(data, "method=toy", "train.save_every=1", "train.log_every=1"), run, resume=True)
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
    config = tiny.settings(data, "method=toy", f"train.log_every={log_every}", "train.save_every=1", "train.epochs=3")
    with pytest.raises(TrainingError, match=r"'class rgb mlp' became inf in update 5 \(stage train, epoch 1") as error:
        train(config, tmp_path / "run")
    assert "optim.lr" in str(error.value)
    from mmcl_core.engine.checkpoint import load_state

    state = load_state(tmp_path / "run" / "state.pt")
    assert state["step"] <= 5
    assert all(value.isfinite().all() for value in state["system"].values())
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


def test_a_resumed_run_needs_no_file_of_the_weights_it_began_with(data, tmp_path, finished, monkeypatch):
    start = tmp_path / "start.safetensors"
    shutil.copy(finished / "weights.safetensors", start)
    settings = (f"model.init_from={start}", "method=supervised", "train.save_every=1", "train.log_every=1")
    train(tiny.settings(data, *settings), tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_end_epoch", interrupted)
        with pytest.raises(RunInterruptedError):
            train(tiny.settings(data, *settings), tmp_path / "run")
    start.unlink()
    train(tiny.settings(data, *settings), tmp_path / "run", resume=True)
    for name in ("weights.safetensors", "metrics.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def interrupted(trainer, epoch, end_epoch=Trainer._end_epoch):
    """Asks for the end of the run when an epoch is over."""
    trainer.stopping = True
    end_epoch(trainer, epoch)


@pytest.mark.parametrize("overrides", [("train.precision=bf16",), ("train.channels_last=false", "optim.name=adamw")])
def test_other_ways_to_compute(data, tmp_path, overrides):
    result = train(tiny.settings(data, "train.epochs=1", *overrides), tmp_path / "run")
    assert set(result.scores) >= {"accuracy/rgb", "accuracy/depth"}


def test_probes_of_a_self_supervised_stage(data, tmp_path):
    config = tiny.settings(data, "method=two_step", "train.epochs=3", "train.head_epochs=1", "train.probe=2")
    train(config, tmp_path / "run")
    rows = read_rows(tmp_path / "run", "probe")
    assert [row["epoch"] for row in rows] == [1, 2]
    assert all({"knn/rgb", "linear/rgb", "knn/depth", "linear/depth"} <= set(row) for row in rows)
    assert {row["stage"] for row in read_rows(tmp_path / "run", "val")} == {"heads"}


def test_what_was_trained_without_labels_answers_nothing(data, tmp_path, capsys):
    run = tmp_path / "run"
    config = tiny.settings(data, "data.label_share=0", "train.probe=1", "train.epochs=1")
    assert train(config, run).scores == {}
    metadata = load_weights(run)[1]
    assert metadata["trained_modalities"] == []
    assert metadata["encoded_modalities"] == ["rgb", "depth"]
    assert {"knn/rgb", "linear/depth"} <= set(read_rows(run, "probe")[0])  # by the labels of the set
    assert not read_rows(run, "val")
    with pytest.raises(UntrainedModalityError, match="not trained to classify"):
        Recognizer.load(run)
    assert command.main(["--resume", str(run), "--quiet"]) == 0
    assert "model.init_from" in capsys.readouterr().out


@pytest.mark.parametrize("method", ["supervised", "mmcl"])
def test_samples_without_a_label_are_said_to_be_idle_where_they_are(data, tmp_path, caplog, method):
    settings = ("data.label_share=0.5", f"method={method}", "train.epochs=1")
    train(tiny.settings(data, *settings), tmp_path / "kept")
    told = "have no label and teach method supervised nothing; data.unlabelled=drop" in caplog.text
    assert told == (method == "supervised")
    caplog.clear()
    train(tiny.settings(data, *settings, "data.unlabelled=drop"), tmp_path / "dropped")
    assert "teach method" not in caplog.text
    labelled = [(tmp_path / run / "labelled.txt").read_text() for run in ("kept", "dropped")]
    assert labelled[0] == labelled[1]
    steps = [read_rows(tmp_path / run, "train")[-1]["step"] for run in ("kept", "dropped")]
    assert steps[1] == steps[0] // 2


def test_labelled_samples_may_come_more_often(data, tmp_path):
    common = ("data.label_share=0.25", "train.epochs=1", "train.batch=4")
    for repeats in (1, 5, 0, 3):
        train(tiny.settings(data, *common, f"data.label_repeats={repeats}"), tmp_path / str(repeats))
    labelled = [(tmp_path / run / "labelled.txt").read_text().splitlines() for run in ("1", "5")]
    assert labelled[0] == labelled[1]
    # 0 makes half of a batch labelled, three times of a quarter.
    assert read_rows(tmp_path / "0", "train")[-1]["loss"] == read_rows(tmp_path / "3", "train")[-1]["loss"]
    once, often = (read_rows(tmp_path / run, "train")[-1]["step"] for run in ("1", "5"))
    samples = 4 * once + 3  # the last batch may be incomplete
    assert often in {(n + 4 * len(labelled[0])) // 4 for n in range(4 * once, samples + 1)}
    with pytest.raises(ConfigError, match=r"data\.label_repeats"):
        train(tiny.settings(data, "data.label_repeats=-1"), tmp_path / "none")


def test_half_of_a_batch_is_labelled_as_far_as_none_holds_a_sample_twice(data, tmp_path, caplog):
    """Two labelled of 32 samples cannot be half of a batch of 8 without copies of themselves as negatives."""
    common = ("data.label_share=0.06", "train.epochs=1", "train.batch=8")
    for repeats in (0, 4):
        train(tiny.settings(data, *common, f"data.label_repeats={repeats}"), tmp_path / str(repeats))
    assert len((tmp_path / "0" / "labelled.txt").read_text().splitlines()) == 2
    assert read_rows(tmp_path / "0", "train") == read_rows(tmp_path / "4", "train")
    assert "hold samples several times" not in caplog.text
    train(tiny.settings(data, *common, "data.label_repeats=5"), tmp_path / "5")
    assert "with 2 labels some batches of 8 hold samples several times" in caplog.text


def test_a_target_that_training_hardly_has_is_refused_before_any_work(tmp_path):
    with PreparedWriter(
        tmp_path / "set", classes=tiny.CLASSES, size=tiny.SIDE, modalities=("rgb", "depth"), description={}
    ) as writer:
        for number in range(24):
            rgb, depth = tiny.picture(number % 3, np.random.default_rng(number))
            images = {"rgb": rgb} | ({"depth": depth} if number == 0 else {})
            writer.add(Sample(images, number % 3, "train", f"{number:02d}"))
    with pytest.raises(DataError, match=r"of 24 training samples in .* have depth, which is to be classified"):
        train(tiny.settings(tmp_path / "set", "data.val_fraction=0"), tmp_path / "run")
    words = ("data.val_fraction=0", "train.target=rgb", "train.epochs=1", "method=input_dropout")
    train(tiny.settings(tmp_path / "set", *words), tmp_path / "run")


# ------------------------------------------------------------------- parts


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw"])
def test_parameters_may_get_their_first_gradient_in_a_later_step(name):
    system = torch.nn.ModuleDict({"a": torch.nn.Linear(3, 2), "b": torch.nn.Linear(3, 2)})
    optimizer = make_optimizer(system, Update(OptimConfig(name=name, lr=0.1, momentum=0.9)), torch.device("cpu"))
    before = system["b"].weight.clone()
    for parts in ("a", "ab", "a"):
        optimizer.zero_grad(set_to_none=True)
        sum(system[part](torch.ones(1, 3)).sum() for part in parts).backward()
        optimizer.step()
    assert not torch.equal(before, system["b"].weight)


def test_the_fusion_of_rgb_and_depth_is_calibrated_whatever_other_targets_there_are():
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 4
    values = {
        name: 3 * torch.randn(200, 4, generator=g) + 4 * F.one_hot(labels, 4) for name in ("rgb", "depth", "rgb_right")
    }
    present = {name: torch.ones(200, dtype=torch.bool) for name in values}
    present["rgb_right"][:] = False
    two = fit_temperatures(Outputs(values, present, labels), ("rgb", "depth"))["rgbd"]
    assert fit_temperatures(Outputs(values, present, labels), ("rgb", "depth", "rgb_right"))["rgbd"] == two != 1.0


def test_adam_couples_weight_decay_and_adamw_does_not():
    for name, expected in (("adam", 1.0 - 0.1), ("adamw", 1.0 - 0.1 * 0.5)):
        layer = nn.Linear(1, 1, bias=False)
        nn.init.ones_(layer.weight)
        update = Update(OptimConfig(name=name, lr=0.1, weight_decay=0.5, eps=1e-12))
        optimizer = make_optimizer(layer, update, torch.device("cpu"))
        layer.weight.grad = torch.zeros(1, 1)
        optimizer.step()  # without gradient, Adam's step is the sign of the decay; AdamW shrinks
        assert layer.weight.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_adam_against_a_loop(name):
    """Both betas, their correction at the start, eps, and where the decay goes."""
    layer = nn.Linear(1, 1, bias=False)
    nn.init.ones_(layer.weight)
    update = Update(OptimConfig(name=name, lr=0.1, betas=(0.8, 0.95), eps=0.05, weight_decay=0.5))
    optimizer = make_optimizer(layer, update, torch.device("cpu"))
    weight, first, second = 1.0, 0.0, 0.0
    for step, gradient in enumerate((1.0, -3.0, 0.5, 0.0, 2.0), 1):
        layer.weight.grad = torch.full((1, 1), gradient)
        optimizer.step()
        if name == "adam":
            gradient = gradient + 0.5 * weight
        else:
            weight -= 0.1 * 0.5 * weight
        first, second = 0.8 * first + 0.2 * gradient, 0.95 * second + 0.05 * gradient**2
        weight -= 0.1 * first / (1 - 0.8**step) / ((second / (1 - 0.95**step)) ** 0.5 + 0.05)
        assert layer.weight.item() == pytest.approx(weight, rel=1e-4)


def test_sgd_against_a_loop():
    """Decay is added to the gradient, the gradient to what is left of the step before."""
    layer = nn.Linear(1, 1, bias=False)
    nn.init.ones_(layer.weight)
    update = Update(OptimConfig(name="sgd", lr=0.1, weight_decay=0.5, momentum=0.8))
    optimizer = make_optimizer(layer, update, torch.device("cpu"))
    weight, velocity = 1.0, 0.0
    for gradient in (1.0, -3.0, 0.5, 0.0, 2.0):
        layer.weight.grad = torch.full((1, 1), gradient)
        optimizer.step()
        velocity = 0.8 * velocity + gradient + 0.5 * weight
        weight -= 0.1 * velocity
        assert layer.weight.item() == pytest.approx(weight, rel=1e-5)


def test_moving_average_against_a_loop():
    torch.manual_seed(0)
    system = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    average = MovingAverage(system, 0.9)
    expected = system[0].weight.detach().clone()
    for step in range(30):
        with torch.no_grad():
            system[0].weight += torch.randn(2, 3)
            system[1].running_mean += 1
        average.update(system, step)
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * system[0].weight.detach()
    assert torch.allclose(average.system[0].weight, expected, atol=1e-5)
    assert torch.equal(average.system[1].running_mean, system[1].running_mean)


def test_frozen_parts_stand_still_and_the_rest_trains():
    system = nn.ModuleDict(
        {"encoder": nn.Sequential(ModalityBatchNorm(2, ["rgb"]), nn.Dropout()), "head": nn.Linear(2, 2)}
    )
    set_mode(system, Stage("heads", 1, (Update(OptimConfig(), ("head.",)),)))
    assert [m.training for m in (system["encoder"], *system["encoder"], system["head"])] == [False, False, False, True]
    set_mode(system, Stage("all", 1, (Update(OptimConfig()),)))
    assert all(module.training for module in system.modules())


def test_temperature_against_a_grid():
    g = torch.Generator().manual_seed(0)
    logits, labels = 4 * torch.randn(400, 5, generator=g), torch.randint(5, (400,), generator=g)
    labels[:300] = logits[:300].argmax(1)
    grid = torch.linspace(0.1, 15, 3000)
    best = min(grid.tolist(), key=lambda t: F.cross_entropy(logits / t, labels).item())
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(best, abs=0.02)
    assert fit_temperature(3 * logits, labels) == pytest.approx(3 * found, rel=1e-3)
    assert fit_temperature(logits[:0], labels[:0]) == 1.0


def test_scores_count_only_what_is_there():
    labels = torch.tensor([0, 1, 2, -1, 1])
    rgb, depth = (
        F.one_hot(torch.tensor([0, 1, 0, 0, 1]), 3).float(),
        F.one_hot(torch.tensor([0, 0, 2, 0, 0]), 3).float(),
    )
    present = {"rgb": torch.ones(5, dtype=torch.bool), "depth": torch.tensor([True, False, True, True, False])}
    predictions = Outputs({"rgb": rgb, "depth": depth}, present, labels)
    found = scores(predictions, ("rgb", "depth"))
    assert (found["accuracy/rgb"], found["accuracy/depth"], found["accuracy"]) == (0.75, 1.0, 0.875)
    assert fit_temperatures(None, ("rgb", "depth")) == {"rgb": 1.0, "depth": 1.0, "rgbd": 1.0}
    assert fit_temperatures(None, ("rgb",)) == {"rgb": 1.0}


def test_nearest_neighbours_against_a_loop():
    g = torch.Generator().manual_seed(1)
    known, asked = (F.normalize(torch.randn(n, 8, generator=g), dim=1) for n in (60, 30))
    known_labels, labels = (torch.randint(4, (n,), generator=g) for n in (60, 30))
    right = 0
    for row, label in zip(asked, labels, strict=True):
        near = sorted(((float(row @ other), int(of)) for other, of in zip(known, known_labels, strict=True)))[-7:]
        votes = [sum(2.718281828459045 ** (c / 0.5) for c, of in near if of == k) for k in range(4)]
        right += votes.index(max(votes)) == label
    assert knn_accuracy(known, known_labels, asked, labels, 4, k=7, tau=0.5) == pytest.approx(right / 30)


def test_linear_probe_finds_what_is_linear_and_nothing_else():
    g = torch.Generator().manual_seed(2)
    points, labels = torch.randn(300, 6, generator=g), torch.arange(300) % 3
    noise = linear_accuracy(points[:200], labels[:200], points[200:], labels[200:], 3)
    points[:, 0] += 8.0 * (labels == 1) - 8.0 * (labels == 2)
    assert linear_accuracy(points[:200], labels[:200], points[200:], labels[200:], 3) > 0.98
    assert noise < 0.55


def test_log_is_cut_back_to_the_saved_state(tmp_path):
    log = RunLog(tmp_path, None)
    log.row({"split": "train", "step": 1, "loss": 0.1})
    offsets = log.offsets()
    log.row({"split": "train", "step": 2, "loss": 0.2})
    log.timing({"step": 2, "seconds": 3.0})
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"split": "tra')  # killed while writing
    assert [row["step"] for row in read_rows(tmp_path)] == [1, 2]
    log = RunLog(tmp_path, offsets)
    log.row({"split": "train", "step": 2, "loss": 0.3})
    log.close()
    assert [row["loss"] for row in read_rows(tmp_path)] == [0.1, 0.3]
    assert (tmp_path / "timings.jsonl").read_text() == ""
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(CheckpointError, match="shorter"):
        RunLog(tmp_path, offsets)


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


def test_clock_counts_the_time_until_a_batch_comes(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])

    def slow():
        for number in range(3):
            now[0] += 3
            yield number

    clock, batches = Clock(torch.device("cpu")), slow()
    now[0] += 50
    clock.start()
    assert [clock.take(batches), clock.take(batches)] == [0, 1]
    now[0] += 2
    assert clock.read() == (8, 0.75)
    clock.start()
    now[0] += 1
    assert clock.read() == (1, 0)
