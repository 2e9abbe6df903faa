"""Cameras of pictures: which calibration goes with which, parts of the sensor, rectified pictures; no ROS needed."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
from ros_fakes import LEFT, FakeRecognizer, ask, camera_info, colour, depth, image, labels

from mmcl_ros.bag_options import remember_colour
from mmcl_ros.bagfile import Topics
from mmcl_ros.cameras import CameraTrack, info_of_pictures
from mmcl_ros.detections import camera_of, stamp_of
from mmcl_ros.health import Health
from mmcl_ros.ledger import Ledger


def test_a_calibration_of_nans_is_kept_once():
    track = CameraTrack()
    for number in range(50):
        track.add(camera_info(4, 4, float("nan"), 2, 2, stamp_ns=number + 1))
    assert len(track._infos) == 1


def test_a_picture_goes_with_the_calibration_of_its_time():
    rng = np.random.default_rng(0)
    infos = [camera_info(4, 4, float(rng.integers(1, 4)), 2.0, 2.0, stamp_ns=1000 * n) for n in range(200)]
    track = CameraTrack()
    for info in infos:
        track.add(info)
    assert len(track._infos) < 150, "one that stays the same is kept once"
    for stamp in rng.integers(0, 200_000, 100):
        assert track.at(int(stamp)).k == max((i for i in infos if stamp_of(i.header) <= stamp), key=at).k
    track.add(camera_info(4, 4, 9.0, 2.0, 2.0, stamp_ns=5500))
    assert track.at(10**9).k[0] == 9.0, "time jumped back: what was newer is no longer"
    assert track.at(50_000).k[0] == 9.0
    assert track.at(5400).k == infos[5].k
    assert CameraTrack().at(0) is None


def test_of_infos_by_another_clock_than_that_of_the_pictures_the_newest_holds():
    for ahead in (-3600, 0, 3600):
        track, found = CameraTrack(), []
        for second in range(1, 300):
            resolution = (640, 480) if second < 200 else (1280, 720)
            info = camera_info(*resolution, 500.0, 300.0, 200.0, stamp_ns=(10_000 + ahead + second) * 10**9)
            track.add(info)
            found.append(track.at((10_000 + second) * 10**9).width)
        assert found == [640] * 199 + [1280] * 100


def test_of_a_calibration_that_never_stays_the_last_changes_are_kept():
    track = CameraTrack(capacity=5)
    for number in range(20):
        track.add(camera_info(4, 4, 1.0 + number, 2, 2, stamp_ns=100 * number))
    assert [track.at(100 * number).k[0] for number in (19, 15, 3)] == [20.0, 16.0, 16.0]
    assert len(track._infos) == 5


def test_pictures_from_before_the_first_info_go_with_that():
    track = CameraTrack()
    for second, fx in ((100, 500.0), (200, 600.0)):
        track.add(camera_info(640, 480, fx, 300.0, 200.0, stamp_ns=second * 10**9))
    assert track.at(10 * 10**9).k[0] == 500.0


def test_what_boxes_were_drawn_in_is_remembered_with_the_camera_of_its_time():
    track, remembered = CameraTrack(), []
    for second, fx in ((990, 500.0), (1500, 600.0)):
        track.add(camera_info(640, 480, fx, 300.0, 200.0, stamp_ns=second * 10**9))
    pictures = [("/c", image(np.zeros((480, 640, 3), np.uint8), "rgb8", stamp_ns=1000 * 10**9))]
    bag = SimpleNamespace(
        topics=Topics(rgb="/c"), cameras=lambda: {"rgb": track}, messages=lambda *topics: iter(pictures)
    )
    remember_colour(bag, [SimpleNamespace(remember=lambda *given: remembered.append(given))])
    assert [info.k[0] for _, _, info in remembered] == [500.0]


def at(info):
    return stamp_of(info.header)


def test_camera_info_of_another_resolution_is_scaled():
    info = camera_info(640, 480, 500.0, 319.5, 239.5)
    assert camera_of(info, 320, 240) == (250.0, 250.0, 159.5, 119.5)
    assert camera_of(info, 320, 320) is None
    assert camera_of(camera_info(640, 480, 0.0, 0, 0), 640, 480) is None
    assert camera_of(camera_info(640, 480, math.nan, 0, 0), 640, 480) is None
    for place, odd in ((4, 0.0), (4, -500.0), (2, math.nan), (5, math.inf)):
        info = camera_info(640, 480, 500.0, 319.5, 239.5)
        info.k[place] = odd
        assert camera_of(info, 640, 480) is None
    ros1 = camera_info(8, 8, 4.0, 3.0, 3.0)
    ros1.K = ros1.__dict__.pop("k")
    assert camera_of(ros1, 8, 8) == (4.0, 4.0, 3.0, 3.0)


@pytest.mark.parametrize("binning", [(0, 0), (1, 1), (2, 2), (2, 1)])
@pytest.mark.parametrize("roi", [(0, 0, 0, 0), (0, 0, 640, 480), (100, 40, 320, 200)])
def test_camera_of_a_part_of_the_sensor_keeps_the_ray(roi, binning):
    """A point of the sensor is seen along the same ray, whichever pixel of the picture it came to lie in."""
    info = camera_info(640, 480, 500.0, 310.0, 250.0, roi=roi, binning=binning)
    left, top, width, height = roi if roi[2] else (0, 0, 640, 480)
    joined = [max(1, one) for one in binning]
    fx, fy, cx, cy = camera_of(info, width // joined[0], height // joined[1])
    for sensor, start, pixels, focus, centre, whole in (
        (300, left, joined[0], fx, cx, 310.0),
        (90, top, joined[1], fy, cy, 250.0),
    ):
        place = (sensor + 0.5 - start) / pixels - 0.5
        assert (place - centre) / focus == pytest.approx((sensor - whole) / 500.0)


def test_rectified_pictures_go_by_the_projection_matrix():
    info = camera_info(640, 480, 600.0, 320.0, 240.0, rectified=(480.0, 310.0, 230.0))
    assert camera_of(info, 640, 480) == (600.0, 600.0, 320.0, 240.0)
    assert camera_of(info, 640, 480, rectified=True) == (480.0, 480.0, 310.0, 230.0)
    assert camera_of(info, 320, 240, rectified=True) == (240.0, 240.0, 154.75, 114.75)
    for unstated in (0.0, math.nan):
        info.p[0] = unstated
        assert camera_of(info, 640, 480, rectified=True) == (600.0, 600.0, 320.0, 240.0)
    del info.p
    assert camera_of(info, 640, 480, rectified=True) == (600.0, 600.0, 320.0, 240.0)


def test_depth_is_seen_through_the_camera_of_rectified_pictures():
    info = camera_info(80, 60, 100, 39.5, 29.5, rectified=(90, 38.5, 28.5))
    for infos in (
        {"depth": info},
        {"rgb": info},
    ):  # of depth without one, the camera of the picture it is registered to
        recognizer = FakeRecognizer()
        answer = ask([LEFT], rgb=colour(), depth=depth(), infos=infos, recognizer=recognizer)
        assert answer.modality == "rgbd"
        x, y = answer.answers[0].roi[:2]
        assert recognizer.calls[0].camera == [(90, 90, 38.5 - x, 28.5 - y)]
    recognizer = FakeRecognizer(modalities=["rgb"])
    ask([LEFT], rgb=colour(), infos={"rgb": info}, recognizer=recognizer)
    assert recognizer.calls[0].camera[0][0] == 100, "colour as it was taken"


def test_a_change_of_the_rectified_camera_is_a_change_of_the_calibration():
    track = CameraTrack()
    for stamp, fx in ((1, 480.0), (2, 480.0), (3, 490.0)):
        track.add(camera_info(640, 480, 600.0, 320.0, 240.0, stamp_ns=stamp, rectified=(fx, 310.0, 230.0)))
    assert [camera_of(track.at(stamp), 640, 480, rectified=True)[0] for stamp in (1, 2, 3)] == [480, 480, 490]
    assert stamp_of(track.at(2).header) == 1, "kept once"
    track = CameraTrack()
    for stamp, fx in ((1, 600.0), (2, 600.0), (3, 610.0)):
        info = camera_info(640, 480, fx, 320.0, 240.0, stamp_ns=stamp, rectified=(480.0, 310.0, 230.0))
        track.add(info_of_pictures(info, "/c/image_rect"))
    assert [track.at(stamp).as_taken.k[0] for stamp in (1, 2, 3)] == [600, 600, 610]
    assert stamp_of(track.at(2).header) == 1, "kept once"


def test_a_change_of_the_part_that_is_read_is_a_change_of_the_calibration():
    track = CameraTrack()
    for stamp, roi in enumerate([(0, 0, 0, 0), (10, 20, 320, 240)]):
        track.add(camera_info(640, 480, 500.0, 319.5, 239.5, stamp_ns=stamp, roi=roi))
    assert [track.at(stamp).roi.x_offset for stamp in (0, 1)] == [0, 10]


def test_so_is_a_change_of_how_many_pixels_are_joined():
    track = CameraTrack()
    for stamp, binning in enumerate([(1, 1), (2, 1), (2, 2)]):
        track.add(camera_info(640, 480, 500.0, 319.5, 239.5, stamp_ns=stamp, binning=binning))
    found = [track.at(stamp) for stamp in range(3)]
    assert [(info.binning_x, info.binning_y) for info in found] == [(1, 1), (2, 1), (2, 2)]


def test_uncalibrated_camera_is_told_as_unknown():
    recognizer = FakeRecognizer()
    ask([LEFT], depth=depth(), recognizer=recognizer)
    assert recognizer.calls[0].camera == [(0.0, 0.0, 0.0, 0.0)]


def test_depth_without_the_camera_that_the_model_goes_by_is_told_once():
    known = {"depth": camera_info(80, 60, 100, 39.5, 29.5)}
    needy = {"recognizer": FakeRecognizer(uses_camera=True)}
    told = ask(depth=depth(), **needy)
    assert labels(told) == ["dark", "bright"]
    assert "depth_info_topic" in told.remarks["depth"]
    assert told.problems == {}, "it is answered, and the sensor is fine"
    assert ask(depth=depth(), infos=known, **needy).remarks == {}
    assert ask(rgb=colour(), **needy).remarks == {}
    assert ask(depth=depth()).remarks == {}, "a model that needs no camera"
    ledger, health = Ledger(), {"depth": Health()}
    for _ in range(3):
        ledger.account(told, {"depth": None}, health, 0.0)
    assert list(ledger.take_events().values()) == [f"depth: {told.remarks['depth']}"]
    assert health["depth"].problem is None
