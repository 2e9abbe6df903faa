"""NYU-D: objects of 19 classes in indoor rooms, Kinect; as crop folders or from the labelled NYU Depth V2 file.

Source: N. Silberman, D. Hoiem, P. Kohli, R. Fergus, "Indoor Segmentation and Support Inference from RGBD Images", ECCV
2012, https://cs.nyu.edu/~silberman/datasets/nyu_depth_v2.html; the crops and their 19 classes: E. Tzeng, J. Hoffman, T.
Darrell, K. Saenko, "Adversarial Discriminative Domain Adaptation", CVPR 2017. Both are offered for research without a
stated licence; the pictures remain their owners'.

**Crop folders.** 2,186 crops for training and 2,401 for testing:

=================================  ====================================================================================
file                               meaning
=================================  ====================================================================================
``<split>/image/<class>/<name>``   colour, PNG; the folder is also called ``images``; <split> is train or test
``<split>/depth/<class>/<name>``   HHA of the same crop, PNG of 8 bit and 3 channels
=================================  ====================================================================================

The result has the modality ``depth`` as a stored picture in the order disparity, height, angle. Files whose program
took RGB for BGR hold them the other way round. ``--hha-order auto`` looks at 60 of them: an angle is never outside
38..218, so a channel with values beyond is the disparity; where none has, it is the smoother one, as normals amplify
noise. If fewer than three quarters of the pictures agree, the order must be given.

**Labelled file.** ``nyu_depth_v2_labeled.mat`` (MATLAB v7.3, 1,449 frames): crops around objects of the 19 classes,
depth in millimetres. The official split is taken from ``splits.mat`` beside it; without that, whole rooms, 45 % of the
frames, are for testing. The group of a crop is its room. Needs h5py, and scipy for ``splits.mat``.
"""

from __future__ import annotations

import argparse
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmcl_core.data.crops import CropRule
from mmcl_core.data.frames import add_crop_arguments, crop_rule, same_size
from mmcl_core.data.nyud_labelled import FILE, plan_labelled
from mmcl_core.data.pictures import lossless_first, read_rgb
from mmcl_core.data.rooms import CLASSES, class_of
from mmcl_core.data.sources import Plan, Skip, folders_in, given_options, place_in, show_folder, visible
from mmcl_core.data.writer import Sample
from mmcl_core.errors import ConfigError, DataError

__all__ = ["DATA_SET", "Crop", "NyuD", "hha_votes"]

logger = logging.getLogger(__name__)

Array = npt.NDArray[Any]

#: Samples of the published set.
EXPECTED = {"train": 2186, "test": 2401}
_HELP = __doc__
_FOLDERS = {"rgb": ("image", "images"), "depth": ("depth",)}
_LAYOUT = f"{{train,test}}/{{image,depth}}/<class>/<name>.png, or {FILE}"
_LOOKED_AT = 60
#: Options that are for the labelled file alone.
_OF_LABELLED = ("splits", "depth", "min_pixels", "margin", "min_side", "context")


@dataclass(frozen=True)
class Crop:
    """A task: the files of a crop, relative to the source."""

    key: str
    split: str
    label: int
    rgb: str
    depth: str


@dataclass(frozen=True)
class Reader:
    """How the files of a crop are read."""

    source: Path
    rule: CropRule
    swapped: bool


