"""A run's savers on a disk of their own that really gets full; a program, because only a process may mount for itself.

`python -m tests.support.full_disk FOLDER`, within a mount namespace of its own: prints what happened as JSON.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from gen_dist.checkpoint import Saver, begin_attempt
from gen_dist.store.local import LocalStore
from tests.support import saves
from tests.support.saves import Events, check_whole, group, newest

SCALE = 20_000  # 12 MB a checkpoint
DISK_BYTES = 48 << 20
MOUNTS = {
    "tmpfs": f"mount -t tmpfs -o size={DISK_BYTES} none $0",
    "ext4": f"truncate -s {DISK_BYTES} $0.img && mkfs.ext4 -q -m 0 $0.img && mount -o loop $0.img $0",
}


def main(folder: Path) -> dict[str, Any]:
    """Two saves, then three on a full disk, then one on a disk with room again."""
    store, events = LocalStore(folder / "run"), Events()
    savers = group(store, attempt=begin_attempt(store), on_event=events, hold_s=0.2, alarm_after=2)
    ended = [_saved(savers, images) for images in (64, 128)]
    _fill(folder / "ballast", leave_bytes=15 << 20)  # for one more checkpoint, and not for what missed ones wrote
    filler = folder / "filler"
    _fill(filler, leave_bytes=8 << 20)  # room for one worker's file and not for two
    ended += [_saved(savers, images) for images in (192, 256)]
    _fill(filler, leave_bytes=0)
    ended.append(_saved(savers, 320))
    litter = [str(path) for path in folder.rglob("*.part")]
    _check_newest(store)
    filler.unlink()
    ended.append(_saved(savers, 384))
    _check_newest(store)
    left = sorted({path.name for path in (folder / "run").glob("images-*")})
    return {"ended": ended, "events": list(events), "left": left, "litter": litter}


def _saved(savers: list[Saver], images: int) -> bool:
    saves.save(savers, images, scale=SCALE)
    for saver in reversed(savers):  # as the next save does; the leader waits for the word of the others
        saver.wait()
    return all(saver.flush(300) for saver in savers)


def _check_newest(store: LocalStore) -> None:
    check_whole(newest(store), scale=SCALE)


def _fill(path: Path, *, leave_bytes: int) -> None:
    """Takes all of the disk but so much."""
    with path.open("ab", buffering=0) as file:
        while (free_bytes := shutil.disk_usage(path.parent).free - leave_bytes) > 0:
            try:
                file.write(bytes(min(1 << 20, free_bytes)))
                os.fsync(file.fileno())  # or the space is only promised
            except OSError:  # blocks that only the file system itself may use
                return


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
