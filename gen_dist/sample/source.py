"""What a model is loaded from: a checkpoint of a run, or an exported folder that has left its run. Both give the same.

Tensors go by `network.parameter`; nothing is ever unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gen_dist.job.errors import GenDistError

FORMAT = "gen-dist-model-1"
FACTS = "model.json"
WEIGHTS, STATE = FILES = ("model.safetensors", "recipe.safetensors")


class SourceError(GenDistError):
    """A folder that holds no model, or half of one."""


@dataclass(frozen=True)
class ModelFacts:
    """What is known of a model beside its tensors."""

    images: int
    """Images that it learned from."""
    step: int
    job: Mapping[str, Any]
    """The resolved job, every default written out."""
    data_digest: str
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of the packages that made it."""
    stream: Mapping[str, Any] = field(default_factory=dict)
    """How samples were shuffled, what was used of them, and which could not be read."""


class ModelSource(Protocol):
    """Where a model lies."""

    @property
    def place(self) -> str:
        """For a person."""
        ...

    @property
    def facts(self) -> ModelFacts: ...

    def weights(self) -> dict[str, Tensor]:
        """What samples are drawn from: averages where a group keeps them, else live weights; and buffers."""
        ...

    def recipe_state(self) -> dict[str, Tensor]:
        """State of the recipe that no network holds."""
        ...

    def carried(self, name: str) -> Path | None:
        """The folder of something that the job names (text_encoder, autoencoder) and that travels with the model."""
        ...


class Exported:
    """A folder of model.json, model.safetensors and recipe.safetensors, with what the job names beside them."""

    def __init__(self, folder: Path) -> None:
        """Raises: SourceError where the folder is no such export."""
        self.folder = folder
        self.facts = _read_facts(folder)
        missing = [name for name in FILES if not (folder / name).is_file()]
        if missing:
            raise SourceError(f"{folder / missing[0]}: missing; export the model again, or take another version")

    @property
    def place(self) -> str:
        """The folder."""
        return str(self.folder)

    def weights(self) -> dict[str, Tensor]:
        """Raises: SourceError."""
        return self._load(WEIGHTS)

    def recipe_state(self) -> dict[str, Tensor]:
        """Raises: SourceError."""
        return self._load(STATE)

    def carried(self, name: str) -> Path | None:
        """The folder below this one, if there is one."""
        return self.folder / name if (self.folder / name).is_dir() else None

    def _load(self, name: str) -> dict[str, Tensor]:
        try:
            return load_file(self.folder / name)
        except (OSError, SafetensorError) as error:
            raise SourceError(f"{self.folder / name}: unreadable ({error}); export the model again") from None


def write_export(folder: Path, facts: ModelFacts, weights: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Write what `Exported` reads into an existing folder."""
    text = json.dumps({"format": FORMAT, **asdict(facts)}, indent=2) + "\n"
    (folder / FACTS).write_text(text, encoding="utf-8")
    for name, tensors in zip(FILES, (weights, state), strict=True):
        save_file({key: value.contiguous() for key, value in tensors.items()}, folder / name)


def _read_facts(folder: Path) -> ModelFacts:
    path = folder / FACTS
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SourceError(f"{folder}: no {FACTS}; name an exported model, a run folder, or a checkpoint") from None
    except (OSError, ValueError) as error:
        raise SourceError(f"{path}: unreadable ({error}); export the model again") from None
    if not isinstance(raw, dict) or raw.pop("format", None) != FORMAT:
        raise SourceError(f"{path}: not of the format {FORMAT}; load it with the version that wrote it")
    try:
        return facts_of(raw)
    except (KeyError, TypeError, ValueError) as error:
        raise SourceError(f"{path}: {error!r} of what it must say; export the model again") from None


def facts_of(raw: Mapping[str, Any]) -> ModelFacts:
    """From the keys of `ModelFacts` among others. Raises: KeyError, TypeError."""
    known = {one.name: raw[one.name] for one in fields(ModelFacts) if one.name in raw}
    missing = {"images", "step", "job", "data_digest"} - known.keys()
    if missing:
        raise KeyError(*sorted(missing))
    return ModelFacts(**known)
