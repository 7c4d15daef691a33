"""Inspect: what is in a set of shards, as numbers and as a contact sheet."""

from __future__ import annotations

from gen_dist.data.inspect.look import Look, look
from gen_dist.data.inspect.sheet import draw_sheet

__all__ = ["Look", "draw_sheet", "look"]
