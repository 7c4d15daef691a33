"""What Ray Train's controller tells the hub: that workers died, and that it is about to resize the group.

The one place that knows the controller's hooks, which Ray calls a developer's interface. An exception in one of them
would end the run, so nothing here raises.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

import ray
from ray.train import UserCallback
from ray.train.v2._internal.execution.callback import ControllerCallback

from gen_dist.train import ray_settings
from gen_dist.train.attempts import GONE, MACHINE_GONE, Ended

RESIZE_SAVE_S = 60.0  # for a checkpoint before the group is resized
POLL_S = 0.2

log = logging.getLogger(__name__)


class Announcer(UserCallback):
    """Tells the hub at once when workers end by themselves."""

    def __init__(self, hub: Any) -> None:
        self._hub = hub

    def after_exception(self, run_context: Any, worker_exceptions: Mapping[int, Exception]) -> None:
        """Called in the controller, before it ends the rest of the group."""
        try:
            ray_settings.apply(ray_settings.TORCH_SHUTDOWN)
            self._hub.mourn.remote({rank: _ended(error) for rank, error in worker_exceptions.items()})
        except Exception:
            log.warning("event=mourn_failed", exc_info=True)


class SaveBeforeResize(ControllerCallback):
    """Has a checkpoint written before a group that runs is resized: Ray ends it without a word."""

    def __init__(self, hub: Any) -> None:
        self._hub = hub
        self._resizing = False

    def after_controller_state_update(self, previous_state: Any, current_state: Any) -> None:
        """A resize of a group that runs passes through ResizingState; one after a failure does not."""
        self._resizing = "Resizing" in type(previous_state).__name__

    def before_controller_execute_resize_decision(self, resize_decision: Any) -> None:
        """Wait for a checkpoint newer than the newest, for a while."""
        if not self._resizing:
            return
        try:
            before = ray.get(self._hub.newest_images.remote())
            ray.get(self._hub.save.remote())
            give_up_s = time.monotonic() + RESIZE_SAVE_S
            while ray.get(self._hub.newest_images.remote()) <= before and time.monotonic() < give_up_s:
                time.sleep(POLL_S)
            ray.get(self._hub.resizing.remote())
        except Exception:
            log.warning("event=save_before_resize_failed", exc_info=True)


def _ended(error: Exception) -> Ended:
    """How a worker ended, from what Ray raised for it."""
    error = getattr(error, "health_check_failure", error)  # a process that is gone no longer answers
    text = str(error)
    if "HealthCheckTimeout" in type(error).__name__:
        return Ended("it does not answer (stopped, or its machine is gone)", by_itself=False)
    if not isinstance(error, ray.exceptions.RayActorError):
        cause = getattr(error, "_base_exc", None) or error
        lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
        return Ended(lines[-1] if lines else type(cause).__name__, by_itself=True)
    node_lost = bool(getattr(error, "preempted", False)) or "node has died" in text or "node was terminated" in text
    if node_lost:
        return Ended(MACHINE_GONE, by_itself=False, node_lost=True)
    if "memory" in text and "OOM" in text.upper() and "low on memory" in text:
        return Ended("ended by Ray: its machine ran low on memory", by_itself=False)
    return Ended(GONE, by_itself=False)
