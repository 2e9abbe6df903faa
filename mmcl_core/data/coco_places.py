"""Where the pictures of COCO annotations lie, their depth beside them, and which pictures show the same scene."""

from __future__ import annotations

import itertools
import logging
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Sequence
from functools import cached_property
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from mmcl_core.data.folder_names import why_unread
from mmcl_core.data.pictures import is_metric_png, is_picture
from mmcl_core.data.sources import is_visible
from mmcl_core.errors import ConfigError
from mmcl_core.words import counted

__all__ = ["NO_DEPTH", "SCENE", "Places", "find_depth", "scene_of"]

logger = logging.getLogger(__name__)

#: What is tried where --depth is not given.
_DEPTH_RULES = ("rgb=depth", "color=depth", "colour=depth", "images=depth", "image=depth", "=_depth")
#: The --depth that leaves depth out.
NO_DEPTH = "none"
#: The path without its last number and what follows it in the name; a number may be a stamp such as 1305031102.175304.
SCENE = r"(.*?)[_-]?\d+(?:\.\d+)?[^/\d]*"
#: What Roboflow puts behind a name (x_png.rf.<hash>), and Label Studio before it (<8 digits>-x).
_BEHIND = re.compile(r"(_(png|jpe?g))?\.rf\.\w+$", re.IGNORECASE)
_BEFORE = re.compile(r"(^|/)[0-9a-f]{8}-(?=[^/]*$)")
_RENAMED = re.compile(r"_(png|jpe?g)\.rf\.\w+\.\w+$", re.IGNORECASE)


class Places:
    """Finds pictures in a source.

    Args:
        source: its folder; what lies outside is not found.
    """

    def __init__(self, source: Path) -> None:
        self._source = Path(os.path.abspath(source))

    def find(self, wanted: Sequence[tuple[Path, str]]) -> list[str]:
        """The places of pictures, relative to the source; empty: it is not there.

        Where a path leads nowhere, a picture of the same file name counts, and then one of the name without what Label
        Studio put before it or Roboflow behind it, if there is only one that no other path leads to, and if only one
        path is wanting it.

        Args:
            wanted: the file that names each picture, and the path by which it does.
        """
        places = [self._by_path(annotations, name) for annotations, name in wanted]
        lost = {name for (_, name), place in zip(wanted, places, strict=True) if not place}
        found: dict[str, str] = {}
        for short in (_file_name, _uploaded_name, _addressed_name, _addressed_upload):
            taken, rivals = {*places, *found.values()}, Counter(map(short, lost))
            left = [name for name in lost if not found.get(name) and rivals[short(name)] == 1]
            found |= {name: self._by_file_name(short(name), taken) for name in left}
        if named := [f"{name} in {place}" for name, place in found.items() if place]:
            number = counted(len(named), "picture", "is not where it is", "are not where they are")
            logger.warning("%s said to be, and found by name: %s", number, named[0])
        return [place or found.get(name, "") for (_, name), place in zip(wanted, places, strict=True)]

    def _by_path(self, annotations: Path, name: str) -> str:
        names = dict.fromkeys((name, unquote(name)))  # some tools write paths as addresses
        for folder, one in itertools.product(self._folders(annotations), names):
            place = os.path.normpath(folder / one.replace("\\", "/"))
            if Path(place).is_relative_to(self._source) and is_picture(Path(place)):
                return Path(place).relative_to(self._source).as_posix()
        return ""

    def why_lost(self, name: str) -> str:
        """What keeps a picture from being found, by the path that names it."""
        same = self._of_colour(_file_name(name))
        if not same:
            other = why_unread(self._source / _addressed_name(name))  # it may be there
            return other or f"no such picture in {self._source.resolve()}"
        return f"not there: which picture of its name is meant, such as {same[0]}, is not clear; put paths in file_name"

    def _by_file_name(self, name: str, taken: Collection[str]) -> str:
        same = [place for place in self._of_colour(name) if place not in taken]
        return same[0] if len(same) == 1 else ""

    def _of_colour(self, name: str) -> list[str]:
        """The places of pictures of a file name that are no depth, by name."""
        return sorted(place for place in self._named.get(name, ()) if not is_metric_png(self._source / place))

    def _folders(self, annotations: Path) -> Iterator[Path]:
        """Where annotation tools put pictures: beside the JSON, above it, in ``images``, in folders of the split."""
        beside = Path(os.path.abspath(annotations)).parent
        yield beside
        splits = (beside.name, annotations.stem.partition("_")[2], annotations.stem.rpartition("_")[2])
        for root in dict.fromkeys((self._source, beside.parent)):
            for folder in (root, root / "images"):
                yield folder
                yield from (folder / split for split in dict.fromkeys(splits) if split)

    @cached_property
    def _named(self) -> dict[str, list[str]]:
        """The places of all pictures by their file names."""
        found: dict[str, list[str]] = defaultdict(list)
        for folder, folders, files in os.walk(self._source):
            folders[:] = filter(is_visible, folders)
            for file in filter(is_visible, files):
                path = Path(folder, file)
                if is_picture(path):
                    found[_composed(file)].append(path.relative_to(self._source).as_posix())
        return found


