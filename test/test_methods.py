"""What each method asks for and what its losses are made of."""

from __future__ import annotations

import sys

import pytest
import tiny
import torch
import torch.nn.functional as F
from small_methods import BATCH, batch_for, build, losses

from mmcl_core.augment import Picture
from mmcl_core.engine import plain
from mmcl_core.engine.optim import MovingAverage, make_optimizer, select, set_mode
from mmcl_core.engine.runlog import read_rows
from mmcl_core.engine.trainer import train
from mmcl_core.errors import ConfigError
from mmcl_core.methods import METHODS, method_class
from mmcl_core.nn.losses import CrossModalNCE
from mmcl_core.weights import load_weights


def test_registry_names_classes_and_suggests():
    for name in METHODS:
        assert method_class(name).name == name
    with pytest.raises(ConfigError, match="did you mean supervised"):
        method_class("supervized")


def test_a_method_is_imported_when_asked_for():
    import subprocess

    code = "import sys, mmcl_core.methods; print(sorted(m for m in sys.modules if m.startswith('mmcl_core.methods.')))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_mmcl_terms_and_targets():
    method, system = build("train.target=rgb")
    terms = losses(method, system)
    pairs = {f"{p} {a}->{b}" for p in ("1-5", "1-7", "5-7") for a, b in (("rgb", "depth"), ("depth", "rgb"))}
    assert set(terms) == pairs | {"regulariser", "class rgb linear", "class rgb mlp"}
    both, _ = build()
    assert {n for n in losses(both, both.build()) if n.startswith("class")} == {
        f"class {m} {head}" for m in ("rgb", "depth") for head in ("linear", "mlp")
    }
    # The classifier never sees the modality that is not classified.
    assert system.classifier.norm.trained_modalities() == ("rgb",)
    assert set(system.encoder.norm.trained_modalities()) == {"rgb", "depth"}


def plain_terms(method, system, batch, stage):
    """The terms of a stage, each view encoded by itself, contrasted and classified by the plain formulation."""
    loss, views, terms = method.config.loss, method.views(stage), {}
    features = {view: system.features(p.image, views[view], p.camera) for view, p in batch.pictures.items()}
    of_target = {target: [view for view in views if views[view] == target] for target in method.targets}
    apart = method.name == "amdim"
    for group in () if stage.name == "heads" else of_target.values() if apart else [list(views)]:
        settings = (loss.level_pairs, loss.clip, loss.regulariser, loss.direction_weight)
        for name, value in plain.contrast({v: features[v] for v in group}, batch.draws, *settings).items():
            of = f" {views[group[0]]}" if apart and name == "regulariser" else ""
            terms[name + of] = loss.contrastive_weight * value
    for target, group in () if stage.name == "contrast" else of_target.items():
        seen = group[:1] if apart and not method.config.amdim.classify_both else group
        scores = [system.classifier(features[view].f1, target) for view in seen]
        for head in ("linear", "mlp"):
            settings = (batch.labels, loss.logit_clip, loss.logit_regulariser)
            parts = [plain.classify(getattr(one, head), *settings) for one in scores]
            terms[f"class {target} {head}"] = loss.classification_weight * sum(parts) / len(parts)
    return terms


@pytest.mark.parametrize("target", ["depth", "both"])
@pytest.mark.parametrize("name", ["mmcl", "amdim", "amdim amdim.classify_both=true", "two_step"])
def test_terms_are_those_of_the_plain_formulation_with_the_settings_of_the_run(name, target):
    settings = (
        "level_pairs=[1-5, 5-5]", "clip=2", "regulariser=0.2", "direction_weight=0.7", "contrastive_weight=0.5",
        "classification_weight=2", "logit_clip=4", "logit_regulariser=0.01",
    )  # fmt: skip
    words = f"method={name} train.target={target}".split()
    method, system = build(*words, *(f"loss.{text}" for text in settings))
    with torch.no_grad():  # so large that clip and penalty show
        system.classifier.linear.weight *= 10
        system.classifier.output.weight *= 10
    labels = torch.where(torch.arange(BATCH) < 9, torch.arange(BATCH) % 3, -1)
    for stage in method.stages():
        batch = batch_for(method, stage, labels=labels)
        set_mode(system, stage)
        found = method.losses(system, batch, stage, stage.updates[0])
        expected = plain_terms(method, system, batch, stage)
        assert set(found) == set(expected)
        for term, value in expected.items():
            assert found[term].item() == pytest.approx(value.item(), rel=1e-4), term


