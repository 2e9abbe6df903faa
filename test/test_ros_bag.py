"""Recorded bags: reading, exact pairing, evaluation and sensor loss.

The bags are made by the tests, of flat pictures whose right answer is known; the sample recordings are read where they
are present. What a trained network makes of them is not tested here.
"""

import contextlib
import csv
import dataclasses
import json
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

pytest.importorskip("rosbags", reason="rosbags is not installed: pip install rosbags")

from conftest import shared_data
from ros_fakes import CLASSES, FakeRecognizer, image

from mmcl_core.errors import ConfigError, DataError
from mmcl_ros.bag_options import remember_colour
from mmcl_ros.bagfile import Bag, Topics, typestore
from mmcl_ros.detections import Box, Request, camera_of
from mmcl_ros.evaluate_bag import COLUMNS, evaluate, main, parse_drop, write
from mmcl_ros.frames import FrameCropper, FrameSettings
from mmcl_ros.qos import info_beside
from mmcl_ros.record_demo import DEMO_TOPICS, START_NS, RenderedFrame, record
from mmcl_ros.truth import read_truth

ROOT = Path(__file__).resolve().parents[1]
BOXES = ((10, 10, 40, 40), (80, 20, 40, 60))


def make_view(number):
    """Left and right half are of two classes, by colour and by distance; the frame number says which."""
    first, second = number % 3, (number + 1) % 3
    rgb, depth = np.zeros((120, 160, 3), np.uint8), np.zeros((120, 160), np.uint16)
    for half, place in ((slice(0, 70), first), (slice(70, 160), second)):
        rgb[:, half] = 20 + 100 * place
        depth[:, half] = 500 + 1000 * place
    return RenderedFrame(rgb, depth, (100.0, 100.0, 79.5, 59.5), BOXES, (CLASSES[first], CLASSES[second]))


def make_recording(out, storage="mcap"):
    return record(out, (make_view(number) for number in range(20)), storage=storage)


