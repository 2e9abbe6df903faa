"""The benchmark command: its lines, in processes of their own. No figure is judged: that is for a quiet machine."""

import itertools
import json
import os
import re
import signal
from types import SimpleNamespace

import pytest
import torch
from small_sets import write_crop

from mmcl_core import benchmark, weights
from mmcl_core.config import load
from mmcl_core.engine import benchmarks, clock, measure, measure_sets
from mmcl_core.engine.plain import contrast
from mmcl_core.errors import ConfigError, TrainingError
from mmcl_core.recognizer import Recognizer
from mmcl_core.weights import save_weights

TINY = (
    "model.input_size=32", "model.ndf=4", "model.nrkhs=16", "model.depth=1", "model.head_hidden=8",
    "train.batch=4", "train.device=cpu", "train.threads=1", "train.precision=float32", "optim.warmup_steps=1",
)  # fmt: skip


def lines(capsys, *arguments):
    assert benchmark.main([*arguments, "--steps", "1", *TINY]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["preparr"], r"choose from '?train'?, '?loss'?, '?data'?, '?infer'?, '?prepare'?\)"),
        (["--quiet", "prepare", "folder", "--source", "crops"], "prepare comes first"),
    ],
)
def test_a_wrong_name_is_told_all_of_them(words, said, capsys):
    with pytest.raises(SystemExit) as end:
        benchmark.main(words)
    assert end.value.code == 2
    assert re.search(said, capsys.readouterr().err)


def test_training_is_measured_beside_the_plain_formulation(capsys):
    ours, projected, plain, ratio = lines(capsys, "train", "train.epochs=3")
    assert (ours["formulation"], plain["formulation"]) == ("ours", "plain")
    assert {"seconds", "cpu_seconds", "peak_memory_mb"} <= ours.keys() & plain.keys() & ratio.keys()
    assert projected["hours"] == pytest.approx(18640 // 4 * 3 * ours["seconds"] / 3600, rel=0.05)
    assert ratio["cpu_seconds"] == pytest.approx(ours["cpu_seconds"] / plain["cpu_seconds"], rel=0.05)


def test_settings_of_samples_and_validation_hold_nothing_up(capsys, caplog, tmp_path):
    """The random set has no validation split, and few samples with a label."""
    words = ("train.keep=best", "train.probe=1", "data.label_share=0.02", "data.unlabelled=drop", "train.batch=64")
    assert benchmark.main(["data", "--steps", "1", *TINY, *words]) == 0
    assert json.loads(capsys.readouterr().out)["crops_per_second"] > 0
    trainer = measure._trainer(load(None, [*TINY, *words]), tmp_path, samples=128)
    assert (len(trainer.samples.rows), trainer.samples.validation) == (128, None)
    assert not caplog.messages


def test_other_methods_are_measured_alone(capsys):
    stages = ("train.epochs=1", "moddrop.alone_epochs=5")
    ours, projected, plain = lines(capsys, "train", "method=moddrop", "train.target=rgb", *stages)
    assert (ours["formulation"], plain["formulation"]) == ("ours", "plain")
    assert "alone" in plain["left_out"]
    assert projected["projected"] == "stage alone: 5 epochs of 18640 samples"  # the first one, which was measured
    assert projected["hours"] == pytest.approx(18640 // 4 * 5 * ours["seconds"] / 3600, rel=0.05)


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def too_large():
    return {"seconds": float(torch.zeros(2**50, dtype=torch.uint8)[0])}


def wrong():
    raise RuntimeError("a mistake of our own")


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (killed, TrainingError, "killed"),
        (too_large, TrainingError, "out of memory"),
        (wrong, RuntimeError, "mistake of our own"),
    ],
)
def test_a_measurement_that_dies_is_told(function, error, message):
    with pytest.raises(error, match=message):
        measure.in_fresh_process(function)


def test_a_plain_formulation_that_needs_too_much_memory_is_a_result(monkeypatch, capsys):
    def little_memory(function, config, plain, *arguments):
        if plain:
            raise TrainingError("out of memory")
        return {"seconds": 1.0, "peak_memory_mb": 100.0}

    monkeypatch.setattr(measure, "in_fresh_process", little_memory)
    printed = lines(capsys, "loss")
    assert [line["batch"] for line in printed] == [140, 140, 512, 512, 1024, 1024]
    assert [line.get("failed") for line in printed[1::2]] == ["out of memory"] * 3
    assert [line.get("seconds") for line in printed[::2]] == [1.0] * 3


