"""When a group is resized: for room that stays, and never with a machine that does not answer."""

from __future__ import annotations

import socket

import pytest

from gen_dist.train.elastic import Settled, silent


@pytest.mark.parametrize(
    ("seen", "resized"),
    [
        ([None, None, None], []),
        ([2, 2], [1]),
        ([2, 3, 4, 4], [3]),  # machines that join one by one: one restart, with all of them
        ([2, None, 2, None], []),  # one that comes and goes: none
        ([2, 2, 2, 2], [1, 3]),  # the resize did not come about: once more
    ],
)
def test_a_group_is_resized_for_room_that_two_looks_have_found(seen: list[int | None], resized: list[int]) -> None:
    settled = Settled()
    assert [place for place, found in enumerate(seen) if settled.see(found)] == resized


def test_machines_that_nobody_answers_for_are_counted() -> None:
    with socket.create_server(("127.0.0.1", 0)) as one, socket.create_server(("127.0.0.1", 0)) as other:
        places = [server.getsockname() for server in (one, other)]
        assert silent(places) == 0
        other.close()
        assert silent(places) == 1
        assert silent(places * 40) == 40, "more than are knocked at together"
    assert silent([]) == 0
