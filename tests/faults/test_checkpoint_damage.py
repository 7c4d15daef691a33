"""T3: whatever happens to the objects of a checkpoint is found out by name, and the one before is gone back to."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from gen_dist.checkpoint import CheckpointError, Name, begin_attempt, candidates, open_checkpoint
from gen_dist.store import Store, StoreError
from gen_dist.store.s3 import S3Store
from tests.support.fault_proxy import FaultProxy, Plan
from tests.support.saves import check_whole, commit, group

NEW = Name(128, 1)
FIRST, SECOND = f"{NEW}/rank00000.safetensors", f"{NEW}/rank00001.safetensors"


def flip(store: Store, name: str, at: int) -> None:
    data = bytearray(store.read(name))
    data[at] ^= 1
    store.write(name, bytes(data))


def swap(store: Store) -> None:
    first, second = store.read(FIRST), store.read(SECOND)
    store.write(FIRST, second)
    store.write(SECOND, first)


def edit(store: Store, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads(store.read(NEW.manifest))
    change(document)
    store.write(NEW.manifest, json.dumps(document).encode())


DAMAGES: dict[str, tuple[Callable[[Store], object], str]] = {
    "a flipped byte of data": (lambda store: flip(store, FIRST, -1), "rank00000.safetensors: its SHA-256 is"),
    "a flipped byte of a header": (lambda store: flip(store, SECOND, 9), "rank00001.safetensors: its SHA-256 is"),
    "a truncated file": (lambda store: store.write(FIRST, store.read(FIRST)[:-1]), "rank00000.safetensors: .* bytes,"),
    "a longer file": (lambda store: store.write(FIRST, store.read(FIRST) + b"x"), "rank00000.safetensors: .* bytes,"),
    "an empty file": (lambda store: store.write(SECOND, b""), "rank00001.safetensors: 0 bytes, the manifest says"),
    "a missing file": (lambda store: store.delete(SECOND), "rank00001.safetensors: missing, the manifest says"),
    "exchanged files": (swap, "rank0000[01].safetensors: "),
    "a manifest cut short": (lambda store: store.write(NEW.manifest, store.read(NEW.manifest)[:-9]), "MANIFEST.json: "),
    "a manifest of another": (
        lambda store: store.write(NEW.manifest, store.read(Name(64, 1).manifest)),
        "MANIFEST.json: .*it is the manifest of",
    ),
    "a wrong checksum": (
        lambda store: edit(store, lambda doc: doc["files"]["rank00000.safetensors"].__setitem__("sha256", "0" * 64)),
        "rank00000.safetensors: its SHA-256 is .* the manifest says 000000000000",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found_by_name_and_the_checkpoint_before_is_whole(
    new_store: Callable[[str], Store], damage: str
) -> None:
    store = new_store("run")
    savers = group(store, attempt=begin_attempt(store))
    commit(savers, 64)
    commit(savers, 128)
    hurt, says = DAMAGES[damage]
    hurt(store)
    faults = []
    for name in candidates(store):
        try:
            checkpoint = open_checkpoint(store, name)
            for part in range(3):  # three workers share the work
                checkpoint.verify(part, 3)
        except CheckpointError as error:
            faults.append(error)
            continue
        check_whole(checkpoint)
        assert checkpoint.manifest.images == 64
        break
    assert len(faults) == 1
    with pytest.raises(CheckpointError, match=says):
        raise faults[0]
    assert str(NEW) in str(faults[0])
    assert "\n" not in str(faults[0])


def test_a_file_that_goes_while_it_is_read_is_damage(new_store: Callable[[str], Store]) -> None:
    store = new_store("run")
    commit(group(store, attempt=1), 64)
    checkpoint = open_checkpoint(store, candidates(store)[0])
    store.delete(f"{checkpoint.name}/rank00001.safetensors")
    for read in (checkpoint.verify, lambda: checkpoint.section("weight")):
        with pytest.raises(CheckpointError, match=r"rank00001\.safetensors: gone since it was listed"):
            read()


def test_a_store_that_cannot_be_reached_is_no_damage(bucket: S3Store, proxy: FaultProxy) -> None:
    """Or a run would go back a checkpoint, or start from scratch, because of a network that is down."""
    commit(group(bucket, attempt=1), 64)
    checkpoint = open_checkpoint(bucket, candidates(bucket)[0])
    proxy.plan = Plan(refuse=1.0)
    for act in (
        lambda: candidates(bucket),
        lambda: open_checkpoint(bucket, checkpoint.name),
        checkpoint.verify,
        lambda: checkpoint.section("weight"),
    ):
        with pytest.raises(StoreError, match="SlowDown"):
            act()
