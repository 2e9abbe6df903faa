"""Stand-ins for tests of the ROS side: messages and sensors without ROS, a recogniser that answers by brightness."""

from types import SimpleNamespace

import numpy as np

from mmcl_core.errors import InputError
from mmcl_ros.detections import read_request
from mmcl_ros.frames import FrameRecognizer, FrameSettings
from mmcl_ros.health import Health, State
from mmcl_ros.intake import Intake
from mmcl_ros.pairing import Item, Pairer

CLASSES = ("dark", "middle", "bright")
MS = 1_000_000
#: Boxes (x, y, width, height) of the halves of :func:`colour` and :func:`depth`.
LEFT, RIGHT = (0, 0, 40, 60), (40, 0, 40, 60)


def header(stamp_ns=0, frame="camera"):
    stamp = SimpleNamespace(sec=stamp_ns // 10**9, nanosec=stamp_ns % 10**9)
    return SimpleNamespace(stamp=stamp, frame_id=frame)


def image(values, encoding, frame="camera", stamp_ns=0):
    values = np.ascontiguousarray(values)
    return SimpleNamespace(
        header=header(stamp_ns, frame),
        encoding=encoding,
        height=values.shape[0],
        width=values.shape[1],
        step=values.strides[0],
        is_bigendian=0,
        data=values.tobytes(),
    )


def regions(boxes, frame="camera", stamp_ns=0, size=(0, 0)):
    """A RegionArray of (x, y, width, height) boxes, named r0, r1, ..."""
    rois = [SimpleNamespace(x_offset=x, y_offset=y, width=w, height=h) for x, y, w, h in boxes]
    listed = [SimpleNamespace(id=f"r{n}", roi=roi) for n, roi in enumerate(rois)]
    return SimpleNamespace(header=header(stamp_ns, frame), width=size[0], height=size[1], regions=listed)


def camera_info(width, height, fx, cx, cy, stamp_ns=0, roi=(0, 0, 0, 0), binning=(0, 0), rectified=(0, 0, 0)):
    """A CameraInfo of a picture that shows ``roi`` (x, y, width, height) of the sensor; ``rectified``: fx, cx, cy."""
    x, y, across, down = roi
    rectified_fx, rectified_cx, rectified_cy = rectified
    return SimpleNamespace(
        header=header(stamp_ns),
        width=width,
        height=height,
        k=[fx, 0, cx, 0, fx, cy, 0, 0, 1],
        p=[rectified_fx, 0, rectified_cx, -5, 0, rectified_fx, rectified_cy, 0, 0, 0, 1, 0],
        roi=SimpleNamespace(x_offset=x, y_offset=y, width=across, height=down),
        binning_x=binning[0],
        binning_y=binning[1],
    )


class FakeRecognizer:
    """Tells dark from bright crops: colour by its mean (85 a class), depth by its mean (1 m a class)."""

    backend, device = "fake", "cpu"

    def __init__(
        self, modalities=("rgb", "depth"), model_id="fake", takes_distances=True, uses_camera=False, classes=CLASSES
    ):
        self.classes = list(classes)
        self.modalities = list(modalities)
        self.model_id = model_id
        self.takes_distances, self.uses_camera = takes_distances, uses_camera
        self.calls = []
        self.broken = False

    def recognize(self, rgb=None, depth=None, camera=None, top_k=5):
        if self.broken:
            raise RuntimeError("out of memory")
        given = {"rgb": rgb, "depth": depth}
        used = [name for name, crops in given.items() if crops is not None]
        if any(name not in self.modalities for name in used):
            raise InputError("not trained")
        count = len(given[used[0]])
        self.calls.append(SimpleNamespace(rgb=rgb, depth=depth, camera=camera))
        probabilities = np.full((count, len(self.classes)), 0.2 / len(self.classes))
        modality = []
        for row in range(count):
            seen = [name for name in used if given[name][row] is not None]
            for name in seen:
                probabilities[row, int(self._place(name, given[name][row]))] += 0.8 / len(seen)
            modality.append("rgbd" if len(seen) == 2 else seen[0])
        best = np.argsort(-probabilities, axis=1, kind="stable")[:, :top_k]
        return SimpleNamespace(
            probabilities=probabilities,
            embeddings=np.tile(np.eye(4)[0], (count, 1)),
            modality=modality,
            top_labels=[[self.classes[place] for place in row] for row in best],
            top_scores=np.take_along_axis(probabilities, best, 1),
        )

    @staticmethod
    def _place(name, crop):
        if name == "rgb":
            assert crop.dtype == np.uint8
            assert crop.shape[2] == 3
            return min(2, crop.mean() // 85.01)
        metres = crop / 1000 if crop.dtype == np.uint16 else crop
        return min(2, metres[metres > 0].mean() // 1)


def item(ms, received=None, size=0):
    """Something stamped ``ms`` milliseconds, received at once or at ``received`` seconds, of ``size`` bytes."""
    return Item(int(ms * MS), f"at {ms}", ms / 1e3 if received is None else received, size)


def colour(frame="camera", width=80, height=60):
    """Dark on the left, bright on the right."""
    picture = np.full((height, width, 3), 20, np.uint8)
    picture[:, width // 2 :] = 230
    return image(picture, "rgb8", frame)


def depth(frame="camera", width=80, height=60, encoding="16UC1"):
    """Near on the left, far on the right."""
    picture = np.full((height, width), 500, np.uint16)
    picture[:, width // 2 :] = 2500
    return image(picture if encoding == "16UC1" else (picture / 1000).astype(np.float32), encoding, frame)


def exact(**settings):
    """Settings that cut boxes as they are."""
    return FrameSettings(**{"box_scale": 0.0, **settings})


def ask(
    boxes=(LEFT, RIGHT), rgb=None, depth=None, recognizer=None, infos=None, frame="camera", size=(0, 0), **settings
):
    """What a frame of these boxes and pictures is answered."""
    answerer = FrameRecognizer(recognizer or FakeRecognizer(), exact(**settings))
    pictures = {"rgb": rgb, "depth": depth}
    return answerer(read_request(regions(boxes, frame, size=size)), pictures, infos)


def labels(result):
    return [answer.label for answer in result.answers]


class Robot:
    """Sensors that send when told to, at an invented time."""

    def __init__(self, modality="auto", roi_source="full_image", wanted=("rgb", "depth")):
        self.now = 100.0
        health = {name: Health(0.5, 1.0, link=(State.ALIVE, "")) for name in wanted}
        self.intake = Intake(wanted, modality, roi_source, Pairer(0.02, 0.1), health, lambda: self.now)
        self.jobs = []

    def send(self, name, stamp=None):
        values = np.zeros((4, 4, 3), np.uint8) if name == "rgb" else np.zeros((4, 4), np.uint16)
        stamp = round(self.now * 1e9) if stamp is None else stamp
        message = image(values, "rgb8" if name == "rgb" else "16UC1", stamp_ns=stamp)
        self.intake.picture(name, message, self.now, round(self.now * 1e9))
        self.collect()

    def detect(self, stamp=None):
        self.intake.regions(
            regions([(0, 0, 4, 4)], stamp_ns=round(self.now * 1e9) if stamp is None else stamp), self.now
        )
        self.collect()

    def collect(self):
        self.jobs += self.intake.jobs(self.now)

    def run(self, seconds, *names, rate=20):
        """What the jobs of a stretch of time were answered from."""
        first = len(self.jobs)
        for _ in range(round(seconds * rate)):
            self.now += 1 / rate
            for name in names:
                self.detect() if name == "detections" else self.send(name)
            self.collect()
        return [tuple(job.pictures) for job in self.jobs[first:]]
