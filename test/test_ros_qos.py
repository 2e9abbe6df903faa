"""Matching publishers: every combination of what is offered and asked for; and the parameter table with its copies."""

from pathlib import Path

import pytest
import yaml

from mmcl_core.errors import ConfigError
from mmcl_ros.health import State
from mmcl_ros.parameters import PARAMETERS, TABLE, as_markdown, as_yaml, check, check_change
from mmcl_ros.qos import Offer, decide, info_beside, pictures_elsewhere

ROOT = Path(__file__).resolve().parents[1]
IMAGE = "sensor_msgs/msg/Image"


def offer(reliable=True, kind=IMAGE, node="/camera", latched=False):
    return Offer(node, kind, reliable, latched)


@pytest.mark.parametrize(
    ("offers", "asked", "state", "reliable"),
    [
        ([offer()], "auto", State.ALIVE, True),
        ([offer(False)], "auto", State.ALIVE, False),
        ([offer(), offer(False, node="/b")], "auto", State.ALIVE, False),
        ([offer()], "best_effort", State.ALIVE, False),
        ([offer(False)], "best_effort", State.ALIVE, False),
        ([offer()], "reliable", State.ALIVE, True),
        ([offer(False)], "reliable", State.MISMATCH, True),
        ([offer(), offer(False, node="/b")], "reliable", State.ALIVE, True),
    ],
)
def test_reliability(offers, asked, state, reliable):
    link = decide("/rgb", offers, [IMAGE], asked)
    assert (link.state, link.reliable, link.type) == (state, reliable, IMAGE)
    assert ("best effort" in link.cause) == (asked == "reliable" and any(not one.reliable for one in offers))


def test_who_publishes_another_type_has_no_say():
    others = [offer(False, "std_msgs/msg/String", "/talker"), offer()]
    assert decide("/d", others, [IMAGE]).reliable
    assert decide("/d", others, [IMAGE], "reliable").cause == ""


def test_latched_only_if_all_are():
    assert decide("/d", [offer(latched=True)], [IMAGE]).latched
    assert not decide("/d", [offer(latched=True), offer(node="/b")], [IMAGE]).latched


def test_nobody_and_the_wrong_type_are_told():
    link = decide("/cam/rgb", [], [IMAGE])
    assert (link.state, link.type) == (State.NO_PUBLISHER, "")
    assert "nobody publishes /cam/rgb" in link.cause
    link = decide("/cam/rgb", [offer(kind="std_msgs/msg/String", node="/talker")], [IMAGE])
    assert (link.state, link.type) == (State.MISMATCH, "")
    assert "std_msgs/msg/String by /talker" in link.cause
    assert IMAGE in link.cause


def test_where_pictures_can_be_had_is_told_in_the_words_of_the_parameters():
    compressed, text = "sensor_msgs/msg/CompressedImage", "std_msgs/msg/String"
    published = {
        "/cam/depth/compressedDepth": [compressed],
        "/cam/image": [IMAGE],
        "/cam/image/compressed": [compressed],
        "/cam/jpeg": [compressed],
        "/chat": [text],
        "/front/overlay/image": [IMAGE],
        "/used": [IMAGE],
    }
    assert pictures_elsewhere(published, {"/used"}) == (
        "pictures are published on /cam/depth (transport compressedDepth), /cam/image (transport raw), "
        "/cam/image (transport compressed), /cam/jpeg (sensor_msgs/msg/CompressedImage)"
    )
    many = {f"/cam{number}": [IMAGE] for number in range(9)}
    assert pictures_elsewhere(many, ()).endswith("/cam3 (transport raw) and 5 more")
    assert pictures_elsewhere({"/chat": [text]}, ()) == ""


def test_type_on_offer_is_taken():
    ours, theirs = "mmcl_ros/msg/RegionArray", "vision_msgs/msg/Detection2DArray"
    assert decide("/d", [offer(kind=theirs)], [ours, theirs]).type == theirs
    assert decide("/d", [offer(kind=theirs), offer(kind=ours)], [ours, theirs]).type == ours


def test_a_detector_whose_package_is_not_installed_is_told_apart_from_a_wrong_type():
    ours, theirs = "mmcl_ros/msg/RegionArray", "vision_msgs/msg/Detection2DArray"
    link = decide("/d", [offer(kind=theirs, node="/yolo")], [ours])
    assert link.state is State.MISMATCH
    assert f"/d carries {theirs} by /yolo; {ours} is needed, or install vision_msgs" in link.cause
    assert "install" not in decide("/d", [offer(kind="std_msgs/msg/String")], [ours]).cause
    assert "install" not in decide("/d", [offer(kind=theirs)], [IMAGE]).cause, "no place for regions"


@pytest.mark.parametrize(
    ("picture", "info"),
    [
        ("/rgb/image", "/rgb/camera_info"),
        ("/camera/color/image_raw", "/camera/color/camera_info"),
        ("/camera/color/image_raw/compressed", "/camera/color/camera_info"),
        ("/camera/depth/image/compressedDepth", "/camera/depth/camera_info"),
        ("/image_raw", "/camera_info"),
    ],
)
def test_the_camera_info_lies_beside_the_pictures(picture, info):
    assert info_beside(picture) == info


# parameters


def test_file_shows_every_parameter_with_its_default():
    text = (ROOT / "config" / "recognizer.yaml").read_text()
    shown = yaml.safe_load(text)["/**"]["ros__parameters"]
    assert shown == {row.name: row.default for row in TABLE}
    assert {name: type(value) for name, value in shown.items()} == {row.name: type(row.default) for row in TABLE}
    assert text == as_yaml(), "write it anew: python -m mmcl_ros.parameters yaml > config/recognizer.yaml"


def test_documentation_holds_the_table():
    text = (ROOT / "docs" / "ros.md").read_text()
    assert as_markdown() in text, "paste the output of: python -m mmcl_ros.parameters markdown"


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_rows_are_complete_and_their_defaults_allowed(row):
    assert check(row.name, row.default) == row.default
    assert row.text.endswith(".")
    if isinstance(row.default, (int, float)) and not isinstance(row.default, bool):
        assert row.low > -float("inf"), "a number has a range"
        with pytest.raises(ConfigError, match=row.name):
            check(row.name, type(row.default)(row.low - 1))


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("modality", "thermal", "choose from auto, rgb, depth, rgbd"),
        ("top_k", 2.5, "takes a int"),
        ("top_k", True, "takes a int"),
        ("min_score", 1.5, "0 to 1"),
        ("min_score", float("nan"), "0 to 1"),
        ("autostart", "yes", "takes a bool"),
    ],
)
def test_wrong_values_are_named(name, value, says):
    with pytest.raises(ConfigError, match=f"{name}.*{says}"):
        check(name, value)


def test_whole_numbers_serve_as_doubles():
    assert type(check("max_wait", 1)) is float


def test_changes_at_run_time():
    assert check_change({"min_score": 0.5, "use_sim_time": True}, configured=True) == ""
    assert "modality cannot be changed" in check_change({"modality": "rgb"}, configured=True)
    assert check_change({"modality": "rgb"}, configured=False) == ""
    assert "choose from" in check_change({"modality": "x"}, configured=False)
    assert len(PARAMETERS) == len(TABLE), "names are unique"
