"""Progress bars on standard error, drawn by tqdm: one look for all commands."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, TextIO

__all__ = ["progress_bar", "show_progress"]

_shown = True


def show_progress(shown: bool) -> None:
    """Whether this process draws any bar from now on."""
    global _shown
    _shown = shown


class _Lines:
    """A stream for bars in logs: each state is a line of its own, where a terminal draws it over the one before."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self.encoding = stream, stream.encoding
        self._count = ""

    def write(self, text: str) -> None:
        """Write a line, unless there is nothing to read on it, or the count of the one before.

        A bar that closes is drawn once more, and so is one on which nothing moves for a while.
        """
        state = text.strip()
        count = state.rpartition(" [")[0] or state  # without times and speed, which are in brackets
        if state and count != self._count:
            self._count = count
            self._stream.write(f"{state}\n")

    def flush(self) -> None:
        """Hand on what was written."""
        self._stream.flush()


def progress_bar(
    items: Iterable[Any] | None = None,
    *,
    title: str,
    unit: str,
    total: int | None = None,
    done: int = 0,
    smoothing: float = 0.3,
    leave: bool = True,
    in_logs: bool = False,
) -> Any:
    """A ``tqdm`` bar.

    Args:
        items: what is gone through; ``None``: whoever works calls ``update``.
        title: shown in front.
        unit: of the items.
        total: how many there are; ``None``: the length of ``items``, if it has one.
        done: how many of them went before.
        smoothing: how much the newest items count for the speed shown; 0: all count alike.
        leave: whether the bar stays when it is full.
        in_logs: whether it is also written where standard error is no terminal, a line every 15 s.
    """
    from tqdm import tqdm

    terminal = sys.stderr.isatty()
    return tqdm(
        items, title, total, leave, sys.stderr if terminal else _Lines(sys.stderr), initial=done, unit=unit,
        smoothing=smoothing,
        mininterval=0.1 if terminal else 15.0, disable=not (_shown and (terminal or in_logs)),
    )  # fmt: skip
