"""What is wrong with settings and sets is told before any work."""

from __future__ import annotations

import os

import numpy as np
import pytest
import tiny
import torch
import yaml

from mmcl_core import train as command
from mmcl_core.backend_torch import set_float32
from mmcl_core.config import load, to_dict
from mmcl_core.data.cache import PreparedSet
from mmcl_core.data.writer import PreparedWriter, Sample
from mmcl_core.engine.checks import check_data, check_settings
from mmcl_core.engine.device import train_device
from mmcl_core.engine.distributed import World
from mmcl_core.engine.runfolder import write_config
from mmcl_core.engine.runlog import read_rows
from mmcl_core.engine.samples import Samples
from mmcl_core.engine.trainer import train
from mmcl_core.errors import ConfigError, DataError


def check(config, prepared, modalities, train, val, epoch, labels=None):
    """With all labels of the set, or those given."""
    check_data(config, prepared, modalities, train, prepared.labels[train] if labels is None else labels, val, epoch)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.make_set(tmp_path_factory.mktemp("checks") / "set")


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
        (["loss.level_pairs=[1-5, 1-5]"], "each once"),
        (["augment.ratio=[0.7, .inf]"], "0 < low <= high, finite, is expected"),
        (["data.label_repeats=1000000"], "data.label_repeats is 1000000; it must be from 0 to 1000"),
        (["train.threads=100000"], "train.threads is 100000"),
        (["loss.contrastive_weight=-1"], "loss.contrastive_weight is -1"),
        (["loss.agreement_weight=1", "method=supervised"], "take method=mmcl"),
        (["train.keep=best", "data.val_fraction=0"], "val_fraction"),
        (["train.keep=best", "train.validate_every=0"], "train.keep=best chooses by validation, and there is none"),
        (["train.keep=best", "data.label_share=0"], "no training sample has a label in this run; take train.keep=last"),
        (["optim.ema=1.5"], "optim.ema is 1.5"),
        (["optim.lr=.inf"], "optim.lr is inf; it must be finite"),
        (["optim.eps=0"], "optim.eps is 0.0; it must be at least 1e-16"),
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
    assert command.main(["--config", str(config), "--out", str(tmp_path / "runs" / "run"), *overrides]) == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [config]


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


@pytest.mark.parametrize(
    ("method", "told"), [("cmc", 1), ("supervised", 1), ("mmcl", 0), ("amdim", 0), ("two_step", 0)]
)
def test_settings_of_the_contrastive_loss_are_told_where_there_is_none(caplog, method, told):
    words = (f"method={method}", "loss.drop_same_class=true", "loss.level_pairs=[1-5]")
    check_settings(tiny.settings("unused", *words), 1)
    expected = f"loss.drop_same_class: settings of the loss between feature maps, which method {method} does not have"
    assert [expected in record.getMessage() for record in caplog.records] == [True] * told


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
        check(config, prepared, ("rgb",), prepared.select("train"), prepared.select("test"), 64)


def test_a_single_sample_is_no_set_to_train_on(tmp_path):
    """A batch of one, which it would fill, is refused."""
    prepared = PreparedSet.open(tiny.make_set(tmp_path / "set"))
    train, test = prepared.select("train"), prepared.select("test")
    with pytest.raises(ConfigError, match="the training split has 1 sample; a batch takes 2 at least"):
        check(tiny.settings(prepared.path), prepared, ("rgb",), train[:1], test, 1)


def test_warm_up_is_measured_by_the_updates_that_there_are(tmp_path, caplog):
    prepared = PreparedSet.open(tiny.make_set(tmp_path / "set"))
    train, test = prepared.select("train"), prepared.select("test")
    steps = len(train) // 8
    config = tiny.settings(prepared.path, "train.batch=8", "train.epochs=1", f"optim.warmup_steps={steps}")
    check(config, prepared, ("rgb",), train, test, 3 * len(train))
    assert "warmup_steps" not in caplog.text
    check(config, prepared, ("rgb",), train, test, len(train))
    assert f"optim.warmup_steps is {steps} of {steps} updates" in caplog.text


def test_one_gpu_for_several_processes_is_refused(monkeypatch):
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="'cuda:0', one GPU for 2 processes; take cuda or auto"):
        train_device("cuda:0")
    assert train_device("cpu").type == "cpu"


