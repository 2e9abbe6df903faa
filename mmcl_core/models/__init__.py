"""Trained models that come with the package; the README.md beside this file says what each is and how it was made.

A name such as ``ycb21`` may be given wherever a run folder or a weights file is asked for.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["located", "names"]

_FOLDER = Path(__file__).resolve().parent


def names() -> tuple[str, ...]:
    """The models that are there."""
    return tuple(sorted(path.stem for path in _FOLDER.glob("*.safetensors")))


def located(path: str | Path) -> Path:
    """The file of a model that comes with the package; every other path as it is.

    Args:
        path: a bare name, or a path. What lies at the path goes before a model of that name.
    """
    path = Path(path)
    own = _FOLDER / f"{path.name}.safetensors"
    return own if len(path.parts) == 1 and not path.exists() and own.is_file() else path
