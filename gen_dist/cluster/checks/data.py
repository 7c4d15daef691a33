"""Does the data hold what the job asks for: shards that match, a current index, the members that its recipe reads."""

from __future__ import annotations

from typing import Any

from gen_dist.cluster.checks.finding import Finding, note, ok, wrong
from gen_dist.cluster.checks.places import LateError
from gen_dist.data.sequential import Unindexed
from gen_dist.job.errors import GenDistError
from gen_dist.job.spec import JobSpec
from gen_dist.recipes import catalog
from gen_dist.train.samples import find_samples

CHECK = "data"


def look(job: JobSpec) -> dict[str, Any]:
    """What a run finds when it begins, as JSON-able facts. Raises: GenDistError, as the run would."""
    data, heldout = find_samples(job)
    if isinstance(data, Unindexed):
        return {"loss": data.loss, "num_shards": len(data.shards)}
    assert not isinstance(heldout, Unindexed)
    return {
        "num_samples": len(data),
        "num_heldout": len(heldout or ()),
        "num_shards": len(data.index.shards),
        "num_left_out": data.index.num_left_out,
        "is_indexed": all(index.is_stored or index.store_of(0).url.startswith("embedded://") for index in data.sources),
        "digest": data.digest,
        "fields": sorted(catalog.build(job.recipe, job.model).batch),
    }


def judge(job: JobSpec, seen: dict[str, Any] | BaseException) -> Finding:
    """What `look` gave, or met."""
    url = job.data.url
    if isinstance(seen, GenDistError):
        return wrong(CHECK, str(seen))
    if isinstance(seen, LateError):
        what = "not looked through: without an index every run reads the headers of all shards before it starts"
        return wrong(CHECK, f"{url}: {seen}, the shards are {what}; run `gen-dist data index {url}` once")
    if isinstance(seen, BaseException):
        return wrong(CHECK, f"{url}: {seen or type(seen).__name__}; `gen-dist data verify --job JOB` says more")
    if "loss" in seen:
        return note(CHECK, seen["loss"], num_shards=seen["num_shards"])
    heldout = f", {seen['num_heldout']:,} held out" if seen["num_heldout"] else ""
    amount = f"{seen['num_samples']:,} samples{heldout} in {seen['num_shards']:,} shards of {url}"
    measured = {key: value for key, value in seen.items() if key != "fields"}
    if seen["num_left_out"]:
        left = f"{seen['num_left_out']:,} samples are left out; `gen-dist data verify {url}` names them"
        return note(CHECK, f"{amount}; {left}", **measured)
    fields = f"each with {', '.join(seen['fields'])}"
    if not seen["is_indexed"]:
        what = f"without an index; `gen-dist data index {url}` lets runs start at once"
        return note(CHECK, f"{amount}, {fields}, {what}", **measured)
    return ok(CHECK, f"{amount}, {fields}; the index is current", **measured)
