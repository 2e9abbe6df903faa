"""Files of a set in the making: hashed on the way, in a locked folder that gets its name at the end."""

from __future__ import annotations

import errno
import fcntl
import glob
import hashlib
import json
import logging
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from shlex import quote
from typing import Any, BinaryIO

from mmcl_core.atomic import bring_to_disk, named
from mmcl_core.errors import DataError

__all__ = [
    "FORMAT",
    "INDEX",
    "LITTER",
    "PROGRESS",
    "HashedFile",
    "claim",
    "lock_folder",
    "partial_of",
    "publish",
    "refuse_to_write",
    "temporary_folder",
]

logger = logging.getLogger(__name__)

INDEX = "index.json"
#: What the index of a set says of itself under ``format``.
FORMAT = "prepared set of RGB-D crops"
#: How far an unfinished set is good, see :meth:`mmcl_core.data.writer.PreparedWriter.save`.
PROGRESS = "progress.json"
#: Endings of the arrays of a set, and the other files that one may hold, finished or not.
_ARRAYS = (".u8", ".u16", ".i64", ".f32", ".u1")
_OTHERS = ("samples.csv", INDEX, PROGRESS, f"{PROGRESS}.new", "sheet.png")
_NEW_S = 60.0  # seconds; a younger temporary folder may be about to be locked
#: Files that desktops leave in folders.
LITTER = (".DS_Store", "Thumbs.db", "desktop.ini")


class HashedFile:
    """A file that is hashed while it is written, so that closing it needs no second pass.

    ``keep``: its first bytes stay, and are hashed now; what follows them is cut off.
    """

    def __init__(self, path: Path, keep: int = 0) -> None:
        self._hash = hashlib.sha256()
        self._path = path
        self.bytes = keep
        self._file: BinaryIO = path.open("r+b" if keep else "wb", buffering=1 << 20)
        left = keep
        while left:
            block = self._file.read(min(left, 1 << 20))
            if not block:
                self._file.close()
                raise DataError(f"{path} is shorter than when it was left: {keep} bytes expected; start anew")
            self._hash.update(block)
            left -= len(block)
        self._file.seek(keep)
        self._file.truncate()

    def write(self, data: bytes | memoryview) -> None:
        """Append."""
        with named(self._path):
            self._file.write(data)
        self._hash.update(data)
        self.bytes += len(data)

    def flush(self) -> int:
        """Hand everything to the system and return the size."""
        with named(self._path):
            self._file.flush()
        return self.bytes

    def close(self) -> dict[str, Any]:
        """Bring the content to the disk and return its size and checksum."""
        with named(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        return {"bytes": self.bytes, "sha256": self._hash.hexdigest()}

    def abandon(self) -> None:
        """Close without bringing anything to the disk."""
        with suppress(OSError):  # what is left in the buffer may find no place
            self._file.close()


def partial_of(out: Path) -> Path:
    """Where a set is while it is being written."""
    return out.with_name(out.name + ".partial")


def refuse_to_write(out: Path, overwrite: bool, resume: bool) -> None:
    """Check that a set may be written.

    Args:
        out: where it is to go, without links.
        overwrite: whether a set that is there, or a part of one, is to be replaced.
        resume: whether to go on with such a part.

    Raises:
        DataError: ``out`` is a file, a mount point, the current folder, or holds something that is not to be replaced;
            the place beside it where a set goes that is replaced is taken; there is a part, and it is neither to be
            replaced nor gone on with, or another process is writing it; what is to be gone on with is finished.
    """
    partial = partial_of(out)
    if resume and not overwrite and not partial.exists() and (out / INDEX).is_file() and _is_of_a_set(out / INDEX):
        raise DataError(
            f"{out} is finished, and nothing is left to go on with: `python -m mmcl_core.prepare show "
            f"{quote(str(out))}` checks it and draws its sheet; --overwrite makes it anew"
        )
    _refuse_to_replace(out, overwrite)
    if (partial / PROGRESS).is_file() and not (overwrite or resume):
        os.close(lock_folder(partial))  # a command that is at work is not taken for one that was interrupted
        raise DataError(
            f"{partial} holds what an interrupted command made; go on with --resume, or begin anew with --overwrite"
        )


def _refuse_to_replace(out: Path, overwrite: bool) -> None:
    if not out.exists():
        return
    if out.is_mount():
        raise DataError(f"{out} is a mount point, which cannot be replaced by the finished set; name a folder in it")
    if not out.is_dir():
        raise DataError(f"{out} is a file; name a folder for the prepared set")
    if out.samefile(os.curdir):
        raise DataError(
            f"{out} is the folder that the command was called in, and the finished set would take its place; call it "
            "from another folder"
        )
    if not any(out.iterdir()):
        return
    if not overwrite:
        raise DataError(f"{out} is not empty; choose another folder, or ask for it to be overwritten (--overwrite)")
    if not (out / INDEX).is_file():
        raise DataError(f"{out} holds other files than a prepared set and is left alone; choose another folder")
    if not _is_of_a_set(out / INDEX):
        raise DataError(f"{out / INDEX} is not that of a prepared set: {out} is left alone; choose another folder")
    if foreign := _foreign(out):
        more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
        raise DataError(
            f"{out} holds other files beside the prepared set ({', '.join(foreign[:3])}{more}), which would be removed "
            "with it; move them away, or choose another folder"
        )
    old = _replaced(out)
    if old.exists() and not _left(old):
        left = (old / INDEX).exists()
        what = "holds one, as a command leaves it that was killed meanwhile" if left else "is something else"
        raise DataError(f"{old} is where a set is put that is replaced, and {what}; move or remove it")


def _is_of_a_set(index: Path) -> bool:
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
    except ValueError:  # no UTF-8 or no JSON
        return False
    return isinstance(content, dict) and content.get("format") == FORMAT


def _replaced(out: Path) -> Path:
    """Where a set is while another takes its place."""
    return out.with_name(out.name + ".replaced")


def _left(old: Path) -> bool:
    """Whether a replaced set is what a process left that was killed while removing it: its index goes first."""
    return old.is_dir() and not (old / INDEX).exists() and not _foreign(old)


def _foreign(folder: Path) -> list[str]:
    """Names in a folder that no writer of sets gives, nor a desktop, nor a killed process that drew the sheet."""
    names = sorted(path.name for path in folder.iterdir() if path.name not in (*_OTHERS, *LITTER))
    return [n for n in names if not (n.endswith(_ARRAYS) or (n.startswith("sheet.png.") and n.endswith(".part")))]


def lock_folder(folder: Path) -> int:
    """Make a folder where it is missing, and lock it; the lock ends with its process, however that ends.

    A file system without locks is no reason to stop: there the folder is used without one.

    Returns:
        The open descriptor that holds the lock.

    Raises:
        DataError: another process writes there.
    """
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(folder, os.O_RDONLY)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(lock), folder.stat()):
                return lock
        except BlockingIOError as error:
            os.close(lock)
            raise DataError(
                f"{folder} is being written by another process; wait for it or choose another folder"
            ) from error
        except FileNotFoundError:
            pass
        except OSError as error:
            logger.info("no lock on %s (%s): let one process at a time write there", folder, error.strerror)
            return lock
        os.close(lock)  # the process that held it has moved or removed the folder meanwhile


