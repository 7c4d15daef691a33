"""What the doctor makes of what it saw: pure judgements, for machines that this one is not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gen_dist.cluster.checks import clock, gpus, models, network, room, stores, versions
from gen_dist.cluster.checks.finding import Finding, grouped, ok, wrong
from gen_dist.cluster.checks.places import Here, LateError, ProcessError, ask_process, wait, wait_all
from gen_dist.cluster.checks.room import Node
from gen_dist.cluster.checks.try_gpus import counted, xid_lines
from gen_dist.cluster.remote_doctor import Listener
from gen_dist.cluster.submit import JOB_FILE
from gen_dist.job.load import load_job, resolve
from gen_dist.job.spec import JobSpec
from gen_dist.train import footprint
from gen_dist.train.capacity import CapacityError
from gen_dist.train.preflight import LOCAL_STORE_BYTES, NCCL_BYTES, check_gpus, shared_memory_short

GIB = 1 << 30
H100 = {"name": "H100", "memory_bytes": 80 * GIB, "error": ""}


def job(**cluster: Any) -> JobSpec:
    return JobSpec.model_validate(
        {
            "name": "demo",
            "recipe": "ddpm",
            "data": {"url": "embedded://emoji"},
            "train": {"total_images": 64, "global_batch_images": 64, "micro_batch_images": 1},
            "cluster": cluster,
        }
    )


def facts(**more: Any) -> dict[str, Any]:
    packages = {"gen-dist": "0.1", "torch": "2.13.0+cpu", "ray": "2.60.0", "deepspeed": "0.19.8"}
    return {"python": "3.11.7", "versions": packages, "code": "a" * 64, **more}


def machine(*devices: dict[str, Any], **more: Any) -> dict[str, Any]:
    numbered = [{"index": number, **device} for number, device in enumerate(devices)]
    return {"devices": numbered, "why": "torch sees no GPU", "broken": [], "notes": [], **more}


def test_a_finding_is_one_line_without_secrets_and_survives_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter22")
    found = wrong("mlflow", "http://ann:pass@host said\n  hunter22; change it", status=401)
    assert found.line == "wrong  mlflow         http://***@host said ***; change it"
    assert Finding.from_json(found.to_json()) == found


def test_machines_with_one_trouble_are_told_together_and_by_name() -> None:
    texts = {"a": "full", "b": "full", "c": "full", "d": "full", "e": "gone"}
    assert grouped("disk", texts).text == "on a, b, c and 1 more: full | on e: gone"
    assert grouped("disk", {"": "full"}).text == "full"


def test_other_versions_and_other_code_are_told_with_their_machines() -> None:
    same = versions.judge(facts(), {"a": facts(), "b": facts()})
    assert same.state == "ok"
    older = facts() | {"versions": facts()["versions"] | {"deepspeed": "0.19.7"}}
    found = versions.judge(facts(), {"a": facts(), "b": older, "c": facts(code="b" * 64)})
    assert found.state == "wrong"
    assert "deepspeed 0.19.7 on b, 0.19.8 here" in found.text
    assert f"gen-dist 0.1 code {'b' * 12} on c" in found.text
    gpu_build = facts() | {"versions": facts()["versions"] | {"torch": "2.13.0+cu130"}}
    assert versions.judge(facts(), {"a": gpu_build}).state == "ok"
    missing = facts() | {"versions": facts()["versions"] | {"deepspeed": ""}}
    assert "deepspeed is missing on b" in versions.judge(facts(), {"b": missing}).text


@pytest.mark.parametrize(
    ("offsets", "store", "state"),
    [
        ({"a": (0.2, 0.1), "b": (-1.0, 0.1)}, {"a": 1.0}, "ok"),
        ({"a": (0.2, 0.1), "b": (-9.0, 0.1)}, {}, "wrong"),
        ({"a": (9.0, 9.0), "b": (0.0, 0.1)}, {}, "ok"),  # the call itself took so long
        ({"a": (0.0, 0.1)}, {"a": -400.0}, "wrong"),
        ({}, {"": None}, "ok"),
    ],
)
def test_clocks(offsets: dict[str, tuple[float, float]], store: dict[str, float | None], state: str) -> None:
    found = clock.judge(offsets, store)
    assert found.state == state
    if state == "wrong":
        assert "time service" in found.text


def test_workers_find_room_machine_by_machine() -> None:
    nodes = [
        Node("head", "1", {"CPU": 0.0}, {"CPU": 0.0}),
        Node("a", "2", {"CPU": 7.0, "GPU": 4.0}, {"CPU": 7.0, "GPU": 1.0}),
        Node("b", "3", {"CPU": 7.0, "GPU": 4.0}, {"CPU": 1.0, "GPU": 4.0}),
    ]
    wants = {"use_gpu": True, "cpus_per_worker": 2}
    assert [node.name for node in room.hosts(nodes, job(**wants))] == ["a", "b"]
    assert room.judge_workers(job(num_workers=1, **wants), nodes).state == "ok"
    busy = room.judge_workers(job(num_workers=4, **wants), nodes)
    assert busy.state == "note"
    assert busy.measured == {"places": 6, "free_places": 1, "asked": [4, 4]}
    full = room.judge_workers(job(num_workers=[8, 16], **wants), nodes)
    assert full.state == "wrong"
    assert "8 to 16 workers of 2 CPU 1 GPU asked" in full.text


def test_what_lies_on_one_disk_is_added_up() -> None:
    def seen(free_bytes: int, *, device: int = 1) -> dict[str, Any]:
        disks = {"/run": {"device": 1, "free_bytes": 3 * GIB}, "/tmp": {"device": device, "free_bytes": free_bytes}}
        return {"disks": disks, "ray_folder": "/tmp"}

    needs = {"/run": 5 * GIB // 2}
    assert room.judge_disks(needs, {"a": seen(2 * GIB, device=2)}).state == "ok"
    together = room.judge_disks(needs, {"a": seen(2 * GIB, device=2), "b": seen(3 * GIB)})
    assert together.state == "wrong"
    assert "on b: 3.0 GiB free, 3.5 GiB wanted (/run, /tmp)" in together.text


def test_a_checkpoint_is_counted_before_it_is_written(tmp_path: Path) -> None:
    spec = job()
    parameters = footprint.num_parameters(spec)
    assert parameters > 1_000_000
    assert footprint.written_folders(spec, parameters)["runs/demo/checkpoints"] == 3 * 16 * parameters
    away = spec.model_copy(update={"run": spec.run.model_copy(update={"checkpoints": "s3://bucket/x"})})
    assert list(footprint.written_folders(away, parameters)) == ["runs/demo"]


def test_shared_memory_is_for_ray_and_for_gpus() -> None:
    assert shared_memory_short(job(), free_bytes=LOCAL_STORE_BYTES, local=True) == ""
    assert "200 MiB" in shared_memory_short(job(), free_bytes=LOCAL_STORE_BYTES - 1, local=True)
    gpus_talk = job(use_gpu=True, num_workers=2)
    assert "NCCL" in shared_memory_short(gpus_talk, free_bytes=NCCL_BYTES, local=False)
    assert shared_memory_short(job(use_gpu=True, num_workers=1), free_bytes=NCCL_BYTES, local=False) == ""
    assert shared_memory_short(job(), free_bytes=None, local=True) == ""


def test_gpus_that_work_are_few_or_fail() -> None:
    want = job(use_gpu=True, num_workers=2)
    assert gpus.judge(want, {"a": machine(H100, H100)}, {}).state == "ok"
    assert "1 GPUs for 2 workers" in gpus.judge(want, {"a": machine(H100)}, {}).text
    none = gpus.judge(want, {"a": machine(why="this torch is built without CUDA")}, {})
    assert "this torch is built without CUDA" in none.text
    bad = gpus.judge(want, {"a": machine(H100, H100), "b": machine(H100 | {"error": "its products are 0.3 off"})}, {})
    assert bad.state == "wrong"
    assert "on b: GPU 0: its products are 0.3 off; drain the machine" in bad.text
    worn = gpus.judge(want, {"a": machine(H100, H100, broken=["GPU 1: a failed row remapping (1)"])}, {})
    assert "GPU 1: a failed row remapping (1)" in worn.text
    told = gpus.judge(want, {"a": machine(H100, H100, notes=["2 Xid faults in the kernel's log"])}, {})
    assert told.state == "note"
    mixed = gpus.judge(want, {"a": machine(H100, H100 | {"name": "A100"})}, {})
    assert mixed.state == "note"
    hangs = gpus.judge(want, {"a": machine(H100, H100)}, {"b": LateError(30.0)})
    assert "on b: a GPU that hangs" in hangs.text
    assert gpus.judge(job(), {}, {}).state == "ok"


def test_what_the_driver_counts_is_read() -> None:
    table = "0, No\n3, No\n[N/A], Yes\n"
    assert counted(table, ["ECC errors", "pages pending"]) == ["GPU 1: ECC errors (3)", "GPU 2: pages pending (Yes)"]
    log = "[1.0] usb 1-1: new\n[2.0] NVRM: Xid (PCI:0000:07:00): 79, GPU has fallen off the bus.\n"
    (line,) = xid_lines(log)
    assert "1 Xid faults" in line
    assert "fallen off the bus" in line
    assert xid_lines("nothing") == []


def test_a_run_without_its_gpus_is_refused_unless_a_cluster_may_have_them() -> None:
    with pytest.raises(CapacityError, match=r"cluster.use_gpu=true: 4096 worker\(s\)"):
        check_gpus(job(use_gpu=True, num_workers=4096))
    check_gpus(job(use_gpu=True, num_workers=4096, address="auto"))
    check_gpus(job(num_workers=4096))


def test_a_folder_that_machines_do_not_share_is_told() -> None:
    assert stores.judge_folder("run folder", "/runs", "run.folder", {"a": True, "b": True}, {}).state == "ok"
    apart = stores.judge_folder("run folder", "/runs", "run.folder", {"a": True, "b": False}, {})
    assert apart.state == "wrong"
    assert "on b: /runs is not that of the driver" in apart.text
    assert "as run.folder" in apart.text


def test_a_token_in_a_new_folder_leaves_nothing(tmp_path: Path) -> None:
    with stores.Token(tmp_path / "runs" / "demo") as token:
        assert stores.see_token(str(token.path))
    assert not (tmp_path / "runs").exists()
    assert not stores.see_token(str(token.path))


def test_an_all_reduce_is_judged_by_its_slowest_member() -> None:
    member = {"size": 2, "latency_s": 0.001, "bytes_per_s": 1e9}
    found = network.judge({"a": member, "b": member | {"bytes_per_s": 5e8}}, {}, backend="gloo", gradient_bytes=10**9)
    assert found.state == "ok"
    assert found.measured["bus_bytes_per_s"] == 5e8
    assert found.measured["gradients_s"] == 2.0
    cut = network.judge({"a": member, "b": {"error": "Connection refused"}}, {}, backend="nccl", gradient_bytes=0)
    assert "no nccl all-reduce with b: Connection refused" in cut.text
    assert "NCCL_SOCKET_IFNAME" in cut.text


def test_a_machine_that_cannot_be_reached_is_found_within_seconds() -> None:
    places = [Here("a"), Here("b", host="127.0.0.2"), Here("c", host="nowhere.invalid")]
    found = network.unreachable(places)
    assert set(found) == {"a", "b"}
    assert "nowhere.invalid" in found["a"]
    assert "a cannot reach nowhere.invalid" in network.judge_unreachable(found).text
    assert network.unreachable(places[:2]) == {}


def test_what_hangs_is_left_behind(tmp_path: Path) -> None:
    import threading

    never = threading.Event()
    with pytest.raises(LateError, match=r"no answer within 0.05 s"):
        wait(Here().call(never.wait), 0.05)
    found, failed = wait_all({"a": Here().call(len, "abc"), "b": Here().call(int, "x")}, 5.0)
    assert found == {"a": 3}
    assert isinstance(failed["b"], ValueError)
    never.set()


def test_a_process_that_answers_nothing_is_told_by_its_last_word() -> None:
    with pytest.raises(ProcessError, match=r"No module named gen_dist\.nothing"):
        ask_process("gen_dist.nothing", {}, limit_s=1.0, env={})


def test_the_far_doctor_is_heard_whatever_the_pieces_of_its_log(tmp_path: Path) -> None:
    spec = job(num_workers=1)
    spec = spec.model_copy(update={"run": spec.run.model_copy(update={"folder": str(tmp_path / "runs")})})
    file = tmp_path / JOB_FILE
    file.write_text(json.dumps(resolve(spec)))
    far = subprocess.run(
        [sys.executable, "-m", "gen_dist.cluster.remote_doctor", str(file)], capture_output=True, text=True, check=True
    )
    heard: list[Finding] = []
    listener = Listener(heard.append)
    log = f"Ray says something\n{far.stdout}"
    for first in range(0, len(log), 7):
        listener.hear(log[first : first + 7])
    assert heard == listener.findings
    assert {finding.check for finding in heard} >= {"versions", "data", "checkpoints", "mlflow", "network"}
    assert not [finding.line for finding in heard if finding.state == "wrong"]


def test_findings_need_no_numbers() -> None:
    assert ok("disk", "room").to_json() == {"check": "disk", "state": "ok", "text": "room", "measured": {}}


def test_a_model_that_a_machine_lacks_is_told_with_machine_folder_and_keys(tmp_path: Path) -> None:
    here, away = tmp_path / "text", tmp_path / "clip"
    here.mkdir()
    named = [f"model.{key}={folder}" for key, folder in {"text_encoder": here, "clip": away, "vision": away}.items()]
    folders = models.folders_of(load_job("jobs/smoke/gigagan.toml", named))
    assert folders == {str(here): ["model.text_encoder"], str(away): ["model.clip", "model.vision"]}
    seen = models.look(list(folders))
    assert seen == [str(away)]
    found = models.judge(folders, {"10.0.0.1": [], "10.0.0.2": seen, "10.0.0.3": seen}, {})
    assert found.state == "wrong"
    assert found.text.startswith(f"on 10.0.0.2, 10.0.0.3: no folder {away} (model.clip, model.vision); copy it there")
    away.mkdir()
    there = {name: models.look(list(folders)) for name in ("10.0.0.1", "10.0.0.2")}
    assert models.judge(folders, there, {}).line.endswith("there on each of 2 places")
    hung = models.judge(folders, there, {"10.0.0.3": LateError(20.0)})
    assert (hung.state, hung.text) == ("wrong", "on 10.0.0.3: not looked at (no answer within 20 s)")
    assert models.folders_of(load_job("jobs/smoke/gigagan.toml")) == {}
