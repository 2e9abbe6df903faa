"""Which topics of a recording are used where it holds several cameras, or several detectors."""

import json

import pytest

pytest.importorskip("rosbags", reason="rosbags is not installed: pip install rosbags")

from ros_bags import command, tiny_model, write_bag

from mmcl_core.errors import DataError
from mmcl_ros.bagfile import Bag, Topics
from mmcl_ros.crop_bag import main as crop
from mmcl_ros.evaluate_bag import main as evaluate
from mmcl_ros.truth import read_topic
from mmcl_ros.unpack_bag import main as unpack

COLOUR, DEPTH = "color/image_raw", "aligned_depth_to_color/image_raw"
SECOND = 10**9


def kind_of(topic):
    return "info" if topic.endswith("info") else "depth" if "depth" in topic else "rgb"


def bag_of(path, topics, frames=None, frame=""):
    """A message of each topic: of the kind that is given, or that its name tells."""
    kinds = topics if isinstance(topics, dict) else {topic: kind_of(topic) for topic in topics}
    return write_bag(path, [(topic, kind, SECOND, SECOND) for topic, kind in kinds.items()], frame, frames)


def cameras(*names, kinds=(COLOUR, DEPTH)):
    """Topics of cameras, with their infos, and the frames of what is registered to colour."""
    topics = [f"/{name}/{kind}" for name in names for kind in kinds]
    topics += [f"{topic.rpartition('/')[0]}/camera_info" for topic in topics]
    return topics, {topic: topic.rpartition("/")[0].rpartition("/")[0] for topic in topics}


@pytest.mark.parametrize("own_frames", [True, False])
@pytest.mark.parametrize("camera", ["front", "wrist", "robot/arm"])
def test_the_other_picture_is_of_the_camera_of_the_one_that_is_named(tmp_path, caplog, camera, own_frames):
    """Also where drivers of two cameras state the same frame, by which depth of the one fits colour of the other."""
    topics, frames = cameras("front", "robot/arm", "robot/base", "wrist")
    path = bag_of(tmp_path / "bag", topics, frames) if own_frames else bag_of(tmp_path / "bag", topics, frame="camera")
    for given in (Topics(rgb=f"/{camera}/{COLOUR}"), Topics(depth=f"/{camera}/{DEPTH}")):
        with Bag(path, given) as bag:
            assert (bag.topics.rgb, bag.topics.depth) == (f"/{camera}/{COLOUR}", f"/{camera}/{DEPTH}")
            assert bag.topics.infos["depth"].startswith(f"/{camera}/")
    assert "neither frames nor names" not in caplog.text


@pytest.mark.parametrize("own_frames", [True, False])
def test_colour_is_of_the_camera_that_has_depth_below_the_name_of_a_robot(tmp_path, own_frames):
    topics, frames = cameras("robot/cam_a", "robot/cam_b")
    topics = [topic for topic in topics if "cam_a/aligned" not in topic]
    with Bag(bag_of(tmp_path / "bag", topics, frames if own_frames else None)) as bag:
        assert (bag.topics.rgb, bag.topics.depth) == (f"/robot/cam_b/{COLOUR}", f"/robot/cam_b/{DEPTH}")


def test_frames_go_before_names(tmp_path):
    """As where the depth of one camera is registered to the other."""
    frames = {"/a/image": "a", "/b/image": "b", "/a/depth": "b", "/b/depth": "a"}
    path = bag_of(tmp_path / "bag", list(frames), frames)
    for rgb, depth in (("/a/image", "/b/depth"), ("/b/image", "/a/depth")):
        for given in (Topics(rgb=rgb), Topics(depth=depth)):
            with Bag(path, given) as bag:
                assert (bag.topics.rgb, bag.topics.depth) == (rgb, depth)


@pytest.mark.parametrize(
    ("topics", "given", "chosen"),
    [
        ({"/oak/rgb/image": "rgb", "/oak/stereo/image": "depth", "/wrist/color": "rgb", "/wrist/depth": "depth"},
         Topics(rgb="/oak/rgb/image"), ("/oak/rgb/image", "/oak/stereo/image")),
        ({"/cam/color/image": "rgb", "/cam/depth/image": "depth", "/cam/depth/colored": "rgb"},
         Topics(depth="/cam/depth/image"), ("/cam/color/image", "/cam/depth/image")),
        ({"/cam/image": "rgb", "/cam/mask": "depth", "/depth/image": "depth"},
         Topics(), ("/cam/image", "/depth/image")),
        ({"/oak/rgb/image": "rgb", "/oak/right/image": "grey", "/oak/stereo/image": "depth"},
         Topics(), ("/oak/rgb/image", "/oak/stereo/image")),
        ({"/webcam/color": "rgb", "/stereo/left": "grey", "/stereo/depth": "depth"},
         Topics(), ("/stereo/left", "/stereo/depth")),
        ({"/cam/image": "rgb", "/cam/camera_info": "info", "/yolo/dbg_image": "rgb", "/depth/image": "depth"},
         Topics(depth="/depth/image"), ("/cam/image", "/depth/image")),
    ],
)  # fmt: skip
def test_pictures_that_are_likely_meant(tmp_path, topics, given, chosen):
    frames = {"/oak/stereo/image": "right", "/oak/right/image": "right", "/cam/mask": "colour", "/cam/image": "colour"}
    frames |= dict.fromkeys(("/cam/depth/image", "/cam/depth/colored"), "depth")
    with Bag(bag_of(tmp_path / "bag", topics, frames), given) as bag:
        assert (bag.topics.rgb, bag.topics.depth) == chosen


