"""The recognizer for one camera, with the overlay on demand.

    ros2 launch mmcl_ros recognizer.launch.py modality:=rgb model:=RUN rgb_topic:=/camera/color/image_raw

Every parameter of the node is an argument; one left empty leaves the matter to the parameter file. Several cameras:
include this file once per namespace.
"""

from __future__ import annotations

import difflib
import os
import shlex
import shutil
from pathlib import Path

import yaml
from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch.utilities import perform_substitutions
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

from launch import LaunchContext, LaunchDescription, logging

# Arguments that are parameters of the node by the same name, with their descriptions and choices.
PARAMETERS = {
    "modality": ("what answers stand on", ["", "auto", "rgb", "depth", "rgbd"]),
    "model": ("run folder, weights file, or ycb21", None),
    "device": ("auto, cpu, cuda, cuda:1 and so on", None),
    "backend": ("auto (by the file), torch or onnx", ["", "auto", "torch", "onnx"]),
    "roi_source": ("where regions come from", ["", "auto", "detections", "full_image", "center"]),
    "policy": ("latest: newest picture only; every: all of them", ["", "latest", "every"]),
    "rgb_topic": ("colour pictures", None),
    "rgb_info_topic": ("camera info of the colour pictures, if not camera_info beside them", None),
    "depth_topic": ("depth pictures", None),
    "depth_info_topic": ("camera info of the depth pictures, if not camera_info beside them", None),
    "detections_topic": ("regions to be recognised", None),
    "rgb_transport": ("how colour arrives", ["", "raw", "compressed"]),
    "depth_transport": ("how depth arrives", ["", "raw", "compressed", "compressedDepth"]),
    "qos": ("auto, reliable or best_effort", ["", "auto", "reliable", "best_effort"]),
}
NUMBERS = {
    "pair_window": "largest difference of stamps of pictures that belong together, seconds",
    "max_wait": "how long a picture waits for its partner, seconds",
    "history": "how long pictures are kept for regions to come, seconds",
    "stale_after": "a sensor is lost when no picture came for so long, seconds",
    "recover_after": "a lost sensor is used again when pictures have come for so long, seconds",
    "min_score": "answers below become unknown",
    "center_size": "side of the centre region, as a share of the picture's shorter side",
    "box_scale": "side of the window that a region is seen in, in its longer sides; 0: as it is",
    "min_depth_valid": "smallest share of a region with a depth reading for depth to be used",
    "status_period": "between two messages on ~/status, seconds",
    "warn_period": "a warning that persists is repeated after so long, seconds",
}
COUNTS = {
    "threads": "CPU threads of the network; 0: its own choice",
    "queue": "most requests that wait under policy:=every",
    "min_box": "smallest side of a region, pixels",
    "top_k": "classes listed per answer",
}
SWITCHED = {
    "mirror": "look at mirror images, too",
    "assume_registered": "use depth as registered even where frame ids differ",
    "publish_embeddings": "publish the embedding with every answer",
    "publish_detections": "recognitions_2d, too, where vision_msgs is installed",
    "autostart": "configure and activate at start",
    "use_sim_time": "time from /clock",
}


def node_parameters(context: LaunchContext) -> list[str | dict[str, str | bool | float]]:
    """The parameter file, and those parameters that were given; the later override.

    Raises:
        ValueError: there is no such file, or a number is none.
    """
    file = path_of(context, "params_file")
    if file and not Path(file).is_file():
        raise ValueError(f"params_file is {file}, where there is no file; name a YAML file like config/recognizer.yaml")
    values = {name: LaunchConfiguration(name).perform(context) for name in [*PARAMETERS, *SWITCHED, *NUMBERS, *COUNTS]}
    given: dict[str, str | bool | float] = {name: values[name] for name in PARAMETERS if values[name]}
    given |= {name: values[name] == "true" for name in SWITCHED if values[name]}
    for name in (name for name in [*NUMBERS, *COUNTS] if values[name]):
        try:
            given[name] = float(values[name]) if name in NUMBERS else int(values[name])
        except ValueError as error:
            kind = "number" if name in NUMBERS else "whole number"
            raise ValueError(f"{name} is {values[name]!r}; a {kind} is expected") from error
    if "model" in given:
        path = Path(path_of(context, "model"))
        if path.exists() or len(path.parts) > 1:  # a bare name may be that of a model in the package
            given["model"] = str(path.resolve())
    return [one for one in (file, given) if one]


def path_of(context: LaunchContext, name: str) -> str:
    """An argument that is a path; empty: none. Shells leave a ``~`` after ``:=``, the home folder, as it is."""
    return os.path.expanduser(LaunchConfiguration(name).perform(context))


def interpreter(context: LaunchContext) -> str | None:
    """What to start a node with, for the shell; None: nothing, and launch's own ``launch-prefix`` holds.

    Raises:
        ValueError: there is no such program; launch would show it as a traceback of its own.
    """
    path = path_of(context, "python")
    if path and shutil.which(path) is None:
        raise ValueError(
            f"python is {path}, where there is no program; name an interpreter, such as ~/mmcl_venv/bin/python"
        )
    return shlex.quote(path) if path else None


