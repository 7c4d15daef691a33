"""The log beside the checkpoints: copied while it grows, fetched where it is missing, never replaced by less."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gen_dist.job.spec import S3Spec
from gen_dist.registry.wal import WAL, WalWriter, read_events, segments
from gen_dist.registry.wal_copies import WalCopies, download_wal, upload_wal
from gen_dist.store import Store, StoreError, open_store
from tests.support.gateway import Gateway, run_gateway


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with run_gateway(tmp_path_factory.mktemp("gateway")) as running:
        yield running


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    if request.param == "folder":
        return open_store(str(tmp_path / "bucket" / "run"))
    gateway: Gateway = request.getfixturevalue("gateway")
    for name, value in gateway.environment.items():
        monkeypatch.setenv(name, value)
    url = f"s3://{gateway.bucket}/{tmp_path.name}/run"
    return open_store(url, S3Spec(endpoint_url=gateway.endpoint_url))


def event(number: int, at_s: float = 1.0) -> dict[str, Any]:
    return {"kind": "metrics", "at_s": at_s, "images": number, "metrics": {"loss/a": 0.5}}


def write(run: Path, numbers: range, *, at_s: float = 1.0) -> WalWriter:
    writer = WalWriter(run / WAL, segment_bytes=1_500)
    for number in numbers:
        writer.append(event(number, at_s))
    return writer


def numbers(run: Path) -> list[int]:
    return [one["images"] for one in read_events(run / WAL)]


def test_a_growing_log_is_copied_and_fetched_elsewhere(tmp_path: Path, store: Store) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    assert upload_wal(here, store) == 0
    assert download_wal(there, store) == 0
    writer = write(here, range(50))
    assert upload_wal(here, store) == len(segments(here / WAL)) > 2
    assert upload_wal(here, store) == 0
    writer.append(event(50))
    with (here / WAL / writer.name).open("ab") as file:
        file.write(b'{"kind":"half a li')
    assert upload_wal(here, store) == 1  # up to its last whole line
    assert upload_wal(here, store) == 0
    assert download_wal(there, store) == len(segments(here / WAL))
    assert numbers(there) == list(range(51))
    assert not list((there / WAL).glob("*.tmp"))
    next_writer = write(there, range(51, 53))
    assert next_writer.name > writer.name
    assert upload_wal(there, store) == 1
    download_wal(here, store)
    assert numbers(here) == list(range(53))


def test_what_is_here_is_never_replaced_by_less(tmp_path: Path, store: Store) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    writer = write(here, range(3))
    upload_wal(here, store)
    writer.append(event(3))
    assert download_wal(here, store) == 0
    assert numbers(here) == [0, 1, 2, 3]
    write(there, range(1), at_s=2.0)  # another log under the same name
    assert download_wal(there, store) == 0
    assert numbers(there) == [0]
    write(there, range(20), at_s=2.0)
    (there / WAL / "000001.jsonl").write_bytes(b"".join(p.read_bytes() for p in segments(there / WAL)))
    with pytest.raises(StoreError, match="another run"):
        upload_wal(there, store)


def test_copies_go_on_in_the_background_and_never_raise(tmp_path: Path, store: Store) -> None:
    copies = WalCopies(tmp_path / "here", store)
    copies.fetch()
    writer = write(tmp_path / "here", range(5))
    copies.ask()
    writer.append(event(5))
    assert copies.finish(20.0)
    assert copies.trouble is None
    fetched = WalCopies(tmp_path / "there", store)
    fetched.fetch()
    assert numbers(tmp_path / "there") == list(range(6))


def test_a_store_that_is_away_is_trouble_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "bucket").write_text("a file where the folder should be")
    copies = WalCopies(tmp_path / "here", open_store(str(tmp_path / "bucket")))
    copies.fetch()
    write(tmp_path / "here", range(5))
    assert not copies.finish(20.0)
    assert "the log was not copied" in str(copies.trouble)
    assert len(str(copies.trouble).splitlines()) == 1


def test_checkpoints_in_the_run_folder_need_no_copy(tmp_path: Path) -> None:
    copies = WalCopies(tmp_path, None)
    copies.fetch()
    copies.ask()
    assert copies.finish(0.0)
