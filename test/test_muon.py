"""Muon against a slow formulation: singular values one by one, momentum and decay in a loop."""

from __future__ import annotations

import copy
import math

import pytest
import tiny
import torch
from torch import nn

from mmcl_core.config import OptimConfig
from mmcl_core.engine import trainer
from mmcl_core.engine.muon import orthogonalised
from mmcl_core.engine.optim import make_optimizer
from mmcl_core.errors import RunInterruptedError
from mmcl_core.methods.base import Update

SETTINGS = {"lr": 0.1, "weight_decay": 0.5, "momentum": 0.8, "betas": (0.8, 0.95), "eps": 0.05}


def muon_of(system: nn.Module) -> torch.optim.Optimizer:
    return make_optimizer(system, Update(OptimConfig(name="muon", **SETTINGS)), torch.device("cpu"))


def slowly(matrix: torch.Tensor) -> torch.Tensor:
    """The iteration on the singular values themselves, in float64."""
    u, values, v = torch.linalg.svd(matrix.double(), full_matrices=False)
    values = values / values.norm()
    for _ in range(5):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return (u * values) @ v


@pytest.mark.parametrize("shape", [(6, 6), (4, 9), (9, 4), (1, 5), (5, 1)])
def test_singular_values_become_about_one_and_directions_stay(shape):
    torch.manual_seed(sum(shape))
    several = torch.randn(3, *shape) * torch.tensor([1e-4, 1.0, 1e4])[:, None, None]
    found = orthogonalised(several)
    for matrix, alone in zip(several, found, strict=True):
        torch.testing.assert_close(alone, slowly(matrix).float(), atol=2e-3, rtol=2e-3)
        torch.testing.assert_close(alone, orthogonalised(matrix[None])[0], atol=1e-4, rtol=1e-4)
    # Those that lay a hundredth below the largest, too.
    values = torch.linalg.svdvals(found)
    assert values.min() > 0.5
    assert values.max() < 1.3


def test_a_matrix_without_direction_gets_none():
    assert torch.equal(orthogonalised(torch.zeros(2, 3, 4)), torch.zeros(2, 3, 4))


def test_weights_against_a_loop():
    """Nesterov momentum, the size of a step by the shape, the decay; a convolution is a matrix; the rest is AdamW."""
    torch.manual_seed(0)
    system = nn.ModuleDict({"wide": nn.Conv2d(2, 3, 2), "tall": nn.Linear(2, 7), "same": nn.Conv2d(2, 3, 2)})
    plain = nn.ParameterList([nn.Parameter(p.detach().clone()) for p in system.parameters() if p.ndim < 2])
    other = make_optimizer(plain, Update(OptimConfig(name="adamw", **SETTINGS)), torch.device("cpu"))
    optimizer = muon_of(system)
    expected = {name: p.detach().double() for name, p in system.named_parameters() if p.ndim >= 2}
    velocity = {name: torch.zeros_like(value) for name, value in expected.items()}
    for _ in range(4):
        for parameter in system.parameters():
            parameter.grad = torch.randn_like(parameter)
        for mine, parameter in zip(plain, (p for p in system.parameters() if p.ndim < 2), strict=True):
            mine.grad = parameter.grad.clone()
        kept = [parameter.grad.clone() for parameter in system.parameters()]
        optimizer.step()
        other.step()
        for name, value in expected.items():
            gradient = system.get_parameter(name).grad.double()
            velocity[name] = 0.8 * velocity[name] + gradient
            step = slowly((gradient + 0.8 * velocity[name]).flatten(1)).view_as(value)
            size = 0.2 * math.sqrt(max(len(value), value[0].numel()))
            expected[name] = value * (1 - 0.1 * 0.5) - 0.1 * size * step
        for before, parameter in zip(kept, system.parameters(), strict=True):
            assert torch.equal(before, parameter.grad)
    for name, value in expected.items():
        torch.testing.assert_close(system.get_parameter(name).detach(), value.float(), atol=2e-3, rtol=2e-3)
    for mine, parameter in zip(plain, (p for p in system.parameters() if p.ndim < 2), strict=True):
        assert torch.equal(mine, parameter)


@pytest.mark.parametrize("bias", [True, False])
def test_networks_of_matrices_alone_and_of_none(bias):
    for system in (nn.Linear(3, 2, bias=bias), nn.BatchNorm1d(3)):
        optimizer = muon_of(system)
        before = [p.detach().clone() for p in system.parameters()]
        for parameter in system.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        assert not any(torch.equal(a, b) for a, b in zip(before, system.parameters(), strict=True))


def test_its_state_can_be_taken_up():
    torch.manual_seed(0)
    first, second = nn.Conv2d(2, 3, 2), nn.Conv2d(2, 3, 2)
    optimizer = muon_of(first)
    gradients = [[torch.randn_like(p) for p in first.parameters()] for _ in range(4)]

    def go_on(system, optimizer, part):
        for own in part:
            for parameter, gradient in zip(system.parameters(), own, strict=True):
                parameter.grad = gradient.clone()
            optimizer.step()

    go_on(first, optimizer, gradients[:2])
    second.load_state_dict(first.state_dict())
    other = muon_of(second)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    go_on(first, optimizer, gradients[2:])
    go_on(second, other, gradients[2:])
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_a_run_with_it_goes_on_to_the_very_same_weights(tmp_path):
    data = tiny.make_set(tmp_path / "set")
    settings = ("optim.name=muon", "optim.lr=0.01", "optim.warmup_steps=2")
    trainer.train(tiny.settings(data, *settings), tmp_path / "whole")
    with tiny.stopped_after_an_epoch(), pytest.raises(RunInterruptedError):
        trainer.train(tiny.settings(data, *settings), tmp_path / "run")
    trainer.train(tiny.settings(data, *settings), tmp_path / "run", resume=True)
    for name in ("weights.safetensors", "metrics.jsonl"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
