"""`gen-dist data verify`: everything a run would trip over, before a GPU is held."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated

import typer

from gen_dist.cli.data.options import Addressing, Endpoint, Json, Region, store_of
from gen_dist.cli.json_report import print_report

if TYPE_CHECKING:
    from gen_dist.data.index import Index
    from gen_dist.data.index.verify import Finding
    from gen_dist.data.values import Values
    from gen_dist.job.spec import DataSpec
    from gen_dist.recipes.contract import Recipe
    from gen_dist.store import Store


def verify(
    url: Annotated[
        str, typer.Argument(metavar="[URL]", help="Folder or s3://bucket/prefix; else those of --job.")
    ] = "",
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
    the members that its recipe needs, in all its sources and their derived shards. Each finding is one line. Exit code
    1: a run would end by one of them.
    """
    from gen_dist.data.errors import DataError
    from gen_dist.job.load import load_job
    from gen_dist.recipes import catalog

    spec = load_job(job, []) if job else None
    if not url and spec is None:
        raise DataError("gen-dist data verify: neither URL nor --job", remedy="name one of them")
    s3 = spec.data.s3 if spec else None
    reach = (
        endpoint_url or (s3.endpoint_url if s3 else ""),
        region or (s3.region if s3 else ""),
        addressing if addressing != "auto" or s3 is None else s3.addressing,
    )
    looking = _Looking(every_byte)
    if spec is None:
        findings = looking.at(store_of(url, *reach), patterns or ["*.tar"])
    else:
        data = spec.data.model_copy(update={"url": url, "mix": []} if url else {})
        findings = _job(looking, data, catalog.build(spec.recipe, spec.model), patterns, reach)
    for finding in findings:
        looking.found.append(finding)
        if not as_json:
            print(f"{'stops' if finding.stops else 'note':<10} {finding.line}", flush=True)
    if as_json:
        print_report(looking.facts())
    else:
        end = f"{looking.stops:,} would stop a run" if looking.stops else "nothing would stop a run"
        print(f"verified   {looking.num_samples:,} samples of {looking.num_shards:,} shards: {end}")
    if looking.stops:
        raise typer.Exit(1)


@dataclass
class _Looking:
    """Verifies one place after another, and adds up what it saw."""

    every_byte: bool
    url: str = ""
    """Of the first place."""
    num_shards: int = 0
    num_samples: int = 0
    num_checked_blocks: int = 0
    found: list[Finding] = field(default_factory=list)
    indices: list[Index] = field(default_factory=list)

    def at(self, store: Store, patterns: Sequence[str], *, check: Values | None = None) -> Iterator[Finding]:
        """The findings of one place."""
        from gen_dist.data.index.verify import Verification

        looking = Verification(store, patterns, every_byte=self.every_byte, check=check)
        yield from looking
        self.url = self.url or store.url
        self.num_shards += looking.num_shards
        self.num_checked_blocks += looking.num_checked_blocks
        if looking.index is not None:
            self.indices.append(looking.index)
            self.num_samples += len(looking.index)

    @property
    def stops(self) -> int:
        """Findings that would stop a run."""
        return sum(finding.stops for finding in self.found)

    def facts(self) -> Mapping[str, object]:
        return {
            "url": self.url,
            "num_shards": self.num_shards,
            "num_samples": self.num_samples,
            "num_checked_blocks": self.num_checked_blocks,
            "stops": [finding.line for finding in self.found if finding.stops],
            "notes": [finding.line for finding in self.found if not finding.stops],
        }


def _job(
    looking: _Looking, data: DataSpec, recipe: Recipe, patterns: Sequence[str], reach: tuple[str, str, str]
) -> Iterator[Finding]:
    """All that a job reads: its sources, the members that its recipe needs, its derived shards, and all values."""
    from gen_dist.data.fields import sources
    from gen_dist.data.index.verify import Finding
    from gen_dist.data.values import Values

    train = [data.train, *filter(None, [data.heldout])]
    places = [(data.url, data.derived, train), *((mix.url, mix.derived, [mix.train]) for mix in data.mix)]
    read = sources(recipe.batch, data)
    values = Values(read, remedy="mend the source, and pack the shards again")
    arrays = Values(read, remedy="run `gen-dist data derive` into another folder, and name that in the job")
    for url, _, own in places:
        yield from looking.at(store_of(url, *reach), patterns or own, check=values)
    if not any(derived for _, derived, _ in places):
        refused = _without_members(looking.indices, recipe, data)
    else:
        refused = _derived(recipe, data) if len(looking.indices) == len(places) else []
    yield from (Finding(line, stops=True) for line in refused)
    samples = looking.num_samples
    for _, derived, own in places if not refused else []:
        if derived:
            yield from looking.at(store_of(derived, *reach), patterns or own, check=arrays)
    looking.num_samples = samples  # those of derived shards are the same ones
    yield from (Finding(line) for line in (*values.lines(), *arrays.lines()))


def _without_members(indices: Sequence[Index], recipe: Recipe, data: DataSpec) -> list[str]:
    """The first sample of each source without a member that the recipe needs, for each field."""
    from gen_dist.data.fields import missing, sources

    lines = []
    for index in indices:
        for source in sources(recipe.batch, data):
            sample_id = index.first_without(source.extensions)
            if sample_id is not None:
                lines.append(str(missing(source, index.sample(sample_id))))
    return lines


def _derived(recipe: Recipe, data: DataSpec) -> list[str]:
    """What a run would say of the job's derived shards before it starts: some of their arrays are decoded as well."""
    from gen_dist.data.errors import DataError
    from gen_dist.data.source import check_data
    from gen_dist.store import StoreError

    try:
        check_data(data, fields=recipe.batch, made_with=recipe.made_with())
    except (DataError, StoreError) as error:
        return [str(error)]
    return []
