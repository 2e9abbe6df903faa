"""Measures of the running node, one JSON line a figure; real processes over real DDS.

``latency``: time from a picture's receipt to the answer's publication, apart from inference. ``loss``: pictures that
get lost between two processes. ``malformed``: random nonsense instead of colour, depth and regions; the node has to
live and to count it. ``memory``: growth of the node's resident memory. Without ``--model`` a recogniser takes its place
that costs nothing: what is measured is the node. With the shipped profile, unless FASTDDS_DEFAULT_PROFILES_FILE is set.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mmcl_core.cli import add_logging_options, command_parser, run_command
from mmcl_core.errors import ConfigError, InputError, MmclError
from mmcl_core.presets import shared

__all__ = ["COLOUR_OR_NOT", "DEPTH_OR_NOT", "main", "random_image", "shipped_profile"]

WIDTH, HEIGHT = 640, 480
EXAMPLES = """\
  python -m mmcl_ros.benchmark latency --model demo/run --boxes 10 --seconds 20
  python -m mmcl_ros.benchmark loss --frames 900 --rate 30 --best-effort
  python -m mmcl_ros.benchmark malformed --count 10000
  python -m mmcl_ros.benchmark memory --minutes 10 --rate 30"""
COLOUR_OR_NOT = ("rgb8", "bgr8", "mono8", "mono16", "yuv422", "bayer_rggb8", "32FC1", "", "rgb9", "\u00fc" * 9)
DEPTH_OR_NOT = ("16UC1", "32FC1", "mono16", "rgb8", "", "16uc1", "64FC1", "\u00fc" * 9)


def shipped_profile() -> Path | None:
    """The profile of Fast DDS that comes with the package; None where its share is not found."""
    return shared("mmcl_ros", "config/fastdds.xml")


class Rig:
    """A recognizer in a process of its own, and a client that publishes to it and reads its status."""

    def __init__(self, parameters: dict[str, Any], model: str, best_effort: bool = False) -> None:
        import rclpy
        from sensor_msgs.msg import Image

        from mmcl_ros import msg
        from mmcl_ros.qos import profile

        environment = dict(os.environ)
        environment.pop("_ROS_WHEELS_BOOTSTRAP_COMPLETE", None)
        given = {"model": model or "stand-in", "status_period": 0.2, "warn_period": 3600.0, **parameters}
        settings = [part for name, value in given.items() for part in ("-p", f"{name}:={value}")]
        line = [sys.executable, "-m", "mmcl_ros.recognizer_node" if model else "mmcl_ros.constant_recognizer"]
        rclpy.init()
        self.node = rclpy.create_node("benchmark")
        self.status: Any = None
        self.answers = 0
        quality = profile(100, reliable=not best_effort)
        self.rgb = self.node.create_publisher(Image, "rgb/image", quality)
        self.depth = self.node.create_publisher(Image, "depth/image", quality)
        self.regions = self.node.create_publisher(msg.RegionArray, "detections", profile(100))
        self.node.create_subscription(msg.RecognizerStatus, "recognizer/status", self._on_status, profile(10))
        self.node.create_subscription(msg.RecognitionArray, "recognitions", self._on_answer, profile(1000))
        self.process = subprocess.Popen([*line, "--ros-args", "--log-level", "error", *settings], env=environment)

    def _on_status(self, message: Any) -> None:
        self.status = message

    def _on_answer(self, _: Any) -> None:
        self.answers += 1

    def spin(self, seconds: float) -> None:
        """Let messages in for a while."""
        import rclpy
        from rclpy.executors import ExternalShutdownException

        end = time.monotonic() + seconds
        try:
            while (left := end - time.monotonic()) > 0:
                rclpy.spin_once(self.node, timeout_sec=left)
        except ExternalShutdownException:  # how rclpy answers SIGTERM
            raise KeyboardInterrupt from None

    def wait(self, condition: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
        """Spin until something holds."""
        end = time.monotonic() + seconds
        while not condition():
            if self.process.poll() is not None:
                raise MmclError(f"the node has ended with status {self.process.returncode} while waiting for {what}")
            if self.status is not None and self.status.state == "unconfigured" and self.status.cause:
                raise MmclError(self.status.cause)
            if time.monotonic() > end:
                raise MmclError(f"waited {seconds:g} s for {what}")
            self.spin(0.02)

    def listening(self, *publishers: Any) -> None:
        """Wait until the node listens to all of these, and its first status has come."""
        self.wait(lambda: all(one.get_subscription_count() for one in publishers), "the node to listen")
        self.wait(lambda: self.status is not None and self.status.state == "active", "the node's status")

    def keeping_up(self, sent: int) -> None:
        """Wait until no more than 50 of the messages sent so far lack their answer."""
        self.wait(lambda: self.answers >= sent - 50, "answers to keep up")

    def quiet(self, count: Callable[[], int], expected: int, patience: float = 10.0) -> None:
        """Spin until a count is complete, or has not changed for a while."""
        last, since = count(), time.monotonic()
        while last < expected and time.monotonic() - since < patience:
            self.spin(0.3)
            if count() != last:
                last, since = count(), time.monotonic()
        self.spin(0.5)

    def resident(self) -> float:
        """Memory of the node's process in MiB."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        return 0.0

    def close(self) -> None:
        """End both."""
        import rclpy

        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
        self.node.destroy_node()
        rclpy.try_shutdown()


