"""Pairing by stamp, and the health of sensors, on invented streams; against a loop over all messages."""

from types import SimpleNamespace

import numpy as np
import pytest
from ros_fakes import FakeRecognizer, camera_info, header, image, regions

from mmcl_core.errors import ConfigError
from mmcl_ros.cameras import CameraTrack
from mmcl_ros.detections import stamp_of
from mmcl_ros.frames import FrameAnswer, Result
from mmcl_ros.health import Health, Latencies, Rate, State, choose, percentiles
from mmcl_ros.intake import FAULTS, LOOK_AGAIN_S, PATIENT_S, Intake, wanted_modalities
from mmcl_ros.ledger import Ledger, find_problems
from mmcl_ros.pairing import LATEST_S, SLOWEST_S, Item, Pairer
from mmcl_ros.parameters import PARAMETERS
from mmcl_ros.qos import Link

MS = 1_000_000


def item(ms, received=None):
    return Item(int(ms * MS), f"at {ms}", ms / 1e3 if received is None else received)


def pairer(window=0.02, wait=0.1, **more):
    made = Pairer(window, wait, **more)
    made.expect("rgb", ["rgb", "depth"], ["rgb", "depth"])
    return made


def test_every_anchor_gets_the_nearest_partner():
    """Random stamps and delays; the slow way looks at all partners there ever were."""
    rng = np.random.default_rng(0)
    rgb = np.cumsum(rng.uniform(20, 45, 120))
    depth = np.cumsum(rng.uniform(20, 45, 120))
    events = [("rgb", s, s + rng.uniform(0, 15)) for s in rgb] + [("depth", s, s + rng.uniform(0, 15)) for s in depth]
    made = pairer(history=10)
    groups = []
    for stream, stamp, received in sorted(events, key=lambda event: event[2]):
        made.add(stream, Item(int(stamp * MS), stamp, received / 1e3))
        groups += made.ready(received / 1e3)
    groups += made.ready(1e9)
    assert len(groups) == len(rgb)
    for group in groups:
        best = min(depth, key=lambda stamp: abs(int(stamp * MS) - group.anchor.stamp))
        if abs(int(best * MS) - group.anchor.stamp) <= 20 * MS:
            assert group.partners["depth"].message == best
        else:
            assert not group.partners
    paired = sum(bool(group.partners) for group in groups)
    assert (made.counters.paired, made.counters.one_sided) == (paired, len(rgb) - paired)
    closest = min(abs(int(a * MS) - int(b * MS)) for a in rgb for b in depth)
    assert made.counters.smallest_gap == pytest.approx(closest / 1e9)


def test_equal_stamps_do_not_wait():
    made = pairer()
    made.add("rgb", item(100))
    assert made.ready(0.1) == []
    made.add("depth", item(100, received=0.11))
    (group,) = made.ready(0.11)
    assert group.partners["depth"].stamp == group.anchor.stamp


def test_waits_for_a_nearer_partner_that_may_still_come():
    made = pairer()
    made.add("depth", item(85))
    made.add("rgb", item(100))
    assert made.ready(0.1) == []
    made.add("depth", item(105))
    assert made.ready(0.106)[0].partners["depth"].stamp == 105 * MS


def test_a_missing_partner_holds_an_anchor_no_longer_than_the_wait():
    made = pairer()
    made.add("rgb", item(100))
    assert made.deadline() == pytest.approx(0.2)
    assert made.ready(0.19) == []
    (group,) = made.ready(0.2)
    assert not group.partners
    assert made.counters.one_sided == 1
    assert made.deadline() is None


def test_a_lost_stream_is_not_waited_for():
    made = pairer()
    made.expect("rgb", ["rgb", "depth"], [])
    made.add("rgb", item(100))
    assert len(made.ready(0.1)) == 1


def test_anchor_may_change_sides():
    made = pairer()
    made.add("rgb", item(100))
    made.expect("depth", ["rgb", "depth"], [])
    made.add("depth", item(400))
    groups = made.ready(1.0)
    assert [group.stream for group in groups] == ["rgb", "depth"]


def test_pictures_are_kept_for_an_anchor_that_waits_longer_than_the_history():
    pairer = Pairer(window=0.02, wait=5.0, history=1.0)
    pairer.expect("regions", ["rgb"], ["rgb"])
    for number in range(30):
        for stream in ("rgb", "regions"):
            pairer.add(stream, Item((10 + number) * 100_000_000, f"{stream} {number}", number / 10))
    groups = pairer.ready(3.0)
    assert [group.partners["rgb"].message for group in groups] == [f"rgb {number}" for number in range(30)]
    for number in range(30, 45):
        pairer.add("rgb", Item((10 + number) * 100_000_000, "", number / 10))
    assert len(pairer._streams["rgb"].items) == 11, "afterwards the history is as long as it was"


