"""Where the files of a ROS package lie that are no Python: messages, configuration."""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__ = ["shared"]


def shared(package: str, name: str) -> Path | None:
    """A file or folder of a package's share, None where there is none.

    Looked for in the checkout that this module is of, then in the sourced workspaces, then in the environment.

    Args:
        package: such as ``mmcl_ros``.
        name: relative to the share, such as ``config/fastdds.xml``.
    """
    places = [Path(__file__).resolve().parents[1]] if package == "mmcl_ros" else []
    prefixes = [*os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep), sys.prefix]
    places += [Path(prefix, "share", package) for prefix in prefixes if prefix]
    return next((found for place in places if (found := place / name).exists()), None)
