"""The recognizer: a lifecycle node that labels what a robot sees, with whichever of colour and depth it has.

Callbacks only store what arrives; one worker thread puts the crops of a picture through the network and publishes. The
node finds the publishers of its topics itself and matches their quality of service, and it always says what is missing:
in the log, on ``~/status`` and on ``/diagnostics``.

    python -m mmcl_ros.recognizer_node --ros-args -p model:=RUN -p modality:=rgb -r rgb/image:=/camera/image_raw
"""

from __future__ import annotations

import dataclasses
import functools
import sys
import time
from collections.abc import Callable, Sequence
from threading import Condition
from typing import Any

# First, for its plain word where ROS 2, or the messages, are missing.
from mmcl_ros.interfaces import INSTALLED_REGION_TYPES, optional_class  # isort: skip

from rcl_interfaces.msg import SetParametersResult
from rclpy.callback_groups import ReentrantCallbackGroup
from rclpy.clock import Clock, ClockType
from rclpy.parameter import Parameter as RosParameter
from rclpy.task import Future
from std_srvs.srv import SetBool

from mmcl_core.errors import MmclError
from mmcl_ros import msg, reports
from mmcl_ros.declarations import declare
from mmcl_ros.detections import read_request
from mmcl_ros.endings import do_all
from mmcl_ros.frames import FrameAnswer, FrameRecognizer, FrameSettings, Result
from mmcl_ros.health import Health, State
from mmcl_ros.intake import REGION_STREAM, Intake, Job, wanted_modalities
from mmcl_ros.ledger import Ledger, find_problems
from mmcl_ros.links import Links, Source, check_topics, clock_problems, info_topic, picture_source
from mmcl_ros.message_types import DETECTIONS_TYPE, DIAGNOSTICS_TYPE, INFO_TYPE
from mmcl_ros.pairing import Pairer
from mmcl_ros.parameters import TABLE, check, check_change
from mmcl_ros.process import forward_logs, run_node
from mmcl_ros.qos import profile
from mmcl_ros.recognizers import RecognizerLike, free_gpu, load_model
from mmcl_ros.transitions import GuardedNode
from mmcl_ros.worker import Single, Worker

# The generated services come into being with the messages, whose absence reports has spoken of by now.
from mmcl_ros.srv import RecognizeOnce  # isort: skip

__all__ = ["RecognizerNode", "main"]

WATCH_S = 0.1
#: Least values of parameters under the policy every, seconds.
EVERY_AT_LEAST = {"max_wait": 5.0, "stale_after": 5.0, "history": 5.0}


