"""copy_drawing_code: a small gen_dist package with only the modules that drawing needs, to travel with a model.

What those are is read from their import statements, so that training code cannot slip in and nothing is forgotten.
"""

from __future__ import annotations

import ast
import shutil
from collections.abc import Iterator
from pathlib import Path

from gen_dist.recipes.catalog import RECIPES

ROOT = Path(__file__).resolve().parents[2]
ENTRANCES = ("gen_dist.sample.model", "gen_dist.sample.grid")
LAYERS = ("gen_dist.sample", "gen_dist.recipes", "gen_dist.checkpoint", "gen_dist.nets", "gen_dist.job")


def copy_drawing_code(recipe: str, dest: Path) -> Path:
    """Write `dest`/gen_dist with all that draws with this recipe. Returns that folder."""
    for module in drawing_modules(recipe):
        file = _file_of(module)
        assert file is not None
        target = dest / file.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    return dest / "gen_dist"


def drawing_modules(recipe: str) -> list[str]:
    """Names of the modules of gen_dist that drawing imports, sorted."""
    found: set[str] = set()
    wanted = [*ENTRANCES, RECIPES[recipe].partition(":")[0]]
    while wanted:
        module = wanted.pop()
        parts = module.split(".")
        for name in (".".join(parts[:depth]) for depth in range(1, len(parts) + 1)):  # a package's __init__ runs too
            file = _file_of(name)
            if name not in found and file is not None and _may_travel(name):
                found.add(name)
                wanted += _imported(ast.parse(file.read_text(encoding="utf-8")))
    return sorted(found)


def _may_travel(module: str) -> bool:
    return module == "gen_dist" or f"{module}.".startswith(tuple(f"{layer}." for layer in LAYERS))


def _file_of(module: str) -> Path | None:
    path = ROOT.joinpath(*module.split("."))
    candidates = (path / "__init__.py", path.with_suffix(".py"))
    return next((file for file in candidates if file.is_file()), None)


def _imported(node: ast.AST) -> Iterator[str]:
    """Every module of gen_dist that may be meant by the imports below `node`, those of type checkers left out."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            continue
        if isinstance(child, ast.Import):
            names = [alias.name for alias in child.names]
        elif isinstance(child, ast.ImportFrom) and child.module:
            names = [child.module, *(f"{child.module}.{alias.name}" for alias in child.names)]
        else:
            names = []
            yield from _imported(child)
        yield from (name for name in names if name.partition(".")[0] == "gen_dist")
