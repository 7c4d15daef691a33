"""Promotion under fire: racing promoters, one killed midway, exports and checkpoints that are not what was trained.

Real processes, a real MLflow database and a real ledger. (T14 of the reliability plan.)
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from gen_dist.checkpoint import MANIFEST
from gen_dist.registry import aliases, look
from gen_dist.registry.errors import RegistryError
from gen_dist.registry.ledger import Ledger
from gen_dist.registry.promote import delete, pin, promote, rollback, unpin
from gen_dist.registry.registered import Registered
from gen_dist.store import open_store
from tests.support.cli import ROOT
from tests.support.trained import PSNR, Trained, make_job

LONGEST_S = 800.0  # for a process to start on a busy machine

RACER = """
import sys, time
from pathlib import Path
from gen_dist.registry import connection
from gen_dist.registry.errors import RegistryError
from gen_dist.registry.promote import promote
from gen_dist.registry.registered import Registered

uri, name, number, here = sys.argv[1:]
registered = Registered.find(connection.connect(uri), name, uri)

def wait(result):  # the gates are run, the alias is not moved yet
    Path(here, number).touch()
    while not Path(here, "go").exists():
        time.sleep(0.005)

try:
    promote(registered, number, tell=wait)
except RegistryError as error:
    print(error, file=sys.stderr)
    sys.exit(2)
"""
KILLED = """
import os, signal, sys
from gen_dist.registry import connection
from gen_dist.registry.promote import promote
from gen_dist.registry.registered import Registered

uri, name, number = sys.argv[1:]
Registered.repair = lambda self: os.kill(os.getpid(), signal.SIGKILL)  # between the ledger and MLflow
promote(Registered.find(connection.connect(uri), name, uri), number)
"""
WRITER = """
import sys, time
from pathlib import Path
from gen_dist.registry import aliases
from gen_dist.registry.acting import act
from gen_dist.registry.ledger import Ledger
from gen_dist.store import open_store

folder, first = sys.argv[1], int(sys.argv[2])
ledger = Ledger(open_store(folder), "small")
Path(folder, str(first)).touch()
while not Path(folder, "go").exists():
    time.sleep(0.005)
for number in range(first, first + 12):
    ledger.update(lambda state: aliases.published(state, str(number), act=act()))
