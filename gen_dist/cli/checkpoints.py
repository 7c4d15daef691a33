"""`gen-dist checkpoints`: what a run has kept, whether it is whole, and what may go."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gen_dist.job.errors import GenDistError

if TYPE_CHECKING:
    from gen_dist.checkpoint import Keep
    from gen_dist.store import Store

HEAD = ("checkpoint", "images", "attempt", "state", "pinned", "bytes")


class PlaceError(GenDistError):
    """A run without checkpoints, or no run at all."""


def run(
    place: str, *, verify: bool, prune: bool, dry_run: bool, keep: int, export: str, as_json: bool
) -> dict[str, Any]:
    """List, and with `verify`, `prune` or a folder to `export` to do that too.

    `keep` of 0 takes the policy of the run's job.
    """
    from gen_dist.checkpoint import inventory

    if dry_run and not prune:
        raise PlaceError("--dry-run without --prune: nothing would be removed; write --prune --dry-run")
    store = _store(place)
    removed = _prune(store, _policy(place, keep), dry_run=dry_run) if prune else []
    entries = inventory(store)
    if not entries and not removed:
        raise PlaceError(f"{place}: no checkpoint yet ({store.url}); wait for the first one")
    faults = _verify(store) if verify else {}
    exported = _export(store, Path(export)) if export else []
    facts = {
        "store": store.url,
        "checkpoints": [
            {
                "name": str(entry.name),
                "images": entry.name.images,
                "attempt": entry.name.attempt,
                "state": entry.state,
                "pinned": entry.is_pinned,
                "size_bytes": entry.size_bytes,
            }
            for entry in entries
        ],
        "removed": removed,
        "removed_bytes": sum(one["size_bytes"] for one in removed),
        "dry_run": dry_run,
        "damaged": faults,
        "exported": exported,
    }
    if not as_json:
        _tell(facts, verified=verify)
    return facts


def _store(place: str) -> Store:
    """That of a run folder, of a folder of checkpoints, or of an s3:// address that the environment reaches."""
    from gen_dist.registry.runs import run_store
    from gen_dist.store import open_store

    if "://" in place:
        return open_store(place.rstrip("/"))
    folder = Path(place)
    if not folder.is_dir():
        raise PlaceError(f"{place}: no such folder; name a run folder such as runs/quickstart, or s3://bucket/prefix")
    return run_store(folder) or open_store(str(folder))


def _policy(place: str, keep: int) -> Keep:
    """What the job of the run says, or `keep` newest ones where that is not 0."""
    import json

    from gen_dist.checkpoint import Keep
    from gen_dist.job.load import load_resolved
    from gen_dist.registry.runs import RESOLVED, retention

    resolved = Path(place) / RESOLVED
    if "://" not in place and resolved.is_file():
        spec = load_resolved(json.loads(resolved.read_text(encoding="utf-8")), origin=str(resolved)).run
        return replace(retention(spec), last=keep or spec.keep_checkpoints)
    if not keep:
        raise PlaceError(f"{place}: no job says what to keep; add --keep with a number, such as --keep 2")
    return Keep(last=keep)


def _prune(store: Store, keep: Keep, *, dry_run: bool) -> list[dict[str, Any]]:
    from gen_dist import checkpoint

    removed = checkpoint.prune(store, keep, dry_run=True)
    if removed and not dry_run:
        _must_be_whole(store, but={str(one.name) for one in removed})
        removed = checkpoint.prune(store, keep)
    return [{"name": str(one.name), "size_bytes": one.size_bytes, "why": one.why} for one in removed]


def _must_be_whole(store: Store, *, but: Collection[str]) -> None:
    """That what stays can be gone on from: else the last good checkpoint might go. Reads all bytes, newest first."""
    from gen_dist.checkpoint import CheckpointError, candidates, open_checkpoint

    staying = [name for name in candidates(store) if name not in but]
    for name in staying:
        try:
            open_checkpoint(store, name).verify()
        except CheckpointError as error:
            remedy = "lower --keep, or remove that one's folder first"
            if name == staying[0]:
                remedy = "train on, which goes back behind it and writes another, then prune"
            raise PlaceError(f"nothing removed, {name} is to stay and is damaged ({error}); {remedy}") from None


def _export(store: Store, folder: Path) -> list[str]:
    """The drawing weights of the newest checkpoint, for other libraries; the files written."""
    from safetensors import SafetensorError

    from gen_dist.checkpoint import candidates, export_safetensors, open_checkpoint

    if folder.exists():
        raise PlaceError(f"--export {folder}: exists already; name a new folder")
    found = candidates(store)
    if not found:
        raise PlaceError(f"{store.url}: no committed checkpoint to export; wait for the first one")
    checkpoint = open_checkpoint(store, found[0])
    checkpoint.verify()
    try:
        return [str(path) for path in export_safetensors(checkpoint, folder)]
    except (OSError, SafetensorError) as error:
        raise PlaceError(f"--export {folder}: {getattr(error, 'strerror', None) or error}; write elsewhere") from None


def _verify(store: Store) -> dict[str, str]:
    """What is wrong, by checkpoint; reads every byte of those that a run could go on from."""
    from gen_dist.checkpoint import CheckpointError, candidates, open_checkpoint

    faults = {}
    for name in candidates(store):
        try:
            open_checkpoint(store, name).verify()
        except CheckpointError as error:
            faults[name] = str(error)
    return faults


def _tell(facts: dict[str, Any], *, verified: bool) -> None:
    rows = [HEAD]
    for entry in facts["checkpoints"]:
        state = "damaged" if entry["name"] in facts["damaged"] else entry["state"]
        numbers = (f"{entry['images']:,}", str(entry["attempt"]), state, "pinned" if entry["pinned"] else "")
        rows.append((entry["name"], *numbers, f"{entry['size_bytes']:,}"))
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    for row in rows:
        name, images, attempt, state, pin, size = (f"{cell:{width}}" for cell, width in zip(row, widths, strict=True))
        print("  ".join((name, images.strip().rjust(widths[1]), attempt, state, pin, size.strip().rjust(widths[5]))))
    for line in facts["damaged"].values():
        print(f"damaged    {line}")
    if verified and not facts["damaged"]:
        print("verified   every byte of those that a run can go on from")
    for path in facts["exported"]:
        print(f"exported   {path}")
    verb = "would go" if facts["dry_run"] else "removed"
    for one in facts["removed"]:
        print(f"{verb:<10} {one['name']}  {one['size_bytes']:,} bytes  {one['why']}")
    if facts["removed"]:
        print(f"{verb:<10} {len(facts['removed'])} of them, {facts['removed_bytes']:,} bytes")
