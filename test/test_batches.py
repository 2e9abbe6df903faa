"""Batches: their order, their parts over processes, where pictures live; and the splits they are made of."""

import itertools
import threading
from dataclasses import replace

import numpy as np
import pytest
import torch
from small_sets import CLASSES, sample, write_set

from mmcl_core.config import DataConfig
from mmcl_core.data import batches as batches_module
from mmcl_core.data.batches import Batch, BatchSource, split_indices
from mmcl_core.data.cache import PreparedSet, PreparedWriter, Sample
from mmcl_core.data.splits import group_mask, shuffled, spread_repeats, stratified_mask
from mmcl_core.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    return write_set(tmp_path_factory.mktemp("sets") / "set", range(50))


def assert_same(a: Batch, b: Batch):
    for kind in ("images", "present"):
        assert getattr(a, kind).keys() == getattr(b, kind).keys()
        for name, value in getattr(a, kind).items():
            assert torch.equal(value, getattr(b, kind)[name])
    for kind in ("labels", "camera", "index"):
        assert torch.equal(getattr(a, kind), getattr(b, kind))


def join(parts):
    return Batch(
        {name: torch.cat([p.images[name] for p in parts]) for name in parts[0].images},
        {name: torch.cat([p.present[name] for p in parts]) for name in parts[0].present},
        *(torch.cat([getattr(p, kind) for p in parts]) for kind in ("labels", "camera", "index")),
    )


@pytest.mark.parametrize("resident", ["device", "memmap"])
def test_a_batch_holds_the_samples_its_index_names(prepared, resident):
    source = BatchSource(prepared, prepared.select("train"), batch=8, seed=3, resident=resident)
    batch = source.batch(2, 1)
    assert len(batch) == 8
    assert (batch.images["rgb"].dtype, batch.images["rgb"].shape) == (torch.uint8, (8, 8, 8, 3))
    assert (batch.images["depth"].dtype, batch.images["depth"].shape) == (torch.int32, (8, 8, 8))
    assert (batch.labels.dtype, batch.camera.dtype, batch.index.dtype) == (torch.int64, torch.float32, torch.int64)
    for i, row in enumerate(batch.index.tolist()):
        truth = sample(row)
        assert truth.split == "train"
        assert batch.labels[i] == truth.label
        np.testing.assert_array_equal(batch.camera[i], np.float32(truth.camera or (0, 0, 0, 0)))
        assert bool(batch.present["depth"][i]) == ("depth" in truth.images)
        np.testing.assert_array_equal(batch.images["rgb"][i], truth.images["rgb"])
        # Values above 32767 must not turn negative on the way.
        np.testing.assert_array_equal(batch.images["depth"][i], truth.images.get("depth", np.zeros((8, 8))))
    assert batch.images["depth"].max() > 32767


def test_order_is_a_pure_function_of_seed_epoch_and_step(prepared):
    rows = prepared.select("train")  # 38 samples
    source = BatchSource(prepared, rows, batch=6, seed=1)
    assert source.steps_per_epoch == 6
    first = [source.batch(0, step) for step in range(6)]
    for step in (4, 0, 2):  # in any order, from another object, after another epoch
        source.batch(1, 0)
        assert_same(source.batch(0, step), first[step])
        assert_same(BatchSource(prepared, rows, batch=6, seed=1, resident="memmap").batch(0, step), first[step])
    seen = join(first).index.tolist()
    assert len(set(seen)) == 36
    assert set(seen) < set(rows.tolist())
    assert join([source.batch(1, step) for step in range(6)]).index.tolist() != seen
    assert BatchSource(prepared, rows, batch=6, seed=2).batch(0, 0).index.tolist() != seen[:6]
    with pytest.raises(IndexError):
        source.batch(0, 6)


