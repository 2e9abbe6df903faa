"""What the node tells: answers, status and diagnostics as messages, and warnings that do not flood the log."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmcl_core.crops import UNKNOWN
from mmcl_ros import msg
from mmcl_ros.frames import Answer, FrameAnswer
from mmcl_ros.health import Health, State, percentiles
from mmcl_ros.intake import Intake
from mmcl_ros.interfaces import message_class
from mmcl_ros.ledger import Ledger
from mmcl_ros.message_types import DETECTIONS_TYPE, DIAGNOSTICS_TYPE

__all__ = ["Notices", "answers_message", "detections_message", "diagnostics", "fill_status", "latencies"]


def answers_message(header: Any, model_id: str, answer: FrameAnswer, embeddings: bool) -> Any:
    """The answers for one picture as ``mmcl_ros/RecognitionArray``."""
    array = msg.RecognitionArray(model_id=model_id, width=answer.size[0], height=answer.size[1])
    if header is not None:
        array.header = header
    for given in answer.answers:
        one = msg.Recognition(
            id=given.id,
            label=given.label,
            score=given.score,
            labels=given.labels,
            scores=given.scores,
            modality=given.modality,
            result=int(given.result),
            reason=given.reason,
            depth_valid=given.depth_valid,
        )
        one.roi.x_offset, one.roi.y_offset, one.roi.width, one.roi.height = given.roi
        if embeddings and given.embedding is not None:
            one.embedding.frombytes(given.embedding.astype("float32").tobytes())  # not checked by element
        array.recognitions.append(one)
    return array


def detections_message(header: Any, answers: Sequence[Answer]) -> Any:
    """The answers as ``vision_msgs/Detection2DArray``: one hypothesis per listed class; none for a rejected region.

    A class ``unknown`` of the model is no hypothesis.
    """
    detection_class = message_class("vision_msgs/msg/Detection2D")
    hypothesis_class = message_class("vision_msgs/msg/ObjectHypothesisWithPose")
    array = message_class(DETECTIONS_TYPE)()
    if header is not None:
        array.header = header
    for answer in answers:
        one = detection_class(header=array.header)
        x, y, width, height = answer.roi
        one.bbox.size_x, one.bbox.size_y = float(width), float(height)
        place = getattr(one.bbox.center, "position", one.bbox.center)
        place.x, place.y = x + width / 2, y + height / 2
        if hasattr(one, "id"):
            one.id = answer.id
        for label, score in zip(answer.labels, answer.scores, strict=True) if not answer.result else ():
            if label == UNKNOWN:
                continue
            hypothesis = hypothesis_class()
            inner = getattr(hypothesis, "hypothesis", hypothesis)
            inner.class_id, inner.score = label, score
            one.results.append(hypothesis)
        array.detections.append(one)
    return array


def fill_status(status: Any, ledger: Ledger, intake: Intake, topics: Mapping[str, str], now: float) -> None:
    """Enter counts, rates and the state of the sensors into a ``mmcl_ros/RecognizerStatus``, all but the latencies.

    Args:
        status: the message.
        ledger: what was answered.
        intake: what arrived.
        topics: by modality, the topic listened to.
        now: seconds of the clock by which answers are counted per second.
    """
    counters = intake.pairer.counters
    status.active, status.received = ledger.active, intake.received
    status.processed, status.failed, status.malformed = ledger.processed, ledger.failed, ledger.malformed
    status.paired, status.one_sided, status.unpaired = counters.paired, counters.one_sided, counters.unpaired
    status.smallest_gap = -1.0 if counters.smallest_gap is None else counters.smallest_gap
    status.time_jumps = counters.time_jumps
    status.rate = ledger.rate.value(now)
    clock = intake.clock()
    status.modalities = [
        _health(name, topics.get(name, ""), intake.health.get(name), clock) for name in ("rgb", "depth")
    ]


def _health(modality: str, topic: str, health: Health | None, now: float) -> Any:
    if health is None:
        return msg.ModalityHealth(modality=modality, state=int(State.OFF), age=-1.0, delay=-1.0)
    state, cause = health.state(now)
    age, delay = health.age(now), health.delay()
    return msg.ModalityHealth(
        modality=modality,
        state=int(state),
        cause=cause,
        topic=topic,
        encoding=health.encoding,
        received=health.received,
        malformed=health.malformed,
        rate=health.rate.value(now),
        age=-1.0 if age is None else age,
        delay=-1.0 if delay is None else delay,
    )


def latencies(seconds: Mapping[str, Sequence[float]]) -> list[Any]:
    """``mmcl_ros/StageLatency`` messages from the times spent per stage."""
    return [msg.StageLatency(stage=stage, p50=p[0], p90=p[1], p99=p[2]) for stage, p in percentiles(seconds).items()]


def diagnostics(status: Any, name: str, stamp: Any) -> Any:
    """A ``diagnostic_msgs/DiagnosticArray`` with one entry for the node and one per sensor in use."""
    status_class = message_class("diagnostic_msgs/msg/DiagnosticStatus")
    value_class = message_class("diagnostic_msgs/msg/KeyValue")
    array = message_class(DIAGNOSTICS_TYPE)()
    array.header.stamp = stamp

    def entry(title: str, level: bytes, words: str, values: Mapping[str, Any]) -> None:
        listed = [value_class(key=key, value=str(value)) for key, value in values.items()]
        array.status.append(
            status_class(name=title, level=level, message=words, hardware_id=status.model_id, values=listed)
        )

    used = [health for health in status.modalities if health.state != State.OFF]
    alive = any(health.state in (State.ALIVE, State.RECOVERING) for health in used)  # both are answered from
    level = status_class.WARN if status.cause else status_class.OK
    if status.state != "active" or not alive:
        level = status_class.ERROR
    counts = (
        "received",
        "processed",
        "dropped",
        "failed",
        "malformed",
        "paired",
        "one_sided",
        "unpaired",
        "time_jumps",
    )
    values = {field: getattr(status, field) for field in (*counts, "state", "enabled", "modality", "active")}
    values["rate"] = f"{status.rate:.1f}"
    for stage in status.latencies:
        values[f"{stage.stage} p50 ms"] = f"{stage.p50:.1f}"
    doing = status.state if status.state != "active" else "recognising" if status.enabled else "paused"
    entry(name, level, status.cause or doing, values)
    for health in used:
        fine = health.state == State.ALIVE
        values = {"topic": health.topic, "encoding": health.encoding, "received": health.received}
        values |= {"malformed": health.malformed, "rate": f"{health.rate:.1f}", "age": f"{health.age:.2f}"}
        words = health.cause or State(health.state).name.lower()
        entry(f"{name}: {health.modality}", status_class.OK if fine else status_class.WARN, words, values)
    return array


class Notices:
    """Says each problem when it comes up, again only after a period, and says once that it is over."""

    def __init__(self, warn: Callable[[str], Any], inform: Callable[[str], Any]) -> None:
        self._warn, self._inform = warn, inform
        self._said: dict[str, tuple[float, float]] = {}  # key -> (last said, last seen)

    def update(self, problems: Mapping[str, str], now: float, period: float) -> None:
        """State the problems of this moment, by key."""
        for key, text in problems.items():
            said, _ = self._said.get(key, (-period, now))
            if now - said >= period:
                self._warn(text)
                said = now
            self._said[key] = (said, now)
        for key, (_, seen) in list(self._said.items()):
            if now - seen >= period:
                del self._said[key]
                self._inform(f"no longer: {key}")
