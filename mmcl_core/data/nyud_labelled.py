"""Crops of the 19 classes of NYU-D from the labelled file of NYU Depth V2 itself.

``nyu_depth_v2_labeled.mat`` (MATLAB v7.3, 2.8 GB, 1,449 frames of 640 x 480) holds these arrays, whose axes h5py shows
in the reverse order of MATLAB's:

=============  ====================  ==================================================================================
name           type and shape        meaning
=============  ====================  ==================================================================================
``images``     uint8 [N, 3, W, H]    colour, undistorted, with a white frame of about 8 pixels
``rawDepths``  float [N, W, H]       z in metres aligned with colour, 0 = no reading
``depths``     float [N, W, H]       the same, holes filled
``labels``     uint16 [N, W, H]      row in ``names`` counted from 1, 0 = unlabelled
``instances``  uint8 [N, W, H]       tells objects of one class in a frame apart
``names``      references [1, 894]   names of the classes, each a row of character codes
``scenes``     references [1, N]     room that the frame was taken in, such as ``kitchen_0004``
=============  ====================  ==================================================================================

A crop is cut around the pixels of one (class, instance); only names that are one of the 19 count (see
:func:`mmcl_core.data.rooms.class_of`), such as ``garbage bin``. The crops of Tzeng et al. were cut by an unpublished
rule, so the numbers are not theirs. The official split, ``splits.mat`` (``trainNdxs``, ``testNdxs`` from 1), is
used where it is given or lies beside the file; otherwise whole rooms are drawn for testing, 45 % of the frames, always
the same. Colour camera as published: fx 518.858, fy 519.470, cx 325.582, cy 253.736. The group of a crop is
its room. Needs h5py, and scipy for ``splits.mat``.
"""

from __future__ import annotations

import argparse
import functools
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmcl_core.data.crops import CropRule
from mmcl_core.data.frames import visible_box
from mmcl_core.data.hha import hha
from mmcl_core.data.rooms import CLASSES, class_of
from mmcl_core.data.shares import draw_test_groups
from mmcl_core.data.sources import Plan, Skip, optional_import
from mmcl_core.data.writer import Sample
from mmcl_core.errors import ConfigError, DataError

__all__ = ["CAMERA", "FILE", "LabelledFrame", "plan_labelled"]

logger = logging.getLogger(__name__)

FILE = "nyu_depth_v2_labeled.mat"
CAMERA = (518.857901, 519.469611, 325.582449, 253.736166)
#: Frames of the file, columns of each, and the share of them that the official split tests on.
FRAMES, WIDTH, TEST_SHARE = 1449, 640, 654 / 1449
_ARRAYS = {"images": 4, "rawDepths": 3, "depths": 3, "labels": 3, "instances": 3}
_KINDS = {"images": "u1", "rawDepths": "f", "depths": "f", "labels": "u", "instances": "u"}


@dataclass(frozen=True)
class LabelledFrame:
    """A task: a frame of the file, ``index`` counted from 0."""

    key: str
    index: int
    split: str
    scene: str


@dataclass(frozen=True)
class Reader:
    """How frames become crops; ``labels`` maps numbers in the file to rows of the classes."""

    file: Path
    rule: CropRule
    min_pixels: int
    metric: bool
    labels: dict[int, int]


def plan_labelled(file: Path, rule: CropRule, options: argparse.Namespace) -> Plan:
    """The frames of a labelled file as work.

    Args:
        file: ``nyu_depth_v2_labeled.mat``.
        rule: how crops are cut.
        options: with ``splits``, ``depth`` and ``min_pixels``, see ``prepare nyud --help``.

    Raises:
        DataError: not that file, or a split that does not fit it.
        ConfigError: h5py or scipy is not installed.
    """
    names, scenes, width = _read_names(file)
    labels = {row + 1: CLASSES.index(name) for row, name in enumerate(map(class_of, names)) if name}
    missing = set(CLASSES) - {CLASSES[label] for label in labels.values()}
    if missing:
        raise DataError(f"{file}: names has no {', '.join(sorted(missing))}; is it the file of NYU Depth V2?")
    splits, how = _read_splits(file, scenes, options.splits)
    frames = [LabelledFrame(f"{i + 1:04d}", i, splits[i], scene) for i, scene in enumerate(scenes) if i in splits]
    metric = options.depth == "metric"
    return Plan(
        classes=CLASSES,
        modalities=("rgb", "depth"),
        tasks=frames,
        make=functools.partial(make_samples, Reader(file, rule, options.min_pixels, metric, labels)),
        total=len(frames),
        description={
            "made_by": "mmcl_core.prepare nyud",
            "source": "NYU Depth V2, labelled frames (Silberman et al., ECCV 2012)",
            "crop": rule.describe(),
            "boxes": f"labelled pixels of an instance, {options.min_pixels} or more",
            "depth": "raw, mm" if metric else "HHA of the filled depth: disparity, height, angle",
            "split": how,
        },
        stored=() if metric else ("depth",),
        published={"frames": (len(scenes), FRAMES), "columns of a picture": (width, WIDTH)},
    )