class RecognizerNode(GuardedNode):
    """See the module. To be spun by a single-threaded executor, which several may share.

    Args:
        load: takes the parameter ``model`` and the keywords device, backend, threads, mirror; gives a recognizer.
    """

    def __init__(self, load: Callable[..., RecognizerLike] = load_model, **arguments: Any) -> None:
        super().__init__("recognizer", **arguments)
        forward_logs(self)
        self._load = load
        self._changed = Condition()
        self.enabled = True
        self._reset()
        self.values = declare(self, TABLE)
        self.add_on_set_parameters_callback(self._on_parameters)
        self._steady = Clock(clock_type=ClockType.STEADY_TIME)  # timers have to run before any /clock
        self._notices = reports.Notices(self.get_logger().warning, self.get_logger().info)
        self._status = self.create_publisher(msg.RecognizerStatus, "~/status", profile(1, latched=True))
        diagnostics = optional_class(DIAGNOSTICS_TYPE)
        self._diagnostics = self.create_publisher(diagnostics, "/diagnostics", profile(10)) if diagnostics else None
        self._labels = self.create_publisher(msg.LabelInfo, "~/labels", profile(1, latched=True))
        self.create_service(SetBool, "~/enable", self._on_enable)
        apart = ReentrantCallbackGroup()  # while the coroutine waits for a picture, pictures have to be let in
        kind, queue = RecognizeOnce, profile(100)  # the usual ten would lose the others of a burst without a word
        self.create_service(kind, "~/recognize_once", self._on_once, qos_profile=queue, callback_group=apart)
        self.create_timer(WATCH_S, self._watch, clock=self._steady)
        self._reporter = self.create_timer(self.values["status_period"], self.report, clock=self._steady)
        if self.values["autostart"]:
            self.start()

    def _reset(self) -> None:
        self.recognizer: RecognizerLike | None = None
        self.intake: Intake | None = None
        self._frames: FrameRecognizer | None = None
        self._links: Links | None = None
        self._worker: Worker | None = None
        self._answers: Any = None
        self._answers_2d: Any = None
        self._sent: Job | None = None  # the last one whose answer was published
        self._dropped = self._reported = 0  # by the workers that have ended; in all when the status was last reported
        self.ledger = Ledger()

    # lifecycle

    def prepare(self) -> bool:
        """Load the model and make ready.

        Raises:
            MmclError: a parameter or the model does not do.
        """
        self.recognizer, wanted = self._load_for_modality()
        if not self.context.ok():  # told to end while the model was being loaded
            return False
        values = self.values
        pairer = Pairer(values["pair_window"], self._patience("max_wait"), self._patience("history"))
        health = {name: Health(self._patience("stale_after"), self._patience("recover_after")) for name in wanted}
        self.intake = Intake(wanted, values["modality"], values["roi_source"], pairer, health, self._clock_seconds)
        self._frames = FrameRecognizer(self.recognizer, self._frame_settings())
        queue = values["queue"] if values["policy"] == "every" else 10
        self._answers = self.create_lifecycle_publisher(msg.RecognitionArray, "recognitions", profile(queue))
        two_d = optional_class(DETECTIONS_TYPE) if values["publish_detections"] else None
        self._answers_2d = two_d and self.create_lifecycle_publisher(two_d, "recognitions_2d", profile(queue))
        model = self.recognizer
        info = {"labels": list(model.classes), "modalities": list(model.modalities)}
        self._labels.publish(msg.LabelInfo(model_id=model.model_id, **info))
        about = f"{model.model_id}, {len(model.classes)} classes, {model.backend} on {model.device}"
        self.get_logger().info(f"model {values['model']} ({about}), answering from {' and '.join(wanted)}")
        return True

    def _load_for_modality(self) -> tuple[RecognizerLike, tuple[str, ...]]:
        values = {name: check(name, value) for name, value in self.values.items()}
        check_topics(self, values)
        if not values["model"]:
            raise MmclError("the parameter model is empty; give a run folder, a weights file, or ycb21")
        settings = {name: values[name] for name in ("device", "backend", "threads", "mirror")}
        model = self._load(values["model"], **settings)
        return model, wanted_modalities(values["modality"], model)

    def begin(self) -> None:
        """Listen and answer."""
        assert self.intake is not None
        self.intake.start_over()  # what came before the last deactivation is past
        every, queue = self.values["policy"] == "every", self.values["queue"]
        self._worker = Worker(self.intake, self._changed, self._process, self._on_lost, every, queue, self.context.ok)
        self._worker.enabled = self.enabled
        self._links = Links(self, self._sources(), self.values["qos"])
        self._worker.start()
        self._watch()
        self._links.insist()

    def destroy_node(self) -> None:
        """End the worker before what it publishes with."""
        try:
            self.pause()
        finally:
            super().destroy_node()

    def pause(self) -> None:
        """Stop listening; the model stays loaded."""
        try:
            if self._links is not None:
                self._links.close()
        finally:
            if self._worker is not None:
                self._worker.stop()
                self._dropped += self._worker.dropped
            self._links = self._worker = None

    def release(self) -> None:
        """Give back the model and all that goes with it."""
        made = [publisher for publisher in (self._answers, self._answers_2d) if publisher is not None]
        destroy = self.destroy_lifecycle_publisher
        do_all([self.pause, *(functools.partial(destroy, publisher) for publisher in made), self._reset, free_gpu])

    @property
    def dropped(self) -> int:
        """Requests dropped since the node was configured."""
        return self._dropped + (self._worker.dropped if self._worker is not None else 0)

    # what comes in

    def _sources(self) -> dict[str, Source]:
        assert self.intake is not None
        depth = self.values["queue"] if self.values["policy"] == "every" else 5
        sources = {}
        for name in dict.fromkeys(("rgb", *self.intake.wanted)):  # boxes on depth may be of a colour picture
            topic, kind = picture_source(self, self.values, name)
            if name in self.intake.wanted:
                sources[name] = Source(topic, [kind], functools.partial(self._on_picture, name), depth)
            info, heard = info_topic(self, self.values, name), functools.partial(self._on_info, name)
            sources[f"{name} info"] = Source(info, [INFO_TYPE], heard, depth, pictures=topic)
        if self.values["roi_source"] in ("auto", "detections"):
            topic = self.values["detections_topic"]
            sources[REGION_STREAM] = Source(topic, INSTALLED_REGION_TYPES, self._on_regions, max(depth, 10))
        return sources

    def _on_picture(self, modality: str, message: Any) -> None:
        with self._changed:
            if self.intake is not None and self._worker is not None:
                self.intake.picture(modality, message, time.monotonic(), self.get_clock().now().nanoseconds)
                self._worker.wake()

    def _on_info(self, modality: str, message: Any) -> None:
        with self._changed:
            if self.intake is not None and self._worker is not None:
                self.intake.info(modality, message)
                self._worker.wake()

    def _on_regions(self, message: Any) -> None:
        with self._changed:
            if self.intake is not None and self._worker is not None:
                self.intake.regions(message, time.monotonic())
                self._worker.wake()

    def _clock_seconds(self) -> float:
        if self.get_parameter("use_sim_time").value:
            return float(self.get_clock().now().nanoseconds) / 1e9
        return time.monotonic()

    # the work; called by the worker's thread

    def _process(self, job: Job) -> None:
        assert self.recognizer is not None
        assert self._frames is not None
        started = time.monotonic()
        answer = self._frames(job.request, job.pictures, job.infos, job.missing)
        answered = time.monotonic()
        model, embeddings = self.recognizer.model_id, self.values["publish_embeddings"]
        message = reports.answers_message(job.header, model, answer, embeddings)
        if job.done is not None:
            with self._changed:
                self.ledger.events |= answer.notes
            job.done(message)
            return
        self._send(job, answer, message)
        ended = time.monotonic()
        answer.seconds |= {"wait": started - job.received, "publish": ended - answered, "total": ended - job.received}
        answer.seconds["overhead"] = answer.seconds["total"] - answer.seconds["inference"]
        causes = links.info_causes() if answer.remarks and (links := self._links) else None
        with self._changed:
            if self.intake is not None:
                self.ledger.account(answer, job.pictures, self.intake.health, ended, causes)

    def _send(self, job: Job, answer: FrameAnswer, message: Any) -> None:
        self._answers.publish(message)
        self._sent = job
        try:
            if self._answers_2d is not None and self._answers_2d.get_subscription_count():
                self._answers_2d.publish(reports.detections_message(job.header, answer.answers))
        except Exception as error:  # the request has its answer all the same
            assert self._worker is not None
            self._worker.note(kind := "recognitions_2d failed", error)
            with self._changed:
                self.ledger.events[kind] = f"{kind}: {type(error).__name__}: {error}"

    def _on_lost(self, job: Job, error: Exception) -> None:
        """A request on which the work broke off is answered, too."""
        assert self.recognizer is not None
        assert self._frames is not None
        reason = f"answer lost: {type(error).__name__}: {error}"
        with self._changed:
            self.ledger.lose(reason, time.monotonic(), counts=job.done is None)
        if job.done is None and job is not self._sent:
            _, answer = self._frames.crops(job.request, {}, missing=reason)
            for one in answer.answers:
                one.result = Result.FAILED
            self._send(job, answer, reports.answers_message(job.header, self.recognizer.model_id, answer, False))

    # services, parameters, reports

    def _on_enable(self, request: Any, response: Any) -> Any:
        self.enabled = bool(request.data)
        if self._worker is not None:
            self._worker.enabled = self.enabled
        response.success, response.message = True, "enabled" if self.enabled else "disabled"
        return response

    async def _on_once(self, request: Any, response: Any) -> Any:
        if (worker := self._worker) is None:
            response.message = f"the node is {self.stage}; activate it first"
            return response
        future: Future = Future(executor=self.executor)
        wanted = read_request(msg.RegionArray(regions=request.regions)) if request.regions else None
        timeout = request.timeout if request.timeout > 0 else 2.0

        def done(answer: Any) -> None:
            future.set_result(answer)
            if self.executor is not None:
                self.executor.wake()  # nothing else tells it to look at the coroutine again

        single = Single(wanted, time.monotonic() + timeout, done)
        worker.ask(single)
        answer = await future
        if answer is None and time.monotonic() < single.deadline:
            response.message = f"no answer: the work on it failed or was ended (the node is {self.stage}); see the log"
        elif answer is None:
            with self._changed:
                why = "; ".join(self.problems().values()) or "none came in time"
            response.message = f"no picture within {timeout:g} s: {why}"
        else:
            response.success, response.answer = True, answer
        return response

    def _on_parameters(self, parameters: Sequence[RosParameter]) -> SetParametersResult:
        # A whole file may be loaded, with most of it as it is.
        changes = {one.name: one.value for one in parameters if self.values.get(one.name) != one.value}
        reason = check_change(changes, self.stage not in ("unconfigured", "finalized"))
        if reason:
            return SetParametersResult(successful=False, reason=reason)
        self.values.update({name: value for name, value in changes.items() if name in self.values})
        if "status_period" in changes:
            self._reporter.timer_period_ns = round(self.values["status_period"] * 1e9)
            self._reporter.reset()  # the new period counts from now on, however long the old one was
        with self._changed:
            self._apply()
        return SetParametersResult(successful=True)

    def _apply(self) -> None:
        if self.intake is None or self._frames is None:
            return
        values, pairer = self.values, self.intake.pairer
        pairer.window = values["pair_window"]
        pairer.wait, pairer.history = self._patience("max_wait"), self._patience("history")
        for health in self.intake.health.values():
            health.stale_after, health.recover_after = self._patience("stale_after"), self._patience("recover_after")
        self._frames.settings = self._frame_settings()

    def _patience(self, name: str) -> float:
        """A time; recorded data is not to be answered otherwise because the computer was busy for a moment."""
        if self.values["policy"] != "every":
            return float(self.values[name])
        return max(self.values[name], EVERY_AT_LEAST[name]) if name in EVERY_AT_LEAST else 0.0

    def _frame_settings(self) -> FrameSettings:
        return FrameSettings(**{field.name: self.values[field.name] for field in dataclasses.fields(FrameSettings)})

    def _watch(self) -> None:
        if self._links is None or self.intake is None or not self._links.due(self.intake.wanted):
            return
        self._links.update()
        with self._changed:
            links = {name: source.link for name, source in self._links.sources.items()}
            alive = {name for name, link in links.items() if link.state is State.ALIVE}
            for name, health in self.intake.health.items():
                health.link = (links[name].state, links[name].cause)
            self.intake.infos_expected |= {name.removesuffix(" info") for name in alive if name.endswith(" info")}
            if REGION_STREAM in links:
                self.intake.detector(REGION_STREAM in alive)

    def problems(self) -> dict[str, str]:
        """What is wrong at this moment: words by kind, the most important first."""
        if self.failure:
            return {"transition failed": self.failure}
        if self.intake is None or self._links is None or self._worker is None:
            return {}
        if self._worker.failure:
            words = f"the thread that recognises has ended: {self._worker.failure}; deactivate and activate the node"
            return {"thread ended": words}
        found = clock_problems(self)
        dropped = self.dropped - self._reported if self.values["policy"] == "every" else 0
        return found | find_problems(self.intake, self._links.sources, dropped, self._worker.busy, self._worker.full)

    def report(self) -> None:
        """Publish status and diagnostics, and log what is wrong."""
        now = time.monotonic()
        status = msg.RecognizerStatus(
            stamp=self.get_clock().now().to_msg(),
            state=self.stage,
            enabled=self.enabled,
            modality=self.values["modality"],
            smallest_gap=-1.0,
        )
        seconds: dict[str, list[float]] = {}
        with self._changed:
            problems = self.problems()
            if self.intake is not None and self.recognizer is not None:
                status.model_id = self.recognizer.model_id
                topics = {name: source.topic for name, source in self._links.sources.items()} if self._links else {}
                reports.fill_status(status, self.ledger, self.intake, topics, now)
                seconds = self.ledger.latencies.seconds()
                problems |= self.intake.events | self.ledger.take_events()
                self.intake.events.clear()
            status.dropped = self._reported = self.dropped
        status.latencies = reports.latencies(seconds)
        status.cause = next(iter(problems.values()), "")
        self._notices.update(problems, now, self.values["warn_period"])
        self._status.publish(status)
        if self._diagnostics is not None:
            name = self.get_fully_qualified_name().lstrip("/")
            self._diagnostics.publish(reports.diagnostics(status, name, status.stamp))


def main(args: list[str] | None = None, load: Callable[..., RecognizerLike] = load_model) -> int:
    """Run the node until it is told to end."""
    # Worker and executor share the interpreter; at the default of 5 ms each handover costs a picture that much.
    sys.setswitchinterval(0.0005)
    return run_node(lambda: RecognizerNode(load), args, __doc__)


if __name__ == "__main__":
    raise SystemExit(main())
