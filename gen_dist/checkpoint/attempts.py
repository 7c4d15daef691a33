"""Attempts: the numbers of a run's worker groups. The highest is the one that counts; all others are fenced off.

A group that was given up may go on writing for minutes (its node was only unreachable). So each group takes the next
number before it does anything, the number is part of the name of all that it writes, and a group commits only while
its number is the highest. What a group went on from is noted with its number: that makes the history one line.
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

from gen_dist.checkpoint.errors import CheckpointError, FencedError
from gen_dist.checkpoint.manifest import malformed, parse_json
from gen_dist.checkpoint.names import ATTEMPTS, MANIFEST, Name, attempt_name, attempt_of
from gen_dist.store import ConflictError, MissingError, Store

SETTLE_S = 2.0  # longer than a request takes: where writes do not exclude each other, the last one wins after this
NUM_READERS = 8

Notify = Callable[..., object]
"""Called with the kind of an event and its facts, as a run's Report is."""


def silent(kind: str, **facts: object) -> None:
    """Tells nobody."""


def begin_attempt(store: Store, *, on_event: Notify = silent, settle_s: float = SETTLE_S) -> int:
    """Takes the next number for this worker group. For its leader alone; the others are told.

    Where the store does not enforce conditions, the event `store_without_conditions` says so, and whoever wrote last
    has the number: that takes `settle_s` longer.
    """
    enforced = store.enforces_conditions()
    if not enforced:
        on_event(
            "store_without_conditions",
            warning=f"{store.url}: the store ignores conditional writes; start one command at a time for this run",
        )
    number, token = max(highest_attempt(store), _highest_written(store)) + 1, uuid.uuid4().hex
    while True:
        document = {"attempt": number, "token": token, "began": datetime.now(UTC).isoformat(timespec="seconds")}
        try:
            store.write(attempt_name(number), _dumped(document), if_version="")
            if enforced:
                return number
            time.sleep(settle_s)
            if _read(store, number).get("token") == token:
                return number
        except ConflictError:
            pass
        number = max(highest_attempt(store), number) + 1


def note_base(store: Store, attempt: int, base: str | None) -> None:
    """Notes the checkpoint that this attempt goes on from, None for a fresh start. For the leader, before it trains.

    From then on a checkpoint of an earlier attempt counts only if it is no further than `base`.
    """
    if base is not None and Name.parse(base) is None:
        raise CheckpointError(f"{base!r} is no name of a checkpoint; give one that `candidates` gave")
    store.write(attempt_name(attempt), _dumped({**_read(store, attempt), "noted": True, "base": base}))


def highest_attempt(store: Store) -> int:
    """0 where no worker group has begun."""
    return max(attempts(store), default=0)


def attempts(store: Store) -> list[int]:
    """Numbers of all worker groups so far, sorted."""
    try:
        numbers = [attempt_of(info.name) for info in store.list(ATTEMPTS)]
    except MissingError:
        return []
    return sorted(number for number in numbers if number is not None)


def check_not_fenced(store: Store, attempt: int) -> None:
    """Raises: FencedError where a newer worker group has begun."""
    highest = highest_attempt(store)
    if highest > attempt:
        raise FencedError(
            f"{store.url}: attempt {highest} has begun, this is attempt {attempt}; nothing to do, it was replaced"
        )


def bases(store: Store, numbers: Iterable[int]) -> dict[int, int]:
    """Attempt -> images of the checkpoint that it went on from, -1 for a fresh start; of those that noted it."""
    wanted = list(numbers)
    with ThreadPoolExecutor(NUM_READERS, thread_name_prefix="gen-dist-attempts") as pool:
        documents = pool.map(lambda number: _read(store, number), wanted)
        return {
            number: _images(document, attempt_name(number))
            for number, document in zip(wanted, documents, strict=True)
            if document.get("noted") is True
        }


def base_of(store: Store, attempt: int) -> str | None:
    """Name of the checkpoint that an attempt went on from; None for a fresh start, or where nothing is noted."""
    try:
        base = _read(store, attempt).get("base")
    except MissingError:
        return None
    return None if base is None else str(base)


def began(store: Store, attempt: int) -> datetime:
    """When the attempt began, by the clock of its leader."""
    text = _read(store, attempt).get("began")
    try:
        return datetime.fromisoformat(str(text)).astimezone(UTC)
    except ValueError:
        raise malformed(f"{store.url}/{attempt_name(attempt)}", f"began is {text!r}") from None


def _highest_written(store: Store) -> int:
    """The highest attempt with a checkpoint: where only the checkpoints were copied from another store."""
    try:
        names = [Name.parse(info.name.partition("/")[0]) for info in store.list(f"images-*/{MANIFEST}")]
    except MissingError:
        return 0
    return max((name.attempt for name in names if name is not None), default=0)


def _images(document: dict[str, Any], where: str) -> int:
    base = document.get("base")
    if base is None:
        return -1
    name = Name.parse(str(base))
    if name is None:
        raise malformed(where, f"base is {base!r}")
    return name.images


def _read(store: Store, attempt: int) -> dict[str, Any]:
    name = attempt_name(attempt)
    return parse_json(store.read(name), where=f"{store.url}/{name}")


def _dumped(document: dict[str, Any]) -> bytes:
    return json.dumps(document).encode()
