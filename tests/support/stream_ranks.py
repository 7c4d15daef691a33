"""All workers of a run as streams in one process: opened as workers open them, left in the middle as killed ones do.

As a program (see `program`) it trains nothing, prints a line a step, and is there to be killed.
"""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

import numpy as np

from gen_dist.data.audit import MASK, Kept, Proof, fingerprint, prove
from gen_dist.data.order import Plan
from gen_dist.data.source import Data, find_data, open_stream
from gen_dist.data.stream import Batch, Stream
from gen_dist.job import arithmetic
from gen_dist.job.load import load_resolved, resolve
from gen_dist.job.spec import DataSpec, JobSpec
from gen_dist.recipes.contract import Clock
from gen_dist.train.feed import own_positions
from tests.support.shards import FIELDS

MICRO = 4
BATCH = 48  # 1, 2, 3, 4, 6 and 12 workers share it
PLAN = Plan(num_lanes=12, window=13, run=MICRO)


class Plain:
    """What `own_positions` asks of a recipe: no phase draws a batch of its own."""

    def phases(self, clock: Clock) -> Sequence[Any]:
        return ()


@dataclass(frozen=True)
class Step:
    """One global batch as all workers together received it."""

    first: int
    digest: str
    """sha256 over pixels, captions, labels and weights, in the order of positions."""
    ids: list[int]


def job_of(data: DataSpec, *, steps: int) -> JobSpec:
    train = {"total_images": steps * BATCH, "global_batch_images": BATCH, "micro_batch_images": MICRO}
    return JobSpec.model_validate({"name": "r", "recipe": "dcgan", "seed": 7, "data": data, "train": train})


class Workers:
    """`world_size` workers that go on from position `start`. Use as a context; leaving it is like a kill."""

    def __init__(self, job: JobSpec, data: Data, *, world_size: int, start: int) -> None:
        self._parts, self._first = arithmetic.accumulation(job, world_size), start
        clock = Clock(images=start, step=start // BATCH)
        self.streams: list[Stream] = []
        self.ahead = []
        for rank in range(world_size):
            own = pickle.loads(pickle.dumps(data))  # with connections of its own, as in a process of its own
            self.streams.append(open_stream(job.data, fields=FIELDS, seed=job.seed, data=own, plan=PLAN))
            positions = own_positions(Plain(), clock, job=job, rank=rank, world_size=world_size)
            self.ahead.append(self.streams[-1].prefetch(positions, depth=4))

    def step(self) -> Step:
        micro_batches = dict(next(ahead) for ahead in self.ahead for _ in range(self._parts))
        assert sorted(micro_batches) == list(range(self._first, self._first + BATCH, MICRO))
        first, self._first = self._first, self._first + BATCH
        return step_of(first, micro_batches)

    def begin_a_step(self) -> None:
        """Some workers take some of their part of the next batch, and the others nothing."""
        for ahead in self.ahead[::2]:
            next(ahead)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        for stream in self.streams:
            stream.close()


def step_of(first: int, micro_batches: Mapping[int, Batch]) -> Step:
    sha, ids = sha256(), []
    for position in sorted(micro_batches):
        batch = micro_batches[position]
        for name in ("image", "label", "weight"):
            sha.update(batch[name].contiguous().numpy().tobytes())
        sha.update("\0".join(batch["caption"]).encode())
        ids += batch["sample_id"].tolist()
    return Step(first, sha.hexdigest(), ids)


def uninterrupted(job: JobSpec, *, steps: int) -> list[Step]:
    """What one worker gets that nothing ever happens to."""
    with Workers(job, find_data(job.data), world_size=1, start=0) as workers:
        return [workers.step() for _ in range(steps)]


def audited(job: JobSpec, steps: Sequence[Step]) -> Proof:
    """What `gen-dist data audit` would say of a run that committed each of these steps."""
    audit = [(step.first + len(step.ids), len(step.ids), fingerprint(np.array(step.ids)) & MASK) for step in steps]
    data = find_data(job.data)
    order = data.order(seed=job.seed, plan=PLAN)
    return prove(order, Kept(PLAN, audit, []), sizes=[len(source) for source in data.sources], end=audit[-1][0])


def program(job: JobSpec, *, world_size: int, start: int) -> list[str]:
    """The command line of a process that is all workers at once."""
    text = json.dumps({"job": resolve(job), "world_size": world_size, "start": start})
    return [sys.executable, "-m", "tests.support.stream_ranks", text]


def _main() -> None:
    wanted = json.loads(sys.argv[1])
    job = load_resolved(wanted["job"])
    with Workers(job, find_data(job.data), world_size=wanted["world_size"], start=wanted["start"]) as workers:
        while True:
            step = workers.step()
            print(json.dumps([step.first, step.digest, step.ids]), flush=True)


if __name__ == "__main__":
    _main()
