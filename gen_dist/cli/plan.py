"""`gen-dist plan`: what a job needs and costs on a number of GPUs, as a page for a person or as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from gen_dist.cli.json_report import print_report

GB = 1e9
PARTS = ("weights", "gradients", "optimizer", "activations", "batch", "buffers", "margin", "total")


def plan(
    job: Annotated[str, typer.Argument(metavar="JOB", help="Job file, such as jobs/quickstart.toml.")],
    gpu: Annotated[str, typer.Option(help="Kind of GPU, such as h100.")],
    workers: Annotated[
        int | None, typer.Option(help="How many of them, one for each worker; without it as many as the job says.")
    ] = None,
    overrides: Annotated[
        list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override a key, as for train. Repeatable.")
    ] = [],  # noqa: B006
    price: Annotated[
        float, typer.Option("--price-per-gpu-hour", min=0, help="Price of one GPU for an hour, in any money.")
    ] = 0.0,
    mfu: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the peak FLOP/s that the networks reach; 0: assumed.")
    ] = 0.0,
    measured: Annotated[
        float, typer.Option("--measured-images-per-s", min=0, help="Of this job on one such GPU, instead of a guess.")
    ] = 0.0,
    gpus_per_node: Annotated[int, typer.Option(min=0, help="GPUs of a machine; 0: as is usual.")] = 0,
    network: Annotated[
        float, typer.Option("--network-gbit-per-s", min=0, help="Network between machines, for each GPU; 0: usual.")
    ] = 0.0,
    sample_bytes: Annotated[
        float, typer.Option(min=0, help="One sample as it is stored; 0: of local shards, else assumed.")
    ] = 0.0,
    as_json: Annotated[bool, typer.Option("--json", help="Answer in JSON, errors included.")] = False,
) -> None:
    """Say what a job needs and costs before a GPU is held: memory, speed, traffic, storage, days, price.

    For each ZeRO stage, with and without offload, and which one to take. Needs no GPU, no weights and no cluster.
    """

    from gen_dist.job.arithmetic import world_sizes
    from gen_dist.job.load import load_job
    from gen_dist.plan.gpus import find_gpu
    from gen_dist.plan.plan import Asked, make_plan

    kind = find_gpu(gpu, gpus_per_node=gpus_per_node, network_gbit_per_s=network)
    spec = load_job(job, overrides)
    asked = Asked(
        kind,
        world_sizes(spec)[-1] if workers is None else workers,
        price_per_gpu_hour=price,
        mfu=mfu,
        measured_images_per_s=measured,
        sample_bytes=sample_bytes,
    )
    facts = make_plan(spec, asked).facts()
    print_report(facts) if as_json else _page(facts)


def _page(facts: Mapping[str, Any]) -> None:
    best = facts["recommended"]
    lines = [
        *_head(facts),
        *_table("GB on each GPU", _memory_rows(facts["configurations"])),
        *_table("speed", _time_rows(facts)),
        *_table(f"each step with {_chosen(best)}", _phase_rows(best)),
        "",
        *_verdict(facts, best, facts["as_the_job_says"]),
        "",
        *_assumptions(facts),
    ]
    print("\n".join(lines))


def _head(facts: Mapping[str, Any]) -> list[str]:
    gpu, workers = facts["asked"]["gpu"], facts["asked"]["workers"]
    sizes = ", ".join(f"{name} {count / 1e6:,.1f} M" for name, count in facts["parameters"].items())
    images = f"{facts['total_images']:,} images, {facts['global_batch_images']:,} a step, {facts['precision']}"
    return [
        _line("job", f"{facts['job']}: {images}; parameters: {sizes}"),
        _line(
            "on", f"{workers:,} x {gpu['name']} with {gpu['memory_bytes'] / GB:.0f} GB, {gpu['gpus_per_node']} a node"
        ),
    ]


def _memory_rows(configurations: Sequence[Mapping[str, Any]]) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = [("", "micro-batch", *PARTS, "host", "", "micro-batch up to")]
    for found in configurations:
        memory = found["memory_bytes"]
        cells = [_gb(memory[part]) for part in PARTS]
        host = _gb(memory["host"]) if found["offload"] else "-"
        verdict = "fits" if found["fits"] else "too much"
        largest = f"{found['largest_micro_batch_images']:,}"
        rows.append((found["name"], f"{found['micro_batch_images']:,}", *cells, host, verdict, largest))
    return rows


def _time_rows(facts: Mapping[str, Any]) -> list[Sequence[str]]:
    from gen_dist.plan.duration import in_words

    priced = facts["asked"]["price_per_gpu_hour"] > 0
    rows: list[Sequence[str]] = [("", "accumulation", "images/s", "run", *(("price",) if priced else ()), "read MB/s")]
    for found in facts["configurations"]:
        price = (f"{found['price']:,.0f}",) if priced else ()
        speed = f"{found['images_per_s']:,.0f}"
        rows.append(
            (
                found["name"],
                f"{found['accumulation']:,}",
                speed,
                in_words(found["run_s"]),
                *price,
                f"{found['read_bytes_per_s'] / 1e6:,.1f}",
            )
        )
    return rows


def _phase_rows(found: Mapping[str, Any]) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = [
        ("phase", "compute ms", "bound by", "optimizer ms", "communication ms", "total ms", "sent MB")
    ]
    for name, phase in found["phases"].items():
        times = [f"{phase[key] * 1e3:,.2f}" for key in ("optimizer_s", "communication_s", "total_s")]
        rows.append(
            (name, f"{phase['compute_s'] * 1e3:,.2f}", phase["bound"], *times, f"{phase['sent_bytes'] / 1e6:,.1f}")
        )
    return rows


def _verdict(facts: Mapping[str, Any], best: Mapping[str, Any], own: Mapping[str, Any]) -> list[str]:
    stored, priced = facts["storage"], facts["asked"]["price_per_gpu_hour"] > 0
    fits = "fits" if own["fits"] else "does not fit"
    written = f"{stored['num_checkpoints']:,} in the run, {_gb(stored['written_bytes'])} GB written"
    sample = f"{stored['sample_bytes'] / 1e3:,.1f} kB a sample ({stored['sample_bytes_from']})"
    price = f", price {best['price']:,.0f}" if priced else ""
    return [
        _line("take", f"{_chosen(best)}: {_speed(best)}{price}"),
        _line("why", best["why"]),
        _line("set", _settings(best)),
        _line("job says", f"{_chosen(own)}: {fits} with {_gb(own['memory_bytes']['total'])} GB, {_speed(own)}"),
        _line("fullest", best["memory_bytes"]["moment"]),
        _line("checkpoint", f"{_gb(stored['checkpoint_bytes'])} GB, {written}"),
        _line("reads", f"{_gb(stored['read_bytes'])} GB in the run at {sample}"),
    ]


def _speed(found: Mapping[str, Any]) -> str:
    from gen_dist.plan.duration import in_words

    return f"{found['images_per_s']:,.0f} images/s, {in_words(found['run_s'])}"


def _settings(best: Mapping[str, Any]) -> str:
    stages = ",".join(f"{name}={stage}" for name, stage in best["stages"].items())
    inner = stages.replace(",", ", ").replace("=", " = ")
    return f"--set train.micro_batch_images={best['micro_batch_images']} --set 'train.zero_stages={{{inner}}}'"


def _assumptions(facts: Mapping[str, Any]) -> list[str]:
    from gen_dist.plan.duration import LAUNCH_S, MEMORY_SHARE
    from gen_dist.plan.memory import CONTEXT_BYTES, FRAGMENTED_SHARE
    from gen_dist.plan.traffic import LATENCY_S, LINK_SHARE

    gpu, measured = facts["asked"]["gpu"], facts["asked"]["measured_images_per_s"]
    shares = [f"{share:.0%} of {gpu['name']}'s peak in {precision}" for precision, share in facts["mfu"].items()]
    peak = f"{' and '.join(shares)} (--mfu)"
    speed = f"{peak}, {MEMORY_SHARE:.0%} of its memory's speed, {LAUNCH_S * 1e6:g} us a kernel"
    links = f"{LINK_SHARE:.0%} of links, {LATENCY_S * 1e6:g} us a collective call; nothing overlaps"
    measured_lines = [_line("measured", f"{measured:g} images/s of one GPU, as given: computing takes that long")]
    missing = [f"{folder} is not here: sizes of {what}" for folder, what in facts["assumed_folders"].items()]
    return [
        _line("counted", "weights, gradients, optimizer, activations, batch, buffers, FLOPs, bytes sent"),
        *(measured_lines if measured else []),
        _line("datasheet", gpu["source"]),
        *(_line("assumed", text) for text in missing),
        _line("assumed", links if measured else f"{speed}; {links}"),
        _line(
            "margin", f"{_gb(CONTEXT_BYTES)} GB for CUDA and NCCL, {FRAGMENTED_SHARE:.0%} for fragmentation: assumed"
        ),
        _line("offload", "what DeepSpeed would need; no key of a job asks for it"),
    ]


def _line(name: str, text: str) -> str:
    return f"{name:<11} {text}"


def _chosen(found: Mapping[str, Any]) -> str:
    return f"{found['name']}, micro-batch {found['micro_batch_images']:,} x {found['accumulation']:,}"


def _table(title: str, rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns as wide as they need; words to the left, numbers to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    return ["", title, *lines]


def _gb(num_bytes: float) -> str:
    return f"{num_bytes / GB:,.2f}"
