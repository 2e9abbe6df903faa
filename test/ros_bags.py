"""Recordings of flat pictures whose right answer is known, what is evaluated on them, and a tiny network."""

import numpy as np
import pytest

pytest.importorskip("rosbags", reason="rosbags is not installed: pip install rosbags")

from ros_fakes import CLASSES, FakeRecognizer

from mmcl_ros.bagfile import Bag, typestore
from mmcl_ros.evaluate_bag import evaluate
from mmcl_ros.frames import FrameSettings
from mmcl_ros.record_demo import DEMO_TOPICS, RenderedFrame, record
from mmcl_ros.truth import read_truth

BOXES = ((10, 10, 40, 40), (80, 20, 40, 60))
RGB, DEPTH, INFO = (DEMO_TOPICS[name] for name in ("rgb", "depth", "rgb_info"))
FOUND = "vision_msgs/msg/Detection2DArray"
VISION_MSGS = {  # as far as they are read
    "ObjectHypothesis": "string class_id\nfloat64 score\n",
    "ObjectHypothesisWithPose": "vision_msgs/ObjectHypothesis hypothesis\n",
    "Point2D": "float64 x\nfloat64 y\n",
    "Pose2D": "vision_msgs/Point2D position\nfloat64 theta\n",
    "BoundingBox2D": "vision_msgs/Pose2D center\nfloat64 size_x\nfloat64 size_y\n",
    "Detection2D": "std_msgs/Header header\nvision_msgs/ObjectHypothesisWithPose[] results\n"
    "vision_msgs/BoundingBox2D bbox\nstring id\n",
    "Detection2DArray": "std_msgs/Header header\nvision_msgs/Detection2D[] detections\n",
}


def make_view(number):
    """Left and right half are of two classes, by colour and by distance; the frame number says which."""
    first, second = number % 3, (number + 1) % 3
    rgb, depth = np.zeros((120, 160, 3), np.uint8), np.zeros((120, 160), np.uint16)
    for half, place in ((slice(0, 70), first), (slice(70, 160), second)):
        rgb[:, half] = 20 + 100 * place
        depth[:, half] = 500 + 1000 * place
    return RenderedFrame(rgb, depth, (100.0, 100.0, 79.5, 59.5), BOXES, (CLASSES[first], CLASSES[second]))


def make_recording(out, storage="mcap"):
    """20 such views as a bag in a folder; the bag, and the table of its true boxes."""
    return record(out, (make_view(number) for number in range(20)), storage=storage)


def vision_store():
    """The message types known here and those of vision_msgs, which need not be installed."""
    from rosbags.typesys import get_types_from_msg

    store, kinds = typestore(), {}
    for name, text in VISION_MSGS.items():
        kinds.update(get_types_from_msg(text, f"vision_msgs/msg/{name}"))
        store.fielddefs.pop(f"vision_msgs/msg/{name}", None)
    store.register(kinds)
    return store


def found_message(types, header, boxes, labels):
    """Detections with a class each, and a worse one; those of no label have none."""
    made = {name: types[f"vision_msgs/msg/{name}"] for name in VISION_MSGS}
    listed = []
    for (x, y, w, h), label in zip(boxes, labels, strict=True):
        center = made["Pose2D"](made["Point2D"](x + w / 2, y + h / 2), 0.0)
        results = [
            made["ObjectHypothesisWithPose"](made["ObjectHypothesis"](name, score))
            for name, score in ((("other", 0.1), (label, 0.9)) if label else ())
        ]
        listed.append(made["Detection2D"](header, results, made["BoundingBox2D"](center, float(w), float(h)), "x"))
    return made["Detection2DArray"](header, listed)


def write_bag(path, written, frame="", frames=None, side=4):
    """A bag of small messages, each (topic, kind, stamp, time of recording); None for that time: the topic alone.

    Kinds are rgb, grey, depth, odd, info and words, and small, which is depth of half the ``side`` that others have;
    regions are a RegionArray of no box, and found:LABEL is a detection of all the picture, found: one without a class.
    Without a common frame each topic has one of its own, or that of ``frames``.
    """
    from rosbags.rosbag2 import StoragePlugin, Writer

    store = vision_store()
    types = store.types
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as writer:
        channels = {}
        for topic, kind, stamp, recorded in written:
            time = types["builtin_interfaces/msg/Time"](stamp // 10**9, stamp % 10**9)
            head = types["std_msgs/msg/Header"](time, frame or (frames or {}).get(topic, topic))
            kind, _, label = kind.partition(":")
            name = {
                "info": "sensor_msgs/msg/CameraInfo", "words": "std_msgs/msg/String", "found": FOUND,
                "regions": "mmcl_ros/msg/RegionArray",
            }.get(kind, "sensor_msgs/msg/Image")  # fmt: skip
            if kind == "words":
                message = types[name]("hello")
            elif kind == "found":
                message = found_message(types, head, [(0, 0, side, side)], [label])
            elif kind == "regions":
                message = types[name](head, side, side, [])
            elif kind == "info":
                roi = types["sensor_msgs/msg/RegionOfInterest"](0, 0, 0, 0, False)
                k = np.array([len(topic), 0, 2, 0, len(topic), 2, 0, 0, 1.0])  # the focal length says whose it is
                p = np.array([2 * k[0], 0, 2, 0, 0, 2 * k[0], 2, 0, 0, 0, 1.0, 0])
                message = types[name](head, side, side, "", np.zeros(5), k, np.zeros(9), p, 0, 0, roi)
            else:
                colours = {"rgb": ("rgb8", 3), "odd": ("R8G8B8", 3), "grey": ("mono8", 1)}
                encoding, size = colours.get(kind, ("16UC1", 2))
                own = side // 2 if kind == "small" else side
                octets = np.full(own * own * size, 9, np.uint8)
                message = types[name](head, own, own, encoding, 0, own * size, octets)
            if topic not in channels:
                channels[topic] = writer.add_connection(topic, name, typestore=store)
            if recorded is not None:
                writer.write(channels[topic], recorded, store.serialize_cdr(message, name))
    return path


def run(recording, modalities, drops=None, recognizer=None, **settings):
    """The evaluation of a recording by each modality, with boxes cut as they are."""
    bag, table = recording
    with Bag(bag) as opened:
        truths = read_truth(table)
        settings = FrameSettings(box_scale=0.0, **settings)
        return evaluate(opened, truths, recognizer or FakeRecognizer(), modalities, settings, drops=drops)


def column(evaluation, name):
    """A column of the predictions."""
    return [getattr(row, name) for row in evaluation.rows]


def tiny_model(folder):
    """A run folder with a network of random weights, which takes both sensors."""
    import torch

    from mmcl_core.config import ModelConfig
    from mmcl_core.nn.model import RecognitionModel
    from mmcl_core.weights import save_weights

    torch.manual_seed(0)
    config = ModelConfig(input_size=32, ndf=8, nrkhs=16, depth=1, head_hidden=8)
    model = RecognitionModel(config, ["rgb", "depth"], 3).train()
    for name, channels in (("rgb", 3), ("depth", 1)):
        for _ in range(3):
            model(torch.rand(8, channels, 32, 32) * (255 if channels == 3 else 2000), name)
    folder.mkdir()
    save_weights(folder / "weights.safetensors", model, {"classes": list(CLASSES)})
    return folder


def command(bag, table, model, out):
    """The words of ``python -m mmcl_ros.evaluate_bag``."""
    return ["--bag", str(bag), "--truth", str(table), "--model", str(model), "--out", str(out), "--device", "cpu"]
