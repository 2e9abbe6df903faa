"""The overlay: the picture with what was recognised drawn on it, for people to look at.

A node and a process of its own, so that drawing never delays recognition. It listens only while somebody listens to it.

It takes the recognizer's own parameters, those that say where pictures come from and which of them an answer is of, and
so the same parameter file where its section reaches both nodes (``/**``): it draws on depth where the modality is
depth, else on colour. Topics: those pictures, ``recognitions`` and both camera infos in, ``~/image`` out.
"""

from __future__ import annotations

import time
from array import array
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any

# First, for its plain word where ROS 2, or the messages, are missing.
from mmcl_ros import interfaces as _interfaces  # noqa: F401  # isort: skip

import numpy as np
from rcl_interfaces.msg import SetParametersResult
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image

from mmcl_core.errors import InputError
from mmcl_ros.cameras import CameraTrack
from mmcl_ros.declarations import declare
from mmcl_ros.detections import BoxMap, Request, View, box_map, source_view, stamp_of
from mmcl_ros.drawing import GREEN, GREY, Mark, draw, to_colour
from mmcl_ros.health import State
from mmcl_ros.links import Links, Source, check_topics, info_topic, picture_source
from mmcl_ros.message_types import INFO_TYPE, RECOGNITIONS_TYPE
from mmcl_ros.pairing import nearest
from mmcl_ros.parameters import OVERLAY_PARAMETERS, PARAMETERS, check
from mmcl_ros.process import run_node
from mmcl_ros.qos import profile
from mmcl_ros.reports import Notices

__all__ = ["OverlayNode", "main", "marks", "picture_message"]

KEPT = 20  # pictures held for answers to come, however large: half a gigabyte of 3840 x 2160
KEPT_BYTES = 1 << 28  # more are held as long as they take no more; a recognizer that answers all may be far behind
UNDRAWN = 20  # answers in a row without their picture before it is called a fault
WARN_S = 5.0  # a problem that persists is named again after so many seconds


def marks(recognitions: Sequence[Any]) -> list[Mark]:
    """What to draw of ``mmcl_ros/Recognition`` messages: green what was accepted, grey what was rejected."""
    found = []
    for one in recognitions:
        roi = (int(one.roi.x_offset), int(one.roi.y_offset), int(one.roi.width), int(one.roi.height))
        words = f"{one.label} {one.score:.2f} {one.modality}".strip()
        found.append(Mark(roi, words, GREY if one.result else GREEN))
    return found


def picture_message(header: Any, values: np.ndarray) -> Any:
    """A ``sensor_msgs/Image`` of a colour picture, uint8 [H, W, 3] RGB, under the header given."""
    height, width = values.shape[:2]
    octets = array("B", values.tobytes())  # of bytes the message checks each one, 0.1 s a picture on Humble
    return Image(header=header, height=height, width=width, encoding="rgb8", step=3 * width, data=octets)


