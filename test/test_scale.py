"""Many samples, classes and groups: what must not grow with their product. Memory by wide margins alone."""

import dataclasses
import tracemalloc
from concurrent.futures import Future
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from mmcl_core import confusion, metrics
from mmcl_core.atomic import write_atomically
from mmcl_core.data import folder, workers
from mmcl_core.data.splits import group_mask, shuffled, spread_repeats
from mmcl_core.engine import predictions as predictions_module
from mmcl_core.engine import results
from mmcl_core.engine.charts import heat_table
from mmcl_core.engine.predictions import Predictions, fused
from mmcl_core.synth import crops as crop_module
from mmcl_core.synth import rendered_set
from mmcl_core.synth import stock as stock_module
from mmcl_ros import evaluate_bag


def peak_mb(work):
    """The most memory that is taken while something is done, MB."""
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 1e6


def answers(samples, classes, seed=0):
    """Probabilities float32 [N, C] and labels [N], some of them right."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=samples)
    values = rng.random((samples, classes), dtype=np.float32)
    values[np.arange(samples), labels] += rng.random(samples, dtype=np.float32)
    return values / values.sum(axis=1, keepdims=True), labels


def test_figures_take_little_memory_beside_the_probabilities(monkeypatch):
    values, labels = answers(20_000, 200)  # 16 MB
    monkeypatch.setattr(metrics, "_CHUNK", 100_000)
    assert peak_mb(lambda: metrics.summarise(values, labels, resamples=4)) < 16
    assert peak_mb(lambda: metrics.top_k(values, 5)) < 16


def test_hits_are_those_of_the_sorted_classes_where_some_are_equal(monkeypatch):
    monkeypatch.setattr(metrics, "_CHUNK", 20)
    rng = np.random.default_rng(0)
    values, labels = rng.integers(0, 3, (50, 6)) / 6, rng.integers(6, size=50)
    order = np.argsort(-values, axis=1, kind="stable")
    np.testing.assert_array_equal(metrics.top_k(values, 4), order[:, :4])
    for k in (1, 3, 9):
        np.testing.assert_array_equal(metrics.hits(values, labels, k), (order[:, :k] == labels[:, None]).any(axis=1))


def test_the_fusion_in_parts_is_that_of_the_whole(monkeypatch):
    monkeypatch.setattr(predictions_module, "FUSED_TOGETHER", 3)
    (rgb, labels), (depth, _) = answers(10, 4), answers(10, 4, 1)
    blank = np.arange(10) == 7
    parts = {name: Predictions(np.arange(10), labels, p, blank) for name, p in (("rgb", rgb), ("depth", depth))}
    whole = np.where(blank[:, None], rgb, metrics.fuse([rgb, depth], 1.5).astype(np.float32))
    np.testing.assert_array_equal(fused(parts, 1.5).probabilities, whole)


def test_examples_of_many_samples_are_the_surest_of_each_class_in_turn(monkeypatch):
    monkeypatch.setattr(results, "_pictures", lambda *_: {})
    values, labels = answers(100_000, 2)
    prepared = SimpleNamespace(keys=np.arange(len(labels)).astype(str).astype(object))
    found = Predictions(np.arange(len(labels)), labels, values, np.zeros(len(labels), bool))
    given = SimpleNamespace(prepared=prepared, classes=("mug", "pen"), predictions={"rgb": found})
    shown = results._examples(given)
    wrong = np.flatnonzero(values.argmax(axis=1) != labels)
    surest = [row for row in wrong[np.argsort(-values[wrong].max(axis=1), kind="stable")]]
    turns = zip(*([row for row in surest if labels[row] == label][:6] for label in (0, 1)), strict=True)
    expected = {str(row) for turn in turns for row in turn}
    assert {one["key"] for one in shown["wrong"]} == expected
    assert next(one["key"] for one in shown["right"]) == str(np.flatnonzero(values.argmax(axis=1) == labels)[0])


def test_confusion_of_many_classes_is_a_picture_and_a_page_of_bounded_size(tmp_path, monkeypatch):
    monkeypatch.setattr(confusion, "NAMED", 10)
    classes = [f"class {number}" for number in range(120)]
    counts = np.diag(np.full(120, 5))
    counts[7, 9] = 4
    confusion.save_confusion(
        tmp_path / "confusion.png", dict.fromkeys(("rgb", "depth", "rgbd"), counts), classes, classes
    )
    assert max(cv2.imread(str(tmp_path / "confusion.png")).shape) < 1600
    page = heat_table(counts.tolist(), classes)
    assert "<td>class 7</td><td>class 9</td><td>4</td><td>0.44</td>" in page
    assert len(page) < 20_000


def test_confusion_of_many_classes_of_a_recording_is_a_picture_of_bounded_size(tmp_path, monkeypatch):
    monkeypatch.setattr(confusion, "NAMED", 10)
    found = evaluate_bag.Evaluation([f"class {number}" for number in range(60)])
    for label in found.classes:
        values = {column.name: "" for column in dataclasses.fields(evaluate_bag.Row)} | {
            "truth": label,
            "label": label,
            "correct": 1,
        }
        found.rows.append(evaluate_bag.Row(**values))
        found.labels.append(0)
    evaluate_bag.draw_confusion(tmp_path / "confusion.png", found, "rgb", write_atomically)
    assert max(cv2.imread(str(tmp_path / "confusion.png")).shape) < 1000


def test_splits_of_many_classes_are_drawn_without_a_table_of_all():
    crops = [folder.Crop(f"c/{number}", "", number % 1000, f"s{number // 2}") for number in range(4000)]
    names = [str(number) for number in range(1000)]
    shares = {"train": 0.5, "test": 0.5}
    assert peak_mb(lambda: folder._draw_splits(crops, names, shares, 0, keep_groups=True)) < 16
    labels, groups = np.arange(20_000) % 800, (np.arange(20_000) // 5).astype(str)
    assert peak_mb(lambda: group_mask(labels, groups, 0.2, 0, 1)) < 12


def test_a_hundred_thousand_labels_that_come_too_often_are_spread():
    items = np.concatenate([np.arange(20, 100_000), np.repeat(np.arange(20), 4000)])
    order = items[shuffled(len(items), 0, 1)]
    spread = spread_repeats(order, 64)
    assert sorted(spread.tolist()) == sorted(order.tolist())
    assert all(len(set(batch)) == 64 for batch in spread[: 64 * 1000].reshape(-1, 64).tolist())


def pool_that_notes(monkeypatch):
    """Put a stand-in into the place of the worker processes; it keeps the parts that they would work on."""
    parts = []

    class Pool:
        def __init__(self, *_):
            pass

        def submit(self, make, part):
            parts.append(part)
            done = Future()
            done.set_result(list(part))
            return done

        def shutdown(self, **_):
            pass

    monkeypatch.setattr(workers, "ProcessPoolExecutor", Pool)
    return parts


def test_crops_are_not_made_far_ahead_of_what_is_written(monkeypatch):
    parts = pool_that_notes(monkeypatch)
    crops = rendered_set._all_crops((SimpleNamespace(together=1),), range(3, 100_000, 2), workers=2)
    assert [next(crops) for _ in range(40)] == list(range(3, 83, 2))
    assert sum(map(len, parts)) < 500
    assert sum(1 for _ in crops) == len(range(3, 100_000, 2)) - 40


@pytest.mark.parametrize("numbers", [range(10_800), range(100, 1000), range(1, 3000, 4), range(30)])
def test_an_object_is_built_by_one_process_alone(monkeypatch, numbers):
    stock = stock_module.HouseholdStock(0, tuple("abcdefghijkl"), lambda *_: None)
    assert stock.together == 24  # two crops of each class show the same object
    parts = pool_that_notes(monkeypatch)
    assert list(rendered_set._all_crops((stock,), numbers, 2)) == list(numbers)
    windows = [{number // stock.together for number in part} for part in parts]
    assert sum(map(len, windows)) == len(set().union(*windows))
    assert max(map(len, parts)) <= 32


@pytest.mark.parametrize(("room", "loads"), [(0, [0, 1, 2, 0]), (1 << 30, [0, 1, 2])])
def test_meshes_are_kept_as_far_as_their_textures_fit(monkeypatch, room, loads):
    monkeypatch.setattr(stock_module, "_KEEP_BYTES", room)
    seen = []
    mesh = crop_module._box(np.ones(3), np.zeros((64, 64, 3), np.uint8))
    stock = stock_module.FolderStock.__new__(stock_module.FolderStock)
    stock._kept, stock._bytes = stock_module.OrderedDict(), 0
    stock._load = lambda number: seen.append(number) or SimpleNamespace(skin=SimpleNamespace(mesh=mesh))
    for number in (0, 1, 2, 2, 0):
        stock._loaded(number)
    assert seen == loads
