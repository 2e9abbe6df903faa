"""The ROS 2 side: topics, time and messages around :mod:`mmcl_core.recognizer`.

The generated modules ``mmcl_ros.msg`` and ``mmcl_ros.srv`` may be installed elsewhere on the path than these sources
(a checkout in front of a built package), so the package's path takes in both places.
"""

from pkgutil import extend_path

__path__ = extend_path(__path__, __name__)
