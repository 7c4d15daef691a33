"""How soon Ray notices trouble: settings for a run and for the nodes of a cluster, in place of Ray's own.

Ray's defaults let a stopped worker stand for ten minutes and a lost machine for most of one. What a person has set in
the environment is left alone.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

from gen_dist.job.spec import JobSpec

SHORTEST_HEALTH_TIMEOUT_S = (
    60.0  # a process may hold the GIL for long while it imports or reads; a dead one is seen at once
)
LOCAL_STORE_BYTES = 200 << 20  # of a local Ray, in shared memory: what workers are handed is small
TORCH_SHUTDOWN = {"TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S": "5"}
"""Ray waits this long for workers to end their process group together, which workers that hang never do. Read in the
controller, and not handed there from the driver (`gen_dist.train.controller` does)."""

NODES = {
    "RAY_health_check_initial_delay_ms": "1000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "4",
}
"""For the environment of `ray start --head`: a lost machine is known after about 5 s. A local Ray has one node only."""


def for_run(job: JobSpec) -> dict[str, str]:
    """The environment of the driver; Ray Train hands it to its controller and its workers."""
    return {
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
        "RAY_TRAIN_WORKER_HEALTH_CHECK_TIMEOUT_S": f"{max(SHORTEST_HEALTH_TIMEOUT_S, job.run.hang_after_s):g}",
        # for the place of the workers only, not for what they import: a cluster that has room gives it at once, and one
        # that has lost a machine must be asked again soon
        "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "30",
        "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "2",
        **TORCH_SHUTDOWN,
    }


def apply(settings: Mapping[str, str]) -> None:
    """Set what the environment does not say yet. Before `ray.init`: a local Ray inherits it."""
    for name, value in settings.items():
        os.environ.setdefault(name, value)
