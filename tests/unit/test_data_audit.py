"""The audit: what a run used is counted from its checksums, and whatever a run lost or took twice is found."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gen_dist.cli.app import main
from gen_dist.data.audit import Epoch, Kept, Proof, fingerprint, kept, prove
from gen_dist.data.buckets import Bucketed
from gen_dist.data.errors import DataError
from gen_dist.data.mixture import Mixture
from gen_dist.data.order import Order, Plan
from gen_dist.data.source import find_data
from gen_dist.data.stream import OrderLike
from gen_dist.job.load import resolve
from gen_dist.job.spec import JobSpec
from tests.support.models import write_checkpoint
from tests.support.shards import write_shards

PLAN = Plan(num_lanes=2, window=7, run=4)
ORDER = Order(seed=3, num_in_block=np.array([6, 3, 6]), plan=PLAN)  # 15 samples
ENDS = (8, 16, 24, 32, 40)


def used(order: OrderLike, ends: tuple[int, ...] = ENDS) -> Kept:
    """What a run keeps that used what stands there, and committed at `ends`."""
    firsts = (0, *ends[:-1])
    audit = [
        (end, end - first, fingerprint(order.ids(first, end - first))) for first, end in zip(firsts, ends, strict=True)
    ]
    return Kept(order.plan, audit, [])


def proved(found: Kept, order: OrderLike = ORDER, *, sizes: tuple[int, ...] = (15,), end: int = 40) -> Proof:
    return prove(order, found, sizes=sizes, end=end)


def test_a_run_that_used_what_stands_there_is_proved() -> None:
    proof = proved(used(ORDER))
    assert proof.holds
    assert [(segment.first, segment.end) for segment in proof.segments] == list(zip((0, *ENDS[:-1]), ENDS, strict=True))
    whole = {"source": 0, "num_samples": 15, "used_once": 15, "used_more": 0, "unreadable": 0, "whole": True}
    assert proof.epochs[:2] == [Epoch(number=number, **whole) for number in range(2)]
    assert proof.epochs[2:] == [Epoch(**{**whole, "number": 2, "used_once": 10, "whole": False})]
    assert [epoch.missing for epoch in proof.epochs] == [0, 0, 0]


def test_where_a_run_committed_and_how_much_is_looked_at_at_once_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    epochs = proved(used(ORDER)).epochs
    assert proved(used(ORDER, (40,))).epochs == epochs
    monkeypatch.setattr("gen_dist.data.audit.CHUNK", 3)
    heard: list[int] = []
    proof = prove(ORDER, used(ORDER), sizes=(15,), end=40, progress=heard.append)
    assert (proof.holds, proof.epochs, sum(heard)) == (True, epochs, 40)


def test_what_a_rollback_passed_over_is_said_and_not_missing() -> None:
    """The run went back to 16 images and on with position 20: 4 positions later than the images seen, from there on."""
    audit = []
    for first, end, shift in ((0, 8, 0), (8, 16, 0), (16, 24, 4), (24, 40, 4)):
        audit.append((end, end - first, fingerprint(ORDER.ids(first + shift, end - first))))
    proof = proved(Kept(PLAN, audit, [], [(16, 4)]))
    assert proof.holds
    assert [(segment.first, segment.end) for segment in proof.segments] == [(0, 8), (8, 16), (20, 28), (28, 44)]
    assert [(epoch.used_once, epoch.skipped, epoch.missing) for epoch in proof.epochs] == [
        (15, 0, 0),
        (11, 4, 0),
        (14, 0, 0),
    ]
    assert not proved(Kept(PLAN, audit, [])).holds, "what nobody wrote down"
    assert not proved(Kept(PLAN, audit, [], [(8, 4)])).holds, "at another place"


def tampered(entry: tuple[int, int, int]) -> tuple[int, int, int]:
    return entry[0], entry[1], entry[2] ^ 1


@pytest.mark.parametrize(
    ("change", "disagree"),
    [
        (lambda audit: [*audit[:2], tampered(audit[2]), *audit[3:]], [(16, 24)]),
        (lambda audit: [*audit[:2], (24, 7, audit[2][2]), *audit[3:]], [(16, 24)]),  # a worker took one less
        (lambda audit: [*audit[:2], *audit[3:]], [(16, 32)]),  # lost: the next one does not cover it
        (lambda audit: audit[1:], [(0, 16)]),
        (lambda audit: audit[:-1], [(32, 40)]),
        (lambda audit: [], [(0, 40)]),
        (lambda audit: [*audit[:3], audit[2], *audit[3:]], [(24, 24)]),  # taken twice
        (lambda audit: [*audit[:3], audit[0], *audit[3:]], [(24, 8)]),
        (lambda audit: [*audit, (48, 8, 0)], [(40, 40)]),  # behind what was committed
        (lambda audit: [audit[0], (16, 8, audit[2][2]), (24, 8, audit[1][2]), *audit[3:]], [(8, 16), (16, 24)]),
    ],
    ids=["checksum", "count", "lost", "first", "last", "all", "double", "back", "beyond", "swapped"],
)
def test_what_was_lost_doubled_or_changed_disagrees(
    change: Callable[[list[tuple[int, int, int]]], list[tuple[int, int, int]]], disagree: list[tuple[int, int]]
) -> None:
    found = used(ORDER)
    proof = proved(replace(found, audit=change(found.audit)))
    assert not proof.holds
    assert [(segment.first, segment.end) for segment in proof.segments if not segment.agrees] == disagree


@pytest.mark.parametrize("ids", [[0] * 8, [1, 0, 3, 2, 5, 4, 7, 7], list(range(8, 16))])
def test_other_samples_have_another_checksum(ids: list[int]) -> None:
    assert fingerprint(np.array(ids)) != fingerprint(np.arange(8))
    assert fingerprint(np.arange(8)[::-1]) == fingerprint(np.arange(8))


class Biased:
    """An order that gives sample 0 in place of sample 1, in its second epoch."""

    plan, num_samples = PLAN, 15

    def ids(self, start: int, count: int) -> np.ndarray:
        positions = np.arange(start, start + count)
        ids = ORDER.ids(start, count)
        return np.where((ids == 1) & (positions // 15 == 1), 0, ids)


def test_an_order_that_repeats_a_sample_is_found_though_all_checksums_agree() -> None:
    proof = proved(used(Biased()), Biased())
    assert all(segment.agrees for segment in proof.segments)
    assert not proof.holds
    seen = [(epoch.used_once, epoch.used_more, epoch.missing, epoch.holds) for epoch in proof.epochs]
    assert seen == [(15, 0, 0, True), (13, 1, 1, False), (10, 0, 0, True)]


def test_each_source_of_a_mixture_has_epochs_of_its_own() -> None:
    sources = [np.array([5, 5]), np.array([20, 20, 10])]
    mixture = Mixture(seed=1, sources=sources, weights=[0.3, 0.7], plan=PLAN)
    source_of, _ = mixture.split(np.arange(120))
    proof = proved(used(mixture, (16, 120)), mixture, sizes=(10, 50), end=120)
    assert proof.holds
    for number, size in enumerate((10, 50)):
        mine = [epoch for epoch in proof.epochs if epoch.source == number]
        assert [epoch.number for epoch in mine] == list(range(len(mine)))
        assert sum(epoch.used_once for epoch in mine) == (source_of == number).sum()
        assert [epoch.used_once for epoch in mine if epoch.whole] == [size] * ((source_of == number).sum() // size)


def test_batches_that_are_put_together_by_aspect_ratio_are_proved_alike() -> None:
    plan = replace(PLAN, buckets=((64, 64), (64, 128)), bucket_batch=4, bucket_window=2)
    inner = Order(seed=3, num_in_block=np.array([12, 9, 12]), plan=plan)
    order = Bucketed(inner, aspects=lambda ids: np.where(ids % 3 == 0, 0.7, 0.0), seed=3)
    assert order.ids(0, 88).tolist() != inner.ids(0, 88).tolist()
    proof = proved(used(order, (12, 88)), order, sizes=(33,), end=88)
    assert proof.holds
    assert [epoch.used_once for epoch in proof.epochs] == [33, 33, 22]


def test_unreadable_samples_are_told_in_the_epoch_in_which_they_came() -> None:
    found = replace(used(ORDER), bad=[0, 14, 15, 39])
    proof = proved(found)
    assert proof.holds
    assert [epoch.unreadable for epoch in proof.epochs] == [2, 1, 1]


@pytest.mark.parametrize(
    ("stream", "says"),
    [
        ({}, "keeps no record of its samples"),
        ({"plan": asdict(PLAN), "bad": []}, "damaged record of samples .KeyError: 'audit'"),
        ({"plan": {"lanes": 2}, "audit": [], "bad": []}, "damaged record of samples .TypeError"),
        ({"plan": asdict(PLAN), "audit": [[8, 8]], "bad": []}, "damaged record of samples .ValueError"),
        ({"plan": asdict(PLAN), "audit": [], "bad": ["x"]}, "damaged record of samples .TypeError"),
    ],
)
def test_a_record_that_no_run_writes_is_one_line(stream: dict[str, Any], says: str) -> None:
    with pytest.raises(DataError, match=rf"^here: .*{says}.*; audit a checkpoint") as caught:
        kept(stream, where="here")
    assert "\n" not in str(caught.value)


def test_a_million_samples_are_audited_in_seconds() -> None:
    order = Order(seed=0, num_in_block=np.full(4_000, 250), plan=Plan(12, 10_000, 32))
    proof = prove(order, used(order, (1_000_000, 1_500_000)), sizes=(1_000_000,), end=1_500_000)
    assert [epoch.used_once for epoch in proof.epochs] == [1_000_000, 500_000]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run over 20 samples that came to position 48."""
    write_shards(tmp_path / "shards", num_samples=20, per_shard=10)
    return written(tmp_path, tmp_path / "run" / "checkpoints")


def written(shards: Path, folder: Path, *, change: Callable[[dict[str, Any]], object] = lambda facts: None) -> Path:
    """A checkpoint without weights, as the run would keep it; returns the run folder."""
    url = str(shards / "shards")
    job = JobSpec.model_validate(
        {"name": "r", "recipe": "dcgan", "seed": 4, "data": {"url": url}, "train": {"total_images": 64}}
    )
    data = find_data(job.data)
    found = used(data.order(seed=4, plan=PLAN), (16, 48))
    facts: dict[str, Any] = {
        "job": resolve(job),
        "data_digest": data.digest,
        "stream": {"plan": asdict(PLAN), "audit": [list(entry) for entry in found.audit], "bad": [{"position": 21}]},
    }
    change(facts)
    write_checkpoint(folder, images=48, step=3, facts=facts)
    return folder.parent


def test_the_command_says_what_it_proved(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "audit", str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["source", "epoch", "samples", "once", "more", "missing", "skipped", "unreadable"]
    assert [line.split()[1:] for line in lines[1:3]] == [
        ["0", "20", "20", "0", "0", "0", "0"],
        ["1", "20", "20", "0", "0", "0", "1"],
    ]
    assert lines[3].split()[1:] == ["2", "(under", "way)", "20", "8", "0", "0", "0", "0"]
    assert lines[4].startswith("proved     each sample once an epoch: 48 images in 2 commits (")
    assert main(["data", "audit", str(run / "checkpoints" / "images-000000000048.a000001"), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["holds"], facts["images"], facts["num_segments"], facts["num_unreadable"]) == (True, 48, 2, 1)
    assert [epoch["used_once"] for epoch in facts["epochs"]] == [20, 20, 8]


def test_the_command_ends_with_1_where_nothing_is_proved(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_shards(tmp_path / "shards", num_samples=20, per_shard=10)
    run = written(tmp_path, tmp_path / "run" / "checkpoints", change=lambda facts: facts["stream"]["audit"].pop())
    assert main(["data", "audit", str(run)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2] == "disagrees  positions 16 to 48: 0 samples taken, and not those that stand there"
    assert lines[-1].startswith("not proved 1 commits disagree, 0 epochs are not whole: 48 images")
    assert main(["data", "audit", str(run), "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["disagree"] == [{"first": 16, "end": 48, "count": 0, "agrees": False}]


def test_other_data_than_the_runs_is_one_line(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_shards(run.parent / "shards", num_samples=21, per_shard=10)
    assert main(["data", "audit", str(run)]) == 2
    error = capsys.readouterr().err
    assert "images-000000000048.a000001: the run learned from data " in error
    assert "data.url now holds " in error
    assert "; put the shards back as they were" in error
    assert error.count("\n") == 1


def test_a_folder_that_is_no_run_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "audit", str(tmp_path)]) == 2
    assert "no checkpoint here" in capsys.readouterr().err
