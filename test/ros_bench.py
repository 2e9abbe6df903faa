"""A workbench for tests over real DDS: the node under test and a client in one process, spun by a thread."""

import fcntl
import itertools
import os
import tempfile
import threading
import time
from array import array
from pathlib import Path

import numpy as np
import rclpy
from mmcl_ros.msg import RecognizerStatus, Region, RegionArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from mmcl_ros.qos import profile

DOMAINS = itertools.count(1 + os.getpid() * 7 % 90)


def take_domain():
    """A ROS domain that no other test is in, also of a suite that runs beside, and the open file that keeps it."""
    for number in itertools.islice(DOMAINS, 100):
        domain = number % 100 + 1
        place = Path(tempfile.gettempdir()) / f"mmcl_ros_test_{os.getuid()}_domain_{domain}"
        file = place.open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return domain, file
        except BlockingIOError:
            file.close()
    raise AssertionError("tests are in all domains from 1 to 100")


class Bench:
    """Nodes made by :meth:`node` live until :meth:`close`; each bench has a domain of its own."""

    def __init__(self):
        self.context = rclpy.Context()
        self.domain, self._taken = take_domain()
        rclpy.init(context=self.context, domain_id=self.domain)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.nodes = []
        self._closing = False
        self.client = self.add(rclpy.create_node("client", context=self.context))
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _spin(self):
        try:
            self.executor.spin()
        except Exception:
            if not self._closing:
                raise

    def add(self, node):
        self.nodes.append(node)
        self.executor.add_node(node)
        return node

    def recognizer(self, model, /, nodes=None, **parameters):
        """A recognizer node with a loaded model put in its place; ``nodes``: more arguments of a node."""

        from mmcl_ros.recognizer_node import RecognizerNode

        def load(path, **settings):
            if isinstance(model, Exception):
                raise model
            return model

        parameters = {"model": "fake", "status_period": 0.1, "warn_period": 0.2, **parameters}
        listed = [Parameter(name, value=value) for name, value in parameters.items()]
        return self.add(RecognizerNode(load, context=self.context, parameter_overrides=listed, **(nodes or {})))

    def collect(self, kind, topic, **qos):
        """A growing list of the messages of a topic."""
        found = []
        self.client.create_subscription(kind, topic, found.append, profile(1000, **qos))
        return found

    def publisher(self, kind, topic, subscribers=1, **qos):
        """A publisher that has been found by its subscribers."""
        made = self.client.create_publisher(kind, topic, profile(1000, **qos))
        if subscribers:
            self.wait(lambda: made.get_subscription_count() >= subscribers, f"a subscriber of {topic}")
        return made

    def call(self, kind, name, request, timeout=10.0):
        client = self.client.create_client(kind, name)
        assert client.wait_for_service(timeout)
        future = client.call_async(request)
        self.wait(future.done, f"an answer of {name}", timeout)
        return future.result()

    def inside(self, work, *arguments):
        """Have the spinning thread do something, as destroying what it may be waiting for; the result."""
        task = self.executor.create_task(work, *arguments)
        self.wait(task.done, f"the end of {work.__name__}")
        return task.result()

    def wait(self, condition, what, timeout=10.0):
        end = time.monotonic() + timeout
        while not condition():
            assert time.monotonic() < end, f"waited {timeout} s for {what}"
            time.sleep(0.005)

    def close(self):
        self._closing = True
        self.executor.shutdown()
        self._thread.join()
        for node in self.nodes:
            node.destroy_node()
        rclpy.shutdown(context=self.context)
        self._taken.close()


def stamped(number, frame="camera"):
    """A header: 0.1 s a number, from 1000 s on."""
    made = Header(frame_id=frame)
    made.stamp.sec, made.stamp.nanosec = 1000 + number // 10, number % 10 * 100_000_000
    return made


def rgb_message(number, level=20, frame="camera", shape=(60, 80)):
    values = np.full((*shape, 3), level, np.uint8)
    return Image(
        header=stamped(number, frame),
        encoding="rgb8",
        height=shape[0],
        width=shape[1],
        step=3 * shape[1],
        data=array("B", values.tobytes()),
    )


def depth_message(number, millimetres=500, frame="camera", shape=(60, 80)):
    values = np.full(shape, millimetres, np.uint16)
    return Image(
        header=stamped(number, frame),
        encoding="16UC1",
        height=shape[0],
        width=shape[1],
        step=2 * shape[1],
        data=array("B", values.tobytes()),
    )


def region_message(number, boxes=((0, 0, 20, 20),), frame="camera"):
    made = RegionArray(header=stamped(number, frame))
    for index, box in enumerate(boxes):
        region = Region(id=f"r{index}")
        region.roi.x_offset, region.roi.y_offset, region.roi.width, region.roi.height = box
        made.regions.append(region)
    return made


def info_message(number, shape=(60, 80)):
    made = CameraInfo(header=stamped(number), height=shape[0], width=shape[1])
    made.k = [100.0, 0.0, shape[1] / 2, 0.0, 100.0, shape[0] / 2, 0.0, 0.0, 1.0]
    return made


def status_of(bench):
    """A growing list of the statuses of the node."""
    return bench.collect(RecognizerStatus, "/recognizer/status", latched=True)


def modality(status, name):
    """The health of a sensor in a status."""
    return next(one for one in status.modalities if one.modality == name)


def wait_cause(bench, statuses, *words):
    """Wait for a status whose cause has all these words."""
    bench.wait(lambda: statuses and all(word in statuses[-1].cause for word in words), f"a cause with {words}")
    return statuses[-1]


def keep_sending(bench, statuses, condition, *publishers_and_messages):
    """Send pictures at 50 Hz until the status fulfils a condition."""
    for number in range(500):
        for publisher, make in publishers_and_messages:
            publisher.publish(make(number))
        if statuses and condition(statuses[-1]):
            return statuses[-1]
        time.sleep(0.02)
    raise AssertionError(f"never came about; the last cause is {statuses[-1].cause!r}")


def change(bench, label):
    """Ask the node for a transition of its lifecycle; whether it came about."""
    from lifecycle_msgs.srv import ChangeState

    request = ChangeState.Request()
    request.transition.label = label
    return bench.call(ChangeState, "/recognizer/change_state", request).success
