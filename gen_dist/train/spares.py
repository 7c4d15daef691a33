"""Warm spares: processes that have imported all that a worker imports, and wait beside the workers for one to die.

Most of a restart is Python importing torch, DeepSpeed and Ray in every worker of the new group. Once a group has
trained for a while, its machines start as many processes again as they have workers, with the workers' own environment,
and Ray's pool hands these to the next group: a second instead of six on two cores, and half a minute where the packages
lie on a network's file system. A spare holds the memory of its imports and nothing else; a machine short of memory ends
it first. `run.spares = false` does without.

Ray has no public call for it. Its raylet has one (PrestartWorkers, `src/ray/protobuf/node_manager.proto`), for which
Ray's own drivers have no use so far; where it is gone or says no, a restart is as slow as it was.
"""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
import ray._private.utils
import ray._private.worker
from ray._private.grpc_utils import init_grpc_channel
from ray._private.ray_constants import WORKER_PROCESS_SETUP_HOOK_ENV_VAR
from ray.core.generated import node_manager_pb2, node_manager_pb2_grpc

from gen_dist.job.spec import JobSpec

AFTER_S = (
    30.0  # of training: runs that are over by then never pay for spares, and groups that die at once do not add up
)
KEPT_S = 30 * 24 * 3600  # Ray ends idle processes that are older when it has more of them than processors
CALL_S = 10.0
READY_S, LOOK_S = 120.0, 0.5  # until one has imported all
MORE_TRIES = 2  # Ray drops a wish while it starts as many other processes as it has processors
RECIPE, NVML = "GENDIST_SPARE_RECIPE", "PYTORCH_NVML_BASED_CUDA_CHECK"
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


def runtime_env(job: JobSpec) -> dict[str, Any]:
    """Of Ray's `RunConfig.worker_runtime_env`: every worker of the job, spare or not, begins with `warm`."""
    if not job.run.spares:
        return {}
    hook = {WORKER_PROCESS_SETUP_HOOK_ENV_VAR: f"{__name__}.{warm.__name__}", RECIPE: job.recipe}
    return {"env_vars": hook if job.cluster.use_gpu else {**hook, "DS_ACCELERATOR": "cpu"}}


def warm() -> None:
    """Import what a worker of the job imports. Ray calls it in each process, before it has a task.

    CUDA is not started: which devices the process may see is said with its first task, and read once. Libraries ask
    whether there is one, which starts it, unless torch is told to ask the driver's NVML instead.
    """
    asked = os.environ.get(NVML)
    os.environ[NVML] = "1"
    try:
        from gen_dist.recipes import catalog
        from gen_dist.train.process import load_deepspeed

        load_deepspeed()
        for name in (*MODULES, catalog.RECIPES[os.environ[RECIPE]].partition(":")[0]):
            importlib.import_module(name)
        _ready_file(os.getpid()).touch()
    except Exception:
        log.warning("event=warm_failed", exc_info=True)  # the worker meets the same error where it is told to a person
    finally:
        if asked is None:
            del os.environ[NVML]
        else:
            os.environ[NVML] = asked


def taken() -> None:
    """This process has a worker's task now: it is a spare no more. Never raises."""
    with contextlib.suppress(OSError):
        _ready_file(os.getpid()).unlink(missing_ok=True)


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
        try:
            for _ in range(self._number + MORE_TRIES):
                num_waiting = len(waiting())
                if num_waiting >= self._number:
                    break
                _start_one()
                give_up_s = time.monotonic() + READY_S
                while len(waiting()) <= num_waiting and time.monotonic() < give_up_s:
                    if self._over.wait(LOOK_S):
                        return
            self._on_ready(len(waiting()))
        except Exception:
            log.warning("event=no_spares", exc_info=True)


def waiting() -> list[int]:
    """Process ids of the spares on this machine that have imported all."""
    found = []
    for path in _folder().iterdir():
        try:
            os.kill(int(path.name), 0)
            found.append(int(path.name))
        except ProcessLookupError:
            path.unlink(missing_ok=True)
    return found


def _ready_file(pid: int) -> Path:
    return _folder() / str(pid)


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
    with contextlib.closing(init_grpc_channel(f"{node['NodeManagerAddress']}:{node['NodeManagerPort']}")) as channel:
        node_manager_pb2_grpc.NodeManagerServiceStub(channel).PrestartWorkers(request, timeout=CALL_S)
