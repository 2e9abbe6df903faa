"""The benchmark command: its lines, in processes of their own. No figure is judged: that is for a quiet machine."""

import json

import pytest

from mmcl_core import benchmark

TINY = (
    "model.input_size=32", "model.ndf=4", "model.nrkhs=16", "model.depth=1", "model.head_hidden=8",
    "train.batch=4", "train.device=cpu", "train.threads=1", "train.precision=float32", "optim.warmup_steps=1",
)  # fmt: skip


def lines(capsys, *arguments):
    assert benchmark.main([*arguments, "--steps", "1", *TINY]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_training_is_measured_beside_the_plain_formulation(capsys):
    ours, plain, ratio = lines(capsys, "train")
    assert (ours["formulation"], plain["formulation"]) == ("ours", "plain")
    assert {"seconds", "cpu_seconds", "peak_memory_mb"} <= ours.keys() & plain.keys() & ratio.keys()
    assert ratio["cpu_seconds"] == pytest.approx(ours["cpu_seconds"] / plain["cpu_seconds"], rel=0.05)


def test_crops_and_answers_are_measured(capsys):
    (data,) = lines(capsys, "data")
    assert data["benchmark"] == "data"
    assert data["crops_per_second"] > 0
    (infer,) = lines(capsys, "infer", "--crops", "2")
    assert min(infer[f"{name}_milliseconds"] for name in ("rgb", "depth", "rgbd")) > 0


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
