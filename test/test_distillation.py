"""Distance of embeddings and soft targets, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from mmcl_core.nn.distillation import embedding_distance, soft_target_loss


@pytest.mark.parametrize("squash", [False, True])
def test_embedding_distance_by_hand(squash):
    student, teacher = torch.tensor([[0.0, 2.0], [1.0, -1.0]]), torch.tensor([[1.0, 2.0], [1.0, 3.0]])

    def value(x):
        return 1 / (1 + math.exp(-x)) if squash else x

    expected = ((value(0) - value(1)) ** 2 + (value(-1) - value(3)) ** 2) / 4
    assert embedding_distance(student, teacher, squash).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_soft_targets_by_hand(temperature):
    student, teacher = torch.tensor([[1.0, -1.0, 0.5]]), torch.tensor([[3.0, 0.0, -2.0]])
    expected = 0.0
    for c in range(3):
        wanted = math.exp(teacher[0, c] / temperature) / sum(math.exp(t / temperature) for t in teacher[0])
        given = math.exp(student[0, c] / temperature) / sum(math.exp(s / temperature) for s in student[0])
        expected -= temperature**2 * wanted * math.log(given)
    assert soft_target_loss(student, teacher, temperature).item() == pytest.approx(expected, rel=1e-5)


def test_the_gradient_leads_to_the_teacher_and_leaves_it_alone():
    g = torch.Generator().manual_seed(0)
    teacher = torch.randn(5, 4, generator=g, requires_grad=True)
    for loss in (lambda s: embedding_distance(s, teacher, True), lambda s: soft_target_loss(s, teacher, 3.0)):
        student = torch.randn(5, 4, generator=g, requires_grad=True)
        loss(student).backward()
        assert teacher.grad is None
        same = teacher.detach().clone().requires_grad_()
        loss(same).backward()
        assert same.grad.abs().max() < 1e-6
        assert student.grad.abs().max() > 1e-3
        with torch.no_grad():
            assert loss(student - 0.1 * student.grad) < loss(student)


def test_the_size_of_the_gradient_does_not_depend_on_the_temperature():
    teacher, sizes = torch.tensor([[2.0, 0.0, -1.0]]), []
    for temperature in (5.0, 20.0):
        student = torch.zeros(1, 3, requires_grad=True)
        soft_target_loss(student, teacher, temperature).backward()
        sizes.append(student.grad.norm().item())
    assert sizes[1] == pytest.approx(sizes[0], rel=0.15)


def test_no_samples_no_loss():
    empty = torch.zeros(0, 3, requires_grad=True)
    assert embedding_distance(empty, empty, True) == soft_target_loss(empty, empty, 2.0) == 0
