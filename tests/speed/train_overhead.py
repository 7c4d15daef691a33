"""train-overhead: time per image of the training loop, over that of a bare PyTorch loop with the same networks.

Batch and threads are the same too. Ours is what a run does between two checkpoints: a Ray Train worker with the real
engines, shards, stream, averages, log lines and stop signal. Both sides take turns in that one process, after the
first epoch has been decoded, so theirs has the process's malloc as ours set it.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from gen_dist.data.source import find_data, open_stream
from gen_dist.data.stream import Stream
from gen_dist.job.spec import DataSpec, JobSpec, TrainSpec
from gen_dist.recipes import catalog
from tests.speed.sides import Result, alternate, compare

FOUND = "found.json"
BATCH_IMAGES = 32
TINY_BATCH_IMAGES = 4


@dataclass(frozen=True)
class Case:
    """One stage of one recipe."""

    recipe: str
    num_steps: int
    """Of a round: all that happens every so many steps happens in each."""
    num_rounds: int
    model: Mapping[str, Any] = field(default_factory=dict)


CASES = {
    "latent_diffusion/autoencoder": Case("latent_diffusion", num_steps=6, num_rounds=9),
    # one image for the autoencoder: from the second step on, the denoiser learns
    "latent_diffusion/denoiser": Case("latent_diffusion", num_steps=6, num_rounds=9, model={"autoencoder_images": 1}),
    "dcgan": Case("dcgan", num_steps=16, num_rounds=9),  # 16: DCGAN.r1_every_steps
}
TINY: Mapping[str, Mapping[str, Any]] = {
    "latent_diffusion": {
        "image_px": 16,
        "autoencoder_channels": [8],
        "denoiser_channels": [32],
        "text_width": 16,
        "text_buckets": 64,
    },
    "dcgan": {"image_px": 8, "channels": 8, "latent_width": 8},
}


def run(*, only: str, tiny: bool) -> Result:
    """Measure the cases whose name begins with `only`; the ratio is that of the worst."""
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from gen_dist.train.hub import start_hub
    from gen_dist.train.launch import ray_for

    names = [name for name in CASES if name.startswith(only)]
    if not names:
        raise ValueError(f"--only {only}: no such case; write the start of one of {', '.join(CASES)}")
    os.environ["DS_ACCELERATOR"] = "cpu"
    with ray_for(_job(CASES[names[0]], tiny=tiny)), tempfile.TemporaryDirectory() as folder:
        TorchTrainer(
            _measure_all,
            train_loop_config={"names": names, "tiny": tiny, "folder": Path(folder), "hub": start_hub()},
            torch_config=TorchConfig(backend="gloo"),
            scaling_config=ScalingConfig(num_workers=1),
            run_config=RunConfig(name="ray", storage_path=folder),
        ).fit()
        found = json.loads((Path(folder) / FOUND).read_text())
    worst = max(found.values(), key=lambda case: case["ratio"])
    return Result(
        ratio=worst["ratio"],
        ours=worst["ours_ms_per_image"],
        theirs=worst["theirs_ms_per_image"],
        unit="ms_per_image",
        cases=found,
    )


def _measure_all(config: dict[str, Any]) -> None:
    """The Ray Train worker: one case after the other in one process."""
    found = {name: _measure(CASES[name], **config) for name in config["names"]}
    (config["folder"] / FOUND).write_text(json.dumps(found))


def _measure(case: Case, *, folder: Path, hub: Any, tiny: bool, **_: object) -> dict[str, float]:
    from gen_dist.job.load import resolve
    from gen_dist.registry.wal import WAL
    from gen_dist.train.hub import Resume
    from gen_dist.train.process import prepare
    from gen_dist.train.report import Reporter
    from gen_dist.train.watchdog import Unwatched
    from gen_dist.train.worker import Assignment, build_loop

    job = _job(case, tiny=tiny)
    device = prepare(job)
    from gen_dist.registry.runs import checkpoint_store
    from gen_dist.train import recovery
    from gen_dist.train.collective import Team
    from tests.speed.bare_loop import BareLoop

    data = find_data(job.data)
    run_folder = folder / f"{case.recipe}-{len(list(folder.iterdir()))}"
    job = job.model_copy(update={"run": job.run.model_copy(update={"folder": str(run_folder)})})
    assignment = Assignment(job=resolve(job), run_folder=run_folder, train=data, heldout=None, hub=hub)
    report = Reporter(run_folder / WAL, hub.put.remote)
    team = Team(device)
    attempt = recovery.begin(checkpoint_store(job), team=team, report=report)
    first = Resume(attempt=attempt, skip_checkpoints=0, after_position=None)
    columns: dict[str, Any] = {}

    def open_warm(*args: Any, **kwargs: Any) -> Stream:
        """The first epoch decodes and keeps every image. What is compared is every epoch after it."""
        stream = open_stream(*args, **kwargs)
        warm = stream.batch(0, stream.num_samples)
        columns.update({name: warm[name] for name in (*kwargs["fields"], "weight")})
        return stream

    with (
        mock.patch("gen_dist.train.worker.open_stream", open_warm),
        build_loop(assignment, job, team=team, report=report, resume=first, watchdog=Unwatched()) as loop,
    ):
        bare = BareLoop(catalog.build(job.recipe, job.model), job, columns)
        num_steps, num_rounds = (2, 2) if tiny else (case.num_steps, case.num_rounds)
        rounds = alternate(loop.step, bare.step, num_steps=num_steps, num_rounds=num_rounds)
    return compare(rounds, images=num_steps * job.train.global_batch_images)


def _job(case: Case, *, tiny: bool) -> JobSpec:
    """Every default of a job, but no end, no samples and no checkpoints; a log line for each round."""
    batch_images = TINY_BATCH_IMAGES if tiny else BATCH_IMAGES
    return JobSpec(
        name="speed",
        recipe=case.recipe,
        data=DataSpec(url="embedded://emoji", train="train-*.tar"),
        model={**(TINY[case.recipe] if tiny else {}), **case.model},
        train=TrainSpec(
            total_images=1 << 40,
            global_batch_images=batch_images,
            micro_batch_images=batch_images,
            log_every_images=batch_images * case.num_steps,
            sample_every_images=0,
            checkpoint_every_images=0,
        ),
    )
