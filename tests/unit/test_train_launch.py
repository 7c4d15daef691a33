"""A local Ray is started again where only a busy machine was in its way."""

from __future__ import annotations

import pytest

from gen_dist.train.launch import LOCAL_STARTS, patiently

BUSY = "The current node timed out during startup. This could happen because some of the raylet failed to startup."


class Starts:
    """Fails with each of these, then comes up."""

    def __init__(self, *errors: str) -> None:
        self._errors = list(errors)
        self.num_tried = 0

    def __call__(self) -> None:
        self.num_tried += 1
        if self._errors:
            raise RuntimeError(self._errors.pop(0))


def test_a_start_that_a_busy_machine_spoiled_is_tried_again() -> None:
    starts = Starts(BUSY, BUSY)
    patiently(starts)
    assert starts.num_tried == 3


def test_it_is_given_up_after_some_tries() -> None:
    starts = Starts(*[BUSY] * 9)
    with pytest.raises(RuntimeError, match="timed out during startup"):
        patiently(starts)
    assert starts.num_tried == LOCAL_STARTS


def test_any_other_trouble_is_told_at_once() -> None:
    starts = Starts("no space left")
    with pytest.raises(RuntimeError, match="no space left"):
        patiently(starts)
    assert starts.num_tried == 1
