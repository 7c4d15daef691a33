"""Which code made the numbers: versions of what took part."""

from __future__ import annotations

import importlib.metadata

VERSIONS_OF = ("gen-dist", "torch", "ray", "deepspeed", "mlflow", "diffusers", "transformers", "webdataset")


def versions() -> dict[str, str]:
    """Package -> installed version."""
    return {name: importlib.metadata.version(name) for name in VERSIONS_OF}
