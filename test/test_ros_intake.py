"""The modality setting, health and pairing together, without ROS: which pictures an answer is made of, and when."""

import pytest
from ros_fakes import FakeRecognizer, Robot, camera_info, header, regions

from mmcl_core.errors import ConfigError
from mmcl_ros.detections import read_request, stamp_of
from mmcl_ros.frames import FrameAnswer, Result
from mmcl_ros.health import State
from mmcl_ros.intake import FAULTS, LOOK_AGAIN_S, PATIENT_S, wanted_modalities
from mmcl_ros.ledger import Ledger


def test_auto_goes_on_with_the_other_sensor_and_returns_with_hysteresis():
    robot = Robot()
    assert set(robot.run(1, "rgb", "depth")[1:]) == {("rgb", "depth")}
    lost = robot.run(2, "depth")
    assert set(lost) == {("depth",)}
    assert len(lost) >= 29, "answers go on half a second after the loss, at the full rate"
    back = robot.run(0.9, "rgb", "depth")
    assert set(back) == {("depth",)}, "not trusted yet"
    assert set(robot.run(1, "rgb", "depth")[4:]) == {("rgb", "depth")}
    assert set(robot.run(2, "rgb")) == {("rgb",)}


def with_late_depth(robot, seconds, usable, ledger):
    """Depth comes 40 ms later than colour: whether each answer was given at once, and whether it has the depth."""
    found = []
    for _ in range(round(seconds * 10)):
        robot.now += 0.06
        stamp, given = round(robot.now * 1e9), len(robot.jobs)
        robot.send("rgb")
        at_once = len(robot.jobs) > given
        robot.now += 0.04
        robot.send("depth", stamp)
        for job in robot.jobs[given:]:
            told = {} if usable or "depth" not in job.pictures else {"depth": (Result.UNREGISTERED, "another frame")}
            ledger.account(FrameAnswer([], problems=told), job.pictures, robot.intake.health, robot.now)
            found.append((at_once, "depth" in job.pictures))
    return found


def test_auto_does_not_wait_for_depth_that_can_never_be_used():
    robot, ledger = Robot(), Ledger()
    robot.run(1, "rgb", "depth")
    assert with_late_depth(robot, FAULTS / 10, False, ledger) == [(False, True)] * FAULTS
    after = with_late_depth(robot, 4 * LOOK_AGAIN_S, False, ledger)
    looks = after.count((False, True))
    assert after.count((True, False)) == len(after) - looks
    assert 3 <= looks <= 4, "and is looked at now and then"
    again = with_late_depth(robot, LOOK_AGAIN_S + 1, True, ledger)
    assert again[-5:] == [(False, True)] * 5, "used again once it can be"
    assert robot.intake.health["depth"].problem is None


def with_depth_behind(robot, ledger, seconds, lateness, usable=False, every=1, rate=10):
    """Colour, and depth ``lateness`` seconds later for one in ``every``: waits of the answers, and who has depth."""
    start, waits, paired = robot.now, [], []
    sent = [(n / rate, "rgb", n) for n in range(round(seconds * rate))]
    sent += [(time + lateness, "depth", n) for time, _, n in sent if n % every == 0]
    sent.sort()
    while sent:
        robot.now += 0.005
        first = len(robot.jobs)
        while sent and start + sent[0][0] <= robot.now:
            _, name, n = sent.pop(0)
            robot.send(name, round((start + n / rate) * 1e9))
        robot.collect()
        for job in robot.jobs[first:]:
            told = {} if usable or "depth" not in job.pictures else {"depth": (Result.UNREGISTERED, "another frame")}
            ledger.account(FrameAnswer([], problems=told), job.pictures, robot.intake.health, robot.now)
            waits.append(robot.now - stamp_of(job.header) / 1e9)
            paired.append("depth" in job.pictures)
    return waits, paired


