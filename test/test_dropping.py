"""Input Dropout and ModDrop: how much is dropped, what is left, and that nothing leaks of what was dropped."""

from __future__ import annotations

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
from small_methods import BATCH, batch_for
from small_methods import build as build_method

from mmcl_core.engine.optim import make_optimizer, select, set_mode
from mmcl_core.engine.trainer import train
from mmcl_core.errors import ConfigError, UntrainedModalityError
from mmcl_core.methods import method_class
from mmcl_core.modality import to_network_input
from mmcl_core.nn.concatenated import ConcatenatedNetwork
from mmcl_core.recognizer import Recognizer
from mmcl_core.weights import build_model, load_weights, save_weights

MANY = 30_000
VARIANTS = {
    "other": ("method=input_dropout", "train.target=rgb"),
    "either": ("method=input_dropout", "input_dropout.drop=either"),
    "moddrop": ("method=moddrop", "moddrop.alone_epochs=2"),
}


def build(variant, *overrides):
    return build_method(*VARIANTS[variant], *overrides)


def dropped(*numbers):
    return {"dropped": torch.tensor(numbers)}


def terms_of(method, system, stage, batch):
    set_mode(system, stage)
    select(system, stage.updates[0])
    torch.manual_seed(0)
    return method.losses(system, batch, stage, stage.updates[0])


def step(method, system, stage, batch):
    optimizer = make_optimizer(system, stage.updates[0], torch.device("cpu"))
    terms = terms_of(method, system, stage, batch)
    sum(terms.values()).backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return terms


def make_sure(system):
    """Answers so large that a clip, or a penalty, would show in the loss."""
    for name, parameter in system.named_parameters():
        if name.endswith("classifier.output.weight"):
            parameter.data *= 100


def inputs_of(network, batch, name):
    picture = batch.pictures[name]
    return to_network_input(picture.image, name, picture.camera, network.inputs)


@pytest.mark.parametrize(
    ("variant", "overrides", "message"),
    [
        ("other", ["train.target=both"], "input_dropout.drop=either"),
        ("other", ["train.modalities=[rgb]"], "name two"),
        ("either", ["train.modalities=[rgb, depth, rgb_right]"], "name two"),
        ("moddrop", ["train.modalities=[rgb]"], "supervised"),
        *((variant, ["data.label_share=0"], "label_share") for variant in VARIANTS),
    ],
)
def test_impossible_settings_are_refused(variant, overrides, message):
    with pytest.raises(ConfigError, match=message):
        build(variant, *overrides)


# ---------------------------------------------------------------- input dropout


@pytest.mark.parametrize("target", ["rgb", "depth"])
@pytest.mark.parametrize("probability", [0.5, 0.2, 1.0])
def test_the_other_modality_is_dropped_at_its_rate(target, probability):
    method, _ = build("other", f"train.target={target}", f"input_dropout.probability={probability}")
    drawn = method.draw(MANY, method.stages()[0], torch.Generator().manual_seed(0))["dropped"]
    other = 1 if target == "rgb" else 0
    assert set(drawn.tolist()) <= {other, -1}
    assert (drawn == other).float().mean().item() == pytest.approx(probability, abs=0.01)


@pytest.mark.parametrize("target", ["both", "rgb"])
def test_one_the_other_or_none_a_third_each(target):
    method, _ = build("either", f"train.target={target}")
    drawn = method.draw(MANY, method.stages()[0], torch.Generator().manual_seed(0))["dropped"]
    for what in (-1, 0, 1):
        assert (drawn == what).float().mean().item() == pytest.approx(1 / 3, abs=0.01)


def test_what_samples_are_left_with():
    """What a sample has alone is not dropped; one with nothing, or nothing to learn from, counts nowhere."""
    rgb = torch.tensor([1, 1, 1, 1, 1, 0, 0, 0, 0]).bool()
    depth = torch.tensor([1, 1, 1, 0, 0, 1, 1, 0, 1]).bool()
    draws = dropped(0, 1, -1, 0, 1, 0, 1, 0, -1)
    expected = {
        "rgb": [0, 1, 0, 1, 1, 0, 0, 0, 0],
        "depth": [1, 0, 0, 0, 0, 1, 1, 0, 1],
        "rgb+depth": [0, 0, 1, 0, 0, 0, 0, 0, 0],
    }
    for variant in ("either", "other"):
        method, _ = build(variant)
        batch = batch_for(method, method.stages()[0])
        batch.present, batch.draws = {"rgb": rgb, "depth": depth}, draws
        found = {"+".join(names): mask.int().tolist() for names, mask in method.patterns(batch).items()}
        assert found == ({k: v for k, v in expected.items() if k != "depth"} if variant == "other" else expected)


