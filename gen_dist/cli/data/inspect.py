"""`gen-dist data inspect`: numbers of a set of shards on the terminal, and a contact sheet of their pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from gen_dist.cli.data.options import Addressing, Endpoint, Json, Region, store_of
from gen_dist.cli.json_report import print_report
from gen_dist.cli.picture import check_out, write_out

BAR_CHARACTERS = 30


def inspect(
    url: Annotated[str, typer.Argument(metavar="URL", help="Folder or s3://bucket/prefix of the shards.")],
    pattern: Annotated[str, typer.Option(help="Of the shard names below URL.")] = "*.tar",
    count: Annotated[int, typer.Option("-n", "--count", min=0, help="Pictures on the sheet.")] = 36,
    seed: Annotated[int, typer.Option(help="The same seed shows the same samples.")] = 0,
    out: Annotated[str, typer.Option("-o", "--out", help="PNG to write; empty: no sheet.")] = "sheet.png",
    endpoint_url: Endpoint = "",
    region: Region = "",
    addressing: Addressing = "auto",
    as_json: Json = False,
) -> None:
    """Draw a contact sheet with captions and print statistics."""
    from gen_dist.data.inspect import draw_sheet, look

    if out and count:
        check_out(Path(out), such_as="sheet.png")
    found = look(store_of(url, endpoint_url, region, addressing), pattern, num_shown=count, seed=seed)
    facts = found.facts
    if out and count:
        subtitle = (
            f"{facts['samples']:,} samples in {facts['shards']:,} shards, {size(facts['size_bytes'])}   ·   "
            f"{len(found.shown)} of them, seed {seed}"
        )
        write_out(Path(out), draw_sheet(found.shown, title=f"{url.rstrip('/')}/{pattern}", subtitle=subtitle))
        facts = {**facts, "sheet": out}
    if as_json:
        print_report(facts)
    else:
        print(text(facts))


def size(size_bytes: float) -> str:
    """Bytes as a person says them."""
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f} {unit}" if unit == "bytes" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} TiB"


def text(facts: Mapping[str, Any]) -> str:
    """The statistics as lines of name and value."""
    measured = facts["measured"]
    of_all = "" if measured == facts["samples"] else f"   (of {measured:,} random samples)"
    per_shard, shard_bytes = facts["samples_of_a_shard"], facts["shard_bytes"]
    rows = [
        ("shards", f"{facts['shards']:,} of {size(shard_bytes['min'])} to {size(shard_bytes['max'])}"),
        ("samples", f"{facts['samples']:,}, {per_shard['min']:,} to {per_shard['max']:,} a shard"),
        ("bytes", f"{size(facts['size_bytes'])}, {size(facts['size_bytes'] / facts['samples'])} a sample"),
        ("members", ", ".join(f"{name} {num:,}" for name, num in facts["extensions"].items())),
        ("index", "stored" if facts["indexed"] else f"none; `gen-dist data index {facts['url']}` makes one"),
    ]
    if facts["width_px"]:
        rows += [(name[:-3], f"{_spread(facts[name])} px{of_all}") for name in ("width_px", "height_px")]
        rows += _bars("aspect", facts["aspects"])
    captions = facts["caption_characters"]
    counted = f"{facts['with_caption']:,} of {measured:,}"
    rows.append(("captions", f"{counted}, of {_spread(captions)} characters" if captions else "none"))
    rows += [("", f"“{caption if len(caption) <= 100 else caption[:99] + '…'}”") for caption in facts["captions"]]
    left_out = ", ".join(f"{num:,} {reason}" for reason, num in facts["left_out"].items())
    rows.append(("left out", left_out or "none"))
    rows += [("undecodable", name) for name in facts["unreadable"]]
    if "sheet" in facts:
        rows.append(("sheet", facts["sheet"]))
    return "\n".join(f"{name:<11} {value}" for name, value in rows)


def _spread(values: Mapping[str, int]) -> str:
    return f"{values['min']:,} / {values['median']:,} / {values['max']:,} (min / median / max)"


def _bars(title: str, counts: Mapping[str, int]) -> list[tuple[str, str]]:
    total = sum(counts.values())
    rows: list[tuple[str, str]] = []
    for name, count in counts.items():
        bar = "█" * max(1, round(BAR_CHARACTERS * count / total))
        rows.append(("" if rows else title, f"{name:<14} {count / total:6.1%} {bar}"))
    return rows
