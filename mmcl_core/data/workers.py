"""Worker processes: their threads, Ctrl-C, and the end of their parent."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Iterator

__all__ = ["end_with_parent", "interrupts_deferred", "one_thread_each"]

#: What numerical libraries are told their number of threads by, when they are imported.
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def end_with_parent() -> None:
    """Let this process, a worker, end at once when its parent ends, however that ends.

    A worker of a pool waits for work on a pipe that its fellows hold open, too: where the parent was killed, it would
    wait for ever. Does nothing in a process that is no worker.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent.sentinel,), name="end_with_parent", daemon=True).start()


def _end_after(sentinel: int) -> None:
    multiprocessing.connection.wait([sentinel])
    os._exit(1)


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


@contextlib.contextmanager
def one_thread_each() -> Iterator[None]:
    """Let processes started meanwhile have numerical libraries of one thread: several of these beat several of many."""
    before = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
