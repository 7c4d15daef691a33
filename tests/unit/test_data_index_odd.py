"""Tars of every odd shape: what webdataset reads we read too, and the rest is left out or refused by name."""

from __future__ import annotations

import io
import tarfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import webdataset as wds

from gen_dist.data.decode import DecodeError
from gen_dist.data.errors import DataError
from gen_dist.data.index import ShardTable, find_index, scan_shard
from gen_dist.data.index.look import size_px
from gen_dist.store import open_store
from tests.support import odd_tars
from tests.support.odd_images import decode_image, odd_images
from tests.support.odd_tars import add, jpeg

ODD = odd_images()


class Pipe(io.RawIOBase):
    """Gives its bytes once, some at a time, and never seeks."""

    def __init__(self, data: bytes) -> None:
        self._file = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._file.read(min(size, 700) if size >= 0 else size)


def scan(data: bytes, *, look: bool = False) -> ShardTable:
    return scan_shard(Pipe(data) if look else io.BytesIO(data), where="x.tar", look=look)  # type: ignore[arg-type]


def samples_of(table: ShardTable, data: bytes) -> list[dict[str, object]]:
    return [
        {"__key__": table.key(row), **{e: data[at : at + size] for e, (at, size) in table.members(row).items()}}
        for row in range(len(table))
    ]


def webdataset_samples(path: Path) -> list[dict[str, object]]:
    return [
        {key: value for key, value in sample.items() if key not in ("__url__", "__local_path__")}
        for sample in wds.WebDataset([str(path)], shardshuffle=False, empty_check=False)
    ]


@pytest.mark.parametrize("look", [False, True])
@pytest.mark.parametrize("form", odd_tars.FORMATS)
@pytest.mark.parametrize("shape", odd_tars.READABLE)
def test_samples_are_those_of_webdataset(tmp_path: Path, shape: str, form: str, look: bool) -> None:
    path = tmp_path / "x.tar"
    odd_tars.write(path, odd_tars.READABLE[shape], odd_tars.FORMATS[form])
    data = path.read_bytes()
    table = scan(data, look=look)
    assert samples_of(table, data) == webdataset_samples(path)
    assert len(table)
    assert not table.left_out
    again = ShardTable.from_bytes(table.to_bytes({"name": "x.tar"}), where="x")
    assert again.digest == table.digest
    assert samples_of(again, data) == samples_of(table, data)


def test_a_look_takes_sizes_and_checksums(tmp_path: Path) -> None:
    odd_tars.write(tmp_path / "x.tar", odd_tars.missing_captions)
    data = (tmp_path / "x.tar").read_bytes()
    table = scan(data, look=True)
    pairs = zip(table.offset_bytes.tolist(), table.size_bytes.tolist(), strict=True)
    assert table.crc32.tolist() == [zlib.crc32(data[at : at + size]) for at, size in pairs]
    assert set(table.width_px.tolist()) == set(table.height_px.tolist()) == {16}
    assert not len(scan(data).crc32)
    assert table.digest == scan(data).digest


def test_images_that_cannot_be_decoded_are_left_out_and_listed(tmp_path: Path) -> None:
    odd_tars.write(tmp_path / "x.tar", odd_tars.bad_images)
    data = (tmp_path / "x.tar").read_bytes()
    table = scan(data, look=True)
    keys = [table.key(row) for row in range(len(table))]
    assert keys == ["good-1", "good-cmyk", "good-gif", "good-grey", "good-dot", "good-turned"]
    assert [left.key for left in table.left_out] == ["bad-empty", "bad-cut", "bad-scan", "bad-text", "bad-png"]
    assert table.left_out[0].reason == ".jpg has no bytes"
    assert all("cannot be decoded (" in left.reason and "\n" not in left.reason for left in table.left_out[1:])
    assert (table.width_px[5], table.height_px[5]) == (24, 8)  # upright
    assert (table.width_px[4], table.height_px[4]) == (1, 1)
    assert [left.key for left in scan(data).left_out] == ["bad-empty"]


def can(decode: Callable[[bytes], object], data: bytes) -> bool:
    try:
        decode(data)
    except DecodeError:
        return False
    return True


