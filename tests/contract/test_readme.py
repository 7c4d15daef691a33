"""The recipe that gen_dist/recipes/README.md shows is whole: it checks, trains and draws as the text stands."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from gen_dist.job.settings import read_settings, zero_max
from gen_dist.recipes import catalog
from gen_dist.sample.model import Model
from tests.contract import plain
from tests.contract.cases import Case, build, smoke_job, with_train

README = Path(catalog.__file__).with_name("README.md")
MODULE = "denoiser_of_the_readme"


@pytest.fixture
def shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file that the README shows, importable and in the catalog."""
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    file = tmp_path / f"{MODULE}.py"
    file.write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(catalog.RECIPES, "denoiser", f"{MODULE}:Denoiser")
    yield file
    sys.modules.pop(MODULE, None)


def test_the_recipe_of_the_readme_trains_and_draws(shown: Path) -> None:
    settings = read_settings(shown)
    model = settings(image_px=16, channels=8).model_dump()
    job = with_train(smoke_job("dcgan").model_copy(update={"recipe": "denoiser", "model": model}), total_images=160)
    recipe, groups = build(Case(job))
    assert zero_max(settings).keys() == groups.keys()
    result = plain.train(Case(job))
    assert all(not torch.equal(result.start[name], value) for name, value in result.weights.items())
    images = Model.from_weights(recipe, result.averages, device=torch.device("cpu")).draw(["", ""], seed=1)
    assert images.shape == (2, 16, 16, 3)
    assert (images[0] != images[1]).any()
