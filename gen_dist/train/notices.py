"""What a worker group is asked for while it trains: to end, or to write a checkpoint now and go on.

From the hub (Ctrl-C, SIGTERM, a resize) and from Ray (a machine is about to be taken away).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from gen_dist.train.collective import Team

CHECK_EVERY_S = 1.0
MOST_STEPS_BETWEEN = 32
ASK_RAY_EVERY_S = 5.0  # costs a round trip of all workers

Preemption = Callable[[], Any]
"""`ray.train.get_preemption_info`: None, or what has `deadline_ms` (Unix time) and `preempted_ranks`. Collective."""


@dataclass(frozen=True)
class Notice:
    """What all workers have agreed on."""

    stop: bool = False
    save: bool = False
    why: str = ""
    """For a person."""


class Notices:
    """Asked by all workers after every step; they look about once a second, together, with one small reduction."""

    def __init__(
        self,
        team: Team,
        *,
        should_stop: Callable[[], bool],
        should_save: Callable[[], bool] = lambda: False,
        preemption: Preemption | None = None,
    ) -> None:
        self._team, self._should_stop, self._should_save, self._preemption = team, should_stop, should_save, preemption
        self._steps_left = 1
        self._looked_s = self._asked_s = time.monotonic()
        self._steps = 1
        self._known: Any = None

    def __call__(self) -> Notice:
        """Mostly nothing. Collective."""
        self._steps_left -= 1
        if self._steps_left > 0:
            return Notice()
        now_s = time.monotonic()
        step_s = (now_s - self._looked_s) / self._steps
        self._looked_s = now_s
        leads = self._team.leads
        stop, save, ask, lead_step_s = self._sum(
            self._should_stop(),
            leads and self._should_save(),
            leads and self._preemption is not None and now_s - self._asked_s >= ASK_RAY_EVERY_S,
            step_s if leads else 0.0,
        )
        self._steps = self._steps_left = max(1, min(MOST_STEPS_BETWEEN, int(CHECK_EVERY_S / max(lead_step_s, 1e-6))))
        if stop:
            return Notice(stop=True)
        if ask and (taken := self._taken()):
            return Notice(save=True, why=taken)
        return Notice(save=bool(save), why="the workers are about to be resized" if save else "")

    def _sum(self, *values: float) -> list[float]:
        own = torch.tensor([float(value) for value in values], device=self._team.device)
        return (self._team.mean(own) * self._team.size).tolist()

    def _taken(self) -> str:
        """What Ray says of machines that go, once for each."""
        self._asked_s = time.monotonic()
        assert self._preemption is not None
        info = self._preemption()
        if info is None or info == self._known:
            return ""
        self._known = info
        left = ""
        if info.deadline_ms is not None:
            left = f" in {max(0.0, info.deadline_ms / 1000.0 - time.time()):.0f} s"
        ranks = ", ".join(map(str, info.preempted_ranks))
        return f"the machine of rank {ranks} is taken away{left}"