@pytest.mark.parametrize("rate", [5, 10, 30])
def test_depth_that_cannot_be_used_and_comes_after_the_wait_is_waited_for_now_and_then_only(rate):
    robot, ledger = Robot(), Ledger()
    robot.run(1, "rgb", "depth")
    with_depth_behind(robot, ledger, (FAULTS + 2) / rate, 0.06, rate=rate)
    waits, paired = with_depth_behind(robot, ledger, 8 * LOOK_AGAIN_S, 0.3, rate=rate)
    assert not any(paired[1:])
    assert len(waits) >= 8 * LOOK_AGAIN_S * rate - 1
    held = [wait > 0.02 for wait in waits]
    assert max(waits) < 0.12, "no longer than max_wait"
    looks = sum(one and not before for before, one in zip([False, *held], held, strict=False))
    assert 6 <= looks <= 8
    assert sum(held) <= looks * (1 + 0.1 * rate), "those that came while the first one waited"
    _, paired = with_depth_behind(robot, ledger, 2 * LOOK_AGAIN_S, 0.06, usable=True, rate=rate)
    assert all(paired[-5:-1]), "used again once it can be"
    assert robot.intake.health["depth"].problem is None


def test_what_came_during_a_look_in_vain_goes_at_its_end():
    robot, ledger = Robot(), Ledger()
    robot.run(1, "rgb", "depth")
    with_depth_behind(robot, ledger, 3, 0.06)
    with_depth_behind(robot, ledger, LOOK_AGAIN_S - 0.2, 0.3)
    while not robot.intake.pairer.waiting:  # until the next look
        robot.now += 0.04
        robot.send("depth", round((robot.now - 0.3) * 1e9))
        robot.send("rgb")
    first = len(robot.jobs)
    for wait in (0.04, 0.04, 0.03):
        robot.now += wait
        robot.send("rgb")
    assert [tuple(job.pictures) for job in robot.jobs[first:]] == [("rgb",)] * 4


def test_depth_of_a_third_of_the_rate_that_cannot_be_used_is_looked_at_too():
    robot, ledger = Robot(), Ledger()
    robot.run(1, "rgb", "depth")
    with_depth_behind(robot, ledger, 3, 0.02, rate=30, every=3)
    assert robot.intake.health["depth"].faults >= FAULTS
    for _ in range(5):
        before = robot.intake.health["depth"].faults
        _, paired = with_depth_behind(robot, ledger, LOOK_AGAIN_S + 0.5, 0.02, rate=30, every=3)
        assert robot.intake.health["depth"].faults > before
        assert sum(paired) <= 5


def test_depth_that_cannot_be_used_is_looked_at_where_it_is_in_time():
    robot, ledger = Robot(), Ledger()
    robot.run(1, "rgb", "depth")
    with_late_depth(robot, 3, False, ledger)
    assert robot.run(1, "depth", "rgb")[-5:] == [("rgb", "depth")] * 5


@pytest.mark.parametrize(("modality", "wait"), [("rgbd", 0.1), ("auto", PATIENT_S)])
def test_who_asked_for_depth_or_for_all_of_a_recording_gets_the_wait(modality, wait):
    robot, ledger = Robot(modality), Ledger()
    robot.intake.pairer.wait = wait
    robot.run(1, "rgb", "depth")
    assert with_late_depth(robot, 5, False, ledger) == [(False, True)] * 50


def test_first_request_waits_for_a_camera_info_that_is_to_come():
    robot = Robot("rgb", wanted=("rgb",))
    robot.intake.infos_expected.add("rgb")
    robot.send("rgb")
    robot.now += 0.09
    robot.collect()
    assert robot.jobs == []
    info = camera_info(4, 4, 5.0, 2.0, 2.0, stamp_ns=round(robot.now * 1e9))
    robot.intake.info("rgb", info)
    robot.collect()
    assert [job.infos for job in robot.jobs] == [{"rgb": info}]


def test_a_camera_info_that_never_comes_delays_the_first_request_only():
    robot = Robot("rgb", wanted=("rgb",))
    robot.intake.infos_expected.add("rgb")
    robot.send("rgb")
    robot.now += 0.11
    robot.collect()
    assert len(robot.jobs) == 1
    robot.send("rgb")
    assert len(robot.jobs) == 2
    assert robot.jobs[1].infos == {}


def test_auto_with_a_detector_bridges_the_loss_without_a_gap():
    robot = Robot(roi_source="detections")
    robot.run(1, "rgb", "depth", "detections")
    assert robot.run(2, "rgb", "detections").count(("rgb",)) >= 38
    assert len(robot.jobs) == robot.intake.received


