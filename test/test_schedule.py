"""The schedule against the figures of the paper's program, and seeds that are functions of the place."""

from __future__ import annotations

import math

import pytest
import tiny
import torch

from mmcl_core.config import OptimConfig
from mmcl_core.engine.distributed import World
from mmcl_core.engine.samples import Samples
from mmcl_core.engine.schedule import average_decay, learning_rate, step_generator, step_seed


def test_paper_schedule():
    """Falling Things: 133 updates an epoch, epochs 0-30 at 2e-4, 31-45 at 4e-5, 46 on at 8e-6; 500 updates warm-up."""
    optim = OptimConfig()
    rate = {epoch: learning_rate(epoch * 133, optim, 133, 130) for epoch in range(130)}
    assert all(rate[e] == pytest.approx(2e-4) for e in range(4, 31))
    assert all(rate[e] == pytest.approx(4e-5) for e in range(31, 46))
    assert all(rate[e] == pytest.approx(8e-6) for e in range(46, 130))
    assert learning_rate(31 * 133 - 1, optim, 133, 130) == pytest.approx(2e-4)  # the very last update of epoch 30


def test_warm_up_is_linear_and_never_zero():
    optim = OptimConfig(warmup_steps=500)
    rates = [learning_rate(step, optim, 1000, 2) for step in range(600)]
    assert rates[0] == pytest.approx(2e-4 / 500)
    assert rates[249] == pytest.approx(1e-4)
    assert rates[499:] == pytest.approx([2e-4] * 101)
    steps = torch.tensor(rates[:500], dtype=torch.float64).diff()
    assert steps == pytest.approx([2e-4 / 500] * 499)


def test_a_milestone_within_the_warm_up_counts_as_well():
    optim = OptimConfig(lr=1.0, warmup_steps=8, milestones=(1, 3), gamma=0.2)
    rates = [learning_rate(step, optim, 2, 5) for step in range(10)]
    assert rates[:6] == pytest.approx([1 / 8, 2 / 8, 0.2 * 3 / 8, 0.2 * 4 / 8, 0.2 * 5 / 8, 0.2 * 6 / 8])
    assert rates[6:] == pytest.approx([0.04 * 7 / 8, 0.04, 0.04, 0.04])


def test_a_stage_that_is_over_before_it_is_warm_is_told(tmp_path, caplog):
    """Every stage warms up anew; those at a rate of their own do not."""
    data = tiny.make_set(tmp_path / "set")  # 4 updates an epoch
    words = ("optim.warmup_steps=8", "train.epochs=4", "train.head_epochs=3", "cmc.probe_epochs=1")
    for method, told in (("mmcl", []), ("cmc", []), ("two_step", ["8 of 12 updates in stage heads"])):
        caplog.clear()
        Samples(tiny.settings(data, f"method={method}", *words), World(), torch.device("cpu"))
        found = [line for line in caplog.messages if "optim.warmup_steps" in line]
        assert len(found) == len(told)
        assert all(text in line for text, line in zip(told, found, strict=True))


def test_cosine_ends_near_zero_and_meets_its_middle():
    optim = OptimConfig(schedule="cosine", warmup_steps=20, lr=1.0)
    rates = [learning_rate(step, optim, 10, 12) for step in range(120)]
    assert max(rates) == pytest.approx(1.0)
    assert rates[70] == pytest.approx(0.5)
    assert rates[-1] == pytest.approx(0.5 * (1 + math.cos(math.pi * 99 / 100)))
    assert rates[20:] == sorted(rates[20:], reverse=True)


@pytest.mark.parametrize("warmup", [0, 5, 500])
def test_cosine_stands_any_warm_up(warmup):
    optim = OptimConfig(schedule="cosine", warmup_steps=warmup)
    assert all(0 <= learning_rate(step, optim, 5, 2) <= optim.lr for step in range(10))


def test_constant():
    optim = OptimConfig(schedule="constant", warmup_steps=0, lr=0.25)
    assert {learning_rate(step, optim, 3, 9) for step in range(27)} == {0.25}


def test_average_forgets_the_start():
    assert average_decay(0, 0.999) == pytest.approx(0.1)
    assert average_decay(10**6, 0.999) == 0.999
    decays = [average_decay(step, 0.999) for step in range(100)]
    assert decays == sorted(decays)


def test_seeds_differ_by_place_and_repeat():
    places = [(s, stage, step, part) for s in (0, 1) for stage in (0, 1) for step in range(50) for part in (0, 1)]
    seeds = {step_seed(s, "draw", *place) for s, *place in places}
    assert len(seeds) == len(places)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert step_seed(1, 23) != step_seed(12, 3)
    first, again = (torch.rand(5, generator=step_generator(3, "draw", 1, 2)) for _ in range(2))
    assert torch.equal(first, again)
