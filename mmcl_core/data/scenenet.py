"""SceneNet RGB-D: 5 million rendered frames of furnished rooms; crops of 16 classes of furniture and room objects.

Source: J. McCormac, A. Handa, S. Leutenegger, A. J. Davison, "SceneNet RGB-D: Can 5M Synthetic Images Beat Generic
ImageNet Pre-training on Indoor Segmentation?", ICCV 2017; https://robotvault.bitbucket.io/scenenet-rgbd.html. Licence:
GPL, see that page.

=============================================  ========================================================================
file                                           meaning
=============================================  ========================================================================
``<split>/<n>/<trajectory>/photo/<f>.jpg``     colour, 320 x 240; the frames of a trajectory are 0, 25, ..., 7475
``<split>/<n>/<trajectory>/depth/<f>.png``     16 bit, mm, 0 = nothing; length of the ray, not z
``<split>/<n>/<trajectory>/instance/<f>.png``  16 bit, number of the object in its trajectory
``scenenet_rgbd_<split>*.pb``                  protobuf of trajectories: ``render_path`` (``<n>/<trajectory>``),
                                               ``views``, ``instances`` with the WordNet number of each object; in the
                                               source, in a folder of it such as ``train_protobufs``, or beside it
=============================================  ========================================================================

The source is the folder that holds ``train`` or ``val``. The camera is the same for all frames: 320 x 240, 60 degrees
across and 45 down, so fx 277.1, fy 289.7. Ray lengths become z, ``z = r / sqrt(1 + x^2 + y^2)`` with x, y of the ray at
z = 1; ``--depth hha`` stores HHA of the whole frame instead (:mod:`mmcl_core.data.hha`).

A crop is cut around the visible pixels of an object (``--min-pixels``, ``--min-side``, ``--margin``, ``--context``).
The classes are those of NYU-D without box, night-stand and sink; which WordNet numbers are theirs stands in
:mod:`mmcl_core.data.scenenet_trajectories`. The group of a crop is its trajectory.

The paper kept 202,747 + 33,574 crops by an unpublished rule. Here frames are taken in the order of their number, the
first of every trajectory before the second of any, and reading ends as soon as ``--max-samples`` (by default the
numbers of the paper) are found, so that they come from as many rooms as possible. ``--every-frame`` sets the distance
of frames, ``--max-per-class`` bounds every class. ``--check`` knows no such bounds. Each shard of a job takes its part
of a bound.
"""

from __future__ import annotations

import argparse
import functools
import logging
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mmcl_core.data.crops import Camera, CropRule
from mmcl_core.data.frames import add_crop_arguments, crop_rule, same_size, visible_box
from mmcl_core.data.hha import hha
from mmcl_core.data.pictures import depth_millimetres, read_picture, read_rgb
from mmcl_core.data.scenenet_trajectories import CLASSES, Trajectory, messages, read_trajectories
from mmcl_core.data.shares import parse_shard
from mmcl_core.data.sources import Plan, Skip, folders_in, show_folder
from mmcl_core.data.writer import Sample
from mmcl_core.errors import ConfigError, DataError

__all__ = ["CLASSES", "DATA_SET", "Frame", "Quota", "SceneNet", "ray_to_z", "rendered_camera"]

logger = logging.getLogger(__name__)

Array = npt.NDArray[Any]

SPLITS = ("train", "val", "test")
PAPER = "train=202747,val=33574"
FIELD_OF_VIEW = (60.0, 45.0)
_HELP = __doc__
_LAYOUT = "train/ or val/ with <n>/<trajectory>/{photo,depth,instance}/, and scenenet_rgbd_<split>*.pb"


@dataclass(frozen=True)
class Frame:
    """A task: a frame of a trajectory; ``folder`` is that of its trajectory, relative to the source."""

    key: str
    split: str
    folder: str
    number: int
    labels: Mapping[int, int]


@dataclass(frozen=True)
class Reader:
    """How frames become crops."""

    source: Path
    rule: CropRule
    min_pixels: int
    metric: bool


