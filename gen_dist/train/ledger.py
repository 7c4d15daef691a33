"""What a run has learned from, as its checkpoints keep it: a checksum of sample numbers, and the unreadable samples.

A batch counts when the step that used it is committed by a checkpoint; what was only read ahead never does. `gen-dist
data audit` computes the same checksums from the order alone and so proves that each sample was used once an epoch.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from gen_dist.checkpoint import CheckpointError
from gen_dist.data.audit import MASK, STREAMED, fingerprint
from gen_dist.data.errors import DataError
from gen_dist.data.order import Plan
from gen_dist.data.stream import BadSample
from gen_dist.job.arithmetic import BAD_SAMPLES
from gen_dist.recipes.contract import Clock
from gen_dist.train.collective import Team

FREE_BAD_SAMPLES = 10


class Ledger:
    """`state` is what the checkpoint kept that the run goes on from; a run that streams without an index has no plan.

    Of such a run nothing is noted but its unreadable samples: numbers that mean nothing prove nothing.
    """

    def __init__(
        self,
        plan: Plan | None,
        *,
        team: Team,
        max_bad_share: float,
        folder: Path | None = None,
        state: Mapping[str, Any] | None = None,
    ) -> None:
        self._plan, self._team, self._max_bad_share, self._folder = plan, team, max_bad_share, folder
        state = state or {}
        self._audit: list[list[int]] = [list(entry) for entry in state.get("audit", [])]
        self._skipped: list[list[int]] = [list(entry) for entry in state.get("skipped", [])]
        self._bad = [BadSample(**entry) for entry in state.get("bad", [])]
        self._new: list[BadSample] = []
        self._count, self._sum = 0, 0

    @property
    def shift(self) -> int:
        """Positions that the run has passed over: images seen and this are the position of the next sample."""
        return sum(count for _, count in self._skipped)

    def pass_over(self, clock: Clock, *, position: int) -> int:
        """Go on at `position` from here, for what stands before it was no good. Returns how many are passed over."""
        count = position - clock.images - self.shift
        if count > 0:
            self._skipped.append([clock.images, count])
        return max(0, count)

    def took(self, batch: dict[str, Any]) -> None:
        """Notes one micro-batch of this worker, and takes from it what is not the recipe's."""
        ids = batch.pop("sample_id")
        self._new += batch.pop("bad")
        self._count += len(ids)
        self._sum = (self._sum + fingerprint(ids.numpy())) & MASK

    def check(self, clock: Clock) -> int:
        """How many samples could not be read so far. Collective. Raises: DataError where they are too many."""
        known = set(map(self._sample, self._bad))  # one sample counts once, in however many epochs it comes
        fresh = set(map(self._sample, self._new)) - known
        new = torch.tensor(float(len(fresh)), device=self._team.device)
        num_bad = len(known) + round(float(self._team.mean(new)) * self._team.size)
        if num_bad > FREE_BAD_SAMPLES and num_bad > self._max_bad_share * clock.images:
            new_bad = _in_order(self._team.gather(self._new))
            self._write_down(self._bad + new_bad)  # no checkpoint will keep the new ones
            seen = new_bad or self._bad
            raise DataError(
                f"{num_bad} of {clock.images} samples could not be read, more than data.max_bad_share ="
                f" {self._max_bad_share:g}; such as {seen[0].reason}",
                shard=seen[0].shard,
                key=seen[0].key,
                remedy=f"{BAD_SAMPLES} of the run names all: mend them, leave them out with `gen-dist data index`, or"
                " raise data.max_bad_share",
            )
        return num_bad

    def _sample(self, bad: BadSample) -> tuple[str, int]:
        """What tells it from all others: a run that streams numbers the samples of each shard from 0 on."""
        return (bad.shard if self._plan is None else "", bad.sample_id)

    def commit(self, clock: Clock) -> dict[str, Any]:
        """What the checkpoint at `clock` keeps. Collective."""
        parts = self._team.gather((self._count, self._sum, self._new))
        if self._plan is not None and any(count for count, _, _ in parts):
            total = sum(part for _, part, _ in parts) & MASK
            self._audit.append([clock.images, sum(count for count, _, _ in parts), total])
        self._bad += _in_order([new for _, _, new in parts])
        self._count, self._sum, self._new = 0, 0, []
        self._write_down(self._bad)
        plan = STREAMED if self._plan is None else asdict(self._plan)
        kept = {"plan": plan, "audit": self._audit, "bad": [asdict(bad) for bad in self._bad]}
        return {**kept, "skipped": self._skipped} if self._skipped else kept

    def _write_down(self, found: Sequence[BadSample]) -> None:
        if self._team.leads and found and self._folder is not None:
            lines = [json.dumps(asdict(bad)) for bad in found]
            (self._folder / BAD_SAMPLES).write_text("\n".join(lines) + "\n")


def _in_order(parts: Sequence[Sequence[BadSample]]) -> list[BadSample]:
    return sorted((bad for part in parts for bad in part), key=lambda bad: bad.position)


def check_same_reading(state: Mapping[str, Any], *, streams: bool, where: str) -> None:
    """That a run goes on as it began, with an index or, where it `streams`, without. Raises: CheckpointError."""
    streamed = state.get("plan") == STREAMED
    if state and streamed != streams:
        ways = {True: "streamed without an index", False: "read by an index"}
        remedy = (
            "give the job another name to train with the index, or take index.gdx away to go on without"
            if streamed
            else "run `gen-dist data index` again, or raise data.index_limit_bytes"
        )
        raise CheckpointError(f"{where}: its shards were {ways[streamed]} and are now {ways[streams]}; {remedy}")
