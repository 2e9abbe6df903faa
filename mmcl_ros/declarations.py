"""The parameters of the table as a node declares them, with description and range for ``ros2 param describe``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor

from mmcl_ros.parameters import Parameter

__all__ = ["declare"]


def declare(node: Any, rows: Iterable[Parameter]) -> dict[str, Any]:
    """Declare parameters of a node made by rclpy; their values by name.

    Raises:
        rclpy.exceptions.ParameterException: a value given at start has the wrong type or is out of range.
    """
    return {row.name: node.declare_parameter(row.name, row.default, _descriptor(row)).value for row in rows}


def _descriptor(row: Parameter) -> ParameterDescriptor:
    descriptor = ParameterDescriptor(description=row.text, additional_constraints=row.range)
    if type(row.default) is int:
        high = int(row.high) if row.high < 2**63 else 2**63 - 1
        descriptor.integer_range = [IntegerRange(from_value=int(row.low), to_value=high)]
    elif type(row.default) is float:
        descriptor.floating_point_range = [FloatingPointRange(from_value=row.low, to_value=row.high)]
    return descriptor
