"""Pix2pix: what the adversaries want, what the classifier looks at, and the generated pictures that are kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small_stand_ins import batch_for, build, logits_of, stage_of, terms_of, update_of, warm_up

from mmcl_core.augment import Augmenter
from mmcl_core.data.batches import Batch
from mmcl_core.engine.optim import set_mode
from mmcl_core.methods.base import ViewBatch
from mmcl_core.methods.generated import GeneratedPictures
from mmcl_core.modality import to_network_input


def test_objectives_of_the_generator_and_its_discriminator():
    """A discriminator that takes everything for real costs it the fakes, and the generator nothing."""
    method, system = build("pix2pix", "pix2pix.l1_weight=7", "pix2pix.dropout=0")
    warm_up(method, system)
    stage = stage_of(method, "gan")
    with torch.no_grad():
        last = system.discriminator.convolutions[-1]
        last.weight.zero_()
        last.bias.fill_(6.0)
    batch = batch_for(method, stage)
    terms = terms_of(method, system, stage, update_of(stage, "discriminator"), batch)
    nearly, far = F.softplus(torch.tensor(-6.0)).item(), F.softplus(torch.tensor(6.0)).item()
    assert terms["real"].item() == pytest.approx(nearly / 2, rel=1e-3)
    assert terms["fake"].item() == pytest.approx(far / 2, rel=1e-3)
    terms = terms_of(method, system, stage, update_of(stage, "generator"), batch)
    assert terms["fooling"].item() == pytest.approx(nearly, rel=1e-3)
    inputs = method.deployed(system).inputs
    source, wanted = (
        to_network_input(batch.pictures[view].image, view, batch.pictures[view].camera, inputs)
        for view in ("rgb", "depth")
    )
    generated = method.generator(system)(source)
    assert terms["l1"].item() == pytest.approx(7 * (generated - wanted).abs().mean().item(), rel=1e-4)
    terms["l1"].backward()
    assert all(p.grad.abs().sum() > 0 for p in method.generator(system).parameters() if p.grad is not None)
    assert sum(p.grad is None for p in method.generator(system).parameters()) == 0
    assert all(p.grad is None for p in system.discriminator.parameters())


def test_dropout_of_the_generator_is_that_of_the_settings():
    for share in (0.0, 0.3):
        method, system = build("pix2pix", f"pix2pix.dropout={share}")
        assert method.generator(system).dropout == share


def test_the_discriminator_judges_the_pair():
    """Its answer depends on the picture the other one was made from, and the generator hears of it."""
    method, system = build("pix2pix", "pix2pix.l1_weight=0")
    warm_up(method, system)
    stage = stage_of(method, "gan")
    terms = terms_of(method, system, stage, update_of(stage, "generator"))
    terms["fooling"].backward()
    assert sum(p.grad.abs().sum() for p in method.generator(system).parameters()) > 0
    batch = batch_for(method, stage)
    mixed = batch_for(method, stage)
    mixed.pictures["rgb"].image = mixed.pictures["rgb"].image.flip(0)
    update = update_of(stage, "discriminator")
    first, second = (terms_of(method, system, stage, update, one)["real"] for one in (batch, mixed))
    assert first != second


def test_the_classifier_takes_the_mean_of_both_streams():
    method, system = build("pix2pix")
    warm_up(method, system)
    stage = stage_of(method, "classify")
    assert method.views(stage) == {"rgb": "rgb"}
    batch = batch_for(method, stage)
    found = terms_of(method, system, stage, batch=batch)["class"]
    network = method.deployed(system)
    set_mode(system, stage)
    assert not method.generator(system).training
    stream, rgb = network.stream("depth"), batch.pictures["rgb"]
    other = stream.logits(stream.encoder(batch.pictures["generated"].image, "depth").f1, "depth")
    mean = (logits_of(network.stream("rgb"), rgb) + other) / 2
    assert found.item() == pytest.approx(F.cross_entropy(mean, batch.labels).item(), rel=1e-4)
    # The deployed network, which generates for itself, computes the same of one picture for both.
    network.eval()
    generated = method.generator(system)(to_network_input(rgb.image, "rgb", rgb.camera, network.inputs))
    other = stream.logits(stream.encoder(generated, "depth").f1, "depth")
    expected = (logits_of(network.stream("rgb"), rgb) + other) / 2
    assert torch.allclose(network(rgb.image, "rgb", rgb.camera)[0], expected, atol=1e-5)


SAMPLES, FIRST = 30, 6  # of the set, and the first row that is trained on


def samples_of(rows, alike=False):
    """Some rows of a set of random pictures, or of one picture."""
    g = torch.Generator().manual_seed(2)
    rgb = torch.randint(0, 256, (SAMPLES, 40, 40, 3), generator=g, dtype=torch.uint8)
    rgb = rgb[:1].expand_as(rgb) if alike else rgb
    index = torch.tensor(rows)
    labels, known = index % 3, torch.ones(len(rows), dtype=torch.bool)
    depth = torch.full((len(rows), 40, 40), 700, dtype=torch.int32)
    present = {"rgb": known, "depth": ~known}
    return Batch({"rgb": rgb[index], "depth": depth}, present, labels, torch.zeros(len(rows), 4), index)


def classifying(*overrides):
    """A warm pix2pix that is about to classify."""
    method, system = build("pix2pix", *overrides)
    method.samples, method.rows = SAMPLES, np.arange(FIRST, SAMPLES)
    warm_up(method, system)
    method.generator(system).up[0].weight.data.mul_(50)  # what is generated spans about -1..1
    stage = stage_of(method, "classify")
    method.start_stage(system, stage)
    set_mode(system, stage)
    return method, system, stage


def generated_of(method, system, stage, rows, copies, alike=False):
    samples = samples_of(rows, alike)
    views = Augmenter(method.config.augment, 32, method.views(stage))
    drawn = views.draw(len(rows), torch.Generator().manual_seed(len(rows)))
    pictures = views(samples.images, samples.camera, drawn)
    draws = {"copy": torch.tensor(copies)}
    batch = ViewBatch(pictures, {}, samples.labels, samples.index, draws)
    return method.add_views(system, samples, batch, stage).pictures["generated"].image


WHOLE = ("augment.flip=0", "augment.scale=[1, 1]", "augment.ratio=[1, 1]")


def test_generated_pictures_are_made_once_and_of_the_right_sample():
    method, system, stage = classifying("pix2pix.copies=2", *WHOLE)
    generator, calls = method.generator(system), []
    generator.register_forward_hook(lambda module, given, out: calls.append(len(out)))
    rows = [FIRST, SAMPLES - 1, 12, 9]
    found = generated_of(method, system, stage, rows, [0, 1, 1, 0])
    assert calls == [1] * 4
    raw = samples_of(rows).images["rgb"]
    whole = F.interpolate(raw.permute(0, 3, 1, 2).float(), 32, mode="bicubic", antialias=True).round().clamp(0, 255)
    expected = generator(to_network_input(whole, "rgb", None, method.deployed(system).inputs))
    assert (expected[0] - expected[1]).abs().mean() > 0.01  # it matters which
    torch.testing.assert_close(found, expected.detach(), atol=2e-2, rtol=1e-2)
    del calls[:]
    again = generated_of(method, system, stage, [9, FIRST, 20], [0, 0, 0])
    assert calls == [1]  # row 20
    assert torch.equal(again[0], found[3])
    assert torch.equal(again[1], found[0])


def test_generated_pictures_do_not_depend_on_the_batch_and_differ_by_copy():
    """Each copy shows another crop; a run that goes on makes the same ones in other batches."""
    overrides = ("pix2pix.copies=3", "augment.scale=[0.3, 0.9]")
    method, system, stage = classifying(*overrides)
    first = generated_of(method, system, stage, [8, 9, 10, 11], [0, 1, 2, 0])
    other = generated_of(method, system, stage, [8, 9], [1, 2])
    assert not torch.equal(first[0], other[0])
    method.start_stage(system, stage)
    assert torch.equal(generated_of(method, system, stage, [10, 8], [2, 0]), first[[2, 0]])
    drawn = method.draw(300, stage, torch.Generator().manual_seed(0))["copy"]
    assert drawn.bincount().tolist() == pytest.approx([100] * 3, abs=30)


def test_a_generated_picture_has_the_camera_of_its_sample():
    """Of equal depth pictures, whose metric size is told to the generator."""
    method, system, _ = classifying("train.target=depth", "model.metric_size=true", *WHOLE)
    samples, alone = samples_of([8, 9]), samples_of([9])
    samples.camera = torch.tensor([[30.0, 30, 19.5, 19.5], [90.0, 90, 19.5, 19.5]])
    alone.camera = samples.camera[1:]
    first, second = (method.artist(system, samples)(n, 9, 0) for n in (0, 1))
    assert torch.equal(second, method.artist(system, alone)(0, 9, 0))
    assert not torch.allclose(first, second, atol=1e-2)


def test_no_two_kept_pictures_show_the_same_crop():
    """Of equal samples: what is cropped follows from the row and the copy together."""
    method, system, stage = classifying("pix2pix.copies=4", "augment.scale=[0.3, 0.9]")
    found = generated_of(method, system, stage, [8, 9, 10, 11] * 4, [0] * 4 + [1] * 4 + [2] * 4 + [3] * 4, alike=True)
    assert len({picture.numpy().tobytes() for picture in found}) == 16


def test_any_seed_of_a_run_gives_pictures():
    """Also one that has no room in torch's seeds when multiplied with the number of pictures, such as a time in ns."""
    made = []
    for seed in (0, 10**18, 10**18 + 1):
        method, system, stage = classifying(f"seed={seed}", "augment.scale=[0.3, 0.9]")
        made.append(generated_of(method, system, stage, [SAMPLES - 1], [3]))
    assert not torch.equal(made[0], made[1])
    assert not torch.equal(made[1], made[2])


