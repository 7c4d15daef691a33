"""GigaGAN's base model at the paper's widths on one GPU: images/s, the share of the GPU's peak, and its memory.

    pytest -m gpu -s tests/gpu/test_gigagan.py

prints them as one line of JSON. The text encoder has CLIP ViT-L/14's sizes and no trained weights: it costs the same.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from gen_dist.data.shapes import build
from gen_dist.job.load import load_job
from gen_dist.plan.gpus import GPUS
from gen_dist.plan.trace import Model
from tests.support import cli
from tests.support.text_models import write_clip

JOB = cli.ROOT / "jobs" / "gigagan" / "base-64.toml"
MICRO_BATCH_IMAGES, ACCUMULATION, NUM_STEPS = 16, 2, 32
SKIPPED = 2  # rows of the log: kernels are chosen in the first steps


def base_job(folder: Path) -> list[str]:
    """`--set` words of the job on one GPU, with data, a text encoder and CLIP in `folder`, of the job's sizes."""
    build.main([str(folder / "shapes"), "--train", "256", "--heldout", "32"])
    clip = write_clip(folder, weights=True)
    step_images = MICRO_BATCH_IMAGES * ACCUMULATION
    keys = {
        "name": "base",
        "data.url": folder / "shapes",
        "model.text_encoder": clip["clip-vit-l-14-text"],
        "model.clip": clip["clip-vit-b-32"],
        "model.vision": clip["clip-vit-b-32"],
        "train.total_images": NUM_STEPS * step_images,
        "train.global_batch_images": step_images,
        "train.micro_batch_images": MICRO_BATCH_IMAGES,
        "train.ema_half_life_images": 1000,
        "train.log_every_images": 4 * step_images,
        "train.sample_every_images": 0,
        "train.checkpoint_every_images": 0,
        "cluster.num_workers": 1,
        "run.folder": folder / "runs",
    }
    return [word for key, value in keys.items() for word in ("--set", f"{key}={value}")]


def flops_per_image(sets: list[str]) -> float:
    """Of all phases, each as often as it comes: forward, backward, and what the penalty differentiates again."""
    model = Model(load_job(str(JOB), sets[1::2]))
    costs = model.costs(MICRO_BATCH_IMAGES)
    steps = sum(kind.num_steps for kind in model.kinds)
    step = sum(kind.num_steps * sum(costs[name].flops for name in kind.phases) for kind in model.kinds) / steps
    return step / MICRO_BATCH_IMAGES


@pytest.mark.gpu
def test_base_64_trains_on_one_gpu_and_says_how_fast(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sets = base_job(tmp_path)
    done = cli.report("train", str(JOB), *sets, cwd=tmp_path)
    assert done["finished"]
    rows = [event["metrics"] for event in cli.read_events(tmp_path / done["run_folder"] / "wal") if "metrics" in event]
    assert all(math.isfinite(value) for row in rows for name, value in row.items() if name.startswith("loss/"))
    speeds = sorted(row["speed/images_per_s"] for row in rows[SKIPPED:] if "speed/images_per_s" in row)
    images_per_s = speeds[len(speeds) // 2]
    device = torch.cuda.get_device_name()
    kind = next((gpu for name, gpu in GPUS.items() if name.split("-")[0] in device.lower()), None)
    peak = kind.flops_per_s("bf16") if kind else math.nan
    found = {
        "device": device,
        "images_per_s": images_per_s,
        "mfu": images_per_s * flops_per_image(sets) / peak,
        "peak_gb": max(row["memory/gpu_peak_bytes"] for row in rows if "memory/gpu_peak_bytes" in row) / 1e9,
    }
    with capsys.disabled():
        print(f"\n{json.dumps(found)}")
    assert images_per_s > 0


@pytest.mark.long
def test_the_flops_of_an_image_are_those_of_the_plan(tmp_path: Path) -> None:
    """What the share of the peak is counted with, on the CPU: an image costs teraflops, most of them once a step."""
    per_image = flops_per_image(base_job(tmp_path))
    assert 1e12 < per_image < 1e14