@pytest.mark.parametrize("name", ["rgb", "depth"])
def test_auto_on_a_robot_with_one_sensor(name):
    assert set(Robot().run(1, name)) == {(name,)}


def test_rgbd_emits_one_side_and_counts_it():
    robot = Robot("rgbd")
    robot.run(1, "rgb", "depth")
    lost = robot.run(2, "rgb")
    assert set(lost) == {("rgb",)}
    counters = robot.intake.pairer.counters
    assert (counters.paired, counters.one_sided) == (20, len(lost))


def test_rgbd_answers_from_one_side_though_the_other_has_never_sent():
    assert set(Robot("rgbd").run(1, "depth")) == {("depth",)}


@pytest.mark.parametrize("state", [State.ALIVE, State.NO_PUBLISHER, State.MISMATCH])
def test_rgbd_waits_for_a_sensor_that_may_begin_to_send_and_for_no_other(state):
    robot = Robot("rgbd")
    robot.intake.health["depth"].link = (state, "")
    robot.send("rgb")
    assert len(robot.jobs) == (state is not State.ALIVE)


def test_rgbd_does_not_wait_for_a_sensor_that_has_ceased():
    robot = Robot("rgbd")
    robot.run(1, "rgb", "depth")
    robot.run(1, "rgb")
    assert robot.jobs[-1].received == robot.now, "the newest is answered"
    assert not robot.intake.pairer.waiting


def test_single_modality_never_waits():
    robot = Robot("depth", wanted=("depth",))
    robot.send("depth")
    assert len(robot.jobs) == 1
    assert robot.intake.pairer.deadline() is None


def test_centre_until_a_detector_shows_up():
    robot = Robot(roi_source="auto")
    robot.run(0.5, "rgb")
    assert robot.jobs[-1].request is None
    robot.run(0.5, "rgb", "detections")
    assert robot.jobs[-1].request is not None
    assert not robot.run(0.5, "rgb"), "once there is a detector it is waited for"


def test_a_detector_that_is_there_is_waited_for_before_its_first_regions_and_when_it_has_gone():
    robot = Robot(roi_source="auto")
    for alive in (True, False):
        robot.intake.detector(alive)
        assert not robot.run(0.5, "rgb")


def test_regions_without_any_picture_are_handed_out_with_the_reason():
    robot = Robot(roi_source="detections")
    robot.detect()
    assert robot.jobs == []
    robot.run(0.2)
    assert robot.jobs[0].missing == "no rgb or depth picture has come"
    robot.run(1, "rgb")
    robot.detect(stamp=round((robot.now + 0.3) * 1e9))
    robot.run(0.2)
    assert "the nearest is 0.300 s off" in robot.jobs[1].missing
    assert robot.intake.pairer.counters.unpaired == 2


def test_zero_stamps_are_told_and_still_answered():
    robot = Robot()
    for _ in range(10):
        robot.now += 0.05
        robot.send("rgb", stamp=0)
        robot.send("depth", stamp=0)
    assert "stamp 0" in robot.intake.events["zero stamps"]
    assert ("rgb", "depth") in [tuple(job.pictures) for job in robot.jobs]


def test_regions_without_a_stamp_go_with_the_calibration_of_their_picture():
    robot = Robot("rgb", "detections", ("rgb",))
    for resolution in (640, 1280):
        robot.now += 1.0
        robot.intake.info("rgb", camera_info(resolution, 480, 500.0, 320.0, 240.0, stamp_ns=round(robot.now * 1e9)))
    robot.send("rgb")
    robot.detect(stamp=0)
    (job,) = robot.jobs
    assert set(job.pictures) == {"rgb"}
    assert job.infos["rgb"].width == 1280


def test_a_bag_that_loops_is_told_and_goes_on():
    robot = Robot("rgb", wanted=("rgb",))
    robot.run(1, "rgb")
    robot.send("rgb", stamp=50_000_000_000)
    assert "jumped back" in robot.intake.events["time jump"]
    assert robot.intake.pairer.counters.time_jumps == 1
    assert robot.jobs[-1].header.stamp.sec == 50


