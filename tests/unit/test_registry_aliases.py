"""Who is champion is decided by pure functions, and written so that no decision and no entry of the audit is lost."""

from __future__ import annotations

import contextlib
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gen_dist.registry import aliases
from gen_dist.registry.aliases import Act, State
from gen_dist.registry.errors import RegistryError
from gen_dist.registry.ledger import Ledger
from gen_dist.store import ObjectInfo, StoreError, open_store
from gen_dist.store.local import LocalStore

ACT = Act(by="ann@desk", at="2026-01-01T00:00:00.000+00:00")
THERE = [str(number) for number in range(1, 7)]


def published(count: int) -> State:
    state = State("small", made_ms=1)
    for number in range(1, count + 1):
        state = aliases.published(state, str(number), act=ACT)
    return state


def promoted(state: State, *versions: str) -> State:
    for version in versions:
        state = aliases.promoted(state, version, alias="champion", seen=state.champion, act=ACT)
    return state


def test_the_newest_version_is_the_candidate_whatever_the_order_of_their_ends() -> None:
    state = aliases.published(published(10), "9", act=ACT)
    assert state.aliases == {"candidate": "10"}


def test_a_promotion_remembers_whom_it_followed() -> None:
    assert promoted(published(3), "1").aliases == {"candidate": "3", "champion": "1"}
    assert promoted(published(3), "1", "3").aliases == {"candidate": "3", "champion": "3", "previous": "1"}


def test_rolling_back_goes_down_the_line_of_champions_and_not_to_and_fro() -> None:
    state = promoted(published(3), "1", "2", "3")
    state = aliases.rolled_back(state, seen="3", there=THERE, act=ACT)
    assert (state.aliases["champion"], state.aliases["previous"]) == ("2", "1")
    state = aliases.rolled_back(state, seen="2", there=THERE, act=ACT)
    assert state.aliases["champion"] == "1"
    assert "previous" not in state.aliases
    with pytest.raises(RegistryError, match=r"small: no champion to return to, version 1 is its first champion"):
        aliases.rolled_back(state, seen="1", there=THERE, act=ACT)
    with pytest.raises(RegistryError, match="it has no champion yet"):
        aliases.rolled_back(published(1), seen="", there=THERE, act=ACT)


def test_rolling_back_passes_over_what_mlflow_no_longer_has() -> None:
    state = aliases.rolled_back(promoted(published(3), "1", "2", "3"), seen="3", there=["1", "3"], act=ACT)
    assert state.champion == "1"


def test_the_slower_of_two_is_told_who_was_quicker() -> None:
    seen = promoted(published(3), "1")
    now = promoted(seen, "2")
    told = r"small: version 2 became champion meanwhile \(by ann@desk, 2026-01-01T.*\); compare with it, then try again"
    with pytest.raises(RegistryError, match=told):
        aliases.promoted(now, "3", alias="champion", seen=seen.champion, act=ACT)
    with pytest.raises(RegistryError, match=told):
        aliases.promoted(now, "2", alias="champion", seen=seen.champion, act=ACT)
    with pytest.raises(RegistryError, match=told):
        aliases.rolled_back(now, seen=seen.champion, there=THERE, act=ACT)


def test_the_champion_is_not_promoted_again() -> None:
    with pytest.raises(RegistryError, match="small/2: champion already"):
        promoted(published(2), "2", "2")


@pytest.mark.parametrize("alias", ["previous", "latest"])
def test_aliases_that_follow_by_themselves_cannot_be_set(alias: str) -> None:
    with pytest.raises(RegistryError, match=f"--to {alias}: always .*; write --to champion, or a name of your own"):
        aliases.promoted(published(1), "1", alias=alias, seen="", act=ACT)


def test_a_version_that_is_held_is_not_deleted() -> None:
    state = aliases.pinned(promoted(published(4), "1", "2"), "3", act=Act(by="ann", at="", why="in the paper"))
    with pytest.raises(
        RegistryError, match="small/1: not deleted, it is previous; promote another first, or roll back"
    ):
        aliases.deleted(state, "1", act=ACT)
    with pytest.raises(RegistryError, match="small/2: not deleted, it is champion"):
        aliases.deleted(state, "2", act=ACT)
    with pytest.raises(RegistryError, match=r"pinned \(in the paper\); .* write gen-dist models unpin small/3"):
        aliases.deleted(state, "3", act=ACT)
    with pytest.raises(
        RegistryError, match="it is candidate; first write gen-dist models promote small/OTHER --to cand"
    ):
        aliases.deleted(state, "4", act=ACT)
    gone = aliases.deleted(aliases.unpinned(state, "3", act=ACT), "3", act=ACT)
    assert aliases.deleted(gone, "3", act=ACT) is gone
    with pytest.raises(RegistryError, match="small/3: deleted; take another version"):
        promoted(gone, "3")


