"""Augmentation of training crops, and the transform of evaluation: batched tensors, an own draw for every sample.

Order (paper, Section III-D): a horizontal flip shared by all views of a sample, a random resized crop for each view,
for depth a change of viewpoint (:mod:`mmcl_core.viewpoint`), RandAugment of the kind of picture
(:mod:`mmcl_core.policy`), for RGB other colours (:mod:`mmcl_core.colour`), for depth what a sensor does: a shift along
the viewing axis, background dropped, holes, a rectangle erased. Random numbers and their application are apart:
:meth:`Augmenter.draw` needs only a generator, so a process takes its rows of the draws of the global batch, and the
result is the same as in one process. Everything runs on the device of the pictures.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mmcl_core import colour
from mmcl_core.config import AugmentConfig
from mmcl_core.crops import resized_side
from mmcl_core.depth import NEAREST_MM, drop_background, reference_distance, valid_readings
from mmcl_core.errors import ConfigError, InputError
from mmcl_core.modality import modality
from mmcl_core.policy import CUTOUT_GREY, RGB_POLICIES
from mmcl_core.randaugment import RandAugment, depth_policy, sent
from mmcl_core.resample import Axis, bicubic, moved_camera, nearest
from mmcl_core.viewpoint import change_view, random_rotations

__all__ = ["Augmenter", "Draws", "Picture", "eval_transform", "mirrored", "refuse_distances"]

#: Attempts at a crop that lies inside the picture, as in torchvision's RandomResizedCrop.
CROP_ATTEMPTS = 10
#: Sides of the random grids that holes are made of: large blobs and small ones.
HOLE_GRIDS = (4, 12)
ERASE_AREA, ERASE_RATIO = (0.02, 0.25), (0.4, 2.5)
#: One picture shows too little of an object to turn it farther.
MOST_DEGREES = 45


@dataclass
class Picture:
    """A batch of raw pictures of one size.

    Attributes:
        image: uint8 [B, 3, S, S] (RGB, stored depth pictures), or depth, float32 [B, 1, S, S] in mm with 0 for none.
        camera: float32 [B, 4], fx, fy, cx, cy in pixels of ``image``; rows of zeros where unknown.
    """

    image: Tensor
    camera: Tensor


@dataclass(frozen=True)
class Draws:
    """The random numbers of a batch: tensors by name whose first dimension is the sample."""

    values: Mapping[str, Tensor]

    @staticmethod
    def cat(parts: Sequence[Draws]) -> Draws:
        """The draws of several batches, one after the other."""
        if len(parts) == 1:
            return parts[0]
        return Draws({name: torch.cat([part.values[name] for part in parts]) for name in parts[0].values})

    def rows(self, rows: slice) -> Draws:
        """The draws of some of the samples."""
        return Draws({name: value[rows] for name, value in self.values.items()})

    def to(self, device: torch.device | str) -> Draws:
        """On a device; the numbers of operations stay on the CPU, where they decide what is computed."""
        return Draws(
            {
                name: value if name.endswith(("/ops", "/numbers")) else sent(value, device)
                for name, value in self.values.items()
            }
        )

    def __len__(self) -> int:
        return len(next(iter(self.values.values())))


class Augmenter:
    """Makes augmented views of a batch.

    Args:
        config: settings.
        size: side of the views.
        views: modality of each view, such as ``{"rgb": "rgb", "depth": "depth"}`` or two views of one modality.
        depth_range_m: of the model: what operations on grey levels take for 0 and 255 (:mod:`mmcl_core.policy`).
        aligned: whether all views of a sample get the same crop, so that they stay registered pixel by pixel.
        plain: views that are flipped and cropped and left alone otherwise.

    Raises:
        ConfigError: a setting out of its range.
    """

    def __init__(
        self,
        config: AugmentConfig,
        size: int,
        views: Mapping[str, str],
        depth_range_m: tuple[float, float] = (0.0, 2.55),
        aligned: bool = False,
        plain: Collection[str] = (),
    ) -> None:
        _check(config)
        self.config, self.size = config, size
        self.aligned, self.plain = aligned, frozenset(plain)
        self.views = {view: modality(name) for view, name in views.items()}
        self._policies = {
            "rgb": RandAugment(RGB_POLICIES[config.policy], config.rgb_ops, config.rgb_magnitude, size, CUTOUT_GREY),
            "depth": depth_policy(config, size, depth_range_m),
        }

    def draw(self, batch: int, generator: torch.Generator) -> Draws:
        """All random numbers of a batch.

        Args:
            batch: samples in the (global) batch.
            generator: on the CPU; the same state gives the same draws.
        """

        def uniform(*shape: int) -> Tensor:
            return torch.rand(batch, *shape, generator=generator)

        config = self.config
        values = {"flip": uniform(), "camera": uniform()}
        shared = {"crop": uniform(CROP_ATTEMPTS, 2), "place": uniform(2)} if self.aligned else None
        for view, kind in self.views.items():
            window = shared or {"crop": uniform(CROP_ATTEMPTS, 2), "place": uniform(2)}
            values.update({f"{view}/{name}": value for name, value in window.items()})
            if view in self.plain:
                continue
            for name, value in self._policies[kind.kind].draw(batch, generator).items():
                values[f"{view}/{name}"] = value
            if kind.kind == "rgb" and (config.rgb_jitter or config.rgb_grey):
                values[f"{view}/colour"] = uniform(colour.NUMBERS)
            if kind.kind == "depth":
                wanted = {
                    "offset": (config.depth_offset_m, ()), "background": (config.depth_background_m, ()),
                    "holes": (config.depth_holes, (1 + sum(side**2 for side in HOLE_GRIDS),)),
                    "erase": (config.depth_erase, (5,)), "view": (config.depth_view_deg, (3,)),
                }  # fmt: skip
                values.update({f"{view}/{name}": uniform(*shape) for name, (on, shape) in wanted.items() if on})
        return Draws(values)

    def __call__(self, images: Mapping[str, Tensor], camera: Tensor, draws: Draws) -> dict[str, Picture]:
        """Apply draws.

        Args:
            images: by modality, as a prepared set holds them: uint8 [B, H, W, 3], or depth in mm [B, H, W].
            camera: [B, 4], of the pictures as they come in.
            draws: of these samples.

        Returns:
            A picture for each view, on the device of the images.

        Raises:
            InputError: pictures of another layout, or another number of samples than draws.
            ConfigError: depth settings that need distances, for a depth picture that has none.
        """
        if len(camera) != len(draws):
            raise InputError(f"{len(camera)} samples but draws for {len(draws)}; take the rows of this batch")
        draws = draws.to(camera.device)
        camera = camera.float() * (draws.values["camera"] >= self.config.camera_dropout)[:, None]
        return {view: self._view(view, images[kind.name], camera, draws) for view, kind in self.views.items()}

    def _view(self, view: str, image: Tensor, camera: Tensor, draws: Draws) -> Picture:
        own = {name[len(view) + 1 :]: value for name, value in draws.values.items() if name.startswith(view + "/")}
        _check_layout(view, image, self.views[view].kind)
        if self.views[view].kind == "depth" and image.ndim == 4:
            refuse_distances(self.config)
        rows, columns = self._axes(image.shape[1], image.shape[2], own, draws.values["flip"] < self.config.flip)
        picture = _resample(image, camera, rows, columns)
        if view in self.plain:
            return picture
        if "view" in own:
            rotation = random_rotations(own["view"], self.config.depth_view_deg)
            picture = Picture(change_view(picture.image, picture.camera, rotation), picture.camera)
        policy = self._policies[self.views[view].kind]
        if policy.count:
            picture = Picture(*policy(picture.image, picture.camera, own["ops"], own["numbers"], own.get("noise")))
        if "colour" in own:
            changed = colour.recolour(picture.image, own["colour"], self.config.rgb_jitter, self.config.rgb_grey)
            picture = Picture(changed, picture.camera)
        return self._sense(picture, own) if self.views[view].kind == "depth" else picture

    def _axes(self, height: int, width: int, own: Mapping[str, Tensor], flip: Tensor) -> tuple[Axis, Axis]:
        """The windows of the random resized crops; the whole picture as far as the ratio allows where none fits."""
        config = self.config
        area = _between(own["crop"][..., 0], config.scale) * (height * width)
        ratio = _log_between(own["crop"][..., 1], config.ratio)
        wide, high = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
        fits = (wide >= 1) & (wide <= width) & (high >= 1) & (high <= height)
        last = min(max(width / height, config.ratio[0]), config.ratio[1])
        first = torch.where(fits, torch.arange(CROP_ATTEMPTS, device=fits.device), CROP_ATTEMPTS).amin(1, keepdim=True)
        pick = first.clamp(max=CROP_ATTEMPTS - 1)
        found = first[:, 0] < CROP_ATTEMPTS
        wide = torch.where(found, wide.gather(1, pick)[:, 0], float(max(1, round(min(width, height * last)))))
        high = torch.where(found, high.gather(1, pick)[:, 0], float(max(1, round(min(height, width / last)))))
        top = (own["place"][:, 0] * (height - high + 1)).floor()
        left = (own["place"][:, 1] * (width - wide + 1)).floor()
        return Axis(height, top, high, self.size), Axis(width, left, wide, self.size, flip)

    def _sense(self, picture: Picture, own: Mapping[str, Tensor]) -> Picture:
        """What a depth sensor does to a view; each step only where it was drawn."""
        config, depth, camera = self.config, picture.image, picture.camera
        if "offset" in own:
            depth, camera = _shift(depth, camera, (2 * own["offset"] - 1) * config.depth_offset_m)
        if "background" in own:
            behind = torch.where(own["background"] < 0.5, config.depth_background_m, math.inf)
            depth = drop_background(depth, behind)
        if "holes" in own:
            depth = depth * ~_holes(own["holes"], config.depth_holes, self.size)
        if "erase" in own:
            depth = depth * ~_rectangles(own["erase"], config.depth_erase, self.size)
        return Picture(depth, camera)


def eval_transform(images: Mapping[str, Tensor], camera: Tensor, size: int) -> dict[str, Picture]:
    """The transform of evaluation: shorter side to ``round(size * 146 / 128)``, then the middle ``size`` pixels.

    RGB and stored depth pictures bicubic, depth from the nearest pixel.

    Args:
        images: by modality, as a prepared set holds them: uint8 [B, H, W, 3], or depth in mm [B, H, W].
        camera: [B, 4], of these pictures.
        size: side of the result.

    Returns:
        A picture for each modality.

    Raises:
        InputError: pictures of another layout.
    """
    result = {}
    shorter = resized_side(size)
    camera = camera.float()
    for name, image in images.items():
        _check_layout(name, image, modality(name).kind)
        sides = image.shape[1:3]
        axes = []
        for side in sides:
            total = int(shorter * side / min(sides))
            low = torch.zeros(len(image), device=image.device)
            axes.append(Axis(side, low, low + side, size, total=total, offset=round((total - size) / 2)))
        result[name] = _resample(image, camera, *axes)
    return result


def mirrored(picture: Picture) -> Picture:
    """The mirror image of a batch, left and right exchanged, and its camera."""
    width = picture.image.shape[3]
    fx, fy, cx, cy = picture.camera.unbind(1)
    camera = torch.stack([fx, fy, torch.where(fx > 0, width - 1 - cx, cx), cy], dim=1)
    return Picture(picture.image.flip(3), camera)


def _check(config: AugmentConfig) -> None:
    for name in (
        "flip",
        "depth_erase",
        "depth_holes",
        "depth_op_probability",
        "camera_dropout",
        "rgb_jitter",
        "rgb_grey",
    ):
        if not 0 <= getattr(config, name) <= 1:
            raise ConfigError(f"augment.{name} is {getattr(config, name)}; it lies in 0..1")
    for name in ("depth_offset_m", "depth_background_m"):
        if not 0 <= getattr(config, name) < math.inf:
            raise ConfigError(f"augment.{name} is {getattr(config, name)}; a distance in metres >= 0 is expected")
    if not 0 <= config.depth_view_deg <= MOST_DEGREES:
        raise ConfigError(f"augment.depth_view_deg is {config.depth_view_deg}; it lies in 0..{MOST_DEGREES}")
    for name, most in (("scale", 1.0), ("ratio", math.inf)):
        low, high = getattr(config, name)
        if not 0 < low <= high <= most or math.isinf(high):
            span = f" <= {most}" if most < math.inf else ", finite,"
            raise ConfigError(f"augment.{name} is {(low, high)}; 0 < low <= high{span} is expected")


def refuse_distances(config: AugmentConfig) -> None:
    """Check that settings can do with depth that is stored as pictures.

    Raises:
        ConfigError: one that needs distances.
    """
    if wrong := [name for name in ("depth_view_deg", "depth_offset_m", "depth_background_m") if getattr(config, name)]:
        names = ", ".join(f"augment.{name}" for name in wrong)
        raise ConfigError(f"{names}: needs distances and this set stores depth pictures; set to 0")


def _check_layout(name: str, image: Tensor, kind: str) -> None:
    picture = image.ndim == 4 and image.shape[3] == 3 and image.dtype == torch.uint8
    if not picture and not (kind == "depth" and image.ndim == 3):
        expected = "uint8 [B, H, W, 3]" + (" or depth in mm [B, H, W]" if kind == "depth" else "")
        raise InputError(f"{name}: {expected} expected, got {image.dtype} of shape {tuple(image.shape)}")


def _resample(image: Tensor, camera: Tensor, rows: Axis, columns: Axis) -> Picture:
    if image.ndim == 4:
        return Picture(bicubic(image, rows, columns), moved_camera(camera, rows, columns))
    return Picture(nearest(image, rows, columns)[:, None].float(), moved_camera(camera, rows, columns))


def _between(share: Tensor, bounds: tuple[float, float]) -> Tensor:
    return bounds[0] + share * (bounds[1] - bounds[0])


def _log_between(share: Tensor, bounds: tuple[float, float]) -> Tensor:
    return _between(share, (math.log(bounds[0]), math.log(bounds[1]))).exp()


def _shift(depth: Tensor, camera: Tensor, offset_m: Tensor) -> tuple[Tensor, Tensor]:
    """Move everything along the viewing axis, at most half the way to the camera.

    The picture stays as it is, so the focal lengths grow with the distance of the object: a longer lens from farther
    away shows an object of the same metric size.
    """
    reference = reference_distance(depth)
    offset = torch.maximum(offset_m * 1000, -reference / 2)
    moved = (depth + offset[:, None, None, None]).clamp(min=NEAREST_MM)
    growth = torch.where(reference > 0, 1 + offset / reference.clamp(min=NEAREST_MM), 1.0)
    focal = camera[:, :2] * growth[:, None]
    return torch.where(valid_readings(depth), moved, 0.0), torch.cat([focal, camera[:, 2:]], dim=1)


def _holes(numbers: Tensor, most: float, size: int) -> Tensor:
    """Blobs, bool [B, 1, size, size], that cover a share of the picture drawn from 0..most (about: to within 5 %)."""
    share, *grids = numbers.split([1, *(side**2 for side in HOLE_GRIDS)], dim=1)
    field = torch.zeros(len(numbers), 1, size, size, device=numbers.device)
    for side, grid in zip(HOLE_GRIDS, grids, strict=True):
        noise = grid.view(-1, 1, side, side) - 0.5
        field += F.interpolate(noise, (size, size), mode="bilinear", align_corners=True)
    step = max(1, size // 16)
    ranked = field[:, 0, step // 2 :: step, step // 2 :: step].flatten(1).sort(dim=1).values
    place = (share * most * ranked.shape[1]).long().clamp(max=ranked.shape[1] - 1)
    return field < ranked.gather(1, place)[:, :, None, None]


def _rectangles(numbers: Tensor, probability: float, size: int) -> Tensor:
    """A rectangle with the given probability, bool [B, 1, size, size]."""
    area, ratio = _between(numbers[:, 1], ERASE_AREA), _log_between(numbers[:, 2], ERASE_RATIO)
    place = torch.arange(size, device=numbers.device)
    hit = []
    for share, at in (((area / ratio).sqrt(), numbers[:, 3]), ((area * ratio).sqrt(), numbers[:, 4])):
        side = (share * size).round().clamp(max=size)
        low = (at * (size - side + 1)).floor()
        hit.append((place >= low[:, None]) & (place < (low + side)[:, None]))
    drawn = (numbers[:, 0] < probability)[:, None, None]
    return (drawn & hit[0][:, :, None] & hit[1][:, None, :])[:, None]
