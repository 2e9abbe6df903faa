"""Data parallel training over processes started by ``torchrun``.

Every process works on its rows of the same global batch. Batch statistics and negatives are exchanged inside the
network and the losses; here the gradients are averaged, all of an update in one reduction. With that, and random draws
made for the global batch, n processes compute what one process computes.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist

from mmcl_core.errors import TrainingError

__all__ = ["World", "average_gradients", "world"]


@dataclass(frozen=True)
class World:
    """This process among those of the run.

    Attributes:
        rank: its number, 0 <= rank < size; rank 0 writes the files.
        size: number of processes.
    """

    rank: int = 0
    size: int = 1

    @property
    def main(self) -> bool:
        """Whether this process writes the run folder."""
        return self.rank == 0


@contextmanager
def world(cuda: bool, timeout_s: float = 1800.0) -> Iterator[World]:
    """Join the processes that ``torchrun`` started, for the time of a ``with`` block.

    Args:
        cuda: exchange over NCCL between GPUs; otherwise over Gloo between CPUs.
        timeout_s: seconds after which a process that does not answer counts as lost.

    Raises:
        TrainingError: a process was lost.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World()
        return
    dist.init_process_group("nccl" if cuda else "gloo", timeout=timedelta(seconds=timeout_s))
    try:
        yield World(dist.get_rank(), size)
    except (dist.DistError, ConnectionError) as error:
        raise TrainingError(
            f"a process of the run was lost ({error}); start all {size} again with --resume to continue"
        ) from error
    finally:
        dist.destroy_process_group()


def average_gradients(parameters: Iterable[torch.nn.Parameter], size: int) -> None:
    """Replace every gradient by its mean over the processes: one flat reduction per data type.

    Parameters without a gradient are skipped; they must be the same on all processes, as they are when the graph of the
    loss does not depend on the samples.
    """
    if size == 1:
        return
    by_type: dict[torch.dtype, list[torch.Tensor]] = {}
    for parameter in parameters:
        if parameter.grad is not None:
            by_type.setdefault(parameter.grad.dtype, []).append(parameter.grad)
    for gradients in by_type.values():
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(flat)
        flat /= size
        pieces = flat.split([gradient.numel() for gradient in gradients])
        torch._foreach_copy_(gradients, [p.view(g.shape) for p, g in zip(pieces, gradients, strict=True)])
