"""Scripts, image and dashboard of infra/: what can be said of them without what they are for."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import socket
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from gen_dist.train.gauges import GAUGES
from tests.support import stack
from tests.support.cli import ROOT
from tests.support.manifests import INFRA

SCRIPTS = sorted(
    path
    for path in INFRA.rglob("*")
    if path.is_file() and (path.suffix == ".sh" or path.read_bytes().startswith(b"#!/usr/bin/env bash"))
)
DASHBOARD = json.loads((INFRA / "dashboards" / "grafana.json").read_text())
METRIC = re.compile(r"\bray_\w+")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: str(path.relative_to(INFRA)))
def test_a_script_is_bash(script: Path) -> None:
    assert subprocess.run(["bash", "-n", script], capture_output=True, check=False).stderr == b""
    shellcheck = shutil.which("shellcheck")
    if shellcheck is not None:  # not on every machine
        # the parts of the stack are one program: names of one are set in another
        call = [shellcheck, "--shell=bash", "--severity=warning", "--exclude=SC2154,SC2164,SC2034,SC1087", script]
        done = subprocess.run(call, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout


def call(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([stack.SCRIPT, *words], capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("begin",), "unknown verb 'begin'; the verbs are up, down, kill, status, env, help"),
        (("up", "--port", "1"), "unknown option '--port'"),
        (("up", "--workers"), "--workers: no value; write --workers VALUE"),
        (("status", "--workers", "2"), "--workers: only for up; status finds it in the folder"),
        (("up", "--wipe"), "--wipe: only for down"),
    ],
)
def test_the_stack_says_what_is_wrong_in_a_call(words: tuple[str, ...], said: str) -> None:
    done = call(*words)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == f"infra/local/stack: {said}"


@pytest.mark.parametrize("verb", ["status", "env"])
def test_a_stack_that_never_was_is_told_with_the_command_that_makes_it(verb: str, tmp_path: Path) -> None:
    done = call(verb, "--folder", str(tmp_path))
    assert done.returncode == 1
    assert f"no stack was started there; infra/local/stack up --folder '{tmp_path}'" in done.stderr


def test_down_removes_no_folder_that_is_not_a_stack(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    done = call("down", "--wipe", "--folder", str(tmp_path))
    assert done.returncode == 1
    assert (tmp_path / "mine").exists()


@pytest.mark.skipif(bool(stack.missing()), reason=stack.missing())
@pytest.mark.parametrize(
    ("options", "said"),
    [(("--workers", "two"), "write a whole number"), (("--s3-port", ""), "something else listens at")],
)
def test_up_refuses_before_it_starts_anything(options: tuple[str, str], said: str, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        name, value = options
        done = call("up", "--folder", str(tmp_path / "s"), name, value or str(taken.getsockname()[1]))
    assert done.returncode == 1
    assert said in done.stderr
    assert not list((tmp_path / "s").glob("pids/*"))
    call("down", "--wipe", "--folder", str(tmp_path / "s"))


@pytest.mark.parametrize("device", ["cpu", "gpu"])
def test_the_image_is_made_of_the_pins_that_are_tested_and_of_files_that_are_there(device: str) -> None:
    lines = (INFRA / "image" / "Dockerfile").read_text().replace("${DEVICE}", device).splitlines()
    sources = [word for line in lines if line.startswith("COPY ") for word in line.split()[1:-1]]
    allowed = [
        line[1:] for line in (INFRA / "image" / "Dockerfile.dockerignore").read_text().splitlines() if line[0] == "!"
    ]
    assert f"infra/constraints/{device}.txt" in sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert any(source == one or source.startswith(f"{one}/") for one in allowed), (
            f"{source} is not sent to the builder"
        )
    assert [line for line in lines if line.startswith("USER ")] == ["USER 1000"]


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def test_panels_lie_beside_each_other_and_have_names_of_their_own() -> None:
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    cells: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        mine = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not mine & cells, panel["title"]
        assert at["x"] + at["w"] <= 24
        cells |= mine


def test_every_gauge_of_a_run_is_on_the_dashboard() -> None:
    shown = {name for panel in panels() for target in panel["targets"] for name in METRIC.findall(target["expr"])}
    ours = {f"ray_gen_dist_{name}" for name in GAUGES}
    assert ours == {name for name in shown if name.startswith("ray_gen_dist_")}


@pytest.mark.skipif(
    importlib.util.find_spec("grafana_foundation_sdk") is None, reason="grafana-foundation-sdk is not installed"
)
@pytest.mark.parametrize("spoil", ["", "fieldconfig", "hight"])
def test_the_dashboard_is_all_known_to_grafana(spoil: str) -> None:
    """What Grafana's model does not know is not there any more when it is read and written again."""
    from grafana_foundation_sdk.cog.encoder import JSONEncoder
    from grafana_foundation_sdk.cog.plugins import register_default_plugins
    from grafana_foundation_sdk.models.dashboard import Dashboard

    register_default_plugins()
    dashboard = json.loads(json.dumps(DASHBOARD))
    if spoil:
        dashboard["panels"][1][spoil] = 3
    again = json.loads(JSONEncoder().encode(Dashboard.from_json(json.loads(json.dumps(dashboard)))))
    assert lost(dashboard, again) == ([f"panels.1.{spoil}"] if spoil else [])


def lost(before: Any, after: Any, at: str = "") -> list[str]:
    """What is not there afterwards, or is different."""
    if isinstance(before, dict) and isinstance(after, dict):
        pairs = [(key, value, after.get(key)) for key, value in before.items()]
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = [(str(number), *pair) for number, pair in enumerate(zip(before, after, strict=True))]
    else:
        return [] if before == after else [at]
    return [one for key, old, new in pairs for one in lost(old, new, f"{at}.{key}".lstrip("."))]


@pytest.mark.parametrize("name", ["prometheus.yml", "prometheus-kubernetes.yml"])
def test_prometheus_scrapes_more_often_than_a_run_logs(name: str) -> None:
    config = yaml.safe_load((INFRA / "dashboards" / name).read_text())
    assert [job["job_name"] for job in config["scrape_configs"]] == ["ray"]
    promtool = shutil.which("promtool")
    if promtool is not None and "kubernetes" not in name:  # Debian's is built without Kubernetes
        done = subprocess.run(
            [promtool, "check", "config", INFRA / "dashboards" / name], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
