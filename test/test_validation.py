"""What is made of validation answers: temperatures, scores and probes, against loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mmcl_core.data.batches import BatchSource
from mmcl_core.data.cache import PreparedSet
from mmcl_core.data.writer import PreparedWriter, Sample
from mmcl_core.engine.probe import knn_accuracy, linear_accuracy, probe
from mmcl_core.engine.validation import Outputs, collect, fit_temperature, fit_temperatures, scores


def test_the_fusion_of_rgb_and_depth_is_calibrated_whatever_other_targets_there_are():
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(200) % 4
    values = {
        name: 3 * torch.randn(200, 4, generator=g) + 4 * F.one_hot(labels, 4) for name in ("rgb", "depth", "rgb_right")
    }
    present = {name: torch.ones(200, dtype=torch.bool) for name in values}
    present["rgb_right"][:] = False
    two = fit_temperatures(Outputs(values, present, labels), ("rgb", "depth"))["rgbd"]
    assert fit_temperatures(Outputs(values, present, labels), ("rgb", "depth", "rgb_right"))["rgbd"] == two != 1.0
    values["rgb"] *= 5  # far too sure of itself: fused as it is, it would drown depth
    each = [F.log_softmax(values[name] / fit_temperature(values[name], labels), 1) for name in ("rgb", "depth")]
    fused = fit_temperatures(Outputs(values, present, labels), ("rgb", "depth"))["rgbd"]
    assert fused == pytest.approx(fit_temperature(sum(each) / 2, labels), rel=1e-6)


def test_the_fusion_is_calibrated_on_samples_that_have_both():
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(90) % 3
    values = {name: 2 * torch.randn(90, 3, generator=g) + 3 * F.one_hot(labels, 3) for name in ("rgb", "depth")}
    for lacking in values:
        present = {name: torch.ones(90, dtype=torch.bool) for name in values}
        present[lacking][::2] = False
        logits = {**values, lacking: values[lacking].clone()}
        logits[lacking][::2] = 50 * F.one_hot((labels[::2] + 1) % 3, 3).float()  # nothing that anybody has said
        each = [
            F.log_softmax(logits[name][1::2] / fit_temperature(logits[name][has], labels[has]), 1)
            for name, has in present.items()
        ]
        expected = fit_temperature(sum(each) / 2, labels[1::2])
        found = fit_temperatures(Outputs(logits, present, labels), ("rgb", "depth"))["rgbd"]
        assert found == pytest.approx(expected, rel=1e-6)


def test_temperature_against_a_grid():
    g = torch.Generator().manual_seed(0)
    logits, labels = 4 * torch.randn(400, 5, generator=g), torch.randint(5, (400,), generator=g)
    labels[:300] = logits[:300].argmax(1)
    grid = torch.linspace(0.1, 15, 3000)
    best = min(grid.tolist(), key=lambda t: F.cross_entropy(logits / t, labels, label_smoothing=1 / 402).item())
    found = fit_temperature(logits, labels)
    assert found == pytest.approx(best, abs=0.02)
    assert fit_temperature(3 * logits, labels) == pytest.approx(3 * found, rel=1e-3)
    assert fit_temperature(logits[:0], labels[:0]) == 1.0


def test_few_answers_that_are_all_right_do_not_make_every_score_one():
    g = torch.Generator().manual_seed(0)
    labels = torch.arange(26) % 4
    logits = torch.randn(26, 4, generator=g) + 6 * F.one_hot(labels, 4)
    assert bool((logits.argmax(1) == labels).all())
    seen = (logits / fit_temperature(logits, labels)).softmax(1).amax(1).mean().item()
    assert 1 - 2 / 26 < seen < 1 - 0.5 / 26
    many = labels.repeat(200), logits.repeat(200, 1)
    assert fit_temperature(many[1], many[0]) < fit_temperature(logits, labels)


def test_scores_count_only_what_is_there():
    labels = torch.tensor([0, 1, 2, -1, 1])
    rgb, depth = (
        F.one_hot(torch.tensor([0, 1, 0, 0, 1]), 3).float(),
        F.one_hot(torch.tensor([0, 0, 2, 0, 0]), 3).float(),
    )
    present = {"rgb": torch.ones(5, dtype=torch.bool), "depth": torch.tensor([True, False, True, True, False])}
    predictions = Outputs({"rgb": rgb, "depth": depth}, present, labels)
    found = scores(predictions, ("rgb", "depth"))
    assert (found["accuracy/rgb"], found["accuracy/depth"], found["accuracy"]) == (0.75, 1.0, 0.875)
    assert found["loss/rgb"] == pytest.approx(F.cross_entropy(rgb[[0, 1, 2, 4]], labels[[0, 1, 2, 4]]).item())
    assert found["loss/depth"] == pytest.approx(F.cross_entropy(depth[[0, 2]], labels[[0, 2]]).item())
    assert fit_temperatures(None, ("rgb", "depth")) == {"rgb": 1.0, "depth": 1.0, "rgbd": 1.0}
    assert fit_temperatures(None, ("rgb",)) == {"rgb": 1.0}


def test_nearest_neighbours_against_a_loop():
    g = torch.Generator().manual_seed(1)
    known, asked = (F.normalize(torch.randn(n, 8, generator=g), dim=1) for n in (60, 30))
    known_labels, labels = (torch.randint(4, (n,), generator=g) for n in (60, 30))
    right = 0
    for row, label in zip(asked, labels, strict=True):
        near = sorted(((float(row @ other), int(of)) for other, of in zip(known, known_labels, strict=True)))[-7:]
        votes = [sum(2.718281828459045 ** (c / 0.5) for c, of in near if of == k) for k in range(4)]
        right += votes.index(max(votes)) == label
    assert knn_accuracy(known, known_labels, asked, labels, 4, k=7, tau=0.5) == pytest.approx(right / 30)


def test_probes_look_at_directions_of_labelled_embeddings_alone():
    """Lengths, samples without a label and those without the modality make no difference."""
    g = torch.Generator().manual_seed(3)
    labels, other = torch.arange(90) % 3, torch.arange(30) % 3
    values = [torch.randn(len(of), 5, generator=g) + F.one_hot(of, 5) for of in (labels, other)]
    there = [torch.ones(len(of), dtype=torch.bool) for of in (labels, other)]
    plain = [Outputs({"rgb": v}, {"rgb": p}, of) for v, p, of in zip(values, there, (labels, other), strict=True)]
    expected = probe(*plain, ("rgb",), 3)
    assert set(expected) == {"knn/rgb", "linear/rgb"}
    assert 0.4 < expected["knn/rgb"] < 0.95
    changed = []
    for one in plain:
        longer = one.values["rgb"] * (0.01 + 50 * torch.rand(len(one.labels), 1, generator=g))
        more = torch.full((20, 5), 9.0)
        present = torch.cat([one.present["rgb"], torch.arange(20) < 10])
        known = torch.cat([one.labels, torch.where(torch.arange(20) < 10, -1, 1)])
        changed.append(Outputs({"rgb": torch.cat([longer, more])}, {"rgb": present}, known))
    assert probe(*changed, ("rgb",), 3) == pytest.approx(expected, abs=1e-6)


def test_linear_probe_finds_what_is_linear_and_nothing_else():
    g = torch.Generator().manual_seed(2)
    points, labels = torch.randn(300, 6, generator=g), torch.arange(300) % 3
    noise = linear_accuracy(points[:200], labels[:200], points[200:], labels[200:], 3)
    points[:, 0] += 8.0 * (labels == 1) - 8.0 * (labels == 2)
    assert linear_accuracy(points[:200], labels[:200], points[200:], labels[200:], 3) > 0.98
    assert noise < 0.55


def test_the_linear_probe_judges_every_sample_by_itself_and_is_regularised():
    g = torch.Generator().manual_seed(5)
    points, labels = torch.randn(60, 2, generator=g), (torch.arange(60) % 4).clamp(max=2)
    points[:, 0] += 3.0 * labels
    known, asked, truth = (points[:40], labels[:40]), points[40:], labels[40:]
    together = linear_accuracy(*known, asked, truth, 3)
    assert 0.8 < together < 1
    apart = [linear_accuracy(*known, asked[truth == c], truth[truth == c], 3) for c in (0, 2)]  # 5 and 10 of 20
    middle = linear_accuracy(*known, asked[truth == 1], truth[truth == 1], 3)
    assert together == pytest.approx((5 * apart[0] + 5 * middle + 10 * apart[1]) / 20)
    assert linear_accuracy(*known, asked, truth, 3, decay=1e3) == 0.5  # the most frequent class for all


def test_depth_without_a_reading_is_no_answer_to_be_scored_or_calibrated_on(tmp_path):
    """Nobody asks a network about such crops: ``evaluate`` guesses, and the recogniser answers ``no_depth``."""
    with PreparedWriter(tmp_path / "set", classes=("a", "b"), size=8, modalities=("rgb", "depth"), description={}) as w:
        for number in range(6):
            depth = np.full((8, 8), 0 if number % 3 == 0 else 900, np.uint16)
            w.add(Sample({"rgb": np.zeros((8, 8, 3), np.uint8), "depth": depth}, number % 2, "val", f"s{number}"))
    prepared = PreparedSet.open(tmp_path / "set")
    source = BatchSource(prepared, prepared.select("val"), batch=4, shuffle=False)

    def ask(picture, name):
        return torch.tensor([[2.0, 0.0]]).repeat(len(picture.image), 1)

    found = collect(ask, source, ("rgb", "depth"), 8, torch.device("cpu"), bf16=False)
    assert found.present["depth"].tolist() == [False, True, True, False, True, True]
    assert found.present["rgb"].all()
    assert scores(found, ("depth",))["accuracy/depth"] == 0.5
    assert found.usable("rgb", "depth").sum() == 4