def test_kept_pictures_are_those_of_the_present_generator():
    method, system, stage = classifying("pix2pix.copies=1")
    before = generated_of(method, system, stage, [8, 9], [0, 0])
    for parameter in method.generator(system).parameters():
        parameter.data.mul_(1.5)
    method.start_stage(system, stage)
    after = generated_of(method, system, stage, [8, 9], [0, 0])
    fresh, system_of, stage_of_it = classifying("pix2pix.copies=1")
    system_of.load_state_dict(system.state_dict())
    assert not torch.allclose(before, after, atol=1e-2)
    assert torch.equal(after, generated_of(fresh, system_of, stage_of_it, [8, 9], [0, 0]))


def test_a_row_that_comes_twice_is_made_once_and_counts_once():
    kept = GeneratedPictures([4, 7], 9, 1, 2, torch.device("cpu"))
    asked = []

    def make(place, row, copy):
        asked.append(row)
        return torch.full((1, 3, 2, 2), float(row))

    one = torch.zeros(2, dtype=torch.int64)
    assert kept.take(torch.tensor([4, 4]), one, make).unique().tolist() == [4.0]
    assert kept.take(torch.tensor([7, 4]), one, make)[:, 0, 0, 0].tolist() == [7.0, 4.0]
    assert asked == [4, 4, 7]
