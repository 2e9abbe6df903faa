"""The hallucination stream, by either method: where it starts, what it is taught, and what it sees."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
from small_methods import BATCH
from small_stand_ins import batch_for, build, stage_of, terms_of, update_of, warm_up

from mmcl_core.augment import Picture
from mmcl_core.engine.optim import make_optimizer, set_mode
from mmcl_core.methods.base import ViewBatch
from mmcl_core.nn.distillation import embedding_distance, soft_target_loss


@pytest.mark.parametrize("name", ["admd", "hallucination"])
def test_the_hallucination_stream_starts_as_its_teacher(name):
    method, system = build(name)
    warm_up(method, system)
    for parameter in system.teacher.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    method.start_stage(system, stage_of(method, "hallucinate"))
    stream = method.deployed(system).stream("hallucination")
    system.eval()
    x = torch.randn(4, 3, 32, 32)
    assert torch.equal(stream.encoder(x, "rgb").f1, system.teacher.encoder(x, "depth").f1)
    assert stream.modalities == ("rgb",)
    before = {key: value.clone() for key, value in system.state_dict().items()}
    method.start_stage(system, stage_of(method, "finetune"))
    assert all(torch.equal(value, before[key]) for key, value in system.state_dict().items())


def shapes(count=24, labelled=True):
    """Registered pictures of three kinds of shapes, which both modalities show."""
    rng = np.random.default_rng(7)
    pairs = [tiny.picture(n % 3, rng) for n in range(count)]
    rgb = torch.stack([torch.from_numpy(rgb).permute(2, 0, 1).float() for rgb, _ in pairs])
    depth = torch.stack([torch.from_numpy(depth.astype(np.float32))[None] for _, depth in pairs])
    pictures = {view: Picture(image, torch.zeros(count, 4)) for view, image in (("rgb", rgb), ("depth", depth))}
    labels = torch.arange(count) % 3 if labelled else torch.full((count,), -1)
    return ViewBatch(pictures, {}, labels, torch.arange(count))


def learn(method, system, stage, batch, steps):
    """Some steps of a stage on one batch."""
    method.start_stage(system, stage)
    optimizers = [make_optimizer(system, update, torch.device("cpu")) for update in stage.updates]
    for _ in range(steps):
        for update, optimizer in zip(stage.updates, optimizers, strict=True):
            torch.stack(list(terms_of(method, system, stage, update, batch).values())).sum().backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
    set_mode(system, stage)


@pytest.mark.parametrize("name", ["admd", "hallucination"])
def test_the_hallucination_stream_sees_what_its_teacher_sees(name):
    """It names the classes by the teacher's eyes: its classifier saw no label of an RGB picture.

    ADMD's classifier is a copy that is frozen; the other method is given no labels, only the teacher's answers.
    """
    settings = ("admd.lr=0.003", "admd.hidden=64", "hallucination.imitation=1", "optim.lr=0.003")
    settings += ("model.metric_size=false",)
    method, system = build(name, *settings)
    learn(method, system, stage_of(method, "alone"), shapes(), 50)
    stage, batch = stage_of(method, "hallucinate"), shapes(labelled=name == "admd")
    stream, teacher = method.deployed(system).stream("hallucination"), system.teacher
    learn(method, system, stage, batch, 60)
    rgb, depth, labels = batch.pictures["rgb"], batch.pictures["depth"], shapes().labels
    system.eval()
    logits, ours = stream(rgb.image, "rgb", rgb.camera)
    assert (teacher(depth.image, "depth", depth.camera)[0].argmax(1) == labels).all()
    assert (logits.argmax(1) == labels).float().mean() > 0.9
    if name == "hallucination":
        theirs = teacher(depth.image, "depth", depth.camera)[1]
        matched, others = (embedding_distance(ours, one, True) for one in (theirs, theirs.roll(1, 0)))
        assert matched < 0.3 * others


def test_what_the_adversaries_want():
    """Real embeddings are to be named by their class, fakes are to be called fake; the stream wants its class."""
    method, system = build("admd")
    warm_up(method, system)
    stage = stage_of(method, "hallucinate")
    batch = batch_for(method, stage)
    of_discriminator = terms_of(method, system, stage, update_of(stage, "discriminator"), batch)
    of_stream = terms_of(method, system, stage, update_of(stage, "hallucination"), batch)
    set_mode(system, stage)
    depth, rgb = batch.pictures["depth"], batch.pictures["rgb"]
    real = system.discriminator(system.teacher.features(depth.image, "depth", depth.camera).f1)
    stream = method.deployed(system).stream("hallucination")
    fake = system.discriminator(stream.features(rgb.image, "rgb", rgb.camera).f1)
    expected = {
        "real": F.cross_entropy(real, batch.labels),
        "fake": F.cross_entropy(fake, torch.full((BATCH,), 3)),
        "fooling": F.cross_entropy(fake, batch.labels),
    }
    for term, value in {**of_discriminator, **of_stream}.items():
        assert value.item() == pytest.approx(expected[term].item(), rel=1e-4)
    assert real.shape == (BATCH, 4)


def test_without_a_label_the_adversaries_want_an_embedding_to_be_real_of_whatever_class():
    method, system = build("admd")
    warm_up(method, system)
    stage = stage_of(method, "hallucinate")
    batch = batch_for(method, stage, labels=torch.full((BATCH,), -1))
    wanted = {
        **terms_of(method, system, stage, update_of(stage, "discriminator"), batch),
        **terms_of(method, system, stage, update_of(stage, "hallucination"), batch),
    }
    set_mode(system, stage)
    depth, rgb = batch.pictures["depth"], batch.pictures["rgb"]
    stream = method.deployed(system).stream("hallucination")
    for term, f1 in (
        ("real", system.teacher.features(depth.image, "depth", depth.camera).f1),
        ("fooling", stream.features(rgb.image, "rgb", rgb.camera).f1),
    ):
        fake = system.discriminator(f1).softmax(1)[:, 3]
        assert wanted[term].item() == pytest.approx(-(1 - fake).log().mean().item(), rel=1e-4)


def test_the_discriminator_alone_tells_fakes_from_classes():
    """The stream does not answer back: all its embeddings become "fake", all of the teacher's get their class."""
    method, system = build("admd", "admd.lr=0.003")
    warm_up(method, system)
    stage = stage_of(method, "hallucinate")
    batch = batch_for(method, stage)
    batch.pictures["depth"].image += 150.0 * (batch.labels - 1)[:, None, None, None]  # each class at its distance
    update = update_of(stage, "discriminator")
    optimizer = make_optimizer(system, update, torch.device("cpu"))
    for _ in range(80):
        torch.stack(list(terms_of(method, system, stage, update, batch).values())).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    depth, rgb = batch.pictures["depth"], batch.pictures["rgb"]
    real = system.discriminator(system.teacher.features(depth.image, "depth", depth.camera).f1)
    stream = method.deployed(system).stream("hallucination")
    fake = system.discriminator(stream.features(rgb.image, "rgb", rgb.camera).f1)
    assert real.argmax(1).eq(batch.labels).all()
    assert fake.argmax(1).eq(3).all()