"""


@contextmanager
def started(programs: Mapping[str, Sequence[str]]) -> Iterator[dict[str, subprocess.Popen[str]]]:
    """A process for each program and its words; none is left behind."""
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    running = {
        name: subprocess.Popen([sys.executable, "-c", *words], cwd=ROOT, **pipes) for name, words in programs.items()
    }
    try:
        yield running
    finally:
        for process in running.values():
            process.kill()
            process.wait()


def wait_until(ready: Callable[[], bool], processes: Mapping[str, subprocess.Popen[str]]) -> None:
    give_up_s = time.monotonic() + LONGEST_S
    while not ready():
        assert time.monotonic() < give_up_s
        ended = [process for process in processes.values() if process.poll() is not None]
        assert not ended, ended[0].communicate()
        time.sleep(0.05)


def registered(trained: Trained) -> Registered:
    return Registered.find(trained.client, trained.job.name, trained.uri)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


def with_versions(home: Path, name: str, count: int, **gates: object) -> Trained:
    trained = Trained(make_job(home, name, registry=gates))
    for number in range(1, count + 1):
        trained.version(64 * number, psnr_db=17.0 + number, grid=number != 2)
    return trained


class Watch(threading.Thread):
    """Reads the champion in MLflow again and again, as a server that draws would."""

    def __init__(self, uri: str, name: str) -> None:
        super().__init__(daemon=True)
        self.client, self.name = MlflowClient(uri, registry_uri=uri), name
        self.seen: list[str] = []
        self.ended = threading.Event()

    def run(self) -> None:
        while not self.ended.is_set():
            try:
                self.seen.append(str(self.client.get_model_version_by_alias(self.name, "champion").version))
            except Exception as error:
                self.seen.append(repr(error))
            time.sleep(0.002)


def test_of_racing_promoters_one_wins_and_the_champion_is_never_unset(home: Path, tmp_path: Path) -> None:
    trained = with_versions(home, "raced", 3)
    promote(registered(trained), "1")
    watch = Watch(trained.uri, "raced")
    with started({number: [RACER, trained.uri, "raced", number, str(tmp_path)] for number in "23"}) as racers:
        wait_until(lambda: all((tmp_path / number).exists() for number in racers), racers)
        watch.start()
        (tmp_path / "go").touch()
        told = {number: racer.communicate(timeout=LONGEST_S)[1].strip() for number, racer in racers.items()}
        time.sleep(0.1)
        watch.ended.set()
        watch.join()
    (winner,) = [number for number, racer in racers.items() if racer.returncode == 0]
    for number, racer in racers.items():
        if number != winner:
            assert racer.returncode == 2, told[number]
            assert len(told[number].splitlines()) == 1, told[number]
            assert told[number].startswith(f"raced: version {winner} became champion meanwhile (by ")
    state = registered(trained).state()
    assert state.aliases == {"candidate": "3", "champion": winner, "previous": "1"}
    assert registered(trained).mlflow_aliases() == state.aliases
    assert set(watch.seen) <= {"1", winner}
    assert watch.seen[-1] == winner
    assert [entry["action"] for entry in state.audit] == [*["publish"] * 3, "promote", "promote"]
    assert aliases.fault_of(state.audit) == ""


def test_writers_at_the_same_time_lose_no_entry_of_the_audit(tmp_path: Path) -> None:
    firsts = (100, 200, 300, 400, 500)
    with started({str(first): [WRITER, str(tmp_path), str(first)] for first in firsts}) as writers:
        wait_until(lambda: all((tmp_path / str(first)).exists() for first in firsts), writers)
        (tmp_path / "go").touch()
        for writer in writers.values():
            assert writer.wait(LONGEST_S) == 0, writer.communicate()
    state = Ledger(open_store(str(tmp_path)), "small").read()
    written = sorted(int(entry["version"]) for entry in state.audit)
    assert written == sorted(first + number for first in firsts for number in range(12))
    assert state.aliases == {"candidate": "511"}
    assert aliases.fault_of(state.audit) == ""
    assert not list((tmp_path / "registry").glob(".*"))


def test_a_promoter_killed_midway_is_finished_by_whoever_looks_next(home: Path) -> None:
    trained = with_versions(home, "killed", 2)
    promote(registered(trained), "1")
    with started({"2": [KILLED, trained.uri, "killed", "2"]}) as processes:
        assert processes["2"].wait(LONGEST_S) == -9, processes["2"].communicate()
    its = registered(trained)
    assert its.state().champion == "2"
    assert its.mlflow_aliases()["champion"] == "1"
    shown = look.show(its, its.named("champion"))
    assert shown["version"] == "2"
    assert shown["repaired"] == [
        "MLflow's alias champion named version 1; set to version 2, as the ledger says",
        "MLflow's alias previous was not set; set to version 1, as the ledger says",
    ]
    assert its.mlflow_aliases() == {"candidate": "2", "champion": "2", "previous": "1"}
    assert look.show(its, its.named("champion"))["repaired"] == []


def test_an_alias_moved_behind_the_ledgers_back_is_put_back(home: Path) -> None:
    trained = with_versions(home, "moved", 2)
    promote(registered(trained), "1")
    trained.client.set_registered_model_alias("moved", "champion", "2")
    trained.client.set_registered_model_alias("moved", "mine", "2")
    its = registered(trained)
    assert look.show(its, its.version("1"))["repaired"] == [
        "MLflow's alias champion named version 2; set to version 1, as the ledger says"
    ]
    assert its.mlflow_aliases() == {"candidate": "2", "champion": "1", "mine": "2"}  # others' aliases stay theirs
    with pytest.raises(
        RegistryError, match="moved/2: not deleted, MLflow's alias mine names it; move that alias first"
    ):
        delete(its, "2")


GATES = {"at_least": {PSNR: 19.5}, "better_than_champion": True, "sample_grid": True}


@pytest.fixture(scope="module")
def gated(home: Path) -> Trained:
    """Version n has 17 + n decibels and a grid, except that 2 has none; at least 19.5 are wanted."""
    return with_versions(home, "gated", 4, **GATES)


def test_each_gate_that_fails_is_one_line_and_nothing_moves(gated: Trained) -> None:
    its = registered(gated)
    with pytest.raises(RegistryError) as refused:
        promote(its, "2")
    assert refused.value.lines == [
        "gated/2: not promoted, heldout/psnr_db at least 19.5: it is 19",
        (
            "gated/2: not promoted, sample_grid: the run has no grid of 128 images, the newest are 64, 192, 256; let"
            " train.sample_every_images fall on it"
        ),
    ]
    assert its.state().aliases == its.mlflow_aliases() == {"candidate": "4"}
    tags = its.version("2").tags
    assert tags["gate.heldout/psnr_db at least 19.5"] == "failed: it is 19"
    assert tags["gate.heldout/psnr_db higher than champion"] == "passed: there is no champion yet"
    assert tags["gate.bit_equal_reload"].startswith("passed: ")
    entry = its.state().audit[-1]
    assert (entry["action"], entry["version"], entry["to"]) == ("refuse", "2", {})
    assert [gate["passed"] for gate in entry["gates"]] == [False, True, False, True]


def test_a_model_that_is_worse_than_the_champion_needs_force_and_a_reason(gated: Trained) -> None:
    its = registered(gated)
    assert all(result.passed for result in promote(its, "4").results)
    with pytest.raises(RegistryError) as refused:
        promote(its, "3")
    assert refused.value.lines == [
        "gated/3: not promoted, heldout/psnr_db higher than champion: it is 20, champion 4 has 21"
    ]
    with pytest.raises(RegistryError, match="--force: say why"):
        promote(its, "3", force=True)
    moved = promote(its, "3", force=True, why="sharper to the eye, see http://ann:hunter2@wiki/page")
    assert moved.forced
    entry = its.state().audit[-1]
    assert (entry["action"], entry["forced"], entry["why"]) == (
        "promote",
        True,
        "sharper to the eye, see http://***@wiki/page",
    )
    assert "@" in entry["by"]
    tags = its.version("3").tags
    assert tags["promotion"] == "forced: sharper to the eye, see http://***@wiki/page"
    assert tags["promoted_over"] == "4"
    rollback(its, why="not sharper after all")
    assert its.mlflow_aliases() == {"candidate": "4", "champion": "4"}


def test_scores_on_other_data_are_not_compared(gated: Trained) -> None:
    its = registered(gated)
    if its.state().champion != "4":
        promote(its, "4")
    number = gated.version(320, psnr_db=30.0, grid=True, heldout_digest="f" * 64)
    with pytest.raises(RegistryError) as refused:
        promote(its, number)
    (line,) = refused.value.lines
    assert "measured on heldout-*.tar, seed 0 (ffff" in line
    assert "champion 4 on heldout-*.tar, seed 0 (eeee" in line


def test_a_score_that_was_never_measured_fails_and_says_what_was(gated: Trained) -> None:
    number = gated.publish(gated.checkpoint(384, grid=True)).version
    with pytest.raises(RegistryError, match="not measured after 384 images, only loss/denoiser/velocity; let"):
        promote(registered(gated), number)


def test_the_export_must_be_what_was_trained_bit_for_bit(home: Path) -> None:
    trained = with_versions(home, "bits", 1)
    its = registered(trained)
    export = trained.export("1")
    weights = export / "artifacts" / "model" / "model.safetensors"
    whole = weights.read_bytes()

    def refusal() -> str:
        with pytest.raises(RegistryError) as refused:
            promote(its, "1")
        (line,) = refused.value.lines
        return line

    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "artifacts/model/model.safetensors has other bytes than were published" in refusal()
    # somebody who writes the list of checksums too is found out by the digest kept with the version
    index = export / "EXPORT.json"
    facts = json.loads(index.read_text())
    kept = index.read_text()
    facts["files"]["artifacts/model/model.safetensors"]["sha256"] = hashlib.sha256(weights.read_bytes()).hexdigest()
    index.write_text(json.dumps(facts))
    assert "its weights are not those that were published" in refusal()
    weights.write_bytes(whole)
    index.write_text(kept)
    manifest = trained.place(64) / MANIFEST
    text = manifest.read_text()
    manifest.write_text(text + "\n")
    assert "was written again since" in refusal()
    manifest.write_text(text)
    assert promote(its, "1").results[0].seen.endswith(f"tensors and an image equal those of {trained.place(64).name}")
    number = trained.version(128)
    place = trained.place(128)
    moved = place.rename(home / "elsewhere")
    said = promote(its, number).results[0]
    assert said.passed
    assert said.seen.endswith("tensors equal the digest of their checkpoint, which is not on this machine")
    moved.rename(place)


def test_what_an_alias_or_a_pin_holds_is_not_deleted_and_the_rest_goes_whole(home: Path) -> None:
    trained = with_versions(home, "held", 5)
    its = registered(trained)
    promote(its, "1")
    promote(its, "2")
    pin(its, "3", why="in the paper")
    for number, words in {
        "1": "it is previous; promote another first, or roll back",
        "2": "it is champion; promote another first, or roll back",
        "3": r"it is pinned \(in the paper\)",
        "5": "it is candidate; first write gen-dist models promote held/OTHER --to candidate",
    }.items():
        with pytest.raises(RegistryError, match=f"held/{number}: not deleted, {words}"):
            delete(its, number)
    assert list(its.versions()) == ["1", "2", "3", "4", "5"]
    pins = trained.folder / "checkpoints" / "pins"
    assert json.loads((pins / "held%2F4.json").read_text()) == {"checkpoint": trained.place(256).name, "by": "held/4"}
    export = trained.export("4")
    delete(its, "4", why="a try")
    assert not export.exists()
    assert sorted(path.name for path in pins.iterdir()) == [f"held%2F{number}.json" for number in (1, 2, 3, 5)]
    assert list(its.versions()) == ["1", "2", "3", "5"]
    unpin(its, "3")
    delete(its, "3")
    with pytest.raises(RegistryError, match="held/3: no such version; there are 1, 2, 5"):
        promote(its, "3")
    rollback(its)
    assert its.mlflow_aliases() == {"candidate": "5", "champion": "1"}
    with pytest.raises(RegistryError, match="no champion to return to, version 1 is its first champion"):
        rollback(its)
    assert aliases.fault_of(its.state().audit) == ""


def test_a_deletion_that_ended_midway_goes_on(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = with_versions(home, "midway", 2)
    its = registered(trained)

    def away(*_: object) -> None:
        raise OSError("the network is gone")

    with monkeypatch.context() as broken:
        broken.setattr(its.client, "delete_model_version", away)
        with pytest.raises(OSError, match="the network is gone"):
            delete(its, "1")
    assert "1" in its.versions()
    with pytest.raises(RegistryError, match="midway/1: deleted; take another version"):
        promote(its, "1")
    delete(its, "1")
    assert list(its.versions()) == ["2"]
    assert [entry["action"] for entry in its.state().audit].count("delete") == 1


def test_a_model_made_anew_in_mlflow_has_no_champion_of_old(home: Path) -> None:
    trained = with_versions(home, "anew", 1)
    promote(registered(trained), "1")
    trained.client.delete_registered_model("anew")
    trained.version(128)
    its = registered(trained)
    assert its.state().aliases == its.mlflow_aliases() == {"candidate": "1"}
    assert [entry["action"] for entry in its.state().audit] == ["publish", "promote", "renew", "publish"]
    promote(its, "1")
    assert its.mlflow_aliases()["champion"] == "1"
