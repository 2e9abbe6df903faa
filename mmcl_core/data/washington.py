"""Washington RGB-D Objects: 300 household objects of 51 classes on a turntable, Kinect.

Source: K. Lai, L. Bo, X. Ren, D. Fox, "A Large-Scale Hierarchical Multi-View RGB-D Object Dataset", ICRA 2011;
https://rgbd-dataset.cs.washington.edu. Licence: free for research that is not commercial.

=================================================  ====================================================================
file below ``rgbd-dataset/<class>/<class>_<i>/``   meaning
=================================================  ====================================================================
``<class>_<i>_<v>_<f>_crop.png``                   colour, cut around the object; i instance, v camera height (1, 2, 4),
                                                   f frame, counted from 1
``<class>_<i>_<v>_<f>_depthcrop.png``              depth of the same pixels, 16 bit, mm, 0 = no reading
``<class>_<i>_<v>_<f>_maskcrop.png``               not 0 on the object
``<class>_<i>_<v>_<f>_loc.txt``                    ``x,y``: place of the crop's first pixel in the frame of 640 x 480,
                                                   counted from 1; optional
=================================================  ====================================================================

The source is the folder that holds ``rgbd-dataset``, or that folder. With ``_loc.txt`` a crop has a camera: focal
length 570.3 and centre (320, 240) of the frame, as the data set's own program assumes. Frames of an instance are
near-duplicates: the group of a crop is its instance.

The protocol has ten trials. In each, one instance of every class is for testing; ``testinstance_ids.txt`` of the
authors names them, below a line ``****** trial 1 ******`` and so on. It is customary to use every fifth frame, 41,877
in all, which are the frames of the smaller download ``rgbd-dataset_eval``.
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

import numpy.typing as npt

from mmcl_core.data.crops import Camera, CropRule
from mmcl_core.data.frames import mask_out, same_size
from mmcl_core.data.pictures import depth_millimetres, read_mask, read_rgb
from mmcl_core.data.sources import Plan, Skip, folders_in, place_in, show_folder, visible
from mmcl_core.data.writer import Sample
from mmcl_core.errors import ConfigError, DataError

__all__ = ["CLASSES", "DATA_SET", "Crop", "Washington", "read_trial"]

logger = logging.getLogger(__name__)

Array = npt.NDArray[Any]

_NAMES = """
apple ball banana bell_pepper binder bowl calculator camera cap cell_phone cereal_box coffee_mug comb
dry_battery flashlight food_bag food_box food_can food_cup food_jar garlic glue_stick greens hand_towel
instant_noodles keyboard kleenex lemon lightbulb lime marker mushroom notebook onion orange peach pear pitcher
plate pliers potato rubber_eraser scissors shampoo soda_can sponge stapler tomato toothbrush toothpaste
water_bottle
"""
CLASSES = tuple(_NAMES.split())
INSTANCES, EVERY_FIFTH = 300, 41_877
FOCAL, CENTRE = 570.3, (320.0, 240.0)
TRIALS = "testinstance_ids.txt"
_HELP = __doc__
_LAYOUT = "rgbd-dataset/<class>/<class>_<i>/<class>_<i>_<v>_<f>_crop.png with _depthcrop.png and _maskcrop.png"
_NAME = re.compile(r"(.+_\d+)_(\d+)_(\d+)_crop\.png")


@dataclass(frozen=True)
class Crop:
    """A task: a crop; its files begin with ``stem``, relative to the source."""

    key: str
    split: str
    label: int
    instance: str
    stem: str


@dataclass(frozen=True)
class Reader:
    """How the files of a crop are read."""

    source: Path
    rule: CropRule
    masked: bool


class Washington:
    """The layout of this module."""

    name = "washington"
    help = "Washington RGB-D Objects: 51 classes, ten trials that leave one instance of each out"
    description = _HELP
    examples = """\
  python -m mmcl_core.prepare washington --source rgbd-dataset --out data_sets/washington_1 --trial 1
  python -m mmcl_core.prepare washington --source rgbd-dataset --out data_sets/washington_1 --trial 1 --mask apply
  python -m mmcl_core.prepare washington --source rgbd-dataset --trial 1 --check"""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the options of this data set."""
        parser.add_argument(
            "--trial", type=int, default=1, metavar="1..10",
            help="which published trial makes train and test; 0: none, all is train (default: 1)",
        )  # fmt: skip
        parser.add_argument(
            "--trials", type=Path, metavar="FILE", help=f"{TRIALS} of the authors (default: in the source or beside it)"
        )
        parser.add_argument(
            "--every", type=int, default=5, metavar="N", help="take frames 1, 1 + N, 1 + 2 N, ... (default: 5)"
        )
        parser.add_argument(
            "--mask", choices=("ignore", "apply"), default="ignore",
            help="apply: what is not the object becomes black and no reading (default: ignore)",
        )  # fmt: skip

    def plan(self, source: Path, options: argparse.Namespace) -> Plan:
        """List the crops (see the data set protocol)."""
        if options.every < 1:
            raise ConfigError(f"--every is {options.every}; 1 or more is expected")
        root = _root(source)
        if not any((root / name).is_dir() for name in CLASSES):
            raise DataError(f"{source}: expected {_LAYOUT}; found {show_folder(root)}")
        held_out = read_trial(_find_trials(source, options.trials), options.trial) if options.trial else frozenset()
        skips: list[Skip] = []
        crops = sorted(_list_crops(source, options.every, held_out, skips), key=lambda crop: crop.key)
        if not crops:
            raise DataError(f"{source}: no crops; expected {_LAYOUT}; found {show_folder(root)}")
        published = _compare(crops, held_out, options.every)
        reader = Reader(source, CropRule(options.size), options.mask == "apply")
        return Plan(
            classes=CLASSES,
            modalities=("rgb", "depth"),
            tasks=crops,
            make=partial(make_samples, reader),
            total=len(crops),
            unit="crops",
            description={
                "made_by": "mmcl_core.prepare washington",
                "source": "Washington RGB-D Objects (Lai et al., ICRA 2011), for non-commercial research",
                "crop": reader.rule.describe(),
                "trial": options.trial,
                "every": options.every,
                "mask": options.mask,
            },
            published=published,
            skipped=skips,
        )


