"""Warm spares: processes that have imported all that a worker imports, and wait beside the workers for one to die.

Most of a restart is Python importing torch, DeepSpeed and Ray in every worker of the new group. Once a group has
trained for a while, its machines start as many processes again as they have workers, with the workers' own environment,
and Ray's pool hands these to the next group: a second instead of six on two cores, and half a minute where the packages
lie on a network's file system. A spare holds the memory of its imports, half a GB; on a local Ray it is what ends first
where memory is short. `run.spares = false` does without.

Ray has no public call for it. Its raylet has one (PrestartWorkers, `src/ray/protobuf/node_manager.proto`), for which
Ray's own drivers have no use so far; where it is gone or says no, a restart is as slow as it was. Nothing here raises.
"""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import importlib
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

import ray
import ray._private.utils
import ray._private.worker
from ray._private.grpc_utils import init_grpc_channel
from ray._private.ray_constants import GLOBAL_GRPC_OPTIONS, WORKER_PROCESS_SETUP_HOOK_ENV_VAR
from ray._private.runtime_env.setup_hook import decode_function_key
from ray.core.generated import node_manager_pb2, node_manager_pb2_grpc

from gen_dist.job.spec import JobSpec
from gen_dist.train.watchdog import TIMES_LIMIT

AFTER_S = 30.0  # of training: shorter runs pay for no spares, and groups that die at once do not add up
KEPT_S = 30 * 24 * 3600  # Ray ends idle processes that are older when it has more of them than processors
CALL_S = 10.0
READY_S, LOOK_S = 120.0, 0.5  # until one has imported all
LEAST_IMPORT_S = 300.0
RECIPE, LIMIT_S, NVML = "GENDIST_SPARE_RECIPE", "GENDIST_SPARE_LIMIT_S", "PYTORCH_NVML_BASED_CUDA_CHECK"
MODULES = (
    "gen_dist.train.worker",
    "gen_dist.train.loop",
    "gen_dist.train.recovery",
    "gen_dist.train.committer",
    "gen_dist.train.studio",
    "gen_dist.data.stream",
    "gen_dist.checkpoint",
    "torch._dynamo",  # torch's optimizers import it when the first one is made
)

log = logging.getLogger(__name__)
_NOTE: list[IO[bytes]] = []
"""The note of this process, locked for as long as it lives, while it is a spare."""


def runtime_env(job: JobSpec) -> dict[str, Any]:
    """Of Ray's `RunConfig.worker_runtime_env`: every worker of the job, spare or not, begins with `warm`.

    Call it with Ray connected. Empty where the job wants no spares.
    """
    key = b""
    if job.run.spares:
        with _never_in_the_way("no_spares"):
            key = ray._private.worker.global_worker.function_actor_manager.export_setup_func(_hook(), timeout=CALL_S)
    if not key:
        return {}
    limit_s = max(LEAST_IMPORT_S, TIMES_LIMIT["setup"] * job.run.hang_after_s) if job.run.hang_after_s else 0.0
    # Ray sets the threads of OpenMP with the first task, and the libraries of a spare have read them by then
    threads = os.environ.get("OMP_NUM_THREADS", str(max(1, int(job.cluster.cpus_per_worker))))
    env_vars = {WORKER_PROCESS_SETUP_HOOK_ENV_VAR: decode_function_key(key), "OMP_NUM_THREADS": threads}
    env_vars |= {RECIPE: job.recipe, LIMIT_S: f"{limit_s:g}"}
    return {"env_vars": env_vars if job.cluster.use_gpu else {**env_vars, "DS_ACCELERATOR": "cpu"}}


def _hook() -> Callable[[], None]:
    """What travels to the processes as it is: one that does not find gen_dist yet, for Ray adds the driver's folders
    with its first task, imports all of it then.
    """

    def begin() -> None:
        try:
            from gen_dist.train.spares import warm
        except ImportError:
            return
        warm()

    return begin


