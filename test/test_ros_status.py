"""The status over real DDS and from invented counts: each number in its own field, each sensor by the right clock."""

import threading
import time

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed in this environment")
pytest.importorskip("mmcl_ros.msg", reason="the messages are not built: pip install . with ROS 2 present")

from mmcl_ros.msg import ModalityHealth, RecognitionArray, RecognizerStatus
from ros_bench import depth_message, info_message, modality, rgb_message, stamped, status_of
from ros_fakes import FakeRecognizer
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import CameraInfo, Image

from mmcl_ros import reports
from mmcl_ros.health import Health, State
from mmcl_ros.intake import Intake
from mmcl_ros.ledger import Ledger
from mmcl_ros.pairing import Pairer

pytestmark = pytest.mark.ros

BY_LEDGER = {"processed": 11, "failed": 12, "malformed": 13, "active": "rgbd"}
BY_PAIRING = {"paired": 21, "one_sided": 22, "unpaired": 23, "time_jumps": 24, "smallest_gap": 0.25}
COUNTS = {**BY_LEDGER, **BY_PAIRING, "received": 31}


def filled_in(**changes):
    """A status of numbers that are all different; depth is not in use."""
    health = Health(0.5, 1.0, received=41, malformed=42, encoding="rgb8", link=(State.ALIVE, ""))
    for now in (8.0, 8.5, 9.0, 9.5):
        health.observe(now, delay=0.125)
    intake = Intake(("rgb",), "rgb", "center", Pairer(0.02, 0.1), {"rgb": health}, lambda: 9.75, received=31)
    ledger = Ledger(**BY_LEDGER)
    for now in (108.0, 108.25, 108.5):
        ledger.rate.tick(now)
    for name, value in {**BY_PAIRING, **changes}.items():
        setattr(intake.pairer.counters, name, value)
    status = RecognizerStatus()
    reports.fill_status(status, ledger, intake, {"rgb": "/cam", "depth": "/other"}, 109.0)
    return status


def test_each_count_is_in_its_own_field():
    status = filled_in()
    assert {name: getattr(status, name) for name in COUNTS} == COUNTS
    assert status.rate == 2  # answers per second, by the clock of the answers
    assert filled_in(smallest_gap=None).smallest_gap == -1
    assert filled_in(smallest_gap=0.0).smallest_gap == 0


def test_what_is_known_of_each_sensor_is_in_its_own_field():
    rgb, depth = filled_in().modalities
    fields = ("modality", "state", "cause", "topic", "encoding", "received", "malformed", "age", "delay")
    assert [getattr(rgb, name) for name in fields] == ["rgb", State.ALIVE, "", "/cam", "rgb8", 45, 42, 0.25, 0.125]
    assert rgb.rate == pytest.approx(3 / 1.75)
    assert [getattr(depth, name) for name in fields] == ["depth", State.OFF, "", "", "", 0, 0, -1, -1]


def test_diagnostics_show_the_counts_under_their_names():
    pytest.importorskip("diagnostic_msgs.msg")
    status = filled_in()
    status.state, status.dropped = "active", 51
    node, rgb = reports.diagnostics(status, "recognizer", status.stamp).status
    shown = {one.key: one.value for one in node.values}
    expected = {name: str(value) for name, value in COUNTS.items() if name != "smallest_gap"}
    assert shown == shown | expected | {"dropped": "51", "rate": "2.0", "state": "active"}
    shown = {one.key: one.value for one in rgb.values}
    assert shown == {
        **{"topic": "/cam", "encoding": "rgb8", "received": "45", "malformed": "42"},
        **{"rate": "1.7", "age": "0.25"},
    }


@pytest.mark.parametrize(
    ("states", "cause", "levels"),
    [
        ((State.ALIVE, State.ALIVE), "", (0, 0, 0)),
        ((State.ALIVE, State.ALIVE), "stamps jumped back", (1, 0, 0)),
        ((State.ALIVE, State.STALE), "depth: no picture", (1, 0, 1)),
        ((State.RECOVERING, State.NO_PUBLISHER), "nobody publishes", (1, 1, 1)),
        ((State.STALE, State.SILENT), "rgb: no picture", (2, 1, 1)),
        ((State.ALIVE, State.OFF), "", (0, 0)),
    ],
)
def test_diagnostics_are_as_grave_as_what_is_wrong(states, cause, levels):
    """An error where nothing is answered; a warning where something is wrong with it, or with a sensor."""
    pytest.importorskip("diagnostic_msgs.msg")
    status = filled_in()
    status.state, status.cause = "active", cause
    status.modalities = [
        ModalityHealth(modality=name, state=int(state)) for name, state in zip(("rgb", "depth"), states, strict=True)
    ]
    told = reports.diagnostics(status, "recognizer", status.stamp).status
    assert [int.from_bytes(one.level, "big") for one in told] == list(levels)
    status.state = "inactive"
    assert reports.diagnostics(status, "recognizer", status.stamp).status[0].level == b"\x02"


