"""Own RGB-D crops in folders: ``<split>/<class>/<key>_rgb.png`` and the like.

=============================  ========================================================================================
file                           meaning
=============================  ========================================================================================
``<key>_rgb.(png|jpg|jpeg)``   colour, 8 bit, 3 channels
``<key>_depth.png``            depth, 16 bit, 1 channel, in the unit of ``--depth-unit``, 0 = no reading
``<key>_mask.(png|jpg|jpeg)``  object mask, not 0 on the object, in a JPEG 128 or more; used with ``--mask apply``
``<key>.(png|jpg|jpeg)``       without a suffix of these: depth where it is a 16-bit PNG of 1 channel, colour otherwise
``cameras.csv``                in the source folder, optional: columns key (that of the files, or with its folders, as
                               ``<class>/<key>``), fx, fy, cx, cy in pixels of the colour file, of the depth file where
                               there is none
=============================  ========================================================================================

``_color`` and ``_colour`` mean ``_rgb``; suffixes may be in capitals. Either modality may be missing for a sample.
Pictures are read as a viewer shows them, a JPEG turned by its EXIF orientation; colour and depth may differ in size,
and are left out where they differ in proportions. The level of splits may be missing: ``<class>/<key>_rgb.png``. The
class folder ``unlabelled`` holds samples without a label.
"""

from __future__ import annotations

import argparse
import csv
import logging
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mmcl_core.crops import UNLABELLED
from mmcl_core.data.crops import Camera, CropRule
from mmcl_core.data.folder_names import (
    check_folder_names,
    class_folders,
    passed_over,
    refuse_inside,
    warn_of_halves,
    warn_of_strays,
    why_unread,
)
from mmcl_core.data.pictures import (
    STORED,
    alike,
    depth_millimetres,
    depth_scale,
    is_metric_png,
    is_picture,
    probe,
    read_mask,
    read_rgb,
)
from mmcl_core.data.shares import deal, group_pattern, parse_shares, warn_of_empty, warn_of_torn
from mmcl_core.data.sources import NOT_UTF8, Plan, Skip, given_options, place_in, printable, visible
from mmcl_core.data.splits import shuffled
from mmcl_core.data.twins import warn_of_twins
from mmcl_core.data.writer import Sample
from mmcl_core.errors import DataError
from mmcl_core.words import counted

__all__ = ["DATA_SET", "UNLABELLED_NAMES", "Folder"]

UNLABELLED_NAMES = (UNLABELLED, "unlabeled")
CAMERAS = "cameras.csv"
_PARTS = {"rgb": "rgb", "color": "rgb", "colour": "rgb", "depth": "depth", "mask": "mask"}
_GROUP = r"(.+)_\d+"
_HELP = __doc__

logger = logging.getLogger(__name__)


@dataclass
class Crop:
    """A task: the files of one sample, relative to the source."""

    key: str
    split: str
    label: int
    group: str
    files: dict[str, str] = field(default_factory=dict)
    camera: Camera | None = None


@dataclass(frozen=True)
class Reader:
    """How the files of a crop are read."""

    source: Path
    rule: CropRule
    scale: float | None
    masked: bool


