"""export: the part of a model that draws, in a folder that can travel, with the frozen networks that it names."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from gen_dist.nets.autoencoder import StoredAutoencoder
from gen_dist.registry.errors import RegistryError
from gen_dist.registry.secrets import without_secrets
from gen_dist.sample.source import ModelSource, write_export


def export(source: ModelSource, dest: Path) -> Path:
    """Write what draws of `source` to the new folder `dest`; `Model.load(dest)` reads it.

    The copy of the job in it names no user and no password. Raises: CheckpointError, SourceError, RegistryError,
    AutoencoderError.
    """
    if dest.exists():
        raise RegistryError(f"{dest}: exists already; name a new folder to export to, or remove it")
    draft = dest.with_name(f".{dest.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    facts = source.facts
    write_export(draft, replace(facts, job=without_secrets(facts.job)), source.weights(), source.recipe_state())
    if facts.job["model"].get("text_encoder"):
        _copy_text_encoder(source, Path(facts.job["model"]["text_encoder"]), draft / "text_encoder")
    if facts.job["model"].get("autoencoder"):
        carried = source.carried("autoencoder")  # where `source` is an export itself
        StoredAutoencoder.read(carried or Path(facts.job["model"]["autoencoder"])).write(draft / "autoencoder")
    return draft.rename(dest)


def _copy_text_encoder(source: ModelSource, named: Path, dest: Path) -> None:
    """The one beside the weights, where `source` is an export itself; else the one that the job names."""
    folder = source.carried("text_encoder") or named
    if not folder.is_dir():
        raise RegistryError(
            f"{source.place}: model.text_encoder={str(named)!r}: no such folder here; export where the run was"
            " trained, or copy the text encoder there"
        )
    shutil.copytree(folder, dest)
