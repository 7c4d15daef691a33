"""GigaGAN's base model at the paper's widths on one GPU: images/s, the share of the GPU's peak, and its memory.

    pytest -m gpu -s tests/gpu/test_gigagan.py

prints them as one line of JSON. The text encoder has CLIP ViT-L/14's sizes and no trained weights: it costs the same.
"""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch

from gen_dist.data.shapes import build
from gen_dist.job.load import load_job
from gen_dist.plan.gpus import GPUS
from gen_dist.plan.trace import Model
from tests.support import cli
from tests.support.text_models import write_clip, write_pair_model, write_text_model

JOB = cli.ROOT / "jobs" / "gigagan" / "base-64.toml"
MICRO_BATCH_IMAGES, ACCUMULATION = 16, 2
STEP_IMAGES = MICRO_BATCH_IMAGES * ACCUMULATION
ROW_STEPS = 4  # of a row of the log
SKIPPED_ROWS, ROWS = 2, 8  # kernels are chosen in the first steps; of the 32 that count, 2 have a penalty: one in 16


def base_job(folder: Path, **keys: Any) -> list[str]:
    """`--set` words of the job on one GPU, with data and models in `folder`; `keys` with __ for a dot beside them."""
    build.main([str(folder / "shapes"), "--train", "256", "--heldout", "32"])
    set_here = {
        "name": "base",
        "data.url": folder / "shapes",
        "train.total_images": (SKIPPED_ROWS + ROWS) * ROW_STEPS * STEP_IMAGES,
        "train.global_batch_images": STEP_IMAGES,
        "train.micro_batch_images": MICRO_BATCH_IMAGES,
        "train.ema_half_life_images": 1000,
        "train.log_every_images": ROW_STEPS * STEP_IMAGES,
        "train.sample_every_images": 0,
        "train.checkpoint_every_images": 0,
        "train.nonfinite.policy": "stop",  # there is no checkpoint to go back to
        "train.nonfinite.spike_factor": 0.0,
        "cluster.num_workers": 1,
        "run.folder": folder / "runs",
    } | {key.replace("__", "."): value for key, value in keys.items()}
    return [word for key, value in set_here.items() for word in ("--set", f"{key}={value}")]


def with_clip(folder: Path) -> list[str]:
    """The same with models of the job's own sizes."""
    clip = write_clip(folder, weights=True)
    pair = clip["clip-vit-b-32"]
    return base_job(folder, model__text_encoder=clip["clip-vit-l-14-text"], model__clip=pair, model__vision=pair)


def flops_per_image(sets: list[str]) -> float:
    """Of all phases, each as often as it comes: forward, backward, and what the penalty differentiates again."""
    model = Model(load_job(str(JOB), sets[1::2]))
    costs = model.costs(MICRO_BATCH_IMAGES)
    steps = sum(kind.num_steps for kind in model.kinds)
    step = sum(kind.num_steps * sum(costs[name].flops for name in kind.phases) for kind in model.kinds) / steps
    return step / MICRO_BATCH_IMAGES


def measured(sets: list[str], *, device: str, cwd: Path) -> dict[str, Any]:
    """Train, and say what was seen; `mfu` and `peak_gb` None where nothing is known of the device."""
    done = cli.report("train", str(JOB), *sets, cwd=cwd)
    assert done["finished"]
    said = [event["metrics"] for event in cli.read_events(cwd / done["run_folder"] / "wal") if "metrics" in event]
    rows = [metrics for metrics in said if "speed/images_per_s" in metrics]  # others are scores
    assert len(rows) == SKIPPED_ROWS + ROWS
    assert all(math.isfinite(value) for row in rows for name, value in row.items() if name.startswith("loss/"))
    images_per_s = statistics.harmonic_mean(row["speed/images_per_s"] for row in rows[SKIPPED_ROWS:])
    peak = next((gpu.flops_per_s("bf16") for name, gpu in GPUS.items() if name.split("-")[0] in device.lower()), None)
    peak_bytes = max(row.get("memory/gpu_peak_bytes", 0.0) for row in rows)
    return {
        "device": device,
        "images_per_s": images_per_s,
        "mfu": images_per_s * flops_per_image(sets) / peak if peak else None,
        "peak_gb": peak_bytes / 1e9 or None,
    }


@pytest.mark.gpu
def test_base_64_trains_on_one_gpu_and_says_how_fast(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = measured(with_clip(tmp_path), device=torch.cuda.get_device_name(), cwd=tmp_path)
    with capsys.disabled():
        print(f"\n{json.dumps(found)}")
    assert found["images_per_s"] > 0


@pytest.mark.long
def test_the_same_is_said_of_a_small_one_on_processors(tmp_path: Path) -> None:
    """What the test above does, where there is no GPU: it must not fail for the first time on one that is rented."""
    pair = write_pair_model(tmp_path / "pair")
    text = write_text_model(tmp_path / "text", "clip")
    small = {"size": "nano", "image_px": 8, "text_tokens": 8, "text_encoder": text, "clip": pair, "vision": pair}
    on_processors = {"use_gpu": "false", "cpus_per_worker": 1, "threads_per_worker": 1}
    keys = {f"model__{key}": value for key, value in small.items()}
    sets = base_job(tmp_path, **keys, **{f"cluster__{key}": value for key, value in on_processors.items()})
    found = measured(sets, device="NVIDIA H200", cwd=tmp_path)
    assert found["images_per_s"] > 0
    assert 0 < found["mfu"] < 0.01
    assert json.loads(json.dumps(found)) == found


@pytest.mark.long
def test_the_flops_of_an_image_are_those_of_the_plan(tmp_path: Path) -> None:
    """What the share of the peak is counted with, on the CPU: an image costs teraflops, most of them once a step."""
    per_image = flops_per_image(with_clip(tmp_path))
    assert 1e12 < per_image < 1e14
