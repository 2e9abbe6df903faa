"""Evaluation of a trained network on a split of a prepared set: every sample once, each modality and their fusion."""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mmcl_core import metrics
from mmcl_core.augment import Picture, eval_transform, mirrored
from mmcl_core.backend_torch import pick_device, set_float32
from mmcl_core.crops import CROP_SIZE, UNKNOWN, all_resized, uses_camera
from mmcl_core.data.batches import Batch, BatchSource
from mmcl_core.data.cache import PreparedSet
from mmcl_core.data.files import INDEX
from mmcl_core.engine.blank import guesses, is_blank
from mmcl_core.engine.device import tell_of_memory
from mmcl_core.engine.open_set import min_score_figures
from mmcl_core.engine.predictions import Predictions, fused
from mmcl_core.engine.runfolder import warn_of_seen
from mmcl_core.errors import DataError, UntrainedModalityError
from mmcl_core.metrics import FUSED
from mmcl_core.modality import modality
from mmcl_core.nn.network import Network
from mmcl_core.progress import progress_bar
from mmcl_core.weights import build_model, model_id
from mmcl_core.words import counted

__all__ = ["LEGACY_BATCHES", "Evaluation", "Settings", "evaluate"]

logger = logging.getLogger(__name__)

#: Batches of the test split that the authors' protocol re-estimates BatchNorm on.
LEGACY_BATCHES = 50
LEGACY_NOTE = (
    "LEGACY PROTOCOL, for comparison only: BatchNorm statistics re-estimated on up to "
    f"{LEGACY_BATCHES} shuffled TEST batches of {{}} (dropout active), test set shuffled, last incomplete batch dropped"
)


@dataclass(frozen=True)
class Settings:
    """How to evaluate.

    Attributes:
        split: of the prepared set.
        modalities: names, ``rgbd`` for the fusion; empty: all that the model and the set have.
        batch: samples at once; answers under the authors' protocol depend on it: their program takes that of training.
        device: ``auto``, ``cpu``, ``cuda``, ...
        precision: ``float32`` or ``bf16``.
        legacy: whether to follow the authors' protocol, see :data:`LEGACY_NOTE`.
        resamples, seed: of the bootstrap; the seed also shuffles under the authors' protocol.
        hide_camera: whether the cameras of the crops are withheld, as on a robot that does not publish its own.
        mirror: whether every sample is looked at twice, as it is and mirrored, as the recogniser does on demand.
    """

    split: str = "test"
    modalities: tuple[str, ...] = ()
    batch: int = 64
    device: str = "auto"
    precision: str = "float32"
    legacy: bool = False
    resamples: int = 1000
    seed: int = 0
    hide_camera: bool = False
    mirror: bool = False


@dataclass(frozen=True)
class Evaluation:
    """What was found.

    Attributes:
        report: the content of ``metrics.json``.
        predictions: by modality, of samples whose class the model knows.
        classes: the model's.
        prepared: the set.
    """

    report: dict[str, Any]
    predictions: dict[str, Predictions]
    classes: tuple[str, ...]
    prepared: PreparedSet


def evaluate(run: str | Path, data: str | Path, settings: Settings) -> Evaluation:
    """Evaluate a model on a split.

    Classes are matched by name. All classes of the model compete; where the split has fewer, the accuracy among its own
    classes is given besides (``restricted``). Samples without a label are left out and counted. So are samples of a
    class that the model does not know, but for one figure: what ``min_score`` makes of them (:mod:`.open_set`).
    Samples without a modality are left out of its figures and counted there.

    Args:
        run: run folder or weights file.
        data: prepared set.
        settings: see there.

    Raises:
        CheckpointError, DataError: a damaged model or set; a split or modality the set does not have; no usable sample.
        UntrainedModalityError: a modality the model was not trained to classify.
        TrainingError: not enough memory.
    """
    with tell_of_memory(settings.batch):
        return _evaluate(run, data, settings)


