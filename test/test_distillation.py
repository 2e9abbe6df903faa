"""Distance of embeddings, soft targets and agreement, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from mmcl_core.nn.distillation import agreement_loss, embedding_distance, soft_target_loss


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


def softened(logits, temperature):
    weights = [math.exp(x / temperature) for x in logits.tolist()]
    return [w / sum(weights) for w in weights]


def test_agreement_by_hand():
    """Against a loop over samples and views; samples with one view or none count for nothing."""
    generator = torch.Generator().manual_seed(0)
    views = [3 * torch.randn(5, 4, generator=generator) for _ in range(3)]
    present = [torch.tensor(has, dtype=torch.bool) for has in ([1, 1, 1, 0, 0], [1, 0, 1, 1, 0], [1, 0, 0, 1, 0])]
    losses, temperature = [], 2.0
    for sample in range(5):
        answers = [softened(v[sample], temperature) for v, has in zip(views, present, strict=True) if has[sample]]
        if len(answers) < 2:
            continue
        mean = [sum(math.log(a[c]) for a in answers) / len(answers) for c in range(4)]
        fused = softened(torch.tensor(mean), 1.0)
        losses.append(sum(f * math.log(f / a[c]) for a in answers for c, f in enumerate(fused)))
    assert len(losses) == 3
    expected = temperature**2 * sum(losses) / 3
    assert agreement_loss(views, present, temperature).item() == pytest.approx(expected, rel=1e-4)


def test_views_that_agree_have_no_loss_and_others_are_drawn_to_the_fused_answer():
    everyone = torch.ones(1, dtype=torch.bool)
    same = torch.tensor([[2.0, -1.0, 0.0]])
    assert agreement_loss([same, same.clone()], [everyone] * 2, 2.0).item() == pytest.approx(0, abs=1e-6)
    sure, unsure = torch.tensor([[6.0, 0.0]], requires_grad=True), torch.tensor([[0.0, 1.0]], requires_grad=True)
    agreement_loss([sure, unsure], [everyone] * 2, 2.0).backward()
    assert unsure.grad[0, 0] < 0 < unsure.grad[0, 1]  # descent raises the class that the other is sure of
    assert sure.grad[0, 0] > 0  # and makes the sure one less so


def test_without_pairs_there_is_no_agreement_to_learn():
    view = torch.randn(3, 4, requires_grad=True)
    loss = agreement_loss([view, torch.zeros(3, 4)], [torch.ones(3).bool(), torch.zeros(3).bool()], 2.0)
    loss.backward()
    assert loss.item() == 0
    assert not view.grad.any()
