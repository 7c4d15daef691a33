"""Python's collector of garbage, held back while a process of ours imports what it is made of.

It walks all objects again each time that they have grown by a quarter: half a million of them, by the time torch,
DeepSpeed, Ray and MLflow are there, which is a fifth of what importing them costs.
"""

from __future__ import annotations

import gc

USUAL = gc.get_threshold()
MANY = 50_000  # new objects before it looks


def collect_rarely() -> None:
    """For a process that begins, and for one that does little else than import."""
    gc.set_threshold(MANY)


def collect_as_usual() -> None:
    """For one that is to train from now on, where a cycle may hold a GPU's memory.

    What is there is there for good, and not walked again.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*USUAL)
