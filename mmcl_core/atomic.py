"""Files that are there whole or not at all, whatever happens to the process or the machine while they are written."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

__all__ = ["bring_to_disk", "write_atomically", "write_text"]


def write_atomically(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file so that ``path`` holds the old or the new content, never a part of it.

    The content goes to a file beside it, then to the disk, and takes its name at the end.

    Args:
        path: the file; its folder must exist.
        write: writes the content to the open file it is given.

    Raises:
        OSError: the file cannot be written; ``path`` is as it was.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    bring_to_disk(path.parent)


def bring_to_disk(folder: Path) -> None:
    """Bring the names in a folder to the disk, as one that was given just now."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8, as :func:`write_atomically` does."""
    write_atomically(path, lambda file: file.write(text.encode()))
