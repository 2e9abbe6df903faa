"""Sections of parameter files: which nodes they reach, by our rule and by that of rcl, and what is said of others."""

import pytest

from mmcl_ros.parameters import as_yaml
from mmcl_ros.sections import misplaced, reaches

NODES = ("/recognizer", "/front/recognizer", "/a/front/recognizer", "/overlay", "/front/overlay")
SECTIONS = {
    "/**": NODES,
    "**": NODES,
    "recognizer": ("/recognizer",),
    "/recognizer": ("/recognizer",),
    "front/recognizer": ("/front/recognizer",),
    "/front/recognizer": ("/front/recognizer",),
    "/**/recognizer": ("/recognizer", "/front/recognizer", "/a/front/recognizer"),
    "/*/recognizer": ("/front/recognizer",),
    "/*": ("/recognizer", "/overlay"),
    "/front/*": ("/front/recognizer", "/front/overlay"),
    "/front/**": ("/front/recognizer", "/front/overlay"),
    "/a/**": ("/a/front/recognizer",),
}


@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_reaches_the_nodes_of_its_name(section):
    assert tuple(node for node in NODES if reaches(section, node)) == SECTIONS[section]


def test_a_section_for_all_nodes_reaches_one_of_a_name_that_ros_refuses(tmp_path):
    """The word about the name is to come, and none that blames the parameter file."""
    file = tmp_path / "all.yaml"
    file.write_text("/**:\n  ros__parameters: {top_k: 2}\n")
    assert misplaced(file, "/front camera/recognizer", "/front-camera/overlay") == []


@pytest.mark.ros
@pytest.mark.parametrize("section", SECTIONS)
def test_rcl_gives_a_section_to_the_same_nodes(section, tmp_path):
    rclpy = pytest.importorskip("rclpy", reason="ROS 2 is not installed in this environment")
    file = tmp_path / "some.yaml"
    file.write_text(f"'{section}':\n  ros__parameters: {{top_k: 7}}\n")
    context, found = rclpy.Context(), []
    rclpy.init(context=context)
    for name in NODES:
        place, _, own = name.rpartition("/")
        arguments = ["--ros-args", "--params-file", str(file)]
        node = rclpy.create_node(own, namespace=place, context=context, cli_args=arguments)
        found += [name] if node.declare_parameter("top_k", 3).value == 7 else []
        node.destroy_node()
    rclpy.shutdown(context=context)
    assert tuple(found) == SECTIONS[section]


@pytest.mark.parametrize("recognizer", ["/recognizer", "/front/recognizer"])
def test_the_file_that_is_shipped_reaches_both_nodes(recognizer, tmp_path):
    file = tmp_path / "all.yaml"
    file.write_text(as_yaml())
    assert misplaced(file, recognizer, recognizer.replace("recognizer", "overlay")) == []


def test_a_section_of_the_recognizer_in_a_namespace_is_missed(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("recognizer:\n  ros__parameters: {top_k: 2}\n")
    assert misplaced(file, "/recognizer") == []
    (words,) = misplaced(file, "/front/recognizer")
    assert "reaches the node /front/recognizer (there is /recognizer)" in words
    file.write_text("front:\n  recognizer:\n    ros__parameters: {top_k: 2}\n")
    assert misplaced(file, "/front/recognizer") == []


def test_pictures_that_only_the_recognizer_is_told_are_named(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("recognizer:\n  ros__parameters: {modality: depth, depth_topic: /cam/depth, top_k: 2}\n")
    (words,) = misplaced(file, "/recognizer", "/overlay")
    assert f"{file} gives modality, depth_topic to /recognizer, but not to /overlay" in words
    assert misplaced(file, "/recognizer") == [], "no overlay is started"
    assert misplaced(file, "/recognizer", "/overlay", ["modality", "depth_topic"]) == [], "stated at launch"
    with file.open("a") as more:
        more.write("overlay:\n  ros__parameters: {modality: depth, depth_topic: /other}\n")
    assert misplaced(file, "/recognizer", "/overlay") == [], "the overlay has its own"


@pytest.mark.parametrize("text", ["", "a: [", "- 1\n", "recognizer: 3\n", "/**:\n  ros__parameters:\n"])
def test_a_file_without_sections_is_left_to_the_nodes(text, tmp_path):
    file = tmp_path / "odd.yaml"
    file.write_text(text)
    assert misplaced(file, "/recognizer", "/overlay") == []
    assert misplaced(tmp_path / "none.yaml", "/recognizer", "/overlay") == []
