"""Which code made the numbers: versions of what took part."""

from __future__ import annotations

import importlib.metadata

from gen_dist import __version__

VERSIONS_OF = ("gen-dist", "torch", "ray", "deepspeed", "mlflow", "diffusers", "transformers", "webdataset")


def versions() -> dict[str, str]:
    """Package -> installed version; of gen-dist that of this code, which need not be installed where it was sent to."""
    return {name: __version__ if name == "gen-dist" else importlib.metadata.version(name) for name in VERSIONS_OF}
