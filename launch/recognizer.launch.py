"""The recognizer for one camera, with the overlay on demand.

    ros2 launch mmcl_ros recognizer.launch.py modality:=rgb model:=RUN rgb_topic:=/camera/color/image_raw

An argument left empty leaves the matter to the parameter file. Several cameras: include this file once per namespace.
"""

from __future__ import annotations

from pathlib import Path

from launch.actions import DeclareLaunchArgument, OpaqueFunction
from launch.conditions import IfCondition
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

from launch import LaunchContext, LaunchDescription, logging

# Arguments that are parameters of the node by the same name, with their descriptions and choices.
PARAMETERS = {
    "modality": ("what answers stand on", ["", "auto", "rgb", "depth", "rgbd"]),
    "model": ("run folder, weights file, or ycb21", None),
    "device": ("auto, cpu, cuda, cuda:1, ...", None),
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
    "min_score": "answers below become unknown",
}
SWITCHED = ("mirror", "assume_registered", "autostart", "use_sim_time")  # the same, on or off
SWITCHES = ["", "true", "false"]


def node_parameters(context: LaunchContext) -> list[str | dict[str, str | bool | float]]:
    """The parameter file, and those parameters that were given; the later override.

    Raises:
        ValueError: there is no such file, or a number is none.
    """
    file = LaunchConfiguration("params_file").perform(context)
    if file and not Path(file).is_file():
        raise ValueError(f"params_file is {file}, where there is no file; name a YAML file like config/recognizer.yaml")
    values = {name: LaunchConfiguration(name).perform(context) for name in [*PARAMETERS, *SWITCHED, *NUMBERS]}
    given: dict[str, str | bool | float] = {name: values[name] for name in PARAMETERS if values[name]}
    given |= {name: values[name] == "true" for name in SWITCHED if values[name]}
    for name in (name for name in NUMBERS if values[name]):
        try:
            given[name] = float(values[name])
        except ValueError as error:
            raise ValueError(f"{name} is {values[name]!r}; a number is expected") from error
    if "model" in given:
        path = Path(str(given["model"])).expanduser()
        if path.exists() or len(path.parts) > 1:  # a bare name may be that of a model in the package
            given["model"] = str(path.resolve())
    return [one for one in (file, given) if one]


def warn_of_misplaced(context: LaunchContext) -> None:
    """Say what the parameter file states that does not reach its node; ROS is silent about that."""
    try:
        from mmcl_ros.sections import misplaced
    except ImportError:  # installed for another interpreter than that of launch
        return
    file = LaunchConfiguration("params_file").perform(context)
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
            prefix=LaunchConfiguration("python"),
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
            prefix=LaunchConfiguration("python"),
            ros_arguments=["--log-level", LaunchConfiguration("log_level")],
            output="screen",
        )
    ]


def is_on(context: LaunchContext, name: str) -> bool:
    """Whether a switch is on."""
    return LaunchConfiguration(name).perform(context) == "true"


def generate_launch_description() -> LaunchDescription:
    """Declared arguments, the recognizer, and the overlay if wanted."""
    defaults = PathJoinSubstitution([FindPackageShare("mmcl_ros"), "config", "recognizer.yaml"])
    arguments = [
        DeclareLaunchArgument(name, default_value="", description=text, **({"choices": choices} if choices else {}))
        for name, (text, choices) in PARAMETERS.items()
    ]
    arguments += [DeclareLaunchArgument(name, default_value="", description=text) for name, text in NUMBERS.items()]
    arguments += [
        DeclareLaunchArgument("namespace", default_value="", description="namespace of nodes and topics"),
        DeclareLaunchArgument("params_file", default_value=defaults, description="YAML file of parameters"),
        DeclareLaunchArgument("mirror", default_value="", choices=SWITCHES, description="look at mirror images, too"),
        DeclareLaunchArgument(
            "assume_registered", default_value="", choices=SWITCHES, description="whatever frames say"
        ),
        DeclareLaunchArgument("use_sim_time", default_value="", choices=SWITCHES, description="time from /clock"),
        DeclareLaunchArgument("autostart", default_value="", choices=SWITCHES, description="configure and activate"),
        DeclareLaunchArgument("overlay", default_value="false", choices=["true", "false"], description="overlay too"),
        DeclareLaunchArgument("log_level", default_value="info", description="debug, info, warn, error"),
        DeclareLaunchArgument("respawn", default_value="false", choices=["true", "false"], description="start anew"),
        DeclareLaunchArgument("python", default_value="", description="interpreter, for PyTorch in an environment"),
    ]
    overlay = OpaqueFunction(function=make_overlay, condition=IfCondition(LaunchConfiguration("overlay")))
    return LaunchDescription([*arguments, OpaqueFunction(function=make_recognizer), overlay])
