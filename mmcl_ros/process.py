"""A node as a process of its own, from start to signal."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Callable
from typing import Any

import rclpy
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException

from mmcl_core.errors import ConfigError

__all__ = ["run_node", "start"]

logger = logging.getLogger(__name__)


def start(args: list[str] | None = None, **options: Any) -> None:
    """Initialise rclpy; under a discovery server of Fast DDS as a super client, unless the environment says otherwise.

    Args:
        args: command line; None: that of the process.
        options: of :func:`rclpy.init`.

    Raises:
        ConfigError: what follows ``--ros-args`` cannot be read, such as a parameter file that is not there.
    """
    if os.environ.get("ROS_DISCOVERY_SERVER"):  # else the graph, which subscriptions follow, is not seen
        os.environ.setdefault("ROS_SUPER_CLIENT", "TRUE")
    try:
        rclpy.init(args=args, **options)
    except RuntimeError as error:  # rclpy's own are of a private module
        words = re.sub(
            r" ?,? at /[^ ,]*:\d+", "", " ".join(str(error).split())
        )  # where in the sources of ROS it came up
        raise ConfigError(f"{words}; correct the arguments after --ros-args, or the file they name") from error


def run_node(make: Callable[[], Any], args: list[str] | None = None, about: str | None = None) -> int:
    """Make a node and spin it until the process is told to end (SIGINT, SIGTERM).

    ``--help`` prints ``about`` and ends; ROS itself would start the node.

    The signal may come while the node is still being made, for loading a model takes its time. From then on rclpy
    refuses whatever is asked of it; that is no fault of the node.

    Returns:
        The exit status: 0, or 2 for ROS arguments that cannot be read and for a parameter of the wrong type or out of
        its range.
    """
    if {"-h", "--help"} & set(sys.argv[1:] if args is None else args):
        print(f"{(about or '').strip()}\n\nParameters and topics: docs/ros.md; of a running node: ros2 param describe.")
        return 0
    node, status = None, 0
    try:
        start(args)
        node = make()
        if rclpy.ok():
            rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except (ConfigError, ParameterException) as error:
        print(f"error: {error}", file=sys.stderr)
        status = 2
    except Exception:
        if rclpy.ok():
            raise
        logger.debug("ended while starting", exc_info=True)
    finally:
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()
    return status
