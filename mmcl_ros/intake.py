"""What arrives, until it is complete: pictures and regions in, jobs out. Knows messages by their fields only.

This is where the modality setting, the health of the sensors and the pairing come together. Not thread-safe: the node
calls it under one lock. ``now`` is a steady clock in seconds; ``clock`` is the clock by which sensors grow stale (ROS
time where that is simulated).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from mmcl_core.errors import ConfigError
from mmcl_core.words import counted
from mmcl_ros.cameras import CameraTrack
from mmcl_ros.detections import Request, read_request, stamp_of
from mmcl_ros.health import Health, State, choose
from mmcl_ros.images import stated_encoding
from mmcl_ros.pairing import Group, Item, Pairer
from mmcl_ros.recognizers import RecognizerLike

__all__ = ["REGION_STREAM", "Intake", "Job", "wanted_modalities"]

REGION_STREAM = "detections"  # name of the regions' stream, beside those of rgb and depth
FAULTS = 20  # answers in a row that could not use a sensor's picture before none is waited for any more
LOOK_AGAIN_S = 5.0  # after so long one is waited for all the same: it may have become usable
PATIENT_S = 5.0  # who waits so long for a picture (the policy every) wants all of them looked at


@dataclass
class Job:
    """One request with all that was found for it.

    Attributes:
        request: the regions; None: whole picture or centre.
        header: to be returned with the answers.
        pictures, infos: image and camera info messages by modality.
        received: when the last part of it arrived, seconds of the steady clock.
        missing: in words why there is no picture, should there be none.
        done: called with the result once; only set for single requests.
    """

    request: Request | None
    header: Any
    pictures: Mapping[str, Any]
    infos: Mapping[str, Any]
    received: float
    missing: str = ""
    done: Callable[[Any], None] | None = None


@dataclass
class _Look:
    """When a sensor was last looked at, steady clock.

    Attributes:
        faults: of its health at that time.
        since: when that was, or when it was last waited for in vain.
    """

    faults: int
    since: float


def wanted_modalities(setting: str, model: RecognizerLike) -> tuple[str, ...]:
    """The sensors that a modality setting makes use of, colour first.

    Raises:
        ConfigError: the model does not answer from them, or takes no distances and so nothing that a sensor gives.
    """
    usable = [name for name in model.modalities if name == "rgb" or model.takes_distances]
    asked = [name for name in ("rgb", "depth") if setting in (name, "rgbd", "auto")]
    found = tuple(name for name in asked if name in usable)
    if found == tuple(asked) or (found and setting == "auto"):
        return found
    words = f"modality is {setting}, but the model answers from {' and '.join(model.modalities)}"
    if "depth" in model.modalities and not model.takes_distances:
        words += (
            ", and for depth it takes pictures that were prepared (such as HHA) where a sensor gives distances; take "
            "modality rgb if it was trained for it, or train on metric depth with model.depth_encoding=hha or relief"
        )
    raise ConfigError(words)


@dataclass
class Intake:
    """Pictures and regions of one robot.

    Args:
        wanted: modalities in use, colour first.
        modality: the setting they follow from.
        roi_source: the parameter of that name.
        pairer: made with the window, wait and history of the parameters.
        health: by modality.
        clock: seconds by which sensors grow stale.

    Attributes:
        detector_seen: somebody publishes regions, or has.
        received: requests so far.
        cameras: camera infos by modality.
        infos_expected: modalities whose camera info somebody publishes.
        events: by kind, the last thing that was odd about a stamp.
        silent: for how long pictures have come and no regions since somebody publishes some, seconds.
    """

    wanted: tuple[str, ...]
    modality: str
    roi_source: str
    pairer: Pairer
    health: dict[str, Health]
    clock: Callable[[], float]
    detector_seen: bool = False
    received: int = 0
    cameras: dict[str, CameraTrack] = field(default_factory=dict)
    infos_expected: set[str] = field(default_factory=set)
    events: dict[str, str] = field(default_factory=dict)
    silent: float = 0.0
    _heard: float | None = None
    _patient: bool = True
    _detector_alive: bool = False
    _looks: dict[str, _Look] = field(default_factory=dict)

    @property
    def uses_detections(self) -> bool:
        """Whether regions come from a detector at this moment."""
        return self.roi_source == "detections" or (self.roi_source == "auto" and self.detector_seen)

    def start_over(self) -> None:
        """Drop what has come: nobody listened for a while, which is no fault of the sensors. Counters stay."""
        self.pairer.clear()
        self.silent, self._heard = 0.0, None
        for health in self.health.values():
            health.forget()

    def picture(self, modality: str, message: Any, now: float, ros_now: int) -> None:
        """Take in an image message received at ``now``; ``ros_now`` is ROS time in nanoseconds, 0: none yet."""
        stamp = stamp_of(message.header)
        self._heard = now if self._heard is None else self._heard
        self.silent = now - self._heard
        health = self.health[modality]
        health.encoding = stated_encoding(message)
        health.observe(self.clock(), (ros_now - stamp) / 1e9 if stamp and ros_now else None)
        # Without a stamp the time of receipt is the best guess there is.
        self._add(modality, Item(stamp or ros_now, message, now, len(message.data)), stamp == 0)

    def detector(self, alive: bool) -> None:
        """Take note whether somebody publishes regions at this moment; silence counts from when that began."""
        if alive and not self._detector_alive:
            self.silent, self._heard = 0.0, None
        self._detector_alive = alive
        self.detector_seen |= alive

    def info(self, modality: str, message: Any) -> None:
        """Take in a camera info."""
        self.cameras.setdefault(modality, CameraTrack()).add(message)

    def regions(self, message: Any, now: float) -> None:
        """Take in a message of regions."""
        self.detector_seen, self.silent, self._heard = True, 0.0, now
        request = read_request(message)
        self._add(REGION_STREAM, Item(request.stamp, request, now), request.stamp == 0)

    def _add(self, stream: str, item: Item, unstamped: bool) -> None:
        self._plan(item.received)
        self.received += stream == self.pairer.anchor
        if unstamped:
            self.events["zero stamps"] = f"{stream}: messages with stamp 0; pairing falls back on the time of receipt"
        if self.pairer.add(stream, item):
            why = "a bag that loops, or two publishers whose clocks differ?"
            self.events["time jump"] = f"{stream}: stamps jumped back ({why}); pairing starts over"

    def jobs(self, now: float) -> list[Job]:
        """All jobs that are complete, or have waited long enough."""
        self._plan(now)
        if self._lacks_info(now):
            return []
        groups = self.pairer.ready(now)
        if self._looked_in_vain(groups, now):
            self._plan(now)
            groups += self.pairer.ready(now)
        if any(group.hurried for group in groups):
            self.events["no time to wait"] = (
                f"{counted(self.pairer.counters.hurried, 'request')} so far could not wait for what belongs to them: "
                f"of the pictures {self.pairer.most}; send fewer or smaller pictures, or see why the others do not come"
            )
        return [self._job(group) for group in groups]

    def _lacks_info(self, now: float) -> bool:
        """Whether the first requests wait for a camera info that is about to come, for answers may depend on it.

        No longer than for a picture, and no more once that was in vain.
        """
        deadline = self.pairer.deadline()
        if not self._patient or deadline is None or self.infos_expected <= set(self.cameras):
            return False
        self._patient = now < deadline
        return self._patient

    def single(self, request: Request | None, now: float) -> Job | None:
        """A job for the newest pictures that belong together, of sensors not lost; None while there is none."""
        newest = {name: item for name in self.wanted if (item := self.pairer.newest(name))}
        usable = [name for name in self._alive(self.flows()) if name in newest]
        if not usable:
            return None
        newest |= self.pairer.newest_together(usable)  # one sensor's newest picture may be ahead of the other's
        anchor = newest[usable[0]]
        window = self.pairer.window * 1e9
        pictures = {
            name: newest[name].message for name in usable if abs(newest[name].stamp - anchor.stamp) <= max(window, 0)
        }
        header = anchor.message.header
        if request is not None:
            request = Request(request.boxes, str(header.frame_id), header=header, stamp=anchor.stamp)
        return Job(request, header, pictures, self._infos(newest, anchor.stamp), now)

    def flows(self) -> dict[str, State]:
        """By wanted modality whether pictures come."""
        now = self.clock()
        return {name: self.health[name].flow(now) for name in self.wanted}

    def _alive(self, flows: dict[str, State]) -> list[str]:
        """The sensors to answer from at this moment; only ``auto`` makes one that recovers prove itself first."""
        if self.modality == "auto":
            return choose(flows)
        return [name for name, flow in flows.items() if flow in (State.ALIVE, State.RECOVERING)]

    def _plan(self, now: float) -> None:
        """Tell the pairer what to pair, as the sensors come and go."""
        flows = self.flows()
        partners = alive = self._alive(flows)
        if self.modality == "auto":
            awaited = [name for name in alive if not self._useless(name, now)]
        else:
            partners = list(self.wanted)
            awaited = [name for name, flow in flows.items() if self._coming(name, flow)]
        anchor = REGION_STREAM if self.uses_detections else (alive or self.wanted)[0]
        self.pairer.expect(anchor, partners or self.wanted, awaited or self.wanted)

    def _useless(self, modality: str, now: float) -> bool:
        """Whether there is no use in waiting for a sensor's picture: such have long been damaged, or unregistered.

        One that is there in time is looked at none the less, and from time to time one is waited for.
        """
        faults, look = self.health[modality].faults, self._looks.get(modality)
        if look is None or look.faults != faults:  # an answer has looked at one
            look = self._looks[modality] = _Look(faults, now)
        return faults >= FAULTS and now - look.since < LOOK_AGAIN_S and self.pairer.wait < PATIENT_S

    def _looked_in_vain(self, groups: list[Group], now: float) -> bool:
        """Whether requests have waited for a useless sensor and go without; then it is not waited for, for a while."""
        ended = False
        for modality, look in self._looks.items():
            due = look.faults >= FAULTS and now - look.since >= LOOK_AGAIN_S
            if due and any(modality not in (group.stream, *group.partners) for group in groups):
                look.since, ended = now, True
        return ended

    def _coming(self, modality: str, flow: State) -> bool:
        """Whether pictures come, or their publisher is there and the first one may come any moment."""
        if flow is State.SILENT:
            return self.health[modality].link[0] is State.ALIVE
        return flow is not State.STALE

    def _job(self, group: Group) -> Job:
        items = dict(group.partners)
        request = header = None
        if group.stream == REGION_STREAM:
            request, header = group.anchor.message, group.anchor.message.header
        else:
            items[group.stream] = group.anchor
            header = group.anchor.message.header
        received = max([group.anchor.received, *(item.received for item in items.values())])
        pictures = {name: items[name].message for name in self.wanted if name in items}
        infos = self._infos(items, group.anchor.stamp)
        return Job(request, header, pictures, infos, received, self._missing(group))

    def _infos(self, items: Mapping[str, Item], otherwise: int) -> dict[str, Any]:
        """The camera info that held for each picture; for a picture that is missing, at another stamp."""
        stamps = {name: items[name].stamp if name in items else otherwise for name in self.cameras}
        return {name: self.cameras[name].at(stamp) for name, stamp in stamps.items()}

    def _missing(self, group: Group) -> str:
        names = " or ".join(self.wanted)
        if group.gap is None:
            return f"no {names} picture has come"
        if group.late is not None:
            return (
                f"the regions came {group.late:.1f} s after the {names} picture that they are of, and "
                f"{self.pairer.kept}"
            )
        more = f", and none that is nearer came within max_wait = {self.pairer.wait:g} s" if group.slow else ""
        near = f"the nearest is {group.gap:.3f} s off{more}"
        return f"no {names} picture within {self.pairer.window:g} s of the regions; {near}"
