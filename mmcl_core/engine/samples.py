"""The samples of a run: which are trained on, which validate, and how they come as augmented views."""

from __future__ import annotations

import hashlib
import itertools
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmcl_core.augment import Augmenter, Draws, Picture
from mmcl_core.config import Config, to_dict
from mmcl_core.data.batches import Batch, BatchSource, ReadAhead
from mmcl_core.data.cache import PreparedSet
from mmcl_core.data.files import INDEX
from mmcl_core.data.splits import shuffled, split_indices
from mmcl_core.engine.checks import check_data, check_modalities
from mmcl_core.engine.distributed import World
from mmcl_core.engine.recording import batch_tensors
from mmcl_core.engine.runfolder import FREE_SETTINGS, STARTING_WEIGHTS, flat
from mmcl_core.engine.schedule import step_generator
from mmcl_core.errors import CheckpointError
from mmcl_core.methods import method_class
from mmcl_core.methods.base import Stage, ViewBatch
from mmcl_core.randaugment import sent
from mmcl_core.words import counted

__all__ = ["Parts", "Samples", "check_state"]

logger = logging.getLogger(__name__)

#: Of an update: samples as they are stored, and their views.
Parts = list[tuple[Batch, ViewBatch]]

#: Updates that are augmented at a time on a GPU.
AUGMENTED_TOGETHER = 4
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
        fingerprint: names the content of the set and, after a hyphen, which of its samples train and validate.
        incomplete: the modalities that some training samples lack.

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
        index = Path(config.data.root) / INDEX
        self.rows, val_rows, self.labels = split_indices(self.prepared, config.data, config.seed)
        drawn = b"".join(hashlib.sha256(part.tobytes()).digest() for part in (self.rows, val_rows, self.labels))
        self.fingerprint = "-".join(hashlib.sha256(content).hexdigest() for content in (index.read_bytes(), drawn))
        self.labelled = bool((self.labels >= 0).any())
        check_modalities(config, self.prepared)
        kind, classes = method_class(config.method), self.prepared.classes
        self.method = kind(config, classes, len(self.prepared), self.rows, self.labelled)
        self._warn_of_idle_samples()
        modalities = self.method.modalities()
        times = np.where(self.labels >= 0, self._label_repeats(), 1)
        check_data(
            config, self.prepared, modalities, self.rows, self.labels, val_rows, int(times.sum()), self.method.pairs,
            self.method.stages(),
        )  # fmt: skip
        self.part = config.train.batch // config.train.accumulate
        common: dict[str, Any] = {
            "seed": config.seed, "device": device, "resident": config.data.resident, "modalities": modalities
        }  # fmt: skip
        self._source = BatchSource(
            self.prepared, self.rows, self.labels, batch=self.part, times=times, rank=world.rank, world=world.size,
            **common,
        )  # fmt: skip
        self.steps_per_epoch = self._source.steps_per_epoch // config.train.accumulate
        ordered = {"batch": max(self.part, PREDICT_BATCH), "shuffle": False, **common}
        self.validation = BatchSource(self.prepared, val_rows, **ordered) if len(val_rows) else None
        told = np.flatnonzero(self.labels >= 0) if self.labelled else np.arange(len(self.labels))
        few = np.sort(told[shuffled(len(told), config.seed, len(told))[:PROBE_SAMPLES]])
        ordered["resident"] = "memmap"  # training has these pictures on the device already
        known = self.labels[few] if self.labelled else None
        self.probing = BatchSource(self.prepared, self.rows[few], labels=known, **ordered)
        present = dict(zip(self.prepared.modalities, self.prepared.present[self.rows].T, strict=True))
        self.incomplete = {name for name in modalities if not present[name].all()}
        self._stream: torch.cuda.Stream | None = None

    def _label_repeats(self) -> int:
        """``data.label_repeats``, or what it stands for where it is 0."""
        given, labelled = self.config.data.label_repeats, int((self.labels >= 0).sum())
        others, batch = len(self.labels) - labelled, self.config.train.batch // self.config.train.accumulate
        # No sample twice in a batch: no more repeats than an epoch then has batches.
        most = max(1, others // (batch - labelled) - 1) if labelled < batch else max(given, others)
        if given > most and not self.method.labels_alone:
            logger.warning(
                "data.label_repeats=%d: with %d labels some batches of %d hold samples several times, which contrast "
                "takes for negatives; at most %d spares that",
                given, labelled, batch, most,
            )  # fmt: skip
        if given:
            return given
        repeats = max(1, min(round(others / max(labelled, 1)), most))
        logger.info(
            "data.label_repeats=0: the %d labelled of %d samples come %s in an epoch",
            labelled, len(self.labels), counted(repeats, "time"),
        )  # fmt: skip
        return repeats

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

        On a GPU a thread makes them, some updates ahead and several at a time: there the number of operations takes
        time, not their size. What is drawn follows from the update alone.

        Args:
            epoch, first_step: as of :meth:`epoch`.
            augmenter, stage: as of :meth:`views`.
            index: number of the stage.
            step: updates of the stage before this one.
        """
        steps = range(step, step + self.steps_per_epoch - first_step)
        with self.epoch(epoch, first_step) as batches:

            def make(now: range) -> list[Parts]:
                samples = [next(batches) for _ in now]
                places = [(index, update, part) for update in now for part in range(self.config.train.accumulate)]
                whole = list(itertools.chain.from_iterable(samples))
                views = iter(self.views(whole, augmenter, stage, places))
                return [[(batch, next(views)) for batch in parts] for parts in samples]

            if self.device.type != "cuda":
                yield (make(range(now, now + 1))[0] for now in steps)
                return
            groups = [steps[at : at + AUGMENTED_TOGETHER] for at in range(0, len(steps), AUGMENTED_TOGETHER)]
            with closing(ReadAhead(self._aside(make), groups, self.device)) as ahead:
                yield (parts for made, event in ahead for parts in _taken_over(made, event))

    def _aside(self, make: Callable[[range], list[Parts]]) -> Callable[[range], tuple[list[Parts], torch.cuda.Event]]:
        """The same on a stream of its own, so that the GPU augments beside training; with what tells the end."""
        stream = self._stream = self._stream or torch.cuda.Stream(self.device)

        def made(now: range) -> tuple[list[Parts], torch.cuda.Event]:
            with torch.cuda.stream(stream):
                return make(now), stream.record_event()

        return made

    def views(
        self, batches: Sequence[Batch], augmenter: Augmenter, stage: Stage, places: Sequence[tuple[int, ...]]
    ) -> list[ViewBatch]:
        """Augment parts of batches. The draws are those of the global batch, of which this process takes its rows.

        Args:
            batches: this process's samples, of each part.
            augmenter: of the stage.
            stage: to draw for.
            places: (stage, update, part) of each, which its draws follow from.
        """
        generators = [step_generator(self.config.seed, "draw", *place) for place in places]
        rows = self._source.rows
        draws = Draws.cat([augmenter.draw(self.part, generator).rows(rows) for generator in generators])
        images = {name: _cat([batch.images[name] for batch in batches]) for name in batches[0].images}
        pictures = augmenter(images, _cat([batch.camera for batch in batches]), draws)
        views, made, start = self.method.views(stage), [], 0
        for batch, generator in zip(batches, generators, strict=True):
            own = self.method.draw(self.part, stage, generator)
            part, start = slice(start, start + len(batch)), start + len(batch)
            made.append(
                ViewBatch(
                    pictures={view: Picture(p.image[part], p.camera[part]) for view, p in pictures.items()},
                    present={view: batch.present[name] for view, name in views.items() if name in self.incomplete},
                    labels=batch.labels,
                    index=batch.index,
                    draws={name: sent(value[rows], self.device) for name, value in own.items()},
                )
            )
        return made

    def _warn_of_idle_samples(self) -> None:
        idle = int((self.labels < 0).sum())
        if idle and self.method.labels_alone:
            logger.warning(
                "%d of %d training samples have no label and teach method %s nothing; data.unlabelled=drop leaves them "
                "out of the batches (train.epochs then counts shorter epochs)",
                idle,
                len(self.labels),
                self.method.name,
            )

    def described(self) -> dict[str, Any]:
        """What a weights file tells of the set: its classes, and the side of its crops."""
        return {"classes": list(self.prepared.classes), "crop_size": self.prepared.size}

    def identity(self) -> dict[str, Any]:
        """What a saved state tells of the run that it belongs to, see :func:`check_state`."""
        return {"data": self.fingerprint, "settings": dict(flat(to_dict(self.config)))}

    def labelled_keys(self) -> list[str]:
        """Keys of the training samples that have a label in this run."""
        return [self.prepared.keys[row] for row, label in zip(self.rows, self.labels, strict=True) if label >= 0]


def check_state(state: dict[str, Any], run: Path, samples: Samples, processes: int, precision: str) -> None:
    """Refuse to go on with other settings or samples than before; another number of processes or precision is told.

    Raises:
        CheckpointError: the state was saved with other settings, belongs to another set or other samples of it, or is
            of a stage or an update that the method does not have.
    """
    asked, saved = dict(flat(to_dict(samples.config))), state.get("settings", {})  # none in older states
    fixed = (saved.keys() & asked.keys()) - FREE_SETTINGS - STARTING_WEIGHTS
    changed = [f"{name}: {saved[name]!r} -> {asked[name]!r}" for name in sorted(fixed) if saved[name] != asked[name]]
    if changed:
        path = run / "config.yaml"
        words = f"{path} was edited since" if path.exists() else f"{path} is lost, and the settings are not those when"
        raise CheckpointError(
            f"{words} the state was saved ({'; '.join(changed)}); put it back to go on, or start a new run"
        )
    before, _, drawn_before = str(state["data"]).partition("-")
    now, _, drawn = samples.fingerprint.partition("-")
    if before != now:
        raise CheckpointError(
            f"{run} was trained on other data than {samples.config.data.root} holds now; "
            "point data.root to the set it was started with, or start a new run"
        )
    if drawn_before not in ("", drawn):
        raise CheckpointError(
            f"{run} was begun by a version of this program that drew other samples for training and validation; "
            "finish it with that version, or start a new run"
        )
    _check_place(state, run / "state.pt", samples)
    if state["processes"] != processes:
        logger.warning(
            "begun on %d process(es), goes on with %d: equal but for rounding and dropout",
            state["processes"], processes,
        )  # fmt: skip
    if (then := state.get("precision", precision)) != precision:
        logger.warning(
            "begun in %s, goes on in %s, which is this machine's choice (train.precision): the end is another one",
            then, precision,
        )  # fmt: skip


def _check_place(state: dict[str, Any], path: Path, samples: Samples) -> None:
    """Refuse a state of a stage, or of an update in it, that the method does not have.

    Raises:
        CheckpointError: naming file, place and stages.
    """
    stages, index, step = samples.method.stages(), state["stage"], state["step"]
    there = 0 <= index < len(stages)
    updates = samples.steps_per_epoch * stages[index].epochs if there else 0
    if there and 0 <= step <= updates:
        return
    names = ", ".join(stage.name for stage in stages)
    saved = f"in stage {index + 1}" if not there else f"after update {step} of stage {stages[index].name}"
    known = f"which has {updates}" if there else f"and method {samples.method.name} has {len(stages)} ({names})"
    raise CheckpointError(
        f"{path} was saved {saved}, {known}: other settings of the method, or another version of this program, had "
        "others; finish the run with these, or start it again with --overwrite"
    )


def _cat(parts: list[Tensor]) -> Tensor:
    """``torch.cat`` that does not copy a single part."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _taken_over(made: list[Parts], event: torch.cuda.Event) -> list[Parts]:
    """For the present stream: it waits for what another one made, whose memory stays taken until this one is done."""
    stream = torch.cuda.current_stream()
    stream.wait_event(event)
    for batch, views in itertools.chain.from_iterable(made):
        own = (*batch.images.values(), *batch.present.values(), batch.labels, batch.camera, batch.index)
        for tensor in itertools.chain(batch_tensors(views), own):
            tensor.record_stream(stream)
    return made
