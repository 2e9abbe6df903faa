"""What stands on the encoder: embedding heads of the 5 x 5 and 7 x 7 maps, and the two classifiers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmcl_core.nn.norm import ModalityBatchNorm

__all__ = ["ClassLogits", "Classifier", "FeatureHead", "first_convolution", "second_convolution"]


def first_convolution(n_in: int, n_out: int, kernel: int = 1, stride: int = 1) -> nn.Conv2d:
    """First convolution of a residual unit: no bias, Kaiming-uniform weights with a = sqrt 5."""
    convolution = nn.Conv2d(n_in, n_out, kernel, stride, bias=False)
    nn.init.kaiming_uniform_(convolution.weight, a=math.sqrt(5))
    return convolution


def second_convolution(channels: int) -> nn.Conv2d:
    """Second convolution of a residual unit: 1 x 1, no bias, all zero, so that the unit starts as its skip."""
    convolution = nn.Conv2d(channels, channels, 1, bias=False)
    nn.init.zeros_(convolution.weight)
    return convolution


class FeatureHead(nn.Module):
    """The embedding phi of a feature map: ``BN(conv_b(ReLU(BN?(conv_a(x)))) + shortcut(x))``, all 1 x 1.

    Args:
        n_in: channels of the feature map.
        n_out: width R of the embedding.
        unit_norm: whether the inner BatchNorm exists (paper: no).
        modalities: see :class:`ModalityBatchNorm`.
    """

    def __init__(self, n_in: int, n_out: int, unit_norm: bool, modalities: Sequence[str]) -> None:
        super().__init__()
        self.conv1 = first_convolution(n_in, n_out)
        self.inner_norm = ModalityBatchNorm(n_out, modalities) if unit_norm else None
        self.conv2 = second_convolution(n_out)
        self.shortcut = nn.Conv2d(n_in, n_out, 1)
        self.norm = ModalityBatchNorm(n_out, modalities)
        with torch.no_grad():
            self.shortcut.weight.uniform_(-0.01, 0.01)
            self.shortcut.weight[:, :, 0, 0].fill_diagonal_(1.0)

    def forward(self, x: Tensor, modality: str | tuple[str, ...]) -> Tensor:
        """Embed a map [B, n_in, h, w] of one modality, or of equal parts of several; float32 [B, R, h, w]."""
        hidden = self.conv1(x)
        if self.inner_norm is not None:
            hidden = self.inner_norm(hidden, modality)
        y = self.conv2(F.relu(hidden, inplace=True))
        y += self.shortcut(x)
        embedded: Tensor = self.norm(y.float(), modality)
        return embedded


class ClassLogits(NamedTuple):
    """Class scores of the two heads, [B, C] each."""

    linear: Tensor
    mlp: Tensor


class Classifier(nn.Module):
    """The two classifiers on f1, both trained: a linear one and one with a hidden layer.

    Args:
        n_in: width R of the embedding.
        classes: number C of classes.
        hidden: width of the hidden layer.
        dropout: before either layer of the MLP, in [0, 1).
        modalities: see :class:`ModalityBatchNorm`.
    """

    def __init__(self, n_in: int, classes: int, hidden: int, dropout: float, modalities: Sequence[str]) -> None:
        super().__init__()
        self.linear = nn.Linear(n_in, classes)
        self.dropout = dropout
        self.hidden = nn.Linear(n_in, hidden, bias=False)
        self.norm = ModalityBatchNorm(hidden, modalities)
        self.output = nn.Linear(hidden, classes)

    def forget(self) -> None:
        """Count as never trained, for any modality: what was not taught must not answer."""
        for modality in self.norm.statistics:
            self.norm.forget(modality)

    def forward(self, f1: Tensor, modality: str) -> ClassLogits:
        """Class scores, before any clip, of embeddings [B, R] of one modality."""
        x = F.dropout(f1, self.dropout, self.training)
        x = F.relu(self.norm(self.hidden(x), modality))
        return ClassLogits(self.linear(f1), self.output(F.dropout(x, self.dropout, self.training)))
