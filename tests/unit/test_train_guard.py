"""Which steps may be made, when workers look for notices, and when a run says that it waits. No Ray, no engine."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from gen_dist.job.spec import DivergenceSpec, NonFiniteSpec
from gen_dist.train.capacity import Waiting
from gen_dist.train.collective import Team
from gen_dist.train.guard import FEWEST_STEPS, WINDOW_STEPS, Guard, names, poisoned
from gen_dist.train.notices import MOST_STEPS_BETWEEN, Notices


@pytest.mark.parametrize("norm", [math.nan, math.inf, -1.0])
def test_a_norm_that_is_no_number_is_refused_at_any_policy(norm: float) -> None:
    guard = Guard(NonFiniteSpec())
    assert guard.objection("main", norm)
    assert not guard.objection("main", 1e30)


def test_a_spike_is_judged_by_the_median_of_its_own_phase() -> None:
    guard = Guard(NonFiniteSpec(policy="skip", spike_factor=10.0))
    assert not guard.objection("main", 500.0), "nothing to compare with"
    for _ in range(FEWEST_STEPS):
        assert not guard.objection("main", 1.0)
        assert not guard.objection("other", 100.0)
    assert "11 times the median" in guard.objection("main", 11.0)
    assert not guard.objection("main", 9.0)
    assert not guard.objection("other", 900.0)
    for _ in range(2 * WINDOW_STEPS):
        assert guard.objection("main", 11.0), "a spike that was not learned from does not move the median"


def test_a_resumed_guard_judges_as_one_that_was_never_stopped() -> None:
    spec = NonFiniteSpec(policy="skip", spike_factor=3.0, max_skips=2)
    one = Guard(spec)
    for number in range(FEWEST_STEPS):
        one.objection("main", 1.0 + number % 3)
    assert one.dropped() is False
    other = Guard(spec, state=one.state())
    for norm in (7.0, 5.0, 2.0, 6.5):
        assert one.objection("main", norm) == other.objection("main", norm)
    assert (other.num_dropped, other.num_in_row) == (1, 1)


def test_steps_dropped_in_a_row_are_counted_until_one_is_made() -> None:
    guard = Guard(NonFiniteSpec(policy="skip", max_skips=2))
    assert [guard.dropped() for _ in range(2)] == [False, False]
    guard.made()
    assert [guard.dropped() for _ in range(3)] == [False, False, True]
    assert guard.num_dropped == 5


def test_a_run_is_lost_where_every_log_line_has_said_so_for_long_enough() -> None:
    spec = DivergenceSpec(patience_images=100)
    one = Guard(NonFiniteSpec(), divergence=spec)
    lines = [(50, "won"), (100, "won"), (149, ""), (160, "won"), (200, "won"), (259, "won"), (260, "won"), (300, "won")]
    assert [one.verdict(diagnosis, images=images) for images, diagnosis in lines] == ["", *[""] * 5, "won", ""]
    resumed = Guard(NonFiniteSpec(), divergence=spec, state=one.state())
    assert [guard.verdict("won", images=400) for guard in (one, resumed)] == ["won", "won"]  # since 300
    resumed.verdict("won", images=500)
    resumed.forgive()
    assert resumed.verdict("won", images=600) == ""


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_a_loss_that_is_no_number_has_a_gradient_that_is_none(value: float) -> None:
    weight = torch.ones(3, requires_grad=True)
    poisoned(weight.sum() + value).backward()
    assert weight.grad is not None
    assert not torch.isfinite(weight.grad).any()


def test_the_gradient_of_any_other_loss_is_left_as_it_is() -> None:
    weight = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
    (plain,) = torch.autograd.grad((weight**3).sum(), weight)
    (found,) = torch.autograd.grad(poisoned((weight**3).sum()), weight)
    assert torch.equal(plain, found)
    assert names([("main", {"a": torch.tensor(1.0), "b": torch.tensor(math.nan)})]) == ["main/b=nan"]


def test_a_run_that_waits_says_so_after_half_a_minute_and_then_ever_more_seldom() -> None:
    waiting = Waiting()
    said = [now_s for now_s in range(0, 1000, 2) if waiting.see(placed=False, now_s=float(now_s))[1]]
    assert said == [30, 60, 120, 240, 480, 960]
    assert waiting.see(placed=True, now_s=1000.0) == (0.0, False)
    assert waiting.see(placed=False, now_s=1001.0) == (0.0, False)
    assert waiting.see(placed=False, now_s=1031.0) == (30.0, True)


class Asked:
    """A source of notices, and how often it was asked."""

    def __init__(self, answer: Any) -> None:
        self.answer, self.times = answer, 0

    def __call__(self) -> Any:
        self.times += 1
        return self.answer


def test_quick_steps_look_seldom_and_slow_ones_always(monkeypatch: pytest.MonkeyPatch) -> None:
    now = SimpleNamespace(s=0.0)
    monkeypatch.setattr("gen_dist.train.notices.time.monotonic", lambda: now.s)
    for step_s, looks in ((0.001, range(20, 45)), (0.25, range(240, 260)), (3.0, range(999, 1001))):
        stop = Asked(False)
        notices = Notices(Team(torch.device("cpu")), should_stop=stop)
        for _ in range(1000):
            now.s += step_s
            assert not notices().stop
        assert stop.times in looks, f"steps of {step_s} s"
        stop.answer = True
        heard = [notices().stop for _ in range(MOST_STEPS_BETWEEN)]
        assert any(heard)


def test_a_machine_that_is_taken_away_has_one_checkpoint_written(monkeypatch: pytest.MonkeyPatch) -> None:
    now = SimpleNamespace(s=0.0)
    monkeypatch.setattr("gen_dist.train.notices.time.monotonic", lambda: now.s)
    info = SimpleNamespace(deadline_ms=None, preempted_ranks=[1])
    preemption = Asked(None)
    notices = Notices(Team(torch.device("cpu")), should_stop=Asked(False), preemption=preemption)

    def minute() -> list[str]:
        saved = []
        for _ in range(60):
            now.s += 1.0
            notice = notices()
            saved += [notice.why] * notice.save
        return saved

    assert minute() == []
    assert 10 <= preemption.times <= 13, "about every 5 s"
    preemption.answer = info
    assert minute() == ["the machine of rank 1 is taken away"]
    preemption.answer = SimpleNamespace(deadline_ms=10_000, preempted_ranks=[0, 1])
    assert len(minute()) == 1, "another one"
