"""What is promised of cameras, boxes, scores, lateness and memory, at the edge where it begins; no ROS needed."""

import math
from types import SimpleNamespace

import pytest
from ros_fakes import LEFT, MS, FakeRecognizer, Robot, ask, camera_info, colour, depth, header, item

from mmcl_ros.detections import read_request
from mmcl_ros.frames import Result
from mmcl_ros.pairing import Pairer

BOX = (10, 20, 30, 30)
COLOUR_CAMERA = camera_info(80, 60, 100.0, 39.5, 29.5)
NONE_NEARER = "none that is nearer came within max_wait = 0.1 s"
IN_BOX = (100.0, 100.0, 29.5, 9.5)


@pytest.mark.parametrize(
    ("size", "infos", "camera"),
    [
        ((80, 60), {"rgb": COLOUR_CAMERA}, IN_BOX),
        ((40, 30), {"rgb": COLOUR_CAMERA}, (0.0, 0.0, 0.0, 0.0)),
        ((80, 60), {"rgb": COLOUR_CAMERA, "depth": camera_info(80, 60, 50.0, 41.5, 31.5)}, (50.0, 50.0, 31.5, 11.5)),
        ((80, 60), {}, (0.0, 0.0, 0.0, 0.0)),
    ],
)
def test_depth_on_the_pixels_of_colour_is_seen_through_its_camera_unless_it_has_its_own(size, infos, camera):
    model = FakeRecognizer(uses_camera=True)
    width, height = size
    result = ask([BOX], rgb=colour(), depth=depth(width=width, height=height), infos=infos, recognizer=model)
    (call,) = model.calls
    assert call.camera == [pytest.approx(camera)]
    assert ("no usable camera info" in result.remarks.get("depth", "")) == (not any(camera))


@pytest.mark.parametrize("degrees", [0, 30, 45, 90, 100, 150, 200, 330, -30])
def test_a_rotated_box_counts_as_the_upright_one_around_its_corners(degrees):
    (x, y), (width, height), theta = (50.0, 40.0), (30.0, 8.0), math.radians(degrees)
    corners = [
        (x + a * math.cos(theta) - b * math.sin(theta), y + a * math.sin(theta) + b * math.cos(theta))
        for a in (-width / 2, width / 2)
        for b in (-height / 2, height / 2)
    ]
    center = SimpleNamespace(position=SimpleNamespace(x=x, y=y), theta=theta)
    one = SimpleNamespace(id="turned", bbox=SimpleNamespace(center=center, size_x=width, size_y=height))
    (box,) = read_request(SimpleNamespace(header=header(), detections=[one])).boxes
    across, down = zip(*corners, strict=True)
    assert (box.left, box.top) == pytest.approx((min(across), min(down)))
    assert (box.right, box.bottom) == pytest.approx((max(across), max(down)))


@pytest.mark.parametrize(("above", "result"), [(0.0, Result.ACCEPTED), (1e-9, Result.LOW_SCORE)])
def test_a_score_of_exactly_min_score_is_answered(above, result):
    score = ask([LEFT], rgb=colour()).answers[0].score
    (answer,) = ask([LEFT], rgb=colour(), min_score=score + above).answers
    assert answer.result is result


@pytest.mark.parametrize(
    ("seen", "more"), [(-0.2, ", and none that is nearer came within max_wait = 0.1 s"), (0.2, "")]
)
def test_regions_say_whether_their_picture_may_have_been_on_its_way(seen, more):
    """A picture of before the regions may be followed by theirs; after one of later, theirs comes no more."""
    robot = Robot("rgb", roi_source="detections", wanted=("rgb",))
    robot.send("rgb", stamp=round((robot.now + seen) * 1e9))
    robot.detect()
    robot.run(0.2)
    (job,) = robot.jobs
    assert job.missing == f"no rgb picture within 0.02 s of the regions; the nearest is 0.200 s off{more}"


@pytest.mark.parametrize("runs", [1, 3])
@pytest.mark.parametrize(("given", "capacity"), [({"capacity": 50}, 50), ({}, 1000)])
def test_of_a_fast_stream_as_many_pictures_are_kept_as_there_is_room_for(runs, given, capacity):
    """Though all are younger than the history; those of before the stamps jumped back have a room of their own."""
    made = Pairer(0.0, 0.1, history=60.0, **given)
    made.expect("detections", ["depth"], ["depth"])
    count = capacity + 200
    stamps = [10_000 * (runs - run) + n for run in range(runs) for n in range(count)]
    for place, stamp in enumerate(stamps):
        made.add("depth", item(stamp, received=place / 1e3))
    for stamp in stamps:
        made.add("detections", item(stamp, received=10.0))
    kept = [group.anchor.stamp // MS for group in made.ready(11.0) if group.partners]
    assert kept[-capacity:] == stamps[-capacity:], "the newest"
    assert len(kept) == (capacity if runs == 1 else 2 * capacity)


@pytest.mark.parametrize(("size", "kept"), [(10, 40), (100, 10), (300, 3), (5000, 1)])
def test_of_large_pictures_as_many_are_kept_as_there_is_memory_for(size, kept):
    """The newest one always, however large; and who asks for an older one is told why it is gone."""
    made = Pairer(0.0, 0.1, history=60.0, memory=1000)
    made.expect("detections", ["rgb"], ["rgb"])
    for run in range(2):  # the second time stamps have jumped back
        for n in range(40):
            made.add("rgb", item(10_000 * (2 - run) + n, received=run + n / 1e3, size=size))
    for run in range(2):
        for n in range(40):
            made.add("detections", item(10_000 * (2 - run) + n, received=3.0))
    assert sum(bool(group.partners) for group in made.ready(4.0)) == 2 * kept
    assert ("smaller pictures" in made.kept) == (kept < 40)


def test_pictures_are_weighed_as_they_come():
    robot = Robot("rgb", roi_source="detections", wanted=("rgb",))
    robot.intake.pairer.history, robot.intake.pairer.memory = 60.0, 5 * 4 * 4 * 3  # five of its pictures
    robot.run(1.0, "rgb")
    robot.detect(stamp=round((robot.now - 0.9) * 1e9))
    assert "send fewer or smaller pictures" in robot.jobs[-1].missing