def _evaluate(run: str | Path, data: str | Path, settings: Settings) -> Evaluation:
    device = pick_device(settings.device)
    set_float32(settings.precision)
    model, metadata = build_model(run, device)
    prepared = PreparedSet.open(data)
    warn_of_seen(run, prepared.path, settings.split)
    rows, labels, left_out = _usable(prepared, settings, metadata["classes"])
    wanted = _modalities(settings.modalities, metadata, prepared, rows[labels >= 0])
    single = tuple(name for name in wanted if name != FUSED)
    if FUSED in wanted:
        single = tuple(dict.fromkeys((*single, "rgb", "depth")))
    _check_kind(prepared, single, metadata["input"]["depth_encoding"])
    source = _source(prepared, rows, single, settings, device)
    if settings.legacy:
        _reestimate(model, source, single, settings)
    batches = source.iterate(1) if settings.legacy else source.ordered()
    total = source.steps_per_epoch if settings.legacy else -(-len(rows) // settings.batch)
    bar = progress_bar(batches, title=f"evaluate {settings.split}", unit=" batches", total=total, leave=False)
    looked_at: list[NDArray[np.int64]] = []
    side = 0 if settings.legacy else int(metadata.get("crop_size", 0)) or min(prepared.size, CROP_SIZE)
    found = _predict(model, _noting(bar, looked_at), single, metadata["temperature"], settings, side, device)
    kept = np.isin(rows, np.concatenate(looked_at))
    rows, labels, left_out["incomplete_batch"] = rows[kept], labels[kept], int((~kept).sum())
    label_of = dict(zip(rows.tolist(), labels.tolist(), strict=True))
    predictions = {
        name: Predictions(at, np.array([label_of[row] for row in at.tolist()], np.int64), values, blank)
        for name, (at, values, blank) in found.items()
    }
    if FUSED in wanted:
        predictions[FUSED] = fused(predictions, float(metadata["temperature"].get(FUSED, 1.0)))
    predictions = {name: predictions[name] for name in wanted}
    report = _report(Path(run), metadata, prepared, predictions, rows[labels >= 0], left_out, settings)
    known = {name: found.known() for name, found in predictions.items()}
    return Evaluation(report, known, tuple(metadata["classes"]), prepared)


def _modalities(
    asked: Sequence[str], metadata: Mapping[str, Any], prepared: PreparedSet, rows: NDArray[np.int64]
) -> tuple[str, ...]:
    """The modalities to evaluate; those asked for, or all that the model knows and some of the rows have."""
    trained = tuple(metadata["trained_modalities"])
    if not asked:
        has = {name: prepared.present[rows, column] > 0 for column, name in enumerate(prepared.modalities)}
        found = tuple(name for name in trained if name in has and has[name].any())
        if not found:
            raise UntrainedModalityError(
                f"the model was trained to classify {', '.join(trained) or 'nothing'}, {prepared.path} holds "
                f"{', '.join(name for name in has if has[name].any())}; there is nothing to evaluate"
            )
        for name in set(trained) & set(has) - set(found):
            logger.warning("no sample that the model knows has %s here: it is left out", name)
        return (*found, FUSED) if {"rgb", "depth"} <= set(found) and (has["rgb"] & has["depth"]).any() else found
    for name in asked:
        for part in ("rgb", "depth") if name == FUSED else (name,):
            if part not in trained:
                known = ", ".join(trained) or "nothing"
                raise UntrainedModalityError(
                    f"the model was trained to classify {known}, not {part} (--modality {name})"
                )
            if part not in prepared.modalities:
                raise DataError(f"{prepared.path} has no modality {part!r}; it has {', '.join(prepared.modalities)}")
    return tuple(dict.fromkeys(asked))


def _check_kind(prepared: PreparedSet, modalities: Sequence[str], encoding: str) -> None:
    """Refuse depth of another kind than that of the training.

    Raises:
        DataError: distances for a model of depth pictures (HHA), or the other way round.
    """
    stored = encoding == "stored"
    for name in modalities:
        if modality(name).kind == "depth" and (prepared.images[name].ndim == 4) != stored:
            here, there = ("distances", "pictures") if stored else ("pictures", "distances")
            raise DataError(
                f"{name} in {prepared.path} is {here}, and the model takes {there}; evaluate on another set, or leave "
                f"{name} out with --modality"
            )


def _usable(
    prepared: PreparedSet, settings: Settings, classes: Sequence[str]
) -> tuple[NDArray[np.int64], NDArray[np.int64], dict[str, Any]]:
    """Rows to look at, their labels in the model's classes (-1: none of them, or ``unknown``), and what was left out.

    Under the authors' protocol unknown objects are not looked at: statistics are taken on what is.
    """
    split = settings.split
    number = {name: place for place, name in enumerate(classes) if name != UNKNOWN}
    to_model = np.array([number.get(name, -1) for name in prepared.classes] + [-1], np.int64)
    if split not in prepared.split_names:
        names = ", ".join(prepared.split_names)
        raise DataError(f"{prepared.path} has no split {split!r}; it has {names}: choose with --split")
    rows = prepared.select(split)
    theirs = prepared.labels[rows]
    ours = to_model[theirs]
    unknown = Counter(prepared.classes[label] for label in theirs[(theirs >= 0) & (ours < 0)])
    if not (theirs >= 0).any():
        raise DataError(f"no sample in the split {split!r} of {prepared.path} has a label to compare answers with")
    if not (ours >= 0).any():
        raise DataError(
            f"split {split!r} of {prepared.path} has no sample of the model's classes ({', '.join(number)}); its "
            f"classes are {', '.join(prepared.classes)}"
        )
    if unknown:
        logger.log(
            logging.INFO if {UNKNOWN} == unknown.keys() else logging.WARNING,  # those are meant to be unknown
            "%s of things that the model has no name for, %s: %s",
            counted(unknown.total(), "sample"),
            "left out" if settings.legacy else "counted for min_score alone",
            ", ".join(f"{name} ({count})" for name, count in unknown.items()),
        )
    left_out = {"unlabelled": int((theirs < 0).sum()), "unknown_classes": dict(unknown)}
    seen = ours >= 0 if settings.legacy else theirs >= 0
    return rows[seen], ours[seen], left_out


def _source(
    prepared: PreparedSet, rows: NDArray[np.int64], modalities: Sequence[str], settings: Settings, device: torch.device
) -> BatchSource:
    return BatchSource(
        prepared,
        rows,
        batch=settings.batch,
        seed=settings.seed,
        device=device,
        resident="memmap",
        modalities=tuple(modalities),
        shuffle=settings.legacy,
        drop_last=settings.legacy,
    )


def _noting(batches: Iterable[Batch], rows: list[NDArray[np.int64]]) -> Iterator[Batch]:
    """The batches, and the rows of each into the list."""
    for batch in batches:
        rows.append(batch.index.cpu().numpy())
        yield batch


@torch.inference_mode()
def _predict(
    model: Network,
    batches: Iterable[Batch],
    modalities: Sequence[str],
    temperature: Mapping[str, float],
    settings: Settings,
    side: int,
    device: torch.device,
) -> dict[str, tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.bool_]]]:
    """Rows, probabilities and whether there was nothing to see, by modality, rows ascending."""
    parts: dict[str, list[tuple[Tensor, Tensor, Tensor]]] = {name: [] for name in modalities}
    for batch in batches:
        pictures = _pictures(batch, model, settings, side)
        for name in modalities:
            present = batch.present[name]
            if not present.any():
                continue
            shown = Picture(pictures[name].image[present], pictures[name].camera[present])
            with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
                views = [shown, mirrored(shown)] if settings.mirror else [shown]
                logits = [model(view.image, name, view.camera)[0] for view in views]
            values = (torch.stack(logits).float().mean(dim=0) / temperature[name]).softmax(dim=1)
            unseen = is_blank(shown.image)
            values[unseen] = guesses(batch.index[present][unseen], values.shape[1])
            parts[name].append((batch.index[present].cpu(), values.cpu(), unseen.cpu()))
    found = {}
    for name in modalities:
        if not (pieces := parts.pop(name)):
            raise DataError(f"no sample of split {settings.split!r} has the modality {name!r}; leave it out")
        rows, probabilities, blank = (torch.cat(tensors).numpy() for tensors in zip(*pieces, strict=True))
        order = np.argsort(rows, kind="stable")
        in_order = (order[:-1] < order[1:]).all()
        found[name] = (rows, probabilities, blank) if in_order else (rows[order], probabilities[order], blank[order])
    return found


