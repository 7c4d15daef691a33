"""A run has one line of history: one group counts, and what a replaced one commits late is never gone on from."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_dist.checkpoint import CheckpointError, Name, begin_attempt, candidates, highest_attempt, note_base
from gen_dist.checkpoint.attempts import attempts, bases, began
from gen_dist.checkpoint.commit import move_head
from gen_dist.checkpoint.history import in_line
from gen_dist.store.local import LocalStore
from tests.support.saves import Events, commit, group


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "checkpoints")


def write_manifest(store: LocalStore, name: Name) -> None:
    store.write(name.manifest, b"{}")


def test_attempts_count_up_from_one(store: LocalStore) -> None:
    assert highest_attempt(store) == 0
    assert [begin_attempt(store) for _ in range(3)] == [1, 2, 3]
    assert attempts(store) == [1, 2, 3]
    assert began(store, 1) <= began(store, 3)


def test_of_eight_racers_each_gets_a_number_of_its_own(store: LocalStore) -> None:
    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(lambda _: begin_attempt(store), range(8)))
    assert sorted(numbers) == list(range(1, 9))


def test_a_number_that_a_checkpoint_has_is_not_taken_again(store: LocalStore) -> None:
    commit(group(store, attempt=7), 64)  # and no attempts: the checkpoints alone were copied here
    assert begin_attempt(store) == 8


def test_a_fresh_run_has_nothing_to_go_on_from(store: LocalStore) -> None:
    assert candidates(store) == []
    begin_attempt(store)
    assert candidates(store) == []


def test_torn_and_foreign_things_are_no_candidates(store: LocalStore) -> None:
    folder = Path(store.url)
    write_manifest(store, Name(64, 1))
    store.write(f"{Name(128, 1)}/rank00000.safetensors", b"torn")
    write_manifest(store, Name(192, 1))
    store.write(Name(192, 1).tombstone, b"{}")
    store.write("images-7/MANIFEST.json", b"foreign")
    store.write("attempts/notes.json", b"foreign")
    (folder / "images-000000000256.a000001").write_bytes(b"a file")
    (folder / "notes.txt").touch()
    assert candidates(store) == [str(Name(64, 1))]


def test_what_a_replaced_group_commits_late_is_not_gone_on_from(store: LocalStore) -> None:
    write_manifest(store, Name(64, begin_attempt(store)))
    second = begin_attempt(store)
    note_base(store, second, str(Name(64, 1)))
    write_manifest(store, Name(128, 1))  # by the first group, which was thought dead
    assert candidates(store) == [str(Name(64, 1))]
    write_manifest(store, Name(96, second))
    assert candidates(store) == [str(Name(96, 2)), str(Name(64, 1))]


def test_a_group_that_died_before_it_knew_its_base_changes_nothing(store: LocalStore) -> None:
    write_manifest(store, Name(64, begin_attempt(store)))
    begin_attempt(store)
    assert candidates(store) == [str(Name(64, 1))]


def test_a_fresh_start_leaves_older_checkpoints_behind(store: LocalStore) -> None:
    write_manifest(store, Name(64, begin_attempt(store)))
    note_base(store, begin_attempt(store), None)
    assert candidates(store) == []


def test_going_back_a_checkpoint_leaves_the_branch_behind(store: LocalStore) -> None:
    for images in (64, 128, 192):
        write_manifest(store, Name(images, begin_attempt(store) if images == 64 else 1))
    note_base(store, begin_attempt(store), str(Name(128, 1)))
    assert candidates(store) == [str(Name(128, 1)), str(Name(64, 1))]
    note_base(store, begin_attempt(store), str(Name(64, 1)))
    assert candidates(store) == [str(Name(64, 1))]


def test_only_the_attempts_after_the_oldest_checkpoint_are_read(store: LocalStore) -> None:
    for _ in range(3):
        begin_attempt(store)
    Path(store.url, "attempts/000001.json").write_text("{")
    write_manifest(store, Name(64, 2))
    assert candidates(store) == [str(Name(64, 2))]


@pytest.mark.parametrize("text", ["{", "[]", '{"noted": true, "base": "../x"}'])
def test_a_damaged_attempt_is_told_and_not_guessed(store: LocalStore, text: str) -> None:
    write_manifest(store, Name(64, begin_attempt(store)))
    begin_attempt(store)
    Path(store.url, "attempts/000002.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"attempts/000002\.json: damaged"):
        candidates(store)


def test_a_base_that_is_no_checkpoint_is_refused(store: LocalStore) -> None:
    with pytest.raises(CheckpointError, match="'newest' is no name of a checkpoint"):
        note_base(store, begin_attempt(store), "newest")


def test_noting_a_base_keeps_what_is_known_of_the_attempt(store: LocalStore) -> None:
    attempt = begin_attempt(store)
    before = began(store, attempt)
    note_base(store, attempt, str(Name(64, 1)))
    assert began(store, attempt) == before
    assert bases(store, [attempt]) == {attempt: 64}


NAMES = st.lists(st.builds(Name, st.integers(0, 6), st.integers(1, 5)), max_size=12, unique=True)


@given(found=NAMES, bases=st.dictionaries(st.integers(1, 6), st.integers(-1, 6)))
def test_the_line_of_history_is_what_no_later_attempt_went_back_behind(
    found: list[Name], bases: dict[int, int]
) -> None:
    expected = [
        name
        for name in sorted(found, reverse=True)
        if all(name.images <= base for attempt, base in bases.items() if attempt > name.attempt)
    ]
    assert in_line(found, bases) == expected


def test_the_hint_names_the_newest_checkpoint_and_never_goes_back_to_an_older_attempt(store: LocalStore) -> None:
    commit(group(store, attempt=2), 64)
    assert json.loads(store.read("HEAD.json"))["checkpoint"] == str(Name(64, 2))
    move_head(store, Name(128, 1))
    assert json.loads(store.read("HEAD.json"))["attempt"] == 2
    move_head(store, Name(128, 2))
    assert json.loads(store.read("HEAD.json")) == {"checkpoint": str(Name(128, 2)), "images": 128, "attempt": 2}


def test_a_hint_that_is_damaged_or_gone_hurts_nobody(store: LocalStore) -> None:
    savers = group(store, attempt=begin_attempt(store))
    commit(savers, 64)
    for damage in (b"{", b"[]", b'{"checkpoint": 7}'):
        store.write("HEAD.json", damage)
        assert candidates(store) == [str(Name(64, 1))]
    store.delete("HEAD.json")
    assert candidates(store) == [str(Name(64, 1))]
    store.write("HEAD.json", b"{")
    commit(savers, 128)
    assert json.loads(store.read("HEAD.json"))["images"] == 128


def test_a_folder_says_nothing_of_conditions(store: LocalStore) -> None:
    events = Events()
    begin_attempt(store, on_event=events)
    assert events == []