def test_pictures_are_kept_for_a_request_that_a_slow_network_lets_wait():
    """Regions come 0.4 s after their picture, and nobody asks for them until long after pictures would have aged."""
    pairer = Pairer(window=0.02, wait=0.1, history=1.0)
    pairer.expect("regions", ["rgb"], ["rgb"])
    for number in range(50):
        pairer.add("rgb", item(100 * number))
        if number == 10:
            pairer.add("regions", Item(600 * MS, "late", 1.0))
    (group,) = pairer.ready(5.0)
    assert group.partners["rgb"].stamp == 600 * MS
    pairer.add("rgb", item(5000))
    assert len(pairer._streams["rgb"].items) == 11


def test_a_request_whose_picture_was_forgotten_says_how_late_it_is():
    pairer = Pairer(window=0.02, wait=0.1, history=1.0)
    pairer.expect("regions", ["rgb"], ["rgb"])
    for number in range(31):
        pairer.add("rgb", item(100 * number))
    pairer.add("regions", Item(500 * MS, "late", 3.0))
    pairer.add("regions", Item(2850 * MS, "between two pictures", 3.0))
    late, between = pairer.ready(3.2)
    assert late.late == pytest.approx(2.5)
    assert late.gap > 1
    assert between.gap == pytest.approx(0.05)
    assert between.late is None
    assert pairer.counters.late is None
    pairer.add("regions", Item(500 * MS, "late again", 3.3))
    pairer.ready(3.5)
    assert pairer.counters.late == pytest.approx(2.5)