@pytest.fixture
def asked(monkeypatch):
    """What is to be measured, by name and arguments beside the settings; it is not done."""
    made = []

    def note(function, config, *arguments):
        made.append((function.__name__, *arguments))
        if function is measure.measure_product:
            return {"tflops": 8.0}
        return {"stage": "all", "epochs": 2, "seconds": 1.0, "tflops": 2.0}

    monkeypatch.setattr(measure, "in_fresh_process", note)
    return made


def test_what_is_measured_is_what_the_line_says(asked, capsys, tmp_path):
    lines(capsys, "train")
    assert asked == [("measure_train", False, 1), ("measure_train", True, 1)]
    asked.clear()
    lines(capsys, "loss")
    assert asked == [("measure_loss", plain, size, 1) for size in (140, 512, 1024) for plain in (False, True)]
    asked.clear()
    (infer,) = lines(capsys, "infer", "--crops", "7")
    assert (infer["crops"], asked) == (7, [("measure_infer", 7, 1)])
    asked.clear()
    (tmp_path / "small.yaml").write_text("model:\n  input_size: 64\n")
    assert benchmark.main(["data", "--config", str(tmp_path / "small.yaml")]) == 0
    assert (json.loads(capsys.readouterr().out)["size"], asked) == (64, [("measure_data", 5)])


def test_there_is_no_plain_formulation_of_other_backbones(asked, capsys):
    *_, plain_one = lines(capsys, "train", "model.backbone=resnet18")
    assert "alone" in plain_one["left_out"]
    assert asked == [("measure_train", False, 1)]


def test_a_gpu_is_judged_by_its_product(asked, monkeypatch, capsys):
    monkeypatch.setattr(benchmarks, "train_device", lambda name: torch.device("cuda"))
    ours, *_ = lines(capsys, "train")
    assert (ours["product_tflops"], ours["share_of_product"]) == (8.0, 0.25)
    assert ("measure_product", 1) in asked


def test_the_figures_of_a_small_network_have_as_many_digits_as_others(monkeypatch, capsys):
    figures = {"stage": "all", "epochs": 2, "seconds": 12345.6789, "tflops": 0.0000123456789}
    monkeypatch.setattr(measure, "in_fresh_process", lambda *arguments: figures)
    ours, *_ = lines(capsys, "train")
    assert (ours["tflops"], ours["seconds"], ours["epochs"]) == (0.0000123457, 12345.7, 2)


@pytest.fixture
def ticks(monkeypatch):
    """A clock that has gone on by a second, and the processor's by five, whenever it is looked at."""
    seconds, used = itertools.count(), itertools.count(0, 5)
    time = SimpleNamespace(perf_counter=lambda: next(seconds), process_time=lambda: next(used))
    for module in (clock, measure, measure_sets):
        monkeypatch.setattr(module, "time", time)


def test_figures_of_training_are_those_of_a_step(ticks, tmp_path):
    """From its start to its end the clock is looked at three times: around the wait for a batch, and at the end."""
    config = load(None, list(TINY))
    found = measure.measure_train(config, False, 2)
    assert (found["seconds"], found["cpu_seconds"], found["data_wait"]) == (3, 5, pytest.approx(1 / 3))
    assert found["images_per_second"] == pytest.approx(2 * 4 / 3), "every picture of both views"
    trainer = measure._trainer(config, tmp_path, samples=64)
    batches = measure._endless(trainer)
    flops = measure._count_flops(lambda: trainer.train_step(next(batches)))
    assert found["tflops"] * 3e12 == pytest.approx(flops, rel=0.1)


def test_the_plain_step_is_taken_where_it_is_asked_for(monkeypatch):
    steps = []
    monkeypatch.setattr(measure, "_plain_step", lambda trainer: steps.append)
    measure.measure_train(load(None, list(TINY)), True, 1)
    assert len(steps) == 4, "one is counted, two are for warming up"