@contextmanager
def temporary_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """A folder for the length of a block.

    Those that processes left there which were killed are removed: a folder is locked as long as its process lives.

    Args:
        parent: where it is made.
        prefix: of its name; that of this machine follows, which may be the only one to know of its locks.
    """
    prefix = f"{prefix}{socket.gethostname()}-"
    for other in parent.glob(f"{glob.escape(prefix)}*"):
        _remove_if_left(other)
    with tempfile.TemporaryDirectory(dir=parent, prefix=prefix, ignore_cleanup_errors=True) as folder:
        lock = lock_folder(Path(folder))
        try:
            yield Path(folder)
        finally:
            os.close(lock)


def _remove_if_left(folder: Path) -> None:
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError:  # gone meanwhile, or of somebody else
        return
    try:
        if time.time() - os.fstat(lock).st_mtime > _NEW_S:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
    except OSError:  # in use, or a file system without locks, where nobody knows
        pass
    finally:
        os.close(lock)


def claim(partial: Path, keep: bool) -> int:
    """Lock the folder to write in.

    Args:
        partial: the folder.
        keep: leave what is in it; otherwise it is emptied.

    Returns:
        The open descriptor that holds the lock, see :func:`lock_folder`.

    Raises:
        DataError: another process writes there, or the folder holds what no writer of sets has left.
    """
    lock = lock_folder(partial)
    if keep:
        return lock
    if foreign := _foreign(partial):
        os.close(lock)
        raise DataError(
            f"{partial} holds other files than an unfinished set, such as {foreign[0]}, and is left alone; move it "
            "away, or choose another folder for the set"
        )
    for path in partial.iterdir():  # left by a writer that was killed
        path.unlink()
    return lock


def publish(partial: Path, out: Path) -> None:
    """Give a finished folder its name, in place of a prepared set that has it.

    Raises:
        DataError: it cannot have the name: something else has come there meanwhile.
    """
    old = _replaced(out)
    replaces = (out / INDEX).exists()
    if replaces:
        if _left(old):
            shutil.rmtree(old, ignore_errors=True)
        out.rename(old)
    try:
        partial.rename(out)  # onto nothing, or onto an empty folder
    except OSError as error:
        if replaces:
            old.rename(out)
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise
        raise DataError(
            f"the finished set cannot be called {out} ({error.strerror}), for something has come there meanwhile; move "
            "that away"
        ) from error
    bring_to_disk(out.parent)
    if replaces:
        with suppress(OSError):
            (old / INDEX).unlink()
        shutil.rmtree(old, ignore_errors=True)
