"""The log of a run: what was written is read again, what was torn is passed over, a full disk loses nothing."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from gen_dist.registry.wal import WAL, WalReader, WalWriter, frame, parse, read_events, segments


def event(number: int, **facts: Any) -> dict[str, Any]:
    return {"kind": "metrics", "at_s": 1e9 + number / 3, "images": number, "metrics": {"loss/a": 0.1 * number}, **facts}


def test_an_event_comes_back_as_it_was_said(tmp_path: Path) -> None:
    said = [event(0), event(1, note='a "quoted" line\nand another, größer'), {"kind": "end", "at_s": 2.0, "images": 1}]
    writer = WalWriter(tmp_path)
    for one in said:
        assert writer.append({**one, "png": b"\x89PNG"}, sync=one["kind"] == "end")
    writer.close()
    assert read_events(tmp_path) == said
    lines = (tmp_path / "000001.jsonl").read_bytes().splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["metrics", "metrics", "end"]  # any reader of JSON can


def test_numbers_that_are_none_come_back_too(tmp_path: Path) -> None:
    writer = WalWriter(tmp_path)
    writer.append({"kind": "metrics", "at_s": 1.0, "metrics": {"a": float("inf"), "b": float("nan")}})
    found = read_events(tmp_path)[0]["metrics"]
    assert found["a"] == float("inf")
    assert found["b"] != found["b"]


def test_every_flipped_bit_of_a_line_is_noticed() -> None:
    line = frame(event(7))[:-1]
    assert parse(line) == event(7)
    for place in range(len(line)):
        for bit in range(8):
            broken = line[:place] + bytes([line[place] ^ 1 << bit]) + line[place + 1 :]
            assert parse(broken) is None


def test_every_torn_end_of_a_log_leaves_the_lines_before_it(tmp_path: Path) -> None:
    whole = frame(event(1)) + frame(event(2))
    path = tmp_path / "000001.jsonl"
    first = len(frame(event(1)))
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        assert len(read_events(tmp_path)) == (size >= first)
    path.write_bytes(whole[: first + 9] + b"\n" + frame(event(3)))
    assert [one["images"] for one in read_events(tmp_path)] == [1, 3]


def test_a_log_can_be_read_while_it_is_written(tmp_path: Path) -> None:
    writer = WalWriter(tmp_path, segment_bytes=2_000)
    thread = threading.Thread(target=lambda: [writer.append(event(number)) for number in range(500)])
    reader, found = WalReader(tmp_path), []
    thread.start()
    while thread.is_alive() or len(found) < 500:
        found += [entry.event["images"] for entry in reader.read(7) if entry.event["kind"] == "metrics"]
    assert found == list(range(500))
    assert len(segments(tmp_path)) > 10
    assert max(path.stat().st_size for path in segments(tmp_path)) <= 2_000


def test_a_reader_goes_on_where_another_one_stopped(tmp_path: Path) -> None:
    writer = WalWriter(tmp_path, segment_bytes=2_000)
    for number in range(100):
        writer.append(event(number))
    entries = WalReader(tmp_path).read(40)
    rest = WalReader(tmp_path, {entry.file: entry.end for entry in entries}).read(1_000)
    numbers = [one.event["images"] for one in [*entries, *rest] if "images" in one.event]
    assert numbers == list(range(100))


def test_two_writers_never_share_a_file(tmp_path: Path) -> None:
    writers = [WalWriter(tmp_path, segment_bytes=1_000) for _ in range(4)]

    def write(first: int) -> None:
        for number in range(first, 400, 4):
            writers[first].append(event(number))

    threads = [threading.Thread(target=write, args=(first,)) for first in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one["images"] for one in read_events(tmp_path)) == list(range(400))


FILLED = """
import resource, signal, sys
from pathlib import Path
from gen_dist.registry.wal import WalWriter
folder, limit = Path(sys.argv[1]), int(sys.argv[2])
writer = WalWriter(folder)
say = lambda number: writer.append({"kind": "metrics", "at_s": 1.0, "images": number, "metrics": {"loss/a": 0.5}})
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))  # as a disk with so much room
while say(number := globals().get("number", -1) + 1):
    pass
full = writer.trouble
assert writer.num_waiting == 1 and "too large" in full, full
for number in range(number + 1, number + 51):
    assert not say(number)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
assert say(number + 1)
assert writer.trouble is None and writer.num_waiting == 0 and writer.num_dropped == 0
print(number + 2)
"""


@pytest.mark.parametrize("limit", [1_000, 1_001, 1_050])
def test_a_full_disk_loses_nothing_once_there_is_room(tmp_path: Path, limit: int) -> None:
    call = [sys.executable, "-c", FILLED, str(tmp_path), str(limit)]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [one["images"] for one in read_events(tmp_path)] == list(range(int(done.stdout)))


def test_a_disk_that_stays_full_costs_lines_that_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gen_dist.registry.wal.MOST_WAITING_LINES", 10)
    writer = WalWriter(tmp_path)
    writer.append(event(0))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "000001.jsonl").stat().st_size, before[1]))
    try:
        for number in range(1, 31):
            assert not writer.append(event(number))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert writer.num_dropped == 20
    assert writer.append(event(31))
    assert [one["images"] for one in read_events(tmp_path)] == [0, *range(21, 32)]


def test_a_killed_writer_loses_at_most_what_it_had_not_said(tmp_path: Path) -> None:
    code = """
import sys
from gen_dist.registry.wal import WalWriter
from pathlib import Path
writer = WalWriter(Path(sys.argv[1]))
for number in range(10**9):
    writer.append({"kind": "metrics", "at_s": 1.0, "images": number, "metrics": {}})
    print(number, flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / WAL)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = [int(process.stdout.readline()) for _ in range(200)]
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    found = [one["images"] for one in read_events(tmp_path / WAL)]
    assert found[:200] == said
    assert found == list(range(len(found)))


def test_what_the_driver_says_stands_behind_what_it_had_heard(tmp_path: Path) -> None:
    """Its file has the lower number, and its clock may be an hour behind."""
    driver, told = WalWriter(tmp_path), []

    def say(**facts: Any) -> None:
        driver.append({"kind": "death", "at_s": 1.0, **facts})
        told.append(facts["number"])

    def work(worker: WalWriter, number: int) -> list[Any]:
        worker.append({"kind": "metrics", "at_s": 1e9, "number": number, "metrics": {}})
        told.append(number)
        return [worker.name, worker.end_bytes]

    say(number=0)
    first = WalWriter(tmp_path)
    work(first, 1)
    heard = work(first, 2)
    say(number=3, after=heard)
    work(first, 4)
    second = WalWriter(tmp_path)
    heard = work(second, 5)
    say(number=6, after=heard)
    say(number=7, after=heard)
    heard = work(second, 8)
    other_driver = WalWriter(tmp_path)
    other_driver.append({"kind": "death", "at_s": 0.0, "number": 9, "after": heard})
    other_driver.append({"kind": "death", "at_s": 0.0, "number": 10, "after": ["000077.jsonl", 9]})  # was lost
    assert [one["number"] for one in read_events(tmp_path)] == [*told, 9, 10]
    reader, found = WalReader(tmp_path), []
    while entries := reader.read(1):
        found.append(entries[0].event["number"])
        reader = WalReader(tmp_path, reader._offsets)
    assert found == list(range(11))
