"""Pictures that are in a set twice, byte for byte."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from pathlib import Path

from mmcl_core.words import counted

__all__ = ["warn_of_twins"]

logger = logging.getLogger(__name__)


def warn_of_twins(source: Path, files: Iterable[tuple[str, str]]) -> None:
    """Warn of equal pictures in different splits; only files that are of one size are read.

    Args:
        source: the folder.
        files: a file of each sample, relative to it, and the split of the sample.
    """
    sizes: dict[int, list[tuple[str, str]]] = {}
    for name, split in files:
        try:
            size = (source / name).stat().st_size
        except OSError:  # whoever reads it says so
            continue
        if size:
            sizes.setdefault(size, []).append((name, split))
    found: list[tuple[str, str]] = []
    for alike in sizes.values():
        if len({split for _, split in alike}) < 2:
            continue
        seen: dict[bytes, dict[str, str]] = {}
        for name, split in alike:
            try:
                digest = hashlib.sha256((source / name).read_bytes()).digest()
            except OSError:
                continue
            first = seen.setdefault(digest, {})
            if other := next((twin for place, twin in first.items() if place != split), None):
                found.append((other, name))
            first.setdefault(split, name)
    if found:
        logger.warning(
            "%s byte for byte one of another split, such as %s and %s: figures of the test will be too "
            "good; keep each in one split", counted(len(found), "picture", "is", "are"), *found[0],
        )  # fmt: skip
