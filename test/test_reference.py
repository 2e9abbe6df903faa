"""Numbers recorded from the authors' program (float32) for a small model: one training step and an evaluation.

The view x1 is the classified one. Its biases in front of a BatchNorm have no gradient but rounding; they are
held to that instead of to the recorded rounding.
"""

from __future__ import annotations

import pytest
import torch
from conftest import shared_data

from mmcl_core.config import ModelConfig
from mmcl_core.errors import CheckpointError
from mmcl_core.nn.authors import convert_authors_state, load_authors_state
from mmcl_core.nn.losses import CrossModalNCE, classification_loss
from mmcl_core.nn.model import RecognitionModel

pytestmark = pytest.mark.data
VIEWS = {"x1": "rgb", "x2": "depth"}
CONFIG = ModelConfig(ndf=16, nrkhs=128, depth=3, dropout=0.0)
TOLERANCE = 1e-4
LR = 2e-4


def no_gradient(name):
    return name.endswith("shortcut.bias")


def path():
    return shared_data("..", "reference", "reference_small.pt")


@pytest.fixture(scope="module")
def recorded():
    return torch.load(path(), weights_only=True)


def relative(ours, theirs):
    return ((ours - theirs).norm() / theirs.norm()).item()


def ours_by_theirs(recorded):
    """The authors' parameter names -> ours, by sending tags through the conversion."""
    state = {key: value for key, value in recorded["state_dict"].items() if not key.endswith("num_batches_tracked")}
    tags = {key: torch.tensor(number) for number, key in enumerate(state)}
    names = {int(tag): name for name, tag in convert_authors_state(tags, ("rgb",)).items()}
    return {key: names[int(tag)] for key, tag in tags.items() if int(tag) in names}


class Step:
    """One training step of the loaded model; what it computed on the way."""

    def __init__(self, recorded):
        self.model = RecognitionModel(CONFIG, ("rgb", "depth"), 19)
        self.model.load_state_dict(load_authors_state(path()))
        self.model.train()
        optimiser = torch.optim.Adam(self.model.parameters(), LR, (0.8, 0.999), 1e-8, weight_decay=1e-5)
        self.features = {view: self.model.encoder(recorded[view], modality) for view, modality in VIEWS.items()}
        cells = {view: recorded[f"src5_idx_{view}"] for view in VIEWS}
        self.terms = CrossModalNCE(("1-5", "1-7", "5-5"), direction_weight=0.5)(self.features, cells)
        self.parts = {
            pair: CrossModalNCE((pair,), direction_weight=1.0)(self.features, cells) for pair in ("1-5", "1-7", "5-5")
        }
        self.logits = self.model.classifier(self.features["x1"].f1, "rgb")
        self.classification = {
            name: classification_loss(getattr(self.logits, name), recorded["labels"]) for name in ("linear", "mlp")
        }
        self.total = sum(self.terms.values()) + sum(self.classification.values())
        optimiser.zero_grad()
        self.total.backward()
        self.grads = {name: p.grad.clone() for name, p in self.model.named_parameters()}
        optimiser.step()


@pytest.fixture(scope="module")
def step(recorded):
    return Step(recorded)


@pytest.mark.parametrize("view", VIEWS)
def test_features(step, recorded, view):
    f1, f5, f7 = step.features[view]
    assert relative(f1, recorded[f"r1_{view}"].flatten(1)) < TOLERANCE
    assert relative(f5, recorded[f"r5_{view}"]) < TOLERANCE
    assert relative(f7, recorded[f"r7_{view}"]) < TOLERANCE


def test_each_contrastive_part_and_its_regulariser(step, recorded):
    for pair, parts in step.parts.items():
        regularisers = 0.0
        for direction in ("x1->x2", "x2->x1"):
            theirs = recorded["nce_parts"][f"{pair.replace('-', 't')} {direction}"]
            assert parts[f"{pair} {direction}"].item() == pytest.approx(float(theirs["loss"]), rel=TOLERANCE)
            regularisers += float(theirs["lgt_reg"])
        assert parts["regulariser"].item() == pytest.approx(regularisers, rel=TOLERANCE)


