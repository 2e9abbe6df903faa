"""Names of the message types that this package takes in and gives; free of ROS."""

from __future__ import annotations

__all__ = [
    "COMPRESSED_TYPE",
    "DETECTIONS_TYPE",
    "DIAGNOSTICS_TYPE",
    "IMAGE_TYPE",
    "IMAGE_TYPES",
    "INFO_TYPE",
    "RECOGNITIONS_TYPE",
    "REGIONS_TYPE",
    "REGION_TYPES",
]

IMAGE_TYPE = "sensor_msgs/msg/Image"
COMPRESSED_TYPE = "sensor_msgs/msg/CompressedImage"
IMAGE_TYPES = (IMAGE_TYPE, COMPRESSED_TYPE)
INFO_TYPE = "sensor_msgs/msg/CameraInfo"
REGIONS_TYPE = "mmcl_ros/msg/RegionArray"
DETECTIONS_TYPE = "vision_msgs/msg/Detection2DArray"
#: What a detector may publish, the preferred one first; yolo_ros knows no other than the last.
REGION_TYPES = (REGIONS_TYPE, DETECTIONS_TYPE, "yolo_msgs/msg/DetectionArray")
RECOGNITIONS_TYPE = "mmcl_ros/msg/RecognitionArray"
DIAGNOSTICS_TYPE = "diagnostic_msgs/msg/DiagnosticArray"
