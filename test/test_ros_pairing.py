"""Pairing by stamp on invented streams; against a loop over all messages."""

import numpy as np
import pytest
from ros_fakes import MS, item

from mmcl_ros.pairing import LATEST_S, Item, Pairer, nearest


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


@pytest.mark.parametrize("stamp", [10, 15, 20, 5, 25, 14, 16])
def test_of_two_equally_near_the_earlier_one_is_taken(stamp):
    """So that a recording is paired alike whichever of the two came first."""
    made = pairer()
    for other in (20, 10):
        made.add("depth", item(other, received=0.02))
    made.add("rgb", item(stamp, received=0.03))
    (group,) = made.ready(0.2)
    expected = 20 if stamp > 15 else 10
    assert group.partners["depth"].stamp == expected * MS
    assert nearest([10, 20], stamp) == (expected == 20)


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


def test_pictures_are_kept_for_each_request_that_waits_whatever_their_order():
    """The regions of an earlier picture come after those of a later one, and both wait for depth."""
    made = Pairer(window=0.02, wait=5.0, history=0.3)
    made.expect("regions", ["rgb", "depth"], ["rgb", "depth"])
    for number in range(30):
        made.add("rgb", item(100 * number))
        if number == 10:
            made.add("regions", item(1000, received=1.0))
            made.add("regions", item(800, received=1.05))
    assert made.deadline() == 6.0
    made.add("depth", item(1000, received=3.0))
    assert [group.partners["rgb"].stamp // MS for group in made.ready(7.0)] == [1000, 800]


@pytest.mark.parametrize("ago", [55, 65])
def test_a_request_is_called_late_for_as_long_as_a_history_could_reach(ago):
    made = Pairer(window=0.02, wait=0.1, history=1.0)
    made.expect("regions", ["rgb"], ["rgb"])
    for number in range(701):
        made.add("rgb", item(100 * number))
    made.add("regions", item(70_000 - 1000 * ago, received=70.0))
    (group,) = made.ready(70.2)
    assert group.late == (ago if ago < LATEST_S else None)


def test_the_stamps_that_are_remembered_are_the_last_ones(monkeypatch):
    monkeypatch.setattr("mmcl_ros.pairing.REMEMBERED", 10)
    made = Pairer(window=0.02, wait=0.1, history=1.0)
    made.expect("regions", ["rgb"], ["rgb"])
    for number in range(51):
        made.add("rgb", item(100 * number))
    made.add("regions", item(3500, received=5.0))
    assert made.ready(5.2)[0].late == 1.5


@pytest.mark.parametrize("far", ["rgb", "depth"])
def test_the_gap_of_a_request_is_that_to_the_nearest_of_all_sensors(far):
    made = Pairer(window=0.02, wait=0.1)
    made.expect("regions", ["rgb", "depth"], ["rgb", "depth"])
    for name in ("rgb", "depth"):
        made.add(name, item(1300 if name == far else 1100))
    made.add("regions", item(1000, received=1.0))
    assert made.ready(1.2)[0].gap == pytest.approx(0.1)
    assert made.counters.smallest_gap == pytest.approx(0.1)


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


def test_requests_that_lack_a_partner_are_counted_in_a_row():
    made = pairer()
    for n in range(3):
        made.add("rgb", item(100 * n))
    made.ready(1.0)
    assert made.counters.lonely == 3
    made.add("rgb", item(1000))
    made.add("depth", item(1000))
    made.ready(1.0)
    assert made.counters.lonely == 0


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


def test_pictures_of_before_two_jumps_are_found():
    """A bag of another time is played, and a third one, before the regions of the first ones come."""
    made = Pairer(0.02, 0.1, history=5.0)
    made.expect("regions", ["rgb"], ["rgb"])
    for run, start in enumerate((10_000, 5000, 2000)):
        for number in range(5):
            made.add("rgb", item(start + 100 * number, received=run + number / 10))
    assert made.counters.time_jumps == 2
    for stamp in (10_200, 5200, 2200):
        made.add("regions", item(stamp, received=2.5))
    assert [group.partners["rgb"].stamp // MS for group in made.ready(3.0)] == [10_200, 5200, 2200]


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


def test_no_more_pictures_are_kept_than_the_capacity_though_stamps_jump():
    made = pairer(history=60.0, capacity=10)
    for n in range(100):
        made.add("depth", item(100_000 - 1000 * (n // 8) + n % 8, received=n / 30))
    place = made._streams["depth"]
    assert len(place.items) <= 10
    assert len(place.past) == 10


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
    assert made.counters.smallest_gap is None, "of stamps nothing was learnt"


def test_a_request_without_a_stamp_is_no_jump_of_its_stream():
    """After a jump a request waits for pictures that are yet to follow; here they have long gone past it."""
    made = Pairer(0.02, 0.1)
    made.expect("detections", ["rgb"], ["rgb"])
    made.add("detections", item(1000))
    made.add("rgb", item(1000))
    made.add("detections", Item(0, "boxes", 1.1))
    made.add("rgb", item(1200))
    made.add("detections", item(1150, received=1.2))
    assert [len(group.partners) for group in made.ready(1.2)] == [1, 1, 0]


@pytest.mark.parametrize("step", [33, 0])
def test_memory_is_bounded_even_if_stamps_stand_still(step):
    made = pairer(history=1.0)
    for n in range(5000):
        made.add("depth", item(1 + n * step, received=n / 30))
    assert len(made._streams["depth"].items) < 60


@pytest.mark.parametrize("offset", [0, 5, -5])
def test_of_partners_of_one_stamp_the_newest_is_taken(offset):
    """Drivers that stamp in whole seconds, and pictures that are sent again and again as they are."""
    made = pairer()
    for n in range(3):
        made.add("depth", Item(100 * MS, f"depth {n}", n / 30))
        made.add("rgb", Item((100 + offset) * MS, f"rgb {n}", n / 30))
        (group,) = made.ready(n / 30 + 0.1)
        assert group.partners["depth"].message == f"depth {n}"
