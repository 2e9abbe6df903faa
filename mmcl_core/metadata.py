"""What is stored with a model, checked before anything is made of it: files are edited, and other programs write them.

Used by both back ends of the recogniser; needs no PyTorch. What the entries mean: :mod:`mmcl_core.weights`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mmcl_core.errors import CheckpointError

__all__ = ["check_metadata"]


def check_metadata(metadata: Mapping[str, Any], file: Path) -> None:
    """Refuse metadata whose entries are missing or not of their kind.

    Args:
        metadata: of a weights file, or of an exported one.
        file: named in the message.

    Raises:
        CheckpointError: names the entry, what it is and what is expected there.
    """
    missing = [name for name in _KINDS if "." not in name and name not in metadata]
    if missing:
        raise CheckpointError(f"{file}: the metadata lacks {', '.join(missing)}; the file was edited")
    for name, (good, expected) in _KINDS.items():
        value: Any = metadata
        for key in name.split("."):
            value = value.get(key)
        if not good(value):
            _refuse(file, name, value, expected)
    for name in metadata["trained_modalities"]:
        if name not in metadata["modalities"]:
            _refuse(file, "trained_modalities", name, f"one of {', '.join(metadata['modalities'])}")
        if name not in metadata["temperature"]:
            _refuse(file, f"temperature.{name}", None, "a number above 0")
    crop_size = metadata.get("crop_size", 0)
    if not (_is_whole(crop_size) and crop_size >= 0):
        _refuse(file, "crop_size", crop_size, "a number of pixels")


def _refuse(file: Path, name: str, value: Any, expected: str) -> None:
    found = repr(value)
    found = found if len(found) <= 80 else f"{found[:80]}..."
    raise CheckpointError(f"{file}: in the metadata {name} is {found}, {expected} expected; the file was edited")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return _is_whole(value) and value >= 1


def _is_list_of(kind: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(map(kind, value))


def _is_name(value: Any) -> bool:
    return isinstance(value, str)


def _are_classes(value: Any) -> bool:
    return _is_list_of(_is_name)(value) and len(set(value)) == len(value)


def _are_temperatures(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_temperature, value.values()))


def _is_temperature(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf


def _are_modalities(value: Any) -> bool:
    return isinstance(value, dict) and all(name.partition("_")[0] in ("rgb", "depth") for name in value)


def _is_mapping(value: Any) -> bool:
    return isinstance(value, dict)


#: Entry, or entry.key of one that is a mapping -> whether a value is of its kind, and that in words.
_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "classes": (_are_classes, "a list of names, each once,"),
    "modalities": (_are_modalities, "a mapping by rgb and depth"),
    "trained_modalities": (_is_list_of(_is_name), "a list of names"),
    "feature_heads": (_is_list_of(_is_whole), "a list of levels"),
    "temperature": (_are_temperatures, "a mapping to numbers above 0"),
    "input": (_is_mapping, "a mapping"),
    "input.size": (_is_count, "a number of pixels"),
    "input.depth_encoding": (_is_name, "a name"),
    "input.metric_size": (lambda value: isinstance(value, bool), "true or false"),
    "model": (_is_mapping, "a mapping"),
    "model.nrkhs": (_is_count, "a whole number above 0"),
}
