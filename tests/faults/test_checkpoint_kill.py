"""T1, T11: a worker killed at any moment of a save leaves the new checkpoint whole, or the one before it."""

from __future__ import annotations

import itertools
import random
import signal
import time
from collections.abc import Callable

import pytest

from gen_dist.checkpoint import Keep, begin_attempt, candidates, note_base, open_checkpoint, prune
from gen_dist.store import Store
from gen_dist.store.s3 import S3Store
from tests.support.fault_proxy import FaultProxy
from tests.support.groups import Plan, run, start
from tests.support.saves import check_whole, newest

BEFORE = ["snapshot", "file", "done", "manifest", "publish"]
AFTER = ["committed", "head", "prune", "tombstone", "delete", "bury"]
OF_ALL = {"snapshot", "file", "done"}


@pytest.mark.parametrize("stage", [*BEFORE, *AFTER])
def test_killed_at_any_stage_a_run_goes_on_from_a_whole_checkpoint(
    new_store: Callable[[str], Store], stage: str
) -> None:
    for victim in (0, 1) if stage in OF_ALL else (0,):
        store = new_store(f"{stage}-{victim}")
        first = begin_attempt(store)
        codes = run(store, Plan(first, [64, 128, 192], victim=victim, stage=stage, at_images=128))
        assert codes[victim] == -signal.SIGKILL
        found = newest(store)
        check_whole(found)
        assert found.manifest.images == (128 if stage in AFTER else 64)
        second = begin_attempt(store)
        note_base(store, second, found.name)
        assert run(store, Plan(second, [192, 256], world_size=3)) == [0, 0, 0]
        left = [open_checkpoint(store, name) for name in candidates(store)]
        assert left[0].manifest.images == 256
        for checkpoint in left:
            check_whole(checkpoint)
        prune(store, Keep(last=1, orphan_age_s=0))
        assert {info.name.partition("/")[0] for info in store.list("images-*/*")} == {left[0].name}


def test_killed_at_random_moments_no_checkpoint_is_ever_torn(new_store: Callable[[str], Store]) -> None:
    store, draw = new_store("run"), random.Random(0)
    images, seen = 0, []
    for _ in range(8):
        attempt = begin_attempt(store)
        found = candidates(store)
        if found:
            checkpoint = open_checkpoint(store, found[0])
            check_whole(checkpoint, scale=2000)
            images = checkpoint.manifest.images
        seen.append(images)
        note_base(store, attempt, found[0] if found else None)
        group = start(store, Plan(attempt, range(images + 64, images + 64 * 50, 64), scale=2000))
        time.sleep(draw.uniform(0.05, 0.6))
        for process in draw.sample(group, len(group)):
            process.kill()
        for process in group:
            process.join()
    assert seen == sorted(seen)
    assert images > 0


def test_killed_while_parts_of_a_file_are_uploaded(bucket: S3Store, proxy: FaultProxy) -> None:
    begin_attempt(bucket)
    assert run(bucket, Plan(1, [64], scale=40_000)) == [0, 0]
    parts = itertools.count(1)
    group: list[object] = []

    def kill(method: str, path: str) -> None:
        if method == "PUT" and "partNumber=" in path and next(parts) == 2:
            for process in group:
                process.kill()  # type: ignore[attr-defined]

    proxy.before_request = kill
    group += start(bucket, Plan(1, [128], scale=200_000))  # three parts a worker
    for process in group:
        process.join()  # type: ignore[attr-defined]
    proxy.before_request = None
    assert next(parts) > 2
    check_whole(newest(bucket), scale=40_000)
    assert newest(bucket).manifest.images == 64
