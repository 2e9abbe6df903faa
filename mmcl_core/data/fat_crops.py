"""Crops of Falling Things that are cut already, as the program of Meyer et al. reads them.

==============================================  =======================================================================
file                                            meaning
==============================================  =======================================================================
``<split>/<class>/<stem>.left.(jpg|png)``       colour; <split> is train, val or test; <class> with or without ``_16k``;
                                                the stem has no dot and is unique in its class
``<split>/<class>/<stem>.left.depth.png``       depth of the same pixels: 16 bit of 1 channel in 0.1 mm, or a picture of
                                                8 bit, with 1 or 3 equal channels
``<split>/<class>/<stem>.right.(jpg|png)``      the right camera, for ``--stereo``
==============================================  =======================================================================

The paper has 18,640 + 6,267 of them. 16-bit depth becomes millimetres; what has 8 bit has lost its unit and is kept as
a stored picture (``model.depth_encoding=stored``). The first depth file that can be read decides which of the two.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmcl_core.data.crops import CropRule
from mmcl_core.data.fat_annotations import plain_class
from mmcl_core.data.frames import same_size
from mmcl_core.data.pictures import depth_millimetres, lossless_first, read_picture, read_rgb
from mmcl_core.data.sources import Plan, Skip, folders_in, place_in, show_folder, visible
from mmcl_core.data.writer import Sample
from mmcl_core.data.ycb_video import CLASSES
from mmcl_core.errors import DataError

__all__ = ["EXPECTED", "Crop", "has_crops", "plan_crops", "read_distances"]

Array = npt.NDArray[Any]

#: Samples of the paper.
EXPECTED = {"train": 18_640, "val": 6_267}
SPLITS = ("train", "val", "test")
#: A depth file of 16 bit in 0.1 mm cannot say more; its largest number means farther.
_FARTHEST_MM = 6553
_FILE = re.compile(r"([^.]+)\.(left|right|left\.depth)\.(jpg|png)")
_PARTS = {"left": "rgb", "left.depth": "depth", "right": "rgb_right"}
_LAYOUT = "{train,val}/<class>/<stem>.left.jpg with <stem>.left.depth.png"


@dataclass
class Crop:
    """A task: the files of a crop by modality, relative to the source."""

    key: str
    split: str
    label: int
    files: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Reader:
    """How the files of a crop are read."""

    source: Path
    rule: CropRule
    metric: bool


def has_crops(source: Path) -> bool:
    """Whether a folder is laid out by splits and classes."""
    folders = (source / split / name for split in SPLITS for name in (*CLASSES, *(f"{one}_16k" for one in CLASSES)))
    return any(folder.is_dir() for folder in folders)


def plan_crops(source: Path, options: argparse.Namespace) -> Plan:
    """The crops of a folder as work.

    Args:
        source: the folder that holds the splits.
        options: with ``size`` and ``stereo``, see ``prepare falling_things --help``.

    Raises:
        DataError: no pair of pictures, or no depth file that can be read.
    """
    skips: list[Skip] = []
    modalities = ("rgb", "depth", "rgb_right") if options.stereo else ("rgb", "depth")
    crops = sorted(_list_crops(source, modalities, skips), key=lambda crop: crop.key)
    if not crops:
        raise DataError(f"{source}: no pair of pictures; expected {_LAYOUT}; found {show_folder(source)}")
    metric = _is_metric(source, crops)
    reader = Reader(source, CropRule(options.size), metric)
    return Plan(
        classes=CLASSES,
        modalities=modalities,
        tasks=crops,
        make=partial(make_samples, reader),
        total=len(crops),
        unit="crops",
        description={
            "made_by": "mmcl_core.prepare falling_things",
            "source": "Falling Things (Tremblay et al., CVPR Workshops 2018), crops that were cut before",
            "crop": reader.rule.describe(),
            "depth": "mm" if metric else "8-bit pictures",
            "stereo": options.stereo,
            "published": EXPECTED,
        },
        stored=() if metric else ("depth",),
        expected=EXPECTED,
        published={
            f"{split} crops": (sum(crop.split == split for crop in crops), count) for split, count in EXPECTED.items()
        },
        skipped=skips,
    )


def make_samples(reader: Reader, crop: Crop) -> Iterator[Sample | Skip]:
    """The sample of a crop, or what is wrong with one of its files."""
    images: dict[str, Array] = {}
    for name, file in sorted(crop.files.items(), key=lambda item: item[0] != "rgb"):
        path = reader.source / file
        try:
            images[name] = read_rgb(path) if name != "depth" else _read_depth(path, reader.metric)
            if name == "depth":
                same_size(images["depth"], images["rgb"])
        except DataError as error:
            images.pop(name, None)
            yield Skip(file, str(error) + ("; the crop has no rgb_right" if name == "rgb_right" else ""))
            if name != "rgb_right":
                return
    right = images.pop("rgb_right", None)
    cut = reader.rule(images)
    assert cut is not None, "a whole picture is never too small"
    shown = dict(cut[0])
    if right is not None:
        other = reader.rule({"rgb_right": right})
        assert other is not None, "a whole picture is never too small"
        shown |= other[0]
    yield Sample(shown, crop.label, crop.split, crop.key, source=crop.files["rgb"])


def read_distances(path: Path) -> Array:
    """A depth file of 16 bit in 0.1 mm as uint16 [H, W] in mm; 0: no reading, or too far for the file.

    Raises:
        DataError: as of :func:`mmcl_core.data.pictures.depth_millimetres`.
    """
    depth = depth_millimetres(path, 0.1)
    depth[depth > _FARTHEST_MM] = 0
    return depth


def _read_depth(path: Path, metric: bool) -> Array:
    if metric:
        return read_distances(path)
    image = read_picture(path)
    if image.dtype != np.uint8 or not (image.ndim == 2 or image.shape[2] == 3):
        raise DataError(
            f"is {image.dtype} of shape {image.shape}; 8 bit with 1 or 3 channels expected, as the first has"
        )
    return image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)


def _is_metric(source: Path, crops: Iterable[Crop]) -> bool:
    reason = ""
    for crop in crops:
        try:
            return read_picture(source / crop.files["depth"]).dtype == np.uint16
        except DataError as error:
            reason = reason or f"{crop.files['depth']} {error}"
    raise DataError(f"{source}: no depth file can be read, the first: {reason}")


def _list_crops(source: Path, modalities: tuple[str, ...], skips: list[Skip]) -> Iterator[Crop]:
    for split in SPLITS:
        for folder in folders_in(source / split):
            name = plain_class(folder.name)
            if name not in CLASSES:
                skips.append(Skip(f"{split}/{folder.name}", f"is none of the {len(CLASSES)} classes"))
                continue
            crops: dict[str, Crop] = {}
            for path in sorted(visible(folder), key=lossless_first):
                match = _FILE.fullmatch(path.name)
                if match and _PARTS[match[2]] in modalities:
                    crop = crops.setdefault(match[1], Crop(f"{split}/{name}/{match[1]}", split, CLASSES.index(name)))
                    file = place_in(source, path)
                    if (first := crop.files.setdefault(_PARTS[match[2]], file)) != file:
                        skips.append(Skip(file, f"is a second picture of its name, beside {first}"))
            for crop in crops.values():
                gone = [part for part in ("rgb", "depth") if part not in crop.files]
                if gone:
                    skips.append(Skip(crop.key, f"has no {' and no '.join(gone)} picture"))
                else:
                    yield crop
