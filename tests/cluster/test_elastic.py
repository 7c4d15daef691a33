"""Runs that grow and shrink with their cluster: samples, curves and weights are those of a run that did not."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient
from torch import Tensor

from gen_dist.registry.find import find_model
from tests.support import cli
from tests.support.mlflow_server import curve_of, runs_of
from tests.support.ray_cluster import drain
from tests.support.run_faults import events, learned, wait_for
from tests.support.site import HEAD, NODES, Site

DDPM = str(cli.ROOT / "jobs" / "smoke" / "ddpm.toml")
STEP_IMAGES = 256  # 64 micro-batches: so long that a machine joins and goes within a hundred steps
LOSS = "loss/denoiser/noise"
WINDOW_S = 60.0  # between the notice and the end of the machine
SLOW = {
    "train__global_batch_images": STEP_IMAGES,
    "train__log_every_images": STEP_IMAGES,
    "train__sample_every_images": 0,
    "train__checkpoint_every_images": 2 * STEP_IMAGES,
    "train__schedule": "constant",
    "model__learning_rate": 3e-6,  # Adam makes steps of this size out of gradients that are rounding errors alone
    "run__max_failures": 0,  # neither a lost machine nor a resize is a failure
}
ENDLESS = {**SLOW, "train__total_images": 1_000_000, "cluster__num_workers": "[1, 2]"}

# a starved machine takes five times as long as an idle one
pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]


def weights(site: Site, run: Path) -> dict[str, Tensor]:
    with site.hosts[HEAD].entered():
        return find_model(str(run)).weights()


def kept_by(log: Path, *, group: int) -> bool:
    """Whether steps of the `group`-th group are in a checkpoint."""
    return any(event["attempt"] == group for event in events(log, "checkpoint"))


def curve(site: Site, name: str) -> dict[int, float]:
    """Images seen -> loss, as MLflow has it."""
    with site.hosts[HEAD].entered():
        client = MlflowClient(site.mlflow)
        points = curve_of(client, runs_of(client, name)["history-1"], LOSS)
    assert len({step for step, _, _ in points}) == len(points), "a step twice in the curve"
    return {step: value for step, value, _ in points}


def test_a_run_that_grows_and_shrinks_makes_the_curve_and_the_weights_of_one_that_does_not(
    site: Site, tmp_path: Path
) -> None:
    site.only("node-1")
    running = site.run("train", DDPM, *site.keys(name="elastic", **ENDLESS), cwd=tmp_path)
    log = tmp_path / "runs" / "elastic" / "wal"
    wait_for(lambda: learned(log, group=1, images=STEP_IMAGES), "steps on one host", running=running)
    site.start_node("node-2")
    wait_for(lambda: kept_by(log, group=2), "checkpoint of two hosts", running=running)
    site.kill_node("node-2")
    wait_for(lambda: kept_by(log, group=3), "checkpoint of one host again", running=running)
    running.signal(signal.SIGTERM)
    code, output = running.end()
    assert code == 128 + signal.SIGTERM, output

    starts = events(log, "start")
    assert [start["workers"] for start in starts] == [1, 2, 1]
    (resize,) = events(log, "resize")
    assert resize["images"] - starts[1]["images"] < 2 * STEP_IMAGES, "a checkpoint of the moment where a machine joins"
    (death,) = events(log, "death")
    assert death["node_lost"]
    end = events(log, "checkpoint")[-1]["images"]
    audit = site.report("data", "audit", "runs/elastic", cwd=tmp_path)
    assert audit["holds"]
    assert (audit["images"], audit["num_skipped"], audit["disagree"]) == (end, 0, [])

    plain = {**SLOW, "name": "plain", "train__total_images": end, "cluster__num_workers": 1}
    assert site.report("train", DDPM, *site.keys(**plain), cwd=tmp_path)["finished"]
    ours, theirs = (weights(site, tmp_path / "runs" / name) for name in ("elastic", "plain"))
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert (value - theirs[name]).abs().max() <= 1e-6, name
    assert curve(site, "elastic") == pytest.approx(curve(site, "plain"), abs=1e-6)


def test_a_host_that_a_cloud_takes_away_with_notice_costs_no_failure_and_little_work(
    site: Site, tmp_path: Path
) -> None:
    """Ray's preemption notice: a checkpoint inside the window, work goes on to its end, and then without the host."""
    site.only(*NODES)
    never = {"train__checkpoint_every_images": 900_000}
    running = site.run("train", DDPM, *site.keys(name="spot", **{**ENDLESS, **never}), cwd=tmp_path)
    log = tmp_path / "runs" / "spot" / "wal"
    wait_for(lambda: learned(log, group=1, images=STEP_IMAGES), "steps on two hosts", running=running)
    lost = site.hosts[NODES[1]]
    noticed_s = time.time()
    with site.hosts[HEAD].entered():
        ip = "" if site.network is None else lost.ip  # without hosts of their own: the newest node
        drain(site.cluster.address, window_s=WINDOW_S, env=site.environment, ip=ip)
    (kept, *_) = wait_for(lambda: events(log, "checkpoint"), "checkpoint", running=running)
    assert kept["at_s"] - noticed_s < 30.0, "inside the shortest window that clouds give"
    (notice, *_) = events(log, "notice")
    assert "is taken away in" in notice["why"]
    wait_for(lambda: time.time() > noticed_s + WINDOW_S, "the end of the window", running=running)
    site.kill_node(NODES[1])
    wait_for(lambda: learned(log, group=2, images=STEP_IMAGES), "steps on the host that is left", running=running)
    running.signal(signal.SIGTERM)
    code, output = running.end()
    assert code == 128 + signal.SIGTERM, output

    starts = events(log, "start")
    assert [start["workers"] for start in starts] == [2, 1]
    assert starts[1]["images"] == kept["images"]
    assert all(death["node_lost"] for death in events(log, "death")), "max_failures is 0: it was not charged"
    audit = site.report("data", "audit", "runs/spot", cwd=tmp_path)
    assert audit["holds"]
    assert (audit["num_skipped"], audit["disagree"]) == (0, [])
