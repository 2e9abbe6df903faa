"""Batches of a prepared set, their order a pure function of (seed, epoch, step).

The pictures are either held by the training device, so that a batch is one gather there, or read from disk by a
thread that stays a few batches ahead.
"""

from __future__ import annotations

import logging
import math
import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from mmcl_core.data.cache import PreparedSet
from mmcl_core.data.splits import shuffled, spread_repeats
from mmcl_core.errors import DataError
from mmcl_core.words import counted

__all__ = ["Batch", "BatchSource", "ReadAhead"]

logger = logging.getLogger(__name__)
S = TypeVar("S")
T = TypeVar("T")

#: Share of the free memory that pictures may take under ``resident="auto"``.
RESIDENT_SHARE = 0.4
_AHEAD = 3
_LOAD_ROWS = 256


@dataclass
class Batch:
    """Some samples, as the prepared set holds them.

    Attributes:
        images: by modality: uint8 [b, S, S, 3], or int32 [b, S, S] in mm, 0 = no reading; zeros where it is missing.
        present: by modality, bool [b].
        labels: int64 [b], -1 = unlabelled.
        camera: float32 [b, 4] (fx, fy, cx, cy), zeros = unknown.
        index: int64 [b], rows in the set.
    """

    images: dict[str, Tensor]
    present: dict[str, Tensor]
    labels: Tensor
    camera: Tensor
    index: Tensor

    def __len__(self) -> int:
        return len(self.labels)


