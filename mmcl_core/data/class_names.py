"""Names of classes that are probably meant otherwise."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Sequence

from mmcl_core.crops import UNKNOWN

__all__ = ["warn_of_like_names", "warn_of_unknown"]

logger = logging.getLogger(__name__)


def warn_of_like_names(classes: Sequence[str]) -> None:
    """Warn of classes whose names differ in capitals, signs or the coding of accents alone: they may be one."""
    groups: dict[str, list[str]] = {}
    for name in classes:
        plain = unicodedata.normalize("NFC", name).lower()  # Macs store accents as characters of their own
        groups.setdefault("".join(filter(str.isalnum, plain)) or name, []).append(name)
    for same in groups.values():
        if len(same) > 1:
            looks = {unicodedata.normalize("NFC", name).strip() for name in same}
            shown = same if len(looks) == len(same) else map(ascii, same)  # what no reader can tell apart, by its codes
            logger.warning("classes of nearly the same name are kept apart: %s", ", ".join(shown))


def warn_of_unknown(classes: Sequence[str]) -> None:
    """Warn of a class that is probably meant to hold things of no class, and is not named so."""
    for name in classes:
        if name != UNKNOWN and name.lower() == UNKNOWN:
            logger.warning(
                "%s is a class like any other; things that are none of the classes belong in one named %s",
                name,
                UNKNOWN,
            )
