"""Frozen models from folders that transformers' `save_pretrained` wrote: nothing is ever downloaded."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from gen_dist.job.errors import GenDistError

VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "spiece.model", "tokenizer.model")

_WANTS_WEIGHTS: ContextVar[bool] = ContextVar("wants_weights", default=True)


class PretrainedError(GenDistError):
    """A folder without the model that a setting says is there."""


@contextlib.contextmanager
def shapes_alone() -> Iterator[None]:
    """Models in here are made from their config.json: who counts them needs no weights."""
    before = _WANTS_WEIGHTS.set(False)
    try:
        yield
    finally:
        _WANTS_WEIGHTS.reset(before)


def wants_weights() -> bool:
    """Whether models are made with their weights here, or from their shapes alone."""
    return _WANTS_WEIGHTS.get()


def model_type(folder: Path, *, setting: str, what: str) -> str:
    """What config.json says it is. Raises: PretrainedError with `setting` and `what` to name instead."""
    from transformers import AutoConfig

    if not (folder / "config.json").exists():
        raise PretrainedError(f"model.{setting}={str(folder)!r}: no config.json there; name {what}")
    return str(AutoConfig.from_pretrained(str(folder), local_files_only=True).model_type)


def load_model(cls: Any, folder: Path, *, setting: str) -> Any:
    """A model of transformers' class `cls`. Raises: PretrainedError where its weights are missing or of another."""
    from transformers import AutoConfig, AutoModel

    try:
        if wants_weights():
            return cls.from_pretrained(str(folder), local_files_only=True)
        if cls is AutoModel:
            return cls.from_config(AutoConfig.from_pretrained(str(folder), local_files_only=True))
        return cls(cls.config_class.from_pretrained(str(folder), local_files_only=True))
    except (OSError, RuntimeError, ValueError) as error:
        said = " ".join(str(error).split())[:300]
        raise PretrainedError(
            f"model.{setting}={str(folder)!r}: transformers cannot read it: {said}; copy the model's whole folder there"
        ) from error


def load_tokenizer(folder: Path, *, setting: str) -> Any:
    """The tokenizer beside a text model. Raises: PretrainedError where there is none."""
    from transformers import AutoTokenizer

    # of some kinds of tokenizer transformers makes an empty one where there is none, which reads every word as unknown
    if not any((folder / name).exists() for name in VOCABULARIES):
        where = f"model.{setting}={str(folder)!r}"
        raise PretrainedError(
            f"{where}: no vocabulary there ({', '.join(VOCABULARIES)}); put the model's tokenizer beside it, with its"
            " save_pretrained"
        )
    return AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
