"""Settings that contradict each other, the data set or the machine: found before any work is done."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from mmcl_core.augment import Augmenter, refuse_distances
from mmcl_core.config import Config
from mmcl_core.crops import uses_camera
from mmcl_core.data.cache import PreparedSet
from mmcl_core.engine.ranges import check_ranges
from mmcl_core.errors import ConfigError, DataError, TrainingError
from mmcl_core.methods import METHODS, method_class
from mmcl_core.methods.base import Stage, Update
from mmcl_core.modality import InputSpec, modality
from mmcl_core.nn.encoder import SIZES
from mmcl_core.nn.losses import LEVEL_PAIRS
from mmcl_core.words import counted

__all__ = ["check_data", "check_modalities", "check_settings", "check_taught"]

logger = logging.getLogger(__name__)


def check_settings(config: Config, processes: int) -> None:
    """Check everything that needs no data.

    Raises:
        ConfigError: naming the setting, its value and what to choose.
    """
    method_class(config.method)
    train, model = config.train, config.model
    if not train.modalities or len(set(train.modalities)) != len(train.modalities):
        raise ConfigError(f"train.modalities is {list(train.modalities)}; name at least one, each once")
    if train.target != "both" and train.target not in train.modalities:
        raise ConfigError(
            f"train.target is {train.target!r}, which is not among train.modalities {list(train.modalities)}; "
            "choose one of them, or both"
        )
    if model.input_size not in SIZES:
        raise ConfigError(f"model.input_size is {model.input_size}; choose from {', '.join(map(str, SIZES))}")
    InputSpec.from_config(model)
    Augmenter(config.augment, model.input_size, {}, model.depth_range_m)
    if model.backbone_weights and model.backbone == "encoder":
        raise ConfigError(
            "model.backbone_weights are weights of a ResNet and model.backbone is encoder; choose resnet18 or "
            "resnet50, or start the encoder from model.init_from"
        )
    unknown = [pair for pair in config.loss.level_pairs if pair not in LEVEL_PAIRS]
    if unknown or not 0 < len(config.loss.level_pairs) == len(set(config.loss.level_pairs)):
        raise ConfigError(
            f"loss.level_pairs is {list(config.loss.level_pairs)}; choose at least one from {', '.join(LEVEL_PAIRS)}, "
            "each once"
        )
    if config.loss.agreement_weight and config.method != "mmcl":
        raise ConfigError(
            f"loss.agreement_weight is a term of method mmcl and method is {config.method}, which would leave it out; "
            "take method=mmcl, or loss.agreement_weight=0"
        )
    check_ranges(config)
    parts = processes * train.accumulate
    if train.batch % parts:
        raise ConfigError(
            f"train.batch is {train.batch}, which {processes} process(es) x train.accumulate={train.accumulate} do not "
            f"divide; take {max(train.batch // parts, 1) * parts}"
        )
    _warn_of_idle_settings(config)


def _warn_of_idle_settings(config: Config) -> None:
    """Settings of another method than that of the run do nothing; whoever gave them may expect otherwise."""
    default = Config()
    for name in METHODS:
        given, usual = getattr(config, name, None), getattr(default, name, None)
        if name == config.method or given is None or given == usual:
            continue
        names = [field.name for field in dataclasses.fields(given)]
        changed = [f"{name}.{key}" for key in names if getattr(given, key) != getattr(usual, key)]
        logger.warning("%s: settings of method %s, ignored as method is %s", ", ".join(changed), name, config.method)
    # The others of that loss are in presets, which serve all methods.
    own = ("contrastive_weight", "drop_same_class")
    changed = [f"loss.{key}" for key in own if getattr(config.loss, key) != getattr(default.loss, key)]
    if changed and not method_class(config.method).contrasts:
        words = "%s: settings of the loss between feature maps, which method %s does not have, ignored"
        logger.warning(words, ", ".join(changed), config.method)


def check_modalities(config: Config, prepared: PreparedSet) -> None:
    """Refuse modalities none of which the set has, before the method asks for more of them.

    Raises:
        ConfigError: naming those that there are.
    """
    given = config.train.modalities
    if set(given).isdisjoint(prepared.modalities):
        known, listed = ", ".join(prepared.modalities), ",".join(prepared.modalities)
        several = (
            f"; several are given as 'train.modalities=[{listed}]'"
            if any(set(", ") & set(name) for name in given)
            else ""
        )
        raise ConfigError(f"train.modalities is {list(given)}, but {config.data.root} has {known}{several}")


def check_data(
    config: Config,
    prepared: PreparedSet,
    modalities: Sequence[str],
    train: npt.NDArray[np.int64],
    labels: npt.NDArray[np.int64],
    val: npt.NDArray[np.int64],
    epoch: int,
    pairs: bool = False,
    stages: Sequence[Stage] = (),
) -> None:
    """Check settings against the data set and its splits.

    Args:
        config: settings.
        prepared: the set.
        modalities: what training reads.
        train, val: rows of the splits.
        labels: of the rows of ``train``, as far as this run is told them; else -1.
        epoch: samples in an epoch, where some come several times.
        pairs: whether the method learns from samples that have several modalities.
        stages: of the method; none: a single one.

    Raises:
        ConfigError: a modality the set does not have, a batch larger than the split, ``keep: best`` without a choice.
        DataError: no class; nothing to train on, as a whole, for a modality that is to be classified, or for what needs
            pairs.
    """
    _check_contents(config, prepared, modalities)
    if len(train) == 0:
        raise DataError(f"{config.data.root} has no samples in the split {config.data.train_split!r}")
    if config.train.batch > len(train):
        remedy = f"give train.batch={len(train)} or less" if len(train) > 1 else "a batch takes 2 at least; add some"
        raise ConfigError(
            f"train.batch is {config.train.batch}, but the training split has {counted(len(train), 'sample')}; {remedy}"
        )
    present = prepared.present[:, [prepared.modalities.index(name) for name in modalities]]
    _check_presence(config, modalities, present[train], pairs)
    taught = set(labels.tolist())
    if config.train.keep == "best":
        targets = np.array([config.train.target in ("both", name) for name in modalities])
        _check_choice(config, prepared.labels[val], present[val][:, targets], taught != {-1})
    _check_depth(config, prepared, modalities)
    _warn_of_gaps(config, prepared, val, taught)
    classified = [name for name in modalities if config.train.target in ("both", name)]
    _warn_of_unseen_classes(prepared, classified, train, labels)
    _warn_of_cameras(config, prepared, modalities, train)
    if 2 * prepared.size <= config.model.input_size:
        logger.warning(
            "the pictures of %s have %d px and are enlarged to model.input_size=%d: prepare or render the set with "
            "--size %d, or train faster with model.input_size=%d", config.data.root, prepared.size,
            config.model.input_size, config.model.input_size, min(size for size in SIZES if size >= prepared.size),
        )  # fmt: skip
    stages = stages or [Stage("train", config.train.epochs, (Update(config.optim),))]
    _warn_of_warm_up(epoch // config.train.batch, stages)
    if config.train.probe and not (len(val) and (taught == {-1} or any(stage.self_supervised for stage in stages))):
        why = "all stages learn from labels" if len(val) else "there is no validation split"
        logger.warning("train.probe does nothing here: %s; it looks at that split after self-supervised epochs", why)


def check_taught(trained: Sequence[str], config: Config, targets: Sequence[str]) -> None:
    """Check at the end of a run with labels that its network answers for what it was trained for.

    Args:
        trained: the modalities that the network answers for.
        config: settings.
        targets: those that it was to answer for; a part of them that is lacking is told in the log.

    Raises:
        TrainingError: it answers for none of them.
    """
    missing = [name for name in targets if name not in trained]
    if not missing:
        return
    names, part = " or ".join(missing), config.train.batch // config.train.accumulate
    words = (
        f"no batch of {part} had enough samples to learn {names} from, so that the network does not answer for it; "
        "raise train.batch, or train on a set in which more samples have it"
    )
    if len(missing) == len(targets):
        raise TrainingError(words)
    logger.warning("%s", words)


def _check_contents(config: Config, prepared: PreparedSet, modalities: Sequence[str]) -> None:
    """Whether the set has the modalities that training reads, and a class to answer with."""
    missing = [name for name in modalities if name not in prepared.modalities]
    if missing:
        only = prepared.modalities[0]
        fix = f"; give train.modalities={only} method=supervised" if len(prepared.modalities) == 1 else ""
        raise ConfigError(
            f"train.modalities names {missing[0]!r}, but {config.data.root} has {', '.join(prepared.modalities)}{fix}"
        )
    if not prepared.classes:
        raise DataError(
            f"{config.data.root} has no class, as none of its samples is labelled, and a model needs one at least to "
            "answer with; prepare it with some samples in a folder that is named by their class"
        )


def _warn_of_warm_up(steps_per_epoch: int, stages: Sequence[Stage]) -> None:
    """Tell of stages that are over before their rate is what the settings say."""
    for stage in stages:
        warm_up, steps = max(update.optim.warmup_steps for update in stage.updates), steps_per_epoch * stage.epochs
        if warm_up > steps / 2:
            place, epochs = ("all", "train.epochs") if len(stages) == 1 else (f"stage {stage.name}", "its epochs")
            logger.warning(
                "optim.warmup_steps is %d of %s in %s, so that the rate is low most of the time; lower it, or "
                "raise %s", warm_up, counted(steps, "update"), place, epochs,
            )  # fmt: skip


def _check_presence(config: Config, modalities: Sequence[str], present: npt.NDArray[np.bool_], pairs: bool) -> None:
    """Refuse what too few of the training samples have, and tell what few have.

    Args:
        config: settings.
        modalities: what training reads.
        present: bool [N, modalities], what each sample has.
        pairs: as of :func:`check_data`.

    Raises:
        DataError: fewer than two samples with a modality that is to be classified, or with the pairs that are needed.
    """
    root, train = config.data.root, config.train
    part = train.batch // train.accumulate
    for name, has in zip(modalities, present.sum(0).tolist(), strict=True):
        if has < 2 and train.target in ("both", name):
            raise DataError(
                f"{has} of {len(present)} training samples in {root} have {name}, which is to be classified; "
                "add some, or leave it out of train.modalities and train.target"
            )
        if part * has < 2 * len(present):
            logger.warning(
                "%d of %d training samples have %s, on average %.1f of the %d that are worked off together, and fewer "
                "than 2 teach nothing; raise train.batch", has, len(present), name, part * has / len(present), part,
            )  # fmt: skip
    if idle := int((~present.any(1)).sum()):
        logger.warning(
            "%d of %d training samples have no %s: they take up places in the batches and teach nothing; a set without "
            "them has batches of train.batch samples that do", idle, len(present), " or ".join(modalities),
        )  # fmt: skip
    if not pairs or len(modalities) < 2:
        return
    both = int((present.sum(1) >= 2).sum())
    if both < 2:
        raise DataError(
            f"{both} of {len(present)} training samples in {root} have two of {', '.join(modalities)}, and method "
            f"{config.method} learns from what belongs together; prepare such pictures as one sample, or take "
            "method=supervised or amdim"
        )
    if part * both < 2 * len(present):
        logger.warning(
            "%d of %d training samples have two of %s, on average %.1f of the %d that are worked off together: few of "
            "the updates of method %s learn from what belongs together; raise train.batch",
            both, len(present), ", ".join(modalities), part * both / len(present), part, config.method,
        )  # fmt: skip


def _warn_of_gaps(config: Config, prepared: PreparedSet, val: npt.NDArray[np.int64], taught: set[int]) -> None:
    """Tell what a set lacks that may have been meant to be there: validation, and samples of classes."""
    if not len(val) and config.data.val_split and not config.data.val_fraction:
        logger.warning(
            "%s has no samples in the split %r: training goes on without validation; data.val_fraction=0.1 holds some "
            "back, data.val_split='' says that this is meant", config.data.root, config.data.val_split,
        )  # fmt: skip
    if config.data.val_fraction and config.data.val_split in prepared.split_names:
        logger.warning(
            "data.val_fraction=%g holds nothing back: validation looks at the split %r; data.val_split='' for that",
            config.data.val_fraction, config.data.val_split,
        )  # fmt: skip
    if len(val) and config.data.val_split == config.data.train_split:
        logger.warning(
            "data.val_split and data.train_split are both %r: validation looks at what is trained on, and its accuracy "
            "says nothing about other samples", config.data.val_split,
        )  # fmt: skip
    if len(val) and config.data.val_split == "test":
        logger.warning(
            "data.val_split is 'test': figures on that split will flatter what it calibrates%s; data.val_split='' "
            "data.val_fraction=0.1 holds others back", " and chooses" if config.train.keep == "best" else "",
        )  # fmt: skip
    if len(taught - {-1}) == 1 and taught != {-1}:
        logger.warning("all labelled samples to train on are of one class, %s", prepared.classes[max(taught)])
    untaught = [name for label, name in enumerate(prepared.classes) if label not in taught]
    if untaught and taught != {-1}:
        few = ", ".join(untaught[:5]) + (", ..." if len(untaught) > 5 else "")
        logger.warning("%d of %d classes have no sample to train on: %s", len(untaught), len(prepared.classes), few)


def _warn_of_unseen_classes(
    prepared: PreparedSet, classified: Sequence[str], train: npt.NDArray[np.int64], labels: npt.NDArray[np.int64]
) -> None:
    """Tell of classes that training (rows ``train``) sees, but not by each of the sensors that are to tell them."""
    shown = set(labels.tolist()) - {-1}
    for name in classified:
        has = prepared.present[train, prepared.modalities.index(name)]
        unseen = shown - set(labels[has].tolist())
        if unseen:
            few = [prepared.classes[label] for label in sorted(unseen)]
            logger.warning(
                "%s: no training sample of %d of %d classes: %s; it will hardly be right about them",
                name, len(few), len(shown), ", ".join(few[:5]) + (", ..." if len(few) > 5 else ""),
            )  # fmt: skip


def _warn_of_cameras(
    config: Config, prepared: PreparedSet, modalities: Sequence[str], train: npt.NDArray[np.int64]
) -> None:
    """Tell of depth that goes by the camera, where most of the training samples (rows ``train``) have none."""
    model = config.model
    if not uses_camera({"metric_size": model.metric_size, "depth_encoding": model.depth_encoding}):
        return
    without = int((prepared.camera[train, 0] <= 0).sum())
    if without > len(train) / 2 and any(modality(name).kind == "depth" for name in modalities):
        logger.warning(
            "%d of %d samples to train on have no camera, and with model.depth_encoding=%s model.metric_size=%s depth "
            "goes by it: on a robot that has camera_info, depth will look unlike any in training; prepare the set with "
            "cameras (cameras.csv, --camera), or take model.depth_encoding=relief model.metric_size=false",
            without, len(train), model.depth_encoding, str(model.metric_size).lower(),
        )  # fmt: skip


def _check_depth(config: Config, prepared: PreparedSet, modalities: Sequence[str]) -> None:
    """Refuse settings for distances where the set holds depth pictures, and the other way round.

    Raises:
        ConfigError: naming the setting.
    """
    encoding, root = config.model.depth_encoding, config.data.root
    for name in modalities:
        if modality(name).kind != "depth":
            continue
        pictures = prepared.images[name].ndim == 4
        if encoding == "stored" and not pictures:
            raise ConfigError(
                f"model.depth_encoding is stored, but {name} in {root} is metric depth; choose another, such as hha"
            )
        if encoding != "stored" and pictures:
            raise ConfigError(
                f"model.depth_encoding is {encoding}, which needs distances, but {name} in {root} is depth pictures "
                "(such as HHA); choose stored"
            )
        if pictures:
            refuse_distances(config.augment)


def _check_choice(config: Config, labels: npt.NDArray[np.int64], seen: npt.NDArray[np.bool_], taught: bool) -> None:
    """Refuse ``train.keep=best`` where there is nothing to choose by.

    Args:
        config: settings.
        labels: of the validation samples.
        seen: bool [N, targets], which of the modalities that are classified each of them has.
        taught: whether any training sample has a label.

    Raises:
        ConfigError: no validation, or nothing that could be right or wrong in it.
    """
    if len(labels) == 0 or config.train.validate_every == 0:
        raise ConfigError(
            "train.keep=best chooses by validation, and there is none; set data.val_fraction (such as 0.1) or "
            "data.val_split, and train.validate_every"
        )
    if not taught or not seen[labels >= 0].any():
        which = "no validation sample has a label" if taught else "no training sample has a label in this run"
        if taught and (labels >= 0).any():
            which = "no validation sample with a label has the modality that is classified"
        raise ConfigError(f"train.keep=best chooses by validation accuracy, and {which}; take train.keep=last")
