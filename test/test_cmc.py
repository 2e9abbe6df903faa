"""Contrastive Multiview Coding: what the memory bank holds, what an embedding is told from, what the probe changes."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
import torch.nn.functional as F
from small_methods import BATCH, batch_for

from mmcl_core.engine.optim import make_optimizer, select, set_mode
from mmcl_core.engine.runlog import read_rows
from mmcl_core.engine.trainer import train
from mmcl_core.errors import ConfigError
from mmcl_core.method_config import CmcConfig
from mmcl_core.methods import method_class
from mmcl_core.nn.memory import MemoryBank
from mmcl_core.recognizer import Recognizer
from mmcl_core.weights import load_weights

ROWS = (3, 50, 4, 11, 7, 90, 21)  # of the samples in the set: in no order, with gaps


def unit(*shape, seed=0):
    return F.normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed)), dim=-1)


def bank_of(rows=ROWS, **settings):
    torch.manual_seed(1)
    return MemoryBank(rows, 8, **settings)


def entry(bank, row):
    return bank.entries[sorted(ROWS).index(row)]


# ---------------------------------------------------------------- the bank


def test_entries_have_length_one_from_the_start_and_are_not_learnt():
    bank = bank_of()
    assert bank.entries.shape == (7, 8)
    assert torch.allclose(bank.entries.norm(dim=1), torch.ones(7))
    assert list(bank.parameters()) == []
    assert set(bank.state_dict()) == {"samples", "entries", "log_constant"}


def test_updates_against_a_slow_loop():
    """Momentum, row and length: after many updates of a few samples each, every entry is what a loop makes of it."""
    bank = bank_of(momentum=0.7)
    slow = {row: entry(bank, row).tolist() for row in ROWS}
    generator = torch.Generator().manual_seed(2)
    for step in range(12):
        chosen = [ROWS[n] for n in torch.randperm(7, generator=generator)[:3]]
        new = unit(3, 8, seed=step)
        bank.update(new, torch.tensor(chosen))
        for row, vector in zip(chosen, new.tolist(), strict=True):
            mixed = [0.7 * old + 0.3 * fresh for old, fresh in zip(slow[row], vector, strict=True)]
            length = math.sqrt(sum(value * value for value in mixed))
            slow[row] = [value / length for value in mixed]
    for row in ROWS:
        assert entry(bank, row).tolist() == pytest.approx(slow[row], abs=1e-5)


def test_only_the_samples_that_are_there_are_updated():
    bank = bank_of()
    before = bank.entries.clone()
    index, present = torch.tensor([11, 3, 90]), torch.tensor([True, False, True])
    bank.update(unit(3, 8), index, present)
    changed = {row for row in ROWS if not torch.equal(entry(bank, row), before[sorted(ROWS).index(row)])}
    assert changed == {11, 90}
    bank.update(torch.full((3, 8), math.nan), index, torch.zeros(3, dtype=torch.bool))
    assert bank.entries.isfinite().all()


@pytest.mark.parametrize("drawn", [True, False])
def test_loss_and_gradient_against_a_slow_loop(drawn):
    """Binary decisions between the sample's own entry and those of others, in double precision, one by one."""
    bank = bank_of(temperature=0.2)
    index = torch.tensor([50, 4, 90])
    draws = torch.randint(6, (3, 4), generator=torch.Generator().manual_seed(3)) if drawn else None
    queries = unit(3, 8, seed=5).requires_grad_()
    found = bank.loss(queries, index, draws)
    bank.update(queries, index)  # as in training: before backward
    (gradient,) = torch.autograd.grad(found.sum(), queries)

    fresh = bank_of(temperature=0.2)
    slow = queries.detach().double().requires_grad_()
    entries = {row: entry(fresh, row).double() for row in ROWS}
    scores = []
    for n, row in enumerate(index.tolist()):
        others = [other for other in sorted(ROWS) if other != row]
        chosen = [others[k] for k in draws[n].tolist()] if drawn else others
        scores.append([torch.dot(slow[n], entries[at]) / 0.2 for at in (row, *chosen)])
    flat = [math.exp(score.item()) for line in scores for score in line]
    constant = 7 * sum(flat) / len(flat)
    total = slow.new_zeros(())
    for n, (own, *others) in enumerate(scores):
        noise = len(others) / 7
        p = own.exp() / constant
        loss = -torch.log(p / (p + noise))
        for score in others:
            p = score.exp() / constant
            loss = loss - torch.log(noise / (p + noise))
        assert found[n].item() == pytest.approx(loss.item(), rel=1e-4)
        total = total + loss
    (expected,) = torch.autograd.grad(total, slow)
    assert torch.allclose(gradient.double(), expected, atol=1e-5)


