"""The local disk cache: never wrong, never in the way, bounded, and shared."""

from __future__ import annotations

import logging
import multiprocessing
import os
import pickle
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from gen_dist.store.disk_cache import STALE_S, CachedStore
from gen_dist.store.local import LocalStore

BLOCK_BYTES = 10_000
LIMIT_BYTES = 100 * BLOCK_BYTES


@pytest.fixture
def data() -> bytes:
    return os.urandom(300 * BLOCK_BYTES)


@pytest.fixture
def inner(tmp_path: Path, data: bytes) -> LocalStore:
    store = LocalStore(tmp_path / "store")
    store.write("x", data)
    return store


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def cached(inner: LocalStore, folder: Path) -> CachedStore:
    return CachedStore(inner, folder, limit_bytes=LIMIT_BYTES)


def entries(folder: Path) -> list[Path]:
    return sorted(folder.glob("??/*.entry"))


def used_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def block(store: CachedStore, number: int, version: str) -> bytes:
    return store.read("x", number * BLOCK_BYTES, (number + 1) * BLOCK_BYTES, version=version)


def test_a_second_read_comes_from_the_disk(cached: CachedStore, data: bytes) -> None:
    version = cached.list("x")[0].version
    for num_read in (1, 1, 1):
        assert block(cached, 3, version) == data[3 * BLOCK_BYTES : 4 * BLOCK_BYTES]
        assert cached.stats.received_bytes == num_read * BLOCK_BYTES
    out = bytearray(BLOCK_BYTES)
    assert cached.read_into("x", 3 * BLOCK_BYTES, memoryview(out), version=version) == BLOCK_BYTES
    assert out == data[3 * BLOCK_BYTES : 4 * BLOCK_BYTES]
    assert (cached.stats.num_cache_hits, cached.stats.cached_bytes) == (3, 3 * BLOCK_BYTES)


def test_a_range_over_the_end_of_an_object_is_as_short_from_the_disk(cached: CachedStore, data: bytes) -> None:
    version = cached.list("x")[0].version
    for _ in range(2):
        assert cached.read("x", len(data) - 10, len(data) + 10, version=version) == data[-10:]
        assert cached.read("x", len(data), len(data) + 10, version=version) == b""
        assert cached.read("x", 5, 5, version=version) == b""
    assert cached.stats.num_cache_hits == 2


def test_ranges_versions_names_and_stores_are_kept_apart(
    cached: CachedStore, folder: Path, tmp_path: Path, data: bytes
) -> None:
    old = cached.list("x")[0].version
    assert cached.read("x", 0, 10, version=old) == data[:10]
    assert cached.read("x", 0, 11, version=old) == data[:11]
    new = cached.write("x", b"another one, of another time").version
    assert cached.read("x", 0, 10, version=new) == b"another on"
    assert cached.read("x", 0, 10, version=old) == data[:10]  # what was asked for, still
    other = LocalStore(tmp_path / "other")
    other.write("x", b"y" * 100)
    elsewhere = CachedStore(other, folder, limit_bytes=LIMIT_BYTES)
    assert elsewhere.read("x", 0, 10, version=other.list("x")[0].version) == b"y" * 10
    assert len(entries(folder)) == 4


def test_an_object_without_a_version_is_never_kept(cached: CachedStore, folder: Path, data: bytes) -> None:
    for _ in range(2):
        assert cached.read("x", 0, 10) == data[:10]
        assert cached.read_into("x", 0, memoryview(bytearray(10))) == 10
    assert not entries(folder)
    assert cached.stats.num_cache_hits == 0


@pytest.mark.parametrize("damage", ["flipped bit", "cut", "empty", "longer", "zeros", "footer"])
def test_a_damaged_entry_is_read_again(cached: CachedStore, folder: Path, data: bytes, damage: str) -> None:
    version = cached.list("x")[0].version
    block(cached, 0, version)
    (path,) = entries(folder)
    kept = path.read_bytes()
    path.write_bytes(
        {
            "flipped bit": kept[:500] + bytes([kept[500] ^ 1]) + kept[501:],
            "cut": kept[:-30],
            "empty": b"",
            "longer": kept + b"x",
            "zeros": bytes(len(kept)),
            "footer": kept[:-1] + bytes([kept[-1] ^ 1]),
        }[damage]
    )
    for _ in range(2):
        assert block(cached, 0, version) == data[:BLOCK_BYTES]
    assert cached.stats.num_cache_hits == 1
    assert path.read_bytes() == kept