class Folder:
    """The layout of this module."""

    name = "folder"
    help = "own crops: <split>/<class>/<key>_rgb.png with <key>_depth.png, either may be missing"
    description = _HELP
    examples = """\
  python -m mmcl_core.prepare folder --source my_crops --out data_sets/mine
  python -m mmcl_core.prepare folder --source my_crops --out data_sets/mine --depth-unit m/5000 --check
  python -m mmcl_core.prepare folder --source my_crops --out data_sets/mine --split train=0.8,val=0.1,test=0.1"""

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        """Add the options of this data set."""
        parser.add_argument(
            "--depth-unit", default="mm", metavar="UNIT",
            help="one step of the depth files: mm, 0.1mm, cm, m/5000, ...; "
            f"{STORED}: 8-bit pictures of 3 channels such as HHA, kept as they are (default: mm)",
        )  # fmt: skip
        parser.add_argument(
            "--mask", choices=("ignore", "apply"), default="ignore",
            help="apply: colour outside of the mask becomes black, depth no reading, and a sample without a mask is "
            "skipped (default: ignore)",
        )  # fmt: skip
        parser.add_argument(
            "--split", default="train", metavar="NAME|NAME=SHARE,...",
            help="for a source without the level of splits: one name for all (default: train), or shares, drawn for "
            "each class, such as train=0.8,val=0.1,test=0.1; the share of unlabelled samples goes the same way",
        )  # fmt: skip
        parser.add_argument(
            "--keep-groups", action="store_true",
            help="with shares: samples that share a group (frames of one scene) stay in one split, of whatever class",
        )  # fmt: skip
        parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the drawn split (default: 0)")
        parser.add_argument(
            "--group-pattern", default=_GROUP, metavar="REGEX",
            help="regular expression for the whole key (without folders); its first group names what near-duplicates "
            rf"share (default: {_GROUP}, that is the key without its last _number)",
        )  # fmt: skip

    def plan(self, source: Path, options: argparse.Namespace) -> Plan:
        """List the files, pair them, and give them labels, splits, groups and cameras (see the data set protocol)."""
        stored = options.depth_unit == STORED
        reader = Reader(
            source, CropRule(options.size), None if stored else depth_scale(options.depth_unit), options.mask == "apply"
        )
        pattern = group_pattern(options.group_pattern)
        shares = parse_shares(options.split)
        refuse_inside(source, options.out)
        found, has_splits = class_folders(source)
        skips = [Skip(place, NOT_UTF8) for folder in found if (place := place_in(source, folder)) != printable(place)]
        folders = [folder for folder in found if place_in(source, folder) == printable(place_in(source, folder))]
        if not folders:
            raise DataError(f"{source}: no class folder can be used; the first {skips[0].reason}: {skips[0].name}")
        classes = sorted({folder.name for folder in folders if folder.name.lower() not in UNLABELLED_NAMES})
        splits = sorted({folder.parent.name for folder in folders}) if has_splits else []
        check_folder_names(source, classes, splits, given_options(self, options, ("split", "keep_groups", "seed")))
        skips += passed_over(source, found, has_splits)
        crops = [crop for folder in folders for crop in _list_crops(source, folder, classes, pattern, stored, skips)]
        crops.sort(key=lambda crop: crop.key)
        warn_of_halves([crop.files for crop in crops])
        doubtful = warn_of_strays({crop.key: crop.files for crop in crops})
        if has_splits:
            for crop in crops:
                crop.split = crop.key.split("/", 1)[0]
        else:
            _draw_splits(crops, classes, shares, options.seed, options.keep_groups)
        _warn_of_shared(source, crops, len(splits or shares), drawn=not has_splits)
        _add_cameras(source / CAMERAS, crops)
        modalities = [name for name in ("rgb", "depth") if any(name in crop.files for crop in crops)]
        for name in modalities:
            _probe(reader, name, [source / crop.files[name] for crop in crops if name in crop.files])
        return Plan(
            classes=classes,
            modalities=modalities,
            tasks=crops,
            make=partial(make_sample, reader),
            total=len(crops),
            unit="crops",
            description=_description(source, options, reader, drawn=not has_splits),
            stored=["depth"] if stored and "depth" in modalities else [],
            skipped=skips,
            doubtful=doubtful,
        )


def _description(source: Path, options: argparse.Namespace, reader: Reader, drawn: bool) -> dict[str, Any]:
    """What the index says of how the set was made."""
    description = {
        "made_by": "mmcl_core.prepare folder",
        "source": source.resolve().name,
        "depth_unit": options.depth_unit,
        "mask": options.mask,
        "crop": reader.rule.describe(),
        "group_pattern": options.group_pattern,
    }
    own = ("split", "keep_groups", "seed") if drawn else ()
    return description | {name: getattr(options, name) for name in own}


DATA_SET = Folder()