def test_input_dropout_against_one_sample_group_at_a_time():
    """The loss is the mean over samples; a block that was dropped holds zeros, at the place of its modality."""
    method, system = build("either")
    stage = method.stages()[0]
    batch = batch_for(method, stage)
    batch.draws = dropped(*([0] * 5 + [1] * 3 + [-1] * 4))
    make_sure(system)
    found = terms_of(method, system, stage, batch)["class"]
    rgb, depth = (inputs_of(system, batch, name) for name in ("rgb", "depth"))
    x = torch.cat((rgb, depth), 1)
    x[:5, :3], x[5:8, 3:] = 0, 0
    entropy = 0.0
    for rows, pattern in ((slice(0, 5), "depth"), (slice(5, 8), "rgb"), (slice(8, 12), "rgb+depth")):
        logits = system.model.logits(system.model.encoder(x[rows], pattern, levels=()).f1, pattern)
        entropy = entropy + F.cross_entropy(logits, batch.labels[rows], reduction="sum")
    assert found.item() == pytest.approx(entropy.item() / BATCH, rel=1e-5)


@pytest.mark.parametrize("variant", ["other", "either"])
def test_nothing_leaks_of_a_dropped_picture(variant):
    """Whatever a dropped picture shows, loss and weights are the same; of one that is kept they are not."""
    states = []
    for number, row in ((0, 2), (1, 2), (1, 7)):  # the sample that is changed; 0: none
        method, system = build(variant)
        stage = method.stages()[0]
        batch = batch_for(method, stage)
        batch.draws = dropped(*([1] * 6 + [-1] * 6))
        batch.pictures["depth"].image[row] += 300.0 * number
        step(method, system, stage, batch)
        states.append(system.state_dict())
    same, other = (all(torch.equal(v, states[0][k]) for k, v in state.items()) for state in states[1:])
    assert same
    assert not other


@pytest.mark.parametrize("variant", ["other", "either"])
def test_the_answer_for_rgb_sees_zeros_in_the_place_of_depth(variant):
    method, system = build(variant)
    stage = method.stages()[0]
    for _ in range(2):
        step(method, system, stage, batch_for(method, stage))
    network = method.deployed(system).eval()
    batch = batch_for(method, stage)
    rgb = inputs_of(network, batch, "rgb")
    f1 = network.model.encoder(torch.cat((rgb, torch.zeros_like(rgb)), 1), "rgb", levels=()).f1
    logits, embedding = network(batch.pictures["rgb"].image, "rgb")
    assert torch.equal(embedding, f1)
    assert torch.equal(logits, network.model.classifier(f1, "rgb").mlp)
    assert network.trained_modalities() == (("rgb",) if variant == "other" else ("rgb", "depth"))
    if variant == "other":
        with pytest.raises(UntrainedModalityError, match="depth"):
            network(batch.pictures["depth"].image, "depth")
    with pytest.raises(UntrainedModalityError, match="rgb_right"):
        network(batch.pictures["rgb"].image, "rgb_right")


def test_pictures_are_registered_and_the_first_convolution_is_widened():
    method, system = build("either")
    assert method.augmenter(method.stages()[0]).aligned
    assert system.model.encoder.stem[0].weight.shape[1] == 6
    with pytest.raises(ConfigError, match="init_from"):
        system.init_from("anything")


# ---------------------------------------------------------------- moddrop


def test_each_modality_is_kept_by_itself():
    method, _ = build("moddrop", "moddrop.modality_keep=0.7")
    alone, together = method.stages()
    assert method.draw(5, alone, torch.Generator()) == {}
    kept = method.draw(MANY, together, torch.Generator().manual_seed(0))
    for name in ("rgb", "depth"):
        assert kept[name].float().mean().item() == pytest.approx(0.7, abs=0.01)
    assert (kept["rgb"] & kept["depth"]).float().mean().item() == pytest.approx(0.49, abs=0.01)