class OverlayNode(Node):
    """See the module."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__("overlay", **arguments)
        values = declare(self, [PARAMETERS[name] for name in OVERLAY_PARAMETERS])
        for name, value in values.items():
            check(name, value)
        check_topics(self, values)
        self.add_on_set_parameters_callback(self._refuse)
        self._sensor = sensor = "depth" if values["modality"] == "depth" else "rgb"
        self._window_ns, self._registered = values["pair_window"] * 1e9, values["assume_registered"]
        self._cameras = {name: CameraTrack() for name in ("rgb", "depth")}  # boxes of another size lie by both
        self._sources: dict[str, tuple[str, str, Callable[[Any], None], str]] = {
            "image": (*picture_source(self, values, sensor), self._on_image, ""),
            "recognitions": ("recognitions", RECOGNITIONS_TYPE, self._on_recognitions, ""),
        }
        for name, camera in self._cameras.items():
            pictures, _ = picture_source(self, values, name)
            self._sources[f"{name} info"] = (info_topic(self, values, name), INFO_TYPE, camera.add, pictures)
        self._links: Links | None = None
        self._pictures: OrderedDict[int, Any] = OrderedDict()
        self._held = 0  # bytes of these
        self._waiting: Any = None  # the last answer, while its picture may still come
        self._undrawn = 0  # answers in a row whose picture has not come
        self._notices = Notices(self.get_logger().warning, self.get_logger().info)
        self._out = self.create_publisher(Image, "~/image", profile(1))
        self.create_timer(0.3, self._watch, clock=Clock(clock_type=ClockType.STEADY_TIME))

    def _refuse(self, changes: Sequence[Parameter]) -> SetParametersResult:
        new = [change.name for change in changes if change.value != self.get_parameter_or(change.name, change).value]
        fixed = ", ".join(name for name in new if name in OVERLAY_PARAMETERS)
        reason = f"{fixed}: taken at the start of the overlay alone; start it anew" if fixed else ""
        return SetParametersResult(successful=not fixed, reason=reason)

    @property
    def working(self) -> bool:
        """Whether it listens, because somebody looks."""
        return self._links is not None

    def _watch(self) -> None:
        looked_at = self._out.get_subscription_count() > 0
        if looked_at and self._links is None:
            listed = self._sources.items()
            sources = {name: Source(topic, [kind], take, 5, of) for name, (topic, kind, take, of) in listed}
            self._links = Links(self, sources, "auto")
        elif not looked_at and self._links is not None:
            self._rest(self._links)
        if self._links is not None:
            self._links.update()
            self._notices.update(self._problems(self._links), time.monotonic(), WARN_S)

    def _rest(self, links: Links) -> None:
        self._links = None
        self._pictures.clear()
        self._held = 0
        self._waiting = None
        self._undrawn = 0
        try:
            links.close()
        except Exception as error:  # raised from a timer, it ends the process
            if not self.context.ok():  # told to end
                raise
            self.get_logger().error(f"a subscription could not be ended: {type(error).__name__}: {error}")

    def _problems(self, links: Links) -> dict[str, str]:
        """Why nothing can be drawn: words by kind."""
        image, answers = links.sources["image"], links.sources["recognitions"]
        found = {"no answers": answers.link.cause} if answers.link.cause else {}
        if image.link.cause:
            found["no pictures"] = image.link.cause
        if image.link.state is State.NO_PUBLISHER:
            found["no pictures"] += (
                f"; the overlay goes by its own {', '.join(OVERLAY_PARAMETERS)}, or those under /** of a file"
            )
        elif self._undrawn >= UNDRAWN:
            found["pictures of other stamps"] = (
                f"the pictures of the last {self._undrawn} answers did not come on {image.topic}; is it the topic that "
                "the recognizer answers from, and its detector looks at?"
            )
            if self._pictures and stamp_of(self._waiting.header) < min(self._pictures):
                found["pictures of other stamps"] = (
                    f"the last {self._undrawn} answers are of pictures before the newest {len(self._pictures)} on "
                    f"{image.topic}, and no more are held: the recognizer is too far behind to be drawn"
                )
        return found

    def _on_image(self, message: Any) -> None:
        stamp = stamp_of(message.header)
        self._held += len(message.data) - len(self._pictures.pop(stamp).data if stamp in self._pictures else ())
        self._pictures[stamp] = message
        while len(self._pictures) > KEPT and self._held > KEPT_BYTES:
            self._held -= len(self._pictures.popitem(last=False)[1].data)
        if self._waiting is not None and (picture := self._picture_of(stamp_of(self._waiting.header))):
            self._publish(picture, self._waiting)

    def _on_recognitions(self, message: Any) -> None:
        if picture := self._picture_of(stamp_of(message.header)):
            self._publish(picture, message)
        else:
            self._waiting = message  # the answer was faster than the picture
            self._undrawn += 1

    def _picture_of(self, stamp: int) -> Any:
        """The picture that the recognizer takes an answer's regions to be of; None while it may still have to come."""
        if stamp in self._pictures or not self._pictures:
            return self._pictures.get(stamp)
        if stamp == 0:
            return next(reversed(self._pictures.values()))
        stamps = sorted(self._pictures)
        found = stamps[nearest(stamps, stamp) or 0]
        settled = stamps[-1] > stamp and abs(found - stamp) <= self._window_ns
        return self._pictures[found] if settled else None

    def _publish(self, picture: Any, answer: Any) -> None:
        self._undrawn, self._waiting = 0, None
        try:
            frames = (answer.header.frame_id, picture.header.frame_id)
            if self._sensor == "rgb" and all(frames) and frames[0] != frames[1] and not self._registered:
                raise InputError(f"the answers are seen from {frames[0]}, the pictures from {frames[1]}: not drawn")
            values = to_colour(picture, self._sensor)
            mapped = self._map(answer, picture.header, values.shape[1], values.shape[0])
            drawn = draw(values, marks(answer.recognitions), mapped=mapped)
        except InputError as error:
            self.get_logger().warning(str(error), throttle_duration_sec=5.0)
            return
        self._out.publish(picture_message(picture.header, drawn))

    def _map(self, answer: Any, header: Any, width: int, height: int) -> BoxMap | None:
        """How boxes of an answer map to a picture: as the recognizer has looked for them; None: they are of its size.

        Raises:
            InputError: it is not known how.
        """
        if not (answer.width and answer.height):
            return None
        infos = {name: camera.at(stamp_of(header)) for name, camera in self._cameras.items()}
        here = View.of(header, width, height, infos.pop(self._sensor))
        boxes = Request((), answer.header.frame_id, answer.width, answer.height)
        mapped = box_map(source_view(boxes, [here], *infos.values()), here, assume_registered=True)
        if isinstance(mapped, str):
            raise InputError(f"{mapped}: not drawn")
        return mapped


def main(args: list[str] | None = None) -> int:
    """Run the node until it is told to end."""
    return run_node(OverlayNode, args, __doc__)


if __name__ == "__main__":
    raise SystemExit(main())
