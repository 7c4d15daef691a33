"""derive: what a model computes of every sample of a source (latents), as shards that lie beside it row by row.

The same model, source and batch size give the same shards on the same kind of machine. Each batch begins anew with its
shard, so that a shard does not depend on which others were made before it.

Shapes: B samples of one batch.
"""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from gen_dist.data.augment import CENTRE
from gen_dist.data.block import Block, read_block
from gen_dist.data.buffers import Rooms
from gen_dist.data.decode import DecodeError
from gen_dist.data.derived import NAME as DERIVED_NAME
from gen_dist.data.derived import Derivation, differing, read_derivation
from gen_dist.data.errors import DataError
from gen_dist.data.fields import Source, check_fields, sources
from gen_dist.data.index import Index, Shard, ShardTable, scan_shard
from gen_dist.data.index.blocks import cut
from gen_dist.data.index.build import Indexed, write_manifest
from gen_dist.data.index.manifest import shard_of
from gen_dist.data.index.table import SUFFIX
from gen_dist.job.spec import DataSpec
from gen_dist.recipes.contract import Clock, Ctx
from gen_dist.sample.model import Model
from gen_dist.sample.source import ModelSource
from gen_dist.store import ObjectInfo, Store

AHEAD = 2  # blocks read, and batches decoded, before they are needed
NUM_EXAMPLES = 20  # of unreadable samples that are told

Tell = Callable[[int, int], None]
"""Hears (samples done, samples in all)."""


@dataclass(frozen=True)
class Outcome:
    """What was made."""

    num_shards: int
    num_made: int
    """Of them now; the others were there."""
    num_samples: int
    num_unreadable: int
    """Of the samples made now: they hold their place with an empty member, which a run counts as unreadable."""
    unreadable: list[str]
    """The first of them, each with its reason."""
    recipe_hash: str


