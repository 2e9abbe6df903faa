"""The folders of own crops: which hold classes, what is passed over, and names that tell of another layout."""

from __future__ import annotations

import logging
import os.path
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath

from mmcl_core.data.class_names import warn_of_like_names, warn_of_unknown
from mmcl_core.data.pictures import is_picture
from mmcl_core.data.sources import Skip, folders_in, place_in, show_folder, visible
from mmcl_core.errors import ConfigError, DataError
from mmcl_core.words import counted

__all__ = [
    "check_folder_names",
    "class_folders",
    "passed_over",
    "refuse_inside",
    "warn_of_halves",
    "warn_of_strays",
    "why_unread",
]

#: What a user may take for a picture that is read.
_OTHER_PICTURES = (
    *(".heic", ".heif", ".avif", ".webp", ".gif", ".bmp", ".jp2", ".tif", ".tiff", ".dng"),
    *(".exr", ".pfm", ".pgm", ".ppm", ".npy", ".npz"),
)
#: JPEG files, too, by endings that are not read.
_OTHER_JPEGS = (".jfif", ".jpe")
_LAYOUT = "<split>/<class>/<key>_rgb.png with <key>_depth.png, or the same without <split>/"
_COLOUR = frozenset({"rgb", "color", "colour"})
#: Words in the name of a picture that say that it is no colour picture.
_OTHER_KINDS = frozenset({"depth", "ir", "infrared", "seg", "mask", "label", "vis"})
#: Words of which the name of some split has one.
_SPLITS = frozenset({"train", "training", "trainval", "val", "valid", "validation", "test", "testing", "dev", "eval"})

logger = logging.getLogger(__name__)


def check_folder_names(source: Path, classes: Sequence[str], splits: Sequence[str], drawing: Sequence[str]) -> None:
    """Refuse modalities where splits or classes are expected, and warn of names that are probably one.

    Args:
        source: the folder.
        classes: names of the class folders.
        splits: names of the folders of splits; empty without that level.
        drawing: options such as ``--split`` that were given and tell how to draw splits.

    Raises:
        DataError: folders such as ``rgb`` and ``depth``, by which the two pictures of a sample would not be paired.
    """
    for level, names in (("splits", splits), ("classes", classes)):
        lower = {name.lower(): name for name in names}
        colour = _COLOUR & lower.keys()
        if colour and "depth" in lower:
            raise DataError(
                f"{source}: {lower[min(colour)]} and {lower['depth']} would be read as {level}; put both pictures of a "
                "sample in the folder of its class, as <key>_rgb.png and <key>_depth.png"
            )
    warn_of_unknown(classes)
    warn_of_like_names(classes)
    if splits and not any(_SPLITS & set(re.split("[^a-z]+", name.lower())) for name in splits):
        logger.warning(
            "%s: %s are read as splits, and the folders in them (%s) as classes; where the outer ones are classes, put "
            "their pictures right into them, as <class>/<key>_rgb.png: that is the layout without splits",
            source, _few(splits), _few(classes),
        )  # fmt: skip
    if splits and drawing:
        logger.warning("%s: not used, as the source has splits, %s", ", ".join(drawing), ", ".join(splits))


def refuse_inside(source: Path, out: Path | None) -> None:
    """Refuse to write a set where its pictures are read from.

    Raises:
        ConfigError: ``out`` is the folder ``source`` or lies in it.
    """
    if out is not None and out.resolve().is_relative_to(source.resolve()):
        raise ConfigError(
            f"--out {out} lies in --source {source}, where it would be read as a class next time; name a folder beside "
            "it"
        )


def warn_of_halves(samples: Sequence[Mapping[str, str]]) -> None:
    """Warn where there is colour and depth, and hardly a sample that has both.

    Args:
        samples: their files by modality.
    """
    alone = {name: [files[name] for files in samples if name in files and other not in files]
             for name, other in (("rgb", "depth"), ("depth", "rgb"))}  # fmt: skip
    pairs = sum("rgb" in files and "depth" in files for files in samples)
    if not all(alone.values()) or 10 * pairs > min(map(len, alone.values())):
        return
    depth = alone["depth"][0]
    beside = (file for file in alone["rgb"] if os.path.dirname(file) == os.path.dirname(depth))
    rgb = next(beside, alone["rgb"][0])
    logger.warning(
        "%d of %d samples have both colour and depth: files such as %s and %s are read as two samples; where they are "
        "one, name them <key>_rgb.png and <key>_depth.png",
        pairs, len(samples), rgb, depth,
    )  # fmt: skip


