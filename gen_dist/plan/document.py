"""The section "What it costs" of infra/README.md: what jobs need on 8 to 4,096 GPUs.

`python -m gen_dist.plan.document infra/README.md` writes it again between its two marks, for the jobs that its first
mark names. Folders of pretrained models that they name lie here, with config.json and tokenizer, or have
a name of gen_dist/nets/known_shapes.py.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from gen_dist.job.load import load_job
from gen_dist.job.settings import compared_images
from gen_dist.plan.duration import LAUNCH_S, MEMORY_SHARE, MFU, in_words
from gen_dist.plan.errors import PlanError
from gen_dist.plan.gpus import find_gpu
from gen_dist.plan.plan import Asked, make_plan
from gen_dist.plan.trace import Model
from gen_dist.plan.traffic import LINK_SHARE

BEGIN, END = "<!-- costs of ", "<!-- end of costs -->"
GPU, PRICE = "h100", 2.5
WORKERS = (8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
GB, TB = 1e9, 1e12


def section(jobs: Sequence[str]) -> str:
    """All between the marks, with them."""
    gpu = find_gpu(GPU)
    lines = [
        f"{BEGIN}{' '.join(jobs)}: python -m gen_dist.plan.document infra/README.md -->",
        "## What it costs",
        "",
        f"Calculated by `gen-dist plan JOB --gpu {GPU} --workers N --price-per-gpu-hour {PRICE:g}`, not measured.",
        "Memory, FLOPs and bytes sent are counted on the job itself. Speeds are those of datasheets",
        f"({gpu.source}),",
        f"of which {MFU['bf16']:.0%} of the FLOP/s in bf16 and {MFU['fp32']:.0%} of those in fp32, as penalties are,",
        f"{MEMORY_SHARE:.0%} of the memory's and {LINK_SHARE:.0%} of the links' speed are assumed to be reached, with",
        f"{LAUNCH_S * 1e6:g} µs a kernel and nothing overlapping. A speed measured on one GPU takes their place:",
        "`--measured-images-per-s`. Start, sample grids, checkpoints and lost machines are left out.",
    ]
    for path in jobs:
        lines += ["", *table(path)]
    return "\n".join([*lines, END])


def rewritten(text: str) -> str:
    """A README with its section written again. Raises: PlanError where it has no marks."""
    jobs = jobs_of(text)
    before, _, rest = text.partition(BEGIN)
    return before + section(jobs) + rest.partition(END)[2]


def jobs_of(text: str) -> list[str]:
    """The jobs that a README's first mark names. Raises: PlanError."""
    _, begins, rest = text.partition(BEGIN)
    if not begins or END not in rest:
        raise PlanError(f"no section of costs; write `{BEGIN}JOB ...: -->` and `{END}`, each on a line of its own")
    return rest.partition(":")[0].split()


def table(path: str) -> Iterator[str]:
    """The lines about a job."""
    job = load_job(path)
    model = Model(job)
    sizes = ", ".join(f"{name} {size.total / 1e6:,.0f} M" for name, size in model.sizes().items())
    images = f"{job.train.total_images / 1e6:,.0f} M images, {job.train.global_batch_images:,} a step"
    yield f"**[{path}](../{path})**: {images}, {job.train.precision}; parameters: {sizes}."
    yield ""
    yield "| GPUs | take | micro-batch | memory | images/s | a GPU | run | price |"
    yield "| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    plan, compared = None, compared_images(model.recipe.settings)
    for workers in WORKERS:
        if job.train.global_batch_images % workers:
            yield f"| {workers:,} | more GPUs than {job.train.global_batch_images:,} images divide by | | | | | | |"
            continue
        if job.train.global_batch_images // workers < compared:
            yield f"| {workers:,} | fewer images on each than the {compared} that are compared | | | | | | |"
            continue
        plan = make_plan(job, Asked(find_gpu(GPU), workers, price_per_gpu_hour=PRICE), model=model, counted=False)
        best, speed = plan.best, plan.images_per_s(plan.best)
        chosen = best.configuration
        yield (
            f"| {workers:,} | {chosen.name} | {chosen.micro_batch_images:,} x {best.accumulation:,} |"
            f" {best.memory.total / GB:.0f} GB | {speed:,.0f} | {speed / workers:,.1f} | {in_words(best.run_s)} |"
            f" {plan.price(best):,.0f} |"
        )
    if plan is not None:
        stored = plan.storage
        each = f"{stored.sample_bytes / 1e3:.0f} kB, {stored.sample_bytes_from}"
        yield ""
        yield (
            f"A checkpoint has {stored.checkpoint_bytes / GB:,.1f} GB, and the run writes {stored.num_checkpoints}. It"
            f" reads {stored.read_bytes / TB:,.1f} TB of samples ({each})."
        )


if __name__ == "__main__":
    readme = Path(sys.argv[1])
    readme.write_text(rewritten(readme.read_text(encoding="utf-8")), encoding="utf-8")
