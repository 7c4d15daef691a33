"""The doctor: looks at all that a run of a job needs, from the machines that would run it, and says it line by line.

What the driver of a run does is tried by this process, what its workers do by a process on each machine. Everything
begins at once, each check has a limit of its own, and none hides another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import ray

from gen_dist.cluster.checks import clock, data, gpus, machine, models, network, record, room, stores, versions
from gen_dist.cluster.checks.finding import CLUSTER, Finding, grouped, ok, wrong
from gen_dist.cluster.checks.places import SLOW_START_S, Asked, Here, LateError, Place, on_all, wait_all
from gen_dist.cluster.checks.room import Node
from gen_dist.cluster.checks.seats import Seat, connected, host_of
from gen_dist.job import arithmetic
from gen_dist.job.spec import JobSpec
from gen_dist.train import footprint
from gen_dist.train.driver import placed
from gen_dist.train.reach import ClusterError

MACHINES = "machines"
STORE_S = 20.0
DATA_S = 60.0
GPUS_S = gpus.LIMIT_S + SLOW_START_S
NO_TOKEN = (
    "whoever reaches it may run code there: start the head with RAY_AUTH_MODE=token and a token"
    " (`ray get-auth-token --generate`)"
)
DRIVER = "the driver"

LOOKS: dict[Callable[[JobSpec], Any], float] = {data.look: DATA_S, record.look: record.LIMIT_S + SLOW_START_S}
"""What this process looks at by itself, and how long it may take."""


def examine(job: JobSpec, say: Callable[[Finding], None]) -> list[Finding]:
    """All findings; `say` hears each as soon as those before it are known. Raises nothing for what is not well."""
    findings: list[Finding] = []
    for finding in _examined(placed(job)):
        findings.append(finding)
        say(finding)
    return findings


def _examined(job: JobSpec) -> Iterator[Finding]:
    with ExitStack() as stack:
        nodes: list[Node] = []
        if job.cluster.address:
            try:
                nodes = stack.enter_context(connected(job))
            except ClusterError as error:
                yield wrong(CLUSTER, f"{error}; what follows is seen from this machine alone")
                job = job.model_copy(update={"cluster": job.cluster.model_copy(update={"address": ""})})
        patient = Patient(job, nodes, stack)
        yield from patient.around()
        yield from patient.machines_themselves()
        yield from patient.what_is_written()
        yield from patient.what_is_read()
        yield patient.network()


class Patient:
    """A job and the machines that would run it; `nodes` is empty where that is this machine without a cluster."""

    def __init__(self, job: JobSpec, nodes: Sequence[Node], stack: ExitStack) -> None:
        """Begins with all that a look takes time. `stack`: of what is to be removed again."""
        self.job, self.nodes = job, nodes
        # first, for it imports transformers, which two threads cannot do at once
        self._parameters = footprint.num_parameters(job)
        self._begun = {look: Asked({"": Here().call(look, job)}, limit_s) for look, limit_s in LOOKS.items()}
        self.places: list[Place] = [Seat.on(node, host_of(node)) for node in nodes] if nodes else [Here()]
        self._folders = footprint.written_folders(job, self._parameters)
        self.facts, self._dumb = wait_all(on_all(self.places, machine.look, list(self._folders)), 2 * SLOW_START_S)
        able = {node.name for node in room.hosts(nodes, job)} if nodes else {""}
        self.hosts = [place for place in self.places if place.name in able and place.name in self.facts]
        """Those that may hold a worker and answer; a head is often kept free of workers."""
        self._written = stores.written_places(job)
        self._asked = {
            check: self._from_everywhere(stores.try_writing, *address, first=(True,), others=(False,))
            for check, address in self._written.items()
        }
        spec = job.data
        sources = [(url, spec.s3) for url in (spec.url, spec.derived, *(mix.url for mix in spec.mix)) if url]
        self._asked[stores.SHARDS] = self._from_everywhere(stores.reach_shards, sources)
        self._models = models.folders_of(job)
        self._asked[models.CHECK] = self._from_everywhere(models.look, list(self._models))
        addresses = [(spec.url, spec.s3), *((url, s3) for url, s3, _ in self._written.values())]
        self._asked_time = [
            Asked(on_all(self.hosts, stores.store_ahead_s, url, s3), STORE_S)
            for url, s3 in addresses
            if url.startswith("s3://")
        ]
        self._asked_gpus = Asked(on_all(self.hosts if job.cluster.use_gpu else [], gpus.look), GPUS_S)
        self._stack = stack

    def around(self) -> Iterator[Finding]:
        """The cluster, its machines, their code and their clocks."""
        if self.nodes:
            yield self._cluster()
        if self._dumb:
            remedy = "see that this package and its pins are installed there, and `ray logs`"
            why = {name: f"no process of ours comes up ({_last_line(error)})" for name, error in self._dumb.items()}
            yield grouped(MACHINES, {name: f"{text}; {remedy}" for name, text in why.items()})
        yield versions.judge(machine.look([]), self.facts)
        yield self._clock()

    def machines_themselves(self) -> Iterator[Finding]:
        """Their room and their GPUs."""
        facts = {place.name: self.facts[place.name] for place in self.hosts} or self.facts
        if self.nodes:
            yield room.judge_workers(self.job, self.nodes)
        elif facts:
            yield room.judge_workers_here(self.job, next(iter(facts.values()))["cpus"])
        if self.job.cluster.use_gpu and self.nodes and not self.hosts:
            yield gpus.none_may_work({node.name: node.total for node in self.nodes})
        else:
            yield gpus.judge(self.job, *self._asked_gpus.wait())
        if facts:
            yield room.judge_disks(self._folders, facts)
            yield room.judge_shared_memory(self.job, facts, local=not self.nodes)

    def what_is_written(self) -> Iterator[Finding]:
        """The run folder, the store of checkpoints, the registry's, MLflow."""
        yield self._shared(stores.FOLDER, arithmetic.run_folder(self.job), "run.folder")
        for check, (url, s3, keys) in self._written.items():
            shared = ok(check, "") if "://" in url or not self.nodes else self._shared(check, url, keys[0])
            tried = stores.judge_written(check, url, s3, *self._asked[check].wait())
            yield tried if shared.state == "ok" else shared
        yield record.judge(self.job, self._heard(record.look))

    def what_is_read(self) -> Iterator[Finding]:
        """Pretrained models and shards from each machine, and what the shards hold."""
        if self._models:
            yield models.judge(self._models, *self._asked[models.CHECK].wait())
        url, asked = self.job.data.url, self._asked[stores.SHARDS]
        _, failed = asked.wait()
        yield stores.judge_shards(url, self.job.data.s3, failed, num_machines=len(asked.answers))
        hangs = isinstance(failed.get(self._driver), LateError)  # then the data would hang as long again
        yield data.judge(self.job, failed[self._driver] if hangs else self._heard(data.look))

    def network(self) -> Finding:
        """Last, so that nothing else is under way."""
        most, backend = arithmetic.world_sizes(self.job)[-1], "nccl" if self.job.cluster.use_gpu else "gloo"
        who = network.members(self.hosts, most)
        if most == 1 or not who:
            return network.alone(most)
        try:
            if cut := network.unreachable(who):
                return network.judge_unreachable(cut)
            found, failed = network.finish(network.start(who, backend=backend))
        except Exception as error:  # noqa: BLE001  the first machine does not even give a port
            found, failed = {}, {who[0].name: error}
        amount = room.gradient_bytes(self.job, self._parameters)
        return network.judge(found, failed, backend=backend, gradient_bytes=amount)

    @property
    def _driver(self) -> str:
        """The name of this process among places."""
        return DRIVER if self.nodes else ""

    def _from_everywhere(self, function: Callable[..., Any], *arguments: Any, **last: tuple[Any, ...]) -> Asked:
        """From this process and from each machine; `first` and `others` are further arguments of either."""
        answers = {self._driver: Here().call(function, *arguments, *last.get("first", ()))}
        if self.nodes:
            answers |= on_all(self.hosts, function, *arguments, *last.get("others", ()))
        return Asked(answers, STORE_S)

    def _heard(self, look: Callable[[JobSpec], Any]) -> Any:
        """What this process sees, or the error."""
        found, failed = self._begun[look].wait()
        return found[""] if found else failed[""]

    def _shared(self, check: str, folder: str, key: str) -> Finding:
        """Whether a folder that this process writes is seen by all."""
        try:
            token = self._stack.enter_context(stores.Token(Path(folder)))
        except OSError as error:
            return stores.unwritable(check, folder, key, error)
        seen = wait_all(on_all(self.hosts, stores.see_token, str(token.path)), STORE_S)
        return stores.judge_folder(check, folder, key, *seen)

    def _cluster(self) -> Finding:
        address = self.job.cluster.address
        seen = f"{len(self.nodes)} machine(s) at {address}, Ray {ray.__version__}"
        if any(facts["token_auth"] is False for facts in self.facts.values()):
            return wrong(CLUSTER, f"{seen}, token authentication off; {NO_TOKEN}", token_auth=False)
        return ok(CLUSTER, f"{seen}, token authentication on", num_machines=len(self.nodes), token_auth=True)

    def _clock(self) -> Finding:
        offsets: dict[str, tuple[float, float]] = {}
        for place in self.places if self.nodes else []:
            if place.name in self.facts:
                try:
                    offsets[place.name] = clock.offset_s(place)
                except Exception:  # noqa: BLE001  a machine that has stopped answering is told of below
                    continue
        ahead: dict[str, float | None] = {}
        for asked in self._asked_time:
            ahead |= asked.wait()[0]
        return clock.judge(offsets, ahead)


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
