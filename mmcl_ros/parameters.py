"""The parameters of the recognizer node: one table for the node, ``config/recognizer.yaml`` and the documentation.

``python -m mmcl_ros.parameters yaml`` and ``... markdown`` print the last two; a test holds them to this table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmcl_core.errors import ConfigError

__all__ = ["OVERLAY_PARAMETERS", "PARAMETERS", "TABLE", "Parameter", "as_markdown", "as_yaml", "check", "check_change"]


@dataclass(frozen=True)
class Parameter:
    """One row of the table.

    Attributes:
        name, default, text: the type follows from the default: str, bool, int or float.
        choices: the values a text may have; empty: any.
        low, high: range of a number, both ends included.
        live: whether it may be changed while the node is configured; the others take effect at configuration.
    """

    name: str
    default: str | bool | int | float
    text: str
    choices: tuple[str, ...] = ()
    low: float = -math.inf
    high: float = math.inf
    live: bool = False

    @property
    def type(self) -> str:
        """Name of the type as ROS calls it."""
        return {str: "string", bool: "bool", int: "int", float: "double"}[type(self.default)]

    @property
    def range(self) -> str:
        """The allowed values in words; empty: any."""
        if self.choices:
            return ", ".join(self.choices)
        if type(self.default) in (int, float) and self.low > -math.inf:
            return f"{self.low:g} to {self.high:g}" if self.high < math.inf else f"{self.low:g} or more"
        return ""


TABLE: tuple[Parameter, ...] = (
    Parameter(
        "model",
        "ycb21",
        "Run folder, weights file or exported .onnx file; ycb21, which comes with the package, knows 21 YCB objects.",
    ),
    Parameter("device", "auto", "Where the network runs: auto, cpu, cuda, cuda:1, ..."),
    Parameter("backend", "auto", "What runs the network; auto goes by the file.", ("auto", "torch", "onnx")),
    Parameter(
        "threads",
        0,
        "CPU threads of the network; 0: the back end's own choice. With torch a number holds for the process: going "
        "back to 0 takes a restart.",
        low=0,
        high=1024,
    ),
    Parameter("mirror", False, "Look at every region and its mirror image, and average the answers: twice the work."),
    Parameter(
        "modality",
        "auto",
        "What answers stand on. rgb, depth: that sensor alone. rgbd: both, one alone where its partner does not come, "
        "which counts as a fault. auto: whichever sensors are alive, as far as the model was trained for them.",
        ("auto", "rgb", "depth", "rgbd"),
    ),
    Parameter(
        "roi_source",
        "auto",
        "Where regions come from. detections: the detections topic. full_image, center: the node itself, one per "
        "picture. auto: the centre until somebody publishes the detections topic, from then on that topic, also while "
        "its publisher is gone.",
        ("auto", "detections", "full_image", "center"),
    ),
    Parameter(
        "center_size", 0.5, "Side of the centre region, as a share of the picture's shorter side.", low=0.05, high=1
    ),
    Parameter("rgb_topic", "rgb/image", "Colour pictures; remapping works for compressed transports too."),
    Parameter("rgb_info_topic", "", "Camera info of the colour pictures; empty: camera_info beside them. Optional."),
    Parameter("depth_topic", "depth/image", "Depth pictures."),
    Parameter("depth_info_topic", "", "Camera info of the depth pictures; empty: camera_info beside them. Optional."),
    Parameter(
        "detections_topic",
        "detections",
        "Regions: mmcl_ros/RegionArray, vision_msgs/Detection2DArray or yolo_msgs/DetectionArray.",
    ),
    Parameter(
        "rgb_transport",
        "raw",
        "How colour arrives; others than raw add their name to the topic.",
        ("raw", "compressed"),
    ),
    Parameter("depth_transport", "raw", "How depth arrives.", ("raw", "compressed", "compressedDepth")),
    Parameter(
        "qos",
        "auto",
        "Reliability asked of publishers. auto: what each of them offers.",
        ("auto", "reliable", "best_effort"),
    ),
    Parameter(
        "policy",
        "latest",
        "latest: work on the newest request and drop those it has overtaken (live robot). every: answer all, in order "
        "(recorded data).",
        ("latest", "every"),
    ),
    Parameter(
        "queue",
        100,
        "Most requests that wait for the network under the policy every; the oldest beyond are dropped, and so they "
        "are when the pictures of all that wait take more than 1 GB. Those that have waited for a sensor together come "
        "on top of the number.",
        low=1,
        high=100000,
    ),
    Parameter(
        "pair_window",
        0.02,
        "Largest difference in stamps of pictures that belong together, seconds.",
        low=0,
        high=10,
        live=True,
    ),
    Parameter(
        "max_wait",
        0.1,
        "Longest wait for a picture that belongs to a request, seconds; at least 5 under the policy every, less where "
        "there is no room for more pictures, see history.",
        low=0,
        high=10,
        live=True,
    ),
    Parameter(
        "history",
        1.0,
        "How long pictures are kept for regions that come later, seconds; at least 5 under the policy every. No more "
        "than the newest 1000 of a sensor are kept, nor more than 1 GB of them.",
        low=0.05,
        high=60,
        live=True,
    ),
    Parameter(
        "stale_after",
        0.5,
        "A sensor counts as lost when no picture came for so long, seconds; at least 5 under the policy every.",
        low=0.05,
        high=60,
        live=True,
    ),
    Parameter(
        "recover_after",
        1.0,
        "A lost sensor is used again when pictures have come for so long without a break, seconds (auto); at once "
        "under the policy every.",
        low=0,
        high=60,
        live=True,
    ),
    Parameter(
        "assume_registered",
        False,
        "Take depth as registered to colour though the frames differ in name.",
        live=True,
    ),
    Parameter(
        "min_score",
        0.0,
        "Answers below this probability become unknown; mmcl_core.evaluate tells what each value answers.",
        low=0,
        high=1,
        live=True,
    ),
    Parameter(
        "box_scale",
        1.2,
        "Side of the square window a region is seen in, in its longer sides, as training crops were cut; 0: as it is.",
        low=0,
        high=5,
        live=True,
    ),
    Parameter("min_box", 4, "Smallest side of a region inside the picture, pixels.", low=1, high=10000, live=True),
    Parameter(
        "min_depth_valid",
        0.1,
        "Smallest share of a region's pixels with a depth reading for depth to be used.",
        low=0,
        high=1,
        live=True,
    ),
    Parameter("top_k", 3, "Classes listed per answer, best first.", low=1, high=1000, live=True),
    Parameter("publish_embeddings", False, "Put the embedding into every answer.", live=True),
    Parameter(
        "publish_detections", True, "Publish vision_msgs/Detection2DArray as well, where vision_msgs is installed."
    ),
    Parameter(
        "status_period", 1.0, "Seconds between two messages on ~/status and /diagnostics.", low=0.1, high=60, live=True
    ),
    Parameter(
        "warn_period", 5.0, "A warning that persists is repeated after so many seconds.", low=0.1, high=3600, live=True
    ),
    Parameter("autostart", True, "Configure and activate at start; otherwise wait for lifecycle transitions."),
)
PARAMETERS: dict[str, Parameter] = {row.name: row for row in TABLE}
#: Those that the overlay goes by, too: they say where its pictures come from, and which of them an answer is of.
OVERLAY_PARAMETERS = (
    *("modality", "rgb_topic", "rgb_transport", "depth_topic", "depth_transport"),
    *("rgb_info_topic", "depth_info_topic", "pair_window", "assume_registered"),
)


def check(name: str, value: Any) -> Any:
    """A value brought to its parameter's type.

    Raises:
        ConfigError: the value has the wrong type, or is none of the choices or out of range.
    """
    row = PARAMETERS[name]
    kind = type(row.default)
    if kind is float and type(value) is int:
        value = float(value)
    if type(value) is not kind:
        raise ConfigError(f"parameter {name} is {value!r}; it takes a {row.type}")
    if row.choices and value not in row.choices:
        raise ConfigError(f"parameter {name} is {value!r}; choose from {row.range}")
    if isinstance(value, (int, float)) and not row.low <= value <= row.high:
        raise ConfigError(f"parameter {name} is {value}; the range is {row.range}")
    return value


def check_change(changes: Mapping[str, Any], configured: bool) -> str:
    """Why a change of parameters is refused; empty when it is not."""
    try:
        for name, value in changes.items():
            if name in PARAMETERS:
                check(name, value)
    except ConfigError as error:
        return str(error)
    fixed = [name for name in changes if name in PARAMETERS and not PARAMETERS[name].live]
    if configured and fixed:
        return f"{', '.join(fixed)} cannot be changed while the node is configured; clean up, set, configure again"
    return ""


def as_yaml() -> str:
    """The text of ``config/recognizer.yaml``."""
    lines = [
        "# Every parameter of the recognizer with its default; written by python -m mmcl_ros.parameters yaml.",
        "# /** reaches every node that is given this file: the recognizer in any namespace, and the overlay. A section",
        "# recognizer reaches the node /recognizer alone, one /front/recognizer that of the namespace front alone.",
        "/**:",
    ]
    lines.append("  ros__parameters:")
    for row in TABLE:
        lines.append(f"    # {row.text}")
        notes = "; ".join(filter(None, [row.range, "may change at run time" if row.live else ""]))
        if notes:
            lines.append(f"    # [{notes}]")
        lines.append(f"    {row.name}: {_literal(row.default)}")
    return "\n".join(lines) + "\n"


def as_markdown() -> str:
    """The table of the documentation."""
    lines = ["| parameter | type | default | range | live | meaning |", "|---|---|---|---|---|---|"]
    for row in TABLE:
        live = "yes" if row.live else ""
        lines.append(f"| `{row.name}` | {row.type} | `{_literal(row.default)}` | {row.range} | {live} | {row.text} |")
    return "\n".join(lines) + "\n"


def _literal(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value).lower()


def main() -> None:
    """Print one of the two texts that follow from the table."""
    from mmcl_core.cli import command_parser

    parser = command_parser("mmcl_ros.parameters", __doc__)
    parser.add_argument("form", choices=("yaml", "markdown"), help="of the table")
    print(as_yaml() if parser.parse_args().form == "yaml" else as_markdown(), end="")


if __name__ == "__main__":
    main()
