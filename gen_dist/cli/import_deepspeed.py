"""`gen-dist import-deepspeed`: a run that goes on from checkpoints which DeepSpeed wrote elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gen_dist.job.errors import GenDistError
from gen_dist.job.spec import JobSpec


class GroupError(GenDistError):
    """A group of the recipe that is not named, or is named wrongly."""


def run(job: JobSpec, groups: Sequence[str], *, images: int, trust: bool, as_json: bool) -> dict[str, Any]:
    """Read each group's checkpoint, compare it with the job's networks, and write the run's first checkpoint."""
    from gen_dist.recipes import catalog

    recipe = catalog.build(job.recipe, job.model)
    folders = _folders(groups, list(recipe.groups()))
    from gen_dist.checkpoint.deepspeed_import import import_deepspeed, read_deepspeed
    from gen_dist.data.source import data_digest
    from gen_dist.job.load import resolve
    from gen_dist.registry.runs import checkpoint_store
    from gen_dist.registry.secrets import without_secrets
    from gen_dist.train.provenance import versions

    networks = recipe.networks()
    expected = {
        name: {
            f"nets.{net}.{key}": tuple(parameter.shape)
            for net in group.nets
            for key, parameter in networks[net].named_parameters()
            if parameter.requires_grad
        }
        for name, group in recipe.groups().items()
    }
    facts = {
        "job": without_secrets(resolve(job)),
        "zero_stages": {},
        "frozen": {},
        "data_digest": data_digest(job.data),
        "versions": versions(),
        "stream": {},
        "imported": {name: str(folder) for name, folder in folders.items()},
    }
    store = checkpoint_store(job)
    imported = {name: read_deepspeed(folder, trained=expected[name], trust=trust) for name, folder in folders.items()}
    state = recipe.state_dict()
    made = import_deepspeed(store, imported, expected=expected, images=images, facts=facts, recipe_state=state)
    if not as_json:
        if state:
            print(f"initial    {', '.join(state)}: the recipe's own state, of which DeepSpeed keeps nothing")
        print(f"imported   {store.url}/{made}: train the job as ever, it goes on from there")
    return {"checkpoint": made, "store": store.url, "steps": {name: one.steps for name, one in imported.items()}} | {
        "initial": list(state)
    }


def _folders(groups: Sequence[str], known: Sequence[str]) -> dict[str, Path]:
    """Group -> folder, for all groups of the recipe."""
    from gen_dist.job.problem import choose

    folders = {}
    for text in groups:
        name, found, folder = text.partition("=")
        if not found or not folder:
            raise GroupError(f"--group {text}: expected NAME=FOLDER; write such as --group {known[0]}=checkpoints/tag")
        if name not in known:
            raise GroupError(f"--group {text}: the recipe has no such group; {choose(name, known)}")
        folders[name] = Path(folder)
    missing = [name for name in known if name not in folders]
    if missing:
        raise GroupError(f"no checkpoint for group {missing[0]!r}; add --group {missing[0]}=FOLDER")
    return folders
