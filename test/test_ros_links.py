"""Subscriptions that follow their publishers, with a node that is told what the graph shows."""

from types import SimpleNamespace

import pytest

pytest.importorskip("rclpy", reason="ROS 2 is not installed in this environment")
pytest.importorskip("mmcl_ros.msg", reason="the messages are not built: pip install . with ROS 2 present")

from rclpy.qos import DurabilityPolicy, ReliabilityPolicy
from ros_fakes import camera_info

from mmcl_ros.detections import camera_of
from mmcl_ros.frames import NAME_IT
from mmcl_ros.health import State
from mmcl_ros.links import Links, Source
from mmcl_ros.message_types import IMAGE_TYPE, INFO_TYPE

pytestmark = pytest.mark.ros


class GraphNode:
    """A node that subscribes to nothing: it shows what it is given, and keeps what it is asked for."""

    def __init__(self):
        self.offers, self.others = {}, {}
        self.subscriptions, self.said, self.refuses = [], [], False
        self.context = SimpleNamespace(ok=lambda: True)

    def offer(self, topic, kind=IMAGE_TYPE, reliable=True, latched=False):
        reliability = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
        durability = DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE
        quality = SimpleNamespace(reliability=reliability, durability=durability)
        self.offers[topic] = [
            SimpleNamespace(node_namespace="/", node_name="camera", topic_type=kind, qos_profile=quality)
        ]

    def resolve_topic_name(self, name, only_expand=False):
        return name

    def get_publishers_info_by_topic(self, topic):
        return self.offers.get(topic, [])

    def get_topic_names_and_types(self):
        return [(topic, [IMAGE_TYPE]) for topic in self.others]

    def count_publishers(self, topic):
        return self.others[topic]

    def get_logger(self):
        return SimpleNamespace(info=lambda words: None, error=self.said.append)

    def create_subscription(self, kind, name, callback, qos):
        if self.refuses:
            raise RuntimeError("refused")
        made = SimpleNamespace(name=name, callback=callback, qos=qos)
        self.subscriptions.append(made)
        return made

    def destroy_subscription(self, subscription):
        self.subscriptions.remove(subscription)


def listening(*topics):
    """A node, its links, and what has been heard."""
    node, heard = GraphNode(), []
    sources = {topic.strip("/"): Source(topic, [IMAGE_TYPE], heard.append, 5) for topic in topics}
    return node, Links(node, sources, "auto"), heard


def test_a_subscription_outlives_its_publisher_and_is_made_once():
    node, links, heard = listening("/rgb")
    links.update()
    assert node.subscriptions == []
    node.offer("/rgb")
    for _ in range(3):
        links.update()
    node.offers.clear()
    links.update()
    node.offer("/rgb")
    links.update()
    (made,) = node.subscriptions
    made.callback("a picture")
    assert heard == ["a picture"]


def test_of_a_publisher_that_has_changed_nothing_is_heard_twice():
    node, links, heard = listening("/rgb")
    node.offer("/rgb")
    links.update()
    (before,) = node.subscriptions
    node.offer("/rgb", reliable=False)
    links.update()
    (made,) = node.subscriptions
    assert made.qos.reliability == ReliabilityPolicy.BEST_EFFORT
    before.callback("a picture that was under way")
    made.callback("a picture")
    assert heard == ["a picture"]


def test_a_topic_of_another_type_is_no_place_of_pictures_though_somebody_asks_for_some_there():
    """As the node itself does, where the camera was replaced by something else."""
    node, links, _ = listening("/rgb")
    node.others = {"/rgb": 1}
    node.get_topic_names_and_types = lambda: [("/rgb", [IMAGE_TYPE, "std_msgs/msg/String"])]
    node.offer("/rgb", "std_msgs/msg/String")
    links.update()
    expected = f"/rgb carries std_msgs/msg/String by /camera; {IMAGE_TYPE} is needed"
    assert links.sources["rgb"].link.cause == expected


@pytest.mark.parametrize("latched", [True, False])
def test_what_was_published_before_is_asked_for_where_it_is_kept(latched):
    """A camera info that is sent once, before the node comes, is had all the same."""
    node, links, _ = listening("/rgb")
    node.offer("/rgb", latched=latched)
    links.update()
    asked = node.subscriptions[0].qos.durability
    assert asked == (DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE)


