"""The smoke jobs on a GPU over NCCL: the same code, in fp32 and bf16."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support import cli

JOBS = sorted((cli.ROOT / "jobs" / "smoke").glob("*.toml"))


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("job", JOBS, ids=[job.stem for job in JOBS])
def test_a_smoke_job_ends_with_a_registered_model(job: Path, precision: str, tmp_path: Path) -> None:
    where = ["cluster.use_gpu=true", "cluster.num_workers=1", f"train.precision={precision}"]
    words = [word for key in where for word in ("--set", key)]
    done = cli.report("train", str(job), *words, cwd=tmp_path)
    assert done["finished"]
    assert done["model_alias"]
    cli.report("sample", done["run_folder"], "red heart", "-o", "drawn.png", cwd=tmp_path)
    metrics = [
        event["metrics"]
        for event in cli.read_events(tmp_path / done["run_folder"] / "wal")
        if event["kind"] == "metrics"
    ]
    assert metrics[0]["memory/gpu_peak_bytes"] > 0
