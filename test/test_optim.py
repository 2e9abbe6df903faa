"""Optimisers and averages of weights against loops, and parts that a stage leaves frozen."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mmcl_core.config import OptimConfig
from mmcl_core.engine.optim import MovingAverage, make_optimizer, set_mode
from mmcl_core.methods.base import Stage, Update
from mmcl_core.nn.norm import ModalityBatchNorm


@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "muon"])
def test_parameters_may_get_their_first_gradient_in_a_later_step(name):
    system = torch.nn.ModuleDict({"a": torch.nn.Linear(3, 2), "b": torch.nn.Linear(3, 2)})
    optimizer = make_optimizer(system, Update(OptimConfig(name=name, lr=0.1, momentum=0.9)), torch.device("cpu"))
    before = system["b"].weight.clone()
    for parts in ("a", "ab", "a"):
        optimizer.zero_grad(set_to_none=True)
        sum(system[part](torch.ones(1, 3)).sum() for part in parts).backward()
        optimizer.step()
    assert not torch.equal(before, system["b"].weight)


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
