"""jobs/README.md explains every key of a job, as the code has it now."""

from __future__ import annotations

from pathlib import Path

import pytest

from gen_dist.job.document import document, recipe_document
from gen_dist.job.explain import keys
from gen_dist.job.settings import recipe_names, settings_of
from gen_dist.job.spec import JobSpec

README = Path(__file__).resolve().parents[2] / "jobs" / "README.md"


def test_the_readme_of_jobs_is_current() -> None:
    remedy = "run: python -m gen_dist.job.document > jobs/README.md"
    assert README.read_text(encoding="utf-8") == document(), remedy


def test_every_key_has_a_meaning() -> None:
    rows = [row.split(" | ") for row in document().splitlines() if row.startswith("| `")]
    assert all(len(row) == 4 and len(row[-1]) > 10 for row in rows)
    tables = {key.rpartition(".")[0] for key in keys(JobSpec)} - {""}
    assert len(rows) == len(list(keys(JobSpec))) - len(tables)


@pytest.mark.parametrize("recipe", recipe_names())
def test_every_setting_of_a_recipe_has_a_meaning(recipe: str) -> None:
    rows = [row.split(" | ") for row in recipe_document(recipe).splitlines() if row.startswith("| `")]
    assert len(rows) == len(settings_of(recipe).model_fields)
    assert all(len(row) == 4 and len(row[-1]) > 10 for row in rows)