def _file_name(name: str) -> str:
    _, query, place = name.partition("?d=")  # Label Studio's address of a picture in its local storage
    return _composed(PurePosixPath((unquote(place) if query else name).replace("\\", "/")).name)


def _composed(name: str) -> str:
    """A name with its accents in one coding: Macs store them as characters of their own, unlike what writes JSON."""
    return unicodedata.normalize("NFC", name)


def _uploaded_name(name: str) -> str:
    """The name of the file that was uploaded to Label Studio or Roboflow."""
    return _uploaded(_file_name(name))


def _addressed_name(name: str) -> str:
    """The name of a file of which there is the address."""
    return _file_name(unquote(name.partition("?")[0]))


def _addressed_upload(name: str) -> str:
    return _uploaded(_addressed_name(name))


def _uploaded(place: str) -> str:
    return _RENAMED.sub(r".\1", _BEFORE.sub(r"\1", place))


def scene_of(place: str, pattern: re.Pattern[str]) -> str:
    """The scene of a picture: what the pattern's first group matches, else the whole path.

    Args:
        place: of the picture, relative to the source.
        pattern: for the whole path, without its ending and what tools add to names.
    """
    path = place.removesuffix(PurePosixPath(place).suffix)
    match = pattern.fullmatch(_BEFORE.sub(r"\1", _BEHIND.sub("", path)))
    return ((match[1] if match.re.groups else match[0]) or "" if match else place).rstrip("/")


def find_depth(source: Path, places: Sequence[str], given: str | None) -> tuple[str, list[str], list[str]]:
    """The depth files of colour files; without what tools added to the name of colour, if it is not with it.

    Args:
        source: folder of the frames.
        places: of the colour files, relative to it.
        given: the rule of ``--depth``; None: the one of the usual rules that finds most.

    Returns:
        The rule, empty where there is no depth; the depth file of each picture, empty where it has none; why it has
        none, empty where it has one.

    Raises:
        ConfigError: a rule that is none, or that leads to no file.
    """
    nothing: list[str] = [""] * len(places)
    if given == NO_DEPTH:
        return "", nothing, nothing
    if given is not None and given.count("=") != 1:
        raise ConfigError(f"--depth {given!r}: OLD=NEW is expected, such as color=depth, or =_depth, or {NO_DEPTH}")
    rules = _DEPTH_RULES if given is None else (given,)
    uploaded = [_uploaded(place) for place in places]
    rivals = Counter(uploaded)
    names = [(place, *([name] if rivals[name] == 1 else [])) for place, name in zip(places, uploaded, strict=True)]
    found = {
        rule: [_existing(source, [one for name in pair for one in _depth_places(name, rule)]) for pair in names]
        for rule in rules
    }
    rule = max(rules, key=lambda one: sum(map(bool, found[one])))
    if not any(found[rule]):
        if given is not None:
            raise ConfigError(f"--depth {given} leads to no file in {source}: {_why(places[0], given)}")
        tried = [depth for rule in rules for depth in _depth_places(places[0], rule)]
        logger.warning(
            "no depth pictures found, such as %s: the crops have colour alone; --depth OLD=NEW tells where depth lies",
            " or ".join(tried),
        )
        return "", nothing, nothing
    why = ["" if depth else _why(place, rule) for place, depth in zip(places, found[rule], strict=True)]
    return rule, found[rule], why


def _existing(source: Path, places: Sequence[str]) -> str:
    """The first of the places where there is a file, with the ending in capitals if that is how it is there."""
    tried = (f"{place[:-4]}{ending}" for place in places if place for ending in (".png", ".PNG"))
    return next((one for one in tried if (source / one).is_file()), "")


def _depth_places(place: str, rule: str) -> list[str]:
    """Where the depth of a colour file may lie: OLD replaced where it comes last, then before that, then everywhere."""
    old, _, new = rule.partition("=")
    stem = place.removesuffix(PurePosixPath(place).suffix)
    cuts = [match.start() for match in re.finditer(re.escape(old), stem)][::-1] if old else [len(stem)]
    stems = [f"{stem[:cut]}{new}{stem[cut + len(old) :]}" for cut in cuts]
    stems += [stem.replace(old, new)] if len(cuts) > 1 else []
    return [depth for one in stems if (depth := f"{one}.png") != place]


def _why(place: str, rule: str) -> str:
    places = _depth_places(place, rule)
    return f"there is no {' or '.join(places)}" if places else f"{rule.partition('=')[0]!r} is not in {place}"
