"""Pairing by stamp, and the health of sensors, on invented streams; against a loop over all messages."""

import numpy as np
import pytest

from mmcl_ros.health import Health, Latencies, Rate, State, choose
from mmcl_ros.pairing import Item, Pairer

MS = 1_000_000


def item(ms, received=None):
    return Item(int(ms * MS), f"at {ms}", ms / 1e3 if received is None else received)


def pairer(window=0.02, wait=0.1, **more):
    made = Pairer(window, wait, **more)
    made.expect("rgb", ["depth"], ["depth"])
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
    made.expect("rgb", ["depth"], [])
    made.add("rgb", item(100))
    assert len(made.ready(0.1)) == 1


def test_anchor_may_change_sides():
    made = pairer()
    made.add("rgb", item(100))
    made.expect("depth", ["rgb"], [])
    made.add("depth", item(400))
    groups = made.ready(1.0)
    assert [group.stream for group in groups] == ["rgb", "depth"]


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


def test_a_looping_bag_starts_over():
    made = pairer()
    for n in range(10):
        made.add("rgb", item(1000 + 100 * n))
    made.ready(10)
    assert made.add("rgb", item(1000, received=20)) is True
    assert made.counters.time_jumps == 1
    made.add("depth", item(1000, received=20))
    assert made.ready(20)[-1].partners["depth"].stamp == 1000 * MS


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
    assert table.percentiles()["total"] == pytest.approx((50, 90, 99))
