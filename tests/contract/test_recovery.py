"""Where a worker group goes on: all workers agree, damage is told by name, and nothing starts over by itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from gen_dist.checkpoint import CheckpointError, begin_attempt, candidates, note_base
from gen_dist.recipes.contract import Clock
from gen_dist.store.local import LocalStore
from gen_dist.train.attempts import Worker
from gen_dist.train.collective import Team
from gen_dist.train.hub import Hub, SupersededError
from gen_dist.train.recovery import begin, recover
from gen_dist.train.report import silent
from tests.contract import reshard
from tests.contract.toys import OneGroup, Settings
from tests.support.ranks import Ranks
from tests.support.saves import commit, group


def go_on(folder: Path, skip: int = 0) -> tuple[str | None, str, list[str], int]:
    """On each rank: the checkpoint, or the error; what was told; the number of the attempt."""
    told: list[str] = []

    def report(kind: str, **facts: Any) -> None:
        told.append(f"{kind}: {facts['text']}")

    team, store = Team(torch.device("cpu")), LocalStore(folder)
    attempt = begin(store, team=team, report=report)
    try:
        found = recover(store, attempt, team=team, report=report, skip=skip)
    except CheckpointError as error:
        return None, str(error), told, attempt
    return found.name if found else None, "", told, attempt


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three checkpoints of two workers, at 64, 128 and 192 images."""
    store = LocalStore(tmp_path)
    savers = group(store, attempt=begin_attempt(store))
    for images in (64, 128, 192):
        commit(savers, images)
    return tmp_path


def damage(folder: Path, images: int, rank: int) -> None:
    """Turn one bit of a worker's file."""
    path = next(folder.glob(f"images-{images:012d}.*")) / f"rank{rank:05d}.safetensors"
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def test_a_run_goes_on_at_its_newest_checkpoint(folder: Path, pair: Ranks) -> None:
    for name, error, told, attempt in pair.run(go_on, folder):
        assert (name, error, told, attempt) == ("images-000000000192.a000001", "", [], 2)


@pytest.mark.parametrize("rank", [0, 1])
def test_all_workers_leave_out_what_one_of_them_found_damaged(folder: Path, pair: Ranks, rank: int) -> None:
    damage(folder, 192, rank)
    for name, _, told, _ in pair.run(go_on, folder):
        assert name == "images-000000000128.a000001"
        assert len(told) == 1
        assert told[0].startswith("warning: images-000000000192.a000001 is left out: ")
        assert f"rank{rank:05d}.safetensors: its SHA-256 is" in told[0]
    assert candidates(LocalStore(folder))[0] == "images-000000000128.a000001", "what lies behind it counts no more"


def test_where_nothing_is_whole_a_run_stops_and_says_how_to_start_over(folder: Path, pair: Ranks) -> None:
    for images in (64, 128, 192):
        damage(folder, images, images % 3 % 2)
    for name, error, told, _ in pair.run(go_on, folder):
        assert name is None
        assert "none of 3 checkpoints is whole: " in error
        assert error.endswith("or start over with `gen-dist train --fresh`")
        assert len(told) == 3
    store = LocalStore(folder)
    note_base(store, begin_attempt(store), None)  # what --fresh does
    assert [answer[:2] for answer in pair.run(go_on, folder)] == [(None, "")] * 2


def test_a_run_that_keeps_dying_goes_back_and_never_behind_its_first_checkpoint(folder: Path, pair: Ranks) -> None:
    assert pair.run(go_on, folder, 1)[1][0] == "images-000000000128.a000001"
    assert pair.run(go_on, folder, 7)[1][0] == "images-000000000064.a000001"
    assert pair.run(go_on, folder)[0][0] == "images-000000000064.a000001", "the dead branch came back"


def test_a_fresh_run_begins_at_nothing(tmp_path: Path, pair: Ranks) -> None:
    assert pair.run(go_on, tmp_path) == [(None, "", [], 1)] * 2


def test_an_error_of_the_store_is_raised_on_all_workers(tmp_path: Path, pair: Ranks) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(AssertionError, match="StoreError"):
        pair.run(go_on, tmp_path / "file")


def superseded(folder: Path) -> list[str]:
    """What each of four commits came to, on each rank, where another worker group begins after the first one."""
    from gen_dist.train.committer import Committer
    from gen_dist.train.ledger import Ledger

    way = reshard.Way(torch.distributed.get_world_size(), "fp32", 1)
    made, team = reshard.Made(way, seed=1), Team(torch.device("cpu"))
    made.train(1)
    attempt = begin(LocalStore(folder), team=team, report=silent)
    commit = Committer(
        LocalStore(folder),
        attempt,
        parent=None,
        job=way.job,
        recipe=OneGroup(Settings()),
        engines=made.engines,
        averages=made.averages,
        frozen={},
        data_digest="d",
        ledger=Ledger(None, team=team, max_bad_share=1.0),
        team=team,
        report=silent,
    )
    came_to = []
    for number in range(1, 5):
        try:
            commit(Clock(images=64 * number, step=number), {})
            if number < 3:
                commit.finish()
            came_to.append("committed")
        except SupersededError as error:
            came_to.append(f"superseded {error.attempt}")
        if number == 1 and team.leads:
            begin_attempt(LocalStore(folder))
        team.wait()
    return came_to


def test_a_group_that_was_given_up_ends_on_all_workers_together(tmp_path: Path, pair: Ranks) -> None:
    for came_to in pair.run(superseded, tmp_path):
        assert came_to == ["committed", *["superseded 1"] * 3]
    assert candidates(LocalStore(tmp_path)) == ["images-000000000064.a000001"]


def test_the_newest_group_of_a_driver_is_the_one_that_goes_on() -> None:
    hub = Hub()
    assert hub.enter([Worker(rank=0, node="here", pid=1)], 3) is not None
    assert hub.enter([Worker(rank=0, node="here", pid=2)], 2) is None, "it comes late"
    assert [hub.is_superseded(attempt) for attempt in (2, 3, 4)] == [True, False, False]
