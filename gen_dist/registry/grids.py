"""log_grid: a grid of samples as MLflow's pages show them, under names that a second upload finds again."""

from __future__ import annotations

import shutil
import tempfile
import uuid
from pathlib import Path

from mlflow import MlflowClient
from PIL import Image, UnidentifiedImageError

from gen_dist.registry.wal import Event

SAMPLES = "samples"
FOLDER = "images"
SMALL_PX = 256  # of the copy that MLflow's pages show first


def log_grid(client: MlflowClient, run_id: str, path: Path, event: Event) -> None:
    """Upload the PNG at `path`, which belongs to a `samples` event. Nothing where the file is gone or no image.

    `MlflowClient.log_image` would give each upload a random name: one that is repeated would be there twice.
    """
    if not path.is_file():
        return
    images, at_ms = int(event["images"]), int(event["at_s"] * 1000)
    own = uuid.uuid5(uuid.NAMESPACE_OID, f"{images} {at_ms}")
    name = f"{SAMPLES}+step+{images}+timestamp+{at_ms}+{own}"
    with tempfile.TemporaryDirectory(prefix="gen-dist-") as folder:
        whole, small = Path(folder) / f"{name}.png", Path(folder) / f"{name}+compressed.webp"
        shutil.copyfile(path, whole)
        try:
            with Image.open(whole) as grid:
                grid.thumbnail((SMALL_PX, SMALL_PX))
                grid.save(small)
        except UnidentifiedImageError:
            return
        for file in (whole, small):
            client.log_artifact(run_id, str(file), FOLDER)
    client.set_tag(run_id, "mlflow.loggedImages", "True", synchronous=True)
