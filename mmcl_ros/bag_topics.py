"""Which topics of a recording are used: those that are named, and with them those of the same camera.

That two topics are of one camera is told by the frames that their messages state, as far as those tell the cameras of
the recording apart, then by the words that their names begin with.
"""

from __future__ import annotations

import enum
import functools
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmcl_core.errors import DataError
from mmcl_ros.images import DEPTH_ENCODINGS, RGB_ENCODINGS, stated_encoding
from mmcl_ros.message_types import IMAGE_TYPES, INFO_TYPE, REGION_TYPES, REGIONS_TYPE
from mmcl_ros.qos import own_answer, without_transport
from mmcl_ros.topic_names import depth_rank, nearness, rgb_rank, shared_words, shows_depth

__all__ = ["Chooser", "Topics", "listing"]

logger = logging.getLogger(__name__)

WORDS = {"rgb": "colour", "depth": "depth"}
INFRARED = ("infra", "/ir/")


@dataclass
class Topics:
    """The topics of a bag that are used; empty: none.

    Attributes:
        rgb, depth, detections: names.
        infos: camera info topic by modality; absent: the sensor has none, and its camera is not known.
    """

    rgb: str = ""
    depth: str = ""
    detections: str = ""
    infos: dict[str, str] = field(default_factory=dict)


class Place(enum.IntEnum):
    """Whether a topic is of the camera of a picture."""

    OWN = 0
    OPEN = 1
    OTHER = 2


@dataclass(frozen=True)
class _Look:
    """What the first picture of a topic says; all empty where there is none."""

    encoding: str = ""
    compressed: bool = False
    size: tuple[int, int] | None = None


def listing(kinds: Mapping[str, str], empty: Collection[str] = ()) -> str:
    """Topics with their types, in words; of those that are ``empty``, that they have no messages."""
    words = {topic: f"{kind}, no messages" if topic in empty else kind for topic, kind in kinds.items()}
    return ", ".join(f"{topic} ({kind})" for topic, kind in sorted(words.items())) or "none"