def test_float32_on_a_gpu_is_float32_unless_the_rest_is_bfloat16(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    set_float32("float32")
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == ("highest", False)
    set_float32("bf16")
    assert (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32) == ("high", True)
    set_float32("float32")


def test_probes_that_nothing_is_probed_by_are_told(tmp_path, caplog):
    prepared = PreparedSet.open(tiny.make_set(tmp_path / "set"))
    train, test, none = prepared.select("train"), prepared.select("test"), np.zeros(0, np.int64)
    told = []
    for overrides, val in ((["data.label_share=0"], test), (["data.label_share=0"], none), ([], test)):
        config = tiny.settings(prepared.path, "train.probe=1", "train.keep=last", *overrides)
        hidden = np.full(len(train), -1) if overrides else None
        check(config, prepared, ("rgb",), train, val, len(train), hidden)
        told.append(next((text.message for text in caplog.records if "train.probe" in text.message), ""))
        caplog.clear()
    assert told[0] == ""
    assert "does nothing here: there is no validation split" in told[1]
    assert "does nothing here: all stages learn from labels" in told[2]


@pytest.mark.parametrize("side", [32, 64])
def test_small_pictures_for_a_large_input_are_told(tmp_path, caplog, side):
    prepared = PreparedSet.open(tiny.make_set(tmp_path / "set"))
    rows, config = prepared.select("train"), tiny.settings(tmp_path / "set", f"model.input_size={side}")
    check(config, prepared, ("rgb",), rows, rows, len(rows))
    told = f"have {tiny.SIDE} px and are enlarged to model.input_size=64: prepare or render the set with --size 64"
    assert (told in caplog.text) == ("enlarged" in caplog.text) == (side == 64)


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
    check(config, prepared, ("rgb",), train, test, len(train))
    assert "sample to train on" not in caplog.text
    lacking = train[prepared.labels[train] != 1]
    check(config, prepared, ("rgb",), lacking, test, len(lacking))
    assert f"classes have no sample to train on: {prepared.classes[1]}" in caplog.text
    assert "of one class" not in caplog.text
    alone = train[prepared.labels[train] == 1]
    check(tiny.settings(data, f"train.batch={len(alone)}"), prepared, ("rgb",), alone, test, len(alone))
    assert f"all labelled samples to train on are of one class, {prepared.classes[1]}" in caplog.text


@pytest.mark.parametrize(("split", "told"), [("test", True), ("val", False), ("", False)])
def test_a_share_that_is_not_held_back_is_told(tmp_path, caplog, split, told):
    """The tiny set has no split val, for which the share stands in then."""
    prepared = PreparedSet.open(tiny.make_set(tmp_path / "set"))
    train, test = prepared.select("train"), prepared.select("test")
    config = tiny.settings(prepared.path, "data.val_fraction=0.3", f"data.val_split={split}")
    check(config, prepared, ("rgb",), train, test, len(train))
    assert ("data.val_fraction=0.3 holds nothing back: validation looks at the split 'test'" in caplog.text) == told


def test_classes_whose_labels_a_run_does_not_use_are_named_as_those_without_samples(tmp_path, caplog):
    prepared = PreparedSet.open(tiny.make_set(tmp_path / "set"))
    train, test = prepared.select("train"), prepared.select("test")
    told = np.where(prepared.labels[train] == 1, 1, -1)
    check(tiny.settings(prepared.path), prepared, ("rgb", "depth"), train, test, len(train), told)
    assert f"all labelled samples to train on are of one class, {prepared.classes[1]}" in caplog.text
    assert f"2 of 3 classes have no sample to train on: {prepared.classes[0]}, {prepared.classes[2]}" in caplog.text
    assert "no training sample of" not in caplog.text


@pytest.mark.parametrize(("target", "told"), [("both", True), ("depth", True), ("rgb", False)])
def test_classes_that_a_sensor_is_to_tell_and_never_sees_are_named(tmp_path, caplog, target, told):
    prepared = PreparedSet.open(tiny.make_set(tmp_path / "set"))
    train, test = prepared.select("train"), prepared.select("test")
    prepared.present = np.array(prepared.present)
    config = tiny.settings(prepared.path, f"train.target={target}")
    check(config, prepared, ("rgb", "depth"), train, test, len(train))
    assert "no training sample of" not in caplog.text
    prepared.present[prepared.labels == 1, prepared.modalities.index("depth")] = False
    check(config, prepared, ("rgb", "depth"), train, test, len(train))
    assert (f"depth: no training sample of 1 of 3 classes: {prepared.classes[1]};" in caplog.text) == told
    assert "rgb: no training sample" not in caplog.text


def test_a_set_without_a_class_is_refused(tmp_path):
    with PreparedWriter(tmp_path / "set", classes=(), size=tiny.SIDE, modalities=("rgb", "depth")) as writer:
        for number in range(24):
            rgb, depth = tiny.picture(number % 3, np.random.default_rng(number))
            writer.add(Sample({"rgb": rgb, "depth": depth}, -1, "train", f"{number:02d}"))
    with pytest.raises(DataError, match=r"set has no class, as none of its samples is labelled"):
        train(tiny.settings(tmp_path / "set", "data.label_share=0"), tmp_path / "run")


def test_training_without_validation_is_told_unless_it_is_meant(tmp_path, caplog):
    data = tiny.make_set(tmp_path / "set")
    prepared = PreparedSet.open(data)
    train, none = prepared.select("train"), np.zeros(0, np.int64)
    for split, told in (("", False), ("val", True)):
        settings = tiny.settings(data, f"data.val_split={split}", "data.val_fraction=0", "train.keep=last")
        check(settings, prepared, ("rgb",), train, none, len(train))
        assert ("no samples in the split 'val': training goes on without validation" in caplog.text) == told


@pytest.mark.parametrize(
    ("settings", "modalities", "without", "told"),
    [
        (("model.metric_size=true",), ("rgb", "depth"), 1.0, True),
        (("model.depth_encoding=normals",), ("depth",), 0.6, True),
        (("model.depth_encoding=normals",), ("depth",), 0.5, False),
        (("model.metric_size=true",), ("rgb",), 1.0, False),
        ((), ("rgb", "depth"), 1.0, False),
    ],
)
def test_depth_that_goes_by_cameras_which_are_not_there_is_told(tmp_path, caplog, settings, modalities, without, told):
    prepared = PreparedSet.open(tiny.make_set(tmp_path / "set"))
    train, test = prepared.select("train"), prepared.select("test")
    prepared.camera = np.array(prepared.camera)
    prepared.camera[train[: round(without * len(train))]] = 0
    check(tiny.settings(prepared.path, *settings), prepared, modalities, train, test, len(train))
    assert ("samples to train on have no camera" in caplog.text) == told


@pytest.mark.parametrize(("split", "told"), [("train", True), ("test", False)])
def test_validation_on_what_is_trained_on_is_told(tmp_path, caplog, split, told):
    prepared = PreparedSet.open(tiny.make_set(tmp_path / "set"))
    train, val = prepared.select("train"), prepared.select(split)
    settings = tiny.settings(prepared.path, f"data.val_split={split}", "train.keep=last")
    check(settings, prepared, ("rgb",), train, val, len(train))
    assert ("are both 'train': validation looks at what is trained on" in caplog.text) == told


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("data.val_split=test", "train.keep=last"), "will flatter what it calibrates;"),
        (("data.val_split=test", "train.keep=best"), "will flatter what it calibrates and chooses;"),
        (("data.val_fraction=0.2", "train.keep=best"), ""),
    ],
)
def test_validation_on_the_test_split_is_told(data, caplog, words, told):
    Samples(tiny.settings(data, *words), World(), torch.device("cpu"))
    found = [line for line in caplog.messages if "data.val_split is 'test'" in line]
    assert len(found) == bool(told)
    assert all(told in line for line in found)