class NyuD:
    """The two layouts of this module."""

    name = "nyud"
    help = "NYU-D: crop folders of 19 classes with HHA, or the labelled NYU Depth V2 file with metric depth"
    description = _HELP
    examples = f"""\
  python -m mmcl_core.prepare nyud --source nyud_crops --size 256 --out data_sets/nyud
  python -m mmcl_core.prepare nyud --source nyud_crops --check
  python -m mmcl_core.prepare nyud --source {FILE} --splits splits.mat --out data_sets/nyud_metric
  python -m mmcl_core.prepare nyud --source {FILE} --splits splits.mat --depth hha --out data_sets/nyud_hha"""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the options of this data set."""
        crops = parser.add_argument_group("crop folders")
        crops.add_argument(
            "--hha-order", choices=("auto", "rgb", "bgr"), default="auto",
            help="where the disparity is in the HHA files: rgb: in the red channel, bgr: in the blue one "
            "(default: auto, see above)",
        )  # fmt: skip
        labelled = parser.add_argument_group("labelled file")
        labelled.add_argument(
            "--splits", type=Path, metavar="FILE", help="the official split, splits.mat (default: beside the source)"
        )
        labelled.add_argument(
            "--depth", choices=("metric", "hha"), default="metric",
            help="metric: raw depth in mm; hha: HHA of the filled depth as a stored picture (default: metric)",
        )  # fmt: skip
        labelled.add_argument(
            "--min-pixels", type=int, default=400, metavar="N",
            help="objects with fewer labelled pixels are left out (default: 400)",
        )  # fmt: skip
        add_crop_arguments(parser, min_side=20)

    def plan(self, source: Path, options: argparse.Namespace) -> Plan:
        """List the crops or the frames (see the data set protocol)."""
        file = source / FILE if source.is_dir() else source
        if file.is_file():
            self._refuse(options, ("hha_order",), f"{source} is the labelled file")
            return plan_labelled(file, crop_rule(options), options)
        skips: list[Skip] = []
        crops = sorted(_list_crops(source, skips), key=lambda crop: crop.key)
        if not crops:
            raise DataError(f"{source}: no pair of pictures; expected {_LAYOUT}; found {show_folder(source)}")
        self._refuse(options, _OF_LABELLED, f"{source} holds crops that are cut already")
        swapped = _is_swapped(source, crops) if options.hha_order == "auto" else options.hha_order == "bgr"
        reader = Reader(source, CropRule(options.size), swapped)
        return Plan(
            classes=CLASSES,
            modalities=("rgb", "depth"),
            tasks=crops,
            make=partial(make_samples, reader),
            total=len(crops),
            unit="crops",
            description={
                "made_by": "mmcl_core.prepare nyud",
                "source": "NYU-D, crops of 19 classes (Tzeng et al., CVPR 2017)",
                "crop": reader.rule.describe(),
                "depth": "HHA: disparity, height, angle",
                "order_in_files": "bgr" if swapped else "rgb",
                "published": EXPECTED,
            },
            stored=("depth",),
            expected=EXPECTED,
            published={
                f"{split} crops": (sum(crop.split == split for crop in crops), count)
                for split, count in EXPECTED.items()
            },
            skipped=skips,
        )

    def _refuse(self, options: argparse.Namespace, names: tuple[str, ...], what: str) -> None:
        """Refuse options that would change nothing."""
        if given := given_options(self, options, names):
            raise ConfigError(f"{what}, where {', '.join(given)} cannot apply: leave out what is for the other layout")


DATA_SET = NyuD()


def make_samples(reader: Reader, crop: Crop) -> Iterator[Sample | Skip]:
    """The sample of a pair of files, or what is wrong with one of them."""
    images: dict[str, Array] = {}
    for name, file in (("rgb", crop.rgb), ("depth", crop.depth)):
        try:
            images[name] = read_rgb(reader.source / file)
            same_size(images[name], images["rgb"])
        except DataError as error:
            yield Skip(file, str(error))
            return
    if reader.swapped:
        images["depth"] = images["depth"][..., ::-1]
    cut = reader.rule(images)
    assert cut is not None, "a whole picture is never too small"
    yield Sample(cut[0], crop.label, crop.split, crop.key, source=crop.rgb)


def hha_votes(picture: Array) -> int:
    """Which end of an HHA picture is the disparity: 1 the first channel, -1 the last, 0 undecided.

    Args:
        picture: uint8 [H, W, 3].
    """
    ends = picture[..., ::2].astype(np.int16)
    beyond = ((ends < 37) | (ends > 219)).mean(axis=(0, 1))
    if beyond.max() > 0.02 and beyond.min() < beyond.max() / 10:
        return 1 if beyond[0] > beyond[1] else -1
    if ends.shape[1] < 2:
        return 0
    # Typical rather than mean steps, as disparity jumps at the edges of objects.
    steps = np.minimum(np.abs(np.diff(ends, axis=1)), 16).mean(axis=(0, 1))
    if steps.max() < 1.5 * steps.min() or steps.max() < 0.05:
        return 0
    return 1 if steps[0] < steps[1] else -1


def _is_swapped(source: Path, crops: list[Crop]) -> bool:
    votes = []
    for crop in crops[:: max(1, len(crops) // _LOOKED_AT)]:
        try:
            votes.append(hha_votes(read_rgb(source / crop.depth)))
        except DataError:
            continue
    counts = {order: votes.count(vote) for order, vote in (("rgb", 1), ("bgr", -1))}
    order = max(counts, key=lambda name: counts[name])
    if not votes or counts[order] < 0.75 * len(votes):
        raise DataError(
            f"{source}: the order of the HHA channels is not clear: of {len(votes)} pictures {counts['rgb']} have the "
            f"disparity in red, {counts['bgr']} in blue; give --hha-order rgb or bgr"
        )
    logger.info("HHA files are in the order %s (%d of %d pictures)", order, counts[order], len(votes))
    return order == "bgr"


def _list_crops(source: Path, skips: list[Skip]) -> Iterator[Crop]:
    splits = [split for split in EXPECTED if (source / split).is_dir()]
    if not splits:
        raise DataError(f"{source}: expected {_LAYOUT}; found {show_folder(source)}")
    seen = set()
    for split in splits:
        files: dict[str, dict[tuple[str, str], str]] = {}
        for part, names in _FOLDERS.items():
            folder = next((source / split / name for name in names if (source / split / name).is_dir()), None)
            if folder is None:
                where = source / split
                raise DataError(f"{where}: expected a folder {' or '.join(names)}; found {show_folder(where)}")
            files[part] = {}
            for place, file in _class_files(source, folder, skips):
                if (first := files[part].setdefault(place, file)) != file:
                    skips.append(Skip(file, f"is a second picture of its class and name, beside {first}"))
        for split_class, name in sorted(files["rgb"].keys() | files["depth"].keys()):
            pair = {part: files[part].get((split_class, name)) for part in files}
            key = f"{split}/{split_class}/{name}"
            if pair["rgb"] and pair["depth"]:
                seen.add(split_class)
                yield Crop(key, split, CLASSES.index(split_class), pair["rgb"], pair["depth"])
            else:
                gone, there = ("depth", pair["rgb"]) if pair["rgb"] else ("colour", pair["depth"])
                skips.append(Skip(str(there), f"has no {gone} picture of the same name"))
    if seen and len(seen) < len(CLASSES):
        logger.warning("no crops of %s", ", ".join(sorted(set(CLASSES) - seen)))


def _class_files(source: Path, folder: Path, skips: list[Skip]) -> Iterator[tuple[tuple[str, str], str]]:
    """(class, name without ending) and file, relative to the source."""
    for inner in folders_in(folder):
        name = class_of(inner.name)
        if name is None:
            skips.append(Skip(place_in(source, inner), f"is none of the {len(CLASSES)} classes"))
            continue
        for path in sorted(visible(inner), key=lossless_first):
            if re.fullmatch(r"\.(png|jpe?g)", path.suffix.lower()):
                yield (name, path.stem), place_in(source, path)
