"""Worker processes: their work in order, their threads, Ctrl-C, and the end of their parent."""

from __future__ import annotations

import contextlib
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

import cv2

from mmcl_core.errors import MmclError

__all__ = ["end_with_parent", "in_order", "interrupts_deferred", "one_thread_each", "start_alone", "start_worker"]

_Part = TypeVar("_Part")
_Result = TypeVar("_Result")
_AHEAD = 3  # parts under way for each worker: results that are taken slowly do not fill the memory

#: What numerical libraries are told their number of threads by, when they are imported.
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def in_order(
    make: Callable[[_Part], Iterable[_Result]],
    parts: Iterable[_Part],
    workers: int,
    start: Callable[..., None],
    arguments: tuple[Any, ...] = (),
) -> Iterator[_Result]:
    """What is made of the parts of a work, in their order, whichever process made it.

    The processes are fresh ones: a forked copy of one that runs threads (torch, OpenCV) can hang.

    Args:
        make: part -> its results; a function that can be pickled.
        parts: taken as they are needed.
        workers: processes.
        start: what each calls first, with ``arguments``; it should call :func:`start_worker`.

    Raises:
        MmclError: a process died.
    """
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), start, arguments)
    left = iter(parts)
    waiting: deque[Future[Iterable[_Result]]] = deque()
    try:
        while True:
            while len(waiting) < _AHEAD * workers and (part := next(left, None)) is not None:
                with interrupts_deferred(), one_thread_each():  # it may start a process
                    waiting.append(pool.submit(make, part))
            if not waiting:
                return
            yield from waiting.popleft().result()
    except BrokenProcessPool as error:
        raise MmclError("a worker process was lost, perhaps for want of memory; take fewer --workers") from error
    finally:
        with interrupts_deferred():  # of an interrupted join Python (3.11) believes that it is done, and then hangs
            pool.shutdown(cancel_futures=True)


def start_worker() -> None:
    """What a worker does first: leave Ctrl-C to its parent, end with it, and run OpenCV on one thread."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    cv2.setNumThreads(1)


def start_alone(*_: Any) -> None:
    """What a worker without fellows does first: end with its parent, and heed Ctrl-C from here on.

    It is started while interrupts are deferred. What its arguments are from has been imported by now, and a Ctrl-C that
    came meanwhile ends it without a word.
    """
    end_with_parent()
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN and hasattr(signal, "pthread_sigmask"):
        signal.signal(signal.SIGINT, lambda *_: os._exit(1))
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
        signal.signal(signal.SIGINT, signal.default_int_handler)


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
