"""What the node has done and what is wrong, in numbers and words; free of rclpy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mmcl_core.words import counted
from mmcl_ros.frames import NAME_IT, FrameAnswer, Result
from mmcl_ros.health import Health, Latencies, Rate, State
from mmcl_ros.intake import REGION_STREAM, Intake
from mmcl_ros.pairing import SLOWEST_S

__all__ = ["Ledger", "find_problems"]

LONG_S = 5.0  # at work on one answer before it is called a fault
SILENT_S = 5.0  # without regions from a detector that is there before it is called a fault
LONELY = 20  # requests in a row without a partner before it is called a fault
REGION_FAULTS = (Result.BAD_REGION, Result.FAILED, Result.NO_DEPTH, Result.NO_PICTURE)


@dataclass
class Ledger:
    """Counts of the answers given; fields as in ``mmcl_ros/msg/RecognizerStatus``.

    Attributes:
        events: by kind, the last thing that went wrong since somebody asked.
    """

    processed: int = 0
    failed: int = 0
    malformed: int = 0
    active: str = ""
    events: dict[str, str] = field(default_factory=dict)
    latencies: Latencies = field(default_factory=Latencies)
    rate: Rate = field(default_factory=Rate)

    def account(
        self,
        answer: FrameAnswer,
        used: Mapping[str, Any],
        health: Mapping[str, Health],
        now: float,
        infos: Mapping[str, str] | None = None,
    ) -> None:
        """Enter one answered frame.

        Args:
            answer: of :class:`mmcl_ros.frames.FrameRecognizer`.
            used: the pictures it was made from, by modality.
            health: of the sensors; told whether their picture was good.
            now: seconds of the clock by which rates are measured.
            infos: by modality, in words why its camera info does not come, where that is known.
        """
        self.processed += 1
        self.active = answer.modality
        self.rate.tick(now)
        for stage, seconds in answer.seconds.items():
            self.latencies.add(stage, seconds)
        for modality in used:
            kind, words = answer.problems.get(modality, (Result.ACCEPTED, ""))
            bad = kind is Result.BAD_PICTURE
            health[modality].problem = (State.BAD_PICTURES if bad else State.UNREGISTERED, words) if words else None
            health[modality].malformed += bad
            self.malformed += bad
            if words:
                self.events[f"{modality} {'bad pictures' if bad else 'unregistered'}"] = f"{modality}: {words}"
        for modality, words in answer.remarks.items():
            if infos and modality in infos:
                words = f"{words.removesuffix(NAME_IT)}; {infos[modality]}"
            self.events[f"{modality} remark"] = f"{modality}: {words}"
        self.failed += bool(answer.answers) and not answer.modality
        for one in answer.answers:
            self.malformed += one.result is Result.BAD_REGION
            if one.result in REGION_FAULTS:
                self.events[one.result.name.lower().replace("_", " ")] = f"region {one.id!r}: {one.reason}"
        self.events |= answer.notes

    def lose(self, reason: str, now: float, counts: bool = True) -> None:
        """Enter a request whose answer was lost to a defect: it failed, whatever regions it had.

        Args:
            reason: in words.
            now: seconds of the clock by which rates are measured.
            counts: no, for one that only a service has asked for.
        """
        self.processed += counts
        self.failed += counts
        if counts:
            self.active = ""
            self.rate.tick(now)
        self.events["answer lost"] = reason

    def take_events(self) -> dict[str, str]:
        """The events since the last call."""
        events, self.events = self.events, {}
        return events


def find_problems(
    intake: Intake, links: Mapping[str, Any], dropped: int = 0, busy: float = 0.0, full: str = "the queue is full"
) -> dict[str, str]:
    """What is wrong at this moment: words by kind, the most important first.

    Args:
        intake: what has arrived.
        links: by source, something with the attributes ``link`` and ``topic``.
        dropped: requests lost by a full queue since the last look.
        busy: for how long the answer that is worked on has been, seconds.
        full: in words, what there was too much of in the queue.
    """
    problems = {}
    now = intake.clock()
    for modality in intake.wanted:
        health = intake.health[modality]
        state, cause = health.state(now)
        if state is not State.ALIVE:
            there = {name for name, other in intake.health.items() if other.link[0] is not State.NO_PUBLISHER}
            others = [name for name in there - {modality} if intake.health[name].received]
            if state is State.NO_PUBLISHER and intake.modality == "auto" and others:
                cause += f"; without that sensor set modality to {others[0]}"
            problems[f"{modality} {state.name.lower().replace('_', ' ')}"] = f"{modality}: {cause}"
        elif health.link[1]:
            problems[f"{modality} quality of service"] = health.link[1]
    problems |= _region_problems(intake, links.get(REGION_STREAM))
    problems |= _pairing_problems(intake)
    if busy > LONG_S:
        problems["long work"] = (
            f"one answer has taken {busy:.0f} s so far: hundreds of regions, or a device that is slow, hangs, or has "
            "to get ready at the first picture"
        )
    if dropped:
        problems["queue full"] = (
            f"{counted(dropped, 'request')} dropped since the last report: {full}, recognition is slower than the data"
        )
    return problems


def _pairing_problems(intake: Intake) -> dict[str, str]:
    """That requests in a row lack a picture, and why, as far as that shows."""
    counters, window = intake.pairer.counters, intake.pairer.window
    if counters.lonely >= LONELY:
        gap = "no partner was ever seen"
        if counters.gaps:  # the sensor that lacks is the one that never came near
            gap = f"the smallest difference of stamps seen is {max(counters.gaps.values()):.3f} s"
        ever = "paired before" if counters.paired else "never paired"
        cause = f"{gap}, pair_window is {window:g} s; synchronise the sensors, or widen the window"
        if 0 < max(counters.gaps.values(), default=0.0) <= SLOWEST_S:  # neither stamps nor receipt tell which it is
            cause += "; or, where that sensor's pictures are delivered late, raise max_wait"
        if counters.slow:
            cause = (
                f"its pictures come later than max_wait = {intake.pairer.wait:g} s after those that are answered; "
                "raise max_wait"
            )
        elif counters.late is not None:
            cause = f"the last one came {counters.late:.1f} s after its picture, and {intake.pairer.kept}"
        words = f"the last {counters.lonely} requests lacked a picture of a sensor that is alive ({ever}): {cause}"
        return {"not paired": words}
    return {}


def _region_problems(intake: Intake, regions: Any | None) -> dict[str, str]:
    """What is wrong with the detector, if anything; with ``auto`` it is no fault that there is none."""
    if regions is None:
        return {}
    state, words = regions.link.state, regions.link.cause
    if words and not intake.uses_detections and state is State.MISMATCH:
        return {"no regions": f"{words}; until that is right, regions are the node's own"}
    if not intake.uses_detections:
        return {}
    if words:
        if state is State.NO_PUBLISHER:
            words += "; without a detector set roi_source to center or full_image"
        return {"no regions": words}
    if intake.silent > SILENT_S:
        words = (
            f"{regions.topic} has a publisher, and no regions have come for {intake.silent:.0f} s of pictures; without "
            "a detector set roi_source to center or full_image"
        )
        return {"no regions": words}
    return {}