def warm() -> None:
    """Import what a worker of the job imports. Ray calls it in each process, before it has a task. Never raises.

    CUDA is not started: which devices the process may see is said with its first task, and read once. Libraries ask
    whether there is one, which starts it, unless torch is told to ask the driver's NVML instead; where that does not
    answer, or knows nothing of the devices (MIG), nothing is imported.
    """
    asked, limit_s = os.environ.get(NVML), float(os.environ.get(LIMIT_S, "0"))
    os.environ[NVML] = "1"
    if limit_s:  # no watchdog looks after this process yet, and a network's file system may stand still
        faulthandler.dump_traceback_later(limit_s, exit=True)
    try:
        with _never_in_the_way("warm_failed"):  # the worker meets the same error where it is told to a person
            if os.environ.get("DS_ACCELERATOR") != "cpu" and _cuda_would_start():
                return
            from gen_dist.recipes import catalog
            from gen_dist.train.process import load_deepspeed

            load_deepspeed()
            for name in (*MODULES, catalog.RECIPES[os.environ[RECIPE]].partition(":")[0]):
                importlib.import_module(name)
            _leave_note()
    finally:
        faulthandler.cancel_dump_traceback_later()
        if asked is None:
            del os.environ[NVML]
        else:
            os.environ[NVML] = asked


def _cuda_would_start() -> bool:
    import torch

    count: Callable[[], int] = torch.cuda._device_count_nvml
    return count() < 0


@contextlib.contextmanager
def _never_in_the_way(event: str) -> Iterator[None]:
    """Within, an error of any kind is only logged: all of this calls inner parts of Ray and imports what others wrote,
    and a run without spares is as good as one with them.
    """
    try:
        yield
    except Exception:
        log.warning("event=%s", event, exc_info=True)


def taken() -> None:
    """This process has a worker's task now: it is a spare no more. Never raises."""
    while _NOTE:
        with contextlib.suppress(OSError), _NOTE.pop() as note:
            Path(note.name).unlink(missing_ok=True)


class Spares:
    """Has spares for the workers of this machine started; one worker of each machine has one."""

    def __init__(self, number: int, on_ready: Callable[[int], None]) -> None:
        """`number`: workers of the group on this machine. `on_ready` hears how many spares there are, once all are."""
        self._number, self._on_ready = number, on_ready
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="gen-dist-spares", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Ask for none any more. Those that are there wait for the next group."""
        self._over.set()

    def _keep(self) -> None:
        """One after the other: training goes on beside their imports, and Ray starts few processes at once."""
        if self._over.wait(AFTER_S):
            return
        with _never_in_the_way("no_spares"):
            while (num_waiting := waiting()) < self._number:
                _start_one()
                give_up_s = time.monotonic() + READY_S
                while waiting() <= num_waiting:
                    if self._over.wait(LOOK_S):
                        return
                    if time.monotonic() > give_up_s:  # another one might not come either, and they would add up
                        log.warning("event=no_spares reason='none was ready within %.0f s'", READY_S)
                        return
            self._on_ready(num_waiting)


def waiting() -> int:
    """How many spares on this machine have imported all."""
    number = 0
    for path in _folder().iterdir():
        with contextlib.suppress(OSError), path.open("rb") as note:
            try:
                fcntl.flock(note, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                number += 1
            else:  # its process is gone
                path.unlink(missing_ok=True)
    return number


def _leave_note() -> None:
    note = (_folder() / str(os.getpid())).open("wb")
    fcntl.flock(note, fcntl.LOCK_EX)
    _NOTE.append(note)


def _folder() -> Path:
    """Of this job on this machine, in Ray's own folder, which goes with Ray."""
    session, here = Path(ray._private.worker._global_node.get_session_dir_path()), ray.get_runtime_context()
    folder = session / "gen-dist-spares" / here.get_job_id() / here.get_node_id()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _start_one() -> None:
    """Have the raylet of this machine start a process with the environment of this one. Raises: grpc.RpcError."""
    here = ray.get_runtime_context()
    info = ray._private.utils.get_runtime_env_info(here.runtime_env)
    info.serialized_runtime_env = here.get_runtime_env_string()  # to the letter: processes are told apart by it
    request = node_manager_pb2.PrestartWorkersRequest(
        job_id=ray.JobID.from_hex(here.get_job_id()).binary(),
        num_workers=1,
        keep_alive_duration_secs=KEPT_S,
        runtime_env_info=info,
    )
    node = next(node for node in ray.nodes() if node["NodeID"] == here.get_node_id())
    address = f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}"
    with contextlib.closing(init_grpc_channel(address, GLOBAL_GRPC_OPTIONS)) as channel:
        node_manager_pb2_grpc.NodeManagerServiceStub(channel).PrestartWorkers(request, timeout=CALL_S)
