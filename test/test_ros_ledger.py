"""What is counted of an answer, and what is said of it; no ROS needed."""

from types import SimpleNamespace

import pytest
from ros_fakes import Robot

from mmcl_ros.frames import NAME_IT, NO_CAMERA, Answer, FrameAnswer, Result
from mmcl_ros.health import Health, State
from mmcl_ros.ledger import Ledger, find_problems
from mmcl_ros.qos import Link

PICTURES = {"rgb": "a picture", "depth": "another"}


def account(*frames, used=PICTURES, infos=None):
    """The ledger, and the health of the sensors, after the answers for some frames."""
    ledger, health = Ledger(), {name: Health() for name in PICTURES}
    for number, frame in enumerate(frames):
        ledger.account(frame, used, health, float(number), infos)
    return ledger, health


def answered(modality="rgb"):
    return Answer("r0", result=Result.ACCEPTED, modality=modality)


def rejected(result):
    return Answer("r1", result=result, reason="for a reason")


def test_an_answer_from_either_sensor_is_no_failure():
    ledger, health = account(FrameAnswer([answered(), rejected(Result.NO_DEPTH)], modality="rgb"))
    assert (ledger.processed, ledger.failed, ledger.malformed, ledger.active) == (1, 0, 0, "rgb")
    assert {one.problem for one in health.values()} == {None}


@pytest.mark.parametrize("result", [Result.NO_PICTURE, Result.NO_DEPTH, Result.FAILED, Result.BAD_PICTURE])
def test_a_request_whose_regions_have_all_no_answer_has_failed(result):
    ledger, _ = account(FrameAnswer([rejected(result)]))
    assert (ledger.processed, ledger.failed) == (1, 1)


def test_a_request_without_regions_has_not_failed():
    """The detector has seen nothing, which is what is answered."""
    ledger, _ = account(FrameAnswer([]))
    assert (ledger.processed, ledger.failed) == (1, 0)


def test_a_picture_that_cannot_be_read_is_counted_at_its_sensor_until_one_can():
    bad = FrameAnswer([answered()], "rgb", problems={"depth": (Result.BAD_PICTURE, "truncated")})
    ledger, health = account(bad, bad)
    assert (ledger.malformed, health["depth"].malformed, health["rgb"].malformed) == (2, 2, 0)
    assert health["depth"].problem == (State.BAD_PICTURES, "truncated")
    assert ledger.take_events() == {"depth bad pictures": "depth: truncated"}
    assert ledger.take_events() == {}, "they were told"
    _, health = account(bad, FrameAnswer([answered("rgbd")], "rgbd"))
    assert health["depth"].problem is None
    assert health["depth"].malformed == 1


def test_a_picture_of_another_frame_is_not_malformed():
    ledger, health = account(FrameAnswer([answered()], "rgb", problems={"depth": (Result.UNREGISTERED, "elsewhere")}))
    assert (ledger.malformed, health["depth"].malformed) == (0, 0)
    assert health["depth"].problem == (State.UNREGISTERED, "elsewhere")


def test_a_sensor_whose_picture_was_not_used_keeps_what_was_found():
    bad = FrameAnswer([answered()], "rgb", problems={"depth": (Result.BAD_PICTURE, "truncated")})
    ledger, health = Ledger(), {name: Health() for name in PICTURES}
    ledger.account(bad, PICTURES, health, 0.0)
    ledger.account(FrameAnswer([answered()], "rgb"), {"rgb": "a picture"}, health, 1.0)
    assert health["depth"].problem == (State.BAD_PICTURES, "truncated")


@pytest.mark.parametrize(
    ("result", "counts"), [(Result.BAD_REGION, 2), (Result.FAILED, 0), (Result.NO_DEPTH, 0), (Result.NO_PICTURE, 0)]
)
def test_what_is_wrong_with_a_region_is_said(result, counts):
    ledger, _ = account(FrameAnswer([answered(), rejected(result), rejected(result)], "rgb"))
    assert ledger.malformed == counts
    assert list(ledger.take_events().values()) == ["region 'r1': for a reason"]


def test_a_remark_says_why_the_camera_info_does_not_come():
    frame = FrameAnswer([answered("depth")], "depth", remarks={"depth": NO_CAMERA})
    ledger, _ = account(frame, infos={"depth": f"nobody publishes /info{NAME_IT}"})
    (words,) = ledger.take_events().values()
    assert words.endswith(f"; nobody publishes /info{NAME_IT}")
    assert words.count(NAME_IT) == 1
    assert list(account(frame)[0].take_events().values()) == [f"depth: {NO_CAMERA}"]


@pytest.mark.parametrize("counts", [True, False])
def test_a_lost_answer_is_said_and_counts_where_a_topic_waits_for_it(counts):
    ledger, _ = account(FrameAnswer([answered()], "rgb"))
    ledger.lose("a defect", 1.0, counts)
    assert (ledger.processed, ledger.failed) == (1 + counts, counts)
    assert ledger.active == ("" if counts else "rgb")
    assert ledger.rate.value(1.0) == counts, "one a second, that of the answer before and this one"
    assert ledger.take_events() == {"answer lost": "a defect"}


def test_one_of_several_publishers_that_cannot_be_heard_is_said_while_pictures_come():
    robot = Robot("rgb", wanted=("rgb",))
    robot.intake.health["rgb"].link = (State.ALIVE, "/rgb: /b publishes best effort, but qos asks for reliable")
    robot.run(1, "rgb")
    assert "/b publishes best effort" in find_problems(robot.intake, {})["rgb quality of service"]


@pytest.mark.parametrize("modality", ["auto", "rgbd"])
def test_who_asked_for_both_sensors_is_not_told_to_do_without_one(modality):
    robot = Robot(modality)
    robot.intake.health["depth"].link = (State.NO_PUBLISHER, "nobody publishes /depth")
    robot.run(1, "rgb")
    words = find_problems(robot.intake, {})["depth no publisher"]
    assert ("without that sensor set modality to rgb" in words) == (modality == "auto")
    robot.intake.health["rgb"].link = (State.NO_PUBLISHER, "nobody publishes /rgb")
    assert set(find_problems(robot.intake, {}).values()) == {
        "rgb: nobody publishes /rgb",
        "depth: nobody publishes /depth",
    }, "where both are gone neither is to be done without"


def test_a_detector_that_cannot_be_heard_is_said_and_that_there_is_none_is_not():
    robot = Robot("rgb", roi_source="auto", wanted=("rgb",))
    robot.run(1, "rgb")
    mismatch, none = (
        find_problems(robot.intake, {"detections": SimpleNamespace(link=Link(state, "why"))})
        for state in (State.MISMATCH, State.NO_PUBLISHER)
    )
    assert mismatch == {"no regions": "why; until that is right, regions are the node's own"}
    assert none == {}


def test_requests_that_a_full_queue_has_dropped_are_said():
    robot = Robot("rgb", wanted=("rgb",))
    robot.run(1, "rgb")
    assert find_problems(robot.intake, {}) == {}
    assert find_problems(robot.intake, {}, dropped=3)["queue full"].startswith("3 requests dropped")
