"""A memory bank: the embedding that each training sample had when it was last seen, to tell others from.

Sources: Wu et al., "Unsupervised Feature Learning via Non-Parametric Instance Discrimination" (CVPR 2018); Tian et al.,
"Contrastive Multiview Coding" (ECCV 2020). All is computed in float32, under autocast too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from mmcl_core.nn.gather import gather_with_grad, total

__all__ = ["MemoryBank"]


class MemoryBank(nn.Module):
    """Entries of length 1, one a sample, random at first. Nothing in it is learnt: all are buffers.

    Args:
        samples: the N samples that have an entry, rows in the prepared set, each once; at least two.
        width: R, of an entry.
        momentum: share of the old entry that an update keeps, in [0, 1).
        temperature: what cosines are divided by.

    Attributes:
        samples: int64 [N], ascending.
        entries: float32 [N, R], in the order of ``samples``.
        log_constant: logarithm of the normalising constant Z; NaN until the first batch gives an estimate, which stays.
    """

    samples: Tensor
    entries: Tensor
    log_constant: Tensor

    def __init__(
        self, samples: Sequence[int] | NDArray[np.int64], width: int, momentum: float = 0.5, temperature: float = 0.07
    ) -> None:
        super().__init__()
        self.momentum, self.temperature = momentum, temperature
        self.register_buffer("samples", torch.as_tensor(np.unique(samples), dtype=torch.int64))
        self.register_buffer("entries", F.normalize(torch.randn(len(self.samples), width), dim=1))
        self.register_buffer("log_constant", torch.tensor(math.nan))

    def positions(self, index: Tensor) -> Tensor:
        """Numbers of the entries of samples, int64 [B], rows in the prepared set."""
        return torch.searchsorted(self.samples, index)

    def scores(self, queries: Tensor, index: Tensor, draws: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Cosines over temperature of queries with the entry of their own sample, and with those of others.

        Args:
            queries: embeddings of length 1, [B, R].
            index: their samples, int64 [B].
            draws: int64 [B, K] in [0, N - 1), which of the others; ``None``: all of them, K = N - 1.

        Returns:
            [B] and [B, K]. An entry of the sample itself is never among the others.
        """
        with torch.autocast(queries.device.type, enabled=False):
            every = queries.float() @ self.entries.T / self.temperature
            own = self.positions(index)[:, None]
            if draws is None:
                draws = torch.arange(len(self.entries) - 1, device=own.device).expand(len(own), -1)
            return every.gather(1, own).squeeze(1), every.gather(1, draws + (draws >= own))

    def loss(self, queries: Tensor, index: Tensor, draws: Tensor | None = None) -> Tensor:
        """Noise-contrastive loss [B] of queries (Wu et al., Equations 4-8); arguments as of :meth:`scores`.

        With ``P(v) = exp(score) / Z`` and K samples of noise that is uniform over the N entries, an entry counts as the
        sample's own with the probability ``P / (P + K / N)``: the binary cross-entropy of that, for the own entry and
        for the K others. Z is N times the mean of ``exp(score)`` over all of the first batch.
        """
        own, others = self.scores(queries, index, draws)
        with torch.autocast(queries.device.type, enabled=False):
            self._estimate(own, others)
            odds = self.log_constant + math.log(others.shape[1] / len(self.entries))
            return F.softplus(odds - own) + F.softplus(others - odds).sum(1)

    @torch.no_grad()
    def _estimate(self, own: Tensor, others: Tensor) -> None:
        number = torch.full((), own.numel() + others.numel(), device=own.device)
        mean = total(own.exp().sum() + others.exp().sum()) / total(number)
        # Without asking the device whether there is one.
        self.log_constant = torch.where(self.log_constant.isnan(), (len(self.entries) * mean).log(), self.log_constant)

    @torch.no_grad()
    def update(self, embeddings: Tensor, index: Tensor, present: Tensor | None = None) -> None:
        """Replace the entries of samples by ``normalise(momentum * old + (1 - momentum) * new)``, on all processes.

        Args:
            embeddings: of length 1, [B, R], B alike on all processes; no sample twice.
            index: their samples, int64 [B].
            present: bool [B]; the others keep their entry. ``None``: all.
        """
        at = gather_with_grad(self.positions(index))
        new = gather_with_grad(embeddings.detach().float())
        if present is not None:
            rows = gather_with_grad(present.to(at.dtype)).nonzero().squeeze(1)
            at, new = at[rows], new[rows]
        mixed = F.normalize(self.momentum * self.entries[at] + (1 - self.momentum) * new, dim=1)
        self.entries = self.entries.index_copy(0, at, mixed)  # not in place: backward still needs the old ones
