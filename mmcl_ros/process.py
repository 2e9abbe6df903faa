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
from rclpy.logging import LoggingSeverity

from mmcl_core.cli import EXIT_INTERRUPTED, as_plain_text
from mmcl_core.errors import ConfigError
from mmcl_ros.parameters import PARAMETERS

__all__ = ["forward_logs", "run_node", "start"]

logger = logging.getLogger(__name__)

PACKAGES = ("mmcl_ros", "mmcl_core")


class LogBridge(logging.Handler):
    """Hands what the modules of this package log to the log of ROS, which has levels of its own (``--log-level``).

    Attributes:
        target: logger of rclpy; that of a node puts it on ``/rosout`` as well.
    """

    def __init__(self) -> None:
        super().__init__()
        self.target = rclpy.logging.get_logger(PACKAGES[0])
        self._kept = {name: (logging.getLogger(name).level, logging.getLogger(name).propagate) for name in PACKAGES}

    def __enter__(self) -> LogBridge:
        for name in PACKAGES:
            source = logging.getLogger(name)
            source.addHandler(self)
            source.setLevel(logging.DEBUG)  # the levels of ROS may change at any time
            source.propagate = False  # else it is printed twice where there is another handler
        return self

    def __exit__(self, *_: object) -> None:
        for name, (level, propagate) in self._kept.items():
            source = logging.getLogger(name)
            source.removeHandler(self)
            source.setLevel(level)
            source.propagate = propagate

    def emit(self, record: logging.LogRecord) -> None:
        """Say a record at the level of ROS nearest below its own."""
        # A line of code that has spoken at one level may not speak at another: rclpy tells by the line.
        try:
            if record.levelno >= logging.CRITICAL:
                self.target.fatal(self.format(record))
            elif record.levelno >= logging.ERROR:
                self.target.error(self.format(record))
            elif record.levelno >= logging.WARNING:
                self.target.warning(self.format(record))
            elif record.levelno >= logging.INFO:
                self.target.info(self.format(record))
            elif self.target.is_enabled_for(LoggingSeverity.DEBUG):
                self.target.debug(self.format(record))
        except Exception:
            self.handleError(record)


def forward_logs(node: Any) -> None:
    """Have what the modules log said by a node from now on; nothing changes outside :func:`run_node`."""
    for handler in logging.getLogger(PACKAGES[0]).handlers:
        if isinstance(handler, LogBridge):
            handler.target = node.get_logger()


def start(args: list[str] | None = None, **options: Any) -> None:
    """Initialise rclpy; under a discovery server of Fast DDS as a super client, unless the environment says otherwise.

    Args:
        args: command line; None: that of the process.
        options: of :func:`rclpy.init`.

    Raises:
        ConfigError: what follows ``--ros-args`` cannot be read, such as a parameter file that is not there, or ROS has
            no folder to log to.
    """
    if os.environ.get("ROS_DISCOVERY_SERVER"):  # else the graph, which subscriptions follow, is not seen
        os.environ.setdefault("ROS_SUPER_CLIENT", "TRUE")
    try:
        rclpy.init(args=args, **options)
    except RuntimeError as error:  # rclpy's own are of a private module
        words = " ".join(str(error).split())
        words = re.sub(r" ?,? at /[^ ,]*:\d+", "", words)  # the place in the sources of ROS where it came up
        advice = "correct the arguments after --ros-args, or the file they name"
        if "initialize logging" in words:  # HOME is not set, or may not be written
            advice = "set ROS_LOG_DIR to a folder that may be written"
        raise ConfigError(f"{words}; {advice}") from error


def _refuse_strays(args: list[str]) -> None:
    """Refuse what ROS would pass over without a word: a model that was named and not taken answers wrongly.

    Remappings outside ``--ros-args``, an old form that ROS still takes, are left to it.

    Raises:
        ConfigError: with these arguments.
    """
    strays, inside = [], False
    for word in args:
        if word in ("--ros-args", "--"):
            inside = word == "--ros-args"
        elif not inside and word not in ("-r", "--remap"):
            name, remaps, _ = word.partition(":=")
            if not remaps or name in PARAMETERS:
                strays.append(word)
    if strays:
        example = "parameters follow --ros-args, each after -p: --ros-args -p NAME:=VALUE -p NAME:=VALUE"
        raise ConfigError(f"arguments that a node does not take: {' '.join(strays)}; {example}")


def run_node(make: Callable[[], Any], args: list[str] | None = None, about: str | None = None) -> int:
    """Make a node and spin it until the process is told to end (SIGINT, SIGTERM).

    ``--help`` prints ``about`` and ends; ROS itself would start the node. What the modules log goes to the log of ROS.

    The signal may come while the node is still being made, for loading a model takes its time. From then on rclpy
    refuses whatever is asked of it; that is no fault of the node.

    Returns:
        The exit status: 0, 2 for arguments that cannot be read and for a parameter of the wrong type or out of its
        range, or 130 where a second SIGINT has cut the end short.
    """
    if {"-h", "--help"} & set(sys.argv[1:] if args is None else args):
        print(as_plain_text((about or "").strip()))
        print("\nParameters and topics: docs/ros.md; of a running node: ros2 param describe.")
        return 0
    with LogBridge():
        return _run(make, args)


def _run(make: Callable[[], Any], args: list[str] | None) -> int:
    node, status = None, 0
    try:
        _refuse_strays(sys.argv[1:] if args is None else args)
        start(args)
        node = make()
        forward_logs(node)
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
        try:
            if node is not None:
                node.destroy_node()
            rclpy.try_shutdown()
        except KeyboardInterrupt:  # told once more: what is still worked on is not waited for
            status = EXIT_INTERRUPTED
    return status