@pytest.mark.parametrize(
    ("name", "stage", "reached"),
    [("mmcl", 0, True), ("amdim", 0, True), ("supervised", 0, True), ("two_step", 1, False)],
)
def test_whether_labels_teach_the_encoder(name, stage, reached):
    method, system = build(f"method={name}", "train.target=rgb")
    losses(method, system)  # two_step: running statistics for the frozen encoder
    stage = method.stages()[stage]
    select(system, stage.updates[0])
    terms = losses(method, system, stage)
    sum(value for term, value in terms.items() if term.startswith("class")).backward()
    gradient = system.encoder.stem[0].weight.grad
    assert (gradient is not None and bool(gradient.any())) == reached
    assert system.classifier.output.weight.grad.any()


def test_every_weight_of_mmcl_is_trained():
    method, system = build("loss.level_pairs=[1-5, 5-5]")
    sum(losses(method, system).values()).backward()
    assert [name for name, p in system.named_parameters() if p.grad is None] == []
    assert list(system.encoder.heads) == ["5"]


def test_agreement_learns_from_pairs_without_labels_and_from_nothing_else():
    method, system = build("loss.agreement_weight=1", "loss.contrastive_weight=0")
    unlabelled = torch.full((BATCH,), -1)

    def gradient(**given):
        system.zero_grad()
        terms = losses(method, system, labels=unlabelled, **given)
        assert {"agreement linear", "agreement mlp"} <= set(terms)
        sum(terms.values()).backward()
        return sum(float(p.grad.abs().sum()) for p in system.classifier.parameters() if p.grad is not None)

    assert gradient() > 0
    alone = {"rgb": torch.arange(BATCH) < 6, "depth": torch.arange(BATCH) >= 6}  # never both
    assert gradient(present=alone) == 0
    assert gradient(present={"rgb": torch.zeros(BATCH).bool()}) == 0


def test_agreement_of_samples_that_have_both_equals_leaving_the_others_out():
    method, system = build("loss.agreement_weight=1")
    present = {"depth": torch.arange(BATCH) < 8}
    part = losses(method, system, present=present)["agreement mlp"]
    system.zero_grad()
    other = losses(method, system, present=present, fill=300.0)["agreement mlp"]
    torch.testing.assert_close(part, other)
    assert part > 0


def test_agreement_is_weighted():
    found = [losses(*build(f"loss.agreement_weight={weight}")) for weight in (1, 2.5)]
    for head in ("linear", "mlp"):
        assert found[1][f"agreement {head}"].item() == pytest.approx(2.5 * found[0][f"agreement {head}"].item())


def test_agreement_needs_two_targets():
    with pytest.raises(ConfigError, match="compares the answers of several targets"):
        build("loss.agreement_weight=1", "train.target=rgb")


def test_three_modalities_make_all_ordered_pairs():
    method, system = build("train.modalities=[rgb, depth, rgb_right]", "loss.level_pairs=[1-1]")
    stage = method.stages()[0]
    pictures = batch_for(method, stage).pictures
    pictures["rgb_right"] = Picture(255 * torch.rand(BATCH, 3, 32, 32), torch.zeros(BATCH, 4))
    batch = batch_for(method, stage)
    batch.pictures = pictures
    terms = method.losses(system, batch, stage, stage.updates[0])
    assert sum("->" in name for name in terms) == 6


