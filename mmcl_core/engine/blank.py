"""Samples in which a sensor has seen nothing: which they are, and what is said of them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["guesses", "is_blank"]


def is_blank(images: Tensor) -> Tensor:
    """Bool [B]: metric depth [B, 1, S, S] without a reading. Pictures [B, 3, S, S] always show something."""
    if images.shape[1] == 1:
        return (images == 0).flatten(1).all(dim=1)
    return torch.zeros(len(images), dtype=torch.bool, device=images.device)


def guesses(rows: Tensor, classes: int) -> Tensor:
    """Probabilities [n, classes] of samples in which nothing is seen: even, but for an order that follows from the row.

    The likeliest class would be the first one for all of them otherwise. The row's number is mixed first: rendered sets
    go through their classes row by row, and all guesses would be right.
    """
    mixed = rows.cpu().numpy().astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(32))) * np.uint64(0xD6E8FEB86659FD93)
    first = torch.from_numpy((mixed >> np.uint64(33)).astype(np.int64)).to(rows.device)
    rank = (torch.arange(classes, device=rows.device) - first[:, None]) % classes
    return (-1e-4 * rank / classes).softmax(dim=1)
