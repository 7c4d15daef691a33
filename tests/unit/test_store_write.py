"""Objects written and read back, the same in a folder and in a bucket, with ETags and without."""

from __future__ import annotations

import fcntl
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gen_dist.store import ConflictError, MissingError, Store, StoreError, local, open_store
from gen_dist.store.local import LocalStore
from gen_dist.store.s3 import S3Store
from tests.support.gateway import Gateway, run_gateway

KINDS = ["folder", "s3", "s3-without-etag"]


@pytest.fixture(scope="module")
def gateways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Gateway]]:
    with (
        run_gateway(tmp_path_factory.mktemp("etag")) as with_etag,
        run_gateway(tmp_path_factory.mktemp("plain"), keep_etag=False) as without,
    ):
        yield {"s3": with_etag, "s3-without-etag": without}


@pytest.fixture(params=KINDS)
def store(
    request: pytest.FixtureRequest, gateways: dict[str, Gateway], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Store:
    """An empty store of each kind."""
    if request.param == "folder":
        return LocalStore(tmp_path / "store")
    gateway = gateways[request.param]
    for name, value in gateway.environment.items():
        monkeypatch.setenv(name, value)
    return S3Store(
        bucket=gateway.bucket,
        prefix=f"{tmp_path.name}",
        endpoint_url=gateway.endpoint_url,
        region=gateway.region,
        addressing="path",
    )


def pause_for_clock(store: Store) -> None:
    """Until a new object gets another time: a store without ETags tells versions of one size apart by whole seconds."""
    if isinstance(store, S3Store):
        time.sleep(1.05)


def test_what_is_written_is_listed_with_its_version_and_read_back(store: Store) -> None:
    infos = [store.write("b.bin", b"second"), store.write("a.bin", b""), store.write("deep/c.bin", bytes(range(256)))]
    assert store.list("*.bin") == [infos[1], infos[0]]
    assert store.list("deep/*") == [infos[2]]
    assert all(info.version for info in infos)
    for info, data in zip(infos, [b"second", b"", bytes(range(256))], strict=True):
        assert info.size_bytes == len(data)
        assert store.read(info.name, version=info.version) == data
        assert store.stream(info.name, version=info.version).read() == data


def test_ranges_are_half_open_and_end_with_the_object(store: Store) -> None:
    data = os.urandom(3_000_000)
    info = store.write("x", data)
    for start, end in [(0, 10), (5, 5), (2_999_990, 3_000_010), (3_000_000, 3_000_001), (0, 3_000_000), (7, None)]:
        assert store.read("x", start, end, version=info.version) == data[start:end]
        if end is not None:
            out = bytearray(end - start)
            num_bytes = store.read_into("x", start, memoryview(out), version=info.version)
            assert out[:num_bytes] == data[start:end]
    with store.open("x", version=info.version) as file:
        file.seek(1_000_000)
        assert file.read(10) == data[1_000_000:1_000_010]
        assert file.read() == data[1_000_010:]


def test_a_write_replaces_and_a_reader_of_the_old_version_is_stopped(store: Store) -> None:
    old = store.write("x", b"a" * 1000)
    pause_for_clock(store)
    new = store.write("x", b"b" * 1000)
    assert old.version != new.version
    assert store.read("x", version=new.version) == b"b" * 1000
    reads = [
        lambda: store.read("x", version=old.version),
        lambda: store.read("x", 10, 20, version=old.version),
        lambda: store.read_into("x", 10, memoryview(bytearray(5)), version=old.version),
        lambda: store.open("x", version=old.version).read(),
        lambda: store.stream("x", version=old.version).read(),
    ]
    for read in reads:
        with pytest.raises(StoreError, match=r"x: .*the object changed after it was indexed; restart") as caught:
            read()
        assert "\n" not in str(caught.value)


def test_an_object_that_shrank_is_no_end_of_the_object(store: Store) -> None:
    old = store.write("x", b"a" * 1000)
    store.write("x", b"b" * 100)
    with pytest.raises(StoreError, match="the object changed after it was indexed"):
        store.read("x", 500, 600, version=old.version)


def test_only_if_absent_writes_once(store: Store) -> None:
    store.write("x", b"one", if_version="")
    with pytest.raises(ConflictError, match=r"x: not written, .*; another process writes it: read it again"):
        store.write("x", b"two", if_version="")
    assert store.read("x") == b"one"


def test_only_if_unchanged_writes_over_that_version_alone(store: Store) -> None:
    first = store.write("x", b"one")
    second = store.write("x", b"second", if_version=first.version)
    with pytest.raises(StoreError, match=r"x: not written, its version is .*; another process writes it"):
        store.write("x", b"third", if_version=first.version)
    assert store.read("x", version=second.version) == b"second"
    store.delete("x")
    with pytest.raises(ConflictError, match="x: not written, it is gone"):
        store.write("x", b"third", if_version=second.version)


def test_a_deleted_object_is_gone_and_deleting_it_again_is_fine(store: Store) -> None:
    store.write("x", b"one")
    store.delete("x")
    store.delete("x")
    assert store.list("*") == []
    for read in (lambda: store.read("x"), lambda: store.stream("x").read(), lambda: store.open("x").read()):
        with pytest.raises(MissingError, match="x: "):
            read()


@pytest.mark.parametrize("size_bytes", [0, 1000, 40_000_000])
def test_a_file_of_any_size_is_copied_whole(store: Store, tmp_path: Path, size_bytes: int) -> None:
    data = os.urandom(1000) * (size_bytes // 1000)
    (tmp_path / "source").write_bytes(data)
    info = store.write_file("deep/copy", tmp_path / "source")
    assert store.list("deep/*") == [info]
    assert store.read("deep/copy", version=info.version) == data
    assert store.stats.sent_bytes == size_bytes


@pytest.mark.parametrize(("num_pieces", "piece_bytes"), [(0, 0), (3, 1000), (1, 40_000_000), (50, 1_000_003)])
def test_a_stream_of_pieces_is_one_object(store: Store, num_pieces: int, piece_bytes: int) -> None:
    pieces = [os.urandom(100) * (piece_bytes // 100) + bytes(piece_bytes % 100) for _ in range(num_pieces)]
    size_bytes = num_pieces * piece_bytes
    info = store.write_stream("deep/x", map(memoryview, pieces), size_bytes=size_bytes)
    assert store.list("deep/*") == [info]
    assert store.read("deep/x", version=info.version) == b"".join(pieces)
    assert store.stats.sent_bytes == size_bytes


@pytest.mark.parametrize("size_bytes", [100, 40_000_000])
@pytest.mark.parametrize("wrong_bytes", [-1, 1])
def test_a_stream_that_does_not_add_up_leaves_the_object_as_it_was(
    store: Store, size_bytes: int, wrong_bytes: int
) -> None:
    store.write("x", b"old")
    with pytest.raises(StoreError, match=r"x: not written, its pieces are .* bytes and not"):
        store.write_stream("x", [memoryview(bytes(size_bytes))], size_bytes=size_bytes + wrong_bytes)
    assert store.read("x") == b"old"
    assert [info.name for info in store.list("*")] == ["x"]


def test_a_stream_whose_source_fails_leaves_nothing(store: Store) -> None:
    def pieces() -> Iterator[memoryview]:
        yield memoryview(bytes(20_000_000))
        raise ValueError("the source failed")

    with pytest.raises(ValueError, match="the source failed"):
        store.write_stream("x", pieces(), size_bytes=40_000_000)
    assert store.list("*") == []


def test_whether_a_condition_of_a_write_is_looked_at_is_found_out(store: Store) -> None:
    assert store.enforces_conditions() == isinstance(store, LocalStore)  # this server ignores them
    assert not isinstance(store, S3Store) or store.list("*") == []


def test_a_file_that_is_not_there_is_named(store: Store, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"gone: no such file, so .*/x is not written; correct the path"):
        store.write_file("x", tmp_path / "gone")


@pytest.mark.parametrize("name", ["", "/x", "../x", "a/../x", "a//x", "a/", "./x"])
def test_a_name_that_leads_out_of_the_store_is_refused(store: Store, name: str) -> None:
    for act in (lambda: store.write(name, b""), lambda: store.delete(name)):
        with pytest.raises(StoreError, match=r"is no name of an object; write folder/name"):
            act()


def test_what_was_received_and_sent_is_counted(store: Store) -> None:
    store.write("x", b"a" * 1000)
    store.read("x", 0, 300)
    store.read_into("x", 0, memoryview(bytearray(50)))
    counts = store.stats.counts()
    assert (counts["received_bytes"], counts["sent_bytes"], counts["num_retries"]) == (350, 1000, 0)
    assert (counts["num_requests"] > 0) == isinstance(store, S3Store)


def test_a_folder_keeps_no_empty_folders_as_a_bucket_has_none(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    store.write("a/b/c", b"")
    store.write("a/d", b"")
    store.delete("a/b/c")
    assert [path.name for path in sorted((tmp_path / "store").rglob("*"))] == ["a", "d"]
    store.delete("a/d")
    assert list((tmp_path / "store").iterdir()) == []


def test_writers_and_removers_of_one_folder_do_not_trip_over_each_other(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)

    def work(number: int) -> None:
        for _ in range(50):
            store.write(f"deep/folder/{number}", b"")
            store.delete(f"deep/folder/{number}")

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    failed: list[object] = []
    hook, threading.excepthook = threading.excepthook, failed.append
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        threading.excepthook = hook
    assert failed == []


def test_embedded_data_has_no_versions_and_is_not_written() -> None:
    store = open_store("embedded://emoji")
    assert {info.version for info in store.list("*.tar")} == {""}  # each machine installs its own copy
    for act in (lambda: store.write("x", b""), lambda: store.delete("x")):
        with pytest.raises(StoreError, match="embedded data cannot be written; use a folder or s3://"):
            act()


def test_versions_of_quick_writes_differ_in_a_folder(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    assert len({store.write("x", b"same size").version for _ in range(50)}) == 50


def test_of_many_writers_that_replace_one_version_one_wins(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    for if_version in ("", store.write("y", b"old").version):
        name = "y" if if_version else "x"
        won: list[int] = []

        def write(number: int, name: str = name, version: str = if_version, won: list[int] = won) -> None:
            try:
                store.write(name, b"new %d" % number, if_version=version)
                won.append(number)
            except StoreError:
                pass

        threads = [threading.Thread(target=write, args=(number,)) for number in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert store.read(name) == b"new %d" % won[0]


def _write_for_ever(folder: Path, started: Any) -> None:
    store = LocalStore(folder)
    letter = 0
    while True:
        letter = (letter + 1) % 26
        store.write("x", bytes([65 + letter]) * 5_000_000)
        started.set()


def test_a_process_that_stands_still_with_the_folder_locked_stops_no_other_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = LocalStore(tmp_path)
    info = store.write("x", b"old")
    monkeypatch.setattr(local, "LOCK_PATIENCE_S", 0.05)
    handle = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(StoreError, match=r"x: not written, a process that stands still .* end that process"):
        store.write("x", b"new", if_version=info.version)
    assert store.read("x") == b"old"
    os.close(handle)
    store.write("x", b"new", if_version=info.version)
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_writer_that_is_killed_leaves_a_whole_object(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    for _ in range(5):
        started = context.Event()
        writer = context.Process(target=_write_for_ever, args=(tmp_path, started))
        writer.start()
        assert started.wait(300)
        time.sleep(0.01)
        os.kill(writer.pid or 0, signal.SIGKILL)
        writer.join()
        data = LocalStore(tmp_path).read("x")
        assert len(data) == 5_000_000
        assert len(set(data)) == 1
    store = LocalStore(tmp_path)
    assert [info.name for info in store.list("*")] == ["x"]
    for part in tmp_path.glob(".*.part"):
        os.utime(part, (0, 0))
    store.write("x", b"")
    assert [path.name for path in tmp_path.iterdir()] == ["x"]