def test_what_is_refused_is_said_once_and_tried_until_it_is_made():
    node, links, _ = listening("/rgb")
    node.offer("/rgb")
    node.refuses = True
    for _ in range(3):
        links.update()
    assert node.said == ["/rgb: cannot be subscribed to: RuntimeError: refused"]
    assert links.sources["rgb"].link.state is State.MISMATCH
    node.refuses = False
    links.update()
    assert links.sources["rgb"].link.state is State.ALIVE
    assert len(node.subscriptions) == 1
    node.offer("/rgb", reliable=False)
    node.refuses = True
    links.update()
    assert len(node.said) == 2, "it is another time"


def test_a_publisher_that_is_again_as_it_was_is_heard_though_another_was_refused_between():
    node, links, heard = listening("/rgb")
    node.offer("/rgb")
    links.update()
    node.offer("/rgb", reliable=False)
    node.refuses = True
    links.update()
    node.offer("/rgb")
    node.refuses = False
    links.update()
    (made,) = node.subscriptions
    made.callback("a picture")
    assert heard == ["a picture"]


def test_a_refusal_counts_where_there_is_no_subscription_at_all():
    node, links, _ = listening("/rgb", "/depth")
    links.insist()
    node.offer("/rgb")
    node.refuses = True
    links.update()
    with pytest.raises(RuntimeError, match="refused"):
        links.insist()
    node.offers["/depth"], node.offers["/rgb"] = node.offers["/rgb"], []
    node.refuses = False
    links.update()
    links.insist()


def test_nothing_is_heard_of_what_was_closed():
    node, links, heard = listening("/rgb")
    node.offer("/rgb")
    links.update()
    (made,) = node.subscriptions
    links.close()
    made.callback("a picture that was under way")
    assert (node.subscriptions, heard) == ([], [])


def test_topics_that_nobody_publishes_are_no_advice():
    node, links, _ = listening("/rgb")
    node.others = {"/camera/image": 1, "/wanted/by/others": 0}
    links.update()
    cause = links.sources["rgb"].link.cause
    assert "/camera/image" in cause
    assert "/wanted/by/others" not in cause


@pytest.mark.parametrize(("kind", "advice"), [(None, True), ("std_msgs/msg/String", False), (INFO_TYPE, None)])
def test_a_camera_info_is_to_be_named_where_nobody_publishes_it(kind, advice):
    node = GraphNode()
    sources = {
        "depth": Source("/depth", [IMAGE_TYPE], print, 5),
        "depth info": Source("/camera_info", [INFO_TYPE], print, 5),
    }
    links = Links(node, sources, "auto")
    if kind:
        node.offer("/camera_info", kind)
    links.update()
    causes = links.info_causes()
    assert list(causes) == ([] if advice is None else ["depth"])
    assert all(words.endswith(NAME_IT) == advice for words in causes.values())


@pytest.mark.parametrize(
    ("topic", "rectified"),
    [
        *(("/c/image_rect", True), ("/c/image_rect_color/compressed", True), ("/c/depth/image_rect_raw", True)),
        *(("/c/image_rectified", True), ("/c/image_color_corrected", False), ("/c/direct", False)),
        *(("/c/image_raw", False), ("/rectified/image_raw", False), ("/c/image_rect/image_raw/compressed", False)),
    ],
)
@pytest.mark.parametrize("ros1", [False, True])
def test_the_camera_info_beside_rectified_pictures_is_of_these(topic, rectified, ros1):
    info = camera_info(640, 480, 600.0, 320.0, 240.0, rectified=(480.0, 310.0, 230.0))
    if ros1:
        info.K, info.P = info.__dict__.pop("k"), info.__dict__.pop("p")
    heard = []
    sources = {"rgb info": Source("/info", [], heard.append, 5, pictures=topic)}
    Links(SimpleNamespace(resolve_topic_name=str), sources, "auto")
    sources["rgb info"].callback(info)
    assert camera_of(heard[0], 640, 480)[0] == (480.0 if rectified else 600.0)
    assert camera_of(info, 640, 480)[0] == 600.0, "the message is not changed"