def make_sample(reader: Reader, crop: Crop) -> Iterator[Sample | Skip]:
    """The sample of a crop, and a skip for each of its files that cannot be used."""
    images: dict[str, Any] = {}
    sizes: dict[str, tuple[int, int]] = {}
    camera: Camera | None = None
    mask = None
    if reader.masked:
        if "mask" not in crop.files:
            yield Skip(crop.key, "has no mask, and --mask apply needs one")
            return
        try:
            mask = read_mask(reader.source / crop.files["mask"])
        except DataError as error:
            yield Skip(crop.files["mask"], str(error))
            return
    for name in ("rgb", "depth"):
        if name not in crop.files:
            continue
        try:
            image = _read(reader.scale, name, reader.source / crop.files[name])
            if mask is not None:
                if mask.shape != image.shape[:2]:
                    raise DataError(f"is of size {image.shape[:2]}, its mask of {mask.shape}")
                image = np.where(mask if image.ndim == 2 else mask[..., None], image, 0).astype(image.dtype)
        except DataError as error:
            yield Skip(crop.files[name], str(error))
            continue
        sizes[name] = image.shape[:2]
        # It counts in pixels of the colour file where there is one, even if that cannot be read.
        cut = reader.rule({name: image}, None if name == "depth" and "rgb" in crop.files else crop.camera)
        assert cut is not None, "a whole picture is never too small"
        images |= cut[0]
        camera = camera or cut[1]
    if len(sizes) == 2 and not alike(*sizes.values()):
        (high, wide), (height, width) = sizes["rgb"], sizes["depth"]
        yield Skip(
            crop.files["depth"],
            f"is {width} x {height}, and {crop.files['rgb']} is {wide} x {high} as a viewer shows it: of other "
            "proportions, no pair; the sample is left out",
        )
    elif images:
        source = crop.files[next(iter(images))]
        yield Sample(images, crop.label, crop.split, crop.key, crop.group, source, camera)


def _read(scale: float | None, name: str, path: Path) -> Any:
    return read_rgb(path) if name == "rgb" or scale is None else depth_millimetres(path, scale)


def _probe(reader: Reader, name: str, files: list[Path]) -> None:
    hint = f" (--depth-unit {STORED} takes 8-bit pictures of 3 channels)" if name == "depth" else ""
    probe(files, partial(_read, reader.scale, name), name, hint)


def _list_crops(
    source: Path, folder: Path, classes: list[str], pattern: re.Pattern[str], stored: bool, skips: list[Skip]
) -> Iterator[Crop]:
    label = -1 if folder.name.lower() in UNLABELLED_NAMES else classes.index(folder.name)
    crops: dict[str, Crop] = {}
    names = []
    for path in visible(folder):
        if is_picture(path):
            names.append(path)
        elif reason := why_unread(path):
            skips.append(Skip(place_in(source, path), reason))
    # Where two files claim a place, the one with a suffix wins, then the one without loss.
    names.sort(key=lambda path: (path.stem.rpartition("_")[2].lower() not in _PARTS, path.suffix.lower() != ".png"))
    for path in names:
        stem, _, suffix = path.stem.rpartition("_")
        part = _PARTS.get(suffix.lower(), "") if stem else ""
        if not part:
            stem, part = path.stem, "depth" if not stored and is_metric_png(path) else "rgb"
        match = pattern.fullmatch(stem)
        group = (match[1] if match.re.groups else match[0]) or "" if match else ""
        key = (folder.relative_to(source) / stem).as_posix()
        crop = crops.setdefault(stem, Crop(key, "", label, group))
        file = place_in(source, path)
        if part in crop.files:
            skips.append(Skip(file, f"is a second {part} picture of {key}, beside {crop.files[part]}"))
        else:
            crop.files[part] = file
    for crop in crops.values():
        if set(crop.files) == {"mask"}:
            skips.append(Skip(crop.files["mask"], "is a mask without a picture"))
        else:
            yield crop


