"""`gen-dist data index` of a store in trouble leaves no shard out for it, and goes on when it is given again."""

from __future__ import annotations

import errno
import io
import json
import re
from pathlib import Path

import pytest

from gen_dist.cli.app import main
from gen_dist.data.errors import DataError
from gen_dist.data.index import find_index
from gen_dist.store import StoreError, open_store
from gen_dist.store.local import LocalStore
from tests.support.shards import write_shards


def failing(monkeypatch: pytest.MonkeyPatch, method: str, name: str, error: Exception) -> None:
    """One method of the store fails for one object."""
    whole = getattr(LocalStore, method)

    def failed(self: LocalStore, given: str, *values: object, **named: object) -> object:
        if given == name:
            raise error
        return whole(self, given, *values, **named)

    monkeypatch.setattr(LocalStore, method, failed)


@pytest.mark.parametrize(
    ("method", "name"), [("stream", "train-00001.tar"), ("write", "train-00001.tar.gdx")], ids=["read", "write"]
)
def test_no_manifest_is_written_while_the_store_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], method: str, name: str
) -> None:
    write_shards(tmp_path, num_samples=8, per_shard=4)
    with pytest.MonkeyPatch.context() as monkeypatch:
        failing(monkeypatch, method, name, StoreError(f"{name}: no answer in 6 attempts; make room there"))
        assert main(["data", "index", str(tmp_path), "--skip-broken"]) == 1
        out = capsys.readouterr().out
        assert f"failed     {name}: no answer in 6 attempts; make room there\n" in out
        assert "manifest   not written; the store failed; run this again" in out
        assert not (tmp_path / "index.gdx").exists()
        assert main(["data", "index", str(tmp_path), "--json"]) == 1
        assert [broken["passing"] for broken in json.loads(capsys.readouterr().out)["broken"]] == [True]
    assert main(["data", "index", str(tmp_path), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["num_read"], facts["num_samples"]) == (1, 8)
    assert len(find_index(open_store(str(tmp_path)), "*.tar")) == 8


def test_a_disk_that_fails_within_a_file_leaves_no_shard_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Failing(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            raise OSError(errno.EIO, "Input/output error")

    write_shards(tmp_path, num_samples=4, per_shard=4)
    monkeypatch.setattr(LocalStore, "stream", lambda *_, **named: Failing())
    assert main(["data", "index", str(tmp_path), "--skip-broken"]) == 1
    assert "train-00000.tar: unreadable (Input/output error); look after the disk" in capsys.readouterr().out


def test_a_table_that_was_not_copied_along_is_made_by_indexing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_shards(tmp_path, num_samples=4, per_shard=4)
    assert main(["data", "index", str(tmp_path)]) == 0
    (tmp_path / "train-00000.tar.gdx").unlink()
    told = f"train-00000.tar.gdx: the table of this shard is missing; run `gen-dist data index {tmp_path}`"
    with pytest.raises(DataError, match=re.escape(told)):
        find_index(open_store(str(tmp_path)), "*.tar").sample(0)
    capsys.readouterr()
    assert main(["data", "verify", str(tmp_path)]) == 1
    assert told in capsys.readouterr().out
    assert main(["data", "index", str(tmp_path)]) == 0
    assert find_index(open_store(str(tmp_path)), "*.tar").sample(0).key == "000000"
