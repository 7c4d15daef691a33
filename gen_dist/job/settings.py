"""The Settings class of a recipe, read from the recipe's source: its module imports torch, and checking must not.

Of a recipe file only `class Settings`, the module-level names it uses, and the imports it may use are executed. The
Settings of another file of recipes that it adds to, or has as its own, are read from that file in the same way.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import sys
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import get_args

from gen_dist.job.errors import JobError
from gen_dist.job.spec import Folder, Spec

PACKAGE = Path(__file__).resolve().parents[1]
CATALOG = PACKAGE / "recipes" / "catalog.py"
RECIPES = "gen_dist.recipes."
MAY_IMPORT = ("__future__", "typing", "collections.abc", "math", "pydantic", "gen_dist.job.spec")


def recipe_names(catalog: Path = CATALOG) -> dict[str, str]:
    """Recipe name -> `module:Class`, as `RECIPES` of the catalog has it."""
    for node in ast.parse(catalog.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value and "RECIPES" in _names_defined(node):
            return ast.literal_eval(node.value)
    raise JobError([f"{catalog}: RECIPES: missing; write the table of recipe names and their modules"])


def settings_of(recipe: str, catalog: Path = CATALOG) -> type[Spec]:
    """The Settings class of a recipe of the catalog."""
    module = recipe_names(catalog)[recipe].partition(":")[0]
    root = catalog.resolve().parents[module.count(".")]
    return read_settings(root.joinpath(*module.split(".")).with_suffix(".py"))


def zero_max(settings: type[Spec] | Spec) -> dict[str, int]:
    """Group of the recipe -> highest ZeRO stage that it allows.

    Of settings with values, those that hold for them, where they decide (`Settings.zero_max_here`).
    """
    here = getattr(settings, "zero_max_here", None) if isinstance(settings, Spec) else None
    return dict(getattr(settings, "zero_max", {}) if here is None else here)


def learns_many_sizes(settings: type[Spec]) -> bool:
    """Whether the recipe says which heights and widths it learns at besides its own (`Settings.size_step_px`)."""
    return hasattr(settings, "size_step_px")


def enlarges(settings: type[Spec]) -> bool:
    """Whether the recipe draws from small images (`Settings.enlarges_px`)."""
    return hasattr(settings, "enlarges_px")


def folder_keys(settings: type[Spec]) -> list[str]:
    """Settings that name a folder (`gen_dist.job.spec.Folder`)."""
    (mark,) = get_args(Folder)[1:]
    return [name for name, field in settings.model_fields.items() if mark in field.metadata]


def compared_images(settings: type[Spec] | Spec) -> int:
    """Neighbours of a micro-batch that the recipe compares with each other; 1: none (`Settings.compared_images`)."""
    return int(getattr(settings, "compared_images", 1))


def least_micro_batch(settings: Spec) -> tuple[int, str]:
    """The fewest images that the recipe can compare, and what to write to do with less; 1: it compares none.

    `Settings.least_micro_batch_here`, of settings with values.
    """
    return getattr(settings, "least_micro_batch_here", (1, ""))


def read_settings(source: Path) -> type[Spec]:
    """`class Settings` of one recipe file, without importing the file."""
    if not source.is_file():
        raise JobError([f"{source}: missing; the catalog names this recipe, write its file or remove its line"])
    return _settings_in(source.read_text(encoding="utf-8"), source)


@cache  # pydantic looks through all that is imported for the source of a class
def _settings_in(text: str, source: Path) -> type[Spec]:
    tree = ast.parse(text, filename=str(source))
    for node in tree.body:
        if _recipe_of(node) and _names_defined(node) == ["Settings"]:
            return read_settings(source.with_name(f"{_recipe_of(node)}.py"))
    module = ModuleType(f"{__name__}.{source.stem}")
    sys.modules[module.__name__] = module
    needed = _needed(tree, source)
    bases = [node for node in needed if _recipe_of(node)]
    for node in bases:
        (name,) = _names_defined(node)
        setattr(module, name, read_settings(source.with_name(f"{_recipe_of(node)}.py")))
    picked = ast.Module([node for node in needed if node not in bases], type_ignores=[])
    exec(compile(picked, f"<settings of {source}>", "exec"), module.__dict__)  # noqa: S102 (source of this package)
    for name, meaning in _meanings(tree).items():  # pydantic finds them only in a module that was imported from a file
        module.Settings.model_fields[name].description = meaning
    module.Settings.model_rebuild(force=True)
    return module.Settings


def _meanings(tree: ast.Module) -> dict[str, str]:
    """Setting -> the text under it."""
    (settings,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Settings")
    found = {}
    for node, below in itertools.pairwise(settings.body):
        match node, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = inspect.cleandoc(text)
    return found


def _needed(tree: ast.Module, source: Path) -> list[ast.stmt]:
    """Settings and, transitively, every module-level statement that defines a name it uses, in the file's order."""
    defined: dict[str, ast.stmt] = {}
    for node in tree.body:
        defined |= dict.fromkeys(_names_defined(node), node)
    if "Settings" not in defined:
        raise JobError([f"{source}: Settings: missing; write `class Settings(Spec)` with the recipe's settings"])
    wanted, needed = ["Settings"], {id(node): node for node in tree.body if _is_future(node)}
    while wanted:
        used = defined.get(wanted.pop())
        if used is None or id(used) in needed:
            continue
        _may_use(used, source)
        needed[id(used)] = used
        wanted += [part.id for part in ast.walk(used) if isinstance(part, ast.Name)]
    return [node for node in tree.body if id(node) in needed]


def _names_defined(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.Import | ast.ImportFrom):
        return [alias.asname or alias.name.partition(".")[0] for alias in node.names]
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return [target.id for target in targets if isinstance(target, ast.Name)]


def _recipe_of(node: ast.stmt) -> str:
    """NAME of `from gen_dist.recipes.NAME import Settings [as ...]`, a recipe or not; empty for other statements."""
    match node:
        case ast.ImportFrom(module=str(module), names=[ast.alias(name="Settings")]) if module.startswith(RECIPES):
            return module.removeprefix(RECIPES)
    return ""


def _is_future(node: ast.stmt) -> bool:
    return isinstance(node, ast.ImportFrom) and node.module == "__future__"


def _may_use(node: ast.stmt, source: Path) -> None:
    if _recipe_of(node):
        return
    if isinstance(node, ast.ImportFrom):
        modules = [node.module or "."]
    else:
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
    for module in modules:
        if module not in MAY_IMPORT:
            allowed = ", ".join(MAY_IMPORT[1:])
            raise JobError(
                [f"{source}:{node.lineno}: {module}: Settings may not use it; checking a job imports only {allowed}"]
            )