def _pictures(batch: Batch, model: Network, settings: Settings, side: int = 0) -> dict[str, Picture]:
    """What the network is shown; crops are brought to the ``side`` that training saw first, as a robot's are."""
    camera, images = torch.zeros_like(batch.camera) if settings.hide_camera else batch.camera, dict(batch.images)
    if side and any(image.shape[1] != side for image in images.values()):
        given = camera.cpu().numpy()
        made = {name: all_resized(image.cpu().numpy(), given, side) for name, image in images.items()}
        images = {name: torch.from_numpy(one).to(images[name].device) for name, (one, _) in made.items()}
        camera = torch.from_numpy(next(iter(made.values()))[1]).to(camera.device)
    return eval_transform(images, camera, model.config.input_size)


@torch.no_grad()
def _reestimate(model: Network, source: BatchSource, modalities: Sequence[str], settings: Settings) -> None:
    """What the authors' program does before it tests: move the running statistics to those of the test split."""
    torch.manual_seed(0)  # of the dropout
    model.train()
    for step in range(min(LEGACY_BATCHES, source.steps_per_epoch)):
        batch = source.batch(0, step)
        pictures = _pictures(batch, model, settings)
        for name in modalities:
            present = batch.present[name]
            if present.sum() > 1:
                model(pictures[name].image[present], name, pictures[name].camera[present])
    model.eval()


