"""Two processes over Gloo against one, on the same global batch."""

from __future__ import annotations

import json

import pytest
import tiny
import torch

from mmcl_core.engine.trainer import train
from mmcl_core.weights import load_weights

# A large eps keeps Adam from magnifying rounding where a gradient is nearly zero.
SETTINGS = ("model.dropout=0", "optim.eps=1e-2", "optim.lr=1e-2", "optim.warmup_steps=0", "train.epochs=1")
SETTINGS += ("train.batch=12", "train.log_every=1", "data.val_fraction=0.1", "optim.clip_grad=5")
PIX2PIX = ("method=pix2pix", "train.target=rgb", "pix2pix.gan_epochs=1", "pix2pix.alone_epochs=1", "optim.lr=1e-3")
PIX2PIX += ("pix2pix.width=4", "pix2pix.dropout=0", "pix2pix.lr=1e-3")
TEACHER = ("hallucination.alone_epochs=1", "hallucination.together_epochs=1", "hallucination.finetune_epochs=1")


def run_processes(count, config, run):
    port = str(tiny.free_port())
    processes = [
        tiny.start(
            train, config, run,
            MASTER_ADDR="127.0.0.1", MASTER_PORT=port, WORLD_SIZE=str(count), RANK=str(rank), LOCAL_RANK=str(rank),
        )
        for rank in range(count)
    ]  # fmt: skip
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0] * count
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return rows, load_weights(run)[0]


@pytest.mark.parametrize(
    ("missing", "overrides"),
    [
        (False, ("method=mmcl",)),
        (True, ("method=mmcl",)),
        (True, ("method=mmcl", "train.accumulate=2", "optim.ema=0.5")),
        (True, ("method=mmcl", "optim.name=muon", "optim.lr=1e-3")),
        (False, ("method=supervised", "train.target=rgb")),
        (True, ("method=amdim", "train.target=depth")),
        (True, ("method=cmc", "cmc.negatives=5", "cmc.probe_epochs=1")),
        (True, ("method=input_dropout", "input_dropout.drop=either")),
        (False, ("method=moddrop", "moddrop.alone_epochs=1", "moddrop.input_keep=1")),
        (
            True,
            ("method=moddrop", "moddrop.alone_epochs=1", "moddrop.input_keep=1", "train.accumulate=3", "optim.lr=1e-3"),
        ),
        (True, ("method=two_step", "train.head_epochs=1", "optim.lr=1e-3")),
        (True, PIX2PIX),
        (True, ("method=hallucination", "train.target=rgb", *TEACHER, "optim.lr=1e-3")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "missing" if value else "whole",
)
def test_two_processes_equal_one(tmp_path, missing, overrides):
    data = tiny.make_set(tmp_path / "set", missing=missing, unlabelled=9)
    config = tiny.settings(data, *SETTINGS, *overrides)
    rows, weights = run_processes(1, config, tmp_path / "one")
    both_rows, both = run_processes(2, config, tmp_path / "two")
    steps = [row for row in rows if row["split"] == "train"]
    assert len(steps) == 3 * len({row["stage"] for row in steps})
    for one, two in zip(steps, [row for row in both_rows if row["split"] == "train"], strict=True):
        assert one.keys() == two.keys()
        numbers = [key for key, value in one.items() if not isinstance(value, str)]
        assert [one[key] for key in numbers] == pytest.approx([two[key] for key in numbers], rel=2e-4, abs=1e-5)
    start = torch.cat([value.flatten() for value in weights.values() if value.is_floating_point()])
    other = torch.cat([both[key].flatten() for key, value in weights.items() if value.is_floating_point()])
    assert (start - other).norm() < 1e-4 * start.norm()
    assert weights.keys() == both.keys()


def test_a_choice_of_weights_leaves_the_stages_alike_in_all_processes(tmp_path):
    """Only the main process validates, and what it finds best is deployed: the next stage starts from the last ones."""
    data = tiny.make_set(tmp_path / "set", missing=True)
    words = ("method=admd", "train.target=rgb", "admd.alone_epochs=4", "admd.together_epochs=0", "admd.hidden=32")
    config = tiny.settings(data, *SETTINGS, *words, "admd.lr=1e-3", "train.keep=best")
    runs = [run_processes(count, config, tmp_path / str(count))[0] for count in (1, 2)]
    scores = [row["accuracy"] for row in runs[0] if row["split"] == "val" and row["stage"] == "alone"]
    assert scores.index(max(scores)) < len(scores) - 1, "the best epoch must not be the last"
    one, two = ([row["loss"] for row in rows if row["split"] == "train"] for rows in runs)
    assert one == pytest.approx(two, rel=2e-4)


def test_gradients_are_averaged_whatever_their_shapes(tmp_path):
    processes = 2
    port = str(tiny.free_port())
    children = [
        tiny.start(
            _average, str(tmp_path),
            MASTER_ADDR="127.0.0.1", MASTER_PORT=port, WORLD_SIZE="2", RANK=str(rank), LOCAL_RANK=str(rank),
        )
        for rank in range(processes)
    ]  # fmt: skip
    for child in children:
        child.join(60)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    for one, two, shape in zip(first, second, [(3,), (2, 3, 4, 4), ()], strict=True):
        assert one.shape == two.shape == shape
        assert torch.equal(one, two)
    assert torch.equal(first[0], torch.tensor([1.5, 3.0, 4.5]))


def _average(folder):
    from mmcl_core.engine.distributed import average_gradients, world

    with world(cuda=False) as here:
        factor = here.rank + 1.0
        parameters = [torch.nn.Parameter(torch.zeros(s)) for s in [(3,), (2, 3, 4, 4), ()]]
        parameters.append(torch.nn.Parameter(torch.zeros(7)))  # unused: has no gradient
        parameters[0].grad = torch.tensor([1.0, 2.0, 3.0]) * factor
        image = torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(here.rank))
        parameters[1].grad = image.to(memory_format=torch.channels_last)
        parameters[2].grad = torch.tensor(factor)
        average_gradients(parameters, here.size)
        assert parameters[3].grad is None
        torch.save([p.grad for p in parameters[:3]], f"{folder}/{here.rank}.pt")
