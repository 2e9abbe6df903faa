"""Finding the publisher of a topic and matching its quality of service, or saying why that cannot be done.

Cameras publish with all kinds of settings, and a subscription that asks for more than is offered stays silent without
an error. So the node asks the graph what is offered, and asks for exactly that.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mmcl_ros.health import State
from mmcl_ros.message_types import COMPRESSED_TYPE, IMAGE_TYPE, IMAGE_TYPES, REGION_TYPES

if TYPE_CHECKING:
    from rclpy.qos import QoSProfile

__all__ = [
    "Link",
    "Offer",
    "decide",
    "info_beside",
    "offers_of",
    "own_answer",
    "pictures_elsewhere",
    "profile",
    "published_pictures",
    "without_transport",
]

TRANSPORTS = ("compressed", "compressedDepth")
LISTED = 4  # topics that are named, of those that might be meant


@dataclass(frozen=True)
class Offer:
    """What one publisher of a topic offers."""

    node: str
    type: str
    reliable: bool
    latched: bool = False


@dataclass(frozen=True)
class Link:
    """How to subscribe to a topic.

    Attributes:
        state: ALIVE when a publisher can be matched, else NO_PUBLISHER or MISMATCH.
        cause: in words what is wrong; empty when nothing is.
        type: message type to subscribe with; empty: do not subscribe.
        reliable, latched: what to ask for.
    """

    state: State
    cause: str = ""
    type: str = ""
    reliable: bool = False
    latched: bool = False


def decide(topic: str, offers: Sequence[Offer], types: Sequence[str], reliability: str = "auto") -> Link:
    """Choose type and quality of service for a subscription.

    Args:
        topic: resolved name, for the messages.
        offers: all publishers of the topic.
        types: message types that can be read, the preferred one first.
        reliability: ``auto`` asks for what all publishers of that type can give; ``reliable`` or ``best_effort``
            insist.
    """
    if not offers:
        return Link(State.NO_PUBLISHER, f"nobody publishes {topic} ({' or '.join(types)})")
    chosen = next((name for name in types if any(offer.type == name for offer in offers)), None)
    if chosen is None:
        found = ", ".join(sorted({f"{offer.type} by {offer.node}" for offer in offers}))
        words = f"{topic} carries {found}; {' or '.join(types)} is needed"
        for kind in REGION_TYPES if set(types) & set(REGION_TYPES) else ():
            if any(offer.type == kind for offer in offers):  # of a package that is not there
                words += f", or install {kind.partition('/')[0]} for the Python that runs this node, which reads {kind}"
        return Link(State.MISMATCH, words)
    fitting = [offer for offer in offers if offer.type == chosen]
    weak = sorted({offer.node for offer in fitting if not offer.reliable})
    latched = all(offer.latched for offer in fitting)
    if reliability == "reliable" and weak:
        cause = f"{topic}: {', '.join(weak)} publishes best effort, but qos asks for reliable; set qos to auto"
        state = State.MISMATCH if len(weak) == len({offer.node for offer in fitting}) else State.ALIVE
        return Link(state, cause, chosen, reliable=True, latched=latched)
    return Link(State.ALIVE, "", chosen, reliable=not weak and reliability != "best_effort", latched=latched)


def own_answer(topic: str) -> bool:
    """Whether a topic carries what this package answers: the overlay's picture, or the answers as detections."""
    return f"/{topic}".endswith(("/overlay/image", "/recognitions_2d"))


def info_beside(topic: str) -> str:
    """The camera info topic that belongs to a picture topic by the rule of image_transport: ``camera_info`` beside it.

    The name of a transport at the end of the topic is no part of it.
    """
    return f"{without_transport(topic).rpartition('/')[0]}/camera_info"


def without_transport(topic: str) -> str:
    """A picture topic without the name of a transport at its end."""
    above, _, name = topic.rpartition("/")
    return above if name in TRANSPORTS else topic


def pictures_elsewhere(published: Mapping[str, Sequence[str]], used: Collection[str]) -> str:
    """In words where pictures can be had, for somebody who has named the wrong topic or transport; empty: nowhere.

    Args:
        published: types by topic, of the topics that have a publisher.
        used: topics that are listened to; they are no alternative. Nor is what an overlay draws.
    """
    found = []
    for topic, types in sorted(published.items()):
        if topic in used or own_answer(topic):
            continue
        base, _, transport = topic.rpartition("/")
        if IMAGE_TYPE in types:
            found.append(f"{topic} (transport raw)")
        elif COMPRESSED_TYPE in types and transport in TRANSPORTS:
            found.append(f"{base} (transport {transport})")
        elif COMPRESSED_TYPE in types:
            found.append(f"{topic} ({COMPRESSED_TYPE})")
    more = f" and {len(found) - LISTED} more" if len(found) > LISTED else ""
    return f"pictures are published on {', '.join(found[:LISTED])}{more}" if found else ""


def published_pictures(node: Any) -> dict[str, list[str]]:
    """Types by topic, of all topics on which somebody publishes pictures, as a node sees it."""
    found = {}
    for name, types in node.get_topic_names_and_types():
        if len(types) > 1 and node.resolve_topic_name(name) == name:  # those that others ask for are among them
            types = [offer.type for offer in offers_of(node, name)]
        if {*types} & {*IMAGE_TYPES} and node.count_publishers(name):
            found[name] = types
    return found


def offers_of(node: Any, topic: str) -> list[Offer]:
    """What the publishers of a topic offer at this moment, as a node sees it; the node remaps the name itself."""
    from rclpy.qos import DurabilityPolicy, ReliabilityPolicy

    return [
        Offer(
            node=f"{info.node_namespace.rstrip('/')}/{info.node_name}",
            type=info.topic_type,
            reliable=info.qos_profile.reliability != ReliabilityPolicy.BEST_EFFORT,
            latched=info.qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL,
        )
        for info in node.get_publishers_info_by_topic(topic)
    ]


def profile(depth: int, reliable: bool = True, latched: bool = False) -> QoSProfile:
    """A keep-last profile."""
    from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )
