"""A run as it looks when it has ended, without the training: checkpoints, and a record with curves and grids."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mlflow import MlflowClient
from PIL import Image

from gen_dist.job import arithmetic
from gen_dist.job.load import resolve
from gen_dist.job.spec import JobSpec
from gen_dist.registry import connection
from gen_dist.registry.find import find_model
from gen_dist.registry.publish import Published, publish
from gen_dist.registry.secrets import without_secrets
from gen_dist.sample.model import Model
from gen_dist.sample.source import ModelSource
from gen_dist.sample.trained import Trained as Source
from tests.support.models import write_model

DIGEST, HELDOUT_DIGEST = "d" * 64, "e" * 64
PSNR = "heldout/psnr_db"
PROMPTS = ["red heart", "a cat"]
SMALL = {
    "image_px": 32,
    "autoencoder_channels": [8, 16],
    "denoiser_channels": [32, 32],
    "text_width": 16,
    "text_buckets": 64,
    "text_layers": 0,
    "sample_steps": 2,
}


def make_job(home: Path, name: str, **changes: Any) -> JobSpec:
    """A small job whose runs and record are in `home`/runs."""
    raw: dict[str, Any] = {
        "name": name,
        "recipe": "latent_diffusion",
        "model": SMALL,
        "data": {"url": "embedded://emoji", "train": "train-*.tar", "heldout": "heldout-*.tar"},
        "train": {"total_images": 640, "prompts": PROMPTS},
        "run": {"folder": str(home / "runs")},
    }
    return JobSpec.model_validate({**raw, **changes})


def write_checkpoint(job: JobSpec, images: int) -> ModelSource:
    """A model that was never trained."""
    folder = Path(arithmetic.run_folder(job)) / "checkpoints"
    facts = {"data_digest": DIGEST, "zero_stages": {}}
    return Source(write_model(folder, without_secrets(resolve(job)), images=images, seed=images, **facts))


class Trained:
    """A run with a record, whose checkpoints are written and published as a test wants them."""

    def __init__(self, job: JobSpec) -> None:
        self.job, self.uri = job, arithmetic.tracking_uri(job)
        self.folder = Path(arithmetic.run_folder(job))
        self.client: MlflowClient = connection.connect(self.uri)
        self.experiment = connection.experiment_id(self.client, job.tracking.experiment, self.uri)
        self.run_id: str = self.client.create_run(self.experiment, run_name=job.name).info.run_id

    def checkpoint(self, images: int, *, scores: Mapping[str, float] = {}, grid: bool = False) -> ModelSource:
        """A checkpoint, with what the run said at that time."""
        for name, value in {"loss/denoiser/velocity": 0.5, **scores}.items():
            self.client.log_metric(self.run_id, name, value, timestamp=1_000_000 + images, step=images)
        if grid:
            picture = Image.fromarray(np.full((8, 8, 3), images % 255, dtype=np.uint8))
            self.client.log_image(self.run_id, picture, key="samples", step=images, timestamp=1_000_000 + images)
        return write_checkpoint(self.job, images)

    def place(self, images: int) -> Path:
        """The folder of a checkpoint."""
        (found,) = (self.folder / "checkpoints").glob(f"images-{images:012d}*")
        return found

    def export(self, number: str) -> Path:
        """The folder of a version's exported model, which is on this machine."""
        source: str = self.client.get_model_version(self.job.name, number).source
        return Path(source.removeprefix("file://"))

    def draws_like(self, name: str, images: int) -> bool:
        """Whether a registered model draws what a checkpoint of the run draws."""
        found = Model.load(find_model(name, tracking_uri=self.uri))
        return np.array_equal(found.draw(PROMPTS), Model.load(find_model(str(self.place(images)))).draw(PROMPTS))

    def publish(
        self, source: ModelSource, *, heldout_digest: str = HELDOUT_DIGEST, job: JobSpec | None = None
    ) -> Published:
        """Register it."""
        return publish(
            job or self.job,
            source,
            run_id=self.run_id,
            tracking_uri=self.uri,
            sample_prompts=PROMPTS,
            heldout_digest=heldout_digest,
        )

    def version(self, images: int, *, psnr_db: float = 20.0, grid: bool = False, **options: Any) -> str:
        """The number of a version with a held-out score."""
        return self.publish(self.checkpoint(images, scores={PSNR: psnr_db}, grid=grid), **options).version
