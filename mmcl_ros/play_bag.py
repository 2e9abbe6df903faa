"""Play a rosbag2 recording into a running recognizer, and print the labels and the latency of what comes back.

Needs rclpy and rosbags, not rosbag2: messages are published as they were recorded, byte for byte, and at the pace at
which they were recorded, whatever their stamps say; pauses are cut to 5 seconds. It starts when somebody listens, so
that nothing is missed, and ends when the answers have come.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import math
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from mmcl_core.cli import add_logging_options, command_parser, run_command, set_up_logging
from mmcl_core.crops import UNKNOWN
from mmcl_core.errors import ConfigError, DataError, InputError, MmclError
from mmcl_core.words import counted
from mmcl_ros.bag_options import add_topic_options
from mmcl_ros.bagfile import Bag, Topics
from mmcl_ros.detections import Box, View, intersection, overlap, stamp_of
from mmcl_ros.frames import DECODERS
from mmcl_ros.interfaces import message_class, optional_class
from mmcl_ros.message_types import IMAGE_TYPES, INFO_TYPE, RECOGNITIONS_TYPE, REGION_TYPES, REGIONS_TYPE
from mmcl_ros.qos import own_answer, profile
from mmcl_ros.truth import Truth, is_unknown, read_truth

__all__ = ["Listener", "drawn_in", "main", "play", "truth_messages"]

logger = logging.getLogger(__name__)

SAME = 0.5  # intersection over union from which on a region and a true box are of one object
PAUSE_S = 5.0  # longest pause between two messages, seconds of recorded time
SETTLED_S = 2.0  # no more listeners are expected after so long without a new one
QUIET_S = 1.5  # no more answers are expected after so long without one where all requests are answered
PATIENT_S = 6.5  # where some are not: a recognizer that answers every picture waits five seconds for a sensor
EXAMPLES = """\
  python -m mmcl_ros.play_bag --bag demo/ros/bag --truth demo/ros/truth.csv
  python -m mmcl_ros.play_bag --bag demo/ros/bag --rate 0.5 --ros-args -r /camera/image_raw:=/rgb/image"""


@dataclass
class Listener:
    """Collects answers: by stamp the message, and the seconds since the last message of that stamp was sent.

    Attributes:
        classes: of the model; empty: not heard.
        sent: when messages of a stamp were sent last, seconds of a steady clock.
        answers, latencies: by stamp.
    """

    tell: Callable[[str], Any] | None = None
    classes: Sequence[str] = ()
    sent: dict[int, float] = field(default_factory=dict)
    answers: dict[int, Any] = field(default_factory=dict)
    latencies: dict[int, float] = field(default_factory=dict)

    def listen(self, node: Any) -> None:
        """Subscribe to the answers, and to the classes of a recognizer of the usual name."""
        node.create_subscription(message_class(RECOGNITIONS_TYPE), "recognitions", self.receive, profile(1000))
        labels = message_class("mmcl_ros/msg/LabelInfo")
        node.create_subscription(labels, "recognizer/labels", self.learn, profile(1, latched=True))

    def receive(self, message: Any) -> None:
        """Take in a ``RecognitionArray``."""
        now, stamp = time.monotonic(), stamp_of(message.header)
        self.answers[stamp] = message
        if stamp in self.sent:
            self.latencies[stamp] = now - self.sent[stamp]
        if self.tell:
            listed = [f"{one.label} {one.score:.2f}" for one in message.recognitions]
            self.tell(f"{stamp / 1e9:.3f}  {', '.join(listed) or 'nothing to recognise'}")

    def learn(self, message: Any) -> None:
        """Take in a ``LabelInfo``."""
        self.classes = tuple(message.labels)

    def summary(self, truths: Sequence[Truth] = ()) -> str:
        """The latency, and with the truth the accuracy, in words; unknown objects as in ``evaluate_bag``."""
        words = counted(len(self.answers), "answer")
        missing = sum(truth.request.stamp not in self.answers for truth in truths)
        words += f", none to {missing} of the {counted(len(truths), 'picture')} with true boxes" if missing else ""
        if self.latencies:
            p50, p99 = np.percentile(list(self.latencies.values()), [50, 99]) * 1e3
            words += f"; from the last message sent to the answer received: median {p50:.1f} ms, 99 % {p99:.1f} ms"
        right, unknown = [], []
        for truth in truths:
            answer = self.answers.get(truth.request.stamp)
            for box, label in zip(truth.request.boxes, truth.labels, strict=True):
                said = "" if answer is None else _said(answer, box)
                if is_unknown(label, self.classes):
                    unknown.append(said not in ("", UNKNOWN))
                elif label:
                    right.append(said == label)
        words += f"; {sum(right)} of {counted(len(right), 'label')} right" if right else ""
        return words + (f"; {sum(unknown)} of {counted(len(unknown), 'unknown object')} answered" if unknown else "")


def _said(answer: Any, box: Box) -> str:
    """The label of the region that a true box is; the regions of a bag need not be those of a table of truth."""
    shown = Box("", 0, 0, answer.width or math.inf, answer.height or math.inf)
    best, label = SAME, ""
    for one in answer.recognitions:
        left, top = one.roi.x_offset, one.roi.y_offset
        alike = overlap(Box("", left, top, left + one.roi.width, top + one.roi.height), intersection(box, shown))
        if alike > best:
            best, label = alike, one.label
    return label


class Pace:
    """Waits before each message as long as it came after the one before it, but for long pauses.

    Args:
        rate: speed relative to the recorded time.
    """

    def __init__(self, rate: float) -> None:
        self._rate, self._due, self._last = rate, 0.0, 0
        self._told = False

    def wait(self, recorded: int) -> None:
        """Wait until a message is due; ``recorded`` is the time of its recording in nanoseconds."""
        pause = (recorded - self._last) / 1e9 if self._due else 0.0
        self._due, self._last = self._due or time.monotonic(), recorded
        if pause > PAUSE_S and not self._told:
            self._told = True
            logger.info("the recording pauses for %.1f s; this and all other pauses are cut to %g s", pause, PAUSE_S)
        self._due += min(max(0.0, pause), PAUSE_S) / self._rate
        time.sleep(max(0.0, self._due - time.monotonic()))


def play(
    node: Any,
    bag: Bag,
    *,
    rate: float = 1.0,
    reliable: bool = True,
    requests: Sequence[Any] = (),
    sent: dict[int, float] | None = None,
    patience: float = 60.0,
) -> int:
    """Publish a recording.

    Args:
        node: made by rclpy; something else spins it.
        bag: a rosbag2.
        rate: speed relative to the recorded time.
        reliable: quality of service offered.
        requests: ``RegionArray`` messages, each to be sent after the picture of its stamp.
        sent: told when messages of a stamp were sent.
        patience: seconds to wait for listeners.

    Returns:
        The number of messages sent.

    Raises:
        DataError: the regions are of a type that is not installed, and there are no other requests.
        MmclError: nobody listens.
    """
    publishers, own = _publishers(node, bag, reliable, requests)
    topics = (bag.topics.rgb, bag.topics.depth, bag.topics.detections, *dict.fromkeys(bag.topics.infos.values()))
    awaited = [publishers[topic] for topic in topics if topic in publishers]
    pictures = [publishers[topic] for topic in (bag.topics.rgb, bag.topics.depth) if topic in publishers]
    _wait_for_listeners([*awaited, own] if own else awaited, pictures, patience)
    waiting = deque(sorted(requests, key=lambda message: stamp_of(message.header)))
    pace, count = Pace(rate), 0
    drawn_on = bag.topics.rgb or bag.topics.depth  # the stamps of other topics may be of another clock
    for topic, stamp, recorded, raw in bag.raw(*publishers):
        while topic == drawn_on and waiting and stamp_of(waiting[0].header) < stamp:
            _send(own, waiting.popleft(), sent)
        pace.wait(recorded)
        publishers[topic].publish(raw)
        if sent is not None:
            sent[stamp] = time.monotonic()
        count += 1
    for message in waiting:
        _send(own, message, sent)
    return count


def _publishers(node: Any, bag: Bag, reliable: bool, requests: Sequence[Any]) -> tuple[dict[str, Any], Any]:
    """Publishers by topic of the bag, and one for requests from elsewhere."""
    made = {}
    for topic, kind in bag.kinds.items():
        if kind not in (*IMAGE_TYPES, INFO_TYPE, *REGION_TYPES) or own_answer(topic):
            continue  # what one takes in, not what one has answered
        found = optional_class(kind)
        if found is not None:
            made[topic] = node.create_publisher(found, topic, profile(100, reliable))
            continue
        words = f"{topic} carries {kind}, and the package {kind.split('/')[0]} is not installed"
        if topic == bag.topics.detections and not requests:
            raise DataError(f"{bag.path}: {words}; install it, or give the true boxes as a CSV file (--truth)")
        logger.warning("%s: %s; it is left out", bag.path, words)
    own = node.create_publisher(type(requests[0]), "detections", profile(100)) if requests else None
    return made, own


def _send(publisher: Any, message: Any, sent: dict[int, float] | None) -> None:
    publisher.publish(message)
    if sent is not None:
        sent[stamp_of(message.header)] = time.monotonic()


def _wait_for_listeners(publishers: Sequence[Any], pictures: Sequence[Any], patience: float) -> None:
    """Until all have a listener; a recognizer of one sensor leaves some alone, so some are enough once no more come.

    One of them has to be of pictures: on a busy computer that subscription may follow the others by seconds.
    """
    start = changed = time.monotonic()
    before = 0
    while time.monotonic() < start + patience:
        heard = sum(one.get_subscription_count() > 0 for one in publishers)
        if heard != before:
            before, changed = heard, time.monotonic()
        enough = any(one.get_subscription_count() for one in pictures) and time.monotonic() > changed + SETTLED_S
        if heard == len(publishers) or enough:
            return
        time.sleep(0.02)
    names = ", ".join(one.topic_name for one in publishers)
    raise MmclError(f"nobody listens to {names}; start the recognizer, or remap (--ros-args -r from:=to)")


def truth_messages(truths: Sequence[Truth], picture: View) -> list[Any]:
    """The true boxes as ``RegionArray`` messages; of ``picture`` where they state no size.

    A recognizer of depth alone does not hear the colour picture, and could not tell what size the boxes are for.
    """
    array, region = message_class(REGIONS_TYPE), message_class("mmcl_ros/msg/Region")
    messages = []
    for truth in truths:
        message = array()
        message.header.frame_id = picture.frame_id
        message.header.stamp.sec, message.header.stamp.nanosec = divmod(truth.request.stamp, 1_000_000_000)
        message.width, message.height = picture.width, picture.height
        if truth.request.width and truth.request.height:
            message.width, message.height = truth.request.width, truth.request.height
        for box in truth.request.boxes:
            one = region(id=box.id)
            if np.isfinite([box.left, box.top, box.right, box.bottom]).all():  # one that is not stays empty
                left, top = max(0, math.floor(box.left)), max(0, math.floor(box.top))
                one.roi.x_offset, one.roi.y_offset = left, top
                one.roi.width, one.roi.height = max(0, math.ceil(box.right) - left), max(0, math.ceil(box.bottom) - top)
            message.regions.append(one)
        messages.append(message)
    return messages


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    import rclpy
    from rclpy.signals import SignalHandlerOptions
    from rclpy.utilities import remove_ros_args

    from mmcl_ros.process import start

    parser = command_parser("mmcl_ros.play_bag", __doc__, EXAMPLES)
    parser.add_argument("--bag", type=Path, required=True, help="rosbag2 folder")
    add_topic_options(parser)
    parser.add_argument("--truth", type=Path, help="CSV of true boxes: sent as regions where the bag has none")
    parser.add_argument("--rate", type=float, default=1.0, help="times the recorded speed (default: 1)")
    parser.add_argument("--best-effort", action="store_true", help="offer best effort, as many cameras do")
    parser.add_argument("--patience", type=float, default=60.0, help="seconds to wait for a recognizer (default: 60)")
    parser.add_argument("--summary", action="store_true", help="print the summary only")
    add_logging_options(parser)
    line = list(sys.argv if arguments is None else ["play_bag", *arguments])

    def run() -> None:
        # Handlers of rclpy's own would take the graph down under the player before it can say how far it has come.
        start(line, signal_handler_options=SignalHandlerOptions.NO)
        options = parser.parse_args(remove_ros_args(line)[1:])
        set_up_logging(options.log_level)
        _run(options)

    try:
        return run_command(run)
    finally:
        rclpy.try_shutdown()


def _run(options: argparse.Namespace) -> None:
    import rclpy
    from rclpy.executors import SingleThreadedExecutor

    if not options.rate > 0:
        raise ConfigError(f"--rate is {options.rate:g}; give a number above 0, such as 0.5 for half the speed")
    if not options.patience >= 0:
        raise ConfigError(f"--patience is {options.patience:g}; give a number of seconds, 0 or more")
    truths = read_truth(options.truth) if options.truth else []
    node = rclpy.create_node("play_bag")
    listener = Listener(None if options.summary else print)
    listener.listen(node)
    executor = SingleThreadedExecutor()
    executor.add_node(node)
    thread = threading.Thread(target=executor.spin, daemon=True)
    thread.start()
    try:
        with Bag(options.bag, Topics(options.rgb_topic, options.depth_topic)) as bag:
            if bag.path.suffix == ".bag":
                raise DataError(f"{bag.path} is a ROS 1 bag; convert it: rosbags-convert --src ... --dst ...")
            bag.require_pictures()
            requests = [] if _sends_regions(bag) else truth_messages(truths, drawn_in(bag))
            offer = {"rate": options.rate, "reliable": not options.best_effort, "patience": options.patience}
            play(node, bag, requests=requests, sent=listener.sent, **offer)
        _wait_until_quiet(listener.answers, listener.sent, [truth.request.stamp for truth in truths])
        _warn_if_alone(node, [topic for topic in (bag.topics.rgb, bag.topics.depth) if topic])
    except KeyboardInterrupt:
        print(f"stopped after the messages of {counted(len(listener.sent), 'stamp')}: {listener.summary()}", flush=True)
        raise
    finally:
        executor.shutdown()
        thread.join()
        node.destroy_node()
    print(listener.summary(truths))
    if not listener.answers:
        raise MmclError("no answers came; see the log of the recognizer, or its topic recognizer/status")


def _warn_if_alone(node: Any, pictures: Sequence[str]) -> None:
    """Say so where nobody listens to the pictures any more: the answers are then not those to all of the recording."""
    names = [node.resolve_topic_name(topic) for topic in pictures]
    if not any(map(node.count_subscribers, names)):
        words = (
            "nobody listens to %s any more: the recognizer has ended, or was deactivated, before the recording ended"
        )
        logger.warning(words, " or ".join(names))


def _sends_regions(bag: Bag) -> bool:
    """Whether the bag holds regions, of a type that can be published here."""
    topic = bag.topics.detections
    return bool(topic) and optional_class(bag.kinds[topic]) is not None


def drawn_in(bag: Bag) -> View:
    """Frame and size of the picture that true boxes are of: colour, depth where there is none."""
    name = "rgb" if bag.topics.rgb else "depth"
    for _, message in bag.messages(getattr(bag.topics, name)):
        with contextlib.suppress(InputError):  # one that cannot be decoded; the next one may
            height, width = DECODERS[name](message).shape[:2]
            return View(str(message.header.frame_id), width, height)
    return View("", 0, 0)


def _wait_until_quiet(answers: Mapping[int, Any], sent: Collection[int], expected: Sequence[int]) -> None:
    """Until no more answers come to what was sent, however many a slow recognizer still has to give."""
    count, since = -1, time.monotonic()
    while True:
        complete = expected and all(stamp in answers for stamp in expected)
        if time.monotonic() > since + (QUIET_S if complete else PATIENT_S):
            return
        come = sum(stamp in answers for stamp in sent)  # those to a camera that runs beside never end
        if come != count:
            count, since = come, time.monotonic()
        time.sleep(0.05)


if __name__ == "__main__":
    raise SystemExit(main())
