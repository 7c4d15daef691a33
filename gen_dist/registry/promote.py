"""Moving aliases: promote behind gates, roll back, pin and delete; each decided by the ledger and kept in its audit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gen_dist.checkpoint import unpin as let_go
from gen_dist.registry import aliases, exports, gates
from gen_dist.registry.acting import act
from gen_dist.registry.aliases import CHAMPION, State
from gen_dist.registry.errors import RegistryError
from gen_dist.registry.gates import Result
from gen_dist.registry.lineage import CHECKPOINTS_TAG
from gen_dist.registry.registered import Registered
from gen_dist.registry.secrets import without_secrets
from gen_dist.store import StoreError, open_store


@dataclass(frozen=True)
class Moved:
    """What a decision did."""

    state: State
    results: list[Result]
    """Of the gates; empty where none were run."""
    forced: bool = False


def promote(
    registered: Registered,
    number: str,
    *,
    to: str = CHAMPION,
    force: bool = False,
    why: str = "",
    tell: Callable[[Result], object] = lambda result: None,
) -> Moved:
    """Give a version an alias; to become champion it must pass the gates of its job, or `force` says `why` not.

    `tell` hears each gate's result. Raises: RegistryError with a line for each gate that failed; with one line where
    another promotion was quicker.
    """
    if force and not why:
        raise RegistryError("--force: say why, for the audit; write --force --why 'REASON'")
    version = registered.version(number)
    seen = registered.state()
    aliases.promoted(seen, number, alias=to, seen=seen.champion, act=act())  # refused at once, before gates take time
    results: list[Result] = []
    if to == CHAMPION:
        champion = registered.versions().get(seen.champion)
        results = gates.run_gates(registered, version, champion)
        for result in results:
            tell(result)
        gates.note(registered.client, version, results)
    failed = [result for result in results if not result.passed]
    said = [result.facts() for result in results]
    if failed and not force:
        registered.decide(lambda state: aliases.refused(state, number, act=act(why, gates=said)))
        lines = [f"{registered.name}/{number}: not promoted, {result.line}" for result in failed]
        raise RegistryError("\n".join(lines))
    forced = force and bool(failed)
    state = registered.decide(
        lambda state: aliases.promoted(
            state, number, alias=to, seen=seen.champion, act=act(why, gates=said, forced=forced)
        )
    )
    if to == CHAMPION:
        tags = {"promoted_over": seen.champion or "none", "promotion": f"forced: {why}" if forced else "gates passed"}
        for key, value in tags.items():
            registered.client.set_model_version_tag(registered.name, number, key, without_secrets(value))
    return Moved(state, results, forced)


def rollback(registered: Registered, *, why: str = "") -> Moved:
    """The champion before is champion again. Raises: RegistryError where there is none, or another move was quicker."""
    seen, there = registered.state().champion, set(registered.versions())
    state = registered.decide(lambda state: aliases.rolled_back(state, seen=seen, there=there, act=act(why)))
    return Moved(state, [])


def delete(registered: Registered, number: str, *, why: str = "") -> Moved:
    """Remove a version, its export and its hold on its checkpoint.

    Raises: RegistryError where an alias or a pin holds it. After a failure midway, the same call goes on.
    """
    version = registered.version(number)
    holding = [alias for alias, held in registered.mlflow_aliases().items() if held == number]
    mine = registered.state().aliases
    if foreign := [alias for alias in holding if alias not in mine]:
        raise RegistryError(
            f"{registered.name}/{number}: not deleted, MLflow's alias {foreign[0]} names it; move that alias first"
        )
    state = registered.decide(lambda state: aliases.deleted(state, number, act=act(why)))
    try:
        folder = version.tags.get(CHECKPOINTS_TAG, "")
        if folder and ("://" in folder or Path(folder).is_dir()):  # else there is nothing here to hold
            let_go(open_store(folder, registered.home.s3), by=f"{registered.name}/{number}")
    except StoreError as error:
        raise RegistryError(f"{registered.name}/{number}: {error}; then delete it again") from None
    if prefix := exports.prefix_of(registered.home, version.source):
        exports.remove(registered.store, registered.home, prefix)
    registered.client.delete_model_version(registered.name, number)
    return Moved(state, [])


def pin(registered: Registered, number: str, *, why: str = "") -> Moved:
    """Keep a version from being deleted."""
    registered.version(number)
    return Moved(registered.decide(lambda state: aliases.pinned(state, number, act=act(why))), [])


def unpin(registered: Registered, number: str, *, why: str = "") -> Moved:
    """Let a version be deleted again."""
    return Moved(registered.decide(lambda state: aliases.unpinned(state, number, act=act(why))), [])