MOVES = st.lists(
    st.tuples(st.sampled_from(["promote", "rollback", "delete", "pin", "unpin", "name"]), st.integers(1, 6))
)


@given(MOVES)
def test_whatever_is_decided_the_champion_stays_set_and_the_audit_tells_it_all(moves: list[tuple[str, int]]) -> None:
    state = promoted(published(6), "1")
    there, told_lines = set(THERE), []
    for move, number in moves:
        version, before = str(number), state
        try:
            if move == "promote":
                state = promoted(state, version)
            elif move == "rollback":
                state = aliases.rolled_back(state, seen=state.champion, there=there, act=ACT)
            elif move == "delete":
                state = aliases.deleted(state, version, act=ACT)
                there.discard(version)
            elif move == "pin":
                state = aliases.pinned(state, version, act=ACT)
            elif move == "unpin":
                state = aliases.unpinned(state, version, act=ACT)
            else:
                state = aliases.promoted(state, version, alias="staging", seen=state.champion, act=ACT)
        except RegistryError as error:
            told_lines.append(str(error).splitlines())
            assert state is before
        assert set(state.aliases.values()) <= there
        assert state.champion
        assert set(state.pins) <= there
        assert state.aliases["champion"] != state.aliases.get("previous")
    assert all(len(lines) == 1 for lines in told_lines)
    told: dict[str, str] = {}
    for entry in state.audit:
        assert entry["from"] == {alias: told.get(alias, "") for alias in entry["to"]}
        told = {alias: version for alias, version in {**told, **entry["to"]}.items() if version}
    assert told == state.aliases
    assert aliases.fault_of(state.audit) == ""


def test_an_entry_that_is_changed_or_cut_from_the_audit_is_seen() -> None:
    audit = [dict(entry) for entry in promoted(published(3), "1", "2").audit]
    assert aliases.fault_of(audit) == ""
    assert "entry 4 " in aliases.fault_of([*audit[:2], {**audit[2], "by": "somebody"}, *audit[3:]])
    assert "entry 3 " in aliases.fault_of([*audit[:2], *audit[3:]])
    assert "entry 1 " in aliases.fault_of(audit[1:])


def test_a_model_made_anew_in_mlflow_begins_without_aliases_and_keeps_its_audit() -> None:
    state = aliases.renewed(promoted(published(2), "2"), made_ms=2, act=ACT)
    assert (state.aliases, state.made_ms, len(state.audit)) == ({}, 2, 4)
    gone = aliases.deleted(published(2), "1", act=ACT)
    assert promoted(aliases.renewed(gone, made_ms=2, act=ACT), "1").champion == "1"


def ledger(folder: Path, name: str = "small") -> Ledger:
    return Ledger(open_store(str(folder)), name)


def test_a_ledger_reads_back_what_was_decided(tmp_path: Path) -> None:
    its = ledger(tmp_path)
    assert its.read() == State("small", made_ms=0)
    wanted = aliases.pinned(promoted(published(3), "1", "3"), "2", act=ACT)
    assert its.update(lambda state: wanted) == wanted
    assert ledger(tmp_path).read() == wanted
    assert json.loads((tmp_path / "registry/small.json").read_text())["aliases"] == wanted.aliases


