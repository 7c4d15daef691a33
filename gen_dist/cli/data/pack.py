"""`gen-dist data pack`: shards from pictures of any usual layout, with a bar while it runs and a report at its end."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from gen_dist.cli.data.options import Addressing, Endpoint, Json, Region, s3_of
from gen_dist.cli.json_report import print_report

if TYPE_CHECKING:
    from gen_dist.data.pack import PackOptions, SourceSpec
    from gen_dist.data.pack.run import Progress

LINES_A_PACK = 16  # where there is no terminal
NUM_NAMES_SHOWN = 3


def pack(
    source: Annotated[
        str, typer.Argument(metavar="SOURCE", help="Folder, parquet file, or s3://bucket/prefix of tars.")
    ],
    dest: Annotated[str, typer.Argument(metavar="DEST", help="Folder or s3://bucket/prefix for the shards.")],
    captions: Annotated[str, typer.Option(metavar="FILE", help="csv, tsv, jsonl or parquet, a row an image.")] = "",
    image_column: Annotated[str, typer.Option(metavar="NAME", help="Guessed where it is not given.")] = "",
    caption_column: Annotated[str, typer.Option(metavar="NAME", help="Guessed where it is not given.")] = "",
    split: Annotated[str, typer.Option(help="Of a data set that has several: train, test, ...")] = "",
    pattern: Annotated[str, typer.Option(help="Of the tars, where SOURCE holds tars.")] = "*.tar",
    size_px: Annotated[int, typer.Option("--size", metavar="PX", help="Resize the shorter side to this.")] = 0,
    upscale: Annotated[bool, typer.Option("--upscale", help="Enlarge smaller images too.")] = False,
    form: Annotated[Literal["keep", "jpeg", "webp", "png"], typer.Option("--format", help="Of the images.")] = "keep",
    quality: Annotated[int, typer.Option(metavar="1-100", help="Encode all anew; else 95 where one must be.")] = 0,
    min_size_px: Annotated[int, typer.Option("--min-size", metavar="PX", help="Leave out shorter sides below.")] = 0,
    max_aspect: Annotated[float, typer.Option(metavar="R", help="Leave out images longer than R : 1.")] = 0.0,
    allow_uncaptioned: Annotated[bool, typer.Option("--allow-uncaptioned", help="Not only the captioned.")] = False,
    heldout: Annotated[float, typer.Option(metavar="SHARE", help="Share that goes to heldout-*.tar.")] = 0.0,
    shard_mb: Annotated[int, typer.Option(metavar="MIB", help="Size of a shard, nearly.")] = 256,
    prefix: Annotated[str, typer.Option(help="Of the shard names.")] = "train",
    workers: Annotated[int, typer.Option(metavar="N", help="Processes; 0: one a core.")] = 0,
    endpoint_url: Endpoint = "",
    region: Region = "",
    addressing: Addressing = "auto",
    as_json: Json = False,
) -> None:
    """Pack pictures and captions into shards; the same command again goes on where it was ended.

    SOURCE is a folder of images (with NAME.txt or NAME.json beside NAME.jpg, with --captions FILE, or with a
    metadata.csv), a Hugging Face data set on disk (parquet or arrow), or WebDataset tars. Bytes are kept as they are
    unless --size, --format or --quality says otherwise. What is left out is listed in DEST/pack.report.json.
    """
    from gen_dist.data.pack import PackOptions, SourceSpec

    spec = SourceSpec(
        url=source,
        captions=captions,
        image_column=image_column,
        caption_column=caption_column,
        split=split,
        pattern=pattern,
        s3=s3_of(endpoint_url, region, addressing),
    )
    options = PackOptions(
        size_px=size_px,
        upscale=upscale,
        format=form,
        quality=quality,
        min_size_px=min_size_px,
        max_aspect=max_aspect,
        shard_mb=shard_mb,
        heldout=heldout,
        prefix=prefix,
        allow_uncaptioned=allow_uncaptioned,
    )
    _run(spec, dest, options, num_workers=workers or num_cores(), as_json=as_json)


def _run(spec: SourceSpec, dest: str, options: PackOptions, *, num_workers: int, as_json: bool) -> None:
    from gen_dist.data.pack import pack as run

    try:
        with _View(is_quiet=as_json) as view:
            facts = run(spec, dest, options=options, num_workers=num_workers, tell=view).facts
    except KeyboardInterrupt:
        print("ended; the same command packs what is missing", file=sys.stderr, flush=True)
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # once more ends at once, and does not wait for the processes
        raise typer.Exit(130) from None
    print_report(facts) if as_json else print(text(facts))


def num_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _View:
    """A bar on a terminal, a line now and then elsewhere, on stderr."""

    def __init__(self, *, is_quiet: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self._is_quiet = is_quiet
        self._console = Console(stderr=True)
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[told]}"))
        disable = is_quiet or not self._console.is_terminal
        self._bar = Bar(*columns, TimeRemainingColumn(), console=self._console, transient=True, disable=disable)
        self._task = self._bar.add_task("listing", total=None, told="")
        self._line_samples = 0

    def __enter__(self) -> _View:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, progress: Progress) -> None:
        done, total = progress.num_samples, progress.total_samples
        told = f"{done:,}/{total:,} samples, {progress.num_shards:,}/{progress.total_shards:,} shards"
        self._bar.update(self._task, description="packing", total=total, completed=done, told=told)
        is_due = done >= self._line_samples or progress.num_shards == progress.total_shards
        if is_due and not self._is_quiet and not self._console.is_terminal:
            self._line_samples = done + max(1, total // LINES_A_PACK)
            self._console.print(told, highlight=False, soft_wrap=True)


def text(facts: Mapping[str, Any]) -> str:
    """The report as lines of name and value."""
    from gen_dist.cli.data.inspect import size

    held = f", {facts['heldout']:,} of them held out" if facts["heldout"] else ""
    rows = [
        ("source", f"{facts['source']}: {facts['taken_for']}"),
        ("packed", f"{facts['packed']:,} samples{held}{'' if facts['captions'] else ', without captions'}"),
        ("shards", f"{facts['shards']:,} of {size(facts['size_bytes'])} in all, in {facts['dest']}"),
    ]
    for reason, count in facts["left_out"].items():
        names = [left["name"] for left in facts["left_out_samples"] if left["reason"] == reason][:NUM_NAMES_SHOWN]
        more = f" and {count - len(names):,} more" if count > len(names) else ""
        rows.append(("left out", f"{count:,} {reason}: {', '.join(names)}{more}"))
    if facts["left_out"]:
        rows.append(("", f"all of them, and why: {facts['dest'].rstrip('/')}/pack.report.json"))
    return "\n".join(f"{name:<11} {value}" for name, value in rows)