def test_order_is_kept_though_a_later_anchor_is_settled_first():
    made = pairer()
    made.add("rgb", item(100))
    made.add("rgb", item(140))
    made.add("depth", item(101))  # might be followed by one at 100, so 100 is settled only by what comes next
    made.add("depth", item(140))
    assert [group.anchor.stamp // MS for group in made.ready(0.15)] == [100, 140]


def test_never_paired_reports_the_smallest_gap():
    made = pairer(window=0.005)
    for n in range(20):
        made.add("rgb", item(100 * n + 10))
        made.add("depth", item(100 * n + 47))
    groups = made.ready(100)
    assert made.counters.lonely == len(groups) == 20
    assert made.counters.smallest_gap == pytest.approx(0.037)
    assert groups[-1].gap == pytest.approx(0.037)


def test_a_partner_that_is_delivered_late_is_no_fault_of_the_stamps():
    """Equal stamps, depth handed over 167 ms after colour: what lies 100 ms off is an older picture."""
    made = pairer()
    groups = []
    for now in range(0, 2000, 33):
        made.add("rgb", item(now))
        if now >= 165:
            made.add("depth", item(now - 165, received=now / 1e3))
        groups += made.ready(now / 1e3)
    late = groups[5:]
    assert len(late) > 40
    assert all(group.slow and not group.partners for group in late)
    assert made.counters.slow
    assert made.counters.smallest_gap == pytest.approx(0.033)


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
    robot = Robot("rgbd")
    for _ in range(200):
        robot.now += 0.05
        robot.send("rgb")
        robot.send("depth", stamp=round((robot.now - 0.4) * 1e9))
    assert "raise max_wait" in told(robot)


def test_lateness_ends_where_parameters_cannot_follow():
    assert (PARAMETERS["history"].high, PARAMETERS["max_wait"].high) == (LATEST_S, SLOWEST_S)


def test_a_looping_bag_starts_over():
    made = pairer()
    for n in range(10):
        made.add("rgb", item(1000 + 100 * n))
    made.ready(10)
    assert made.add("rgb", item(1000, received=20)) is True
    assert made.counters.time_jumps == 1
    made.add("depth", item(1000, received=20))
    assert made.ready(20)[-1].partners["depth"].stamp == 1000 * MS


def test_anchors_that_wait_when_time_jumps_are_still_given_out():
    made = pairer()
    made.add("rgb", item(5000))
    made.add("rgb", item(1000, received=5.01))
    assert [group.anchor.stamp // MS for group in made.ready(9)] == [5000, 1000]


def looped(anchor, lag=0.0, loops=3):
    """Two sensors, depth 5 ms behind in stamp and arrival, and regions some time later, from a bag that loops."""
    made = Pairer(0.02, 0.1, history=1.0)
    made.expect(anchor, ["rgb", "depth"], ["rgb", "depth"])
    events = []
    for loop in range(loops):
        for n in range(60):
            stamp, received = 100_000 + 33 * n, 2.0 * loop + 0.033 * n
            events.append((received, "rgb", Item(stamp * MS, f"{loop} {n}", received)))
            events.append((received + 0.005, "depth", Item((stamp + 5) * MS, f"{loop} {n}", received + 0.005)))
            if anchor == "regions":
                events.append((received + lag, "regions", Item(stamp * MS, f"{loop} {n}", received + lag)))
    groups = []
    for received, stream, one in sorted(events, key=lambda event: event[0]):
        made.add(stream, one)
        groups += made.ready(received)
    return made, groups + made.ready(1e9)


@pytest.mark.parametrize(("anchor", "lag"), [("rgb", 0.0), ("depth", 0.0), *(("regions", x) for x in (0.02, 0.4, 0.9))])
def test_nothing_goes_without_its_partners_where_a_bag_loops(anchor, lag):
    """However late the detector: its first regions of a round come long after the pictures, its last ones as well."""
    made, groups = looped(anchor, lag)
    assert made.counters.paired == len(groups) == 180
    found = [{group.anchor.message, *(one.message for one in group.partners.values())} for group in groups]
    assert found == [{f"{loop} {n}"} for loop in range(3) for n in range(60)]


def test_regions_of_a_slow_and_a_fast_detector_on_one_topic_are_no_jump():
    made = Pairer(0.02, 0.1, history=1.0)
    made.expect("regions", ["rgb"], ["rgb"])
    groups = []
    for n in range(60):
        assert not made.add("rgb", item(1000 + 33 * n))
        for late in (0, 25):
            if n >= late:
                assert not made.add("regions", item(1000 + 33 * (n - late), received=1 + 0.033 * n))
        groups += made.ready(1 + 0.033 * n)
    assert made.counters.paired == len(groups) == 60 + 35
    assert made.counters.time_jumps == 0


def test_memory_is_bounded_though_stamps_jump_all_the_time():
    made = pairer(history=1.0)
    for n in range(3000):
        made.add("depth", item(10_000 + n - 5000 * (n % 2), received=n / 30))
    place = made._streams["depth"]
    assert len(place.items) + len(place.past) < 60


def test_slightly_late_messages_are_no_jump():
    made = pairer()
    made.add("depth", item(140))
    assert made.add("depth", item(100)) is False
    made.add("rgb", item(101))
    assert made.ready(0.15)[0].partners["depth"].stamp == 100 * MS


def test_zero_stamped_request_takes_the_newest_picture():
    made = Pairer(0.02, 0.1)
    made.expect("detections", ["rgb"], ["rgb"])
    made.add("rgb", item(100))
    made.add("rgb", item(133))
    made.add("detections", Item(0, "boxes", 0.14))
    assert made.ready(0.14)[0].partners["rgb"].stamp == 133 * MS


@pytest.mark.parametrize("step", [33, 0])
def test_memory_is_bounded_even_if_stamps_stand_still(step):
    made = pairer(history=1.0)
    for n in range(5000):
        made.add("depth", item(1 + n * step, received=n / 30))
    assert len(made._streams["depth"].items) < 60


# health


def feed(health, start, end, rate=30):
    for n in range(int((end - start) * rate)):
        health.observe(start + n / rate)


def test_sensor_goes_stale_and_has_to_prove_itself_again():
    health = Health(stale_after=0.5, recover_after=1.0)
    assert health.flow(0.0) is State.SILENT
    feed(health, 0, 2)
    assert health.flow(2.0) is State.ALIVE
    assert health.flow(2.4) is State.ALIVE
    assert health.flow(2.6) is State.STALE
    feed(health, 5, 5.5)
    assert health.flow(5.5) is State.RECOVERING
    feed(health, 5.5, 6.2)
    assert health.flow(6.2) is State.ALIVE
    assert health.rate.value(6.2) == pytest.approx(30, rel=0.1)


def test_first_pictures_count_at_once():
    health = Health()
    health.observe(7.0)
    assert health.flow(7.0) is State.ALIVE


def test_a_flickering_sensor_stays_in_recovery():
    health = Health(0.5, 1.0)
    feed(health, 0, 1)
    for n in range(5):
        feed(health, 2 + 1.5 * n, 2.5 + 1.5 * n)
        assert health.flow(2.5 + 1.5 * n) is State.RECOVERING


def test_reported_state_names_the_cause():
    health = Health()
    health.link = (State.MISMATCH, "wrong type")
    assert health.state(0.0) == (State.MISMATCH, "wrong type")
    health.link = (State.ALIVE, "")
    assert health.state(0.0)[0] is State.SILENT
    health.observe(1.0)
    health.problem = (State.BAD_PICTURES, "encoding 'x'")
    assert health.state(1.0) == (State.BAD_PICTURES, "encoding 'x'")
    state, cause = health.state(3.0)
    assert state is State.STALE
    assert "2.0 s" in cause


def test_modality_is_chosen_among_the_alive():
    alive, stale, back = State.ALIVE, State.STALE, State.RECOVERING
    assert choose({"rgb": alive, "depth": alive}) == ["rgb", "depth"]
    assert choose({"rgb": back, "depth": alive}) == ["depth"]
    assert choose({"rgb": back, "depth": stale}) == ["rgb"]
    assert choose({"rgb": stale, "depth": State.SILENT}) == []


def test_a_clock_that_jumps_back_does_not_hold_a_sensor_alive():
    health = Health(0.5, 1.0)
    feed(health, 100, 101)
    health.observe(1.0)
    assert health.age(1.1) == pytest.approx(0.1)
    assert health.flow(1.7) is State.STALE


def test_a_sensor_that_ends_as_the_clock_jumps_back_is_lost():
    health, other = Health(0.5, 1.0), Health(0.5, 1.0)
    feed(health, 100, 101)
    feed(other, 100, 101)
    other.observe(1.0)
    assert {health.flow(1.0), other.flow(1.0)} == {State.RECOVERING}, "neither has shown yet that it goes on"
    feed(other, 1.0, 3.0)
    assert health.age(1.7) == pytest.approx(0.7)
    assert health.flow(3.0) is State.STALE
    assert other.flow(3.0) is State.ALIVE


def test_rate_and_percentiles():
    rate = Rate(3.0)
    assert rate.value(0.0) == 0
    for n in range(100):
        rate.tick(n * 0.1)
    assert rate.value(9.9) == pytest.approx(10, rel=0.05)
    assert rate.value(99.0) == 0
    table = Latencies()
    for n in range(101):
        table.add("total", n / 1000)
    assert percentiles(table.seconds())["total"] == pytest.approx((50, 90, 99))
    rng = np.random.default_rng(0)
    for count in (1, 2, 7, 100):
        seconds = rng.exponential(size=count).tolist()
        expected = np.percentile(np.array(seconds) * 1e3, [50, 90, 99])
        np.testing.assert_allclose(percentiles({"x": seconds})["x"], expected)


# modality setting, health and pairing together


class Robot:
    """Sensors that send when told to, at an invented time."""

    def __init__(self, modality="auto", roi_source="full_image", wanted=("rgb", "depth")):
        self.now = 100.0
        health = {name: Health(0.5, 1.0, link=(State.ALIVE, "")) for name in wanted}
        self.intake = Intake(wanted, modality, roi_source, Pairer(0.02, 0.1), health, lambda: self.now)
        self.jobs = []

    def send(self, name, stamp=None):
        values = np.zeros((4, 4, 3), np.uint8) if name == "rgb" else np.zeros((4, 4), np.uint16)
        stamp = round(self.now * 1e9) if stamp is None else stamp
        message = image(values, "rgb8" if name == "rgb" else "16UC1", stamp_ns=stamp)
        self.intake.picture(name, message, self.now, round(self.now * 1e9))
        self.collect()

    def detect(self, stamp=None):
        self.intake.regions(
            regions([(0, 0, 4, 4)], stamp_ns=round(self.now * 1e9) if stamp is None else stamp), self.now
        )
        self.collect()

    def collect(self):
        self.jobs += self.intake.jobs(self.now)

    def run(self, seconds, *names, rate=20):
        """What the jobs of a stretch of time were answered from."""
        first = len(self.jobs)
        for _ in range(round(seconds * rate)):
            self.now += 1 / rate
            for name in names:
                self.detect() if name == "detections" else self.send(name)
            self.collect()
        return [tuple(job.pictures) for job in self.jobs[first:]]


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
    assert track.at(5400).k == infos[5].k
    assert CameraTrack().at(0) is None


def at(info):
    return stamp_of(info.header)


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
    with pytest.raises(ConfigError, match=f"modality is {setting}, but the model was trained for rgb$"):
        wanted_modalities(setting, FakeRecognizer(["rgb"]))


@pytest.mark.parametrize(("setting", "trained"), [("depth", "rgb depth"), ("rgbd", "rgb depth"), ("auto", "depth")])
def test_a_model_of_prepared_depth_pictures_is_not_given_the_distances_of_a_sensor(setting, trained):
    prepared = FakeRecognizer(trained.split(), takes_distances=False)
    with pytest.raises(ConfigError, match=r"pictures that were prepared .* model.depth_encoding=hha or relief"):
        wanted_modalities(setting, prepared)


@pytest.mark.parametrize("setting", ["auto", "rgb"])
def test_a_model_of_prepared_depth_pictures_answers_from_colour(setting):
    assert wanted_modalities(setting, FakeRecognizer(takes_distances=False)) == ("rgb",)
