"""`gen-dist data verify`: everything a run would trip over, before a GPU is held."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gen_dist.cli.data.options import Addressing, Endpoint, Json, Region, store_of
from gen_dist.cli.json_report import print_report

if TYPE_CHECKING:
    from gen_dist.data.fields import Source
    from gen_dist.data.index import Index
    from gen_dist.data.index.verify import Finding, Verification
    from gen_dist.job.spec import JobSpec


def verify(
    url: Annotated[str, typer.Argument(metavar="[URL]", help="Folder or s3://bucket/prefix; else that of --job.")] = "",
    patterns: Annotated[
        list[str], typer.Option("--pattern", metavar="GLOB", help="Shard names below URL, *.tar; repeatable.")
    ] = [],  # noqa: B006
    job: Annotated[str, typer.Option("--job", metavar="JOB", help="Check what this job reads of every sample.")] = "",
    every_byte: Annotated[bool, typer.Option("--all", help="Read every byte, not a share of the blocks.")] = False,
    endpoint_url: Endpoint = "",
    region: Region = "",
    addressing: Addressing = "auto",
    as_json: Json = False,
) -> None:
    """Look for what a run would trip over: changed, damaged or missing shards, samples without a member.

    Compares the shards with their index, reads a share of their blocks (--all: every byte) and, with --job, looks for
    the members that its recipe needs, in its derived shards as well. Each finding is one line. Exit code 1: a run would
    end by one of them.
    """
    from gen_dist.data.errors import DataError
    from gen_dist.data.index.verify import Verification
    from gen_dist.job.load import load_job

    spec = load_job(job, []) if job else None
    if not url and spec is None:
        raise DataError("gen-dist data verify: neither URL nor --job", remedy="name one of them")
    s3 = spec.data.s3 if spec else None
    store = store_of(
        url or (spec.data.url if spec else ""),
        endpoint_url or (s3.endpoint_url if s3 else ""),
        region or (s3.region if s3 else ""),
        addressing if addressing != "auto" or s3 is None else s3.addressing,
    )
    chosen = patterns or ([spec.data.train, *filter(None, [spec.data.heldout])] if spec else ["*.tar"])
    values = _Values(_sources(spec)) if spec else None
    looking = Verification(store, chosen, every_byte=every_byte, check=values)
    found: list[Finding] = []
    for finding in chain(looking, _late(looking, spec, every_byte, values)):
        found.append(finding)
        _say(finding, as_json=as_json)
    stops = sum(finding.stops for finding in found)
    num_samples = len(looking.index) if looking.index else 0
    if as_json:
        facts = {
            "url": store.url,
            "num_shards": looking.num_shards,
            "num_samples": num_samples,
            "num_checked_blocks": looking.num_checked_blocks,
            "stops": [finding.line for finding in found if finding.stops],
            "notes": [finding.line for finding in found if not finding.stops],
        }
        print_report(facts)
    else:
        end = f"{stops:,} would stop a run" if stops else "nothing would stop a run"
        print(f"verified   {num_samples:,} samples of {looking.num_shards:,} shards: {end}")
    if stops:
        raise typer.Exit(1)


@dataclass
class _Values:
    """Counts the captions, labels and arrays of the samples that are read, by what is wrong with them."""

    sources: Sequence[Source]
    found: dict[str, tuple[int, str]] = field(default_factory=dict)
    """What is wrong -> (how often, where it was seen first)."""

    def __call__(self, where: str, members: Mapping[str, bytes]) -> None:
        from gen_dist.data.augment import CENTRE
        from gen_dist.data.decode import DecodeError

        for source in self.sources:
            here = [(extension, key) for extension, key in source.members if extension in members]
            if source.kind == "image" or not here:  # indexing looked at images
                continue
            extension, key = here[0]
            row = source.empty(1)
            try:
                source.decode_into(row, 0, memoryview(members[extension]), key, CENTRE)
                fault = "an empty caption" if source.kind == "caption" and row[0] == "" else ""
            except DecodeError as error:
                fault = f".{extension}: {error}" if source.kind == "array" else str(error)
            if fault:
                count, first = self.found.get(fault, (0, where))
                self.found[fault] = (count + 1, first)

    def lines(self) -> list[str]:
        most = sorted(self.found.items(), key=lambda item: -item[1][0])[:10]
        remedy = "mend the source, and pack the shards again"
        return [f"{first}: {fault}, {count:,} times in what was read; {remedy}" for fault, (count, first) in most]


def _sources(spec: JobSpec) -> Sequence[Source]:
    from gen_dist.data.fields import sources
    from gen_dist.recipes import catalog

    return sources(catalog.build(spec.recipe, spec.model).batch, spec.data)


def _late(looking: Verification, spec: JobSpec | None, every_byte: bool, values: _Values | None) -> Iterator[Finding]:
    """What is known once the shards were looked at: members that a job needs, its derived shards, and all values."""
    from gen_dist.data.index.verify import Finding, Verification

    missing = _fields(looking.index, spec)
    yield from (Finding(line, stops=True) for line in missing)
    if spec is not None and spec.data.derived and not missing:
        s3 = spec.data.s3
        store = store_of(spec.data.derived, s3.endpoint_url, s3.region, s3.addressing)
        patterns = [spec.data.train, *filter(None, [spec.data.heldout])]
        yield from Verification(store, patterns, every_byte=every_byte, check=values)
    yield from (Finding(line) for line in (values.lines() if values else []))


def _fields(index: Index | None, spec: JobSpec | None) -> list[str]:
    """The first sample without a member that the recipe needs, for each field; what is wrong with derived shards."""
    if index is None or spec is None:
        return []
    from gen_dist.data.fields import missing

    if spec.data.derived:
        return _derived(spec)
    lines = []
    for source in _sources(spec):
        sample_id = index.first_without(source.extensions)
        if sample_id is not None:
            lines.append(str(missing(source, index.sample(sample_id))))
    return lines


def _derived(spec: JobSpec) -> list[str]:
    """What a run would say of the job's derived shards before it starts: some of their arrays are decoded as well."""
    from gen_dist.data.errors import DataError
    from gen_dist.data.source import check_data
    from gen_dist.recipes import catalog
    from gen_dist.store import StoreError

    recipe = catalog.build(spec.recipe, spec.model)
    try:
        check_data(spec.data, fields=recipe.batch, made_with=recipe.made_with())
    except (DataError, StoreError) as error:
        return [str(error)]
    return []


def _say(finding: Any, *, as_json: bool) -> None:
    if not as_json:
        print(f"{'stops' if finding.stops else 'note':<10} {finding.line}", flush=True)
