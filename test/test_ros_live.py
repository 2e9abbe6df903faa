"""Parameters marked live: a value that is given, or set while the node is configured, gets to where it acts."""

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed in this environment")
pytest.importorskip("mmcl_ros.msg", reason="the messages are not built: pip install . with ROS 2 present")

import rclpy
from mmcl_ros.msg import RecognitionArray
from rclpy.parameter import Parameter
from ros_bench import rgb_message, take_domain
from ros_fakes import FakeRecognizer
from sensor_msgs.msg import Image

from mmcl_ros.frames import FrameSettings
from mmcl_ros.parameters import PARAMETERS
from mmcl_ros.recognizer_node import RecognizerNode

pytestmark = pytest.mark.ros

LIVE = [name for name, row in PARAMETERS.items() if row.live]
PLACED = [name for name in LIVE if name != "publish_embeddings"]  # for that see the last test
FIVE = "at least 5 under the policy every"


def values_of(name):
    """Two values of a parameter that differ from its default, the first one small."""
    row = PARAMETERS[name]
    if isinstance(row.default, bool):
        return not row.default, row.default
    if isinstance(row.default, int):
        return row.default + 3, row.default + 7
    return 0.3, min(7.0, 0.75 * row.high)


def expected(name, value, policy):
    if policy == "every" and name == "recover_after":  # all recorded pictures count, as for evaluate_bag
        return 0.0
    return max(value, 5.0) if policy == "every" and FIVE in PARAMETERS[name].text else value


def period_of_warnings(node):
    """What the warnings of a report go by."""
    told = []

    class Notices:
        def update(self, problems, now, period):
            told.append(period)

    node._notices, kept = Notices(), node._notices
    node.report()
    node._notices = kept
    return told[0]


PLACES = {
    "pair_window": lambda node: {node.intake.pairer.window},
    "max_wait": lambda node: {node.intake.pairer.wait},
    "history": lambda node: {node.intake.pairer.history},
    "stale_after": lambda node: {health.stale_after for health in node.intake.health.values()},
    "recover_after": lambda node: {health.recover_after for health in node.intake.health.values()},
    "status_period": lambda node: {node._reporter.timer_period_ns / 1e9},
    "warn_period": lambda node: {period_of_warnings(node)},
}


def reached(node, name):
    """The values of a parameter by which the parts of the node go."""
    if name in FrameSettings.__dataclass_fields__:
        return {getattr(node._frames.settings, name)}
    return PLACES[name](node)


@pytest.fixture(scope="module", params=["latest", "every"])
def nodes(request):
    """By policy, a node given the first value of every live parameter; nobody spins it, and nothing comes in."""
    given = {name: values_of(name)[0] for name in LIVE} | {"policy": request.param, "model": "fake"}
    context = rclpy.Context()
    domain, taken = take_domain()
    rclpy.init(context=context, domain_id=domain)
    listed = [Parameter(name, value=value) for name, value in given.items()]
    node = RecognizerNode(lambda *_, **__: FakeRecognizer(), context=context, parameter_overrides=listed)
    yield node, request.param, {name: reached(node, name) for name in PLACED}
    node.destroy_node()
    rclpy.shutdown(context=context)
    taken.close()


@pytest.mark.parametrize("name", PLACED)
def test_a_live_parameter_gets_where_it_acts(nodes, name):
    node, policy, at_start = nodes
    first, second = values_of(name)
    assert node.stage == "active"
    assert at_start[name] == {expected(name, first, policy)}, "given at the start"
    for value in (second, first):
        assert node.set_parameters([Parameter(name, value=value)])[0].successful
        assert reached(node, name) == {expected(name, value, policy)}, "set at run time"


def test_parameters_that_stay_as_they_are_may_be_set(nodes):
    """Those of a whole file are, as ``ros2 param load`` sets what ``ros2 param dump`` has written."""
    node, _, _ = nodes
    dumped = [node.get_parameter(name) for name in PARAMETERS]
    top_k = node.get_parameter("top_k").value
    assert node.set_parameters_atomically(dumped).successful
    changed = [Parameter("model", value="other") if one.name == "model" else one for one in dumped]
    changed = [Parameter("top_k", value=top_k + 1) if one.name == "top_k" else one for one in changed]
    result = node.set_parameters_atomically(changed)
    assert not result.successful
    assert result.reason.startswith("model cannot be changed while the node is configured")
    assert reached(node, "top_k") == {top_k}
    assert node.get_parameter("model").value == "fake"


def test_the_parameters_with_a_least_value_under_every_say_so():
    assert [name for name in LIVE if FIVE in PARAMETERS[name].text] == ["max_wait", "history", "stale_after"]


def test_embeddings_are_sent_as_long_as_they_are_asked_for(bench):
    node = bench.recognizer(FakeRecognizer(), modality="rgb", roi_source="full_image")
    found = bench.collect(RecognitionArray, "/recognitions")
    rgb = bench.publisher(Image, "/rgb/image")
    for number, asked in enumerate([None, True, False]):
        if asked is not None:
            assert node.set_parameters([Parameter("publish_embeddings", value=asked)])[0].successful
        rgb.publish(rgb_message(number))
        bench.wait(lambda number=number: len(found) > number, "an answer")
    assert [list(answer.recognitions[0].embedding) for answer in found] == [[], [1, 0, 0, 0], []]
