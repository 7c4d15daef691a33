"""What Prometheus sees of a run while it goes: gauges that the Ray node of the driver exports, set from its events.

Ray puts `ray_` before their names; each is labelled with the name of the run. They follow the events of the log, so
infra/dashboards shows what MLflow and `gen-dist train` show.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from ray.util.metrics import Gauge as RayGauge

from gen_dist.train.report import Event

RUN = "run"
AGAIN_S = 5.0  # Ray exports a gauge once for each time that it is set, every 10 s, and forgets it after 20 s
OF_METRICS = {"speed/images_per_s": "images_per_s", "speed/data_wait_share": "data_wait_share"}
"""Metrics of workers with a gauge of their own."""
OF_FAMILIES = {
    "loss": "loss",
    "heldout": "heldout",
    "gradient_norm": "gradient_norm",
    "rate": "learning_rate",
    "memory": "memory_bytes",
}
"""Metrics `family/name`: the gauge of a family is labelled with the name."""

CHECKPOINT_PARTS = {"training stands still": "snapshot_s", "waits for the one before": "waited_s", "whole": "seconds"}


class Gauge(NamedTuple):
    """What a gauge means, and its label beside the run."""

    meaning: str
    label: str = ""


GAUGES = {
    "images": Gauge("Images learned from so far."),
    "images_per_s": Gauge("Images a second, over all workers, since the last line of losses."),
    "data_wait_share": Gauge("Share of that time in which workers stood still for data, 0 to 1."),
    "loss": Gauge("Mean loss since the last line of losses.", "name"),
    "heldout": Gauge("Score on images that are not trained on.", "name"),
    "gradient_norm": Gauge("L2 norm of a group's gradient before clipping.", "name"),
    "learning_rate": Gauge("Learning rate of a group.", "name"),
    "memory_bytes": Gauge("Largest memory so far of the leading worker, by kind.", "name"),
    "workers": Gauge("Workers of the group under way; 0 between two groups."),
    "attempt": Gauge("Number of the worker group."),
    "deaths": Gauge("Worker groups that died since this driver began."),
    "checkpoint_images": Gauge("Images of the newest checkpoint."),
    "checkpoint_bytes": Gauge("Size of the newest checkpoint."),
    "checkpoint_s": Gauge("Seconds of the newest checkpoint, by part.", "part"),
    "goodput_s": Gauge("Seconds of the run so far, by what became of them.", "cause"),
    "goodput_share": Gauge("Share of training in the seconds of the run, 0 to 1."),
    "wal_lag_rows": Gauge("Lines of the run's log that MLflow does not have."),
}


class Reading(NamedTuple):
    """One value of one gauge."""

    gauge: str
    value: float
    of: str = ""
    """What its label says."""


def readings(event: Event) -> Iterator[Reading]:
    """What an event says to gauges. Pure."""
    kind = event["kind"]
    if kind in ("start", "progress", "metrics", "end") and "images" in event:
        yield Reading("images", float(event["images"]))
    if kind == "metrics":
        yield from _of_metrics(event["metrics"])
    elif kind == "attempt":
        yield Reading("attempt", float(event["attempt"]))
        yield Reading("workers", float(event["workers"]))
    elif kind in ("death", "rollback", "resize", "end"):
        yield Reading("workers", 0.0)
    elif kind == "checkpoint":
        yield Reading("checkpoint_images", float(event["images"]))
        yield Reading("checkpoint_bytes", float(event["size_bytes"]))
        for part, key in CHECKPOINT_PARTS.items():
            yield Reading("checkpoint_s", float(event[key]), part)


def _of_metrics(metrics: Mapping[str, float]) -> Iterator[Reading]:
    for key, value in metrics.items():
        family, _, name = key.partition("/")
        if key in OF_METRICS:
            yield Reading(OF_METRICS[key], value)
        elif family in OF_FAMILIES:
            yield Reading(OF_FAMILIES[family], value, name)


def of_goodput(metrics: Mapping[str, float]) -> Iterator[Reading]:
    """What `Goodput.metrics()` says to gauges. Pure."""
    for key, value in metrics.items():
        name = key.removeprefix("goodput/")
        yield (
            Reading("goodput_share", value) if name == "share" else Reading("goodput_s", value, name.removesuffix("_s"))
        )


class Gauges:
    """Sets the gauges of one run, again and again, until it is closed.

    No trouble of theirs reaches the run: after the first they are left alone.
    """

    def __init__(self, run: str, *, make: Callable[..., Any] = RayGauge, again_s: float = AGAIN_S) -> None:
        self._run, self._make, self._again_s = run, make, again_s
        self._gauges: dict[str, Any] = {}
        self._last: dict[tuple[str, str], Reading] = {}
        self._num_deaths = 0
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None
        self.trouble: str | None = None
        """Why they were left alone."""

    def hear(self, event: Event, *, goodput: Callable[[], Mapping[str, float]], wal_lag_rows: int) -> None:
        """An event of the run; what its ledger of goodput says then, and how far MLflow is behind."""
        try:
            said = list(readings(event))
            self._num_deaths += event["kind"] == "death"
            if event["kind"] in ("metrics", "checkpoint", "death", "end"):
                said += of_goodput(goodput())
                said += [Reading("wal_lag_rows", float(wal_lag_rows)), Reading("deaths", float(self._num_deaths))]
            self._set(said)
            if self._thread is None:
                self._thread = threading.Thread(target=self._repeat, name="gen-dist-gauges", daemon=True)
                self._thread.start()
        except Exception as error:  # noqa: BLE001  a run does not die of its gauges
            self.trouble = repr(error)

    def close(self) -> None:
        """Set them no more: Prometheus then sees that the run is over."""
        self._closed.set()

    def _repeat(self) -> None:
        while self.trouble is None and not self._closed.wait(self._again_s):
            with self._lock:
                last = list(self._last.values())
            try:
                self._set(last)
            except Exception as error:  # noqa: BLE001  likewise
                self.trouble = repr(error)

    def _set(self, said: list[Reading]) -> None:
        if self.trouble is not None:
            return
        with self._lock:
            for reading in said:
                self._last[reading.gauge, reading.of] = reading
                about = GAUGES[reading.gauge]
                if reading.gauge not in self._gauges:
                    labels = (RUN, about.label) if about.label else (RUN,)
                    self._gauges[reading.gauge] = self._make(f"gen_dist_{reading.gauge}", about.meaning, labels)
                tags = {RUN: self._run, **({about.label: reading.of} if about.label else {})}
                self._gauges[reading.gauge].set(reading.value, tags)
