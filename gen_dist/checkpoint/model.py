"""The part of a checkpoint that draws: averaged weights where there are any, buffers, and the recipe's own state.

Only the bytes of these are read: no optimizer state, and no live weights where an average stands for them. A tensor's
name here is `network.parameter`; its key in the checkpoint is `SECTION/GROUP/nets.network.parameter`.
"""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from gen_dist.checkpoint.errors import CheckpointError
from gen_dist.checkpoint.read import Checkpoint, Slice

MAX_SHARD_BYTES = 5_000_000_000  # where Hugging Face's writers divide a model
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
PREFIX = "nets."


def drawing_keys(checkpoint: Checkpoint) -> dict[str, str]:
    """Name of each tensor that drawing needs -> its key: `average` where there is one, else `weight`; and `buffer`."""
    return {
        _name_of(key): key for section in ("weight", "average", "buffer") for key in checkpoint.keys(section)
    }  # a later section replaces an earlier one


def verify_model(checkpoint: Checkpoint) -> None:
    """Holds the files of what drawing reads against their checksums. Raises: CheckpointError, StoreError."""
    checkpoint.verify_holding([*drawing_keys(checkpoint).values(), *checkpoint.keys("recipe")])


def read_model(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """What samples are drawn from, by `network.parameter`."""
    keys = drawing_keys(checkpoint)
    values = checkpoint.read_all([Slice(key) for key in keys.values()])
    return {name: value.reshape(checkpoint.shape(key)) for (name, key), value in zip(keys.items(), values, strict=True)}


def read_recipe(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """State of the recipe that no network holds."""
    return checkpoint.section("recipe")


def export_safetensors(checkpoint: Checkpoint, dest: Path, *, max_shard_bytes: int = MAX_SHARD_BYTES) -> list[Path]:
    """Writes the drawing weights to the folder `dest` as Hugging Face's libraries read them; the files written.

    `model.safetensors`, or beyond `max_shard_bytes` shards of it with an index. Holds one shard in memory at a time.
    Raises: CheckpointError, StoreError, and OSError where `dest` cannot be written.
    """
    keys = drawing_keys(checkpoint)
    if not keys:
        raise CheckpointError(f"{checkpoint.url}: holds no weights; export another checkpoint")
    sizes = {name: checkpoint.entry(key).numel * checkpoint.dtype(key).itemsize for name, key in keys.items()}
    shards: list[dict[str, str]] = [{}]
    room = max_shard_bytes
    for name, key in keys.items():
        if shards[-1] and sizes[name] > room:
            shards.append({})
            room = max_shard_bytes
        shards[-1][name] = key
        room -= sizes[name]
    dest.mkdir(parents=True, exist_ok=True)
    written, weight_map = [], {}
    for number, shard in enumerate(shards, start=1):
        path = dest / (f"model-{number:05d}-of-{len(shards):05d}.safetensors" if len(shards) > 1 else WEIGHTS)
        values = checkpoint.read_all([Slice(key) for key in shard.values()])
        tensors = {
            name: value.reshape(checkpoint.shape(key)) for (name, key), value in zip(shard.items(), values, strict=True)
        }
        save_file(tensors, path, metadata={"format": "pt"})
        written.append(path)
        weight_map.update(dict.fromkeys(shard, path.name))
    if len(shards) > 1:
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": weight_map}
        (dest / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        written.append(dest / INDEX)
    return written


def _name_of(key: str) -> str:
    """`weight/denoiser/nets.denoiser.conv_in.weight` -> `denoiser.conv_in.weight`."""
    return key.split("/", 2)[-1].removeprefix(PREFIX)
