"""What a finished run leaves: temperatures that fit its answers, figures that are those of its weights; and no run at
all where the set is damaged."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
import tiny
import torch

from mmcl_core import metrics
from mmcl_core.data.batches import BatchSource
from mmcl_core.data.cache import PreparedSet
from mmcl_core.data.splits import split_indices
from mmcl_core.engine.evaluation import Settings, evaluate
from mmcl_core.engine.results import write_results
from mmcl_core.engine.sweep.worker import is_complete
from mmcl_core.engine.trainer import train
from mmcl_core.engine.validation import Outputs, collect, fit_temperatures
from mmcl_core.errors import CheckpointError, DataError
from mmcl_core.weights import build_model, model_id

CPU = torch.device("cpu")
BOTH = ("rgb", "depth")
TEST = {"split": "test", "label": "set-test", "hide_camera": False}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Some pictures show another class than they are said to, so that no answer deserves full confidence."""

    def sometimes_another(label, rng, picture=tiny.picture):
        return picture(int(rng.integers(3)) if rng.random() < 0.3 else label, rng)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny, "picture", sometimes_another)
        return tiny.make_set(tmp_path_factory.mktemp("finished") / "set")


@pytest.fixture(scope="module")
def config(data):
    return tiny.settings(data, "train.epochs=5", "optim.lr=1e-2", "data.val_fraction=0.4", "train.validate_every=0")


@pytest.fixture(scope="module")
def finished(config, tmp_path_factory):
    return train(config, tmp_path_factory.mktemp("finished") / "run").run


@pytest.fixture
def evaluated(finished, data, tmp_path):
    """A copy of the run, its figures on the test split beside it, and the job that asked for them."""
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    test = TEST | {"folder": str(data)}
    write_results(evaluate(run, data, Settings(split="test", device="cpu")), run / "evaluation" / test["label"])
    return run, test


# --- temperatures -----------------------------------------------------------------------------------------------------


def entropy(probabilities, labels):
    return -np.log(probabilities[np.arange(len(labels)), labels]).mean()


def right_at_times(generator, labels, share, scale):
    """Logits that favour the label, or in the other rows a class by chance."""
    by_chance = torch.randint(5, labels.shape, generator=generator)
    favoured = torch.where(torch.rand(len(labels), generator=generator) < share, labels, by_chance)
    near = torch.randn(len(labels), 5, generator=generator)
    return scale * (near + 2 * torch.nn.functional.one_hot(favoured, 5))


@pytest.mark.parametrize("scales", [(4.0, 0.5), (0.3, 6.0)])
def test_the_fusion_of_calibrated_answers_is_calibrated_in_its_turn(scales):
    """Against a grid over what the recogniser computes: :func:`mmcl_core.metrics.fuse` of the two softmaxes."""
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(5, (600,), generator=generator)
    logits = {name: right_at_times(generator, labels, 0.7, scale) for name, scale in zip(BOTH, scales, strict=True)}
    there = torch.rand(600, generator=generator) < 0.8
    labels[:20] = -1
    outputs = Outputs(logits, {"rgb": torch.ones(600, dtype=torch.bool), "depth": there}, labels)
    found = fit_temperatures(outputs, BOTH)
    use = (there & (labels >= 0)).numpy()
    parts = [metrics.softmax(logits[name].numpy()[use], found[name]) for name in BOTH]
    grid = np.linspace(0.2, 3, 561)
    best = min(grid, key=lambda t: entropy(metrics.fuse(parts, t), labels.numpy()[use]))
    assert 0.3 < best < 2.9
    assert abs(best - 1) > 0.05
    assert found["rgbd"] == pytest.approx(best, abs=0.006)
    own = grid * scales[0]
    rgb = labels.numpy() >= 0
    best = min(own, key=lambda t: entropy(metrics.softmax(logits["rgb"].numpy()[rgb], t), labels.numpy()[rgb]))
    assert found["rgb"] == pytest.approx(best, abs=0.006 * scales[0])