def warn_of_misspelt(context: LaunchContext, arguments: list[DeclareLaunchArgument]) -> None:
    """Say what was given that is much like an argument which was not; ROS passes over unknown names without a word.

    Other unknown names may be those of a file that includes this one.
    """
    found = context.launch_configurations
    left = [one.name for one in arguments if found[one.name] == perform_substitutions(context, one.default_value)]
    known = {one.name for one in arguments}
    for name, value in found.items():
        near = difflib.get_close_matches(name, left, n=1, cutoff=0.85)
        if near and name not in known:
            words = f"there is no argument {name!r}, so that {name}:={value} changes nothing; did you mean {near[0]!r}?"
            logging.get_logger("recognizer.launch").warning(words)


def warn_of_misplaced(context: LaunchContext) -> None:
    """Say what the parameter file states that does not reach its node; ROS is silent about that."""
    try:
        from mmcl_ros.sections import misplaced
    except ImportError:  # installed for another interpreter than that of launch
        return
    file = path_of(context, "params_file")
    own = LaunchConfiguration("namespace").perform(context)
    above = "" if own.startswith("/") else context.launch_configurations.get("ros_namespace", "")
    place = "/".join(["", *filter(None, f"{above}/{own}".split("/"))])
    given = [name for name in [*PARAMETERS, *NUMBERS] if LaunchConfiguration(name).perform(context)]
    overlay = f"{place}/overlay" if is_on(context, "overlay") else ""
    for words in misplaced(Path(file), f"{place}/recognizer", overlay, given) if file else ():
        logging.get_logger("recognizer.launch").warning(words)


def make_recognizer(context: LaunchContext) -> list[Node]:
    """The node, with its parameters."""
    warn_of_misplaced(context)
    return [
        Node(
            package="mmcl_ros",
            executable="recognizer",
            name="recognizer",
            namespace=LaunchConfiguration("namespace"),
            parameters=node_parameters(context),
            prefix=interpreter(context),
            ros_arguments=["--log-level", LaunchConfiguration("log_level")],
            respawn=is_on(context, "respawn"),
            respawn_delay=2.0,
            output="screen",
        )
    ]


def make_overlay(context: LaunchContext) -> list[Node]:
    """The overlay, with the same parameters, on the picture that answers refer to."""
    return [
        Node(
            package="mmcl_ros",
            executable="overlay",
            name="overlay",
            namespace=LaunchConfiguration("namespace"),
            parameters=node_parameters(context),
            prefix=interpreter(context),
            ros_arguments=["--log-level", LaunchConfiguration("log_level")],
            output="screen",
        )
    ]


def is_on(context: LaunchContext, name: str) -> bool:
    """Whether a switch is on."""
    return LaunchConfiguration(name).perform(context) == "true"


def usual_values() -> dict[str, object]:
    """Values in config/recognizer.yaml by parameter; none where somebody has made another file of it."""
    file = Path(__file__).resolve().parents[1] / "config" / "recognizer.yaml"
    values = {"use_sim_time": False}  # a parameter of every node
    try:
        return values | yaml.safe_load(file.read_text(encoding="utf-8"))["/**"]["ros__parameters"]
    except (OSError, ValueError, yaml.YAMLError, LookupError, TypeError):
        return values


def parameter_arguments() -> list[DeclareLaunchArgument]:
    """The arguments that are parameters of the node; each says what leaving it empty amounts to."""
    usual = usual_values()
    described = {
        **PARAMETERS,
        **{name: (text, None) for name, text in {**NUMBERS, **COUNTS}.items()},
        **{name: (text, ["", "true", "false"]) for name, text in SWITCHED.items()},
    }
    arguments = []
    for name, (text, choices) in described.items():
        words = f"{text}; left empty, as in params_file"
        if name in usual:
            value = usual[name]
            shown = str(value).lower() if isinstance(value, bool) else value if value != "" else "none"
            words += f", usually: {shown}"
        arguments.append(
            DeclareLaunchArgument(
                name, default_value="", description=words, **({"choices": choices} if choices else {})
            )
        )
    return arguments


def generate_launch_description() -> LaunchDescription:
    """Declared arguments, the recognizer, and the overlay if wanted."""
    defaults = PathJoinSubstitution([FindPackageShare("mmcl_ros"), "config", "recognizer.yaml"])
    arguments = [
        *parameter_arguments(),
        DeclareLaunchArgument("namespace", default_value="", description="namespace of nodes and topics"),
        DeclareLaunchArgument(
            "params_file",
            default_value=defaults,
            description="YAML file of parameters, for all that is left empty here",
        ),
        DeclareLaunchArgument(
            "overlay", default_value="false", choices=["true", "false"], description="start the overlay, too"
        ),
        DeclareLaunchArgument("log_level", default_value="info", description="debug, info, warn, error"),
        DeclareLaunchArgument(
            "respawn", default_value="false", choices=["true", "false"], description="restart the node when it dies"
        ),
        DeclareLaunchArgument(
            "python",
            default_value="",
            description="interpreter of the nodes, where PyTorch is in an environment of its own",
        ),
    ]
    overlay = OpaqueFunction(function=make_overlay, condition=IfCondition(LaunchConfiguration("overlay")))
    misspelt = OpaqueFunction(function=warn_of_misspelt, args=[arguments])
    return LaunchDescription([*arguments, misspelt, OpaqueFunction(function=make_recognizer), overlay])