@contextmanager
def rig(parameters: dict[str, Any], model: str = "", best_effort: bool = False) -> Iterator[Rig]:
    """A rig that is closed in the end."""
    made = Rig(parameters, model, best_effort)
    try:
        yield made
    finally:
        made.close()


def paced(seconds: float, rate: float, spin: Callable[[float], None]) -> Iterator[int]:
    """Numbers at a steady rate, one at least; what is left of each period is spent spinning."""
    start = time.monotonic()
    for number in range(max(1, round(seconds * rate))):
        spin(max(0.0, start + number / rate - time.monotonic()))
        yield number


def picture(number: int, depth: bool = False) -> Any:
    """A 640 x 480 picture with a stamp of its own."""
    from sensor_msgs.msg import Image

    shape, encoding, kind = ((HEIGHT, WIDTH), "16UC1", np.uint16) if depth else ((HEIGHT, WIDTH, 3), "bgr8", np.uint8)
    values = np.full(shape, 100 + number % 100, kind)
    message = Image(height=HEIGHT, width=WIDTH, encoding=encoding, step=values.strides[0])
    message.data.frombytes(values.tobytes())
    return stamp(message, number)


def stamp(message: Any, number: int) -> Any:
    """Frame number as a stamp at 30 Hz."""
    message.header.frame_id = "camera"
    message.header.stamp.sec, message.header.stamp.nanosec = 1 + number // 30, number % 30 * 33_000_000
    return message