def derive(
    made_by: ModelSource,
    source: Index,
    dest: Store,
    *,
    spec: DataSpec,
    copied: Sequence[str],
    batch_images: int,
    tell: Tell,
) -> Outcome:
    """Makes what is missing in `dest` of the derived shards of `source`, with the model of `made_by`.

    `spec` names the members that hold image and caption; the members with the endings `copied` are taken over.
    Raises: CheckpointError, DeriveError, DataError, StoreError.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = Model.load(made_by, device=device)
    ctx = model.context(seed=0, first=0, count=batch_images)
    ctx = replace(ctx, clock=Clock(images=made_by.facts.images, step=made_by.facts.step))
    reads, made_with = model.recipe.derives(ctx)
    check_fields(source, reads, spec)
    derivation = Derivation(made_with, " ".join(copied))
    shards = _begin(dest, derivation, source)
    maker = _Maker(model, ctx, source, dest, sources(reads, spec), list(copied), batch_images, derivation, tell)
    done: list[Indexed] = []
    with maker:
        for number, shard in enumerate(source.shards):
            entry = maker.shard(number)
            done.append(entry)
            shards[shard.name] = (shard.digest, entry.shard.digest)
    write_manifest(dest, done)
    dest.write(DERIVED_NAME, replace(derivation, shards=shards).to_bytes())
    return Outcome(
        num_shards=len(done),
        num_made=sum(entry.is_new for entry in done),
        num_samples=len(source),
        num_unreadable=maker.num_unreadable,
        unreadable=maker.unreadable,
        recipe_hash=derivation.recipe_hash,
    )


def _begin(dest: Store, derivation: Derivation, source: Index) -> dict[str, tuple[str, str]]:
    """The shards that are finished in `dest`, which says from now on what it holds. Raises: DataError."""
    url = dest.url
    if url == source.store_of(0).url:
        raise DataError(f"{url}: source and destination are one", remedy="name another folder or prefix as DEST")
    known = read_derivation(dest)
    if known is None:
        names = [info.name for info in dest.list("*")]
        if names:
            what = f"holds other things ({', '.join(names[:3])})"
            raise DataError(what, shard=url, remedy="name a new folder or prefix as DEST")
        dest.write(DERIVED_NAME, derivation.to_bytes(), if_version="")
        return {}
    if known.recipe_hash != derivation.recipe_hash:
        fault = differing(known.made_with, derivation.made_with).replace("the run wants", "this would make")
        what = fault or f"the members taken over are {known.copied!r}, and would be {derivation.copied!r}"
        raise DataError(what, shard=url, remedy="name a new folder or prefix as DEST, or delete this one")
    return dict(known.shards)


@dataclass(frozen=True)
class _Batch:
    """Samples being decoded."""

    samples: list[tuple[Block, int]]
    """Of each its block and its row in that."""
    rows: dict[str, np.ndarray]
    """What is read of them, filled when `decoding` is done."""
    decoding: list[Future[str]]
    """Of each what is wrong with it, or nothing."""


@dataclass
class _Maker:
    """Makes one shard after the other."""

    model: Model
    ctx: Ctx
    source: Index
    dest: Store
    reads: list[Source]
    copied: list[str]
    batch_images: int
    derivation: Derivation
    tell: Tell
    num_unreadable: int = 0
    unreadable: list[str] = field(default_factory=list)

    def __enter__(self) -> _Maker:
        self._reader = ThreadPoolExecutor(AHEAD, thread_name_prefix="gen-dist-read")
        self._decoders = ThreadPoolExecutor(thread_name_prefix="gen-dist-decode")
        # read as arrays are: bytes that nobody looks into
        whole = [Source(name, "array", (), ((name, ""),), np.dtype(np.uint8), ()) for name in self.copied]
        self._sources = [*self.reads, *whole]
        patterns = {f"{_folder(shard.name)}*" for shard in self.source.shards}
        self._there = {info.name: info for pattern in patterns for info in self.dest.list(pattern)}
        return self

    def __exit__(self, *_: object) -> None:
        self._reader.shutdown(cancel_futures=True)
        self._decoders.shutdown(cancel_futures=True)

    def shard(self, number: int) -> Indexed:
        """One shard with its table, made unless it is there."""
        shard = self.source.shards[number]
        first = int(self.source.first_sample[number])
        kept = self._kept(shard)
        if kept is None:
            info, table = self._make(number, first)
        else:
            info, table = kept
        self.tell(first + shard.num_samples, len(self.source))
        facts = shard_of(info.name, info.size_bytes, info.version, table)
        return Indexed(facts, cut([table]), [], is_new=kept is None)

    def _kept(self, shard: Shard) -> tuple[ObjectInfo, ShardTable] | None:
        info, name = self._there.get(shard.name), shard.name + SUFFIX
        if info is None or name not in self._there:
            return None
        try:
            table, facts = ShardTable.with_shard(bytes(self.dest.read(name)), where=f"{self.dest.url}/{name}")
        except DataError:
            return None  # damaged: made anew
        is_same = all(facts.get(word) == value for word, value in self._facts(info, shard).items())
        return (info, table) if is_same else None

    def _facts(self, info: ObjectInfo, shard: Shard) -> dict[str, str | int]:
        own: dict[str, str | int] = {"name": info.name, "size_bytes": info.size_bytes, "version": info.version}
        return own | {"looked": 1, "recipe": self.derivation.recipe_hash, "source": shard.digest}

    def _make(self, number: int, first: int) -> tuple[ObjectInfo, ShardTable]:
        import webdataset as wds

        shard, where = self.source.shards[number], f"{self.dest.url}/{self.source.shards[number].name}"
        keys = self.source.table(number)
        with TemporaryDirectory() as folder:
            path = Path(folder, "shard.tar")
            with path.open("wb") as file, wds.TarWriter(file, "", "", 0o644, encoder=False, mtime=0) as tar:
                row = 0
                for batch in self._decoded(number):
                    for members in self._members(shard.name, keys, row, batch):
                        tar.write({"__key__": keys.key(row), **members})
                        row += 1
                    self.tell(first + row, len(self.source))
            with path.open("rb") as written:
                table = scan_shard(written, where=where, look=True)
            same = np.array_equal(table.key_bytes, keys.key_bytes) and np.array_equal(table.key_end, keys.key_end)
            if not same:
                what = "neighbouring samples with one key would become one"
                remedy = "pack the source again with `gen-dist data pack`"
                raise DataError(what, shard=f"{self.source.store_of(number).url}/{shard.name}", remedy=remedy)
            info = self.dest.write_file(shard.name, path)
        self.dest.write(shard.name + SUFFIX, table.to_bytes(self._facts(info, shard)))
        return info, table

    def _batches(self, number: int) -> Iterator[list[tuple[Block, int]]]:
        """(block, row in it) of all samples of a shard, `batch_images` at a time, with blocks read ahead."""
        waiting = np.flatnonzero(self.source.blocks.shard == number).tolist()[::-1]
        reading: list[Future[Block]] = []
        batch: list[tuple[Block, int]] = []
        rooms = Rooms((AHEAD + 2) * int(self.source.blocks.num_bytes.max(initial=0)))
        while waiting or reading:
            while waiting and len(reading) < AHEAD:
                reading.append(self._reader.submit(read_block, self.source, waiting.pop(), self._sources, rooms))
            block = reading.pop(0).result()
            for row in range(len(block.offset_bytes[0])):
                batch.append((block, row))
                if len(batch) == self.batch_images:
                    yield batch
                    batch = []
        if batch:
            yield batch

    def _decoded(self, number: int) -> Iterator[_Batch]:
        """The batches of a shard, the next ones being decoded meanwhile."""
        ahead: deque[_Batch] = deque()
        for samples in self._batches(number):
            rows = {source.name: source.empty(len(samples)) for source in self.reads}
            decoding = [self._decoders.submit(self._decode, rows, row, *sample) for row, sample in enumerate(samples)]
            ahead.append(_Batch(samples, rows, decoding))
            if len(ahead) > AHEAD:
                yield ahead.popleft()
        yield from ahead

    def _members(self, shard: str, keys: ShardTable, first_row: int, batch: _Batch) -> Iterator[dict[str, bytes]]:
        """What is written of each sample of a batch."""
        reasons = [decoding.result() for decoding in batch.decoding]
        arrays = self._compute(batch.rows, f"{shard}: samples from {keys.key(first_row)!r} on")
        for row, (block, own_row) in enumerate(batch.samples):
            if reasons[row]:
                self.num_unreadable += 1
                if len(self.unreadable) < NUM_EXAMPLES:
                    self.unreadable.append(f"{shard}: {keys.key(first_row + row)}: {reasons[row]}")
            taken = {
                name: bytes(block.member(len(self.reads) + number, own_row))
                for number, name in enumerate(self.copied)
                if block.offset_bytes[len(self.reads) + number][own_row] >= 0
            }
            # empty, so that the sample keeps its row and a run finds it unreadable, as it would its image
            yield {**taken, **{name: b"" if reasons[row] else _npy(array[row]) for name, array in arrays.items()}}

    def _decode(self, rows: dict[str, np.ndarray], row: int, block: Block, own_row: int) -> str:
        """Fills one row of a batch; returns what is wrong with the sample, or nothing."""
        number = 0
        try:
            for number, source in enumerate(self.reads):
                _, key = source.members[block.choice[number][own_row]]
                source.decode_into(rows[source.name], row, block.member(number, own_row), key, CENTRE)
        except DecodeError as error:
            for source in self.reads:
                source.clear(rows[source.name], row)
            return f"{self.reads[number].name}: {error}"
        return ""

    def _compute(self, rows: dict[str, np.ndarray], where: str) -> dict[str, np.ndarray]:
        batch: dict[str, Any] = {}
        for source in self.reads:
            values = rows[source.name]
            if source.kind == "caption":
                batch[source.name] = values.tolist()
                continue
            tensor = torch.from_numpy(values).to(self.model.device)
            if source.kind == "image":
                tensor = tensor.permute(0, 3, 1, 2).to(torch.float32).contiguous().div_(127.5).sub_(1.0)
            batch[source.name] = tensor
        with torch.no_grad():
            computed = self.model.recipe.derive(self.ctx, batch)
        arrays = {name: tensor.cpu().numpy() for name, tensor in computed.items()}
        for name, array in arrays.items():
            if not np.isfinite(array).all():
                what = f".{name} is too large for {array.dtype}, or not a number"
                raise DataError(what, shard=where, remedy="train the model longer, or with a larger kl_weight")
        return arrays


def _npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, np.ascontiguousarray(array), allow_pickle=False)
    return file.getvalue()


def _folder(name: str) -> str:
    """With a `/` behind it, and no wildcards."""
    head, slash, _ = name.rpartition("/")
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in head) + slash


def default_copied(spec: DataSpec) -> list[str]:
    """The members of caption and label."""
    return sorted({member.partition(":")[0] for member in (spec.caption, spec.label)})
