"""From a job's data section to a checked stream: what a worker calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from gen_dist.data.buckets import Aspects, Bucketed, Size, check_sizes, with_buckets
from gen_dist.data.derived import Facts, joined_to
from gen_dist.data.errors import DataError
from gen_dist.data.fields import FieldLike, check_fields
from gen_dist.data.index import Index, find_index, joined
from gen_dist.data.mixture import Mixture
from gen_dist.data.order import Order, Plan
from gen_dist.data.stream import Batch, OrderLike, Stream
from gen_dist.store import Store, gopen, open_store
from gen_dist.store.disk_cache import CachedStore

if TYPE_CHECKING:
    from gen_dist.job.spec import DataSpec

NOTHING: Facts = {}
CHECKED = 4  # samples decoded before a run starts
DEFAULT_RUN = 32  # positions in one lane, where no micro-batch says


gopen.register()  # plain wds.WebDataset("s3://...") of a user's own code is safe as well


@dataclass(frozen=True)
class Data:
    """The sources that a run draws from. It pickles: find them once and hand them to every worker."""

    sources: list[Index]
    weights: list[float]

    @cached_property
    def index(self) -> Index:
        """All samples, source after source."""
        return joined(self.sources)

    @property
    def digest(self) -> str:
        """Of the samples and their shares."""
        derived = self.index.derived
        own = self.index.digest if derived is None else f"{self.index.digest}+{derived.digest}"
        if len(self.sources) == 1:
            return own
        return f"{own}:" + ":".join(f"{weight:g}" for weight in self.weights)

    @property
    def stores(self) -> list[Store]:
        """Each of those that samples come from."""
        return self.index.stores

    def __len__(self) -> int:
        return len(self.index)

    def plan(self, *, workers: int, shuffle_bytes: int, run: int, buckets: Sequence[Size] = (), batch: int = 0) -> Plan:
        """How a new run shuffles; a checkpoint keeps it. `buckets` share out global batches of `batch` samples."""
        num_bytes = int(self.index.blocks.num_bytes.sum())
        plan = Plan.fitting(
            num_samples=len(self.index), num_bytes=num_bytes, workers=workers, shuffle_bytes=shuffle_bytes, run=run
        )
        return with_buckets(plan, sizes=buckets, batch=batch) if buckets else plan

    def order(self, *, seed: int, plan: Plan) -> OrderLike:
        counts = [index.blocks.num_samples for index in self.sources]
        order: Order | Mixture
        if len(self.sources) == 1:
            order = Order(seed=seed, num_in_block=counts[0], plan=plan)
        else:
            order = Mixture(seed=seed, sources=counts, weights=self.weights, plan=plan)
        return Bucketed(order, aspects=Aspects(self.index), seed=seed) if plan.buckets else order


def find_data(spec: DataSpec, *, made_with: Facts = NOTHING) -> Data:
    """The training samples of data.url and data.mix, with their derived shards. Raises: DataError, StoreError.

    `made_with`: what the recipe's derived arrays must have been computed with.
    """
    wanted = [(spec.url, spec.derived, spec.train), *((mix.url, mix.derived, mix.train) for mix in spec.mix)]
    sources = [
        _find(spec, url, derived=derived, pattern=pattern, made_with=made_with) for url, derived, pattern in wanted
    ]
    return Data(sources, [spec.weight, *(mix.weight for mix in spec.mix)])


def find_heldout(spec: DataSpec, *, made_with: Facts = NOTHING) -> Data | None:
    """The samples of data.heldout, where there are any, as `find_data`. Raises: DataError, StoreError."""
    if not spec.heldout:
        return None
    return Data([_find(spec, spec.url, derived=spec.derived, pattern=spec.heldout, made_with=made_with)], [1.0])


def _find(spec: DataSpec, url: str, *, derived: str, pattern: str, made_with: Facts) -> Index:
    if not derived and made_with:
        members = " and ".join(f".{member}" for member in made_with)
        command = f"gen-dist data derive MODEL {url} DEST"
        what = f"the recipe reads {members} from derived shards, and the job names none for {url}"
        raise DataError(what, remedy=f"run `{command}`, and write the `derived` beside this url in the job as DEST")
    index = find_index(open_data_store(spec, url), pattern)
    if not derived:
        return index
    return joined_to(index, open_data_store(spec, derived), pattern, made_with=made_with)


def open_data_store(spec: DataSpec, url: str) -> Store:
    """The store of a data URL, behind the local cache where the job asks for one."""
    store = open_store(url, spec.s3)
    if spec.disk_cache and url.startswith("s3://"):
        return CachedStore(store, Path(spec.disk_cache), limit_bytes=spec.disk_cache_bytes)
    return store


def open_index(spec: DataSpec, *, pattern: str) -> Index:
    """The index of the shards of data.url that match a glob."""
    return find_index(open_data_store(spec, spec.url), pattern)


def open_stream(
    spec: DataSpec,
    *,
    fields: Mapping[str, FieldLike],
    seed: int,
    pattern: str = "",
    data: Data | None = None,
    plan: Plan | None = None,
) -> Stream:
    """A stream over `data` (default: the shards of data.url that match `pattern`) in the order of `plan`.

    Raises: DataError, StoreError.
    """
    if data is None:
        data = Data([open_index(spec, pattern=pattern or spec.train)], [1.0])
    if plan is None:
        plan = data.plan(workers=1, shuffle_bytes=spec.shuffle_bytes, run=DEFAULT_RUN)
    return Stream(data.index, data.order(seed=seed, plan=plan), fields=fields, spec=spec, seed=seed)


def check_data(
    spec: DataSpec, *, fields: Mapping[str, FieldLike], made_with: Facts = NOTHING
) -> tuple[Data, Data | None]:
    """The training and the held-out samples, after checking that they have all fields, and sizes for buckets."""
    data, heldout = find_data(spec, made_with=made_with), find_heldout(spec, made_with=made_with)
    for source in data.sources if spec.aspect_buckets else ():
        check_sizes(source)
    for found in filter(None, (data, heldout)):
        check_fields(found.index, fields, spec)
        with open_stream(spec, fields=fields, seed=0, data=found) as stream:
            check_first(stream.batch(0, min(CHECKED, len(found))))
    return data, heldout


def check_first(batch: Batch) -> None:
    """That not all samples of the first batch are bad: one may be broken, all of them speak of the job."""
    if len(batch["bad"]) == len(batch["weight"]):
        bad = batch["bad"][0]
        remedy = "replace these samples, or correct data.image, data.caption or data.label"
        raise DataError(bad.reason, shard=bad.shard, key=bad.key, remedy=remedy)


def data_digest(spec: DataSpec) -> str:
    """The digest of the training data: equal for equal shards wherever they are."""
    return find_data(spec).digest