@pytest.mark.parametrize(
    ("topics", "given", "told"),
    [
        (["/front/color", "/wrist/depth"], Topics(), True),
        (["/front/color", "/front/depth"], Topics(), False),
        (["/robot/a/color", "/robot/b/color", "/robot/b/depth"], Topics(rgb="/robot/a/color"), True),
        (["/robot/a/color", "/robot/b/color", "/robot/b/depth"], Topics(), False),
        (["/front/color", "/wrist/depth"], Topics(rgb="/front/color", depth="/wrist/depth"), False),
    ],
)
def test_a_pair_that_nothing_says_is_of_one_camera_is_warned_of(tmp_path, caplog, topics, given, told):
    with Bag(bag_of(tmp_path / "bag", topics), given) as bag:
        words = f"neither frames nor names say that {bag.topics.rgb} and {bag.topics.depth} are of one camera"
    assert (words in caplog.text) is told


def test_a_pair_of_one_frame_is_not_warned_of(tmp_path, caplog):
    with Bag(bag_of(tmp_path / "bag", ["/rgb/image", "/depth_to_rgb/image"], frame="camera")):
        assert "neither frames nor names" not in caplog.text


@pytest.mark.parametrize("frames", ["none", "own"])
@pytest.mark.parametrize(("camera", "label"), [("front", "dark"), ("wrist", "bright")])
def test_boxes_are_those_of_the_camera_of_the_pictures(tmp_path, caplog, camera, label, frames):
    caplog.set_level("INFO")
    topics = {f"/{name}/color/image_raw": "rgb" for name in ("front", "wrist")}
    topics |= {"/front/detections": "found:dark", "/wrist/detections": "found:bright"}
    stated = {topic: topic.split("/")[1] if frames == "own" else "" for topic in topics}
    with Bag(bag_of(tmp_path / "bag", topics, stated), Topics(rgb=f"/{camera}/color/image_raw")) as bag:
        assert [truth.labels for truth in read_topic(bag)] == [(label,)]
        assert bag.topics.detections == f"/{camera}/detections"
    (other,) = {"front", "wrist"} - {camera}
    words = f"the boxes are read from /{camera}/detections; it also has /{other}/detections (--detections-topic)"
    assert words in caplog.text
    assert "neither frames nor names" not in caplog.text


def test_boxes_of_another_camera_are_none_that_are_read_unasked(tmp_path, caplog):
    topics = {"/front/color": "rgb", "/wrist/color": "rgb", "/front/found": "found:dark", "/wrist/regions": "regions"}
    path = bag_of(tmp_path / "bag", topics, dict.fromkeys(topics, ""))
    with Bag(path, Topics(rgb="/wrist/color")) as bag, pytest.raises(DataError) as error:
        read_topic(bag)
    assert "the boxes of /wrist/regions (mmcl_ros/msg/RegionArray) carry no classes; name another" in str(error.value)
    assert "(--detections-topic), such as /front/found (vision_msgs/msg/Detection2DArray)" in str(error.value)
    with Bag(path, Topics(rgb="/wrist/color", detections="/front/found")) as bag:
        assert len(read_topic(bag)) == 1
    assert "neither frames nor names" not in caplog.text


@pytest.mark.parametrize(("found", "told"), [("/front/found", True), ("/found", True), ("/wrist/found", False)])
def test_boxes_that_nothing_says_are_of_the_camera_are_warned_of(tmp_path, caplog, found, told):
    topics = {"/front/color": "rgb", "/wrist/color": "rgb", found: "found:dark"}
    with Bag(bag_of(tmp_path / "bag", topics, dict.fromkeys(topics, "")), Topics(rgb="/wrist/color")) as bag:
        assert len(read_topic(bag)) == 1
    words = f"neither frames nor names say that the boxes of {found} are of the camera of /wrist/color"
    assert (words in caplog.text) is told


def test_what_is_drawn_for_people_is_no_camera_that_boxes_may_be_of(tmp_path, caplog):
    topics = {"/cam/image": "rgb", "/cam/camera_info": "info", "/yolo/dbg_image": "rgb", "/yolo/found": "found:dark"}
    with Bag(bag_of(tmp_path / "bag", topics, dict.fromkeys(topics, ""))) as bag:
        assert len(read_topic(bag)) == 1
        assert bag.topics.rgb == "/cam/image"
    assert "neither frames nor names" not in caplog.text


