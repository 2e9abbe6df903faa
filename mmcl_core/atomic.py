"""Files that are there whole or not at all, whatever happens to the process or the machine while they are written."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

__all__ = ["Content", "bring_to_disk", "named", "write_atomically", "write_text", "write_together"]

#: Of a file: bytes, or a function that writes them to the open file it is given.
Content = bytes | Callable[[BinaryIO], object]


def write_atomically(path: Path, content: Content, to_disk: bool = True) -> None:
    """Write a file so that ``path`` holds the old or the new content, never a part of it.

    The content goes to a file beside it, then to the disk, and takes its name at the end.

    Args:
        path: the file; its folder must exist.
        content: what it is to hold.
        to_disk: wait for the disk. Without that, as for one of thousands of pictures, a machine that loses its power
            soon after may leave a part of the content.

    Raises:
        OSError: the file cannot be written; ``path`` is as it was.
    """
    part = _part(path)
    try:
        _write(part, path, content, to_disk)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    if to_disk:
        bring_to_disk(path.parent)


def write_together(files: Mapping[Path, Content]) -> None:
    """Write files that belong together, the last of which says that all are there: never some old and some new.

    All contents are on the disk before the first file takes its name, and the old last one goes before that.

    Args:
        files: what each is to hold, all in one folder.

    Raises:
        OSError: one of them cannot be written; all are as they were.
    """
    *_, last = files
    try:
        for path, content in files.items():
            _write(_part(path), path, content)
        last.unlink(missing_ok=True)
        for path in files:
            _part(path).replace(path)
    finally:
        for path in files:
            _part(path).unlink(missing_ok=True)
    bring_to_disk(last.parent)


@contextmanager
def named(path: Path) -> Iterator[None]:
    """Name a file in the error of a write to it, such as that of a full disk, which names none."""
    try:
        yield
    except OSError as error:
        if error.strerror:
            error.filename = error.filename or str(path)
        raise


def bring_to_disk(folder: Path) -> None:
    """Bring the names in a folder to the disk, as one that was given just now."""
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8, as :func:`write_atomically` does."""
    write_atomically(path, text.encode())


def _part(path: Path) -> Path:
    """Where a file is until it is whole."""
    return path.with_name(f"{path.name}.{os.getpid()}.part")


def _write(part: Path, path: Path, content: Content, to_disk: bool = True) -> None:
    with named(path), part.open("wb") as file:
        file.write(content) if isinstance(content, bytes) else content(file)
        file.flush()
        if to_disk:
            os.fsync(file.fileno())
