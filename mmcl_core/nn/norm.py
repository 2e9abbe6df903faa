"""Batch normalisation whose running statistics belong to one modality each.

The batches of the modalities pass the encoder one after the other, so that in training each is normalised
by its own statistics. Running statistics shared by all would be a mixture that fits none of them; here
every modality has its own, under one pair of affine weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmcl_core.errors import UntrainedModalityError
from mmcl_core.nn.gather import gather_with_grad, processes

__all__ = ["ModalityBatchNorm", "RunningStatistics"]


class RunningStatistics(nn.Module):
    """Running mean and variance of one modality, and the number of batches they are made of."""

    mean: Tensor
    var: Tensor
    count: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("var", torch.ones(channels))
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self._trained = False

    def trained(self) -> bool:
        """Whether any batch went into the statistics. A yes is remembered: no device is asked twice."""
        self._trained = self._trained or bool(self.count > 0)
        return self._trained

    def reset(self) -> None:
        """Forget all batches."""
        self.mean.zero_()
        self.var.fill_(1)
        self.count.zero_()
        self._trained = False

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._trained = not self.count.is_meta and bool(self.count > 0)


class ModalityBatchNorm(nn.Module):
    """BatchNorm over all axes but the second, with shared affine weights and statistics per modality.

    In a data-parallel run the batch statistics are those of the global batch, with gradient.

    Args:
        channels: size C of the second axis.
        modalities: names that have statistics of their own.
        momentum: share of the newest batch in the running statistics.
        eps: added to the variance.
    """

    def __init__(self, channels: int, modalities: Sequence[str], momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        self.momentum = momentum
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.statistics = nn.ModuleDict({name: RunningStatistics(channels) for name in modalities})

    def trained_modalities(self) -> tuple[str, ...]:
        """Modalities that have running statistics."""
        return tuple(name for name in self.statistics if self._of(name).trained())

    def forget(self, modality: str) -> None:
        """Drop the running statistics of a modality, which then counts as never seen."""
        self._of(modality).reset()

    def require(self, modality: str | tuple[str, ...]) -> None:
        """Check that a modality, or each of several, can be normalised in the present mode.

        Raises:
            UntrainedModalityError: the modality is unknown or, in evaluation, was never seen in training.
        """
        for name in (modality,) if isinstance(modality, str) else modality:
            self._require(name)

    def _require(self, modality: str) -> None:
        if modality not in self.statistics:
            known = ", ".join(self.statistics)
            raise UntrainedModalityError(f"the model has no modality {modality!r}; it was made for {known}")
        # A compiled or exported graph holds no Python questions; whoever compiles has asked before.
        if self.training or torch.compiler.is_compiling() or self._of(modality).trained():
            return
        trained = ", ".join(self.trained_modalities()) or "none"
        raise UntrainedModalityError(
            f"the model never saw the modality {modality!r} in training (trained: {trained}); "
            "use a trained one, or train with both"
        )

    def forward(self, x: Tensor, modality: str | tuple[str, ...]) -> Tensor:
        """Normalise a batch of one modality, or equal parts of several, one part after the other.

        Args:
            x: [B, C, ...].
            modality: whose statistics to use (evaluation) or to update (training); a tuple names that of each of the
                equal parts which the batch consists of.

        Returns:
            Tensor of the shape and type of ``x``.

        Raises:
            UntrainedModalityError: see :meth:`require`.
        """
        if isinstance(modality, tuple):
            return torch.cat([self(part, name) for part, name in zip(x.chunk(len(modality)), modality, strict=True)])
        self.require(modality)
        running = self._of(modality)
        if self.training:
            running.count.add_(1)
            if processes() > 1:
                return self._synchronised(x, running)
        return F.batch_norm(
            x, running.mean, running.var, self.weight, self.bias, self.training, self.momentum, self.eps
        )

    def _of(self, modality: str) -> RunningStatistics:
        statistics = self.statistics[modality]
        assert isinstance(statistics, RunningStatistics)
        return statistics

    def _synchronised(self, x: Tensor, running: RunningStatistics) -> Tensor:
        values = x.to(torch.promote_types(x.dtype, torch.float32))
        channels = values.shape[1]
        axes = [d for d in range(values.dim()) if d != 1]
        if len(values):
            var, mean = torch.var_mean(values, axes, correction=0)
        else:  # no sample of this modality here: zeros that are part of the graph, so that all processes exchange
            var = mean = values.sum(axes)
        rows = mean.new_full((1,), values.numel() / channels)
        means, variances, counts = gather_with_grad(torch.cat((mean, var, rows))[None]).split(
            (channels, channels, 1), 1
        )
        share = counts / counts.sum()
        mean = (share * means).sum(0)
        # Combining centred moments: a difference of raw moments would cancel where the mean exceeds the deviation.
        var = (share * (variances + (means - mean).square())).sum(0)
        with torch.no_grad():
            number = counts.sum()
            running.mean.lerp_(mean, self.momentum)
            running.var.lerp_(var * number / (number - 1), self.momentum)
        scale = self.weight * (var + self.eps).rsqrt()
        shape = [1, -1] + [1] * (x.dim() - 2)
        # A product, whose gradient is a tensor of its own. A single row of one pixel needs no sum, and the biases of
        # two layers whose outputs are added would hold the same memory as their gradient: what changes one in place,
        # such as a clip, changes the other as well.
        bias = 1 * self.bias
        return ((values - mean.view(shape)) * scale.view(shape) + bias.view(shape)).to(x.dtype)