def test_boxes_of_the_camera_go_before_those_that_may_be_of_any(tmp_path):
    topics = {"/wrist/color": "rgb", "/all/found": "found:dark", "/wrist/found": "found:bright"}
    with Bag(bag_of(tmp_path / "bag", topics, dict.fromkeys(topics, ""))) as bag:
        assert bag.topics.detections == "/wrist/found"
        assert [truth.labels for truth in read_topic(bag)] == [("bright",)]


@pytest.mark.parametrize(("frame", "chosen"), [("wrist", "wrist"), ("", "front")])
def test_pictures_follow_boxes_that_are_named(tmp_path, caplog, frame, chosen):
    """As far as their frame says whose they are; where only their name does, a warning tells of it."""
    topics = {"/front/color": "rgb", "/wrist/color": "rgb", "/wrist/found": "found:dark"}
    frames = {"/front/color": "front", "/wrist/color": "wrist", "/wrist/found": frame}
    with Bag(bag_of(tmp_path / "bag", topics, frames), Topics(detections="/wrist/found")) as bag:
        assert len(read_topic(bag)) == 1
        assert bag.topics.rgb == f"/{chosen}/color"
    assert ("that the boxes of /wrist/found are of the camera of /front/color" in caplog.text) is (not frame)


@pytest.mark.parametrize("first", ["regions", "found:"])
def test_true_boxes_are_those_with_classes(tmp_path, first):
    """Regions for a recogniser and a detector that names no classes may have been recorded beside one that does."""
    topics = {"/camera/color": "rgb", "/detections": first, "/yolo/detections": "found:bright"}
    path = bag_of(tmp_path / "bag", topics, frame="camera")
    with Bag(path) as bag:
        assert [truth.labels for truth in read_topic(bag)] == [("bright",)]
        assert bag.topics.detections == "/yolo/detections"
    with Bag(path, Topics(detections="/detections")) as bag, pytest.raises(DataError, match=r"/detections .* carry no"):
        read_topic(bag)


def test_a_recording_without_boxes_is_told_of_what_it_lacks(tmp_path):
    with Bag(bag_of(tmp_path / "bag", ["/cam/color"])) as bag, pytest.raises(DataError, match=r"has no .* topic with"):
        read_topic(bag)


def test_commands_name_the_topic_of_the_boxes_where_they_name_those_of_the_pictures(tmp_path, capsys):
    stamps = range(SECOND, 4 * SECOND, SECOND)
    kinds = {"/cam/color": "rgb", "/found": "found:dark", "/more": "found:dark"}
    written = [(topic, kind, stamp, stamp) for stamp in stamps for topic, kind in kinds.items()]
    bag = write_bag(tmp_path / "bag", written, "camera", side=40)
    words = ["--bag", str(bag), "--out", str(tmp_path / "crops")]
    assert crop(words) == 0
    assert "topics: /cam/color, /found\n" in capsys.readouterr().err
    table = tmp_path / "boxes.csv"
    table.write_text(f"stamp_ns,x_min,y_min,x_max,y_max,label\n{SECOND},0,0,40,40,dark\n")
    assert crop([*words, "--truth", str(table)]) == 0
    assert "topics: /cam/color\n" in capsys.readouterr().err
    given = command(bag, table, tiny_model(tmp_path / "run"), tmp_path / "out")
    for more, listed in ([], ["/cam/color"]), (["--detections-topic", "/more"], ["/cam/color", "/more"]):
        without = [word for word in given if word not in ("--truth", str(table))] if more else given
        assert evaluate([*without, *more, "--modality", "rgb"]) == 0
        assert f"topics:   {', '.join(listed)}\n" in capsys.readouterr().out
        topics = json.loads((tmp_path / "out" / "metrics.json").read_text())["topics"]
        assert topics == dict(zip(("rgb", "detections"), listed, strict=False))


def test_a_topic_without_messages_is_told_from_one_that_has_some(tmp_path, capsys):
    """As of a driver that was started and sent nothing."""
    written = [("/rgb/image", "rgb", 0, None), ("/found", "found:dark", 0, None)]
    path = write_bag(tmp_path / "bag", [*written, ("/depth/image", "depth", SECOND, SECOND)])
    with pytest.raises(DataError, match="there are no pictures on /rgb/image that can be read; leave it out"):
        Bag(path, Topics(rgb="/rgb/image"))
    with Bag(path) as bag:
        assert (bag.topics.rgb, bag.topics.depth) == ("", "/depth/image")
        with pytest.raises(DataError, match=r"bag: there are no boxes on /found \(vision_msgs.*; give the true boxes"):
            read_topic(bag)
    assert unpack(["--bag", str(path), "--out", str(tmp_path / "frames")]) == 2
    said = capsys.readouterr().err
    assert "/depth/image (sensor_msgs/msg/Image), " in said
    assert "/rgb/image (sensor_msgs/msg/Image, no messages)" in said
