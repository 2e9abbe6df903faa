"""A ResNet in the place of the encoder, for the methods that are published with one.

The trunk is torchvision's up to the global pooling, its BatchNorm layers replaced by those of this project: running
statistics belong to one modality each, and processes of a data-parallel run share the batch statistics.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mmcl_core.errors import CheckpointError, ConfigError, InputError
from mmcl_core.nn.encoder import LEVELS, Features
from mmcl_core.nn.norm import ModalityBatchNorm
from mmcl_core.weights import UNREADABLE

__all__ = ["ResNetEncoder"]


class _TrunkNorm(ModalityBatchNorm):
    """BatchNorm inside the trunk, which hands on no name: the encoder says beforehand whose statistics to use."""

    current: str

    def forward(self, x: Tensor, modality: str | tuple[str, ...] = "") -> Tensor:
        """Normalise a batch of the modality that is being encoded."""
        return super().forward(x, modality or self.current)


class ResNetEncoder(nn.Module):
    """Trunk, global average pooling, a linear bottleneck and the always-on BatchNorm of f1.

    Args:
        kind: ``resnet18`` or ``resnet50``.
        size: side of the square input in pixels.
        nrkhs: width R of the embedding.
        modalities: names that have running statistics of their own.
        channels: of the input; 3, or those of several pictures one after the other.

    Raises:
        ConfigError: no such ResNet, no modality, or torchvision is not installed.
    """

    def __init__(self, kind: str, size: int, nrkhs: int, modalities: Sequence[str], channels: int = 3) -> None:
        super().__init__()
        if not modalities or isinstance(modalities, str):
            raise ConfigError(f"an encoder needs a list of modalities, got {modalities!r}")
        self.kind, self.size, self.channels = kind, size, channels
        self.modalities = tuple(modalities)
        self.trunk = _make_trunk(kind, self.modalities)
        width = self.trunk.fc.in_features
        self.trunk.fc = nn.Identity()
        if channels != 3:
            self.trunk.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
            nn.init.kaiming_normal_(self.trunk.conv1.weight, mode="fan_out", nonlinearity="relu")
        self.bottleneck = nn.Linear(width, nrkhs)
        self.norm = ModalityBatchNorm(nrkhs, modalities)
        self.heads = nn.ModuleDict()  # as the Encoder has them; there are no maps for any
        self._inner = [module for module in self.trunk.modules() if isinstance(module, _TrunkNorm)]
        self._turn(self.modalities[0])

    def forward(self, x: Tensor, modality: str, levels: Collection[int] = LEVELS) -> Features:
        """Embed a batch of one modality: f1 alone, whatever ``levels`` asks for.

        Args:
            x: network input [B, channels, size, size], normalised.
            modality: its name.
            levels: as of :meth:`mmcl_core.nn.encoder.Encoder.forward`.

        Raises:
            InputError: ``x`` has another shape.
            UntrainedModalityError: an unknown modality or, in evaluation, one never seen in training.
        """
        if x.shape[1:] != (self.channels, self.size, self.size):
            raise InputError(f"the encoder takes [B, {self.channels}, {self.size}, {self.size}], got {list(x.shape)}")
        self.norm.require(modality)
        self._turn(modality)
        pooled = self.trunk(x)
        return Features(self.norm(self.bottleneck(pooled).to(self.norm.weight.dtype), modality))

    def _turn(self, modality: str) -> None:
        if getattr(self._inner[0], "current", None) != modality:
            for norm in self._inner:
                norm.current = modality

    def load_torchvision(self, path: str | Path) -> None:
        """Start the trunk from torchvision's weights; the bottleneck stays as it is.

        A first convolution that takes several pictures gets the weights once for each, divided by their number, so
        that equal pictures give what one of them gave.

        Args:
            path: a local file as torchvision publishes it, a dictionary of tensors; read without executing anything.

        Raises:
            CheckpointError: no such file, a damaged one, or weights of another network.
        """
        state = _read(Path(path), self.kind)
        taken: dict[str, Tensor] = {}
        unfit = []
        for name, own in self.trunk.state_dict().items():
            value = self._theirs(name, state)
            if value is not None and name == "conv1.weight" and value.shape[1:2] == (3,):
                blocks = self.channels // 3
                value = value.repeat(1, blocks, 1, 1) / blocks
            if value is None or value.shape != own.shape:
                unfit.append(name)
            else:
                taken[name] = value
        if unfit:
            more = f" and {len(unfit) - 3} more" if len(unfit) > 3 else ""
            raise CheckpointError(
                f"model.backbone_weights={path} are not those of a {self.kind}: {', '.join(unfit[:3])}{more} missing "
                "or of another shape; give torchvision's file of that network, or set model.backbone"
            )
        self.trunk.load_state_dict(taken)

    def _theirs(self, name: str, state: dict[str, Any]) -> Tensor | None:
        """Their value for one of our names, such as ``bn1.statistics.rgb.mean`` for ``bn1.running_mean``."""
        layer, inner, own = name.partition(".statistics.")
        if inner:
            what = own.rpartition(".")[2]
            if what == "count":  # of batches: the trunk has seen some
                return torch.ones((), dtype=torch.int64)
            name = f"{layer}.running_{what}"
        value = state.get(name)
        return value if isinstance(value, Tensor) else None


def _make_trunk(kind: str, modalities: tuple[str, ...]) -> Any:
    try:
        from torchvision import models
    except ImportError as error:
        raise ConfigError(f"model.backbone={kind} needs torchvision: pip install torchvision") from error
    makers = {"resnet18": models.resnet18, "resnet50": models.resnet50}
    if kind not in makers:
        raise ConfigError(f"model.backbone is {kind!r}; choose encoder, {' or '.join(makers)}")
    return makers[kind](weights=None, norm_layer=lambda channels: _TrunkNorm(channels, modalities))


def _read(path: Path, kind: str) -> dict[str, Any]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise CheckpointError(
            f"no file at model.backbone_weights={path}; give a local copy of torchvision's weights of {kind}, or leave "
            "it empty to start from random weights"
        ) from error
    except (OSError, *UNREADABLE) as error:
        why = str(error).partition("\n")[0]
        raise CheckpointError(
            f"model.backbone_weights={path} cannot be read as a file of tensors ({why}); copy it again"
        ) from error
    if not isinstance(state, dict):
        raise CheckpointError(f"model.backbone_weights={path} holds a {type(state).__name__}, not tensors by name")
    return state
