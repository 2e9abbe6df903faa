"""Loss terms of the latest updates, kept on the device until somebody has to look."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mmcl_core.nn.gather import processes, total

__all__ = ["TermWindow", "first_not_finite"]


class TermWindow:
    """The terms since the last row of the log: one vector an update, means over the processes.

    The request to stop travels with them, so that all processes hear of it at the same update.

    Args:
        device: where the terms are.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.names: tuple[str, ...] = ()
        self._rows: list[Tensor] = []

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, terms: Mapping[str, Tensor], stop: bool) -> None:
        """Take in the terms (scalars) of an update. ``stop``: this process is asked to stop. Does not wait."""
        assert self.names in ((), tuple(terms)), "the names of the loss terms must not depend on the batch"
        self.names = tuple(terms)
        flag = torch.full((), float(stop), device=self.device)
        row = torch.stack([*(value.float() for value in terms.values()), flag])
        self._rows.append(total(row) / processes())

    def values(self) -> Tensor:
        """The terms in host memory, float32 [updates, terms + 1]; the last column is the request. Waits."""
        return torch.stack(self._rows).cpu() if self._rows else torch.zeros(0, len(self.names) + 1)

    def clear(self) -> None:
        """Start anew."""
        self._rows.clear()

    def state(self) -> dict[str, Any]:
        """For the saved state; the request is left out."""
        return {"names": list(self.names), "values": self.values()[:, :-1]}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The inverse of :meth:`state`."""
        self.names = tuple(state["names"])
        values = torch.cat([state["values"], torch.zeros(len(state["values"]), 1)], dim=1)
        self._rows = list(values.to(self.device))


def first_not_finite(values: Tensor) -> tuple[int, int] | None:
    """Row and column of the first entry that is NaN or infinite."""
    bad = (~values.isfinite()).nonzero()
    return (int(bad[0, 0]), int(bad[0, 1])) if len(bad) else None