@pytest.mark.parametrize("name", ODD)
def test_a_look_judges_an_image_as_a_run_does(name: str) -> None:
    data, seen = ODD[name]
    assert size_px(data) == seen.size
    for damaged in (data[: len(data) * 2 // 3], data[:20], b"\xff\xd8\xff" + data[3:], data[:200] + data[230:]):
        assert can(size_px, damaged) == can(partial(decode_image, height_px=8, width_px=8), damaged)


def test_the_size_of_a_sample_is_that_of_its_first_image_by_name() -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        add(tar, "a.seg.jpg", jpeg(size_px=8))
        add(tar, "a.jpg", jpeg(size_px=16))
        add(tar, "b.seg.jpg", jpeg(size_px=8))
    table = scan(file.getvalue(), look=True)
    assert table.width_px.tolist() == [16, 8]


def test_a_sparse_member_leaves_its_sample_out() -> None:
    sparse = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "a.bin", "GNU.sparse.realsize": "9"}
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("GNUSparseFile.0/a.bin")
        info.size, info.pax_headers = 512, sparse
        tar.addfile(info, io.BytesIO(b"0\n".ljust(512, b"\0")))
        add(tar, "b.txt")
    table = scan(file.getvalue())
    assert [table.key(row) for row in range(len(table))] == ["b"]
    assert [(left.key, left.reason) for left in table.left_out] == [("a", ".bin is stored sparse")]


def test_keys_with_dots_are_refused_before_they_become_thousands_of_extensions() -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for number in range(5000):
            add(tar, f"photo.{number}.txt")
    with pytest.raises(DataError, match=r"x\.tar: 5,000 different extensions \(\.0\.txt, .*; write keys without a dot"):
        scan(file.getvalue())


@pytest.mark.parametrize("look", [False, True])
def test_every_cut_of_a_tar_is_noticed(look: bool) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        odd_tars.long_names(tar)
    data = file.getvalue()
    end = len(data.rstrip(b"\0")) // 512 * 512 + 512
    for cut in [*range(0, end, 512), *range(100, end, 1777)]:
        with pytest.raises(DataError, match=r"^x\.tar: the shard is truncated") as caught:
            scan(data[:cut], look=look)
        assert "; copy the shard again" in str(caught.value)
    assert len(scan(data[: end + 512], look=look)) == 3  # one block of zeros is an end, as for tarfile


def test_two_tars_in_one_file_are_refused_because_readers_stop_after_the_first(tmp_path: Path) -> None:
    odd_tars.write(tmp_path / "x.tar", odd_tars.nested)
    data = (tmp_path / "x.tar").read_bytes()
    with pytest.raises(DataError, match=rf"more data at byte {len(data)}, behind the end of the tar; .* `tar -A`"):
        scan(data + data)


@pytest.mark.parametrize("magic", [b"BZh91AY", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd", b"\x1f\x8b\x08"])
def test_compression_is_named(magic: bytes) -> None:
    with pytest.raises(DataError, match=r"compressed \((gzip|bzip2|xz|zstd)\); unpack it"):
        scan(magic.ljust(2000, b"?"))


def header(name: str, size: int, *, kind: bytes = tarfile.REGTYPE) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


@pytest.mark.parametrize("size", [-1, -(2**60), 2**61, 2**80])
@pytest.mark.parametrize("look", [False, True])
def test_a_size_that_cannot_be_is_refused(size: int, look: bool) -> None:
    data = header("a.txt", 1) + bytes(512) + header("b.jpg", size) + bytes(4096)
    with pytest.raises(DataError, match=r"damaged at byte 1024 \(a member of -?[\d,]+ bytes\)"):
        scan(data, look=look)


@pytest.mark.parametrize("size", [1024, 2**33, 2**50, 2**59])
@pytest.mark.parametrize("look", [False, True])
def test_a_member_that_claims_to_end_behind_the_shard_is_refused(tmp_path: Path, size: int, look: bool) -> None:
    """On a real file, in which no disk can be told to go that far."""
    path = tmp_path / "x.tar"
    path.write_bytes(header("a.txt", 1) + bytes(512) + header("b.jpg", size) + b"x" * 1000)
    told = rf"damaged at byte 1024 \(a member of {size:,} bytes\)"
    with path.open("rb") as file, pytest.raises(DataError, match=told):
        scan_shard(file, where="x.tar", look=look, size_bytes=path.stat().st_size)
    with pytest.raises(DataError, match=told):
        find_index(open_store(str(tmp_path)), "*.tar")
    with path.open("rb") as file, pytest.raises(DataError, match="truncated or damaged at byte"):
        scan_shard(file, where="x.tar", look=look)  # its size unknown


def test_a_link_may_tell_the_size_of_its_target() -> None:
    data = header("a.txt", 0) + header("b.jpg", 2**50, kind=tarfile.LNKTYPE) + bytes(1024)
    table = scan_shard(io.BytesIO(data), where="x.tar", size_bytes=len(data))
    assert [table.key(row) for row in range(len(table))] == ["a"]


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
def test_an_extended_header_without_end_is_refused_unread(kind: bytes) -> None:
    with pytest.raises(DataError, match=r"an extended header of 8,589,934,592 bytes"):
        scan(header("a", 1 << 33, kind=kind) + bytes(4096))


def test_a_chain_of_long_names_is_no_recursion() -> None:
    link = header("././@LongLink", 6, kind=tarfile.GNUTYPE_LONGNAME) + b"a.txt\0".ljust(512, b"\0")
    table = scan(link * 5000 + header("b.txt", 0) + bytes(1024))
    assert [table.key(row) for row in range(len(table))] == ["a"]


@pytest.mark.parametrize(
    "records",
    [b"9999 path=a\n", b"12 size=abc\n", b"no number", b"0 a=b\n", b"11 path=a.t", b"99999999999999999999 a=b\n"],
)
def test_a_pax_header_that_does_not_add_up_is_refused(records: bytes) -> None:
    data = (
        header("x", len(records), kind=tarfile.XHDTYPE) + records.ljust(512, b"\0") + header("b.txt", 0) + bytes(1024)
    )
    with pytest.raises(DataError, match="damaged at byte"):
        scan(data)


def test_a_global_header_that_names_all_members_is_refused() -> None:
    records = b"14 path=a.txt\n"
    data = (
        header("x", len(records), kind=tarfile.XGLTYPE) + records.ljust(512, b"\0") + header("b.txt", 0) + bytes(1024)
    )
    with pytest.raises(DataError, match="one extended header names all members"):
        scan(data)
