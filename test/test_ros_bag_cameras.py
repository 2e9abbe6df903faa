"""Cameras of recorded bags: whose camera info goes with which picture, and where depth is mapped to."""

import csv
import dataclasses
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

pytest.importorskip("rosbags", reason="rosbags is not installed: pip install rosbags")

from ros_bags import make_view, run, write_bag
from ros_fakes import FakeRecognizer, image

from mmcl_ros.bag_options import remember_colour
from mmcl_ros.bagfile import Bag, Topics
from mmcl_ros.crop_bag import crop_bag
from mmcl_ros.detections import Box, Request, camera_of
from mmcl_ros.evaluate_bag import evaluate
from mmcl_ros.frames import FrameCropper, FrameSettings
from mmcl_ros.qos import info_beside
from mmcl_ros.record_demo import record
from mmcl_ros.truth import Truth, read_truth


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


def test_crops_of_depth_of_another_size_than_colour(tmp_path):
    """Boxes are of the colour picture, also where it is lost; files of two sizes have no camera in common."""
    topics = {"rgb": "/rgb/image_raw", "depth": "/d/image_raw"}
    written = [(topics["depth"], "small", stamp, stamp) for stamp in (10**9, 2 * 10**9)]
    written += [(topics["rgb"], "rgb", 2 * 10**9, 2 * 10**9)]
    infos = [topic.replace("image_raw", "camera_info") for topic in topics.values()]  # focal lengths 16 and 14
    written += [(info, "info", stamp, stamp) for info in infos for stamp in (1, 10**9, 2 * 10**9)]
    bag = write_bag(tmp_path / "bag", written, "camera", side=16)
    truths = [
        Truth(Request((Box("", 8, 8, 16, 16),), "camera", stamp=stamp), ("dark",)) for stamp in (10**9, 2 * 10**9)
    ]
    out = tmp_path / "crops"
    with Bag(bag) as opened:
        settings = FrameSettings(box_scale=0.0, min_depth_valid=0.0)
        evaluated = evaluate(opened, truths, FakeRecognizer(), ["rgb", "depth"], settings)
        found = crop_bag(opened, truths, out, settings)
    rejected = {name: one.figures()["rejected"] for name, one in evaluated.items()}
    assert rejected == {"rgb": {"no_picture": 1}, "depth": {}}, "each modality knows what boxes were drawn in"
    assert found.pictures == {"rgb": 1, "depth": 2}, found
    shapes = {path.name: cv2.imread(str(path), cv2.IMREAD_UNCHANGED).shape[:2] for path in out.rglob("*.png")}
    early, late = (f"bag_{second}000000000000" for second in (1, 2))
    assert shapes == {f"{early}_depth.png": (5, 5), f"{late}_depth.png": (5, 5), f"{late}_rgb.png": (8, 8)}
    with (out / "cameras.csv").open(newline="") as file:
        assert [row["key"] for row in csv.DictReader(file)] == [f"dark/{early}"]


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


def test_depth_is_guessed_from_the_frame_of_colour(tmp_path):
    """As the Kinect Azure records it: depth as it was measured, and the same seen from the colour camera."""
    stores = {"/rgb/image_raw": "rgb", "/depth_to_rgb/image_raw": "depth", "/depth/image_raw": "depth"}
    with Bag(write_bag(tmp_path / "own", [(topic, kind, 0, 0) for topic, kind in stores.items()])) as bag:
        assert bag.topics.depth == "/depth/image_raw", "each has a frame of its own: the shortest name"
    frames = {topic: "depth_camera" if topic == "/depth/image_raw" else "rgb_camera" for topic in stores}
    written = [(topic, kind, 0, 0) for topic, kind in stores.items()]
    with Bag(write_bag(tmp_path / "bag", written, frames=frames)) as bag:
        assert bag.topics.depth == "/depth_to_rgb/image_raw"


def test_a_camera_info_that_is_named_goes_before_the_one_beside_the_pictures(tmp_path):
    kinds = {"/cam/image": "rgb", "/cam/camera_info": "info", "/calibrated/info": "info"}
    written = [(topic, kind, 10**9, 10**9) for topic, kind in kinds.items()]
    path = write_bag(tmp_path / "bag", written)
    with Bag(path) as bag:
        assert bag.topics.infos == {"rgb": "/cam/camera_info"}
    with Bag(path, Topics(infos={"rgb": "/calibrated/info"})) as bag:
        assert bag.topics.infos == {"rgb": "/calibrated/info"}
        assert bag.cameras()["rgb"].at(10**9).k[0] == len("/calibrated/info")


@pytest.mark.parametrize(
    ("kind", "of_colour", "of_depth", "shared"),
    [
        ("depth", "camera", "camera", True),
        ("depth", "camera", "other", False),
        ("depth", "", "", False),
        ("small", "camera", "camera", False),
    ],
)
def test_depth_of_the_frame_and_size_of_colour_is_seen_through_its_camera(tmp_path, kind, of_colour, of_depth, shared):
    kinds = {"/rgb/image": "rgb", "/depth/image": kind, "/rgb/camera_info": "info"}
    written = [(topic, kind, 10**9, 10**9) for topic, kind in kinds.items()]
    frames = {"/rgb/image": of_colour, "/depth/image": of_depth}
    with Bag(write_bag(tmp_path / "bag", written, frames=frames)) as bag:
        assert bag.topics.infos == {"rgb": "/rgb/camera_info"} | ({"depth": "/rgb/camera_info"} if shared else {})


def test_infrared_pictures_are_no_colour(tmp_path):
    kinds = {"/camera/infra1/image": "rgb", "/camera/depth/image": "depth"}
    with Bag(write_bag(tmp_path / "bag", [(topic, kind, 10**9, 10**9) for topic, kind in kinds.items()])) as bag:
        assert (bag.topics.rgb, bag.topics.depth) == ("", "/camera/depth/image")


def test_depth_of_the_frame_of_colour_goes_before_what_is_called_aligned(tmp_path):
    """Aligned to another camera, such as an infrared one, it is of no use beside colour."""
    kinds = {"/rgb/image": "rgb", "/depth/aligned": "depth", "/depth/image_of_colour": "depth"}
    frames = {"/rgb/image": "camera", "/depth/aligned": "other", "/depth/image_of_colour": "camera"}
    written = [(topic, kind, 10**9, 10**9) for topic, kind in kinds.items()]
    with Bag(write_bag(tmp_path / "bag", written, frames=frames)) as bag:
        assert bag.topics.depth == "/depth/image_of_colour"
