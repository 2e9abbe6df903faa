"""Recorded data without a running ROS: rosbag2 (sqlite3 and MCAP) and ROS 1 bags, by way of rosbags.

Pictures are paired with regions exactly: of all pictures in the bag, the nearest in stamp. A bag is read twice, first
its stamps and then only the pictures that are needed, so that its size does not matter.
"""

from __future__ import annotations

import logging
import struct
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmcl_core.errors import ConfigError, DataError
from mmcl_core.presets import shared
from mmcl_core.words import counted
from mmcl_ros.bag_topics import Chooser, Topics, listing
from mmcl_ros.cameras import CameraTrack, info_of_pictures
from mmcl_ros.detections import Request
from mmcl_ros.message_types import IMAGE_TYPES, REGION_TYPES
from mmcl_ros.pairing import nearest

__all__ = ["Bag", "Frame", "Topics", "require_rosbags", "typestore"]

logger = logging.getLogger(__name__)

STAMP = struct.Struct("<iI")
STAMP_ENDS = 4 + STAMP.size
LENGTH = struct.Struct("<I")


@dataclass
class Frame:
    """A request and the pictures found for it, by modality: message and stamp in nanoseconds."""

    request: Request
    pictures: dict[str, Any]
    stamps: dict[str, int]
    infos: Mapping[str, Any]


def require_rosbags() -> None:
    """Refuse to go on without the package that reads and writes recordings, in words that say where it goes.

    Raises:
        ConfigError: it cannot be imported.
    """
    try:
        import rosbags.highlevel
        import rosbags.rosbag2
        import rosbags.typesys  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"recordings are read and written by rosbags, which cannot be imported ({error}): pip install rosbags in a "
            "virtual environment, and run the module with its Python, as in ~/mmcl_venv/bin/python -m "
            "mmcl_ros.evaluate_bag (docs/ros.md, Installing)"
        ) from error


def typestore() -> Any:
    """The message types of the newest ROS 2 and our own, for bags that do not hold their definitions.

    Raises:
        ConfigError: rosbags is not installed.
    """
    require_rosbags()
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    store = get_typestore(Stores.LATEST)
    types: dict[str, Any] = {}
    for package in dict.fromkeys(kind.partition("/")[0] for kind in REGION_TYPES):
        folder = shared(package, "msg")
        for file in sorted(folder.glob("*.msg")) if folder else ():
            types.update(get_types_from_msg(file.read_text(encoding="utf-8"), f"{package}/msg/{file.stem}"))
    store.register(types)
    return store


