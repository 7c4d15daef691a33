"""The hub: a small Ray actor between the workers of a run and the process that watches it.

Workers leave events there and ask whether to stop; the driver takes the events and says when. It lives beside the
driver and outlives worker groups: so it knows where each of them began, how far it came and how it ended, and tells the
next one what to do. It works on any cluster, with no shared folder and no connection from the workers to the tracker.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from gen_dist.job.errors import GenDistError
from gen_dist.train.attempts import Attempts, Ended, Worker
from gen_dist.train.pulses import Hang, Pulse, hang
from gen_dist.train.report import Event
from gen_dist.train.watchdog import Order

MOST_EVENTS = 4096  # that wait for a driver which does not look: the oldest go first
LOSS_KNOWN_S = (
    10.0  # until the cluster knows that a machine is gone (ray_settings.NODES); its workers are missed at once
)
DEAF_S = 5.0  # pulses of all workers together come more often than this
SAVING_S = 5.0  # for workers to save their stacks before the group ends; longer than watchdog.BEHIND_S


@dataclass(frozen=True)
class Resume:
    """What a worker group is told before it begins."""

    attempt: int
    skip_checkpoints: int
    """Newest checkpoints to pass over."""
    after_position: int | None
    """Data goes on from here, after images that were no good; None: from where the checkpoint is."""


@dataclass(frozen=True)
class News:
    """What the driver hears at once."""

    events: list[Event]
    quiet_s: float
    """Since a worker was last heard of."""
    idle: bool
    """No group of workers is under way."""
    failure: BaseException | None


class SupersededError(GenDistError):
    """Another worker group has taken over: this one must end."""

    def __init__(self, message: str, *, attempt: int = 0) -> None:
        super().__init__(message)
        self.attempt = attempt
        """Number of this worker group."""


class Hub:
    """State of the actor: events not yet taken, the wish to stop, the workers' pulses, and how each group ended."""

    def __init__(self, *, max_failures: int = 3, max_rollbacks: int = 10, silent_after_s: float = 60.0) -> None:
        """`silent_after_s`: without a pulse for so long a worker counts as stopped; 0: never."""
        self._events: deque[Event] = deque(maxlen=MOST_EVENTS)
        self._stop = False
        self._num_saves = 0
        self._failure: BaseException | None = None
        self._attempts = Attempts(max_failures=max_failures, max_rollbacks=max_rollbacks, now_s=time.monotonic())
        self._silent_after_s = silent_after_s or math.inf
        self._pulses: dict[int, tuple[Pulse, float]] = {}
        self._heard_s = time.monotonic()
        self._hang: Hang | None = None
        self._hang_s, self._hang_attempt = 0.0, 0
        self._ended = 0  # number of the newest group that is known to have ended, or to be about to
        self._dying: tuple[Mapping[int, Ended], float] | None = None  # how workers ended, and when that was heard

    def is_superseded(self, attempt: int) -> bool:
        """Whether a newer group of this driver has begun."""
        return self._attempts.entered > attempt

    def put(self, event: Event) -> None:
        """Leave an event."""
        self._heard_s = time.monotonic()
        self._attempts.hear(event, now_s=self._heard_s)
        self._events.append(event)

    def take(self) -> list[Event]:
        """All events since the last call."""
        events = list(self._events)
        self._events.clear()
        return events

    def news(self) -> News:
        """All events since the last call, and how the run is."""
        if self._dying is not None:
            ended, at_s = self._dying
            if self._attempts.num_nodes < 2 or time.monotonic() - at_s > LOSS_KNOWN_S:
                self._bury(ended)
        return News(self.take(), time.monotonic() - self._heard_s, self._attempts.over, self._failure)

    def stop(self) -> None:
        """Ask the workers to save and end."""
        self._stop = True

    def save(self) -> None:
        """Ask the workers to write a checkpoint now and go on."""
        self._num_saves += 1

    def wishes(self) -> tuple[bool, int]:
        """Whether the workers are to end, and how often a checkpoint was asked for."""
        return self._stop, self._num_saves

    def resizing(self) -> None:
        """Ray is about to end the group and start a larger or smaller one."""
        self._ended = self._attempts.number
        if not self._attempts.over:
            self._attempts.close(now_s=time.monotonic())
            facts = {"attempt": self._attempts.number, "images": self._attempts.images}
            self._say("resize", **facts, ran_s=round(self._attempts.ran_s, 3))

    def newest_images(self) -> int:
        """Of the newest checkpoint."""
        return self._attempts.newest_images

    def fail(self, error: BaseException) -> None:
        """Record an error that no restart can mend."""
        self._failure = self._failure or error

    def failure(self) -> BaseException | None:
        """The error that no restart can mend."""
        return self._failure

    def enter(self, workers: Sequence[Worker], attempt: int) -> Resume | None:
        """A worker group is there, with this number; its leader asks what to do.

        None: end, for the run has failed, or a newer group has entered.
        """
        if self.is_superseded(attempt):
            return None
        self._bury(self._dying[0] if self._dying is not None else {})
        if self._failure is not None:
            return None
        self._pulses.clear()
        self._hang = None
        now_s = self._heard_s = time.monotonic()
        waited_s = self._attempts.enter(workers, number=attempt, now_s=now_s)
        self._say("attempt", attempt=attempt, workers=len(workers), waited_s=round(waited_s, 3))
        return Resume(attempt, self._attempts.skip_checkpoints, self._attempts.after_position)

    def died(self, rank: int, why: str, log: str) -> None:
        """A worker ends by an exception, in one line; `log` is where all of it is."""
        self._attempts.note_error(rank, why, log)

    def roll_back(self, checkpoints: int, after_position: int, images: int, why: str) -> None:
        """The group is about to end so that the next one begins that many checkpoints back, with later data.

        Every worker says so, since each may be the first that the controller misses.
        """
        if self._attempts.over:
            return
        error = self._attempts.roll_back(checkpoints, after_position, why, now_s=time.monotonic())
        facts = {"images": images, "checkpoints": checkpoints, "after_position": after_position, "why": why}
        self._say("rollback", attempt=self._attempts.number, **facts, ran_s=round(self._attempts.ran_s, 3))
        if error is not None:
            self.fail(error)

    def mourn(self, ended: Mapping[int, Ended]) -> None:
        """Workers ended by themselves, as the controller saw it: by rank, how. Judged once it is known why."""
        self._dying, self._ended = (ended, time.monotonic()), self._attempts.number

    def pulse(self, pulse: Pulse) -> Order:
        """A worker lives. Returns what it is to do."""
        now_s = time.monotonic()
        if pulse.attempt and pulse.attempt < self._attempts.number:
            return Order(end=True)  # cut off from its group, which was replaced: it must not write any more
        deaf_s, self._heard_s = now_s - self._heard_s, now_s
        if deaf_s > DEAF_S:  # it was the hub that stood still: nobody is silent for that
            self._pulses = {rank: (seen, at_s + deaf_s) for rank, (seen, at_s) in self._pulses.items()}
        known = self._pulses.get(pulse.rank)
        replaced = known is not None and (known[0].node, known[0].pid) != (pulse.node, pulse.pid)
        if replaced or (self._hang is not None and pulse.attempt != self._hang_attempt):  # the next group is coming up
            self._hang = None
            self._pulses.clear()
        self._pulses[pulse.rank] = (pulse, now_s)
        if self._hang is None:
            under_way = {rank: held for rank, held in self._pulses.items() if not 0 < held[0].attempt <= self._ended}
            self._hang = hang(under_way, now_s=now_s, silent_after_s=self._silent_after_s)
            if self._hang is None:
                return Order()
            self._hang_s, self._hang_attempt = now_s, pulse.attempt
            self._say(
                "hang",
                attempt=self._attempts.number,
                images=self._attempts.images,
                rank=self._hang.rank,
                section=self._hang.section,
                for_s=round(self._hang.for_s, 1),
                silent=list(self._hang.silent),
                why=self._hang.line(),
            )
            self._attempts.note_error(self._hang.rank, f"hung: {self._hang.line()}", "")
        loud = [seen for rank, (seen, _) in self._pulses.items() if rank not in self._hang.silent]
        waiting = self._hang.silent or not all(seen.saved for seen in loud)  # a silent one's timer in C may still save
        if waiting and now_s - self._hang_s < SAVING_S:
            return Order(save=True)
        stopped = [self._pulses[rank][0] for rank in self._hang.silent]
        return Order(save=True, end=True, kill=tuple(one.pid for one in stopped if one.node == pulse.node))

    def _bury(self, ended: Mapping[int, Ended]) -> None:
        """Note the death of the group that was under way, if it was one, and what follows from it."""
        self._dying = None
        death, verdict = self._attempts.bury(ended, lost_nodes=_lost_nodes(), now_s=time.monotonic())
        if death is None:
            return
        facts = {"attempt": death.attempt, "images": death.images, "rank": death.rank, "why": death.why}
        self._say("death", **facts, log=death.log, node_lost=death.node_lost, ran_s=round(self._attempts.ran_s, 3))
        if verdict.stop is not None:
            self.fail(verdict.stop)
        elif verdict.skip_checkpoints:
            self._say("crash_loop", images=death.images, skip_checkpoints=verdict.skip_checkpoints)

    def _say(self, kind: str, **facts: Any) -> None:
        """An event of the hub itself, which no worker writes down."""
        self._events.append({"kind": kind, "at_s": time.time(), "by": "hub", **facts})


