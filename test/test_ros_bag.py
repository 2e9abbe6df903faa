"""Recorded bags: reading, exact pairing, evaluation and sensor loss.

The bags are made by the tests, of flat pictures whose right answer is known; the sample recordings are read where they
are present. What a trained network makes of them is not tested here.
"""

import contextlib
import json
import shutil
import sqlite3

import numpy as np
import pytest
import yaml

pytest.importorskip("rosbags", reason="rosbags is not installed: pip install rosbags")

from conftest import shared_data
from ros_bags import DEPTH, INFO, RGB, column, command, make_recording, make_view, run, tiny_model, write_bag
from ros_fakes import FakeRecognizer

from mmcl_core.errors import ConfigError, DataError
from mmcl_ros.bagfile import Bag, Topics, typestore
from mmcl_ros.evaluate_bag import evaluate, main, parse_drop, write
from mmcl_ros.frames import NO_CAMERA, FrameSettings
from mmcl_ros.record_demo import DEMO_TOPICS, START_NS
from mmcl_ros.truth import TRUTH_COLUMNS, read_truth


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
    assert main(command(bag, table, tiny_model(tmp_path / "run"), tmp_path / "out")) == 0
    assert json.loads((tmp_path / "out" / "metrics.json").read_text())["damaged_messages"] == 4


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


def test_how_much_depth_there_was_is_told_where_depth_was_looked_at(recording):
    found = run(recording, ["rgb", "depth"])
    assert column(found["rgb"], "depth_valid") == [""] * 40
    assert set(column(found["depth"], "depth_valid")) == {"1.0000"}


def test_a_camera_that_the_model_goes_by_and_the_recording_lacks_is_told(tmp_path):
    stamps = range(10**9, 5 * 10**9, 10**9)
    bag = write_bag(tmp_path / "bag", [("/depth", "depth", stamp, stamp) for stamp in stamps])
    table = tmp_path / "boxes.csv"
    table.write_text(f"{','.join(TRUTH_COLUMNS)}\n" + "".join(f"{stamp},0,0,4,4,dark\n" for stamp in stamps))
    told = {f"depth: {NO_CAMERA.replace('depth_info_topic', '--depth-info-topic')}": 4}
    for uses_camera, problems in ((True, told), (False, {})):
        found = run((bag, table), ["depth"], recognizer=FakeRecognizer(uses_camera=uses_camera))["depth"].figures()
        assert found["problems"] == problems
        assert found["answered_from"] == {"depth": 4}


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
    assert found["depth"].figures()["answered_from"] == {"depth": 30, "nothing": 10}
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
    assert found.figures()["one_sided"] == 0, "of two sensors neither is not one of them"
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
    with pytest.raises(ConfigError, match="modality is depth, but the model answers from rgb"):
        run(recording, ["depth"], recognizer=FakeRecognizer(["rgb"]))
    bad = tmp_path / "bad.csv"
    for blank in range(3):  # lines without anything count, too
        bad.write_text("stamp_ns,x_min,y_min,x_max,y_max,label\n" + blank * "\n" + "1,2,3,four,5,mug\n")
        with pytest.raises(DataError, match=rf"bad.csv, line {2 + blank}: .*four"):
            read_truth(bad)
    bad.write_text("stamp,label\n")
    with pytest.raises(DataError, match="lacks the columns stamp_ns, x_min"):
        read_truth(bad)
    bad.write_text("stamp_ns,x_min,y_min,x_max,y_max,label,width,height\n1,2,3,4,5,a,,\n1,2,3,4,5,b,320,240\n")
    (truth,) = read_truth(bad)
    assert (truth.request.width, truth.request.height) == (320, 240)  # whichever row says so
    bad.write_text(bad.read_text() + "1,2,3,4,5,c,640,480\n")
    with pytest.raises(DataError, match="the picture of stamp 1 is 320 x 240 and 640 x 480"):
        read_truth(bad)
    with pytest.raises(DataError, match="cannot read the true boxes"):
        read_truth(tmp_path / "none.csv")


@pytest.mark.parametrize(
    "text", ["depth", "depth:1", "depth:2-1", "depth:1-1", "sound:1-2", "depth:a-b", "depth:nan-2", "depth:1-inf"]
)
def test_malformed_drops(text):
    import argparse

    assert parse_drop("depth:1.0-2.5") == ("depth", (1.0, 2.5))
    with pytest.raises(argparse.ArgumentTypeError):
        parse_drop(text)


