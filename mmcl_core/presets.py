"""Where the settings that come with the package are: ``config/`` of the checkout, or of what was installed."""

from __future__ import annotations

import os
import sys
from pathlib import Path

__all__ = ["preset_file", "preset_folder"]


def preset_folder() -> Path | None:
    """The folder of ``demo.yaml`` and the others; ``None`` where they were not installed."""
    prefixes = [*os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep), sys.prefix]
    shares = [Path(prefix, "share", "mmcl_ros") for prefix in prefixes if prefix]
    places = [place / "config" for place in (Path(__file__).resolve().parents[1], *shares)]
    return next((place for place in places if (place / "demo.yaml").is_file()), None)


def preset_file(name: str) -> str:
    """How to name a preset from here: ``config/<name>`` in the checkout, elsewhere its whole path where it is known."""
    here, folder = Path("config", name), preset_folder()
    return str(here if folder is None or here.is_file() else folder / name)
