"""Ray: a local or a standing cluster, the TorchTrainer on it, and the signals that end a run early."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import ray
import ray._private.node
import ray._private.services
import ray._private.utils
from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback

from gen_dist.data.sequential import Unindexed
from gen_dist.data.source import Data
from gen_dist.job import arithmetic
from gen_dist.job.load import resolve
from gen_dist.job.spec import JobSpec
from gen_dist.registry.wal import WAL, log_id
from gen_dist.train import ray_settings, spares
from gen_dist.train.capacity import Capacity, without_gpus
from gen_dist.train.controller import Announcer, SaveBeforeResize
from gen_dist.train.deaths import TrainingFailedError
from gen_dist.train.elastic import LOOK_EVERY_S, Elastic
from gen_dist.train.hub import News, start_hub
from gen_dist.train.reach import ClusterError, check_reachable, unreached
from gen_dist.train.report import Event
from gen_dist.train.worker import Assignment, train_worker

POLL_S = 0.2
SAME_SIGNAL_S = 0.5  # within it a second one is the first: `timeout` sends it to the process and to its group
LOCAL_STARTS, BUSY = 3, "timed out during startup"  # in what Ray says of a node whose agent was too slow
IDLE_END_S = 10.0  # for a group that has saved to end; a run that was stopped waits for no new one
AGAIN = "run the same command again to go on from the newest checkpoint"
NO_LIMIT = -1  # of Ray's own counters of failures: the hub decides (gen_dist.train.deaths), and so does Capacity


def launch(
    job: JobSpec,
    *,
    folder: Path,
    train: Data | Unindexed,
    heldout: Data | Unindexed | None,
    watch: Callable[[Event], None],
) -> int | None:
    """Run the workers of a job to their end, or until Ctrl-C or SIGTERM; `watch` hears every event, in this process.

    Returns the signal that ended them early, if one did.
    Raises: GenDistError as the workers raised it; TrainingFailedError for any other error of theirs.
    """
    with ray_for(job):
        if text := without_gpus(job):
            watch({"kind": "warning", "text": text})
        hub = start_hub(
            max_failures=job.run.max_failures,
            max_rollbacks=job.train.nonfinite.max_skips,
            silent_after_s=job.run.hang_after_s,
        )
        assignment = Assignment(
            job=resolve(job), run_folder=folder, train=train, heldout=heldout, hub=hub, log_id=log_id(folder / WAL)
        )
        try:
            signalled = _fit(job, assignment, watch)
            error = ray.get(hub.failure.remote())
        except ray.exceptions.RayError as gone:
            raise TrainingFailedError(
                f"{job.name}: the process that watches the workers is gone: {_last_line(gone)}; {AGAIN}"
            ) from gone
    if error is not None:
        raise error
    return signalled


@contextlib.contextmanager
def ray_for(job: JobSpec) -> Iterator[None]:
    """A local Ray for the time of the run, or a connection to the cluster at `cluster.address`."""
    ray_settings.apply(ray_settings.for_run(job))
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray would let training yield to everything else on a laptop
    quiet: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
    if job.cluster.address:
        check_reachable(job.cluster.address)
        try:
            ray.init(address=job.cluster.address, **quiet)
        except (ConnectionError, RuntimeError, ValueError, ray.exceptions.AuthenticationError) as error:
            raise unreached(job.cluster.address, _last_line(error)) from error
    else:
        most = arithmetic.world_sizes(job)[-1]
        cpus = max(1, round(most * job.cluster.cpus_per_worker + 0.499))
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")  # a process more; nobody takes a laptop away
        os.environ.setdefault("RAY_idle_worker_killing_memory_threshold_bytes", str(100 << 20))  # spares before workers
        store_bytes = ray_settings.LOCAL_STORE_BYTES
        # "local" says that a cluster which happens to stand on this machine is not meant
        start = partial(ray.init, "local", num_cpus=cpus, include_dashboard=False, object_store_memory=store_bytes)
        try:
            with (
                mock.patch.object(ray._private.node, "Node", LocalNode),
                _without_dashboard(),
                _in_own_groups(),
            ):
                patiently(partial(start, **quiet))
        except Exception as error:
            raise ClusterError(
                f"no local Ray: {_last_line(error)}; where this machine is very busy, run the same command again later"
            ) from error
    logging.getLogger("ray.train").setLevel(logging.ERROR)
    # Ray prints a paragraph of guesses for every worker that dies; the hub says who and why in a line
    ray._private.worker.print_to_stdstream = lambda *_, **__: None
    try:
        yield
    finally:
        ray.shutdown()


def patiently(start: Callable[[], object]) -> None:
    """Start a local Ray, again where it gave up only because the machine is busy. Raises: as `start` in the end."""
    for tries_left in reversed(range(LOCAL_STARTS)):
        try:
            start()
            return
        except Exception as error:
            if not tries_left or BUSY not in str(error):
                raise
            ray.shutdown()


def _without_dashboard() -> contextlib.AbstractContextManager[object]:
    """Within, nodes start as where Ray's dashboard is not installed.

    Its agent on a node then imports half as much: Ray gives a node up whose agent takes longer than 15 s to come up.
    """
    absent = ImportError("a local Ray has no dashboard")
    return mock.patch.object(ray._private.utils, "get_dashboard_dependency_error", return_value=absent)


@contextlib.contextmanager
def _in_own_groups() -> Iterator[None]:
    """Within, Ray's processes start in process groups of their own.

    What ends a run often signals its whole group (`timeout`, systemd, a scheduler): Ray must outlive that signal until
    the workers have saved. It ends with this process all the same (PR_SET_PDEATHSIG), which only Linux has.
    """
    if sys.platform != "linux":
        yield
        return
    popen = partial(ray._private.services.ConsolePopen, process_group=0)
    with mock.patch.object(ray._private.services, "ConsolePopen", popen):
        yield


class LocalNode(ray._private.node.Node):
    """A Ray on one machine for one run, without three processes that nobody there listens to.

    They are the autoscaler's monitor, the server of the dashboard (which `include_dashboard=False` starts all the same,
    and waits for) and what sends logs to drivers.
    """

    def start_monitor(self) -> None:
        """None: there are no machines to add."""

    def start_api_server(self, **_: object) -> None:
        """None."""

    def start_log_monitor(self) -> None:
        """None: logs lie in the session's folder."""


