"""A manifest of more shards than fit into the header of a safetensors file, and those that older programs wrote."""

from __future__ import annotations

import json
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from gen_dist.data.index import LeftOut, Manifest, find_index
from gen_dist.data.index.blocks import Blocks
from gen_dist.data.index.build import Broken, index_shards, tars, write_manifest
from gen_dist.data.index.manifest import FORMAT, Shard
from gen_dist.data.index.table import DTYPES, ShardTable, write_arrays
from gen_dist.data.index.table import FORMAT as TABLE_FORMAT
from gen_dist.store import open_store
from tests.support import odd_tars

HEADER_LIMIT_BYTES = 100_000_000
NUM_SHARDS = 20_000  # of long names, for speed: 5,000 bytes each, as many as 300,000 usual ones have in all


def test_a_manifest_with_more_than_a_header_holds_comes_back_as_it_was() -> None:
    digest = "0123456789abcdef" * 4
    counts = {"jpg": 1, "txt": 1, "json": 1}
    tag, folder = digest[:32], "a-long-name" * 500
    shards = [Shard(f"{folder}/{n:07d}.tar", 10_240, f'"{tag}-{n:07d}"', 1, counts, digest) for n in range(NUM_SHARDS)]
    each = np.arange(NUM_SHARDS)
    columns: dict[str, Any] = {"shard": each.astype(np.int32), "num_samples": np.ones(NUM_SHARDS, np.int32)}
    columns |= {"first_row": 0 * each, "first_byte": 512 + 0 * each, "end_byte": 9_000 + 0 * each}
    data = Manifest(shards, Blocks(**columns)).to_bytes()
    assert len(data) > HEADER_LIMIT_BYTES
    assert int.from_bytes(data[:8], "little") < 10_000
    again = Manifest.from_bytes(data, where="index.gdx")
    assert again.shards == shards
    assert np.array_equal(again.blocks.shard, each)
    assert np.array_equal(again.blocks.of_shards(range(1, NUM_SHARDS, 2)).shard, each[: NUM_SHARDS // 2])


def test_blocks_of_some_shards_are_those_that_name_them() -> None:
    shard = np.array([0, 0, 2, 3, 3, 3, 6], np.int32)
    place = np.arange(7)
    blocks = Blocks(shard, place, place.astype(np.int32), place, place)
    for chosen in ([], [0, 2, 3], [3, 0], [1], [6, 4, 2, 2], range(8)):
        rows = [row for number in chosen for row in np.flatnonzero(shard == number).tolist()]
        numbers = [new for new, number in enumerate(chosen) for _ in np.flatnonzero(shard == number)]
        found = blocks.of_shards(chosen)
        assert (found.first_row.tolist(), found.shard.tolist()) == (rows, numbers)
        assert found.shard.dtype == np.int32


def test_what_an_older_program_wrote_is_read_as_before(tmp_path: Path) -> None:
    odd_tars.write(tmp_path / "x.tar", odd_tars.bad_images)
    store = open_store(str(tmp_path))
    answers = list(index_shards(store, tars(store, ["*.tar"]), look=True, again=False, workers=1))
    manifest = write_manifest(store, [answer for answer in answers if not isinstance(answer, Broken)])
    new = find_index(store, "*.tar")
    table = new.table(0)
    assert len(table.left_out) == 5
    about = {"format": FORMAT, "shards": json.dumps([asdict(shard) for shard in manifest.shards])}
    old = write_arrays({entry.name: getattr(manifest.blocks, entry.name) for entry in fields(Blocks)}, about)
    store.write("index.gdx", old)
    left_out = json.dumps([[left.key, left.reason] for left in table.left_out])
    facts = {"format": TABLE_FORMAT, "shard": "{}", "extensions": json.dumps(table.extensions), "left_out": left_out}
    store.write("x.tar.gdx", write_arrays({name: getattr(table, name) for name in DTYPES}, facts))
    kept = find_index(store, "*.tar")
    assert kept.digest == new.digest
    assert kept.table(0).left_out == table.left_out
    assert [kept.sample(n) for n in range(len(new))] == [new.sample(n) for n in range(len(new))]


def test_any_number_of_left_out_samples_fits_into_a_table() -> None:
    empty: dict[str, Any] = {name: np.empty(0, dtype) for name, dtype in DTYPES.items()}
    left_out = [LeftOut(f"{n:09d}", "x" * 10_000) for n in range(HEADER_LIMIT_BYTES // 10_000)]
    table = ShardTable(extensions=[], left_out=left_out, **{**empty, "first_member": np.zeros(1, np.int64)})
    assert ShardTable.from_bytes(table.to_bytes({"name": "x.tar"}), where="x").left_out == left_out
