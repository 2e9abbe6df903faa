"""A node as a process of its own, from start to signal."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Any

import rclpy
from rclpy.exceptions import ParameterException
from rclpy.executors import ExternalShutdownException

__all__ = ["run_node"]

logger = logging.getLogger(__name__)


def run_node(make: Callable[[], Any], args: list[str] | None = None, about: str | None = None) -> int:
    """Make a node and spin it until the process is told to end (SIGINT, SIGTERM).

    ``--help`` prints ``about`` and ends; ROS itself would start the node.

    The signal may come while the node is still being made, for loading a model takes its time. From then on rclpy
    refuses whatever is asked of it; that is no fault of the node.

    Returns:
        The exit status: 0, or 2 for a parameter of the wrong type or out of its range.
    """
    if {"-h", "--help"} & set(sys.argv[1:] if args is None else args):
        print(f"{(about or '').strip()}\n\nParameters and topics: docs/ros.md; of a running node: ros2 param describe.")
        return 0
    rclpy.init(args=args)
    node, status = None, 0
    try:
        node = make()
        if rclpy.ok():
            rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except ParameterException as error:
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
