"""Where the files of a package lie that are no Python: the presets of this one, and messages of ROS packages."""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__ = ["preset_file", "preset_folder", "shared", "where_presets_are"]


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


def preset_folder() -> Path | None:
    """The folder of ``demo.yaml`` and the others; ``None`` where they were not installed."""
    found = shared("mmcl_ros", "config/demo.yaml")
    return found.parent if found else None


def preset_file(name: str) -> str:
    """How to name a preset from here: ``config/<name>`` in the checkout, elsewhere its whole path where it is known."""
    here, folder = Path("config", name), preset_folder()
    return str(here if folder is None or here.is_file() else folder / name)


def where_presets_are(error: OSError, kind: str = "presets", below: str = "") -> str:
    """What to add to an error: where ``kind`` of files are, in ``below`` of :func:`preset_folder`; or nothing.

    Empty where a file was there but could not be read, and where no presets are installed.
    """
    folder = preset_folder() if isinstance(error, FileNotFoundError) else None
    return f"; the {kind} are in {folder / below}" if folder else ""