def write_bag(path, written, frame="", frames=None):
    """A bag of small messages, each (topic, kind, stamp, time of recording); kind: rgb, depth, odd, info or words.

    Without a common frame each topic has one of its own, or that of ``frames``.
    """
    from rosbags.rosbag2 import StoragePlugin, Writer

    store = typestore()
    types = store.types
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        channels = {}
        for topic, kind, stamp, recorded in written:
            time = types["builtin_interfaces/msg/Time"](stamp // 10**9, stamp % 10**9)
            head = types["std_msgs/msg/Header"](time, frame or (frames or {}).get(topic, topic))
            name = {"info": "sensor_msgs/msg/CameraInfo", "words": "std_msgs/msg/String"}.get(
                kind, "sensor_msgs/msg/Image"
            )
            if kind == "words":
                message = types[name]("hello")
            elif kind == "info":
                roi = types["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
                k = np.array([len(topic), 0, 2, 0, len(topic), 2, 0, 0, 1.0])  # the focal length says whose it is
                p = np.array([2 * k[0], 0, 2, 0, 0, 2 * k[0], 2, 0, 0, 0, 1.0, 0])
                message = types[name](head, 4, 4, "", np.zeros(5), k, np.zeros(9), p, 0, 0, roi)
            else:
                encoding, size = {"rgb": ("rgb8", 3), "odd": ("R8G8B8", 3)}.get(kind, ("16UC1", 2))
                message = types[name](head, 4, 4, encoding, 0, 4 * size, np.full(16 * size, 9, np.uint8))
            if topic not in channels:
                channels[topic] = writer.add_connection(topic, name, typestore=store)
            writer.write(channels[topic], recorded, store.serialize_cdr(message, name))
    return path


@pytest.fixture(scope="module")
def recording(tmp_path_factory):
    return make_recording(tmp_path_factory.mktemp("mcap"))


def run(recording, modalities, drops=None, recognizer=None, **settings):
    bag, table = recording
    with Bag(bag) as opened:
        truths = read_truth(table)
        settings = FrameSettings(box_scale=0.0, **settings)
        return evaluate(opened, truths, recognizer or FakeRecognizer(), modalities, settings, drops=drops)


@pytest.mark.parametrize("left", [5, 40])
def test_damaged_messages_of_a_recording_are_left_out_and_named_once(tmp_path, caplog, left):
    bag, table = make_recording(tmp_path, "sqlite3")
    with contextlib.closing(sqlite3.connect(next(bag.glob("*.db3")))) as base:
        for name, places in (("depth", [0, 3, 4]), ("rgb_info", [2])):
            query = (
                "SELECT messages.id FROM messages JOIN topics ON topics.id = topic_id WHERE name = ? ORDER BY timestamp"
            )
            ids = [row[0] for row in base.execute(query, [DEMO_TOPICS[name]])]
            for place in places:
                base.execute("UPDATE messages SET data = substr(data, 1, ?) WHERE id = ?", [left, ids[place]])
        base.commit()
    with Bag(bag) as opened:
        found = evaluate(opened, read_truth(table), FakeRecognizer(), ["rgbd"], FrameSettings(box_scale=0.0))["rgbd"]
        assert len(opened.damaged) == 4
    assert found.figures()["accuracy"] == 1.0
    assert found.figures()["answered_from"] == {"rgb": 6, "rgbd": 34}
    told = [record.getMessage() for record in caplog.records if "left out" in record.getMessage()]
    assert sorted(
        line.split(": ")[1].split(" are ")[0].removeprefix("damaged messages on ") for line in told
    ) == sorted([DEMO_TOPICS["depth"], DEMO_TOPICS["rgb_info"]])


def column(evaluation, name):
    return [row[COLUMNS.index(name)] for row in evaluation.rows]


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_both_storages_of_rosbag2(tmp_path, storage):
    recording = make_recording(tmp_path, storage)
    with Bag(recording[0]) as bag:
        assert (bag.topics.rgb, bag.topics.depth) == (DEMO_TOPICS["rgb"], DEMO_TOPICS["depth"])
        assert bag.topics.detections == DEMO_TOPICS["detections"]
        assert bag.topics.infos == {"rgb": DEMO_TOPICS["rgb_info"], "depth": DEMO_TOPICS["depth_info"]}
    assert run(recording, ["rgbd"])["rgbd"].figures()["accuracy"] == 1.0


def test_every_box_is_right_by_every_sensor(recording):
    found = run(recording, ["rgb", "depth", "rgbd", "auto"])
    for name, evaluation in found.items():
        figures = evaluation.figures()
        assert (figures["boxes"], figures["frames"], figures["accuracy"]) == (40, 20, 1.0)
        assert figures["macro_f1"] == 1.0
        assert figures["answered_from"] == {"rgbd" if name == "auto" else name: 40}
        assert figures["ece"] == pytest.approx(1 - (0.8 + 0.2 / 3))
        assert figures["unpaired"] == figures["one_sided"] == 0
        assert set(figures["latency_ms"]) == {"decode", "crop", "inference", "total"}
    assert column(found["rgb"], "depth_stamp_ns") == [""] * 40
    assert column(found["rgb"], "rgb_stamp_ns")[2] == START_NS + 100_000_000


def test_a_modality_that_is_named_twice_is_evaluated_once(recording, tmp_path):
    found = run(recording, ["rgb", "depth", "rgb"])
    report = write(tmp_path, found, {})["modalities"]
    assert {name: figures["boxes"] for name, figures in report.items()} == {"rgb": 40, "depth": 40}


def test_wrong_answers_lower_the_figures(recording):
    model = FakeRecognizer()
    model._place = lambda name, crop: 0
    figures = run(recording, ["rgb"], recognizer=model)["rgb"].figures()
    dark = np.mean([label == "dark" for n in range(20) for label in make_view(n).labels])
    assert figures["accuracy"] == pytest.approx(dark)
    assert figures["macro_f1"] == pytest.approx(2 * dark / (1 + dark) / 3)


def test_lost_depth(recording):
    drops = {"depth": [(0.5, 1.0)]}
    found = run(recording, ["depth", "rgbd"], drops)
    assert found["depth"].figures()["unpaired"] == 5
    assert found["depth"].figures()["rejected"] == {"no_picture": 10}
    assert found["depth"].figures()["accuracy"] == 0.75
    assert found["rgbd"].figures()["one_sided"] == 5
    assert found["rgbd"].figures()["accuracy"] == 1.0
    assert found["rgbd"].figures()["answered_from"] == {"rgb": 10, "rgbd": 30}


def test_rejections_are_told_from_mistakes(recording):
    figures = run(recording, ["rgb"], min_score=0.95)["rgb"].figures()
    assert figures["rejected"] == {"low_score": 40}
    assert figures["accuracy"] == 1.0, "the best class was right though it was rejected"
    assert figures["accuracy_of_accepted"] is None


def test_truth_outside_the_window_is_unpaired(recording, tmp_path):
    bag, table = recording
    lines = table.read_text().splitlines()
    moved = [lines[0]] + [f"{int(line.split(',')[0]) + 30_000_000},{line.split(',', 1)[1]}" for line in lines[1:]]
    other = tmp_path / "late.csv"
    other.write_text("\n".join(moved))
    found = run((bag, other), ["rgb"])["rgb"]
    assert found.figures()["unpaired"] == 20
    assert set(column(found, "reason")) == {"no picture within 0.02 s"}


def test_pairing_is_exact_against_a_loop_over_all_pictures(recording):
    rng = np.random.default_rng(0)
    with Bag(recording[0]) as bag:
        truths = read_truth(recording[1])
        requests = []
        for truth in truths:
            shifted = truth.request.stamp + int(rng.uniform(-0.06e9, 0.06e9))
            requests.append(type(truth.request)(truth.request.boxes, stamp=shifted))
        stamps = [START_NS + 100_000_000 * n for n in range(20)]
        frames = list(bag.frames(requests, window=0.04))
    assert len(frames) == 20
    for request, frame in zip(requests, frames, strict=True):
        best = min(stamps, key=lambda stamp: abs(stamp - request.stamp))
        expected = {"rgb": best, "depth": best} if abs(best - request.stamp) <= 40_000_000 else {}
        assert frame.stamps == expected
        for name, picture in frame.pictures.items():
            assert picture.header.stamp.nanosec == expected[name] % 1_000_000_000


def test_truth_from_detections_with_classes(tmp_path):
    from rosbags.rosbag2 import StoragePlugin, Writer
    from rosbags.typesys import Stores, get_types_from_msg, get_typestore

    definitions = {
        "ObjectHypothesis": "string class_id\nfloat64 score\n",
        "ObjectHypothesisWithPose": "vision_msgs/ObjectHypothesis hypothesis\n",
        "Point2D": "float64 x\nfloat64 y\n",
        "Pose2D": "vision_msgs/Point2D position\nfloat64 theta\n",
        "BoundingBox2D": "vision_msgs/Pose2D center\nfloat64 size_x\nfloat64 size_y\n",
        "Detection2D": "std_msgs/Header header\nvision_msgs/ObjectHypothesisWithPose[] results\n"
        "vision_msgs/BoundingBox2D bbox\nstring id\n",
        "Detection2DArray": "std_msgs/Header header\nvision_msgs/Detection2D[] detections\n",
    }
    store = get_typestore(Stores.LATEST)
    kinds = {}
    for name, text in definitions.items():
        kinds.update(get_types_from_msg(text, f"vision_msgs/msg/{name}"))
    store.register(kinds)
    made = {name: store.types[f"vision_msgs/msg/{name}"] for name in definitions}
    image = store.types["sensor_msgs/msg/Image"]
    with Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        rgb = writer.add_connection("/cam/rgb", "sensor_msgs/msg/Image", typestore=store)
        boxes = writer.add_connection("/found", "vision_msgs/msg/Detection2DArray", typestore=store)
        for number in range(3):
            view = make_view(number)
            time = store.types["builtin_interfaces/msg/Time"](5, number * 1000)
            header = store.types["std_msgs/msg/Header"](time, "cam")
            data = view.rgb.reshape(-1)
            message = image(header, 120, 160, "rgb8", 0, 480, data)
            writer.write(rgb, number, store.serialize_cdr(message, "sensor_msgs/msg/Image"))
            listed = []
            for (x, y, w, h), label in zip(view.boxes, view.labels, strict=True):
                center = made["Pose2D"](made["Point2D"](x + w / 2, y + h / 2), 0.0)
                results = [
                    made["ObjectHypothesisWithPose"](made["ObjectHypothesis"](name, score))
                    for name, score in (("other", 0.1), (label, 0.9))
                ]
                listed.append(
                    made["Detection2D"](header, results, made["BoundingBox2D"](center, float(w), float(h)), "x")
                )
            found = made["Detection2DArray"](header, listed)
            writer.write(boxes, number, store.serialize_cdr(found, "vision_msgs/msg/Detection2DArray"))
    from mmcl_ros.truth import read_topic

    with Bag(tmp_path / "bag") as bag:
        found = evaluate(bag, read_topic(bag), FakeRecognizer(), ["rgb"], FrameSettings(box_scale=0.0))
    assert found["rgb"].figures()["accuracy"] == 1.0
    assert column(found["rgb"], "truth")[:2] == ["dark", "middle"]


def test_errors_name_what_is_wrong(recording, tmp_path):
    with pytest.raises(DataError, match="no recording at"):
        Bag(tmp_path / "nothing")
    (tmp_path / "junk.bag").write_bytes(b"no bag")
    with pytest.raises(DataError, match=r"junk.bag cannot be read"):
        Bag(tmp_path / "junk.bag")
    with pytest.raises(DataError, match=r"has no metadata.yaml; name the folder that has one"):
        Bag(recording[0].parent)
    with pytest.raises(DataError, match="has no topic /nope; it has /camera"):
        Bag(recording[0], Topics(rgb="/nope"))
    with pytest.raises(ConfigError, match="modality is depth, but the model was trained for rgb"):
        run(recording, ["depth"], recognizer=FakeRecognizer(["rgb"]))
    bad = tmp_path / "bad.csv"
    bad.write_text("stamp_ns,x_min,y_min,x_max,y_max,label\n1,2,3,four,5,mug\n")
    with pytest.raises(DataError, match=r"bad.csv, line 2: .*four"):
        read_truth(bad)
    bad.write_text("stamp,label\n")
    with pytest.raises(DataError, match="lacks the columns stamp_ns, x_min"):
        read_truth(bad)
    with pytest.raises(DataError, match="cannot read the true boxes"):
        read_truth(tmp_path / "none.csv")


HEAD = "stamp_ns,x_min,y_min,x_max,y_max,label"


def test_true_boxes_as_spreadsheets_and_people_write_them(tmp_path):
    table = tmp_path / "boxes.csv"
    table.write_text(f"{HEAD}\n7,0,0,5,5,a mug\n", encoding="utf-8-sig")
    plain = read_truth(table)
    table.write_text(f"{HEAD}\n7,0,0,5,5,a mug\n".replace(",", ", "))
    assert read_truth(table) == plain
    assert [(truth.request.stamp, truth.labels) for truth in plain] == [(7, ("a mug",))]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (f"{HEAD}\n7,0,0,5,5,caf\u00e9\n".encode("latin-1"), "is not in UTF-8"),
        (f"{HEAD}\n7,0,0,5,5\n".encode(), "line 2: fewer values than columns"),
    ],
)
def test_true_boxes_that_cannot_be_read_are_an_error_of_data(tmp_path, content, says):
    (tmp_path / "boxes.csv").write_bytes(content)
    with pytest.raises(DataError, match=says):
        read_truth(tmp_path / "boxes.csv")