def make_samples(reader: Reader, frame: LabelledFrame) -> Iterator[Sample | Skip]:
    """The crops of a frame, or why it cannot be read."""
    try:
        data = {name: _open(reader.file)[name][frame.index] for name in _ARRAYS}
    except OSError as error:  # what HDF5 raises for a damaged part
        yield Skip(f"{reader.file.name}: frame {frame.key}", f"cannot be read: {error}")
        return
    labels, instances = data["labels"].T.astype(np.int64), data["instances"].T.astype(np.int64)
    images = {"rgb": np.ascontiguousarray(data["images"].transpose(2, 1, 0))}
    raw = data["rawDepths"].T
    known = np.isfinite(raw) & (raw > 0) & (raw < 65.5355)
    if reader.metric:
        images["depth"] = np.where(known, np.floor(np.where(known, raw, 0) * 1000.0 + 0.5), 0).astype(np.uint16)
    else:
        images["depth"] = hha(data["depths"].T * 1000.0, CAMERA, ~known)
    numbers = labels * 1000 + instances
    found, places, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    places = places.reshape(labels.shape)
    for place, (number, count) in enumerate(zip(found.tolist(), counts.tolist(), strict=True)):
        label = reader.labels.get(number // 1000)
        if label is None or count < reader.min_pixels:
            continue
        cut = reader.rule(images, CAMERA, visible_box(places == place))
        if cut is not None:
            key = f"{frame.key}/{number // 1000:04d}-{number % 1000:03d}-{CLASSES[label]}"
            yield Sample(cut[0], label, frame.split, key, frame.scene, f"{reader.file.name}: frame {frame.key}", cut[1])


@functools.lru_cache(maxsize=2)
def _open(file: Path) -> Any:
    """The file, opened once in each process."""
    return optional_import("h5py", f"reading {FILE}").File(file, "r")


def _read_names(file: Path) -> tuple[list[str], list[str], int]:
    """Names of the labels, scene of each frame, and width of the pictures, after a look at the shapes."""
    h5py = optional_import("h5py", f"reading {FILE}")
    try:
        with h5py.File(file, "r") as data:
            gone = [n for n in (*_ARRAYS, "names", "scenes") if not isinstance(data.get(n), h5py.Dataset)]
            if gone:
                raise DataError(f"{file}: has no {', '.join(gone)}; expected {FILE}, found {', '.join(sorted(data))}")
            names, scenes = _texts(data, "names"), _texts(data, "scenes")
            size = data["labels"].shape[1:]
            for name, axes in _ARRAYS.items():
                shape, kind = data[name].shape, data[name].dtype
                good = len(shape) == axes and shape[0] == len(scenes) and shape[-2:] == size
                if not good or not np.dtype(kind).str[1:].startswith(_KINDS[name]):
                    raise DataError(
                        f"{file}: {name} is {kind} of shape {shape}; {len(scenes)} frames of {size} expected"
                    )
    except OSError as error:
        raise DataError(f"{file} is not a readable MATLAB v7.3 file: {error}") from error
    return names, scenes, size[0]


def _texts(data: Any, name: str) -> list[str]:
    try:
        return ["".join(map(chr, np.ravel(data[reference]))) for reference in np.ravel(data[name])]
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise DataError(f"{data.filename}: {name} is no list of texts ({error}); expected {FILE}") from error


def _read_splits(file: Path, scenes: list[str], given: Path | None) -> tuple[dict[int, str], str]:
    """Split by frame, and how it came about."""
    path = given or file.with_name("splits.mat")
    if not path.is_file():
        if given:
            raise DataError(f"--splits {given}: no such file; expected splits.mat of NYU Depth V2")
        logger.warning(
            "no splits.mat beside %s: rooms are drawn for testing, not comparable with published numbers", file
        )
        test = draw_test_groups(scenes, TEST_SHARE)
        return {i: "test" if scene in test else "train" for i, scene in enumerate(scenes)}, "drawn by room"
    splits: dict[int, str] = {}
    try:
        content = optional_import("scipy.io", "reading splits.mat").loadmat(path)
        for name, split in (("trainNdxs", "train"), ("testNdxs", "test")):
            splits |= dict.fromkeys((np.ravel(content[name]).astype(int) - 1).tolist(), split)
    except ConfigError:
        raise
    except Exception as error:  # an empty file raises a kind of its own
        raise DataError(f"{path} is no MATLAB file with trainNdxs and testNdxs: {error!r}") from error
    if not splits or min(splits) < 0 or max(splits) >= len(scenes):
        raise DataError(
            f"{path} names frames from {min(splits, default=0) + 1} to {max(splits, default=0) + 1} of {len(scenes)}"
        )
    return splits, "official (splits.mat)"
