"""`gen-dist data VERB`: shards, from pictures on a disk to a proof that a run used each of them once."""

from __future__ import annotations

import typer

app = typer.Typer(name="data", help="Make, index and check the shards that a run reads.", rich_markup_mode=None)
