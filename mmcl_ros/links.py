"""Subscriptions that come into being when their publisher does, with the type and quality of service it offers."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mmcl_core.errors import ConfigError
from mmcl_ros.cameras import info_of_pictures
from mmcl_ros.endings import do_all
from mmcl_ros.frames import NAME_IT
from mmcl_ros.health import State
from mmcl_ros.interfaces import message_class
from mmcl_ros.message_types import COMPRESSED_TYPE, IMAGE_TYPE, IMAGE_TYPES
from mmcl_ros.qos import Link, decide, info_beside, offers_of, pictures_elsewhere, profile, published_pictures

__all__ = ["Links", "Source", "check_topics", "clock_problems", "info_topic", "picture_source"]

SETTLED_S = 0.5


def check_topics(node: Any, values: Mapping[str, Any]) -> None:
    """Refuse a parameter ``*_topic`` that is no name (an empty camera info's is one), and one topic for two sensors.

    Raises:
        ConfigError: naming the parameter.
    """
    for name, value in values.items():
        if name.endswith("_topic") and (value or not name.endswith("_info_topic")):
            try:
                node.resolve_topic_name(value)
            except Exception as error:  # rclpy's own, of a private module
                expected = "letters, digits, _ and / are expected"
                raise ConfigError(f"the parameter {name} is {value!r}, which is no topic name; {expected}") from error
    rgb, depth = (node.resolve_topic_name(picture_source(node, values, sensor)[0]) for sensor in ("rgb", "depth"))
    if rgb == depth and values["modality"] in ("auto", "rgbd"):
        raise ConfigError(
            f"rgb_topic and depth_topic are both {rgb}; name that of one sensor, and the other's or modality"
        )


def clock_problems(node: Any) -> dict[str, str]:
    """That a node goes by a simulated time that nobody tells: words by kind."""
    if not node.get_parameter("use_sim_time").value:
        return {}
    topic = node.resolve_topic_name("/clock")
    if not node.count_publishers(topic):
        return {"no clock": f"use_sim_time is set, but nobody publishes {topic}"}
    if node.get_clock().now().nanoseconds == 0:
        return {"no clock": f"use_sim_time is set, and {topic} has told no time above 0 yet: is the simulation paused?"}
    return {}


def picture_source(node: Any, values: Mapping[str, Any], sensor: str) -> tuple[str, str]:
    """Where the pictures of a sensor come from, and how.

    Args:
        node: resolves the topic, before the transport is added: a remapping of the plain name moves the others along.
        values: the parameters ``<sensor>_topic`` and ``<sensor>_transport``.
        sensor: ``rgb`` or ``depth``.

    Returns:
        The name to subscribe to, with that of the transport and as a :class:`Source` takes it, and its message type.
    """
    name, transport = str(values[f"{sensor}_topic"]), values[f"{sensor}_transport"]
    if transport == "raw":
        return name, IMAGE_TYPE
    return f"{node.resolve_topic_name(name)}/{transport}", COMPRESSED_TYPE


def info_topic(node: Any, values: Mapping[str, Any], sensor: str) -> str:
    """Where the camera info of a sensor comes from.

    Args:
        node: resolves the topics.
        values: the parameters ``<sensor>_info_topic``, ``<sensor>_topic`` and ``<sensor>_transport``.
        sensor: ``rgb`` or ``depth``.

    Returns:
        What the parameter names; else ``<sensor>/camera_info``, where that is remapped; else ``camera_info`` beside the
        pictures. As a :class:`Source` takes it.
    """
    if values[f"{sensor}_info_topic"]:
        return str(values[f"{sensor}_info_topic"])
    plain = f"{sensor}/camera_info"
    if node.resolve_topic_name(plain) != node.resolve_topic_name(plain, only_expand=True):
        return plain
    return info_beside(node.resolve_topic_name(picture_source(node, values, sensor)[0]))


@dataclass
class Source:
    """A topic to be listened to.

    Attributes:
        name: as ROS is given it: it expands and remaps names itself, and would remap a resolved one a second time.
        types: message types that can be read.
        callback: called with each message.
        depth: length of the subscription's queue.
        pictures: of camera infos: the topic of their pictures, named likewise, for which they are handed over.
        topic: the resolved name, entered by :class:`Links`.
    """

    name: str
    types: Sequence[str]
    callback: Callable[[Any], None]
    depth: int
    pictures: str = ""
    topic: str = ""
    link: Link = field(default_factory=lambda: Link(State.NO_PUBLISHER))
    subscription: Any = None
    terms: tuple[str, bool, bool] | None = None
    dropped: int = 0  # subscriptions so far that are heard no more, even those that could not be destroyed


class Links:
    """The subscriptions of a node, by name of the source.

    Args:
        node: made by rclpy.
        sources: ``NAME info`` is the camera info of the pictures ``NAME``.
        reliability: the parameter ``qos``.
    """

    def __init__(self, node: Any, sources: dict[str, Source], reliability: str) -> None:
        self._node, self.sources, self._reliability = node, sources, reliability
        for source in sources.values():
            source.topic = str(node.resolve_topic_name(source.name))
            if node.resolve_topic_name(source.topic) == source.topic:
                source.name = source.topic  # what ROS itself says of the topic has this name, then
            if source.pictures:
                pictures = str(node.resolve_topic_name(source.pictures))
                source.callback = functools.partial(_hand_over, source.callback, pictures)
        self._refused: dict[str, Exception] = {}  # by topic, what was raised instead of a subscription
        self._looked = -SETTLED_S

    def due(self, names: Iterable[str]) -> bool:
        """Whether to look again: at once while one of these sources lacks a publisher, else only every half second.

        Looking takes about a millisecond, in which no picture can be answered.
        """
        settled = all(self.sources[name].link.state is State.ALIVE for name in names)
        return not settled or time.monotonic() - self._looked >= SETTLED_S

    def update(self) -> None:
        """Look at the graph and subscribe anew where a publisher came or offers something else than before.

        A subscription outlives its publisher, so that nothing is missed when the same one returns. One that is refused
        is a fault of its source alone, and is tried again at the next look.
        """
        self._looked = time.monotonic()
        for source in self.sources.values():
            link = decide(source.topic, offers_of(self._node, source.name), source.types, self._reliability)
            if not link.type:
                link = self._with_advice(source, link)
            elif source.terms != (link.type, link.reliable, link.latched):
                link = self._try(source, link)
            source.link = link

    def insist(self) -> None:
        """Raise what was raised at the last look, where nothing at all could be subscribed to."""
        if self._refused and all(source.subscription is None for source in self.sources.values()):
            raise next(iter(self._refused.values()))

    def _try(self, source: Source, link: Link) -> Link:
        """Subscribe; the link as it came about."""
        try:
            self._subscribe(source, link)
        except Exception as error:  # rclpy's own are of a private module; raised from a timer, it ends the process
            if not self._node.context.ok():  # told to end
                raise
            cause = f"{source.topic}: cannot be subscribed to: {type(error).__name__}: {error}"
            if source.topic not in self._refused:
                self._node.get_logger().error(cause)
            self._refused[source.topic] = error
            return replace(link, state=State.MISMATCH, cause=cause)
        self._refused.pop(source.topic, None)
        return link

    def _subscribe(self, source: Source, link: Link) -> None:
        self._drop(source)
        qos = profile(source.depth, link.reliable, link.latched)
        callback = functools.partial(_hear, source, source.dropped)
        kind = message_class(link.type)
        source.subscription = self._node.create_subscription(kind, source.name, callback, qos)
        source.terms = (link.type, link.reliable, link.latched)
        self._node.get_logger().info(
            f"listening to {source.topic} ({link.type}, {'reliable' if link.reliable else 'best effort'})"
        )

    def _with_advice(self, source: Source, link: Link) -> Link:
        """A link that cannot be made, with the topics that might be meant."""
        if source.types[0] not in IMAGE_TYPES:
            return link
        used = {one.topic for one in self.sources.values() if one.link.state is State.ALIVE}
        elsewhere = pictures_elsewhere(published_pictures(self._node), used)
        return replace(link, cause=f"{link.cause}; {elsewhere}") if elsewhere else link

    def info_causes(self) -> dict[str, str]:
        """By modality, in words why its camera info does not come, where the reason is on the graph."""
        found = {}
        for name, source in self.sources.items():
            if name.endswith(" info") and source.link.cause and source.link.state is not State.ALIVE:
                advice = NAME_IT if source.link.state is State.NO_PUBLISHER else ""
                found[name.removesuffix(" info")] = source.link.cause + advice
        return found

    def close(self) -> None:
        """End all subscriptions; nothing is heard any more.

        Raises:
            Exception: one of them could not be destroyed; the others were.
        """
        do_all([functools.partial(self._drop, source) for source in self.sources.values()])

    def _drop(self, source: Source) -> None:
        subscription, source.subscription, source.terms = source.subscription, None, None
        source.dropped += 1
        if subscription is not None:
            self._node.destroy_subscription(subscription)


def _hear(source: Source, dropped: int, message: Any) -> None:
    if source.dropped == dropped:  # else it comes by a subscription that should be gone
        source.callback(message)


def _hand_over(callback: Callable[[Any], None], topic: str, info: Any) -> None:
    callback(info_of_pictures(info, topic))