class Quota:
    """Takes samples until a split has enough of them, each class until it has enough in that split.

    Args:
        samples, per_class: bounds by split; a split that is missing has none.
    """

    def __init__(self, samples: Mapping[str, int], per_class: Mapping[str, int]) -> None:
        self._samples, self._per_class = samples, per_class
        self._counts: dict[str, Counter[int]] = {split: Counter() for split in SPLITS}

    def full(self, split: str) -> bool:
        """Whether a split takes nothing more."""
        counts, most = self._counts[split], self._per_class.get(split, math.inf)
        if counts.total() >= self._samples.get(split, math.inf):
            return True
        return len(counts) == len(CLASSES) and min(counts.values()) >= most

    def __call__(self, result: Sample | Skip) -> bool:
        """Whether a result is kept, which counts it; skips are kept as long as their split is not full."""
        split = result.split if isinstance(result, Sample) else result.name.partition("/")[0]
        if split in self._counts and self.full(split):
            return False
        if isinstance(result, Sample):
            if self._counts[split][result.label] >= self._per_class.get(split, math.inf):
                return False
            self._counts[split][result.label] += 1
        return True


class SceneNet:
    """The layout of this module."""

    name = "scenenet"
    help = "SceneNet RGB-D: objects of 16 classes in rendered rooms"
    description = _HELP
    examples = """\
  python -m mmcl_core.prepare scenenet --source SceneNetRGBD --size 256 --out data_sets/scenenet --depth hha
  python -m mmcl_core.prepare scenenet --source SceneNetRGBD --out data_sets/part0 --max-per-class 20000 --shard 0/8
  python -m mmcl_core.prepare scenenet --source SceneNetRGBD --splits val --check --every-frame 100"""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the options of this data set."""
        parser.add_argument(
            "--splits", nargs="+", choices=SPLITS, help="splits to read (default: those that are there)"
        )
        parser.add_argument(
            "--protobufs", nargs="+", type=Path, metavar="FILE", help="files of trajectories (default: see above)"
        )
        parser.add_argument(
            "--depth", choices=("metric", "hha"), default="metric", help="what to store (default: metric, z in mm)"
        )
        parser.add_argument(
            "--every-frame", type=int, default=10, metavar="N",
            help="take views 1, 1 + N, 1 + 2 N, ... of 300 of a trajectory (default: 10)",
        )  # fmt: skip
        for name, default, what in (("samples", PAPER, ""), ("per-class", "0", " of a class")):
            parser.add_argument(
                f"--max-{name}", default=default, metavar="N|SPLIT=N,...",
                help=f"at most so many crops{what} in a split, 0 = no bound (default: {default})",
            )  # fmt: skip
        parser.add_argument(
            "--min-pixels", type=int, default=400, metavar="N",
            help="objects with fewer visible pixels are left out (default: 400)",
        )  # fmt: skip
        add_crop_arguments(parser, min_side=24)

    def plan(self, source: Path, options: argparse.Namespace) -> Plan:
        """Read the trajectories (see the data set protocol)."""
        messages()
        if options.every_frame < 1:
            raise ConfigError(f"--every-frame is {options.every_frame}; 1 or more is expected")
        metric = options.depth == "metric"
        reader = Reader(source, crop_rule(options), options.min_pixels, metric)
        most = parse_bounds("--max-samples", options.max_samples)
        per_class = parse_bounds("--max-per-class", options.max_per_class)
        part = parse_shard(options.shard)
        quota = Quota({}, {}) if options.check else Quota(_share(most, part), _share(per_class, part))
        skips: list[Skip] = []
        published: dict[str, tuple[int, int]] = {}
        splits = _find_splits(source, options.splits)
        given = {split: _protobufs(source, split, options.protobufs, len(splits) == 1) for split in splits}
        found = {split: _find_trajectories(source, split, files, skips, published) for split, files in given.items()}
        total = sum(len(one.frames[:: options.every_frame]) for some in found.values() for one in some)
        if not total:
            first = f"; the first fault: {skips[0].name}: {skips[0].reason}" if skips else ""
            raise DataError(f"{source}: no trajectory is in a protobuf file and in a folder{first}")
        return Plan(
            classes=CLASSES,
            modalities=("rgb", "depth"),
            tasks=_list_frames(found, options.every_frame),
            make=functools.partial(make_samples, reader),
            total=total,
            description={
                "made_by": "mmcl_core.prepare scenenet",
                "source": "SceneNet RGB-D (McCormac et al., ICCV 2017)",
                "crop": reader.rule.describe(),
                "boxes": f"visible pixels, {reader.min_pixels} or more",
                "depth": "z from ray lengths, mm" if metric else "HHA of the frame: disparity, height, angle",
                "every_frame": options.every_frame,
                "max_samples": most,
                "max_per_class": per_class,
            },
            stored=() if metric else ("depth",),
            published=published,
            skipped=skips,
            keep=quota,
            wanted=lambda frame: not quota.full(frame.split),
        )


DATA_SET = SceneNet()


def make_samples(reader: Reader, frame: Frame) -> Iterator[Sample | Skip]:
    """The crops of a frame, or what is wrong with one of its files."""
    part = f"instance/{frame.number}.png"
    images: dict[str, Array] = {}
    try:
        numbers = read_picture(reader.source / frame.folder / part)
        if numbers.ndim != 2:
            raise DataError(f"is of shape {numbers.shape}; 1 channel is expected")
        counts = np.bincount(numbers.ravel())
        seen = [i for i in sorted(frame.labels) if 0 <= i < len(counts) and counts[i] >= max(reader.min_pixels, 1)]
        if seen:
            part = f"photo/{frame.number}.jpg"
            images["rgb"] = read_rgb(reader.source / frame.folder / part)
            part = f"instance/{frame.number}.png"
            same_size(numbers, images["rgb"])
            part = f"depth/{frame.number}.png"
            depth = depth_millimetres(reader.source / frame.folder / part, 1.0)
            same_size(depth, images["rgb"])
    except DataError as error:
        yield Skip(f"{frame.folder}/{part}", str(error))
        return
    if not seen:
        return
    height, width = numbers.shape
    camera = rendered_camera(height=height, width=width)
    depth = ray_to_z(depth)
    images["depth"] = depth if reader.metric else hha(depth, camera)
    for i in seen:
        cut = reader.rule(images, camera, visible_box(numbers == i))
        if cut is not None:
            label = frame.labels[i]
            key = f"{frame.key}/{i:04d}-{CLASSES[label]}"
            source = f"{frame.folder}/photo/{frame.number}.jpg"
            yield Sample(cut[0], label, frame.split, key, frame.folder, source, cut[1])


def rendered_camera(*, height: int, width: int) -> Camera:
    """fx, fy, cx, cy of the pictures, pixel centres at integers."""
    across, down = (math.tan(math.radians(angle) / 2) for angle in FIELD_OF_VIEW)
    return width / 2 / across, height / 2 / down, (width - 1) / 2, (height - 1) / 2


def ray_to_z(lengths: Array) -> Array:
    """uint16 [H, W], z in mm of lengths of rays in mm."""
    return np.floor(lengths * _cosines(*lengths.shape) + 0.5).astype(np.uint16)


@functools.lru_cache(maxsize=4)
def _cosines(height: int, width: int) -> Array:
    """z of a ray of length 1 through each pixel."""
    fx, fy, cx, cy = rendered_camera(height=height, width=width)
    x, y = (np.arange(width) - cx) / fx, (np.arange(height) - cy) / fy
    return 1 / np.sqrt(1 + x**2 + y[:, None] ** 2)


def parse_bounds(option: str, text: str) -> dict[str, int]:
    """``1000`` or ``train=1000,val=200`` as bounds by split; a bound of 0 is none.

    Raises:
        ConfigError: not of this form.
    """
    pairs = [part.partition("=") for part in text.split(",")]
    if len(pairs) == 1 and not pairs[0][1]:
        pairs = [(split, "=", text) for split in SPLITS]
    if not all(split.strip() in SPLITS and number.strip().isdecimal() for split, _, number in pairs):
        raise ConfigError(f"{option} {text!r}: a number, or <split>=number,... with {', '.join(SPLITS)}, is expected")
    return {split.strip(): int(number) for split, _, number in pairs if int(number)}


def _share(bounds: Mapping[str, int], part: Sequence[int]) -> dict[str, int]:
    """The part of bounds that shard i of n takes."""
    i, n = part
    return {split: bound // n + (i < bound % n) for split, bound in bounds.items()}


def _find_splits(source: Path, asked: Sequence[str] | None) -> list[str]:
    found = [split for split in SPLITS if (source / split).is_dir()]
    missing = set(asked or found) - set(found)
    if missing or not found:
        what = f"no {', '.join(sorted(missing))}; " if missing else ""
        raise DataError(f"{source}: {what}expected {_LAYOUT}; found {show_folder(source)}")
    return [split for split in found if not asked or split in asked]


def _protobufs(source: Path, split: str, given: Sequence[Path] | None, alone: bool) -> list[Path]:
    """The protobuf files of a split; where it is read alone, a single file whose name says nothing may be given."""
    start = f"scenenet_rgbd_{split}"
    near = [source, source.resolve().parent, *folders_in(source)]
    files = [file for folder in near for file in sorted(folder.glob(f"{start}*.pb"))]
    if given is not None:
        files = [file for file in given if file.name.startswith(start)]
        if alone and len(given) == 1 and not given[0].name.startswith("scenenet_rgbd_"):
            files = list(given)
    if not files:
        raise DataError(f"{source}: no trajectories of {split}/; expected {start}*.pb; give --protobufs")
    return files


def _find_trajectories(
    source: Path, split: str, files: Sequence[Path], skips: list[Skip], published: dict[str, tuple[int, int]]
) -> list[Trajectory]:
    """The trajectories of a split that are on disk and have objects of the classes, in the order of their keys.

    ``published`` is told how many are on disk and how many the protobuf files name.
    """
    found: dict[str, Trajectory] = {}
    gone = Counter[str]()
    named: set[str] = set()
    there = 0
    for file in files:
        try:
            for one in read_trajectories(file):
                if one.path in named:  # the file is there twice
                    continue
                top, _, _ = one.path.partition("/")
                named.add(one.path)
                if (source / split / one.path).is_dir():
                    there += 1
                    if one.labels:
                        found.setdefault(_padded(one.path), one)
                elif (source / split / top).is_dir():
                    skips.append(Skip(f"{split}/{one.path}", "no such folder; it is a trajectory of the protobuf file"))
                else:
                    gone[top] += 1
        except DataError as error:
            skips.append(Skip(file.name, str(error)))
    for top, count in sorted(gone.items()):
        logger.warning("%s/%s is not there; trajectories of it in the protobuf files: %d", split, top, count)
    published[f"trajectories of {split}"] = (there, len(named))
    return [found[key] for key in sorted(found)]


def _padded(path: str) -> str:
    return "/".join(part.zfill(5) for part in path.split("/"))


def _list_frames(found: Mapping[str, list[Trajectory]], every: int) -> Iterator[Frame]:
    """Frames of each split in the order of their number."""
    for split, trajectories in sorted(found.items()):
        frames = [one.frames[::every] for one in trajectories]
        numbers = np.concatenate([np.zeros(0, np.int32), *frames])
        owners = np.repeat(np.arange(len(frames), dtype=np.int32), [len(some) for some in frames])
        for place in np.argsort(numbers, kind="stable"):
            one, number = trajectories[owners[place]], int(numbers[place])
            key = f"{split}/{number:06d}/{_padded(one.path)}"
            yield Frame(key, split, f"{split}/{one.path}", number, one.labels)