def test_the_cache_stays_below_its_limit_and_keeps_what_was_used_last(
    cached: CachedStore, folder: Path, data: bytes
) -> None:
    version = cached.list("x")[0].version
    for number in range(300):
        block(cached, 0, version)  # in use all the time
        block(cached, number, version)
        assert number % 10 or used_bytes(folder) <= LIMIT_BYTES
    received_bytes = cached.stats.received_bytes
    for number in (0, *range(260, 300)):
        assert block(cached, number, version) == data[number * BLOCK_BYTES : (number + 1) * BLOCK_BYTES]
    assert cached.stats.received_bytes == received_bytes
    assert used_bytes(folder) > LIMIT_BYTES // 2


def test_what_is_larger_than_the_cache_is_not_kept(inner: LocalStore, folder: Path, data: bytes) -> None:
    small = CachedStore(inner, folder, limit_bytes=100)
    version = small.list("x")[0].version
    assert small.read("x", 0, 100, version=version) == data[:100]
    assert small.read("x", 0, 50, version=version) == data[:50]
    assert len(entries(folder)) == 1


def test_a_new_run_counts_what_an_old_one_left(inner: LocalStore, folder: Path, cached: CachedStore) -> None:
    version = cached.list("x")[0].version
    for number in range(90):
        block(cached, number, version)
    later = pickle.loads(pickle.dumps(CachedStore(inner, folder, limit_bytes=LIMIT_BYTES // 2)))
    block(later, 299, version)
    assert used_bytes(folder) <= LIMIT_BYTES // 2
    block(later, 299, version)
    assert later.stats.num_cache_hits == 1


def test_a_disk_that_cannot_be_written_to_is_logged_once_and_not_in_the_way(
    inner: LocalStore, tmp_path: Path, data: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_bytes(b"")
    cached = CachedStore(inner, tmp_path / "file" / "below", limit_bytes=LIMIT_BYTES)
    version = cached.list("x")[0].version
    with caplog.at_level(logging.WARNING):
        for number in range(3):
            assert block(cached, number, version) == data[number * BLOCK_BYTES : (number + 1) * BLOCK_BYTES]
    assert len(caplog.records) == 1
    assert "event=cache_off" in caplog.text


def test_a_limit_that_is_none_is_refused(inner: LocalStore, folder: Path) -> None:
    with pytest.raises(ValueError, match=r"limit_bytes=0; use 1 or more"):
        CachedStore(inner, folder, limit_bytes=0)


def _read_for_ever(store: CachedStore, seed: int, seconds: float, result: Any) -> None:
    """Reads blocks in an order of its own, and counts those that are wrong."""
    version = store.list("x")[0].version
    num_wrong, deadline = 0, time.monotonic() + seconds
    number = seed
    while time.monotonic() < deadline:
        number = (number * 7 + 3) % 300
        out = memoryview(bytearray(BLOCK_BYTES))
        store.read_into("x", number * BLOCK_BYTES, out, version=version)
        num_wrong += out[:1] != bytes([number % 256]) or len(set(bytes(out))) != 1
    result.put(num_wrong)


def test_processes_share_a_cache_and_one_that_is_killed_does_no_harm(tmp_path: Path, folder: Path) -> None:
    inner = LocalStore(tmp_path / "store")
    inner.write("x", b"".join(bytes([number % 256]) * BLOCK_BYTES for number in range(300)))
    cached = CachedStore(inner, folder, limit_bytes=LIMIT_BYTES)
    context = multiprocessing.get_context("fork")
    result = context.Queue()
    readers = [context.Process(target=_read_for_ever, args=(cached, seed, 1.5, result)) for seed in range(3)]
    doomed = [context.Process(target=_read_for_ever, args=(cached, seed, 60.0, result)) for seed in range(3, 8)]
    for process in (*readers, *doomed):
        process.start()
    for process in doomed:
        time.sleep(0.15)
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
    assert [result.get(timeout=300) for _ in readers] == [0, 0, 0]
    for process in readers:
        process.join()
    assert used_bytes(folder) <= LIMIT_BYTES * 5 // 4  # each of eight processes may write 1/32 before it looks


def test_parts_of_killed_processes_are_removed(inner: LocalStore, cached: CachedStore, folder: Path) -> None:
    version = cached.list("x")[0].version
    block(cached, 0, version)
    path = entries(folder)[0]
    stale, fresh = path.with_name(f"{path.name}.a.part"), path.with_name(f"{path.name}.b.part")
    for part in (stale, fresh):
        part.write_bytes(b"half")
    os.utime(stale, (0, time.time() - STALE_S - 1))
    block(CachedStore(inner, folder, limit_bytes=LIMIT_BYTES), 1, version)
    assert not stale.exists()
    assert fresh.exists()
