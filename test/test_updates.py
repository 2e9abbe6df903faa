"""What an update is: what it is drawn from, what it does to the weights, and which weights are judged.

An update is repeated by hand on the weights, pictures and labels that the trainer gives it.
"""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
from torch import nn

from mmcl_core.data.batches import BatchSource
from mmcl_core.engine.distributed import World
from mmcl_core.engine.optim import MovingAverage
from mmcl_core.engine.recording import batch_tensors
from mmcl_core.engine.runlog import read_rows
from mmcl_core.engine.samples import Samples
from mmcl_core.engine.schedule import average_decay, learning_rate
from mmcl_core.engine.trainer import Trainer, train
from mmcl_core.engine.validation import collect, scores
from mmcl_core.methods import METHODS
from mmcl_core.methods.two_step import TwoStep
from mmcl_core.weights import load_weights

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return tiny.make_set(tmp_path_factory.mktemp("updates") / "set")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def begun(data, run, *overrides, stage=0, precision="float32"):
    """A trainer at the start of a stage, and the parts of its first update."""
    trainer = Trainer(tiny.settings(data, *overrides), run, World(), CPU, precision)
    trainer.enter(stage, None)
    with trainer.ready(0) as updates:
        return trainer, next(updates)


def weights(system):
    return {name: value.detach().clone() for name, value in system.state_dict().items()}


