"""The generated messages, with a plain word where they were not built, and other packages' messages where present."""

from __future__ import annotations

import importlib
from typing import Any

from mmcl_ros.message_types import REGION_TYPES

__all__ = ["INSTALLED_REGION_TYPES", "message_class", "optional_class"]

try:
    from mmcl_ros import msg as _msg  # noqa: F401
except ImportError as error:
    raise ImportError(
        "the messages of mmcl_ros are not built: colcon build in a workspace, or pip install . beside the wheels of "
        "ROS 2 (see docs/ros.md)"
    ) from error


def message_class(name: str) -> Any:
    """The class of a message type such as ``sensor_msgs/msg/Image``."""
    package, kind, short = name.split("/")
    return getattr(importlib.import_module(f"{package}.{kind}"), short)


def optional_class(name: str) -> Any | None:
    """The class of a message type, None where its package is not installed."""
    try:
        return message_class(name)
    except ImportError:
        return None


#: What can be read from the detections topic here.
INSTALLED_REGION_TYPES = tuple(name for name in REGION_TYPES if optional_class(name) is not None)
