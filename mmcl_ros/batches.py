"""How many crops pass the network at once: fewer for a while where there was not enough memory for more."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TypeVar

from mmcl_core.errors import out_of_memory

__all__ = ["AGAIN_S", "Batches"]

AGAIN_S = 300.0  # after so long as many as there are are tried again: what took the memory may have ended

Crop = TypeVar("Crop")


class Batches:
    """Cuts lists of crops into batches that the memory is enough for, as it turns out.

    Attributes:
        most: crops at once; None: all of them.
    """

    def __init__(self) -> None:
        self.most: int | None = None
        self._since = 0.0

    def parts(self, crops: Sequence[Crop]) -> Iterator[Sequence[Crop]]:
        """The crops in batches, in their order; what :meth:`shrink` is told meanwhile holds for those that follow."""
        if self.most is not None and time.monotonic() - self._since >= AGAIN_S:
            self.most = None
        at = 0
        while at < len(crops):
            part = crops[at : at + (self.most or len(crops))]
            yield part
            at += len(part)

    def shrink(self, error: BaseException, count: int, device: str) -> str:
        """Take note of what so many crops at once, 1 or more, have raised: if there was not enough memory, halve them.

        Returns:
            What happened and what to do, in words; empty where the error says something else.
        """
        if not out_of_memory(error):
            return ""
        self.most, self._since = max(1, (count + 1) // 2), time.monotonic()
        at_once = f"{count} crops at once" if count > 1 else "a single crop"
        tried = f"; for {AGAIN_S / 60:g} minutes no more than {self.most} are tried at once" if count > 1 else ""
        return (
            f"out of memory on {device} with {at_once}{tried}: end what else uses that memory, send fewer or smaller "
            "regions a picture, or take a smaller model or another device"
        )