def equal(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def step(trainer, parts):
    """The loss terms of an update, by name."""
    trainer.train_step(parts)
    return dict(zip(trainer.window.names, trainer.window.values()[-1].tolist(), strict=False))


# --- what is drawn ----------------------------------------------------------------------------------------------------


class Restarted(TwoStep):
    """Its classifier starts anew with the second stage."""

    name = "toy"

    def start_stage(self, system, stage):
        if stage.name == "heads":
            nn.init.normal_(system.classifier.linear.weight)


def what_is_drawn(data, run, seed):
    words = ("method=toy", f"seed={seed}", "data.label_share=0.5", "train.batch=8", "train.accumulate=2")
    trainer, parts = begun(data, run, *words)
    samples = trainer.samples
    found = {
        "weights": torch.cat([p.detach().flatten() for p in trainer.system.parameters()]),
        "validation": torch.cat([batch.index for batch in samples.validation.ordered()]),
        "labels": samples.labelled_keys(),
        "order": torch.cat([batch.index for batch, _ in parts]),
    }
    for name in ("rgb", "depth"):
        found[name] = torch.cat([views.pictures[name].image for _, views in parts])
        found[f"cells of {name}"] = torch.cat([views.draws[name] for _, views in parts])
    trainer.enter(1, None)
    found["restarted"] = trainer.system.classifier.linear.weight.detach().clone()
    return found


def same(one, other):
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def test_everything_follows_from_the_seed(data, tmp_path, monkeypatch):
    monkeypatch.setitem(METHODS, "toy", "test_updates:Restarted")
    first, again, other = (what_is_drawn(data, tmp_path, seed) for seed in (0, 0, 1))
    assert {name for name in first if not same(first[name], again[name])} == set()
    assert {name for name in first if same(first[name], other[name])} == set()
    assert len(first["labels"]) == len(other["labels"]) == 16


def test_the_order_follows_from_the_seed_where_all_samples_are_trained_on(data):
    orders = []
    for seed in (0, 0, 1):
        samples = Samples(tiny.settings(data, f"seed={seed}", "data.val_fraction=0"), World(), CPU)
        with samples.epoch(0, 0) as updates:
            orders.append([index for (batch,) in updates for index in batch.index.tolist()])
    assert orders[0] == orders[1] != orders[2]
    assert sorted(orders[0]) == sorted(orders[2]) == list(range(40))


def test_pictures_follow_from_the_seed_beside_the_order(data, tmp_path):
    """The same batch, augmented with another seed."""
    trainer, parts = begun(data, tmp_path, "seed=0")
    batches, places = [batch for batch, _ in parts], [(0, 0, 0)]
    views = {}
    for seed in (0, 1):
        samples = Samples(tiny.settings(data, f"seed={seed}"), World(), CPU)
        (made,) = samples.views(batches, trainer.augmenter, trainer.stage, places)
        views[seed] = list(batch_tensors(made))
    pairs = [list(zip(views[seed], batch_tensors(parts[0][1]), strict=True)) for seed in (0, 1)]
    assert all(torch.equal(*pair) for pair in pairs[0])
    assert not torch.equal(*next(pair for pair in pairs[1] if pair[0].ndim == 4))


def test_what_drops_out_follows_from_seed_update_and_process(data, tmp_path):
    """The same pictures and weights; the terms of the loss tell which units were left out."""
    words = ("model.dropout=0.5", "method=supervised", "optim.lr=0")
    trainer, parts = begun(data, tmp_path, *words, "seed=0")
    start = weights(trainer.system)
    terms = []
    for seed, number, rank in ((0, 0, 0), (0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1)):
        trainer, _ = begun(data, tmp_path, *words, f"seed={seed}")
        trainer.system.load_state_dict(start)
        trainer.step, trainer.world = number, World(rank)
        terms.append(step(trainer, parts))
    assert terms[0] == terms[1]
    assert all(terms[0][name] != other[name] for other in terms[2:] for name in terms[0])


def test_every_place_of_a_run_has_draws_of_its_own(data):
    config = tiny.settings(data, "train.accumulate=2", "method=two_step")
    samples = Samples(config, World(), CPU)
    stage = samples.method.stages()[0]
    augmenter = samples.method.augmenter(stage)
    with samples.epoch(0, 0) as batches:
        batch = next(batches)[0]
    places = [(0, 0, 0), (0, 0, 1), (0, 1, 0), (1, 0, 0)]
    made = samples.views([batch] * 4, augmenter, stage, places)
    for name in ("rgb", "depth"):
        assert len({views.pictures[name].image.numpy().tobytes() for views in made}) == len(places)
        assert len({views.draws[name].numpy().tobytes() for views in made}) == len(places)


def test_no_update_of_a_run_is_like_another(tmp_path, monkeypatch):
    """All samples are one picture, so that equal parts mean equal draws."""
    shown = tiny.picture(0, np.random.default_rng(0))
    monkeypatch.setattr(tiny, "picture", lambda label, rng: shown)
    data = tiny.make_set(tmp_path / "set")
    words = ("method=two_step", "train.epochs=2", "train.head_epochs=2", "train.accumulate=2", "train.batch=8")
    config = tiny.settings(data, *words)
    seen = []

    def record(trainer, parts, train_step=Trainer.train_step):
        assert len(parts) == 2
        for batch, views in parts:
            pictures = [views.pictures[name].image.numpy().tobytes() for name in ("rgb", "depth")]
            seen.append((trainer.stage.name, batch.index.tolist(), views.index.tolist(), *pictures))
        train_step(trainer, parts)

    monkeypatch.setattr(Trainer, "train_step", record)
    train(config, tmp_path / "run")
    samples = Samples(config, World(), CPU)
    source = BatchSource(samples.prepared, samples.rows, samples.labels, batch=4, seed=config.seed)
    expected = [source.batch(epoch, part).index.tolist() for epoch in range(4) for part in range(8)]
    assert [index for _, index, _, _, _ in seen] == [index for _, _, index, _, _ in seen] == expected
    assert [name for name, *_ in seen] == ["contrast"] * 16 + ["heads"] * 16
    for place in (3, 4):
        assert len({part[place] for part in seen}) == len(seen)


def test_nothing_that_drops_out_is_drawn_like_something_else(data, tmp_path, monkeypatch):
    """Every stage, update, adversary and part of a batch has a seed of its own."""
    seeds, seed = [], torch.manual_seed
    monkeypatch.setattr(torch, "manual_seed", lambda number: seeds.append(number) or seed(number))
    words = ("train.batch=16", "train.accumulate=2", "train.epochs=1", "train.validate_every=0")
    adversaries = ("method=pix2pix", "train.target=rgb", "pix2pix.width=2")
    stages = ("pix2pix.gan_epochs=1", "pix2pix.alone_epochs=1")
    train(tiny.settings(data, *words, *adversaries, *stages), tmp_path / "run")
    updates, parts = 2 + 1 + 1, 2  # of the three stages together; two steps in each
    assert len(seeds) == len(set(seeds)) == 1 + 3 + 2 * updates * parts


# --- what an update does ----------------------------------------------------------------------------------------------


def test_an_update_against_one_by_hand(data, tmp_path):
    """SGD on the mean over both parts, its gradient clipped, at the rate of the first update of a warm-up."""
    words = (
        "method=supervised", "model.dropout=0", "train.accumulate=2", "loss.label_smoothing=0.2",
        "loss.classification_weight=0.7", "optim.name=sgd", "optim.lr=2", "optim.warmup_steps=5",
        "optim.weight_decay=0.01", "optim.clip_grad=0.05",
    )  # fmt: skip
    trainer, parts = begun(data, tmp_path, *words)
    assert len(parts) == 2
    before = weights(trainer.system)
    model = Trainer(trainer.config, tmp_path, World(), CPU, "float32").system.train()
    assert equal(before, weights(model))
    found, after = step(trainer, parts), weights(trainer.system)

    means = {"class rgb": 0.0, "class depth": 0.0}
    for _, views in parts:
        for name in ("rgb", "depth"):
            picture = views.pictures[name]
            logits, _ = model(picture.image, name, picture.camera)
            likely = logits.log_softmax(1)
            truth = F.one_hot(views.labels, 3) * 0.8 + 0.2 / 3
            means[f"class {name}"] = means[f"class {name}"] + 0.7 * -(truth * likely).sum(1).mean() / 2
    named = {name: p for name, p in model.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(sum(means.values()), list(named.values()), allow_unused=True)
    norm = torch.stack([g.norm() for g in gradients if g is not None]).norm().item()
    assert norm > 2 * 0.05, "the bound bites"
    assert found == pytest.approx({**{name: v.item() for name, v in means.items()}, "grad_norm": norm}, rel=1e-4)

    rate = learning_rate(0, trainer.config.optim, trainer.steps_per_epoch, 2)
    assert rate == pytest.approx(2 / 5)
    for (name, parameter), gradient in zip(named.items(), gradients, strict=True):
        if gradient is None:  # the head that does not answer
            assert torch.equal(after[name], before[name])
            continue
        moved = rate * (gradient * 0.05 / norm + 0.01 * parameter.detach())
        torch.testing.assert_close(before[name] - after[name], moved, rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("overrides", "stage"),
    [
        (("method=mmcl",), 0),
        (("method=supervised", "loss.label_smoothing=0.1"), 0),
        (("method=input_dropout", "input_dropout.drop=either"), 0),
        (("method=moddrop", "moddrop.input_keep=1"), 1),
        (("method=hallucination", "train.target=rgb"), 1),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
)
def test_every_label_of_a_step_weighs_the_same_whatever_part_it_is_in(tmp_path, overrides, stage):
    data = tiny.make_set(tmp_path / "set", missing=True)
    words = ("model.dropout=0", "optim.lr=0", "train.batch=24", "train.accumulate=2", "data.val_fraction=0")
    trainer, parts = begun(data, tmp_path, *words, *overrides, stage=stage)
    for (_, views), kept in zip(parts, (1, 9), strict=True):
        views.labels[torch.arange(12) >= kept] = -1
    torch.manual_seed(0)
    found = step(trainer, parts)
    sums, counts = dict.fromkeys(found, 0.0), dict.fromkeys(found, 0)
    for _, views in parts:
        there = {name: views.present.get(name, torch.ones(12, dtype=torch.bool)) for name in ("rgb", "depth")}
        terms = trainer.method.losses(trainer.system, views, trainer.stage, trainer.stage.updates[0])
        for name, value in terms.items():
            about = there if trainer.method.name == "hallucination" else name.split()
            number = int(
                torch.stack([views.labels >= 0, *(there[word] for word in about if word in there)]).all(0).sum()
            )
            sums[name], counts[name] = sums[name] + number * value.item(), counts[name] + number
    classes = [name for name in found if name.startswith("class")]
    assert classes
    for name in classes:
        assert found[name] == pytest.approx(sums[name] / counts[name], rel=1e-4), name
    trainer, parts = begun(data, tmp_path, *words, *overrides, stage=stage)
    for _, views in parts:
        views.labels[:] = -1
    assert all(value == 0 for name, value in step(trainer, parts).items() if name.startswith("class"))


@pytest.mark.parametrize(
    ("overrides", "stage", "name"),
    [
        (("method=mmcl",), 0, "class depth mlp"),
        (("method=supervised",), 0, "class depth"),
        (("method=hallucination", "train.target=rgb"), 1, "class"),
    ],
)
def test_a_sample_that_is_left_out_as_the_only_one_of_its_part_does_not_count(tmp_path, overrides, stage, name):
    """The mean over the labels is then that of the other part alone."""
    data = tiny.make_set(tmp_path / "set", missing=True)
    words = ("model.dropout=0", "optim.lr=0", "train.batch=24", "train.accumulate=2", "data.val_fraction=0")
    trainer, parts = begun(data, tmp_path, *words, *overrides, stage=stage)
    (_, first), (_, second) = parts
    first.present["rgb"][:], first.present["depth"][:] = True, torch.arange(12) < 1
    found = step(trainer, parts)
    alone = trainer.method.losses(trainer.system, second, trainer.stage, trainer.stage.updates[0])
    assert found[name] > 0
    assert found[name] == pytest.approx(alone[name].item(), rel=1e-4)


def test_no_gradient_is_left_for_the_next_update(data, tmp_path):
    words = ("method=supervised", "model.dropout=0", "optim.lr=0", "optim.clip_grad=1", "train.accumulate=2")
    trainer, parts = begun(data, tmp_path, *words)
    first, second = step(trainer, parts), step(trainer, parts)
    assert first["grad_norm"] > 0
    assert second == pytest.approx(first, rel=1e-5)


def test_a_stage_has_the_schedule_of_its_own_epochs(data, tmp_path):
    words = ("method=two_step", "train.epochs=1", "train.head_epochs=3", "train.log_every=1", "train.validate_every=0")
    train(tiny.settings(data, *words, "optim.schedule=cosine", "optim.warmup_steps=0"), tmp_path / "run")
    rates = {"contrast": [], "heads": []}
    for row in read_rows(tmp_path / "run", "train"):
        rates[row["stage"]].append(row["lr"])
    for name, updates in (("contrast", 4), ("heads", 12)):
        cosine = [1e-3 * (1 + math.cos(math.pi * number / updates)) / 2 for number in range(updates)]
        assert rates[name] == pytest.approx(cosine)


def test_bf16_is_computed_where_it_is_asked_for_and_is_close(data, tmp_path):
    terms = {}
    for precision in ("float32", "bf16"):
        trainer, parts = begun(data, tmp_path, precision=precision)
        terms[precision] = step(trainer, parts)
        assert all(p.dtype == torch.float32 for p in trainer.system.parameters())
    assert terms["bf16"] == pytest.approx(terms["float32"], rel=0.05)
    classes = [name for name in terms["bf16"] if name.startswith("class")]
    assert classes
    assert all(terms["bf16"][name] != terms["float32"][name] for name in classes)


# --- which weights are judged -----------------------------------------------------------------------------------------


def test_the_average_is_validated_chosen_and_deployed(data, tmp_path, monkeypatch):
    """The average is made again from the weights after each update, and asked about the validation samples."""
    config = tiny.settings(data, "optim.ema=0.9", "optim.lr=1e-2", "train.epochs=5", "train.keep=best")
    state, averages, plain = {}, [], []

    def watched(trainer, parts, train_step=Trainer.train_step):
        if not state:
            state.update(weights(trainer.system))
        train_step(trainer, parts)
        share = 1 - average_decay(trainer.step, 0.9)
        now, parameters = weights(trainer.system), dict(trainer.system.named_parameters())
        for name, value in now.items():
            state[name] = state[name] + share * (value - state[name]) if name in parameters else value
        if (trainer.step + 1) % trainer.steps_per_epoch == 0:
            averages.append({name: value.clone() for name, value in state.items()})
            plain.append(now)

    monkeypatch.setattr(Trainer, "train_step", watched)
    train(config, tmp_path / "run")
    samples = Samples(config, World(), CPU)
    model = samples.method.build().eval()

    def judged(state):
        model.load_state_dict(state)
        ask = partial(samples.method.predict, model)
        return scores(collect(ask, samples.validation, ("rgb", "depth"), 32, CPU, False), ("rgb", "depth"))

    rows = read_rows(tmp_path / "run", "val")
    expected = [judged(average) for average in averages]
    assert len(rows) == len(expected) == 5
    for row, one, other in zip(rows, expected, plain, strict=True):
        assert {name: row[name] for name in one} == pytest.approx(one, rel=1e-4)
        assert judged(other)["loss/rgb"] != pytest.approx(one["loss/rgb"], rel=1e-3), "the last weights say otherwise"
    best = max(range(5), key=lambda epoch: (expected[epoch]["accuracy"], -epoch))
    deployed, metadata = load_weights(tmp_path / "run")
    assert metadata["selection"] == f"best validation accuracy, epoch {best + 1} of 5, average of the weights"
    assert metadata["validation"] == pytest.approx(expected[best], rel=1e-3)
    for name, value in deployed.items():
        torch.testing.assert_close(value, averages[best][name], rtol=1e-3, atol=1e-5)


def test_a_stage_hands_on_the_average(data, tmp_path, monkeypatch):
    """The classifier is trained on the averaged encoder, which is what it is deployed with.

    The average begins anew with every stage, and forgets its start as fast.
    """
    last, steps = {}, []

    def watched(average, system, step, update=MovingAverage.update):
        update(average, system, step)
        steps.append(step)
        if system.encoder.training:
            last.update(average=weights(average.system.encoder), raw=weights(system.encoder))

    monkeypatch.setattr(MovingAverage, "update", watched)
    words = ("method=two_step", "optim.ema=0.9", "optim.lr=1e-2", "train.head_epochs=1", "train.validate_every=0")
    train(tiny.settings(data, *words), tmp_path / "run")
    state = load_weights(tmp_path / "run")[0]
    deployed = {key: state[f"encoder.{key}"] for key in last["average"]}
    assert equal(deployed, last["average"])
    assert not equal(deployed, last["raw"])
    assert steps == [*range(8), *range(4)]