def test_a_run_is_calibrated_on_the_answers_of_what_it_deploys(finished, config):
    model, metadata = build_model(finished)
    prepared = PreparedSet.open(config.data.root)
    _, held_out, _ = split_indices(prepared, config.data, config.seed)
    source = BatchSource(prepared, held_out, batch=5, shuffle=False, resident="memmap", modalities=BOTH)
    answers = collect(lambda picture, name: model(picture.image, name, picture.camera)[0], source, BOTH, 32, CPU, False)
    assert len(answers.labels) == 16
    expected = fit_temperatures(answers, BOTH)
    assert metadata["temperature"] == pytest.approx(expected, rel=1e-3)
    assert metadata["temperature"].keys() == {"rgb", "depth", "rgbd"}
    assert all(0.06 < value < 19 and abs(value - 1) > 0.01 for value in metadata["temperature"].values())


# --- figures of these very weights ------------------------------------------------------------------------------------


def test_a_run_is_complete_with_all_its_figures(evaluated):
    run, test = evaluated
    assert is_complete(run, [test])
    assert is_complete(run, [])
    assert not is_complete(run, [test, test | {"label": "other-test"}])
    assert not is_complete(run, [test | {"label": "other-test"}])


def test_figures_of_other_weights_do_not_count(evaluated):
    run, test = evaluated
    path = run / "evaluation" / test["label"] / "metrics.json"
    report = json.loads(path.read_text())
    assert report["model"]["model_id"] == model_id(run)
    path.write_text(json.dumps(report | {"model": report["model"] | {"model_id": "0123456789ab-89abcdef"}}))
    assert not is_complete(run, [test])
    path.write_text(json.dumps(report)[:-20])
    assert not is_complete(run, [test])
    path.write_text(json.dumps(report))
    assert is_complete(run, [test])


@pytest.mark.parametrize("content", ["[]", "null", "{}", '{"model": null}', "\udcff"])
def test_edited_figures_are_made_anew(evaluated, content):
    run, test = evaluated
    path = run / "evaluation" / test["label"] / "metrics.json"
    path.write_bytes(content.encode(errors="surrogateescape"))
    assert not is_complete(run, [test])
    path.write_text(json.dumps({"model": {"model_id": model_id(run)}, "modalities": {"rgb": {"top1": None}}}))
    assert not is_complete(run, [test])


def test_a_run_with_damaged_weights_costs_no_other_one(evaluated):
    run, test = evaluated
    (run / "weights.safetensors").write_bytes(b"damaged")
    assert not is_complete(run, [test])


def test_what_a_process_leaves_that_is_killed_at_the_end_goes_with_the_next(finished, config, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    before = {path.name for path in run.iterdir()}
    for name in ("state.pt", "state.pt.77.part"):  # the weights were there, and the state not gone yet
        (run / name).write_bytes(b"state")
    train(config, run, resume=True)
    assert {path.name for path in run.iterdir()} == before


@pytest.mark.parametrize("damage", ["cut off", "not finite"])
def test_damaged_weights_of_the_run_itself_are_to_be_made_anew(finished, config, tmp_path, damage):
    """They may be found nowhere else."""
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    path = run / "weights.safetensors"
    assert train(config, run, resume=True).scores
    content = path.read_bytes()
    path.write_bytes(content[:-9] if damage == "cut off" else content[:-64] + b"\xff" * 64)
    told = f"{re.escape(str(path))} .*; copy it again from the run; if it is the run's own, remove that folder"
    with pytest.raises(CheckpointError, match=told):
        train(config, run, resume=True)


def test_a_run_that_has_not_ended_is_not_complete(evaluated):
    run, test = evaluated
    (run / "weights.safetensors").rename(run / "state.pt")
    assert not is_complete(run, [test])
    assert not is_complete(run, [])


# --- a damaged set ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rgb.u8", "depth.u16"])
def test_one_bit_of_a_picture_is_enough_to_refuse_training(data, tmp_path, name):
    copy = tmp_path / "set"
    shutil.copytree(data, copy)
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(DataError, match=f"{name} was changed"):
        train(tiny.settings(copy), tmp_path / "run")
    assert not (tmp_path / "run").exists()
