"""What is given to the launch file of the recognizer: names, numbers and paths, by the functions of the file."""

import locale

import pytest
from ros_launch_files import DEMO, RECOGNIZER, declared, launch_file, needs_launch

from mmcl_ros.parameters import PARAMETERS

pytestmark = needs_launch


def context_of(**given):
    """What the launch file finds, its arguments at their defaults but for those given."""
    from launch import LaunchContext

    context = LaunchContext()
    usual = {"params_file": "", "overlay": "false", "log_level": "info", "respawn": "false"}
    context.launch_configurations.update({**dict.fromkeys(declared(RECOGNIZER), ""), **usual, **given})
    return context


def make_program(path):
    path.parent.mkdir(parents=True)
    path.touch(0o755)


def test_every_parameter_of_the_node_is_an_argument():
    assert set(PARAMETERS) <= set(declared(RECOGNIZER))


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        *(("box_scale", "1", 1.0), ("top_k", "4", 4), ("threads", "1", 1)),
        *(("publish_embeddings", "true", True), ("publish_detections", "false", False)),
    ],
)
def test_a_parameter_arrives_in_its_type(name, text, value):
    (given,) = launch_file(RECOGNIZER).node_parameters(context_of(**{name: text}))
    assert given == {name: value}
    assert type(given[name]) is type(PARAMETERS[name].default)


@pytest.mark.parametrize(("name", "text", "kind"), [("min_score", "high", "number"), ("top_k", "2.5", "whole number")])
def test_a_number_that_is_none_is_named(name, text, kind):
    with pytest.raises(ValueError, match=f"{name} is '{text}'; a {kind} is expected"):
        launch_file(RECOGNIZER).node_parameters(context_of(**{name: text}))


def warnings_of(monkeypatch, **given):
    """What is said of arguments that are none."""
    module, said = launch_file(RECOGNIZER), []
    monkeypatch.setattr(module.logging, "get_logger", lambda name: type("Logger", (), {"warning": said.append}))
    description = module.generate_launch_description()
    context = context_of(**given)
    known = [one for one in description.entities if hasattr(one, "default_value") and one.name != "params_file"]
    module.warn_of_misspelt(context, known)
    return said


@pytest.mark.parametrize(
    ("wrong", "right"), [("box_scal", "box_scale"), ("rbg_topic", "rgb_topic"), ("over_lay", "overlay")]
)
def test_a_misspelt_argument_is_told(wrong, right, monkeypatch):
    (said,) = warnings_of(monkeypatch, **{wrong: "0.8"})
    assert said == f"there is no argument '{wrong}', so that {wrong}:=0.8 changes nothing; did you mean '{right}'?"


def test_what_a_file_that_includes_this_one_has_is_not_taken_for_misspelt(monkeypatch):
    own = {"bag": "recorded", "rate": "2", "ros_namespace": "/front", "model_path": "m", "camera": "front"}
    assert warnings_of(monkeypatch, **own) == []
    assert warnings_of(monkeypatch, rgb_topic_1="/a", rgb_topic="/a") == []


