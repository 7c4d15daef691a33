"""The ledger of a run: what counts is what was committed, over all restarts, and too much that is bad stops the run."""

from __future__ import annotations

import json
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gen_dist.data.audit import fingerprint, kept, prove
from gen_dist.data.errors import DataError
from gen_dist.data.order import Order, Plan
from gen_dist.data.stream import BadSample
from gen_dist.job.arithmetic import BAD_SAMPLES
from gen_dist.recipes.contract import Clock
from gen_dist.train.collective import Team
from gen_dist.train.ledger import FREE_BAD_SAMPLES, Ledger

PLAN = Plan(num_lanes=2, window=7, run=4)
ORDER = Order(seed=3, num_in_block=np.array([60, 30, 60]), plan=PLAN)
SIZE = 4


def ledger(*, max_bad_share: float = 0.0, folder: Path | None = None, state: Any = None) -> Ledger:
    team = Team(torch.device("cpu"))
    return Ledger(PLAN, team=team, max_bad_share=max_bad_share, folder=folder, state=state)


def bad(position: int) -> BadSample:
    return BadSample(
        position, int(ORDER.ids(position, 1)[0]), "s3://b/train-0.tar", f"{position:06d}", "image: no JPEG"
    )


def took(its: Ledger, first: int, end: int, *, unreadable: Sequence[int] = ()) -> None:
    """The micro-batches of [first, end), as a stream gives them."""
    for position in range(first, end, SIZE):
        here = [bad(one) for one in unreadable if position <= one < position + SIZE]
        batch = {"sample_id": torch.from_numpy(ORDER.ids(position, SIZE)), "bad": here, "weight": torch.ones(SIZE)}
        its.took(batch)
        assert batch.keys() == {"weight"}


