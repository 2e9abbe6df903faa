"""Folders that are not what they would be taken for."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from mmcl_core.errors import ConfigError, DataError

__all__ = ["check_folder_names", "refuse_inside"]

_COLOUR = frozenset({"rgb", "color", "colour"})

logger = logging.getLogger(__name__)


def check_folder_names(source: Path, classes: Sequence[str], splits: Sequence[str], asked: str) -> None:
    """Refuse modalities where splits or classes are expected, and warn of names that are probably one.

    Args:
        source: the folder.
        classes: names of the class folders.
        splits: names of the folders of splits; empty without that level.
        asked: the option ``--split``; ``train`` is its default.

    Raises:
        DataError: folders such as ``rgb`` and ``depth``, by which the two pictures of a sample would not be paired.
    """
    for level, names in (("splits", splits), ("classes", classes)):
        lower = {name.lower(): name for name in names}
        colour = _COLOUR & lower.keys()
        if colour and "depth" in lower:
            raise DataError(
                f"{source}: {lower[min(colour)]} and {lower['depth']} would be read as {level}; put both pictures of a "
                "sample in the folder of its class, as <key>_rgb.png and <key>_depth.png"
            )
    groups: dict[str, list[str]] = {}
    for name in classes:
        groups.setdefault("".join(filter(str.isalnum, name.lower())) or name, []).append(name)
    for same in groups.values():
        if len(same) > 1:
            logger.warning("classes of nearly the same name are kept apart: %s", ", ".join(same))
    if splits and asked != "train":
        logger.warning("--split %s is not used: the source has splits, %s", asked, ", ".join(splits))


def refuse_inside(source: Path, out: Path | None) -> None:
    """Refuse to write a set where its pictures are read from.

    Raises:
        ConfigError: ``out`` is the folder ``source`` or lies in it.
    """
    if out is not None and out.resolve().is_relative_to(source.resolve()):
        raise ConfigError(
            f"--out {out} lies in --source {source}, where it would be read as a class next time; name a folder beside "
            "it"
        )