class Trainer(TorchTrainer):
    """Without the process that hands out Ray's own data sets, and that data set library in every worker: we stream.

    And with our policy of growing and shrinking.
    """

    unwanted: tuple[type, ...] = (DatasetsCallback,)

    def __init__(self, *arguments: Any, sizes: Sequence[int], **settings: Any) -> None:
        """`sizes`: the numbers of workers that the job may run on; the rest as Ray's trainer has it."""
        super().__init__(*arguments, **settings)
        self._sizes = tuple(sizes)

    def _create_default_callbacks(self) -> list[Any]:
        return [callback for callback in super()._create_default_callbacks() if not isinstance(callback, self.unwanted)]

    def _initialize_and_run_controller(self, **parts: Any) -> Any:
        if self.scaling_config.elasticity_enabled:
            parts["scaling_policy"] = Elastic(self.scaling_config, self._sizes)
        return super()._initialize_and_run_controller(**parts)


class LocalTrainer(Trainer):
    """On a local Ray, which ends with its driver: nobody needs to tidy up after a controller that died.

    The process that would asks a dashboard whether the controller lives, and looks for one for 20 s at the end.
    """

    unwanted = (DatasetsCallback, PlacementGroupCleanerCallback)


def _trainer(job: JobSpec, assignment: Assignment) -> TorchTrainer:
    kind = Trainer if job.cluster.address else LocalTrainer
    sizes = arithmetic.world_sizes(job)
    resources = {"CPU": job.cluster.cpus_per_worker}
    if job.cluster.use_gpu:
        resources["GPU"] = 1
    return kind(
        train_worker,
        sizes=sizes,
        train_loop_config={"assignment": assignment},
        torch_config=TorchConfig(backend="nccl" if job.cluster.use_gpu else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=sizes[0] if isinstance(job.cluster.num_workers, int) else (sizes[0], sizes[-1]),
            use_gpu=job.cluster.use_gpu,
            resources_per_worker=resources,
            elastic_resize_monitor_interval_s=LOOK_EVERY_S,
        ),
        run_config=RunConfig(
            name=job.name,
            storage_path=str(assignment.run_folder / "ray"),
            failure_config=FailureConfig(
                max_failures=NO_LIMIT, controller_failure_limit=NO_LIMIT, max_preemption_failures=NO_LIMIT
            ),
            checkpoint_config=CheckpointConfig(num_to_keep=1),
            worker_runtime_env=spares.runtime_env(job),
            callbacks=[Announcer(assignment.hub), SaveBeforeResize(assignment.hub)],
        ),
    )


def _fit(job: JobSpec, assignment: Assignment, watch: Callable[[Event], None]) -> int | None:
    """Fit in a thread, so that this one can watch, and hear Ctrl-C before Ray does."""
    trainer, hub, capacity = _trainer(job, assignment), assignment.hub, Capacity(job)
    watch({"kind": "launch", "at_s": time.time(), "by": "hub"})
    failure: list[BaseException] = []

    def fit() -> None:
        try:
            trainer.fit()
        except BaseException as error:  # noqa: BLE001  told to the thread that watches
            failure.append(error)

    thread = threading.Thread(target=fit, name="gen-dist-fit", daemon=True)
    busy_s = time.monotonic()
    with _stop_on_signals(hub, watch) as signals:
        thread.start()
        while thread.is_alive():
            thread.join(POLL_S)
            news = _pass_on(hub, watch)
            if news.failure is not None:
                break  # no restart can mend it, and Ray would try
            busy_s = busy_s if news.idle else time.monotonic()
            if signals and time.monotonic() - busy_s > IDLE_END_S:
                break  # nobody is there to save: the cluster has no room, or the workers are yet to come
            alert = capacity.check(news.quiet_s)
            if alert is not None:
                watch(alert)
    news = _pass_on(hub, watch)
    if failure and news.failure is None:
        log = assignment.run_folder / "error.log"
        log.write_text(f"{failure[0]}\n")
        raise TrainingFailedError(
            f"{job.name}: Ray Train gave up: {_last_line(failure[0])}; the whole traceback is in {log}; {AGAIN}"
        )
    return signals[0] if signals else None


def _pass_on(hub: Any, watch: Callable[[Event], None]) -> News:
    news: News = ray.get(hub.news.remote())
    for event in news.events:
        watch(event)
    return news


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


@contextlib.contextmanager
def _stop_on_signals(hub: Any, watch: Callable[[Event], None]) -> Iterator[list[int]]:
    """Ctrl-C and SIGTERM ask the workers to save and end, a second one ends at once. Gives the signals that came."""
    asked: list[int] = []
    asked_s = 0.0
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def on_signal(number: int, _: object) -> None:
        nonlocal asked_s
        if asked and time.monotonic() > asked_s + SAME_SIGNAL_S:
            raise KeyboardInterrupt
        if asked:
            return
        asked_s = time.monotonic()
        asked.append(number)
        hub.stop.remote()
        watch({"kind": "stopping", "signal": signal.Signals(number).name})

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