def boxes(number: int, count: int) -> Any:
    """Regions spread over the picture, the hundred and first where the first one is."""
    from mmcl_ros.msg import Region, RegionArray

    message = stamp(RegionArray(), number)
    for index in range(count):
        one = Region(id=str(index))
        one.roi.x_offset, one.roi.y_offset, one.roi.width, one.roi.height = (
            50 * (index % 10),
            40 * (index // 10 % 10),
            120,
            90,
        )
        message.regions.append(one)
    return message


def random_image(rng: np.random.Generator, encodings: Sequence[str] = COLOUR_OR_NOT) -> Any:
    """An image message in which most things may be wrong."""
    from sensor_msgs.msg import Image

    height, width = (int(value) for value in rng.integers(0, 40, 2))
    message = Image(height=height, width=width, encoding=str(rng.choice(encodings)), is_bigendian=int(rng.integers(2)))
    message.step = int(rng.choice([0, width, 2 * width, 3 * width, 4 * width + 5, 2**32 - 1]))
    if rng.random() < 0.1:
        message.height = int(rng.choice([2**32 - 1, 2**31, 10**6]))
    message.data.frombytes(rng.bytes(int(rng.integers(0, 6000))))
    message.header.stamp.sec = int(rng.integers(-(2**31), 2**31)) if rng.random() < 0.3 else int(rng.integers(0, 3))
    message.header.stamp.nanosec = int(rng.integers(0, 2**32))
    message.header.frame_id = str(rng.choice(["camera", "", "elsewhere"]))
    return message


def measure_latency(options: argparse.Namespace) -> dict[str, Any]:
    """Percentiles per stage with pictures of both sensors and some boxes at a steady rate."""
    parameters = {"modality": options.modality, "roi_source": "detections"}
    with rig(parameters, options.model) as made:
        wanted = {"rgb": [made.rgb], "depth": [made.depth]}.get(options.modality, [made.rgb, made.depth])
        made.listening(*wanted, made.regions)
        for number in paced(options.seconds, options.rate, made.spin):
            for publisher in wanted:
                publisher.publish(picture(number, publisher is made.depth))
            made.regions.publish(boxes(number, options.boxes))
        made.spin(1.0)
        stages = {one.stage: {"p50": one.p50, "p99": one.p99} for one in made.status.latencies}
        counts = {"sent": number + 1, "answered": made.status.processed, "dropped": made.status.dropped}
    return {
        "boxes": options.boxes,
        "modality": options.modality,
        "model": options.model or "stand-in",
        **counts,
        "ms": stages,
    }


def measure_loss(options: argparse.Namespace) -> dict[str, Any]:
    """Pictures sent and received by the node."""
    parameters = {"modality": "rgb", "roi_source": "full_image", "policy": "every", "queue": 1000}
    with rig(parameters, best_effort=options.best_effort) as made:
        made.listening(made.rgb)
        for number in paced(options.frames / options.rate, options.rate, made.spin):
            made.rgb.publish(picture(number))
        made.quiet(lambda: made.status.received, options.frames)
        received, processed = made.status.received, made.status.processed
    return {
        "reliable": not options.best_effort,
        "profile": "shipped" if str(shipped_profile()) in os.environ.values() else "other",
        "sent": options.frames,
        "received": received,
        "answered": processed,
        "lost": options.frames - received,
    }


def measure_malformed(options: argparse.Namespace) -> dict[str, Any]:
    """A third each: random colour pictures, random depth pictures, and random regions on good pictures."""
    from mmcl_ros.images import decode_depth, decode_rgb

    rng = np.random.default_rng(options.seed)
    third = options.count // 3
    return {
        "rgb": malformed_pictures("rgb", decode_rgb, COLOUR_OR_NOT, third, rng),
        "depth": malformed_pictures("depth", decode_depth, DEPTH_OR_NOT, third, rng),
        "regions": malformed_regions(options.count - 2 * third, rng),
    }


def malformed_pictures(
    modality: str,
    decode: Callable[[Any], np.ndarray],
    encodings: Sequence[str],
    count: int,
    rng: np.random.Generator,
) -> dict[str, Any]:
    """Random pictures; those that cannot be decoded, or are too small to be a region, counted here and by the node."""
    parameters = {"modality": modality, "roi_source": "full_image", "policy": "every", "queue": 1000}
    with rig(parameters | {"min_depth_valid": 0.0}) as made:
        publisher = made.rgb if modality == "rgb" else made.depth
        made.listening(publisher)
        broken = 0
        for number in range(count):
            message = random_image(rng, encodings)
            try:
                broken += min(decode(message).shape[:2]) < 4
            except InputError:
                broken += 1
            publisher.publish(message)
            made.keeping_up(number)
        return malformed_counts(made, count, broken)


def malformed_regions(count: int, rng: np.random.Generator) -> dict[str, Any]:
    """Regions with random edges; those that are no boxes in the picture counted here and by the node."""
    parameters = {"modality": "rgb", "roi_source": "detections", "policy": "every", "queue": 1000}
    with rig(parameters | {"max_wait": 0.0, "box_scale": 0.0}) as made:
        made.listening(made.rgb, made.regions)
        made.rgb.publish(picture(0))
        made.spin(0.5)
        broken = 0
        for number in range(count):
            message = boxes(0, 1)
            roi = message.regions[0].roi
            edges = [int(value) for value in rng.choice([0, 3, 50, 639, 640, 2**32 - 1], 4)]
            roi.x_offset, roi.y_offset, roi.width, roi.height = edges
            width, height = (min(edges[k] + edges[k + 2], size) - edges[k] for k, size in ((0, WIDTH), (1, HEIGHT)))
            broken += min(width, height) < 4
            if number % 100 == 0:
                made.rgb.publish(picture(0))
            made.regions.publish(message)
            made.keeping_up(number)
        return malformed_counts(made, count, broken)


def malformed_counts(made: Rig, sent: int, broken: int) -> dict[str, Any]:
    """What was sent, how much of it was broken, and how much of both the node has noticed."""
    made.quiet(lambda: made.status.processed, sent)
    counts = {"sent": sent, "broken": broken, "answered": made.status.processed, "counted": made.status.malformed}
    return counts | {"alive": made.process.poll() is None}


def measure_memory(options: argparse.Namespace) -> dict[str, Any]:
    """Resident memory of the node over time, the first tenth left out as warming up."""
    parameters = {"modality": "rgbd", "roi_source": "detections"}
    readings = []
    with rig(parameters, options.model) as made:
        made.listening(made.rgb, made.depth, made.regions)
        for number in paced(options.minutes * 60, options.rate, made.spin):
            made.rgb.publish(picture(number))
            made.depth.publish(picture(number, depth=True))
            made.regions.publish(boxes(number, 10))
            if number % max(1, round(options.rate)) == 0:
                readings.append(made.resident())
        made.spin(1.0)
        processed, sent = made.status.processed, made.status.received
    steady = readings[len(readings) // 10 :]
    tenth = max(1, len(steady) // 10)
    first, last = float(np.median(steady[:tenth])), float(np.median(steady[-tenth:]))
    figures = {"first_mib": first, "last_mib": last, "growth_percent": 100 * (last / first - 1)}
    minutes = [round(float(np.median(readings[place : place + 60])), 1) for place in range(0, len(readings), 60)]
    counts = {"received": sent, "answered": processed}
    return {"minutes": options.minutes, "rate": options.rate, **counts, **figures, "mib_by_minute": minutes}


def _parser() -> argparse.ArgumentParser:
    parser = command_parser("mmcl_ros.benchmark", __doc__, EXAMPLES)
    commands = parser.add_subparsers(dest="measure", required=True, metavar="MEASURE")
    model = {"default": "", "metavar": "RUN", "help": "run folder or weights file (default: a stand-in)"}
    rate = "pictures a second (default: %(default)s)"

    def measure(name: str, run: Callable[[argparse.Namespace], dict[str, Any]], text: str) -> Callable[..., Any]:
        command = commands.add_parser(name, help=text)
        command.set_defaults(run=run)
        add_logging_options(command)
        return command.add_argument

    add = measure("latency", measure_latency, "from picture to answer")
    add("--model", **model)
    add("--modality", default="rgbd", choices=["rgb", "depth", "rgbd"], help="what answers stand on (default: rgbd)")
    add("--boxes", type=int, default=10, help="in a picture (default: 10)")
    add("--seconds", type=float, default=20.0, help="how long (default: 20)")
    add("--rate", type=float, default=15.0, help=rate)
    add = measure("loss", measure_loss, "pictures lost between two processes")
    add("--frames", type=int, default=900, help="pictures to send (default: 900)")
    add("--rate", type=float, default=30.0, help=rate)
    add("--best-effort", action="store_true", help="offer best effort, as many cameras do")
    add = measure("malformed", measure_malformed, "random nonsense, sent and counted")
    add("--count", type=int, default=10000, help="messages to send (default: 10000)")
    add("--seed", type=int, default=0, help="of the nonsense (default: 0)")
    add = measure("memory", measure_memory, "growth of the resident memory")
    add("--model", **model)
    add("--minutes", type=float, default=10.0, help="how long (default: 10)")
    add("--rate", type=float, default=30.0, help=rate)
    return parser


def _run(options: argparse.Namespace) -> None:
    for name in ("rate", "seconds", "minutes", "frames", "count"):
        if not 0 < (value := getattr(options, name, 1)) < float("inf"):
            raise ConfigError(f"--{name} is {value:g}; give a number above 0")
    if getattr(options, "seed", 0) < 0 or getattr(options, "boxes", 0) < 0:
        raise ConfigError("--seed and --boxes must be 0 or more")
    print(json.dumps({"measure": options.measure, **options.run(options)}))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command."""
    options = _parser().parse_args(arguments)
    name = "FASTRTPS" if os.environ.get("ROS_DISTRO") in ("humble", "iron", "jazzy") else "FASTDDS"
    if profile := shipped_profile():
        os.environ.setdefault(f"{name}_DEFAULT_PROFILES_FILE", str(profile))
    return run_command(lambda: _run(options), options.log_level)


if __name__ == "__main__":
    raise SystemExit(main())