class BatchSource:
    """Batches of some rows of a prepared set.

    Training (``shuffle``) drops the incomplete batch at the end of an epoch, so that every update has the same batch
    statistics and number of negatives; another one is left out in every epoch. :meth:`ordered` gives every sample once.

    Args:
        prepared: the set.
        indices: rows of the set.
        labels: int64, as long as ``indices``, instead of the labels of the set (semi-supervised runs).
        batch: samples in a global batch, over all processes.
        seed: of the order.
        rank, world: this process and the number of processes: it gets a contiguous part of each global batch.
        device: where batches go.
        resident: ``device`` holds all pictures there, ``memmap`` reads each batch, ``auto`` holds them when they take
            at most 40 % of the free memory.
        modalities: what to read; default: all of the set.
        shuffle: draw a new order in every epoch.
        drop_last: leave the incomplete last batch out; default: as ``shuffle``.
        times: int64, as long as ``indices``: how often each comes in an epoch, never twice in a batch; default: once.

    Raises:
        DataError: a modality the set does not have, labels of another length, or no full batch in all samples.
    """

    def __init__(
        self,
        prepared: PreparedSet,
        indices: Sequence[int] | npt.NDArray[np.int64],
        labels: npt.NDArray[np.int64] | Tensor | None = None,
        *,
        batch: int,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        device: torch.device | str = "cpu",
        resident: Literal["auto", "device", "memmap"] = "auto",
        modalities: Sequence[str] | None = None,
        shuffle: bool = True,
        drop_last: bool | None = None,
        times: npt.NDArray[np.int64] | None = None,
    ) -> None:
        self.prepared, self.modalities = prepared, tuple(modalities or prepared.modalities)
        for name in self.modalities:
            if name not in prepared.modalities:
                raise DataError(f"{prepared.path} has no {name!r}; it has {', '.join(prepared.modalities)}")
        self._indices = np.asarray(indices, dtype=np.int64)
        own = prepared.labels[self._indices] if labels is None else np.asarray(labels, dtype=np.int64)
        if len(own) != len(self._indices):
            raise DataError(f"{len(own)} labels for {len(self._indices)} samples of {prepared.path}")
        if batch < world:
            raise DataError(f"a batch of {batch} cannot be shared by {world} processes")
        self._size, self._seed, self._rank, self._world = batch, seed, rank, world
        self.device = torch.device(device)
        self._resident, self._shuffle = resident, shuffle
        drop_last = shuffle if drop_last is None else drop_last
        self._epoch = np.repeat(np.arange(len(self._indices)), 1 if times is None else times)
        self.steps_per_epoch = len(self._epoch) // batch if drop_last else math.ceil(len(self._epoch) / batch)
        if drop_last and not self.steps_per_epoch:
            raise DataError(
                f"{counted(len(self._epoch), 'sample')} of {prepared.path} do not fill one batch of {batch}"
            )
        columns = [prepared.modalities.index(name) for name in self.modalities]
        self._host: dict[str, npt.NDArray[Any]] = {
            "labels": own,
            "camera": prepared.camera[self._indices],
            "index": self._indices,
            **{f"has {m}": prepared.present[self._indices, c] for m, c in zip(self.modalities, columns, strict=True)},
        }
        self._held: dict[str, Tensor] | None = None
        self._order: tuple[int | None, npt.NDArray[np.int64], Tensor] | None = None

    def __len__(self) -> int:
        return len(self._indices)

    @property
    def rows(self) -> slice:
        """This process's rows of a full global batch."""
        return _part(self._size, self._rank, self._world)

    @property
    def resident(self) -> bool:
        """Whether the pictures are held on the device; decided when it is first asked for."""
        if self._resident == "auto":
            need, free = self._picture_bytes(), _free_bytes(self.device)
            self._resident = "device" if need <= RESIDENT_SHARE * free else "memmap"
            logger.debug("pictures: %s (%.2f GB, %.2f GB free)", self._resident, need / 1e9, free / 1e9)
        return self._resident == "device"

    def batch(self, epoch: int, step: int) -> Batch:
        """This process's rows of global batch ``step`` of ``epoch``: a pure function of the two and the seed.

        The parts of all ranks, one after the other, are the batch of a single process.

        Raises:
            IndexError: the epoch has no such step.
        """
        if not 0 <= step < self.steps_per_epoch:
            raise IndexError(f"step {step} of an epoch of {self.steps_per_epoch} steps")
        return self._gather(epoch if self._shuffle else None, step)

    def iterate(self, epoch: int, first_step: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from a step on. Close the iterator (``.close()``) to stop reading ahead early."""
        return self._run(epoch if self._shuffle else None, range(first_step, self.steps_per_epoch))

    def ordered(self) -> Iterator[Batch]:
        """Every sample exactly once, in the order of ``indices``, the last batch as large as what is left.

        A process whose part of the last batch is empty gets one batch less.
        """
        return self._run(None, range(math.ceil(len(self._epoch) / self._size)))

    def _run(self, epoch: int | None, steps: range) -> Iterator[Batch]:
        steps = range(steps.start, steps.stop - (steps.stop > steps.start and not self._bounds(steps.stop - 1)))
        if self.resident:
            yield from (self._gather(epoch, step) for step in steps)
            return
        with closing(ReadAhead(lambda step: self._read(epoch, step), steps, self.device)) as ahead:
            for parts in ahead:
                yield self._assemble(parts)

    def _bounds(self, step: int) -> range:
        """Positions in the order of the epoch."""
        start = step * self._size
        part = _part(min(self._size, len(self._epoch) - start), self._rank, self._world)
        return range(start + part.start, start + part.stop)

    def _positions(self, epoch: int | None) -> tuple[npt.NDArray[np.int64], Tensor]:
        """The order of an epoch, in host memory and on the device: moving it step by step would stall a GPU."""
        known = self._order
        if known is None or known[0] != epoch:
            order = self._epoch if epoch is None else self._epoch[shuffled(len(self._epoch), self._seed, epoch)]
            if epoch is not None and len(order) > len(self._indices):
                order = spread_repeats(order, self._size)
            known = (epoch, order, torch.from_numpy(order).to(self.device) if self.resident else torch.empty(0))
            self._order = known
        return known[1:]

    def _gather(self, epoch: int | None, step: int) -> Batch:
        if not self.resident:
            return self._assemble(self._read(epoch, step))
        if self._held is None:
            self._held = self._load()
        bounds = self._bounds(step)
        at = self._positions(epoch)[1][bounds.start : bounds.stop]
        return self._assemble({name: values.index_select(0, at) for name, values in self._held.items()})

    def _read(self, epoch: int | None, step: int) -> dict[str, Tensor]:
        bounds = self._bounds(step)
        at = self._positions(epoch)[0][bounds.start : bounds.stop]
        pin = self.device.type == "cuda"
        parts = {name: _take(values, at, pin) for name, values in self._host.items()}
        parts |= {name: _take(self._pictures(name), self._indices[at], pin) for name in self.modalities}
        return parts

    def _assemble(self, parts: dict[str, Tensor]) -> Batch:
        # Moved as it was read, from pinned memory: what is made of it in host memory would be copied while all waits.
        parts = {name: values.to(self.device, non_blocking=True) for name, values in parts.items()}
        images = {}
        for name in self.modalities:
            image = parts[name]
            # Torch gathers signed 16-bit numbers only; the mask makes them unsigned again.
            images[name] = image.int().bitwise_and_(0xFFFF) if image.dtype == torch.int16 else image
        present = {name: parts[f"has {name}"] for name in self.modalities}
        return Batch(images, present, parts["labels"], parts["camera"], parts["index"])

    def _pictures(self, name: str) -> npt.NDArray[Any]:
        mapped = np.asarray(self.prepared.images[name])
        return mapped.view(np.int16) if mapped.dtype == np.uint16 else mapped

    def _picture_bytes(self) -> int:
        return sum(len(self._indices) * self._pictures(name)[:1].nbytes for name in self.modalities)

    def _load(self) -> dict[str, Tensor]:
        held = {name: torch.from_numpy(values).to(self.device) for name, values in self._host.items()}
        for name in self.modalities:
            source = self._pictures(name)
            kind = torch.int16 if source.dtype == np.int16 else torch.uint8
            held[name] = torch.empty((len(self._indices), *source.shape[1:]), dtype=kind, device=self.device)
            for start in range(0, len(self._indices), _LOAD_ROWS):
                rows = self._indices[start : start + _LOAD_ROWS]
                held[name][start : start + len(rows)] = _take(source, rows, False)
        return held


class ReadAhead(Generic[S, T]):
    """Calls a function for one step after the other in a thread that is at most a few results ahead.

    Args:
        make: called with each step, in order; what it raises is raised to whoever waits for the result.
        steps: to be made, numbers or whatever else tells what to make.
        device: what the function works on.
    """

    def __init__(self, make: Callable[[S], T], steps: Sequence[S], device: torch.device) -> None:
        self._results: queue.Queue[tuple[T] | BaseException | None] = queue.Queue(_AHEAD)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, args=(make, steps, device), name="read-ahead", daemon=True)
        self._thread.start()

    def _work(self, make: Callable[[S], T], steps: Sequence[S], device: torch.device) -> None:
        try:
            if device.type == "cuda":
                torch.cuda.set_device(device)  # every thread has its own
            for step in steps:
                if not self._put((make(step),)):
                    return
            self._put(None)
        except BaseException as error:  # belongs to whoever waits for the result
            self._put(error)

    def _put(self, item: tuple[T] | BaseException | None) -> bool:
        while not self._stop.is_set():
            with suppress(queue.Full):
                self._results.put(item, timeout=0.05)
                return True
        return False

    def __iter__(self) -> Iterator[T]:
        """The results, in order."""
        while (item := self._results.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item[0]

    def close(self) -> None:
        """Stop the thread and wait for its end."""
        self._stop.set()
        self._thread.join()


def _part(count: int, rank: int, world: int) -> slice:
    return slice(count * rank // world, count * (rank + 1) // world)


def _take(values: npt.NDArray[Any], rows: npt.NDArray[np.int64], pin: bool) -> Tensor:
    kind = torch.from_numpy(np.empty(0, values.dtype)).dtype
    out = torch.empty((len(rows), *values.shape[1:]), dtype=kind, pin_memory=pin)
    np.take(values, rows, axis=0, out=out.numpy(), mode="clip")  # with "raise" numpy would buffer the whole result
    return out


def _free_bytes(device: torch.device) -> int:
    """Free memory of a device; of the CPU, this process's part of what host and container leave."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    with suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = 1024 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1])
    with suppress(OSError, StopIteration, ValueError):
        group = Path("/sys/fs/cgroup")
        limit, used = (int((group / f"memory.{what}").read_text(encoding="ascii")) for what in ("max", "current"))
        pairs = (line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
        cached = next(int(value) for name, value in pairs if name == "inactive_file")  # given up when memory is short
        free = min(free, limit - used + cached)
    return free // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
