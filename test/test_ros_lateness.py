"""What is said where no partner is found: a silent detector, late delivery, or clocks that disagree; no ROS needed."""

from types import SimpleNamespace

import pytest
from ros_fakes import Robot, item

from mmcl_ros.health import State
from mmcl_ros.ledger import LONELY, find_problems
from mmcl_ros.pairing import LATEST_S, SLOWEST_S, Pairer
from mmcl_ros.parameters import PARAMETERS
from mmcl_ros.qos import Link


def test_causes_name_what_helps():
    """A silent detector, depth that is late, and regions that are late: each is told with the parameter to change."""
    robot = Robot(roi_source="detections")
    regions_link = SimpleNamespace(topic="/detections", link=Link(State.ALIVE))
    links = {"detections": regions_link}
    robot.intake.start_over()
    robot.run(4, "rgb", "depth")
    assert "no regions" not in find_problems(robot.intake, links)
    robot.run(2, "rgb", "depth")
    assert (
        "/detections has a publisher, and no regions have come for 6 s"
        in find_problems(robot.intake, links)["no regions"]
    )
    robot.detect()
    assert find_problems(robot.intake, links) == {}
    counters = robot.intake.pairer.counters
    counters.lonely = 100
    assert "widen the window" in find_problems(robot.intake, links)["not paired"]
    counters.late = 1.5
    assert "1.5 s after its picture" in find_problems(robot.intake, links)["not paired"]
    counters.slow = True
    assert "raise max_wait" in find_problems(robot.intake, links)["not paired"]


def test_a_detector_that_has_just_appeared_is_not_silent_yet():
    """What counts is the time since it is there, each time that it comes."""
    robot = Robot("rgb", roi_source="auto", wanted=("rgb",))
    links = {"detections": SimpleNamespace(topic="/detections", link=Link(State.ALIVE))}
    for _ in range(2):
        robot.intake.detector(False)
        robot.run(60, "rgb", rate=5)
        robot.intake.detector(True)
        assert robot.intake.uses_detections
        assert "no regions" not in find_problems(robot.intake, links)
        robot.run(4, "rgb")
        robot.intake.detector(True)
        assert "no regions" not in find_problems(robot.intake, links)
        robot.run(3, "rgb")
        assert "no regions have come for 7 s" in find_problems(robot.intake, links)["no regions"]


def test_the_time_in_which_nobody_listened_is_no_silence_of_a_detector():
    robot = Robot("rgb", roi_source="detections", wanted=("rgb",))
    links = {"detections": SimpleNamespace(topic="/detections", link=Link(State.ALIVE))}
    robot.run(4, "rgb")
    robot.now += 60
    robot.intake.start_over()
    robot.run(4, "rgb")
    assert "no regions" not in find_problems(robot.intake, links)


HOUR_S = 3600


def told(robot):
    return find_problems(robot.intake, {}).get("not paired", "")


@pytest.mark.parametrize("setting", ["auto", "rgbd"])
@pytest.mark.parametrize("offset", [-HOUR_S, -3, 3, HOUR_S])
def test_clocks_of_sensors_that_disagree_are_no_lateness(setting, offset):
    """However long the node has run, the advice is that of clocks, not that of delays."""
    robot = Robot(setting)
    robot.now = 10_000.0
    for number in range(200):
        robot.now += 0.05
        robot.send("rgb")
        robot.send("depth", stamp=round((robot.now + offset) * 1e9))
        if number >= 30:
            assert "the smallest difference of stamps seen is" in told(robot), number
            assert "synchronise the sensors" in told(robot)
    assert robot.intake.pairer.counters.smallest_gap == pytest.approx(abs(offset), abs=1.3)


@pytest.mark.parametrize("clock", [lambda now: now - 9950, lambda now: now + HOUR_S, lambda now: now - 50])
def test_a_detector_of_another_clock_is_not_late(clock):
    """Its stamps are those of the uptime, of an hour ahead, or lie longer ago than pictures have come."""
    robot = Robot("rgb", roi_source="detections", wanted=("rgb",))
    robot.now = 10_000.0
    for _ in range(200):
        robot.run(0.05, "rgb")
        robot.detect(stamp=round(clock(robot.now) * 1e9))
    robot.run(0.2, "rgb")
    assert len(robot.jobs) == 200
    assert not any("raise" in job.missing or "max_wait" in job.missing for job in robot.jobs)
    assert "the smallest difference of stamps seen is" in told(robot)


def test_a_region_of_a_picture_that_has_its_colour_is_not_late_for_depth():
    """Depth is 10 s ahead, kept for 1 s; regions go with colour. What depth has forgotten says nothing of them."""
    robot = Robot("rgbd", roi_source="detections")
    for _ in range(400):
        robot.now += 0.05
        robot.send("rgb")
        robot.send("depth", stamp=round((robot.now + 10) * 1e9))
        robot.detect()
    assert "the smallest difference of stamps seen is 9.000 s" in told(robot)


@pytest.mark.parametrize("setting", ["auto", "rgbd"])
def test_a_detector_is_late_though_the_later_sensor_still_has_the_picture(setting):
    """Regions come after 1.1 s, pictures are kept for 1 s, and depth is delivered 0.2 s after colour."""
    robot = Robot(setting, roi_source="detections")
    for number in range(200):
        robot.now += 0.05
        robot.send("rgb")
        robot.send("depth", stamp=round((robot.now - 0.2) * 1e9))
        if number > 80:
            robot.detect(stamp=round((robot.now - 1.1) * 1e9))
    assert "came 1.1 s after its picture" in told(robot)


