"""Batches: their order, their parts over processes, and where pictures live."""

import threading

import numpy as np
import pytest
import torch
from small_sets import prepared, sample

from mmcl_core.data import batches as batches_module
from mmcl_core.data.batches import Batch, BatchSource
from mmcl_core.data.splits import shuffled, spread_repeats
from mmcl_core.errors import DataError

__all__ = ["prepared"]  # a fixture


def assert_same(a: Batch, b: Batch):
    for kind in ("images", "present"):
        assert getattr(a, kind).keys() == getattr(b, kind).keys()
        for name, value in getattr(a, kind).items():
            assert torch.equal(value.cpu(), getattr(b, kind)[name].cpu())
    for kind in ("labels", "camera", "index"):
        assert torch.equal(getattr(a, kind).cpu(), getattr(b, kind).cpu())


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


@pytest.mark.parametrize("resident", ["device", "memmap"])
@pytest.mark.parametrize("modalities", [("depth",), ("depth", "rgb")])
def test_of_some_modalities_in_any_order_each_is_its_own(prepared, modalities, resident):
    rows = prepared.select("train")
    whole = BatchSource(prepared, rows, batch=16, shuffle=False).batch(0, 0)
    part = BatchSource(prepared, rows, batch=16, shuffle=False, modalities=modalities, resident=resident).batch(0, 0)
    assert tuple(part.images) == tuple(part.present) == modalities
    assert 0 < part.present["depth"].sum() < 16
    for name in modalities:
        assert torch.equal(part.images[name], whole.images[name])
        assert torch.equal(part.present[name], whole.present[name])


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
    free = batches_module._free_bytes(torch.device("cpu"))
    assert 1e6 < free < 1e14
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")  # the processes of one machine share its memory
    assert batches_module._free_bytes(torch.device("cpu")) == pytest.approx(free / 4, rel=0.2)


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
    batch = BatchSource(prepared, np.arange(10), batch=4, device="meta", resident="memmap").batch(0, 0)
    tensors = [*batch.images.values(), *batch.present.values(), batch.labels, batch.camera, batch.index]
    assert {tensor.device.type for tensor in tensors} == {"meta"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("resident", ["device", "memmap"])
def test_batches_on_a_gpu_equal_those_in_host_memory(prepared, resident):
    host = BatchSource(prepared, np.arange(50), batch=8, seed=1)
    device = BatchSource(prepared, np.arange(50), batch=8, seed=1, device="cuda", resident=resident)
    for step, batch in enumerate(device.iterate(1)):
        assert batch.images["rgb"].device.type == batch.labels.device.type == "cuda"
        assert_same(batch, host.batch(1, step))


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


@pytest.mark.parametrize(("few", "many", "times", "batch"), [(3, 45, 44, 4), (5, 7, 6, 6), (21, 216, 42, 26)])
def test_copies_in_nearly_every_batch_are_never_twice_in_one(few, many, times, batch):
    items = np.repeat(np.arange(few + many), np.where(np.arange(few + many) < few, times, 1))
    for seed in range(40):
        found = spread_repeats(items[shuffled(len(items), seed)], batch)
        assert sorted(found.tolist()) == sorted(items.tolist())
        parts = [found[start : start + batch].tolist() for start in range(0, len(found), batch)]
        assert all(len(set(part)) == len(part) for part in parts)


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
