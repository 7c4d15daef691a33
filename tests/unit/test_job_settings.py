"""Reading a recipe's settings from its source gives the class that importing the recipe gives."""

from __future__ import annotations

import importlib
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from gen_dist.job.errors import JobError
from gen_dist.job.load import load_job
from gen_dist.job.settings import read_settings, recipe_names, settings_of, zero_max
from gen_dist.recipes import catalog

ROOT = Path(__file__).resolve().parents[2]


def test_the_catalog_reads_the_same_from_its_source() -> None:
    assert recipe_names() == catalog.RECIPES


@pytest.mark.parametrize("recipe", catalog.RECIPES)
def test_settings_read_from_source_are_those_of_the_imported_recipe(recipe: str) -> None:
    module = catalog.RECIPES[recipe].partition(":")[0]
    imported, read = importlib.import_module(module).Settings, settings_of(recipe)
    assert read is not imported
    assert read.model_json_schema() == imported.model_json_schema()
    assert zero_max(read) == imported.zero_max
    assert zero_max(read), f"{recipe}: Settings.zero_max names no group"
    assert read().model_dump() == imported().model_dump()


@pytest.mark.parametrize("recipe", catalog.RECIPES)
def test_every_setting_says_what_it_means(recipe: str) -> None:
    silent = [name for name, field in settings_of(recipe).model_fields.items() if not field.description]
    assert not silent, f"{recipe}: write a docstring under {silent}"


@pytest.mark.parametrize("file", sorted(ROOT.glob("jobs/**/*.toml")), ids=lambda file: file.stem)
def test_a_job_of_the_repository_can_run(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    url = tomllib.loads(file.read_text(encoding="utf-8"))["data"]["url"]
    if "://" not in url:  # shards that a user writes first
        for part in ("train", "heldout"):
            shard = tmp_path / url / f"{part}-00000.tar"
            shard.parent.mkdir(parents=True, exist_ok=True)
            shard.touch()
    load_job(file)


def test_only_settings_and_what_it_uses_are_executed(tmp_path: Path) -> None:
    source = tmp_path / "gan.py"
    source.write_text(
        "from __future__ import annotations\n"
        "import not_installed\n"
        "from typing import Annotated, ClassVar\n"
        "from pydantic import Field, model_validator\n"
        "from gen_dist.job.spec import Spec\n"
        "print('executed')\n"
        "STAGE = 2\n"
        "WIDTHS: tuple[int, ...] = (1, STAGE)\n"
        "Rate = Annotated[float, Field(gt=0)]\n"
        "class Block(not_installed.Module): pass\n"
        "class Settings(Spec):\n"
        "    '''Of a GAN.'''\n"
        "    zero_max: ClassVar[dict[str, int]] = {'critic': STAGE}\n"
        "    widths: tuple[int, ...] = WIDTHS\n"
        "    '''Channels.'''\n"
        "    rate: Rate = 0.5\n"
        "    @model_validator(mode='after')\n"
        "    def check(self) -> Settings:\n"
        "        if self.rate > len(self.widths):\n"
        "            raise ValueError('too quick; write a lower rate')\n"
        "        return self\n"
    )
    settings = read_settings(source)
    assert settings().model_dump() == {"widths": (1, 2), "rate": 0.5}
    assert zero_max(settings) == {"critic": 2}
    assert settings.model_fields["widths"].description == "Channels."
    with pytest.raises(ValueError, match="too quick"):
        settings(rate=3)


def test_settings_that_need_torch_are_refused_with_their_line(tmp_path: Path) -> None:
    source = tmp_path / "gan.py"
    source.write_text(
        "import torch\nfrom gen_dist.job.spec import Spec\nclass Settings(Spec):\n    x = torch.ones(1)\n"
    )
    with pytest.raises(JobError, match=r"gan\.py:1: torch: Settings may not use it"):
        read_settings(source)


@pytest.mark.parametrize("module", ["load", "report", "document"])
def test_the_job_imports_nothing_heavy(module: str) -> None:
    code = (
        f"import sys, gen_dist.job.{module}\n"
        "heavy = {'torch', 'ray', 'deepspeed', 'mlflow', 'numpy', 'boto3', 'rich', 'PIL'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
