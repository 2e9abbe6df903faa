"""Worker processes and Ctrl-C."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

__all__ = ["interrupts_deferred"]


@contextlib.contextmanager
def interrupts_deferred() -> Iterator[None]:
    """Hold SIGINT back; processes started meanwhile never receive it, so that none dies of it half-imported.

    Ctrl-C goes to all processes of a terminal. It is for the parent alone, which gets it at the end of the block and
    then ends its workers. Does nothing where signals cannot be held back (other systems than POSIX).
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
