"""`gen-dist data derive`: latents of every image and vectors of every caption, computed once by frozen networks."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from gen_dist.cli.data.options import Addressing, Endpoint, Json, Region, store_of
from gen_dist.cli.json_report import print_report

LINES_A_RUN = 16  # where there is no terminal


def derive(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Run folder, checkpoint, export or models:/NAME@latest.")
    ],
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Folder or s3://bucket/prefix of the shards.")],
    dest: Annotated[str, typer.Argument(metavar="DEST", help="New folder or prefix for what is computed.")],
    pattern: Annotated[str, typer.Option("--pattern", metavar="GLOB", help="Shard names below SOURCE.")] = "*.tar",
    image: Annotated[str, typer.Option("--image", help="Endings of the image; empty: as the model's job.")] = "",
    copy: Annotated[
        str, typer.Option("--copy", help="Endings of members to take over; empty: the job's caption and label.")
    ] = "",
    batch_images: Annotated[int, typer.Option("--batch", min=1, help="Images computed at once.")] = 32,
    tracking_uri: Annotated[str, typer.Option("--tracking-uri", help="MLflow, for models:/NAME.")] = "",
    endpoint_url: Endpoint = "",
    region: Region = "",
    addressing: Addressing = "auto",
    as_json: Json = False,
) -> None:
    """Compute the latents of all images once, in shards of the same names, samples and order; indexed at once.

    A model with a pretrained text encoder stores the vectors of its captions as well. A job reads latents with
    data.derived = DEST, model.autoencoder = MODEL and model.latents = "derived", and vectors with model.text =
    "derived". The same command goes on where it was stopped, and makes only what the source has new.
    """
    from gen_dist.data.index import find_index
    from gen_dist.job.load import load_resolved
    from gen_dist.job.spec import DataSpec
    from gen_dist.registry.find import find_model
    from gen_dist.store.local import make_folder

    made_by = find_model(model, tracking_uri=tracking_uri)
    settings = made_by.facts.job
    job = load_resolved(settings) if "data" in settings else None
    read = {name: getattr(job.data, name) for name in ("image", "caption", "label")} if job else {}
    spec = DataSpec(url=source, **{**read, **({"image": image} if image else {})}, fast_downscale=False)
    if "://" not in dest:
        make_folder(Path(dest))
    stores = [store_of(url, endpoint_url, region, addressing) for url in (source, dest)]
    index = find_index(stores[0], pattern)
    from gen_dist.sample.derive import default_copied
    from gen_dist.sample.derive import derive as run

    started_s = time.monotonic()
    copied = sorted(set(copy.split())) if copy else default_copied(spec)
    try:
        with _Bar(as_json=as_json) as bar:
            found = run(made_by, index, stores[1], spec=spec, copied=copied, batch_images=batch_images, tell=bar)
    except KeyboardInterrupt:
        print("ended; the same command computes what is missing", file=sys.stderr)
        raise typer.Exit(130) from None
    named = made_by.place if model.startswith("models:/") else model
    _tell(found, model=named, source=source, dest=dest, seconds=round(time.monotonic() - started_s, 1), as_json=as_json)


def _tell(found: Any, *, model: str, source: str, dest: str, seconds: float, as_json: bool) -> None:
    if as_json:
        from dataclasses import asdict

        print_report({"source": source, "dest": dest, **asdict(found), "seconds": seconds})
        return
    for line in found.unreadable:
        print(f"unreadable {line}")
    if found.num_unreadable:
        print(f"unreadable {found.num_unreadable:,} samples in all; a run counts them against data.max_bad_share")
    kept = found.num_shards - found.num_made
    told = f" ({kept:,} were there already)" if kept else ""
    print(f"derived    {found.num_samples:,} samples of {found.num_shards:,} shards in {seconds} s{told}")
    print(f'job        data.derived = "{dest}", model.autoencoder = "{model}", model.latents = "derived"')


class _Bar:
    """A bar on a terminal, some lines elsewhere, on stderr."""

    def __init__(self, *, as_json: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._console, self._is_quiet, self._line_samples = Console(stderr=True), as_json, 0
        columns = (TextColumn("deriving"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        disable = as_json or not self._console.is_terminal
        self._bar = Progress(*columns, console=self._console, transient=True, disable=disable)
        self._task = self._bar.add_task("derive", total=None)

    def __enter__(self) -> _Bar:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, done: int, total: int) -> None:
        self._bar.update(self._task, completed=done, total=total)
        is_due = done >= self._line_samples and not self._is_quiet and not self._console.is_terminal
        if is_due:
            self._line_samples = done + max(1, total // LINES_A_RUN)
            print(f"{done:,}/{total:,} samples", file=sys.stderr, flush=True)