@pytest.mark.parametrize("name", ["mmcl", "amdim", "two_step"])
def test_negatives_of_the_same_class_are_dropped_by_the_labels_of_the_run(name):
    """All of one class: no contrast is left. Hidden labels: nothing is dropped."""
    one_class, hidden = torch.zeros(BATCH, dtype=torch.int64), torch.full((BATCH,), -1)
    found = {}
    for drop in ("false", "true"):
        for labels in (one_class, hidden):
            method, system = build(f"method={name}", f"loss.drop_same_class={drop}")
            terms = losses(method, system, labels=labels)
            found[drop, int(labels[0])] = torch.stack([v for term, v in terms.items() if "->" in term])
    assert (found["false", 0] > 0).all()
    assert (found["true", 0] == 0).all()
    assert torch.equal(found["true", -1], found["false", -1])


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_supervised_is_plain_cross_entropy(head):
    method, system = build("method=supervised", "train.target=depth", f"model.predict_with={head}")
    with torch.no_grad():  # so large that a clip or a penalty would show
        system.classifier.linear.weight *= 100
        system.classifier.output.weight *= 100
    found = losses(method, system)
    stage = method.stages()[0]
    picture = batch_for(method, stage).pictures["depth"]
    f1 = system.features(picture.image, "depth", picture.camera, levels=()).f1
    logits = getattr(system.classifier(f1, "depth"), head)
    assert logits.abs().max() > 10
    assert list(found) == ["class depth"]
    assert found["class depth"].item() == pytest.approx(
        F.cross_entropy(logits, torch.arange(BATCH) % 3).item(), rel=1e-5
    )
    assert system.modalities == ("depth",)
    assert len(system.encoder.heads) == 0


def test_amdim_contrasts_two_views_of_one_modality():
    method, system = build("method=amdim", "loss.level_pairs=[1-5]")
    stage = method.stages()[0]
    assert method.views(stage) == {"rgb_a": "rgb", "rgb_b": "rgb", "depth_a": "depth", "depth_b": "depth"}
    names = {name for name in losses(method, system) if "->" in name}
    assert names == {f"1-5 {m}_{a}->{m}_{b}" for m in ("rgb", "depth") for a, b in (("a", "b"), ("b", "a"))}
    single, network = build("method=amdim", "train.target=depth")
    assert network.modalities == ("depth",)
    assert set(single.draw(5, stage, torch.Generator())) == {"depth_a", "depth_b"}


def test_two_step_stages():
    method, system = build("method=two_step", "train.head_epochs=30", "optim.milestones=[50]")
    first, second = method.stages()
    assert (first.self_supervised, first.validates, second.validates) == (True, False, True)
    assert second.updates[0].optim.milestones == (16, 26)  # the authors' program steps after epochs 15 and 25
    assert second.updates[0].optim.warmup_steps == method.config.optim.warmup_steps
    assert not any(name.startswith("class") for name in losses(method, system, first))
    assert set(losses(method, system, second)) == {
        f"class {m} {h}" for m in ("rgb", "depth") for h in ("linear", "mlp")
    }
    alone, _ = build("method=two_step", "train.modalities=[rgb]")
    assert list(alone.views(alone.stages()[0])) == ["rgb_a", "rgb_b"]
    assert list(alone.views(alone.stages()[1])) == ["rgb"]
    single, _ = build("method=two_step", "train.target=depth")  # what is not classified is not encoded in vain
    assert [list(single.views(stage)) for stage in single.stages()] == [["rgb", "depth"], ["depth"]]


@pytest.mark.parametrize("name", ["two_step", "cmc"])
def test_without_a_label_there_is_no_stage_for_the_classifier(name):
    """Whether the labels are hidden or the set has none."""
    for overrides, labelled, expected in (
        ((), True, 2), ((), False, 1), (("data.label_share=0",), True, 1), (("train.head_epochs=0",), False, 1),
    ):  # fmt: skip
        config = tiny.settings("unused", f"method={name}", *overrides)
        method = method_class(name)(config, tiny.CLASSES, labelled=labelled)
        assert [stage.name for stage in method.stages()] == ["contrast", "heads" if name == "two_step" else "probe"][
            :expected
        ]