def test_a_recording_without_pictures_is_refused_with_the_topics_it_has(recording, tmp_path, capsys):
    bag = write_bag(tmp_path / "bag", [("/chat", "words", 0, 0), ("/cam/camera_info", "info", 0, 0)])
    assert main(command(bag, recording[1], tmp_path / "none", tmp_path / "out")) == 2
    err = capsys.readouterr().err
    assert "holds no colour or depth pictures" in err
    assert "its topics: /cam/camera_info (sensor_msgs/msg/CameraInfo), /chat (std_msgs/msg/String)" in err
    with Bag(bag) as opened:
        assert list(opened.messages()) == list(opened.raw("/none")) == [], "no topics are not all topics"


def test_a_folder_with_the_name_of_a_ros1_bag_is_told_apart_from_damage(tmp_path):
    bag = write_bag(tmp_path / "run.bag", [("/rgb/image", "rgb", 0, 0)])
    with pytest.raises(DataError, match=r"run\.bag is a folder .*rename it, without \.bag"):
        Bag(bag)
    with Bag(bag.rename(tmp_path / "run")) as opened:
        assert opened.topics.rgb == "/rgb/image"


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


@pytest.mark.parametrize(
    ("written", "rgb", "also"),
    [
        ([("/camera/image_raw", "rgb"), ("/camera/camera_info", "info"), ("/yolo/dbg_image", "rgb")],
         "/camera/image_raw", "/yolo/dbg_image"),
        ([("/cam/cam/color/image_raw", "rgb"), ("/cam/cam/color/camera_info", "info"), ("/rgb_mask", "rgb")],
         "/cam/cam/color/image_raw", "/rgb_mask"),
        ([("/front/color", "rgb"), ("/wrist/color", "rgb"), ("/wrist/depth", "depth")], "/wrist/color", "/front/color"),
        ([("/camera/image_raw", "rgb")], "/camera/image_raw", ""),
    ],
)  # fmt: skip
def test_colour_is_that_of_a_sensor_and_what_else_there_is_is_told(tmp_path, caplog, written, rgb, also):
    caplog.set_level("INFO")
    with Bag(write_bag(tmp_path / "bag", [(topic, kind, 0, 0) for topic, kind in written])) as bag:
        assert bag.topics.rgb == rgb
    told = [record.message for record in caplog.records if "it also has" in record.message]
    assert told == ([f"{bag.path}: colour is read from {rgb}; it also has {also} (--rgb-topic)"] if also else [])


def test_a_topic_whose_messages_cannot_be_found_is_told_once(tmp_path, caplog):
    """As after an edit of its quality of service in metadata.yaml, by which the reader tells topics apart."""
    path = write_bag(tmp_path / "bag", [("/cam/image", "rgb", 10**8, 0), ("/cam/depth", "depth", 10**8, 0)], "cam")
    assert not Bag(path)._lost
    about = yaml.safe_load((path / "metadata.yaml").read_text())
    for topic in about["rosbag2_bagfile_information"]["topics_with_message_count"]:
        if topic["topic_metadata"]["name"] == "/cam/depth":
            topic["topic_metadata"]["offered_qos_profiles"] = [
                {"history": "keep_last", "depth": 7, "reliability": "reliable", "durability": "volatile",
                 "deadline": {"sec": 1, "nsec": 0}, "lifespan": {"sec": 1, "nsec": 0}, "liveliness": "automatic",
                 "liveliness_lease_duration": {"sec": 1, "nsec": 0}, "avoid_ros_namespace_conventions": False}
            ]  # fmt: skip
    (path / "metadata.yaml").write_text(yaml.safe_dump(about))
    with Bag(path) as bag:
        if bag.topics.depth:
            pytest.skip("this version of rosbags tells topics apart by their names alone: it reads the messages")
        assert (bag.topics.rgb, bag.topics.depth) == ("/cam/image", "")
        assert not bag.stamps("/cam/depth")
    assert caplog.text.count("none of the messages on /cam/depth that its metadata.yaml tells of, 1, can be read") == 1


def test_types_that_a_bag_does_not_define_are_those_known_here(recording):
    with Bag(recording[0]) as bag:
        del bag._reader.typestore.fielddefs["sensor_msgs/msg/CameraInfo"]
        with pytest.raises(DataError, match="does not say what sensor_msgs/msg/CameraInfo"):
            bag._require_definition(INFO)
        bag._complete_types()
        assert len(list(bag.messages(INFO))) == 20


def test_confusion_and_metrics_of_a_run_with_rejections(recording, tmp_path):
    found = run(recording, ["rgb"], min_score=0.95)
    report = write(tmp_path, found, {"bag": "x"})
    assert report["modalities"]["rgb"]["rejected"] == {"low_score": 40}
    assert json.loads((tmp_path / "metrics.json").read_text())["modalities"]["rgb"]["boxes"] == 40


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
