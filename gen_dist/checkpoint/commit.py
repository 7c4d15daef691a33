"""The leader's half of a save: wait for all workers' files, check that they are one whole state, write the manifest.

The manifest is written last and only where none is, by the group with the highest attempt number. Before it is there
the checkpoint does not exist for anyone; once it is there, all that it names is.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gen_dist.checkpoint.attempts import check_not_fenced
from gen_dist.checkpoint.manifest import Manifest, Part
from gen_dist.checkpoint.names import HEAD, Name, rank_of_done
from gen_dist.checkpoint.write import Done
from gen_dist.store import ConflictError, Store

FIRST_WAIT_S, LONGEST_WAIT_S = 0.02, 1.0


class MissedError(Exception):
    """This checkpoint will not come about; the next one may."""


@dataclass(frozen=True)
class Commit:
    """What the leader knows of the checkpoint to be."""

    store: Store
    name: Name
    save: int
    step: int
    world_size: int
    parent: str | None
    facts: dict[str, Any]

    def run(self, at: Callable[[str], object], *, deadline_s: float) -> tuple[Manifest, str]:
        """Commits. Gives the manifest and its SHA-256.

        Raises: FencedError; MissedError; StoreError, after which it may be called again.
        `deadline_s` is a point of `time.monotonic()`.
        """
        parts = self._wait_for_all(deadline_s)
        contents = Part.merge(parts)
        self._check_sizes(contents)
        contents.check_tiling(f"{self.store.url}/{self.name}")
        manifest = Manifest(self.name, self.step, self.world_size, self.parent, contents, self.facts)
        at("manifest")
        check_not_fenced(self.store, self.name.attempt)
        data = manifest.to_bytes()
        at("publish")
        try:
            self.store.write(self.name.manifest, data, if_version="")
        except ConflictError as error:
            if self.store.read(self.name.manifest) != data:  # ours, where an earlier call wrote it and then failed
                why = f"{self.name}: another process has committed it; start one command at a time"
                raise MissedError(why) from error
        at("committed")
        return manifest, hashlib.sha256(data).hexdigest()

    def _wait_for_all(self, deadline_s: float) -> list[Part]:
        """The parts of all workers, by rank."""
        parts: dict[int, Part] = {}
        seen: dict[str, str] = {}
        wait_s = FIRST_WAIT_S
        while True:
            for info in self.store.list(self.name.done()):
                rank = rank_of_done(info.name)
                if rank is None or rank in parts or seen.get(info.name) == (info.version or "-"):
                    continue
                where = f"{self.store.url}/{info.name}"
                done = Done.from_bytes(self.store.read(info.name), where=where)
                if done.save != self.save:
                    continue  # of an earlier try; it will be replaced
                seen[info.name] = info.version or "-"
                if done.error:
                    raise MissedError(f"{self.name}: worker {rank}: {done.error}")
                parts[rank] = done.part
            if len(parts) == self.world_size:
                return [parts[rank] for rank in sorted(parts)]
            if time.monotonic() > deadline_s:
                missing = sorted(set(range(self.world_size)) - parts.keys())
                raise MissedError(f"{self.name}: workers {missing} have not written their files in time")
            if wait_s >= LONGEST_WAIT_S:  # a worker that saw that the group was replaced writes nothing more
                check_not_fenced(self.store, self.name.attempt)
            time.sleep(wait_s)
            wait_s = min(LONGEST_WAIT_S, wait_s * 1.5)

    def _check_sizes(self, contents: Part) -> None:
        """That the store lists the files as their writers believe they wrote them."""
        sizes = {info.name: info.size_bytes for info in self.store.list(f"{self.name}/*")}
        for name, file in contents.files.items():
            seen = sizes.get(self.name.file(name))
            if seen != file.size_bytes:
                raise MissedError(f"{self.name}/{name}: {seen} bytes in the store, {file.size_bytes} were written")


def move_head(store: Store, name: Name) -> None:
    """Lets HEAD.json name the newest checkpoint. Only a hint for people and tools: recovery lists manifests."""
    for _ in range(3):
        infos = store.list(HEAD)
        if infos:
            try:
                there = Name.parse(str(json.loads(store.read(HEAD)).get("checkpoint")))
            except (ValueError, AttributeError):
                there = None
            if there is not None and there.attempt > name.attempt:
                return
        document = {"checkpoint": str(name), "images": name.images, "attempt": name.attempt}
        try:
            store.write(HEAD, json.dumps(document).encode(), if_version=infos[0].version if infos else "")
        except ConflictError:
            continue
        return