def test_newest_pictures_for_a_single_request():
    robot = Robot(roi_source="detections")
    assert robot.intake.single(None, robot.now) is None
    robot.run(0.5, "rgb", "depth")
    job = robot.intake.single(None, robot.now)
    assert set(job.pictures) == {"rgb", "depth"}
    assert job.header.stamp.sec == header(round(robot.now * 1e9)).stamp.sec
    asked = read_request(regions([(1, 1, 2, 2)], frame=""))
    job = robot.intake.single(asked, robot.now)
    assert (job.request.boxes, job.request.frame_id) == (asked.boxes, "camera"), "of the picture that is answered"
    assert job.request.header is job.header is job.pictures["rgb"].header


def test_a_single_request_takes_the_newest_pair_before_a_newer_single_picture():
    robot = Robot(roi_source="detections")
    robot.run(0.5, "rgb", "depth")
    paired = round(robot.now * 1e9)
    robot.now += 0.033
    robot.send("rgb")  # its depth is still under way
    job = robot.intake.single(None, robot.now)
    assert set(job.pictures) == {"rgb", "depth"}
    assert stamp_of(job.header) == pytest.approx(paired, abs=1)
    robot.now += 1.0
    robot.send("rgb")  # depth has ceased: colour alone, not a pair of long ago
    assert set(robot.intake.single(None, robot.now).pictures) == {"rgb"}


def test_a_single_request_is_answered_from_the_newest_picture_where_the_sensors_have_come_apart():
    robot = Robot(roi_source="detections")
    robot.run(0.5, "rgb", "depth")
    for _ in range(10):
        robot.now += 0.05
        robot.send("rgb")
        robot.send("depth", stamp=round((robot.now - 0.025) * 1e9))
    job = robot.intake.single(None, robot.now)
    assert stamp_of(job.header) == pytest.approx(round(robot.now * 1e9), abs=1), "no pair of half a second ago"
    assert set(job.pictures) == {"rgb"}


@pytest.mark.parametrize("setting", ["auto", "rgbd"])
def test_a_single_request_is_answered_from_the_sensor_that_is_alive(setting):
    robot = Robot(setting, roi_source="detections")
    robot.run(0.5, "rgb", "depth")
    robot.run(10, "depth")
    job = robot.intake.single(None, robot.now)
    assert set(job.pictures) == {"depth"}
    assert stamp_of(job.header) == round(robot.now * 1e9)


@pytest.mark.parametrize("setting", ["auto", "rgb", "rgbd"])
def test_a_single_request_is_not_answered_from_a_picture_of_long_ago(setting):
    robot = Robot(setting, wanted=("rgb",) if setting == "rgb" else ("rgb", "depth"))
    robot.run(0.5, "rgb")
    robot.now += 3600
    assert robot.intake.single(None, robot.now) is None
    robot.send("rgb")
    assert stamp_of(robot.intake.single(None, robot.now).header) == round(robot.now * 1e9)


@pytest.mark.parametrize(
    ("setting", "trained", "wanted"),
    [
        ("auto", ["depth", "rgb"], ("rgb", "depth")),
        ("auto", ["depth"], ("depth",)),
        ("rgbd", ["rgb", "depth"], ("rgb", "depth")),
        ("rgb", ["rgb"], ("rgb",)),
    ],
)
def test_sensors_wanted(setting, trained, wanted):
    assert wanted_modalities(setting, FakeRecognizer(trained)) == wanted


@pytest.mark.parametrize("setting", ["rgbd", "depth"])
def test_sensors_that_the_model_was_not_trained_for_are_refused(setting):
    with pytest.raises(ConfigError, match=f"modality is {setting}, but the model answers from rgb$"):
        wanted_modalities(setting, FakeRecognizer(["rgb"]))


@pytest.mark.parametrize(("setting", "trained"), [("depth", "rgb depth"), ("rgbd", "rgb depth"), ("auto", "depth")])
def test_a_model_of_prepared_depth_pictures_is_not_given_the_distances_of_a_sensor(setting, trained):
    prepared = FakeRecognizer(trained.split(), takes_distances=False)
    with pytest.raises(ConfigError, match=r"pictures that were prepared .* model.depth_encoding=hha or relief"):
        wanted_modalities(setting, prepared)


@pytest.mark.parametrize("setting", ["auto", "rgb"])
def test_a_model_of_prepared_depth_pictures_answers_from_colour(setting):
    assert wanted_modalities(setting, FakeRecognizer(takes_distances=False)) == ("rgb",)
