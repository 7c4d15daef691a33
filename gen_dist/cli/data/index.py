"""`gen-dist data index`: each shard read once, a table beside it, and one manifest for all of them."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gen_dist.cli.data.options import Addressing, Endpoint, Json, Region, store_of
from gen_dist.cli.json_report import print_report

if TYPE_CHECKING:
    from gen_dist.data.index.build import Broken, Indexed

LINES_A_RUN = 16  # where there is no terminal
MOST_LEFT_OUT = 20  # told in text; --json tells of more

Url = Annotated[str, typer.Argument(metavar="URL", help="Folder or s3://bucket/prefix that holds the shards.")]
Patterns = Annotated[
    list[str], typer.Option("--pattern", metavar="GLOB", help="Shard names below URL; * stops at /. Repeatable.")
]


def index(
    url: Url,
    patterns: Patterns = ["*.tar"],  # noqa: B006
    headers_only: Annotated[
        bool, typer.Option("--headers-only", help="Do not decode images, measure them or take checksums.")
    ] = False,
    workers: Annotated[int, typer.Option("--workers", min=0, help="Shards at a time; 0: one for each core.")] = 0,
    address: Annotated[str, typer.Option("--address", help="Ray cluster to use; empty: this machine.")] = "",
    again: Annotated[bool, typer.Option("--again", help="Read shards anew that are indexed already.")] = False,
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="Write the manifest without the shards that cannot be read.")
    ] = False,
    endpoint_url: Endpoint = "",
    region: Region = "",
    addressing: Addressing = "auto",
    as_json: Json = False,
) -> None:
    """Find the samples of shards, once: where they are, how large, and which cannot be used.

    Reads each shard from front to back, decodes every image, and writes NAME.tar.gdx beside it and index.gdx for all.
    The same command again does only what is missing. Exit code 1: a shard cannot be read, or the store failed.
    """
    from gen_dist.data.errors import DataError
    from gen_dist.data.index.build import Broken, index_shards, tars, write_manifest

    if url.startswith("embedded://"):
        raise DataError(
            f"{url} is part of the package and needs no index", remedy="name a folder or s3://bucket/prefix"
        )
    store = store_of(url, endpoint_url, region, addressing)
    shards = tars(store, patterns)
    started_s = time.monotonic()
    answers = index_shards(store, shards, look=not headers_only, again=again, workers=workers, address=address)
    found = sorted(_shown(answers, len(shards), as_json=as_json), key=lambda answer: answer.shard.name)
    done = [answer for answer in found if not isinstance(answer, Broken)]
    broken = [answer for answer in found if isinstance(answer, Broken)]
    is_passing = any(answer.passing for answer in broken)
    may_write = not broken or (skip_broken and not is_passing)
    manifest = write_manifest(store, done, broken) if done and may_write else None
    facts: dict[str, Any] = {
        "url": store.url,
        "num_shards": len(shards),
        "num_read": sum(answer.is_new for answer in done),
        "num_samples": sum(answer.shard.num_samples for answer in done),
        "num_left_out": sum(answer.shard.num_left_out for answer in done),
        "left_out": [
            {"shard": answer.shard.name, "key": left.key, "reason": left.reason}
            for answer in done
            for left in answer.left_out
        ],
        "broken": [{"shard": answer.shard.name, "error": answer.line, "passing": answer.passing} for answer in broken],
        "manifest": f"{store.url}/index.gdx" if manifest else None,
        "seconds": round(time.monotonic() - started_s, 1),
    }
    _tell(facts, as_json=as_json)
    if not may_write:
        raise typer.Exit(1)


def _shown(answers: Any, num_shards: int, *, as_json: bool) -> list[Indexed | Broken]:
    """All answers, with a bar on a terminal and a few lines elsewhere."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(file=sys.stderr if as_json else sys.stdout)
    columns = (
        TextColumn("indexing"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[samples]:,} samples"),
    )
    found: list[Indexed | Broken] = []
    num_samples = 0
    with Progress(
        *columns, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("index", total=num_shards, samples=0)
        for number, answer in enumerate(answers, 1):
            found.append(answer)
            num_samples += getattr(answer.shard, "num_samples", 0)
            bar.update(task, completed=number, samples=num_samples)
            if not console.is_terminal and num_shards > 1 and number % -(-num_shards // LINES_A_RUN) == 0:
                print(f"{number:,}/{num_shards:,} shards, {num_samples:,} samples", file=console.file, flush=True)
    return found


def _tell(facts: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        print_report(facts)
        return
    for left in facts["left_out"][:MOST_LEFT_OUT]:
        print(f"left out   {left['shard']}: {left['key']}: {left['reason']}")
    if facts["num_left_out"] > MOST_LEFT_OUT:
        print(f"left out   {facts['num_left_out']:,} samples in all")
    for broken in facts["broken"]:
        print(f"{'failed' if broken['passing'] else 'broken':<10} {broken['error']}")
    kept = facts["num_shards"] - facts["num_read"] - len(facts["broken"])
    print(
        f"indexed    {facts['num_samples']:,} samples of {facts['num_shards'] - len(facts['broken']):,} shards"
        f" in {facts['seconds']} s ({kept:,} were indexed already)"
    )
    if facts["manifest"]:
        print(f"manifest   {facts['manifest']}")
    elif any(broken["passing"] for broken in facts["broken"]):
        print("manifest   not written; the store failed; run this again: it reads only what is missing")
    else:
        print("manifest   not written; mend the broken shards and run this again, or leave them out with --skip-broken")