@pytest.mark.parametrize("distance", ["sigmoid", "l2"])
def test_what_the_hallucination_stream_is_taught(distance):
    method, system = build(
        "hallucination", f"hallucination.distance={distance}", "hallucination.distance_weight=3",
        "hallucination.imitation=0.25", "hallucination.temperature=4", "loss.classification_weight=2",
    )  # fmt: skip
    warm_up(method, system)
    stage = stage_of(method, "hallucinate")
    batch = batch_for(method, stage)
    terms = terms_of(method, system, stage, batch=batch)
    set_mode(system, stage)
    depth, rgb = batch.pictures["depth"], batch.pictures["rgb"]
    wanted, theirs = system.teacher(depth.image, "depth", depth.camera)
    logits, ours = method.deployed(system).stream("hallucination")(rgb.image, "rgb", rgb.camera)
    one, other = (ours.sigmoid(), theirs.sigmoid()) if distance == "sigmoid" else (ours, theirs)
    assert terms["distance"].item() == pytest.approx(3 * (one - other).square().mean().item(), rel=1e-4)
    assert terms["class"].item() == pytest.approx(2 * 0.75 * F.cross_entropy(logits, batch.labels).item(), rel=1e-4)
    assert terms["imitation"].item() == pytest.approx(2 * 0.25 * soft_target_loss(logits, wanted, 4).item(), rel=1e-4)


def test_the_student_looks_at_its_own_modality_only():
    """Other depth changes what is to be learnt, and nothing of what the stream says."""
    method, system = build("hallucination")
    warm_up(method, system)
    stage = stage_of(method, "hallucinate")
    terms = []
    for shift in (0.0, 150.0):
        batch = batch_for(method, stage)
        batch.pictures["depth"].image.add_(shift)
        terms.append(terms_of(method, system, stage, batch=batch))
    assert terms[0]["class"] == terms[1]["class"]
    assert terms[0]["distance"] != terms[1]["distance"]
    assert terms[0]["imitation"] != terms[1]["imitation"]
