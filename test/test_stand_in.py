"""Methods in which a stream stands in for a missing modality: what teaches what, what is frozen, what is looked at."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
from test_methods import BATCH, batch_for
from test_methods import build as build_method

from mmcl_core.engine.optim import make_optimizer, select, set_mode
from mmcl_core.engine.trainer import train
from mmcl_core.errors import ConfigError, UntrainedModalityError
from mmcl_core.modality import to_network_input
from mmcl_core.nn.distillation import soft_target_loss
from mmcl_core.recognizer import Recognizer
from mmcl_core.weights import build_model, load_weights

METHODS = ("pix2pix", "admd", "hallucination")
SMALL = {
    "pix2pix": ("pix2pix.gan_epochs=2", "pix2pix.alone_epochs=2", "pix2pix.width=4"),
    "admd": ("admd.alone_epochs=2", "admd.together_epochs=2", "admd.hallucinate_epochs=2", "admd.hidden=16"),
    "hallucination": tuple(f"hallucination.{name}_epochs=2" for name in ("alone", "together", "hallucinate")),
}


def build(name, *overrides):
    return build_method(f"method={name}", "train.target=rgb", *SMALL[name], *overrides)


def stage_of(method, name):
    return next(stage for stage in method.stages() if stage.name == name)


def update_of(stage, name):
    return next(update for update in stage.updates if update.name == name)


def warm_up(method, system):
    """Gives every network running statistics, and the hallucination stream its start."""
    for stage in method.stages():
        method.start_stage(system, stage)
        terms_of(method, system, stage)


def terms_of(method, system, stage, update=None, batch=None, **arguments):
    update = update or stage.updates[-1]
    set_mode(system, stage)
    select(system, update)
    batch = batch or batch_for(method, stage, **arguments)
    torch.manual_seed(0)
    return method.losses(system, batch, stage, update)


def take_step(method, system, stage, batch=None):
    """One update each, as the trainer does it."""
    for update in stage.updates:
        optimizer = make_optimizer(system, update, torch.device("cpu"))
        torch.stack(list(terms_of(method, system, stage, update, batch).values())).sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def logits_of(stream, picture):
    return stream(picture.image, stream.modalities[0], picture.camera)[0]


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.target=both"], "choose rgb or depth"),
        (["train.modalities=[rgb]"], "name two"),
        (["train.modalities=[rgb, depth, rgb_right]"], "name two"),
        (["data.label_share=0"], "label_share"),
    ],
)
def test_impossible_settings_are_refused(name, overrides, message):
    with pytest.raises(ConfigError, match=message):
        build(name, *overrides)


def test_an_untaught_teacher_is_refused():
    with pytest.raises(ConfigError, match=r"hallucination\.alone_epochs"):
        build("hallucination", "hallucination.alone_epochs=0", "hallucination.together_epochs=0")
    assert [stage.name for stage in build("admd", "admd.together_epochs=0")[0].stages()] == [
        "alone", "hallucinate", "finetune",
    ]  # fmt: skip


CHANGES = {
    ("pix2pix", "gan"): ("discriminator.", "network.generators."),
    ("pix2pix", "alone"): ("network.streams.",),
    ("pix2pix", "classify"): ("network.streams.",),
    ("admd", "alone"): ("network.streams.rgb.", "teacher."),
    ("admd", "together"): ("network.streams.rgb.", "teacher."),
    ("admd", "hallucinate"): ("discriminator.", "network.streams.hallucination.encoder."),
    ("admd", "finetune"): ("network.streams.",),
    ("hallucination", "alone"): ("network.streams.rgb.", "teacher."),
    ("hallucination", "together"): ("network.streams.rgb.", "teacher."),
    ("hallucination", "hallucinate"): ("network.streams.hallucination.",),
    ("hallucination", "finetune"): ("network.streams.",),
}


@pytest.mark.parametrize(("name", "stage"), CHANGES)
def test_what_a_stage_changes(name, stage):
    """All weights that are to learn do, and nothing else does: weights, statistics, buffers."""
    method, system = build(name)
    warm_up(method, system)
    stage = stage_of(method, stage)
    before = {key: value.clone() for key, value in system.state_dict().items()}
    for _ in range(2):  # what starts as zero holds up the gradient of what comes before it
        take_step(method, system, stage)
    changed = {key for key, value in system.state_dict().items() if not torch.equal(value, before[key])}
    assert all(key.startswith(CHANGES[name, stage.name]) for key in changed)
    for prefix in CHANGES[name, stage.name]:
        weights = {key for key, _ in system.named_parameters() if key.startswith(prefix)}
        unused = {key for key in weights if "classifier.linear" in key}  # the head that does not answer
        assert weights - unused <= changed


@pytest.mark.parametrize("name", METHODS)
def test_every_stage_of_every_update_names_its_terms(name):
    """The names of the terms do not depend on the batch, which may have no sample that can be learnt from."""
    method, system = build(name)
    warm_up(method, system)
    lacking = {
        "rgb": torch.arange(BATCH) < 1,
        "depth": torch.arange(BATCH) > BATCH - 2,
        "plain": torch.arange(BATCH) < 1,
    }
    for stage in method.stages():
        present = {view: mask for view, mask in lacking.items() if view in method.views(stage)}
        for update in stage.updates:
            full, empty = (terms_of(method, system, stage, update, present=p) for p in ({}, present))
            assert set(full) == set(empty)
            assert all(value.isfinite() for value in full.values())
            assert all(value == 0 for value in empty.values())
            torch.stack(list(empty.values())).sum().backward()


@pytest.mark.parametrize("name", METHODS)
def test_absent_pictures_do_not_matter(name):
    present = {"depth": torch.arange(BATCH) % 4 != 1, "rgb": torch.arange(BATCH) % 5 != 2}
    present["plain"] = present["rgb"]
    results = []
    for fill in (0.0, float("nan")):
        method, system = build(name)
        warm_up(method, system)
        for stage in method.stages():
            take_step(method, system, stage, batch_for(method, stage, present=present, fill=fill))
        results.append(system.state_dict())
    for key, value in results[0].items():
        assert torch.equal(value, results[1][key])
        assert value.isfinite().all()


@pytest.mark.parametrize("name", METHODS)
def test_unlabelled_samples_are_not_classified(name):
    method, system = build(name)
    warm_up(method, system)
    labels = torch.arange(BATCH) % 3
    few = torch.where(torch.arange(BATCH) < 6, labels, -1)
    stage = stage_of(method, "alone")
    batch = batch_for(method, stage, labels=few)
    found = terms_of(method, system, stage, batch=batch)["class rgb"].item()
    logits = logits_of(method.deployed(system).stream("rgb"), batch.pictures["rgb"])
    assert found == pytest.approx(F.cross_entropy(logits[:6], labels[:6]).item(), rel=1e-5)
    for stage in method.stages():
        for update in stage.updates:
            none = terms_of(method, system, stage, update, labels=torch.full((BATCH,), -1))
            assert all(none[term] == 0 for term in none if term.startswith("class"))


def test_the_joint_loss_is_that_of_the_mean_of_the_logits():
    method, system = build("admd")
    warm_up(method, system)
    stage = stage_of(method, "together")
    batch = batch_for(method, stage)
    found = terms_of(method, system, stage, batch=batch)["class"]
    network = method.deployed(system)
    both = [logits_of(network.stream("rgb"), batch.pictures["rgb"]), logits_of(system.teacher, batch.pictures["depth"])]
    assert found.item() == pytest.approx(F.cross_entropy(sum(both) / 2, batch.labels).item(), rel=1e-5)
    stage = stage_of(method, "finetune")
    assert method.views(stage) == {"rgb": "rgb"}
    batch = batch_for(method, stage)
    found = terms_of(method, system, stage, batch=batch)["class"]
    both = [logits_of(network.stream(stream), batch.pictures["rgb"]) for stream in ("rgb", "hallucination")]
    assert found.item() == pytest.approx(F.cross_entropy(sum(both) / 2, batch.labels).item(), rel=1e-5)


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


# ---------------------------------------------------------------- ADMD


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


# ---------------------------------------------------------------- hallucination


@pytest.mark.parametrize("distance", ["sigmoid", "l2"])
def test_what_the_hallucination_stream_is_taught(distance):
    method, system = build(
        "hallucination", f"hallucination.distance={distance}", "hallucination.distance_weight=3",
        "hallucination.imitation=0.25", "hallucination.temperature=4",
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
    assert terms["class"].item() == pytest.approx(0.75 * F.cross_entropy(logits, batch.labels).item(), rel=1e-4)
    assert terms["imitation"].item() == pytest.approx(0.25 * soft_target_loss(logits, wanted, 4.0).item(), rel=1e-4)


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


# ---------------------------------------------------------------- pix2pix


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


def test_the_classifier_looks_at_what_is_generated_of_the_plain_picture():
    method, system = build("pix2pix")
    warm_up(method, system)
    stage = stage_of(method, "classify")
    assert method.views(stage) == {"rgb": "rgb", "plain": "rgb"}
    batch = batch_for(method, stage)
    found = terms_of(method, system, stage, batch=batch)["class"]
    network = method.deployed(system)
    set_mode(system, stage)
    assert not method.generator(system).training
    source = to_network_input(batch.pictures["plain"].image, "rgb", batch.pictures["plain"].camera, network.inputs)
    stream = network.stream("depth")
    other = stream.logits(stream.encoder(method.generator(system)(source), "depth").f1, "depth")
    mean = (logits_of(network.stream("rgb"), batch.pictures["rgb"]) + other) / 2
    assert found.item() == pytest.approx(F.cross_entropy(mean, batch.labels).item(), rel=1e-4)
    # Asked with one picture for both, the deployed network computes the same.
    network.eval()
    rgb = batch.pictures["rgb"]
    generated = method.generator(system)(to_network_input(rgb.image, "rgb", rgb.camera, network.inputs))
    other = stream.logits(stream.encoder(generated, "depth").f1, "depth")
    expected = (logits_of(network.stream("rgb"), rgb) + other) / 2
    assert torch.allclose(network(rgb.image, "rgb", rgb.camera)[0], expected, atol=1e-5)


@pytest.mark.parametrize("name", METHODS)
def test_views_that_teach_one_another_are_registered(name):
    method, _ = build(name)
    for stage in method.stages():
        augmenter = method.augmenter(stage)
        assert augmenter.aligned == (stage.name in ("gan", "hallucinate"))
        expected = {"gan": {"rgb", "depth"}, "hallucinate": {"depth"}, "classify": {"plain"}}
        assert augmenter.plain == expected.get(stage.name, set())


# ---------------------------------------------------------------- whole runs


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.make_set(tmp_path_factory.mktemp("stand_in") / "set", samples=60)


LEARN = {
    "pix2pix": ("pix2pix.gan_epochs=8", "pix2pix.alone_epochs=4", "pix2pix.width=8", "train.epochs=6"),
    "admd": (
        "admd.alone_epochs=6", "admd.together_epochs=2", "admd.hallucinate_epochs=12", "admd.hidden=32",
        "admd.lr=1e-3", "train.epochs=4",
    ),
    "hallucination": (
        "hallucination.alone_epochs=6", "hallucination.together_epochs=2", "hallucination.hallucinate_epochs=8",
        "train.epochs=4",
    ),
}  # fmt: skip


@pytest.fixture(scope="module", params=METHODS)
def finished(request, data, tmp_path_factory):
    """A run whose target is RGB."""
    run = tmp_path_factory.mktemp(request.param) / "run"
    config = tiny.settings(data, f"method={request.param}", "train.target=rgb", *LEARN[request.param])
    return request.param, train(config, run)


def test_it_learns_and_answers_from_rgb_alone(finished, data):
    name, result = finished
    assert result.scores["accuracy/rgb"] >= 0.8  # three classes
    metadata = load_weights(result.run)[1]
    assert metadata["trained_modalities"] == ["rgb"]
    assert set(metadata["network"]["streams"]) == {"rgb", "depth" if name == "pix2pix" else "hallucination"}
    recognizer = Recognizer.load(result.run)
    rng = np.random.default_rng(5)
    crops = [tiny.picture(n % 3, rng)[0] for n in range(30)]
    answers = recognizer.recognize(rgb=crops)
    right = sum(label == tiny.CLASSES[n % 3] for n, label in enumerate(answers.labels))
    assert right >= 24
    with pytest.raises(UntrainedModalityError, match="not for depth"):
        recognizer.recognize(depth=[tiny.picture(0, rng)[1]])
    state = load_weights(result.run)[0]
    assert not [key for key in state if "teacher" in key or "discriminator" in key]


def test_the_stand_in_alone_knows_the_classes(finished):
    """What stands in for depth is not a bystander: its own logits, from RGB pictures, tell the classes apart."""
    name, result = finished
    model, _ = build_model(result.run)
    rng = np.random.default_rng(6)
    crops = torch.stack([torch.from_numpy(tiny.picture(n % 3, rng)[0]).permute(2, 0, 1) for n in range(30)])
    source = to_network_input(crops, "rgb", None, model.inputs)
    if name == "pix2pix":
        source = model.generators["depth_of_rgb"](source)
    stream = model.stream("depth" if name == "pix2pix" else "hallucination")
    modality = stream.modalities[0]
    logits = stream.logits(stream.encoder(source, modality).f1, modality)
    assert (logits.argmax(1) == torch.arange(30) % 3).float().mean() >= 0.7
