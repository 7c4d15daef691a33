"""Ranks for the whole session, and trainings that several tests look at."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.contract import distributed
from tests.contract.cases import Case, small_case
from tests.support.ranks import Ranks


@pytest.fixture(scope="session")
def pair() -> Iterator[Ranks]:
    """Two ranks."""
    with Ranks(2) as ranks:
        yield ranks


@pytest.fixture(scope="session")
def single() -> Iterator[Ranks]:
    """One rank."""
    with Ranks(1) as ranks:
        yield ranks


@dataclass(frozen=True)
class Trained:
    """A case that two ranks trained to its end: what each rank returned, and its checkpoints."""

    case: Case
    results: list[dict[str, Any]]
    folder: Path


class Trainings:
    """Each small case is trained once."""

    def __init__(self, ranks: Ranks, folder: Path) -> None:
        self._ranks, self._folder = ranks, folder
        self._done: dict[str, Trained] = {}

    def __call__(self, recipe: str, **changes: Any) -> Trained:
        key = repr((recipe, sorted(changes.items())))
        if key not in self._done:
            folder = self._folder / str(len(self._done))
            folder.mkdir(exist_ok=True)
            case = small_case(recipe, folder=folder, **changes)
            self._done[key] = Trained(case, self._ranks.run(distributed.train, case), folder)
        return self._done[key]


@pytest.fixture(scope="session")
def trainings(pair: Ranks, tmp_path_factory: pytest.TempPathFactory) -> Trainings:
    """Trainings of small cases on two ranks."""
    return Trainings(pair, tmp_path_factory.mktemp("trainings"))
