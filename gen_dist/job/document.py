"""jobs/README.md: every key of a job from the docstrings of JobSpec; and the [model] keys of one recipe.

`python -m gen_dist.job.document > jobs/README.md`. Recipes are told by `gen-dist recipes NAME` instead: a new one is
its file and its line, and no page to write again.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gen_dist.job.explain import is_spec, kind
from gen_dist.job.report import as_toml
from gen_dist.job.settings import CATALOG, learns_many_sizes, settings_of, zero_max
from gen_dist.job.spec import JobSpec, Spec

HEAD = """\
<!-- Written by `python -m gen_dist.job.document > jobs/README.md`; change the docstrings, not this file. -->
# Jobs

One TOML file here is one run. It names everything that decides the result; what it leaves out has the default below.
Files do not inherit from each other: one page tells the whole run.

```
gen-dist check jobs/quickstart.toml                                  # every key, default and derived number
gen-dist check jobs/quickstart.toml --set train.total_images=1000    # any key may be overridden: --set a.b=3
gen-dist check jobs/quickstart.toml --json                           # the same for programs
gen-dist recipes                                                     # the recipes
gen-dist recipes latent_diffusion                                    # the [model] keys of one
```

A value behind `--set` is TOML; what is not TOML is taken as text. An unknown key, a wrong type, an unknown recipe or
batches that do not divide are told in one line each, before anything starts.

## Your own images

Shards are tars in the WebDataset layout: the members of one sample share a name (`a/0001.jpg`, `a/0001.txt`). This
writes them from pairs of an image file and a caption, 1,000 to a tar:

```python
import webdataset

with webdataset.ShardWriter("shards/train-%05d.tar", maxcount=1000) as shards:
    for number, (path, caption) in enumerate(pairs):
        shards.write({"__key__": f"{number:08d}", "jpg": path.read_bytes(), "txt": caption})
```

Then `data.url = "shards"`, or upload the folder and write `data.url = "s3://bucket/shards"`. Keys of S3 come from the
environment, a profile or the machine's role, as boto3 finds them; `[data.s3]` names another endpoint. Images are cut to
their middle square and scaled to what the recipe asks for; transparent pixels become white.
"""


def document() -> str:
    """The whole file: the keys of a job, table by table."""
    return "\n".join([HEAD, *_tables(JobSpec, "")])


def recipe_document(recipe: str, catalog: Path = CATALOG) -> str:
    """The [model] keys of one recipe of the catalog, and the ZeRO stages of its groups."""
    settings = settings_of(recipe, catalog)
    return "\n".join([f"# [model] of {recipe}\n", _text(settings.__doc__), _groups(settings), *_rows(settings), ""])


def _tables(spec: type[Spec], path: str) -> Iterator[str]:
    yield f"## {f'[{path}]' if path else 'Top of the file'}\n"
    yield _text(spec.__doc__) + "\n"
    yield from [*_rows(spec), ""]
    for name, field in spec.model_fields.items():
        if is_spec(field.annotation):
            yield from _tables(field.annotation, f"{path}.{name}".lstrip("."))


def _rows(spec: type[Spec]) -> Iterator[str]:
    yield "| key | value | default | meaning |\n| --- | --- | --- | --- |"
    for name, field in spec.model_fields.items():
        if not is_spec(field.annotation):
            words = kind(field.annotation, field.metadata).replace("|", "\\|")
            yield f"| `{name}` | {words} | {_default(field)} | {_text(field.description)} |"


def _default(field: Any) -> str:
    if field.is_required():
        return "required"
    default = field.get_default(call_default_factory=True)
    return f"`{as_toml(list(default) if isinstance(default, tuple) else default)}`"


def _groups(settings: type[Spec]) -> str:
    groups = ", ".join(f"`{group}` up to {highest}" for group, highest in zero_max(settings).items())
    sizes = " It learns at many sizes, which `data.aspect_buckets` needs." if learns_many_sizes(settings) else ""
    return f"\nZeRO stage of its groups: {groups}.{sizes}\n" if groups else ""


def _text(docstring: str | None) -> str:
    return " ".join((docstring or "").split())


if __name__ == "__main__":
    sys.stdout.write(document())