def test_losses_and_their_sum(step, recorded):
    for pair in ("1-5", "1-7", "5-5"):
        ours = step.terms[f"{pair} x1->x2"] + step.terms[f"{pair} x2->x1"]
        assert ours.item() == pytest.approx(float(recorded["losses"][f"g2l_{pair.replace('-', 't')}"]), rel=TOLERANCE)
    assert step.terms["regulariser"].item() == pytest.approx(float(recorded["losses"]["lgt_reg"]), rel=TOLERANCE)
    assert step.classification["mlp"].item() == pytest.approx(float(recorded["cls_mlp"]), rel=TOLERANCE)
    assert step.classification["linear"].item() == pytest.approx(float(recorded["cls_lin"]), rel=TOLERANCE)
    assert step.total.item() == pytest.approx(float(recorded["total"]), rel=TOLERANCE)


def test_logits(step, recorded):
    assert relative(step.logits.mlp, recorded["logits_mlp"]) < TOLERANCE
    assert relative(step.logits.linear, recorded["logits_lin"]) < TOLERANCE


def test_gradients(step, recorded):
    names = ours_by_theirs(recorded)
    assert {names[key] for key in recorded["grad_norms"]} == set(step.grads)
    for key, theirs in recorded["grads"].items():
        if not no_gradient(names[key]):
            assert relative(step.grads[names[key]], theirs) < TOLERANCE, key
    for key, norm in recorded["grad_norms"].items():
        ours = step.grads[names[key]].norm().item()
        assert ours < 1e-4 if no_gradient(names[key]) else ours == pytest.approx(norm, rel=TOLERANCE), key


def test_parameters_after_one_adam_step(step, recorded):
    names = ours_by_theirs(recorded)
    parameters = dict(step.model.named_parameters())
    for key, theirs in recorded["params_after_adam"].items():
        ours = parameters[names[key]].detach()
        if no_gradient(names[key]):
            assert (ours - recorded["state_dict"][key]).abs().max() < 1.01 * LR
        else:
            assert relative(ours, theirs) < TOLERANCE, key


def test_the_shared_running_statistics_follow_from_those_per_modality(step, recorded):
    before = convert_authors_state(recorded["state_dict"], ("rgb", "depth"))
    after = convert_authors_state(recorded["state_dict"] | recorded["buffers_after_step"], ("rgb",))
    ours = step.model.state_dict()
    for key in (key for key in before if "encoder" in key and key.endswith(("rgb.mean", "rgb.var"))):
        # x1, then x2 went into the one set: s -> 0.9 s + 0.1 b1 -> 0.9 (0.9 s + 0.1 b1) + 0.1 b2
        newest = ours[key.replace("rgb", "depth")] - 0.9 * before[key]
        assert relative(0.9 * ours[key] + newest, after[key]) < TOLERANCE, key


def test_evaluation_with_the_authors_running_statistics(step, recorded):
    model = RecognitionModel(CONFIG, ("rgb", "depth"), 19)
    state = convert_authors_state(recorded["state_dict"] | recorded["buffers_after_step"], ("rgb", "depth"))
    trained = dict(step.model.named_parameters())
    model.load_state_dict({key: trained.get(key, value) for key, value in state.items()})
    model.eval()
    with torch.no_grad():
        for modality in VIEWS.values():  # on import either modality has the shared statistics
            f1 = model.encoder(recorded["x1"], modality, levels=()).f1
            logits = model.classifier(f1, modality)
            assert relative(f1, recorded["eval_r1"]) < TOLERANCE
            assert relative(logits.mlp, recorded["eval_logits_mlp"]) < TOLERANCE
            assert relative(logits.linear, recorded["eval_logits_lin"]) < TOLERANCE