def test_the_home_folder_is_known_in_paths(tmp_path, monkeypatch):
    """Shells leave a ~ after := as it is."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "my.yaml").write_text("recognizer:\n  ros__parameters: {top_k: 2}\n")
    make_program(tmp_path / "venv/bin/python")
    context = context_of(params_file="~/my.yaml", model="~/run", python="~/venv/bin/python")
    module, demo, made = launch_file(RECOGNIZER), launch_file(DEMO), []
    assert module.node_parameters(context) == [f"{tmp_path}/my.yaml", {"model": f"{tmp_path}/run"}]
    module.Node = demo.Node = lambda **given: made.append(given)
    module.make_recognizer(context)
    module.make_overlay(context)
    context.launch_configurations.update(truth="", bag="~/bag")
    demo.make_player(context)
    assert [one["prefix"] for one in made] == [f"{tmp_path}/venv/bin/python"] * 3


@pytest.mark.parametrize(("python", "prefix"), [("", None), ("my env/bin/python", "'my env/bin/python'")])
def test_an_interpreter_is_one_word_and_none_leaves_the_prefix_to_launch(python, prefix, tmp_path, monkeypatch):
    """An empty prefix would override the one that ``ros2 launch --launch-prefix`` sets."""
    monkeypatch.chdir(tmp_path)
    make_program(tmp_path / "my env/bin/python")
    module, demo, made = launch_file(RECOGNIZER), launch_file(DEMO), []
    module.Node = demo.Node = lambda **given: made.append(given)
    context = context_of(python=python, truth="", bag="recorded")
    module.make_recognizer(context)
    module.make_overlay(context)
    demo.make_player(context)
    assert [one["prefix"] for one in made] == [prefix] * 3


@pytest.mark.parametrize("python", ["/no/such/python", "no-such-python", "venv"])
def test_an_interpreter_that_is_not_there_is_named(python, tmp_path, monkeypatch):
    """Launch would show it as a traceback of its own; so it would the folder of an environment."""
    monkeypatch.chdir(tmp_path)
    make_program(tmp_path / "venv/bin/python")
    module = launch_file(RECOGNIZER)
    for make in (module.make_recognizer, module.make_overlay):
        with pytest.raises(ValueError, match=f"^python is {python}, where there is no program; name an interpreter"):
            make(context_of(python=python))


def test_the_usual_values_are_read_as_utf_8_whatever_the_locale(tmp_path):
    for folder in ("launch", "config"):
        (tmp_path / folder).mkdir()
    copy = tmp_path / "launch" / RECOGNIZER.name
    copy.write_bytes(RECOGNIZER.read_bytes())
    file = tmp_path / "config" / "recognizer.yaml"
    file.write_text("/**:\n  ros__parameters: {rgb_topic: /kämera}\n", encoding="utf-8")
    module, kept = launch_file(copy), locale.setlocale(locale.LC_CTYPE)
    try:
        locale.setlocale(locale.LC_CTYPE, "C")
        assert module.usual_values()["rgb_topic"] == "/kämera"
    finally:
        locale.setlocale(locale.LC_CTYPE, kept)


@pytest.mark.parametrize("given", [{}, {"policy": "latest", "overlay": "false", "rgb_topic": "/my", "namespace": "a"}])
def test_the_demonstration_hands_on_what_it_is_given(given):
    from launch.actions import DeclareLaunchArgument, IncludeLaunchDescription
    from launch.utilities import perform_substitutions

    entities = launch_file(DEMO).generate_launch_description().entities
    declared_here = [one for one in entities if isinstance(one, DeclareLaunchArgument)]
    context = context_of()
    usual = {one.name: perform_substitutions(context, one.default_value or []) for one in declared_here}
    context.launch_configurations.update({**usual, **given})
    (included,) = (one for one in entities if isinstance(one, IncludeLaunchDescription))
    handed = {name: value.perform(context) for name, value in included.launch_arguments}
    assert set(usual) - set(handed) == {"bag", "truth"}
    assert handed["roi_source"] == "detections"
    assert {name: handed[name] for name in given} == given
    assert (usual["policy"], usual["overlay"], usual["rgb_topic"]) == ("every", "true", "/camera/color/image_raw")


@pytest.mark.parametrize(
    ("distribution", "prefix"), [("humble", "FASTRTPS"), ("jazzy", "FASTRTPS"), ("kilted", "FASTDDS"), ("", "FASTDDS")]
)
def test_the_demonstration_names_its_profile_to_fast_dds_once(distribution, prefix, monkeypatch):
    """Under both names the newer ones read it twice, and call that an error."""
    from launch.actions import SetEnvironmentVariable

    from launch import LaunchContext

    monkeypatch.setenv("ROS_DISTRO", distribution)
    entities = launch_file(DEMO).generate_launch_description().entities
    (named,) = (one.name for one in entities if isinstance(one, SetEnvironmentVariable))
    assert "".join(part.perform(LaunchContext()) for part in named) == f"{prefix}_DEFAULT_PROFILES_FILE"


@pytest.mark.parametrize("given", [{}, {"respawn": "true"}, {"respawn": "false"}])
def test_a_node_is_started_anew_where_that_is_asked_for(given):
    module, made = launch_file(RECOGNIZER), []
    module.Node = lambda **arguments: made.append(arguments)
    module.make_recognizer(context_of(**given))
    assert [one["respawn"] for one in made] == [given.get("respawn") == "true"]