@pytest.mark.parametrize("name", ["my model", "ünïcode", "a*b[c]", "..", "x?y"])
def test_a_ledger_has_a_file_whatever_the_model_is_called(name: str, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    its = ledger(tmp_path / "store", name)
    its.update(lambda state: aliases.published(state, "1", act=ACT))
    assert its.read().aliases == {"candidate": "1"}
    assert len(list((tmp_path / "store" / "registry").iterdir())) == 1


class Interrupted(LocalStore):
    """Another process writes between our read and our write, as often as `times` says."""

    def __init__(self, folder: Path, times: int) -> None:
        super().__init__(folder)
        self.times, self.other = times, Ledger(LocalStore(folder), "small")

    def write(self, name: str, data: bytes, *, if_version: str | None = None) -> ObjectInfo:
        if self.times:
            self.times -= 1
            self.other.update(lambda state: aliases.published(state, str(100 - self.times), act=ACT))
        return super().write(name, data, if_version=if_version)


def test_a_decision_is_made_again_where_another_was_written_first(tmp_path: Path) -> None:
    its = Ledger(Interrupted(tmp_path, times=3), "small")
    its.update(lambda state: aliases.published(state, "1", act=ACT))
    assert [entry["version"] for entry in its.read().audit] == ["98", "99", "100", "1"]
    assert its.read().aliases == {"candidate": "100"}


def test_a_decision_that_no_longer_holds_writes_nothing(tmp_path: Path) -> None:
    ledger(tmp_path).update(lambda state: promoted(published(3), "1"))
    its = ledger(tmp_path)
    seen = its.read().champion
    overtaken = []

    def slower(state: State) -> State:
        if not overtaken:
            overtaken.append(True)
            ledger(tmp_path).update(lambda state: promoted(state, "2"))
        return aliases.promoted(state, "3", alias="champion", seen=seen, act=ACT)

    with pytest.raises(RegistryError, match="version 2 became champion meanwhile"):
        its.update(slower)
    assert its.read().champion == "2"


class Careless(LocalStore):
    """Ignores the conditions of writes, as some S3 servers do; `meets` writers wait for each other at first."""

    def __init__(self, folder: Path, meets: int) -> None:
        super().__init__(folder)
        self.meeting = threading.Barrier(meets)

    def enforces_conditions(self) -> bool:
        return False

    def write(self, name: str, data: bytes, *, if_version: str | None = None) -> ObjectInfo:
        with contextlib.suppress(threading.BrokenBarrierError):  # only at their first write
            self.meeting.wait(10)
            self.meeting.abort()
        return super().write(name, data)


def test_where_conditions_are_ignored_one_of_two_promotions_wins_and_the_other_is_told(tmp_path: Path) -> None:
    ledger(tmp_path).update(lambda state: promoted(published(3), "1"))
    store = Careless(tmp_path, meets=2)

    def promote(version: str) -> str:
        def decide(state: State) -> State:
            return aliases.promoted(state, version, alias="champion", seen="1", act=ACT)

        try:
            return Ledger(store, "small", settle_s=0.5).update(decide).champion
        except RegistryError as error:
            return str(error)

    with ThreadPoolExecutor(2) as pool:
        ends = sorted(pool.map(promote, ("2", "3")), key=len)
    winner = ledger(tmp_path).read()
    assert ends[0] == winner.champion
    assert ends[1].startswith(f"small: version {winner.champion} became champion meanwhile")
    assert [entry["action"] for entry in winner.audit] == [*["publish"] * 3, "promote", "promote"]


class Torn(LocalStore):
    """Answers a read with a part of the object, as often as `times` says: it was being written over."""

    def __init__(self, folder: Path, times: int) -> None:
        super().__init__(folder)
        self.times = times

    def read(self, name: str, *args: Any, **kwargs: Any) -> bytes:
        self.times -= 1
        data = super().read(name, *args, **kwargs)
        return data[: len(data) // 2] if self.times >= 0 else data


def test_an_answer_torn_by_another_write_is_asked_for_again(tmp_path: Path) -> None:
    ledger(tmp_path).update(lambda state: published(2))
    its = Ledger(Torn(tmp_path, times=2), "small")
    its.update(lambda state: aliases.published(state, "3", act=ACT))
    assert [entry["version"] for entry in ledger(tmp_path).read().audit] == ["1", "2", "3"]


class Full(LocalStore):
    def write(self, name: str, data: bytes, *, if_version: str | None = None) -> ObjectInfo:
        raise StoreError(f"{self.url}/{name}: No space left on device; make room there")


def test_storage_that_fails_is_told_in_one_line_and_not_tried_for_ever(tmp_path: Path) -> None:
    with pytest.raises(RegistryError, match=r"small: its ledger .*small\.json does not answer: .* make room there"):
        Ledger(Full(tmp_path), "small").update(lambda state: published(1))
    with pytest.raises(RegistryError, match="does not exist"):
        ledger(tmp_path / "nowhere").read()


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"format": "other", "name": "small"}', '{"format": "gen-dist-registry-1", "name": "big"}']
)
def test_what_is_no_ledger_is_told_and_never_written_over(text: str, tmp_path: Path) -> None:
    path = tmp_path / "registry" / "small.json"
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(RegistryError, match=r"small\.json: not a ledger of models .*; put the last good copy back"):
        ledger(tmp_path).update(lambda state: published(1))
    assert path.read_text() == text
