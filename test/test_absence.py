"""What a method makes of pictures and labels that are not there: nothing, whatever stands in their place."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from small_methods import BATCH, batch_for, build, losses

from mmcl_core.engine.optim import set_mode
from mmcl_core.methods.parts import classify, encode


@pytest.mark.parametrize("name", ["mmcl", "amdim", "supervised", "two_step"])
def test_absent_pictures_do_not_matter(name):
    """Whatever stands in the place of a picture that is missing, loss, gradient and statistics are the same."""
    absent = torch.arange(BATCH) % 4 == 1
    method, _ = build(f"method={name}")
    stage = method.stages()[0]
    view = [view for view, modality in method.views(stage).items() if modality == "depth"]
    results = []
    for fill in (0.0, float("nan")):
        _, system = build(f"method={name}")
        terms = losses(method, system, present=dict.fromkeys(view, ~absent), fill=fill)
        sum(terms.values()).backward()
        gradient = torch.cat([p.grad.flatten() for p in system.parameters() if p.grad is not None])
        results.append((torch.stack(list(terms.values())), gradient, system.encoder.norm.statistics["depth"].mean))
    for zero, nan in zip(*results, strict=True):
        assert torch.equal(zero, nan)
        assert zero.isfinite().all()


def test_presence_equals_leaving_the_samples_out():
    """Depth batch statistics and classification loss are those of the samples that have depth."""
    method, system = build()
    stage, keep = method.stages()[0], torch.arange(BATCH) % 3 != 0
    batch = batch_for(method, stage, present={"depth": keep})
    set_mode(system, stage)
    part = encode(system, batch, {"depth": "depth"}, (5, 7))["depth"]
    picture = batch.pictures["depth"]
    alone = system.features(picture.image[keep], "depth", picture.camera[keep])
    assert torch.allclose(part.features.f7, alone.f7, atol=1e-6)
    spread = part.spread(BATCH)
    assert torch.equal(spread.f5[keep], part.features.f5)
    assert spread.f5[~keep].eq(0).all()
    found = classify(system, part, "depth", batch.labels, method.config.loss)["linear"]
    logits = system.classifier(alone.f1, "depth").linear
    entropy = F.cross_entropy(10 * torch.tanh(logits / 10), batch.labels[keep])
    assert found.item() == pytest.approx((entropy + 1e-3 * logits.square().mean()).item(), rel=1e-5)


@pytest.mark.parametrize("count", [0, 1])
@pytest.mark.parametrize("name", ["mmcl", "supervised", "amdim"])
def test_a_batch_without_a_modality_is_no_error(name, count):
    method, system = build(f"method={name}")
    stage = method.stages()[0]
    views = [view for view, modality in method.views(stage).items() if modality == "depth"]
    terms = losses(method, system, present=dict.fromkeys(views, torch.arange(BATCH) < count))
    sum(terms.values()).backward()
    assert all(value.isfinite() for value in terms.values())
    assert all(terms[n] == 0 for n in terms if n.startswith("class depth") or "depth_a" in n or "->depth" in n)
    assert int(system.encoder.norm.statistics["depth"].count) == 0
    assert set(terms) == set(losses(method, system))


def test_unlabelled_samples_do_not_matter():
    method, system = build("method=supervised", "train.target=rgb")
    labels = torch.arange(BATCH) % 3
    labels[4:] = -1
    few = losses(method, system, labels=labels)["class rgb"]
    stage = method.stages()[0]
    f1 = system.features(batch_for(method, stage).pictures["rgb"].image, "rgb", levels=()).f1
    expected = F.cross_entropy(system.classifier(f1, "rgb").mlp[:4], labels[:4])
    assert few.item() == pytest.approx(expected.item(), rel=1e-5)
    none = losses(method, system, labels=torch.full((BATCH,), -1))["class rgb"]
    assert none == 0
