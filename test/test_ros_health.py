"""The health of sensors, rates and percentiles, on invented streams."""

import numpy as np
import pytest

from mmcl_ros.health import Health, Latencies, Rate, State, choose, percentiles


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


def test_first_pictures_count_at_once_after_an_interruption():
    health = Health(0.5, 1.0)
    feed(health, 0, 1)
    feed(health, 2, 2.5)
    health.forget()
    assert health.flow(2.6) is State.SILENT
    health.observe(2.6)
    assert health.flow(2.6) is State.ALIVE


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
    health.link = (State.NO_PUBLISHER, "nobody publishes /x")
    assert health.state(3.0) == (State.NO_PUBLISHER, "nobody publishes /x"), "which is why there is no picture"
    health.observe(3.0)
    assert health.state(3.0) == (State.NO_PUBLISHER, "nobody publishes /x"), "and 3.0 is all a dead clock ever says"
    assert health.flow(3.0) is State.RECOVERING


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
    feed(health, 2, 6)
    assert health.rate.value(6.0) == pytest.approx(30, rel=0.1), "of what has come since"


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
    few = Rate(3.0)
    few.tick(0.0)
    few.tick(0.5)
    assert few.value(0.5) == pytest.approx(2), "events half a second apart"
    assert few.value(1.0) == pytest.approx(1), "and none since"
    table = Latencies()
    for n in range(101):
        table.add("total", n / 1000)
    assert percentiles(table.seconds())["total"] == pytest.approx((50, 90, 99))
    rng = np.random.default_rng(0)
    for count in (1, 2, 7, 100):
        seconds = rng.exponential(size=count).tolist()
        expected = np.percentile(np.array(seconds) * 1e3, [50, 90, 99])
        np.testing.assert_allclose(percentiles({"x": seconds})["x"], expected)


def test_a_single_late_picture_does_not_change_the_delay_of_a_sensor():
    health = Health()
    for now, delay in enumerate((0.1, 0.2, 5.0)):
        health.observe(now, delay)
    assert health.delay() == 0.2


@pytest.mark.parametrize(("back", "state"), [(0.01, State.ALIVE), (0.4, State.ALIVE), (0.6, State.RECOVERING)])
def test_a_small_step_back_of_the_clock_takes_no_sensor_for_lost(back, state):
    """Two who publish a simulated clock: the sensor whose picture came last would be left out for a second."""
    health = Health(stale_after=0.5, recover_after=1.0)
    feed(health, 10, 12)
    assert health.flow(health.last - back) is state
    assert health.age(health.last) == 0
