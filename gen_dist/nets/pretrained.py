"""Frozen models from folders that transformers' `save_pretrained` wrote: nothing is ever downloaded."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from gen_dist.job.errors import GenDistError
from gen_dist.nets.known_shapes import CountedTokens, Known, known

VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "tokenizer.model")

_ASSUMED: ContextVar[dict[str, str] | None] = ContextVar("assumed", default=None)
"""None: models are made with their weights."""


class PretrainedError(GenDistError):
    """A folder without the model that a setting says is there."""


@contextlib.contextmanager
def shapes_alone() -> Iterator[dict[str, str]]:
    """Models in here are made from their config.json: who counts them needs no weights.

    A folder that is not there, of a name in known_shapes.py, has the sizes of that model. Gives those folders, with
    what each is taken for; they are filled in as models are made.
    """
    assumed: dict[str, str] = {}
    before = _ASSUMED.set(assumed)
    try:
        yield assumed
    finally:
        _ASSUMED.reset(before)


def wants_weights() -> bool:
    """Whether models are made with their weights here, or from their shapes alone."""
    return _ASSUMED.get() is None


def _taken_for(folder: Path) -> Known | None:
    """The model whose sizes a missing folder is given here; None where it is read."""
    assumed = _ASSUMED.get()
    found = None if assumed is None else known(folder)
    if found is not None and assumed is not None:
        assumed[str(folder)] = found.what
    return found


def model_type(folder: Path, *, setting: str, what: str) -> str:
    """What config.json says it is. Raises: PretrainedError with `setting` and `what` to name instead."""
    from transformers import AutoConfig

    if stand_in := _taken_for(folder):
        return str(stand_in.config().model_type)
    if not (folder / "config.json").exists():
        raise PretrainedError(f"model.{setting}={str(folder)!r}: no config.json there; name {what}")
    return str(AutoConfig.from_pretrained(str(folder), local_files_only=True).model_type)


def load_model(cls: Any, folder: Path, *, setting: str) -> Any:
    """A model of transformers' class `cls`. Raises: PretrainedError where its weights are missing or of another."""
    from transformers import AutoConfig, AutoModel

    try:
        if wants_weights():
            return cls.from_pretrained(str(folder), local_files_only=True)
        if stand_in := _taken_for(folder):
            config = stand_in.config()
            whole = isinstance(config, cls.config_class)
            return cls(config if whole else getattr(config, cls.config_class.base_config_key))
        if cls is AutoModel:
            return cls.from_config(AutoConfig.from_pretrained(str(folder), local_files_only=True))
        return cls(cls.config_class.from_pretrained(str(folder), local_files_only=True))
    except (OSError, RuntimeError, ValueError) as error:
        said = " ".join(str(error).split())[:300]
        raise PretrainedError(
            f"model.{setting}={str(folder)!r}: transformers cannot read it: {said}; copy the model's whole folder there"
        ) from error


def load_tokenizer(folder: Path, *, setting: str) -> Any:
    """The tokenizer beside a text model; of a folder whose sizes are assumed, one that counts tokens alone.

    Raises: PretrainedError where there is none.
    """
    from transformers import AutoTokenizer

    if stand_in := _taken_for(folder):
        return CountedTokens(stand_in.tokens)

    # of some kinds of tokenizer transformers makes an empty one where there is none, which reads every word as unknown
    if not any((folder / name).exists() for name in VOCABULARIES):
        where = f"model.{setting}={str(folder)!r}"
        raise PretrainedError(
            f"{where}: no vocabulary there ({', '.join(VOCABULARIES)}); put the model's tokenizer beside it, with its"
            " save_pretrained"
        )
    return AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
