"""Services, lifecycle and parameters of the node over real DDS. Transitions that break off: test_ros_transitions.py."""

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed in this environment")
pytest.importorskip("mmcl_ros.msg", reason="the messages are not built: pip install . with ROS 2 present")

from mmcl_ros.msg import Recognition, RecognitionArray, Region, RegionArray
from mmcl_ros.srv import RecognizeOnce
from rclpy.parameter import Parameter
from ros_bench import change, region_message, rgb_message, stamped, status_of, wait_cause
from ros_fakes import FakeRecognizer
from sensor_msgs.msg import Image
from std_srvs.srv import SetBool

from mmcl_core.errors import CheckpointError
from mmcl_core.recognizer import Recognizer
from mmcl_ros.intake import PATIENT_S
from mmcl_ros.parameters import PARAMETERS
from mmcl_ros.recognizer_node import EVERY_AT_LEAST
from mmcl_ros.recognizers import load_model

pytestmark = pytest.mark.ros


def test_enable_and_recognise_once(bench):
    node = bench.recognizer(FakeRecognizer(), modality="rgb", roi_source="detections", stale_after=60.0)
    found = bench.collect(RecognitionArray, "/recognitions")
    answer = bench.call(RecognizeOnce, "/recognizer/recognize_once", RecognizeOnce.Request(timeout=0.1))
    assert not answer.success
    assert "nobody publishes /rgb/image" in answer.message
    assert bench.call(SetBool, "/recognizer/enable", SetBool.Request(data=False)).success
    rgb = bench.publisher(Image, "/rgb/image")
    regions = bench.publisher(RegionArray, "/detections")
    rgb.publish(rgb_message(3, 240))
    regions.publish(region_message(3))
    bench.wait(lambda: node.intake.received == 1, "the request")
    asked = RecognizeOnce.Request(regions=[Region(id="mine", roi=region_message(0).regions[0].roi)])
    answer = bench.call(RecognizeOnce, "/recognizer/recognize_once", asked)
    assert answer.success
    assert answer.answer.header == stamped(3)
    assert [(one.id, one.label) for one in answer.answer.recognitions] == [("mine", "bright")]
    whole = bench.call(RecognizeOnce, "/recognizer/recognize_once", RecognizeOnce.Request())
    assert len(whole.answer.recognitions) == 1
    assert found == [], "disabled: nothing is published"
    bench.call(SetBool, "/recognizer/enable", SetBool.Request(data=True))
    rgb.publish(rgb_message(4))
    regions.publish(region_message(4))
    bench.wait(lambda: found, "an answer after enabling")


def test_a_whole_number_is_as_good_as_a_real_one(bench):
    node = bench.recognizer(FakeRecognizer(), modality="rgb", history=2, stale_after=1)
    assert node.values["history"] == 2.0
    assert type(node.values["history"]) is float
    assert node.set_parameters([Parameter("stale_after", value=3.0)])[0].successful
    if hasattr(node, "add_pre_set_parameters_callback"):  # not on Humble
        assert node.set_parameters([Parameter("stale_after", value=4)])[0].successful
        assert (node.values["stale_after"], node.get_parameter("stale_after").value) == (4.0, 4.0)
        assert not node.set_parameters([Parameter("top_k", value=2.0)])[0].successful


def test_a_paused_node_stays_paused_whatever_becomes_of_its_model(bench):
    node = bench.recognizer(FakeRecognizer(), modality="rgb", roi_source="full_image", autostart=False)
    assert node.enabled
    assert bench.call(SetBool, "/recognizer/enable", SetBool.Request(data=False)).message == "disabled"
    for label in ("configure", "activate", "deactivate", "cleanup", "configure", "activate"):
        assert change(bench, label)
        assert not node.enabled
    assert not node._worker.enabled


def test_lifecycle_round(bench):
    node = bench.recognizer(FakeRecognizer(), modality="rgb", roi_source="full_image", autostart=False)
    found = bench.collect(RecognitionArray, "/recognitions")
    assert node.stage == "unconfigured"
    for _ in range(2):
        assert change(bench, "configure")
        assert change(bench, "activate")
        rgb = bench.publisher(Image, "/rgb/image")
        count = len(found)
        rgb.publish(rgb_message(1))
        bench.wait(lambda count=count: len(found) > count, "an answer")
        assert change(bench, "deactivate")
        bench.wait(lambda rgb=rgb: rgb.get_subscription_count() == 0, "the end of the subscription")
        assert change(bench, "cleanup")
        assert node.recognizer is None
        bench.inside(bench.client.destroy_publisher, rgb)
    assert change(bench, "shutdown")
    assert node.stage == "finalized"


