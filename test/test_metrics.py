"""Metrics against slow loops and numbers worked out by hand."""

import math

import numpy as np
import pytest

from mmcl_core import metrics
from mmcl_core.errors import InputError


@pytest.fixture
def answers():
    generator = np.random.default_rng(3)
    labels = generator.integers(0, 6, 97)
    labels[labels == 4] = 0  # a class that does not occur
    scores = generator.normal(size=(97, 7)) + 1.5 * np.eye(7)[labels]
    return metrics.softmax(scores), labels


def test_softmax_and_temperature():
    probabilities = metrics.softmax([[1.0, 2.0, 3.0], [2000.0, 0.0, 0.0]], temperature=2.0)
    powers = [math.exp(x / 2) for x in (1, 2, 3)]
    np.testing.assert_allclose(probabilities[0], [p / sum(powers) for p in powers])
    np.testing.assert_allclose(probabilities[1], [1, 0, 0], atol=1e-12)


def test_accuracy_and_top_k(answers):
    probabilities, labels = answers
    for k in (1, 2, 5, 9):
        right = 0
        for row, label in zip(probabilities, labels, strict=True):
            right += label in sorted(range(7), key=lambda c: -row[c])[:k]
        assert metrics.accuracy(probabilities, labels, k) == pytest.approx(right / 97)
    assert metrics.top_k(probabilities, 9).shape == (97, 7)
    np.testing.assert_array_equal(metrics.top_k([[0.2, 0.4, 0.4]], 3), [[1, 2, 0]])


def test_of_equal_scores_the_first_class_alone_is_the_answer():
    """A model that tells nothing apart is not right about everything."""
    even = np.full((4, 4), 0.25)
    assert metrics.hits(even, [0, 1, 2, 3]).tolist() == [True, False, False, False]
    assert metrics.hits(even, [0, 1, 2, 3], 3).tolist() == [True, True, True, False]


def test_confusion_per_class_and_macro_f1(answers):
    probabilities, labels = answers
    predictions = probabilities.argmax(axis=1)
    confusion = metrics.confusion_matrix(labels, predictions, 7)
    scores = metrics.per_class(confusion)
    f1s = []
    for c in range(7):
        tp = sum(1 for a, b in zip(labels, predictions, strict=True) if a == c and b == c)
        fp = sum(1 for a, b in zip(labels, predictions, strict=True) if a != c and b == c)
        fn = sum(1 for a, b in zip(labels, predictions, strict=True) if a == c and b != c)
        assert confusion[c, c] == tp
        assert confusion[c].sum() == tp + fn == scores["support"][c]
        assert scores["precision"][c] == pytest.approx(tp / (tp + fp) if tp + fp else 0)
        assert scores["recall"][c] == pytest.approx(tp / (tp + fn) if tp + fn else 0)
        if tp + fn:
            f1s.append(2 * tp / (2 * tp + fp + fn))
        assert scores["f1"][c] == pytest.approx(2 * tp / (2 * tp + fp + fn) if tp + fp + fn else 0)
    assert len(f1s) == 5
    assert metrics.macro_f1(labels, predictions, 7) == pytest.approx(sum(f1s) / 5)


def test_calibration_error(answers):
    probabilities, labels = answers
    total = 0.0
    for b in range(15):
        inside = [i for i, row in enumerate(probabilities) if b / 15 < max(row) <= (b + 1) / 15]
        if inside:
            right = sum(int(np.argmax(probabilities[i])) == labels[i] for i in inside) / len(inside)
            sure = sum(max(probabilities[i]) for i in inside) / len(inside)
            total += len(inside) / 97 * abs(right - sure)
    assert metrics.expected_calibration_error(probabilities, labels) == pytest.approx(total)
    sorted_in = metrics.calibration_bins(probabilities, labels)
    assert sorted_in.samples.sum() == 97
    assert np.isnan(sorted_in.accuracy[sorted_in.samples == 0]).all()


def test_calibration_bins_are_left_open():
    # Confidence 0.2 = the edge 3/15: it belongs to the bin (2/15, 3/15].
    assert metrics.calibration_bins(np.full((1, 5), 0.2), [0]).samples[2] == 1
    assert metrics.calibration_bins([[1.0, 0.0]], [0]).samples[14] == 1