@pytest.mark.parametrize("asked_plain", [False, True])
def test_the_loss_is_measured_as_the_settings_have_it(ticks, monkeypatch, asked_plain):
    labels = []

    def note(*arguments, **others):
        labels.append(others["labels"].tolist())
        return contrast(*arguments, **others)

    monkeypatch.setattr("mmcl_core.engine.plain.contrast", note)
    config = load(None, [*TINY, "loss.drop_same_class=true"])
    assert measure.measure_loss(config, asked_plain, 22, 1) == {"seconds": 1}
    assert labels == (2 * [[*range(21), 0]] if asked_plain else [])


def test_products_pictures_and_answers_are_counted_by_the_time_they_take(ticks, monkeypatch):
    monkeypatch.setattr(measure, "PRODUCT", 64)
    config = load(None, [*TINY, "train.target=both"])
    assert measure.measure_product(config, 1)["tflops"] == pytest.approx(10 * 2 * 64**3 / 1e12)
    stored = load(None, [*TINY, "model.depth_encoding=stored"])
    for settings in (config, stored):
        assert measure.measure_data(settings, 1) == {"crops_per_second": 2 * 4}
    given = []

    def recognize(recognizer, **arguments):
        given.append({name: len(crops) for name, crops in arguments.items()})

    monkeypatch.setattr(Recognizer, "recognize", recognize)
    found = measure.measure_infer(config, 3, 1)
    assert found == {f"{name}_milliseconds": 1000 for name in ("rgb", "depth", "rgbd")}
    assert given[::2] == given[1::2] == [{"rgb": 3}, {"depth": 3}, {"rgb": 3, "depth": 3}]


def test_memory_is_told_in_mebibytes(monkeypatch):
    monkeypatch.setattr(measure.resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=2048))
    assert measure._with_memory(dict) == {"peak_memory_mb": 2}


def test_the_first_batch_of_pictures_that_are_stored_counts_the_opening_of_the_set_once(ticks, tmp_path):
    measure._random_set(load(None, [*TINY, "model.depth_encoding=stored"]), tmp_path / "set", 8)
    found = measure_sets.measure_first_batch(tmp_path / "set", 4)
    assert found == {"batch": 4, "open_seconds": 1, "first_batch_seconds": 1}


@pytest.mark.parametrize(
    "settings", [[], ["train.batch=8", "train.accumulate=2"], ["train.batch=16", "loss.drop_same_class=true"]]
)
def test_the_plain_step_has_the_gradients_of_the_trainers(monkeypatch, tmp_path, settings):
    """If it lacked a term of the loss, the ratios would flatter the trainer."""
    found, config = [], load(None, [*TINY, "model.dropout=0", "optim.clip_grad=0", *settings])
    for plain in (False, True):
        trainer = measure._trainer(config, tmp_path / str(plain), samples=64)
        names = {id(p): name for name, p in trainer.system.named_parameters()}

        def take(optimizer, closure=None, names=names):
            owned = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
            found.append({names[id(p)]: p.grad.clone() for p in owned})

        monkeypatch.setattr(torch.optim.Adam, "step", take)
        step = measure._plain_step(trainer) if plain else trainer.train_step
        step(next(measure._endless(trainer)))
    ours, plain = found
    assert ours.keys() == plain.keys()
    scale = max(float(gradient.norm()) for gradient in ours.values())
    for name, gradient in ours.items():
        assert float((gradient - plain[name]).norm()) < 1e-4 * scale, name


def test_products_are_counted_forth_and_back(tmp_path):
    trainer, counted = measure._trainer(load(None, list(TINY)), tmp_path, samples=64), []

    def count(module, inputs, output):
        each = module.weight[0].numel()  # multiplications for one number that comes out
        counted.append(2 * output.numel() * each)

    layers = [module for module in trainer.system.modules() if getattr(module, "weight", torch.zeros(0)).ndim > 1]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    parts = next(measure._endless(trainer))
    flops = measure._count_flops(lambda: trainer.train_step(parts))
    for hook in hooks:
        hook.remove()
    assert len(counted) > 10
    # Back twice as many as forth, but for the first layers; contrast has products of its own.
    assert flops == pytest.approx(3 * sum(counted), rel=0.15)


def test_a_measurement_is_no_training_that_would_be_too_short(capfd):
    assert benchmark.main(["data", "--steps", "1", *TINY, "optim.warmup_steps=100"]) == 0
    assert "warmup" not in capfd.readouterr().err


