"""The samples of a run: which are trained on, which validate, and how they come as augmented views."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import torch

from mmcl_core.augment import Augmenter
from mmcl_core.config import Config
from mmcl_core.data.batches import Batch, BatchSource, ReadAhead, split_indices
from mmcl_core.data.cache import PreparedSet
from mmcl_core.engine.checks import check_data
from mmcl_core.engine.distributed import World
from mmcl_core.engine.schedule import step_generator
from mmcl_core.methods import method_class
from mmcl_core.methods.base import Stage, ViewBatch
from mmcl_core.randaugment import sent

__all__ = ["Parts", "Samples"]

#: Of an update: samples as they are stored, and their views.
Parts = list[tuple[Batch, ViewBatch]]

#: Most training samples whose embeddings the online probes look at.
PROBE_SAMPLES = 10_000
#: Samples in a batch of predictions, where the training batch is not larger.
PREDICT_BATCH = 64


class Samples:
    """The prepared set of a run, opened and split.

    Attributes:
        prepared: the set.
        method: the method of the run, which knows what it reads.
        validation: the validation split in order; ``None`` without one.
        probing: training samples in order, for the online probes; with the labels of the set if the run hides all.
        labelled: whether any training sample has a label in this run; without one the classifier learns nothing.
        steps_per_epoch: updates in an epoch.
        fingerprint: names the content of the set.

    Args:
        config: settings, checked.
        world: this process among others.
        device: where training happens.

    Raises:
        ConfigError, DataError: settings that do not fit the set, or a damaged set.
    """

    def __init__(self, config: Config, world: World, device: torch.device) -> None:
        self.config, self.device = config, device
        self.prepared = PreparedSet.open(config.data.root, verify=world.main)
        index = Path(config.data.root) / "index.json"
        self.fingerprint = hashlib.sha256(index.read_bytes()).hexdigest()
        self.rows, val_rows, self.labels = split_indices(self.prepared, config.data, config.seed)
        self.labelled = bool((self.labels >= 0).any())
        self.method = method_class(config.method)(config, self.prepared.classes, len(self.prepared), self.rows)
        modalities = self.method.modalities()
        check_data(config, self.prepared, modalities, self.rows, val_rows)
        self.part = config.train.batch // config.train.accumulate
        common: dict[str, Any] = {
            "seed": config.seed, "device": device, "resident": config.data.resident, "modalities": modalities
        }  # fmt: skip
        self._source = BatchSource(
            self.prepared, self.rows, labels=self.labels, batch=self.part, rank=world.rank, world=world.size, **common
        )
        self.steps_per_epoch = self._source.steps_per_epoch // config.train.accumulate
        ordered = {"batch": max(self.part, PREDICT_BATCH), "shuffle": False, **common}
        self.validation = BatchSource(self.prepared, val_rows, **ordered) if len(val_rows) else None
        few = slice(None, None, -(-len(self.rows) // PROBE_SAMPLES))
        ordered["resident"] = "memmap"  # training has these pictures on the device already
        known = self.labels[few] if self.labelled else None
        self.probing = BatchSource(self.prepared, self.rows[few], labels=known, **ordered)
        columns = [list(self.prepared.modalities).index(name) for name in modalities]
        present = self.prepared.present[self.rows]
        self._incomplete = {
            name for name, column in zip(modalities, columns, strict=True) if not present[:, column].all()
        }

    @contextmanager
    def epoch(self, epoch: int, first_step: int) -> Iterator[Iterator[list[Batch]]]:
        """This process's batches of the epoch from an update on; each is a list of ``train.accumulate`` parts."""
        parts = self.config.train.accumulate
        with closing(self._source.iterate(epoch, first_step * parts)) as batches:  # type: ignore[type-var]
            yield ([next(batches) for _ in range(parts)] for _ in range(first_step, self.steps_per_epoch))

    @contextmanager
    def ready(
        self, epoch: int, first_step: int, augmenter: Augmenter, stage: Stage, index: int, step: int
    ) -> Iterator[Iterator[Parts]]:
        """:meth:`epoch`, augmented: each update's parts, with their views.

        On a GPU a thread makes them, some updates ahead: starting so many small operations takes about as long as those
        of the networks, and the two go on side by side. What is drawn follows from the update alone.

        Args:
            epoch, first_step: as of :meth:`epoch`.
            augmenter, stage: as of :meth:`views`.
            index: number of the stage.
            step: updates of the stage before this one.
        """
        with self.epoch(epoch, first_step) as batches:

            def make(now: int) -> Parts:
                parts = enumerate(next(batches))
                return [(batch, self.views(batch, augmenter, stage, index, now, part)) for part, batch in parts]

            steps = range(step, step + self.steps_per_epoch - first_step)
            if self.device.type != "cuda":
                yield map(make, steps)
                return
            with closing(ReadAhead(make, steps, self.device)) as ahead:
                yield iter(ahead)

    def views(self, batch: Batch, augmenter: Augmenter, stage: Stage, *place: int) -> ViewBatch:
        """Augment a part of a batch. The draws are those of the global batch, of which this process takes its rows.

        Args:
            batch: this process's samples.
            augmenter: of the stage.
            stage: to draw for.
            place: (stage, update, part), which the draws follow from.
        """
        generator = step_generator(self.config.seed, "draw", *place)
        rows = self._source.rows
        draws = augmenter.draw(self.part, generator).rows(rows).to(self.device)
        own = self.method.draw(self.part, stage, generator)
        views = self.method.views(stage)
        return ViewBatch(
            pictures=augmenter(batch.images, batch.camera, draws),
            present={view: batch.present[name] for view, name in views.items() if name in self._incomplete},
            labels=batch.labels,
            index=batch.index,
            draws={name: sent(value[rows], self.device) for name, value in own.items()},
        )

    def labelled_keys(self) -> list[str]:
        """Keys of the training samples that have a label in this run."""
        return [self.prepared.keys[row] for row, label in zip(self.rows, self.labels, strict=True) if label >= 0]
