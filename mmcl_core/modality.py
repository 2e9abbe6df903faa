"""What RGB and depth are: unit, range, invalid value, statistics, and how they become network input.

Between data and network a picture is *raw*:

========  =====================  ==================  ============================  ================
kind      shape                  type                values                        invalid
========  =====================  ==================  ============================  ================
rgb       [B, 3, H, W]           uint8 or float32    0..255, order R, G, B         none
depth     [B, 1, H, W]           float32             z along the optical axis, mm  0
stored    [B, 3, H, W]           uint8 or float32    0..255, a depth picture       none
camera    [B, 4]                 float32             fx, fy, cx, cy in pixels      a row of zeros
========  =====================  ==================  ============================  ================

A camera belongs to the very picture it comes with; pixel centres lie at integer coordinates. How a raw
picture becomes three channels is a property of the model, an :class:`InputSpec`, and is stored with its weights.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from mmcl_core import depth as depth_encodings
from mmcl_core.errors import ConfigError, InputError

if TYPE_CHECKING:
    from mmcl_core.config import ModelConfig

__all__ = ["InputSpec", "Modality", "modality", "to_network_input", "to_raw"]


@dataclass(frozen=True)
class Modality:
    """One kind of picture a sensor gives.

    Attributes:
        name: as used in prepared sets, settings and weights files, such as ``rgb``, ``depth``, ``rgb_right``.
        kind: ``rgb`` or ``depth``; what unit, range and invalid value follow from.
    """

    name: str
    kind: str

    @property
    def unit(self) -> str:
        """Unit of a raw value."""
        return "intensity 0-255" if self.kind == "rgb" else "mm"

    @property
    def invalid(self) -> int | None:
        """The raw value that means "no reading"; ``None`` where every value is a reading."""
        return None if self.kind == "rgb" else 0


def modality(name: str) -> Modality:
    """The modality of a name: ``rgb`` and ``rgb_...`` are of kind rgb, ``depth`` and ``depth_...`` of kind depth.

    Raises:
        ConfigError: any other name.
    """
    for kind in ("rgb", "depth"):
        if name == kind or name.startswith(kind + "_"):
            return Modality(name, kind)
    raise ConfigError(f"unknown modality {name!r}: names are rgb, depth, or begin with rgb_ or depth_")


@dataclass(frozen=True)
class InputSpec:
    """What a network is fed; the fields are those of :class:`mmcl_core.config.ModelConfig`.

    Raises:
        ConfigError: on construction, when a value is out of its range or two contradict each other.
    """

    size: int
    rgb_mean: tuple[float, ...]
    rgb_std: tuple[float, ...]
    depth_encoding: str
    depth_mean: tuple[float, ...]
    depth_std: tuple[float, ...]
    depth_range_m: tuple[float, float]
    background_m: float
    metric_size: bool

    def __post_init__(self) -> None:
        """Check the values."""
        if self.size < 1:
            raise ConfigError(f"input_size is {self.size}; a side in pixels is expected")
        for name, counts in (("rgb_mean", (3,)), ("rgb_std", (3,)), ("depth_mean", (1, 3)), ("depth_std", (1, 3))):
            values = getattr(self, name)
            if len(values) not in counts:
                raise ConfigError(f"{name} takes {' or '.join(map(str, counts))} values, got {len(values)}")
            if not all(math.isfinite(value) for value in values):
                raise ConfigError(f"{name} is {values}; finite numbers are expected")
            if name.endswith("std") and min(values) <= 0:
                raise ConfigError(f"{name} is {values}; standard deviations must be positive")
        if self.depth_encoding not in depth_encodings.ENCODINGS:
            known = ", ".join(depth_encodings.ENCODINGS)
            raise ConfigError(f"depth_encoding is {self.depth_encoding!r}; choose from {known}")
        near, far = self.depth_range_m
        if not 0 <= near < far < math.inf:
            raise ConfigError(f"depth_range_m is {self.depth_range_m}; nearest < farthest, both >= 0, in metres")
        if not 0 <= self.background_m < math.inf:
            raise ConfigError(f"background_m is {self.background_m}; a distance in metres >= 0 is expected")
        if self.metric_size and self.depth_encoding in ("relief", "hha", "stored"):
            raise ConfigError(
                f"metric_size needs a free channel and depth_encoding={self.depth_encoding} has none; "
                "choose replicate, relative or normals, or set metric_size=false"
            )
        if self.background_m and self.depth_encoding == "stored":
            raise ConfigError("background_m needs metric depth and depth_encoding=stored has none; set background_m=0")

    @classmethod
    def from_config(cls, config: ModelConfig) -> InputSpec:
        """The input part of a model's settings.

        Raises:
            ConfigError: see the class.
        """
        names = {field.name for field in dataclasses.fields(cls)} - {"size"}
        values: dict[str, Any] = {name: getattr(config, name) for name in names}
        return cls(size=config.input_size, **values)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> InputSpec:
        """The inverse of :meth:`to_dict`.

        Raises:
            ConfigError: missing or unknown fields, or as for the class.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        if set(values) != known:
            differing = ", ".join(sorted(known ^ set(values)))
            raise ConfigError(f"the stored input specification has missing or unknown fields: {differing}")
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, (list, tuple)) else v for k, v in values.items()}
        return cls(**plain)