@pytest.mark.parametrize(
    ("model", "setting", "says"),
    [
        (CheckpointError("no model at /nowhere"), {}, "no model at /nowhere"),
        (OSError("disk"), {}, "OSError: disk"),
        (FakeRecognizer(["rgb"]), {"modality": "depth"}, "modality is depth, but the model answers from rgb"),
        (FakeRecognizer(), {"model": ""}, "parameter model is empty"),
    ],
)
def test_configuration_that_fails_leaves_a_node_that_can_be_configured_again(bench, model, setting, says):
    node = bench.recognizer(model, **setting)
    statuses = status_of(bench)
    status = wait_cause(bench, statuses, "not configured", says)
    assert status.state == "unconfigured"
    assert not change(bench, "configure")
    node._load = lambda path, **settings: FakeRecognizer()
    assert node.set_parameters([Parameter("model", value="other")])[0].successful
    assert change(bench, "configure")
    assert change(bench, "activate")
    bench.wait(lambda: statuses[-1].state == "active", "the active state")


@pytest.mark.parametrize("backend", PARAMETERS["backend"].choices)
def test_what_runs_the_network_is_passed_on_as_the_parameter_has_it(monkeypatch, backend):
    asked = []
    monkeypatch.setattr(Recognizer, "load", lambda path, **settings: asked.append((path, settings)))
    load_model("run", device="cpu", backend=backend)
    assert asked == [("run", {"device": "cpu", "backend": backend})]


def test_a_topic_that_is_no_name_is_named_at_configuration(bench):
    node = bench.recognizer(FakeRecognizer(), rgb_topic="camera 1/image")
    statuses = status_of(bench)
    status = wait_cause(bench, statuses, "not configured", "camera 1/image")
    assert status.state == "unconfigured"
    assert node.set_parameters([Parameter("rgb_topic", value="camera_1/image")])[0].successful
    for _ in range(3):
        assert change(bench, "configure")
        assert change(bench, "cleanup")
    assert len(node._managed_entities) == 0  # nothing of what was given back is kept
    assert change(bench, "configure")
    assert change(bench, "activate")
    bench.wait(lambda: statuses[-1].state == "active", "the active state")


def test_every_waits_for_pictures_that_could_not_be_used_too():
    assert EVERY_AT_LEAST["max_wait"] >= PATIENT_S


def test_a_choice_that_does_not_exist_is_named_at_configuration(bench):
    node = bench.recognizer(FakeRecognizer(), policy="newest")
    statuses = status_of(bench)
    wait_cause(bench, statuses, "not configured", "parameter policy is 'newest'; choose from latest, every")
    assert node.set_parameters([Parameter("policy", value="every")])[0].successful
    assert change(bench, "configure")


def test_a_damaged_model_is_named_and_a_good_one_takes_its_place(bench, tmp_path):
    """With the real loader."""
    pytest.importorskip("torch")
    from ros_bags import tiny_model

    good, damaged = tiny_model(tmp_path / "good"), tmp_path / "damaged"
    damaged.mkdir()
    whole = (good / "weights.safetensors").read_bytes()
    (damaged / "weights.safetensors").write_bytes(whole[: len(whole) // 2])
    node = bench.recognizer(FakeRecognizer(), modality="rgb", autostart=False)
    node._load = load_model
    statuses = status_of(bench)
    node.set_parameters([Parameter("model", value=str(damaged)), Parameter("device", value="cpu")])
    assert not node.start()
    wait_cause(bench, statuses, "not configured", "cannot be read as a weights file")
    node.set_parameters([Parameter("model", value=str(good))])
    assert node.start()
    bench.wait(lambda: statuses[-1].state == "active", "the active state")
    assert "not configured" not in statuses[-1].cause


def test_parameters_at_run_time(bench):
    node = bench.recognizer(FakeRecognizer(), modality="rgb", roi_source="full_image")
    assert not node.set_parameters([Parameter("modality", value="depth")])[0].successful
    result = node.set_parameters([Parameter("min_score", value=2.0)])[0]
    assert not result.successful
    assert node.set_parameters([Parameter("min_score", value=0.99)])[0].successful
    found = bench.collect(RecognitionArray, "/recognitions")
    bench.publisher(Image, "/rgb/image").publish(rgb_message(0))
    bench.wait(lambda: found, "the answer")
    (one,) = found[0].recognitions
    assert (one.label, one.result, one.labels[0]) == ("unknown", Recognition.LOW_SCORE, "dark")
    described = node.describe_parameter("min_score")
    assert described.floating_point_range[0].to_value == 1
    assert described.description


@pytest.mark.parametrize("autostart", [True, False])
def test_the_period_of_the_status_changes_when_it_is_set(bench, autostart):
    node = bench.recognizer(FakeRecognizer(), modality="rgb", status_period=60.0, autostart=autostart)
    statuses = status_of(bench)
    assert node.set_parameters([Parameter("status_period", value=0.1)])[0].successful
    bench.wait(lambda: len(statuses) > 2, "status messages at the new period")