def test_a_picture_before_its_camera_info_waits_for_it(bench):
    """Where somebody publishes one: else the first answers would stand on no camera, and be remarked on."""
    model = FakeRecognizer(uses_camera=True)
    node = bench.recognizer(model, modality="depth", roi_source="center", max_wait=10.0)
    found, statuses = bench.collect(RecognitionArray, "/recognitions"), status_of(bench)
    info = bench.publisher(CameraInfo, "/depth/camera_info")
    bench.publisher(Image, "/depth/image").publish(depth_message(0))
    bench.wait(lambda: node.intake.received, "the picture")
    time.sleep(0.1)  # in which it would be answered by itself
    info.publish(info_message(0))
    bench.wait(lambda: found, "the answer")
    bench.wait(lambda: statuses and statuses[-1].processed, "the status thereafter")
    assert model.calls[0].camera[0][0] == 100
    assert not [status.cause for status in statuses if "camera info" in status.cause]


def test_an_answer_that_takes_long_is_why_there_is_none(bench, monkeypatch):
    monkeypatch.setattr("mmcl_ros.ledger.LONG_S", 0.2)
    gate = threading.Event()

    class Slow(FakeRecognizer):
        def recognize(self, **given):
            gate.wait(10)
            return super().recognize(**given)

    bench.recognizer(Slow(), modality="rgb", roi_source="center", stale_after=60.0)
    found, statuses = bench.collect(RecognitionArray, "/recognitions"), status_of(bench)
    bench.publisher(Image, "/rgb/image").publish(rgb_message(0))
    bench.wait(lambda: statuses and statuses[-1].cause.startswith("one answer has taken 0 s so far"), "the cause")
    assert not found
    gate.set()
    bench.wait(lambda: found and not statuses[-1].cause, "the end of it")


@pytest.mark.parametrize("simulated", [True, False])
def test_a_sensor_is_not_lost_while_the_clock_stands_still(bench, simulated):
    """A simulation that is paused is no fault of the sensors; by the time of the computer it would be."""
    given = {"use_sim_time": True} if simulated else {}
    node = bench.recognizer(FakeRecognizer(), modality="rgb", roi_source="center", stale_after=0.05, **given)
    statuses = status_of(bench)
    if simulated:
        clock = bench.publisher(Clock, "/clock")
        clock.publish(Clock(clock=stamped(0).stamp))
        bench.wait(lambda: node.get_clock().now().nanoseconds, "the clock")
    bench.publisher(Image, "/rgb/image").publish(rgb_message(0))
    bench.wait(lambda: statuses and statuses[-1].received, "the picture")
    time.sleep(0.2)
    count = len(statuses)
    bench.wait(lambda: len(statuses) > count + 1, "a status of after that")
    rgb = modality(statuses[-1], "rgb")
    if not simulated:
        assert rgb.state == ModalityHealth.STALE
        assert time.monotonic() <= node.intake.clock() <= time.monotonic(), "a clock that nobody sets"
        return
    assert (rgb.state, rgb.age) == (ModalityHealth.ALIVE, 0)
    clock.publish(Clock(clock=stamped(1).stamp))
    bench.wait(lambda: modality(statuses[-1], "rgb").state == ModalityHealth.STALE, "the loss by that clock")
    assert modality(statuses[-1], "rgb").age == pytest.approx(0.1)


def test_that_a_simulation_has_not_begun_or_is_gone_is_said(bench):
    """Its clock stands still with it, by which no sensor ever grows stale."""
    settings = {"modality": "rgb", "roi_source": "center", "recover_after": 0.0}
    bench.recognizer(FakeRecognizer(), use_sim_time=True, **settings)
    statuses = status_of(bench)
    clock, rgb = bench.publisher(Clock, "/clock"), bench.publisher(Image, "/rgb/image")
    bench.wait(lambda: statuses, "the status")
    rgb.publish(rgb_message(0))
    words = "/clock has told no time above 0 yet"
    bench.wait(lambda: words in statuses[-1].cause and modality(statuses[-1], "rgb").received, "the cause at first")
    assert modality(statuses[-1], "rgb").delay == -1, "by no clock it is not known"
    clock.publish(Clock(clock=stamped(1).stamp))
    bench.wait(lambda: "/clock" not in statuses[-1].cause, "the clock to be heard")
    rgb.publish(rgb_message(1))
    bench.wait(lambda: not statuses[-1].cause, "all to be well")
    for publisher in (clock, rgb):
        bench.inside(bench.client.destroy_publisher, publisher)
    gone = ("use_sim_time is set, but nobody publishes /clock", ModalityHealth.NO_PUBLISHER)
    bench.wait(lambda: (statuses[-1].cause, modality(statuses[-1], "rgb").state) == gone, "the end to be said")