class Bag:
    """A recording.

    Args:
        path: folder of a rosbag2, or a ``.bag`` file of ROS 1.
        topics: names that are not to be guessed; the others are chosen by :class:`mmcl_ros.bag_topics.Chooser`.

    Attributes:
        damaged: topic and time of recording of the messages that could not be read so far; they are left out.

    Raises:
        ConfigError: rosbags is not installed.
        DataError: no recording there, or a topic that is not in it; by all methods that read, a place where the file
            itself (its compression, or its table of messages) is damaged, beyond which nothing can be read.
    """

    def __init__(self, path: Path, topics: Topics | None = None) -> None:
        require_rosbags()
        from rosbags.highlevel import AnyReader

        self.path = path
        self.damaged: set[tuple[str, int]] = set()
        self._lost: set[str] = set()  # topics none of whose messages can be read
        if not path.exists():
            raise DataError(f"no recording at {path}")
        if path.is_dir() and not (path / "metadata.yaml").exists():
            raise DataError(
                f"{path} is no recording, for it has no metadata.yaml; name the folder that has one, or have one "
                f"written: ros2 bag reindex {path}"
            )
        if path.is_dir() and path.suffix == ".bag":
            raise DataError(
                f"{path} is a folder with the name of a ROS 1 bag, which is a file; rename it, without .bag"
            )
        try:
            self._reader = AnyReader([path], default_typestore=typestore())
            self._reader.open()
        except Exception as error:  # odd bytes may break the reader at any place, with errors of other packages
            words = f"{path} cannot be read as a ROS 1 or ROS 2 recording: {error}"
            if "end magic" in str(error):
                words += " The file was cut off, as by a recorder that was killed; the tool mcap recovers what is there"
            elif isinstance(error, KeyError) or "hash mismatch" in str(error):
                words += "; one of its topics was recorded without its definition: leave it out (ros2 bag convert)"
            raise DataError(words) from error
        self._complete_types()
        self.kinds = {one.topic: one.msgtype for one in self._reader.connections}
        self._chooser = Chooser(path, self.kinds, self._first, self._frame)
        self.topics = self._chooser.choose(topics or Topics())

    def _complete_types(self) -> None:
        """Add the definitions known here of types that the bag carries and does not define."""
        known, own = typestore().fielddefs, self._reader.typestore
        self._reader.typestore.register({name: known[name] for name in known.keys() - own.fielddefs.keys()})

    def __enter__(self) -> Bag:
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.close()

    @property
    def name(self) -> str:
        """What its folder or file is called."""
        return self.path.resolve().name.removesuffix(".bag")

    def messages(self, *topics: str) -> Iterator[tuple[str, Any]]:
        """Topic and message, in the order of the recording.

        Raises:
            DataError: what the messages consist of is not known here.
        """
        for topic in topics:
            self._require_definition(topic)
        for connection, recorded, raw in self._records(topics):
            message = self._read(connection, recorded, raw)
            if message is not None:
                yield connection.topic, message

    def stamps(self, topic: str) -> list[int]:
        """The stamps of the messages on a topic, nanoseconds, ascending."""
        return sorted(_stamp(raw) for _, _, raw in self._records([topic]))

    def raw(self, *topics: str) -> Iterator[tuple[str, int, int, bytes]]:
        """Topic, stamp of the header, time of recording (both in nanoseconds) and CDR bytes, in recorded order."""
        for connection, recorded, raw in self._records(topics):
            yield connection.topic, _stamp(raw), recorded, bytes(raw)

    def frames(
        self,
        requests: Sequence[Request],
        window: float,
        drops: Mapping[str, Sequence[tuple[float, float]]] | None = None,
    ) -> Iterator[Frame]:
        """Every request with its nearest colour and depth pictures.

        Args:
            requests: in the order in which they are wanted.
            window: largest distance in stamps, seconds.
            drops: by modality, stretches in seconds from the first stamp whose pictures are treated as lost.
        """
        names = {name: topic for name in ("rgb", "depth") if (topic := getattr(self.topics, name))}
        plan = self._plan(requests, names, window, drops or {})
        cameras = self.cameras()
        uses = Counter(key for needed in plan for key in needed.items())
        held: dict[tuple[str, int], Any] = {}
        waiting = deque(zip(requests, plan, strict=True))
        yield from self._complete(waiting, held, uses, cameras)
        by_topic = {topic: name for name, topic in names.items()}
        for connection, recorded, raw in self._records(names.values()):
            key = (by_topic[connection.topic], _stamp(raw))
            if uses[key] and key not in held:
                held[key] = self._read(connection, recorded, raw)
                yield from self._complete(waiting, held, uses, cameras)

    @staticmethod
    def _complete(waiting: deque, held: dict, uses: Counter, cameras: Mapping[str, CameraTrack]) -> Iterator[Frame]:
        while waiting and all(key in held for key in waiting[0][1].items()):
            request, needed = waiting.popleft()
            infos = {name: track.at(needed.get(name, request.stamp)) for name, track in cameras.items()}
            pictures = {key[0]: held[key] for key in needed.items() if held[key] is not None}
            yield Frame(request, pictures, needed, infos)
            for key in needed.items():
                uses[key] -= 1
                if not uses[key]:
                    del held[key]

    def _plan(
        self, requests: Sequence[Request], names: Mapping[str, str], window: float, drops: Mapping[str, Any]
    ) -> list[dict[str, int]]:
        """Stamps of the pictures for each request, by modality."""
        stamps: dict[str, list[int]] = {name: [] for name in names}
        for name, topic in names.items():
            stamps[name] = self.stamps(topic)
            if again := len(stamps[name]) - len(set(stamps[name])):
                logger.warning(
                    "%s: %s the stamp of one before, on %s, as after a clock that was set back; the first of each "
                    "stamp is used, and boxes of the others are taken for its own",
                    self.path, counted(again, "picture", "has", "have"), topic,
                )  # fmt: skip
        first = min((listed[0] for listed in stamps.values() if listed), default=0)
        for name, stretches in drops.items():
            kept = [
                stamp
                for stamp in stamps.get(name, [])
                if not any(start <= (stamp - first) / 1e9 < end for start, end in stretches)
            ]
            if len(kept) == len(stamps.get(name, [])):
                last = max((listed[-1] for listed in stamps.values() if listed), default=first)
                logger.warning(
                    "dropping %s: no picture is lost; they end %.3g s after the first", name, (last - first) / 1e9
                )
            stamps[name] = kept
        plan = []
        for request in requests:
            found = {}
            for name in names:
                index = nearest(stamps[name], request.stamp)
                if index is not None and abs(stamps[name][index] - request.stamp) <= window * 1e9:
                    found[name] = stamps[name][index]
                    if not found[name] and stamps[name][1:2] == [0]:
                        raise DataError(
                            f"{self.path}: {stamps[name].count(0)} pictures on {names[name]} have stamp 0, and which "
                            "of them a box of stamp 0 is of is not known; have the driver stamp its pictures"
                        )
            plan.append(found)
        return plan

    def cameras(self) -> dict[str, CameraTrack]:
        """The camera infos by modality, as they hold for the pictures."""
        found = {}
        for name, topic in self.topics.infos.items():
            found[name] = CameraTrack()
            for _, message in self.messages(topic):
                found[name].add(info_of_pictures(message, getattr(self.topics, name)))
        return found

    def require_pictures(self) -> None:
        """Refuse a recording that holds nothing to look at.

        Raises:
            DataError: with the topics that there are.
        """
        if not self.topics.rgb and not self.topics.depth:
            stated = [f"{topic} says {encoding!r}" for topic, encoding in sorted(self._chooser.unknown.items())]
            raise DataError(
                f"{self.path} holds no colour or depth pictures that can be read ({' or '.join(IMAGE_TYPES)}, of a "
                f"known encoding{': ' if stated else ''}{', '.join(stated)}); its topics: {self.listing()}"
            )

    def listing(self) -> str:
        """The topics with their types, in words."""
        return listing(self.kinds, self.kinds.keys() - {one.topic for one in self._reader.connections if one.msgcount})

    def sources_of_truth(self) -> list[str]:
        """Topics to look for boxes with classes in, see :class:`mmcl_ros.bag_topics.Chooser`."""
        return self._chooser.sources_of_truth(self.topics)

    def region_topics(self) -> list[str]:
        """All topics that carry boxes, but for what this package has answered."""
        return self._chooser.regions()

    def use_detections(self, topic: str) -> None:
        """Have boxes read from a topic, and tell which others there are."""
        self.topics.detections = topic
        self._chooser.tell_detections(self.topics)

    def _first(self, topic: str) -> Any | None:
        """The first message that can be read."""
        _, message = next(self.messages(topic), (topic, None))
        return message

    def _frame(self, topic: str) -> str:
        """Frame of the first message; what else the message consists of need not be known."""
        return next((_frame_id(raw) for _, _, raw in self._records([topic])), "")

    def _records(self, topics: Iterable[str]) -> Iterator[tuple[Any, int, Any]]:
        """Connection, time of recording and bytes of each message of some topics."""
        wanted, found = set(topics), set[str]()
        connections = [one for one in self._reader.connections if one.topic in wanted]
        # The reader takes no connections for all of them.
        try:
            for connection, recorded, raw in self._reader.messages(connections) if connections else ():
                found.add(connection.topic)
                if len(raw) < STAMP_ENDS:
                    self._leave_out(connection.topic, recorded, f"a message of {len(raw)} bytes")
                else:
                    yield connection, recorded, raw
        except Exception as error:  # of the reader alone: what a caller raises between two messages never comes here
            raise DataError(
                f"{self.path} is damaged, and cannot be read any further: {type(error).__name__}: {error}; copy it "
                "again from where it was recorded, or recover what is there (mcap recover, or .recover of sqlite3)"
            ) from error
        for one in connections:
            if one.msgcount and one.topic not in found | self._lost:
                self._lost.add(one.topic)
                logger.warning(
                    "%s: none of the messages on %s that its metadata.yaml tells of, %d, can be read; if quality of "
                    "service was edited there, it is no more that of the storage: ros2 bag reindex %s",
                    self.path, one.topic, one.msgcount, self.path,
                )  # fmt: skip

    def _require_definition(self, topic: str) -> None:
        kind = self.kinds.get(topic, "")
        if kind and kind not in self._reader.typestore.fielddefs:
            package = kind.partition("/")[0]
            raise DataError(
                f"{self.path} does not say what {kind}, which {topic} carries, consists of (in sqlite3 those of ROS 2 "
                f"Humble do not), and the package {package} is not found here: source the workspace that has it, or "
                "convert the recording to MCAP where it is installed (ros2 bag convert)"
            )

    def _read(self, connection: Any, recorded: int, raw: Any) -> Any | None:
        """A message; None where its bytes are damaged."""
        try:
            return self._reader.deserialize(raw, connection.msgtype)
        except Exception as error:  # odd bytes may break the reader at any place
            self._leave_out(connection.topic, recorded, str(error))
            return None

    def _leave_out(self, topic: str, recorded: int, why: str) -> None:
        """Count a damaged message, and name the first one of each topic."""
        if topic not in {one for one, _ in self.damaged}:
            logger.warning("%s: damaged messages on %s are left out; the first is %s", self.path, topic, why)
        self.damaged.add((topic, recorded))


def _stamp(raw: Any) -> int:
    """The stamp of a message that starts with a header: 4 bytes (CDR preamble or ROS 1 sequence), then it."""
    seconds, nanoseconds = STAMP.unpack_from(raw, 4)
    return int(seconds) * 1_000_000_000 + int(nanoseconds)


def _frame_id(raw: Any) -> str:
    """The frame of such a message: behind the stamp its length and its letters, in CDR with a zero at the end."""
    start = STAMP_ENDS + LENGTH.size
    if len(raw) < start:
        return ""
    (length,) = LENGTH.unpack_from(raw, STAMP_ENDS)
    return bytes(raw[start : start + length]).rstrip(b"\0").decode("utf-8", "replace")