def test_fuse_is_the_renormalised_geometric_mean(answers):
    rgb, depth = answers[0], answers[0][::-1]
    fused = metrics.fuse([rgb, depth])
    for i in range(5):
        product = [math.sqrt(a * b) for a, b in zip(rgb[i], depth[i], strict=True)]
        np.testing.assert_allclose(fused[i], [p / sum(product) for p in product])
    sharper = metrics.fuse([rgb, depth], temperature=0.5)
    np.testing.assert_allclose(sharper, (rgb * depth) / (rgb * depth).sum(axis=1, keepdims=True))
    certain = metrics.fuse([[[1.0, 0.0, 0.0]], [[0.2, 0.5, 0.3]]])
    assert np.isfinite(certain).all()
    assert certain[0, 0] > 0.999
    with pytest.raises(InputError, match="one shape"):
        metrics.fuse([rgb, depth[:3]])
    with pytest.raises(InputError):
        metrics.fuse([])


def test_of_modalities_that_rule_out_the_class_of_the_other_neither_wins():
    np.testing.assert_allclose(metrics.fuse([[[1.0, 0.0, 0.0]], [[0.0, 1.0, 0.0]]]), [[0.5, 0.5, 0.0]], atol=1e-9)


def test_acceptance_and_separation_are_those_of_loops():
    generator = np.random.default_rng(2)
    known, unknown = generator.integers(-1, 8, 40) / 8, generator.integers(-1, 8, 17) / 8  # ties among them
    right = generator.random(40) < 0.7
    found = metrics.acceptance(known, right, unknown, [0, 0.25, 0.5, 0.99])
    for place, threshold in enumerate((0, 0.25, 0.5, 0.99)):
        answered = [hit for score, hit in zip(known, right, strict=True) if score >= threshold]
        assert found.answered[place] == pytest.approx(len(answered) / 40)
        assert found.right[place] == pytest.approx(np.mean(answered), nan_ok=True) if answered else True
        assert found.unknown_answered[place] == pytest.approx(sum(s >= threshold for s in unknown) / 17)
    assert math.isnan(found.right[3])
    wins = [1.0 if k > s else 0.5 if k == s else 0.0 for k in known for s in unknown]
    assert metrics.auroc(known, unknown) == pytest.approx(np.mean(wins))
    assert math.isnan(metrics.auroc(known, []))
    assert math.isnan(metrics.auroc([], unknown))
    assert np.isnan(metrics.acceptance([], [], unknown, [0.5]).answered).all()
    assert np.isnan(metrics.acceptance(known, right, [], [0.5]).unknown_answered).all()


def test_group_means():
    values, groups, labels = [1, 0, 1, 1, 0], ["a", "a", "b", "a", "a"], [0, 0, 0, 1, 1]
    np.testing.assert_allclose(sorted(metrics.group_means(values, groups, labels)), [0.5, 0.5, 1.0])
    # Twenty more views of one pair leave the mean over pairs as it is.
    more = metrics.group_means(values + [1] * 20, groups + ["b"] * 20, labels + [0] * 20)
    assert more.mean() == pytest.approx(2 / 3)


def test_bootstrap_draws_with_replacement():
    chunks = list(metrics.bootstrap(50, 400, seed=1))
    weights = np.concatenate(chunks)
    assert weights.shape == (400, 50)
    assert (weights.sum(axis=1) == 50).all()
    assert weights.var() == pytest.approx(1 - 1 / 50, abs=0.05)  # binomial(50, 1/50)
    np.testing.assert_array_equal(weights, np.concatenate(list(metrics.bootstrap(50, 400, seed=1))))
    assert (weights != np.concatenate(list(metrics.bootstrap(50, 400, seed=2)))).any()


def test_bootstrap_does_not_depend_on_the_chunk(monkeypatch):
    whole = np.concatenate(list(metrics.bootstrap(10, 30, seed=1)))
    monkeypatch.setattr(metrics, "_CHUNK", 70)
    chunks = list(metrics.bootstrap(10, 30, seed=1))
    assert len(chunks) == 5
    np.testing.assert_array_equal(np.concatenate(chunks), whole)