def warn_of_strays(samples: Mapping[str, Mapping[str, str]]) -> list[Skip]:
    """Warn of pictures without a suffix that are read as colour and look like another picture of a sample.

    Args:
        samples: their files by modality, by key.

    Returns:
        Those that lie beside the sample they seem to belong to; they are samples all the same, with what tells so.
    """
    suffixed = {
        key
        for key, files in samples.items()
        if any(PurePath(file).stem != PurePath(key).name for file in files.values())
    }
    strays, sure = [], []
    for key, files in samples.items():
        file = files.get("rgb", "")
        if PurePath(file).stem != PurePath(key).name:
            continue
        cuts = (place for place, sign in enumerate(key) if sign == "_" and any(map(str.isalpha, key[place:])))
        beside = next((key[:place] for place in cuts if key[:place] in suffixed), None)
        *_, folder, name = ("", *PurePath(key).parts)
        words = _OTHER_KINDS & (set(re.split("[^a-z]+", name.lower())) - set(re.split("[^a-z]+", folder.lower())))
        if beside or words:
            why = f"by its name it belongs to {beside}" if beside else f"its name says {min(words)}"
            strays.append(Skip(file, f"is read as the colour of a sample of its own, and {why}"))
            sure += strays[-1:] if beside else []  # a name alone may mean something else
    if strays:
        logger.warning(
            "%s read as colour for want of a suffix that is known, and likely no such thing: %s %s; move such away, or "
            "name them <key>_rgb, <key>_depth or <key>_mask",
            counted(len(strays), "picture", "is", "are"), strays[0].name, strays[0].reason,
        )  # fmt: skip
    return sure


def class_folders(source: Path) -> tuple[list[Path], bool]:
    """The folders that hold pictures, and whether they lie below a level of splits.

    Raises:
        DataError: no pictures there, or some in each of the two layouts.
    """
    if not source.is_dir():
        raise DataError(f"{source}: a folder expected, found {show_folder(source)}")
    upper = folders_in(source)
    lower = [folder for parent in upper for folder in folders_in(parent)]
    flat = [folder for folder in upper if any(map(is_picture, visible(folder)))]
    deep = [folder for folder in lower if any(map(is_picture, visible(folder)))]
    if flat and deep:
        raise DataError(f"{source} mixes two layouts: pictures in {flat[0]} and in {deep[0]}; expected {_LAYOUT}")
    if not flat and not deep:
        found = show_folder(source)
        if upper:
            found += f"; in {upper[0].name}/: {show_folder(upper[0])}"
        if upper and lower:
            found += f"; in {lower[0].relative_to(source)}/: {show_folder(lower[0])}"
        raise DataError(f"{source}: no pictures found; expected {_LAYOUT}; found {found}")
    return (flat, False) if flat else (deep, True)


def passed_over(source: Path, folders: Sequence[Path], has_splits: bool) -> list[Skip]:
    """What lies where class folders are expected and holds no picture, and what in it may be taken for one.

    Args:
        source: the folder.
        folders, has_splits: as from :func:`class_folders`.
    """
    beside = folders_in(source)
    if has_splits:  # a split without a class folder stands for itself
        beside = [folder for split in beside for folder in folders_in(split) or [split]]
    skips = []
    for folder in sorted(set(beside) - set(folders)):
        inner = visible(folder)
        if inner:
            skips.append(Skip(place_in(source, folder), "holds no picture (PNG or JPEG) itself"))
        skips += [Skip(place_in(source, path), reason) for path in inner if (reason := why_unread(path))]
    return skips


def why_unread(path: Path) -> str:
    """What keeps something in a class folder from being read as a picture; empty: nobody would take it for one."""
    if path.is_dir():
        return "is a folder in a class folder and is not looked into"
    if path.is_symlink() and not path.exists():
        return "is a link to nothing"
    if path.suffix.lower() in _OTHER_JPEGS:
        return "is read where its name ends in .jpg: rename it"
    return "is neither PNG nor JPEG (depth: 16-bit PNG)" if path.suffix.lower() in _OTHER_PICTURES else ""


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