@pytest.mark.parametrize("text", ["depth", "depth:1", "depth:2-1", "sound:1-2", "depth:a-b"])
def test_malformed_drops(text):
    import argparse

    assert parse_drop("depth:1.0-2.5") == ("depth", (1.0, 2.5))
    with pytest.raises(argparse.ArgumentTypeError):
        parse_drop(text)


@pytest.mark.parametrize("label", ["gloomy", "unknown"])
@pytest.mark.parametrize("classes", [("dark", "middle", "bright"), ("unknown", "middle", "bright")])
def test_strangers_are_left_out_of_accuracy(recording, tmp_path, label, classes):
    """Boxes of a class that the model lacks or of ``unknown``; of a model with that class an answer so is none."""
    bag, table = recording
    other = tmp_path / "other.csv"
    other.write_text(table.read_text().replace(",dark,", f",{label},"))
    found = run((bag, other), ["rgb"], recognizer=FakeRecognizer(classes=classes))
    figures = found["rgb"].figures()
    count = sum(make_view(n).labels.count("dark") for n in range(20))
    answered = 0 if "unknown" in classes else count
    assert (figures["strangers"], figures["strangers_answered"]) == (count, answered)
    assert figures["rejected"] == ({} if answered else {"low_score": count})
    assert figures["accuracy"] == figures["accuracy_of_accepted"] == figures["macro_f1"] == 1.0
    assert figures["ece"] == pytest.approx(1 - (0.8 + 0.2 / 3))
    assert sorted(map(str, column(found["rgb"], "correct"))) == [""] * count + ["1"] * (40 - count)
    write(tmp_path / "out", found, {})