def test_crops_and_answers_are_measured(capsys):
    (data,) = lines(capsys, "data")
    assert data["benchmark"] == "data"
    assert data["crops_per_second"] > 0
    (infer,) = lines(capsys, "infer", "--crops", "2")
    assert min(infer[f"{name}_milliseconds"] for name in ("rgb", "depth", "rgbd")) > 0


@pytest.mark.parametrize(
    ("settings", "kind", "answers"),
    [
        (["method=mmcl", "train.target=both"], "recognition", {"rgb", "depth", "rgbd"}),
        (["method=mmcl", "model.depth_encoding=stored", "train.target=depth"], "recognition", {"rgb", "depth", "rgbd"}),
        (["method=supervised", "train.modalities=[depth]", "train.target=depth"], "recognition", {"depth"}),
        (["method=moddrop", "train.target=rgb"], "streams", {"rgb"}),
        (["method=pix2pix", "train.target=rgb"], "streams", {"rgb"}),
        (["method=cmc", "train.target=both"], "streams", {"rgb", "depth", "rgbd"}),
        (["method=input_dropout", "train.target=depth"], "concatenated", {"rgb", "depth", "rgbd"}),
    ],
)
def test_recognition_is_measured_with_the_network_of_the_method(monkeypatch, settings, kind, answers):
    saved = []

    def save(path, model, metadata):
        saved.append((model.kind, metadata["method"]))
        save_weights(path, model, metadata)

    monkeypatch.setattr(weights, "save_weights", save)
    figures = measure.measure_infer(load(None, [*TINY, *settings]), 2, 1)
    assert saved == [(kind, settings[0].removeprefix("method="))]
    assert set(figures) == {f"{name}_milliseconds" for name in answers}


def test_recognition_is_measured_on_the_device_of_the_settings():
    with pytest.raises(ConfigError, match="device is 'nowhere'"):
        measure.measure_infer(load(None, [*TINY, "train.device=nowhere"]), 2, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["loss", "--steps", "0"], "--steps and --crops"),
        (["infer", "--crops", "0"], "--steps and --crops"),
        (["train", "model.input_size=100"], "choose from"),
        (["data", "model.nfd=3"], "did you mean"),
    ],
)
def test_mistakes_are_told(capsys, arguments, message):
    assert benchmark.main(arguments) == 2
    assert message in capsys.readouterr().err


def test_preparing_a_single_modality_and_a_split_named_like_a_number_is_measured_too(tmp_path, capsys):
    """It is that of the largest split."""
    for number in range(6):
        write_crop(tmp_path / "in" / "2021" / "mug", f"{number}", depth=False, shape=(40, 40))
        if number < 2:
            for year in ("2020", "2022"):
                write_crop(tmp_path / "in" / year / "mug", f"{year}{number}", depth=False, shape=(40, 40))
    words = ["prepare", "folder", "--source", str(tmp_path / "in"), "--size", "32", "--workers", "1"]
    assert benchmark.main(words) == 0
    first = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert first["first_batch_seconds"] > 0
    assert first["batch"] == 6


def test_preparing_is_measured_up_to_the_first_batch(tmp_path, capsys):
    for number in range(6):
        write_crop(tmp_path / "in" / "train" / "mug", f"{number}", shape=(40, 40))
    (tmp_path / "in" / "train" / "mug" / "5_rgb.png").write_bytes(b"")
    words = ["prepare", "folder", "--source", str(tmp_path / "in"), "--size", "32", "--workers", "1"]
    assert benchmark.main(words) == 0
    made, first = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert (made["crops"], made["skipped"], made["size"]) == (6, 1, 32)
    # The seconds are printed to a thousandth, which is coarse where six crops take four of them.
    assert 6 / made["crops_per_second"] == pytest.approx(made["seconds"], abs=0.0005, rel=1e-4)
    assert 32 * 32 * 5 < made["bytes_per_crop"] < 32 * 32 * 5 + 2000
    assert first["batch"] == 6
    assert 0 < first["open_seconds"] < first["first_batch_seconds"]
    assert benchmark.main([*words, "--out", str(tmp_path / "kept")]) == 0
    assert (tmp_path / "kept" / "index.json").is_file()
    capsys.readouterr()
    for wrong in ([*words, "--check"], [*words, "--resume"], ["prepare", "show", str(tmp_path / "kept")]):
        assert benchmark.main(wrong) == 2
        assert "no merge, show, --check" in capsys.readouterr().err
