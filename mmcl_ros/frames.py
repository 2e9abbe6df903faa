"""From the messages of one moment to an answer for every region; knows no topics, no time and no rclpy.

The node and the evaluation of recorded bags both answer by :class:`FrameRecognizer`, so both give the same labels, and
training crops cut from a recording (:class:`FrameCropper`) are what they look at.
"""

from __future__ import annotations

import enum
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mmcl_core.crops import FARTHEST_MM, UNKNOWN, square_around
from mmcl_core.errors import InputError
from mmcl_ros.batches import Batches
from mmcl_ros.cameras import UNKNOWN_CAMERA, camera_of_crop
from mmcl_ros.detections import Box, BoxMap, Request, View, box_map, camera_of, clip, cut, source_view, whole_picture
from mmcl_ros.images import decode_depth, decode_rgb
from mmcl_ros.recognizers import RecognizerLike, free_gpu

__all__ = [
    "DECODERS",
    "NAME_IT",
    "Answer",
    "FrameAnswer",
    "FrameCropper",
    "FrameRecognizer",
    "FrameSettings",
    "RegionCrops",
    "Result",
]

logger = logging.getLogger(__name__)

NAME_IT = "; name it (depth_info_topic)"
NO_CAMERA = f"no usable camera info, by which this model goes: answers are worse without{NAME_IT}"
PART_BYTES = 1 << 26  # of crops that are held, and recognised, at once; a large box alone may take more
DECODERS = {"rgb": decode_rgb, "depth": decode_depth}


class Result(enum.IntEnum):
    """What became of a region; the constants of ``mmcl_ros/msg/Recognition``."""

    ACCEPTED = 0
    LOW_SCORE = 1
    BAD_REGION = 2
    NO_PICTURE = 3
    BAD_PICTURE = 4
    UNREGISTERED = 5
    NO_DEPTH = 6
    FAILED = 7


# Where several modalities fail on a region, the answer states the first of these.
PRECEDENCE = (Result.BAD_REGION, Result.BAD_PICTURE, Result.UNREGISTERED, Result.NO_DEPTH, Result.NO_PICTURE)


@dataclass(frozen=True)
class FrameSettings:
    """The parameters of the node that bear on a single frame; see :mod:`mmcl_ros.parameters` for their meaning."""

    roi_source: str = "detections"
    center_size: float = 0.5
    min_score: float = 0.0
    top_k: int = 3
    box_scale: float = 1.2
    min_box: int = 4
    min_depth_valid: float = 0.1
    assume_registered: bool = False


@dataclass
class Answer:
    """The answer for one region; fields as in ``mmcl_ros/msg/Recognition``, ``roi`` as (x, y, width, height)."""

    id: str
    roi: tuple[int, int, int, int] = (0, 0, 0, 0)
    label: str = UNKNOWN
    score: float = 0.0
    labels: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    modality: str = ""
    result: Result = Result.NO_PICTURE
    reason: str = ""
    depth_valid: float = -1.0
    probabilities: np.ndarray | None = None
    embedding: np.ndarray | None = None


@dataclass
class FrameAnswer:
    """The answers for one frame, in the order of the regions.

    Attributes:
        size: (width, height) in pixels of the picture that ``roi`` refers to; zeros: not known.
        maps: per modality that can be looked at, how boxes map to its picture.
        problems: per modality, what was wrong with its picture as a whole, and which kind of wrong.
        remarks: per modality, what makes answers that were given worse than they could be.
        notes: by kind, what else went wrong on the way.
        seconds: time spent per stage: ``decode``, ``crop``, ``inference``.
    """

    answers: list[Answer]
    modality: str = ""
    size: tuple[int, int] = (0, 0)
    maps: dict[str, BoxMap] = field(default_factory=dict)
    problems: dict[str, tuple[Result, str]] = field(default_factory=dict)
    remarks: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass
class RegionCrops:
    """A region that can be recognised.

    Attributes:
        index: its place in the request.
        crops: by modality: uint8 [H, W, 3] RGB; uint16 [H, W] mm or float32 [H, W] m, 0 = no reading.
        cameras: of each crop: (fx, fy, cx, cy) in its own pixels, zeros = unknown.
    """

    index: int
    crops: dict[str, np.ndarray] = field(default_factory=dict)
    cameras: dict[str, tuple[float, float, float, float]] = field(default_factory=dict)

    @property
    def camera(self) -> tuple[float, float, float, float]:
        """The camera that a recogniser is told: that of depth where there is depth."""
        return self.cameras["depth" if "depth" in self.crops else "rgb"]


@dataclass
class _Picture:
    values: np.ndarray
    view: View
    info: Any
    camera: tuple[float, float, float, float] | None  # that of its crops: of depth always by P
    to_here: BoxMap = field(default_factory=BoxMap)


class FrameCropper:
    """Cuts the regions of one frame after the other.

    Args:
        settings: may be replaced between two calls.
    """

    def __init__(self, settings: FrameSettings | None = None) -> None:
        self.settings = settings or FrameSettings()
        self._views: dict[str, View] = {}

    def crops(
        self,
        request: Request | None,
        pictures: Mapping[str, Any],
        infos: Mapping[str, Any] | None = None,
        missing: str = "no picture",
    ) -> tuple[list[RegionCrops], FrameAnswer]:
        """The crops of every region of a request that has any.

        Args:
            request: the regions; None: the whole picture or its centre, by ``settings.roi_source``.
            pictures: image messages by modality (``rgb``, ``depth``); those to be used, and no others.
            infos: camera info messages by modality, where known; that of colour tells where boxes are that state the
                size of a colour picture, though none is looked at.
            missing: why there is no picture, for the answers to a request without any.

        Returns:
            The crops, and an answer without label for each region, which says why one has no crop. Nothing that is
            wrong with a message raises: it becomes a reason.
        """
        parts, result = self.parts(request, pictures, infos, missing)
        return [job for part in parts for job in part], result

    def parts(
        self,
        request: Request | None,
        pictures: Mapping[str, Any],
        infos: Mapping[str, Any] | None,
        missing: str,
    ) -> tuple[Iterator[list[RegionCrops]], FrameAnswer]:
        """As :meth:`crops`, cut as they are asked for: hundreds of large boxes may take more memory than there is."""
        started = time.perf_counter()
        result = FrameAnswer([])
        found = self._decode(pictures, infos or {}, result.problems)
        if request is None:
            request = self._own_request(found)
        seen = [self._views[name] for name in ("rgb", "depth") if name in self._views]
        source = source_view(request, seen, None if "rgb" in self._views else (infos or {}).get("rgb"))
        result.size = (source.width, source.height)
        self._register(source, found, result.problems)
        result.maps = {name: picture.to_here for name, picture in found.items()}
        result.answers = [Answer(box.id, reason=missing) for box in request.boxes]
        result.seconds = {"decode": time.perf_counter() - started, "crop": 0.0}
        return self._cut(request, found, result), result

    def remember(self, modality: str, message: Any, info: Any = None) -> None:
        """Take note of size, frame and camera of a modality that answers do not stand on, but boxes may refer to."""
        self._decode({modality: message}, {modality: info}, {})

    def _decode(self, pictures: Mapping[str, Any], infos: Mapping[str, Any], problems: dict) -> dict[str, _Picture]:
        found = {}
        for modality in ("rgb", "depth"):
            message = pictures.get(modality)
            if message is None:
                continue
            try:
                values = DECODERS[modality](message)
            except InputError as error:
                problems[modality] = (Result.BAD_PICTURE, str(error))
                continue
            info, (height, width) = infos.get(modality), values.shape[:2]
            camera = camera_of(info, width, height, rectified=modality == "depth")
            view = self._views[modality] = View.of(message.header, width, height, info)
            found[modality] = _Picture(values, view, info, camera)
        return found

    def _own_request(self, found: Mapping[str, _Picture]) -> Request:
        centre = self.settings.center_size if self.settings.roi_source in ("center", "auto") else None
        for picture in found.values():
            return whole_picture(picture.view, centre)
        return Request((Box("image" if centre is None else "center", 0, 0, 0, 0),))

    def _register(self, source: View, found: dict[str, _Picture], problems: dict) -> None:
        """Find out how boxes of ``source`` map to each picture; pictures they do not map to are taken out."""
        for modality in list(found):
            mapped = box_map(source, found[modality].view, self.settings.assume_registered)
            if isinstance(mapped, str):
                problems[modality] = (Result.UNREGISTERED, mapped)
                del found[modality]
            else:
                found[modality].to_here = mapped
        if len(found) == 2:
            rgb, depth = found["rgb"], found["depth"]
            if depth.camera is None and rgb.values.shape[:2] == depth.values.shape[:2]:
                depth.camera = camera_of(rgb.info, rgb.view.width, rgb.view.height, rectified=True)

    def _cut(self, request: Request, found: Mapping[str, _Picture], result: FrameAnswer) -> Iterator[list[RegionCrops]]:
        """The crops of every region that has any, in parts of :data:`PART_BYTES`."""
        jobs, size, started = list[RegionCrops](), 0, time.perf_counter()
        problems = dict(result.problems)  # of the pictures; what is found of a crop later is no problem of others
        scale = 0.0 if request.exact else self.settings.box_scale
        for index, box in enumerate(request.boxes):
            if size >= PART_BYTES:
                result.seconds["crop"] += time.perf_counter() - started
                yield jobs
                jobs, size, started = [], 0, time.perf_counter()
            answer = result.answers[index]
            faults = dict(problems)
            job = RegionCrops(index)
            for modality, picture in found.items():
                inside = clip(picture.to_here(box), picture.view.width, picture.view.height, self.settings.min_box)
                if isinstance(inside, str):
                    faults[modality] = (Result.BAD_REGION, inside)
                    continue
                left, top, right, bottom = inside
                if not any(answer.roi):
                    x, y, to_x, to_y = picture.to_here.back(inside, result.size)
                    answer.roi = (x, y, to_x - x, to_y - y)
                if modality == "depth" and (fault := self._lacks_depth(picture.values[top:bottom, left:right], answer)):
                    faults[modality] = (Result.NO_DEPTH, fault)
                    continue
                window = square_around(inside, scale) if scale else inside
                job.crops[modality] = cut(picture.values, window)
                size += job.crops[modality].nbytes
                job.cameras[modality] = camera_of_crop(picture.camera, window[0], window[1])
            if job.crops:
                jobs.append(job)
            elif faults:
                answer.result = next(kind for kind in PRECEDENCE if kind in [fault for fault, _ in faults.values()])
                answer.reason = "; ".join(f"{name}: {words}" for name, (_, words) in faults.items())
        result.seconds["crop"] += time.perf_counter() - started
        if jobs:
            yield jobs

    def _lacks_depth(self, box: np.ndarray, answer: Answer) -> str:
        """Note the share of readings in a box, and say in words if it is too small."""
        valid = box > 0
        if box.dtype.kind == "f":  # metres, some of which say that there is nothing
            near = valid & (box <= FARTHEST_MM / 1000)
            valid = near if near.any() else valid  # else they are millimetres, and refused as such
        answer.depth_valid = float(np.count_nonzero(valid)) / box.size
        if answer.depth_valid and answer.depth_valid >= self.settings.min_depth_valid:
            return ""
        return (
            f"{answer.depth_valid:.3f} of the box has a depth reading; {self.settings.min_depth_valid:g} is asked for"
        )