def _draw_splits(crops: list[Crop], classes: list[str], shares: dict[str, float], seed: int, keep_groups: bool) -> None:
    """Give each split its share of every class: of single samples class by class, or of groups, which may share one."""
    members: dict[str, list[Crop]] = {}
    for crop in crops:
        members.setdefault(crop.group if keep_groups and crop.group else f"/{crop.key}", []).append(crop)
    units = list(members.values())
    labels = [[crop.label for crop in unit] for unit in units]
    drawn = [""] * len(units)
    if keep_groups:
        drawn = deal(labels, len(classes), shares, shuffled(len(units), seed, 0).tolist())
    else:
        parts: dict[int, list[int]] = {label: [] for label in (*range(len(classes)), -1)}
        for place, (label,) in enumerate(labels):
            parts[label].append(place)
        for number, part in enumerate(parts.values(), 1):
            order = shuffled(len(part), seed, number % len(parts)).tolist()
            for place, split in zip(part, deal([[0]] * len(part), 1, shares, order), strict=True):
                drawn[place] = split
    for unit, split in zip(units, drawn, strict=True):
        for crop in unit:
            crop.split = split
    warn_of_empty(shares, drawn, labels, classes, "groups" if keep_groups else "samples")
    alone = [crop.key for crop in crops if not crop.group]
    if keep_groups and len(shares) > 1 and 2 * len(alone) > len(crops):
        logger.warning(
            "--keep-groups: %d of %d keys name no group, such as %s, and are drawn one by one; give a --group-pattern "
            "whose first group is what near-duplicates share in their keys", len(alone), len(crops), alone[0],
        )  # fmt: skip


def _warn_of_shared(source: Path, crops: list[Crop], splits: int, drawn: bool) -> None:
    """Warn of groups and of pictures that are in several of so many splits."""
    warn_of_torn([(crop.group or crop.key, crop.split, crop.label) for crop in crops], splits, drawn)
    warn_of_twins(source, ((crop.files.get("rgb") or crop.files["depth"], crop.split) for crop in crops))


def _add_cameras(path: Path, crops: list[Crop]) -> None:
    inner = sorted({place for crop in crops for place in (Path(crop.key).parent, Path(crop.key).parent.parent)})
    for stray in (path.parent / place / CAMERAS for place in inner if place != Path()):
        if stray.is_file():
            logger.warning("%s is not read; the cameras of all crops are expected in %s", stray, path)
    if not path.is_file():
        return
    try:
        cameras = _cameras(path, path.read_text(encoding="utf-8-sig").splitlines())
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text ({error}); save it as CSV in UTF-8") from error
    except csv.Error as error:
        raise DataError(f"{path}: no CSV ({error}); is a quotation mark left open?") from error
    used: set[str] = set()
    for crop in crops:
        name = crop.key if crop.key in cameras else crop.key.rpartition("/")[2]
        crop.camera = cameras.get(name)
        used.add(name)
    if unused := [name for name in cameras if name not in used]:
        keys = counted(len(cameras), "key", "names", "name")
        logger.warning("%s: %d of %s no crop, such as %s", path, len(unused), keys, unused[0])


def _cameras(path: Path, lines: list[str]) -> dict[str, Camera]:
    table = csv.DictReader(lines, skipinitialspace=True, strict=True)
    columns = ("key", "fx", "fy", "cx", "cy")
    if not set(columns) <= set(table.fieldnames or ()):
        raise DataError(f"{path}: columns {', '.join(columns)} expected, found {', '.join(table.fieldnames or ())}")
    cameras: dict[str, Camera] = {}
    for row in table:
        number = table.line_num
        try:
            fx, fy, cx, cy = (float(row[name]) for name in columns[1:])
        except (TypeError, ValueError):
            fx = fy = cx = cy = math.nan
        if None in row:
            raise DataError(f"{path}, line {number}: more values than columns; decimal commas?")
        if not (math.isfinite(fx + fy + cx + cy) and fx > 0 and fy > 0):
            raise DataError(f"{path}, line {number}: finite fx, fy, cx, cy expected, fx and fy > 0; found {dict(row)}")
        camera = (fx, fy, cx, cy)
        if cameras.setdefault(row["key"], camera) != camera:
            raise DataError(
                f"{path}, line {number}: {row['key']} has another camera in a line above; keep one of them, or name "
                "crops of several folders as <class>/<key>"
            )
    return cameras