@pytest.mark.parametrize("shape", ["plain", "wrapped", "nested", "bare"])
def test_checkpoints_of_every_shape_are_read(recorded, tmp_path, shape):
    state = recorded["state_dict"]
    saved = {
        "plain": state,
        "wrapped": {"model": {f"module.{key}": value for key, value in state.items()}, "epoch": 3},
        "nested": {"args": {"lr": 0.1}, "nets": {"cnn": {k.replace("module.", ""): v for k, v in state.items()}}},
        "bare": {k.removeprefix("encoder."): v for k, v in state.items() if k.startswith("encoder.")},
    }[shape]
    torch.save(saved, tmp_path / "authors.pth")
    expected = load_authors_state(path())
    loaded = load_authors_state(tmp_path / "authors.pth")
    if shape == "bare":
        expected = {key: value for key, value in expected.items() if key.startswith("encoder.")}
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[key], value) for key, value in expected.items())


def test_init_from_takes_the_encoder_and_leaves_the_classifiers(recorded):
    model = RecognitionModel(CONFIG, ("depth", "rgb_right"), 5)
    before = {key: value.clone() for key, value in model.classifier.state_dict().items()}
    taken = model.init_from(path())
    state = load_authors_state(path(), ("depth", "rgb_right"))
    ours = model.state_dict()
    assert set(taken) == {key for key in ours if key.startswith("encoder.")}
    assert all(torch.equal(ours[key], state[key]) for key in taken)
    assert all(torch.equal(value, before[key]) for key, value in model.classifier.state_dict().items())


def test_init_from_names_settings_that_differ(recorded):
    other = RecognitionModel(ModelConfig(input_size=64, ndf=8, nrkhs=128, depth=2), ("rgb",), 5)
    with pytest.raises(CheckpointError, match=r"input_size=128, model.ndf=16, model.depth=3; .*64.*ndf=8.*depth=2"):
        other.init_from(path())


def test_files_that_are_none_are_named(recorded, tmp_path):
    with pytest.raises(CheckpointError, match="absent"):
        load_authors_state(tmp_path / "absent.pth")
    (tmp_path / "text.pth").write_text("no checkpoint")
    with pytest.raises(CheckpointError, match="text"):
        load_authors_state(tmp_path / "text.pth")
    torch.save({"model": {"fc.weight": torch.zeros(2)}}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="no encoder"):
        load_authors_state(tmp_path / "other.pth")
    torch.save({"model": tmp_path}, tmp_path / "code.pth")
    with pytest.raises(CheckpointError, match="plain tensors"):
        load_authors_state(tmp_path / "code.pth")
    (tmp_path / "cut.pth").write_bytes(path().read_bytes()[:10000])
    (tmp_path / "empty.pth").write_bytes(b"")
    for name in ("cut.pth", "empty.pth"):
        with pytest.raises(CheckpointError, match=f"{name} cannot be read as a checkpoint: .*copy it again"):
            load_authors_state(tmp_path / name)
    for value in (torch.full((16, 3, 5, 5), torch.nan), "a word"):
        diverged = recorded["state_dict"] | {"encoder.module.layer_list.0.conv.weight": value}
        torch.save(diverged, tmp_path / "diverged.pth")
        with pytest.raises(CheckpointError, match=r"diverged.pth holds weights that are no finite .*encoder.stem.0"):
            load_authors_state(tmp_path / "diverged.pth")
    truncated = {key: value for key, value in recorded["state_dict"].items() if "layer_list.8.conv1" not in key}
    torch.save(truncated, tmp_path / "short.pth")
    with pytest.raises(CheckpointError, match=r"lacks weights.*to1.conv1"):
        RecognitionModel(CONFIG, ("rgb",), 5).init_from(tmp_path / "short.pth")
    normed = dict(recorded["state_dict"])
    normed["encoder.module.layer_list.8.bn1.bn.num_batches_tracked"] = torch.tensor(9)
    torch.save(normed, tmp_path / "normed.pth")
    with pytest.raises(CheckpointError, match="BatchNorm in its units"):
        load_authors_state(tmp_path / "normed.pth")