def test_a_gap_that_either_may_explain_names_both():
    """Depth that is delivered 0.7 s late and depth of a clock that far behind look the same."""
    robot = Robot("rgbd")
    for _ in range(200):
        robot.now += 0.05
        robot.send("rgb")
        robot.send("depth", stamp=round((robot.now - 0.7) * 1e9))
    assert "the smallest difference of stamps seen is 0.650 s" in told(robot)
    assert "delivered late, raise max_wait" in told(robot)


def test_the_gap_told_is_that_of_the_trouble_not_of_the_good_time_before():
    robot = Robot("rgbd")
    for number in range(300):
        robot.now += 0.05
        robot.send("rgb")
        robot.send("depth", stamp=round((robot.now + (HOUR_S if number > 100 else 0)) * 1e9))
    assert "the smallest difference of stamps seen is 359" in told(robot)
    assert "raise max_wait" not in told(robot)


def test_a_slow_detector_and_late_delivery_are_still_told():
    robot = Robot("rgb", roi_source="detections", wanted=("rgb",))
    for _ in range(200):
        robot.run(0.05, "rgb")
        if robot.now > 103:
            robot.detect(stamp=round((robot.now - 2.5) * 1e9))
    assert "2.5 s after its picture, and pictures are kept for history = 1 s; raise history" in told(robot)
    assert "raise history" in robot.jobs[-1].missing
    robot.intake.pairer.history = 60
    robot.run(55, "rgb")
    robot.detect(stamp=round((robot.now - 52) * 1e9))
    assert "no more than the newest 1000 are kept, nor more than 1 GB" in robot.jobs[-1].missing
    assert "raise history" not in robot.jobs[-1].missing, "which is not why"
    robot = Robot("rgbd")
    for _ in range(200):
        robot.now += 0.05
        robot.send("rgb")
        robot.send("depth", stamp=round((robot.now - 0.4) * 1e9))
    assert "raise max_wait" in told(robot)


@pytest.mark.parametrize("ahead", ["rgb", "depth"])
def test_a_request_is_as_late_as_it_is_for_the_sensor_that_has_gone_farthest(ahead):
    made = Pairer(0.02, 0.1, history=1.0)
    made.expect("regions", ["rgb", "depth"], ["rgb", "depth"])
    for number in range(41):
        for name in ("rgb", "depth"):
            if number <= 30 or name == ahead:
                made.add(name, item(100 * number))
    made.add("regions", item(500, received=4.0))
    assert made.ready(4.2)[0].late == pytest.approx(3.5)


@pytest.mark.parametrize(("behind", "slow"), [(4.9, True), (5.1, False)])
def test_what_the_longest_wait_would_not_bring_is_not_called_slow(behind, slow):
    made = Pairer(0.02, wait=SLOWEST_S - 5)
    made.expect("rgb", ["rgb", "depth"], ["rgb", "depth"])
    made.add("depth", item(20_000 - 1000 * behind))
    made.add("rgb", item(20_000))
    assert made.ready(30.0)[0].slow is slow


@pytest.mark.parametrize("lonely", [LONELY - 1, LONELY])
def test_so_many_requests_in_a_row_without_a_partner_are_a_fault(lonely):
    robot = Robot("rgbd")
    robot.intake.pairer.counters.lonely = lonely
    assert bool(told(robot)) == (lonely == LONELY)


def test_lateness_ends_where_parameters_cannot_follow():
    assert (PARAMETERS["history"].high, PARAMETERS["max_wait"].high) == (LATEST_S, SLOWEST_S)


@pytest.mark.parametrize("ahead", [1.5, 20.0, 3600.0])
def test_requests_on_their_way_when_the_clock_is_set_ahead_keep_their_pictures(ahead):
    """As an NTP client sets it after the start; the detector is 0.2 s behind."""
    robot = Robot("rgbd", roi_source="detections")
    sent = []
    for number in range(60):
        robot.now += 1 / 30
        sent.append(round((robot.now + (ahead if number >= 40 else 0.0)) * 1e9))
        robot.send("rgb", sent[-1])
        robot.send("depth", sent[-1])
        if number >= 6:
            robot.detect(sent[-7])
    assert [tuple(job.pictures) for job in robot.jobs] == [("rgb", "depth")] * 54
    assert [job.request.stamp for job in robot.jobs] == sent[:54]
    assert robot.intake.pairer.counters.time_jumps == 0


def test_one_picture_stamped_in_the_future_costs_no_request_its_picture():
    robot = Robot("rgb", roi_source="detections", wanted=("rgb",))
    for number in range(40):
        robot.now += 1 / 30
        robot.send("rgb", round((robot.now + (500.0 if number == 20 else 0.0)) * 1e9))
        if number >= 3 and number != 23:
            robot.detect(round((robot.now - 0.1) * 1e9))
    assert [tuple(job.pictures) for job in robot.jobs] == [("rgb",)] * 36


def test_pictures_that_come_late_in_a_burst_are_paired_as_ever():
    """After a pause of the network what was kept comes at once, with gaps: stamps run ahead, and no clock was set."""
    robot = Robot("rgbd", roi_source="detections")
    robot.run(2, "rgb", "depth", rate=30)
    late = [round((robot.now + seconds) * 1e9) for seconds in (0.1, 2.5, 4.0)]
    robot.now += 4.05
    for stamp in late:
        robot.send("rgb", stamp)
        robot.send("depth", stamp)
        robot.detect(stamp)
    assert [tuple(job.pictures) for job in robot.jobs[-3:]] == [("rgb", "depth")] * 3