def test_the_constant_is_that_of_the_first_batch():
    bank = bank_of()
    index = torch.tensor(ROWS)
    assert bank.log_constant.isnan()
    bank.loss(unit(0, 8), index[:0])  # no samples, no estimate
    assert bank.log_constant.isnan()
    bank.loss(unit(7, 8), index)
    first = bank.log_constant.clone()
    bank.loss(unit(7, 8, seed=9), index)
    assert torch.equal(bank.log_constant, first)


def test_a_sample_is_never_among_its_own_negatives():
    bank = bank_of()
    bank.entries = torch.eye(8)[:7]
    bank.temperature = 1.0
    index = torch.tensor(ROWS)
    queries = bank.entries[bank.positions(index)]
    for draws in (None, torch.arange(6).expand(7, 6)):
        own, others = bank.scores(queries, index, draws)
        assert own.eq(1).all()
        assert others.eq(0).all()
        assert others.shape == (7, 6)


# ---------------------------------------------------------------- the method

COUNT = 30


def build(*overrides, rows=range(COUNT)):
    options = ("method=cmc", "model.dropout=0", "cmc.width=16", "cmc.probe_epochs=2", *overrides)
    config = tiny.settings("unused", *options)
    method = method_class("cmc")(config, tiny.CLASSES, COUNT, np.array(rows))
    torch.manual_seed(0)
    return method, method.build()


def step(method, system, stage, **arguments):
    set_mode(system, stage)
    select(system, stage.updates[0])
    optimizer = make_optimizer(system, stage.updates[0], torch.device("cpu"))
    terms = method.losses(system, batch_for(method, stage, **arguments), stage, stage.updates[0])
    sum(terms.values()).backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return terms


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match="at least 2"):
        build("train.modalities=[rgb]")
    with pytest.raises(ConfigError, match="nothing learns to classify"):
        build("cmc.probe_epochs=0")
    with pytest.raises(ConfigError, match="there is one"):
        build(rows=[4])


def test_optimisers_are_the_publications_and_the_rate_is_for_embeddings_of_length_one():
    method, _ = build(
        "optim.name=muon", "optim.momentum=0.95", "model.nrkhs=32", "optim.warmup_steps=9", "optim.clip_grad=5"
    )
    contrast, probe = (stage.updates[0].optim for stage in method.stages())
    assert (contrast.name, contrast.lr, contrast.weight_decay, contrast.momentum) == ("sgd", 0.03, 1e-4, 0.9)
    assert (contrast.warmup_steps, contrast.clip_grad, probe.clip_grad) == (9, 5, 0)
    bank, cmc = method.bank(method.build(), "rgb"), CmcConfig()
    assert (bank.momentum, bank.temperature, cmc.width, cmc.negatives) == (0.5, 0.07, 128, 16384)
    assert cmc.probe_epochs == 60
    assert (probe.name, probe.lr, probe.weight_decay, probe.warmup_steps) == ("sgd", 30 / 32, 0, 0)
    method, _ = build("train.epochs=240", "cmc.probe_epochs=60", "cmc.sgd_momentum=0.8")
    contrast, probe = (stage.updates[0].optim for stage in method.stages())
    assert (contrast.momentum, probe.momentum) == (0.8, 0.8)
    assert (contrast.milestones, contrast.gamma) == ((120, 160, 200), 0.1)
    assert (probe.milestones, probe.gamma) == ((30, 40, 50), 0.2)


