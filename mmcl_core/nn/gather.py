"""What the losses and the normalisation exchange between the processes of a data-parallel run.

The gradient rule is that of averaged gradients: every process computes the part of the global loss that
its own samples are the sources of, multiplied by the number of processes. Gathered tensors carry
gradient, so that the average over processes of the parameter gradients is exactly the gradient of the
loss of the global batch, and the average of the losses is that loss.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

__all__ = ["gather_with_grad", "mean_over_samples", "process_index", "processes", "total", "total_number"]


def processes() -> int:
    """Number of processes that share the batch; 1 when not distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def process_index() -> int:
    """Rank of this process; 0 when not distributed."""
    return dist.get_rank() if processes() > 1 else 0


def gather_with_grad(tensor: Tensor) -> Tensor:
    """The tensors of all processes, concatenated along the first axis in the order of ranks.

    Args:
        tensor: any shape, the same on every process.

    Returns:
        Tensor with ``processes()`` times the rows; the very same tensor when not distributed. Backward sums
        the gradients that all processes have for a row and hands them to the process it came from.
    """
    if processes() == 1:
        return tensor
    if not _outside_graphs:
        # Not a decorator: it would import the compiler, which takes seconds, on every robot.
        _outside_graphs.append(torch.compiler.disable(_Gather.apply))
    gathered: Tensor = _outside_graphs[0](tensor)
    return gathered


def total(tensor: Tensor) -> Tensor:
    """Sum of a tensor over all processes, without gradient."""
    tensor = tensor.detach()
    if processes() > 1:
        tensor = tensor.clone()
        dist.all_reduce(tensor)
    return tensor


def total_number(number: int, device: torch.device) -> int:
    """Sum of a number over all processes, exchanged on their ``device``; several of them wait for it."""
    return number if processes() == 1 else int(total(torch.full((), number, device=device)))


def mean_over_samples(values: Tensor) -> Tensor:
    """This process's part of the mean over the samples of all processes of ``values`` [b]; 0 where there is none."""
    if processes() == 1:  # nothing to ask the device
        return values.sum() / max(len(values), 1)
    count = total(torch.full((), len(values), device=values.device))  # a copy from the host would wait for the device
    return values.sum() * processes() / count.clamp(min=1)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        ctx.rows = tensor.shape[0]
        tensor = tensor.contiguous()
        parts = [torch.empty_like(tensor) for _ in range(processes())]
        dist.all_gather(parts, tensor)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        summed = grads[0].contiguous().clone()
        dist.all_reduce(summed)
        return summed.narrow(0, process_index() * ctx.rows, ctx.rows)


_outside_graphs: list[Any] = []