def to_raw(image: Tensor, name: str) -> Tensor:
    """A batch as a prepared set holds it, in the raw convention.

    Args:
        image: uint8 [B, H, W, 3] (RGB, or a stored depth picture), or depth in mm [B, H, W] of any number type.
        name: name of the modality.

    Returns:
        uint8 [B, 3, H, W], or float32 [B, 1, H, W].

    Raises:
        InputError: a shape or type that is neither.
    """
    if image.ndim == 4 and image.shape[-1] == 3 and image.dtype == torch.uint8:
        return image.permute(0, 3, 1, 2).contiguous()
    if image.ndim == 3 and modality(name).kind == "depth":
        return image[:, None].float()
    raise InputError(
        f"{name}: {image.dtype} of shape {tuple(image.shape)}; expected uint8 [B, H, W, 3] or depth in mm [B, H, W]"
    )


def to_network_input(image: Tensor, modality_name: str, camera: Tensor | None, spec: InputSpec) -> Tensor:
    """Normalise or encode a raw batch.

    Args:
        image: raw pictures (see the module) of any one size.
        modality_name: name of their modality.
        camera: [B, 4]; used by ``normals``, ``hha`` and metric size only. ``None``: unknown for all.
        spec: what the network was made for.

    Returns:
        float32 [B, 3, H, W]: RGB as (value - mean) / std, depth as :mod:`mmcl_core.depth` says.

    Raises:
        InputError: a shape that does not fit the modality and the encoding.
    """
    kind = modality(modality_name).kind
    stored = kind == "depth" and spec.depth_encoding == "stored"
    channels = 3 if kind == "rgb" or stored else 1
    if image.ndim != 4 or image.shape[1] != channels:
        encoding = f" (depth_encoding {spec.depth_encoding})" if kind == "depth" else ""
        wanted = "distances" if kind == "depth" and not stored else "pictures"
        raise InputError(
            f"{modality_name}{encoding}: {wanted} of shape [B, {channels}, H, W] expected, got {tuple(image.shape)}"
        )
    if camera is not None and tuple(camera.shape) != (image.shape[0], 4):
        raise InputError(f"camera: shape [{image.shape[0]}, 4] expected (fx, fy, cx, cy), got {tuple(camera.shape)}")
    # Geometry in bfloat16 would lose millimetres: an autocast around the model must not reach it.
    with torch.autocast(image.device.type, enabled=False):
        if kind == "rgb":
            return depth_encodings.normalise(image.float(), spec.rgb_mean, spec.rgb_std)
        if stored:
            return depth_encodings.normalise(image.float(), spec.depth_mean, spec.depth_std)
        if camera is None:
            camera = image.new_zeros(image.shape[0], 4, dtype=torch.float32)
        return depth_encodings.encode(
            image.float(),
            camera.float(),
            encoding=spec.depth_encoding,
            mean=spec.depth_mean,
            std=spec.depth_std,
            range_m=spec.depth_range_m,
            background_m=spec.background_m,
            metric_size=spec.metric_size,
        )
