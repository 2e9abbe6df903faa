"""Pictures that a frozen network makes of the samples of a set: made once and kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["GeneratedPictures"]


class GeneratedPictures:
    """Some pictures, network input in half precision, for each row of a set; made when they are first asked for.

    Each is made alone: what it looks like does not depend on the samples it came with, so that a run that was killed
    makes the same ones again. Until all are there, every call waits for the device.

    Args:
        rows: rows of the set that will be asked for.
        samples: number of samples in the set.
        copies: pictures of each row.
        size: side of the pictures; each takes ``6 size^2`` bytes.
        device: where they are kept.
    """

    def __init__(
        self, rows: Sequence[int] | NDArray[np.int64], samples: int, copies: int, size: int, device: torch.device
    ) -> None:
        known = torch.as_tensor(np.asarray(rows, dtype=np.int64), device=device)
        self._left = copies * len(known)
        self._first = torch.full((samples,), -1, device=device)
        self._first[known] = copies * torch.arange(len(known), device=device)
        self._made = torch.zeros(self._left, dtype=torch.bool, device=device)
        self._pictures = torch.empty(self._left, 3, size, size, dtype=torch.float16, device=device)

    def take(self, index: Tensor, copy: Tensor, make: Callable[[int, int, int], Tensor]) -> Tensor:
        """The pictures of some samples.

        Args:
            index: their rows in the set, int64 [b].
            copy: which picture of each, int64 [b].
            make: gives the network input [1, 3, size, size] of (place in ``index``, row, copy).

        Returns:
            Network input, float32 [b, 3, size, size].
        """
        place = self._first[index] + copy
        if self._left:
            fresh = (~self._made[place]).nonzero().squeeze(1)
            wanted = torch.stack([fresh, index[fresh], copy[fresh]], dim=1)
            for n, row, which in wanted.tolist():
                self._pictures[place[n]] = make(n, row, which)[0].half()
            self._made[place[fresh]] = True
            self._left = int((~self._made).sum())
        return self._pictures[place].float()
