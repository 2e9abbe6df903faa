"""The parameters of the table as a node declares them, with description and range for ``ros2 param describe``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.parameter import Parameter as RosParameter

from mmcl_core.settings import hint
from mmcl_ros.parameters import PARAMETERS, Parameter

__all__ = ["declare"]


def declare(node: Any, rows: Sequence[Parameter]) -> dict[str, Any]:
    """Declare parameters of a node made by rclpy; their values by name.

    A value given at start to a name that no node here has, which ROS itself lets pass, is warned of. A whole number is
    as good as a real one, where ROS itself refuses it.

    Raises:
        rclpy.exceptions.ParameterException: a value given at start has the wrong type or is out of range.
    """
    overrides = getattr(node, "_parameter_overrides", {})  # no public way leads to what was not declared
    for row in rows if type(overrides) is dict else ():
        given = overrides.get(row.name)
        if type(row.default) is float and given is not None and type(given.value) is int:
            overrides[row.name] = RosParameter(row.name, value=float(given.value))
    values = {row.name: node.declare_parameter(row.name, row.default, _descriptor(row)).value for row in rows}
    for name in overrides:
        if name not in PARAMETERS and not node.has_parameter(name):
            node.get_logger().warning(f"there is no parameter {name!r}, which changes nothing{hint(name, PARAMETERS)}")
    return values


def _descriptor(row: Parameter) -> ParameterDescriptor:
    descriptor = ParameterDescriptor(description=row.text, additional_constraints=row.range)
    if type(row.default) is int:
        high = int(row.high) if row.high < 2**63 else 2**63 - 1
        descriptor.integer_range = [IntegerRange(from_value=int(row.low), to_value=high)]
    elif type(row.default) is float:
        descriptor.floating_point_range = [FloatingPointRange(from_value=float(row.low), to_value=float(row.high))]
    return descriptor
