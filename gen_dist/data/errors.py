"""The one error of shards, samples and fields: where it is, what is wrong, and what to do about it."""

from __future__ import annotations

from gen_dist.job.errors import GenDistError


class DataError(GenDistError):
    """One line `where: sample 'key': what; remedy`; crosses processes."""

    def __init__(self, what: str, *, shard: str = "", key: str = "", remedy: str = "") -> None:
        self.what, self.shard, self.key, self.remedy = what, shard, key, remedy
        where = [part for part in (shard, f"sample {key!r}" if key else "") if part]
        super().__init__(": ".join([*where, what]) + (f"; {remedy}" if remedy else ""))

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (self.what, self.shard, self.key, self.remedy)


def _rebuild(what: str, shard: str, key: str, remedy: str) -> DataError:
    return DataError(what, shard=shard, key=key, remedy=remedy)
