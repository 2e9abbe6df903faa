"""Giving back several things, each of which may refuse."""

from __future__ import annotations

from collections.abc import Callable, Iterable

__all__ = ["do_all"]


def do_all(works: Iterable[Callable[[], object]]) -> None:
    """Do one after the other, whatever any of them raises.

    Raises:
        Exception: the first one raised, when all is done.
    """
    first: Exception | None = None
    for work in works:
        try:
            work()
        except Exception as error:
            first = first or error
    if first is not None:
        raise first