DATA_SET = Washington()


def make_samples(reader: Reader, crop: Crop) -> Iterator[Sample | Skip]:
    """The sample of a crop, or what is wrong with one of its files."""
    images: dict[str, Array] = {}
    ending = "_crop.png"
    try:
        images["rgb"] = read_rgb(Path(f"{reader.source / crop.stem}{ending}"))
        ending = "_depthcrop.png"
        images["depth"] = depth_millimetres(Path(f"{reader.source / crop.stem}{ending}"), 1.0)
        same_size(images["depth"], images["rgb"])
        if reader.masked:
            ending = "_maskcrop.png"
            mask = read_mask(Path(f"{reader.source / crop.stem}{ending}"))
            same_size(mask, images["rgb"])
            images = mask_out(images, mask)
    except DataError as error:
        yield Skip(crop.stem + ending, str(error))
        return
    camera = None
    try:
        camera = _read_camera(Path(f"{reader.source / crop.stem}_loc.txt"))
    except DataError as error:
        yield Skip(f"{crop.stem}_loc.txt", str(error))
    cut = reader.rule(images, camera)
    assert cut is not None, "a whole picture is never too small"
    yield Sample(cut[0], crop.label, crop.split, crop.key, crop.instance, f"{crop.stem}_crop.png", cut[1])


def read_trial(path: Path, trial: int) -> frozenset[str]:
    """Instances that a trial holds out, such as ``apple_4``.

    Args:
        path: ``testinstance_ids.txt``.
        trial: counted from 1.

    Raises:
        DataError: the file is missing, or has no such trial or none of its form.
    """
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}; expected {TRIALS} of the data set, or --trial 0") from error
    trials: dict[int, list[str]] = {}
    names: list[str] = []
    for line in filter(None, lines):
        if title := re.fullmatch(r"\W*trial\W*(\d+)\W*", line, re.IGNORECASE):
            names = trials.setdefault(int(title[1]), [])
        else:
            names.append(line)
    if trial not in trials:
        known = ", ".join(map(str, sorted(trials))) or "none"
        raise DataError(
            f"{path} has no trial {trial}; it has {known}; titles such as '****** trial 1 ******' are expected"
        )
    found = frozenset(trials[trial])
    wrong = sorted(name for name in found if name.rpartition("_")[0] not in CLASSES)
    if wrong or len({name.rpartition("_")[0] for name in found}) != len(found):
        what = f"{wrong[0]!r}, which is no <class>_<i>" if wrong else "several instances of a class"
        raise DataError(f"{path}: trial {trial} names {what}; one instance of every class is expected")
    return found


def _root(source: Path) -> Path:
    inner = [source / name for name in ("rgbd-dataset", "rgbd-dataset_eval") if (source / name).is_dir()]
    return inner[0] if inner else source


def _find_trials(source: Path, given: Path | None) -> Path:
    if given:
        return given
    near = [folder / TRIALS for folder in (_root(source), source, source.resolve().parent)]
    found = next((path for path in near if path.is_file()), None)
    if found is None:
        raise DataError(
            f"{source}: expected {TRIALS} in it or beside it; give --trials FILE, or --trial 0 for no split"
        )
    return found


def _list_crops(source: Path, every: int, held_out: frozenset[str], skips: list[Skip]) -> Iterator[Crop]:
    root = _root(source)
    for folder in folders_in(root):
        if folder.name not in CLASSES:
            skips.append(Skip(folder.name, f"is none of the {len(CLASSES)} classes"))
            continue
        label = CLASSES.index(folder.name)
        for inner in folders_in(folder):
            place = place_in(source, inner)
            split = "test" if inner.name in held_out else "train"
            for name in (path.name for path in visible(inner)):
                match = _NAME.fullmatch(name)
                if match and match[1] != inner.name:
                    skips.append(Skip(f"{place}/{name}", f"lies in the folder of another instance, {inner.name}"))
                elif match and (int(match[3]) - 1) % every == 0:
                    stem = name[: -len("_crop.png")]
                    yield Crop(f"{folder.name}/{inner.name}/{stem}", split, label, inner.name, f"{place}/{stem}")


def _compare(crops: list[Crop], held_out: frozenset[str], every: int) -> dict[str, tuple[int, int]]:
    """What is found and what the published set has; fails where a trial holds nothing out."""
    instances = {crop.instance for crop in crops}
    counts = {"classes": (len({crop.label for crop in crops}), len(CLASSES)), "instances": (len(instances), INSTANCES)}
    if every == 5:
        counts["every fifth crop"] = (len(crops), EVERY_FIFTH)
    absent = sorted(held_out - instances)
    if absent:
        logger.warning("%d of %d test instances are not there, such as %s", len(absent), len(held_out), absent[0])
    if held_out and not held_out & instances:
        raise DataError(f"no test instance of the trial is in the source: {', '.join(sorted(instances)[:5])} ... are")
    return counts


def _read_camera(path: Path) -> Camera | None:
    if not path.is_file():
        return None
    try:
        x, y = (float(text) for text in path.read_text(encoding="utf-8").replace(",", " ").split())
    except ValueError as error:
        raise DataError("is not of the form x,y; the camera of the crop stays unknown") from error
    return FOCAL, FOCAL, CENTRE[0] - x, CENTRE[1] - y