def at(images: int) -> Clock:
    return Clock(images=images, step=images // SIZE)


def through_json(state: Any) -> Any:
    """As a checkpoint keeps it."""
    return json.loads(json.dumps(state))


def test_a_commit_keeps_how_many_samples_were_used_and_which() -> None:
    its = ledger()
    took(its, 0, 16)
    state = its.commit(at(16))
    assert state["audit"] == [[16, 16, fingerprint(ORDER.ids(0, 16))]]
    assert state["bad"] == []
    assert Plan(**state["plan"]) == PLAN


def test_what_was_taken_after_the_last_commit_does_not_count() -> None:
    its = ledger()
    took(its, 0, 16)
    state = through_json(its.commit(at(16)))
    took(its, 16, 28, unreadable=[20])  # and then the worker was killed
    again = ledger(state=state)
    took(again, 16, 24)
    state = through_json(again.commit(at(24)))
    assert [entry[:2] for entry in state["audit"]] == [[16, 16], [24, 8]]
    assert state["bad"] == []
    assert prove(ORDER, kept(state, where="state"), sizes=[ORDER.num_samples], end=24).holds


def test_a_step_that_was_lost_or_taken_twice_is_seen_by_the_audit() -> None:
    for stretches in ([(0, 8), (12, 16)], [(0, 16), (12, 16)], [(0, 12), (8, 12)]):
        its = ledger()
        for first, end in stretches:
            took(its, first, end)
        proof = prove(ORDER, kept(its.commit(at(16)), where="state"), sizes=[ORDER.num_samples], end=16)
        assert [segment.agrees for segment in proof.segments] == [False]


def test_a_commit_without_a_step_adds_nothing() -> None:
    its = ledger()
    took(its, 0, 16)
    its.commit(at(16))
    assert len(its.commit(at(16))["audit"]) == 1


def test_the_checksum_does_not_depend_on_who_took_what() -> None:
    """Two ledgers hold what two workers took; their sums are that of one."""
    one, other = ledger(), ledger()
    for position in range(0, 32, 2 * SIZE):
        took(one, position, position + SIZE)
        took(other, position + SIZE, position + 2 * SIZE)
    parts = [its.commit(at(32))["audit"][0] for its in (one, other)]
    assert sum(part[1] for part in parts) == 32
    assert sum(part[2] for part in parts) % 2**64 == fingerprint(ORDER.ids(0, 32))


def test_unreadable_samples_are_kept_and_written_down(tmp_path: Path) -> None:
    its = ledger(folder=tmp_path)
    took(its, 0, 16, unreadable=[9, 2])
    state = through_json(its.commit(at(16)))
    assert [entry["position"] for entry in state["bad"]] == [2, 9]
    (tmp_path / BAD_SAMPLES).unlink()  # the run goes on elsewhere
    again = ledger(folder=tmp_path, state=state)
    took(again, 16, 24, unreadable=[17])
    state = again.commit(at(24))
    lines = [json.loads(line) for line in (tmp_path / BAD_SAMPLES).read_text().splitlines()]
    assert lines == state["bad"]
    assert [BadSample(**line) for line in lines] == [bad(2), bad(9), bad(17)]


def test_a_run_without_unreadable_samples_leaves_no_file(tmp_path: Path) -> None:
    its = ledger(folder=tmp_path)
    took(its, 0, 16)
    its.commit(at(16))
    assert list(tmp_path.iterdir()) == []


def test_the_first_ten_are_free_and_the_next_one_stops_the_run(tmp_path: Path) -> None:
    its = ledger(folder=tmp_path)
    took(its, 0, 40, unreadable=range(0, 2 * FREE_BAD_SAMPLES, 2))
    assert its.check(at(40)) == FREE_BAD_SAMPLES
    took(its, 40, 44, unreadable=[41])
    says = (
        r"s3://b/train-0\.tar: sample '000000': 11 of 44 samples could not be read, more than data\.max_bad_share = 0;"
        r" such as image: no JPEG; bad_samples\.jsonl of the run names all: mend them, leave them out with"
        r" `gen-dist data index`, or raise data\.max_bad_share"
    )
    with pytest.raises(DataError, match=says) as caught:
        its.check(at(44))
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
    lines = [json.loads(line) for line in (tmp_path / BAD_SAMPLES).read_text().splitlines()]
    assert [line["position"] for line in lines] == [*range(0, 20, 2), 41], "no checkpoint will keep them"


def test_a_share_that_is_allowed_does_not_stop_the_run() -> None:
    its = ledger(max_bad_share=0.5)
    took(its, 0, 40, unreadable=range(0, 40, 2))
    assert its.check(at(40)) == 20
    with pytest.raises(DataError, match="20 of 39 samples"):
        its.check(at(39))


def test_what_a_run_saw_before_its_restart_counts_too() -> None:
    its = ledger()
    took(its, 0, 40, unreadable=range(FREE_BAD_SAMPLES))
    state = through_json(its.commit(at(40)))
    again = ledger(state=state)
    assert again.check(at(40)) == FREE_BAD_SAMPLES
    took(again, 40, 44, unreadable=[43])
    with pytest.raises(DataError, match=r"sample '000043': 11 of 44 samples could not be read"):
        again.check(at(44))


def test_a_sample_that_comes_again_in_every_epoch_counts_once() -> None:
    its = ledger()
    for epoch in range(3 * FREE_BAD_SAMPLES):
        first = epoch * ORDER.num_samples
        again = int(np.flatnonzero(ORDER.ids(first, ORDER.num_samples) == 7)[0])
        its.took({"sample_id": torch.tensor([7]), "bad": [bad(first + again)], "weight": torch.zeros(1)})
        assert its.check(at(1)) == 1
    state = its.commit(at(4))
    assert len(state["bad"]) == 3 * FREE_BAD_SAMPLES
    assert ledger(state=through_json(state)).check(at(4)) == 1


def test_what_a_rollback_passes_over_is_kept_and_proved() -> None:
    its = ledger()
    took(its, 0, 16)
    state = through_json(its.commit(at(16)))
    again = ledger(state=state)
    assert again.shift == 0
    assert again.pass_over(at(16), position=28) == 12
    assert again.pass_over(at(16), position=28) == 0, "once"
    assert again.shift == 12
    took(again, 28, 36)  # the position of image 16 is 28 now
    state = through_json(again.commit(at(24)))
    found = kept(state, where="state")
    assert found.skipped == [(16, 12)]
    assert prove(ORDER, found, sizes=[ORDER.num_samples], end=24).holds
    assert ledger(state=state).shift == 12