def test_an_answer_unknown_is_wrong_for_a_known_object(recording):
    model = FakeRecognizer(classes=("dark", "middle", "unknown"))
    model._place = lambda name, crop: 2
    figures = run(recording, ["rgb"], recognizer=model)["rgb"].figures()
    assert figures["accuracy"] == 0.0
    assert figures["accuracy_of_accepted"] is None
    assert figures["strangers"] == sum(make_view(n).labels.count("bright") for n in range(20))


def test_a_recording_of_strangers_alone_has_no_accuracy(recording, tmp_path, capsys):
    """How many of them are answered is a figure of its own; where labels are misspelt the warning shows both."""
    bag, table = recording
    text = table.read_text()
    for label in CLASSES:
        text = text.replace(f",{label},", f",my {label},")
    (tmp_path / "other.csv").write_text(text)
    model = tiny_model(tmp_path / "run")
    assert main([*command(bag, tmp_path / "other.csv", model, tmp_path / "out"), "--modality", "rgb"]) == 0
    figures = json.loads((tmp_path / "out" / "metrics.json").read_text())["modalities"]["rgb"]
    assert (figures["accuracy"], figures["strangers"], figures["strangers_answered"]) == (None, 40, 40)
    told = capsys.readouterr()
    assert "(my bright, my dark, my middle); they are left out of accuracy" in told.err
    assert "there is no accuracy; it names dark, middle, bright" in told.err
    assert "no accuracy of 0 boxes, 40 of 40 strangers answered" in told.out


def test_the_command_names_strangers_and_how_many_were_answered(recording, tmp_path, capsys):
    bag, table = recording
    other = tmp_path / "other.csv"
    other.write_text(table.read_text().replace(",dark,", ",gloomy,"))
    assert main([*command(bag, other, tiny_model(tmp_path / "run"), tmp_path / "out"), "--modality", "rgb"]) == 0
    told = capsys.readouterr()
    count = sum(make_view(n).labels.count("dark") for n in range(20))
    assert f"{count} boxes are of no class that the model names (gloomy); they are left out" in told.err
    assert f"of {40 - count} boxes, {count} of {count} strangers answered, 0 rejected" in told.out


def test_depth_of_another_size_is_mapped_also_where_colour_is_not_used(tmp_path):
    views = []
    for number in range(3):
        view = make_view(number)
        views.append(view)
    bag, table = record(tmp_path / "one", iter(views))
    moved = tmp_path / "half.csv"
    with table.open() as source, moved.open("w", newline="") as target:
        rows = list(csv.DictReader(source))
        writer = csv.DictWriter(target, rows[0].keys())
        writer.writeheader()
        for row in rows:  # boxes drawn in a picture of twice the size, which the file states
            for name in ("x_min", "y_min", "x_max", "y_max"):
                row[name] = int(row[name]) * 2
        writer = csv.DictWriter(target, [*rows[0].keys(), "width", "height"])
        target.seek(0)
        writer.writeheader()
        writer.writerows({**row, "width": 320, "height": 240} for row in rows)
    assert run((bag, moved), ["depth"])["depth"].figures()["accuracy"] == 1.0


def test_the_first_colour_picture_that_can_be_decoded_says_what_boxes_were_drawn_in():
    cut_off, whole = (image(np.zeros((120, 160, 3), np.uint8), "rgb8") for _ in range(2))
    cut_off.data = cut_off.data[:9]
    bag = SimpleNamespace(topics=Topics(rgb="/rgb"), cameras=dict)
    bag.messages = lambda topic: iter([(topic, cut_off), (topic, whole)])
    cropper = FrameCropper(FrameSettings(box_scale=0.0))
    remember_colour(bag, [cropper])
    depth = image(np.full((60, 80), 900, np.uint16), "16UC1")
    regions, _ = cropper.crops(Request((Box("", 40, 40, 80, 100),), "camera"), {"depth": depth})
    assert regions[0].crops["depth"].shape == (30, 20), "boxes are of the picture of twice the size"