def test_the_order_does_not_change_with_versions():
    assert shuffled(8, 0, 0).tolist() == [0, 3, 7, 5, 1, 2, 6, 4]
    assert shuffled(8, 1, 5).tolist() == [3, 5, 7, 1, 0, 2, 4, 6]
    assert sorted(shuffled(1000, 4).tolist()) == list(range(1000))


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("resident", ["device", "memmap"])
def test_parts_of_all_processes_make_the_batch_of_one(prepared, world, resident):
    rows = prepared.select("train")
    one = BatchSource(prepared, rows, batch=8, seed=5)
    parts = [BatchSource(prepared, rows, batch=8, seed=5, rank=r, world=world, resident=resident) for r in range(world)]
    for step in range(one.steps_per_epoch):
        whole = one.batch(3, step)
        assert_same(join([part.batch(3, step) for part in parts]), whole)
        assert_same(join([Batch(*part_of(whole, part.rows)) for part in parts]), whole)
        assert torch.equal(parts[1].batch(3, step).index, whole.index[parts[1].rows])
    joined = [batch for step in zip(*(part.ordered() for part in parts), strict=False) for batch in step]
    assert join(joined).index.tolist() == rows.tolist()[: len(join(joined))]
    everything = sorted(row for part in parts for batch in part.ordered() for row in batch.index.tolist())
    assert everything == rows.tolist()


def part_of(batch, rows):
    images = {name: image[rows] for name, image in batch.images.items()}
    present = {name: flags[rows] for name, flags in batch.present.items()}
    return images, present, batch.labels[rows], batch.camera[rows], batch.index[rows]


@pytest.mark.parametrize("resident", ["device", "memmap"])
def test_evaluation_sees_every_sample_once_in_order(prepared, resident):
    rows = np.array([9, 3, 3, 40, 7])
    source = BatchSource(prepared, rows, batch=2, shuffle=False, resident=resident, modalities=["depth"])
    assert [batch.index.tolist() for batch in source.ordered()] == [[9, 3], [3, 40], [7]]
    assert [batch.index.tolist() for batch in source.iterate(4)] == [[9, 3], [3, 40], [7]]
    assert source.steps_per_epoch == 3
    assert list(next(source.ordered()).images) == ["depth"]
    empty = BatchSource(prepared, rows[:0], batch=2, shuffle=False, resident=resident)
    assert list(empty.ordered()) == []


@pytest.mark.parametrize("resident", ["device", "memmap"])
def test_an_epoch_can_be_entered_at_any_step(prepared, resident):
    source = BatchSource(prepared, prepared.select("train"), batch=6, seed=1, resident=resident)
    rest = list(source.iterate(2, 4))
    assert len(rest) == 2
    for step, batch in enumerate(rest, 4):
        assert_same(batch, source.batch(2, step))
    assert list(source.iterate(2, 6)) == []


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "read-ahead"]


def test_reading_ahead_is_bounded_and_ends_when_it_is_closed(prepared, monkeypatch):
    source = BatchSource(prepared, np.arange(50), batch=2, resident="memmap")
    read, asked = source._read, []
    monkeypatch.setattr(source, "_read", lambda epoch, step: asked.append(step) or read(epoch, step))
    batches = source.iterate(0)
    next(batches)
    thread = threads()[0]
    thread.join(0.5)
    assert asked == list(range(len(asked)))
    assert len(asked) <= 2 + batches_module._AHEAD  # taken, waiting in the queue, and in the reader's hand
    batches.close()
    assert not thread.is_alive()
    assert threads() == []


def test_an_error_while_reading_ahead_reaches_the_caller(prepared, monkeypatch):
    source = BatchSource(prepared, np.arange(50), batch=5, resident="memmap")
    read = source._read

    def fails(epoch, step):
        if step == 2:
            raise OSError("disk on fire")
        return read(epoch, step)

    monkeypatch.setattr(source, "_read", fails)
    taken = []
    with pytest.raises(OSError, match="disk on fire"):  # noqa: PT012
        for batch in source.iterate(0):
            taken.append(batch)
    assert len(taken) == 2
    assert threads() == []


def test_auto_holds_what_fits_in_a_share_of_the_free_memory(prepared, monkeypatch):
    need = 50 * (8 * 8 * 3 + 8 * 8 * 2)
    for free, resident in ((need / 0.4 + 1, True), (need / 0.4 - 1, False)):
        monkeypatch.setattr(batches_module, "_free_bytes", lambda device, free=free: free)
        source = BatchSource(prepared, np.arange(50), batch=5)
        assert source.resident is resident
    monkeypatch.undo()
    assert 1e6 < batches_module._free_bytes(torch.device("cpu")) < 1e14


def test_labels_can_be_replaced(prepared):
    rows = np.arange(10)
    labels = np.full(10, -1)
    labels[4] = 2
    source = BatchSource(prepared, rows, labels, batch=10, shuffle=False)
    assert source.batch(0, 0).labels.tolist() == [-1] * 4 + [2] + [-1] * 5
    with pytest.raises(DataError, match="9 labels for 10 samples"):
        BatchSource(prepared, rows, labels[:9], batch=10)