def test_a_folder_whose_name_looks_like_a_date(data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(to_dict(tiny.settings(data))))
    for name in ("2024-11-26", "a: b", "my set #1", "größe 😀"):
        assert command.main(["--config", "config.yaml", "--data", name, "--out", "run"]) == 2
        assert f"error: {name} is not a prepared set" in capsys.readouterr().err


def test_a_folder_whose_name_is_no_utf8(data, tmp_path):
    name = str(tmp_path / os.fsdecode(b"caf\xe9"))
    write_config(tmp_path, tiny.settings(data))
    options = command._parser().parse_args(["--config", str(tmp_path / "config.yaml"), "--data", name])
    config, _ = command.settings(options)
    assert config.data.root == name
    write_config(tmp_path, config)
    assert load(tmp_path / "config.yaml") == config


@pytest.mark.parametrize("start", ["--config", "--resume"])
def test_an_option_and_a_setting_that_say_two_things_are_refused(data, tmp_path, monkeypatch, capsys, start):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(to_dict(tiny.settings(data))))
    begin = [start, "config.yaml" if start == "--config" else "."]
    for option, name in (("--out", "out"), ("--data", "data.root")):
        assert command.main([*begin, option, "a", f"{name}=b"]) == 2
        assert f"error: {option} a and {name}=b name two folders; give one of them" in capsys.readouterr().err
    assert command.main([*begin, "--data", "a", "data={root: b}"]) == 2
    assert "error: --data a and data.root=b name two folders" in capsys.readouterr().err
    assert command.main(["--config", "config.yaml", "--data", "a", "data.root=./a", "--out", "x", "out=x/"]) == 2
    assert "error: a is not a prepared set" in capsys.readouterr().err


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
