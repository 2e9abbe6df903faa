"""The run folder: new, continued, or refused.

=======================  =======================================================================================
``config.yaml``          all settings
``environment.json``     machine, versions and command of the latest start
``labelled.txt``         with ``data.label_share`` < 1: keys of the training samples that kept their label
``metrics.jsonl/.csv``   see :mod:`mmcl_core.engine.runlog`; ``timings.jsonl`` and ``tensorboard/`` beside them
``state.pt``             what a run is resumed from; gone once it is finished
``weights.safetensors``  the model to use, written at the very end: a folder that has it is finished
``report/``              pages for people
``evaluation/``          figures of :mod:`mmcl_core.evaluate`, one folder a data set and split
``sweep.log/.jsonl``     of :mod:`mmcl_core.sweep`: what the run said, and what each of its processes cost
=======================  =======================================================================================
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from shlex import quote
from typing import Any

import yaml

from mmcl_core.atomic import write_text
from mmcl_core.config import Config, config_hash, load, to_dict
from mmcl_core.data.files import lock_folder
from mmcl_core.errors import CheckpointError, ConfigError
from mmcl_core.weights import WEIGHTS_NAME, load_weights, weights_file

__all__ = [
    "FREE_SETTINGS",
    "KEPT_FILES",
    "STARTING_WEIGHTS",
    "close_finished",
    "default_folder",
    "differences",
    "flat",
    "is_finished",
    "locked",
    "read_config",
    "remove_leftovers",
    "settings_of",
    "start_folder",
    "warn_of_exports",
    "warn_of_seen",
    "write_config",
    "write_facts",
]

logger = logging.getLogger(__name__)

OWN_FILES: tuple[str, ...] = (
    *("config.yaml", "environment.json", "labelled.txt", "metrics.jsonl", "metrics.csv", "timings.jsonl"),
    *("state.pt", WEIGHTS_NAME, "tensorboard", "report", "evaluation"),
)
#: Beside these a run may begin in the folder, and they stay.
KEPT_FILES: tuple[str, ...] = ("sweep.log", "sweep.jsonl")

#: Settings that say where and when, not what: a resumed run may change them.
FREE_SETTINGS = frozenset(
    {"out", "data.root", "data.resident", "train.save_every", "train.device", "train.threads", "train.cuda_graph"}
)
#: Files of weights that a run begins with; they may be moved once it has a state, which holds what became of them.
STARTING_WEIGHTS = frozenset({"model.init_from", "model.backbone_weights"})


def default_folder(config: Config, stem: str) -> Path:
    """``runs/<stem>-<hash of the settings>``."""
    return Path("runs") / f"{stem}-{config_hash(config)}"


def is_finished(run: Path) -> bool:
    """Whether the run in this folder went to its end."""
    return (run / WEIGHTS_NAME).exists()


def close_finished(run: Path) -> dict[str, Any]:
    """The metadata of a finished run, whose weights are all there; what a process left that was killed then is removed.

    Raises:
        CheckpointError: they are damaged, or of another version.
    """
    metadata = load_weights(run)[1]
    (run / "state.pt").unlink(missing_ok=True)
    remove_leftovers(run)
    return metadata


def read_config(run: Path) -> Config:
    """The settings of a run.

    Raises:
        ConfigError: the folder holds no run, or its settings are damaged or of another version.
    """
    path = run / "config.yaml"
    if not path.exists():
        if (run / "state.pt").exists():
            raise ConfigError(f"{run} has lost its config.yaml; give --config FILE with what it was begun with, too")
        start = f"--config FILE --out {quote(str(run))}"
        raise ConfigError(f"{run} holds no run to resume (no config.yaml); start one with {start}")
    return load(path)


def settings_of(model: str | Path) -> Config | None:
    """The settings with which a model was trained, where they lie beside its weights and can be read.

    Args:
        model: run folder, weights file, or the name of a model of :mod:`mmcl_core.models`.
    """
    try:
        return read_config(weights_file(model).parent)
    except (CheckpointError, ConfigError, OSError):
        return None


def warn_of_seen(model: str | Path, data: Path, split: str) -> None:
    """Tell of a split of a set that is to be looked at, and is what a model was trained on, as far as is known."""
    config = settings_of(model)
    if config is None or split != config.data.train_split or not config.data.root:
        return
    if Path(config.data.root).resolve() == data.resolve():
        logger.warning(
            "the split %r of %s is what this model was trained on, and says little about how it does elsewhere; choose "
            "another with --split", split, data,
        )  # fmt: skip


@contextmanager
def locked(run: Path, main: bool = True) -> Iterator[None]:
    """Keep other trainings out of a run folder, for the time of a ``with`` block.

    Args:
        run: its folder, made where it is missing, as are those above it; what was made and stayed empty is removed
            again.
        main: whether this process writes the folder; the others of a run lock nothing.

    Raises:
        DataError: another process trains there.
    """
    if not main:
        yield
        return
    missing = [folder for folder in (run, *run.parents) if not folder.exists()]
    lock = None
    try:
        lock = lock_folder(run)
        yield
    finally:
        # Without a lock the folder is not ours: another process may have made it since, and not written there yet.
        for folder in missing if lock is not None else missing[1:]:
            with suppress(OSError):
                folder.rmdir()
        if lock is not None:
            os.close(lock)


def start_folder(run: Path, config: Config, overwrite: bool = False) -> None:
    """Make the folder of a new run and write its settings.

    Raises:
        ConfigError: the folder holds a run already, be it without its settings, and ``overwrite`` is not set, or it
            holds something else: also what a run names alike, such as ``report/``, is replaced with a run alone.
    """
    replaces = any((run / name).exists() for name in ("config.yaml", "state.pt", WEIGHTS_NAME))
    if replaces:
        if not overwrite:
            state = "a finished run" if is_finished(run) else "an unfinished run (--resume continues it)"
            raise ConfigError(f"{run} holds {state}; take another --out, or --overwrite to replace it")
        if not (is_finished(run) or (run / "state.pt").exists() or _is_of_a_run(run / "config.yaml")):
            raise ConfigError(f"{run / 'config.yaml'} is not that of a run: {run} is left alone; take another --out")
    elif run.is_dir():
        others = sorted({path.name for path in run.iterdir()} - {*KEPT_FILES, *_leftovers(run)})
        if others:
            raise ConfigError(f"{run} is not empty ({others[0]}) and holds no run; take another --out")
    run.mkdir(parents=True, exist_ok=True)
    for name in (*reversed(OWN_FILES), *_leftovers(run)):  # the settings last: nothing outlives them
        path = run / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    if replaces:
        warn_of_exports(run)
    write_config(run, config)


def _is_of_a_run(path: Path) -> bool:
    """Whether a file has the settings of a run, of whatever version: not every config.yaml is one of ours."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (ValueError, yaml.YAMLError):
        return False
    return isinstance(content, dict) and {"method", "data", "train"} <= content.keys()


