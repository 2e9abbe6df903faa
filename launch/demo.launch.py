"""A recorded bag played into the recognizer, with the overlay to look at.

The scenes show the classes that a model knows, here those of demo/run, which make demo trains:

python -m mmcl_ros.record_demo --out recorded \\
  --classes ball banana book bottle bowl can carton mug pan pen plate scissors
ros2 launch mmcl_ros demo.launch.py bag:=recorded/bag truth:=recorded/truth.csv model:=demo/run
"""

from __future__ import annotations

import os
import shlex

from launch.actions import (
    DeclareLaunchArgument,
    IncludeLaunchDescription,
    OpaqueFunction,
    RegisterEventHandler,
    SetEnvironmentVariable,
    Shutdown,
)
from launch.event_handlers import OnProcessExit
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration, PathJoinSubstitution
from launch_ros.actions import Node
from launch_ros.substitutions import FindPackageShare

from launch import LaunchContext, LaunchDescription

# Arguments of the recognizer that are otherwise here than there, with their descriptions.
USUAL = {
    "rgb_topic": ("/camera/color/image_raw", "colour pictures of the bag"),
    "depth_topic": ("/camera/aligned_depth_to_color/image_raw", "depth pictures of the bag"),
    "policy": ("every", "every: all pictures are answered; latest: the newest only"),
    "roi_source": ("detections", "where regions come from"),
    "overlay": ("true", "start the overlay, too"),
}


def make_player(context: LaunchContext) -> list:
    """The player, and the end of the demonstration when it is done."""
    truth = LaunchConfiguration("truth").perform(context)
    python = os.path.expanduser(LaunchConfiguration("python").perform(context))
    player = Node(
        package="mmcl_ros",
        executable="play_bag",
        namespace=LaunchConfiguration("namespace"),
        arguments=["--bag", LaunchConfiguration("bag"), *(["--truth", truth] if truth else [])],
        prefix=shlex.quote(python) if python else None,
        output="screen",
    )
    return [player, RegisterEventHandler(OnProcessExit(target_action=player, on_exit=[Shutdown()]))]


def generate_launch_description() -> LaunchDescription:
    """Arguments, the profile for large pictures, the recognizer, and the player."""
    share = FindPackageShare("mmcl_ros")
    arguments = [
        DeclareLaunchArgument("bag", description="rosbag2 folder"),
        DeclareLaunchArgument("truth", default_value="", description="CSV of true boxes"),
        DeclareLaunchArgument("model", description="run folder or weights file"),
        DeclareLaunchArgument("modality", default_value="auto", description="auto, rgb, depth, rgbd"),
        DeclareLaunchArgument("namespace", default_value="", description="namespace of nodes and topics"),
        DeclareLaunchArgument("python", default_value="", description="interpreter, for PyTorch in an environment"),
        *(DeclareLaunchArgument(name, default_value=value, description=text) for name, (value, text) in USUAL.items()),
    ]
    # Fast DDS reads one name or the other; given both, a newer one reads the file twice, and calls that an error.
    fast = "FASTRTPS" if os.environ.get("ROS_DISTRO") in ("humble", "iron", "jazzy") else "FASTDDS"
    dds = PathJoinSubstitution([share, "config", "fastdds.xml"])
    recognizer = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(PathJoinSubstitution([share, "launch", "recognizer.launch.py"])),
        launch_arguments={
            name: LaunchConfiguration(name) for name in ("model", "modality", "namespace", "python", *USUAL)
        }.items(),
    )
    return LaunchDescription(
        [
            *arguments,
            SetEnvironmentVariable(f"{fast}_DEFAULT_PROFILES_FILE", dds),
            recognizer,
            OpaqueFunction(function=make_player),
        ]
    )
