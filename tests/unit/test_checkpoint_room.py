"""Memory for a snapshot is taken only where machine and container have it to spare: else the kernel kills the run."""

from __future__ import annotations

from pathlib import Path

import pytest

from gen_dist.checkpoint import room
from gen_dist.checkpoint.layout import PAGE_BYTES
from gen_dist.checkpoint.room import STRETCH_BYTES, Limit, limits, take_room

GB = 1 << 30


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A machine with 64 GB, 40 of them free."""
    write(tmp_path, "proc/meminfo", f"MemTotal: {64 << 20} kB\nMemFree: 1 kB\nMemAvailable: {40 << 20} kB\nHuge: 0\n")
    write(tmp_path, "proc/self/cgroup", "0::/\n")
    return tmp_path


def write(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


def cgroup_2(root: Path, folder: str, most: str, used: int, cached: int = 0) -> None:
    write(root, f"sys/fs/cgroup{folder}/memory.max", f"{most}\n")
    write(root, f"sys/fs/cgroup{folder}/memory.current", f"{used}\n")
    write(root, f"sys/fs/cgroup{folder}/memory.stat", f"anon 5\ninactive_file {cached}\nactive_file 1\nshmem 7\n")


def test_the_machine_and_each_cgroup_above_are_limits(root: Path) -> None:
    assert limits(root) == [Limit("this machine", 64 * GB, 40 * GB)]
    write(root, "proc/self/cgroup", "0::/pod/worker\n")
    cgroup_2(root, "", "max", 50 * GB)
    cgroup_2(root, "/pod", str(16 * GB), 10 * GB, cached=3 * GB - 1)
    cgroup_2(root, "/pod/worker", str(8 * GB), 2 * GB)
    assert [limit.free_bytes for limit in limits(root)] == [40 * GB, 6 * GB + 1, 9 * GB]
    assert str(root / "sys/fs/cgroup/pod/worker") in limits(root)[1].where


@pytest.mark.parametrize("path", ["/", "/docker/0123", "/../../x"])
def test_a_container_that_sees_its_own_cgroup_as_the_top_one_has_that_limit(root: Path, path: str) -> None:
    write(root, "proc/self/cgroup", f"0::{path}\n")
    cgroup_2(root, "", str(4 * GB), GB)
    assert [limit.free_bytes for limit in limits(root)] == [40 * GB, 3 * GB + 1]


def test_cgroups_of_the_first_version_are_limits_too(root: Path) -> None:
    write(root, "proc/self/cgroup", "5:cpu:/pod\n4:memory,misc:/pod\n0::/\n")
    for folder, most in (("", (1 << 63) - 4096), ("/pod", 8 * GB)):
        write(root, f"sys/fs/cgroup/memory{folder}/memory.limit_in_bytes", f"{most}\n")
        write(root, f"sys/fs/cgroup/memory{folder}/memory.usage_in_bytes", f"{5 * GB}\n")
        text = f"inactive_file 1\nactive_file 1\ntotal_inactive_file {GB}\ntotal_active_file {GB}\n"
        write(root, f"sys/fs/cgroup/memory{folder}/memory.stat", text)
    assert [limit.free_bytes for limit in limits(root)] == [40 * GB, 5 * GB]


def test_a_machine_that_says_nothing_sets_no_limit(tmp_path: Path) -> None:
    assert limits(tmp_path) == []
    assert len(take_room(STRETCH_BYTES + 1, root=tmp_path)) == STRETCH_BYTES + 1
    write(tmp_path, "proc/self/cgroup", "nonsense\n0::/x\n")
    write(tmp_path, "proc/meminfo", "MemTotal:\nMemAvailable: much kB\n")
    cgroup_2(tmp_path, "/x", "many", 1)
    assert limits(tmp_path) == []


def test_room_begins_at_a_page_and_is_refused_where_too_little_would_stay(root: Path) -> None:
    assert take_room(1000, root=root).data_ptr() % PAGE_BYTES == 0
    cgroup_2(root, "", str(3 * GB), 2 * GB)
    assert len(take_room(2 * STRETCH_BYTES, root=root)) == 2 * STRETCH_BYTES
    with pytest.raises(MemoryError, match=rf"{GB} bytes of host memory .* cgroup .* left, .*; give it more"):
        take_room(GB, root=root)


def test_room_that_others_take_meanwhile_is_not_touched(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    free = iter([GB, GB // 2, GB // 16])
    monkeypatch.setattr(room, "limits", lambda _: [Limit("this machine", GB, next(free))])
    with pytest.raises(MemoryError, match=f"this machine has {GB // 16} of"):
        take_room(4 * STRETCH_BYTES, root=root)
    assert next(free, None) is None