def warn_of_exports(run: Path) -> None:
    """Tell of exported models that stay in the folder of a run that is replaced: they are of the one before."""
    files = [path for end in ("onnx", "safetensors") for path in (*run.glob(f"*.{end}"), *run.glob(f"*/*.{end}"))]
    names = sorted(path.relative_to(run).as_posix() for path in files if path.name not in OWN_FILES)
    if names:
        logger.warning(
            "%s holds exports of the run that was there before; they stay, and whoever loads them goes on with the old "
            "model: %s; export again with the new weights (python -m mmcl_core.export), or remove them",
            run, ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else ""),
        )  # fmt: skip


def write_config(run: Path, config: Config) -> None:
    """Write the settings of a run into its folder."""
    write_text(run / "config.yaml", yaml.safe_dump(to_dict(config), sort_keys=False))


def remove_leftovers(run: Path) -> None:
    """Remove what a process that was killed had not finished writing."""
    for name in _leftovers(run):
        (run / name).unlink(missing_ok=True)


def _leftovers(run: Path) -> list[str]:
    return [path.name for path in run.glob("*.part") if path.name.startswith(OWN_FILES)]


def differences(saved: Config, asked: Config) -> list[str]:
    """Settings that differ and matter, as ``name: saved -> asked``."""
    before, after = dict(flat(to_dict(saved))), dict(flat(to_dict(asked)))
    return [
        f"{name}: {before.get(name)!r} -> {after.get(name)!r}"
        for name in before
        if name not in FREE_SETTINGS and before[name] != after.get(name)
    ]


def write_facts(run: Path, environment: dict[str, Any], labelled: list[str] | None) -> None:
    """Write ``environment.json``, and ``labelled.txt`` where some samples lost their label."""
    texts = {"environment.json": json.dumps(environment, indent=2) + "\n"}
    if labelled is not None:
        texts["labelled.txt"] = "".join(f"{key}\n" for key in labelled)
    for name, text in texts.items():
        write_text(run / name, text)


def flat(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested settings as pairs of ``section.key`` and value."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
