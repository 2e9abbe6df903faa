"""Recorded bags played over real DDS into the node: every answer equals the one of the evaluation without ROS."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("rosbags", reason="rosbags is not installed: pip install rosbags")
pytest.importorskip("rclpy", reason="ROS 2 is not installed in this environment")
pytest.importorskip("mmcl_ros.msg", reason="the messages are not built: pip install . with ROS 2 present")

from conftest import shared_data
from mmcl_ros.msg import RecognitionArray, RegionArray
from ros_bags import BOXES, column, make_recording, tiny_model, write_bag
from ros_bench import depth_message, region_message, rgb_message
from ros_fakes import CLASSES, FakeRecognizer
from ros_replays import answers, replay
from sensor_msgs.msg import Image

from mmcl_core.errors import DataError, MmclError
from mmcl_core.recognizer import Recognizer
from mmcl_ros import play_bag
from mmcl_ros.bagfile import Bag
from mmcl_ros.detections import Box, View
from mmcl_ros.evaluate_bag import evaluate
from mmcl_ros.frames import FrameSettings
from mmcl_ros.message_types import REGION_TYPES
from mmcl_ros.play_bag import Listener, drawn_in, play, truth_messages
from mmcl_ros.record_demo import DEMO_TOPICS
from mmcl_ros.truth import Truth, read_truth

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.ros


def test_same_labels_over_dds_as_offline(bench, tmp_path):
    path, table = make_recording(tmp_path)
    truths = read_truth(table)
    with Bag(path) as bag:
        offline = evaluate(bag, truths, FakeRecognizer(), ["rgbd"], FrameSettings(box_scale=0.0))["rgbd"]
    listener, count = replay(bench, FakeRecognizer(), path, truths, "rgbd", box_scale=0.0)
    assert count == 100
    assert [one.label for one in answers(listener, truths)] == column(offline, "label")
    assert {one.modality for one in answers(listener, truths)} == {"rgbd"}
    assert "40 of 40 labels right" in listener.summary(truths)
    assert listener.classes == CLASSES
    assert all(latency > 0 for latency in listener.latencies.values())


def test_answers_are_compared_with_the_true_box_that_they_are_of(tmp_path):
    """A bag's regions may be others than the table's, and in another order; boxes without a label do not count."""
    truths = read_truth(make_recording(tmp_path)[1])
    listener = Listener()
    for number, truth in enumerate(truths):
        said = [
            SimpleNamespace(label=label, score=1.0, roi=SimpleNamespace(x_offset=x, y_offset=y, width=w, height=h))
            for (x, y, w, h), label in zip(BOXES, truth.labels, strict=True)
        ]
        more = SimpleNamespace(label="dark", score=1.0, roi=SimpleNamespace(x_offset=0, y_offset=0, width=5, height=5))
        listener.answers[truth.request.stamp] = SimpleNamespace(
            recognitions=[more, *said[::-1]] if number else said[:1], width=160, height=120
        )
    assert listener.summary(truths).endswith("39 of 40 labels right")
    blank = [Truth(truth.request, ("", truth.labels[1])) for truth in truths]
    assert listener.summary(blank).endswith("19 of 20 labels right")


def test_unknown_objects_count_apart_from_the_labels_that_are_right(tmp_path):
    """Boxes of the label ``unknown``, and of classes that the model lacks once these have been heard."""
    truths = read_truth(make_recording(tmp_path)[1])[:1]
    truths[0] = Truth(truths[0].request, ("unknown", "gloomy"))
    listener = Listener()
    said = [
        SimpleNamespace(label=label, score=1.0, roi=SimpleNamespace(x_offset=x, y_offset=y, width=w, height=h))
        for (x, y, w, h), label in zip(BOXES, ("unknown", "bright"), strict=True)
    ]
    listener.answers[truths[0].request.stamp] = SimpleNamespace(recognitions=said, width=160, height=120)
    assert listener.summary(truths).endswith("; 0 of 1 label right; 0 of 1 unknown object answered")
    listener.learn(SimpleNamespace(labels=list(CLASSES)))
    assert listener.summary(truths).endswith("1 answer; 1 of 2 unknown objects answered")


def test_a_last_answer_that_was_waited_for_is_heard():
    answers = {1: None}
    late = threading.Timer(2.5, answers.update, [{2: None}])
    late.start()
    play_bag._wait_until_quiet(answers, [1, 2], [1, 2])
    assert 2 in answers
    late.join()


def test_the_answers_of_a_slow_recognizer_are_waited_for_and_those_to_another_camera_are_not(monkeypatch):
    clock, answers = [0.0], {}

    def sleep(seconds):
        clock[0] += seconds
        assert clock[0] < 1000, "never ends"
        answers[10**9 + int(clock[0] * 10)] = None  # a camera that runs beside
        for stamp in range(min(50, int(clock[0] / 5))):  # five seconds a picture
            answers[stamp] = None

    monkeypatch.setattr(play_bag, "time", SimpleNamespace(monotonic=lambda: clock[0], sleep=sleep))
    play_bag._wait_until_quiet(answers, range(60), [])
    assert set(range(50)) < set(answers)
    assert clock[0] == pytest.approx(50 * 5 + play_bag.PATIENT_S, abs=0.2)


def test_pictures_that_were_not_answered_are_counted(tmp_path):
    truths = read_truth(make_recording(tmp_path)[1])
    listener = Listener()
    listener.answers[truths[0].request.stamp] = SimpleNamespace(recognitions=[], width=160, height=120)
    words = "1 answer, none to 19 of the 20 pictures with true boxes; 0 of 40 labels right"
    assert listener.summary(truths) == words


def test_true_boxes_are_sent_as_the_offline_evaluation_cuts_them(tmp_path):
    table = tmp_path / "boxes.csv"
    table.write_text("stamp_ns,x_min,y_min,x_max,y_max,label,width,height\n5,-3,10.6,20.4,30,can,1280,960\n")
    (message,) = truth_messages(read_truth(table), View("camera", 640, 480))
    roi = message.regions[0].roi
    assert (roi.x_offset, roi.y_offset, roi.width, roi.height) == (0, 10, 21, 20)
    assert (message.width, message.height) == (1280, 960)


def test_true_boxes_without_a_size_are_of_the_colour_picture_also_where_depth_alone_is_heard(tmp_path):
    table = tmp_path / "boxes.csv"
    table.write_text("stamp_ns,x_min,y_min,x_max,y_max,label\n5,1,1,3,3,can\n")
    with Bag(write_bag(tmp_path / "both", [("/depth", "depth", 0, 0), ("/color", "rgb", 1, 1)])) as bag:
        (message,) = truth_messages(read_truth(table), drawn_in(bag))
    assert (message.header.frame_id, message.width, message.height) == ("/color", 4, 4)
    with Bag(write_bag(tmp_path / "one", [("/depth", "depth", 0, 0)])) as bag:
        assert drawn_in(bag) == View("/depth", 4, 4)


@pytest.mark.data
@pytest.mark.parametrize("modality", ["rgb", "depth", "rgbd"])
def test_every_box_of_a_real_recording_gets_the_same_answer(bench, tmp_path, modality):
    """A network of random weights: its scores differ from box to box, so that a box mixed up would show."""
    path, truths = shared_data("bags", "ycb_video_train"), read_truth(shared_data("bags", "ycb_video_train.csv"))
    model = Recognizer.load(str(tiny_model(tmp_path / "run")), "cpu")
    with Bag(path) as bag:
        offline = evaluate(bag, truths, model, [modality], FrameSettings())[modality]
    listener, _ = replay(bench, model, path, truths, modality)
    found = answers(listener, truths)
    assert len(found) == 52
    assert [(one.label, one.modality) for one in found] == [(label, modality) for label in column(offline, "label")]
    scores = [f"{one.score:.6f}" for one in found]
    assert [float(score) for score in scores] == pytest.approx([float(s) for s in column(offline, "score")], abs=2e-6)
    assert len(set(scores)) > 40


def test_regions_of_a_package_that_is_not_installed_are_left_out_and_named(monkeypatch, tmp_path, caplog):
    monkeypatch.setattr(play_bag, "optional_class", lambda kind: None if kind in REGION_TYPES else object)
    path, table = make_recording(tmp_path)
    publisher = SimpleNamespace(get_subscription_count=lambda: 1, topic_name="/x", publish=lambda raw: None)
    node = SimpleNamespace(create_publisher=lambda *_: publisher)
    with Bag(path) as bag:
        with pytest.raises(DataError, match=r"mmcl_ros is not installed; install it, or give .* \(--truth\)"):
            play(node, bag)
        requests = truth_messages(read_truth(table), drawn_in(bag))
        assert play(node, bag, rate=1000.0, requests=requests) == 80, "colour, depth and their camera infos"
    told = [record.getMessage() for record in caplog.records if record.name == play_bag.logger.name]
    assert len(told) == 1
    assert f"{DEMO_TOPICS['detections']} carries {bag.kinds[DEMO_TOPICS['detections']]}" in told[0]


class Heard:
    """A publisher that has a listener from the given look on; None: never."""

    topic_name = "/topic"

    def __init__(self, since):
        self.since, self.looks = since, 0

    def get_subscription_count(self):
        self.looks += 1
        return int(self.since is not None and self.looks > self.since)


def test_the_player_waits_for_a_picture_topic_however_late(monkeypatch):
    """Regions find their listener at once, colour much later, depth never: nothing is sent before colour is heard."""
    monkeypatch.setattr(play_bag, "SETTLED_S", 0.05)
    colour, depth, regions = Heard(30), Heard(None), Heard(0)
    play_bag._wait_for_listeners([colour, depth, regions], [colour, depth], patience=20.0)
    assert colour.looks > 30
    with pytest.raises(MmclError, match="nobody listens"):
        play_bag._wait_for_listeners([Heard(None), Heard(0)], [Heard(None)], patience=0.2)


def moments(monkeypatch, path, rate=1.0):
    """Play a bag by an invented clock: when each message is sent, seconds since the beginning."""
    clock, found = [100.0], []

    def sleep(seconds):
        clock[0] += seconds

    publisher = SimpleNamespace(get_subscription_count=lambda: 1, topic_name="/x")
    publisher.publish = lambda raw: found.append(clock[0] - 100.0)
    monkeypatch.setattr(play_bag, "time", SimpleNamespace(monotonic=lambda: clock[0], sleep=sleep))
    with Bag(path) as bag:
        assert play(SimpleNamespace(create_publisher=lambda *_: publisher), bag, rate=rate) == len(found)
    return found


@pytest.mark.parametrize("stamps", [(0, 10**18, 10**18 + 10**8), (10**18, 0, 5 * 10**17)])
def test_the_pace_is_that_of_the_recording_whatever_the_stamps_say(monkeypatch, tmp_path, stamps):
    written = [("/rgb", "rgb", stamp, 10**18 + n * 10**8) for n, stamp in enumerate(stamps)]
    assert moments(monkeypatch, write_bag(tmp_path / "bag", written), rate=2.0) == pytest.approx([0.0, 0.05, 0.1])


def test_each_request_follows_its_picture_whatever_the_clocks_of_other_topics(monkeypatch, tmp_path):
    """Depth, and a camera that nobody asks about, stamp by clocks that are ahead."""
    written = [("/rgb", "rgb", n * 10**9, 4 * n) for n in range(3)]
    written += [("/depth", "depth", 10**18 + n, 4 * n + 1) for n in range(3)]
    written += [("/the/other/rgb", "rgb", 10**18 + n, 4 * n + 2) for n in range(3)]
    sent = []
    node = SimpleNamespace()
    node.create_publisher = lambda kind, topic, _: SimpleNamespace(
        get_subscription_count=lambda: 1, topic_name=topic, publish=lambda message: sent.append((topic, message))
    )
    messages = [region_message(0) for _ in range(3)]
    for number, message in enumerate(messages):
        message.header.stamp.sec, message.header.stamp.nanosec = number, 0
    with Bag(write_bag(tmp_path / "bag", sorted(written, key=lambda one: one[3]))) as bag:
        assert (bag.topics.rgb, bag.topics.depth) == ("/rgb", "/depth")
        play(node, bag, rate=1e9, requests=messages)
    order = ["request" if topic == "detections" else "picture" for topic, _ in sent if topic in ("/rgb", "detections")]
    assert order == ["picture", "request"] * 3


def test_long_pauses_of_a_recording_are_cut_and_told_once(monkeypatch, tmp_path, caplog):
    caplog.set_level("INFO")
    written = [("/rgb", "rgb", 10**9 * second, 10**9 * second) for second in (0, 3600, 9000)]
    assert moments(monkeypatch, write_bag(tmp_path / "bag", written)) == pytest.approx([0.0, 5.0, 10.0])
    assert [record.getMessage() for record in caplog.records if record.name == play_bag.logger.name] == [
        "the recording pauses for 3600.0 s; this and all other pauses are cut to 5 s"
    ]


def test_ctrl_c_ends_the_player_with_a_word_on_how_far_it_came(bench, tmp_path):
    written = [(f"/{kind}", kind, n * 10**9, n * 10**9) for n in range(30) for kind in ("rgb", "depth")]
    path = write_bag(tmp_path / "bag", written)
    found = [bench.collect(Image, topic) for topic in ("/rgb", "/depth")]
    environment = {key: value for key, value in os.environ.items() if key != "_ROS_WHEELS_BOOTSTRAP_COMPLETE"}
    environment["ROS_DOMAIN_ID"] = str(bench.domain)
    line = [sys.executable, "-m", "mmcl_ros.play_bag", "--bag", str(path)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    # Of a shell's background job the child would inherit that Ctrl-C is to be ignored.
    heed = {"preexec_fn": lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)}
    process = subprocess.Popen(line, env=environment, cwd=ROOT, **pipes, **heed)
    bench.wait(lambda: all(found), "the first pictures", 120)
    process.send_signal(signal.SIGINT)
    said, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert said.startswith("stopped after the messages of ")
    assert "0 answers" in said
    assert "Traceback" not in errors
    assert errors.strip().endswith("interrupted")


def test_a_rate_that_is_none_is_refused(tmp_path, capsys):
    assert play_bag.main(["--bag", str(tmp_path), "--rate", "0"]) == 2
    assert "--rate is 0; give a number above 0" in capsys.readouterr().err


@pytest.mark.parametrize("patience", ["-1", "nan"])
def test_a_patience_that_is_none_is_refused(tmp_path, capsys, patience):
    assert play_bag.main(["--bag", str(tmp_path), f"--patience={patience}"]) == 2
    assert f"--patience is {patience}; give a number of seconds" in capsys.readouterr().err


def test_true_boxes_that_cannot_be_read_are_told_before_anything_is_started(tmp_path, monkeypatch, capsys):
    """A thread that spins would be left behind, and write a traceback of its own below the error."""
    monkeypatch.setattr("rclpy.create_node", lambda *_: pytest.fail("a node was made"))
    assert play_bag.main(["--bag", str(tmp_path), "--truth", str(tmp_path / "none.csv")]) == 2
    assert "cannot read the true boxes" in capsys.readouterr().err


@pytest.mark.parametrize("truth", [True, False])
def test_a_recording_without_pictures_is_not_played(tmp_path, capsys, truth):
    bag = write_bag(tmp_path / "bag", [("/chat", "words", 0, 0)])
    table = tmp_path / "boxes.csv"
    table.write_text("stamp_ns,x_min,y_min,x_max,y_max,label\n5,0,0,9,9,can\n")
    assert play_bag.main(["--bag", str(bag), "--patience", "1", *(["--truth", str(table)] if truth else [])]) == 2
    assert "its topics: /chat (std_msgs/msg/String)" in capsys.readouterr().err


def test_a_recognizer_that_has_ended_before_the_recording_is_told_of(bench, caplog):
    pictures = ["/left/image", "/right/image"]
    play_bag._warn_if_alone(bench.client, pictures)
    assert "nobody listens to /left/image or /right/image any more: the recognizer has ended" in caplog.text
    caplog.clear()
    bench.collect(Image, "/right/image")
    bench.wait(lambda: bench.client.count_subscribers("/right/image"), "the listener")
    play_bag._warn_if_alone(bench.client, pictures)
    assert not caplog.text


def test_recorded_regions_that_come_after_all_pictures_find_the_first(bench):
    """Regions may come late by more than ``history``: under the policy every no picture is forgotten so soon."""
    bench.recognizer(FakeRecognizer(), modality="rgb", roi_source="detections", policy="every", history=0.5)
    found = bench.collect(RecognitionArray, "/recognitions")
    rgb, regions = bench.publisher(Image, "/rgb/image"), bench.publisher(RegionArray, "/detections")
    numbers = (0, 10, 20, 30)
    for number in numbers:
        rgb.publish(rgb_message(number))
    time.sleep(1.0)
    for number in numbers:
        regions.publish(region_message(number))
    bench.wait(lambda: len(found) == len(numbers), "all answers")
    assert [answer.recognitions[0].modality for answer in found] == ["rgb"] * len(numbers)


def test_recorded_data_is_answered_from_both_sensors_even_when_one_is_late(bench):
    """A busy computer delivers the partner a second late: under the policy every that changes no answer."""
    bench.recognizer(FakeRecognizer(), modality="rgbd", roi_source="detections", policy="every")
    found = bench.collect(RecognitionArray, "/recognitions")
    rgb, depth = bench.publisher(Image, "/rgb/image"), bench.publisher(Image, "/depth/image")
    regions = bench.publisher(RegionArray, "/detections")
    for number in (0, 5):
        rgb.publish(rgb_message(number))
        regions.publish(region_message(number))
        time.sleep(1.0)
        depth.publish(depth_message(number))
        bench.wait(lambda number=number: len(found) == 1 + (number > 0), "the answer")
    assert [answer.recognitions[0].modality for answer in found] == ["rgbd", "rgbd"]


def test_the_shipped_profile_is_found_where_only_its_share_is(tmp_path):
    """As installed by colcon: the Python packages in one place, the configuration in the share of the prefix."""
    site, share = tmp_path / "site", tmp_path / "prefix" / "share" / "mmcl_ros"
    for name in ("mmcl_core", "mmcl_ros"):
        shutil.copytree(ROOT / name, site / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "config", share / "config")
    shutil.copytree(ROOT / "msg", share / "msg")
    asked = (
        "from mmcl_ros.benchmark import shipped_profile; print(shipped_profile()); "
        "from mmcl_ros.bagfile import typestore; "
        "print('mmcl_ros/msg/RegionArray' in typestore().types)"
    )
    environment = {**os.environ, "PYTHONPATH": str(site), "AMENT_PREFIX_PATH": f"/nowhere:{tmp_path / 'prefix'}"}
    done = subprocess.run(
        [sys.executable, "-c", asked], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [str(share / "config" / "fastdds.xml"), "True"]


@pytest.mark.parametrize("order", [1, -1])
def test_the_answer_for_a_true_box_is_that_of_the_region_most_like_it(order):
    """As far as the picture shows the box: what lies beyond is in no region."""

    def said(box, *regions):
        listed = [
            SimpleNamespace(label=label, roi=SimpleNamespace(x_offset=x, y_offset=y, width=w, height=h))
            for label, x, y, w, h in regions[::order]
        ]
        return play_bag._said(SimpleNamespace(width=80, height=60, recognitions=listed), Box("", *box))

    assert said((10, 10, 30, 30), ("own", 10, 10, 20, 20), ("near", 12, 10, 20, 20), ("far", 50, 0, 20, 20)) == "own"
    assert said((60, 0, 120, 60), ("at the border", 60, 0, 20, 60)) == "at the border"
    assert said((10, 10, 30, 30), ("far", 50, 0, 20, 20)) == ""