def test_every_picture_goes_with_the_calibration_of_its_time(tmp_path):
    views = [
        dataclasses.replace(make_view(number), camera=(100.0 + number // 2, 100.0, 79.5, 59.5)) for number in range(9)
    ]
    path, table = record(tmp_path, iter(views))
    with Bag(path) as bag:
        frames = list(bag.frames([truth.request for truth in read_truth(table)], 0.02))
    assert [frame.infos["depth"].k[0] for frame in frames] == [view.camera[0] for view in views]


def test_rectified_pictures_of_a_recording_go_by_the_projection_matrix(tmp_path):
    kinds = {"/c/image_rect_color": "rgb", "/c/depth": "depth", "/c/camera_info": "info"}
    path = write_bag(tmp_path / "bag", [(topic, kind, 5, 5) for topic, kind in kinds.items()], frame="c")
    with Bag(path) as bag:
        infos = {name: track.at(5) for name, track in bag.cameras().items()}
        assert camera_of(infos["rgb"], 4, 4)[0] == 2 * len("/c/camera_info")
        assert camera_of(infos["depth"], 4, 4, rectified=True)[0] == 2 * len("/c/camera_info")
        assert infos["depth"].k[0] == len("/c/camera_info")


@pytest.mark.parametrize(
    ("topics", "infos"),
    [
        ("/c/color/image_raw /c/depth/image_raw /c/depth/camera_info", {"depth": "/c/depth/camera_info"}),
        ("/c/color/image_raw /c/color/camera_info /c/depth/image", {"rgb": "/c/color/camera_info"}),
        ("/rgb/image /depth_to_rgb/image /depth_to_rgb/camera_info", {"depth": "/depth_to_rgb/camera_info"}),
        ("/color /depth /depth_camera_info", {"depth": "/depth_camera_info"}),
        ("/c/depth /c/camera_info /c/color/image_raw", {"depth": "/c/camera_info"}),
        ("/c/color/image_raw /infra/camera_info /c/depth/image", {}),
        (
            "/c/color/image_raw /c/depth/image /c/camera_info",
            {"rgb": "/c/camera_info", "depth": "/c/camera_info"},
        ),
        (
            "/s/Color_0/image/data /s/Color_0/info/camera_info /s/Depth_0/image/data",
            {"rgb": "/s/Color_0/info/camera_info"},
        ),
        (
            "/c/color/image_raw /c/depth/image /c/camera_info /c/depth/camera_info",
            {"rgb": "/c/camera_info", "depth": "/c/depth/camera_info"},
        ),
    ],
)
def test_no_sensor_is_given_the_camera_of_another_one(tmp_path, caplog, topics, infos):
    written = []
    for topic in topics.split():
        kind = "info" if "info" in topic.rpartition("/")[2] else "depth" if "epth" in topic else "rgb"
        written += [(topic, kind, 10**9, 10**9)]
    with Bag(write_bag(tmp_path / "bag", written)) as bag:
        assert bag.topics.rgb
        assert bag.topics.depth
        assert bag.topics.infos == infos
        assert set(bag.cameras()) == set(infos)
    told = [record.getMessage() for record in caplog.records if "no camera info of its own" in record.getMessage()]
    assert len(told) == 2 - len(infos)


@pytest.mark.parametrize("picture", ["/rgb/image", "/cam/color/image_raw", "/image_raw"])
def test_a_camera_info_beside_the_pictures_is_found_as_the_node_finds_it(tmp_path, picture):
    with Bag(write_bag(tmp_path / "bag", [(picture, "rgb", 0, 0), (info_beside(picture), "info", 0, 0)])) as bag:
        assert bag.topics.infos == {"rgb": info_beside(picture)}


@pytest.mark.parametrize(("sensor", "infos"), [("color", {"rgb", "depth"}), ("depth", {"depth"})])
def test_depth_that_is_registered_to_colour_is_seen_through_the_colour_camera(tmp_path, sensor, infos):
    written = [(f"/c/{name}/image", kind, 0, 0) for name, kind in (("color", "rgb"), ("depth", "depth"))]
    written.append((f"/c/{sensor}/camera_info", "info", 0, 0))
    with Bag(write_bag(tmp_path / "bag", written, "color_optical_frame")) as bag:
        assert bag.topics.infos == dict.fromkeys(infos, f"/c/{sensor}/camera_info")


def test_a_recording_without_pictures_is_refused_with_the_topics_it_has(recording, tmp_path, capsys):
    bag = write_bag(tmp_path / "bag", [("/chat", "words", 0, 0), ("/cam/camera_info", "info", 0, 0)])
    assert main(command(bag, recording[1], tmp_path / "none", tmp_path / "out")) == 2
    err = capsys.readouterr().err
    assert "holds no colour or depth pictures" in err
    assert "its topics: /cam/camera_info (sensor_msgs/msg/CameraInfo), /chat (std_msgs/msg/String)" in err
    with Bag(bag) as opened:
        assert list(opened.messages()) == list(opened.raw("/none")) == [], "no topics are not all topics"


def test_a_recording_that_was_cut_off_is_told_from_other_damage(recording, tmp_path):
    folder = shutil.copytree(recording[0], tmp_path / "bag")
    (file,) = folder.glob("*.mcap")
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(DataError, match="was cut off, as by a recorder that was killed"):
        Bag(folder)


def compress(recording, path, mode):
    from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer

    writer = Writer(path, version=9, storage_plugin=StoragePlugin.MCAP)
    writer.set_compression(CompressionMode[mode], CompressionFormat.ZSTD)
    with Bag(recording[0]) as bag, writer:
        channels = {
            topic: writer.add_connection(topic, kind, typestore=typestore()) for topic, kind in bag.kinds.items()
        }
        for topic, _, recorded, raw in bag.raw(*channels):
            writer.write(channels[topic], recorded, raw)
    return path


@pytest.mark.parametrize("mode", ["FILE", "MESSAGE", "STORAGE"])
def test_a_damaged_recording_that_is_compressed_is_an_error_in_a_line(recording, tmp_path, capsys, mode):
    bag, model = compress(recording, tmp_path / "bag", mode), tiny_model(tmp_path / "run")
    arguments = [*command(bag, recording[1], model, tmp_path / "out"), "--quiet"]
    assert main(arguments) == 0
    (file,) = bag.glob("*.mcap*")
    whole = file.read_bytes()
    places = range(len(whole) // 4, len(whole) // 2, 200)
    damaged = bytearray(whole)
    for place in places:
        damaged[place : place + 20] = b"\xff" * 20
    for content in (whole[: len(whole) // 2], bytes(damaged)):
        file.write_bytes(content)
        capsys.readouterr()
        assert main(arguments) == 2
        assert capsys.readouterr().err.startswith(f"error: {bag} ")


def test_pictures_that_share_the_stamp_0_are_not_taken_for_each_other(tmp_path):
    table = tmp_path / "boxes.csv"
    table.write_text("stamp_ns,x_min,y_min,x_max,y_max,label\n0,0,0,4,4,can\n5,0,0,4,4,can\n")
    for name, stamps in (("one", (0, 10**9)), ("several", (0, 0, 10**9))):
        written = [("/cam/image", "rgb", stamp, 10**18 + number) for number, stamp in enumerate(stamps)]
        with Bag(write_bag(tmp_path / name, written)) as bag:
            requests = [truth.request for truth in read_truth(table)]
            if name == "one":
                assert [frame.stamps for frame in bag.frames(requests, 0.02)] == [{"rgb": 0}] * 2
                continue
            with pytest.raises(DataError, match="2 pictures on /cam/image have stamp 0"):
                list(bag.frames(requests, 0.02))


def test_a_recording_of_an_unknown_encoding_is_refused_by_its_name(tmp_path):
    written = [("/cam/image", "odd", 0, 0), ("/cam/camera_info", "info", 0, 0)]
    with Bag(write_bag(tmp_path / "bag", written)) as bag, pytest.raises(DataError, match="/cam/image says 'R8G8B8'"):
        bag.require_pictures()


RGB, DEPTH, INFO = (DEMO_TOPICS[name] for name in ("rgb", "depth", "rgb_info"))


@pytest.mark.parametrize(
    ("topics", "says"),
    [
        (Topics(rgb=DEPTH), f"{DEPTH} was named for rgb, but its pictures are 16UC1"),
        (Topics(depth=RGB), f"{RGB} was named for depth, but its pictures are rgb8"),
        (Topics(rgb=RGB, depth=RGB), f"{RGB} was named for both rgb and depth"),
        (Topics(rgb=INFO), f"{INFO} carries sensor_msgs/msg/CameraInfo; sensor_msgs/msg/Image or"),
        (Topics(infos={"rgb": RGB}), f"{RGB} carries sensor_msgs/msg/Image; sensor_msgs/msg/CameraInfo is needed"),
        (Topics(detections=RGB), f"{RGB} carries sensor_msgs/msg/Image; mmcl_ros/msg/RegionArray or"),
    ],
)
def test_a_topic_has_to_carry_what_it_is_named_for(recording, topics, says):
    with pytest.raises(DataError, match=says):
        Bag(recording[0], topics)


def test_what_this_package_has_answered_is_no_picture_of_a_sensor(tmp_path):
    """``ros2 bag record -a`` records the overlay, too, with boxes and labels painted on the picture."""
    written = [(topic, "rgb", 0, 0) for topic in ("/front/image_raw", "/overlay/image", "/a/overlay/image")]
    with Bag(write_bag(tmp_path / "bag", written)) as bag:
        assert bag.topics.rgb == "/front/image_raw"
    with Bag(tmp_path / "bag", Topics(rgb="/overlay/image")) as bag:
        assert bag.topics.rgb == "/overlay/image", "named explicitly"


def test_boxes_without_a_label_are_neither_right_nor_wrong(recording, tmp_path):
    bag, table = recording
    blank = tmp_path / "blank.csv"
    blank.write_text(table.read_text().replace(",dark,", ",,"))
    count = sum(make_view(n).labels.count("dark") for n in range(20))
    for drops in (None, {"rgb": [(0.0, 1e9)]}):
        figures = run((bag, blank), ["rgb"], drops=drops)["rgb"].figures()
        assert (figures["boxes"], figures["unlabelled"], figures["strangers"]) == (40, count, 0)
        assert figures["accuracy"] == (0.0 if drops else 1.0)
    write(tmp_path / "out", run((bag, blank), ["rgb"]), {})
    for label in ("middle", "bright"):
        blank.write_text(blank.read_text().replace(f",{label},", ",,"))
    with pytest.raises(DataError, match="no true box has a label"):
        run((bag, blank), ["rgb"])


def test_depth_is_guessed_from_the_frame_of_colour(tmp_path):
    """As the Kinect Azure records it: depth as it was measured, and the same seen from the colour camera."""
    stores = {"/rgb/image_raw": "rgb", "/depth_to_rgb/image_raw": "depth", "/depth/image_raw": "depth"}
    with Bag(write_bag(tmp_path / "own", [(topic, kind, 0, 0) for topic, kind in stores.items()])) as bag:
        assert bag.topics.depth == "/depth/image_raw", "each has a frame of its own: the shortest name"
    frames = {topic: "depth_camera" if topic == "/depth/image_raw" else "rgb_camera" for topic in stores}
    written = [(topic, kind, 0, 0) for topic, kind in stores.items()]
    with Bag(write_bag(tmp_path / "bag", written, frames=frames)) as bag:
        assert bag.topics.depth == "/depth_to_rgb/image_raw"


def tiny_model(folder):
    import torch

    from mmcl_core.config import ModelConfig
    from mmcl_core.nn.model import RecognitionModel
    from mmcl_core.weights import save_weights

    torch.manual_seed(0)
    config = ModelConfig(input_size=32, ndf=8, nrkhs=16, depth=1, head_hidden=8)
    model = RecognitionModel(config, ["rgb", "depth"], 3).train()
    for name, channels in (("rgb", 3), ("depth", 1)):
        for _ in range(3):
            model(torch.rand(8, channels, 32, 32) * (255 if channels == 3 else 2000), name)
    folder.mkdir()
    save_weights(folder / "weights.safetensors", model, {"classes": list(CLASSES)})
    return folder


def command(bag, table, model, out):
    return ["--bag", str(bag), "--truth", str(table), "--model", str(model), "--out", str(out), "--device", "cpu"]


def test_two_runs_of_the_command_write_the_same_bytes(recording, tmp_path, capsys):
    model = tiny_model(tmp_path / "run")
    for name in ("one", "two"):
        arguments = command(*recording, model, tmp_path / name)
        assert main([*arguments, "--modality", "rgb", "depth", "rgbd", "--drop", "depth:0.5-1.0"]) == 0
    assert "rgbd   accuracy" in capsys.readouterr().out
    for modality in ("rgb", "depth", "rgbd"):
        files = [(tmp_path / name / f"predictions_{modality}.csv").read_bytes() for name in ("one", "two")]
        assert files[0] == files[1]
        assert files[0].count(b"\n") == 41
        picture = cv2.imread(str(tmp_path / "one" / f"confusion_{modality}.png"))
        assert min(picture.shape[:2]) > 100
    pictures = [(tmp_path / name / "answers.png").read_bytes() for name in ("one", "two")]
    assert pictures[0] == pictures[1]
    report = json.loads((tmp_path / "one" / "metrics.json").read_text())
    assert set(report["modalities"]) == {"rgb", "depth", "rgbd"}
    assert report["drop"] == {"depth": [[0.5, 1.0]]}
    assert report["mirror"] is False


def test_the_command_needs_no_ros(recording, tmp_path):
    """In a process that cannot import rclpy."""
    model = tiny_model(tmp_path / "run")
    code = (
        "import sys; sys.modules['rclpy'] = None; sys.path.insert(0, sys.argv.pop(1));"
        "from mmcl_ros.evaluate_bag import main; sys.exit(main(sys.argv[1:]))"
    )
    arguments = command(*recording, model, tmp_path / "out")
    done = subprocess.run(
        [sys.executable, "-c", code, str(ROOT), *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / "metrics.json").exists()


def test_an_error_of_the_command_is_one_line(tmp_path, capsys):
    assert main(command(tmp_path / "no", tmp_path / "no.csv", tmp_path / "no", tmp_path / "out")) == 2
    err = capsys.readouterr().err.strip()
    assert err.startswith("error: no recording at")
    assert "\n" not in err


def test_an_out_that_is_a_file_is_refused_before_the_work(recording, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("mmcl_ros.evaluate_bag.evaluate", lambda *_: pytest.fail("worked in vain"))
    bag, table = recording
    assert main(command(bag, table, tiny_model(tmp_path / "run"), table)) == 2
    assert f"error: {table}: File exists" in capsys.readouterr().err


def test_the_command_says_what_makes_figures_other_than_they_seem(recording, tmp_path, capsys):
    bag, table = recording
    model = tiny_model(tmp_path / "run")
    rows = list(csv.DictReader(table.open()))
    for number, row in enumerate(rows):
        if number >= 10:  # two boxes a picture
            row["stamp_ns"] = int(row["stamp_ns"]) + 10**12
        row["width"], row["height"] = 200, 100
    shifted = tmp_path / "shifted.csv"
    with shifted.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    assert main([*command(bag, shifted, model, tmp_path / "out"), "--modality", "rgb"]) == 0
    told = [line.partition(" WARNING ")[2] for line in capsys.readouterr().err.splitlines()]
    assert "rgb: 15 of 20 true pictures have none in the recording within 0.02 s of their stamp" in told
    (problem,) = [line for line in told if line.startswith("rgb: in 5 of 20 pictures, rgb: boxes are of a 200 x 100")]
    figures = json.loads((tmp_path / "out" / "metrics.json").read_text())["modalities"]["rgb"]
    assert figures["problems"] == {problem.removeprefix("rgb: in 5 of 20 pictures, "): 5}
    for wrong, message in (
        ("--window=-1", "--window must be 0 or more seconds"),
        ("--window=nan", "--window must be 0 or more seconds"),
        ("--min-score=2", "--min-score must be 0 to 1"),
        ("--box-scale=9", "--box-scale must be 0 to 5"),
    ):
        assert main([*command(bag, table, model, tmp_path / "out"), wrong]) == 2
        assert message in capsys.readouterr().err


def test_confusion_and_metrics_of_a_run_with_rejections(recording, tmp_path):
    found = run(recording, ["rgb"], min_score=0.95)
    report = write(tmp_path, found, {"bag": "x"})
    assert report["modalities"]["rgb"]["rejected"] == {"low_score": 40}
    assert json.loads((tmp_path / "metrics.json").read_text())["modalities"]["rgb"]["boxes"] == 40


# the sample recordings


@pytest.mark.data
def test_real_recording():
    bag, table = shared_data("bags", "ycb_video_train"), shared_data("bags", "ycb_video_train.csv")
    truths = read_truth(table)
    model = FakeRecognizer()
    with Bag(bag) as opened:
        found = evaluate(opened, truths, model, ["rgb", "depth", "rgbd"], FrameSettings())
    for evaluation in found.values():
        figures = evaluation.figures()
        assert (figures["frames"], figures["boxes"], figures["unpaired"]) == (12, 52, 0)
        assert figures["rejected"] == {}
    valid = np.array([float(value) for value in column(found["depth"], "depth_valid")])
    assert 0.5 < np.median(valid) <= 1
    assert all(camera[0] > 500 for call in model.calls for camera in call.camera)


@pytest.mark.data
def test_real_ros1_recording():
    from mmcl_ros.images import decode_depth, decode_rgb

    with Bag(shared_data("bags", "single_depth_color_640x480.bag")) as bag:
        assert "Color" in bag.topics.rgb
        assert "Depth" in bag.topics.depth
        assert "Depth" in bag.topics.infos["depth"]
        (_, colour), *_ = bag.messages(bag.topics.rgb)
        (_, depth), *_ = bag.messages(bag.topics.depth)
    assert decode_rgb(colour).shape == (480, 640, 3)
    values = decode_depth(depth)
    assert values.dtype == np.uint16
    assert 200 < np.median(values[values > 0]) < 10000


# rendered scenes


def test_demo_recordings_look_at_their_meshes_first(tmp_path, capfd):
    trimesh = pytest.importorskip("trimesh")
    pytest.importorskip("embreex", reason="rendering needs embreex")
    from mmcl_ros.record_demo import main as record_main

    command = ["--out", str(tmp_path / "out"), "--objects", str(tmp_path / "meshes"), "--frames", "1"]
    assert record_main([*command, "--seed", "-1"]) == 2
    assert "--seed at least 0" in capfd.readouterr().err
    assert record_main(command) == 2  # and leaves nothing that is in the way of the next try
    for name in ("textured.obj", "other.obj"):
        (tmp_path / "meshes" / "mug").mkdir(parents=True, exist_ok=True)
        trimesh.creation.box((0.1, 0.1, 0.1)).export(tmp_path / "meshes" / "mug" / name)
    assert "there is no folder" in capfd.readouterr().err
    assert record_main(command) == 0
    assert "mesh files left out: 1, such as" in capfd.readouterr().err


@pytest.mark.slow
def test_rendered_demo_recording(tmp_path):
    pytest.importorskip("embreex", reason="rendering needs embreex")
    from mmcl_ros.record_demo import render_views

    views = list(render_views("household", 2, seed=3))
    again = list(render_views("household", 2, seed=3))
    for view, same in zip(views, again, strict=True):
        np.testing.assert_array_equal(view.rgb, same.rgb)
        np.testing.assert_array_equal(view.depth, same.depth)
        assert view.rgb.shape == (480, 640, 3)
        assert view.depth.dtype == np.uint16
        assert len(view.boxes) == len(view.labels) >= 1
        for x, y, width, height in view.boxes:
            assert 0 <= x < x + width <= 640
            assert 0 <= y < y + height <= 480
            inside = view.depth[y : y + height, x : x + width]
            assert np.count_nonzero(inside) > 0.2 * inside.size
    bag, table = record(tmp_path, iter(views))
    assert len(read_truth(table)) == 2
    with pytest.raises(DataError, match="is there already"):
        record(tmp_path, iter(views))
    with Bag(bag) as opened:
        frames = list(opened.frames([truth.request for truth in read_truth(table)], 0.02))
    np.testing.assert_array_equal(frames[0].pictures["depth"].data.view(np.uint16).reshape(480, 640), views[0].depth)