class Chooser:
    """Chooses topics of a recording.

    Args:
        path: of the recording, for messages.
        kinds: message types by topic.
        first: the first message of a topic that can be read; None: there is none.
        frame: the frame that the first message of a topic states, of any type with a header; empty: none.

    Attributes:
        unknown: encodings that are not known, by topic.
    """

    def __init__(
        self, path: Path, kinds: Mapping[str, str], first: Callable[[str], Any], frame: Callable[[str], str]
    ) -> None:
        self.unknown: dict[str, str] = {}
        self._path, self._kinds, self._first = path, kinds, first
        self._frame, self._look = functools.cache(frame), functools.cache(self._read_look)
        self._own_info, self._cameras = functools.cache(self._find_info), functools.cache(self._find_cameras)
        self._given, self._pictures = Topics(), dict[str, list[str]]()

    def choose(self, given: Topics) -> Topics:
        """The topics to use; which pictures are read where there are several is logged.

        Args:
            given: names that are not to be guessed.

        Raises:
            DataError: a named topic is not there, or carries something else.
        """
        self._check(given)
        self._given = given
        found: dict[str, list[str]] = {"rgb": [], "depth": []}
        for topic, kind in sorted(self._kinds.items()):
            if kind in IMAGE_TYPES and topic not in (given.rgb, given.depth) and not own_answer(topic):
                found.get(self._modality(topic), []).append(topic)
        named = {"rgb": given.rgb, "depth": given.depth}
        self._pictures = {name: [*found[name], *filter(None, [named[name]])] for name in found}
        rgb = given.rgb or self._best_colour(found["rgb"], given.depth, given.detections)
        depth = given.depth or self._best_depth(found["depth"], rgb)
        for name, topic in (("rgb", rgb), ("depth", depth)):
            if not named[name]:
                self._tell(WORDS[name], topic, found[name], f"--{name}-topic")
        if rgb and depth and not (given.rgb and given.depth) and self._strange(rgb, depth):
            logger.warning(
                "%s: neither frames nor names say that %s and %s are of one camera; if they are not, name those of one "
                "(--rgb-topic, --depth-topic)", self._path, rgb, depth,
            )  # fmt: skip
        topics = Topics(rgb, depth, given.detections, self._infos(rgb, depth, given))
        topics.detections = topics.detections or next(iter(self._regions(topics)), "")
        return topics

    def sources_of_truth(self, topics: Topics) -> list[str]:
        """Topics to look for boxes with classes in, the likeliest first: the named one alone, or those of the camera.

        Args:
            topics: that were chosen.
        """
        if self._given.detections:
            return [self._given.detections]
        places = self._regions(topics)
        likely = sorted(places, key=lambda one: (places[one] is Place.OTHER, self._kinds[one] == REGIONS_TYPE))
        return [one for one in likely if places[one] is not Place.OTHER] or likely[:1]

    def tell_detections(self, topics: Topics) -> None:
        """Log which boxes are read, and what else there is; warn where they may be of another camera."""
        taken, drawn = topics.detections, topics.rgb or topics.depth
        if self._given.detections and drawn in (self._given.rgb, self._given.depth):
            return
        places = self._regions(topics)
        if not self._given.detections:
            self._tell("the boxes", taken, list(places), "--detections-topic")
        place = places.get(taken, Place.OPEN)
        if place is Place.OTHER or (place is Place.OPEN and self._others(drawn)):
            logger.warning(
                "%s: neither frames nor names say that the boxes of %s are of the camera of %s; if they are not, name "
                "other topics (--rgb-topic, --detections-topic)", self._path, taken, drawn,
            )  # fmt: skip

    def regions(self) -> list[str]:
        """All topics that carry boxes, but for what this package has answered."""
        return [one for one, kind in sorted(self._kinds.items()) if kind in REGION_TYPES and not own_answer(one)]

    def _regions(self, topics: Topics) -> dict[str, Place]:
        """The topics that carry boxes, those of the camera of the pictures first."""
        drawn = topics.rgb or topics.depth
        places = {one: self._place(drawn, one) if drawn else Place.OPEN for one in self.regions()}
        return dict(sorted(places.items(), key=lambda one: one[1]))

    def _check(self, given: Topics) -> None:
        """Refuse named topics that are not there, or carry something else than they are named for."""
        pictures = {"rgb": given.rgb, "depth": given.depth}
        if given.rgb and given.rgb == given.depth:
            raise DataError(f"{self._path}: {given.rgb} was named for both rgb and depth; give each its own topic")
        named = [(topic, IMAGE_TYPES) for topic in pictures.values()] + [(given.detections, REGION_TYPES)]
        for topic, types in [*named, *((topic, (INFO_TYPE,)) for topic in given.infos.values())]:
            if topic and topic not in self._kinds:
                raise DataError(f"{self._path} has no topic {topic}; it has {listing(self._kinds)}")
            if topic and self._kinds[topic] not in types:
                raise DataError(f"{self._path}: {topic} carries {self._kinds[topic]}; {' or '.join(types)} is needed")
        for name, topic in pictures.items():
            encoding = self._look(topic).encoding.partition(";")[0].strip() if topic else ""
            if topic and self._look(topic) == _Look():
                raise DataError(f"{self._path}: there are no pictures on {topic} that can be read; leave it out")
            own, other = (RGB_ENCODINGS, DEPTH_ENCODINGS)[:: 1 if name == "rgb" else -1]
            if encoding in other and encoding not in own:
                raise DataError(f"{self._path}: {topic} was named for {name}, but its pictures are {encoding}")

    def _best_colour(self, found: Sequence[str], depth: str, boxes: str) -> str:
        """The colour pictures that are likely meant: of the camera of what is named, else of one that has depth."""
        called = [one for one in self._pictures["depth"] if "depth" in one.lower()]
        partners = [depth] if depth else called or self._pictures["depth"]

        def rank(topic: str) -> tuple:
            places = [(self._place(topic, one), not self._same_frame(topic, one)) for one in partners]
            place, apart = min(places, default=(Place.OPEN, True))
            alone = not self._own_info(topic)
            strays = bool(boxes) and self._frame(boxes) not in ("", self._frame(topic))
            unlikely = (alone and not depth, strays, shows_depth(topic))
            return (*unlikely, place, self._grey(topic), apart, alone, *rgb_rank(topic))

        return min(found, key=rank, default="")

    def _best_depth(self, found: Sequence[str], rgb: str) -> str:
        """The depth pictures that are likely meant, of the camera of colour if any is."""

        def rank(topic: str) -> tuple:
            place = self._place(rgb, topic) if rgb else Place.OPEN
            apart = bool(rgb) and not self._same_frame(rgb, topic)
            called, *others = depth_rank(topic)
            return (place is Place.OTHER, called, apart, place, *others)

        return min(found, key=rank, default="")

    def _tell(self, what: str, taken: str, found: Iterable[str], option: str) -> None:
        others = {without_transport(one) for one in found} - {without_transport(taken)}
        if others:
            also = ", ".join(sorted(others))
            verb = "are" if what.endswith("s") else "is"
            logger.info("%s: %s %s read from %s; it also has %s (%s)", self._path, what, verb, taken, also, option)

    def _strange(self, rgb: str, depth: str) -> bool:
        """Whether depth is of another camera, or nothing says that it is of the same."""
        if self._place(rgb, depth) is Place.OTHER:
            return True
        return not self._same_frame(rgb, depth) and not shared_words(rgb, depth)

    def _place(self, picture: str, topic: str) -> Place:
        """Whether a topic is of the camera of a picture, by frames where they tell cameras apart, else by names."""
        frame = self._frame(topic)
        if frame and self._frames_tell(picture):
            if frame == self._frame(picture):
                return Place.OWN
            if frame in map(self._frame, self._others(picture)):
                return Place.OTHER
        return self._place_by_name(picture, topic)

    def _place_by_name(self, picture: str, topic: str) -> Place:
        count = shared_words(picture, topic)
        most = max((shared_words(one, topic) for one in self._others(picture)), default=0)
        return Place.OPEN if count == most else Place.OWN if count > most else Place.OTHER

    def _find_cameras(self, picture: str) -> dict[str, str]:
        """Cameras of the kind of a picture by topic, told apart by their camera infos, or by the names of pictures.

        What an info does not belong to is no camera where others have one: it is a picture that a program has drawn.
        """
        plain = self._pictures["depth"]
        if picture in self._pictures["rgb"]:
            colour = self._pictures["rgb"]
            plain = [one for one in colour if not shows_depth(one) and not self._grey(one)] or colour
        sensors = [one for one in plain if self._own_info(one)] or plain
        return {one: self._own_info(one) or without_transport(one) for one in {*sensors, picture}}

    def _others(self, picture: str) -> list[str]:
        """Pictures of other cameras."""
        cameras = self._cameras(picture)
        return [one for one, camera in cameras.items() if camera != cameras[picture]]

    def _frames_tell(self, picture: str) -> bool:
        """Whether no two cameras state the same frame."""
        frames = {camera: self._frame(one) for one, camera in self._cameras(picture).items()}
        stated = [frame for frame in frames.values() if frame]
        return len(stated) == len(set(stated))

    def _same_frame(self, one: str, other: str) -> bool:
        return self._frame(one) == self._frame(other) != ""

    def _infos(self, rgb: str, depth: str, given: Topics) -> dict[str, str]:
        """Camera infos by modality; a sensor without one is warned of."""
        infos = {name: own for name, topic in (("rgb", rgb), ("depth", depth)) if (own := self._own_info(topic))}
        infos |= given.infos
        if rgb and depth and "rgb" in infos and "depth" not in infos and self._registered(rgb, depth):
            infos["depth"] = infos["rgb"]
        for topic in (topic for name, topic in (("rgb", rgb), ("depth", depth)) if topic and name not in infos):
            logger.warning("%s: %s has no camera info of its own; its camera is not known", self._path, topic)
        return infos

    def _registered(self, rgb: str, depth: str) -> bool:
        """Whether depth says that it is seen through the colour camera: its pictures state the same frame and size."""
        sizes = {size for topic in (rgb, depth) if (size := self._look(topic).size)}
        return self._same_frame(rgb, depth) and len(sizes) <= 1

    def _find_info(self, topic: str) -> str:
        """The camera info of the sensor whose pictures a topic carries; empty: none, or only those of other sensors."""
        if not topic:
            return ""
        pictures = {topic, *(one for one, kind in self._kinds.items() if kind in IMAGE_TYPES)}
        own = []
        for info in sorted(one for one, kind in self._kinds.items() if kind == INFO_TYPE):
            sensor = info.rpartition("/")[0].removesuffix("/info")
            nearest_of_all = max(nearness(info, picture) for picture in pictures)
            if f"{topic}/".startswith(f"{sensor}/") and nearness(info, topic) == nearest_of_all:
                own.append(info)
        return max(own, key=lambda info: nearness(info, topic), default="")

    def _read_look(self, topic: str) -> _Look:
        message = self._first(topic)
        if message is None:
            return _Look()
        size = (message.width, message.height) if hasattr(message, "width") else None
        return _Look(stated_encoding(message), hasattr(message, "format"), size)

    def _grey(self, topic: str) -> bool:
        return self._look(topic).encoding.startswith(("mono", "8UC1"))

    def _modality(self, topic: str) -> str:
        """rgb, depth or empty, by the encoding of the first message."""
        look = self._look(topic)
        plain = look.encoding.partition(";")[0].strip()
        if look == _Look():
            return ""
        called_depth = plain == "mono16" and "depth" in topic.lower()
        if "compressedDepth" in look.encoding or plain in ("16UC1", "32FC1") or called_depth:
            return "depth"
        if plain in RGB_ENCODINGS or look.compressed:
            return "" if any(word in topic.lower() for word in INFRARED) else "rgb"
        self.unknown[topic] = look.encoding
        return ""