@pytest.mark.parametrize(("epochs", "milestones"), [(1, (1, 1, 1)), (2, (1, 2, 2)), (3, (2, 2, 3)), (8, (4, 6, 7))])
def test_in_few_epochs_the_rate_falls_no_sooner_than_after_its_share_of_them(epochs, milestones):
    method, _ = build(f"train.epochs={epochs}", f"cmc.probe_epochs={epochs}")
    assert [stage.updates[0].optim.milestones for stage in method.stages()] == [milestones] * 2


def test_the_contrast_needs_no_labels_and_nothing_can_answer_before_the_probe():
    method, _ = build()
    assert [(stage.name, stage.self_supervised, stage.validates) for stage in method.stages()] == [
        ("contrast", True, False), ("probe", False, True),
    ]  # fmt: skip
    for epochs in (0, 5):
        method, _ = build(f"cmc.probe_epochs={epochs}", "data.label_share=0")
        assert [stage.name for stage in method.stages()] == ["contrast"]


@pytest.mark.parametrize("negatives", [5, COUNT - 1, 1000])
def test_terms_against_the_bank_of_the_other_modality(negatives):
    method, system = build(f"cmc.negatives={negatives}", "cmc.momentum=0.3", "cmc.temperature=0.2")
    stage = method.stages()[0]
    set_mode(system, stage)
    batch = batch_for(method, stage)
    assert set(batch.draws) == ({"rgb", "depth"} if negatives == 5 else set())
    before = {name: method.bank(system, name).entries.clone() for name in ("rgb", "depth")}
    found = method.losses(system, batch, stage, stage.updates[0])
    assert set(found) == {"nce rgb->depth", "nce depth->rgb"}
    codes = {}
    for name in before:
        picture = batch.pictures[name]
        f1 = method.deployed(system).stream(name).features(picture.image, name, picture.camera).f1
        codes[name] = F.normalize(system.projections[name](f1), dim=1)
        expected = F.normalize(0.3 * before[name][:BATCH] + 0.7 * codes[name], dim=1)
        after = method.bank(system, name).entries
        assert torch.allclose(after[:BATCH], expected, atol=1e-5)
        assert torch.equal(after[BATCH:], before[name][BATCH:])
    for one, other in (("rgb", "depth"), ("depth", "rgb")):
        bank = MemoryBank(range(COUNT), 16, temperature=0.2)
        bank.entries = before[other]
        expected = bank.loss(codes[one], batch.index, batch.draws.get(other)).mean()
        assert found[f"nce {one}->{other}"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_each_embedding_has_negatives_of_its_own_where_samples_lack_a_modality():
    method, system = build("cmc.negatives=5")
    stage = method.stages()[0]
    there, queries = {"depth": torch.arange(BATCH) % 3 != 1}, unit(BATCH, system["projections"]["rgb"].out_features)
    batch = replace(batch_for(method, stage), present=there)
    bank, here = method.bank(system, "depth"), torch.arange(BATCH) % 4 != 2
    found = method.term(bank, batch, "depth", queries, here)
    alone = [
        bank.loss(*(value[n : n + 1] for value in (queries, batch.index, batch.draws["depth"]))) for n in range(BATCH)
    ]
    expected = torch.cat(alone)[here & there["depth"]].mean()
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_what_a_stage_changes():
    """Contrast: encoders, projections, banks. Probe: classifiers, and no statistic of an encoder."""
    method, system = build("train.target=rgb")
    changes = {
        "contrast": ("network.streams.rgb.encoder.", "network.streams.depth.encoder.", "projections.", "banks."),
        "probe": ("network.streams.rgb.classifier.",),
    }
    for stage in method.stages():
        before = {key: value.clone() for key, value in system.state_dict().items()}
        for _ in range(2):
            step(method, system, stage)
        changed = {key for key, value in system.state_dict().items() if not torch.equal(value, before[key])}
        assert all(key.startswith(changes[stage.name]) for key in changed)
        learning = {key for key, _ in system.named_parameters() if "classifier" not in key}
        assert ({"network.streams.rgb.classifier.linear.weight"} if stage.name == "probe" else learning) <= changed
    assert method.deployed(system).trained_modalities() == ("rgb",)
    assert method.deployed(system).encoded_modalities() == ("rgb", "depth")


def test_the_probe_is_linear_whatever_the_settings_say():
    method, system = build("model.predict_with=mlp")
    for stage in method.stages():
        step(method, system, stage)
    network = method.deployed(system).eval()
    assert network.config.predict_with == "linear"
    logits, f1 = network(torch.zeros(2, 3, 32, 32), "rgb")
    assert torch.equal(logits, network.stream("rgb").classifier.linear(f1))


def test_samples_that_lack_a_modality():
    """They are contrasted with nothing, and what they have keeps its entry up to date, whatever the blanks hold."""
    present = {"depth": torch.arange(BATCH) % 3 != 1, "rgb": torch.arange(BATCH) % 4 != 2}
    results = []
    for fill in (0.0, math.nan):
        method, system = build()
        before = {name: method.bank(system, name).entries.clone() for name in present}
        stage = method.stages()[0]
        terms = step(method, system, stage, present=present, fill=fill)
        results.append((terms, system.state_dict()))
        for name, mask in present.items():
            changed = (method.bank(system, name).entries != before[name]).any(1)
            assert torch.equal(changed[:BATCH], mask)
            assert not changed[BATCH:].any()
    (terms, state), (others, other_state) = results
    assert all(torch.equal(value, others[name]) for name, value in terms.items())
    assert all(torch.equal(value, other_state[key]) for key, value in state.items())
    method, system = build()
    nobody = {"depth": torch.zeros(BATCH, dtype=torch.bool)}
    assert all(value == 0 for value in step(method, system, method.stages()[0], present=nobody).values())


# ---------------------------------------------------------------- whole runs


def test_gradients_are_clipped_as_each_stage_says(tmp_path):
    """The contrast by the settings of the run, the probe not at all."""
    data = tiny.make_set(tmp_path / "set", samples=24)
    options = ("method=cmc", "train.epochs=1", "cmc.probe_epochs=1", "cmc.width=16", "optim.clip_grad=0.1")
    train(tiny.settings(data, *options, "train.log_every=1", "train.validate_every=0"), tmp_path / "run")
    norms = {"contrast": [], "probe": []}
    for row in read_rows(tmp_path / "run", "train"):
        norms[row["stage"]].append(row.get("grad_norm"))
    assert all(norm > 0 for norm in norms["contrast"])
    assert norms["probe"]
    assert not any(norms["probe"])


def test_it_learns_without_labels_and_answers_from_one_modality(tmp_path):
    data = tiny.make_set(tmp_path / "set", samples=60)
    options = (
        "method=cmc", "train.epochs=30", "cmc.probe_epochs=10", "cmc.width=16", "cmc.temperature=0.2",
        "optim.schedule=constant", "augment.policy=none", "train.validate_every=0",
    )  # fmt: skip
    result = train(tiny.settings(data, *options), tmp_path / "run")
    losses = [row["loss"] for row in read_rows(tmp_path / "run", "train") if row["stage"] == "contrast"]
    assert losses[-1] < 0.95 * losses[0]
    state, metadata = load_weights(result.run)
    assert not [key for key in state if "bank" in key or "projection" in key]
    assert metadata["trained_modalities"] == ["rgb", "depth"]
    recognizer, rng = Recognizer.load(result.run), np.random.default_rng(5)
    pictures = [tiny.picture(n % 3, rng) for n in range(30)]
    wanted = [tiny.CLASSES[n % 3] for n in range(30)]
    for answers in (
        recognizer.recognize(rgb=[rgb for rgb, _ in pictures]),
        recognizer.recognize(depth=[depth for _, depth in pictures]),
    ):
        assert sum(one == other for one, other in zip(answers.labels, wanted, strict=True)) >= 24  # three classes