def test_the_publications_rates_are_the_defaults():
    method, _ = build("moddrop")
    assert (method.config.moddrop.modality_keep, method.config.moddrop.input_keep) == (0.9, 0.8)
    method, _ = build("other")
    assert method.config.input_dropout.probability == 0.5


def test_single_values_are_dropped_and_the_others_scaled_up():
    method, system = build("moddrop", "moddrop.input_keep=0.8")
    batch = batch_for(method, method.stages()[1])
    batch.draws = {"rgb": torch.ones(BATCH, dtype=torch.bool), "depth": torch.arange(BATCH) < 5}
    own = inputs_of(system, batch, "rgb")
    seen = method.seen(system, batch, "rgb")
    kept = seen != 0
    assert kept.float().mean().item() == pytest.approx(0.8, abs=0.01)
    assert torch.allclose(seen[kept], own[kept] / 0.8)
    assert not torch.equal(kept[:, 0], kept[:, 1])  # single values, not pixels
    depth = method.seen(system, batch, "depth")
    assert depth[5:].eq(0).all()
    assert depth[:5].ne(0).any()


def test_the_streams_are_first_trained_alone():
    method, system = build("moddrop")
    alone, together = method.stages()
    assert (alone.validates, together.validates) == (False, True)
    batch = batch_for(method, alone)
    terms = terms_of(method, system, alone, batch)
    for name in ("rgb", "depth"):
        picture = batch.pictures[name]
        logits, _ = system.stream(name)(picture.image, name, picture.camera)
        assert terms[f"class {name}"].item() == pytest.approx(F.cross_entropy(logits, batch.labels).item(), rel=1e-5)
    for _ in range(2):
        step(method, system, alone, batch)
    before = {key: value.clone() for key, value in system.state_dict().items()}
    method.start_stage(system, together)
    assert all(torch.equal(value, before[key]) for key, value in system.state_dict().items())
    step(method, system, together, batch_for(method, together))
    changed = {key for key, value in system.state_dict().items() if not torch.equal(value, before[key])}
    weights = {key for key, _ in system.named_parameters() if "classifier.linear" not in key}
    assert weights <= changed


def test_the_loss_together_is_that_of_the_mean_of_the_logits():
    method, system = build("moddrop", "moddrop.input_keep=1")
    stage = method.stages()[1]
    batch = batch_for(method, stage)
    keep = {"rgb": torch.arange(BATCH) % 4 != 0, "depth": torch.arange(BATCH) % 3 != 0}
    batch.draws = keep
    make_sure(system)
    found = terms_of(method, system, stage, batch)["class"]
    logits = []
    for name, mask in keep.items():
        x = inputs_of(system, batch, name) * mask[:, None, None, None]
        logits.append(system.stream(name).logits(system.stream(name).encoder(x, name, levels=()).f1, name))
    assert found.item() == pytest.approx(F.cross_entropy(sum(logits) / 2, batch.labels).item(), rel=1e-5)


def test_nothing_leaks_of_a_dropped_modality():
    states = []
    for number, row in ((0, 2), (1, 2), (1, 7)):
        method, system = build("moddrop")
        stage = method.stages()[1]
        batch = batch_for(method, stage)
        batch.draws = {"rgb": torch.ones(BATCH, dtype=torch.bool), "depth": torch.arange(BATCH) > 5}
        batch.pictures["depth"].image[row] += 300.0 * number
        step(method, system, stage, batch)
        states.append(system.state_dict())
    same, other = (all(torch.equal(v, states[0][k]) for k, v in state.items()) for state in states[1:])
    assert same
    assert not other


def test_moddrop_answers_with_zeros_in_the_place_of_the_missing_modality():
    method, system = build("moddrop", "train.target=rgb")
    stage = method.stages()[1]
    for _ in range(2):
        step(method, system, stage, batch_for(method, stage))
    network = method.deployed(system).eval()
    assert network.modalities == ("rgb",)
    batch = batch_for(method, stage)
    rgb = inputs_of(network, batch, "rgb")
    expected = sum(
        network.stream(name).logits(network.stream(name).encoder(x, name, levels=()).f1, name)
        for name, x in (("rgb", rgb), ("depth", torch.zeros_like(rgb)))
    )
    assert torch.allclose(network(batch.pictures["rgb"].image, "rgb")[0], expected / 2, atol=1e-6)


# ---------------------------------------------------------------- both methods