class FrameRecognizer(FrameCropper):
    """Answers one frame after the other with a recognizer.

    Args:
        recognizer: the loaded model.
        settings: may be replaced between two calls.
    """

    def __init__(self, recognizer: RecognizerLike, settings: FrameSettings | None = None) -> None:
        super().__init__(settings)
        self.recognizer = recognizer
        self._batches = Batches()

    def __call__(
        self,
        request: Request | None,
        pictures: Mapping[str, Any],
        infos: Mapping[str, Any] | None = None,
        missing: str = "no picture",
    ) -> FrameAnswer:
        """Answer every region of a request; arguments as of :meth:`crops`.

        Returns:
            As many answers as there are regions. Nothing that is wrong with a message raises: it becomes a reason.
        """
        parts, result = self.parts(request, pictures, infos, missing)
        spent = 0.0
        for jobs in parts:
            started = time.perf_counter()
            if self.recognizer.uses_camera and any(job.cameras.get("depth") == UNKNOWN_CAMERA for job in jobs):
                result.remarks["depth"] = NO_CAMERA
            self._infer(jobs, result)
            spent += time.perf_counter() - started
        used = [answer.modality for answer in result.answers if answer.modality]
        result.modality = max(sorted(set(used)), key=used.count, default="")
        result.seconds["inference"] = spent
        return result

    def _infer(self, jobs: Sequence[RegionCrops], result: FrameAnswer) -> None:
        """Recognise crops of the frame as one batch, as several where there is not enough memory for that."""
        for part in self._batches.parts(jobs):
            if not self._recognise(part, result):  # the error, and with it the memory, is let go of by now
                free_gpu()
                self._infer(part, result)

    def _recognise(self, jobs: Sequence[RegionCrops], result: FrameAnswer) -> bool:
        """Recognise one batch; False where there is not enough memory for so many at once."""
        answers = result.answers
        crops = {name: [job.crops.get(name) for job in jobs] for name in ("rgb", "depth")}
        given = {name: listed for name, listed in crops.items() if any(crop is not None for crop in listed)}
        try:
            output = self.recognizer.recognize(**given, camera=[job.camera for job in jobs], top_k=self.settings.top_k)
            if not np.isfinite(output.probabilities).all():
                raise ValueError("the network's output is not finite")
        except Exception as error:  # whatever a network raises, this frame is answered and the next one is tried
            logger.debug("inference failed", exc_info=True)
            if words := self._batches.shrink(error, len(jobs), self.recognizer.device):
                result.notes["out of memory"] = words
                if len(jobs) > 1:
                    return False
            if isinstance(error, InputError) and len(jobs) > 1:  # one odd crop is not to spoil the others
                return all([self._recognise([job], result) for job in jobs])
            if isinstance(error, InputError) and len(jobs[0].crops) > 1:  # nor odd depth the colour
                del jobs[0].crops["depth"]
                result.problems["depth"] = (Result.BAD_PICTURE, f"region {answers[jobs[0].index].id!r}: {error}")
                return self._recognise(jobs, result)
            for job in jobs:
                answers[job.index].result = Result.FAILED
                answers[job.index].reason = f"inference failed: {type(error).__name__}: {error}"
            return True
        self._enter(jobs, output, answers)
        return True

    def _enter(self, jobs: Sequence[RegionCrops], output: Any, answers: Sequence[Answer]) -> None:
        for row, job in enumerate(jobs):
            answer = answers[job.index]
            answer.modality = output.modality[row]
            if not answer.modality:  # readings in the box, none in a window that is smaller than it (box_scale < 1)
                answer.result, answer.reason = Result.NO_DEPTH, "no depth reading in the window that is looked at"
                continue
            answer.labels = list(output.top_labels[row])
            answer.scores = [float(score) for score in output.top_scores[row]]
            answer.probabilities, answer.embedding = output.probabilities[row], output.embeddings[row]
            self._decide(answer)

    def _decide(self, answer: Answer) -> None:
        answer.score = answer.scores[0]
        if answer.labels[0] == UNKNOWN:
            answer.result, answer.reason = Result.LOW_SCORE, f"the best class is {UNKNOWN!r}: none that the model names"
        elif answer.score < self.settings.min_score:
            answer.result = Result.LOW_SCORE
            answer.reason = f"score {answer.score:.3f} is below min_score {self.settings.min_score:g}"
        else:
            answer.result, answer.reason, answer.label = Result.ACCEPTED, "", answer.labels[0]