@pytest.mark.parametrize("name", ["supervised", "input_dropout", "moddrop", "pix2pix", "admd", "hallucination"])
def test_a_set_without_labels_is_refused_by_what_learns_from_them(name):
    config = tiny.settings("some/set", f"method={name}", "train.target=rgb")
    with pytest.raises(ConfigError, match=r"no sample of the split 'train' in some/set has one; label some"):
        method_class(name)(config, tiny.CLASSES, labelled=False)


def test_heads_stage_leaves_the_encoder_alone():
    method, system = build("method=two_step")
    first, second = method.stages()
    losses(method, system, first)  # gives the encoder running statistics
    before = {key: value.clone() for key, value in system.state_dict().items()}
    optimizer = make_optimizer(system, second.updates[0], torch.device("cpu"))
    sum(losses(method, system, second).values()).backward()
    optimizer.step()
    changed = {key for key, value in system.state_dict().items() if not torch.equal(value, before[key])}
    assert changed
    assert all(key.startswith("classifier.") for key in changed)
    assert not system.encoder.norm.training
    assert system.classifier.norm.training


@pytest.mark.parametrize("name", ["mmcl"])
def test_single_modality_is_refused(name):
    with pytest.raises(ConfigError, match="amdim"):
        build(f"method={name}", "train.modalities=[rgb]")


def test_draws_repeat_and_have_a_row_a_sample():
    method, _ = build()
    stage = method.stages()[0]
    first, again = (method.draw(50, stage, torch.Generator().manual_seed(4)) for _ in range(2))
    assert set(first) == {"rgb", "depth"}
    for view, cells in first.items():
        assert torch.equal(cells, again[view])
        assert cells.shape == (50,)
        assert cells.min() >= 0
        assert cells.max() < 25


def test_hidden_labels_stay_hidden(tmp_path, monkeypatch):
    """A run on few labels gives the contrastive loss these and no others."""
    seen = []
    forward = CrossModalNCE.forward

    def record(self, features, cells=None, valid=None, labels=None):
        seen.extend(labels.tolist())
        return forward(self, features, cells, valid, labels)

    monkeypatch.setattr(CrossModalNCE, "forward", record)
    root = tiny.make_set(tmp_path / "set")
    options = ("loss.drop_same_class=true", "data.label_share=0.25", "train.epochs=1", "train.validate_every=0")
    train(tiny.settings(root, *options), tmp_path / "run")
    kept = (tmp_path / "run" / "labelled.txt").read_text().split()
    assert len(seen) == 32
    assert len(kept) == 8
    assert sum(label >= 0 for label in seen) == 8


@pytest.mark.parametrize("target", ["rgb", "both"])
@pytest.mark.parametrize("name", ["mmcl", "amdim", "supervised", "two_step"])
def test_moving_average_and_cosine_with_one_target_or_both(name, target, tmp_path, monkeypatch):
    """The average is deployed, every stage ends at a rate near zero, and what was taught is what answers."""
    last = {}
    update = MovingAverage.update

    def remember(self, system, step):
        update(self, system, step)
        for which, network in (("raw", system), ("average", self.system)):
            last[which] = network.classifier.linear.weight.detach().clone()

    monkeypatch.setattr(MovingAverage, "update", remember)
    root, run = tiny.make_set(tmp_path / "set"), tmp_path / "run"
    options = (f"method={name}", f"train.target={target}", "train.epochs=4", "train.head_epochs=4", "train.log_every=1")
    result = train(tiny.settings(root, *options, "optim.schedule=cosine", "optim.ema=0.9"), run)
    state, metadata = load_weights(run)
    assert torch.equal(state["classifier.linear.weight"], last["average"])
    # The baseline trains the other head alone.
    assert torch.equal(last["average"], last["raw"]) == (name == "supervised")
    taught = ["rgb"] if target == "rgb" else ["depth", "rgb"]
    assert sorted(metadata["trained_modalities"]) == taught
    assert all(f"accuracy/{modality}" in result.scores for modality in taught)
    rows = read_rows(run, "train")
    for stage in {row["stage"] for row in rows}:
        rates = [row["lr"] for row in rows if row["stage"] == stage]
        assert max(rates) > 5e-4
        assert rates[-1] < 5e-5
