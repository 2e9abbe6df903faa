"""The parameters of the table as a node declares them, with description and range for ``ros2 param describe``."""

from __future__ import annotations

import functools
from collections.abc import Collection, Sequence
from typing import Any

from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor
from rclpy.parameter import Parameter as RosParameter

from mmcl_core.settings import hint
from mmcl_ros.parameters import PARAMETERS, Parameter

__all__ = ["declare"]


def declare(node: Any, rows: Sequence[Parameter]) -> dict[str, Any]:
    """Declare parameters of a node made by rclpy; their values by name.

    A value given at start to a name that no node here has, which ROS itself lets pass, is warned of. A whole number is
    as good as a real one, where ROS itself refuses it; on Humble, which has no way to that, at the start only.

    Raises:
        rclpy.exceptions.ParameterException: a value given at start has the wrong type or is out of range.
    """
    reals = {row.name for row in rows if type(row.default) is float}
    overrides = getattr(node, "_parameter_overrides", {})  # no public way leads to what was not declared
    if type(overrides) is dict:
        overrides.update({one.name: one for one in _as_declared(list(overrides.values()), reals)})
    values = {row.name: node.declare_parameter(row.name, row.default, _descriptor(row)).value for row in rows}
    for name in overrides:
        if name not in PARAMETERS and not node.has_parameter(name):
            node.get_logger().warning(f"there is no parameter {name!r}, which changes nothing{hint(name, PARAMETERS)}")
    if hasattr(node, "add_pre_set_parameters_callback"):
        node.add_pre_set_parameters_callback(functools.partial(_as_declared, reals=reals))
    return values


def _as_declared(parameters: Sequence[RosParameter], reals: Collection[str]) -> list[RosParameter]:
    """The same, with real numbers for the whole ones that were given to parameters of these names."""
    return [
        RosParameter(one.name, value=float(one.value)) if one.name in reals and type(one.value) is int else one
        for one in parameters
    ]


def _descriptor(row: Parameter) -> ParameterDescriptor:
    descriptor = ParameterDescriptor(description=row.text, additional_constraints=row.range)
    if type(row.default) is int:
        high = int(row.high) if row.high < 2**63 else 2**63 - 1
        descriptor.integer_range = [IntegerRange(from_value=int(row.low), to_value=high)]
    elif type(row.default) is float:
        descriptor.floating_point_range = [FloatingPointRange(from_value=float(row.low), to_value=float(row.high))]
    return descriptor