def test_intervals_are_those_of_a_loop_over_resamples(answers):
    probabilities, labels = answers
    groups = [f"g{i % 9}" for i in range(97)]
    summary = metrics.summarise(probabilities, labels, groups, resamples=200, seed=5)
    drawn = {name: [] for name in ("top1", "top5", "macro_f1", "ece")}
    for weights in np.concatenate(list(metrics.bootstrap(97, 200, seed=5))).astype(int):
        rows = np.repeat(np.arange(97), weights)
        p, y = probabilities[rows], labels[rows]
        drawn["top1"].append(metrics.accuracy(p, y))
        drawn["top5"].append(metrics.accuracy(p, y, 5))
        drawn["macro_f1"].append(metrics.macro_f1(y, p.argmax(axis=1), 7))
        drawn["ece"].append(metrics.expected_calibration_error(p, y))
    for name, values in drawn.items():
        assert summary[name].low == pytest.approx(np.quantile(values, 0.025))
        assert summary[name].high == pytest.approx(np.quantile(values, 0.975))
    assert summary["top1"].value == metrics.accuracy(probabilities, labels)
    assert summary["top1"].low < summary["top1"].value < summary["top1"].high
    means = metrics.group_means(metrics.hits(probabilities, labels), groups, labels)
    assert summary["group_mean"].value == pytest.approx(means.mean())
    resampled = [w @ means / len(means) for w in np.concatenate(list(metrics.bootstrap(len(means), 200, seed=5)))]
    assert summary["group_mean"].low == pytest.approx(np.quantile(resampled, 0.025))
    assert summary["group_mean"].high == pytest.approx(np.quantile(resampled, 0.975))
    assert "group_mean" not in metrics.summarise(probabilities, labels, resamples=10)


def test_a_share_of_all_or_none_has_an_exact_bound():
    """The bound is the share at which all of so many trials turn out right once in forty times."""
    answers = np.eye(7)[[k % 7 for k in range(26)]]
    right, wrong = ((answers, [(k + move) % 7 for k in range(26)]) for move in (0, 1))
    all_right = metrics.summarise(*right, groups=["one"] * 13 + ["two"] * 13, resamples=50)
    for name, trials in (("top1", 26), ("top5", 26), ("group_mean", 14)):
        assert (all_right[name].value, all_right[name].high) == (1, 1)
        assert all_right[name].low ** trials == pytest.approx(0.025)
    none = metrics.summarise(*wrong, resamples=50)["top1"]
    assert (none.value, none.low) == (0, 0)
    assert (1 - none.high) ** 26 == pytest.approx(0.025)
    few = metrics.summarise(right[0][:, :5], np.zeros(26, int), resamples=50)["top5"]
    assert few == (1, 1, 1), "right by definition among five classes"
    assert ["top5" in metrics.titles(classes) for classes in (5, 6)] == [False, True]


def test_intervals_and_calibration_have_the_level_and_the_bins_that_are_asked_for(answers):
    probabilities, labels = answers
    summary = metrics.summarise(probabilities, labels, bins=3, resamples=200, level=0.6, seed=5)
    drawn = {"top1": [], "ece": []}
    for weights in np.concatenate(list(metrics.bootstrap(97, 200, seed=5))).astype(int):
        rows = np.repeat(np.arange(97), weights)
        drawn["top1"].append(metrics.accuracy(probabilities[rows], labels[rows]))
        drawn["ece"].append(metrics.expected_calibration_error(probabilities[rows], labels[rows], bins=3))
    for name, values in drawn.items():
        assert summary[name].low == pytest.approx(np.quantile(values, 0.2))
        assert summary[name].high == pytest.approx(np.quantile(values, 0.8))
    assert summary["ece"].value == metrics.expected_calibration_error(probabilities, labels, bins=3)
    assert summary["ece"].value != metrics.expected_calibration_error(probabilities, labels)


@pytest.mark.parametrize(
    ("probabilities", "labels", "message"),
    [
        (np.zeros((0, 3)), [], "N, C >= 1"),
        (np.ones((2, 3)), [0], "labels"),
        (np.ones((2, 3)), [0, 3], r"0\.\.2"),
        (np.ones((2, 3)), [0, -1], "unlabelled"),
        (np.array([[0.5, 0.5, 0.0], [np.nan] * 3]), [0, 1], "no numbers"),
    ],
)
def test_shapes_and_labels_are_checked(probabilities, labels, message):
    with pytest.raises(InputError, match=message):
        metrics.summarise(probabilities, labels)
