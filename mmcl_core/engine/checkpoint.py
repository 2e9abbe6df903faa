"""The state a run is resumed from: written whole or not at all.

``state.pt`` holds tensors and plain numbers only (it is read with ``weights_only``). It is written to a temporary file
beside it, synchronised to the disk and renamed, so that a process killed at any moment leaves the previous state.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from mmcl_core.atomic import write_atomically
from mmcl_core.errors import CheckpointError, MmclError, out_of_memory
from mmcl_core.weights import UNREADABLE

__all__ = ["StateWriter", "load_state", "restoring", "save_state", "snapshot"]

STATE_VERSION = 1
#: Saving may take this share of the run's time; states that would exceed it are left out (results do not depend on it).
SAVE_SHARE = 0.05


def snapshot(value: Any) -> Any:
    """A copy in host memory of nested dictionaries, lists and tensors."""
    if isinstance(value, torch.Tensor):
        return value.detach().to("cpu", copy=True)
    if isinstance(value, dict):
        return {key: snapshot(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [snapshot(inner) for inner in value]
    return value


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write a state (tensors and plain values) atomically."""
    try:
        write_atomically(path, lambda file: torch.save({"version": STATE_VERSION, **state}, file))
    except RuntimeError as error:  # torch names a place in the file, and hides what the disk said
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def load_state(path: Path) -> dict[str, Any]:
    """Read a state, its tensors into host memory.

    Raises:
        CheckpointError: the file is missing, damaged or of another version.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(f"no saved state at {path}") from error
    except (OSError, *UNREADABLE) as error:
        # Of a file that is none of its own torch tells where it gave up, or how to read it unsafely.
        known = isinstance(error, (RuntimeError, OSError, EOFError))
        reason = (str(error).split("\n")[0] or "it is cut off") if known else "it holds no tensors"
        raise CheckpointError(
            f"{path} is damaged and cannot be resumed from ({reason}); remove it and start the run again"
        ) from error
    if not isinstance(state, dict) or state.get("version") != STATE_VERSION:
        found = state.get("version") if isinstance(state, dict) else type(state).__name__
        raise CheckpointError(f"{path} is a state of version {found}; this program reads version {STATE_VERSION}")
    return state


@contextlib.contextmanager
def restoring(path: Path, state: dict[str, Any] | None) -> Iterator[None]:
    """Name the file, and what to do, where a state that was read does not fit the run: it is of another version.

    Args:
        path: of the state.
        state: what was read; with ``None``, a run from its start, errors are not the state's.

    Raises:
        CheckpointError: it lacks something, or has other weights.
    """
    try:
        yield
    except (LookupError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        if state is None or isinstance(error, MmclError) or out_of_memory(error):
            raise
        words = " ".join(str(error).split())[:200]
        raise CheckpointError(
            f"{path} does not fit the run, as if another version of this program had saved it "
            f"({type(error).__name__}: {words}); finish the run with that version, or start it again with --overwrite"
        ) from error


class StateWriter:
    """Writes states in the background: the run goes on while the disk works.

    As a context manager it waits for the last write, so that none is under way when the run's folder is let go.

    Args:
        path: the state file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._last = float("-inf")
        self._cost = 0.0

    def due(self) -> bool:
        """Whether a routine save is worth it now: the last one is written and did not cost too much of the time."""
        busy = self._thread is not None and self._thread.is_alive()
        return not busy and (time.monotonic() - self._last) * SAVE_SHARE >= self._cost

    def save(self, state: dict[str, Any], wait: bool = False) -> None:
        """Copy ``state`` to host memory and write it; with ``wait`` return when it is on the disk.

        Raises:
            CheckpointError: this or an earlier write failed (disk full, no permission).
        """
        self.join()
        start = time.monotonic()
        copy = snapshot(state)
        self._last = time.monotonic()
        self._cost = self._last - start
        self._thread = threading.Thread(target=self._write, args=(copy,), name="state-writer")
        self._thread.start()
        if wait:
            self.join()

    def join(self) -> None:
        """Wait until nothing is being written, and report a write that failed."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        if self._error is not None:
            error, self._error = self._error, None
            raise CheckpointError(f"cannot write {self.path}: {getattr(error, 'strerror', None) or error}") from error

    def __enter__(self) -> StateWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """:meth:`join`; a write that failed does not hide the error that ended the run."""
        with contextlib.suppress(*(() if kind is None else (CheckpointError,))):
            self.join()

    def _write(self, state: dict[str, Any]) -> None:
        try:
            save_state(self.path, state)
        except Exception as error:  # handed to the training thread, which raises it
            self._error = error