def test_impossible_sources_are_refused(prepared):
    with pytest.raises(DataError, match=r"has no 'thermal'; it has rgb, depth"):
        BatchSource(prepared, np.arange(10), batch=2, modalities=["thermal"])
    with pytest.raises(DataError, match=r"10 samples .* do not fill one batch of 11"):
        BatchSource(prepared, np.arange(10), batch=11)
    assert BatchSource(prepared, np.arange(10), batch=11, drop_last=False).steps_per_epoch == 1


def test_a_batch_moves_as_a_whole(prepared):
    batch = BatchSource(prepared, np.arange(10), batch=4).batch(0, 0).to("meta")
    tensors = [*batch.images.values(), *batch.present.values(), batch.labels, batch.camera, batch.index]
    assert {tensor.device.type for tensor in tensors} == {"meta"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("resident", ["device", "memmap"])
def test_batches_on_a_gpu_equal_those_in_host_memory(prepared, resident):
    host = BatchSource(prepared, np.arange(50), batch=8, seed=1)
    device = BatchSource(prepared, np.arange(50), batch=8, seed=1, device="cuda", resident=resident)
    for step, batch in enumerate(device.iterate(1)):
        assert batch.images["rgb"].device.type == batch.labels.device.type == "cuda"
        assert_same(batch.to("cpu"), host.batch(1, step))


@pytest.mark.parametrize(("few", "many", "times", "batch"), [(107, 2014, 20, 64), (40, 10, 7, 30), (9, 40, 6, 10)])
def test_copies_of_a_sample_never_share_a_batch(few, many, times, batch):
    items = np.repeat(np.arange(few + many), np.where(np.arange(few + many) < few, times, 1))
    for seed in range(20):
        order = items[shuffled(len(items), seed)]
        found = spread_repeats(order, batch)
        assert sorted(found.tolist()) == sorted(items.tolist())
        assert found.tolist() == spread_repeats(order, batch).tolist()
        for start in range(0, len(found), batch):
            part = found[start : start + batch]
            assert len(set(part.tolist())) == len(part)
    orders = [items[shuffled(len(items), seed)] for seed in range(50)]
    places = [np.flatnonzero(spread_repeats(order, batch) == 0).mean() for order in orders]
    assert abs(np.mean(places) / len(items) - 0.5) < 0.1, "they come throughout the epoch"


def test_copies_share_a_batch_only_where_they_must():
    found = spread_repeats(np.array([5, 5, 5, 5, 7]), 2)
    assert sorted(found.tolist()) == [5, 5, 5, 5, 7]
    assert spread_repeats(np.array([1, 1, 2, 2]), 2).reshape(2, 2).tolist() == [[1, 2], [1, 2]]


def test_some_samples_may_come_more_often_in_an_epoch(prepared):
    indices, times = np.arange(10, 22), np.array([3, 1, 1, 1] * 3)
    source = BatchSource(prepared, indices, batch=6, seed=3, times=times)
    assert source.steps_per_epoch == 3
    orders = [np.concatenate([batch.index.numpy() for batch in source.iterate(epoch)]) for epoch in (0, 1, 0)]
    for order in orders:
        assert np.bincount(order, minlength=22)[10:].tolist() == times.tolist()
        assert all(len(set(part.tolist())) == 6 for part in order.reshape(3, 6))
    assert orders[0].tolist() == orders[2].tolist() != orders[1].tolist()
    labels = np.concatenate([batch.labels.numpy() for batch in source.iterate(0)])
    assert labels.tolist() == prepared.labels[orders[0]].tolist()
    halves = [BatchSource(prepared, indices, batch=6, seed=3, times=times, rank=rank, world=2) for rank in (0, 1)]
    parts = [half.batch(0, step).index for step in range(3) for half in halves]
    assert torch.cat(parts).tolist() == orders[0].tolist()


# --- splits -----------------------------------------------------------------------------------------------------------


def test_a_split_of_the_set_validates_before_any_fraction(prepared):
    data = DataConfig(val_split="test", val_fraction=0.5)
    train, val, labels = split_indices(prepared, data, 0)
    assert train.tolist() == prepared.select("train").tolist()
    assert val.tolist() == prepared.select("test").tolist()
    assert labels.tolist() == prepared.labels[train].tolist()
    assert len(split_indices(prepared, DataConfig(), 0)[1]) == 0  # no split "val", no fraction
    with pytest.raises(DataError, match="no split 'training'; it has test, train"):
        split_indices(prepared, DataConfig(train_split="training"), 0)
    with pytest.raises(DataError, match=r"no split 'vall' \(data.val_split\); it has "):
        split_indices(prepared, DataConfig(val_split="vall"), 0)
    for wrong in (DataConfig(val_fraction=1.0), DataConfig(label_share=1.5)):
        with pytest.raises(ConfigError, match="a share in"):
            split_indices(prepared, wrong, 0)


def test_samples_without_a_label_can_be_dropped(prepared):
    few = DataConfig(val_split="test", label_share=0.3)
    train, val, labels = split_indices(prepared, few, 5)
    kept, same_val, kept_labels = split_indices(prepared, replace(few, unlabelled="drop"), 5)
    assert 0 < len(kept) < len(train)
    assert kept.tolist() == train[labels >= 0].tolist()
    assert kept_labels.tolist() == labels[labels >= 0].tolist()
    assert same_val.tolist() == val.tolist()
    with pytest.raises(DataError, match=r"data\.unlabelled=drop leaves nothing to train on"):
        split_indices(prepared, replace(few, label_share=0.0, unlabelled="drop"), 5)


def test_a_validation_fraction_is_stratified_seeded_and_leaves_unlabelled_samples_alone(prepared, monkeypatch):
    data = DataConfig(val_split="", val_fraction=0.25)
    monkeypatch.setattr(prepared, "groups", np.full(len(prepared), "", dtype=object))
    train, val, labels = split_indices(prepared, data, 7)
    rows = prepared.select("train")
    assert sorted([*train, *val]) == rows.tolist()
    assert (np.diff(train) > 0).all()
    assert (np.diff(val) > 0).all()
    counts = np.bincount(prepared.labels[rows][prepared.labels[rows] >= 0])
    held = np.bincount(prepared.labels[val], minlength=3)
    assert held.sum() == round(0.25 * counts.sum())
    assert (np.abs(held - 0.25 * counts) < 1).all()
    assert (prepared.labels[val] >= 0).all()
    assert labels.tolist() == prepared.labels[train].tolist()
    again, other = split_indices(prepared, data, 7)[1], split_indices(prepared, data, 8)[1]
    assert again.tolist() == val.tolist()
    assert other.tolist() != val.tolist()


def test_validation_holds_whole_groups_back(tmp_path):
    with PreparedWriter(tmp_path / "set", classes=CLASSES, size=8, modalities=("rgb",)) as writer:
        for number in range(240):  # 24 objects of 10 views, 8 of each class
            label = -1 if number % 10 == 9 else number // 10 % 3
            image = np.full((8, 8, 3), number, np.uint8)
            writer.add(Sample({"rgb": image}, label, "train", f"{number:03d}", f"object{number // 10}"))
    prepared = PreparedSet.open(tmp_path / "set")
    data = DataConfig(val_split="", val_fraction=0.25)
    train, val, _ = split_indices(prepared, data, 5)
    assert sorted([*train, *val]) == list(range(240))
    labelled = prepared.labels[train] >= 0
    assert not set(prepared.groups[train[labelled]]) & set(prepared.groups[val])
    assert np.bincount(prepared.labels[val]).tolist() == [18, 18, 18]  # two objects of each class
    assert split_indices(prepared, data, 5)[1].tolist() == val.tolist()
    assert split_indices(prepared, data, 6)[1].tolist() != val.tolist()


def test_a_sample_of_no_group_leaves_the_others_in_theirs(tmp_path):
    with PreparedWriter(tmp_path / "set", classes=CLASSES, size=8, modalities=("rgb",)) as writer:
        for number in range(121):
            group = f"scene{number // 10}" if number < 120 else ""
            image = np.full((8, 8, 3), number, np.uint8)
            writer.add(Sample({"rgb": image}, number // 10 % 3, "train", f"{number:03d}", group))
    prepared = PreparedSet.open(tmp_path / "set")
    train, val, _ = split_indices(prepared, DataConfig(val_split="", val_fraction=0.25), 5)
    assert len(val) > 20
    assert not set(prepared.groups[train]) & set(prepared.groups[val]) - {""}


def test_scenes_of_several_classes_are_held_back_as_nearly_as_they_allow():
    rng = np.random.default_rng(0)
    labels, scenes = rng.integers(0, 4, 600), rng.integers(0, 30, 600).astype(str)
    held = group_mask(labels, scenes, 0.2, 1, 1)
    assert not set(scenes[held]) & set(scenes[~held])
    counts = np.bincount(labels)
    assert (np.abs(np.bincount(labels[held]) - 0.2 * counts) < 0.1 * counts).all()


def test_a_class_never_loses_its_last_training_sample_to_validation(tmp_path):
    with PreparedWriter(tmp_path / "set", classes=CLASSES, size=8, modalities=("rgb",)) as writer:
        for number in range(12):
            image = np.full((8, 8, 3), number, np.uint8)
            writer.add(Sample({"rgb": image}, int(number == 5), "train", f"{number:02d}"))
    prepared = PreparedSet.open(tmp_path / "set")
    train, val, labels = split_indices(prepared, DataConfig(val_split="", val_fraction=0.95), 0)
    assert (len(train), len(val)) == (2, 10)
    assert sorted(labels) == [0, 1]


def test_too_few_groups_to_hold_back_are_said(tmp_path, caplog):
    labels = np.array([0] * 30 + [1] * 30)
    assert group_mask(labels, (np.arange(60) // 15).astype(str), 0.1, 0, 1) is None  # two groups of each class
    assert group_mask(labels, labels.astype(str), 0.5, 0, 1) is None  # never all of a class
    prepared = write_set(tmp_path / "set", range(20), split="train")
    _, val, _ = split_indices(prepared, DataConfig(val_split="", val_fraction=0.2), 0)
    assert len(val) > 0
    assert "too few groups" in caplog.text


@pytest.mark.parametrize("share", [0.0, 0.05, 0.1, 0.3, 0.5, 0.99, 1.0])
def test_a_label_share_keeps_ceil_of_it_stratified(prepared, share):
    rows = prepared.select("train")
    truth = prepared.labels[rows]
    labels = split_indices(prepared, DataConfig(label_share=share), 3)[2]
    labelled = int((truth >= 0).sum())
    kept = labels >= 0
    assert kept.sum() == -(-round(share * 100) * labelled // 100)  # ceil in whole numbers
    np.testing.assert_array_equal(labels[kept], truth[kept])
    counts = np.bincount(labels[kept], minlength=3)
    if share >= 0.1:
        assert counts.min() >= 1
        assert (np.abs(counts - share * np.bincount(truth[truth >= 0])) <= 1).all()


def test_a_larger_share_holds_the_smaller_one(prepared):
    keeps = [split_indices(prepared, DataConfig(label_share=share), 3)[2] >= 0 for share in (0.1, 0.3, 0.6, 1.0)]
    for smaller, larger in itertools.pairwise(keeps):
        assert (larger[smaller]).all()


def test_classes_with_few_samples_keep_one_for_training():
    labels = np.array([0] * 40 + [1] * 2 + [2] + [-1] * 5)
    held = stratified_mask(labels, 0.9, 0, 1, spare=1)
    assert [int(held[labels == label].sum()) for label in (0, 1, 2, -1)] == [38, 1, 0, 0]
    kept = stratified_mask(labels, 0.07, 0, 2, least=1, up=True)
    assert [int(kept[labels == label].sum()) for label in (0, 1, 2, -1)] == [2, 1, 1, 0]
    assert not stratified_mask(np.full(4, -1), 0.5, 0, 1).any()


def test_a_class_is_drawn_alike_whatever_the_others_are():
    labels = np.array([0, 1] * 30)
    alone = np.where(labels == 0, 0, -1)
    together, single = stratified_mask(labels, 0.5, 4, 1), stratified_mask(alone, 0.5, 4, 1)
    assert (together[labels == 0] == single[labels == 0]).all()


def test_an_unlabelled_set_can_be_trained_on(tmp_path):
    prepared = write_set(tmp_path / "set", range(6), label=-1, split="train")
    data = replace(DataConfig(), val_fraction=0.5, label_share=0.1)
    train, val, labels = split_indices(prepared, data, 0)
    assert (len(train), len(val)) == (6, 0)
    assert set(labels.tolist()) == {-1}