def _lost_nodes() -> frozenset[str]:
    """Machines that the cluster knows to be gone."""
    try:
        return frozenset(node["NodeID"] for node in ray.nodes() if not node["Alive"])
    except Exception:  # noqa: BLE001  a cluster that does not answer now
        return frozenset()


def start_hub(**settings: Any) -> Any:
    """A hub on this node, where the driver is: it takes no CPU from the workers and is not lost with one of them."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(Hub).options(num_cpus=0, scheduling_strategy=here).remote(**settings)


class HubLine:
    """The line of a watchdog to the hub: hands over a pulse as soon as the one before it is answered."""

    def __init__(self, hub: Any) -> None:
        self._hub = hub
        self._asked: Any = None

    def __call__(self, pulse: Pulse) -> Order | None:
        """The newest answer that has arrived. Raises: RayError where the hub is gone."""
        order = None
        if self._asked is not None:
            ready, _ = ray.wait([self._asked], timeout=0)
            if not ready:
                return None
            asked, self._asked = self._asked, None
            order = ray.get(asked)
        self._asked = self._hub.pulse.remote(pulse)
        return order


class Wishes:
    """Asks the hub without waiting for it: each call gives the newest answer that has arrived."""

    def __init__(self, hub: Any) -> None:
        self._hub = hub
        self._asked: Any = None
        self._stop, self._num_saves = False, 0
        self._first_saves: int | None = None

    def stop(self) -> bool:
        """Whether this worker has heard that the run is to end."""
        self._listen()
        return self._stop

    def save(self) -> bool:
        """Whether a checkpoint was asked for since the last call that said so."""
        self._listen()
        if self._first_saves is None or self._num_saves == self._first_saves:
            return False
        self._first_saves = self._num_saves
        return True

    def _listen(self) -> None:
        if self._asked is None:
            self._asked = self._hub.wishes.remote()
        ready, _ = ray.wait([self._asked], timeout=0)
        if ready:
            asked, self._asked = self._asked, None
            stop, self._num_saves = ray.get(asked)
            self._stop = self._stop or stop
            if self._first_saves is None:
                self._first_saves = self._num_saves
