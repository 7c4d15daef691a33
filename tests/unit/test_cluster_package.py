"""What is sent to a cluster: all code and nothing else, the same bytes for the same code, and no secret."""

from __future__ import annotations

import io
import json
import random
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from gen_dist.cluster import package, pins
from gen_dist.cluster.errors import JobsError
from gen_dist.cluster.package import embedded_of, pack
from gen_dist.cluster.secrecy import addresses_with_secrets, is_secret, secret_values
from gen_dist.cluster.submit import environment
from gen_dist.job.load import load_job

ROOT = Path(__file__).resolve().parents[2]
SECRET = "canary0secret0of0the0store"


def names(data: bytes) -> set[str]:
    with zipfile.ZipFile(io.BytesIO(data)) as zipped:
        return set(zipped.namelist())


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A package with what lies about in folders of code."""
    root = tmp_path / "gen_dist"
    for name in ("__init__.py", "data/emoji/train-00000.tar", "data/emoji/LICENSE.md", "data/x.tar", ".env", "key.pem"):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("content")
    for name in ("__pycache__/old.py", ".hidden/away.py"):
        path = root / name
        path.parent.mkdir()
        path.write_text("content")
    return root


def test_only_code_travels_and_shards_only_where_the_job_reads_them(code: Path) -> None:
    assert names(pack({"job.json": b"{}"}, root=code).data) == {"gen_dist/__init__.py", "job.json"}
    emoji = {"gen_dist/data/emoji/train-00000.tar", "gen_dist/data/emoji/LICENSE.md"}
    assert names(pack({}, embedded=["emoji"], root=code).data) == {"gen_dist/__init__.py", *emoji}
    assert embedded_of(load_job(ROOT / "jobs" / "smoke" / "ddpm.toml")) == {"emoji"}


def test_all_modules_travel_and_the_whole_is_small() -> None:
    tracked = subprocess.run(
        ["git", "ls-files", "gen_dist/*.py"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    sent = pack({})
    assert set(tracked) - names(sent.data) == set()
    assert len(sent.data) < 2 * 2**20


def test_the_same_code_is_the_same_package(code: Path) -> None:
    first, again = pack({"a": b"1"}, root=code), pack({"a": b"1"}, root=code)
    assert first == again
    other = pack({"a": b"2"}, root=code)
    assert other.data != first.data
    assert other.code_digest == first.code_digest
    (code / "__init__.py").write_text("other")
    assert pack({"a": b"1"}, root=code).code_digest != first.code_digest


def test_a_package_that_no_head_would_take_is_refused_with_its_largest_files(
    code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(package, "MOST_BYTES", 1000)
    (code / "large.py").write_bytes(random.Random(0).randbytes(5000))
    with pytest.raises(JobsError, match=r"takes 0\.0 MiB at most; the largest files are gen_dist/large\.py"):
        pack({}, root=code)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AWS_SECRET_ACCESS_KEY", SECRET),
        ("MLFLOW_TRACKING_PASSWORD", SECRET),
        ("HF_TOKEN", SECRET),
        ("MLFLOW_TRACKING_URI", f"https://ann:{SECRET}@mlflow.example.org"),
        ("DATABASE_URI", f"postgresql://db/x?user=ann&password={SECRET}"),
    ],
    ids=["key", "password", "token", "address", "query"],
)
def test_a_secret_of_this_environment_in_a_file_stops_the_sending(
    code: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    (code / "recipe.py").write_text(f'key = "{SECRET}"')
    pack({}, root=code)
    monkeypatch.setenv(name, value)
    with pytest.raises(JobsError, match=rf"gen_dist/recipe\.py holds the value of {name}: nothing was sent") as caught:
        pack({}, root=code)
    assert SECRET not in str(caught.value)


def test_names_that_hold_secrets_are_known() -> None:
    secret = ["AWS_ACCESS_KEY_ID", "AWS_SESSION_TOKEN", "RAY_AUTH_TOKEN", "WANDB_API_KEY", "PGPASSWORD"]
    plain = ["RAY_AUTH_TOKEN_PATH", "AWS_REGION", "AWS_WEB_IDENTITY_TOKEN_FILE", "PATH", "OMP_NUM_THREADS"]
    assert [name for name in [*secret, *plain] if is_secret(name)] == secret
    assert secret_values({"SHORT_TOKEN": "minioadmin", "LONG_TOKEN": SECRET}) == {"LONG_TOKEN": SECRET}


def test_addresses_that_name_a_password_are_found_with_their_key() -> None:
    job = {"tracking": {"uri": "https://a:b@host"}, "data": {"mix": [{"url": "s3://x"}, {"url": "https://k@host"}]}}
    assert list(addresses_with_secrets(job)) == ["tracking.uri", "data.mix[1].url"]


def test_variables_are_handed_over_by_name_and_secrets_are_not() -> None:
    assert environment(["AWS_REGION", "A=b=c"], {"AWS_REGION": "x"}) == {"AWS_REGION": "x", "A": "b=c"}
    with pytest.raises(JobsError, match="--env NONE: no such variable here"):
        environment(["NONE"], {})
    for word in ("=x", "", "A B=x", "1A=x"):
        with pytest.raises(JobsError, match="not the name of a variable; write --env NAME or"):
            environment([word], {})
    for word in (f"HF_TOKEN={SECRET}", "HF_TOKEN", f"PLAIN={SECRET}", f"WHERE=https://ann:{SECRET}@host"):
        with pytest.raises(JobsError, match="a secret, which must not travel") as caught:
            environment([word], {"HF_TOKEN": SECRET})
        assert SECRET not in str(caught.value)


def test_the_versions_of_the_cluster_are_held_against_those_of_the_sender(tmp_path: Path) -> None:
    ours = pins.pins()
    assert {"python", "ray", "torch", "deepspeed", "mlflow"} <= ours.keys()
    assert not pins.unlike(ours, ours)
    assert pins.unlike({"torch": "2.13.0", "ray": "2.60.0"}, {"ray": "2.59.0"}) == [
        "torch not installed, not 2.13.0",
        "ray 2.59.0, not 2.60.0",
    ]
    file = tmp_path / pins.PINS
    check = [sys.executable, "-m", "gen_dist.cluster.pins", str(file)]
    file.write_text(json.dumps(ours))
    assert subprocess.run(check, cwd=ROOT, check=False).returncode == 0
    file.write_text(json.dumps({**ours, "torch": "1.0"}))
    done = subprocess.run(check, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"has torch {ours['torch']}, not 1.0: install there what the job was submitted with" in done.stderr
