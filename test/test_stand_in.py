"""Methods in which a stream stands in for a missing modality: what teaches what, what is frozen, what is looked at."""

from __future__ import annotations

import pytest
import tiny
import torch
import torch.nn.functional as F
from small_methods import BATCH
from small_stand_ins import batch_for, build, logits_of, stage_of, terms_of, warm_up

from mmcl_core.engine.optim import make_optimizer
from mmcl_core.errors import ConfigError
from mmcl_core.method_config import AdmdConfig, HallucinationConfig, Pix2PixConfig
from mmcl_core.methods import method_class

METHODS = ("pix2pix", "admd", "hallucination")


def take_step(method, system, stage, batch=None):
    """One update each, as the trainer does it."""
    for update in stage.updates:
        optimizer = make_optimizer(system, update, torch.device("cpu"))
        torch.stack(list(terms_of(method, system, stage, update, batch).values())).sum().backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


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
    for one in ("alone", "together"):  # in one of them it was taught
        build("hallucination", f"hallucination.{one}_epochs=0")


def test_stages_of_no_epochs_are_left_out():
    names = {}
    for name in METHODS:
        method = method_class(name)(tiny.settings("unused", f"method={name}", "train.target=rgb"), tiny.CLASSES)
        names[name] = [(stage.name, stage.epochs) for stage in method.stages()]
    assert names["pix2pix"] == [("gan", 200), ("alone", 37), ("classify", 2)]
    assert names["admd"] == [("alone", 59), ("together", 15), ("hallucinate", 2)]
    assert names["hallucination"] == [*names["admd"], ("finetune", 15)]
    method, _ = build("admd", "admd.together_epochs=0", "admd.finetune_epochs=0")
    assert [stage.name for stage in method.stages()] == ["alone", "hallucinate"]
    method, _ = build("pix2pix", "pix2pix.alone_epochs=0")
    assert [stage.name for stage in method.stages()] == ["gan", "classify"]
    assert [stage.validates for stage in method.stages()] == [False, True]  # no stream is trained in the first


@pytest.mark.parametrize("name", ["admd", "hallucination"])
def test_what_was_trained_is_finetuned_gently(name):
    method, _ = build(name, f"{name}.finetune_rate=0.1", "optim.lr=0.02")
    rates = {stage.name: stage.updates[-1].optim.lr for stage in method.stages()}
    assert (rates["alone"], rates["together"], rates["finetune"]) == pytest.approx((0.02, 0.002, 0.002))


@pytest.mark.parametrize(("name", "stage"), [("hallucination", "together"), ("pix2pix", "alone")])
def test_class_logits_that_streams_give_together_are_not_clipped(name, stage):
    method, _ = build(name, "loss.logit_clip=1", "loss.logit_regulariser=1")
    pair = batch_for(method, stage_of(method, stage))
    logits = 10 * torch.randn(BATCH, len(tiny.CLASSES), generator=torch.Generator().manual_seed(3))
    expected = F.cross_entropy(logits, pair.labels, ignore_index=-1)
    assert method.joint([logits - 1, logits + 1], pair).item() == pytest.approx(expected.item(), rel=1e-5)


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
    for name, parameter in system.named_parameters():
        if name.endswith("classifier.output.weight"):
            parameter.data *= 100  # so large that a clip, or a penalty, would show
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


@pytest.mark.parametrize("backbone", ["encoder", "resnet18"])
@pytest.mark.parametrize("name", METHODS)
def test_any_pair_of_modalities_and_back_end(name, backbone):
    """Depth is asked about, and what is missing is the picture of another depth sensor; all stages take a step."""
    modalities = "train.modalities=[depth, depth_left]"
    method, system = build(name, modalities, "train.target=depth", f"model.backbone={backbone}")
    for stage in method.stages():
        method.start_stage(system, stage)
        take_step(method, system, stage)
    network = method.deployed(system).eval()
    assert network.trained_modalities() == ("depth",)
    image = 500 + 700 * torch.rand(4, 1, 32, 32)
    logits, embedding = network(image, "depth", torch.zeros(4, 4))
    assert (logits.shape, embedding.shape) == ((4, 3), (4, method.config.model.nrkhs))
    assert logits.isfinite().all()


@pytest.mark.parametrize("name", METHODS)
def test_views_that_teach_one_another_are_registered(name):
    method, _ = build(name)
    for stage in method.stages():
        augmenter = method.augmenter(stage)
        assert augmenter.aligned == (stage.name in ("gan", "hallucinate"))
        expected = {"gan": {"rgb", "depth"}, "hallucinate": {"depth"}}
        assert augmenter.plain == expected.get(stage.name, set())


@pytest.mark.parametrize("name", ["pix2pix", "admd"])
def test_adversaries_are_trained_by_plain_adam_at_rates_of_their_own(name):
    method, _ = build(name, f"{name}.lr=0.003", f"{name}.betas=[0.4, 0.98]", "optim.name=sgd", "optim.weight_decay=0.1")
    stage = stage_of(method, "gan" if name == "pix2pix" else "hallucinate")
    assert len(stage.updates) == 2
    for optim in (update.optim for update in stage.updates):
        assert (optim.name, optim.lr, optim.betas) == ("adam", 0.003, (0.4, 0.98))
        assert (optim.weight_decay, optim.warmup_steps, optim.schedule) == (0, 0, "constant")


def test_the_publications_numbers_are_the_defaults():
    made, hallucinated = Pix2PixConfig(), HallucinationConfig()
    assert (made.l1_weight, made.lr, made.betas, made.width, made.dropout) == (100, 2e-4, (0.5, 0.999), 64, 0.5)
    admd = AdmdConfig()
    assert (admd.hidden, admd.lr, admd.betas, admd.finetune_epochs) == (1024, 1e-6, (0.9, 0.999), 0)
    assert (hallucinated.distance, hallucinated.imitation, hallucinated.temperature) == ("sigmoid", 0.5, 10)
