"""Damaged tars and index files end in a DataError of one line: no other error, no hang, and no memory they ask for."""

from __future__ import annotations

import io
import tarfile
import tempfile
import tracemalloc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gen_dist.data.errors import DataError
from gen_dist.data.index import Manifest, ShardTable, scan_shard
from gen_dist.data.index.manifest import shard_of
from gen_dist.data.index.tar import plain_header
from gen_dist.store import ObjectInfo
from tests.support import odd_tars
from tests.support.odd_tars import READABLE

MOST_BYTES = 24 << 20  # far more than any of these files, far less than what a header can claim
NUM_EXAMPLES = 60  # and memory is watched, which makes all of it slow

SIZES = ["00000000000", "77777777777", "-0000000001", "\x80" + "\0" * 3 + "\x7f" + "\xff" * 6, "\xff" * 11]
SIZES += ["\x80" + "\0" * 4 + "\4" + "\0" * 5]  # 2**50: more than a file may hold
KINDS = [*"01234567LKSxgXVMD", "\0", "?"]


def tar_of(shape: str, form: int) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form, encoding="utf-8", errors="surrogateescape") as tar:
        READABLE[shape](tar)
    return file.getvalue()


TARS = [tar_of(shape, form) for shape in ("long_names", "letters", "links_and_folders") for form in (1, 2)]
TABLES = [scan_shard(io.BytesIO(data), where="x.tar", look=look) for data in TARS for look in (False, True)]
INFO = ObjectInfo("x.tar", len(TARS[0]), "1-1")
SIDECARS = [table.to_bytes({"name": "x.tar", "size_bytes": 1, "version": "1-1", "looked": 1}) for table in TABLES]
MANIFEST = Manifest.of(
    [shard_of(f"{number}.tar", len(TARS[number // 2]), "1-1", table) for number, table in enumerate(TABLES)], TABLES
).to_bytes()


def checksummed(data: bytearray, block: int) -> None:
    """Makes a header whole again, so that what it claims is believed."""
    data[block + 148 : block + 156] = b" " * 8
    data[block + 148 : block + 156] = b"%06o\0 " % sum(data[block : block + 512])


@st.composite
def damaged_tars(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(st.sampled_from(TARS)))
    for _ in range(draw(st.integers(1, 4))):
        block = draw(st.integers(0, len(data) // 512 - 1)) * 512
        what = draw(st.sampled_from(["kind", "size", "byte", "sparse", "zeros", "drop", "twice", "cut"]))
        if what == "kind":
            data[block + 156 : block + 157] = draw(st.sampled_from(KINDS)).encode("latin-1")
        elif what == "size":
            data[block + 124 : block + 135] = draw(st.sampled_from(SIZES)).encode("latin-1")
        elif what == "byte":
            data[block + draw(st.integers(0, 511))] = draw(st.integers(0, 255))
        elif what == "sparse":
            data[block + 482] = data[block + 504] = 1
        elif what == "zeros":
            data[block : block + 512] = bytes(512)
        elif what == "drop":
            del data[block : block + 512]
        elif what == "twice":
            data[block:block] = data[block : block + 512]
        else:
            del data[block + draw(st.integers(0, 511)) :]
        if draw(st.booleans()) and block + 512 <= len(data):
            checksummed(data, block)
        if len(data) < 512:
            break
    return bytes(data)


def is_one_line(error: DataError, where: str) -> None:
    line = str(error)
    assert "\n" not in line
    assert line.startswith(f"{where}: ")
    assert "; " in line


@pytest.fixture(autouse=True)
def _bounded_memory() -> object:
    tracemalloc.start()
    yield
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak_bytes < MOST_BYTES


bounded = settings(
    max_examples=NUM_EXAMPLES, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)


@bounded
@given(damaged_tars(), st.booleans(), st.booleans())
def test_a_damaged_tar_gives_a_sound_table_or_one_line(data: bytes, look: bool, is_file: bool) -> None:
    try:
        with tempfile.TemporaryFile() if is_file else io.BytesIO() as file:
            file.write(data)
            file.seek(0)
            table = scan_shard(file, where="x.tar", look=look)
    except DataError as error:
        is_one_line(error, "x.tar")
        return
    ShardTable.from_bytes(table.to_bytes({"name": "x.tar"}), where="x")
    assert not len(table) or int(table.end_bytes.max()) <= len(data)


@bounded
@given(damaged_tars())
def test_a_header_that_is_read_quickly_is_read_as_tarfile_reads_it(data: bytes) -> None:
    for at in range(0, len(data) - 511, 512):
        quick = plain_header(data[at : at + 512])
        if quick is not None:
            try:
                slow = tarfile.TarInfo.frombuf(data[at : at + 512], "utf-8", "surrogateescape")
            except tarfile.HeaderError:
                continue  # for its owner or its time, which nobody here asks for
            assert (quick.name, quick.size, quick.type) == (slow.name, slow.size, slow.type)


@bounded
@given(st.binary(max_size=4096))
def test_what_is_no_tar_at_all_gives_one_line_or_nothing(data: bytes) -> None:
    try:
        table = scan_shard(io.BytesIO(data), where="x.tar", look=True)
    except DataError as error:
        is_one_line(error, "x.tar")
    else:
        assert not len(table)


@st.composite
def damaged(draw: st.DrawFn, whole: list[bytes]) -> bytes:
    """Bytes changed anywhere, more often in the header, or numbers of an array replaced by extreme ones."""
    data = bytearray(draw(st.sampled_from(whole)))
    header_bytes = 8 + int.from_bytes(data[:8], "little")
    for _ in range(draw(st.integers(1, 3))):
        what = draw(st.sampled_from(["header", "number", "byte", "cut", "more", "length"]))
        if what == "header":
            data[draw(st.integers(0, header_bytes - 1))] = draw(st.sampled_from(b'0123456789-"{}[],:.eEINUnul\\\xff\0'))
        elif what == "number" and len(data) >= header_bytes + 8:
            place = header_bytes + draw(st.integers(0, (len(data) - header_bytes) // 8 - 1)) * 8
            number = draw(st.sampled_from([-1, 0, 1, 2**31, 2**62, 2**63 - 1, -(2**63)]))
            data[place : place + 8] = number.to_bytes(8, "little", signed=True)
        elif what == "byte":
            data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
        elif what == "cut":
            del data[draw(st.integers(8, len(data))) :]
        elif what == "more":
            data += b"\0" * draw(st.integers(1, 9))
        else:
            data[:8] = draw(st.integers(0, 2**64 - 1)).to_bytes(8, "little")
        if len(data) <= 8 or len(data) < header_bytes:
            break
    return bytes(data)


@bounded
@given(damaged(SIDECARS))
def test_a_damaged_table_is_refused_or_harmless(data: bytes) -> None:
    try:
        table, _ = ShardTable.with_shard(data, where="x.tar.gdx")
    except DataError as error:
        is_one_line(error, "x.tar.gdx")
        return
    assert isinstance(table.digest, str)
    for row in range(len(table)):
        table.key(row)
        assert all(at >= 0 and size >= 0 for at, size in table.members(row).values())
    assert len(table.num_by_extension()) <= len(table.extensions)
    assert (np.diff(table.first_bytes) >= 0).all()


@bounded
@given(damaged([MANIFEST]))
def test_a_damaged_manifest_is_refused_or_harmless(data: bytes) -> None:
    try:
        manifest = Manifest.from_bytes(data, where="index.gdx")
    except DataError as error:
        is_one_line(error, "index.gdx")
        return
    assert sum(shard.num_samples for shard in manifest.shards) == manifest.blocks.num_samples.sum()
    assert manifest.blocks.of_shards(range(len(manifest.shards))).num_bytes.min() >= 0
    assert manifest.to_bytes()


def test_a_header_that_claims_a_million_holes_takes_no_memory_for_them() -> None:
    info = tarfile.TarInfo("a.bin")
    info.type, info.size = tarfile.GNUTYPE_SPARSE, 0
    data = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    data[482] = 1
    checksummed(data, 0)
    more = bytes(504) + b"\1" + bytes(7)
    file = io.BytesIO(bytes(data) + more * 2000 + bytes(2048))
    assert [left.key for left in scan_shard(file, where="x.tar").left_out] == ["a"]


def test_an_image_bomb_is_left_out_unread() -> None:
    bomb = b"\x89PNG\r\n\x1a\n" + bytes.fromhex("0000000d49484452000f4240000f42400806000000") + bytes(400)
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        odd_tars.add(tar, "a.png", bomb)
        odd_tars.add(tar, "b.txt")
    table = scan_shard(io.BytesIO(file.getvalue()), where="x.tar", look=True)
    assert [left.key for left in table.left_out] == ["a"]
    assert len(table) == 1
