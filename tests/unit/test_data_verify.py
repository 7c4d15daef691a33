"""`gen-dist data verify`: each thing a run would trip over is one line, and only what would stop a run fails."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest

from gen_dist.cli.app import main
from tests.support import odd_tars
from tests.support.odd_tars import add, jpeg
from tests.support.shards import write_shards

JOB = Path(__file__).resolve().parents[2] / "jobs" / "quickstart.toml"


@pytest.fixture
def indexed(tmp_path: Path) -> Path:
    write_shards(tmp_path, num_samples=20, per_shard=10)
    assert main(["data", "index", str(tmp_path)]) == 0
    return tmp_path


def verified(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, list[str], list[str]]:
    """(exit code, what would stop a run, what would not)"""
    capsys.readouterr()
    code = main(["data", "verify", *words, "--json"])
    facts = json.loads(capsys.readouterr().out)
    assert all("\n" not in line and "; " in line for line in facts["stops"] + facts["notes"])
    assert code == (1 if facts["stops"] else 0)
    return code, facts["stops"], facts["notes"]


@pytest.mark.parametrize("words", [(), ("--all",)])
def test_a_sound_data_set_is_sound(indexed: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> None:
    assert verified(capsys, str(indexed), *words) == (0, [], [])
    assert main(["data", "verify", str(indexed), *words]) == 0
    assert capsys.readouterr().out == "verified   20 samples of 2 shards: nothing would stop a run\n"


def test_the_embedded_data_set_serves_the_first_job(capsys: pytest.CaptureFixture[str]) -> None:
    code, stops, notes = verified(capsys, "--job", str(JOB))
    assert (code, stops) == (0, [])
    assert [note for note in notes if "less than 4 MiB" not in note] == []


def test_shards_without_an_index_are_read_by_their_headers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_shards(tmp_path, num_samples=20, per_shard=10)
    code, stops, notes = verified(capsys, str(tmp_path))
    assert (code, stops) == (0, [])
    assert "no index, so every run reads all headers first; run `gen-dist data index" in notes[0]
    path = tmp_path / "train-00000.tar"
    path.write_bytes(path.read_bytes()[:5000])
    _, stops, _ = verified(capsys, str(tmp_path))
    assert ["train-00000.tar: the shard is truncated" in line for line in stops] == [True]
    (tmp_path / "train-00001.tar").write_bytes(b"")
    _, stops, _ = verified(capsys, str(tmp_path))
    assert len(stops) == 3
    assert "no sample can be used" in stops[-1]


def test_what_is_new_or_has_another_size_or_is_gone_is_found(indexed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_shards(indexed, num_samples=4, per_shard=4, stem="new")
    with (indexed / "train-00001.tar").open("ab") as file:
        file.write(bytes(10240))
    (indexed / "train-00000.tar").unlink()
    _, stops, notes = verified(capsys, str(indexed))
    assert "new-00000.tar: not in the index; run `gen-dist data index" in stops[0]
    assert "train-00001.tar: changed after it was indexed; run `gen-dist data index" in stops[1]
    assert any("1 indexed shards are gone (train-00000.tar); bring them back" in note for note in notes)


@pytest.mark.parametrize("words", [(), ("--all",)])
def test_bytes_that_changed_in_place_are_found(
    indexed: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    path = indexed / "train-00001.tar"
    path.write_bytes(path.read_bytes().replace(b"caption 15", b"caption XX"))
    _, stops, _ = verified(capsys, str(indexed), *words)
    assert len(stops) == 1
    assert "train-00001.tar: sample '000015': 1 members, .txt first, are not as they were indexed; copy" in stops[0]


def test_a_shard_that_was_written_anew_at_the_same_size_is_found(
    indexed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = indexed / "train-00001.tar"
    path.write_bytes(path.read_bytes()[3072:].ljust(path.stat().st_size, b"\0"))
    assert len(verified(capsys, str(indexed))[1]) == 1
    assert len(verified(capsys, str(indexed), "--all")[1]) == 1


def test_tables_and_manifests_that_are_damaged_or_of_others_are_found(
    indexed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (indexed / "train-00000.tar.gdx").unlink()
    (indexed / "train-00001.tar.gdx").write_bytes(b"no table")
    _, stops, _ = verified(capsys, str(indexed))
    assert "train-00000.tar.gdx" in stops[0]
    assert "train-00001.tar.gdx: unreadable" in stops[1]
    (indexed / "index.gdx").write_bytes(b"no manifest")
    _, stops, _ = verified(capsys, str(indexed))
    assert "index.gdx: unreadable" in stops[0]


def test_what_was_left_out_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    odd_tars.write(tmp_path / "x.tar", odd_tars.bad_images)
    assert main(["data", "index", str(tmp_path)]) == 0
    code, stops, notes = verified(capsys, str(tmp_path))
    assert (code, stops) == (0, [])
    assert "x.tar: sample 'bad-empty': 5 of 11 samples are left out (1 x .jpg has no bytes" in notes[0]
    assert main(["data", "index", str(tmp_path), "--headers-only", "--again"]) == 0
    code, stops, notes = verified(capsys, str(tmp_path), "--all")
    assert (code, stops) == (0, [])
    assert any("without --headers-only: they are left out then" in note for note in notes)


def test_keys_that_come_twice_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_shards(tmp_path, num_samples=10, per_shard=5)
    write_shards(tmp_path, num_samples=10, per_shard=5, stem="copy")
    _, stops, notes = verified(capsys, str(tmp_path))
    assert not stops
    assert any("train-00000.tar: sample '000000': the key comes a second time, as do 10 keys" in line for line in notes)


def test_shards_of_very_different_sizes_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_shards(tmp_path, num_samples=20, per_shard=5)
    with tarfile.open(tmp_path / "huge.tar", "w") as tar:
        add(tar, "huge.txt", bytes(1 << 20))
    _, stops, notes = verified(capsys, str(tmp_path))
    assert not stops
    assert "5 of 5 shards have less than 4 MiB" in notes[0]
    assert "huge.tar: 1,054,720 bytes," in notes[1] or "huge.tar: 1,0" in notes[1]


def test_what_a_job_needs_is_looked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    job = tmp_path / "job.toml"
    shards = tmp_path / "shards"
    shards.mkdir()
    words = [f'url = "{shards}"' if line.startswith("url =") else line for line in JOB.read_text().splitlines()]
    job.write_text("\n".join(words) + "\n")
    with tarfile.open(shards / "train-0.tar", "w") as tar:
        for number, caption in enumerate([b"words", b"  ", b"", b"\xff\xfe"]):
            add(tar, f"{number}.jpg", jpeg())
            add(tar, f"{number}.txt", caption)
            add(tar, f"{number}.json", b'{"label": 1}')
    with tarfile.open(shards / "heldout-0.tar", "w") as tar:
        add(tar, "bare.jpg", jpeg())
    assert main(["data", "index", str(shards)]) == 0
    _, stops, notes = verified(capsys, "--job", str(job))
    assert any("sample 'bare': no member .txt" in line for line in stops)
    assert any("sample '1': an empty caption, 2 times in what was read" in line for line in notes)
    assert any("sample '3': the text is not UTF-8" in line for line in notes)


def test_derived_shards_that_a_run_would_refuse_stop_it_here(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "latents").mkdir()
    job = tmp_path / "job.toml"
    job.write_text(JOB.read_text().replace("[data]", f'[data]\nderived = "{tmp_path}/latents"'))
    _, stops, _ = verified(capsys, "--job", str(job))
    assert len(stops) == 1
    assert "no derived.json: no derived shards; make them with `gen-dist data derive MODEL" in stops[0]


def test_every_source_of_a_mixture_is_looked_at(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    with tarfile.open(mixed / "more-0.tar", "w") as tar:
        add(tar, "good.jpg", jpeg())
        add(tar, "good.txt", b"words")
        add(tar, "bare.jpg", jpeg())
    assert main(["data", "index", str(mixed)]) == 0
    job = tmp_path / "job.toml"
    job.write_text(f'{JOB.read_text()}\n[[data.mix]]\nurl = "{mixed}"\ntrain = "more-*.tar"\n')
    _, stops, _ = verified(capsys, "--job", str(job))
    assert ["more-0.tar: sample 'bare': no member .txt" in line for line in stops] == [True]
    assert main(["data", "verify", "--job", str(job)]) == 1
    assert "verified   1,913 samples" in capsys.readouterr().out


def test_nothing_to_verify_is_an_error_of_one_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["data", "verify"]) == 2
    assert "neither URL nor --job; name one of them" in capsys.readouterr().err
    assert main(["data", "verify", str(tmp_path)]) == 2
    assert "no shard matches '*.tar'" in capsys.readouterr().err
