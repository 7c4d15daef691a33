"""export: the part of a checkpoint that draws, in a folder that can travel, with the frozen networks that it names."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from gen_dist import checkpoint
from gen_dist.nets.autoencoder import StoredAutoencoder
from gen_dist.registry.errors import RegistryError
from gen_dist.registry.secrets import without_secrets

FILES = ("model.safetensors", "recipe.safetensors")


def export(source: Path, dest: Path) -> Path:
    """Write the drawable part of the checkpoint `source` to the new folder `dest`; `Model.load(dest)` reads it.

    The copy of the job in it names no user and no password. Raises: CheckpointError, RegistryError, AutoencoderError.
    """
    manifest = checkpoint.read_manifest(source)
    missing = [name for name in FILES if not (source / name).is_file()]
    if missing:
        raise checkpoint.CheckpointError(f"{source / missing[0]}: missing; take another checkpoint of the run")
    if dest.exists():
        raise RegistryError(f"{dest}: exists already; name a new folder to export to, or remove it")
    draft = dest.with_name(f".{dest.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    facts = json.loads((source / "checkpoint.json").read_text(encoding="utf-8"))
    (draft / "checkpoint.json").write_text(json.dumps(without_secrets(facts), indent=2) + "\n", encoding="utf-8")
    for name in FILES:
        shutil.copyfile(source / name, draft / name)
    if manifest.job["model"].get("text_encoder"):
        _copy_text_encoder(source, Path(manifest.job["model"]["text_encoder"]), draft / "text_encoder")
    if manifest.job["model"].get("autoencoder"):
        carried = source / "autoencoder"  # where `source` is an export itself
        named = Path(manifest.job["model"]["autoencoder"])
        StoredAutoencoder.read(carried if carried.is_dir() else named).write(draft / "autoencoder")
    return draft.rename(dest)


def _copy_text_encoder(source: Path, named: Path, dest: Path) -> None:
    """The one beside the weights, where `source` is an export itself; else the one that the job names."""
    folder = source / "text_encoder" if (source / "text_encoder").is_dir() else named
    if not folder.is_dir():
        raise RegistryError(
            f"{source}: model.text_encoder={str(named)!r}: no such folder here; export where the run was trained, or"
            f" copy the text encoder to {source / 'text_encoder'}"
        )
    shutil.copytree(folder, dest)
