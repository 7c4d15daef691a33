"""Exports: the drawable part of a checkpoint draws the same images, travels whole, and holds no secret."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gen_dist.recipes import catalog
from gen_dist.registry.drawing_code import copy_drawing_code, drawing_modules
from gen_dist.registry.errors import RegistryError
from gen_dist.registry.export import export
from gen_dist.sample.model import Model
from gen_dist.sample.source import Exported, SourceError
from gen_dist.sample.trained import Trained
from tests.contract.cases import HEIRS
from tests.support.models import write_model

SMALL = {
    "image_px": 32,
    "autoencoder_channels": [8, 16],
    "denoiser_channels": [32, 32],
    "text_width": 16,
    "text_buckets": 64,
    "text_layers": 0,
    "sample_steps": 2,
}


def write(folder: Path, settings: dict[str, Any], *, uri: str = "") -> Trained:
    job = {"name": "small", "recipe": "latent_diffusion", "model": settings, "tracking": {"uri": uri}}
    return Trained(write_model(folder, job, images=128))


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    return write(tmp_path_factory.mktemp("run"), SMALL, uri="https://ann:hunter2@mlflow.example.org/")


def test_an_export_draws_what_its_checkpoint_draws(source: Trained, tmp_path: Path) -> None:
    dest = export(source, tmp_path / "model")
    prompts = ["red heart", "a cat"]
    drawn = Model.load(dest).draw(prompts, seed=3)
    assert drawn.shape == (2, 32, 32, 3)
    assert np.array_equal(drawn, Model.load(source).draw(prompts, seed=3))


def test_an_export_leaves_behind_what_only_training_needs(source: Trained, tmp_path: Path) -> None:
    dest = export(source, tmp_path / "model")
    assert sorted(path.name for path in dest.iterdir()) == [
        "model.json",
        "model.safetensors",
        "recipe.safetensors",
    ]


def test_an_export_names_no_password(source: Trained, tmp_path: Path) -> None:
    dest = export(source, tmp_path / "model")
    assert "hunter2" in source.facts.job["tracking"]["uri"]
    assert not [path for path in dest.iterdir() if b"hunter2" in path.read_bytes()]


def test_an_export_carries_its_text_encoder(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    encoder = tmp_path / "encoder"
    words = ["<pad>", "</s>", "<unk>", "red", "heart"]
    tokenizers = pytest.importorskip("tokenizers")
    tokens = tokenizers.Tokenizer(tokenizers.models.WordLevel(dict(zip(words, range(5), strict=True)), "<unk>"))
    tokens.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokens, pad_token="<pad>").save_pretrained(encoder)
    config = transformers.T5Config(vocab_size=8, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    transformers.T5EncoderModel(config).save_pretrained(encoder)
    source = write(tmp_path / "run", {**SMALL, "text_encoder": str(encoder)})
    before = Model.load(source).draw(["red heart"])
    dest = export(source, tmp_path / "model")
    encoder.rename(tmp_path / "moved")
    assert np.array_equal(Model.load(dest).draw(["red heart"]), before)
    again = export(Exported(dest), tmp_path / "again")
    assert (again / "text_encoder" / "config.json").is_file()
    with pytest.raises(RegistryError, match=r"no such folder here; export where the run was trained, or copy"):
        export(source, tmp_path / "third")
    assert not (tmp_path / "third").exists()


def test_an_export_never_replaces_a_folder(source: Trained, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(RegistryError, match="exists already; name a new folder"):
        export(source, tmp_path / "model")


def test_half_an_export_is_not_drawn_from(source: Trained, tmp_path: Path) -> None:
    dest = export(source, tmp_path / "model")
    (dest / "model.safetensors").unlink()
    with pytest.raises(SourceError, match=r"model.safetensors: missing; export the model again"):
        Model.load(dest)
    (dest / "model.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(SourceError, match=r"model.safetensors: unreadable .*; export the model again"):
        Model.load(dest)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "unreadable"),
        ("[]", "not of the format gen-dist-model-1"),
        ('{"format": "gen-dist-checkpoint-1"}', "not of the format gen-dist-model-1"),
        ('{"format": "gen-dist-model-1", "images": 1}', "data_digest.*of what it must say"),
    ],
)
def test_facts_that_no_export_wrote_are_refused(source: Trained, tmp_path: Path, text: str, line: str) -> None:
    dest = export(source, tmp_path / "model")
    (dest / "model.json").write_text(text)
    with pytest.raises(SourceError, match=line) as caught:
        Exported(dest)
    assert "\n" not in str(caught.value)


def test_an_export_is_exported_again(source: Trained, tmp_path: Path) -> None:
    first = export(source, tmp_path / "first")
    again = export(Exported(first), tmp_path / "again")
    for path in first.iterdir():
        assert (again / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    "recipe",
    [pytest.param(name, marks=[pytest.mark.long] if name in HEIRS else []) for name in sorted(catalog.RECIPES)],
)
def test_the_code_that_travels_imports_nothing_that_stayed(recipe: str, tmp_path: Path) -> None:
    package = copy_drawing_code(recipe, tmp_path)
    modules = [name for name in drawing_modules(recipe) if name != "gen_dist"]
    assert not [name for name in modules if name.split(".")[1] in ("train", "registry", "data", "store", "cli")]
    for file in package.rglob("*"):
        assert file.is_dir() or file.suffix == ".py"
    program = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        + "\n".join(f"import {name}" for name in modules)
        + "\nfrom gen_dist.recipes.catalog import RECIPES, build\n"
        + f"build({recipe!r}, {{}})\n"
        + "print(gen_dist.__file__)\n"
        + "print([name for name in ('ray', 'deepspeed', 'mlflow', 'gen_dist.train') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.split("\n")[:2] == [str(package / "__init__.py"), "[]"]


def test_the_code_that_travels_is_small(tmp_path: Path) -> None:
    files = list(copy_drawing_code("latent_diffusion", tmp_path).rglob("*.py"))
    assert all(ast.parse(file.read_text()) for file in files)
    assert len(files) < 40
