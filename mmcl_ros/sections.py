"""Which nodes the sections of a ROS 2 parameter file reach; free of ROS.

The rules are those of rcl: a section is named by a node with its namespace, ``recognizer`` is ``/recognizer`` alone;
``*`` stands for one part of a name and ``**`` for any number of parts. A section that reaches no node is no error to
ROS, so that values written for another name are lost without a word.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from mmcl_ros.parameters import OVERLAY_PARAMETERS

__all__ = ["misplaced", "reaches"]

PARTS = {"**": "(/[^/]+)*", "*": "/[^/]+"}


def reaches(section: str, node: str) -> bool:
    """Whether a section's values are given to a node.

    Args:
        section: its name in the file, nested ones joined by ``/``.
        node: full name, such as ``/front/recognizer``.
    """
    parts = (part for part in section.split("/") if part)
    pattern = "".join(PARTS.get(part, "/" + re.escape(part)) for part in parts)
    return re.fullmatch(pattern, node) is not None


def misplaced(file: Path, recognizer: str, overlay: str = "", given: Collection[str] = ()) -> list[str]:
    """What a parameter file says that does not arrive where it is meant to, in words.

    Args:
        file: YAML; one that cannot be read has nothing misplaced, for the nodes themselves refuse it.
        recognizer, overlay: full names of the nodes; no overlay: empty.
        given: names of parameters that are stated elsewhere and override the file.
    """
    try:
        found = list(_sections(yaml.safe_load(file.read_text(encoding="utf-8"))))
    except (OSError, ValueError, yaml.YAMLError):
        return []
    words = []
    names = ", ".join(name for name, _ in found)
    own = {key for name, values in found if reaches(name, recognizer) for key in values}
    if found and not any(reaches(name, recognizer) for name, _ in found):
        words.append(
            f"no section of {file} reaches the node {recognizer} (there is {names}), so that nothing in it counts; "
            f"name the section {recognizer}, or /** for all nodes"
        )
    seen = {key for name, values in found if reaches(name, overlay) for key in values}
    lost = [key for key in OVERLAY_PARAMETERS if key in own - seen and key not in given]
    if overlay and lost:
        words.append(
            f"{file} gives {', '.join(lost)} to {recognizer}, but not to {overlay}, which may look at other pictures "
            "for that; put them under /**"
        )
    return words


def _sections(tree: Any, above: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Names and values of the sections, nested names joined."""
    for key, value in tree.items() if isinstance(tree, Mapping) else ():
        if key == "ros__parameters":
            yield above or "/", value if isinstance(value, Mapping) else {}
        else:
            yield from _sections(value, f"{above}/{str(key).strip('/')}")
