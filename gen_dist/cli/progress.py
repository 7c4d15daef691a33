"""What a person sees of a run: a live bar on a terminal, a line every few seconds elsewhere, warnings once."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from gen_dist.train.report import Event

WIDEST_BAR, NARROWEST_BAR, TIME_LETTERS = 40, 10, 7
FEWEST_LOSS_LETTERS = 8
LINES_A_RUN = 16  # where there is no terminal: a run fits a screen however long it is
LINE_LOSS_LETTERS = 100  # and however much its recipe watches


class View:
    """Shows events. Use as a context: the bar lives inside it."""

    def __init__(self, console: Console, *, total_images: int) -> None:
        self._console = console
        self._total = total_images
        self._bar_letters = max(NARROWEST_BAR, min(WIDEST_BAR, console.width - 100))
        self._bar = Progress(
            TextColumn("{task.fields[phase]}"),
            BarColumn(self._bar_letters),
            TextColumn("{task.completed:,.0f}/{task.total:,.0f}"),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[loss]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("train", total=total_images, start=False, phase="starting", speed="", loss="")
        self._line_images = 0

    def __enter__(self) -> View:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def __call__(self, event: Event) -> None:
        """Show one event; kinds without a word to say are passed over."""
        say = getattr(self, f"_on_{event['kind']}", None)
        if say is not None:
            say(event)

    def note(self, text: str) -> None:
        """A line above the bar."""
        self._console.print(text, highlight=False, soft_wrap=True, markup=False)  # errors hold brackets

    def _on_data(self, event: Event) -> None:
        heldout = f", {event['num_heldout']:,} held out" if event["num_heldout"] else ""
        images = f"{event['num_train']:,} images" if event["num_train"] is not None else "images not counted"
        self.note(f"data       {images}{heldout}, digest {event['digest'][:12]}")

    def _on_start(self, event: Event) -> None:
        sizes = ", ".join(f"{name} {count / 1e6:.1f} M" for name, count in event["parameters"].items())
        self.note(f"workers    {event['workers']}; parameters: {sizes}")
        if event["resumed_from"]:
            self.note(f"resumed    at {event['images']:,} images from {event['resumed_from']}")
        self._bar.start_task(self._task)
        self._bar.update(self._task, completed=event["images"], phase="training")

    def _on_progress(self, event: Event) -> None:
        self._bar.update(self._task, completed=event["images"])

    def _on_metrics(self, event: Event) -> None:
        metrics: Mapping[str, float] = event["metrics"]
        losses = {name.removeprefix("loss/"): value for name, value in metrics.items() if name.startswith("loss/")}
        if not losses:
            return
        phase = next(iter(losses)).split("/")[0]
        loss = "  ".join(f"{name.split('/', 1)[-1]} {value:.4g}" for name, value in losses.items())
        speed = f"{metrics['speed/images_per_s']:,.0f} images/s"
        beside = f"{phase} {self._total:,}/{self._total:,} {speed}"
        room = self._console.width - len(beside) - self._bar_letters - TIME_LETTERS - len("   ")
        self._bar.update(self._task, completed=event["images"], phase=phase, speed=speed, loss=_fitting(loss, room))
        if not self._console.is_terminal and event["images"] >= self._line_images:
            self._line_images = event["images"] + self._total // LINES_A_RUN
            where = f"{event['images']:>10,}/{self._total:,} images"
            self.note(f"{where}  {speed}  {phase}: {_fitting(loss, LINE_LOSS_LETTERS)}")

    def _on_stopping(self, event: Event) -> None:
        self.note(f"{event['signal']}: saving a checkpoint, then ending; once more ends at once")

    def _on_hang(self, event: Event) -> None:
        self._trouble("hang", event, f"{event['why']}; stacks of all in hang/attempt-{event['attempt']:06d} of the run")

    def _on_death(self, event: Event) -> None:
        who = "a worker" if event["rank"] is None else f"rank {event['rank']}"
        self._trouble("restart", event, f"{who}: {event['why']}")

    def _on_crash_loop(self, event: Event) -> None:
        self._trouble("crash loop", event, f"died here twice; going back {event['skip_checkpoints']} checkpoint(s)")

    def _on_rollback(self, event: Event) -> None:
        self._trouble(
            "rollback", event, f"{event['why']}; back {event['checkpoints']} checkpoint(s), past these images"
        )

    def _on_skipped(self, event: Event) -> None:
        self._trouble("skipped", event, f"{event['why']}; {event['total']} steps so far")

    def _on_notice(self, event: Event) -> None:
        self._trouble("checkpoint", event, event["why"])

    def _on_waiting(self, event: Event) -> None:
        self._bar.update(self._task, phase="waiting for room", speed="", loss="")
        self.note(f"{'waiting':<10} {event['text']}")

    def _trouble(self, what: str, event: Event, text: str) -> None:
        """One line, with where the run stands."""
        self.note(f"{what:<10} after {event['images']:,} images: {text}")

    def _on_publishing(self, event: Event) -> None:
        self._bar.update(self._task, phase="registering the model", speed="", loss="")

    def _on_warning(self, event: Event) -> None:
        self.note(f"warning    {event['text']}")


def _fitting(loss: str, room: int) -> str:
    """As much of the losses as there is room for: they would push the rest away."""
    if len(loss) <= room:
        return loss
    return loss[: room - 1] + "…" if room >= FEWEST_LOSS_LETTERS else ""


def seconds(value: float) -> str:
    """A time as a person says it."""
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def summary(console: Console, facts: Mapping[str, Any]) -> None:
    """Name and value in two columns, values whole even where a line is longer than the terminal."""
    for name, value in facts.items():
        console.print(f"{name:<10} {value}", highlight=False, soft_wrap=True, markup=False)