def _report(
    run: Path,
    metadata: Mapping[str, Any],
    prepared: PreparedSet,
    predictions: Mapping[str, Predictions],
    rows: NDArray[np.int64],
    left_out: Mapping[str, Any],
    settings: Settings,
) -> dict[str, Any]:
    """The content of ``metrics.json``."""
    classes, inputs = metadata["classes"], metadata["input"]
    clean = "clean: every test sample once, statistics from training"
    return {
        "protocol": LEGACY_NOTE.format(settings.batch) if settings.legacy else clean,
        "model": {"path": str(run), "model_id": model_id(run)}
        | {key: metadata.get(key) for key in ("method", "seed", "selection", "classes", "temperature")}
        | {"uses_camera": uses_camera(inputs)},
        "data": {
            "path": str(prepared.path),
            "name": prepared.path.resolve().name,
            "split": settings.split,
            "index_sha256": hashlib.sha256((prepared.path / INDEX).read_bytes()).hexdigest(),
            "samples": len(rows),
            "without_camera": len(rows) if settings.hide_camera else int((prepared.camera[rows, 0] <= 0).sum()),
            "left_out": dict(left_out),
            "description": prepared.index.get("description", {}),
        },
        "settings": asdict(settings),
        "modalities": {
            name: _lacking(name, prepared, rows)
            | _figures(name, found.known(), prepared, classes, settings)
            | {"min_score": min_score_figures(found.probabilities, found.labels, found.unanswered(name), classes)}
            for name, found in predictions.items()
        },
    }


def _lacking(name: str, prepared: PreparedSet, rows: NDArray[np.int64]) -> dict[str, Any]:
    columns = [prepared.modalities.index(part) for part in (("rgb", "depth") if name == FUSED else (name,))]
    return {"missing": int((~prepared.present[rows][:, columns].all(axis=1)).sum())}


def _figures(
    name: str, found: Predictions, prepared: PreparedSet, classes: Sequence[str], settings: Settings
) -> dict[str, Any]:
    """The figures of one modality, from the samples that the model knows."""
    if not len(found.rows):
        raise DataError(f"no sample of split {settings.split!r} that the model knows has {name!r}; leave it out")
    # A sample whose group is unknown is one of its own: together they would be one near-duplicate of each class.
    known = zip(prepared.groups[found.rows], found.rows.tolist(), strict=True)
    groups = [f"group {name}" if name else f"row {row}" for name, row in known]
    estimates = metrics.summarise(
        found.probabilities, found.labels, groups, resamples=settings.resamples, seed=settings.seed
    )
    confusion = metrics.confusion_matrix(found.labels, found.probabilities.argmax(axis=1), len(classes))
    scores = metrics.per_class(confusion)
    bins = metrics.calibration_bins(found.probabilities, found.labels)
    figures: dict[str, Any] = {"samples": len(found.rows), "without_reading": int(found.blank.sum())}
    figures |= {name: estimate._asdict() for name, estimate in estimates.items()}
    figures["groups"] = len(set(zip(groups, found.labels.tolist(), strict=True)))
    own = np.unique(found.labels)
    if len(own) < len(classes):
        among = np.searchsorted(own, found.labels)
        figures["restricted"] = {
            "classes": len(own),
            "top1": metrics.accuracy(found.probabilities[:, own], among),
        }
    figures["per_class"] = {
        name: {key: values[place].item() for key, values in scores.items()}
        for place, name in enumerate(classes)
        if scores["support"][place]
    }
    figures["calibration"] = {
        "edges": bins.edges.tolist(),
        "samples": bins.samples.tolist(),
        "confidence": [None if np.isnan(value) else float(value) for value in bins.confidence],
        "accuracy": [None if np.isnan(value) else float(value) for value in bins.accuracy],
    }
    figures["confusion"] = confusion.tolist()
    return figures