@pytest.mark.parametrize("variant", VARIANTS)
def test_absent_pictures_do_not_matter(variant):
    present = {"depth": torch.arange(BATCH) % 4 != 1, "rgb": torch.arange(BATCH) % 5 != 2}
    results = []
    for fill in (0.0, float("nan")):
        method, system = build(variant)
        for stage in method.stages():
            step(method, system, stage, batch_for(method, stage, present=present, fill=fill))
        results.append(system.state_dict())
    for key, value in results[0].items():
        assert torch.equal(value, results[1][key])
        assert value.isfinite().all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_unlabelled_samples_and_empty_batches_teach_nothing(variant):
    method, system = build(variant)
    nobody = {name: torch.zeros(BATCH, dtype=torch.bool) for name in ("rgb", "depth")}
    for stage in method.stages():
        full = terms_of(method, system, stage, batch_for(method, stage))
        unlabelled = terms_of(method, system, stage, batch_for(method, stage, labels=torch.full((BATCH,), -1)))
        assert set(full) == set(unlabelled)
        assert all(value == 0 for value in unlabelled.values())
        empty = terms_of(method, system, stage, batch_for(method, stage, present=nobody))
        assert set(full) == set(empty)
        assert all(value.isfinite() for value in empty.values())
        sum(empty.values()).backward()


@pytest.mark.parametrize("variant", [*VARIANTS, "cmc"])
def test_a_resnet_in_the_place_of_the_encoder(variant):
    pytest.importorskip("torchvision", reason="a ResNet needs torchvision")
    options = VARIANTS.get(variant, ("method=cmc", "cmc.width=8"))
    config = tiny.settings("unused", "model.dropout=0", "model.backbone=resnet18", *options)
    method = method_class(config.method)(config, tiny.CLASSES, BATCH, np.arange(BATCH))
    system = method.build()
    for stage in method.stages():
        assert all(value.isfinite() for value in step(method, system, stage, batch_for(method, stage)).values())
    network = method.deployed(system).eval()
    logits, embedding = network(batch_for(method, stage).pictures["rgb"].image, "rgb")
    assert logits.shape == (BATCH, 3)
    assert embedding.shape == (BATCH, 32)


# ---------------------------------------------------------------- whole runs


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.make_set(tmp_path_factory.mktemp("dropping") / "set", samples=60)


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_learns_and_answers_from_one_modality(variant, data, tmp_path):
    epochs = ("train.epochs=6", "moddrop.alone_epochs=6") if variant == "moddrop" else ("train.epochs=14",)
    result = train(tiny.settings(data, *VARIANTS[variant], *epochs), tmp_path / "run")
    recognizer, rng = Recognizer.load(result.run), np.random.default_rng(5)
    pictures = [tiny.picture(n % 3, rng) for n in range(30)]
    wanted = [tiny.CLASSES[n % 3] for n in range(30)]
    asked = {"rgb": [rgb for rgb, _ in pictures], "depth": [depth for _, depth in pictures]}
    trained = ["rgb"] if variant == "other" else ["rgb", "depth"]
    assert load_weights(result.run)[1]["trained_modalities"] == trained
    for name in trained:
        answers = recognizer.recognize(**{name: asked[name]})
        assert sum(one == other for one, other in zip(answers.labels, wanted, strict=True)) >= 21
    if variant != "moddrop":
        model, _ = build_model(result.run)
        assert isinstance(model, ConcatenatedNetwork)


def test_onnx_file_of_a_concatenated_network(tmp_path):
    tiny.needs_onnx()
    from mmcl_core import export

    method, system = build("either")
    for seed in range(2):
        step(method, system, method.stages()[0], batch_for(method, method.stages()[0], seed=seed))
    save_weights(tmp_path / "weights.safetensors", system, {"classes": list(tiny.CLASSES)})
    assert export.main([str(tmp_path), "--out", str(tmp_path / "onnx"), "--quiet"]) == 0
    ours, theirs = Recognizer.load(tmp_path, device="cpu"), Recognizer.load(tmp_path / "onnx", device="cpu")
    rng = np.random.default_rng(5)
    rgb, depth = zip(*(tiny.picture(n % 3, rng) for n in range(6)), strict=True)
    for crops in ({"rgb": list(rgb)}, {"depth": list(depth)}):
        found, expected = theirs.recognize(**crops), ours.recognize(**crops)
        np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-4)
        np.testing.assert_allclose(found.embeddings, expected.embeddings, atol=1e-4)
