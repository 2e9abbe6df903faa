"""Lifecycle transitions that may break off: the node says why, and keeps nothing that was half made."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import Any

from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn

from mmcl_core.errors import MmclError

__all__ = ["GuardedNode"]

logger = logging.getLogger(__name__)


class GuardedNode(LifecycleNode):
    """A lifecycle node whose transitions may raise; rclpy itself takes note of that without a word.

    A subclass overrides :meth:`prepare`, :meth:`begin`, :meth:`pause` and :meth:`release`.

    Attributes:
        stage: the lifecycle state: unconfigured, inactive, active or finalized.
        failure: why the last transition was not made, in words; empty: it was.
    """

    stage = "unconfigured"
    failure = ""

    def __init__(self, name: str, **arguments: Any) -> None:
        super().__init__(name, **arguments)
        # On Humble and Jazzy a transition that cannot be made from this state is raised, and ends the process: that of
        # a lifecycle manager which configures a node that has done so by itself.
        service = getattr(self, "_service_change_state", None)
        if service is not None:
            service.callback = functools.partial(self._change_or_refuse, service.callback)

    def _change_or_refuse(self, change: Callable[[Any, Any], Any], request: Any, response: Any) -> Any:
        try:
            return change(request, response)
        except Exception as error:  # rclpy's own, of a private module
            asked = request.transition.label or request.transition.id
            self.get_logger().error(f"transition {asked} cannot be made while the node is {self.stage}: {error}")
            response.success = False
            return response

    def prepare(self) -> bool:
        """Make ready; False where the process was told to end meanwhile. What it raises fails the configuration."""
        raise NotImplementedError

    def begin(self) -> None:
        """Start to work; publishers are active by now."""
        raise NotImplementedError

    def pause(self) -> None:
        """End the work; what :meth:`prepare` made stays."""
        raise NotImplementedError

    def release(self) -> None:
        """Give back whatever there is, half made or whole; the work has an end, too."""
        raise NotImplementedError

    def start(self) -> bool:
        """Configure and activate, as a lifecycle manager would; False when that failed."""
        success = TransitionCallbackReturn.SUCCESS
        return self.trigger_configure() == success and self.trigger_activate() == success

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Make ready; fails, with the reason in the log and in ``failure``, where that cannot be."""
        result = self._attempt("configured", self._make_anew)
        if result != TransitionCallbackReturn.SUCCESS:
            self.on_error(state)
            return TransitionCallbackReturn.FAILURE
        self.stage = "inactive"
        return result

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start to work."""
        result = self._attempt("activated", functools.partial(self._activate, state))
        if result == TransitionCallbackReturn.SUCCESS:
            self.stage = "active"
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """End the work, to go on later."""
        result = self._attempt("deactivated", functools.partial(self._deactivate, state))
        if result == TransitionCallbackReturn.SUCCESS:
            self.stage = "inactive"
        return result

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Give back everything."""
        result = self._attempt("cleaned up", self.release)
        self.stage = "unconfigured"
        return result

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """End all work for good."""
        result = self._attempt("shut down", self.release)
        self.stage = "finalized"
        return result

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Give back whatever was made when a transition broke off; the node can be configured again."""
        self.stage = "unconfigured"
        try:
            self.release()
        except Exception:  # what broke it may well break this, too
            logger.exception("not everything could be given back")
        return TransitionCallbackReturn.SUCCESS

    def _make_anew(self) -> bool:
        self.release()
        return self.prepare()

    def _activate(self, state: LifecycleState) -> None:
        _check(super().on_activate(state))
        self.begin()

    def _deactivate(self, state: LifecycleState) -> None:
        self.pause()
        _check(super().on_deactivate(state))

    def _attempt(self, done: str, work: Callable[[], bool | None]) -> TransitionCallbackReturn:
        """Do the work of a transition; ERROR, upon which rclpy calls :meth:`on_error`, where it raises."""
        self.failure = ""
        try:
            went_well = work() is not False
        except Exception as error:  # a damaged file or a broken driver raises anything; the process has to live on
            words = str(error) if isinstance(error, MmclError) else f"{type(error).__name__}: {error}"
            self.failure = f"not {done}: {words}"
            self.get_logger().error(self.failure)
            logger.debug("%s", self.failure, exc_info=True)
            return TransitionCallbackReturn.ERROR
        return TransitionCallbackReturn.SUCCESS if went_well else TransitionCallbackReturn.FAILURE


def _check(result: TransitionCallbackReturn) -> None:
    """Raise where a managed publisher did not go along; some of the others may have."""
    if result != TransitionCallbackReturn.SUCCESS:
        raise MmclError(f"a publisher of the node answers {result.name}")
